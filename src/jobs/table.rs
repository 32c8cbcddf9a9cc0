//! Which jobs does the node know, and which of them matter now? All jobs, with an index for every question that is asked
//! often.
//!
//! The answers are those of [`queue`], which asks every job each time; here no event and no turn of the
//! agent's loop costs more with ten thousand jobs than with ten. Jobs that have ended are kept small, because most of
//! those known have. Pure.

mod ended;
mod ranks;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use self::ended::{Ended, Models};
use self::ranks::Ranks;
use super::feasible::Delay;
use super::job::{Event, IllegalMove, Job, State};
use super::queue::{self, Ahead, Surroundings, Waiting};
use crate::units::{JobId, WallTime};

/// Every job that the node knows.
#[derive(Debug, Default)]
pub struct Table {
    jobs: BTreeMap<JobId, Known>,
    models: Models,
    open: usize,
    queued: usize,
    unacknowledged: usize,
    /// Jobs that the store may still refuse: they do not start.
    undecided: BTreeSet<JobId>,
    /// Jobs that wait for a worker, the next one first. Some may be overdue.
    ready: Ranks<Rank>,
    /// Jobs that wait for their `not_before`.
    early: BTreeSet<(WallTime, Rank)>,
    /// Deadlines of open jobs.
    deadlines: BTreeSet<(WallTime, JobId)>,
    /// Jobs in `early` that wait for a better moment instead, and why.
    delayed: BTreeMap<JobId, Delay>,
    /// Up to here `early` has been emptied.
    looked: WallTime,
}

/// A job, as large as it has to be.
#[derive(Debug)]
enum Known {
    Open(Box<Job>),
    Ended(Box<Ended>),
}

/// The order in which jobs are started: smaller goes first. See [`queue::next`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: Reverse<u8>,
    without_deadline: bool,
    deadline: Option<WallTime>,
    received: WallTime,
    id: JobId,
}

impl Rank {
    fn of(job: &Job) -> Self {
        Self {
            priority: Reverse(job.priority),
            without_deadline: job.deadline.is_none(),
            deadline: job.deadline,
            received: job.received,
            id: job.id.clone(),
        }
    }

    fn is_overdue(&self, now: WallTime) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// One job of a list, looked at without being copied.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its id.
    pub id: &'a JobId,
    known: &'a Known,
    models: &'a Models,
}

impl<'a> Entry<'a> {
    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        matches!(self.known, Known::Open(_))
    }

    /// Its last change.
    pub fn changed(&self) -> WallTime {
        match self.known {
            Known::Open(job) => job.changed,
            Known::Ended(ended) => ended.changed(),
        }
    }

    /// Whether it has ended and its result is still there to be asked for.
    pub fn keeps_result(&self) -> bool {
        match self.known {
            Known::Open(_) => false,
            Known::Ended(ended) => ended.keeps_result(),
        }
    }

    /// All that is known of it. Of a job that has ended limits, model version and times spent are not, and are zero.
    pub fn job(&self) -> Cow<'a, Job> {
        match self.known {
            Known::Open(job) => Cow::Borrowed(job),
            Known::Ended(ended) => Cow::Owned(ended.job(self.id, self.models)),
        }
    }
}

impl Table {
    /// A table of jobs that are all durable.
    pub fn new(jobs: impl IntoIterator<Item = Job>) -> Self {
        let mut table = Self::default();
        jobs.into_iter().for_each(|job| table.insert(job));
        table
    }

    // ---- how many ----

    /// Jobs known, ended ones included.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether no job is known.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Jobs that have not ended.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Jobs that wait.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Jobs that have ended and whose result nobody has acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    // ---- which ----

    /// A job by id, ended or not; see [`Entry::job`].
    pub fn get(&self, id: &JobId) -> Option<Cow<'_, Job>> {
        self.entry(id).map(|entry| entry.job())
    }

    /// A job by id, ended or not, without a copy.
    pub fn entry(&self, id: &JobId) -> Option<Entry<'_>> {
        self.jobs.get_key_value(id).map(|(id, known)| Entry { id, known, models: &self.models })
    }

    /// A job that has not ended.
    pub fn get_open(&self, id: &JobId) -> Option<&Job> {
        match self.jobs.get(id)? {
            Known::Open(job) => Some(job),
            Known::Ended(_) => None,
        }
    }

    /// All jobs in order of id, from the first one or behind this one.
    pub fn after(&self, id: Option<&JobId>) -> impl Iterator<Item = Entry<'_>> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.jobs.range::<JobId, _>((from, Bound::Unbounded)).map(|(id, known)| Entry {
            id,
            known,
            models: &self.models,
        })
    }

    /// At most `max` of the jobs that are wanted: open ones first, then the last changed.
    pub fn newest(&self, max: usize, wanted: impl Fn(&Entry<'_>) -> bool) -> Vec<Entry<'_>> {
        let mut best: BTreeSet<(bool, Reverse<WallTime>, &JobId)> = BTreeSet::new();
        for entry in self.after(None).filter(wanted) {
            best.insert((!entry.is_open(), Reverse(entry.changed()), entry.id));
            if best.len() > max {
                best.pop_last();
            }
        }
        best.into_iter().filter_map(|(.., id)| self.entry(id)).collect()
    }

    // ---- changes ----

    /// Adds a job, in the place of an earlier one of that id. It is durable.
    pub fn insert(&mut self, job: Job) {
        self.add(job, false);
    }

    /// Adds a job that the store may still refuse: it neither starts nor expires before [`Table::decide`].
    pub fn insert_undecided(&mut self, job: Job) {
        self.add(job, true);
    }

    fn add(&mut self, job: Job, is_undecided: bool) {
        let id = job.id.clone();
        self.remove(&id);
        let known = if job.is_terminal() {
            self.end(job)
        } else {
            if is_undecided {
                self.undecided.insert(id.clone());
            }
            self.open += 1;
            if !is_undecided {
                self.deadlines.extend(job.deadline.map(|deadline| (deadline, id.clone())));
            }
            if job.state == State::Queued {
                self.join(&job);
            }
            Known::Open(Box::new(job))
        };
        self.jobs.insert(id, known);
    }

    /// Whether the store may still refuse the job.
    pub fn is_undecided(&self, id: &JobId) -> bool {
        self.undecided.contains(id)
    }

    /// The store has taken the job.
    pub fn decide(&mut self, id: &JobId) {
        if !self.undecided.remove(id) {
            return;
        }
        let Some(Known::Open(job)) = self.jobs.get(id) else { return };
        self.deadlines.extend(job.deadline.map(|deadline| (deadline, id.clone())));
        if job.state == State::Queued {
            let (rank, start) = (Rank::of(job), job.earliest_start());
            self.line_up(rank, start);
        }
    }

    /// Forgets a job.
    pub fn remove(&mut self, id: &JobId) {
        match self.jobs.remove(id) {
            Some(Known::Open(job)) => {
                if job.state == State::Queued {
                    self.leave(&job);
                }
                self.close(&job);
            }
            Some(Known::Ended(ended)) => self.unacknowledged -= usize::from(ended.keeps_result()),
            None => {}
        }
        self.undecided.remove(id);
    }

    /// A controller has the result of an ended job. Tells whether that is news.
    pub fn acknowledge(&mut self, id: &JobId) -> bool {
        let is_news = match self.jobs.get_mut(id) {
            Some(Known::Ended(ended)) => ended.acknowledge(),
            Some(Known::Open(_)) | None => false,
        };
        self.unacknowledged -= usize::from(is_news);
        is_news
    }

    /// Applies an event and gives the job as it is then; `None` when there is no such job.
    ///
    /// # Errors
    /// [`IllegalMove`]; nothing has changed then.
    pub fn apply(&mut self, id: &JobId, event: Event, now: WallTime) -> Option<Result<Job, IllegalMove>> {
        let job = match self.jobs.get_mut(id)? {
            Known::Open(job) => job,
            Known::Ended(ended) => return Some(Err(IllegalMove { state: ended.state(), event })),
        };
        let was_queued = job.state == State::Queued;
        if let Err(illegal) = job.apply(event, now) {
            return Some(Err(illegal));
        }
        let job = Job::clone(job);
        match (was_queued, job.state == State::Queued) {
            (true, false) => self.leave(&job),
            (false, true) => self.join(&job),
            (true, true) | (false, false) => {}
        }
        if job.is_terminal() {
            self.close(&job);
            self.undecided.remove(id);
            let ended = self.end(job.clone());
            self.jobs.insert(id.clone(), ended);
        }
        Some(Ok(job))
    }

    /// Books running time that no event carries; passed over for a job that has ended.
    pub fn add_running_time(&mut self, id: &JobId, ran: Duration) {
        if let Some(Known::Open(job)) = self.jobs.get_mut(id) {
            job.ran = job.ran.saturating_add(ran);
        }
    }

    // ---- the queue, as of the last look at the clock ----

    /// It is now this late: to be called before the questions below.
    pub fn look(&mut self, now: WallTime) {
        if now < self.looked {
            // The clock was set back: what had become due may be early again.
            let start = |rank: &Rank| self.get_open(&rank.id)?.earliest_start().filter(|start| *start > now);
            let early: Vec<(WallTime, Rank)> =
                self.ready.iter().filter_map(|rank| Some((start(rank)?, rank.clone()))).collect();
            early.iter().for_each(|(_, rank)| self.ready.remove(rank));
            self.early.extend(early);
        }
        self.looked = now;
        while self.early.first().is_some_and(|(start, _)| *start <= now)
            && let Some((_, rank)) = self.early.pop_first()
        {
            self.delayed.remove(&rank.id);
            self.ready.insert(rank);
        }
    }

    /// The job that a free worker takes, as [`queue::next`] has it; never one that the store may still refuse.
    pub fn next(&self) -> Option<&Job> {
        // Overdue jobs are ended before anything starts, so there is hardly one to be passed over.
        let rank = self.ready.iter().find(|rank| !rank.is_overdue(self.looked))?;
        self.get_open(&rank.id)
    }

    /// Ids of open jobs whose deadline has passed, as [`queue::expired`] has it.
    pub fn expired(&self) -> Vec<JobId> {
        let mut ids: Vec<JobId> = self.overdue().cloned().collect();
        ids.sort_unstable();
        ids
    }

    fn overdue(&self) -> impl Iterator<Item = &JobId> {
        self.deadlines.iter().take_while(|(deadline, _)| *deadline <= self.looked).map(|(_, id)| id)
    }

    /// When to look again, as [`queue::next_moment`] has it.
    pub fn next_moment(&self) -> Option<WallTime> {
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        let start = self.early.first().map(|(start, _)| *start);
        deadline.into_iter().chain(start).min()
    }

    /// Why a job is not running, as [`queue::why_waiting`] has it, or that it waits for a better moment.
    pub fn why_waiting(&self, job: &Job, surroundings: Surroundings<'_>) -> Option<Waiting> {
        let delayed = self.delayed.get(&job.id).filter(|_| !job.is_overdue(self.looked));
        let delayed = delayed.map(|delay| Waiting { code: queue::OUTLOOK, sentence: delay.to_string() });
        delayed.or_else(|| queue::waiting(job, surroundings, self.looked, || self.ahead_of(job)))
    }

    /// At most `max` of the jobs that go before this one: those that wait, and those that the store may still refuse.
    pub fn before<'a>(&'a self, job: &'a Job, max: usize) -> impl Iterator<Item = &'a Job> {
        let mine = Rank::of(job);
        let is_first = move |rank: &&Rank| **rank < mine;
        let ready = self.ready.iter().take_while(is_first).filter_map(|rank| self.get_open(&rank.id));
        let undecided = self.undecided.iter().filter_map(|id| self.get_open(id));
        ready.chain(undecided.filter(move |other| queue::goes_before(other, job))).take(max)
    }

    /// A job that waits for a worker waits for a better moment instead.
    pub fn delay(&mut self, id: &JobId, delay: Delay) {
        let Some(rank) = self.get_open(id).map(Rank::of) else { return };
        if delay.until > self.looked && self.ready.iter().any(|ready| *ready == rank) {
            self.ready.remove(&rank);
            self.early.insert((delay.until, rank));
            self.delayed.insert(id.clone(), delay);
        }
    }

    /// Whatever waits for a better moment waits for a worker again: more is known of the moments to come.
    pub fn delay_no_more(&mut self) {
        for (id, delay) in std::mem::take(&mut self.delayed) {
            let Some((rank, start)) = self.get_open(&id).map(|job| (Rank::of(job), job.earliest_start())) else {
                continue;
            };
            if self.early.remove(&(delay.until, rank.clone())) {
                self.line_up(rank, start);
            }
        }
    }

    fn ahead_of(&self, job: &Job) -> Ahead {
        let mine = Rank::of(job);
        let above = self.ready.count_first(|rank| rank.priority < mine.priority);
        let mut ahead = Ahead { above, earlier: self.ready.count_first(|rank| *rank < mine) - above };
        // Those that are overdue stand in the line and are not waited for.
        let is_in_line = |job: &&Job| {
            let may_start = job.earliest_start().is_none_or(|start| start <= self.looked);
            let is_there = !self.undecided.contains(&job.id) && !self.delayed.contains_key(&job.id);
            job.state == State::Queued && may_start && is_there
        };
        let overdue = self.overdue().filter_map(|id| self.get_open(id)).filter(is_in_line);
        for rank in overdue.map(Rank::of).filter(|rank| *rank < mine) {
            match rank.priority < mine.priority {
                true => ahead.above -= 1,
                false => ahead.earlier -= 1,
            }
        }
        ahead
    }

    /// Ids of ended jobs that may be forgotten, as [`queue::forgettable`] has it, but at most `max`.
    ///
    /// This looks at every job: an index would take as much memory as the jobs. To be asked now and then only.
    pub fn forgettable(&self, keep: Duration, max: usize) -> Vec<JobId> {
        let may_go = |known: &Known| match known {
            Known::Open(_) => false,
            Known::Ended(ended) => queue::may_forget(ended.changed(), ended.deadline(), self.looked, keep),
        };
        self.jobs.iter().filter(|(_, known)| may_go(known)).map(|(id, _)| id.clone()).take(max).collect()
    }

    // ---- the indices ----

    fn join(&mut self, job: &Job) {
        self.queued += 1;
        if !self.undecided.contains(&job.id) {
            self.line_up(Rank::of(job), job.earliest_start());
        }
    }

    fn line_up(&mut self, rank: Rank, start: Option<WallTime>) {
        match start.filter(|start| *start > self.looked) {
            Some(start) => _ = self.early.insert((start, rank)),
            None => self.ready.insert(rank),
        }
    }

    fn leave(&mut self, job: &Job) {
        self.queued -= 1;
        let rank = Rank::of(job);
        self.ready.remove(&rank);
        let delay = self.delayed.remove(&job.id).map(|delay| delay.until);
        for start in job.not_before.into_iter().chain(delay) {
            self.early.remove(&(start, rank.clone()));
        }
    }

    fn end(&mut self, job: Job) -> Known {
        let ended = Ended::new(job, &mut self.models);
        self.unacknowledged += usize::from(ended.keeps_result());
        Known::Ended(Box::new(ended))
    }

    fn close(&mut self, job: &Job) {
        self.open -= 1;
        if let Some(deadline) = job.deadline {
            self.deadlines.remove(&(deadline, job.id.clone()));
        }
    }
}
