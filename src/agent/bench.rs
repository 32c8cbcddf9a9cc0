//! Which job runs in which worker, how far it is, and how long it really ran?
//!
//! Pure bookkeeping of the places ("the bench") that workers offer. Stopped time is never counted as running time.

use std::sync::Arc;
use std::time::Duration;

use crate::link::messages::Request;
use crate::model::library::Entry;
use crate::units::{Instant, JobId};
use crate::worker::jail::achieved::Strength;

/// One place: a worker process, and the run in it.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The worker is up and takes work.
    pub ready: bool,
    /// What keeps the last worker that was up.
    pub sandbox: Strength,
    /// Tokens of the items it was handed and has not answered; a run that ended may have left some.
    pub open: Vec<u64>,
    /// Inputs that were asked for here and have not come. Only the last one asked for belongs to the run.
    pub fetches: usize,
    /// What it runs.
    pub run: Option<Run>,
}

impl Place {
    /// Whether a job may start here at once. While items of an ended run are open the worker is busy, or being killed
    /// for them.
    pub(super) fn is_free(&self) -> bool {
        self.ready && self.run.is_none() && self.open.is_empty()
    }
}

/// One attempt of a job in a worker.
#[derive(Debug)]
pub(super) struct Run {
    /// Names this attempt in frames and yield records; never 0.
    pub token: u64,
    /// Which job.
    pub job: JobId,
    /// Its model.
    pub model: Arc<Entry>,
    /// All items of the job; empty until the input has been read from the store.
    pub requests: Vec<Request>,
    /// Finished items as they go into the result.
    pub bodies: Vec<Vec<u8>>,
    /// Bytes of `bodies`.
    pub body_bytes: usize,
    /// Items that ended in an error of their own.
    pub item_errors: usize,
    /// Submitted as `items`: the result is a list, and an item may fail alone.
    pub batch: bool,
    /// Next item to hand to the worker.
    pub next: usize,
    /// Since when it runs, `None` while stopped or not yet handed over.
    running_since: Option<Instant>,
    /// Since when it stands stopped.
    stopped_since: Option<Instant>,
    /// Running time not yet booked to the job.
    unbooked: Duration,
    /// Last progress report.
    pub reported: Instant,
}

impl Run {
    /// A run that waits for its input.
    pub(super) fn new(token: u64, job: JobId, model: Arc<Entry>, now: Instant) -> Self {
        Self {
            token,
            job,
            model,
            requests: Vec::new(),
            bodies: Vec::new(),
            body_bytes: 0,
            item_errors: 0,
            batch: false,
            next: 0,
            running_since: None,
            stopped_since: None,
            unbooked: Duration::ZERO,
            reported: now,
        }
    }

    /// The worker has its first item.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.stopped_since.is_none() {
            self.running_since = Some(now);
        }
    }

    /// The worker was stopped.
    pub(super) fn stop(&mut self, now: Instant) {
        if let Some(since) = self.running_since.take() {
            self.unbooked += now.since(since);
        }
        self.stopped_since.get_or_insert(now);
    }

    /// The worker was continued; how long it stood.
    pub(super) fn resume(&mut self, now: Instant) -> Duration {
        let stopped = self.stopped(now);
        self.stopped_since = None;
        if !self.requests.is_empty() {
            self.running_since = Some(now);
        }
        stopped
    }

    /// How long it has stood; zero when it runs.
    pub(super) fn stopped(&self, now: Instant) -> Duration {
        self.stopped_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Whether it stands stopped.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped_since.is_some()
    }

    /// Running time since the last call, stops excluded, to be booked to the job.
    pub(super) fn book(&mut self, now: Instant) -> Duration {
        if let Some(since) = self.running_since {
            self.unbooked += now.since(since);
            self.running_since = Some(now);
        }
        std::mem::take(&mut self.unbooked)
    }

    /// When the running time reaches `left` if nothing stops it; `None` while it does not run.
    pub(super) fn reaches(&self, left: Duration) -> Option<Instant> {
        self.running_since.map(|since| since.after(left.saturating_sub(self.unbooked)))
    }

    /// When it will have stood for `limit`; `None` while it is not stopped.
    pub(super) fn stands_for(&self, limit: Duration) -> Option<Instant> {
        self.stopped_since.map(|since| since.after(limit))
    }
}

/// All places.
#[derive(Debug, Default)]
pub(super) struct Bench {
    /// By slot number.
    pub places: Vec<Place>,
}

impl Bench {
    /// As many places as there are workers.
    pub(super) fn new(workers: usize) -> Self {
        Self { places: std::iter::repeat_with(Place::default).take(workers).collect() }
    }

    /// The slot that runs that job.
    pub(super) fn slot_of(&self, job: &JobId) -> Option<usize> {
        self.places.iter().position(|place| place.run.as_ref().is_some_and(|run| run.job == *job))
    }

    /// A free place among the first `budget`.
    pub(super) fn free(&self, budget: u8) -> Option<usize> {
        self.places.iter().take(usize::from(budget)).position(Place::is_free)
    }

    /// All runs with their slots.
    pub(super) fn runs(&self) -> impl Iterator<Item = (usize, &Run)> {
        self.places.iter().enumerate().filter_map(|(slot, place)| place.run.as_ref().map(|run| (slot, run)))
    }

    /// The same, to be changed.
    pub(super) fn runs_mut(&mut self) -> impl Iterator<Item = (usize, &mut Run)> {
        self.places.iter_mut().enumerate().filter_map(|(slot, place)| place.run.as_mut().map(|run| (slot, run)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn run(token: u64, job: &str) -> Run {
        let text = format!(
            "name = \"m\"\nversion = 1\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\n\
             digest = \"sha256:{}\"\ninputs = [{{ name = \"x\", datatype = \"FP32\", shape = [1] }}]\n\
             outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [1] }}]\n",
            "ab".repeat(32)
        );
        let manifest = crate::model::manifest::parse(&text).unwrap();
        let model = Entry {
            manifest,
            manifest_text: text.into(),
            labels: "".into(),
            folder: "/m".into(),
            standing: Default::default(),
        };
        Run::new(token, job.parse().unwrap(), Arc::new(model), at(0))
    }

    /// A run whose input has been read at that moment.
    fn begun(seconds: u64) -> Run {
        let mut run = run(1, "a");
        run.requests = vec![Request::new(Vec::new())];
        run.begin(at(seconds));
        run
    }

    #[test]
    fn time_before_the_input_is_read_is_no_running_time() {
        let mut run = run(1, "a");
        assert_eq!((run.reaches(S), run.book(at(9))), (None, Duration::ZERO));
        run.begin(at(10));
        assert_eq!((run.reaches(S), run.book(at(12))), (Some(at(11)), 2 * S));
    }

    #[test]
    fn stopped_time_is_no_running_time_and_each_second_is_booked_once() {
        let mut run = begun(0);
        run.stop(at(3));
        assert_eq!((run.reaches(10 * S), run.stands_for(5 * S)), (None, Some(at(8))));
        run.stop(at(4));
        assert_eq!(run.stopped(at(7)), 4 * S, "the first stop counts");
        assert_eq!(run.resume(at(7)), 4 * S);
        assert_eq!((run.is_stopped(), run.stands_for(S), run.stopped(at(9))), (false, None, Duration::ZERO));
        assert_eq!(run.reaches(10 * S), Some(at(14)), "3 s of 10 are used");
        assert_eq!((run.book(at(9)), run.book(at(9))), (5 * S, Duration::ZERO));
        assert_eq!(run.reaches(5 * S), Some(at(14)));
    }

    #[test]
    fn a_run_stopped_before_its_input_was_read_runs_from_its_resume_on() {
        let mut run = run(1, "a");
        run.stop(at(1));
        run.requests = vec![Request::new(Vec::new())];
        run.begin(at(2));
        assert_eq!(run.reaches(S), None);
        run.resume(at(5));
        assert_eq!(run.book(at(6)), S);
    }

    #[test]
    fn a_run_resumed_before_its_input_was_read_runs_from_then_on() {
        let mut run = run(1, "a");
        run.stop(at(1));
        assert_eq!(run.resume(at(2)), S);
        assert_eq!(run.reaches(S), None);
        run.requests = vec![Request::new(Vec::new())];
        run.begin(at(3));
        assert_eq!(run.book(at(4)), S);
    }

    #[test]
    fn a_place_is_free_when_its_worker_is_ready_and_has_nothing_and_the_budget_reaches_it() {
        let mut bench = Bench::new(3);
        assert_eq!(bench.free(3), None, "no worker is up");
        bench.places.iter_mut().for_each(|place| place.ready = true);
        bench.places[0].run = Some(run(1, "a"));
        bench.places[1].open = vec![7];
        assert_eq!((bench.free(2), bench.free(3)), (None, Some(2)));
        bench.places[1].open.clear();
        assert_eq!((bench.free(1), bench.free(2)), (None, Some(1)));
        let a = "a".parse().unwrap();
        assert_eq!((bench.slot_of(&a), bench.runs().count()), (Some(0), 1));
    }
}
