//! How high is the load at which moment? Steps of load that repeat, from a seed.
//!
//! Pure and without a clock. A step is held until the next one, never interpolated, so that each change is one exact
//! moment.

use std::time::Duration;

use crate::sim::day::{Compressed, Day, Random, SAMPLES};
use crate::units::Utilization;

/// Pairs of quiet and busy spans after which a bursty curve repeats.
const BURSTS: usize = 512;
/// Quiet spans lie between these, in percent: below the 30 % from which real cells jump.
const QUIET_PERCENT: (u64, u64) = (2, 25);
/// Busy spans lie between these, in percent: at or above the 50 % to which real cells jump within one sample.
const BUSY_PERCENT: (u64, u64) = (50, 100);
/// Shortest span of a bursty curve: a step that no sleep can hit is none.
const SPAN_MIN: Duration = Duration::from_millis(1);

/// A load curve that repeats for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curve {
    /// Not empty; the first begins at zero, each later than the one before, all before `length`.
    steps: Vec<Step>,
    length: Duration,
}

/// From here on this load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    begin: Duration,
    level: Utilization,
}

impl Curve {
    /// The same load always.
    pub fn steady(level: Utilization) -> Self {
        Self { steps: vec![Step { begin: Duration::ZERO, level }], length: Duration::MAX }
    }

    /// A station's day of that seed, played in `length`, again and again.
    pub fn daily(seed: u64, length: Duration) -> Self {
        let day = Day::new(seed);
        let played = Compressed { length };
        let mut curve = Builder::default();
        for index in 0..SAMPLES {
            curve.push(played.start(index), day.load(index));
        }
        curve.end(length)
    }

    /// Sudden jumps as of real cells: from below 30 % to 50 % or more and back. Each quiet span takes half to one and a
    /// half times `quiet`, each busy one of `busy`; levels and lengths come from the seed. Begins quiet.
    pub fn bursty(seed: u64, quiet: Duration, busy: Duration) -> Self {
        Self::alternating(seed, quiet, busy, QUIET_PERCENT, BUSY_PERCENT)
    }

    /// As [`Self::bursty`], but with two levels only.
    pub fn square(seed: u64, quiet: (Duration, Utilization), busy: (Duration, Utilization)) -> Self {
        let percent = |level: Utilization| {
            let percent = u64::from(level.permille() / 10);
            (percent, percent)
        };
        Self::alternating(seed, quiet.0, busy.0, percent(quiet.1), percent(busy.1))
    }

    fn alternating(seed: u64, quiet: Duration, busy: Duration, low: (u64, u64), high: (u64, u64)) -> Self {
        let mut random = Random::new(seed);
        let mut curve = Builder::default();
        let mut begin = Duration::ZERO;
        for _ in 0..BURSTS {
            for (mean, levels) in [(quiet, low), (busy, high)] {
                curve.push(begin, between(levels, &mut random));
                begin = begin.saturating_add(mean.mul_f64(0.5 + random.share()).max(SPAN_MIN));
            }
        }
        curve.end(begin)
    }

    /// The load that is in force `elapsed` after the start.
    pub fn at(&self, elapsed: Duration) -> Utilization {
        self.steps[self.index(self.within(elapsed))].level
    }

    /// The first moment after `elapsed` at which the load changes; `None` when it never does.
    pub fn next_change(&self, elapsed: Duration) -> Option<Duration> {
        if self.steps.len() == 1 {
            return None;
        }
        let within = self.within(elapsed);
        let next = self.steps.get(self.index(within) + 1).map_or(self.length, |step| step.begin);
        Some(elapsed.saturating_add(next.saturating_sub(within)))
    }

    /// The highest load of the curve.
    pub fn peak(&self) -> Utilization {
        self.steps.iter().map(|step| step.level).max().unwrap_or(Utilization::FULL)
    }

    fn within(&self, elapsed: Duration) -> Duration {
        let nanos = elapsed.as_nanos() % self.length.as_nanos().max(1);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn index(&self, within: Duration) -> usize {
        // The first step begins at zero, so at least one has begun.
        self.steps.partition_point(|step| step.begin <= within).saturating_sub(1)
    }
}

/// A curve being made.
#[derive(Default)]
struct Builder {
    steps: Vec<Step>,
}

impl Builder {
    /// Equal neighbours become one step; of two with the same begin the later counts.
    fn push(&mut self, begin: Duration, level: Utilization) {
        if self.steps.last().is_some_and(|last| last.begin == begin) {
            self.steps.pop();
        }
        if self.steps.last().is_none_or(|last| last.level != level) {
            self.steps.push(Step { begin, level });
        }
    }

    fn end(mut self, length: Duration) -> Curve {
        self.steps.retain(|step| step.begin < length);
        match self.steps.first() {
            Some(_) => Curve { steps: self.steps, length },
            None => Curve::steady(Utilization::FULL),
        }
    }
}

/// A whole percentage between two, both included.
fn between((low, high): (u64, u64), random: &mut Random) -> Utilization {
    let percent = low + random.below(high.saturating_sub(low) + 1);
    u8::try_from(percent).ok().and_then(Utilization::from_percent).unwrap_or(Utilization::FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NS: Duration = Duration::from_nanos(1);

    /// Every change of the first `count`, with the loads before and after.
    fn changes(curve: &Curve, count: usize) -> Vec<(Duration, Utilization, Utilization)> {
        let mut elapsed = Duration::ZERO;
        let mut changes = Vec::new();
        for _ in 0..count {
            let next = curve.next_change(elapsed).unwrap();
            changes.push((next, curve.at(next - NS), curve.at(next)));
            elapsed = next;
        }
        changes
    }

    #[test]
    fn a_steady_load_never_changes() {
        let level = Utilization::from_percent(35).unwrap();
        let curve = Curve::steady(level);
        for elapsed in [Duration::ZERO, SECOND, Duration::MAX] {
            assert_eq!((curve.at(elapsed), curve.next_change(elapsed)), (level, None));
        }
    }

    #[test]
    fn bursts_jump_from_below_30_to_50_percent_or_more_and_back() {
        let curve = Curve::bursty(7, SECOND, SECOND / 2);
        for (index, (moment, before, after)) in changes(&curve, 2 * BURSTS + 9).into_iter().enumerate() {
            let (low, high) = if index % 2 == 0 { (before, after) } else { (after, before) };
            assert!(low.permille() < 300 && high.permille() >= 500, "{before} to {after} at {moment:?}");
        }
    }

    #[test]
    fn spans_of_bursts_stay_within_half_and_one_and_a_half_of_their_mean() {
        let curve = Curve::bursty(3, SECOND, SECOND / 2);
        let moments: Vec<Duration> =
            std::iter::once(Duration::ZERO).chain(changes(&curve, 2 * BURSTS).into_iter().map(|c| c.0)).collect();
        for (index, pair) in moments.windows(2).enumerate() {
            let mean = if index % 2 == 0 { SECOND } else { SECOND / 2 };
            let span = pair[1] - pair[0];
            assert!(span >= mean / 2 && span <= mean * 3 / 2, "span {index}: {span:?} of mean {mean:?}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_curve_and_another_another() {
        assert_eq!(Curve::bursty(1, SECOND, SECOND), Curve::bursty(1, SECOND, SECOND));
        assert_ne!(Curve::bursty(1, SECOND, SECOND), Curve::bursty(2, SECOND, SECOND));
        assert_ne!(Curve::daily(1, SECOND), Curve::daily(2, SECOND));
    }

    #[test]
    fn a_day_has_the_loads_of_its_samples_and_repeats() {
        let (curve, day) = (Curve::daily(5, 60 * SECOND), Day::new(5));
        let minute = Compressed { length: 60 * SECOND };
        for index in 0..SAMPLES {
            let start = minute.start(index);
            assert_eq!((curve.at(start), curve.at(start + 120 * SECOND)), (day.load(index), day.load(index)));
        }
    }

    #[test]
    fn a_change_is_one_exact_moment_and_always_ahead() {
        for curve in [Curve::daily(9, 10 * SECOND), Curve::bursty(9, SECOND / 100, SECOND / 100)] {
            let moments = changes(&curve, 3000);
            assert!(moments.windows(2).all(|pair| pair[0].0 < pair[1].0));
            // Only where the curve begins anew may two equal loads meet.
            let equal = moments.iter().filter(|(_, before, after)| before == after).count();
            assert!(equal <= 3000 / 300, "{equal} changes change nothing");
        }
    }

    #[test]
    fn a_square_curve_has_two_levels() {
        let [low, high] = [5, 90].map(|percent| Utilization::from_percent(percent).unwrap());
        let curve = Curve::square(1, (SECOND, low), (SECOND, high));
        assert!(changes(&curve, 100).iter().all(|(_, a, b)| [(low, high), (high, low)].contains(&(*a, *b))));
        assert_eq!(curve.peak(), high);
    }

    #[test]
    fn a_day_of_no_length_is_full_rather_than_idle() {
        assert_eq!(Curve::daily(1, Duration::ZERO).at(SECOND), Utilization::FULL);
    }
}
