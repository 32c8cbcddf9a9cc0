//! Nothing is due while the wall clock is in doubt, and nothing is lost by it.

use super::super::super::reports::Impairment;
use super::super::super::wall::Judged;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

impl World {
    /// From now on the effective time is this, and in doubt.
    fn doubt(&mut self, wall: WallTime) {
        self.now = Now::new(self.now.mono, Judged { wall, sure: false });
    }

    /// From now on the effective time is this, beyond doubt.
    fn trust(&mut self, wall: WallTime) {
        self.now = Now::sure(self.now.mono, wall);
    }

    fn in_an_hour(&self) -> String {
        self.now.wall.after(HOUR).to_string()
    }
}

const Y2100: WallTime = WallTime::from_millis(4_102_444_800_000);

#[test]
fn no_job_expires_in_doubt_and_all_that_are_due_do_when_it_ends() {
    let mut world = World::with(1, Vec::new());
    let deadline = world.in_an_hour();
    world.submit("waits", &json!({"deadline": deadline}));
    world.settle();
    world.doubt(Y2100);
    world.settle();
    assert_eq!(world.state("waits").0, State::Queued);
    assert!(world.desk.next_tick(world.now).is_none_or(|tick| tick > HOUR * 24), "and nobody looks all the time");
    world.trust(world.now.wall);
    world.settle();
    assert_eq!((world.state("waits").0, world.code("waits")), (State::TimedOut, Some(Code::JobExpired)));
}

#[test]
fn a_running_job_with_a_deadline_runs_on_through_doubt_and_ends_well() {
    let mut world = World::new(1);
    let deadline = world.in_an_hour();
    world.submit("a", &json!({"deadline": deadline}));
    world.settle();
    world.doubt(Y2100);
    world.settle();
    assert_eq!(world.state("a").0, State::InProgress);
    world.answer(0, 1, 0, Ok(output()));
    assert_eq!(world.state("a").0, State::Succeeded);
}

#[test]
fn jobs_with_and_without_a_deadline_start_in_doubt_and_those_with_a_start_wait() {
    let mut world = World::new(3);
    world.doubt(Y2100);
    world.submit("plain", &json!({}));
    world.submit("deadline", &json!({"deadline": "2026-12-24T00:00:00Z"}));
    world.submit("later", &json!({"not_before": "2026-12-24T00:00:00Z"}));
    world.settle();
    let states = ["plain", "deadline", "later"].map(|name| world.state(name).0);
    assert_eq!(states, [State::InProgress, State::InProgress, State::Queued]);
    let why = world.desk.why_waiting(&world.job("later")).unwrap();
    assert!(why.contains("not_before"), "{why}");
    world.trust(world.now.wall);
    world.settle();
    assert_eq!(world.state("later").0, State::InProgress);
}

#[test]
fn a_job_that_was_started_once_starts_again_in_doubt_whatever_its_not_before() {
    let mut world = World::new(1);
    let start = world.now.wall.to_string();
    world.submit("a", &json!({"not_before": start}));
    world.settle();
    world.doubt(world.now.wall);
    world.exited(0, Some(1), Code::WorkerCrashed);
    world.ready(0);
    world.settle();
    assert_eq!(world.state("a"), (State::InProgress, 2, 0));
}

#[test]
fn no_id_is_forgotten_in_doubt() {
    let mut world = World::new(1);
    world.submit("a", &json!({}));
    world.settle();
    world.answer(0, 1, 0, Ok(output()));
    world.pass(Duration::from_secs(60));
    world.doubt(Y2100);
    world.settle();
    assert!(world.desk.job(&id("a")).is_some());
    world.submit("a", &json!({}));
    world.settle();
    assert_eq!(world.state("a"), (State::Succeeded, 1, 1), "a late copy does not run again");
    world.trust(Y2100);
    world.pass(Duration::from_secs(60));
    world.settle();
    assert!(world.desk.job(&id("a")).is_none());
}

#[test]
fn every_commit_keeps_the_time_that_was_last_beyond_doubt() {
    let mut world = World::new(1);
    let at = |world: &mut World| {
        world.take();
        let at = world.open.back().unwrap().1.at;
        while !world.open.is_empty() {
            world.commit();
        }
        at
    };
    world.desk.tick(world.now);
    world.submit("a", &json!({}));
    assert_eq!(at(&mut world), Some(world.now.wall));
    world.doubt(Y2100);
    world.desk.tick(world.now);
    world.submit("b", &json!({}));
    assert_eq!(at(&mut world), None);
}

#[test]
fn the_time_is_kept_though_nothing_happens() {
    let mut world = World::new(1);
    world.settle();
    assert!(world.open.is_empty());
    world.pass(HOUR + Duration::from_secs(1));
    world.desk.tick(world.now);
    world.take();
    assert_eq!(world.open.len(), 1, "once");
    assert_eq!(world.open[0].1, Batch { at: Some(world.now.wall), ..Batch::default() });
}

#[test]
fn in_safe_mode_new_jobs_are_refused_with_the_reason_and_accepted_ones_are_kept() {
    let mut world = World::new(1);
    let reason = "the agent crashed 5 times";
    world.desk.reports.set_impaired(Impairment::SafeMode, Some(reason.to_owned()));
    world.submit("new", &json!({}));
    world.settle();
    let refused = world.messages.iter().find(|message| message.topic.ends_with("up/job/new")).unwrap();
    let status: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!((&status["status"], &status["error"]["code"]), (&json!("REJECTED"), &json!("node.safe_mode")));
    assert!(status["error"]["message"].as_str().is_some_and(|text| text.contains(reason)), "{status}");
}

#[test]
fn in_safe_mode_a_job_that_was_accepted_before_waits() {
    let mut world = World::with(1, Vec::new());
    world.submit("old", &json!({}));
    world.settle();
    world.desk.reports.set_impaired(Impairment::SafeMode, Some("crashed".to_owned()));
    world.budget(1);
    world.ready(0);
    world.settle();
    assert_eq!(world.state("old").0, State::Queued);
    world.desk.reports.set_impaired(Impairment::SafeMode, None);
    world.settle();
    assert_eq!(world.state("old").0, State::InProgress);
}
