//! How much core time does an item of a model take here? What an appraisal measured, and what real runs have shown since.
//!
//! Two figures for two uses: a low one, by which nobody is refused wrongly, and the usual one, by which work is planned.
//! Pure; all times are CPU time of one core.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::units::Digest;

/// Runs on this node after which their average counts instead of what the appraisal measured.
const RUNS_MIN: u32 = 3;
/// Weight of a new run in the average: one in eight.
const WEIGHT: f64 = 1.0 / 8.0;
/// Mean deviations below the average that a cheap item may lie.
const DEVIATIONS: f64 = 2.0;
/// Models whose runs are remembered at once.
pub const MODELS_MAX: usize = 256;

/// What one model costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Loading it once; zero when a worker may still have it loaded.
    pub load: Duration,
    /// An item that is cheap for this model.
    pub run_low: Duration,
    /// An item as it usually is.
    pub run: Duration,
}

impl Cost {
    /// Core time that so many items take at the least.
    pub fn low(&self, items: u32) -> Duration {
        self.load.saturating_add(self.run_low.saturating_mul(items))
    }

    /// Core time that so many items usually take.
    pub fn usual(&self, items: u32) -> Duration {
        self.load.saturating_add(self.run.saturating_mul(items))
    }

    /// Core time between two points at which the work can be given up without loss: the model loaded, one item computed.
    pub fn stretch(&self) -> Duration {
        self.usual(1)
    }
}

/// Average of the runs of one model, and how far they lie from it on average; both in seconds.
#[derive(Clone, Copy, Debug)]
struct Average {
    runs: u32,
    mean: f64,
    deviation: f64,
}

impl Average {
    fn take(&mut self, seconds: f64) {
        let off = (seconds - self.mean).abs();
        self.runs = self.runs.saturating_add(1);
        // The first runs count alike, so that one odd first run is soon forgotten.
        let weight = WEIGHT.max(1.0 / f64::from(self.runs));
        self.mean += (seconds - self.mean) * weight;
        self.deviation += (off - self.deviation) * weight;
    }

    fn cost(&self) -> Cost {
        let low = (self.mean - DEVIATIONS * self.deviation).max(0.0);
        Cost { load: Duration::ZERO, run_low: seconds(low), run: seconds(self.mean) }
    }
}

/// A span of so many seconds; what no span can be is none.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// What items of each model took on this node, by digest.
#[derive(Clone, Debug, Default)]
pub struct Costs(BTreeMap<Digest, Average>);

impl Costs {
    /// An item was computed in so much CPU time, without the load. Beyond [`MODELS_MAX`] models new ones are not
    /// remembered: their costs stay those of the appraisal.
    pub fn ran(&mut self, model: Digest, cpu: Duration) {
        let cpu = cpu.as_secs_f64();
        let is_full = self.0.len() >= MODELS_MAX;
        match self.0.get_mut(&model) {
            Some(average) => average.take(cpu),
            None if is_full => {}
            None => _ = self.0.insert(model, Average { runs: 1, mean: cpu, deviation: 0.0 }),
        }
    }

    /// What the model costs: by its runs here, or as `appraised` while they are few; `None`: nobody knows.
    pub fn of(&self, model: &Digest, appraised: Option<Cost>) -> Option<Cost> {
        let average = self.0.get(model).filter(|average| average.runs >= RUNS_MIN);
        average.map(Average::cost).or(appraised)
    }

    /// Forgets all models but these.
    pub fn keep(&mut self, is_kept: impl Fn(&Digest) -> bool) {
        self.0.retain(|model, _| is_kept(model));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MODEL: Digest = Digest([7; 32]);

    fn appraised() -> Option<Cost> {
        Some(Cost { load: 100 * MS, run_low: 20 * MS, run: 20 * MS })
    }

    #[test]
    fn a_few_runs_do_not_outweigh_the_appraisal_and_more_do() {
        let mut costs = Costs::default();
        assert_eq!(costs.of(&MODEL, None), None);
        (0..2).for_each(|_| costs.ran(MODEL, 40 * MS));
        assert_eq!(costs.of(&MODEL, appraised()), appraised());
        assert_eq!(costs.of(&MODEL, None), None, "two runs say too little");
        costs.ran(MODEL, 40 * MS);
        let cost = costs.of(&MODEL, appraised()).unwrap();
        assert_eq!((cost.load, cost.low(10), cost.usual(10)), (Duration::ZERO, 400 * MS, 400 * MS));
        costs.keep(|_| false);
        assert_eq!(costs.of(&MODEL, appraised()), appraised());
    }

    #[test]
    fn the_low_figure_lies_below_most_runs_of_a_model_whose_items_differ() {
        let mut costs = Costs::default();
        let runs = [10, 60, 20, 50, 40, 15, 30, 45, 55, 25, 35, 20];
        (0..20).flat_map(|_| runs).for_each(|ms| costs.ran(MODEL, ms * MS));
        let cost = costs.of(&MODEL, None).unwrap();
        assert!(runs.iter().filter(|ms| **ms * MS < cost.run_low).count() <= 1, "{cost:?}");
        assert!(cost.run > 25 * MS && cost.run < 45 * MS, "{cost:?}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut costs = Costs::default();
        for model in 0..2 * MODELS_MAX {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&model.to_le_bytes());
            costs.ran(Digest(digest), MS);
        }
        assert_eq!(costs.0.len(), MODELS_MAX);
    }
}
