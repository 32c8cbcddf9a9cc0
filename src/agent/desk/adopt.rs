//! What if the store comes later than the agent, or comes back damaged? Its jobs and the desk's become one again.

use std::collections::BTreeMap;

use super::{Desk, Now};
use crate::jobs::job::{Event, Job};
use crate::jobs::store::Batch;
use crate::units::JobId;

impl Desk {
    /// Takes the jobs of a store that was opened while the agent runs.
    ///
    /// What only the store knows is from an earlier run: it goes on as after a start. What the desk knows is newer: it is
    /// written again where the store has lost it, with the finished items of a job under way. A waiting job that the
    /// store has lost has no input any more either, and that is its end.
    pub(in crate::agent) fn adopt(&mut self, now: Now, found: Vec<Job>) {
        let mut found: BTreeMap<JobId, Job> = found.into_iter().map(|job| (job.id.clone(), job)).collect();
        let (mut lost, mut behind) = (Vec::new(), Vec::new());
        for entry in self.jobs.after(None) {
            let id = entry.id;
            // A submit that waits for the store's word is not in it: an id is not taken twice.
            let there = found.remove(id);
            let job = entry.job();
            if there.is_none() && self.needs_input(id) {
                lost.push(id.clone());
                continue;
            }
            let same = there.is_some_and(|there| (there.state, there.version) == (job.state, job.version));
            if !same && !self.jobs.is_undecided(id) {
                behind.push(job.into_owned());
            }
        }
        for id in lost {
            self.lose(now, &id);
        }
        for job in behind {
            let run = self.bench.slot_of(&job.id).and_then(|slot| self.bench.places[slot].run.as_ref());
            let bodies = run.map(|run| run.bodies.clone()).unwrap_or_default();
            let items = (0..).zip(bodies).map(|(item, body)| (job.id.clone(), item, body)).collect();
            let drop_items = vec![job.id.clone()];
            self.commit(Batch { jobs: vec![job], items, drop_items, ..Batch::default() }, None, None);
        }
        for (id, job) in found {
            let (interrupted, ended) = (job.state.is_started(), job.is_terminal());
            // Somebody may have asked for it while nobody could know it, and been refused.
            let again = vec![self.reports.status(&job)];
            self.jobs.insert(job);
            if interrupted {
                self.change(now, &id, Event::Restart);
            } else if !ended {
                self.commit(Batch { messages: again, ..Batch::default() }, None, None);
            }
        }
    }
}
