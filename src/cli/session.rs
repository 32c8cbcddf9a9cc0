//! How does a command talk to a node? One controller's connection, from connect to goodbye.
//!
//! A broker that restarts forgets what it had acknowledged. So a command for the node is asked again after each connect
//! and every few seconds until the reply is there: every command may be carried out twice without harm.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::failure::{Class, Failure};
use super::out::clean;
use super::signer::Signer;
use super::target::Place;
use crate::link::messages::{self, Command as Order, NodeState, Reply};
use crate::link::topics::Topics;
use crate::link::{Command, Event, Publish, Qos, mqtt};
use crate::sys::clock;

/// Longest wait for the broker's acknowledgement.
const BROKER_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for the first connection: longer than the link's own limit, which knows what is wrong.
const CONNECT_WAIT: Duration = Duration::from_secs(12);
/// Longest wait for a node's reply to a command, unless the person says otherwise.
pub(super) const REPLY_WAIT: Duration = Duration::from_secs(10);
/// A command without reply is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(3);
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
    signer: Option<Signer>,
    reply_topic: String,
    inbox: VecDeque<Publish>,
    tokens: u64,
    is_up: bool,
    /// Taken from the link, and perhaps not yet acknowledged: whoever waits for events may stop waiting at any point.
    taken: Option<Event>,
}

/// What a connection has to tell.
#[derive(Debug)]
pub(super) enum Heard {
    /// A message.
    Message(Publish),
    /// It is up again.
    Up,
    /// It is lost; the link restores it.
    Down {
        /// Why, for people.
        why: String,
    },
    /// The broker has the message of that token.
    Delivered {
        /// Of [`Session::post`].
        token: u64,
    },
    /// It will not take it.
    Refused {
        /// Of [`Session::post`].
        token: u64,
        /// Why.
        why: String,
    },
}

impl Session {
    /// Connects and subscribes to the filters and to its own reply topic.
    pub(super) async fn open(place: Place, filters: Vec<String>) -> Result<Self, Failure> {
        let Place { mut link, topics, signer } = place;
        let broker = link.broker();
        let reply_topic = topics.reply(&link.client_id);
        let all = filters.into_iter().chain([reply_topic.clone()]);
        link.subscriptions = all.map(|filter| (filter, Qos::AtLeastOnce)).collect();
        let (commands, events) =
            mqtt::start(link, clock::wall).map_err(|error| Failure::new(class_of(&error), error.to_string()))?;
        let inbox = VecDeque::new();
        let (tokens, is_up, taken) = (0, false, None);
        let mut session = Self { commands, events, topics, signer, reply_topic, inbox, tokens, is_up, taken };
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
        match timeout(CONNECT_WAIT, up).await {
            Ok(done) => done?,
            Err(_) => return Err(unreachable(&broker, &format!("no connection within {} s", CONNECT_WAIT.as_secs()))),
        }
        Ok(session)
    }

    /// Publishes and waits until the broker has it.
    pub(super) async fn send(&mut self, message: Publish) -> Result<(), Failure> {
        let message = self.signed(message);
        let topic = message.topic.clone();
        let mine = self.post(message.clone()).await?;
        let delivered = async {
            loop {
                match self.event().await? {
                    Event::Delivered { token } if token == mine => return Ok(()),
                    Event::Refused { token, why } if token == mine => {
                        return Err(refused(&topic, &why));
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

    /// Whether the broker is reached.
    pub(super) const fn is_up(&self) -> bool {
        self.is_up
    }

    /// Publishes without waiting for anybody; the token comes back with what the broker says of it. While the
    /// connection is down the message is lost.
    pub(super) async fn post(&mut self, message: Publish) -> Result<u64, Failure> {
        self.tokens += 1;
        let message = self.signed(message);
        self.command(Command::Publish { message, token: Some(self.tokens) }).await?;
        Ok(self.tokens)
    }

    /// The next thing that happens. May be given up at any point.
    pub(super) async fn hear(&mut self) -> Result<Heard, Failure> {
        if let Some(message) = self.inbox.pop_front() {
            return Ok(Heard::Message(message));
        }
        loop {
            return Ok(match self.event().await? {
                Event::Received(received) => Heard::Message(received.message),
                Event::Up { .. } => Heard::Up,
                Event::Down { why, retry_in_ms, .. } => {
                    Heard::Down { why: format!("{why}; again in {retry_in_ms} ms") }
                }
                Event::Delivered { token } => Heard::Delivered { token },
                Event::Refused { token, why } => Heard::Refused { token, why },
                Event::Closed => continue,
            });
        }
    }

    /// The next message. A connection that is lost is told on standard error, and restored by the link.
    pub(super) async fn next(&mut self) -> Result<Publish, Failure> {
        loop {
            match self.hear().await? {
                Heard::Message(message) => return Ok(message),
                Heard::Down { why } => drop(lost(&why).report()),
                Heard::Up | Heard::Delivered { .. } | Heard::Refused { .. } => {}
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

    /// A command to the node, and the mark that its reply will bear.
    pub(super) fn order(&self, order: &Order) -> (Publish, Vec<u8>) {
        let correlation = messages::new_id().into_bytes();
        let message = Publish {
            content_type: Some(messages::JSON.to_owned()),
            response_topic: Some(self.reply_topic.clone()),
            correlation: Some(correlation.clone()),
            ..message(self.topics.command(order.name()), order.render(), COMMAND_EXPIRY_S)
        };
        (self.signed(message), correlation)
    }

    /// The message with its signature, where there is a key to sign with: once, so that what is sent again is the same.
    fn signed(&self, message: Publish) -> Publish {
        match &self.signer {
            Some(signer) => signer.sign(message),
            None => message,
        }
    }

    /// Whether a message is the reply with that mark.
    pub(super) fn is_reply(&self, message: &Publish, correlation: &[u8]) -> bool {
        message.topic == self.reply_topic && message.correlation.as_deref() == Some(correlation)
    }

    /// Sends a command to the node and waits for its reply, asking again where the command or the reply may be lost.
    pub(super) async fn request(&mut self, order: &Order, wait: Duration) -> Result<Reply, Failure> {
        let (message, correlation) = self.order(order);
        let topic = message.topic.clone();
        let until = Instant::now() + wait;
        let mut others = VecDeque::new();
        let mut last = None;
        let mut token = self.post(message.clone()).await?;
        let mut again = Instant::now() + ASK_AGAIN;
        let reply = loop {
            let heard = tokio::select! {
                heard = self.hear() => heard?,
                () = sleep_until(again.min(until)) => {
                    if Instant::now() >= until {
                        break None;
                    }
                    token = self.post(message.clone()).await?;
                    again = Instant::now() + ASK_AGAIN;
                    continue;
                }
            };
            match heard {
                Heard::Message(message) if self.is_reply(&message, &correlation) => {
                    let reply = Reply::parse(&message.body);
                    let reply = reply.map_err(|error| Failure::new(Class::Data, error.to_string()))?;
                    match &reply {
                        // It may pass: there is time to ask again.
                        Reply::Error(error) if error.retryable => last = Some(failed(error)),
                        Reply::Pong(_)
                        | Reply::Node { .. }
                        | Reply::Job(_)
                        | Reply::Jobs(_)
                        | Reply::Result(_)
                        | Reply::Done
                        | Reply::Error(_) => break Some(reply),
                    }
                }
                Heard::Message(message) if others.len() < INBOX_MAX => others.push_back(message),
                Heard::Message(_) => return Err(overflow()),
                Heard::Up => {
                    token = self.post(message.clone()).await?;
                    again = Instant::now() + ASK_AGAIN;
                }
                Heard::Down { why } => drop(lost(&why).report()),
                Heard::Refused { token: of, why } if of == token => return Err(refused(&topic, &why)),
                Heard::Refused { .. } | Heard::Delivered { .. } => {}
            }
        };
        others.append(&mut self.inbox);
        self.inbox = others;
        match reply {
            Some(Reply::Error(error)) => Err(failed(&error)),
            Some(reply) => Ok(reply),
            None => Err(last.unwrap_or_else(|| self.unanswered(wait))),
        }
    }

    /// The last message of that topic that came while something else was waited for.
    pub(super) fn latest(&self, topic: &str) -> Option<&Publish> {
        self.inbox.iter().rev().find(|message| message.topic == topic)
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
        if self.taken.is_none() {
            self.taken = Some(self.events.recv().await.ok_or_else(ended)?);
        }
        if let Some(Event::Received(received)) = &self.taken
            && let Some(ack) = received.ack
        {
            self.command(Command::Ack(ack)).await?;
        }
        let event = self.taken.take().ok_or_else(ended)?;
        match &event {
            Event::Up { .. } => self.is_up = true,
            Event::Down { .. } | Event::Closed => self.is_up = false,
            Event::Received(_) | Event::Delivered { .. } | Event::Refused { .. } => {}
        }
        Ok(event)
    }

    /// The failure of a node that does not reply, with the last it said about itself when that is known.
    fn unanswered(&self, wait: Duration) -> Failure {
        if !self.is_up {
            let text = format!("the broker is not reached, and {} s are over", wait.as_secs_f64());
            return Failure::new(Class::Unavailable, text);
        }
        let last = self.latest(&self.topics.state());
        let known = match last.and_then(|message| NodeState::parse(&message.body).ok()) {
            Some(NodeState::Online { mode, .. }) => format!("it calls itself online ({})", clean(&mode, 40)),
            Some(NodeState::Offline { cause, .. }) => format!("it is offline ({})", clean(&cause, 40)),
            None => "no such node has been seen at this broker: check --node and --root".to_owned(),
        };
        let (site, node) = (self.topics.site(), self.topics.node());
        let text = format!("node {site}/{node} did not answer within {} s: {known}", wait.as_secs_f64());
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
    Publish { expiry_s: Some(expiry_s), ..Publish::plain(topic, body) }
}

/// The failure that an error of the node amounts to.
pub(super) fn failed(error: &messages::ErrorBody) -> Failure {
    let class = if error.retryable { Class::TemporaryFailure } else { Class::Data };
    Failure::new(class, clean(&format!("{}: {}", error.code, error.message), 2_000))
}

/// Files that are no good are the configuration's fault, everything else that of the words.
fn class_of(error: &mqtt::BadSettings) -> Class {
    if matches!(error, mqtt::BadSettings::Tls(_)) { Class::Config } else { Class::Usage }
}

fn unreachable(broker: &str, why: &str) -> Failure {
    let denied =
        ["NotAuthorized", "BadUserNamePassword", "Banned", "tls.client_cert"].iter().any(|reason| why.contains(reason));
    let class = if denied { Class::NoPermission } else { Class::Unavailable };
    Failure::new(class, format!("no connection to the broker {broker}: {why}"))
}

/// The remark that the connection is lost.
pub(super) fn lost(why: &str) -> Failure {
    Failure::new(Class::Unavailable, format!("connection lost: {why}"))
}

/// The failure of a message that the broker does not take.
pub(super) fn refused(topic: &str, why: &str) -> Failure {
    Failure::new(Class::NoPermission, format!("the broker refused {topic}: {why}"))
}

fn overflow() -> Failure {
    Failure::new(Class::TemporaryFailure, format!("more than {INBOX_MAX} messages arrived while waiting for one"))
}

fn ended() -> Failure {
    Failure::new(Class::Software, "the MQTT client ended by itself")
}
