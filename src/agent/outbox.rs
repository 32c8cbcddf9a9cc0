//! Which stored messages are on their way to the broker?
//!
//! The store's outbox is the only truth. A stretch of it is read ahead, because every read waits for the commits before
//! it; a window of that is offered to the link; what the broker acknowledged is deleted in the store, and whatever a
//! lost connection left open is offered again after the next connect. Pure.

use std::collections::{BTreeMap, VecDeque};

use crate::jobs::store::Message;

/// Messages on their way at once (the link's own window is the same size).
const WINDOW: usize = 16;
/// Bytes of them; a larger message goes alone.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Messages read at once, when fewer than a window are left of the last read.
const READ: usize = 4 * WINDOW;

/// The window of offered messages, and what is behind it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    up: bool,
    reading: bool,
    /// The read under way was asked for before the last connect: its answer is of no use.
    outdated: bool,
    /// A message may have been stored since the last read was asked for.
    dirty: bool,
    last_read: u64,
    ready: VecDeque<(u64, Message)>,
    /// Sizes of the messages on their way, by sequence number.
    flying: BTreeMap<u64, usize>,
    delivered: Vec<u64>,
}

impl Outbox {
    /// Connected: everything undelivered is offered again, from the oldest.
    pub(super) fn up(&mut self) {
        self.up = true;
        self.dirty = true;
        self.outdated = self.reading;
        self.last_read = 0;
        self.ready.clear();
        self.flying.clear();
    }

    /// Not connected.
    pub(super) fn down(&mut self) {
        self.up = false;
        self.ready.clear();
    }

    /// Something was stored.
    pub(super) fn stored(&mut self) {
        self.dirty = true;
    }

    /// What to read from the store now: everything after `.0`, at most `.1` messages.
    pub(super) fn wants(&mut self) -> Option<(u64, usize)> {
        if !self.up || self.reading || !self.dirty || self.ready.len() >= WINDOW {
            return None;
        }
        self.reading = true;
        self.dirty = false;
        Some((self.last_read, READ))
    }

    /// The store's answer. Settled messages must have been deleted before the read was asked for, or they would be
    /// offered twice.
    pub(super) fn read(&mut self, messages: Vec<(u64, Message)>) {
        self.reading = false;
        if !self.up || std::mem::take(&mut self.outdated) {
            self.dirty = true;
            return;
        }
        if let Some((last, _)) = messages.last() {
            self.last_read = *last;
            // There may be more.
            self.dirty = true;
        }
        self.ready.extend(messages);
    }

    /// The next message to offer, if there is one and the window has room for it.
    pub(super) fn next(&mut self) -> Option<(u64, Message)> {
        let bytes = self.ready.front()?.1.body.len();
        let flying: usize = self.flying.values().sum();
        let has_room = self.flying.len() < WINDOW && flying.saturating_add(bytes) <= WINDOW_BYTES;
        if !self.up || !(has_room || self.flying.is_empty()) {
            return None;
        }
        let (seq, message) = self.ready.pop_front()?;
        self.flying.insert(seq, bytes);
        Some((seq, message))
    }

    /// The broker has it (or never will): it may be deleted.
    pub(super) fn settle(&mut self, seq: u64) {
        if self.flying.remove(&seq).is_some() {
            self.delivered.push(seq);
        }
    }

    /// Settled messages to delete, for the next batch.
    pub(super) fn take_settled(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.delivered)
    }

    /// Nothing stored waits to be sent or acknowledged, as far as is known.
    pub(super) fn is_idle(&self) -> bool {
        self.flying.is_empty() && self.ready.is_empty() && !self.dirty && !self.reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::WallTime;

    fn message(bytes: usize) -> Message {
        Message {
            topic: "t".to_owned(),
            body: vec![0; bytes],
            expiry_s: None,
            properties: Vec::new(),
            queued: WallTime::from_millis(0),
        }
    }

    /// Reads what is wanted from the store, and offers what may be.
    fn offer(outbox: &mut Outbox, stored: &[u64]) -> Vec<u64> {
        offer_of(outbox, stored, 1)
    }

    fn offer_of(outbox: &mut Outbox, stored: &[u64], bytes: usize) -> Vec<u64> {
        if let Some((after, max)) = outbox.wants() {
            let found = stored.iter().filter(|seq| **seq > after).take(max).map(|seq| (*seq, message(bytes)));
            outbox.read(found.collect());
        }
        std::iter::from_fn(|| outbox.next()).map(|(seq, _)| seq).collect()
    }

    #[test]
    fn nothing_is_offered_while_down() {
        let mut outbox = Outbox::default();
        outbox.stored();
        assert_eq!(outbox.wants(), None);
        outbox.up();
        assert!(outbox.wants().is_some());
        outbox.read(vec![(1, message(1))]);
        outbox.down();
        assert!(outbox.next().is_none());
    }

    #[test]
    fn the_window_bounds_what_is_on_its_way() {
        let mut outbox = Outbox::default();
        outbox.up();
        let stored: Vec<u64> = (1..=40).collect();
        assert_eq!(offer(&mut outbox, &stored), (1..=16).collect::<Vec<_>>());
        assert_eq!(offer(&mut outbox, &stored), Vec::<u64>::new());
        outbox.settle(1);
        assert_eq!(offer(&mut outbox, &stored), vec![17]);
    }

    #[test]
    fn large_messages_share_a_smaller_window_and_the_largest_goes_alone() {
        let mut outbox = Outbox::default();
        outbox.up();
        assert_eq!(offer_of(&mut outbox, &[1, 2, 3, 4], WINDOW_BYTES / 3), vec![1, 2, 3]);
        outbox.settle(2);
        assert_eq!(offer(&mut outbox, &[]), vec![4]);
        let mut outbox = Outbox::default();
        outbox.up();
        assert_eq!(offer_of(&mut outbox, &[1, 2], 4 * WINDOW_BYTES), vec![1]);
        outbox.settle(1);
        assert_eq!(offer(&mut outbox, &[]), vec![2]);
    }

    #[test]
    fn many_messages_need_few_reads() {
        let mut outbox = Outbox::default();
        outbox.up();
        let stored: Vec<u64> = (1..=1_000).collect();
        let (mut reads, mut arrived) = (0, Vec::new());
        while arrived.len() < stored.len() {
            if let Some((after, max)) = outbox.wants() {
                reads += 1;
                let found = stored.iter().filter(|seq| **seq > after).take(max).map(|seq| (*seq, message(1)));
                outbox.read(found.collect());
            }
            while outbox.next().is_some() {}
            let oldest = *outbox.flying.keys().next().expect("something is on its way");
            outbox.settle(oldest);
            arrived.extend(outbox.take_settled());
        }
        assert_eq!(arrived, stored, "in order, each once");
        assert!(reads <= stored.len() / 48 + 2, "{reads} reads");
    }

    #[test]
    fn a_lost_connection_offers_the_undelivered_again() {
        let mut outbox = Outbox::default();
        outbox.up();
        assert_eq!(offer(&mut outbox, &[1, 2]), vec![1, 2]);
        outbox.settle(1);
        assert_eq!(outbox.take_settled(), vec![1]);
        outbox.down();
        outbox.up();
        assert_eq!(offer(&mut outbox, &[2]), vec![2]);
        outbox.settle(2);
        assert_eq!(offer(&mut outbox, &[]), Vec::<u64>::new());
        assert!(outbox.is_idle());
    }

    #[test]
    fn a_read_from_before_the_connect_is_not_used() {
        let mut outbox = Outbox::default();
        outbox.up();
        assert_eq!(offer(&mut outbox, &[1, 2, 3]), vec![1, 2, 3]);
        assert!(outbox.wants().is_some());
        outbox.down();
        outbox.up();
        outbox.read(vec![(4, message(1))]);
        assert!(outbox.next().is_none());
        assert_eq!(offer(&mut outbox, &[1, 2, 3, 4]), vec![1, 2, 3, 4]);
    }
}
