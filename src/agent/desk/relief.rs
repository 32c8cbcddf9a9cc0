//! What if memory is short? Workers give theirs back, jobs go back to the queue, and nothing starts meanwhile. And if a worker cannot serve?

use std::time::Duration;

use super::{Desk, Effect, Now};
use crate::agent::pressure::Holds;
use crate::fault::Code;
use crate::jobs::job::Event;

impl Desk {
    /// Memory is short for this reason, so nothing starts; `None`: it is not, or not any more.
    pub(in crate::agent) fn set_short(&mut self, reason: Option<String>) {
        self.reports.set_short(reason);
    }

    /// Whether a process may be started for that place.
    pub(in crate::agent) fn may_start(&self, slot: usize) -> bool {
        self.reports.may_start_worker() && slot < usize::from(self.budget)
    }

    /// Whether any worker is up.
    pub(in crate::agent) fn has_worker(&self) -> bool {
        self.bench.places.iter().any(|place| place.ready)
    }

    /// The worker of that place cannot have the sandbox that is required. Its job goes back to the queue, and it counts
    /// as no failure: every other job would have met the same.
    pub(super) fn unserved(&mut self, now: Now, slot: usize) {
        let Some(stopped) = self.bench.places[slot].run.as_ref().map(|run| run.stopped(now.mono)) else { return };
        if let Some(id) = self.kill(now, slot, Code::SandboxUnavailable) {
            self.change(now, &id, Event::Evict { stopped });
        }
    }

    /// What each worker has of the node's memory.
    pub(in crate::agent) fn holds(&self) -> Vec<Holds> {
        let holds = |place: &super::super::bench::Place| match &place.run {
            Some(run) if run.is_stopped() => Holds::Stopped,
            Some(_) => Holds::Running,
            // With items of an ended run it is being killed for them.
            None if place.is_free() => Holds::Models,
            None => Holds::Nothing,
        };
        self.bench.places.iter().map(holds).collect()
    }

    /// Gives the workers of these slots up. Their jobs go on later from the last finished item, and it counts as no
    /// failure of theirs.
    pub(in crate::agent) fn relieve(&mut self, now: Now, slots: &[usize]) {
        for slot in slots.iter().copied() {
            let Some(place) = self.bench.places.get(slot) else { continue };
            let stopped = place.run.as_ref().map_or(Duration::ZERO, |run| run.stopped(now.mono));
            // A worker that has nothing of its job yet is killed as an idle one.
            let has_work = place.run.as_ref().is_some_and(|run| place.open.contains(&run.token));
            let job = self.kill(now, slot, Code::WorkerEvicted);
            if !has_work {
                self.effects.push_back(Effect::Empty { slot, why: Code::WorkerEvicted });
            }
            if let Some(id) = job {
                self.change(now, &id, Event::Evict { stopped });
            }
        }
    }
}
