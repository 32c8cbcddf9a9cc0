//! Is the order right, and is there always an answer to "why is it not running"?

use proptest::prelude::*;

use super::*;
use crate::jobs::job::Spec;
use crate::jobs::job::{Event, Limits, ModelRef};
use crate::units::Digest;

fn at(seconds: i64) -> WallTime {
    WallTime::from_millis(1_700_000_000_000 + seconds * 1000)
}

fn spec(id: &str) -> Spec {
    Spec {
        id: id.parse().unwrap(),
        body: Digest([0; 32]),
        model: ModelRef { name: "m".parse().unwrap(), version: Some(1), digest: None },
        priority: 5,
        deadline: None,
        not_before: None,
        limits: Limits { wall: Duration::from_secs(1), memory_bytes: 1, attempts: 3, output_bytes: 1 },
        traceparent: None,
        items: 1,
    }
}

fn job(id: &str) -> Job {
    Job::new(spec(id), at(0))
}

fn ended(id: &str, when: WallTime) -> Job {
    let mut job = job(id);
    job.apply(Event::Cancel, when).unwrap();
    job
}

const OPEN: Surroundings<'static> = Surroundings { closed: None, free_workers: 1 };

fn next_id(jobs: &[Job], now: WallTime) -> Option<&str> {
    next(jobs, now).map(|job| job.id.as_str())
}

#[test]
fn a_full_queue_names_numbers_and_remedy() {
    let capacity = Capacity { jobs_max: 10, open_max: 4 };
    assert_eq!(admit(&capacity, 3, 9), Ok(()));
    let open = admit(&capacity, 4, 9).unwrap_err();
    assert_eq!(open.code, Code::QueueFull);
    assert!(open.message.contains("4 jobs are waiting or running, limit 4"), "{open}");
    let known = admit(&capacity, 0, 10).unwrap_err();
    assert!(known.message.contains("10 jobs are known, limit 10"), "{known}");
}

#[test]
fn the_table_of_ids_has_a_limit_that_no_setting_lifts() {
    let capacity = Capacity { jobs_max: usize::MAX, open_max: usize::MAX };
    assert!(admit(&capacity, 0, JOBS_MAX).is_err());
}

#[test]
fn priority_goes_before_deadline_and_deadline_before_age() {
    let jobs = [
        Job { received: at(-9), ..job("oldest") },
        Job { deadline: Some(at(500)), ..job("late") },
        Job { deadline: Some(at(100)), ..job("early") },
        Job { priority: 6, received: at(9), ..job("high") },
    ];
    assert_eq!(next_id(&jobs, at(10)), Some("high"));
    assert_eq!(next_id(&jobs[..3], at(10)), Some("early"));
    assert_eq!(next_id(&jobs[..2], at(10)), Some("late"), "no deadline comes last");
    assert_eq!(next_id(&jobs[..1], at(10)), Some("oldest"));
}

#[test]
fn equal_jobs_go_in_order_of_id_however_they_are_listed() {
    assert_eq!(next_id(&[job("b"), job("a")], at(0)), Some("a"));
    assert_eq!(next_id(&[job("a"), job("b")], at(0)), Some("a"));
}

#[test]
fn only_jobs_that_may_start_now_are_taken() {
    assert_eq!(next_id(&[Job { not_before: Some(at(5)), ..job("a") }], at(4)), None);
    assert_eq!(next_id(&[Job { not_before: Some(at(5)), ..job("a") }], at(5)), Some("a"));
    assert_eq!(next_id(&[Job { deadline: Some(at(5)), ..job("a") }], at(5)), None);
    assert_eq!(next_id(&[Job { state: State::InProgress, ..job("a") }], at(5)), None);
    assert_eq!(next_id(&[ended("a", at(1))], at(5)), None);
}

#[test]
fn the_next_moment_is_the_nearest_deadline_or_start() {
    let start = Job { not_before: Some(at(7)), ..job("start") };
    let due = Job { state: State::InProgress, deadline: Some(at(9)), not_before: Some(at(1)), ..job("due") };
    assert_eq!(next_moment(&[start.clone(), due.clone()], at(5)), Some(at(7)));
    assert_eq!(next_moment(&[start.clone(), due.clone()], at(7)), Some(at(9)));
    assert_eq!(next_moment(&[due], at(50)), Some(at(9)), "a missed deadline is not slept through");
    assert_eq!(next_moment(&[ended("a", at(1))], at(5)), None);
}

#[test]
fn finished_jobs_are_forgotten_after_retention_and_not_before_their_id_is_safe() {
    const DAY: i64 = 24 * 3600;
    let keep = Duration::from_secs(100);
    let plain = ended("plain", at(10));
    let mut due = ended("due", at(10));
    due.deadline = Some(at(1000));
    let jobs = [plain, due, job("open")];
    assert_eq!(forgettable(&jobs, at(9 + DAY), keep), [], "a broker may still hold its submit");
    assert_eq!(forgettable(&jobs, at(10 + DAY), keep), ["plain".parse().unwrap()]);
    assert_eq!(forgettable(&jobs, at(999 + DAY), keep).len(), 1);
    assert_eq!(forgettable(&jobs, at(1000 + DAY), keep).len(), 2);
    let keep = Duration::from_secs(2 * DAY as u64);
    assert_eq!(forgettable(&jobs, at(9 + 2 * DAY), keep), [], "retention may be longer");
    assert_eq!(forgettable(&jobs, at(10 + 2 * DAY), keep).len(), 2);
}

#[test]
fn there_is_a_reason_for_every_waiting_job() {
    let mine = job("mine");
    let high = |id| Job { priority: 9, ..job(id) };
    let older = |id| Job { received: at(-5), ..job(id) };
    let why =
        |job: &Job, jobs: &[Job], around| why_waiting(job, jobs, around, at(5)).map(|why| (why.code, why.sentence));
    let busy = Surroundings { closed: Some("mode busy: RRU.PrbTotDl 71 > 40"), free_workers: 1 };
    let taken = Surroundings { closed: None, free_workers: 0 };

    assert_eq!(why(&mine, &[], OPEN), Some(("next", "a free worker takes it next".into())));
    assert_eq!(why(&mine, &[], busy), Some(("mode", "mode busy: RRU.PrbTotDl 71 > 40".into())));
    assert_eq!(why(&mine, &[], taken), Some(("no_worker", "no free worker".into())));
    let jobs = [high("x"), high("y"), mine.clone(), older("z")];
    let both = "behind 2 jobs of higher and 1 of the same priority";
    assert_eq!(why(&mine, &jobs, OPEN), Some(("behind", both.into())));
    assert_eq!(why(&mine, &jobs[..1], OPEN), Some(("behind", "behind 1 job of higher priority".into())));
    assert_eq!(why(&mine, &jobs[2..], OPEN), Some(("behind", "behind 1 job of the same priority".into())));
    let later = Job { not_before: Some(at(60)), ..job("mine") };
    assert_eq!(why(&later, &jobs, busy), Some(("not_before", "not_before 2023-11-14T22:14:20.000Z".into())));
    let late = Job { deadline: Some(at(5)), ..job("mine") };
    assert_eq!(why(&late, &[], OPEN).unwrap().0, "deadline");
    assert_eq!(why(&Job { state: State::Suspended, ..mine }, &jobs, OPEN), None);
}

fn any_job() -> impl Strategy<Value = Job> {
    let state = proptest::sample::select(State::ALL.to_vec());
    let moment = || proptest::option::of((-20i64..20).prop_map(at));
    (state, 0u8..4, moment(), moment(), -20i64..20).prop_map(|(state, priority, deadline, start, age)| {
        let received = at(age);
        Job { state, priority, deadline, not_before: start, received, changed: received, ..job("unnamed") }
    })
}

/// Up to 20 jobs with ids of their own, in an order that is not that of the ids.
fn any_jobs() -> impl Strategy<Value = Vec<Job>> {
    prop::collection::vec(any_job(), 0..20).prop_map(|mut jobs| {
        for (place, job) in jobs.iter_mut().enumerate() {
            job.id = format!("j{:02}", place * 7 % 20).parse().unwrap();
        }
        jobs
    })
}

/// The order as the design words it, step by step: no sort key shared with the code under test.
fn naive_next(jobs: &[Job], now: WallTime) -> Option<&Job> {
    let mut left: Vec<&Job> = jobs.iter().filter(|job| job.state == State::Queued).collect();
    left.retain(|job| match job.not_before {
        Some(start) => start.as_millis() <= now.as_millis(),
        None => true,
    });
    left.retain(|job| match job.deadline {
        Some(deadline) => deadline.as_millis() > now.as_millis(),
        None => true,
    });
    let top = left.iter().map(|job| job.priority).max()?;
    left.retain(|job| job.priority == top);
    if let Some(first) = left.iter().filter_map(|job| job.deadline).min() {
        left.retain(|job| job.deadline == Some(first));
    }
    let oldest = left.iter().map(|job| job.received).min()?;
    left.retain(|job| job.received == oldest);
    left.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
    left.first().copied()
}

proptest! {
    #[test]
    fn the_order_is_the_naive_order_and_does_not_depend_on_listing(
        jobs in any_jobs(),
        now in -20i64..20,
    ) {
        let now = at(now);
        let taken = next(&jobs, now).map(|job| job.id.clone());
        prop_assert_eq!(&taken, &naive_next(&jobs, now).map(|job| job.id.clone()));
        prop_assert_eq!(&taken, &next(jobs.iter().rev(), now).map(|job| job.id.clone()));
    }

    #[test]
    fn the_job_that_is_next_is_the_one_that_waits_for_nothing(
        jobs in any_jobs(),
        now in -20i64..20,
    ) {
        let now = at(now);
        let taken = next(&jobs, now).map(|job| job.id.clone());
        for job in &jobs {
            let why = why_waiting(job, &jobs, OPEN, now);
            prop_assert_eq!(why.is_some(), job.state == State::Queued);
            let is_next = why.is_some_and(|why| why.code == "next");
            prop_assert_eq!(is_next, taken.as_ref() == Some(&job.id) && job.state == State::Queued && is_ready(job, now));
        }
    }

    #[test]
    fn nothing_expires_or_starts_before_the_next_moment(
        jobs in any_jobs(),
        now in -20i64..20,
    ) {
        let now = at(now);
        let moment = next_moment(&jobs, now);
        prop_assert_eq!(expired(&jobs, now).is_empty(), moment.is_none_or(|moment| moment > now));
        let before = WallTime::from_millis(moment.unwrap_or(at(1000)).as_millis() - 1);
        if before > now {
            prop_assert_eq!(expired(&jobs, before), []);
            prop_assert_eq!(next(&jobs, before).map(|job| &job.id), next(&jobs, now).map(|job| &job.id));
        }
    }
}
