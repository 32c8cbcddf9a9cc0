//! What would one plain threshold have done on the same load? All thresholds at once.
//!
//! A plain threshold stops at once when the load is at or above it and starts at once when it is below. Its harvest is
//! the share of the time below it, and each rise across it is a yield; so two tables over the levels answer for every
//! threshold in whole percent, whatever the recording's length. A load that is not known is above all of them.

use std::time::Duration;

use crate::units::Utilization;

/// Whole percents, and one above all for a load that is not known.
const LEVELS: usize = 102;
/// Most harvest that a threshold may have beyond a policy and still be compared with it: the four points for which a
/// dwell with a gap was found to be worth while.
pub const POINTS: f64 = 0.04;

/// What one threshold does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plain {
    /// In percent.
    pub threshold: u8,
    /// As a share of all time.
    pub harvest: f64,
    /// On the whole recording, over all nodes.
    pub yields: u64,
}

/// Time and rises by level.
#[derive(Clone, Debug)]
pub struct Curve {
    time: [Duration; LEVELS],
    /// Rises across a threshold, as differences: one that goes from 3 to 7 counts at 4 and is taken back at 8.
    rises: [i64; LEVELS],
}

impl Default for Curve {
    fn default() -> Self {
        Self { time: [Duration::ZERO; LEVELS], rises: [0; LEVELS] }
    }
}

/// Where a level stands in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step(usize);

impl Step {
    /// Not known.
    pub(super) const UNKNOWN: Self = Self(LEVELS - 1);

    pub(super) fn of(level: Option<Utilization>) -> Self {
        level.map_or(Self::UNKNOWN, |level| Self(usize::from(level.permille() / 10)))
    }
}

impl Curve {
    /// The load stood there so long, after it had stood elsewhere.
    pub(super) fn add(&mut self, before: Step, now: Step, lasting: Duration) {
        self.time[now.0] += lasting;
        if before < now {
            self.rises[before.0 + 1] += 1;
            if let Some(after) = self.rises.get_mut(now.0 + 1) {
                *after -= 1;
            }
        }
    }

    /// Every threshold from 1 to 100 %.
    pub fn thresholds(&self) -> Vec<Plain> {
        let whole: Duration = self.time.iter().sum();
        let (mut below, mut yields) = (Duration::ZERO, self.rises[0]);
        let mut all = Vec::with_capacity(100);
        for threshold in 1..=100_u8 {
            let index = usize::from(threshold);
            below += self.time[index - 1];
            yields += self.rises[index];
            let harvest = super::account::share(below, whole);
            all.push(Plain { threshold, harvest, yields: u64::try_from(yields).unwrap_or(0) });
        }
        all
    }

    /// The threshold with the fewest yields among those that harvest as much as that, and at most [`POINTS`] more: what
    /// somebody with one threshold would have chosen. `None` when no threshold harvests as much.
    pub fn rival(&self, harvest: f64) -> Option<Plain> {
        let thresholds = self.thresholds();
        let enough = |plain: &&Plain| plain.harvest >= harvest - 1e-9;
        let first = thresholds.iter().find(enough)?;
        let within = thresholds.iter().filter(enough).filter(|plain| plain.harvest <= harvest + POINTS);
        within.min_by_key(|plain| plain.yields).or(Some(first)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands at each percentage for a second; 255 is not known.
    fn curve(levels: &[u8]) -> Curve {
        let mut curve = Curve::default();
        let mut before = Step::UNKNOWN;
        for level in levels {
            let now = Step::of(Utilization::from_percent(*level));
            curve.add(before, now, Duration::from_secs(1));
            before = now;
        }
        curve
    }

    #[test]
    fn every_threshold_counts_its_own_time_and_rises() {
        let levels = [10, 20, 10, 50, 255, 30, 100, 0, 99];
        let thresholds = curve(&levels).thresholds();
        for Plain { threshold, harvest, yields } in thresholds {
            let low = |level: &u8| *level < threshold;
            let expected = levels.windows(2).filter(|pair| low(&pair[0]) && !low(&pair[1])).count();
            assert_eq!(yields, expected as u64, "at {threshold} %");
            let below = levels.iter().filter(|level| low(level)).count();
            assert!((harvest * 9.0 - f64::from(u32::try_from(below).unwrap())).abs() < 1e-9, "at {threshold} %");
        }
    }

    #[test]
    fn the_rival_harvests_as_much_and_little_more() {
        let mut levels = vec![10; 50];
        levels.extend([20, 10].repeat(10));
        levels.extend([90; 30]);
        let curve = curve(&levels);
        // 60 % are below 20, 70 % below 90: between them nothing.
        assert_eq!(curve.rival(0.55).map(|plain| (plain.harvest, plain.yields)), Some((0.6, 11)));
        assert_eq!(curve.rival(0.65).map(|plain| (plain.harvest, plain.yields)), Some((0.7, 1)));
        assert_eq!(curve.rival(1.0).map(|plain| plain.yields), Some(0));
        assert_eq!(Curve::default().rival(0.1), None);
    }
}
