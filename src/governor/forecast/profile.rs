//! What is usual at a time of day?
//!
//! The median, over the days remembered and the minutes around, of the logarithm of the level; between two knots a
//! straight line. A median is robust: a jump of half an hour on one day leaves no mark. Working days and weekends share
//! one profile: three weeks hold three Sundays, and a profile of three days would be worse than what the deviation that
//! is carried on makes of the common one.

use super::days::{Days, Row};
use super::numbers::{STEPS_A_DAY, Step, log_of, real, time_of_day};

/// Steps from one knot to the next: ten minutes.
const SPACING: usize = 5;
const KNOTS: usize = STEPS_A_DAY / SPACING;
/// A knot is worked out so many knots after its time, when the widest window round it is complete.
const LATE: usize = 5;
/// Every second step is looked at: neighbours say nearly the same.
const STRIDE: usize = 2;
/// Fewest levels that make a knot.
const LEVELS_MIN: usize = 5;
/// Largest deviation that is carried on, in logarithms: e² is a load of seven times the usual.
const DEVIATION_MAX: f64 = 2.0;

/// What is usual, by time of day.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    /// Logarithms of levels.
    knots: Box<[Option<f64>]>,
    /// All knots have to be worked out again.
    outdated: bool,
    levels: Vec<u16>,
}

impl Default for Profile {
    fn default() -> Self {
        Self { knots: vec![None; KNOTS].into(), outdated: false, levels: Vec::new() }
    }
}

impl Profile {
    /// The days were changed elsewhere than at the end.
    pub(super) fn is_outdated(&mut self) {
        self.outdated = true;
    }

    /// A step was added to the days.
    pub(super) fn on_step(&mut self, step: Step, days: &Days) {
        let time = time_of_day(step);
        if self.outdated {
            self.work_out_all(days);
        } else if time.is_multiple_of(SPACING) {
            self.work_out((time / SPACING + KNOTS - LATE) % KNOTS, days);
        }
    }

    /// Works out everything from the days.
    pub(super) fn work_out_all(&mut self, days: &Days) {
        self.outdated = false;
        (0..KNOTS).for_each(|knot| self.work_out(knot, days));
    }

    fn work_out(&mut self, knot: usize, days: &Days) {
        let mut levels = std::mem::take(&mut self.levels);
        levels.clear();
        let reach = reach(days.count());
        let first = knot * SPACING + STEPS_A_DAY - reach;
        let around = |row: &Row, levels: &mut Vec<u16>| {
            let entries = (0..=2 * reach).step_by(STRIDE).filter_map(|offset| row.at(first + offset));
            levels.extend(entries.map(|entry| entry.mean));
        };
        days.iter().for_each(|row| around(row, &mut levels));
        let usual = (levels.len() >= LEVELS_MIN).then(|| {
            let (middle, is_even) = (levels.len() / 2, levels.len().is_multiple_of(2));
            let (below, median, _) = levels.select_nth_unstable(middle);
            // Between two levels the middle: they come in whole percent, which is much at night.
            let other = below.iter().max().copied().filter(|_| is_even).unwrap_or(*median);
            log_of(f64::midpoint(f64::from(*median), f64::from(other)))
        });
        self.knots[knot] = usual;
        self.levels = levels;
    }

    /// What is usual at the time of a step, as logarithm.
    pub(super) fn usual(&self, step: Step) -> Option<f64> {
        let time = time_of_day(step);
        let (knot, past) = (time / SPACING, time % SPACING);
        let (here, next) = (self.knots[knot]?, self.knots[(knot + 1) % KNOTS]?);
        let part = |steps: usize| real(i64::try_from(steps).unwrap_or(0));
        let share = part(past) / part(SPACING);
        Some(here * (1.0 - share) + next * share)
    }

    /// How far the logarithm of a level is from what is usual at that time, within what is carried on.
    pub(super) fn deviation(&self, step: Step, level: f64) -> Option<f64> {
        Some((log_of(level) - self.usual(step)?).clamp(-DEVIATION_MAX, DEVIATION_MAX))
    }
}

/// How many steps to each side of a knot count: the fewer days, the more.
const fn reach(days: usize) -> usize {
    match days {
        0..=3 => 22,
        4..=9 => 16,
        10.. => 12,
    }
}
