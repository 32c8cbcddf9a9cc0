//! How busy is the node, by everything that its sources said? In doubt: busy.
//!
//! Pure: the sentinel hands in each [`Observation`] with the time and asks for [`Fused`]. Nothing allocates after
//! [`Fusion::new`]. The rules, strongest first:
//!
//! 1. A counter of late slots that changed means `Late` for [`LATE_HOLD`], whatever the levels say. A counter that
//!    went down has been restarted, and a RAN that restarts is left alone just the same.
//! 2. A source that said something senseless is `Malformed` until it says something good at a later moment.
//! 3. A required source that is silent or was never heard is `Stale`; so is a source of which one cell has gone
//!    silent while others report, required or not: the load of that cell is unknown until it reports or is `Gone`.
//! 4. A source that is not required and wholly silent is ignored, as long as another one is fresh.
//! 5. What remains is joined by maximum over cells and sources.
//! 6. A source of planning grade can only make the node busier: each of its fresh cells joins the maximum of rule 5 as
//!    long as another source is fresh, and nothing else that it says or does not say counts. It is never a reason to
//!    stop by its silence, its counters or its nonsense, and never the only one to know of a level.

use std::time::Duration;

use super::{Malformed, Metric, Observation, Observed, Reading};
use crate::units::{CELLS_MAX, CellId, Instant, SOURCES_MAX, SourceId, Utilization};

/// How long one late slot keeps the node busy: long enough that a level which follows in the same moment, or in the
/// same report, does not wipe it out.
pub const LATE_HOLD: Duration = Duration::from_secs(1);

/// How far ahead of the receiver's clock a stamp may be; both are readings of one clock, so this is generous.
pub const STAMP_AHEAD_MAX: Duration = Duration::from_millis(10);

/// How far one source may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Age at which a reading is no longer believed.
    pub freshness: Duration,
    /// Whether nothing may run without this source.
    pub required: bool,
    /// Whether it is of planning grade: second-hand and slow, so it may raise the load and never vouches for it.
    /// `required` is without meaning then.
    pub planning: bool,
}

/// How long a node may wait for its sources after its start before it is blind: the longest freshness of those that
/// vouch for a level.
pub fn grace(sources: &[Trust]) -> Duration {
    let vouching = sources.iter().filter(|trust| !trust.planning);
    vouching.map(|trust| trust.freshness).max().unwrap_or_default()
}

/// The load of the node at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fused {
    /// What is known.
    pub load: FusedLoad,
    /// Until when it may be believed. For a level: the first moment at which silence alone takes the permission to run
    /// away. For `Late`: the end of the hold. Otherwise the end of time: what forbids needs no renewal.
    pub fresh_until: Instant,
    /// When to ask again: the first moment at which time alone may change anything, for worse or for better. A source
    /// that is not required and falls silent takes its level with it.
    pub changes_at: Instant,
    /// The source's own stamp on the reading that decides.
    pub stamped: Option<Instant>,
    /// When that reading was received; for `Stale` the moment at which the freshness ran out.
    pub received: Instant,
    /// Figure of the reading that decides.
    pub metric: Metric,
    /// Cell of the reading that decides.
    pub cell: CellId,
}

/// What is known about the load of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FusedLoad {
    /// A trustworthy level, and the source that gave the highest.
    Level(SourceId, Utilization),
    /// The RAN missed a slot: busy whatever the level says.
    Late(SourceId),
    /// A source said something that makes no sense.
    Malformed(SourceId),
    /// A source or one of its cells has gone silent.
    Stale(SourceId),
    /// No source has ever given a level.
    Unheard,
}

/// Last readings of every source.
#[derive(Debug)]
pub struct Fusion {
    sources: Vec<Source>,
    /// More sources than the table holds: never believed.
    overfull: bool,
    /// When anything was first heard.
    began: Option<Instant>,
    /// Latest moment seen: time never runs backwards in effect.
    clock: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    trust: Trust,
    cells: [Cell; CELLS_MAX],
    used: usize,
    late: Option<Event>,
    malformed: Option<Event>,
}

/// Something that counts until a moment.
#[derive(Clone, Copy, Debug)]
struct Event {
    stamped: Option<Instant>,
    received: Instant,
    cell: CellId,
    until: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    id: CellId,
    late: Option<u64>,
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    /// When it was measured, as far as is known, never later than its receipt.
    at: Instant,
    stamped: Option<Instant>,
    received: Instant,
    metric: Metric,
    level: Utilization,
}

/// Expiry of the first and of the last cell of a source.
#[derive(Clone, Copy)]
struct Span {
    first: Instant,
    first_cell: Cell,
    last: Instant,
}

const END_OF_TIME: Instant = Instant::from_nanos(u64::MAX);

impl Fusion {
    /// Tables for these sources; position in the slice is the [`SourceId`]. With more than [`SOURCES_MAX`] of them the
    /// load is `Malformed` for ever.
    pub fn new(sources: &[Trust]) -> Self {
        let empty = |trust: &Trust| Source {
            trust: *trust,
            cells: [Cell::default(); CELLS_MAX],
            used: 0,
            late: None,
            malformed: None,
        };
        Self {
            sources: sources.iter().take(SOURCES_MAX).map(empty).collect(),
            overfull: sources.len() > SOURCES_MAX,
            began: None,
            clock: Instant::default(),
        }
    }

    /// Takes in what a source said. Observations of sources that were not given to [`Fusion::new`] are dropped.
    pub fn on_observation(&mut self, now: Instant, observation: Observation) {
        let now = now.max(self.clock);
        self.clock = now;
        self.began.get_or_insert(now);
        let id = match observation {
            Ok(Reading { source, .. }) | Err(Malformed { source, .. }) => source,
        };
        let Some(source) = self.sources.get_mut(usize::from(id.0)) else { return };
        match observation {
            Ok(reading) if source.trust.planning => source.on_plan(now, reading),
            Ok(reading) => source.on_reading(now, reading),
            Err(_) if source.trust.planning => {}
            Err(_) => source.set_malformed(now, CellId::default(), now),
        }
    }

    /// The load by everything heard so far.
    pub fn current(&self, now: Instant) -> Fused {
        let now = now.max(self.clock);
        let forbids = self.late(now).or_else(|| self.malformed()).or_else(|| self.stale(now));
        Fused { changes_at: self.changes_at(now), ..forbids.unwrap_or_else(|| self.level(now)) }
    }

    /// When the last source that has given a level falls silent, or fell: from then on nothing is known.
    pub fn silent_from(&self) -> Option<Instant> {
        self.vouching().filter_map(|(_, source)| source.span()).map(|span| span.last).max()
    }

    /// The next end of a hold, or the next silence of the first or the last cell of a source: the cells between change
    /// nothing. Those of planning grade fall silent one by one.
    fn changes_at(&self, now: Instant) -> Instant {
        let silences = self.vouching().filter_map(|(_, source)| source.span()).flat_map(|span| [span.first, span.last]);
        let plans = self.planning().flat_map(|(_, source)| source.expiries().map(|(_, _, expiry)| expiry));
        let holds = self.sources.iter().filter_map(|source| Some(source.late?.until));
        silences.chain(plans).chain(holds).filter(|at| *at > now).min().unwrap_or(END_OF_TIME)
    }

    /// Sources by id.
    fn each(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        (0..).map(SourceId).zip(&self.sources)
    }

    /// Those whose word alone may let something run.
    fn vouching(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        self.each().filter(|(_, source)| !source.trust.planning)
    }

    /// The others.
    fn planning(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        self.each().filter(|(_, source)| source.trust.planning)
    }

    fn late(&self, now: Instant) -> Option<Fused> {
        let running = |(id, source): (SourceId, &Source)| source.late.filter(|late| now < late.until).map(|e| (id, e));
        let (id, event) = self.each().filter_map(running).max_by_key(|(_, event)| event.until)?;
        Some(event.fused(FusedLoad::Late(id), Metric::Late, event.until))
    }

    fn malformed(&self) -> Option<Fused> {
        if self.overfull {
            let id = SourceId(u8::try_from(SOURCES_MAX).unwrap_or(u8::MAX));
            return Some(unknown(FusedLoad::Malformed(id), self.clock));
        }
        let (id, event) = self.each().find_map(|(id, source)| Some((id, source.malformed?)))?;
        Some(event.fused(FusedLoad::Malformed(id), Metric::Unknown, END_OF_TIME))
    }

    fn stale(&self, now: Instant) -> Option<Fused> {
        let Some((newest, newest_span)) =
            self.vouching().filter_map(|(id, s)| Some((id, s.span()?))).max_by_key(|(_, span)| span.last)
        else {
            // Nobody gave a level (or all cells are gone): a required source is then no worse off than the others.
            return Some(unknown(FusedLoad::Unheard, self.clock));
        };
        if now >= newest_span.last {
            return Some(newest_span.fused(newest));
        }
        self.vouching().find_map(|(id, source)| match source.span() {
            None if source.trust.required => Some(unknown(FusedLoad::Stale(id), self.began.unwrap_or(self.clock))),
            None => None,
            Some(span) => {
                let wholly_silent = now >= span.last;
                let silent = now >= span.first && (source.trust.required || !wholly_silent);
                silent.then(|| span.fused(id))
            }
        })
    }

    /// The maximum over all fresh cells, once nothing above objects.
    fn level(&self, now: Instant) -> Fused {
        let mut highest: Option<(SourceId, CellId, Last)> = None;
        let mut any_fresh_until = Instant::default();
        let mut all_fresh_until = END_OF_TIME;
        for (id, source) in self.vouching() {
            let Some(span) = source.span() else { continue };
            if now >= span.last {
                continue;
            }
            any_fresh_until = any_fresh_until.max(span.last);
            // Cells of a source that is not required may fall silent together, but not one by one.
            if source.trust.required || span.first < span.last {
                all_fresh_until = all_fresh_until.min(span.first);
            }
            for (cell, last) in source.heard() {
                if highest.is_none_or(|(_, _, best)| last.level > best.level) {
                    highest = Some((id, cell.id, last));
                }
            }
        }
        // Only what is above a level that somebody vouches for.
        for (id, source) in self.planning() {
            for (cell, last, _) in source.expiries().filter(|(_, _, expiry)| now < *expiry) {
                if highest.is_some_and(|(_, _, best)| last.level > best.level) {
                    // Its stamp is another machine's, minutes old perhaps: what follows from it began at its receipt.
                    highest = Some((id, cell.id, Last { stamped: None, ..last }));
                }
            }
        }
        let Some((id, cell, last)) = highest else { return unknown(FusedLoad::Unheard, self.clock) };
        Fused {
            load: FusedLoad::Level(id, last.level),
            fresh_until: any_fresh_until.min(all_fresh_until),
            changes_at: END_OF_TIME,
            stamped: last.stamped,
            received: last.received,
            metric: last.metric,
            cell,
        }
    }
}

impl Source {
    fn on_reading(&mut self, now: Instant, reading: Reading) {
        if reading.stamped.is_some_and(|stamped| stamped > now.after(STAMP_AHEAD_MAX)) {
            return self.set_malformed(now, reading.cell, now);
        }
        // A stamp a little ahead must not make a reading live longer.
        let at = reading.stamped.map_or(now, |stamped| stamped.min(now));
        match reading.observed {
            Observed::Gone => self.remove(at, reading.cell),
            Observed::Health { .. } => {}
            Observed::Late { count } => {
                let Some(index) = self.slot(now, reading.cell) else { return };
                self.count_late(now, index, at, reading.stamped, count);
            }
            Observed::Level { metric, level, late } => {
                let Some(index) = self.slot(now, reading.cell) else { return };
                if let Some(count) = late {
                    self.count_late(now, index, at, reading.stamped, count);
                }
                self.set_level(index, Last { at, stamped: reading.stamped, received: now, metric, level });
                let fresh = now < at.after(self.trust.freshness);
                if fresh && self.malformed.is_some_and(|event| now > event.until) {
                    self.malformed = None;
                }
            }
        }
    }

    /// A reading of planning grade: a level, or a goodbye. What it cannot know, counters and what comes from the future
    /// or from more cells than the table holds, is left out.
    fn on_plan(&mut self, now: Instant, reading: Reading) {
        if reading.stamped.is_some_and(|stamped| stamped > now.after(STAMP_AHEAD_MAX)) {
            return;
        }
        let at = reading.stamped.map_or(now, |stamped| stamped.min(now));
        match reading.observed {
            Observed::Gone => self.remove(at, reading.cell),
            Observed::Health { .. } | Observed::Late { .. } => {}
            Observed::Level { metric, level, late: _ } => {
                self.forget_silent(now);
                if let Some(index) = self.place(reading.cell) {
                    self.set_level(index, Last { at, stamped: reading.stamped, received: now, metric, level });
                }
            }
        }
    }

    /// Keeps the newest reading. One that was overtaken by a newer one may raise the level, never lower it, and never
    /// prolongs anything.
    fn set_level(&mut self, index: usize, new: Last) {
        let held = &mut self.cells[index].last;
        match held {
            Some(held) if new.at < held.at => {
                if new.level > held.level {
                    (held.level, held.metric, held.stamped) = (new.level, new.metric, new.stamped);
                    held.received = new.received;
                }
            }
            Some(_) | None => *held = Some(new),
        }
    }

    /// Compares the counter with the last one. The first value sets the base.
    fn count_late(&mut self, now: Instant, index: usize, at: Instant, stamped: Option<Instant>, count: u64) {
        let cell = &mut self.cells[index];
        let overtaken = cell.last.is_some_and(|last| at < last.at);
        match cell.late {
            Some(base) if count < base && overtaken => return,
            Some(base) if count != base => {
                let until = now.after(LATE_HOLD);
                self.late = Some(Event { stamped, received: now, cell: cell.id, until });
            }
            Some(_) | None => {}
        }
        cell.late = Some(count);
    }

    /// Forgets a cell, unless it was heard after it is said to have gone.
    fn remove(&mut self, at: Instant, id: CellId) {
        let Some(index) = self.cells[..self.used].iter().position(|cell| cell.id == id) else { return };
        if self.cells[index].last.is_some_and(|last| at < last.at) {
            return;
        }
        self.used -= 1;
        self.cells.swap(index, self.used);
        self.cells[self.used] = Cell::default();
    }

    /// The cell's place, a free one for a new cell. With none left the source is malformed for as long as a reading of
    /// the cell that does not fit would have counted.
    fn slot(&mut self, now: Instant, id: CellId) -> Option<usize> {
        let index = self.place(id);
        if index.is_none() {
            self.set_malformed(now, id, now.after(self.trust.freshness));
        }
        index
    }

    /// Makes room: what is no longer believed need not be kept.
    fn forget_silent(&mut self, now: Instant) {
        for index in (0..self.used).rev() {
            if self.cells[index].last.is_none_or(|last| now >= last.at.after(self.trust.freshness)) {
                self.used -= 1;
                self.cells.swap(index, self.used);
                self.cells[self.used] = Cell::default();
            }
        }
    }

    /// The cell's place, a free one for a new cell; `None` when none is left.
    fn place(&mut self, id: CellId) -> Option<usize> {
        if let Some(index) = self.cells[..self.used].iter().position(|cell| cell.id == id) {
            return Some(index);
        }
        let index = self.used;
        *self.cells.get_mut(index)? = Cell { id, late: None, last: None };
        self.used += 1;
        Some(index)
    }

    /// Good readings up to and at `until` do not heal it: a good line in the same datagram proves nothing.
    fn set_malformed(&mut self, now: Instant, cell: CellId, until: Instant) {
        let until = self.malformed.map_or(until, |event| event.until.max(until));
        self.malformed = Some(Event { stamped: None, received: now, cell, until });
    }

    fn heard(&self) -> impl Iterator<Item = (&Cell, Last)> {
        self.cells[..self.used].iter().filter_map(|cell| Some((cell, cell.last?)))
    }

    /// Every cell with its level and when that is no longer believed.
    fn expiries(&self) -> impl Iterator<Item = (&Cell, Last, Instant)> {
        self.heard().map(|(cell, last)| (cell, last, last.at.after(self.trust.freshness)))
    }

    /// `None` when no cell has a level.
    fn span(&self) -> Option<Span> {
        self.heard().fold(None, |span: Option<Span>, (cell, last)| {
            let expiry = last.at.after(self.trust.freshness);
            Some(match span {
                None => Span { first: expiry, first_cell: *cell, last: expiry },
                Some(span) if expiry < span.first => Span { first: expiry, first_cell: *cell, last: span.last },
                Some(span) => Span { last: span.last.max(expiry), ..span },
            })
        })
    }
}

impl Event {
    fn fused(self, load: FusedLoad, metric: Metric, fresh_until: Instant) -> Fused {
        Fused {
            load,
            fresh_until,
            changes_at: END_OF_TIME,
            stamped: self.stamped,
            received: self.received,
            metric,
            cell: self.cell,
        }
    }
}

impl Span {
    /// Stale by the cell that ran out first.
    fn fused(self, id: SourceId) -> Fused {
        Fused {
            load: FusedLoad::Stale(id),
            fresh_until: END_OF_TIME,
            changes_at: END_OF_TIME,
            stamped: None,
            received: self.first,
            metric: self.first_cell.last.map_or(Metric::Unknown, |last| last.metric),
            cell: self.first_cell.id,
        }
    }
}

/// A load about which no reading says anything.
fn unknown(load: FusedLoad, received: Instant) -> Fused {
    let (fresh_until, changes_at) = (END_OF_TIME, END_OF_TIME);
    Fused { load, fresh_until, changes_at, stamped: None, received, metric: Metric::Unknown, cell: CellId::default() }
}

#[cfg(test)]
mod tests;
