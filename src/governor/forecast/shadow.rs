//! What would the governor give? One of its own follows the load, and its budget is counted over time.

use std::time::Duration;

use super::super::{BadPolicy, Governor, Load, Policy, Sample};
use super::numbers::{STEP, real, whole};
use crate::units::{Instant, SourceId, Utilization, WORKERS_MAX};

/// A level holds for so long at most when no other follows.
pub(super) const HOLD: Duration = STEP.saturating_mul(2);
/// Who says so: nobody asks.
const SOURCE: SourceId = SourceId(0);

/// A governor whose decisions nobody carries out.
#[derive(Clone, Debug)]
pub(super) struct Shadow {
    governor: Governor,
    at: Instant,
}

impl Shadow {
    pub(super) fn new(policy: Policy) -> Result<Self, BadPolicy> {
        Ok(Self { governor: Governor::new(policy)?, at: Instant::default() })
    }

    pub(super) fn set_policy(&mut self, policy: &Policy) -> Result<(), BadPolicy> {
        self.governor.set_policy(self.at, policy.clone()).map(drop)
    }

    /// The level from this moment on.
    pub(super) fn on_level(&mut self, at: Instant, level: Utilization) {
        self.governor.on_sample(at, Sample { load: Load::Level(SOURCE, level), fresh_until: at.after(HOLD) });
    }

    /// Nothing is known from this moment on.
    pub(super) fn on_silence(&mut self, at: Instant) {
        self.governor.on_sample(at, Sample { load: Load::Stale(SOURCE), fresh_until: at });
    }

    /// Core time that was given from the last such moment until this one.
    pub(super) fn run_until(&mut self, at: Instant) -> Duration {
        let mut given = Duration::ZERO;
        // Freshness, settle time, and one rise for each worker: no more can be due.
        for _ in 0..WORKERS_MAX + 4 {
            let Some(due) = self.governor.next_timeout().filter(|due| *due <= at) else { break };
            given += self.given_until(due);
            self.governor.on_timeout(due);
        }
        given + self.given_until(at)
    }

    fn given_until(&mut self, at: Instant) -> Duration {
        let span = at.since(self.at);
        self.at = self.at.max(at);
        span * u32::from(self.governor.decision().budget)
    }

    /// Core time as a share of what all workers have in a span, in permille.
    pub(super) fn share(&self, given: Duration, span: Duration) -> u16 {
        let all = span.as_secs_f64() * f64::from(self.governor.policy().workers);
        if all > 0.0 { whole(given.as_secs_f64() / all * real(1000)) } else { 0 }
    }
}
