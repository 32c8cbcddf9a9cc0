//! May inference run now, and on how many cores?
//!
//! Pure: imports `units` and nothing else, reads no clock; every input carries `now`.
//! Missing, late or malformed load means busy; a stop is immediate, a start is earned.

use std::time::Duration;

use crate::units::{Instant, SourceId, Utilization};

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
    /// A yield sooner than this after the start counts as flapping; as long without one halves the settle time again.
    pub flap_window: Duration,
}

/// The load of the node at one moment, already fused over all sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What is known.
    pub load: Load,
    /// Until when it may be believed; after that the load is unknown.
    pub fresh_until: Instant,
}

/// What is known about the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A trustworthy level, and the source that gave the highest.
    Level(SourceId, Utilization),
    /// The RAN missed a slot: busy whatever the level says.
    Late(SourceId),
    /// A source said something that makes no sense.
    Malformed(SourceId),
    /// A required source has gone silent.
    Stale(SourceId),
    /// No source has ever been heard.
    Unheard,
}

/// What an operator or controller asks of the governor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Run nothing until released.
    Hold,
    /// End of hold.
    Release,
    /// Run nothing any more: the agent is going away or being emptied.
    Drain,
    /// End of drain.
    Resume,
}

/// Mode of the node, as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No sample yet.
    Starting,
    /// Load is too high, or not to be trusted.
    Busy,
    /// Load is low, not yet for long enough.
    Settling,
    /// Inference may run.
    Trough,
    /// Held by order.
    Held,
    /// No trustworthy source.
    Blind,
    /// Going away.
    Draining,
}

/// Why the mode is what it is: the material of the published `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No sample yet.
    NoSampleYet,
    /// No source was ever heard, or none is left.
    NoSource,
    /// A source is silent beyond its freshness.
    Stale(SourceId),
    /// A source's message made no sense.
    Malformed(SourceId),
    /// The RAN reported late slots.
    Late(SourceId),
    /// Load at or above `busy_above`.
    Above { source: SourceId, level: Utilization, limit: Utilization },
    /// Load between the two limits after a stop.
    NotBelow { source: SourceId, level: Utilization, limit: Utilization },
    /// Low, waiting until this moment.
    Settling { until: Instant },
    /// Low for long enough.
    Low { source: SourceId, level: Utilization, limit: Utilization },
    /// By order.
    Held,
    /// By order.
    Draining,
}

/// What the shell has to do: let `budget` workers run and stop the others, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The first `budget` workers run.
    pub budget: u8,
    /// Mode to publish.
    pub mode: Mode,
    /// Why.
    pub reason: Reason,
}
