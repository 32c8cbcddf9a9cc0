//! Is there time for this job, and is now its time? What models cost here, and what is expected to be free.
//!
//! A forecast only ever refuses or delays work here: whether anything runs at all is the governor's decision alone.

use std::time::Duration;

use super::{Desk, Now};
use crate::fault::Fault;
use crate::jobs::cost::{Cost, Costs};
use crate::jobs::feasible::{self, Claim, Delay, DelayTerms, Demand, Supply, Work};
use crate::jobs::job::{Job, ModelRef};
use crate::model::library::{Entry, Library};
use crate::units::outlook::Outlook;
use crate::units::{Digest, WallTime};

/// Jobs before a new one that are looked at. With more of them before it a job may be accepted that will miss.
const BEFORE_MAX: usize = 256;

/// When work is refused or delayed for want of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) struct Terms {
    /// Whether a job is refused whose deadline cannot be met.
    pub(in crate::agent) refuse: bool,
    /// What waits for a better moment.
    pub(in crate::agent) delay: DelayTerms,
}

/// What is known of costs and free time.
#[derive(Debug)]
pub(super) struct Admission {
    costs: Costs,
    supply: Supply,
}

impl Admission {
    pub(super) fn new(workers: usize) -> Self {
        Self { costs: Costs::default(), supply: Supply::new(workers, None) }
    }

    /// An item was computed in so much CPU time.
    pub(super) fn ran(&mut self, model: Digest, cpu: Duration) {
        self.costs.ran(model, cpu);
    }

    /// The models were read again.
    pub(super) fn keep(&mut self, library: &Library) {
        self.costs.keep(|digest| library.entries().any(|entry| entry.manifest.digest == *digest));
    }

    fn cost(&self, library: &Library, entry: &Entry) -> Option<Cost> {
        let appraised =
            library.cost(entry).map(|cost| Cost { load: cost.load, run_low: cost.run_p50, run: cost.run_p50 });
        self.costs.of(&entry.manifest.digest, appraised)
    }
}

/// Costs of the models of some jobs, each looked up once.
struct Looked<'a> {
    desk: &'a Desk,
    known: Vec<(&'a ModelRef, Option<Cost>)>,
}

impl<'a> Looked<'a> {
    fn of(&mut self, job: &'a Job) -> Option<Cost> {
        if let Some((_, cost)) = self.known.iter().find(|(model, _)| **model == job.model) {
            return *cost;
        }
        let cost = self.desk.cost_of(&job.model);
        self.known.push((&job.model, cost));
        cost
    }
}

impl Desk {
    /// Core time that is expected to be free, from now on; `None`: nothing is known of it.
    #[cfg_attr(not(test), expect(dead_code, reason = "nothing makes an outlook yet"))]
    pub(in crate::agent) fn set_outlook(&mut self, outlook: Option<Outlook>) {
        self.admission.supply = Supply::new(self.places(), outlook);
        self.jobs.delay_no_more();
    }

    fn cost_of(&self, model: &ModelRef) -> Option<Cost> {
        let entry = self.library.find(&model.name, model.version, model.digest.as_ref()).ok()?;
        self.admission.cost(&self.library, &entry)
    }

    /// Refuses a new job that cannot be done by its deadline.
    pub(super) fn check_feasible(&self, now: Now, job: &Job, entry: &Entry) -> Result<(), Fault> {
        // A deadline is nothing to be measured with a clock that is in doubt.
        let Some(deadline) = job.deadline.filter(|_| self.settings.admission.refuse && now.is_sure()) else {
            return Ok(());
        };
        let Some(cost) = self.admission.cost(&self.library, entry) else { return Ok(()) };
        let start = job.earliest_start().unwrap_or(now.wall);
        let demand = Demand { need: cost.low(job.items), start, deadline };
        let mut costs = Looked { desk: self, known: Vec::new() };
        let running = self.bench.runs().filter_map(|(_, run)| self.jobs.get_open(&run.job));
        let before = running.filter(|other| other.priority > job.priority || goes_on_before(other, deadline, job));
        let before = before.chain(self.jobs.before(job, BEFORE_MAX)).filter(|other| may_begin(other, now.wall));
        let claims = before.map(|other| {
            let left = other.items.saturating_sub(other.done);
            let need = costs.of(other).map(|cost| cost.low(left)).unwrap_or_default();
            Claim { need, deadline: other.deadline }
        });
        feasible::check(now.wall, &self.admission.supply, demand, claims).map_err(|why| why.fault())
    }

    /// Whether the job that is next should rather wait, and until when.
    pub(super) fn delay_of(&self, now: Now, job: &Job) -> Option<Delay> {
        if !now.is_sure() || !self.admission.supply.is_forecast() {
            return None;
        }
        let cost = self.cost_of(&job.model)?;
        let left = job.items.saturating_sub(job.done);
        let since = job.not_before.unwrap_or(job.received).max(job.received);
        let work = Work { stretch: cost.stretch(), need: cost.usual(left), since, deadline: job.deadline };
        self.admission.supply.delay(now.wall, &work, &self.settings.admission.delay)
    }
}

/// Whether a running job of the same priority would have gone before the new one as well.
fn goes_on_before(running: &Job, deadline: WallTime, new: &Job) -> bool {
    running.priority == new.priority && running.deadline.is_some_and(|theirs| theirs <= deadline)
}

/// What begins later may find the new job done.
fn may_begin(job: &Job, now: WallTime) -> bool {
    job.earliest_start().is_none_or(|start| start <= now)
}
