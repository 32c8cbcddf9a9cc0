//! How does the governor decide? The figures an operator may set, and which of them make sense together.

use std::time::Duration;

use crate::units::{Utilization, WORKERS_MAX};

/// Shortest settle time: below it every dip of the load would start inference.
pub const SETTLE_MIN: Duration = Duration::from_millis(1);

/// How the governor decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Workers that may run in a trough, 1 to `WORKERS_MAX`.
    pub workers: u8,
    /// Load at or above this stops inference at once.
    pub busy_above: Utilization,
    /// Load must stay below this for the settle time before inference starts; at most `busy_above`.
    pub idle_below: Utilization,
    /// Settle time when calm.
    pub settle: Duration,
    /// Longest settle time: it doubles with each yield that follows a start within `flap_window`.
    pub settle_max: Duration,
    /// A yield sooner than this after the start counts as flapping; each such span in one trough halves the settle
    /// time again.
    pub flap_window: Duration,
    /// A trough begins with one worker; one more may run each time this has passed. Zero: all at once.
    pub raise_every: Duration,
}

/// Figures that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPolicy {
    /// No worker, or more than the tables hold.
    #[error("workers is {0}, but must be 1 to {WORKERS_MAX}")]
    Workers(u8),
    /// Nothing is below zero.
    #[error("idle_below is 0 %, so inference could never start; give at least 0.1 %")]
    NeverIdle,
    /// The band between the limits is upside down.
    #[error("idle_below is {idle_below}, but must not exceed busy_above, which is {busy_above}")]
    LimitsCrossed {
        /// Limit for a start.
        idle_below: Utilization,
        /// Limit for a stop.
        busy_above: Utilization,
    },
    /// Every dip would start inference.
    #[error("settle is {} µs, but must be at least {} µs", .0.as_micros(), SETTLE_MIN.as_micros())]
    SettleTooShort(Duration),
    /// Settings of the guard that cannot work.
    #[error(transparent)]
    Guard(#[from] super::guard::BadSettings),
    /// The longest settle time is shorter than the calm one.
    #[error("settle_max is {} ms, but must be at least settle, which is {} ms", .settle_max.as_millis(), .settle.as_millis())]
    SettleCrossed {
        /// Settle time when calm.
        settle: Duration,
        /// Longest settle time.
        settle_max: Duration,
    },
}

impl Policy {
    /// Checks every figure, and how they go together.
    ///
    /// # Errors
    /// The first figure that cannot work.
    pub fn check(&self) -> Result<(), BadPolicy> {
        let Self { workers, busy_above, idle_below, settle, settle_max, flap_window: _, raise_every: _ } = *self;
        if workers == 0 || usize::from(workers) > WORKERS_MAX {
            return Err(BadPolicy::Workers(workers));
        }
        if idle_below == Utilization::IDLE {
            return Err(BadPolicy::NeverIdle);
        }
        if idle_below > busy_above {
            return Err(BadPolicy::LimitsCrossed { idle_below, busy_above });
        }
        if settle < SETTLE_MIN {
            return Err(BadPolicy::SettleTooShort(settle));
        }
        if settle_max < settle {
            return Err(BadPolicy::SettleCrossed { settle, settle_max });
        }
        Ok(())
    }
}

/// The settle time in force: grows when the load flaps, shrinks when troughs last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settle(Duration);

impl Settle {
    pub(super) fn new(policy: &Policy) -> Self {
        Self(policy.settle)
    }

    pub(super) fn current(self) -> Duration {
        self.0
    }

    /// Takes in how long a trough lasted that the load has ended.
    pub(super) fn on_yield(&mut self, policy: &Policy, lasted: Duration) {
        if lasted < policy.flap_window {
            self.0 = self.0.saturating_mul(2);
        } else {
            let calm = lasted.as_nanos().checked_div(policy.flap_window.as_nanos());
            // 64 halvings take every duration of this crate to the minimum.
            let halvings = calm.map_or(64, |spans| u32::try_from(spans).unwrap_or(64).min(64));
            for _ in 0..halvings {
                self.0 /= 2;
            }
        }
        self.limit(policy);
    }

    /// Keeps within the policy, after a change of either.
    pub(super) fn limit(&mut self, policy: &Policy) {
        self.0 = self.0.clamp(policy.settle, policy.settle_max);
    }
}
