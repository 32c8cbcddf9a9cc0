//! What becomes of a job whose result a controller has acknowledged, and of copies of its submit that come late?

use super::*;

/// A job that ended well, and the store's copy of it.
fn ended(more: &Value) -> World {
    let mut world = World::new(1);
    world.submit("a", more);
    world.settle();
    world.answer(0, 1, 0, Ok(output()));
    assert_eq!(world.state("a"), (State::Succeeded, 1, 1));
    world.news();
    world
}

fn acknowledge(world: &mut World, packet: u16) -> Batch {
    let before = world.open.len();
    world.desk.forget(world.now, &id("a"), Some(AckToken { epoch: 1, packet }));
    world.take();
    let batch = if world.open.len() > before { world.open[before].1.clone() } else { Batch::default() };
    world.settle();
    batch
}

#[test]
fn an_ack_drops_the_result_and_keeps_the_job_and_a_second_one_changes_nothing() {
    let mut world = ended(&json!({}));
    assert_eq!((world.desk.unacknowledged(), world.job("a").keeps_result()), (1, true));
    let before = world.job("a").clone();
    let batch = acknowledge(&mut world, 9);
    assert_eq!((batch.drop_results, batch.forget, batch.messages.len()), (vec![id("a")], vec![], 0));
    assert_eq!(world.jobs[&id("a")], Job { acknowledged: true, ..before }, "the store knows, and nothing else changed");
    assert_eq!((world.news(), world.desk.unacknowledged()), (vec![Seen::Ack(9)], 0));
    assert!(acknowledge(&mut world, 10).is_empty());
    assert_eq!(world.news(), [Seen::Ack(10)]);
}

#[test]
fn a_submit_that_comes_again_after_the_ack_tells_its_status_and_runs_nothing() {
    let mut world = ended(&json!({}));
    acknowledge(&mut world, 9);
    world.news();
    let told = world.messages.len();
    world.submit("a", &json!({}));
    world.settle();
    assert_eq!((world.news(), world.state("a")), (vec![Seen::Ack(2)], (State::Succeeded, 1, 1)));
    assert_eq!((world.messages.len(), world.desk.unacknowledged()), (told + 1, 0));
    assert!(world.messages[told].topic.ends_with("up/job/a"));
}

#[test]
fn an_agent_that_starts_again_knows_the_acknowledged_job_still() {
    let mut before = ended(&json!({}));
    acknowledge(&mut before, 9);
    let mut world = World::with(1, before.jobs.into_values().collect());
    world.budget(1);
    world.ready(0);
    world.submit("a", &json!({}));
    world.settle();
    assert_eq!((world.news(), world.state("a").0), (vec![Seen::Ack(1)], State::Succeeded));
}

#[test]
fn the_id_of_an_acknowledged_job_outlives_its_deadline_by_a_day() {
    let deadline = WallTime::from_millis(1_800_000_000_000).after(3600 * S);
    let mut world = ended(&json!({"deadline": deadline.to_string()}));
    acknowledge(&mut world, 9);
    world.pass(24 * 3600 * S);
    world.settle();
    world.submit("a", &json!({"deadline": deadline.to_string()}));
    world.settle();
    assert_eq!(world.state("a"), (State::Succeeded, 1, 1), "an hour is left");
    world.pass(3601 * S);
    world.settle();
    assert!(world.desk.job(&id("a")).is_none());
}

#[test]
fn a_birth_lists_what_is_unfinished_and_pages_go_on_behind_any_id() {
    let mut world = World::new(0);
    ["c", "a", "b"].iter().for_each(|name| world.submit(name, &json!({})));
    world.settle();
    world.desk.cancel(world.now, &id("b"), None);
    world.settle();
    let open = world.desk.open_jobs();
    let ids: Vec<&str> = open.jobs.iter().map(|job| job.id.as_str()).collect();
    assert_eq!((open.total, ids, open.jobs[0].version), (2, vec!["a", "c"], 1));
    let after = |after: Option<&str>| {
        let after = after.map(id);
        world.desk.jobs().after(after.as_ref()).map(|entry| entry.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        (after(None), after(Some("a")), after(Some("aa"))),
        (
            vec!["a".into(), "b".into(), "c".into()],
            vec!["b".to_owned(), "c".to_owned()],
            vec!["b".to_owned(), "c".to_owned()],
        )
    );
    assert_eq!(after(Some("c")), Vec::<String>::new());
}
