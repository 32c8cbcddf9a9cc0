//! What waits to be handed to the link?
//!
//! The link's channel is bounded and its task may be slow; the event loop never waits for it. Acks and offered messages
//! are bounded by their windows and always kept; telemetry is the only thing dropped, and it is counted.

use std::collections::VecDeque;

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::link::{AckToken, Command, Publish};

/// Commands that may wait before telemetry is dropped.
const WAITING_MAX: usize = 256;

/// The way to the link.
#[derive(Debug)]
pub(super) struct Courier {
    link: mpsc::Sender<Command>,
    waiting: VecDeque<Command>,
    dropped: u64,
}

impl Courier {
    /// A courier to that link.
    pub(super) fn new(link: mpsc::Sender<Command>) -> Self {
        Self { link, waiting: VecDeque::new(), dropped: 0 }
    }

    /// An acknowledgement goes before everything else, behind earlier ones: the broker's receive window is small.
    pub(super) fn ack(&mut self, ack: AckToken) {
        let earlier = self.waiting.iter().take_while(|command| matches!(command, Command::Ack(_))).count();
        self.waiting.insert(earlier, Command::Ack(ack));
        self.flush();
    }

    /// A stored message on its way.
    pub(super) fn offer(&mut self, token: u64, message: Publish) {
        self.waiting.push_back(Command::Publish { message, token: Some(token) });
        self.flush();
    }

    /// A message that the store does not keep: state, telemetry, replies.
    pub(super) fn publish(&mut self, message: Publish) {
        if self.waiting.len() >= WAITING_MAX {
            self.dropped += 1;
            return;
        }
        self.waiting.push_back(Command::Publish { message, token: None });
        self.flush();
    }

    /// The last command.
    pub(super) fn shut_down(&mut self, last_words: Publish) {
        self.waiting.push_back(Command::Shutdown { last_words: Some(last_words) });
        self.flush();
    }

    /// The connection is gone: what waited is void. Stored messages are offered again, acks belong to that connection.
    pub(super) fn down(&mut self) {
        self.waiting.retain(|command| matches!(command, Command::Shutdown { .. }));
    }

    /// Hands over what the channel takes.
    pub(super) fn flush(&mut self) {
        while let Some(command) = self.waiting.pop_front() {
            match self.link.try_send(command) {
                Ok(()) => {}
                Err(TrySendError::Full(command) | TrySendError::Closed(command)) => {
                    self.waiting.push_front(command);
                    return;
                }
            }
        }
    }

    /// Resolves when the channel has room again; never while nothing waits.
    pub(super) async fn room(&self) {
        if self.waiting.is_empty() {
            std::future::pending::<()>().await;
        }
        // A closed channel ends with the link's `Closed` event, which the loop hears of elsewhere.
        if self.link.reserve().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Telemetry dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
