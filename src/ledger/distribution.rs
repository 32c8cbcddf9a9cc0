//! How are latencies spread? A histogram of two digits that grows with its largest value, and exact counts below a few
//! bounds.
//!
//! Two digits take 1 KiB while no value exceeds 256 µs and at most 10 KiB for values up to a minute, so a node can keep
//! four for each load source.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency that is told apart, in µs; longer ones count as this. The worst case is exact all the same.
const LATENCY_US_MAX: u64 = 60_000_000;
/// A quantile is off by a hundredth at most, and never too low.
const DIGITS: u8 = 2;

/// Upper ends of the exact counts, in µs: 1, 2, 5 of each power of ten.
pub const BOUNDS_US: [u64; 20] = [
    5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000, 5_000_000, 10_000_000,
];

/// Latencies of one kind.
#[derive(Clone, Debug)]
pub struct Distribution {
    histogram: Histogram<u32>,
    /// By the bound that is not exceeded; the last holds what exceeds all.
    spread: [u64; BOUNDS_US.len() + 1],
    count: u64,
    sum: Duration,
    max: Duration,
}

/// The figures that are told of a distribution, in µs; zero when it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Half are at most this long.
    pub p50_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// 999 of 1000.
    pub p999_us: u64,
    /// All; exact.
    pub max_us: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        let histogram = Histogram::new(DIGITS).map(|mut histogram| {
            histogram.auto(true);
            histogram
        });
        Self {
            histogram: histogram.expect("2 is one of the numbers of digits that are possible, 0 to 5"),
            spread: [0; BOUNDS_US.len() + 1],
            count: 0,
            sum: Duration::ZERO,
            max: Duration::ZERO,
        }
    }
}

impl Distribution {
    /// Adds one latency. A begun microsecond counts as a whole one: rounding never flatters.
    pub fn record(&mut self, latency: Duration) {
        let us = micros(latency);
        // It grows up to the limit, so nothing below it is refused.
        let _within_bounds = self.histogram.record(us.min(LATENCY_US_MAX));
        self.spread[BOUNDS_US.partition_point(|bound| *bound < us)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(latency);
        self.max = self.max.max(latency);
    }

    /// How many were added.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// All of them together.
    pub const fn sum(&self) -> Duration {
        self.sum
    }

    /// The largest; exact.
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// The latency that `permille` of 1000 do not exceed, in µs; 0 when empty.
    pub fn permille_us(&self, permille: u16) -> u64 {
        self.histogram.value_at_quantile(f64::from(permille) / 1000.0).min(micros(self.max))
    }

    /// The figures that are told.
    pub fn figures(&self) -> Figures {
        Figures {
            p50_us: self.permille_us(500),
            p99_us: self.permille_us(990),
            p999_us: self.permille_us(999),
            max_us: micros(self.max),
        }
    }

    /// How many did not exceed each of [`BOUNDS_US`] but exceeded the one before; last, how many exceeded all. Exact.
    pub const fn spread(&self) -> &[u64; BOUNDS_US.len() + 1] {
        &self.spread
    }

    /// How many did not exceed a bound, which is one of [`BOUNDS_US`]. Exact.
    pub fn count_within(&self, bound_us: u64) -> u64 {
        let within = BOUNDS_US.partition_point(|bound| *bound <= bound_us);
        self.spread[..within].iter().sum()
    }
}

/// Whole microseconds, rounded up.
fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(latencies: &[Duration]) -> Distribution {
        let mut distribution = Distribution::default();
        latencies.iter().for_each(|latency| distribution.record(*latency));
        distribution
    }

    #[test]
    fn an_empty_distribution_tells_zeros() {
        let empty = Distribution::default();
        assert_eq!((empty.figures(), empty.count(), empty.count_within(1_000)), (Figures::default(), 0, 0));
    }

    #[test]
    fn the_worst_case_is_exact_however_long() {
        let day = of(&[Duration::from_nanos(123_456_789), Duration::from_secs(86_400)]);
        assert_eq!((day.max(), day.figures().max_us), (Duration::from_secs(86_400), 86_400_000_000));
        assert_eq!(of(&[Duration::from_nanos(123_456_789)]).figures().max_us, 123_457);
        assert_eq!(of(&[Duration::MAX]).count(), 1);
    }

    #[test]
    fn a_value_on_a_bound_is_within_it() {
        let three = of(&[4_999, 5_000, 5_001].map(Duration::from_nanos));
        assert_eq!((three.count_within(5), three.count_within(10), three.spread()[0], three.spread()[1]), (2, 3, 2, 1));
        let beyond = of(&[Duration::from_secs(11)]);
        assert_eq!((beyond.count_within(10_000_000), beyond.spread().last()), (0, Some(&1)));
    }

    #[test]
    fn a_histogram_takes_few_kibibytes() {
        let bytes = |distribution: &Distribution| distribution.histogram.distinct_values() * size_of::<u32>();
        assert!(bytes(&of(&[Duration::from_micros(200)])) <= 1024);
        assert!(bytes(&of(&[Duration::from_millis(10)])) <= 5 * 1024);
        assert!(bytes(&of(&[Duration::from_secs(1_000)])) <= 11 * 1024);
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_latencies_to_a_hundredth_and_never_lower(
            us in prop::collection::vec(prop_oneof![1_u64..300, 1_u64..20_000, 1_u64..60_000_000], 1..400),
        ) {
            let distribution = of(&us.iter().map(|us| Duration::from_micros(*us)).collect::<Vec<_>>());
            let mut sorted = us;
            sorted.sort_unstable();
            for permille in [500_u16, 900, 990, 999, 1000] {
                let rank = (sorted.len() * usize::from(permille)).div_ceil(1000).max(1);
                let exact = sorted[rank - 1];
                let told = distribution.permille_us(permille);
                prop_assert!(exact <= told && told <= exact + exact / 100 + 1, "{permille}: {exact} told as {told}");
            }
            prop_assert_eq!(distribution.figures().max_us, sorted[sorted.len() - 1]);
            prop_assert_eq!(distribution.sum(), Duration::from_micros(sorted.iter().sum()));
            for bound in BOUNDS_US {
                let exact = sorted.iter().filter(|us| **us <= bound).count() as u64;
                prop_assert_eq!(distribution.count_within(bound), exact);
            }
            prop_assert_eq!(distribution.spread().iter().sum::<u64>(), sorted.len() as u64);
        }
    }
}
