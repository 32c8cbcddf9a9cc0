//! Good broker bytes, and what becomes of them.

#![allow(dead_code, missing_docs, unreachable_pub)]

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Packet, PingResp, PubAck, PubAckProperties, PubAckReason, PubComp, PubRec, PubRel, Publish,
    PublishProperties, SubAck, SubAckProperties, SubscribeReasonCode, UnsubAck, UnsubAckReason,
};

use super::manners::{connack, connack_properties, encoded, publish};
use crate::random::Random;

/// Longest run of random bytes, and of repeated ones.
const RUN_MAX: u64 = 40;

/// One of each packet that a broker may send, with everything that it can carry.
pub fn corpus() -> Vec<Vec<u8>> {
    let said = || Some("reason".to_owned());
    let user = || vec![("key".to_owned(), "value".to_owned()), (String::new(), "\u{fc}".to_owned())];
    let offer = rumqttc::v5::mqttbytes::v5::ConnAckProperties {
        session_expiry_interval: Some(60),
        receive_max: Some(20),
        max_packet_size: Some(100_000),
        server_keep_alive: Some(10),
        topic_alias_max: Some(5),
        reason_string: said(),
        user_properties: user(),
        assigned_client_identifier: Some("another".to_owned()),
        authentication_data: Some(vec![1, 2, 3].into()),
        ..connack_properties()
    };
    let properties = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(7),
        topic_alias: None,
        response_topic: Some("t/reply".to_owned()),
        correlation_data: Some(vec![0, 255].into()),
        user_properties: user(),
        subscription_identifiers: vec![1, 300],
        content_type: Some("application/json".to_owned()),
    };
    let whole = Publish { properties: Some(properties), ..publish("t/down/x", b"{}", QoS::AtLeastOnce, 77) };
    let acked = PubAckProperties { reason_string: said(), user_properties: user() };
    let suback = SubAck {
        pkid: 1,
        return_codes: vec![SubscribeReasonCode::Success(QoS::AtLeastOnce), SubscribeReasonCode::QuotaExceeded],
        properties: Some(SubAckProperties { reason_string: said(), user_properties: user() }),
    };
    let packets = [
        Packet::ConnAck(ConnAck { properties: Some(offer), ..connack(true) }),
        Packet::Publish(Publish { dup: true, retain: true, ..whole.clone() }),
        Packet::Publish(Publish { qos: QoS::AtMostOnce, pkid: 0, ..whole.clone() }),
        Packet::Publish(Publish { qos: QoS::ExactlyOnce, ..whole }),
        Packet::Publish(publish("t/down/long", &[b'x'; 3000], QoS::AtLeastOnce, 78)),
        Packet::PubAck(PubAck { reason: PubAckReason::NotAuthorized, ..PubAck::new(1, Some(acked)) }),
        Packet::PubAck(PubAck::new(2, None)),
        Packet::SubAck(suback),
        Packet::UnsubAck(UnsubAck { pkid: 3, reasons: vec![UnsubAckReason::Success], properties: None }),
        Packet::PubRec(PubRec::new(1, None)),
        Packet::PubRel(PubRel::new(77, None)),
        Packet::PubComp(PubComp::new(1, None)),
        Packet::PingResp(PingResp),
    ];
    let mut corpus: Vec<Vec<u8>> = packets.into_iter().map(|packet| encoded(&[packet])).collect();
    // DISCONNECT with a reason string and a server reference; AUTH; a PUBLISH of 268 MB.
    corpus.push(vec![0xe0, 12, 0x9c, 10, 0x1f, 0, 2, b'n', b'o', 0x1c, 0, 2, b'a', b'b']);
    corpus.push(vec![0xf0, 2, 0x18, 0]);
    corpus.push(vec![0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1, b't', 0, 9, 0]);
    corpus
}

/// Changes bytes now and then, from a seed.
pub struct Mutator {
    random: Random,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), corpus: corpus() }
    }

    /// Two of three runs of bytes stay as they are, or a session would never come far.
    pub fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if !bytes.is_empty() && self.random.below(3) == 0 {
            for _ in 0..=self.random.below(3) {
                self.change(&mut bytes);
            }
        }
        bytes
    }

    /// A place in the bytes, or behind the last one.
    fn place(&mut self, bytes: &[u8]) -> usize {
        usize::try_from(self.random.below(bytes.len() as u64 + 1)).expect("a place in memory is a usize")
    }

    fn byte(&mut self) -> u8 {
        self.random.number().to_le_bytes()[0]
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let (one, other) = (self.place(bytes), self.place(bytes));
        let (from, to) = (one.min(other), one.max(other));
        match self.random.below(9) {
            0 => bytes.truncate(from),
            1 => drop(bytes.drain(from..to)),
            2 => {
                let again = bytes[from..to].to_vec();
                bytes.splice(from..from, again);
            }
            3 => {
                let run: Vec<u8> = (0..self.random.below(RUN_MAX)).map(|_| self.byte()).collect();
                bytes.splice(from..from, run);
            }
            4 => {
                let packet = usize::try_from(self.random.below(self.corpus.len() as u64)).expect("a small number");
                let packet = self.corpus[packet].clone();
                bytes.splice(from..from, packet);
            }
            // A length: of the packet, which follows its first byte, or of whatever is there.
            5 => {
                let at = if self.random.below(2) == 0 { 1 } else { from };
                let lengths: [&[u8]; 6] =
                    [&[0], &[1], &[0x7f], &[0xff, 0x7f], &[0xff, 0xff, 0xff, 0x7f], &[0x80, 0x80, 0x80, 0x80, 1]];
                let length = lengths[usize::try_from(self.random.below(6)).expect("a small number")];
                let end = (at + 1).min(bytes.len());
                bytes.splice(at.min(end)..end, length.iter().copied());
            }
            6 => {
                if let Some(byte) = bytes.get_mut(from) {
                    *byte = [0, 0xff, 0x80, 0x7f][usize::try_from(self.random.below(4)).expect("a small number")];
                }
            }
            _ => {
                let bit = self.random.below(8);
                if let Some(byte) = bytes.get_mut(from) {
                    *byte ^= 1 << bit;
                }
            }
        }
    }
}
