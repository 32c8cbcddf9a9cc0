//! What do the library's words mean in ours, and ours in its? A part of the client beside it.

use super::{
    ConnAck, JSON, Outgoing, Packed, Packet, PubAck, PubAckReason, Publish, PublishProperties, QoS, Qos, Step,
    SubscribeReasonCode,
};
use crate::link::connection::Heard;

pub(super) fn heard(step: Step) -> Heard {
    match step {
        Step::Incoming(packet) => incoming(packet),
        Step::Outgoing(Outgoing::Publish(0)) => Heard::TelemetrySent,
        Step::Outgoing(Outgoing::Publish(packet)) => Heard::Published(packet),
        Step::Outgoing(Outgoing::AwaitAck(packet)) => Heard::HeldBack(packet),
        Step::Outgoing(Outgoing::PubAck(_)) => Heard::AckSent,
        Step::Outgoing(Outgoing::Disconnect) => Heard::Disconnected,
        Step::Outgoing(
            Outgoing::Subscribe(_)
            | Outgoing::Unsubscribe(_)
            | Outgoing::PubRec(_)
            | Outgoing::PubRel(_)
            | Outgoing::PubComp(_)
            | Outgoing::PingReq
            | Outgoing::PingResp,
        ) => Heard::Sent,
    }
}

fn incoming(packet: Packet) -> Heard {
    match packet {
        Packet::ConnAck(ConnAck { session_present, code: _, properties }) => {
            let properties = properties.as_ref();
            let packet_bytes_max = properties.and_then(|properties| properties.max_packet_size);
            Heard::Connected {
                session_present,
                receive_max: properties.and_then(|properties| properties.receive_max),
                packet_bytes_max: packet_bytes_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
                qos_max: properties.and_then(|properties| properties.max_qos),
            }
        }
        Packet::SubAck(suback) => {
            let refusal = |code: &SubscribeReasonCode| {
                (!matches!(code, SubscribeReasonCode::Success(_))).then(|| format!("{code:?}"))
            };
            Heard::Subscribed(suback.return_codes.iter().map(refusal).collect())
        }
        Packet::Publish(packed) => unpack(packed),
        Packet::PubAck(puback) => Heard::Answered { packet: puback.pkid, refusal: refusal(&puback) },
        // The library turns DISCONNECT into an error of its own, which says why.
        Packet::PingResp(_) | Packet::UnsubAck(_) | Packet::Disconnect(_) => Heard::Alive,
        Packet::Auth(_)
        | Packet::Connect(..)
        | Packet::PubRec(_)
        | Packet::PubRel(_)
        | Packet::PubComp(_)
        | Packet::PingReq(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_) => Heard::Nonsense("the broker sent a packet that nobody asked for"),
    }
}

fn unpack(packed: Packed) -> Heard {
    let (level, packet) = match packed.qos {
        QoS::AtMostOnce => (Qos::AtMostOnce, None),
        QoS::AtLeastOnce => (Qos::AtLeastOnce, Some(packed.pkid)),
        QoS::ExactlyOnce => return Heard::Nonsense("the broker sends QoS 2, which was not subscribed"),
    };
    let topic = String::from_utf8(packed.topic.to_vec()).unwrap_or_default();
    if topic.is_empty() {
        return Heard::Nonsense("the broker sends a message without a readable topic");
    }
    let properties = packed.properties.unwrap_or_default();
    if properties.topic_alias.is_some() {
        // The library would keep every such packet for the life of the connection.
        return Heard::Nonsense("the broker sends a topic alias, which it was not allowed");
    }
    let message = Publish {
        topic,
        body: packed.payload.into(),
        qos: level,
        retain: packed.retain,
        expiry_s: properties.message_expiry_interval,
        content_type: properties.content_type,
        response_topic: properties.response_topic,
        correlation: properties.correlation_data.map(Into::into),
        properties: properties.user_properties,
    };
    Heard::Message { message, packet }
}

fn refusal(puback: &PubAck) -> Option<String> {
    let (code, remedy) = match puback.reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => return None,
        PubAckReason::UnspecifiedError => (128, ""),
        PubAckReason::ImplementationSpecificError => (131, ""),
        PubAckReason::NotAuthorized => (135, "; allow the topic in the broker's ACL"),
        PubAckReason::TopicNameInvalid => (144, ""),
        PubAckReason::PacketIdentifierInUse => (145, ""),
        PubAckReason::QuotaExceeded => (151, "; raise the broker's quota"),
        PubAckReason::PayloadFormatInvalid => (153, ""),
    };
    let said = puback.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
    let said = said.map(|said| format!(", {said:?}")).unwrap_or_default();
    Some(format!("the broker refuses the message: {:?} ({code}){said}{remedy}", puback.reason))
}

pub(super) fn properties(message: &Publish) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: payload_format(message),
        message_expiry_interval: message.expiry_s,
        topic_alias: None,
        response_topic: message.response_topic.clone(),
        correlation_data: message.correlation.clone().map(Into::into),
        user_properties: message.properties.clone(),
        subscription_identifiers: Vec::new(),
        content_type: message.content_type.clone(),
    }
}

/// 1 (UTF-8 text) for JSON.
pub(super) fn payload_format(message: &Publish) -> Option<u8> {
    (message.content_type.as_deref() == Some(JSON)).then_some(1)
}

pub(super) const fn qos(level: Qos) -> QoS {
    match level {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
    }
}
