//! Counters of a node since its start, `up/metrics`.

use serde::{Deserialize, Serialize};

use super::{BadMessage, parse, render, time};
use crate::units::WallTime;

/// Counters since the session began. Latencies in microseconds, from the sample's stamp to the confirmed stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// The run of the agent they belong to.
    pub session: String,
    /// Yields of at least one worker.
    pub yields: u64,
    /// Median yield latency.
    pub yield_p50_us: u64,
    /// 99th percentile.
    pub yield_p99_us: u64,
    /// Worst case.
    pub yield_max_us: u64,
    /// CPU time that workers used between the decision to stop and the confirmed stop, by their own clocks.
    pub cpu_after_stop_us: u64,
    /// Reports that the broker refused.
    pub messages_refused: u64,
    /// Telemetry dropped because the link was slow.
    pub telemetry_dropped: u64,
    /// Reports of the sentinel dropped because the agent was slow.
    pub reports_overflowed: u64,
    /// How often workers stopped themselves because the sentinel was silent. Older nodes do not tell.
    #[serde(default)]
    pub workers_parked: u64,
    /// When.
    #[serde(with = "time::required")]
    pub at: WallTime,
}

impl Metrics {
    /// The body.
    pub fn render(&self) -> Vec<u8> {
        render(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is not a set of counters.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        parse("metrics", body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive() {
        let metrics = Metrics {
            session: "s".to_owned(),
            yields: 3,
            yield_p50_us: 40,
            yield_p99_us: 90,
            yield_max_us: 91,
            cpu_after_stop_us: 70,
            messages_refused: 0,
            telemetry_dropped: 1,
            reports_overflowed: 2,
            workers_parked: 3,
            at: WallTime::from_millis(1_000),
        };
        assert_eq!(Metrics::parse(&metrics.render()).unwrap(), metrics);
        assert!(Metrics::parse(b"{}").is_err());
    }
}
