//! What if the store has not answered yet? What is not durable is not told, and what concerns a job that may still be
//! refused waits for the decision.
//!
//! A crash undoes what was not durable. Whoever had been told of it would believe in an end, or in a job, that the next
//! agent knows nothing of.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::fault::Fault;
use crate::jobs::job::Job;
use crate::link::AckToken;
use crate::units::JobId;

/// What arrived for a job that the store has not decided about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Later {
    /// The submit again.
    Again(Option<AckToken>),
    /// Another body under its id, and what is wrong with that.
    Conflict(Fault, Option<AckToken>),
    /// It is to be taken back.
    Cancel(Option<AckToken>),
}

/// A job with changes that are on their way to the store.
#[derive(Debug)]
struct Waiting {
    /// As the store has it; `None` while it has not.
    durable: Option<Job>,
    /// Commits under way.
    commits: usize,
}

/// Jobs with changes that are on their way to the store.
#[derive(Debug, Default)]
pub(super) struct Unsettled(BTreeMap<JobId, Waiting>);

impl Unsettled {
    /// A job is about to change: this is how the store has it, unless it is being changed already.
    pub(super) fn before(&mut self, job: Option<&Job>) {
        let Some(job) = job.filter(|job| !self.0.contains_key(&job.id)) else { return };
        self.0.insert(job.id.clone(), Waiting { durable: Some(job.clone()), commits: 0 });
    }

    /// A change of the job is on its way.
    pub(super) fn asked(&mut self, job: &Job) {
        self.0.entry(job.id.clone()).or_insert(Waiting { durable: None, commits: 0 }).commits += 1;
    }

    /// The store has made the oldest change of a job durable, so that it is like this; or has refused it.
    pub(super) fn settled(&mut self, job: Job, is_durable: bool) {
        let Some(waiting) = self.0.get_mut(&job.id) else { return };
        waiting.commits = waiting.commits.saturating_sub(1);
        if waiting.commits == 0 {
            self.0.remove(&job.id);
        } else if is_durable {
            waiting.durable = Some(job);
        }
    }

    /// The job as it may be told; `None`: nobody shall know of it yet.
    pub(super) fn told<'a>(&'a self, job: Cow<'a, Job>) -> Option<Cow<'a, Job>> {
        match self.0.get(&job.id) {
            Some(waiting) => waiting.durable.as_ref().map(Cow::Borrowed),
            None => Some(job),
        }
    }
}
