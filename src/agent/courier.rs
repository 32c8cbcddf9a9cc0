//! What waits to be handed to the link?
//!
//! The link's channel is bounded and its task may be slow; the event loop never waits for it. Acks and offered messages
//! are bounded by their windows and always kept; telemetry is the only thing dropped, and it is counted.
//!
//! Acks and messages take turns. An ack brings the next message of the broker and that one the next ack: if acks always
//! went first, nothing would be reported as long as a flood of submits lasts.

use std::collections::VecDeque;

use crate::link::{AckToken, Command, Link, Publish};

/// Commands that may wait before telemetry is dropped.
const WAITING_MAX: usize = 256;

/// Messages outside the store that wait for a connection.
const HELD_MAX: usize = 64;

/// Bytes of such messages and of replies that may wait besides one: a controller that asks for many large results at
/// once gets some of them, and asks again for the others.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// The way to the link.
#[derive(Debug)]
pub(super) struct Courier {
    link: Box<dyn Link>,
    acks: VecDeque<AckToken>,
    waiting: VecDeque<Command>,
    /// The last command was an ack: now it is a message's turn.
    acked: bool,
    up: bool,
    /// What was said while the connection was not up: the broker hands over commands that it had queued before it is,
    /// and the link drops what it cannot send.
    held: VecDeque<Publish>,
    /// What is to be told before its cause is acknowledged, with the ack, until the connection is up.
    answers: VecDeque<Command>,
    dropped: u64,
}

impl Courier {
    /// A courier to that link.
    pub(super) fn new(link: impl Link + 'static) -> Self {
        Self {
            link: Box::new(link),
            acks: VecDeque::new(),
            waiting: VecDeque::new(),
            acked: false,
            up: false,
            held: VecDeque::new(),
            answers: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Connected: what was held goes out.
    pub(super) fn up(&mut self) {
        self.up = true;
        for message in std::mem::take(&mut self.held) {
            self.publish(message);
        }
        self.waiting.append(&mut self.answers);
        self.flush();
    }

    /// An acknowledgement, which waits for one message at most: the broker's receive window is small.
    pub(super) fn ack(&mut self, ack: AckToken) {
        self.acks.push_back(ack);
        self.flush();
    }

    /// A stored message on its way.
    pub(super) fn offer(&mut self, token: u64, message: Publish) {
        self.waiting.push_back(Command::Publish { message, token: Some(token) });
        self.flush();
    }

    /// A message that the store does not keep: state, telemetry, replies.
    pub(super) fn publish(&mut self, message: Publish) {
        let (waiting, most) = if self.up { (self.waiting.len(), WAITING_MAX) } else { (self.held.len(), HELD_MAX) };
        if waiting >= most || self.bytes_waiting() > BYTES_MAX {
            self.dropped += 1;
        } else if self.up {
            self.waiting.push_back(Command::Publish { message, token: None });
            self.flush();
        } else {
            self.held.push_back(message);
        }
    }

    /// Bytes of messages that the store does not keep.
    fn bytes_waiting(&self) -> usize {
        let sent = self.waiting.iter().map(|command| match command {
            Command::Publish { message, token: None } => message.body.len(),
            Command::Publish { token: Some(_), .. } | Command::Ack(_) | Command::Shutdown { .. } => 0,
        });
        sent.chain(self.held.iter().map(|message| message.body.len())).sum()
    }

    /// Messages that the store does not keep and that must be said before what caused them is acknowledged. Bounded by
    /// the window of what the broker may leave unacknowledged. A connection that ends before it was up takes both away,
    /// and the cause comes again with the next one.
    pub(super) fn tell(&mut self, messages: Vec<Publish>, ack: Option<AckToken>) {
        let messages = messages.into_iter().map(|message| Command::Publish { message, token: None });
        let commands = messages.chain(ack.map(Command::Ack));
        if self.up {
            self.waiting.extend(commands);
            self.flush();
        } else {
            self.answers.extend(commands);
        }
    }

    /// The last command.
    pub(super) fn shut_down(&mut self, last_words: Publish) {
        self.waiting.push_back(Command::Shutdown { last_words: Some(last_words) });
        self.flush();
    }

    /// The connection is gone: what waited is void. Stored messages are offered again, acks belong to that connection.
    pub(super) fn down(&mut self) {
        self.up = false;
        self.acks.clear();
        self.answers.clear();
        self.waiting.retain(|command| matches!(command, Command::Shutdown { .. }));
    }

    /// Hands over what the channel takes.
    pub(super) fn flush(&mut self) {
        while self.is_waiting() {
            let messages_turn = self.acked && !self.waiting.is_empty();
            let ack = if messages_turn { None } else { self.acks.pop_front() };
            let Some(command) = ack.map(Command::Ack).or_else(|| self.waiting.pop_front()) else { return };
            if let Err(command) = self.link.offer(command) {
                match *command {
                    Command::Ack(ack) => self.acks.push_front(ack),
                    command @ (Command::Publish { .. } | Command::Shutdown { .. }) => self.waiting.push_front(command),
                }
                return;
            }
            self.acked = ack.is_some();
        }
    }

    /// Whether something waits for room: then [`Courier::flush`] is to be called when there is some.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.acks.is_empty()
    }

    /// How much waits for the link, and for a connection.
    #[cfg(test)]
    pub(super) fn queued(&self) -> [usize; 2] {
        [self.acks.len() + self.waiting.len(), self.held.len() + self.answers.len()]
    }

    /// Telemetry dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn message(topic: &str) -> Publish {
        Publish::plain(topic, Vec::new())
    }

    fn sent(link: &mut mpsc::Receiver<Command>) -> Vec<String> {
        std::iter::from_fn(|| link.try_recv().ok())
            .map(|command| match command {
                Command::Publish { message, .. } => message.topic,
                Command::Ack(ack) => format!("ack {}", ack.packet),
                Command::Shutdown { .. } => "shutdown".to_owned(),
            })
            .collect()
    }

    #[test]
    fn a_reply_made_before_the_connection_is_up_waits_for_it_and_its_ack_does_not() {
        let (link, mut received) = mpsc::channel(8);
        let mut courier = Courier::new(link);
        courier.publish(message("reply"));
        courier.ack(AckToken { epoch: 1, packet: 7 });
        assert_eq!(sent(&mut received), ["ack 7"]);
        courier.up();
        courier.publish(message("state"));
        assert_eq!(sent(&mut received), ["reply", "state"]);
        courier.down();
        courier.publish(message("later"));
        assert_eq!(sent(&mut received), Vec::<String>::new());
        courier.up();
        assert_eq!(sent(&mut received), ["later"]);
    }

    #[test]
    fn whatever_is_told_before_the_connection_is_up_is_acknowledged_when_it_is() {
        let (link, mut received) = mpsc::channel(1000);
        let mut courier = Courier::new(link);
        let many = 3 * u16::try_from(HELD_MAX).unwrap();
        let tell = |courier: &mut Courier, packet| {
            courier.tell(vec![message("refused"), message("why")], Some(AckToken { epoch: 1, packet }));
        };
        (1..=many).for_each(|packet| tell(&mut courier, packet));
        assert_eq!(sent(&mut received), Vec::<String>::new());
        courier.up();
        let told = (1..=many).flat_map(|packet| ["refused".to_owned(), "why".to_owned(), format!("ack {packet}")]);
        assert_eq!(sent(&mut received), told.collect::<Vec<_>>());
        courier.down();
        tell(&mut courier, 1);
        courier.down();
        courier.up();
        assert_eq!(sent(&mut received), Vec::<String>::new(), "the broker sends it again");
    }

    #[test]
    fn what_is_held_or_waits_has_a_limit_and_what_is_dropped_is_counted() {
        let (link, _received) = mpsc::channel(1);
        let mut courier = Courier::new(link);
        (0..HELD_MAX + 2).for_each(|_| courier.publish(message("held")));
        assert_eq!(courier.dropped(), 2);
        courier.up();
        (0..WAITING_MAX).for_each(|_| courier.publish(message("state")));
        assert_eq!(courier.waiting.len(), WAITING_MAX);
        assert!(courier.dropped() > 2);
    }

    #[test]
    fn large_replies_that_nobody_takes_have_a_limit_by_their_bytes() {
        let (link, mut received) = mpsc::channel(1);
        let mut courier = Courier::new(link);
        courier.up();
        let reply = || Publish { body: vec![0; BYTES_MAX / 4], ..message("reply") };
        (0..20).for_each(|_| courier.publish(reply()));
        // One is with the link; those that wait may pass the limit by one.
        assert_eq!((courier.waiting.len(), courier.dropped()), (5, 14));
        assert!(received.try_recv().is_ok());
        courier.flush();
        courier.publish(reply());
        assert_eq!(courier.waiting.len(), 5, "room again");
    }

    #[test]
    fn an_ack_waits_for_one_message_at_most_and_messages_get_their_turn_in_a_flood_of_acks() {
        let (link, mut received) = mpsc::channel(1);
        let mut courier = Courier::new(link);
        courier.up();
        for topic in ["first", "second", "third"] {
            courier.publish(message(topic));
        }
        for packet in 1..=4 {
            courier.ack(AckToken { epoch: 1, packet });
        }
        let mut order = Vec::new();
        for _ in 0..7 {
            order.extend(sent(&mut received));
            courier.flush();
        }
        assert_eq!(order, ["first", "ack 1", "second", "ack 2", "third", "ack 3", "ack 4"]);
        assert!(!courier.is_waiting());
    }
}
