//! Which job goes next, and why does another one wait? Order and admission, as pure functions over jobs.
//!
//! Every answer depends on the arguments alone: the same jobs in any order of iteration give the same answer.

use std::cmp::Reverse;
use std::time::Duration;

use super::job::{Job, State};
use crate::fault::{Code, Fault};
use crate::units::{JOBS_MAX, JobId, WallTime};

/// How long an id is remembered after its job's deadline, so that a late copy of the submit does not run it again. One
/// without a deadline is remembered for as long after its job's end, which is longer than after it was received: for
/// that long a broker may hold a copy of the submit.
pub const DEDUP_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How many jobs the node takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Most jobs known at once, finished ones included. Values above [`JOBS_MAX`] count as that.
    pub jobs_max: usize,
    /// Most jobs that are not finished.
    pub open_max: usize,
}

/// Whether there is room for one more job besides `open` unfinished of `known` jobs.
///
/// A full table refuses new jobs rather than forget a known id: a forgotten id could run twice.
///
/// # Errors
/// `queue.full` with numbers and remedy.
pub fn admit(capacity: &Capacity, open: usize, known: usize) -> Result<(), Fault> {
    let known_max = capacity.jobs_max.min(JOBS_MAX);
    if open >= capacity.open_max {
        let text =
            format!("{open} jobs are waiting or running, limit {}: submit again when some are done", capacity.open_max);
        return Err(Fault::new(Code::QueueFull, text));
    }
    if known >= known_max {
        let text = format!(
            "{known} jobs are known, limit {known_max}: acknowledge results or wait until old ones are forgotten"
        );
        return Err(Fault::new(Code::QueueFull, text));
    }
    Ok(())
}

/// The job that a free worker takes: highest priority, then earliest deadline, then oldest, then smallest id.
///
/// Only jobs that wait, may start at `now` and are not overdue.
pub fn next<'a>(jobs: impl IntoIterator<Item = &'a Job>, now: WallTime) -> Option<&'a Job> {
    jobs.into_iter().filter(|job| is_ready(job, now)).min_by(|a, b| rank(a).cmp(&rank(b)))
}

fn is_ready(job: &Job, now: WallTime) -> bool {
    job.state == State::Queued && start_ahead(job, now).is_none() && !job.is_overdue(now)
}

/// The start that a job still waits for.
fn start_ahead(job: &Job, now: WallTime) -> Option<WallTime> {
    job.earliest_start().filter(|start| *start > now)
}

/// Whether `job` is started before `other` when both may start.
pub fn goes_before(job: &Job, other: &Job) -> bool {
    rank(job) < rank(other)
}

/// Smaller goes first. The id makes the order total.
fn rank(job: &Job) -> (Reverse<u8>, bool, Option<WallTime>, WallTime, &JobId) {
    (Reverse(job.priority), job.deadline.is_none(), job.deadline, job.received, &job.id)
}

/// Ids of unfinished jobs whose deadline has passed at `now`, in order of id.
pub fn expired<'a>(jobs: impl IntoIterator<Item = &'a Job>, now: WallTime) -> Vec<JobId> {
    ids(jobs.into_iter().filter(|job| !job.is_terminal() && job.is_overdue(now)))
}

/// When to look again: the earliest deadline of an unfinished job or start of a waiting one.
///
/// A deadline that has passed is returned as it is, so that it is never slept through; [`expired`] names its job.
pub fn next_moment<'a>(jobs: impl IntoIterator<Item = &'a Job>, now: WallTime) -> Option<WallTime> {
    let moments = |job: &Job| {
        let start = start_ahead(job, now).filter(|_| job.state == State::Queued);
        [job.deadline, start].into_iter().flatten().min()
    };
    jobs.into_iter().filter(|job| !job.is_terminal()).filter_map(moments).min()
}

/// Ids of finished jobs that may be forgotten with all they left, in order of id.
///
/// That is `keep` after they ended, but not before [`DEDUP_AFTER`] has passed since their deadline, or since they ended
/// when they have none.
pub fn forgettable<'a>(jobs: impl IntoIterator<Item = &'a Job>, now: WallTime, keep: Duration) -> Vec<JobId> {
    ids(jobs.into_iter().filter(|job| job.is_terminal() && may_forget(job.changed, job.deadline, now, keep)))
}

/// Whether a job that ended at `ended` may be forgotten.
pub(super) fn may_forget(ended: WallTime, deadline: Option<WallTime>, now: WallTime, keep: Duration) -> bool {
    ended.after(keep) <= now && deadline.unwrap_or(ended).after(DEDUP_AFTER) <= now
}

fn ids<'a>(jobs: impl Iterator<Item = &'a Job>) -> Vec<JobId> {
    let mut ids: Vec<JobId> = jobs.map(|job| job.id.clone()).collect();
    ids.sort_unstable();
    ids
}

/// What besides the jobs themselves decides whether one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings<'a> {
    /// Why the node runs nothing now, such as `mode busy: RRU.PrbTotDl 71 > 40`; `None` in a trough.
    pub closed: Option<&'a str>,
    /// Workers that could take a job now.
    pub free_workers: usize,
}

/// The code of a job that waits for a moment which is expected to be better, see [`Delay`](super::feasible::Delay).
pub const OUTLOOK: &str = "outlook";

/// Why a job waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Stable code: `deadline`, `not_before`, `outlook`, `mode`, `behind`, `no_worker` or `next`.
    pub code: &'static str,
    /// The same in one sentence.
    pub sentence: String,
}

/// Why `job` is not running; `None` when it does not wait. `jobs` are all jobs of the node, itself included or not.
pub fn why_waiting<'a>(
    job: &Job,
    jobs: impl IntoIterator<Item = &'a Job>,
    surroundings: Surroundings<'_>,
    now: WallTime,
) -> Option<Waiting> {
    waiting(job, surroundings, now, || {
        let mut ahead = Ahead::default();
        for other in jobs.into_iter().filter(|other| is_ready(other, now) && rank(other) < rank(job)) {
            match other.priority > job.priority {
                true => ahead.above += 1,
                false => ahead.earlier += 1,
            }
        }
        ahead
    })
}

/// Jobs that go before another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    /// Of higher priority.
    pub(super) above: usize,
    /// Of the same priority.
    pub(super) earlier: usize,
}

/// The same, when it is known how many jobs go before it.
pub(super) fn waiting(
    job: &Job,
    surroundings: Surroundings<'_>,
    now: WallTime,
    ahead: impl FnOnce() -> Ahead,
) -> Option<Waiting> {
    if job.state != State::Queued {
        return None;
    }
    let waiting = |code, sentence| Some(Waiting { code, sentence });
    if let Some(deadline) = job.deadline.filter(|_| job.is_overdue(now)) {
        return waiting("deadline", format!("deadline {} has passed", deadline));
    }
    if let Some(start) = start_ahead(job, now) {
        return waiting("not_before", format!("not_before {}", start));
    }
    if let Some(reason) = surroundings.closed {
        return waiting("mode", reason.to_owned());
    }
    let Ahead { above, earlier } = ahead();
    match (above + earlier, surroundings.free_workers) {
        (0, 0) => waiting("no_worker", "no free worker".to_owned()),
        (ahead, free) if ahead < free => waiting("next", "a free worker takes it next".to_owned()),
        _ => waiting("behind", behind(above, earlier)),
    }
}

fn behind(above: usize, earlier: usize) -> String {
    let jobs = |count| if count == 1 { "job" } else { "jobs" };
    match (above, earlier) {
        (above, 0) => format!("behind {above} {} of higher priority", jobs(above)),
        (0, earlier) => format!("behind {earlier} {} of the same priority", jobs(earlier)),
        (above, earlier) => format!("behind {above} {} of higher and {earlier} of the same priority", jobs(above)),
    }
}

#[cfg(test)]
mod tests;
