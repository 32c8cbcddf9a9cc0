//! How busy is the radio? One file per source, [`fusion`] joins them.
//!
//! A source turns something outside (a socket, `/proc`, a recording) into [`Reading`]s. It never decides.

pub mod fusion;
pub mod host;
pub mod procfs;
pub mod push;
pub mod trace;

use std::os::fd::BorrowedFd;

use crate::units::{CellId, Instant, SourceId, Utilization};

/// One observation of one cell (or of the host: cell 0) by one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which source.
    pub source: SourceId,
    /// Which cell.
    pub cell: CellId,
    /// When it was measured, by the source's own stamp on this host's monotonic clock.
    pub stamped: Option<Instant>,
    /// What was measured.
    pub observed: Observed,
}

/// What a source saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Load level by metric, and the source's running count of late or missed slots, when it has one.
    Level {
        /// Which figure.
        metric: Metric,
        /// How high.
        level: Utilization,
        /// Late or missed slots since the RAN started.
        late: Option<u64>,
    },
    /// The running count of late or missed slots alone. Says nothing about the level, so it keeps no level fresh.
    Late {
        /// Late or missed slots since the RAN started.
        count: u64,
    },
    /// The cell was taken out of service by its RAN: it no longer counts.
    Gone,
}

/// Which figure a level is, under its published name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Downlink PRB usage, `RRU.PrbTotDl` (3GPP TS 28.552 §5.1.1.2.1).
    PrbTotDl,
    /// Uplink PRB usage, `RRU.PrbTotUl` (3GPP TS 28.552 §5.1.1.2.2).
    PrbTotUl,
    /// CPU time of the RAN.
    Cpu,
    /// Count of late or missed slots.
    Late,
    /// None: nothing readable was heard.
    Unknown,
}

impl Metric {
    /// The published name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PrbTotDl => "RRU.PrbTotDl",
            Self::PrbTotUl => "RRU.PrbTotUl",
            Self::Cpu => "cpu",
            Self::Late => "late",
            Self::Unknown => "unknown",
        }
    }
}

/// A message or file that made no sense: counts as busy until the source's next good reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Which source.
    pub source: SourceId,
    /// Why, for the log; static so that the hot path does not allocate.
    pub why: &'static str,
}

/// What a source hands over.
pub type Observation = Result<Reading, Malformed>;

/// A load source, driven by the sentinel thread.
///
/// After construction no method allocates, locks or logs.
pub trait Source: Send {
    /// Readable when observations wait; `None` for polled sources.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// When to call [`Source::read`] next; `None` for event-driven sources.
    fn next_poll(&self) -> Option<Instant>;

    /// Hands every waiting observation to `sink`, at most 64 a call; never blocks.
    fn read(&mut self, now: Instant, sink: &mut dyn FnMut(Observation));
}
