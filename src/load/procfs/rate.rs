//! What share of its cores does a running total of CPU time mean? Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::{Instant, Utilization};

/// Length of the longer of the two windows. A core without its tick (`nohz_full`) accounts the run time of a thread
/// that never sleeps once a second: a shorter window would find it idle nine times out of ten.
pub const LONG_WINDOW: Duration = Duration::from_millis(1200);

/// Most samples kept: enough for the long window at the shortest period.
const SAMPLES_MAX: usize = 32;

/// Turns a running total of CPU time into levels.
#[derive(Clone, Debug)]
pub struct Rate {
    cores: usize,
    samples: VecDeque<(Instant, i128)>,
}

impl Rate {
    /// For that many cores; at least one.
    pub fn new(cores: usize) -> Self {
        Self { cores: cores.max(1), samples: VecDeque::with_capacity(SAMPLES_MAX) }
    }

    /// Cores that are 100 %.
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// The level at `at` by the total so far, in nanoseconds: the higher share of the last period and of the last
    /// [`LONG_WINDOW`], rounded up. `None` for the first total and when no time has passed.
    ///
    /// The total may go down a little where something is subtracted from it.
    pub fn level(&mut self, at: Instant, busy_ns: i128) -> Option<Utilization> {
        let last = self.samples.back().copied();
        if last.is_some_and(|(last, _)| at <= last) {
            return None;
        }
        // The oldest one kept is the youngest that is as old as the window, if there is one.
        while self.samples.get(1).is_some_and(|(next, _)| at.since(*next) >= LONG_WINDOW) {
            self.samples.pop_front();
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        let first = self.samples.front().copied();
        self.samples.push_back((at, busy_ns));
        let share = |(from, base): (Instant, i128)| self.share(at.since(from), busy_ns - base);
        Some(share(last?).max(share(first?)))
    }

    fn share(&self, span: Duration, busy_ns: i128) -> Utilization {
        let cores = i128::try_from(self.cores).unwrap_or(i128::MAX);
        let available = i128::try_from(span.as_nanos()).unwrap_or(i128::MAX).saturating_mul(cores).max(1);
        let permille = (busy_ns.max(0).saturating_mul(1000).saturating_add(available - 1)) / available;
        u16::try_from(permille).ok().and_then(Utilization::from_permille).unwrap_or(Utilization::FULL)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_core_without_a_tick_that_accounts_once_a_second_is_not_taken_for_idle() {
        let mut rate = Rate::new(1);
        let mut levels = Vec::new();
        for look in 0..40_u64 {
            let accounted_ns = i128::from(look / 10) * 1_000_000_000;
            levels.push(rate.level(Instant::from_nanos(look * 100_000_000), accounted_ns));
        }
        let after_first = &levels[11..];
        assert!(after_first.iter().all(|level| level.unwrap().permille() >= 800), "{after_first:?}");
    }

    #[test]
    fn a_rise_shows_in_the_first_period() {
        let mut rate = Rate::new(2);
        for look in 0..20 {
            rate.level(Instant::from_nanos(look * 100_000_000), 0);
        }
        assert_eq!(rate.level(Instant::from_nanos(2_000_000_000), 100_000_000), Utilization::from_permille(500));
    }

    #[test]
    fn time_that_stands_still_gives_no_level() {
        let mut rate = Rate::new(1);
        let now = Instant::from_nanos(7);
        assert_eq!((rate.level(now, 0), rate.level(now, 5), rate.level(Instant::from_nanos(6), 5)), (None, None, None));
    }

    proptest! {
        #[test]
        fn a_level_is_never_below_the_share_of_the_last_period(
            cores in 1..8_usize,
            steps in proptest::collection::vec((1..3_000_000_000_u64, -20_000_000..4_000_000_000_i64), 2..80),
        ) {
            let mut rate = Rate::new(cores);
            let (mut at, mut total) = (0, 0_i128);
            let mut first = true;
            for (span, busy) in steps {
                at += span;
                total += i128::from(busy);
                let level = rate.level(Instant::from_nanos(at), total);
                if std::mem::take(&mut first) {
                    prop_assert_eq!(level, None);
                    continue;
                }
                let share = (busy.max(0) as f64 / (span as f64 * cores as f64)).min(1.0);
                prop_assert!(f64::from(level.unwrap().permille()) >= share * 1000.0 - 1e-6);
            }
        }
    }
}
