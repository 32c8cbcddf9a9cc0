//! Which stored messages are on their way to the broker?
//!
//! The store's outbox is the only truth. A window of it is offered to the link; what the broker acknowledged is deleted
//! there, and whatever a lost connection left open is offered again after the next connect. Pure.
//!
//! The store hands over what it has just made durable, so that nothing is read back that was in memory a moment ago. Only
//! when something older is still to be offered, or the window is full, is it read from the store later, in its order.
//! What was delivered is deleted with the next commit that comes by, or a little later by itself: a crash before that
//! sends it twice, which receivers must expect anyway.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::units::Instant;

/// Messages on their way at once (the link's own window is the same size).
const WINDOW: usize = 64;
/// Delivered messages are deleted after this time at the latest, when nothing else is committed.
const DELETE_AFTER: Duration = Duration::from_millis(100);
/// And when they are so many.
const DELETE_MAX: usize = 4 * WINDOW;

/// The window of offered messages.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    up: bool,
    /// The read under way asked for so many.
    reading: Option<usize>,
    /// The read under way was asked for before the last connect: its answer is of no use.
    outdated: bool,
    /// There may be stored messages behind the last one offered.
    dirty: bool,
    /// Commits whose messages have been handed over already.
    covered: usize,
    last_offered: u64,
    flying: BTreeSet<u64>,
    delivered: Vec<u64>,
    /// Since when the first of them waits to be deleted.
    delivered_since: Option<Instant>,
}

impl Outbox {
    /// Connected: everything undelivered is offered again, from the oldest.
    pub(super) fn up(&mut self) {
        self.up = true;
        self.dirty = true;
        self.outdated = self.reading.is_some();
        self.last_offered = 0;
        self.covered = 0;
        self.flying.clear();
    }

    /// Not connected.
    pub(super) fn down(&mut self) {
        self.up = false;
    }

    /// A commit is durable. It may have stored something that was not handed over.
    pub(super) fn stored(&mut self) {
        match self.covered {
            0 => self.dirty = true,
            _ => self.covered -= 1,
        }
    }

    /// The store hands over the messages of so many commits that it will tell of next; returns those to offer.
    pub(super) fn handed_over<M>(&mut self, commits: usize, messages: Vec<(u64, M)>) -> Vec<(u64, M)> {
        self.covered += commits;
        let has_room = self.flying.len() + messages.len() <= WINDOW;
        if self.up && !self.dirty && self.reading.is_none() && has_room {
            return self.offer(messages);
        }
        // A read that is under way was asked for before, and may or may not bring them.
        self.dirty |= !messages.is_empty();
        Vec::new()
    }

    /// The store has messages that it does not hand over.
    pub(super) fn kept(&mut self) {
        self.dirty = true;
    }

    /// What to read from the store now: everything after `.0`, at most `.1` messages. Settled messages must be deleted
    /// before, or they would be offered twice.
    pub(super) fn wants(&mut self) -> Option<(u64, usize)> {
        if !self.wants_to_read() {
            return None;
        }
        let room = WINDOW - self.flying.len();
        self.reading = Some(room);
        self.dirty = false;
        Some((self.last_offered, room))
    }

    /// Whether [`Outbox::wants`] has something to ask for.
    pub(super) fn wants_to_read(&self) -> bool {
        self.up && self.dirty && self.reading.is_none() && self.flying.len() < WINDOW
    }

    /// The store's answer; returns those to offer.
    pub(super) fn read<M>(&mut self, messages: Vec<(u64, M)>) -> Vec<(u64, M)> {
        let asked = self.reading.take().unwrap_or(0);
        if !self.up || std::mem::take(&mut self.outdated) {
            self.dirty = true;
            return Vec::new();
        }
        self.dirty |= messages.len() >= asked;
        self.offer(messages)
    }

    fn offer<M>(&mut self, messages: Vec<(u64, M)>) -> Vec<(u64, M)> {
        for (seq, _) in &messages {
            self.last_offered = self.last_offered.max(*seq);
            self.flying.insert(*seq);
        }
        messages
    }

    /// The broker has it (or never will): it may be deleted.
    pub(super) fn settle(&mut self, seq: u64) {
        if self.flying.remove(&seq) {
            self.delivered.push(seq);
        }
    }

    /// Whether settled messages are to be deleted now, though nothing else is committed.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.delivered.is_empty() {
            return false;
        }
        let since = *self.delivered_since.get_or_insert(now);
        now.since(since) >= DELETE_AFTER || self.delivered.len() >= DELETE_MAX
    }

    /// When [`Outbox::is_due`] has something at the latest, as time from now.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.delivered_since.map(|since| since.after(DELETE_AFTER).since(now))
    }

    /// Settled messages to delete, for the next batch.
    pub(super) fn take_settled(&mut self) -> Vec<u64> {
        self.delivered_since = None;
        std::mem::take(&mut self.delivered)
    }

    /// How much is on its way or waits to be deleted.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.flying.len() + self.delivered.len()
    }

    /// Nothing stored waits to be sent, acknowledged or deleted, as far as is known.
    pub(super) fn is_idle(&self) -> bool {
        self.flying.is_empty() && self.delivered.is_empty() && !self.dirty && self.reading.is_none()
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
        let stored: Vec<u64> = (1..=200).collect();
        assert_eq!(offer(&mut outbox, &stored), (1..=64).collect::<Vec<_>>());
        assert_eq!(offer(&mut outbox, &stored), Vec::<u64>::new());
        outbox.settle(1);
        assert_eq!(offer(&mut outbox, &stored), vec![65]);
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
        assert!(!outbox.is_idle(), "one is to be deleted");
        assert_eq!(outbox.take_settled(), vec![2]);
        assert!(outbox.is_idle());
    }

    #[test]
    fn a_read_from_before_the_connect_is_not_used() {
        let mut outbox = Outbox::default();
        outbox.up();
        assert_eq!(offer(&mut outbox, &[1, 2, 3]), vec![1, 2, 3]);
        outbox.stored();
        assert!(outbox.wants().is_some());
        outbox.down();
        outbox.up();
        assert!(outbox.read(vec![(4, ())]).is_empty());
        assert_eq!(offer(&mut outbox, &[1, 2, 3, 4]), vec![1, 2, 3, 4]);
    }

    fn hand_over(outbox: &mut Outbox, seqs: std::ops::RangeInclusive<u64>) -> Vec<u64> {
        let messages = seqs.map(|seq| (seq, ())).collect();
        let offered = outbox.handed_over(1, messages).into_iter().map(|(seq, ())| seq).collect();
        outbox.stored();
        offered
    }

    #[test]
    fn what_is_handed_over_goes_out_at_once_and_is_not_read_back() {
        let mut outbox = Outbox::default();
        outbox.up();
        assert_eq!(offer(&mut outbox, &[]), Vec::<u64>::new());
        assert_eq!(hand_over(&mut outbox, 1..=2), [1, 2]);
        assert_eq!(hand_over(&mut outbox, 3..=3), [3]);
        assert!(!outbox.wants_to_read());
        outbox.stored();
        assert_eq!(offer(&mut outbox, &[1, 2, 3, 4]), [4], "of one commit nothing was handed over");
    }

    #[test]
    fn nothing_overtakes_what_is_still_in_the_store() {
        let mut outbox = Outbox::default();
        outbox.up();
        assert_eq!(hand_over(&mut outbox, 3..=4), Vec::<u64>::new(), "nobody has looked for older ones yet");
        assert_eq!(outbox.wants(), Some((0, 64)));
        assert_eq!(hand_over(&mut outbox, 5..=5), Vec::<u64>::new(), "a read is under way");
        assert_eq!(outbox.read((1..=4).map(|seq| (seq, ())).collect()).len(), 4);
        assert_eq!(offer(&mut outbox, &[1, 2, 3, 4, 5]), [5]);
        assert_eq!(hand_over(&mut outbox, 6..=100), Vec::<u64>::new(), "too many for the window");
        assert_eq!(hand_over(&mut outbox, 101..=101), Vec::<u64>::new(), "it has to wait for those");
        let stored: Vec<u64> = (1..=101).collect();
        assert_eq!(offer(&mut outbox, &stored), (6..=64).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_handed_over_is_read_before_anything_newer_goes_out() {
        let mut outbox = Outbox::default();
        outbox.up();
        assert_eq!(offer(&mut outbox, &[]), Vec::<u64>::new());
        // Their commits were told of long ago, while the disk refused.
        outbox.kept();
        assert_eq!(hand_over(&mut outbox, 3..=3), Vec::<u64>::new());
        assert_eq!(offer(&mut outbox, &[1, 2, 3]), [1, 2, 3]);
    }

    #[test]
    fn what_was_delivered_is_deleted_soon_and_not_at_once() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut outbox = Outbox::default();
        outbox.up();
        assert_eq!(offer(&mut outbox, &[1, 2]), [1, 2]);
        outbox.settle(1);
        assert!(!outbox.is_due(at(0)) && !outbox.is_due(at(99)) && !outbox.is_idle());
        assert_eq!(outbox.next(at(40)), Some(Duration::from_millis(60)));
        assert!(outbox.is_due(at(100)));
        assert_eq!((outbox.take_settled(), outbox.next(at(100))), (vec![1], None));
    }
}
