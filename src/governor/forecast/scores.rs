//! How good has each method been, and which one is used?
//!
//! What every method says is kept until its time has come, and then compared with what came. Errors are compared with
//! those of persistence on the very same steps. Memory: two days for the choice, six hours for the fall back.

use std::time::Duration;

use super::methods::Method;
use super::numbers::{Step, real};

/// Horizons at which forecasts are scored.
pub const HORIZONS: [Duration; 6] = [minutes(2), minutes(10), minutes(30), minutes(60), minutes(120), minutes(360)];
/// The same in steps.
pub(super) const STEPS_AHEAD: [i64; 6] = [1, 5, 15, 30, 60, 180];

/// Weight that a score keeps with each step: slow and fast.
const KEPT_SLOW: f64 = 1.0 - 1.0 / 1440.0;
const KEPT_FAST: f64 = 1.0 - 1.0 / 180.0;
/// A method must have been scored on so many steps.
const SCORED_MIN: f64 = 90.0;
/// It must have had at most this error for each of persistence, slow and fast.
const BETTER: f64 = 0.98;
const MUCH_WORSE: f64 = 1.10;
/// Squared deviations (in logarithms) as if seen before any: nothing is carried on at first.
const PRIOR: f64 = 1.0;

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// How good the forecast has been at one horizon of late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// How far ahead.
    pub horizon: Duration,
    /// The method that is used.
    pub used: Method,
    /// Mean absolute error of what was used, in permille of load; `None` until there is any.
    pub error_permille: Option<f64>,
    /// That error for each of persistence: below 1 is better. `None` until there is any, or when persistence has none.
    pub against_persistence: Option<f64>,
    /// Mean absolute error by method, in the order of [`Method::ALL`]; `None` until there is any.
    pub by_method: [Option<f64>; 4],
}

/// Errors of one method, next to those of persistence on the same steps. Each forgets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tally {
    pub(super) weight: f64,
    pub(super) error: f64,
    pub(super) floor: f64,
    pub(super) fast_error: f64,
    pub(super) fast_floor: f64,
}

impl Tally {
    fn add(&mut self, error: f64, floor: f64) {
        self.weight = self.weight * KEPT_SLOW + 1.0;
        self.error = self.error * KEPT_SLOW + error;
        self.floor = self.floor * KEPT_SLOW + floor;
        self.fast_error = self.fast_error * KEPT_FAST + error;
        self.fast_floor = self.fast_floor * KEPT_FAST + floor;
    }

    fn mean(&self) -> Option<f64> {
        (self.weight > 0.5).then(|| self.error / self.weight)
    }

    fn ratio(&self) -> Option<f64> {
        (self.floor > 0.0).then(|| self.error / self.floor)
    }

    /// Its ratio, when it may be used at all.
    fn eligible(&self) -> Option<f64> {
        let proven = self.weight >= SCORED_MIN && self.fast_error <= MUCH_WORSE * self.fast_floor;
        self.ratio().filter(|ratio| proven && *ratio <= BETTER)
    }

    pub(super) fn figures(&mut self) -> [&mut f64; 5] {
        [&mut self.weight, &mut self.error, &mut self.floor, &mut self.fast_error, &mut self.fast_floor]
    }
}

/// What was said about a step.
#[derive(Clone, Copy, Debug)]
struct Said {
    target: Step,
    by_method: [Option<f64>; 4],
    used: f64,
    deviation: Option<f64>,
}

/// Everything about one horizon.
#[derive(Clone, Debug)]
pub(super) struct Horizon {
    pub(super) methods: [Tally; 4],
    pub(super) used: Tally,
    /// Products and squares of deviations: what is left of one.
    pub(super) product: f64,
    pub(super) square: f64,
    choice: Method,
    /// By target modulo the horizon: as many as can wait.
    said: Vec<Option<Said>>,
}

/// The scores of all horizons.
#[derive(Clone, Debug)]
pub(super) struct Scores {
    pub(super) horizons: [Horizon; 6],
}

impl Default for Scores {
    fn default() -> Self {
        let horizon = |steps: i64| Horizon {
            methods: [Tally::default(); 4],
            used: Tally::default(),
            product: 0.0,
            square: 0.0,
            choice: Method::Persistence,
            said: vec![None; usize::try_from(steps).unwrap_or(1)],
        };
        Self { horizons: STEPS_AHEAD.map(horizon) }
    }
}

impl Horizon {
    fn place(&self, target: Step) -> usize {
        let length = i64::try_from(self.said.len()).unwrap_or(1).max(1);
        usize::try_from(target.0.rem_euclid(length)).unwrap_or(0)
    }

    fn settle(&mut self, step: Step, level: f64, deviation: Option<f64>) {
        let place = self.place(step);
        let Some(said) = self.said[place].take().filter(|said| said.target == step) else { return };
        let error = |value: f64| (value - level).abs();
        let floor = said.by_method[0].map_or(0.0, error);
        for (tally, value) in self.methods.iter_mut().zip(said.by_method) {
            if let Some(value) = value {
                tally.add(error(value), floor);
            }
        }
        self.used.add(error(said.used), floor);
        if let (Some(before), Some(now)) = (said.deviation, deviation) {
            self.product = self.product * KEPT_SLOW + before * now;
            self.square = self.square * KEPT_SLOW + before * before;
        }
        self.choose();
    }

    /// Chooses the best method that is proven; persistence when none is.
    pub(super) fn choose(&mut self) {
        let proven = Method::ALL.into_iter().filter_map(|method| {
            let ratio = self.methods[method.index()].eligible()?;
            Some((method, ratio))
        });
        let best = proven.min_by(|(_, a), (_, b)| a.total_cmp(b));
        self.choice = best.map_or(Method::Persistence, |(method, _)| method);
    }

    fn left(&self) -> f64 {
        (self.product / (self.square + PRIOR)).clamp(0.0, 1.0)
    }
}

impl Scores {
    /// A step has this level and this deviation from the usual: whatever was said about it is scored.
    pub(super) fn settle(&mut self, step: Step, level: f64, deviation: Option<f64>) {
        self.horizons.iter_mut().for_each(|horizon| horizon.settle(step, level, deviation));
    }

    /// What the methods say about a step that is one of the horizons ahead.
    pub(super) fn issue(&mut self, index: usize, target: Step, by_method: [Option<f64>; 4], deviation: Option<f64>) {
        let Some(horizon) = self.horizons.get_mut(index) else { return };
        let floor = by_method[Method::Persistence.index()];
        let Some(used) = by_method[horizon.choice.index()].or(floor) else { return };
        let place = horizon.place(target);
        horizon.said[place] = Some(Said { target, by_method, used, deviation });
    }

    /// The method for a forecast so many steps ahead: that of the nearest horizon.
    pub(super) fn used(&self, steps: i64) -> Method {
        let distance = |(_, ahead): &(&Horizon, i64)| (real(*ahead) / real(steps.max(1))).ln().abs();
        let nearest = self.horizons.iter().zip(STEPS_AHEAD).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.map_or(Method::Persistence, |(horizon, _)| horizon.choice)
    }

    /// What is left of a deviation so many steps later, 0 to 1: between two horizons a straight line, and after the
    /// last less and less.
    pub(super) fn left_of_deviation(&self, steps: i64) -> f64 {
        let (mut before, mut left) = (0, 1.0);
        for (horizon, ahead) in self.horizons.iter().zip(STEPS_AHEAD) {
            let here = horizon.left();
            if steps <= ahead {
                let share = real(steps - before) / real(ahead - before);
                return left * (1.0 - share) + here * share;
            }
            (before, left) = (ahead, here);
        }
        left * (-real(steps - before) / real(before)).exp()
    }

    /// Standard deviation of the deviation from the usual; `None` until it is known.
    pub(super) fn spread(&self) -> Option<f64> {
        let horizon = &self.horizons[0];
        let scored = horizon.methods[Method::Profile.index()].weight;
        (scored >= SCORED_MIN).then(|| (horizon.square / scored).sqrt())
    }

    /// As they are told.
    pub(super) fn told(&self) -> [Score; 6] {
        std::array::from_fn(|index| {
            let horizon = &self.horizons[index];
            Score {
                horizon: HORIZONS[index],
                used: horizon.choice,
                error_permille: horizon.used.mean(),
                against_persistence: horizon.used.ratio(),
                by_method: horizon.methods.map(|tally| tally.mean()),
            }
        })
    }
}
