//! Are slots late more often while inference runs?
//!
//! A late slot stops inference at once, so the two sides alternate by themselves. What is counted is moments, not
//! slots: one trouble of the RAN that loses a thousand slots is one moment. Were inference innocent, each moment would
//! fall into the time in which it runs with the probability of that time's share; how improbable is what was seen?

use std::time::Duration;

/// Moments that are too few to say anything.
const MOMENTS_MIN: u32 = 3;
/// The probability below which chance is not believed.
const CHANCE_MAX: f64 = 0.001;
/// After so much time, or so many moments, all counts are halved: what was long ago fades.
const SPAN_MAX: Duration = Duration::from_secs(4 * 3600);
const MOMENTS_MAX: u32 = 100;

/// Moments and time of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) moments: u32,
    pub(super) time: Duration,
}

impl Tally {
    fn halve(&mut self) {
        (self.moments, self.time) = (self.moments / 2, self.time / 2);
    }

    /// Moments an hour.
    pub(super) fn hourly(self) -> u32 {
        let millis = self.time.as_millis().max(1);
        u32::try_from(u128::from(self.moments) * 3_600_000 / millis).unwrap_or(u32::MAX)
    }
}

/// Both sides, as far as the load is low enough to run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Late {
    pub(super) running: Tally,
    pub(super) stopped: Tally,
    /// Workers that ran in the latest moment of the running side.
    pub(super) workers: u8,
}

impl Late {
    pub(super) fn passed(&mut self, workers: u8, span: Duration) {
        (if workers > 0 { &mut self.running } else { &mut self.stopped }).time += span;
        if self.running.time + self.stopped.time > SPAN_MAX {
            self.running.halve();
            self.stopped.halve();
        }
    }

    pub(super) fn happened(&mut self, workers: u8) {
        if workers > 0 {
            self.running.moments += 1;
            self.workers = workers;
        } else {
            self.stopped.moments += 1;
        }
        if self.running.moments + self.stopped.moments > MOMENTS_MAX {
            self.running.halve();
            self.stopped.halve();
        }
    }

    /// Whether slots are late more often while inference runs than they may be, beyond chance.
    pub(super) fn is_harm(&self, tolerated_permille: u32) -> bool {
        let (running, stopped) = (self.running, self.stopped);
        if running.moments < MOMENTS_MIN || stopped.time.is_zero() {
            return false;
        }
        let tolerated = running.time.as_secs_f64() * (1.0 + f64::from(tolerated_permille) / 1000.0);
        let share = tolerated / (tolerated + stopped.time.as_secs_f64());
        at_least(running.moments, running.moments + stopped.moments, share) < CHANCE_MAX
    }
}

/// The probability that of `all` moments at least `some` fall into a part of the time with that share.
fn at_least(some: u32, all: u32, share: f64) -> f64 {
    // Term by term from the top, each from the one before; share 1 would divide by zero.
    if share >= 1.0 {
        return 1.0;
    }
    let odds = (1.0 - share) / share.max(f64::MIN_POSITIVE);
    let mut term = (0..all).fold(1.0, |term, _| term * share);
    let mut sum = term;
    for count in (some..all).rev() {
        term *= odds * f64::from(count + 1) / f64::from(all - count);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(running: (u32, u64), stopped: (u32, u64)) -> Late {
        let tally = |(moments, seconds)| Tally { moments, time: Duration::from_secs(seconds) };
        Late { running: tally(running), stopped: tally(stopped), workers: 1 }
    }

    #[test]
    fn the_probability_is_that_of_the_binomial_distribution() {
        for (some, all, share, known) in [
            (0, 5, 0.3, 1.0),
            (5, 5, 0.5, 0.03125),
            (3, 4, 0.5, 0.3125),
            (2, 10, 0.1, 0.263_901_070_9),
            (7, 20, 0.2, 0.086_692_513_6),
        ] {
            assert!((at_least(some, all, share) - known).abs() < 1e-9, "{some} of {all}");
        }
    }

    #[test]
    fn late_slots_soon_after_each_start_are_harm_and_as_many_in_any_time_are_not() {
        assert!(late((3, 15), (0, 180)).is_harm(200), "three starts, each late within seconds");
        assert!(!late((2, 10), (0, 1000)).is_harm(200), "too few");
        assert!(!late((9, 900), (1, 100)).is_harm(200), "nine tenths of the time, nine tenths of the moments");
        assert!(!late((10, 1000), (0, 0)).is_harm(200), "nothing to compare with");
        assert!(late((12, 1000), (0, 1000)).is_harm(200));
        assert!(!late((12, 1000), (11, 1000)).is_harm(200));
    }

    #[test]
    fn what_is_long_ago_fades_and_nothing_overflows() {
        let mut late = Late::default();
        for _ in 0..1000 {
            late.happened(1);
            late.happened(0);
            late.passed(1, Duration::from_secs(3600));
            late.passed(0, Duration::from_secs(3600));
        }
        assert!(late.running.moments + late.stopped.moments <= MOMENTS_MAX, "{late:?}");
        assert!(late.running.time + late.stopped.time <= SPAN_MAX, "{late:?}");
        assert!(!late.is_harm(200));
    }
}
