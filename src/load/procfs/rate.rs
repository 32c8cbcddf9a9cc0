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
