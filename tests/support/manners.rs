//! How a hostile broker treats a connection, and the packets that it needs for it.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, DisconnectReasonCode, Packet, PubAck, PubAckReason, Publish,
    PublishProperties, SubscribeReasonCode,
};

/// How SUBSCRIBE is answered.
#[derive(Clone, Debug, Default)]
pub enum SubAcks {
    /// Every filter granted.
    #[default]
    Good,
    /// Not at all.
    None,
    /// With these codes, however many filters there were.
    Codes(Vec<SubscribeReasonCode>),
}

/// How QoS 1 publishes are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PubAcks {
    /// At once.
    #[default]
    Good,
    /// Never.
    None,
    /// Never the first of the connection, all others at once.
    NotTheFirst,
    /// Twice each.
    Twice,
    /// With the id of a packet that was never sent.
    Unknown(u16),
    /// From the last to the first, in groups of eight.
    Reversed,
    /// Refused for this reason.
    Refused(PubAckReason),
}

/// How one connection is treated.
#[derive(Clone, Debug)]
pub struct Manners {
    /// The answer to CONNECT; `None`: silence.
    pub connack: Option<ConnAck>,
    /// It thinks so long before it answers CONNECT.
    pub greets_after: Duration,
    pub subacks: SubAcks,
    pub pubacks: PubAcks,
    /// Whether pings are answered.
    pub pongs: bool,
    /// Sent at once after CONNACK, or in its place.
    pub after_connack: Vec<u8>,
    /// Sent as soon as SUBSCRIBE is answered.
    pub after_suback: Vec<u8>,
    /// Sent after the first PUBLISH.
    pub after_publish: Vec<u8>,
    /// Sent again and again after SUBACK, this often.
    pub flood: Vec<u8>,
    pub flood_count: usize,
    /// Sends each byte by itself.
    pub trickles: bool,
    /// Closes the socket when it has read this many packets.
    pub closes_after: Option<usize>,
    /// Stops reading when it has read this many packets, and keeps the socket open.
    pub deaf_after: Option<usize>,
    /// Closes the socket after so long.
    pub leaves_after: Option<Duration>,
    /// Everything that it sends is mutated, from this seed.
    pub mutates: Option<u64>,
    /// Whether it hands over its own messages.
    pub delivers: bool,
    /// Whether they are marked as repeated and retained.
    pub flags: bool,
    /// Whether each of its own messages is sent twice with the same id, and its window is ignored.
    pub repeats: bool,
}

impl Manners {
    /// As MQTT has it.
    pub fn good() -> Self {
        Self {
            connack: Some(connack(false)),
            greets_after: Duration::ZERO,
            subacks: SubAcks::Good,
            pubacks: PubAcks::Good,
            pongs: true,
            after_connack: Vec::new(),
            after_suback: Vec::new(),
            after_publish: Vec::new(),
            flood: Vec::new(),
            flood_count: 0,
            trickles: false,
            closes_after: None,
            deaf_after: None,
            leaves_after: None,
            mutates: None,
            delivers: true,
            flags: false,
            repeats: false,
        }
    }

    /// With this answer to CONNECT.
    pub fn greeting(connack: ConnAck) -> Self {
        Self { connack: Some(connack), ..Self::good() }
    }

    /// With these properties in an accepting CONNACK.
    pub fn offering(change: impl FnOnce(&mut ConnAckProperties)) -> Self {
        let mut properties = connack_properties();
        change(&mut properties);
        Self::greeting(ConnAck { properties: Some(properties), ..connack(false) })
    }

    /// Refuses CONNECT.
    pub fn refusing(code: ConnectReturnCode) -> Self {
        Self::greeting(ConnAck { code, ..connack(false) })
    }

    /// Sends these packets once it has answered SUBSCRIBE.
    pub fn saying(packets: &[Packet]) -> Self {
        Self { after_suback: encoded(packets), ..Self::good() }
    }

    /// Ends the connection for this reason once it has answered SUBSCRIBE.
    pub fn disconnecting(reason: DisconnectReasonCode) -> Self {
        Self { after_suback: disconnect(reason), ..Self::good() }
    }
}

pub fn connack(session_present: bool) -> ConnAck {
    ConnAck { session_present, code: ConnectReturnCode::Success, properties: None }
}

pub fn connack_properties() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

pub fn publish(topic: &str, body: &[u8], qos: QoS, packet: u16) -> Publish {
    Publish { pkid: packet, ..Publish::new(topic, qos, body.to_vec(), None) }
}

pub fn aliased(topic: &str, alias: u16, packet: u16) -> Packet {
    let properties = PublishProperties { topic_alias: Some(alias), ..PublishProperties::default() };
    Packet::Publish(Publish { properties: Some(properties), ..publish(topic, b"alias", QoS::AtLeastOnce, packet) })
}

pub fn puback(packet: u16) -> Packet {
    Packet::PubAck(PubAck::new(packet, None))
}

/// DISCONNECT. Not by the library's encoder, whose length does not fit what it writes.
pub fn disconnect(reason: DisconnectReasonCode) -> Vec<u8> {
    vec![0xe0, 2, reason as u8, 0]
}

pub fn encoded(packets: &[Packet]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for packet in packets {
        packet.write(&mut bytes, None).expect("a packet can be written");
    }
    bytes.to_vec()
}
