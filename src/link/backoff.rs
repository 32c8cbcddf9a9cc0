//! How long to wait before the next connection?
//!
//! Full jitter, so that a thousand nodes do not come back in step; long waits where trying again cannot help soon.

use std::time::Duration;

/// A connection that stood this long was good: the next failure is a first one.
const STABLE: Duration = Duration::from_secs(30);

/// Times of the back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest wait after a first failure; doubles with each further one.
    pub first: Duration,
    /// Longest wait of all.
    pub max: Duration,
    /// Shortest wait when the broker does not let us in.
    pub auth_first: Duration,
    /// Shortest wait when another client took the session.
    pub taken_over: Duration,
}

impl Backoff {
    /// The usual times.
    pub const STANDARD: Self = Self {
        first: Duration::from_secs(1),
        max: Duration::from_secs(60),
        auth_first: Duration::from_secs(30),
        taken_over: Duration::from_secs(60),
    };
}

/// Why a connection ended, as far as the next one is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Not reached, or lost.
    Lost,
    /// Name, password, certificate or ACL.
    Auth,
    /// Another client uses our client id.
    TakenOver,
}

/// Counts failures and says how long to wait.
#[derive(Clone, Debug)]
pub struct Delays {
    times: Backoff,
    failures: u32,
}

impl Delays {
    /// No failure yet.
    pub const fn new(times: Backoff) -> Self {
        Self { times, failures: 0 }
    }

    /// How long to wait after a connection that failed for `cause` and had stood for `up_for`; `random` is any number,
    /// evenly spread.
    pub fn next(&mut self, cause: Cause, up_for: Duration, random: u64) -> Duration {
        if up_for >= STABLE {
            self.failures = 0;
        }
        let doubled = self.times.first.saturating_mul(1 << self.failures.min(20)).min(self.times.max);
        self.failures = self.failures.saturating_add(1);
        match cause {
            Cause::Lost => fraction(doubled, random),
            Cause::Auth => self.times.auth_first + fraction(self.times.auth_first, random),
            Cause::TakenOver => self.times.taken_over + fraction(self.times.first, random),
        }
    }
}

/// `random / 2^64` of `span`.
pub(super) fn fraction(span: Duration, random: u64) -> Duration {
    let nanos = (span.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn the_bound_doubles_to_its_maximum_and_falls_back_after_a_stable_connection() {
        let mut delays = Delays::new(Backoff::STANDARD);
        let bounds: Vec<u128> =
            (0..9).map(|_| delays.next(Cause::Lost, SHORT, u64::MAX).as_millis().div_ceil(1000)).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(delays.next(Cause::Lost, STABLE, u64::MAX) <= SHORT);
    }

    #[test]
    fn a_broker_that_accepts_and_kicks_at_once_does_not_reset_the_bound() {
        let mut delays = Delays::new(Backoff::STANDARD);
        for _ in 0..10 {
            delays.next(Cause::Lost, Duration::from_millis(5), 0);
        }
        assert!(delays.next(Cause::Lost, Duration::from_millis(5), u64::MAX) > Duration::from_secs(59));
    }

    proptest! {
        #[test]
        fn every_wait_is_within_its_bounds(random: u64, failures in 0_u32..100) {
            let mut delays = Delays { times: Backoff::STANDARD, failures };
            prop_assert!(delays.clone().next(Cause::Lost, SHORT, random) <= Duration::from_secs(60));
            let auth = delays.clone().next(Cause::Auth, SHORT, random);
            prop_assert!(auth >= Duration::from_secs(30) && auth <= Duration::from_secs(60));
            let taken = delays.next(Cause::TakenOver, SHORT, random);
            prop_assert!(taken >= Duration::from_secs(60) && taken <= Duration::from_secs(61));
        }
    }
}
