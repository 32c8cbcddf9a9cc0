//! What becomes of each job? The agent's decisions about jobs, from submit to result.
//!
//! No I/O: inputs are methods that carry `now`, outputs are [`Effect`]s that the shell carries out in order. A state
//! change and the messages that tell of it are always one batch of the store, and a submit is acknowledged to the
//! broker only after its batch is durable. [`intake`] hears the controller, [`outcome`] the workers, [`due`] the
//! clock; [`admission`] judges whether there is time; [`relief`] gives memory back; this file holds the state and hears store and sentinel.

mod admission;
mod adopt;
mod damage;
mod due;
mod intake;
mod outcome;
mod outputs;
mod relief;
mod settled;
mod suspects;
#[cfg(test)]
mod tests;
mod unsettled;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::admission::Admission;
pub(super) use self::admission::Terms as AdmissionTerms;
pub(super) use self::damage::Damage;
use self::suspects::Suspects;
use self::unsettled::{Later, Unsettled};
use super::bench::Bench;
use super::keeper::{Fetched, Request as Ask};
use super::reports::{self, Reports};
use super::trust::Trust;
use super::wall::Judged;
use crate::fault::Code;
use crate::jobs::job::{Event, Job, State, reason};
use crate::jobs::queue::{Capacity, Surroundings};
use crate::jobs::store::Batch;
use crate::jobs::table::Table;
use crate::link::messages::{Draft, LimitPolicy, OpenJob, OpenJobs};
use crate::link::{AckToken, Publish};
use crate::model::library::Library;
use crate::units::{Instant, JobId, PACKET_BYTES_MAX, WallTime};
use crate::worker::handle::Work;

/// Room that a result message keeps for its topic, properties and frame.
const RESULT_OVERHEAD_BYTES: usize = 64 * 1024;
/// Largest result: what fits one packet.
const RESULT_BYTES_MAX: usize = PACKET_BYTES_MAX - RESULT_OVERHEAD_BYTES;
/// Progress is reported at most this often per job.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Items a worker may hold: the one it computes and the next, so that it never waits for the journal.
const ITEMS_AHEAD: usize = 2;

/// Both clocks at one moment: monotonic for spans, wall for deadlines and what people read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Monotonic.
    pub mono: Instant,
    /// Wall, as far as it is known.
    pub wall: WallTime,
    /// The wall time up to which things are due; none while it is in doubt (see [`wall`](super::wall)).
    pub due: WallTime,
}

impl Now {
    /// A moment whose wall time was judged.
    pub(super) const fn new(mono: Instant, judged: Judged) -> Self {
        Self { mono, wall: judged.wall, due: judged.due() }
    }

    /// A moment whose wall time is beyond doubt.
    #[cfg(test)]
    pub(super) const fn sure(mono: Instant, wall: WallTime) -> Self {
        Self { mono, wall, due: wall }
    }

    /// Whether the wall time is beyond doubt.
    pub(super) fn is_sure(self) -> bool {
        self.due == self.wall
    }
}

/// How jobs are handled.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// How many jobs may be known and open.
    pub capacity: Capacity,
    /// Defaults and maxima of a job's limits.
    pub limits: LimitPolicy,
    /// A job stopped for longer than this gives its worker's memory back and returns to the queue.
    pub evict_after: Duration,
    /// Ended jobs and their results are kept this long.
    pub retention: Duration,
    /// When work is refused or delayed for want of time.
    pub admission: AdmissionTerms,
}

/// What the shell has to do, in order.
#[derive(Debug)]
pub(super) enum Effect {
    /// Ask the store.
    Ask(Ask),
    /// Hand work to a worker.
    Work { slot: usize, work: Work },
    /// Kill a worker; the job has been taken from it already.
    Kill { slot: usize, why: Code, token: u64 },
    /// Kill a worker that has no work, for its memory.
    Empty { slot: usize, why: Code },
    /// The worker of this slot now runs the job of this token; 0: none. Goes into yield records.
    Token { slot: usize, token: u64 },
    /// Acknowledge a message to the broker.
    Ack(AckToken),
    /// Publish without going through the store.
    Publish(Publish),
    /// Publish without going through the store, and acknowledge what caused it after that.
    Tell { messages: Vec<Publish>, ack: Option<AckToken> },
    /// Messages may wait in the outbox.
    Outbox,
}

/// What waits for a commit.
#[derive(Debug)]
struct Pending {
    ack: Option<AckToken>,
    submit: Option<JobId>,
    /// Jobs as they are when it is durable.
    jobs: Vec<Job>,
}

/// The desk.
#[derive(Debug)]
pub(super) struct Desk {
    settings: Settings,
    library: Arc<Library>,
    pub(super) reports: Reports,
    /// Whose orders count.
    pub(super) trust: Trust,
    jobs: Table,
    bench: Bench,
    budget: u8,
    draining: bool,
    tickets: u64,
    tokens: u64,
    pending: BTreeMap<u64, Pending>,
    unsettled: Unsettled,
    /// What arrived for jobs that the store may still refuse.
    later: BTreeMap<JobId, Vec<Later>>,
    suspects: Suspects,
    admission: Admission,
    /// When ended jobs are next looked through for those that may be forgotten.
    forget_at: Instant,
    effects: VecDeque<Effect>,
    /// The last wall time beyond doubt, kept with every commit.
    mark: Option<WallTime>,
    /// When it is kept though nothing else is committed.
    mark_due: Instant,
}

impl Desk {
    /// A desk with the jobs that the store remembers. Those that were running when the last agent ended go back to the
    /// queue, or end when their attempts are used up.
    pub(super) fn new(
        now: Now,
        settings: Settings,
        library: Arc<Library>,
        reports: Reports,
        workers: usize,
        jobs: Vec<Job>,
    ) -> Self {
        let mut desk = Self {
            settings,
            library,
            reports,
            trust: Trust::default(),
            jobs: Table::default(),
            bench: Bench::new(workers),
            budget: 0,
            draining: false,
            tickets: 0,
            tokens: 0,
            pending: BTreeMap::new(),
            unsettled: Unsettled::default(),
            later: BTreeMap::new(),
            suspects: Suspects::default(),
            admission: Admission::new(workers),
            forget_at: now.mono,
            effects: VecDeque::new(),
            mark: None,
            mark_due: now.mono.after(due::MARK_EVERY),
        };
        let interrupted: Vec<JobId> =
            jobs.iter().filter(|job| job.state.is_started()).map(|job| job.id.clone()).collect();
        desk.jobs = Table::new(jobs);
        for id in interrupted {
            desk.change(now, &id, Event::Restart);
        }
        desk
    }

    /// The next thing to do.
    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// All jobs known.
    pub(super) fn jobs(&self) -> &Table {
        &self.jobs
    }

    /// Jobs that have ended and whose result nobody has acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.jobs.unacknowledged()
    }

    /// A job by id, as it may be told.
    pub(super) fn told_job(&self, id: &JobId) -> Option<Cow<'_, Job>> {
        self.told(self.jobs.get(id)?)
    }

    /// The job as it may be told: as the store has it. `None`: nobody shall know of it yet.
    pub(super) fn told<'a>(&'a self, job: Cow<'a, Job>) -> Option<Cow<'a, Job>> {
        self.unsettled.told(job)
    }

    /// The unfinished jobs, as a birth tells them.
    pub(super) fn open_jobs(&self) -> OpenJobs {
        let open = self.jobs.after(None).filter(|entry| entry.is_open()).filter_map(|entry| self.told(entry.job()));
        OpenJobs::first(open.map(|job| OpenJob { id: job.id.to_string(), status: job.state, version: job.version }))
    }

    /// A job by id, as it is.
    #[cfg(test)]
    pub(super) fn job(&self, id: &JobId) -> Option<Cow<'_, Job>> {
        self.jobs.get(id)
    }

    /// How many workers there are.
    pub(super) fn places(&self) -> usize {
        self.bench.places.len()
    }

    /// Jobs running (stopped ones included) and waiting.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.bench.runs().count(), self.jobs.queued())
    }

    /// Why a waiting job is not running, as `code: sentence`; `None` for one that is not waiting.
    pub(super) fn why_waiting(&self, job: &Job) -> Option<String> {
        let closed = self.reports.closed();
        let free_workers = self.bench.places.iter().filter(|place| place.is_free()).count();
        let surroundings = Surroundings { closed: closed.as_deref(), free_workers };
        let waiting = self.jobs.why_waiting(job, surroundings)?;
        Some(format!("{}: {}", waiting.code, waiting.sentence))
    }

    /// Nothing waits for the store.
    pub(super) fn nothing_pending(&self) -> bool {
        self.pending.is_empty() && self.effects.is_empty()
    }

    /// Commits and effects that wait.
    #[cfg(test)]
    pub(super) fn queued(&self) -> [usize; 2] {
        [self.pending.len(), self.effects.len()]
    }

    /// A message that is not for jobs, to be made durable with whatever comes next.
    pub(super) fn report(&mut self, batch: Batch, ack: Option<AckToken>) {
        self.commit(batch, ack, None);
    }

    /// New jobs are refused (and none started) from now on, or taken again.
    pub(super) fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// The models folder was read again.
    pub(super) fn set_library(&mut self, library: Arc<Library>) {
        self.admission.keep(&library);
        self.library = library;
        self.suspects = Suspects::default();
    }

    /// Orders are judged by this from now on.
    pub(super) fn set_trust(&mut self, trust: Trust) {
        self.trust = trust;
    }

    /// Limits were changed by a reload.
    pub(super) fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    // ---- from the sentinel ----

    /// The governor has let this many workers run since `at`: jobs in places beyond them stand, the others go on.
    ///
    /// Decided by place and not by what the sentinel met there: a job may have been given to a place whose worker had
    /// been stopped a moment before, or is just being replaced.
    pub(super) fn set_budget(&mut self, now: Now, at: Instant, budget: u8) {
        self.budget = budget;
        let mut moves = Vec::new();
        for (slot, run) in self.bench.runs_mut() {
            match (slot < usize::from(budget), run.is_stopped()) {
                (false, false) => {
                    run.stop(at);
                    moves.push((run.job.clone(), Event::Yield));
                }
                (true, true) => moves.push((run.job.clone(), Event::Resume { stopped: run.resume(at) })),
                (false, true) | (true, false) => {}
            }
        }
        for (id, event) in moves {
            self.change(now, &id, event);
        }
    }

    /// The jobs of these tokens that are still in their places.
    pub(super) fn jobs_of(&self, tokens: &[u64]) -> Vec<JobId> {
        self.bench.runs().filter(|(_, run)| tokens.contains(&run.token)).map(|(_, run)| run.job.clone()).collect()
    }

    // ---- shutdown ----

    /// Gives every running job back to the queue, without counting it as a failure.
    pub(super) fn give_back(&mut self, now: Now) {
        self.draining = true;
        for slot in 0..self.bench.places.len() {
            let stopped = self.bench.places[slot].run.as_ref().map(|run| run.stopped(now.mono));
            if let (Some(stopped), Some(id)) = (stopped, self.clear(now, slot)) {
                self.change(now, &id, Event::Evict { stopped });
            }
        }
    }

    // ---- helpers ----

    /// Applies an event, and commits the new state with the messages that tell of it.
    fn change(&mut self, now: Now, id: &JobId, event: Event) {
        self.change_for(now, id, event, None);
    }

    /// The same for a message that is acknowledged when the change is durable.
    fn change_for(&mut self, now: Now, id: &JobId, event: Event, ack: Option<AckToken>) {
        let Some(job) = self.apply(now, id, event) else { return self.acknowledge(ack) };
        let passing = matches!(job.state, State::Suspended) || job.reason == reason::RESUMED;
        let status = vec![self.reports.status(&job)];
        let mut batch = Batch::default();
        // In a long outage yields come and go: their statuses give way before anything else does.
        if passing {
            batch.droppable = status
        } else {
            batch.messages = status
        }
        if job.is_terminal() {
            let body = Reports::error_body(&job);
            batch.messages.push(self.reports.result(&job, body.clone()));
            batch.results.push((id.clone(), body));
            batch.drop_payloads.push(id.clone());
            batch.drop_items.push(id.clone());
        }
        batch.jobs.push(job);
        self.commit(batch, ack, None);
    }

    /// Applies an event and gives the job as it is then. An impossible one is a defect; it is told and changes nothing.
    fn apply(&mut self, now: Now, id: &JobId, event: Event) -> Option<Job> {
        self.unsettled.before(self.jobs.get_open(id));
        match self.jobs.apply(id, event, now.wall)? {
            Ok(job) => Some(job),
            Err(illegal) => {
                tracing::error!(job = %id, %illegal, "impossible move, ignored");
                None
            }
        }
    }

    /// Takes an ended job from its worker, which is killed: nothing else ends a computation at once.
    fn detach(&mut self, now: Now, id: &JobId, why: Code) {
        if let Some(slot) = self.bench.slot_of(id) {
            self.kill(now, slot, why);
        }
    }

    /// Empties a place and kills its worker, if it has work of that run; the job's own end has been or is told apart.
    fn kill(&mut self, now: Now, slot: usize, why: Code) -> Option<JobId> {
        let place = &self.bench.places[slot];
        let token = place.run.as_ref()?.token;
        let has_work = place.open.contains(&token);
        if has_work {
            self.effects.push_back(Effect::Kill { slot, why, token });
        }
        self.clear(now, slot)
    }

    /// Empties a place whose worker has nothing more of its run. What ran of an item that is lost is booked with the
    /// job's next change: it counts against the limit, or an item that fits no trough would run for ever.
    fn clear(&mut self, now: Now, slot: usize) -> Option<JobId> {
        let mut run = self.bench.places[slot].run.take()?;
        let ran = run.book(now.mono);
        self.jobs.add_running_time(&run.job, ran);
        self.effects.push_back(Effect::Token { slot, token: 0 });
        Some(run.job)
    }

    fn acknowledge(&mut self, ack: Option<AckToken>) {
        if let Some(ack) = ack {
            self.effects.push_back(Effect::Ack(ack));
        }
    }
}
