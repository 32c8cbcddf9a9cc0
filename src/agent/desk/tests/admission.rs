//! Is a job that cannot be done in time refused at once, and does long work wait for its trough?

use super::*;
use crate::units::outlook::{Free, Outlook};

/// A world whose model takes so many seconds of CPU time for an item.
fn experienced(workers: usize, seconds: u32) -> World {
    let mut world = World::new(workers);
    world.submit("before", &json!({"items": 4}));
    world.settle();
    (0..4).for_each(|item| world.answer(0, 1, item, Ok(Output { cpu: S * seconds, ..output() })));
    assert_eq!(world.state("before").0, State::Succeeded);
    world
}

fn within(world: &World, seconds: u32, items: u32) -> Value {
    json!({"deadline": world.now.wall.after(S * seconds).to_string(), "items": items})
}

/// Spans of ten minutes from now on with so many seconds free.
fn outlook(world: &World, seconds: &[u32]) -> Option<Outlook> {
    let free = |seconds: &u32| Free { p10: S * *seconds, p50: S * *seconds, p90: S * *seconds };
    Some(Outlook::new(world.now.wall, 600 * S, seconds.iter().map(free).collect()))
}

fn refusal(world: &World, name: &str) -> (Value, String) {
    let error = world.result(name)["error"].clone();
    (error["code"].clone(), error["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_at_once_with_the_figures() {
    let mut world = experienced(1, 4);
    world.submit("late", &within(&world, 30, 10));
    world.settle();
    assert!(world.desk.job(&id("late")).is_none());
    let (code, text) = refusal(&world, "late");
    assert_eq!(code, "job.infeasible");
    assert!(text.contains("needs 40 s of core time") && text.contains("one worker has 30 s"), "{text}");
    world.submit("fine", &within(&world, 41, 10));
    world.settle();
    assert_eq!(world.state("fine").0, State::InProgress);
}

#[test]
fn a_model_whose_cost_nobody_knows_is_never_refused_for_it() {
    let mut world = World::new(1);
    world.submit("a", &within(&world, 1, 100));
    world.settle();
    assert_eq!(world.state("a").0, State::InProgress);
}

#[test]
fn jobs_that_go_before_count_and_those_behind_do_not() {
    let mut world = experienced(1, 4);
    world.submit("running", &within(&world, 60, 5));
    world.settle();
    world.submit("later", &within(&world, 3600, 100));
    world.settle();
    world.submit("urgent", &within(&world, 70, 12));
    world.settle();
    assert_eq!(world.state("urgent").0, State::Queued, "20 s and 48 s in 70 s: what is due later stands behind");
    // Not durable yet: it counts all the same, or a burst would be accepted whole.
    world.submit("more", &within(&world, 80, 3));
    world.submit("most", &within(&world, 81, 1));
    world.settle();
    assert_eq!(world.state("more").0, State::Queued, "20 s, 48 s and 12 s are 80 s");
    let (code, text) = refusal(&world, "most");
    assert_eq!(code, "job.infeasible", "{text}");
    assert!(text.contains("80 s go to 3 jobs before it"), "{text}");
}

#[test]
fn a_refusal_can_be_switched_off() {
    let mut world = experienced(1, 4);
    let mut settings = settings();
    settings.admission.refuse = false;
    world.desk.set_settings(settings);
    world.submit("late", &within(&world, 30, 10));
    world.settle();
    assert_eq!(world.state("late").0, State::InProgress);
}

#[test]
fn an_outlook_refuses_what_the_clock_alone_would_accept() {
    let mut world = experienced(1, 4);
    world.desk.set_outlook(outlook(&world, &[60, 0, 30]));
    world.submit("late", &within(&world, 1800, 25));
    world.submit("fine", &within(&world, 1800, 15));
    world.settle();
    let (code, text) = refusal(&world, "late");
    assert_eq!(code, "job.infeasible");
    assert!(text.contains("90 s are expected free (at most 90 s in nine of ten cases)"), "{text}");
    assert_eq!(world.state("fine").0, State::InProgress);
}

#[test]
fn within_a_priority_the_earliest_deadline_goes_first() {
    let mut world = World::new(1);
    world.submit("first", &json!({}));
    world.settle();
    world.submit("third", &within(&world, 90, 1));
    world.submit("fourth", &json!({}));
    world.submit("second", &within(&world, 80, 1));
    world.settle();
    for (name, token) in ["first", "second", "third", "fourth"].into_iter().zip(1..) {
        assert_eq!(world.state(name).0, State::InProgress, "{name}");
        world.answer(0, token, 0, Ok(output()));
    }
}

#[test]
fn a_long_item_waits_for_the_trough_that_it_fits_while_shorter_work_goes_on() {
    let mut world = experienced(1, 400);
    world.desk.set_outlook(outlook(&world, &[100, 0, 600, 600]));
    world.submit("long", &json!({}));
    world.settle();
    assert_eq!(world.state("long").0, State::Queued);
    let why = world.desk.why_waiting(&world.job("long")).unwrap();
    assert!(why.starts_with("outlook: waits for the trough expected at "), "{why}");
    assert!(why.ends_with("needs 400 s at a stretch, 100 s are expected now"), "{why}");
    assert_eq!(world.desk.next_tick(world.now), Some(1200 * S));
    world.pass(1199 * S);
    world.settle();
    assert_eq!(world.state("long").0, State::Queued);
    world.pass(S);
    world.settle();
    assert_eq!(world.state("long").0, State::InProgress);
}

#[test]
fn a_new_outlook_ends_the_wait_and_so_does_its_loss() {
    for better in [true, false] {
        let mut world = experienced(1, 400);
        world.desk.set_outlook(outlook(&world, &[100, 0, 600, 600]));
        world.submit("long", &json!({}));
        world.settle();
        assert_eq!(world.state("long").0, State::Queued);
        let fresh = if better { outlook(&world, &[500, 0]) } else { None };
        world.desk.set_outlook(fresh);
        world.settle();
        assert_eq!(world.state("long").0, State::InProgress);
    }
}

#[test]
fn nothing_waits_for_a_better_moment_beyond_the_limit() {
    let mut world = experienced(1, 400);
    world.submit("long", &json!({}));
    for hours in 0..12 {
        // Always better in an hour.
        world.desk.set_outlook(outlook(&world, &[100, 0, 0, 0, 0, 0, 600, 600]));
        world.settle();
        assert_eq!(world.state("long").0, State::Queued, "after {hours} hours");
        world.pass(3600 * S);
    }
    world.desk.set_outlook(outlook(&world, &[100, 0, 0, 0, 0, 0, 600, 600]));
    world.settle();
    assert_eq!(world.state("long").0, State::InProgress);
}
