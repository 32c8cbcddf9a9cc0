//! How does the node talk to its controller? MQTT 5.
//!
//! [`topics`] and [`messages`] are pure: names and bodies of PROTOCOL. [`mqtt`] is the client, and the only file that
//! names rumqttc; agent and command line drive it through [`Link`] commands and events.

pub mod json;
pub mod messages;
pub mod mqtt;
pub mod tensors;
pub mod topics;

use crate::units::WallTime;

/// MQTT quality of service; 2 is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// May be lost: telemetry.
    AtMostOnce,
    /// Repeated until acknowledged: everything that matters.
    AtLeastOnce,
}

/// One message to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// Full topic.
    pub topic: String,
    /// Body.
    pub body: Vec<u8>,
    /// Delivery.
    pub qos: Qos,
    /// Whether the broker keeps it as the topic's last value.
    pub retain: bool,
    /// Broker forgets it after this many seconds.
    pub expiry_s: Option<u32>,
    /// MQTT 5 content type.
    pub content_type: Option<String>,
    /// MQTT 5 response topic.
    pub response_topic: Option<String>,
    /// MQTT 5 correlation data.
    pub correlation: Option<Vec<u8>>,
    /// MQTT 5 user properties: CloudEvents attributes and others.
    pub properties: Vec<(String, String)>,
}

/// One message received.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The message.
    pub message: Publish,
    /// When, by the wall clock.
    pub at: WallTime,
    /// To be given back with [`Command::Ack`] once the message is committed; `None` for QoS 0.
    pub ack: Option<AckToken>,
}

/// Names one received message of one connection; acks of an older connection are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckToken {
    /// Which connection.
    pub epoch: u64,
    /// Which packet of it.
    pub packet: u16,
}

/// What the rest of the program asks of the link.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Publish. With a token (QoS 1) the link answers [`Event::Delivered`] or [`Event::Refused`], or, when the
    /// connection ends first, nothing: the owner offers everything undelivered again after the next [`Event::Up`].
    Publish { message: Publish, token: Option<u64> },
    /// Acknowledge a received message.
    Ack(AckToken),
    /// Publish this last, wait shortly for its acknowledgement, disconnect, end.
    Shutdown { last_words: Option<Publish> },
}

/// What the link tells the rest of the program.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Connected and subscribed. Whatever was not delivered is to be offered again.
    Up { epoch: u64, session_present: bool, packet_bytes_max: usize },
    /// Not connected; the link tries again by itself.
    Down { why: String, retry_in_ms: u64 },
    /// A message arrived.
    Received(Received),
    /// The broker acknowledged the message of this token.
    Delivered { token: u64 },
    /// The broker refused the message of this token (reason code ≥ 0x80), or it is above the broker's size limit.
    Refused { token: u64, why: String },
    /// The link has ended after [`Command::Shutdown`].
    Closed,
}
