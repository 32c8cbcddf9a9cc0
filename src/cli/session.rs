//! One controller's connection, from connect to goodbye.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::failure::{Class, Failure};
use super::target::Place;
use crate::link::messages::{self, Command as Order, Reply};
use crate::link::topics::Topics;
use crate::link::{Command, Event, Publish, Qos, mqtt};
use crate::sys::clock;

/// Longest wait for the broker: connection, acknowledgement.
const BROKER_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for a node's reply to a command.
const REPLY_WAIT: Duration = Duration::from_secs(10);
/// How long the broker keeps a command for a node that is just connecting, in seconds.
const COMMAND_EXPIRY_S: u32 = 60;
/// How long the broker keeps a cancel or an acknowledgement for an absent node, in seconds.
const BARE_EXPIRY_S: u32 = 3600;
/// Longest goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// Messages that may wait while an acknowledgement is waited for.
const INBOX_MAX: usize = 4096;

/// A connection that is up.
#[derive(Debug)]
pub(super) struct Session {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    /// The node's topics.
    pub(super) topics: Topics,
    reply_topic: String,
    inbox: VecDeque<Publish>,
    tokens: u64,
}

impl Session {
    /// Connects and subscribes to the filters and to its own reply topic.
    pub(super) async fn open(place: Place, filters: Vec<(String, Qos)>) -> Result<Self, Failure> {
        let Place { mut link, topics } = place;
        let broker = link.broker();
        let reply_topic = topics.reply(&link.client_id);
        link.subscriptions = filters;
        link.subscriptions.push((reply_topic.clone(), Qos::AtLeastOnce));
        let (commands, events) =
            mqtt::start(link, clock::wall).map_err(|error| Failure::new(Class::Usage, error.to_string()))?;
        let mut session = Self { commands, events, topics, reply_topic, inbox: VecDeque::new(), tokens: 0 };
        let up = async {
            loop {
                match session.event().await? {
                    Event::Up { .. } => return Ok(()),
                    Event::Down { why, .. } => return Err(unreachable(&broker, &why)),
                    Event::Received(received) => session.keep(received.message)?,
                    Event::Delivered { .. } | Event::Refused { .. } | Event::Closed => {}
                }
            }
        };
        match timeout(BROKER_WAIT, up).await {
            Ok(done) => done?,
            Err(_) => return Err(unreachable(&broker, &format!("no connection within {} s", BROKER_WAIT.as_secs()))),
        }
        Ok(session)
    }

    /// Publishes and waits until the broker has it.
    pub(super) async fn send(&mut self, message: Publish) -> Result<(), Failure> {
        self.tokens += 1;
        let mine = self.tokens;
        let topic = message.topic.clone();
        self.command(Command::Publish { message: message.clone(), token: Some(mine) }).await?;
        let delivered = async {
            loop {
                match self.event().await? {
                    Event::Delivered { token } if token == mine => return Ok(()),
                    Event::Refused { token, why } if token == mine => {
                        return Err(Failure::new(Class::NoPermission, format!("the broker refused {topic}: {why}")));
                    }
                    // What was not delivered before the connection ended is offered again.
                    Event::Up { .. } => {
                        self.command(Command::Publish { message: message.clone(), token: Some(mine) }).await?;
                    }
                    Event::Received(received) => self.keep(received.message)?,
                    Event::Delivered { .. } | Event::Refused { .. } | Event::Down { .. } | Event::Closed => {}
                }
            }
        };
        match timeout(BROKER_WAIT, delivered).await {
            Ok(done) => done,
            Err(_) => {
                let text = format!("the broker did not acknowledge {topic} within {} s", BROKER_WAIT.as_secs());
                Err(Failure::new(Class::TemporaryFailure, text))
            }
        }
    }

    /// Publishes a message without a body, kept by the broker for an absent node for an hour.
    pub(super) async fn send_bare(&mut self, topic: String) -> Result<(), Failure> {
        self.send(message(topic, Vec::new(), BARE_EXPIRY_S)).await
    }

    /// The next message. A connection that is lost is told on standard error, and restored by the link.
    pub(super) async fn next(&mut self) -> Result<Publish, Failure> {
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return Ok(message);
            }
            match self.event().await? {
                Event::Received(received) => return Ok(received.message),
                Event::Down { why, retry_in_ms } => {
                    Failure::new(Class::Unavailable, format!("connection lost: {why}; again in {retry_in_ms} ms"))
                        .report();
                }
                Event::Up { .. } | Event::Delivered { .. } | Event::Refused { .. } | Event::Closed => {}
            }
        }
    }

    /// Sends a command to the node and waits for its reply.
    pub(super) async fn request(&mut self, order: &Order) -> Result<Reply, Failure> {
        let correlation = messages::new_id().into_bytes();
        let message = Publish {
            content_type: Some(messages::JSON.to_owned()),
            response_topic: Some(self.reply_topic.clone()),
            correlation: Some(correlation.clone()),
            ..message(self.topics.command(order.name()), order.render(), COMMAND_EXPIRY_S)
        };
        self.send(message).await?;
        let reply = async {
            loop {
                let message = self.next().await?;
                if message.topic == self.reply_topic && message.correlation.as_ref() == Some(&correlation) {
                    return Ok::<Publish, Failure>(message);
                }
            }
        };
        let Ok(message) = timeout(REPLY_WAIT, reply).await else {
            let (site, node) = (self.topics.site(), self.topics.node());
            let text = format!(
                "node {site}/{node} did not answer within {} s: is its agent running and connected to this broker?",
                REPLY_WAIT.as_secs()
            );
            return Err(Failure::new(Class::Unavailable, text));
        };
        match Reply::parse(&message?.body).map_err(|error| Failure::new(Class::Data, error.to_string()))? {
            Reply::Error(error) => Err(failed(&error)),
            reply @ (Reply::Pong(_)
            | Reply::Node { .. }
            | Reply::Job(_)
            | Reply::Jobs(_)
            | Reply::Result(_)
            | Reply::Done) => Ok(reply),
        }
    }

    /// Says goodbye to the broker; a lost goodbye harms nobody.
    pub(super) async fn close(mut self) {
        if self.commands.send(Command::Shutdown { last_words: None }).await.is_err() {
            return;
        }
        let closed = async { while !matches!(self.events.recv().await, Some(Event::Closed) | None) {} };
        let _ = timeout(GOODBYE, closed).await;
    }

    async fn command(&self, command: Command) -> Result<(), Failure> {
        self.commands.send(command).await.map_err(|_| ended())
    }

    async fn event(&mut self) -> Result<Event, Failure> {
        let event = self.events.recv().await.ok_or_else(ended)?;
        if let Event::Received(received) = &event
            && let Some(ack) = received.ack
        {
            self.command(Command::Ack(ack)).await?;
        }
        Ok(event)
    }

    fn keep(&mut self, message: Publish) -> Result<(), Failure> {
        if self.inbox.len() >= INBOX_MAX {
            let text = format!("more than {INBOX_MAX} messages arrived while waiting for the broker");
            return Err(Failure::new(Class::TemporaryFailure, text));
        }
        self.inbox.push_back(message);
        Ok(())
    }
}

/// A message of QoS 1 without properties.
pub(super) fn message(topic: String, body: Vec<u8>, expiry_s: u32) -> Publish {
    Publish {
        topic,
        body,
        qos: Qos::AtLeastOnce,
        retain: false,
        expiry_s: Some(expiry_s),
        content_type: None,
        response_topic: None,
        correlation: None,
        properties: Vec::new(),
    }
}

/// The failure that an error of the node amounts to.
pub(super) fn failed(error: &messages::ErrorBody) -> Failure {
    let class = if error.retryable { Class::TemporaryFailure } else { Class::Data };
    Failure::new(class, super::out::clean(&format!("{}: {}", error.code, error.message), 2_000))
}

fn unreachable(broker: &str, why: &str) -> Failure {
    let denied = ["NotAuthorized", "BadUserNamePassword", "Banned"].iter().any(|reason| why.contains(reason));
    let class = if denied { Class::NoPermission } else { Class::Unavailable };
    Failure::new(class, format!("no connection to the broker {broker}: {why}"))
}

fn ended() -> Failure {
    Failure::new(Class::Software, "the MQTT client ended by itself")
}
