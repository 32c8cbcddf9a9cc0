//! What would the granted core time have done for the jobs? A queue, its workers and a stream of jobs, in virtual time.
//!
//! The order is that of the real table of jobs, and so is every move of a job. A job is a batch of items that each take
//! a known core time, after the model was loaded once an attempt. A worker beyond the budget keeps its job where it
//! is; after `evict_after` the job goes back to the queue from its last finished item, and what the item under way had
//! had is lost. So is the load of its model.
//!
//! Admission is the real one: room in the table, and whether the job can be done by its deadline with what goes before
//! it and what is expected to be free. Nothing is delayed: that is for single items longer than a few minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::mix::Stream;
use super::{Clock, Setup};
use crate::jobs::feasible::{self, Claim, Demand, Supply};
use crate::jobs::job::{Event, Job, Limits, ModelRef, Spec};
use crate::jobs::queue::{self, Capacity};
use crate::jobs::table::Table;
use crate::units::outlook::Outlook;
use crate::units::{Digest, Instant, JOBS_MAX, JobId, WallTime};

/// An outlook is asked for this long after the last one: less often than an agent does, because each takes as long as
/// the samples of hours.
const OUTLOOK_EVERY: Duration = Duration::from_secs(3 * 3600);
/// Most jobs that are looked at to tell what goes before a new one.
const BEFORE_MAX: usize = 64;

/// What became of the jobs of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Jobs that came.
    pub came: u64,
    /// Refused when they came.
    pub refused: u64,
    /// Done before their deadline, or done and without one.
    pub met: u64,
    /// Not done when their deadline came.
    pub missed: u64,
    /// Neither done nor missed when the recording ended.
    pub open: u64,
    /// Attempts that were given up because the worker stood for too long.
    pub evicted: u64,
}

/// The jobs of a configuration, over all nodes.
#[derive(Clone, Debug, Default)]
pub struct JobTotals {
    /// By stream, in the order of the mix.
    pub streams: Vec<Outcomes>,
    /// Core time in which a worker had something to do and might.
    pub used: Duration,
    /// Core time that was spent and lost to evictions.
    pub lost: Duration,
}

impl JobTotals {
    pub(super) fn new(streams: usize) -> Self {
        Self { streams: vec![Outcomes::default(); streams], ..Self::default() }
    }

    /// All streams together.
    pub fn all(&self) -> Outcomes {
        self.streams.iter().fold(Outcomes::default(), |sum, one| Outcomes {
            came: sum.came + one.came,
            refused: sum.refused + one.refused,
            met: sum.met + one.met,
            missed: sum.missed + one.missed,
            open: sum.open + one.open,
            evicted: sum.evicted + one.evicted,
        })
    }
}

/// The jobs of one node.
#[derive(Debug)]
pub(super) struct Work {
    table: Table,
    tasks: BTreeMap<JobId, Task>,
    slots: Vec<Option<Slot>>,
    /// When the next job of each stream comes; the end of time when none does.
    next: Vec<Instant>,
    capacity: Capacity,
    supply: Supply,
    /// When the outlook is to be renewed; the end of time without jobs.
    renewed_at: Instant,
    evict_after: Duration,
    clock: Clock,
    node: usize,
    count: u64,
}

/// What is left of a job.
#[derive(Clone, Copy, Debug)]
struct Task {
    stream: usize,
    items_left: u32,
}

/// A worker with a job.
#[derive(Debug)]
struct Slot {
    id: JobId,
    /// Core time that the attempt still takes, and has had.
    left: Duration,
    had: Duration,
    /// Since when it stands.
    stopped: Option<Instant>,
}

const NEVER: Instant = Instant::from_nanos(u64::MAX);

impl Work {
    /// Nothing to do yet.
    pub(super) fn new(node: usize, setup: &Setup, streams: &[Stream], began: Instant, clock: Clock) -> Self {
        Self {
            table: Table::default(),
            tasks: BTreeMap::new(),
            slots: (0..setup.policy.workers).map(|_| None).collect(),
            next: streams.iter().map(|stream| stream.first_from(began, clock)).collect(),
            capacity: Capacity { jobs_max: JOBS_MAX, open_max: setup.open_max },
            supply: Supply::new(usize::from(setup.policy.workers), None),
            renewed_at: if streams.is_empty() { NEVER } else { began },
            evict_after: setup.evict_after,
            clock,
            node,
            count: 0,
        }
    }

    /// Whether what is known of the coming hours is old.
    pub(super) fn wants_outlook(&self, now: Instant) -> bool {
        now >= self.renewed_at
    }

    /// Takes in what is expected of the coming hours.
    pub(super) fn set_outlook(&mut self, now: Instant, outlook: Option<Outlook>) {
        self.supply = Supply::new(self.slots.len(), outlook);
        self.renewed_at = now.after(OUTLOOK_EVERY);
    }

    /// Lets time pass in which so many workers may run.
    pub(super) fn run(&mut self, from: Instant, to: Instant, budget: u8, streams: &[Stream], into: &mut JobTotals) {
        let mut at = from;
        self.stop_and_go(at, budget);
        loop {
            self.arrive(at, streams, into);
            self.expire(at, into);
            self.evict(at, streams, into);
            self.fill(at, budget, streams);
            let next = self.next_moment(at, budget).min(to);
            self.progress(next.since(at), budget, into);
            at = next;
            self.complete(at, budget, into);
            if at >= to {
                return;
            }
        }
    }

    /// The recording ends.
    pub(super) fn end(&self, into: &mut JobTotals) {
        self.tasks.values().for_each(|task| into.streams[task.stream].open += 1);
    }

    fn stop_and_go(&mut self, now: Instant, budget: u8) {
        let wall = self.clock.wall(now);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            let event = match (index < usize::from(budget), slot.stopped) {
                (true, Some(stopped)) => Event::Resume { stopped: now.since(stopped) },
                (false, None) => Event::Yield,
                (true, None) | (false, Some(_)) => continue,
            };
            slot.stopped = matches!(event, Event::Yield).then_some(now);
            apply(&mut self.table, &slot.id, event, wall);
        }
    }

    fn arrive(&mut self, now: Instant, streams: &[Stream], into: &mut JobTotals) {
        for (index, stream) in streams.iter().enumerate() {
            while self.next[index] <= now {
                let came = self.next[index];
                self.next[index] = stream.every.map_or(NEVER, |every| came.after(every));
                into.streams[index].came += 1;
                let has_room = queue::admit(&self.capacity, self.table.open(), self.table.len()).is_ok();
                let job = has_room.then(|| self.job(stream, now)).flatten();
                match job.filter(|job| self.is_feasible(job, stream, now, streams)) {
                    Some(job) => self.take(index, stream, job),
                    None => into.streams[index].refused += 1,
                }
            }
        }
    }

    /// A new job; its id is always one.
    fn job(&mut self, stream: &Stream, now: Instant) -> Option<Job> {
        self.count += 1;
        let spec = Spec {
            id: format!("n{}-{}", self.node, self.count).parse().ok()?,
            body: Digest([0; 32]),
            model: ModelRef { name: stream.model.clone(), version: None, digest: None },
            priority: stream.priority,
            deadline: stream.deadline.map(|deadline| self.clock.wall(now).after(deadline)),
            not_before: None,
            limits: Limits { wall: Duration::MAX, memory_bytes: 0, attempts: 1, output_bytes: 0 },
            traceparent: None,
            // Items are counted here: a thousand moves of a job for a thousand items would tell nothing more.
            items: 1,
        };
        Some(Job::new(spec, self.clock.wall(now)))
    }

    /// Whether it can be done in time, as admission judges it.
    fn is_feasible(&self, job: &Job, stream: &Stream, now: Instant, streams: &[Stream]) -> bool {
        let Some(deadline) = job.deadline else { return true };
        let wall = self.clock.wall(now);
        let demand = Demand { need: stream.load + stream.item * stream.items, start: wall, deadline };
        let running = self.slots.iter().flatten().filter_map(|slot| Some((self.table.get_open(&slot.id)?, slot.left)));
        let running = running.filter(|(other, _)| queue::goes_before(other, job));
        let waiting = self.table.before(job, BEFORE_MAX).map(|other| {
            let task = self.tasks.get(&other.id);
            let need = task.map(|task| streams[task.stream].load + streams[task.stream].item * task.items_left);
            (other, need.unwrap_or_default())
        });
        let claims = running.chain(waiting).map(|(other, need)| Claim { need, deadline: other.deadline });
        feasible::check(wall, &self.supply, demand, claims).is_ok()
    }

    fn take(&mut self, index: usize, stream: &Stream, job: Job) {
        self.tasks.insert(job.id.clone(), Task { stream: index, items_left: stream.items });
        self.table.insert(job);
    }

    fn expire(&mut self, now: Instant, into: &mut JobTotals) {
        let wall = self.clock.wall(now);
        self.table.look(wall);
        for id in self.table.expired() {
            if let Some(slot) = self.slots.iter_mut().find(|slot| slot.as_ref().is_some_and(|slot| slot.id == id)) {
                *slot = None;
            }
            apply(&mut self.table, &id, Event::Expire, wall);
            self.forget(&id, |outcomes| outcomes.missed += 1, into);
        }
    }

    fn evict(&mut self, now: Instant, streams: &[Stream], into: &mut JobTotals) {
        let wall = self.clock.wall(now);
        for place in &mut self.slots {
            let stopped = place.as_ref().and_then(|slot| slot.stopped);
            let Some(stopped) = stopped.filter(|stopped| now >= stopped.after(self.evict_after)) else { continue };
            let Some(slot) = place.take() else { continue };
            apply(&mut self.table, &slot.id, Event::Evict { stopped: now.since(stopped) }, wall);
            let Some(task) = self.tasks.get_mut(&slot.id) else { continue };
            let stream = &streams[task.stream];
            let done = stream.items_in(slot.had).min(task.items_left.saturating_sub(1));
            task.items_left -= done;
            into.lost += slot.had.saturating_sub(stream.item * done);
            into.streams[task.stream].evicted += 1;
        }
    }

    /// Gives free workers that may run the jobs that are next.
    fn fill(&mut self, now: Instant, budget: u8, streams: &[Stream]) {
        let wall = self.clock.wall(now);
        for place in self.slots.iter_mut().take(usize::from(budget)).filter(|place| place.is_none()) {
            self.table.look(wall);
            let Some(id) = self.table.next().map(|job| job.id.clone()) else { return };
            let Some(task) = self.tasks.get(&id) else { return };
            let stream = &streams[task.stream];
            let left = stream.load + stream.item * task.items_left;
            apply(&mut self.table, &id, Event::Start, wall);
            *place = Some(Slot { id, left, had: Duration::ZERO, stopped: None });
        }
    }

    /// When something happens by itself, after `now`.
    fn next_moment(&self, now: Instant, budget: u8) -> Instant {
        let slots = self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index, slot.as_ref()?)));
        let ends = slots.map(|(index, slot)| match slot.stopped {
            Some(stopped) => stopped.after(self.evict_after),
            None if index < usize::from(budget) => now.after(slot.left),
            None => NEVER,
        });
        let deadline = self.table.next_moment().map_or(NEVER, |at| self.clock.instant(at));
        let arrivals = self.next.iter().copied().min().unwrap_or(NEVER);
        // A moment that has passed has been dealt with as far as it can be.
        let least = now.after(Duration::from_nanos(1));
        ends.min().unwrap_or(NEVER).min(deadline).min(arrivals).max(least)
    }

    fn progress(&mut self, passed: Duration, budget: u8, into: &mut JobTotals) {
        for slot in self.slots.iter_mut().take(usize::from(budget)).flatten() {
            let part = passed.min(slot.left);
            slot.left -= part;
            slot.had += part;
            into.used += part;
        }
    }

    fn complete(&mut self, now: Instant, budget: u8, into: &mut JobTotals) {
        let wall = self.clock.wall(now);
        for index in 0..self.slots.len().min(usize::from(budget)) {
            let Some(slot) = self.slots[index].take_if(|slot| slot.left.is_zero()) else { continue };
            // A deadline of this very moment counts as kept: the work is done.
            let item = Event::ItemDone { cpu: slot.had, ran: slot.had };
            apply(&mut self.table, &slot.id, item, wall);
            apply(&mut self.table, &slot.id, Event::Succeed, wall);
            self.forget(&slot.id, |outcomes| outcomes.met += 1, into);
        }
    }

    fn forget(&mut self, id: &JobId, count: impl FnOnce(&mut Outcomes), into: &mut JobTotals) {
        self.table.remove(id);
        if let Some(task) = self.tasks.remove(id) {
            count(&mut into.streams[task.stream]);
        }
    }
}

/// Every move that is made here is legal: it follows the state of the slot.
fn apply(table: &mut Table, id: &JobId, event: Event, now: WallTime) {
    let moved = table.apply(id, event, now);
    debug_assert!(matches!(moved, Some(Ok(_))), "{moved:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Instant {
        Instant::default().after(S * seconds)
    }

    /// A batch of ten items of 10 s, and 5 s to load its model.
    fn batch(every: Option<Duration>, deadline: Option<Duration>) -> Stream {
        Stream {
            model: "m".parse().unwrap(),
            items: 10,
            item: S * 10,
            load: S * 5,
            first: S * 100,
            every,
            deadline,
            priority: 5,
        }
    }

    fn work(streams: &[Stream]) -> (Work, JobTotals) {
        let setup = Setup { evict_after: S * 60, open_max: 3, ..super::super::tests::setup() };
        (Work::new(0, &setup, streams, at(0), Clock::default()), JobTotals::new(streams.len()))
    }

    #[test]
    fn a_job_is_done_when_it_had_its_core_time() {
        let streams = [batch(None, Some(S * 200))];
        let (mut work, mut totals) = work(&streams);
        work.run(at(0), at(150), 1, &streams, &mut totals);
        assert!(work.slots[0].is_some());
        assert_eq!((totals.all().met, totals.used), (0, S * 50));
        work.run(at(150), at(170), 0, &streams, &mut totals);
        work.run(at(170), at(400), 1, &streams, &mut totals);
        assert_eq!(totals.all(), Outcomes { came: 1, met: 1, ..Outcomes::default() });
        assert_eq!((totals.used, totals.lost), (S * 105, Duration::ZERO));
    }

    #[test]
    fn a_job_that_stands_too_long_loses_its_item_and_goes_on_from_the_last_one() {
        let streams = [batch(None, None)];
        let (mut work, mut totals) = work(&streams);
        // 5 s of loading, three items, 7 s of the fourth.
        work.run(at(0), at(142), 1, &streams, &mut totals);
        work.run(at(142), at(300), 0, &streams, &mut totals);
        assert!(work.slots[0].is_none());
        assert_eq!((totals.all().evicted, totals.lost), (1, S * 12));
        work.run(at(300), at(374), 1, &streams, &mut totals);
        assert_eq!(totals.all().met, 0);
        work.run(at(374), at(375), 1, &streams, &mut totals);
        assert_eq!(totals.all(), Outcomes { came: 1, met: 1, evicted: 1, ..Outcomes::default() });
    }

    #[test]
    fn a_deadline_that_passes_is_missed_and_frees_the_worker() {
        let streams = [batch(Some(S * 200), Some(S * 120))];
        let (mut work, mut totals) = work(&streams);
        work.run(at(0), at(110), 1, &streams, &mut totals);
        work.run(at(110), at(150), 0, &streams, &mut totals);
        work.run(at(150), at(460), 1, &streams, &mut totals);
        assert_eq!(totals.all(), Outcomes { came: 2, met: 1, missed: 1, ..Outcomes::default() });
        assert_eq!(totals.used, S * (80 + 105));
    }

    #[test]
    fn what_cannot_be_done_in_time_is_refused_when_it_comes() {
        // 105 s of work within 100 s; and within 150 s behind another one of 105 s.
        for (deadline, expected) in [
            (S * 100, Outcomes { came: 2, refused: 2, ..Outcomes::default() }),
            (S * 150, Outcomes { came: 2, met: 1, refused: 1, ..Outcomes::default() }),
        ] {
            let streams = [batch(None, Some(deadline)), batch(None, Some(deadline))];
            let (mut work, mut totals) = work(&streams);
            work.run(at(0), at(400), 1, &streams, &mut totals);
            assert_eq!(totals.all(), expected);
        }
    }

    #[test]
    fn what_finds_no_room_is_refused_and_what_is_left_is_open() {
        // At 20, 60, 100 and 140 s.
        let streams = [batch(Some(S * 40), None)];
        let (mut work, mut totals) = work(&streams);
        work.run(at(0), at(150), 0, &streams, &mut totals);
        work.end(&mut totals);
        assert_eq!(totals.all(), Outcomes { came: 4, refused: 1, open: 3, ..Outcomes::default() });
    }
}
