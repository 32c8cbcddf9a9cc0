//! What has become of every job? The controller's book: nothing submitted may be forgotten. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::jobs::job::State;
use crate::link::reconcile::Known;
use crate::units::JobId;

/// Most jobs of one run; no more are submitted after that.
pub const BOOK_JOBS_MAX: usize = 20_000;
/// Most yields whose latency is kept.
const YIELDS_MAX: usize = 100_000;

/// A job on the book.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    model: String,
    titles: Vec<String>,
    version: u64,
    state: Option<State>,
    has_result: bool,
    done: u32,
}

impl Entry {
    /// Whether nothing more is to come: a terminal status, and the result or error that belongs to it.
    fn is_settled(&self) -> bool {
        self.state.is_some_and(is_terminal) && self.has_result
    }
}

/// What one result says about one sample.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sight {
    /// Which model looked.
    pub model: String,
    /// At what.
    pub title: String,
    /// What it saw.
    pub seen: String,
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.title, self.seen, self.model)
    }
}

/// What came out of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Jobs submitted.
    pub submitted: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Ended by a fault.
    pub failed: u64,
    /// Never accepted.
    pub rejected: u64,
    /// Taken back.
    pub canceled: u64,
    /// Their deadline passed.
    pub timed_out: u64,
    /// Accepted, and not ended when the controller left: it did not wait long enough, or the node forgot them.
    pub unfinished: u64,
    /// Without any word from the node, or succeeded without a result.
    pub lost: u64,
    /// Items finished.
    pub items_done: u64,
    /// Items that ended in an error.
    pub items_failed: u64,
    /// Messages that contradict the protocol: unreadable, a terminal state left, a job nobody submitted.
    pub contradictions: u64,
    /// Latency of each yield, in microseconds, in the order they came.
    pub yields_us: Vec<u64>,
    /// What was seen, one entry for each model and sample.
    pub sights: BTreeMap<(String, String), String>,
}

/// Everything the controller knows.
#[derive(Clone, Debug, Default)]
pub struct Book {
    jobs: BTreeMap<JobId, Entry>,
    open: BTreeSet<JobId>,
    tally: Tally,
}

/// What a status changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing new: an older or repeated message, or one that makes no sense.
    None,
    /// The job moved on.
    Progress,
    /// Status and result are both there now.
    Settled,
}

impl Book {
    /// Enters a job before it is sent.
    pub fn submit(&mut self, id: JobId, model: String, titles: Vec<String>) {
        self.tally.submitted += 1;
        self.open.insert(id.clone());
        let entry = Entry { model, titles, version: 0, state: None, has_result: false, done: 0 };
        self.jobs.insert(id, entry);
    }

    /// Whether another job fits.
    pub fn has_room(&self) -> bool {
        self.jobs.len() < BOOK_JOBS_MAX
    }

    /// Jobs that are not settled.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Which they are.
    pub fn open_ids(&self) -> impl Iterator<Item = JobId> {
        self.open.iter().cloned()
    }

    /// What is known of a job that is not settled.
    pub fn known(&self, id: &JobId) -> Option<Known> {
        let entry = self.jobs.get(id).filter(|_| self.open.contains(id))?;
        Some(Known { has_ended: entry.state.is_some_and(is_terminal), has_result: entry.has_result })
    }

    /// What is missing of this job is nowhere any more.
    pub fn give_up(&mut self, id: &JobId) {
        self.open.remove(id);
    }

    /// A status arrived.
    pub fn status(&mut self, id: &JobId, version: u64, state: State, done: u32) -> Change {
        let Some(entry) = self.jobs.get_mut(id) else {
            self.tally.contradictions += 1;
            return Change::None;
        };
        if version <= entry.version {
            return Change::None;
        }
        if entry.state.is_some_and(is_terminal) {
            self.tally.contradictions += 1;
            return Change::None;
        }
        (entry.version, entry.state, entry.done) = (version, Some(state), done);
        self.settle(id, Change::Progress)
    }

    /// A result or an error arrived, with what was seen in each item; `Err` counts as a failed item.
    pub fn result(&mut self, id: &JobId, seen: Vec<Result<String, String>>) -> (Change, Vec<Sight>) {
        let Some(entry) = self.jobs.get_mut(id) else {
            self.tally.contradictions += 1;
            return (Change::None, Vec::new());
        };
        if entry.has_result {
            return (Change::None, Vec::new());
        }
        entry.has_result = true;
        let mut sights = Vec::new();
        for (item, seen) in seen.into_iter().enumerate() {
            let title = entry.titles.get(item).cloned().unwrap_or_default();
            match &seen {
                Ok(_) => self.tally.items_done += 1,
                Err(_) => self.tally.items_failed += 1,
            }
            let seen = seen.unwrap_or_else(|fault| fault);
            self.tally.sights.insert((entry.model.clone(), title.clone()), seen.clone());
            sights.push(Sight { model: entry.model.clone(), title, seen });
        }
        (self.settle(id, Change::None), sights)
    }

    /// A yield was reported, with its latency.
    pub fn yielded(&mut self, total_us: u64) {
        if self.tally.yields_us.len() < YIELDS_MAX {
            self.tally.yields_us.push(total_us);
        }
    }

    /// Something arrived that no node may say.
    pub fn contradicted(&mut self) {
        self.tally.contradictions += 1;
    }

    /// Where a job stands: its state, and items finished.
    pub fn stands(&self, id: &JobId) -> Option<(State, u32)> {
        let entry = self.jobs.get(id)?;
        Some((entry.state?, entry.done))
    }

    /// The figures as they are now.
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally.clone();
        for entry in self.jobs.values() {
            let Some(state) = entry.state else {
                tally.lost += 1;
                continue;
            };
            // A job that ended badly is known to have ended, even if its error text got lost.
            match state {
                State::Succeeded if entry.has_result => tally.succeeded += 1,
                State::Succeeded => tally.lost += 1,
                State::Failed => tally.failed += 1,
                State::Rejected => tally.rejected += 1,
                State::Canceled => tally.canceled += 1,
                State::TimedOut => tally.timed_out += 1,
                State::Queued | State::InProgress | State::Suspended => tally.unfinished += 1,
            }
        }
        tally
    }

    fn settle(&mut self, id: &JobId, otherwise: Change) -> Change {
        if self.jobs.get(id).is_some_and(Entry::is_settled) {
            self.open.remove(id);
            return Change::Settled;
        }
        otherwise
    }
}

/// Whether nothing leaves that state.
pub const fn is_terminal(state: State) -> bool {
    match state {
        State::Queued | State::InProgress | State::Suspended => false,
        State::Succeeded | State::Failed | State::TimedOut | State::Rejected | State::Canceled => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> JobId {
        text.parse().unwrap()
    }

    fn book_with(ids: &[&str]) -> Book {
        let mut book = Book::default();
        for text in ids {
            book.submit(id(text), "objects".to_owned(), vec!["a.jpg".to_owned(), "b.jpg".to_owned()]);
        }
        book
    }

    #[test]
    fn a_job_is_settled_by_status_and_result_in_either_order() {
        let mut book = book_with(&["a", "b"]);
        assert_eq!(book.status(&id("a"), 1, State::Queued, 0), Change::Progress);
        assert_eq!(book.status(&id("a"), 2, State::Succeeded, 1), Change::Progress);
        assert_eq!(book.result(&id("a"), vec![Ok("bus".to_owned())]).0, Change::Settled);
        assert_eq!(book.result(&id("b"), vec![Ok("bus".to_owned())]).0, Change::None);
        assert_eq!(book.status(&id("b"), 3, State::Succeeded, 1), Change::Settled);
        assert_eq!(book.open(), 0);
        let tally = book.tally();
        assert_eq!((tally.succeeded, tally.items_done, tally.lost), (2, 2, 0));
    }

    #[test]
    fn what_the_node_never_spoke_of_or_gave_no_result_for_is_lost_and_what_has_no_end_is_unfinished() {
        let mut book = book_with(&["silent", "running", "empty", "failed"]);
        book.status(&id("running"), 1, State::InProgress, 0);
        book.status(&id("empty"), 1, State::Succeeded, 1);
        book.status(&id("failed"), 1, State::Failed, 0);
        let tally = book.tally();
        let ended = (tally.failed, tally.succeeded);
        assert_eq!((tally.submitted, tally.lost, tally.unfinished, ended), (4, 2, 1, (1, 0)));
    }

    #[test]
    fn messages_seen_before_change_nothing() {
        let mut book = book_with(&["a"]);
        book.status(&id("a"), 4, State::Succeeded, 2);
        let seen = || vec![Ok("bus".to_owned()), Err("input.decode: no picture".to_owned())];
        book.result(&id("a"), seen());
        book.result(&id("a"), seen());
        book.status(&id("a"), 4, State::Succeeded, 2);
        book.status(&id("a"), 3, State::InProgress, 1);
        let tally = book.tally();
        assert_eq!((tally.items_done, tally.items_failed, tally.contradictions), (1, 1, 0));
        assert_eq!(tally.sights.len(), 2);
    }

    #[test]
    fn leaving_a_terminal_state_or_reporting_a_stranger_is_a_contradiction() {
        let mut book = book_with(&["a"]);
        book.status(&id("a"), 4, State::Succeeded, 2);
        book.status(&id("a"), 5, State::Queued, 0);
        book.status(&id("stranger"), 1, State::Queued, 0);
        assert_eq!(book.tally().contradictions, 2);
        assert_eq!(book.stands(&id("a")), Some((State::Succeeded, 2)));
    }
}
