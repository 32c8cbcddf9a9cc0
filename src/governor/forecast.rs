//! What load comes next, and how much core time will it leave?
//!
//! Only ever used to admit or delay work: nothing here starts or stops inference, and the [`Governor`](super::Governor)
//! does not know of it. Pure: time is an argument, and a moment that cannot be right changes nothing.
//!
//! # How it forecasts
//!
//! Time goes in steps of two minutes of UTC: a UTC day always has 720 of them, so that the change to summer time moves
//! what people do by an hour, which is learned again like any other change, and breaks nothing. Four methods say what
//! the level of a coming step will be:
//!
//! | method | what it says |
//! |---|---|
//! | persistence | as now |
//! | seasonal | as yesterday at that time |
//! | EWMA | the recent level, smoothed over an hour |
//! | profile | what is usual at that time of day, and of the present deviation as much as is usually left by then |
//!
//! The profile is the median of the last [`DAYS_MAX`] days around each ten minutes; deviations are taken in logarithms,
//! because the load of a cell is a profile times a log-normal factor; what is left of a deviation is learned for each
//! horizon. The median is what makes the mean absolute error least.
//!
//! # How it knows how good it is
//!
//! Whatever was forecast at the [`HORIZONS`] is compared with what came. For each horizon the method with the least
//! recent error is used; persistence is the floor: another one must have been better than it over two days, and not
//! much worse over the last hours.
//!
//! # How it tells free core time
//!
//! A governor of its own follows the load and tells which share of each step it would have let inference run. The
//! quantiles of a coming span are those of the same span on the days remembered; days on which the load was then as it
//! is now count for more, by as much as the present says about that span at all.

mod analogs;
mod days;
mod gather;
mod methods;
mod numbers;
mod profile;
mod scores;
mod shadow;
mod snapshot;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use days::DAYS_MAX;
pub use methods::Method;
pub use numbers::{STEP, STEPS_A_DAY};
pub use scores::{HORIZONS, Score};
pub use snapshot::{BadSnapshot, SNAPSHOT_BYTES_MAX, sealed};

use super::{BadPolicy, Policy};
use crate::units::outlook::{Free, Outlook, SPANS_MAX};
use crate::units::{Utilization, WallTime};
use days::{Days, Entry};
use gather::{Closed, Gather};
use methods::{Origin, Trend};
use numbers::{Step, is_likely, level_of, minute, time_of_day, utilization};
use profile::Profile;
use scores::Scores;

/// Shortest and longest span of an outlook.
pub const SPAN_MIN: Duration = Duration::from_secs(5 * 60);
/// See [`SPAN_MIN`].
pub const SPAN_MAX: Duration = Duration::from_secs(60 * 60);
/// Furthest an outlook may reach: what is a day away is not known better than the usual day.
pub const HORIZON_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How the forecast is made and told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What the governor would do about the load.
    pub policy: Policy,
    /// How far an outlook reaches: up to [`HORIZON_MAX`].
    pub horizon: Duration,
    /// Length of each of its spans: [`SPAN_MIN`] to [`SPAN_MAX`].
    pub span: Duration,
}

impl Settings {
    /// The next twelve hours in quarters of an hour.
    pub const fn new(policy: Policy) -> Self {
        Self { policy, horizon: Duration::from_secs(12 * 60 * 60), span: Duration::from_secs(15 * 60) }
    }
}

/// Learns the load of a node, and forecasts it. See the module for how.
#[derive(Clone, Debug)]
pub struct Forecast {
    settings: Settings,
    gather: Gather,
    days: Days,
    profile: Profile,
    trend: Trend,
    scores: Scores,
    /// The last step that closed.
    last: Option<Step>,
}

impl Forecast {
    /// A forecast that has seen nothing. Horizon and span are taken at their nearest limit.
    ///
    /// # Errors
    /// A policy that cannot work.
    pub fn new(settings: Settings) -> Result<Self, BadPolicy> {
        let gather = Gather::new(settings.policy.clone())?;
        Ok(Self {
            settings,
            gather,
            days: Days::default(),
            profile: Profile::default(),
            trend: Trend::default(),
            scores: Scores::default(),
            last: None,
        })
    }

    /// The governor's policy was changed: what would have been free under it is worked out again from what is
    /// remembered, and counts too little rather than too much.
    ///
    /// # Errors
    /// A policy that cannot work; the old one stays.
    pub fn set_policy(&mut self, policy: &Policy) -> Result<(), BadPolicy> {
        if *policy != self.settings.policy {
            self.gather.set_policy(policy)?;
            self.settings.policy = policy.clone();
            self.days.judge_again(policy)?;
        }
        Ok(())
    }

    /// Takes in the load at a moment; it holds until the next one, but no longer than two steps.
    ///
    /// A moment that is out of line (before the last one, or more than a day after it) is left out, until the new line
    /// has gone on for ten minutes: then the clock was set.
    pub fn on_load(&mut self, at: WallTime, level: Utilization) {
        let heard = self.gather.on_load(at, level);
        self.take(heard);
    }

    /// Takes in that the load is not known from this moment on: the last level holds no longer.
    pub fn on_silence(&mut self, at: WallTime) {
        let heard = self.gather.on_silence(at);
        self.take(heard);
    }

    /// Takes in what somebody else has counted for a past period (a PM file, a controller's report), so that the usual
    /// day is known sooner. It is never scored, and never outranks what was measured here.
    ///
    /// `false` when nothing of it was new: it begins in the future of `now`, lies further back than what is remembered,
    /// is shorter than a step, was measured here, or is no higher than what was told of that time before.
    pub fn on_history(&mut self, now: WallTime, from: WallTime, span: Duration, level: Utilization) -> bool {
        let first = Step::containing(from.after(STEP.saturating_sub(Duration::from_millis(1))));
        let end = Step::containing(from.after(span.min(HORIZON_MAX))).min(Step::containing(now));
        let entry = Entry::told(level, level < self.settings.policy.idle_below);
        let today = Step::containing(now).day();
        let (mut taken, mut step) = (false, first);
        while step < end && is_likely(now) && is_likely(from) {
            taken |= self.days.put_told(today, step, entry);
            step = step.later(1);
        }
        if taken {
            self.profile.is_outdated();
        }
        taken
    }

    fn take(&mut self, heard: gather::Heard) {
        if heard.restarted {
            self.trend = Trend::default();
            self.last = None;
        }
        heard.closed.into_iter().flatten().for_each(|closed| self.close(closed));
    }

    /// A step has ended: what was forecast for it is scored, it is remembered, and forecasts are made from it.
    fn close(&mut self, closed: Closed) {
        let Closed { step, entry } = closed;
        let level = f64::from(entry.mean);
        self.days.put(step, entry);
        self.profile.on_step(step, &self.days);
        self.trend.on_step(step, level);
        let deviation = self.profile.deviation(step, level);
        self.scores.settle(step, level, deviation);
        let origin = self.origin(step, level);
        for index in 0..HORIZONS.len() {
            let target = step.later(scores::STEPS_AHEAD[index]);
            let said = Method::ALL.map(|method| self.say(method, &origin, target));
            self.scores.issue(index, target, said, deviation);
        }
        self.last = Some(step);
    }

    fn origin(&self, step: Step, level: f64) -> Origin {
        Origin { step, level, trend: self.trend.as_of(step, level), deviation: self.profile.deviation(step, level) }
    }

    /// What a method says about a step, in permille.
    fn say(&self, method: Method, origin: &Origin, target: Step) -> Option<f64> {
        match method {
            Method::Persistence => Some(origin.level),
            Method::Seasonal => self.days.same_time_before(origin.step, target).map(|entry| f64::from(entry.mean)),
            Method::Ewma => Some(level_of(origin.trend)),
            Method::Profile => {
                let left = self.scores.left_of_deviation(target.since(origin.step));
                Some(level_of(self.profile.usual(target)? + left * origin.deviation?))
            }
        }
    }

    /// The level in so long a time from the last load; `None` when there was none. The median of what may come.
    pub fn predict(&self, horizon: Duration) -> Option<Utilization> {
        let (step, level) = self.gather.present()?;
        let steps = numbers::steps(horizon.min(HORIZON_MAX));
        if steps == 0 {
            return Some(utilization(level));
        }
        let origin = self.origin(step, level);
        let said = self.say(self.scores.used(steps), &origin, step.later(steps));
        Some(utilization(said.unwrap_or(level)))
    }

    /// Free core time of the next hours, from the step of `now` on. Without anything learned nothing is promised: the
    /// lower quantiles are zero.
    pub fn outlook(&self, now: WallTime) -> Outlook {
        let Settings { policy, horizon, span } = &self.settings;
        let span = (*span).clamp(SPAN_MIN, SPAN_MAX);
        let count = horizon.min(&HORIZON_MAX).as_millis() / span.as_millis();
        let count = usize::try_from(count).unwrap_or(SPANS_MAX).clamp(1, SPANS_MAX);
        let begin = Step::containing(now);
        // A present that is not of now says nothing.
        let present = self.gather.present_free().filter(|present| begin.since(present.step) <= 2);
        let deviation = present.and_then(|present| self.profile.deviation(present.step, present.level));
        let asked = analogs::Asked {
            begin,
            span: minute(span),
            count,
            present: present.map(|present| (deviation, present.free)),
            spread: self.scores.spread(),
        };
        let shares =
            analogs::quantiles(&self.days, &self.profile, &asked, |steps| self.scores.left_of_deviation(steps));
        let whole = span * u32::from(policy.workers);
        let free = |[p10, p50, p90]: [f64; 3]| Free {
            p10: whole.mul_f64(p10),
            p50: whole.mul_f64(p50),
            p90: whole.mul_f64(p90),
        };
        Outlook::new(begin.begin(), span, shares.into_iter().map(free).collect())
    }

    /// How good the forecast has been of late, by horizon.
    pub fn scores(&self) -> [Score; HORIZONS.len()] {
        self.scores.told()
    }

    /// Days of which anything is remembered.
    pub fn days_known(&self) -> usize {
        self.days.count()
    }

    /// The settings in force.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Time of day of a moment, in steps: 0 to 719. UTC.
    pub fn time_of_day(at: WallTime) -> usize {
        time_of_day(Step::containing(at))
    }
}
