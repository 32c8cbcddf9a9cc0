//! What may run, by everything heard so far? Fusion and governor, joined.
//!
//! Pure: the sentinel thread hands in observations, orders and the time, and carries out the decisions.

use std::time::Duration;

use crate::governor::guard::{self, BadSettings, News};
use crate::governor::{BadPolicy, Decision, Governor, Load, Order, Policy, Sample};
use crate::load::fusion::{Fused, FusedLoad, Fusion, STAMP_AHEAD_MAX};
use crate::load::{Observation, Observed, Reading};
use crate::units::{Health, Instant};

/// How old a reading of health may be: what is older says nothing about what we do now.
const HEALTH_AGE_MAX: Duration = Duration::from_secs(2);

/// What the sentinel asks of a [`Governor`]. A simulation can put a broken one in its place, to prove that it would
/// notice.
pub trait Decider {
    /// See [`Governor::on_sample`].
    fn on_sample(&mut self, now: Instant, sample: Sample) -> Option<Decision>;
    /// See [`Governor::on_order`].
    fn on_order(&mut self, now: Instant, order: Order) -> Option<Decision>;
    /// See [`Governor::on_timeout`].
    fn on_timeout(&mut self, now: Instant) -> Option<Decision>;
    /// See [`Governor::set_policy`].
    ///
    /// # Errors
    /// A policy that cannot work; the old one stays.
    fn set_policy(&mut self, now: Instant, policy: Policy) -> Result<Option<Decision>, BadPolicy>;
    /// See [`Governor::on_health`].
    fn on_health(&mut self, now: Instant, figure: Health, value: u32);
    /// See [`Governor::on_work`].
    fn on_work(&mut self, now: Instant, busy: u8) -> Option<Decision>;
    /// See [`Governor::take_news`].
    fn take_news(&mut self) -> Option<News>;
    /// See [`Governor::next_timeout`].
    fn next_timeout(&self) -> Option<Instant>;
    /// See [`Governor::decision`].
    fn decision(&self) -> Decision;
    /// See [`Governor::policy`].
    fn policy(&self) -> &Policy;
}

impl Decider for Governor {
    fn on_sample(&mut self, now: Instant, sample: Sample) -> Option<Decision> {
        self.on_sample(now, sample)
    }

    fn on_order(&mut self, now: Instant, order: Order) -> Option<Decision> {
        self.on_order(now, order)
    }

    fn on_timeout(&mut self, now: Instant) -> Option<Decision> {
        self.on_timeout(now)
    }

    fn set_policy(&mut self, now: Instant, policy: Policy) -> Result<Option<Decision>, BadPolicy> {
        self.set_policy(now, policy)
    }

    fn on_health(&mut self, now: Instant, figure: Health, value: u32) {
        self.on_health(now, figure, value);
    }

    fn on_work(&mut self, now: Instant, busy: u8) -> Option<Decision> {
        self.on_work(now, busy)
    }

    fn take_news(&mut self) -> Option<News> {
        self.take_news()
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.next_timeout()
    }

    fn decision(&self) -> Decision {
        self.decision()
    }

    fn policy(&self) -> &Policy {
        self.policy()
    }
}

/// Fusion and governor, and when to ask them again.
#[derive(Debug)]
pub(crate) struct Judge<D = Governor> {
    fusion: Fusion,
    fused: Fused,
    governor: D,
    /// When to be blind if no source is heard; `None` once that is past or one was.
    blind_at: Option<Instant>,
}

impl Judge {
    /// Takes in new settings of the guard.
    ///
    /// # Errors
    /// Settings that cannot work; the old ones stay.
    pub(crate) fn set_guard(
        &mut self,
        now: Instant,
        settings: guard::Settings,
    ) -> Result<Option<Decision>, BadSettings> {
        self.governor.set_guard(now, settings)
    }
}

impl<D: Decider> Judge<D> {
    /// Nothing heard. `grace` is how long the mode is `starting` while no source is heard.
    pub(crate) fn new(now: Instant, fusion: Fusion, governor: D, grace: Duration) -> Self {
        Self { fused: fusion.current(now), fusion, governor, blind_at: Some(now.after(grace)) }
    }

    /// Takes in what a source saw, and decides at once: a peak between two low readings is a peak. As all that follow,
    /// gives the decision when its budget or mode has changed.
    pub(crate) fn on_observation(&mut self, now: Instant, observation: Observation) -> Option<Decision> {
        self.fusion.on_observation(now, observation);
        if let Ok(Reading { stamped, observed: Observed::Health { figure, value }, .. }) = observation
            && stamped
                .is_none_or(|stamped| stamped <= now.after(STAMP_AHEAD_MAX) && now.since(stamped) <= HEALTH_AGE_MAX)
        {
            self.governor.on_health(now, figure, value);
        }
        self.on_load(now)
    }

    /// Takes in how many workers have a job running.
    pub(crate) fn on_work(&mut self, now: Instant, busy: u8) -> Option<Decision> {
        self.governor.on_work(now, busy)
    }

    /// What the guard has to tell.
    pub(crate) fn take_news(&mut self) -> Option<News> {
        self.governor.take_news()
    }

    /// Asks the fusion again and decides. To be called when [`Judge::load_is_due`].
    pub(crate) fn on_load(&mut self, now: Instant) -> Option<Decision> {
        self.blind_at = None;
        self.fused = self.fusion.current(now);
        self.governor.on_sample(now, self.sample())
    }

    /// Whether time alone has changed the load: the freshness ran out, or nothing was heard for too long.
    pub(crate) fn load_is_due(&self, now: Instant) -> bool {
        self.blind_at.unwrap_or(self.fused.changes_at) <= now
    }

    /// Lets time pass for the governor: settle time, raises.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> Option<Decision> {
        let due = self.governor.next_timeout().is_some_and(|at| at <= now);
        due.then(|| self.governor.on_timeout(now)).flatten()
    }

    /// Takes in an order.
    pub(crate) fn on_order(&mut self, now: Instant, order: Order) -> Option<Decision> {
        self.governor.on_order(now, order)
    }

    /// Takes in a new policy.
    ///
    /// # Errors
    /// A policy that cannot work; the old one stays.
    pub(crate) fn set_policy(&mut self, now: Instant, policy: Policy) -> Result<Option<Decision>, BadPolicy> {
        self.governor.set_policy(now, policy)
    }

    /// When to ask again at the latest: the load, then the governor.
    pub(crate) fn next_moment(&self) -> Instant {
        let load = self.blind_at.unwrap_or(self.fused.changes_at);
        self.governor.next_timeout().map_or(load, |timeout| timeout.min(load))
    }

    /// The load as it was fused last.
    pub(crate) fn fused(&self) -> Fused {
        self.fused
    }

    /// The decision in force.
    pub(crate) fn decision(&self) -> Decision {
        self.governor.decision()
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> &Policy {
        self.governor.policy()
    }

    /// The fused load as the governor takes it.
    fn sample(&self) -> Sample {
        let Fused { load, fresh_until, received, .. } = self.fused;
        match load {
            FusedLoad::Level(source, level) => Sample { load: Load::Level(source, level), fresh_until },
            FusedLoad::Late(source) => Sample { load: Load::Late(source), fresh_until },
            FusedLoad::Malformed(source) => Sample { load: Load::Malformed(source), fresh_until },
            // While another source is fresh the node is busy, then it is blind.
            FusedLoad::Stale(source) => {
                Sample { load: Load::Stale(source), fresh_until: self.fusion.silent_from().unwrap_or(received) }
            }
            FusedLoad::Unheard => Sample { load: Load::Unheard, fresh_until },
        }
    }
}

#[cfg(test)]
mod tests;
