//! How long to wait before the next connection?
//!
//! The first tries are brisk and have full jitter: a bound of 1 s, 4 s, 16 s, 60 s and any wait below it, so that a
//! thousand nodes do not come back in step. Every later wait lies in the last quarter below the longest, which still
//! spreads them over a quarter of a minute and bounds an outage to ten tries in its first five minutes: full jitter
//! alone makes fifteen of them on average. Long waits where trying again cannot help soon.

use std::time::Duration;

/// A connection that stood this long was good: the next failure is a first one.
const STABLE: Duration = Duration::from_secs(30);
/// How much longer the bound is after each failure.
const GROWTH: u32 = 4;

/// Times of the back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest wait after a first failure; four times as long with each further one.
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

    /// The same, but never a longer wait than that for a broker that is away.
    #[must_use]
    pub fn up_to(self, max: Duration) -> Self {
        Self { first: self.first.min(max), max, ..self }
    }
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
        let Backoff { first, max, auth_first, taken_over } = self.times;
        let bound = first.saturating_mul(GROWTH.saturating_pow(self.failures)).min(max);
        // Once the bound has reached the longest wait, the try after that waits most of it.
        let shortest = if self.failures > 0 && first.saturating_mul(GROWTH.saturating_pow(self.failures - 1)) >= max {
            max - max / 4
        } else {
            Duration::ZERO
        };
        self.failures = self.failures.saturating_add(1);
        match cause {
            Cause::Lost => shortest + fraction(bound - shortest, random),
            Cause::Auth => auth_first + fraction(auth_first, random),
            Cause::TakenOver => taken_over + fraction(first, random),
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

    /// Five minutes, in which an outage may cost ten tries.
    const FIRST_MINUTES: Duration = Duration::from_secs(300);
    /// What the link gives a broker to answer CONNECT.
    const CONNECT: Duration = Duration::from_secs(10);

    /// SplitMix64: evenly spread, from a seed.
    struct Spread(u64);

    impl Spread {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }
    }

    /// Moments after the loss of the broker at which one node tries, each try costing `try_for`.
    fn tries(mut random: impl FnMut() -> u64, cause: Cause, try_for: Duration) -> impl Iterator<Item = Duration> {
        let mut delays = Delays::new(Backoff::STANDARD);
        let mut ready = Duration::ZERO;
        std::iter::from_fn(move || {
            let at = ready + delays.next(cause, Duration::ZERO, random());
            ready = at + try_for;
            Some(at)
        })
    }

    fn tries_in_the_first_minutes(random: impl FnMut() -> u64, cause: Cause, try_for: Duration) -> usize {
        tries(random, cause, try_for).take_while(|at| *at <= FIRST_MINUTES).count()
    }

    #[test]
    fn the_bound_grows_to_its_maximum_and_falls_back_after_a_stable_connection() {
        let mut delays = Delays::new(Backoff::STANDARD);
        let bounds: Vec<u128> =
            (0..6).map(|_| delays.next(Cause::Lost, SHORT, u64::MAX).as_millis().div_ceil(1000)).collect();
        assert_eq!(bounds, [1, 4, 16, 60, 60, 60]);
        assert!(delays.next(Cause::Lost, STABLE, u64::MAX) <= SHORT);
        let mut delays = Delays::new(Backoff::STANDARD);
        let shortest: Vec<u64> = (0..6).map(|_| delays.next(Cause::Lost, SHORT, 0).as_secs()).collect();
        assert_eq!(shortest, [0, 0, 0, 0, 45, 45]);
    }

    #[test]
    fn a_broker_that_accepts_and_kicks_at_once_does_not_reset_the_bound() {
        let mut delays = Delays::new(Backoff::STANDARD);
        for _ in 0..10 {
            delays.next(Cause::Lost, Duration::from_millis(5), 0);
        }
        assert!(delays.next(Cause::Lost, Duration::from_millis(5), u64::MAX) > Duration::from_secs(59));
    }

    #[test]
    fn the_first_try_comes_within_a_second_and_ten_are_the_most_in_five_minutes_however_unlucky() {
        assert_eq!(tries_in_the_first_minutes(|| 0, Cause::Lost, Duration::ZERO), 10, "the most eager that can be");
        for seed in 0..2000 {
            for try_for in [Duration::ZERO, CONNECT] {
                let mut random = Spread(seed);
                let first = tries(|| random.next(), Cause::Lost, try_for).next();
                assert!(first <= Some(SHORT), "seed {seed}: {first:?}");
                let mut random = Spread(seed);
                let count = tries_in_the_first_minutes(|| random.next(), Cause::Lost, try_for);
                assert!((5..=10).contains(&count), "seed {seed}: {count} tries, each of {try_for:?}");
            }
        }
        assert!(tries_in_the_first_minutes(|| 0, Cause::Auth, Duration::ZERO) <= 10);
        assert!(tries_in_the_first_minutes(|| 0, Cause::TakenOver, Duration::ZERO) <= 5);
    }

    /// In each second since the broker came back after `outage`, how many of 500 nodes came back.
    fn returns(seed: u64, outage: Duration) -> Vec<usize> {
        let mut random = Spread(seed);
        let mut seconds = vec![0; 70];
        for _ in 0..500 {
            let back = tries(|| random.next(), Cause::Lost, Duration::ZERO).find(|at| *at >= outage).unwrap();
            seconds[usize::try_from((back - outage).as_secs()).unwrap()] += 1;
        }
        seconds
    }

    #[test]
    fn five_hundred_nodes_do_not_come_back_in_step() {
        for seed in 0..10 {
            for outage in [20, 30, 45, 60, 90, 120, 300, 600] {
                let seconds = returns(seed, Duration::from_secs(outage));
                let (peak, mut back) = (seconds.iter().max().unwrap(), 0);
                // The mean while nine of ten come back: a few stragglers would only flatter it downwards.
                let most = seconds
                    .iter()
                    .take_while(|count| {
                        back += **count;
                        back <= 450
                    })
                    .count()
                    + 1;
                assert!(
                    peak * most <= 3 * 500,
                    "seed {seed}, {outage} s down: peak of {peak} in {most} s: {seconds:?}"
                );
            }
            // Most of a short outage's nodes are still at their brisk tries, but never all at once.
            let peak = returns(seed, Duration::from_secs(5)).into_iter().max().unwrap();
            assert!(peak <= 500 / 5, "seed {seed}, 5 s down: peak of {peak}");
        }
    }

    proptest! {
        #[test]
        fn every_wait_is_within_its_bounds(random: u64, failures: u32) {
            let mut delays = Delays { times: Backoff::STANDARD, failures };
            prop_assert!(delays.clone().next(Cause::Lost, SHORT, random) <= Duration::from_secs(60));
            let auth = delays.clone().next(Cause::Auth, SHORT, random);
            prop_assert!(auth >= Duration::from_secs(30) && auth <= Duration::from_secs(60));
            let taken = delays.next(Cause::TakenOver, SHORT, random);
            prop_assert!(taken >= Duration::from_secs(60) && taken <= Duration::from_secs(61));
        }
    }
}
