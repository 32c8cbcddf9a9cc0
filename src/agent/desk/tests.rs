//! The desk against a store that answers when the test says so.

mod acks;
mod admission;
mod damage;
mod doubt;
mod durable;
mod relief;
mod world;

use serde_json::{Value, json};

use self::world::*;
use super::*;
use crate::fault::Fault;
use crate::jobs::job::INTERRUPTIONS_MAX;
use crate::tensor::Tensor;
use crate::worker::handle::{Event as WorkerEvent, Output};
use crate::worker::jail::achieved::{Achieved, Given, Outcome, Step};

// ---- from submit to result ----

#[test]
fn a_submit_is_acknowledged_once_it_is_durable_and_started_no_sooner() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.desk.tick(world.now);
    assert_eq!(world.news(), [], "no ack, no start");
    let (_, batch) = &world.open[0];
    assert_eq!((batch.jobs.len(), batch.payloads.len(), batch.messages.len()), (1, 1, 1));
    world.commit();
    assert_eq!(world.news(), [Seen::Ack(1)]);
    world.settle();
    assert_eq!(world.news(), [Seen::Work(0, 1, 0)]);
}

#[test]
fn a_submit_that_the_store_refuses_is_rejected_acknowledged_and_forgotten() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.take();
    let (ticket, _) = world.open.pop_front().unwrap();
    world.desk.committed(world.now, ticket, Err(Fault::new(Code::StateIo, "no space"))).unwrap();
    let news = world.news();
    let [Seen::Told(topic, status), Seen::Told(..), Seen::Ack(1)] = news.as_slice() else { panic!("{news:?}") };
    assert!(topic.ends_with("up/job/a"), "{topic}");
    assert_eq!((&status["status"], &status["error"]["code"]), (&json!("REJECTED"), &json!("state.io")));
    assert!(world.desk.job(&id("a")).is_none());
    world.submit("a", &json!({}));
    world.settle();
    assert_eq!(world.state("a").0, State::InProgress, "the same id may try again");
}

#[test]
fn a_submit_that_finds_the_spool_full_is_acknowledged_when_its_refusal_is_durable() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.take();
    let (ticket, _) = world.open.pop_front().unwrap();
    world.desk.committed(world.now, ticket, Err(Fault::new(Code::SpoolFull, "full"))).unwrap();
    assert_eq!(world.news(), []);
    let (_, batch) = &world.open[0];
    let refusals: Vec<&str> = batch.droppable.iter().map(|message| message.topic.as_str()).collect();
    assert_eq!(refusals, ["neap/v1/north/n/up/job/a", "neap/v1/north/n/up/job/a/result"]);
    assert!(String::from_utf8_lossy(&batch.droppable[0].body).contains("spool.full"));
    world.commit();
    assert_eq!(world.news(), [Seen::Ack(1)]);
    assert!(world.desk.job(&id("a")).is_none());
}

#[test]
fn an_attempt_is_durable_before_its_work_is_handed_over() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.take();
    world.commit();
    world.desk.tick(world.now);
    world.take();
    let (_, batch) = &world.open[0];
    assert_eq!((batch.jobs[0].state, batch.jobs[0].attempt), (State::InProgress, 1));
    assert_eq!(world.fetches.len(), 1, "asked for after the commit: the store answers in order");
    assert!(!world.news().iter().any(|seen| matches!(seen, Seen::Work(..))));
}

#[test]
fn a_worker_has_the_next_item_before_it_answers_and_each_answer_is_journalled() {
    let mut world = World::new(1);
    world.submit("a", &json!({"items": 4}));
    world.settle();
    assert_eq!(world.news(), [Seen::Ack(1), Seen::Work(0, 1, 0), Seen::Work(0, 1, 1)]);
    world.answer(0, 1, 0, Ok(output()));
    assert_eq!((world.news(), world.state("a")), (vec![Seen::Work(0, 1, 2)], (State::InProgress, 1, 1)));
    (1..4).for_each(|item| world.answer(0, 1, item, Ok(output())));
    assert_eq!(world.state("a"), (State::Succeeded, 1, 4));
    assert_eq!((world.items[&id("a")].len(), world.result("a")["items"].as_array().unwrap().len()), (4, 4));
    assert_eq!(world.job("a").cpu, Duration::from_millis(28));
}

#[test]
fn a_result_tells_how_strong_the_sandbox_of_its_worker_was() {
    let given = |step| Outcome { step, given: Given::Yes, detail: String::new() };
    let weaker = [Step::Seccomp];
    for (steps, strength) in [(&Step::ALL[..], "full"), (&weaker, "partial"), (&[], "none")] {
        let mut world = World::new(1);
        let outcomes = steps.iter().copied().map(given).collect();
        let sandbox = Achieved { outcomes, ..Achieved::default() };
        world.desk.worker(world.now, WorkerEvent::Ready { slot: 0, pid: 2, jail: Vec::new(), sandbox });
        world.submit("a", &json!({}));
        world.settle();
        world.answer(0, 1, 0, Ok(output()));
        assert_eq!(world.result("a")["parameters"]["sandbox"], strength);
    }
}

#[test]
fn an_answer_of_an_earlier_attempt_or_out_of_turn_counts_for_nothing() {
    let mut world = World::new(1);
    world.submit("a", &json!({"items": 3}));
    world.settle();
    world.answer(0, 1, 1, Ok(output()));
    world.answer(0, 99, 0, Ok(output()));
    assert_eq!(world.state("a"), (State::InProgress, 1, 0));
}

#[test]
fn an_item_at_fault_takes_its_place_in_a_batch_and_ends_a_single_job() {
    let mut world = World::new(1);
    let bad = || Err(Fault::new(Code::InputDecode, "no picture"));
    world.submit("batch", &json!({"items": 2}));
    world.submit("single", &json!({}));
    world.settle();
    world.answer(0, 1, 0, bad());
    world.answer(0, 1, 1, Ok(output()));
    assert_eq!(world.state("batch"), (State::Succeeded, 1, 2));
    let result = world.result("batch");
    assert_eq!(result["items"][0]["error"]["code"], "input.decode");
    assert!(result["items"][1]["outputs"].is_array());
    world.answer(0, 2, 0, bad());
    assert_eq!((world.state("single").0, world.code("single")), (State::Failed, Some(Code::InputDecode)));
}

#[test]
fn a_batch_of_which_every_item_failed_has_failed() {
    let mut world = World::new(1);
    world.submit("a", &json!({"items": 2}));
    world.settle();
    (0..2).for_each(|item| world.answer(0, 1, item, Err(Fault::new(Code::InputDecode, "no picture"))));
    assert_eq!((world.state("a").0, world.code("a")), (State::Failed, Some(Code::ItemsFailed)));
    assert!(world.result("a")["error"]["message"].as_str().unwrap().contains("no picture"));
}

#[test]
fn a_result_that_fits_no_packet_fails_the_job() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.settle();
    let long = vec![0.123_456_7; 500_000];
    let tensors = vec![Tensor::f32s("y", vec![long.len()], &long).unwrap()];
    world.answer(0, 1, 0, Ok(Output { tensors, ..output() }));
    assert_eq!((world.state("a").0, world.code("a")), (State::Failed, Some(Code::OutputTooLarge)));
}

// ---- repeats and orders ----

#[test]
fn a_repeat_tells_the_status_again_and_another_body_is_a_conflict() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.settle();
    let before = world.job("a").clone();
    let told = world.messages.len();
    world.submit("a", &json!({}));
    world.settle();
    assert_eq!(world.messages.len(), told + 1);
    assert!(world.messages[told].topic.ends_with("up/job/a"));
    world.submit("a", &json!({"priority": 9}));
    world.settle();
    let alarm: Value = serde_json::from_slice(&world.messages[told + 1].body).unwrap();
    assert_eq!((&alarm["event"], &alarm["code"]), (&json!("alarm"), &json!("job.id_conflict")));
    assert_eq!(world.job("a"), before);
    assert!(world.news().contains(&Seen::Ack(3)), "both are acknowledged");
}

#[test]
fn a_canceled_job_is_killed_and_the_next_one_waits_for_no_answer_of_it() {
    let mut world = World::new(1);
    world.submit("a", &json!({"items": 3}));
    world.submit("b", &json!({}));
    world.settle();
    world.news();
    world.desk.cancel(world.now, &id("a"), None);
    world.settle();
    assert_eq!(world.state("a").0, State::Canceled);
    assert_eq!(world.news(), [Seen::Kill(0, Code::JobCanceled, 1)], "b waits: the worker still has two items of a");
    world.exited(0, Some(1), Code::JobCanceled);
    world.ready(0);
    world.settle();
    assert_eq!(world.state("b"), (State::InProgress, 1, 0));
    assert_eq!(world.news(), [Seen::Work(0, 2, 0)]);
    world.answer(0, 2, 0, Ok(output()));
    assert_eq!(world.state("b").0, State::Succeeded);
    assert_eq!(world.result("a")["error"]["code"], "job.canceled");
}

#[test]
fn a_drained_desk_refuses_and_starts_nothing() {
    let mut world = World::new(1);
    world.desk.set_draining(true);
    world.submit("a", &json!({}));
    world.settle();
    assert!(world.desk.job(&id("a")).is_none());
    assert_eq!(world.result("a")["error"]["code"], "node.draining");
}

// ---- time ----

#[test]
fn the_wall_limit_counts_running_time_only() {
    let mut world = World::new(1);
    world.submit("a", &json!({"items": 2, "limits": {"attempts": 1}}));
    world.settle();
    world.pass(4 * S);
    world.answer(0, 1, 0, Ok(output()));
    world.budget(0);
    assert_eq!(world.state("a").0, State::Suspended);
    world.pass(4 * S);
    world.budget(1);
    world.pass(5 * S);
    world.settle();
    assert_eq!(world.state("a").0, State::InProgress, "9 of 10 s, whatever the clock says");
    assert_eq!(world.desk.next_tick(world.now), Some(S));
    world.news();
    world.pass(S);
    world.settle();
    assert_eq!(world.news(), [Seen::Kill(0, Code::WorkerTimeout, 1)]);
    assert_eq!((world.state("a").0, world.code("a")), (State::Failed, Some(Code::WorkerTimeout)));
    let text = world.job("a").fault.clone().unwrap().message;
    assert!(text.contains("10000 ms") && text.contains("item 2 of 2"), "{text}");
    assert_eq!((world.job("a").suspended, world.job("a").ran), (4 * S, 10 * S));
}

#[test]
fn running_time_of_an_attempt_that_was_given_up_still_counts() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.settle();
    world.pass(6 * S);
    world.budget(0);
    world.pass(5 * S);
    world.settle();
    assert_eq!((world.state("a").0, world.job("a").ran), (State::Queued, 6 * S));
    world.exited(0, Some(1), Code::WorkerEvicted);
    world.budget(1);
    world.ready(0);
    world.settle();
    assert_eq!(world.desk.next_tick(world.now), Some(4 * S));
}

#[test]
fn a_job_that_stands_too_long_goes_back_and_on_from_the_last_finished_item() {
    let mut world = World::new(1);
    world.submit("a", &json!({"items": 3, "limits": {"attempts": 1}}));
    world.settle();
    world.answer(0, 1, 0, Ok(output()));
    world.budget(0);
    world.news();
    assert_eq!(world.desk.next_tick(world.now), Some(5 * S));
    world.pass(5 * S);
    world.settle();
    assert_eq!(world.news(), [Seen::Kill(0, Code::WorkerEvicted, 1)]);
    assert_eq!((world.state("a"), world.job("a").failures), ((State::Queued, 1, 1), 0));
    world.exited(0, Some(1), Code::WorkerEvicted);
    world.budget(1);
    world.settle();
    assert_eq!(world.state("a").0, State::Queued, "no worker is ready");
    world.ready(0);
    world.settle();
    assert_eq!(world.state("a"), (State::InProgress, 2, 1));
    assert_eq!(world.news(), [Seen::Work(0, 2, 1), Seen::Work(0, 2, 2)]);
    (1..3).for_each(|item| world.answer(0, 2, item, Ok(output())));
    assert_eq!(world.state("a"), (State::Succeeded, 2, 3));
}

#[test]
fn a_job_given_to_a_place_that_was_just_stopped_stands_and_is_not_forgotten() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.take();
    world.commit();
    world.desk.tick(world.now);
    // The input is not read yet; the sentinel's record of this stop names no job.
    world.budget(0);
    assert_eq!(world.state("a").0, State::Suspended);
    world.settle();
    assert!(world.news().contains(&Seen::Work(0, 1, 0)), "the stopped worker has it in its socket");
    world.pass(4 * S);
    world.budget(1);
    assert_eq!((world.state("a").0, world.job("a").suspended), (State::InProgress, 4 * S));
    assert_eq!(world.desk.next_tick(world.now), Some(10 * S));
}

#[test]
fn only_places_beyond_the_budget_stand() {
    let mut world = World::new(2);
    world.submit("a", &json!({}));
    world.submit("b", &json!({}));
    world.settle();
    world.budget(1);
    assert_eq!((world.state("a").0, world.state("b").0), (State::InProgress, State::Suspended));
    assert_eq!((world.desk.jobs_of(&[1, 0]), world.desk.jobs_of(&[0, 2])), (vec![id("a")], vec![id("b")]));
    world.budget(2);
    assert_eq!(
        (world.state("a").0, world.state("b").0, world.job("b").yields),
        (State::InProgress, State::InProgress, 1)
    );
    assert_eq!(world.job("a").yields, 0);
}

#[test]
fn a_deadline_ends_a_job_wherever_it_is() {
    let mut world = World::new(1);
    let deadline = world.now.wall.after(3 * S).to_string();
    for name in ["running", "waiting"] {
        world.submit(name, &json!({"deadline": deadline}));
    }
    world.settle();
    world.news();
    world.pass(3 * S);
    world.settle();
    assert_eq!((world.state("running").0, world.state("waiting").0), (State::TimedOut, State::TimedOut));
    assert_eq!(world.news(), [Seen::Kill(0, Code::JobExpired, 1)]);
}

#[test]
fn an_ended_job_is_forgotten_after_its_retention_but_not_while_a_broker_may_hold_its_submit() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.settle();
    world.answer(0, 1, 0, Ok(output()));
    world.pass(24 * 3600 * S - S);
    world.settle();
    world.submit("a", &json!({}));
    world.settle();
    assert_eq!(world.state("a"), (State::Succeeded, 1, 1), "the late copy runs nothing");
    world.pass(11 * S);
    world.settle();
    assert!(world.desk.job(&id("a")).is_none());
}

// ---- ends that nobody ordered ----

#[test]
fn a_worker_that_dies_costs_an_attempt_and_the_second_time_the_job() {
    let mut world = World::new(1);
    world.submit("a", &json!({"items": 2}));
    world.settle();
    world.answer(0, 1, 0, Ok(output()));
    world.exited(0, Some(1), Code::WorkerCrashed);
    assert_eq!((world.state("a"), world.code("a")), ((State::Queued, 1, 1), Some(Code::WorkerCrashed)));
    world.ready(0);
    world.settle();
    assert_eq!(world.state("a"), (State::InProgress, 2, 1));
    world.exited(0, Some(2), Code::WorkerCrashed);
    assert_eq!((world.state("a"), world.code("a")), ((State::Failed, 2, 1), Some(Code::WorkerCrashed)));
}

#[test]
fn the_end_of_an_idle_worker_or_of_another_attempt_costs_nothing() {
    let mut world = World::new(1);
    world.exited(0, None, Code::WorkerCrashed);
    world.submit("a", &json!({}));
    world.ready(0);
    world.settle();
    world.exited(0, Some(77), Code::WorkerEvicted);
    assert_eq!((world.state("a").0, world.job("a").failures), (State::InProgress, 0));
}

#[test]
fn jobs_of_an_agent_that_ended_are_queued_again_or_fail_when_it_ended_with_them_too_often() {
    let mut before = World::new(1);
    before.submit("again", &json!({}));
    before.settle();
    let again = before.job("again").clone();
    let mut last = again.clone();
    (last.id, last.interruptions) = (id("last"), INTERRUPTIONS_MAX - 1);
    let mut world = World::with(1, vec![again, last]);
    world.settle();
    assert_eq!((world.state("again"), world.job("again").interruptions), ((State::Queued, 1, 0), 1));
    assert_eq!((world.state("last").0, world.code("last")), (State::Failed, Some(Code::JobAttempts)));
    assert_eq!(world.jobs[&id("again")].state, State::Queued, "and the store knows");
}

#[test]
fn at_an_orderly_end_running_jobs_go_back_without_a_failure_and_nothing_new_starts() {
    let mut world = World::new(2);
    for name in ["a", "b", "c"] {
        world.submit(name, &json!({}));
    }
    world.settle();
    world.budget(1);
    world.pass(2 * S);
    world.news();
    world.desk.give_back(world.now);
    world.settle();
    for name in ["a", "b", "c"] {
        assert_eq!((world.state(name).0, world.job(name).failures), (State::Queued, 0), "{name}");
        assert_eq!(world.jobs[&id(name)].state, State::Queued, "{name} in the store");
    }
    assert_eq!((world.job("b").suspended, world.job("a").suspended), (2 * S, Duration::ZERO));
    assert!(world.desk.nothing_pending() && world.news().is_empty());
}
