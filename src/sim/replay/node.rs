//! What does one node make of its load? The real decisions, and what they are worth.

use std::time::Duration;

use super::account::{Running, Span, Totals};
use super::foresee::Foresight;
use super::mix::Stream;
use super::picture::Picture;
use super::plain::Step;
use super::work::Work;
use super::{Clock, Setup};
use crate::governor::Governor;
use crate::load::Reading;
use crate::load::fusion::{FusedLoad, Fusion, Trust};
use crate::sentinel::judge::Judge;
use crate::units::{Instant, Utilization};

/// A node, and where it stands in the sums.
#[derive(Debug)]
pub(super) struct Node {
    judge: Judge,
    work: Work,
    foresight: Option<Foresight>,
    /// Up to here everything is accounted for.
    since: Instant,
    /// Where the load stood in the span accounted last.
    before: Step,
    running: Running,
    plain: Running,
    /// The last moment at which anything was heard, and the load until then since the moment before.
    heard: Instant,
    former: Option<(Instant, Utilization)>,
}

/// What a node writes into.
pub(super) struct Books<'a> {
    pub(super) setup: &'a Setup,
    pub(super) totals: &'a mut Totals,
    pub(super) picture: Option<&'a mut Picture>,
    pub(super) clock: Clock,
    pub(super) streams: &'a [Stream],
}

impl Node {
    /// Hears its first reading at `now`.
    pub(super) fn new(
        now: Instant,
        setup: &Setup,
        governor: Governor,
        work: Work,
        foresight: Option<Foresight>,
    ) -> Self {
        let fusion = Fusion::new(&[Trust { freshness: setup.freshness, required: true, planning: false }]);
        Self {
            judge: Judge::new(now, fusion, governor, setup.freshness),
            work,
            foresight,
            since: now,
            before: Step::UNKNOWN,
            running: Running::default(),
            plain: Running::default(),
            heard: now,
            former: None,
        }
    }

    /// Takes in a reading.
    pub(super) fn hear(&mut self, now: Instant, reading: Reading, books: &mut Books<'_>) {
        if now > self.heard {
            self.advance(now, books);
            self.former = self.level().map(|level| (self.heard, level));
            self.heard = now;
        }
        let ran = self.running.since();
        let _changed = self.judge.on_observation(now, Ok(reading));
        self.settle(now, books);
        if let (Some(ran), None) = (ran, self.running.since()) {
            self.count_unseen(ran, now, books);
        }
    }

    /// The recording ends.
    pub(super) fn end(&mut self, now: Instant, books: &mut Books<'_>) {
        self.advance(now, books);
        let totals = &mut *books.totals;
        self.running.end(now, books.setup.evict_after, &mut totals.runs);
        self.plain.end(now, books.setup.evict_after, &mut totals.plain);
        self.work.end(&mut totals.jobs);
    }

    /// Lets time pass up to a moment at which something is heard: what is due at that very moment comes after it.
    fn advance(&mut self, to: Instant, books: &mut Books<'_>) {
        loop {
            let due = self.judge.next_moment();
            if due >= to {
                break;
            }
            let at = due.max(self.since);
            self.account(at, books);
            if self.judge.load_is_due(at) {
                let _changed = self.judge.on_load(at);
            }
            let _changed = self.judge.on_timeout(at);
            self.settle(at, books);
        }
        self.account(to, books);
    }

    /// Accounts for the time since the last change.
    fn account(&mut self, to: Instant, books: &mut Books<'_>) {
        if to <= self.since {
            return;
        }
        let (decision, level) = (self.judge.decision(), self.level());
        let span = Span { from: self.since, to, budget: decision.budget, mode: decision.mode, level };
        books.totals.add(&span, &books.setup.policy, books.clock);
        let step = Step::of(level);
        books.totals.curve.add(self.before, step, to.since(self.since));
        self.before = step;
        if let Some(picture) = &mut books.picture {
            picture.add(&span);
        }
        if let Some(foresight) = &mut self.foresight {
            foresight.pass(&span, books.clock, &mut books.totals.errors);
        }
        if self.work.wants_outlook(self.since) {
            let now = books.clock.wall(self.since);
            let outlook = self.foresight.as_ref().and_then(|foresight| foresight.outlook(now));
            self.work.set_outlook(self.since, outlook);
        }
        self.work.run(self.since, to, decision.budget, books.streams, &mut books.totals.jobs);
        self.since = to;
    }

    /// Takes in what was decided.
    fn settle(&mut self, now: Instant, books: &mut Books<'_>) {
        let (evict_after, busy_above) = (books.setup.evict_after, books.setup.policy.busy_above);
        let runs = self.judge.decision().budget > 0;
        let yielded = self.running.change(now, runs, evict_after, &mut books.totals.runs);
        if yielded && let Some(picture) = &mut books.picture {
            picture.add_yield(now);
        }
        let level = self.level();
        if let Some(foresight) = &mut self.foresight {
            foresight.on_level(now, level, books.clock);
        }
        let is_low = level.is_some_and(|level| level < busy_above);
        self.plain.change(now, is_low, evict_after, &mut books.totals.plain);
    }

    /// The load that is known.
    fn level(&self) -> Option<Utilization> {
        match self.judge.fused().load {
            FusedLoad::Level(_, level) => Some(level),
            FusedLoad::Late(_) | FusedLoad::Malformed(_) | FusedLoad::Stale(_) | FusedLoad::Unheard => None,
        }
    }

    /// It ran since `ran` until the reading of `now`: for how long had the load been too high already, were it a line
    /// from the reading before?
    fn count_unseen(&mut self, ran: Instant, now: Instant, books: &mut Books<'_>) {
        let busy_above = books.setup.policy.busy_above;
        let (Some((then, former)), Some(level)) = (self.former, self.level()) else { return };
        if former >= busy_above || level < busy_above {
            return;
        }
        let parts = [level, busy_above, former].map(|level| f64::from(level.permille()));
        let high = (parts[0] - parts[1]) / (parts[0] - parts[2]);
        let since_crossing = now.since(then).mul_f64(high);
        books.totals.unseen += since_crossing.min(now.since(ran));
        self.former = None;
    }
}

/// How long a reading is believed unless it is said: three times the usual distance between two readings of a cell, and
/// never less than what is configured for a source that reports live.
pub fn freshness(configured: Duration, usual: Duration) -> Duration {
    configured.max(usual.saturating_mul(3))
}
