//! What should be true? The promises told once more: simpler, slower, and without a look at the code that keeps them.
//!
//! The reference keeps what each cell said since its newest reading and answers every question from that, anew each
//! time. It never asks the node for the load. It does see when troughs began and ended, because how long a wait must
//! be depends on them; whether they were allowed to begin is what it is asked.

use std::time::Duration;

use super::script::Transition;
use crate::governor::{Order, Policy};
use crate::load::fusion::{LATE_HOLD, STAMP_AHEAD_MAX, Trust};
use crate::load::{Observed, Reading};
use crate::units::{CELLS_MAX, CellId, Instant, Utilization};

/// One level that was heard: when it was measured, and how high it was.
type Heard = (Instant, Utilization);

/// Everything that counts of one cell.
#[derive(Clone, Debug)]
struct Cell {
    id: CellId,
    /// The newest level by the time of its measurement, then all that came after it and are older.
    levels: Vec<Heard>,
    late: Option<u64>,
}

#[derive(Clone, Debug)]
struct Source {
    trust: Trust,
    cells: Vec<Cell>,
    /// Late until then.
    late_until: Instant,
    /// Senseless; good readings from after that moment heal it.
    malformed: Option<Instant>,
}

/// A trough that the node is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trough {
    pub(super) since: Instant,
    /// Whether load, at any moment since, forbade it.
    broken: bool,
}

/// The node as it should be.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    sources: Vec<Source>,
    pub(super) policy: Policy,
    held: bool,
    draining: bool,
    /// Below `idle_below` without a break since then.
    low_since: Option<Instant>,
    /// When an order, a policy or the end of a trough last put a start off.
    disturbed: Instant,
    pub(super) trough: Option<Trough>,
    /// How long the load must be low before a start.
    pub(super) wait: Duration,
    /// The load that may be trusted, as long as nothing is heard and `next_at` has not come; `None` when there is none,
    /// or something forbids everything.
    pub(super) level: Option<Utilization>,
    /// When time alone changes something next.
    pub(super) next_at: Option<Instant>,
}

impl Cell {
    fn hear(&mut self, heard: Heard) {
        if self.levels.first().is_none_or(|newest| heard.0 >= newest.0) {
            self.levels.clear();
        }
        self.levels.push(heard);
    }

    /// When the newest level was measured.
    fn measured(&self) -> Option<Instant> {
        self.levels.first().map(|heard| heard.0)
    }

    /// The highest, since what comes late may only raise it.
    fn level(&self) -> Option<Utilization> {
        self.levels.iter().map(|heard| heard.1).max()
    }
}

impl Source {
    fn hear(&mut self, now: Instant, reading: Reading) {
        let Reading { cell: id, stamped, observed, .. } = reading;
        if self.trust.planning {
            return self.hear_plan(now, reading);
        }
        if stamped.is_some_and(|stamped| stamped > now.after(STAMP_AHEAD_MAX)) {
            self.malformed = self.malformed.max(Some(now));
            return;
        }
        let at = stamped.unwrap_or(now).min(now);
        if matches!(observed, Observed::Health { .. }) {
            return;
        }
        if observed == Observed::Gone {
            self.cells.retain(|cell| cell.id != id || cell.measured().is_some_and(|measured| measured > at));
            return;
        }
        let known = self.cells.iter().position(|cell| cell.id == id);
        if known.is_none() && self.cells.len() == CELLS_MAX {
            self.malformed = self.malformed.max(Some(now.after(self.trust.freshness)));
            return;
        }
        let index = known.unwrap_or(self.cells.len());
        if known.is_none() {
            self.cells.push(Cell { id, levels: Vec::new(), late: None });
        }
        let cell = &mut self.cells[index];
        let (level, count) = match observed {
            Observed::Level { level, late, .. } => (Some(level), late),
            Observed::Late { count } => (None, Some(count)),
            Observed::Gone | Observed::Health { .. } => (None, None),
        };
        if let Some(count) = count {
            let overtaken = cell.measured().is_some_and(|measured| at < measured);
            let is_old_news = overtaken && cell.late.is_some_and(|late| count < late);
            if cell.late.is_some_and(|late| count != late) && !is_old_news {
                self.late_until = now.after(LATE_HOLD);
            }
            cell.late = if is_old_news { cell.late } else { Some(count) };
        }
        if let Some(level) = level {
            cell.hear((at, level));
            let is_fresh = at.after(self.trust.freshness) > now;
            self.malformed = self.malformed.filter(|until| !is_fresh || now <= *until);
        }
    }

    /// Plans tell levels and goodbyes. Everything else that comes is as if it had not come.
    fn hear_plan(&mut self, now: Instant, reading: Reading) {
        let Reading { cell: id, stamped, observed, .. } = reading;
        if stamped.is_some_and(|stamped| stamped > now.after(STAMP_AHEAD_MAX)) {
            return;
        }
        let at = stamped.unwrap_or(now).min(now);
        let freshness = self.trust.freshness;
        match observed {
            Observed::Gone => {
                self.cells.retain(|cell| cell.id != id || cell.measured().is_some_and(|measured| measured > at));
            }
            Observed::Level { level, .. } => {
                self.cells.retain(|cell| cell.measured().is_some_and(|measured| now < measured.after(freshness)));
                if let Some(cell) = self.cells.iter_mut().find(|cell| cell.id == id) {
                    cell.hear((at, level));
                } else if self.cells.len() < CELLS_MAX {
                    self.cells.push(Cell { id, levels: vec![(at, level)], late: None });
                }
            }
            Observed::Late { .. } | Observed::Health { .. } => {}
        }
    }

    /// The highest level that it plans with.
    fn plan(&self, now: Instant) -> Option<Utilization> {
        let fresh = |cell: &&Cell| cell.measured().is_some_and(|measured| now < measured.after(self.trust.freshness));
        self.cells.iter().filter(fresh).filter_map(Cell::level).max()
    }

    /// When each of its cells falls silent.
    fn silences(&self) -> impl Iterator<Item = Instant> {
        self.cells.iter().filter_map(|cell| Some(cell.measured()?.after(self.trust.freshness)))
    }

    fn is_heard(&self, now: Instant) -> bool {
        self.silences().any(|at| now < at)
    }

    /// Whether what it says, or does not say, forbids everything.
    fn objects(&self, now: Instant) -> bool {
        if self.trust.planning {
            return false;
        }
        let is_incomplete = self.silences().any(|at| at <= now);
        let is_missed = self.trust.required && !self.is_heard(now);
        let is_half_heard = is_incomplete && (self.trust.required || self.is_heard(now));
        now < self.late_until || self.malformed.is_some() || is_missed || is_half_heard
    }
}

impl Reference {
    pub(super) fn new(now: Instant, policy: Policy, trust: &[Trust]) -> Self {
        let source = |trust: &Trust| Source {
            trust: *trust,
            cells: Vec::new(),
            late_until: Instant::default(),
            malformed: None,
        };
        Self {
            sources: trust.iter().map(source).collect(),
            wait: policy.settle,
            policy,
            held: false,
            draining: false,
            low_since: None,
            disturbed: now,
            trough: None,
            level: None,
            next_at: None,
        }
    }

    // ---- what happens ----

    /// Something comes from outside.
    pub(super) fn hear(&mut self, now: Instant, transition: &Transition) {
        match transition {
            Transition::Heard(Ok(reading)) => {
                if let Some(source) = self.sources.get_mut(usize::from(reading.source.0)) {
                    source.hear(now, *reading);
                }
            }
            Transition::Heard(Err(malformed)) => {
                let source = self.sources.get_mut(usize::from(malformed.source.0));
                if let Some(source) = source.filter(|source| !source.trust.planning) {
                    source.malformed = source.malformed.max(Some(now));
                }
            }
            Transition::Ordered(order) => {
                match order {
                    Order::Hold | Order::Release => self.held = *order == Order::Hold,
                    Order::Drain | Order::Resume => self.draining = *order == Order::Drain,
                }
                self.disturbed = now;
            }
            Transition::Reloaded(policy) if policy.check().is_ok() => {
                self.policy = policy.clone();
                self.wait = self.wait.clamp(policy.settle, policy.settle_max);
                self.disturbed = now;
            }
            Transition::Reloaded(_) | Transition::Died(_) => {}
        }
        self.look(now);
    }

    /// Time passes. To be called at the moment that `next_at` names.
    pub(super) fn pass(&mut self, now: Instant) {
        if self.next_at.is_some_and(|at| at <= now) {
            self.look(now);
        }
    }

    fn look(&mut self, now: Instant) {
        let level = self.level(now);
        self.level = level;
        let moments = self.sources.iter().flat_map(|source| source.silences().chain([source.late_until]));
        self.next_at = moments.filter(|at| *at > now).min();
        let is_low = level.is_some_and(|level| level < self.policy.idle_below);
        self.low_since = if is_low { self.low_since.or(Some(now)) } else { None };
        if let Some(trough) = &mut self.trough {
            trough.broken |= level.is_none_or(|level| level >= self.policy.busy_above);
        }
    }

    /// The node says that a trough begins.
    pub(super) fn on_start(&mut self, now: Instant) {
        self.trough = Some(Trough { since: now, broken: false });
    }

    /// The node says that the trough has ended. Gives how long it lasted if it was the load that ended it.
    pub(super) fn on_end(&mut self, now: Instant) -> Option<Duration> {
        let Trough { since, broken } = self.trough.take()?;
        self.disturbed = now;
        let lasted = now.since(since);
        let Policy { settle, settle_max, flap_window, .. } = self.policy;
        if !broken {
            return None;
        }
        if lasted < flap_window {
            self.wait *= 2;
        } else {
            let mut rest = lasted;
            while self.wait > settle && rest >= flap_window {
                self.wait /= 2;
                rest -= flap_window;
            }
        }
        self.wait = self.wait.clamp(settle, settle_max);
        Some(lasted)
    }

    // ---- what should be ----

    fn level(&self, now: Instant) -> Option<Utilization> {
        let heard = self.sources.iter().filter(|source| !source.trust.planning && source.is_heard(now));
        let vouched = heard.flat_map(|source| &source.cells).filter_map(Cell::level).max()?;
        let planned = self.sources.iter().filter(|source| source.trust.planning).filter_map(|source| source.plan(now));
        let highest = planned.fold(vouched, Utilization::max);
        (!self.sources.iter().any(|source| source.objects(now))).then_some(highest)
    }

    /// For how long it has been low.
    pub(super) fn low_for(&self, now: Instant) -> Option<Duration> {
        self.low_since.map(|since| now.since(since))
    }

    fn is_forbidden(&self) -> bool {
        self.held || self.draining
    }

    /// Most workers that may run now.
    pub(super) fn at_most(&self, now: Instant) -> u8 {
        let may_go_on = self.level.is_some_and(|level| level < self.policy.busy_above);
        if self.is_forbidden() || !may_go_on {
            return 0;
        }
        match self.trough {
            Some(Trough { since, broken: false }) => self.raised(now.since(since)),
            // Over, whether the node has noticed or not.
            Some(Trough { broken: true, .. }) => 0,
            None if self.low_since.is_some_and(|low| now.since(low) >= self.wait) => self.raised(Duration::ZERO),
            None => 0,
        }
    }

    /// Fewest workers that must be let run now by a node whose timer may be `lag` late each time.
    pub(super) fn at_least(&self, now: Instant, lag: Duration) -> u8 {
        if self.at_most(now) == 0 {
            return 0;
        }
        match self.trough {
            Some(Trough { since, .. }) => self.raised(now.since(since).saturating_sub(lag)),
            None => {
                let ready = self.low_since.map(|low| low.max(self.disturbed));
                let is_due = ready.is_some_and(|ready| now.since(ready) >= self.wait + lag * 2);
                u8::from(is_due)
            }
        }
    }

    /// How many run so long after the start.
    fn raised(&self, running: Duration) -> u8 {
        let Policy { workers, raise_every, .. } = self.policy;
        let all = (1..=workers).filter(|worker| raise_every * u32::from(worker - 1) <= running);
        u8::try_from(all.count()).unwrap_or(u8::MAX)
    }
}
