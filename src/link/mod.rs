//! How does the node talk to its controller? MQTT 5.
//!
//! [`topics`] and [`messages`] (with [`tensors`] and [`json`] below it) are pure: names and bodies of the protocol.
//! [`mqtt`] is the client, and the only file that names rumqttc; agent and command line drive it through [`Command`]
//! and hear of it through [`Event`]. Its decisions are pure too: `connection`, [`settings`],
//! [`backoff`], [`inflight`], `fit`. [`tls`] is what keeps the way private. A panic of a library ends a connection, not
//! the process (`contained`).
//! [`reconcile`] is the controller's side of it all: what it asks when a broker has forgotten.

pub mod topics;

pub mod messages;

pub mod tensors;

pub mod json;

pub mod mqtt;

pub mod settings;

pub mod tls;

mod connection;

mod contained;

mod fit;

pub mod backoff;

pub mod inflight;

pub mod heartbeat;

pub mod reconcile;

use std::fmt;

use tokio::sync::mpsc::{self, error::TrySendError};

pub use fit::packet_bytes;

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

impl Publish {
    /// A message of QoS 1 with nothing but topic and body.
    pub fn plain(topic: impl Into<String>, body: Vec<u8>) -> Self {
        Self {
            topic: topic.into(),
            body,
            qos: Qos::AtLeastOnce,
            retain: false,
            expiry_s: None,
            content_type: None,
            response_topic: None,
            correlation: None,
            properties: Vec::new(),
        }
    }
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
///
/// The owner reads events while it sends commands: the link takes commands as long as it can hand over or keep what
/// follows from them, so an owner that only sends will wait for ever.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Publish. While not connected nothing is published and nothing is kept: the owner's outbox is the only truth.
    Publish {
        /// The message.
        message: Publish,
        /// With a token (QoS 1 only) the link answers [`Event::Delivered`] or [`Event::Refused`], or, when the
        /// connection ends first, nothing: the owner offers everything undelivered again after the next
        /// [`Event::Up`].
        token: Option<u64>,
    },
    /// Acknowledge a received message.
    Ack(AckToken),
    /// Publish this last, wait shortly for its acknowledgement, disconnect, end.
    Shutdown {
        /// The node's death. When it cannot be delivered within a second the connection is cut, so that the Will
        /// speaks instead.
        last_words: Option<Publish>,
    },
}

/// The way to the broker as its owner sees it: bounded, and never waited for.
///
/// The client in [`mqtt`] is one; a simulated broker is another, and drives the very same agent.
pub trait Link: fmt::Debug {
    /// Hands over a command.
    ///
    /// # Errors
    /// Gives the command back when there is no room: the owner keeps it and offers it again.
    fn offer(&mut self, command: Command) -> Result<(), Box<Command>>;
}

impl Link for mpsc::Sender<Command> {
    fn offer(&mut self, command: Command) -> Result<(), Box<Command>> {
        self.try_send(command).map_err(|error| match error {
            TrySendError::Full(command) | TrySendError::Closed(command) => Box::new(command),
        })
    }
}

/// The owner's ends of a link: commands go in, events come out.
pub type Ends = (mpsc::Sender<Command>, mpsc::Receiver<Event>);

/// What the link tells the rest of the program.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Connected and subscribed. Whatever was not delivered is to be offered again.
    Up {
        /// Counts connections; part of every [`AckToken`].
        epoch: u64,
        /// Whether the broker still had our session, with what was queued in it.
        session_present: bool,
        /// Largest packet that may be published: the smaller of our limit and the broker's.
        packet_bytes_max: usize,
    },
    /// Not connected; the link tries again by itself.
    Down {
        /// What happened, for people.
        why: String,
        /// What kind of end it was.
        cause: backoff::Cause,
        /// Wait until the next try.
        retry_in_ms: u64,
    },
    /// A message arrived. It may come before [`Event::Up`] when the broker had it queued.
    Received(Received),
    /// The broker acknowledged the message of this token.
    Delivered {
        /// As given with the message.
        token: u64,
    },
    /// The broker refused the message of this token (reason code ≥ 0x80), or it is above a size limit. Offering it
    /// again unchanged will not help.
    Refused {
        /// As given with the message.
        token: u64,
        /// Reason, limit, remedy.
        why: String,
    },
    /// The link has ended after [`Command::Shutdown`].
    Closed,
}
