//! What is promised, told and acted on before the store has answered? Nothing that a crash or a refusal could undo.

use std::borrow::Cow;

use super::*;

fn cancel(world: &mut World, name: &str, packet: u16) {
    world.desk.cancel(world.now, &id(name), Some(AckToken { epoch: 1, packet }));
    world.take();
}

/// The store refuses the oldest commit.
fn refuse(world: &mut World) {
    let (ticket, _) = world.open.pop_front().unwrap();
    let fault = Fault::new(Code::StateIo, "the disk refuses");
    world.desk.committed(world.now, ticket, Err(fault)).unwrap();
    world.take();
}

#[test]
fn a_cancel_is_acknowledged_when_the_end_of_the_job_is_durable() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.settle();
    world.news();
    cancel(&mut world, "a", 9);
    assert_eq!(world.news(), [Seen::Kill(0, Code::JobCanceled, 1)], "the worker at once, the ack not yet");
    world.settle();
    assert_eq!((world.state("a").0, world.news()), (State::Canceled, vec![Seen::Ack(9)]));
}

#[test]
fn what_arrives_for_a_job_that_the_store_then_refuses_neither_tells_nor_stores_that_it_was_accepted() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.submit("a", &json!({}));
    world.take();
    cancel(&mut world, "a", 9);
    assert_eq!((world.open.len(), world.news()), (1, vec![]), "both wait for the decision");
    refuse(&mut world);
    let told = world.news();
    let acks: Vec<&Seen> = told.iter().filter(|seen| matches!(seen, Seen::Ack(_))).collect();
    assert_eq!(acks, [&Seen::Ack(1), &Seen::Ack(2)]);
    world.settle();
    assert_eq!(world.news(), [Seen::Ack(9)]);
    assert!(world.jobs.is_empty() && world.messages.iter().all(|message| message.topic.ends_with("/up/event")));
}

#[test]
fn what_arrived_for_a_job_before_the_store_took_it_counts_afterwards() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    cancel(&mut world, "a", 9);
    world.settle();
    assert_eq!((world.state("a").0, world.jobs[&id("a")].state), (State::Canceled, State::Canceled));
    assert_eq!(world.news(), [Seen::Ack(1), Seen::Ack(9)]);
}

#[test]
fn a_deadline_that_passes_before_the_store_has_decided_ends_the_job_afterwards() {
    let mut world = World::new(1);
    let deadline = world.now.wall.after(S).to_string();
    world.submit("a", &json!({"deadline": deadline}));
    world.pass(2 * S);
    world.desk.tick(world.now);
    world.take();
    assert_eq!((world.open.len(), world.desk.next_tick(world.now)), (1, None), "nothing is due in vain");
    refuse(&mut world);
    world.settle();
    assert!(world.jobs.is_empty() && world.messages.is_empty());
}

#[test]
fn a_job_is_told_as_the_store_has_it() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.take();
    let told = |world: &World| world.desk.told_job(&id("a")).map(Cow::into_owned).map(|job| (job.state, job.version));
    assert_eq!(told(&world), None, "the store may refuse it");
    world.commit();
    assert_eq!(told(&world), Some((State::Queued, 1)));
    world.desk.tick(world.now);
    world.desk.cancel(world.now, &id("a"), None);
    world.take();
    assert_eq!((world.state("a").0, told(&world)), (State::Canceled, Some((State::Queued, 1))));
    world.commit();
    assert_eq!(told(&world), Some((State::InProgress, 2)));
    world.commit();
    assert_eq!(told(&world), Some((State::Canceled, 3)));
}

#[test]
fn an_input_that_was_asked_for_an_earlier_attempt_starts_nothing() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.take();
    world.commit();
    world.desk.tick(world.now);
    world.take();
    world.budget(0);
    world.pass(6 * S);
    world.desk.tick(world.now);
    world.budget(1);
    world.desk.tick(world.now);
    world.take();
    assert_eq!((world.state("a").1, world.fetches.len()), (2, 2), "given up before its input came, and started again");
    let fetched = |world: &World| Fetched { payload: world.payloads[&id("a")].clone(), items: Vec::new() };
    world.news();
    let first = fetched(&world);
    world.desk.fetched(world.now, 0, &id("a"), Ok(first));
    assert_eq!(world.news(), [], "the second attempt is not durable");
    let second = fetched(&world);
    world.desk.fetched(world.now, 0, &id("a"), Ok(second));
    assert_eq!(world.news(), [Seen::Work(0, 2, 0)]);
}
