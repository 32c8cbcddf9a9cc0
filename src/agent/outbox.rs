//! Which stored messages are on their way to the broker?
//!
//! The store's outbox is the only truth. A window of it is offered to the link; what the broker acknowledged is deleted
//! there, and whatever a lost connection left open is offered again after the next connect. Pure.

use std::collections::BTreeSet;

/// Messages on their way at once (the link's own window is the same size).
const WINDOW: usize = 16;

/// The window of offered messages.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    up: bool,
    reading: bool,
    /// The read under way was asked for before the last connect: its answer is of no use.
    outdated: bool,
    /// A message may have been stored since the last read was asked for.
    dirty: bool,
    last_offered: u64,
    flying: BTreeSet<u64>,
    delivered: Vec<u64>,
}

impl Outbox {
    /// Connected: everything undelivered is offered again, from the oldest.
    pub(super) fn up(&mut self) {
        self.up = true;
        self.dirty = true;
        self.outdated = self.reading;
        self.last_offered = 0;
        self.flying.clear();
    }

    /// Not connected.
    pub(super) fn down(&mut self) {
        self.up = false;
    }

    /// Something was stored.
    pub(super) fn stored(&mut self) {
        self.dirty = true;
    }

    /// What to read from the store now: everything after `.0`, at most `.1` messages.
    pub(super) fn wants(&mut self) -> Option<(u64, usize)> {
        let room = WINDOW.saturating_sub(self.flying.len());
        if !self.up || self.reading || !self.dirty || room == 0 {
            return None;
        }
        self.reading = true;
        self.dirty = false;
        Some((self.last_offered, room))
    }

    /// The store's answer; returns those to offer. Settled messages must have been deleted before the read was asked
    /// for, or they would be offered twice.
    pub(super) fn read<M>(&mut self, messages: Vec<(u64, M)>) -> Vec<(u64, M)> {
        self.reading = false;
        if !self.up || std::mem::take(&mut self.outdated) {
            self.dirty = true;
            return Vec::new();
        }
        for (seq, _) in &messages {
            self.last_offered = self.last_offered.max(*seq);
            self.flying.insert(*seq);
            self.dirty = true;
        }
        messages
    }

    /// The broker has it (or never will): it may be deleted.
    pub(super) fn settle(&mut self, seq: u64) {
        if self.flying.remove(&seq) {
            self.delivered.push(seq);
        }
        self.dirty = true;
    }

    /// Settled messages to delete, for the next batch.
    pub(super) fn take_settled(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.delivered)
    }

    /// How much is on its way or waits to be deleted.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.flying.len() + self.delivered.len()
    }

    /// Nothing stored waits to be sent or acknowledged, as far as is known.
    pub(super) fn is_idle(&self) -> bool {
        self.flying.is_empty() && !self.dirty && !self.reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(outbox: &mut Outbox, stored: &[u64]) -> Vec<u64> {
        let Some((after, max)) = outbox.wants() else { return Vec::new() };
        let found = stored.iter().filter(|seq| **seq > after).take(max).map(|seq| (*seq, ())).collect();
        outbox.read::<()>(found).into_iter().map(|(seq, ())| seq).collect()
    }

    #[test]
    fn nothing_is_offered_while_down() {
        let mut outbox = Outbox::default();
        outbox.stored();
        assert_eq!(outbox.wants(), None);
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
        assert!(outbox.read(vec![(4, ())]).is_empty());
        assert_eq!(offer(&mut outbox, &[1, 2, 3, 4]), vec![1, 2, 3, 4]);
    }
}
