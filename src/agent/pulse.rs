//! May the service manager be told that the agent is well? Only when everything that must move has moved.
//!
//! The control loop asks, so it moves by asking. Link and sentinel are counted: a beat is due a third of the watchdog's
//! time after the last one, and is given when both have moved since. Whoever stands makes the beats stop, and the
//! service manager restart the agent, with all its workers.

use std::time::Duration;

use crate::units::Instant;

/// A beat is given this many times within the watchdog's time.
const BEATS: u32 = 3;

/// How often parts of the agent have moved since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moves {
    /// Turns of the link's task.
    pub link: u64,
    /// Passes of the sentinel's thread.
    pub sentinel: u64,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Tell the service manager that all is well.
    Beat,
    /// Say once that these stand still; no beat until they move.
    Withhold {
        /// Whether the link has not moved.
        link: bool,
        /// Whether the sentinel has not moved.
        sentinel: bool,
    },
}

/// Gives beats as long as all move.
#[derive(Debug)]
pub(super) struct Pulse {
    every: Duration,
    due: Instant,
    seen: Moves,
    withheld: bool,
}

impl Pulse {
    /// A pulse for a watchdog that waits `limit` for a beat, from `now` on.
    pub(super) fn new(now: Instant, limit: Duration) -> Self {
        let every = limit / BEATS;
        Self { every, due: now.after(every), seen: Moves::default(), withheld: false }
    }

    /// Whether a beat is due: then is the time to ask the sentinel for a pass.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// How long from now until a beat is due.
    pub(super) fn due_in(&self, now: Instant) -> Duration {
        self.due.since(now)
    }

    /// Takes the counts of this moment. To be called in every turn of the control loop.
    pub(super) fn on_turn(&mut self, now: Instant, moves: Moves) -> Option<Word> {
        if !self.is_due(now) {
            return None;
        }
        let (link, sentinel) = (moves.link == self.seen.link, moves.sentinel == self.seen.sentinel);
        if !link && !sentinel {
            self.seen = moves;
            self.due = now.after(self.every);
            self.withheld = false;
            return Some(Word::Beat);
        }
        let first = !std::mem::replace(&mut self.withheld, true);
        first.then_some(Word::Withhold { link, sentinel })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn moves(link: u64, sentinel: u64) -> Moves {
        Moves { link, sentinel }
    }

    #[test]
    fn a_beat_is_given_three_times_in_the_watchdogs_time_while_all_move() {
        let mut pulse = Pulse::new(at(0), Duration::from_secs(15));
        let beats = (0..150).filter(|turn| pulse.on_turn(at(turn * 100), moves(*turn, *turn)).is_some()).count();
        assert_eq!(beats, 2, "at 5 s and 10 s");
        assert_eq!(pulse.on_turn(at(15_000), moves(1_000, 1_000)), Some(Word::Beat));
    }

    #[test]
    fn without_the_link_or_the_sentinel_there_is_no_beat_until_it_moves() {
        for (link, sentinel) in [(true, false), (false, true), (true, true)] {
            let mut pulse = Pulse::new(at(0), Duration::from_secs(3));
            assert_eq!(pulse.on_turn(at(1_000), moves(1, 1)), Some(Word::Beat));
            let stuck = |turn| moves(if link { 1 } else { turn }, if sentinel { 1 } else { turn });
            assert_eq!(pulse.on_turn(at(2_000), stuck(2)), Some(Word::Withhold { link, sentinel }));
            let more = (3..100).filter_map(|turn| pulse.on_turn(at(turn * 1_000), stuck(turn))).count();
            assert_eq!(more, 0, "said once");
            assert_eq!(pulse.on_turn(at(100_000), moves(200, 200)), Some(Word::Beat));
        }
    }

    #[test]
    fn the_beat_comes_as_soon_as_the_slow_one_has_moved() {
        let mut pulse = Pulse::new(at(0), Duration::from_secs(3));
        assert!(matches!(pulse.on_turn(at(1_000), moves(1, 0)), Some(Word::Withhold { link: false, sentinel: true })));
        assert!(pulse.is_due(at(1_001)));
        assert_eq!(pulse.on_turn(at(1_001), moves(1, 1)), Some(Word::Beat));
        assert_eq!(pulse.due_in(at(1_001)), Duration::from_secs(1));
    }

    proptest! {
        /// Between two beats both have moved, and beats are never closer than the interval.
        #[test]
        fn no_beat_without_moves(steps in prop::collection::vec((1_u64..2_000, any::<bool>(), any::<bool>()), 1..200)) {
            let mut pulse = Pulse::new(at(0), Duration::from_secs(3));
            let (mut now, mut counts, mut last) = (0, Moves::default(), (0, Moves::default()));
            for (ms, link, sentinel) in steps {
                now += ms;
                counts = moves(counts.link + u64::from(link), counts.sentinel + u64::from(sentinel));
                if pulse.on_turn(at(now), counts) == Some(Word::Beat) {
                    prop_assert!(now - last.0 >= 1_000);
                    prop_assert!(counts.link > last.1.link && counts.sentinel > last.1.sentinel);
                    last = (now, counts);
                } else {
                    let all = counts.link > last.1.link && counts.sentinel > last.1.sentinel;
                    prop_assert!(!(all && now - last.0 >= 1_000), "a beat was due at {now} ms");
                }
            }
        }
    }
}
