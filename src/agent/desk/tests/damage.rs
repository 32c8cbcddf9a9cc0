//! What a controller hears when the store lost something.

use super::*;

#[test]
fn a_job_whose_input_is_lost_fails_with_a_result_and_the_damage_is_told() {
    let mut before = World::new(1);
    before.submit("a", &json!({}));
    before.submit("b", &json!({}));
    before.settle();
    let jobs: Vec<Job> = ["a", "b"].map(|name| before.job(name)).into();
    assert_eq!((jobs[0].state, jobs[1].state), (State::InProgress, State::Queued));

    let mut world = World::with(1, jobs.clone());
    let set_aside = Some(Fault::new(Code::StateCorrupt, "jobs.redb cannot be read"));
    let damage = Damage { set_aside, without_input: vec![id("a"), id("b")] };
    world.desk.tell_of_damage(world.now, &damage);
    world.settle();
    for job in jobs {
        let name = job.id.as_str();
        assert_eq!((world.state(name).0, world.code(name)), (State::Failed, Some(Code::StateCorrupt)));
        assert!(world.job(name).version > job.version);
        assert_eq!(world.result(name)["error"]["code"], "state.corrupt");
    }
    let alarms =
        world.messages.iter().filter(|message| String::from_utf8_lossy(&message.body).contains("cannot be read"));
    assert_eq!(alarms.count(), 1, "kept until it arrives");
}

/// A world with a job at work, one that waits, and one that has ended, and these jobs.
fn three() -> (World, Vec<Job>) {
    let mut world = World::new(1);
    world.submit("ended", &json!({}));
    world.settle();
    world.answer(0, 1, 0, Ok(output()));
    world.submit("running", &json!({}));
    world.settle();
    world.submit("waiting", &json!({}));
    world.settle();
    let jobs: Vec<Job> = ["ended", "running", "waiting"].map(|name| world.job(name)).into();
    let states: Vec<State> = jobs.iter().map(|job| job.state).collect();
    assert_eq!(states, [State::Succeeded, State::InProgress, State::Queued]);
    (world, jobs)
}

#[test]
fn of_a_store_that_is_opened_late_only_a_job_that_still_needs_its_lost_input_ends() {
    let (mut world, jobs) = three();
    world.desk.adopt(world.now, jobs);
    let without_input = ["ended", "running", "waiting", "never-heard-of"].map(id).into();
    world.desk.tell_of_damage(world.now, &Damage { set_aside: None, without_input });
    world.settle();
    assert_eq!((world.state("waiting").0, world.code("waiting")), (State::Failed, Some(Code::StateCorrupt)));
    assert_eq!(world.result("waiting")["error"]["code"], "state.corrupt");
    assert_eq!(world.state("running").0, State::InProgress, "its input is in memory");
    assert_eq!(world.state("ended").0, State::Succeeded);
    world.answer(0, 2, 0, Ok(output()));
    assert_eq!(world.state("running").0, State::Succeeded);
}

#[test]
fn what_a_store_lost_is_written_again_or_told_when_it_cannot_be_done() {
    let (mut world, jobs) = three();
    let open = world.desk.jobs().open();
    for job in &jobs {
        world.jobs.remove(&job.id);
        world.payloads.remove(&job.id);
    }
    world.desk.adopt(world.now, Vec::new());
    world.settle();
    assert_eq!((world.state("waiting").0, world.code("waiting")), (State::Failed, Some(Code::StateCorrupt)));
    assert_eq!(world.desk.jobs().open(), open - 1);
    assert!(jobs.iter().all(|job| world.jobs.contains_key(&job.id)), "{:?}", world.jobs.keys());
    world.answer(0, 2, 0, Ok(output()));
    assert_eq!(world.state("running").0, State::Succeeded);
}

#[test]
fn a_job_of_a_late_store_runs_unless_its_input_is_gone() {
    let (_, jobs) = three();
    let waiting = jobs.into_iter().filter(|job| job.state == State::Queued);
    let mut world = World::new(1);
    world.desk.adopt(world.now, waiting.collect());
    world.desk.tell_of_damage(world.now, &Damage { set_aside: None, without_input: vec![id("waiting")] });
    world.settle();
    assert_eq!((world.state("waiting").0, world.code("waiting")), (State::Failed, Some(Code::StateCorrupt)));
}
