//! Memory is short: who is killed, and what becomes of the jobs.

use super::*;
use crate::agent::pressure::Holds;
use crate::agent::reports::Impairment;
use crate::governor::{Decision, Mode, Reason};
use crate::units::{SourceId, Utilization};

#[test]
fn what_a_place_holds_follows_its_worker_and_its_job() {
    let mut world = World::with(3, Vec::new());
    world.budget(3);
    assert_eq!(world.desk.holds(), [Holds::Nothing; 3], "no process is up");
    (0..3).for_each(|slot| world.ready(slot));
    world.submit("a", &json!({}));
    world.submit("b", &json!({}));
    world.settle();
    assert_eq!(world.desk.holds(), [Holds::Running, Holds::Running, Holds::Models]);
    world.budget(1);
    assert_eq!(world.desk.holds(), [Holds::Running, Holds::Stopped, Holds::Models]);
    world.desk.relieve(world.now, &[0]);
    world.take();
    assert_eq!(
        world.desk.holds(),
        [Holds::Nothing, Holds::Stopped, Holds::Models],
        "one that dies is not killed twice"
    );
}

#[test]
fn workers_that_are_given_up_for_memory_cost_their_jobs_no_attempt() {
    let mut world = World::new(3);
    for name in ["a", "b"] {
        world.submit(name, &json!({"items": 3, "limits": {"attempts": 1}}));
    }
    world.settle();
    world.answer(0, 1, 0, Ok(output()));
    world.answer(1, 2, 0, Ok(output()));
    world.budget(1);
    world.pass(2 * S);
    world.news();

    world.desk.set_short(Some("memory is short: 3 MiB are available".to_owned()));
    world.desk.relieve(world.now, &[0, 1, 2]);
    world.settle();
    let evicted = Code::WorkerEvicted;
    assert_eq!(world.news(), [Seen::Kill(0, evicted, 1), Seen::Kill(1, evicted, 2), Seen::Empty(2, evicted)]);
    for (name, stood) in [("a", Duration::ZERO), ("b", 2 * S)] {
        let job = world.job(name);
        assert_eq!((job.state, job.done, job.failures, job.suspended), (State::Queued, 1, 0, stood), "{name}");
        assert_eq!(job.reason, "evicted");
    }

    world.exited(0, Some(1), evicted);
    world.exited(1, Some(2), evicted);
    world.exited(2, None, evicted);
    assert!(!world.desk.may_start(0));
    world.ready(0);
    world.settle();
    assert_eq!(world.state("a"), (State::Queued, 1, 1), "a place is free, and nothing starts");
    let low = Reason::Low { source: SourceId(0), level: Utilization::IDLE, limit: Utilization::FULL };
    let trough = Decision { budget: 1, mode: Mode::Trough, reason: low };
    world.desk.reports.set_decision(world.now, world.now.mono, trough);
    let waiting = world.desk.why_waiting(&world.job("a")).unwrap();
    assert!(waiting.contains("memory is short: 3 MiB are available"), "{waiting}");

    world.desk.set_short(None);
    assert!(world.desk.may_start(0) && !world.desk.may_start(1));
    world.settle();
    assert_eq!(world.state("a"), (State::InProgress, 2, 1));
    assert_eq!(world.news(), [Seen::Work(0, 3, 1), Seen::Work(0, 3, 2)], "from the last finished item");
    (1..3).for_each(|item| world.answer(0, 3, item, Ok(output())));
    assert_eq!(world.state("a"), (State::Succeeded, 2, 3));
}

#[test]
fn a_worker_whose_job_has_sent_it_nothing_yet_is_given_up_all_the_same() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.take();
    world.commit();
    world.desk.tick(world.now);
    world.take();
    world.desk.set_short(Some("memory is short".to_owned()));
    world.desk.relieve(world.now, &[0, 7]);
    world.settle();
    assert!(world.news().contains(&Seen::Empty(0, Code::WorkerEvicted)));
    assert_eq!((world.job("a").failures, world.job("a").reason), (0, "evicted"));
}

#[test]
fn a_job_whose_worker_cannot_have_its_sandbox_goes_back_and_loses_no_attempt() {
    // The worker had the work, or only its channel has.
    for (token, kills) in [(Some(1), vec![]), (None, vec![Seen::Kill(0, Code::SandboxUnavailable, 1)])] {
        let mut world = World::new(1);
        world.submit("a", &json!({"limits": {"attempts": 1}}));
        world.settle();
        world.news();
        world.exited(0, token, Code::SandboxUnavailable);
        assert_eq!(world.news(), kills);
        let job = world.job("a");
        assert_eq!((job.state, job.failures, job.reason), (State::Queued, 0, "evicted"), "{token:?}");
    }
}

#[test]
fn without_the_sandbox_jobs_wait_or_are_refused_and_workers_are_still_tried() {
    let mut world = World::with(1, Vec::new());
    world.submit("old", &json!({}));
    world.budget(1);
    world.desk.reports.set_impaired(Impairment::Sandbox, Some("kernel 5.4 has no Landlock".to_owned()));
    world.settle();
    assert!(world.desk.may_start(0), "only a start tells whether it can be had by now");
    world.ready(0);
    world.submit("new", &json!({}));
    world.settle();
    assert_eq!(world.state("old").0, State::Queued);
    assert!(world.desk.why_waiting(&world.job("old")).is_some_and(|why| why.contains("no Landlock")));
    let error = &world.result("new")["error"];
    assert_eq!(error["code"], "sandbox.unavailable", "{error}");

    world.desk.reports.set_impaired(Impairment::Sandbox, None);
    world.settle();
    assert_eq!(world.state("old").0, State::InProgress);
    world.desk.reports.set_impaired(Impairment::Sandbox, Some("x".to_owned()));
    world.desk.reports.set_impaired(Impairment::SafeMode, Some("crashed".to_owned()));
    assert!(!world.desk.may_start(0), "what is worse counts");
}
