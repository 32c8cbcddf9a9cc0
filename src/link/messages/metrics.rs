//! Counters of a node since its start, `up/metrics`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::YieldEvent;
use super::guard::GuardState;
use super::yields::{self, Latencies, SlowYields};
use super::{BadMessage, parse, render, time};
use crate::units::WallTime;

/// Counters since the session began. Latencies in microseconds, from the sample's stamp to the confirmed stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The run of the agent they belong to.
    pub session: String,
    /// Yields of at least one worker.
    pub yields: u64,
    /// Median yield latency.
    pub yield_p50_us: u64,
    /// 99th percentile.
    pub yield_p99_us: u64,
    /// 99.9th percentile.
    #[serde(default)]
    pub yield_p999_us: u64,
    /// Worst case.
    pub yield_max_us: u64,
    /// CPU time that workers used between the decision to stop and the confirmed stop, by their own clocks.
    pub cpu_after_stop_us: u64,
    /// Workers that did not have to be stopped, because they got no core any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub displaced: u64,
    /// Workers whose cgroup was frozen, because they still ran some time after their signals.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frozen: u64,
    /// Yields by reason, in one word; reasons that never came are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
    /// Yields above half a millisecond, by how well they are explained.
    #[serde(default, skip_serializing_if = "SlowYields::none")]
    pub slow: SlowYields,
    /// Latencies by source; those that never asked are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Latencies>,
    /// The slowest yield, as its event told it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "yields::worst")]
    pub worst: Option<YieldEvent>,
    /// Reports that the broker refused.
    pub messages_refused: u64,
    /// Telemetry dropped because the link was slow or the outbox full.
    pub telemetry_dropped: u64,
    /// Reports of the sentinel dropped because the agent was slow.
    pub reports_overflowed: u64,
    /// How often workers stopped themselves because the sentinel was silent. Older nodes do not tell.
    #[serde(default)]
    pub workers_parked: u64,
    /// Where the harm guard stands. Older nodes do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardState>,
    /// When.
    #[serde(with = "time::required")]
    pub at: WallTime,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
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
            yield_p999_us: 91,
            yield_max_us: 91,
            cpu_after_stop_us: 70,
            displaced: 0,
            frozen: 0,
            reasons: BTreeMap::new(),
            slow: SlowYields::default(),
            sources: Vec::new(),
            worst: None,
            messages_refused: 0,
            telemetry_dropped: 1,
            reports_overflowed: 2,
            workers_parked: 3,
            guard: None,
            at: WallTime::from_millis(1_000),
        };
        assert_eq!(Metrics::parse(&metrics.render()).unwrap(), metrics);
        let text = String::from_utf8(metrics.render()).unwrap();
        for absent in ["displaced", "frozen", "reasons", "slow", "sources", "worst"] {
            assert!(!text.contains(absent), "nothing to tell of {absent}, but told: {text}");
        }
        let full = Metrics {
            displaced: 1,
            frozen: 1,
            reasons: BTreeMap::from([("above".to_owned(), 3)]),
            slow: SlowYields { explained: 1, possible: 0, unexplained: 0 },
            sources: vec![Latencies { source: "push".to_owned(), yields: 3, ..Latencies::default() }],
            worst: Some(YieldEvent {
                source: "push".to_owned(),
                reason: "above".to_owned(),
                metric: "RRU.PrbTotDl".to_owned(),
                value: crate::units::Utilization::from_percent(71),
                threshold: None,
                detect_us: 1,
                decide_us: 2,
                stop_us: 588,
                total_us: 591,
                workers: 1,
                displaced: 0,
                frozen: 0,
                cpu_after_us: Some(3),
                causes: vec![yields::CauseReport { cause: "steal".to_owned(), least_us: 0, most_us: 500 }],
                explained_permille: Some(0),
                jobs: Vec::new(),
                at: WallTime::from_millis(1),
            }),
            ..metrics
        };
        assert_eq!(Metrics::parse(&full.render()).unwrap(), full);
        assert!(Metrics::parse(b"{}").is_err());
    }
}
