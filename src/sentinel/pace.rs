//! How often may the sentinel wake, and how often may it speak?
//!
//! Pure. Limits that protect the RAN's cores from a thread of high priority, and the report queue from chatter.

use std::time::Duration;

use crate::governor::Reason;
use crate::load::fusion::FusedLoad;
use crate::units::Instant;

/// Span over which wakes are counted.
const FLOOD_SPAN: Duration = Duration::from_millis(100);
/// Most wakes in one span: 20 000 a second, twenty times what a slot-by-slot source of 1 ms gives.
const FLOOD_WAKES_MAX: u32 = 2000;

/// Notices that something wakes the sentinel without end.
#[derive(Debug, Default)]
pub(super) struct Flood {
    begin: Instant,
    wakes: u32,
}

impl Flood {
    /// Counts a wake. True when there are too many: rest a moment, so that a broken or hostile sender cannot take a
    /// core for itself.
    pub(super) fn on_wake(&mut self, now: Instant) -> bool {
        if now.since(self.begin) >= FLOOD_SPAN {
            *self = Self { begin: now, wakes: 0 };
        }
        self.wakes = self.wakes.saturating_add(1);
        self.wakes > FLOOD_WAKES_MAX
    }
}

/// Shortest time between two load reports without a jump.
const LOAD_GAP: Duration = Duration::from_millis(100);
/// A change of the level that is reported at once, in permille.
const LOAD_JUMP_PERMILLE: u16 = 50;

/// Picks the loads worth a report.
#[derive(Debug, Default)]
pub(super) struct LoadPace(Option<(Instant, FusedLoad)>);

impl LoadPace {
    /// Whether to report this load; if so, the next is compared with it.
    pub(super) fn admit(&mut self, now: Instant, load: FusedLoad) -> bool {
        let due = match self.0 {
            None => true,
            Some((last, reported)) => now.since(last) >= LOAD_GAP || jumped(reported, load),
        };
        if due {
            self.0 = Some((now, load));
        }
        due
    }
}

fn jumped(reported: FusedLoad, load: FusedLoad) -> bool {
    match (reported, load) {
        (FusedLoad::Level(_, before), FusedLoad::Level(_, after)) => {
            before.permille().abs_diff(after.permille()) >= LOAD_JUMP_PERMILLE
        }
        (before, after) => std::mem::discriminant(&before) != std::mem::discriminant(&after),
    }
}

/// Shortest time after a mode report before one is sent for the reason alone.
const REASON_GAP: Duration = Duration::from_secs(1);

/// Picks the reasons worth a report while mode and budget stay.
#[derive(Debug)]
pub(super) struct ReasonPace {
    last: Instant,
    reported: Reason,
}

impl ReasonPace {
    /// With the first report.
    pub(super) fn new(now: Instant, reported: Reason) -> Self {
        Self { last: now, reported }
    }

    /// A mode was reported.
    pub(super) fn on_mode(&mut self, now: Instant, reason: Reason) {
        *self = Self::new(now, reason);
    }

    /// Whether to report again because the kind of reason is another one.
    pub(super) fn admit(&mut self, now: Instant, reason: Reason) -> bool {
        let other = std::mem::discriminant(&self.reported) != std::mem::discriminant(&reason);
        let due = other && now.since(self.last) >= REASON_GAP;
        if due {
            self.on_mode(now, reason);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{SourceId, Utilization};

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn level(permille: u16) -> FusedLoad {
        FusedLoad::Level(SourceId(0), Utilization::from_permille(permille).unwrap())
    }

    #[test]
    fn a_source_of_one_sample_a_millisecond_is_no_flood_and_an_endless_one_is() {
        let mut flood = Flood::default();
        assert!((0..10_000).all(|ms| !flood.on_wake(at(ms))));
        let mut flood = Flood::default();
        assert!((0..2000).all(|_| !flood.on_wake(at(1000))));
        assert!(flood.on_wake(at(1099)));
        assert!(!flood.on_wake(at(1100)), "each span begins anew");
    }

    #[test]
    fn loads_are_reported_ten_times_a_second_and_at_every_jump() {
        let mut pace = LoadPace::default();
        let reported: Vec<_> = (0..1000).filter(|ms| pace.admit(at(*ms), level(100))).collect();
        assert_eq!(reported, [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]);
        assert!(!pace.admit(at(901), level(149)));
        assert!(pace.admit(at(902), level(150)));
        assert!(pace.admit(at(903), level(100)));
        assert!(pace.admit(at(904), FusedLoad::Unheard));
        assert!(!pace.admit(at(905), FusedLoad::Unheard));
    }

    #[test]
    fn a_new_reason_in_the_same_mode_is_reported_at_most_once_a_second() {
        let (late, malformed) = (Reason::Late(SourceId(0)), Reason::Malformed(SourceId(0)));
        let mut pace = ReasonPace::new(at(0), late);
        assert!(!pace.admit(at(5000), late));
        assert!(pace.admit(at(5001), malformed));
        assert!(!pace.admit(at(5002), late));
        assert!(!pace.admit(at(6000), late));
        assert!(pace.admit(at(6001), late));
    }
}
