//! What is due? Deadlines, running-time limits, evictions, retention, the next start.

use std::sync::Arc;
use std::time::Duration;

use super::super::bench::Run;
use super::super::reports::Impairment;
use super::{Ask, Desk, Effect, ITEMS_AHEAD, Now};
use crate::fault::{Code, Fault};
use crate::jobs::job::Event;
use crate::jobs::store::Batch;
use crate::model::signed;
use crate::units::JobId;
use crate::worker::handle::Work;

/// The wall time is written down this often at least: rarely enough for flash, far more often than it matters.
pub(super) const MARK_EVERY: Duration = Duration::from_secs(3600);
/// Time between two looks through the ended jobs. Retention is in hours, so nobody waits for it to the second.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two looks at deadlines.
const AGAIN_MIN: Duration = Duration::from_millis(5);
/// Most jobs that are forgotten at once: they are one commit.
const FORGET_MAX: usize = 1000;

impl Desk {
    /// Whatever is due: deadlines, running-time limits, evictions, retention, the next start.
    pub(in crate::agent) fn tick(&mut self, now: Now) {
        self.keep_mark(now);
        self.jobs.look(now.due);
        for id in self.jobs.expired().into_iter().filter(|id| !self.jobs.is_undecided(id)).collect::<Vec<_>>() {
            self.change(now, &id, Event::Expire);
            self.detach(now, &id, Code::JobExpired);
        }
        self.enforce_wall_limits(now);
        self.evict_long_stopped(now);
        self.forget_old(now);
        while !self.draining && self.reports.may_start() && self.budget > 0 {
            let Some(slot) = self.bench.free(self.budget) else { break };
            let Some(job) = self.jobs.next() else { break };
            let (id, delay) = (job.id.clone(), self.delay_of(now, job));
            match delay {
                Some(delay) => self.jobs.delay(&id, delay),
                None => self.start(now, slot, &id),
            }
        }
    }

    /// When [`Desk::tick`] is due at the latest, as time from now.
    pub(in crate::agent) fn next_tick(&self, now: Now) -> Option<Duration> {
        // What is due by now has been done, or waits for the store: not to be looked at all the time.
        let by_wall = self.jobs.next_moment().map(|at| at.since(now.due).max(AGAIN_MIN));
        let by_run = self.bench.runs().filter_map(|(_, run)| {
            let job = self.jobs.get_open(&run.job)?;
            let limit = run.reaches(job.limits.wall.saturating_sub(job.ran));
            let evict = run.stands_for(self.settings.evict_after);
            limit.into_iter().chain(evict).min().map(|at| at.since(now.mono))
        });
        by_wall.into_iter().chain(by_run).min()
    }

    /// Remembers the wall time, as long as it is beyond doubt: the next start measures its clock by it. What waits for a
    /// disk that refuses brings none: its store may know better.
    fn keep_mark(&mut self, now: Now) {
        if !now.is_sure() || self.reports.impaired(Impairment::Disk).is_some() {
            self.mark = None;
            return;
        }
        self.mark = Some(now.wall);
        self.trust.begin(now.wall);
        if self.mark_due <= now.mono || self.trust.has_marks() {
            self.mark_due = now.mono.after(MARK_EVERY);
            self.commit(Batch::default(), None, None);
        }
    }

    fn enforce_wall_limits(&mut self, now: Now) {
        let over: Vec<(usize, Fault)> = self
            .bench
            .runs()
            .filter_map(|(slot, run)| {
                let job = self.jobs.get_open(&run.job)?;
                let limit = job.limits.wall;
                let due = run.reaches(limit.saturating_sub(job.ran))?;
                let text = || {
                    format!(
                        "the job ran for its limit of {} ms and is at item {} of {}; raise limits.wall_ms or send less",
                        limit.as_millis(),
                        job.done + 1,
                        job.items
                    )
                };
                (due <= now.mono).then(|| (slot, Fault::new(Code::WorkerTimeout, text())))
            })
            .collect();
        for (slot, fault) in over {
            self.suspect(slot, Code::WorkerTimeout);
            if let Some(id) = self.kill(now, slot, Code::WorkerTimeout) {
                self.change(now, &id, Event::Fault(fault));
            }
        }
    }

    fn evict_long_stopped(&mut self, now: Now) {
        let limit = self.settings.evict_after;
        let long: Vec<(usize, Duration)> = self
            .bench
            .runs()
            .filter(|(_, run)| run.is_stopped() && run.stopped(now.mono) >= limit)
            .map(|(slot, run)| (slot, run.stopped(now.mono)))
            .collect();
        for (slot, stopped) in long {
            if let Some(id) = self.kill(now, slot, Code::WorkerEvicted) {
                self.change(now, &id, Event::Evict { stopped });
            }
        }
    }

    fn forget_old(&mut self, now: Now) {
        if now.mono < self.forget_at {
            return;
        }
        self.forget_at = now.mono.after(FORGET_EVERY);
        let forget = self.jobs.forgettable(self.settings.retention, FORGET_MAX);
        if !forget.is_empty() {
            self.trust.forget(forget.iter().filter_map(|id| Some(self.jobs.get(id)?.changed)).max());
            for id in &forget {
                self.jobs.remove(id);
            }
            self.commit(Batch { forget, ..Batch::default() }, None, None);
        }
    }

    fn start(&mut self, now: Now, slot: usize, id: &JobId) {
        let Some(model) = self.jobs.get_open(id).map(|job| job.model.clone()) else { return };
        let found = self.library.find(&model.name, model.version, model.digest.as_ref());
        match found.and_then(|entry| signed::check_expiry(&entry, now.wall).map(|()| entry)) {
            Ok(entry) => {
                self.tokens += 1;
                let token = self.tokens;
                self.change(now, id, Event::Start);
                self.bench.places[slot].run = Some(Run::new(token, id.clone(), entry, now.mono));
                self.effects.push_back(Effect::Token { slot, token });
                // The store answers in order: when the input arrives, the attempt is durable.
                self.bench.places[slot].fetches += 1;
                self.effects.push_back(Effect::Ask(Ask::Fetch { id: id.clone(), slot }));
            }
            Err(fault) => {
                self.change(now, id, Event::Start);
                self.change(now, id, Event::Fault(fault));
            }
        }
    }

    /// Hands the worker its next items: the one it computes and one more, so that it never waits for the journal.
    pub(in crate::agent) fn feed(&mut self, slot: usize) {
        let place = &mut self.bench.places[slot];
        let Some(run) = place.run.as_mut() else { return };
        let Some(limits) = self.jobs.get_open(&run.job).map(|job| job.limits) else { return };
        while place.open.len() < ITEMS_AHEAD
            && let Some(request) = run.requests.get_mut(run.next)
        {
            let work = Work {
                token: run.token,
                item: u32::try_from(run.next).unwrap_or(u32::MAX),
                model: Arc::clone(&run.model),
                inputs: std::mem::take(&mut request.inputs),
                interpret: request.interpret,
                memory_bytes: limits.memory_bytes,
                output_bytes: limits.output_bytes,
            };
            run.next += 1;
            place.open.push(run.token);
            self.effects.push_back(Effect::Work { slot, work });
        }
    }
}
