//! How long did it take, time and again? A histogram in nanoseconds, exact at its maximum.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Longest time that is told apart: ten minutes, in ns. Longer ones count as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// Digits that are kept: a value is off by a thousandth at most.
const DIGITS: u8 = 3;

/// Times of one kind.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Latencies {
    histogram: Histogram<u64>,
    max_ns: u64,
}

/// The figures of a histogram, in µs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cli) struct Figures {
    /// Half of the times are at most this long.
    pub(in crate::cli) p50_us: f64,
    /// 99 of 100.
    pub(in crate::cli) p99_us: f64,
    /// 999 of 1000.
    pub(in crate::cli) p999_us: f64,
    /// All of them.
    pub(in crate::cli) max_us: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS);
        Self { histogram: histogram.expect("the bounds are in order and 3 digits are allowed"), max_ns: 0 }
    }
}

impl Latencies {
    /// Takes in one time.
    pub(in crate::cli) fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(LATENCY_NS_MAX);
        self.histogram.saturating_record(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many there are.
    pub(in crate::cli) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The time that this share (0 to 1) of all do not exceed, in ns; 0 when there is none.
    pub(in crate::cli) fn quantile_ns(&self, share: f64) -> u64 {
        // The histogram answers with the upper end of a bucket, which may lie above every value.
        self.histogram.value_at_quantile(share).min(self.max_ns)
    }

    /// The figures; `None` when nothing was taken in.
    pub(in crate::cli) fn figures(&self) -> Option<Figures> {
        let at = |share| micros(self.quantile_ns(share));
        (self.count() > 0).then(|| Figures {
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.max_ns),
        })
    }

    /// How many lie in each of these spans of ns, lower end included, upper excluded; ascending, without gaps.
    pub(in crate::cli) fn counts(&self, edges_ns: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; edges_ns.len().saturating_sub(1)];
        for step in self.histogram.iter_recorded() {
            let above = edges_ns.partition_point(|edge| *edge <= step.value_iterated_to());
            if let Some(count) = above.checked_sub(1).and_then(|bin| counts.get_mut(bin)) {
                *count += step.count_since_last_iteration();
            }
        }
        counts
    }
}

impl Figures {
    /// As every bench prints them.
    pub(in crate::cli) fn json(&self) -> Value {
        json!({"p50_us": self.p50_us, "p99_us": self.p99_us, "p999_us": self.p999_us, "max_us": self.max_us})
    }
}

/// ns as µs.
#[expect(clippy::cast_precision_loss, reason = "exact up to 104 days")]
pub(in crate::cli) fn micros(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// Microseconds for people: three digits and a unit.
pub(in crate::cli) fn show_us(us: f64) -> String {
    let digits = |value: f64| if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    if us < 999.5 {
        format!("{us:.*} µs", digits(us))
    } else if us < 999_500.0 {
        format!("{:.*} ms", digits(us / 1e3), us / 1e3)
    } else {
        format!("{:.*} s", digits(us / 1e6), us / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ns: impl IntoIterator<Item = u64>) -> Latencies {
        let mut all = Latencies::default();
        ns.into_iter().for_each(|ns| all.record(Duration::from_nanos(ns)));
        all
    }

    #[test]
    fn the_figures_are_in_order_and_the_maximum_is_exact() {
        let figures = of((1..=10_000).map(|n| n * 1_003)).figures().unwrap();
        assert!((figures.p50_us / (5_000.0 * 1.003) - 1.0).abs() < 0.002, "{figures:?}");
        assert!((figures.p999_us / (9_990.0 * 1.003) - 1.0).abs() < 0.002, "{figures:?}");
        assert!(figures.p50_us < figures.p99_us && figures.p99_us < figures.p999_us, "{figures:?}");
        assert!((figures.max_us - 10_030.0).abs() < 1e-9, "{figures:?}");
    }

    #[test]
    fn no_quantile_exceeds_the_maximum() {
        let figures = of([123_457]).figures().unwrap();
        assert!([figures.p50_us, figures.p99_us, figures.p999_us].iter().all(|us| *us <= figures.max_us));
        assert!((figures.max_us - 123.457).abs() < 1e-9);
    }

    #[test]
    fn nothing_has_no_figures() {
        assert_eq!((of([]).figures(), of([]).quantile_ns(0.5)), (None, 0));
    }

    #[test]
    fn every_time_is_counted_in_its_span() {
        let all = of([5, 10, 99, 100, 1000, 999_999_999_999_999]);
        assert_eq!(all.counts(&[10, 100, 1000]), [2, 1]);
        assert_eq!(all.counts(&[1, u64::MAX]), [6]);
        assert_eq!(all.counts(&[]), [0_u64; 0]);
    }

    #[test]
    fn times_are_shown_with_three_digits_and_a_unit() {
        let cases = [
            (0.0, "0.00 µs"),
            (9.994, "9.99 µs"),
            (9.996, "10.0 µs"),
            (27.04, "27.0 µs"),
            (431.2, "431 µs"),
            (999.6, "1.00 ms"),
            (55_123.0, "55.1 ms"),
            (1_020_000.0, "1.02 s"),
        ];
        for (us, shown) in cases {
            assert_eq!(show_us(us), shown);
        }
    }
}
