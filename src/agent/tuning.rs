//! Which thresholds hold, and who changed them? Feeds the tuner, brings its changes into force, and tells of them.
//!
//! A change goes the way of a reload: the sentinel takes the new policy, and everybody hears why. A reload itself brings
//! the configured figures back.

mod file;

use std::path::Path;

use self::file::Keepsake;
use super::desk::Now;
use super::{Agent, Core};
use crate::governor::guard::{self, Figure};
use crate::governor::tuning::{Change, Mode, News, Setting, Terms, Tuner};
use crate::governor::{BadPolicy, Policy};
use crate::jobs::store::Batch;
use crate::link::messages::{TuningChange, TuningFigures, TuningState};
use crate::load::fusion::{Fused, FusedLoad};
use crate::units::{Health, Utilization, WallTime};

/// The tuner of a node; none in a world without one.
#[derive(Debug, Default)]
pub(super) struct Tuning {
    tuner: Option<Tuner>,
    kept: Option<Keepsake>,
}

impl Tuning {
    /// One that has learned nothing.
    fn new(terms: Terms, policy: &Policy) -> Result<Self, BadPolicy> {
        Ok(Self { tuner: Some(Tuner::new(terms, policy.clone())?), kept: None })
    }

    /// Takes in the load that decides.
    pub(super) fn hear(&mut self, now: Now, fused: &Fused) {
        let Some(tuner) = self.tuner.as_mut().filter(|_| now.is_sure()) else { return };
        let level = match fused.load {
            FusedLoad::Level(_, level) => Some(level),
            // As bad as it gets, and nobody's fault that could be tuned away.
            FusedLoad::Late(_) => Some(Utilization::FULL),
            FusedLoad::Malformed(_) | FusedLoad::Stale(_) | FusedLoad::Unheard => None,
        };
        tuner.on_load(now.wall, level);
    }

    /// The harm guard has compared a figure; those of latencies count.
    pub(super) fn hear_guard(&mut self, news: &guard::News) {
        let comparison = match news {
            guard::News::Compared(comparison) => Some(comparison),
            guard::News::Verdict(_) => None,
        };
        let (Some(tuner), Some(comparison)) = (self.tuner.as_mut(), comparison) else { return };
        match comparison.figure {
            Figure::Health(Health::SlotLatency | Health::EnqueueDelay) => {
                tuner.on_comparison(comparison.figure.as_str(), comparison.change_permille());
            }
            Figure::Late | Figure::Health(Health::RunQueueDelay | Health::Pressure) => {}
        }
    }

    /// The configuration was read again: its figures are in force.
    pub(super) fn reset(&mut self, now: WallTime, terms: Terms, policy: &Policy) {
        let Some(tuner) = self.tuner.as_mut() else { return };
        if let Err(error) = tuner.reset(now, terms, policy.clone()) {
            tracing::error!(%error, "tuning keeps the old policy");
        }
    }

    fn step(&mut self, now: Now) -> Option<News> {
        self.tuner.as_mut().filter(|_| now.is_sure())?.step(now.wall)
    }

    /// Goes on where an earlier run has ended; whether its figures are in force again.
    fn restore(&mut self, now: Now, state_dir: &Path) -> bool {
        let kept = self.kept.insert(Keepsake::new(now.mono, state_dir));
        self.tuner.as_mut().is_some_and(|tuner| kept.restore(now, tuner))
    }

    /// Writes down what was learned, when it is time or `is_news`.
    fn keep(&mut self, now: Now, is_news: bool) {
        let (Some(tuner), Some(kept)) = (&self.tuner, &mut self.kept) else { return };
        if is_news || kept.is_due(now.mono) {
            kept.keep(now.mono, tuner);
        }
    }

    /// Writes down what was learned for the last time.
    pub(super) fn end(&mut self, now: Now) {
        self.keep(now, true);
    }

    /// Waits for a moment for what is being written.
    pub(super) fn finish(&mut self, now: Now) {
        if let Some(kept) = &mut self.kept {
            kept.finish(now.mono);
        }
    }

    /// What is shown on this machine.
    pub(super) fn state(&self) -> TuningState {
        let Some(tuner) = &self.tuner else { return TuningState::default() };
        let is_auto = tuner.terms().mode == Mode::Auto;
        let per_day = |permille: u64| f64::from(u32::try_from(permille).unwrap_or(u32::MAX)) / 1000.0;
        TuningState {
            mode: tuner.terms().mode.as_str().to_owned(),
            configured: figures(&Setting::of(tuner.configured())),
            in_force: figures(&tuner.in_force()),
            max_evictions_per_day: tuner.terms().evictions_max,
            days: (tuner.history().known().as_secs_f64() / 864.0).round() / 100.0,
            evictions_per_day: tuner.found().map(|found| per_day(found.evictions_a_day_permille())),
            harvest_ratio: tuner.found().map(|found| f64::from(found.harvest_permille()) / 1000.0),
            suggested: tuner.suggested().filter(|_| !is_auto).map(|change| told(change, false)),
            changes: tuner.changes().map(|change| told(change, true)).collect(),
        }
    }
}

fn figures(setting: &Setting) -> TuningFigures {
    let percent = |level: Utilization| f64::from(level.permille()) / 10.0;
    TuningFigures {
        busy_above: percent(setting.busy_above),
        idle_below: percent(setting.idle_below),
        settle_s: setting.settle.as_secs_f64(),
    }
}

fn told(change: &Change, in_force: bool) -> TuningChange {
    TuningChange { in_force, text: change.to_string(), at: change.at }
}

impl Core {
    /// Tells of a change, or of a suggestion.
    fn tell_tuning(&mut self, change: &Change, in_force: bool) {
        let message = self.desk.reports.tuned(told(change, in_force));
        self.desk.report(Batch { droppable: vec![message], ..Batch::default() }, None);
    }
}

impl Agent {
    /// Begins to learn, with what an earlier run has tuned in force again.
    pub(super) fn begin_tuning(&mut self, now: Now) {
        match Tuning::new(self.settings.tuning, &self.settings.policy) {
            Ok(tuning) => self.core.tuning = tuning,
            // The sentinel has taken that policy.
            Err(error) => return tracing::error!(%error, "nothing is tuned"),
        }
        if self.core.tuning.restore(now, &self.settings.jobs.state_dir) {
            self.enforce_tuning("tuned by an earlier run");
        }
    }

    /// Looks for better thresholds, a little each turn.
    pub(super) fn tune(&mut self, now: Now) {
        let news = self.core.tuning.step(now);
        match &news {
            Some(News::Changed(change)) => {
                tracing::warn!("{change}");
                self.enforce_tuning("tuned");
                self.core.tell_tuning(change, true);
            }
            Some(News::Suggested(change)) => {
                tracing::info!("{change} (a suggestion: [tuning] mode is not auto)");
                self.core.tell_tuning(change, false);
            }
            None => {}
        }
        self.core.tuning.keep(now, news.is_some());
    }

    fn enforce_tuning(&mut self, what: &str) {
        let Some(tuner) = &self.core.tuning.tuner else { return };
        let policy = tuner.policy();
        let Setting { busy_above, idle_below, settle } = tuner.in_force();
        match self.sentinel.set_policy(policy.clone()) {
            Ok(()) => {
                tracing::info!(%busy_above, %idle_below, settle_s = settle.as_secs_f64(), "{what}");
                self.core.desk.reports.set_policy(&policy);
                self.core.outlooks.set_policy(&policy);
            }
            // It was checked when it was made.
            Err(error) => tracing::error!(%error, "the tuned policy is not in force"),
        }
    }
}

#[cfg(test)]
mod tests;
