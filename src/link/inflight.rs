//! Which acknowledgement belongs to which message? The client library does not say, so order tells.
//!
//! Publishes enter the library's request channel in our order and leave it in the same order, each with an event that
//! carries its packet id. One object lives for one connection; what it still holds at the end was not delivered.

use std::collections::{BTreeMap, VecDeque};

/// QoS 1 publishes on their way. A token is `None` when nobody waits for the answer.
#[derive(Clone, Debug, Default)]
pub struct Inflight {
    /// In the request channel, the oldest first.
    queued: VecDeque<Option<u64>>,
    /// Given a packet id that is still in use; the library holds it until that id is free.
    stashed: Option<(u16, Option<u64>)>,
    /// Sent, not acknowledged.
    flying: BTreeMap<u16, Option<u64>>,
}

/// The library said something that does not fit what we sent: the connection is to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet id {0} was never given to a message")]
pub struct Unmatched(pub u16);

impl Inflight {
    /// Messages that are queued, stashed or flying.
    pub fn len(&self) -> usize {
        self.queued.len() + usize::from(self.stashed.is_some()) + self.flying.len()
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A publish entered the request channel.
    pub fn enqueue(&mut self, token: Option<u64>) {
        self.queued.push_back(token);
    }

    /// The library sent a QoS 1 publish with this packet id.
    ///
    /// # Errors
    /// When none was waiting to be sent.
    pub fn published(&mut self, packet: u16) -> Result<(), Unmatched> {
        if self.flying.contains_key(&packet) {
            return Ok(());
        }
        let token = match self.stashed {
            Some((stashed, token)) if stashed == packet => {
                self.stashed = None;
                token
            }
            Some(_) | None => self.queued.pop_front().ok_or(Unmatched(packet))?,
        };
        self.flying.insert(packet, token);
        Ok(())
    }

    /// The library holds a publish back because its packet id is still in use.
    ///
    /// # Errors
    /// When none was waiting to be sent, or one is held back already.
    pub fn stash(&mut self, packet: u16) -> Result<(), Unmatched> {
        if self.stashed.is_some() {
            return Err(Unmatched(packet));
        }
        let token = self.queued.pop_front().ok_or(Unmatched(packet))?;
        self.stashed = Some((packet, token));
        Ok(())
    }

    /// The broker answered the publish with this packet id: its token.
    ///
    /// # Errors
    /// When no such publish is flying.
    pub fn acknowledged(&mut self, packet: u16) -> Result<Option<u64>, Unmatched> {
        self.flying.remove(&packet).ok_or(Unmatched(packet))
    }
}

/// QoS 1 messages received and not acknowledged by us, in the order they came, and whether the owner is done with them.
///
/// The owner finishes messages in any order; PUBACKs must go in the order of the messages (MQTT-4.6.0-2), and brokers
/// that hold us to it close the connection.
#[derive(Clone, Debug, Default)]
pub struct Unacknowledged {
    messages: VecDeque<Unfinished>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Unfinished {
    packet: u16,
    bytes: usize,
    is_done: bool,
}

impl Unacknowledged {
    /// A message of so many bytes arrived; `false` when there are `max` already.
    pub fn received(&mut self, packet: u16, bytes: usize, max: usize) -> bool {
        if self.messages.iter().any(|known| known.packet == packet) {
            return true;
        }
        let fits = self.messages.len() < max;
        if fits {
            self.messages.push_back(Unfinished { packet, bytes, is_done: false });
            self.bytes += bytes;
        }
        fits
    }

    /// Messages that are not acknowledged.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all are acknowledged.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The owner is done with this one: gives the messages that may be acknowledged now, in their order. None when an
    /// earlier one is still waited for, or this one did not arrive or was acknowledged before.
    pub fn done(&mut self, packet: u16) -> Vec<u16> {
        if let Some(known) = self.messages.iter_mut().find(|known| known.packet == packet) {
            known.is_done = true;
        }
        let count = self.messages.iter().take_while(|known| known.is_done).count();
        let done: Vec<Unfinished> = self.messages.drain(..count).collect();
        self.bytes -= done.iter().map(|known| known.bytes).sum::<usize>();
        done.into_iter().map(|known| known.packet).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The part of the library that gives packet ids, and a broker that answers in any order.
    #[derive(Default)]
    struct Fake {
        ids: u16,
        last: u16,
        channel: VecDeque<u64>,
        sent: BTreeMap<u16, u64>,
        collision: Option<(u16, u64)>,
    }

    enum Said {
        Published(u16),
        AwaitAck(u16),
    }

    impl Fake {
        /// Takes the next request, unless every id is in use or one is held back.
        fn step(&mut self) -> Option<Said> {
            if self.collision.is_some() || self.sent.len() >= usize::from(self.ids) {
                return None;
            }
            let message = self.channel.pop_front()?;
            self.last = self.last % self.ids + 1;
            if self.sent.contains_key(&self.last) {
                self.collision = Some((self.last, message));
                return Some(Said::AwaitAck(self.last));
            }
            self.sent.insert(self.last, message);
            Some(Said::Published(self.last))
        }

        /// The broker answers the `pick`th message it has: id, message, and what is sent in its place.
        fn answer(&mut self, pick: usize) -> Option<(u16, u64, Option<Said>)> {
            let packet = *self.sent.keys().nth(pick % self.sent.len().max(1))?;
            let message = self.sent.remove(&packet)?;
            let next = match self.collision {
                Some((stashed, waiting)) if stashed == packet => {
                    self.collision = None;
                    self.sent.insert(packet, waiting);
                    Some(Said::Published(packet))
                }
                Some(_) | None => None,
            };
            Some((packet, message, next))
        }
    }

    fn hear(inflight: &mut Inflight, said: &Said) {
        match said {
            Said::Published(packet) => inflight.published(*packet).unwrap(),
            Said::AwaitAck(packet) => inflight.stash(*packet).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn every_answer_finds_its_message(
            ids in 1_u16..6,
            steps in prop::collection::vec((0_u8..3, any::<u8>()), 0..200),
        ) {
            let mut fake = Fake { ids, ..Fake::default() };
            let mut inflight = Inflight::default();
            let (mut next, mut answered) = (0_u64, BTreeSet::new());
            for (step, pick) in steps {
                match step {
                    0 => {
                        fake.channel.push_back(next);
                        inflight.enqueue(Some(next));
                        next += 1;
                    }
                    1 => if let Some(said) = fake.step() { hear(&mut inflight, &said) },
                    _ => if let Some((packet, message, sent)) = fake.answer(pick.into()) {
                        prop_assert_eq!(inflight.acknowledged(packet), Ok(Some(message)));
                        prop_assert!(answered.insert(message));
                        if let Some(said) = sent { hear(&mut inflight, &said) }
                    },
                }
                let outside = fake.channel.len() + fake.sent.len() + usize::from(fake.collision.is_some());
                prop_assert_eq!(inflight.len(), outside);
            }
        }
    }

    #[test]
    fn an_answer_to_nothing_is_an_error() {
        let mut inflight = Inflight::default();
        assert_eq!(inflight.acknowledged(1), Err(Unmatched(1)));
        assert_eq!(inflight.published(1), Err(Unmatched(1)));
        assert_eq!(inflight.stash(1), Err(Unmatched(1)));
    }

    #[test]
    fn a_received_message_is_acknowledged_once() {
        let mut unacknowledged = Unacknowledged::default();
        assert!(unacknowledged.received(7, 10, 1));
        assert!(unacknowledged.received(7, 10, 1), "a repetition is the same message");
        assert!(!unacknowledged.received(8, 10, 1));
        assert_eq!(unacknowledged.bytes(), 10);
        assert_eq!(unacknowledged.done(7), [7]);
        assert_eq!(unacknowledged.bytes(), 0);
        assert!(unacknowledged.done(7).is_empty());
    }

    #[test]
    fn acknowledgements_go_in_the_order_of_the_messages_whatever_is_done_first() {
        let mut unacknowledged = Unacknowledged::default();
        (1..=4).for_each(|packet| assert!(unacknowledged.received(packet, 10, 4)));
        assert!(unacknowledged.done(3).is_empty());
        assert!(unacknowledged.done(2).is_empty());
        assert_eq!(unacknowledged.done(1), [1, 2, 3]);
        assert_eq!(unacknowledged.done(4), [4]);
    }
}
