//! An owner of the link with an outbox: offers everything undelivered after each connect, acknowledges what it receives.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use neap::link::backoff::Cause;
use neap::link::mqtt::{self, Backoff, Settings};
use neap::link::{Command, Event, Publish, Qos, Received};
use neap::units::WallTime;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The shortest that the settings allow: three of them end a connection that stands still.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// What its own messages are published to, and what it hears.
pub const UP: &str = "t/up";
pub const DOWN: &str = "t/down";

/// Times as short as the settings allow, so that a test waits for the link and not for its back-off.
pub fn settings(port: u16) -> Settings {
    Settings {
        keep_alive: KEEP_ALIVE,
        session_expiry: Duration::from_secs(60),
        subscriptions: vec![(format!("{DOWN}/#"), Qos::AtLeastOnce), ("t/state".to_owned(), Qos::AtLeastOnce)],
        backoff: Backoff {
            first: Duration::from_millis(100),
            max: Duration::from_millis(400),
            auth_first: Duration::from_millis(100),
            taken_over: Duration::from_millis(200),
        },
        ..Settings::new("127.0.0.1", port, "node")
    }
}

pub fn message(topic: &str, body: Vec<u8>) -> Publish {
    Publish::plain(topic, body)
}

/// The owner, and everything that the link told it.
pub struct Owner {
    commands: Option<mpsc::Sender<Command>>,
    events: mpsc::Receiver<Event>,
    /// Offered and not delivered.
    pub outbox: BTreeMap<u64, Publish>,
    /// Next to hand over.
    to_send: VecDeque<Command>,
    pub delivered: BTreeSet<u64>,
    pub refused: BTreeMap<u64, String>,
    pub received: Vec<Publish>,
    pub ups: usize,
    pub downs: Vec<(Cause, String)>,
    pub is_up: bool,
}

impl Owner {
    /// Starts the link, with `outbox` to deliver.
    pub fn start(settings: Settings, outbox: BTreeMap<u64, Publish>) -> Self {
        let (commands, events) =
            mqtt::start(settings, || WallTime::from_millis(1)).expect("the settings of a test can work");
        Self {
            commands: Some(commands),
            events,
            outbox,
            to_send: VecDeque::new(),
            delivered: BTreeSet::new(),
            refused: BTreeMap::new(),
            received: Vec::new(),
            ups: 0,
            downs: Vec::new(),
            is_up: false,
        }
    }

    /// One step: hands over a command or hears an event, whichever is possible first.
    ///
    /// # Errors
    /// When the link is gone, or breaks its word.
    pub async fn step(&mut self) -> Result<(), String> {
        let commands = self.commands.clone().ok_or("the owner has shut down")?;
        tokio::select! {
            permit = commands.reserve(), if !self.to_send.is_empty() => {
                let permit = permit.map_err(|_| "the link is gone")?;
                permit.send(self.to_send.pop_front().expect("there is one to send"));
                Ok(())
            }
            event = self.events.recv() => self.hear(event.ok_or("the link is gone")?),
        }
    }

    fn hear(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Up { .. } => {
                self.ups += 1;
                self.is_up = true;
                let all = self.outbox.iter();
                let offers =
                    all.map(|(token, message)| Command::Publish { message: message.clone(), token: Some(*token) });
                self.to_send.extend(offers);
            }
            Event::Down { why, cause, .. } => {
                self.is_up = false;
                self.downs.push((cause, why));
                self.to_send.clear();
            }
            Event::Received(Received { message, ack, .. }) => {
                self.received.push(message);
                self.to_send.extend(ack.map(Command::Ack));
            }
            Event::Delivered { token } => {
                self.outbox.remove(&token).ok_or(format!("{token} was settled before"))?;
                self.delivered.insert(token);
            }
            Event::Refused { token, why } => {
                self.outbox.remove(&token).ok_or(format!("{token} was settled before"))?;
                self.refused.insert(token, why);
            }
            Event::Closed => return Err("the link has closed by itself".to_owned()),
        }
        Ok(())
    }

    /// Steps until `done`.
    ///
    /// # Errors
    /// When it does not come to that within `patience`, or a step fails.
    pub async fn until(&mut self, patience: Duration, mut done: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let steps = async {
            while !done(self) {
                // A look at the broker now and then, even when nothing happens here.
                if let Ok(stepped) = timeout(Duration::from_millis(50), self.step()).await {
                    stepped?;
                }
            }
            Ok(())
        };
        let outcome = timeout(patience, steps).await;
        outcome.unwrap_or_else(|_| Err(format!("not done within {patience:?}; {}", self.told())))
    }

    /// Ends the link.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn shut_down(&mut self) -> Result<(), String> {
        let commands = self.commands.take().ok_or("the owner has shut down")?;
        self.to_send.clear();
        let end = async {
            // Its commands may wait behind events that nobody reads.
            let order = commands.send(Command::Shutdown { last_words: None });
            tokio::pin!(order);
            let mut is_sent = false;
            loop {
                tokio::select! {
                    sent = &mut order, if !is_sent => { is_sent = sent.is_ok(); if !is_sent { return Err("the link is gone".to_owned()) } }
                    event = self.events.recv() => match event {
                        Some(Event::Closed) => return Ok(()),
                        Some(_) => {}
                        None => return Err("the link ended without a word".to_owned()),
                    },
                }
            }
        };
        timeout(Duration::from_secs(10), end).await.unwrap_or_else(|_| Err("the link does not end".to_owned()))
    }

    pub fn told(&self) -> String {
        format!(
            "{} up, down {:?}, {} open, {} delivered, {} refused, {} received",
            self.ups,
            self.downs,
            self.outbox.len(),
            self.delivered.len(),
            self.refused.len(),
            self.received.len()
        )
    }
}
