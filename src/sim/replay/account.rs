//! What came of a policy on a recording? The sums, and what each of them means.
//!
//! Times are sums over all nodes. Core time is time multiplied by the workers of the policy.

use std::time::Duration;

use super::Clock;
use super::foresee::Errors;
use super::plain::Curve;
use super::work::JobTotals;
use crate::governor::forecast::HORIZONS;
use crate::governor::{Mode, Policy};
use crate::units::{Instant, Utilization};

/// Hours of a day.
pub const HOURS: usize = 24;

/// Everything that is counted for one configuration.
#[derive(Clone, Debug)]
pub struct Totals {
    /// From the first to the last reading of each node.
    pub time: Duration,
    /// Core time of that: what there would be without a radio.
    pub core_time: Duration,
    /// Core time in which the load was known and below `busy_above`: what a policy can harvest at most.
    pub low: Duration,
    /// Core time that the governor granted.
    pub granted: Duration,
    /// Time with a budget while the last reading was at or above `busy_above`, or nothing was known. A promise: zero.
    pub overlap: Duration,
    /// Time with a budget while the load was at or above `busy_above` between two readings, had it been a straight line
    /// from one to the other. What a source that reports rarely cannot prevent.
    pub unseen: Duration,
    /// Time by mode, in the order of [`Mode::ALL`].
    pub modes: [Duration; Mode::ALL.len()],
    /// What the governor's budget did.
    pub runs: Runs,
    /// What a plain threshold at `busy_above` would have done: stop at or above it, start below it, both at once.
    pub plain: Runs,
    /// By the hour of the day.
    pub hours: [Hour; HOURS],
    /// What every other plain threshold would have done.
    pub curve: Curve,
    /// What became of the jobs.
    pub jobs: JobTotals,
    /// How far off the forecast was, in the order of [`HORIZONS`].
    pub errors: [Errors; HORIZONS.len()],
}

/// One hour of the day, over all days and nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hour {
    /// Core time.
    pub core_time: Duration,
    /// Of that below `busy_above`.
    pub low: Duration,
    /// Of that granted.
    pub granted: Duration,
}

/// How often it ran and stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Times the budget went from zero to more.
    pub starts: u64,
    /// Times it went back to zero: each is one yield, of whatever was running.
    pub yields: u64,
    /// Yields after which it stayed zero for longer than `evict_after`, so that work which was stopped is given up.
    pub evictions: u64,
    /// Longest span with a budget.
    pub longest: Duration,
}

/// Where one node stands in that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Running {
    since: Option<Instant>,
    stopped: Option<Instant>,
}

impl Running {
    /// Takes in whether it runs from now on; whether that was a yield.
    pub(super) fn change(&mut self, now: Instant, runs: bool, evict_after: Duration, into: &mut Runs) -> bool {
        match (self.since, runs) {
            (None, true) => {
                self.settle(now, evict_after, into);
                self.since = Some(now);
                into.starts += 1;
                false
            }
            (Some(since), false) => {
                into.longest = into.longest.max(now.since(since));
                (self.since, self.stopped) = (None, Some(now));
                into.yields += 1;
                true
            }
            (None, false) | (Some(_), true) => false,
        }
    }

    /// The recording ends.
    pub(super) fn end(&mut self, now: Instant, evict_after: Duration, into: &mut Runs) {
        if let Some(since) = self.since.take() {
            into.longest = into.longest.max(now.since(since));
        }
        self.settle(now, evict_after, into);
    }

    /// When it began to run, if it runs.
    pub(super) const fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether the last stop has become an eviction.
    fn settle(&mut self, now: Instant, evict_after: Duration, into: &mut Runs) {
        let evicted = self.stopped.take().is_some_and(|stopped| now.since(stopped) > evict_after);
        into.evictions += u64::from(evicted);
    }
}

/// A span in which nothing changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from: Instant,
    pub(super) to: Instant,
    pub(super) budget: u8,
    pub(super) mode: Mode,
    /// `None`: not known.
    pub(super) level: Option<Utilization>,
}

impl Totals {
    pub(super) fn new(streams: usize) -> Self {
        Self {
            time: Duration::ZERO,
            core_time: Duration::ZERO,
            low: Duration::ZERO,
            granted: Duration::ZERO,
            overlap: Duration::ZERO,
            unseen: Duration::ZERO,
            modes: [Duration::ZERO; Mode::ALL.len()],
            runs: Runs::default(),
            plain: Runs::default(),
            hours: [Hour::default(); HOURS],
            curve: Curve::default(),
            jobs: JobTotals::new(streams),
            errors: [Errors::default(); HORIZONS.len()],
        }
    }

    /// Adds a span.
    pub(super) fn add(&mut self, span: &Span, policy: &Policy, clock: Clock) {
        let whole = span.to.since(span.from);
        let low = span.level.is_some_and(|level| level < policy.busy_above);
        self.time += whole;
        self.modes[span.mode as usize] += whole;
        if span.budget > 0 && !low {
            self.overlap += whole;
        }
        let workers = u32::from(policy.workers);
        let mut from = span.from;
        while from < span.to {
            let of_day = clock.since_midnight(from);
            let hour = of_day.as_secs() / 3600;
            let left = Duration::from_secs((hour + 1) * 3600).saturating_sub(of_day);
            let part = span.to.since(from).min(left);
            let into = &mut self.hours[usize::try_from(hour).unwrap_or(0) % HOURS];
            into.core_time += part * workers;
            into.granted += part * u32::from(span.budget);
            if low {
                into.low += part * workers;
            }
            from = from.after(part);
        }
        self.core_time += whole * workers;
        self.granted += whole * u32::from(span.budget);
        if low {
            self.low += whole * workers;
        }
    }

    /// Core time granted, as a share of all core time.
    pub fn harvest(&self) -> f64 {
        share(self.granted, self.core_time)
    }

    /// Core time granted, as a share of the core time in which the load was below `busy_above`.
    pub fn harvest_of_low(&self) -> f64 {
        share(self.granted, self.low)
    }

    /// What a plain threshold at `busy_above` harvests, as a share of all core time.
    pub fn plain_harvest(&self) -> f64 {
        share(self.low, self.core_time)
    }

    /// So many in a day of one node.
    pub fn a_day(&self, count: u64) -> f64 {
        let days = self.time.as_secs_f64() / 86_400.0;
        if days > 0.0 { Duration::from_nanos(count).as_secs_f64() * 1e9 / days } else { 0.0 }
    }
}

/// One time as a share of another; zero of nothing.
pub fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { part.as_secs_f64() / whole.as_secs_f64() }
}
