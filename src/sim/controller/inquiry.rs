//! What does the node know of our jobs? A round of questions: its list, page by page, then what it says of each. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::link::messages::{JobSummary, JobsQuery};
use crate::link::reconcile::{Rounds, Standing};
use crate::units::{Instant, JobId};

/// Jobs on one page.
const PAGE: u32 = 200;

/// Asks again and again, one round at a time.
#[derive(Debug)]
pub struct Inquiry {
    every: Duration,
    rounds: Option<Rounds>,
    hurry: bool,
    /// Rounds begun so far; the number marks their replies.
    number: u64,
    /// Jobs that had no end when the round under way began.
    about: BTreeSet<JobId>,
    listed: BTreeMap<JobId, Standing>,
    last: Option<JobId>,
}

/// What follows from a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it belongs to an earlier round.
    Nothing,
    /// Ask for the next one.
    Page(JobsQuery),
    /// The round is over: how each job stands that it was about.
    Over(Vec<(JobId, Standing)>),
}

impl Inquiry {
    /// One that asks this often, and besides whenever it is told to hurry.
    pub const fn new(every: Duration) -> Self {
        Self {
            every,
            rounds: None,
            hurry: false,
            number: 0,
            about: BTreeSet::new(),
            listed: BTreeMap::new(),
            last: None,
        }
    }

    /// Connection or node are new: whatever was under way may be lost.
    pub const fn hurry(&mut self) {
        self.hurry = true;
    }

    /// The first question of a round about these jobs, when one is due. A round without answer ends where the next
    /// begins.
    pub fn begin(&mut self, now: Instant, random: u64, open: impl Iterator<Item = JobId>) -> Option<JobsQuery> {
        let rounds = self.rounds.get_or_insert_with(|| Rounds::new(self.every, now, random));
        if std::mem::take(&mut self.hurry) {
            rounds.soon(now, random);
        }
        if rounds.due() > now {
            return None;
        }
        rounds.begin(now, random);
        self.about = open.collect();
        self.listed.clear();
        self.last = None;
        if self.about.is_empty() {
            return None;
        }
        self.number += 1;
        Some(JobsQuery::unsettled(None, PAGE))
    }

    /// What the replies to this round's questions bear.
    pub fn mark(&self) -> Vec<u8> {
        format!("round-{}", self.number).into_bytes()
    }

    /// A page with that mark arrived.
    pub fn page(&mut self, mark: &[u8], jobs: &[JobSummary], more: bool) -> Next {
        if mark != self.mark() {
            return Next::Nothing;
        }
        let listed: Vec<(JobId, Standing)> =
            jobs.iter().filter_map(|job| Some((job.id.parse().ok()?, Standing::of(job)))).collect();
        let last = listed.last().map(|(id, _)| id.clone());
        // A page that leads nowhere, or back, ends the round without a verdict.
        if more && (last.is_none() || last <= self.last) {
            return Next::Nothing;
        }
        self.listed.extend(listed);
        if more {
            self.last = last;
            return Next::Page(JobsQuery::unsettled(self.last.clone(), PAGE));
        }
        self.number += 1;
        let about = std::mem::take(&mut self.about).into_iter();
        let verdict = about.map(|id| {
            let standing = self.listed.get(&id).copied().unwrap_or(Standing::Unknown);
            (id, standing)
        });
        Next::Over(verdict.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::messages::Status;

    const EVERY: Duration = Duration::from_secs(10);

    fn id(text: &str) -> JobId {
        text.parse().unwrap()
    }

    fn summary(id: &str, state: &str) -> JobSummary {
        let status = format!(
            r#"{{"status":"{state}","version":1,"attempt":0,"at":"2026-11-22T01:10:07.311Z","reason":"x","progress":{{"done":0,"total":1}},"yields":0,"suspended_ms":0}}"#
        );
        JobSummary {
            id: id.to_owned(),
            model: "m".to_owned(),
            priority: 5,
            deadline: None,
            waiting: None,
            body_digest: None,
            result_kept: Some(true),
            status: Status::parse(status.as_bytes()).unwrap(),
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_job_on_no_page_is_unknown_and_the_others_are_as_listed() {
        let mut inquiry = Inquiry::new(EVERY);
        let open = || ["a", "b", "c"].map(id).into_iter();
        assert_eq!(inquiry.begin(at(0), 0, open()), None, "not before it is due");
        assert_eq!(inquiry.begin(at(20), 0, open()), Some(JobsQuery::unsettled(None, PAGE)));
        let mark = inquiry.mark();
        let next = inquiry.page(&mark, &[summary("a", "QUEUED"), summary("aa", "QUEUED")], true);
        assert_eq!(next, Next::Page(JobsQuery::unsettled(Some(id("aa")), PAGE)));
        let kept = Standing::Ended { result_kept: Some(true) };
        let verdict = vec![(id("a"), Standing::Open), (id("b"), Standing::Unknown), (id("c"), kept)];
        assert_eq!(inquiry.page(&mark, &[summary("c", "SUCCEEDED")], false), Next::Over(verdict));
        assert_eq!(inquiry.page(&mark, &[], false), Next::Nothing, "a reply that comes twice counts once");
    }

    #[test]
    fn pages_of_an_earlier_round_and_pages_that_lead_nowhere_decide_nothing() {
        let mut inquiry = Inquiry::new(EVERY);
        inquiry.begin(at(0), 0, [id("a")].into_iter());
        inquiry.begin(at(20), 0, [id("a")].into_iter());
        let old = inquiry.mark();
        inquiry.hurry();
        assert!(inquiry.begin(at(21), 0, [id("a")].into_iter()).is_some(), "new connections do not wait");
        assert_eq!(inquiry.page(&old, &[], false), Next::Nothing);
        let mark = inquiry.mark();
        assert_eq!(inquiry.page(&mark, &[], true), Next::Nothing);
    }

    #[test]
    fn nobody_is_asked_about_nothing() {
        let mut inquiry = Inquiry::new(EVERY);
        inquiry.begin(at(0), 0, std::iter::empty());
        assert_eq!(inquiry.begin(at(20), 0, std::iter::empty()), None);
    }
}
