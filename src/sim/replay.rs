//! What would the node have made of that load? Governor and queue on a recording, in virtual time.
//!
//! Pure: time is the recording's. The real fusion, governor and table of jobs decide; what the sentinel's thread does
//! with them is told once more, in its order: what is heard first, then what time alone changes. Nothing is slept, so a
//! day takes milliseconds.
//!
//! Each cell of a recording is a node of its own, or all cells are one node and the highest counts. Nodes know nothing
//! of one another. Every configuration gets the same readings and has nodes and sums of its own.

pub mod account;
pub mod foresee;
pub mod mix;
mod node;
pub mod picture;
pub mod plain;
#[cfg(test)]
mod tests;
pub mod work;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::node::freshness;

use self::account::Totals;
use self::mix::Stream;
use self::node::Node;
use self::picture::Picture;
use crate::governor::forecast::{self, Forecast};
use crate::governor::{BadPolicy, Governor, Policy};
use crate::load::Reading;
use crate::units::{CELLS_MAX, CellId, Instant, WallTime};

/// Most nodes at once.
pub const NODES_MAX: usize = 2_000;
/// Most configurations at once.
pub const SETUPS_MAX: usize = 16;
/// A recording that begins later than this counts seconds since 1970; others count from a midnight.
const EPOCH_FROM: Duration = Duration::from_secs(100_000_000);
/// The midnight from which the others count: Monday, 5 January 2026, UTC.
const MIDNIGHT: Duration = Duration::from_secs(1_767_571_200);

/// One configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// What it is called.
    pub name: String,
    /// How the governor decides.
    pub policy: Policy,
    /// For how long a reading is believed.
    pub freshness: Duration,
    /// For how long a job keeps a worker that stands.
    pub evict_after: Duration,
    /// Most jobs that wait or run on a node.
    pub open_max: usize,
}

/// What is replayed.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// At most [`SETUPS_MAX`].
    pub setups: Vec<Setup>,
    /// Whether all cells of a recording are one node.
    pub fuse: bool,
    /// Time of the day at the zero of a recording that does not count since 1970.
    pub starts: Duration,
    /// Whether the load is forecast.
    pub foresee: bool,
    /// Which jobs come to every node.
    pub streams: Vec<Stream>,
}

/// More cells than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// Nodes.
    #[error("more than {NODES_MAX} cells at once: cut the recording by cells into parts")]
    Nodes,
    /// Cells of one node.
    #[error("more than {CELLS_MAX} cells, which is what a load source of one node can have: replay without --fuse")]
    Cells,
}

/// From the recording's time to the wall's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Wall time at the recording's zero, since 1970.
    zero: Duration,
}

impl Clock {
    /// Of a recording that begins at `first`.
    fn of(first: Duration, starts: Duration) -> Self {
        if first >= EPOCH_FROM { Self::default() } else { Self::from_midnight(starts) }
    }

    /// Of a recording whose zero is so long after a midnight.
    pub(crate) fn from_midnight(starts: Duration) -> Self {
        Self { zero: MIDNIGHT + starts }
    }

    pub(crate) fn wall(self, now: Instant) -> WallTime {
        let millis = (self.zero + now.since(Instant::default())).as_millis();
        WallTime::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    pub(crate) fn instant(self, at: WallTime) -> Instant {
        let since = at.since(WallTime::default());
        Instant::default().after(since.saturating_sub(self.zero))
    }

    pub(crate) fn since_midnight(self, now: Instant) -> Duration {
        let since = self.zero + now.since(Instant::default());
        Duration::new(since.as_secs() % 86_400, since.subsec_nanos())
    }
}

/// Replays recordings, one after the other.
#[derive(Debug)]
pub struct Replay {
    settings: Settings,
    lanes: Vec<Lane>,
    /// Nodes of the present recording by cell.
    cells: BTreeMap<CellId, usize>,
    clock: Clock,
    /// Nodes that have been.
    nodes: usize,
    now: Instant,
    readings: u64,
}

/// One configuration, with its nodes and sums.
#[derive(Debug)]
struct Lane {
    setup: Setup,
    nodes: Vec<Node>,
    totals: Totals,
    picture: Picture,
}

/// What came of one configuration.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub setup: Setup,
    /// The sums over all nodes.
    pub totals: Totals,
    /// The first node of the first recording.
    pub picture: Picture,
}

impl Replay {
    /// Nothing replayed yet.
    ///
    /// # Errors
    /// A policy that cannot work.
    pub fn new(mut settings: Settings) -> Result<Self, BadPolicy> {
        settings.setups.truncate(SETUPS_MAX);
        let streams = settings.streams.len();
        let lane = |setup: &Setup| {
            setup.policy.check()?;
            let (setup, totals) = (setup.clone(), Totals::new(streams));
            Ok(Lane { setup, nodes: Vec::new(), totals, picture: Picture::default() })
        };
        let lanes = settings.setups.iter().map(lane).collect::<Result<_, BadPolicy>>()?;
        Ok(Self {
            settings,
            lanes,
            cells: BTreeMap::new(),
            clock: Clock::default(),
            nodes: 0,
            now: Instant::default(),
            readings: 0,
        })
    }

    /// Takes in a reading of the present recording, `at` since its zero; times must not go down.
    ///
    /// # Errors
    /// More cells than there is room for.
    pub fn hear(&mut self, at: Duration, reading: Reading) -> Result<(), TooMany> {
        let now = Instant::default().after(at);
        if self.cells.is_empty() {
            self.clock = Clock::of(at, self.settings.starts);
        }
        (self.now, self.readings) = (now, self.readings + 1);
        let index = match self.cells.get(&reading.cell) {
            Some(index) => *index,
            None => self.meet(now, reading.cell)?,
        };
        let (clock, streams) = (self.clock, &self.settings.streams);
        for lane in &mut self.lanes {
            let is_first = self.nodes == lane.nodes.len() && index == 0;
            let picture = is_first.then_some(&mut lane.picture);
            lane.nodes[index].hear(
                now,
                reading,
                &mut node::Books { setup: &lane.setup, totals: &mut lane.totals, picture, clock, streams },
            );
        }
        Ok(())
    }

    /// A cell that was not heard of before.
    fn meet(&mut self, now: Instant, cell: CellId) -> Result<usize, TooMany> {
        if self.settings.fuse && self.cells.len() >= CELLS_MAX {
            return Err(TooMany::Cells);
        }
        if self.cells.len() >= NODES_MAX {
            return Err(TooMany::Nodes);
        }
        let index = if self.settings.fuse { 0 } else { self.cells.len() };
        let is_new = index == self.cells.len();
        self.cells.insert(cell, index);
        if is_new {
            for lane in &mut self.lanes {
                // The policy was checked at the beginning.
                let Ok(governor) = Governor::new(lane.setup.policy.clone()) else { continue };
                let work = work::Work::new(self.nodes, &lane.setup, &self.settings.streams, now, self.clock);
                let forecast = Forecast::new(forecast::Settings::new(lane.setup.policy.clone())).ok();
                let foresight = forecast.filter(|_| self.settings.foresee).map(foresee::Foresight::new);
                lane.nodes.push(Node::new(now, &lane.setup, governor, work, foresight));
            }
            self.nodes += 1;
        }
        Ok(index)
    }

    /// The present recording ends; what comes next is another one, of other nodes.
    pub fn end(&mut self) {
        let (now, clock, streams, nodes) = (self.now, self.clock, &self.settings.streams, self.nodes);
        for lane in &mut self.lanes {
            let is_first = nodes == lane.nodes.len();
            for (index, mut node) in lane.nodes.drain(..).enumerate() {
                let picture = (is_first && index == 0).then_some(&mut lane.picture);
                let (setup, totals) = (&lane.setup, &mut lane.totals);
                node.end(now, &mut node::Books { setup, totals, picture, clock, streams });
            }
        }
        self.cells.clear();
        self.now = Instant::default();
    }

    /// Nodes so far.
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// Readings so far.
    pub const fn readings(&self) -> u64 {
        self.readings
    }

    /// What came of each configuration, in their order. [`Replay::end`] must have been called.
    pub fn finish(self) -> Vec<Outcome> {
        let outcome = |Lane { setup, totals, picture, .. }| Outcome { setup, totals, picture };
        self.lanes.into_iter().map(outcome).collect()
    }
}
