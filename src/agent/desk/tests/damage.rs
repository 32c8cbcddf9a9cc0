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
