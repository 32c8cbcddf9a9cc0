//! How fast were the yields of a node? Latencies by source, the worst case, and the whole ledger for `neap yields`.

use serde::{Deserialize, Serialize};

use super::event::{YieldEvent, YieldWire};
use super::metrics::Metrics;
use super::{BadMessage, parse, render, time};
use crate::units::WallTime;

const WHAT: &str = "ledger of yields";

/// What delayed a slow yield, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseReport {
    /// In one word, e.g. `waited_for_core`.
    pub cause: String,
    /// What it certainly cost.
    pub least_us: u64,
    /// What it can have cost.
    pub most_us: u64,
}

/// Figures of one part of the latency, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Worst case.
    pub max_us: u64,
}

/// Latencies of the yields that one source asked for, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latencies {
    /// Name of the source; `order` for holds and drains, `all` for all together.
    pub source: String,
    /// How many yields.
    pub yields: u64,
    /// Sample's stamp to receipt.
    pub detect: Latency,
    /// Receipt to decision.
    pub decide: Latency,
    /// Decision to confirmed stop.
    pub stop: Latency,
    /// All of it.
    pub total: Latency,
}

/// Slow yields (above half a millisecond), by how well they are explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowYields {
    /// Exact clocks cover nearly all of it.
    pub explained: u64,
    /// Something was counted that can have cost it.
    pub possible: u64,
    /// Nothing was.
    pub unexplained: u64,
}

impl SlowYields {
    /// All of them.
    pub const fn all(&self) -> u64 {
        self.explained + self.possible + self.unexplained
    }

    pub(super) const fn none(&self) -> bool {
        self.all() == 0
    }
}

/// A yield inside another message: the body of its event.
pub(super) mod worst {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de};

    use super::{YieldEvent, YieldWire};

    pub(in super::super) fn serialize<S: Serializer>(event: &Option<YieldEvent>, to: S) -> Result<S::Ok, S::Error> {
        event.clone().map(YieldEvent::into_wire).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<YieldEvent>, D::Error> {
        let wire = Option::<YieldWire>::deserialize(from)?;
        wire.map(|wire| YieldEvent::from_wire(super::WHAT, wire)).transpose().map_err(de::Error::custom)
    }
}

/// The ledger as the status socket tells it, `GET /yields`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Yields {
    /// `site/name` of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Since when it counts.
    #[serde(with = "time::required")]
    pub since: WallTime,
    /// How fast a yield can be: scheduling class of the sentinel.
    pub yield_class: String,
    /// Whether the agent's memory is locked, so that no page of the yield path can be missing.
    pub memory_locked: bool,
    /// All yields together.
    pub all: Latencies,
    /// Whole latencies: `[upper end in us, yields up to it and above the one before]`, empty ones left out. The last
    /// has no upper end: `null`.
    pub spread: Vec<(Option<u64>, u64)>,
    /// The body of `up/metrics`.
    pub metrics: Metrics,
}

impl Yields {
    /// The body.
    pub fn render(&self) -> Vec<u8> {
        render(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is not a ledger.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        parse(WHAT, body)
    }
}
