//! One controller's connection, from connect to goodbye.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::failure::{Class, Failure};
use super::out::clean;
use super::target::Place;
use crate::link::messages::{self, Command as Order, NodeState, Reply};
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
    pub(super) async fn open(place: Place, filters: Vec<String>) -> Result<Self, Failure> {
        let Place { mut link, topics } = place;
        let broker = link.broker();
        let reply_topic = topics.reply(&link.client_id);
        let all = filters.into_iter().chain([reply_topic.clone()]);
        link.subscriptions = all.map(|filter| (filter, Qos::AtLeastOnce)).collect();
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
                Event::Down { why, retry_in_ms, .. } => {
                    Failure::new(Class::Unavailable, format!("connection lost: {why}; again in {retry_in_ms} ms"))
                        .report();
                }
                Event::Up { .. } | Event::Delivered { .. } | Event::Refused { .. } | Event::Closed => {}
            }
        }
    }

    /// The first message that fits, within that time; the others stay for [`Session::next`], in their order.
    pub(super) async fn find(
        &mut self,
        wait: Duration,
        fits: impl Fn(&Publish) -> bool,
    ) -> Result<Option<Publish>, Failure> {
        let mut others = VecDeque::new();
        let found = timeout(wait, async {
            loop {
                let message = self.next().await?;
                if fits(&message) {
                    return Ok(message);
                }
                if others.len() >= INBOX_MAX {
                    return Err(overflow());
                }
                others.push_back(message);
            }
        })
        .await;
        others.append(&mut self.inbox);
        self.inbox = others;
        found.ok().transpose()
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
        let topic = self.reply_topic.clone();
        let is_reply = |message: &Publish| message.topic == topic && message.correlation.as_ref() == Some(&correlation);
        let Some(message) = self.find(REPLY_WAIT, is_reply).await? else {
            return Err(self.unanswered());
        };
        match Reply::parse(&message.body).map_err(|error| Failure::new(Class::Data, error.to_string()))? {
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

    /// The failure of a node that does not reply, with the last it said about itself when that is known.
    fn unanswered(&self) -> Failure {
        let state = self.topics.state();
        let last = self.inbox.iter().rev().find(|message| message.topic == state);
        let known = match last.and_then(|message| NodeState::parse(&message.body).ok()) {
            Some(NodeState::Online { mode, .. }) => format!("it calls itself online ({})", clean(&mode, 40)),
            Some(NodeState::Offline { cause, .. }) => format!("it is offline ({})", clean(&cause, 40)),
            None => "no such node has been seen at this broker: check --node and --root".to_owned(),
        };
        let (site, node) = (self.topics.site(), self.topics.node());
        let text = format!("node {site}/{node} did not answer within {} s: {known}", REPLY_WAIT.as_secs());
        Failure::new(Class::Unavailable, text)
    }

    fn keep(&mut self, message: Publish) -> Result<(), Failure> {
        if self.inbox.len() >= INBOX_MAX {
            return Err(overflow());
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
    Failure::new(class, clean(&format!("{}: {}", error.code, error.message), 2_000))
}

fn unreachable(broker: &str, why: &str) -> Failure {
    let denied = ["NotAuthorized", "BadUserNamePassword", "Banned"].iter().any(|reason| why.contains(reason));
    let class = if denied { Class::NoPermission } else { Class::Unavailable };
    Failure::new(class, format!("no connection to the broker {broker}: {why}"))
}

fn overflow() -> Failure {
    Failure::new(Class::TemporaryFailure, format!("more than {INBOX_MAX} messages arrived while waiting for one"))
}

fn ended() -> Failure {
    Failure::new(Class::Software, "the MQTT client ended by itself")
}
