//! What if one of the few windows without inference was bad for a reason of its own?

use super::*;

/// Inference that runs from the start beside a quiet RAN, whose first deliberate stop has one absurdly bad window.
fn polluted(harm: f64) -> World {
    let mut world = World::new(1);
    (world.harm, world.noise) = (harm, (0.05, 0.0));
    let fair = world.base;
    let mut seconds = 0;
    while !world.guard.is_comparing() {
        world.run(1, WORKERS);
        seconds += 1;
        assert!(seconds < 120, "no deliberate stop");
    }
    // Of the three windows of a stop the first does not count, and only the last is bad.
    let mut steps = 0;
    while world.guard.is_comparing() {
        world.base = if steps < 8 { fair } else { fair * 10.0 };
        world.step();
        steps += 1;
    }
    world.base = fair;
    world
}

#[test]
fn one_bad_window_without_inference_does_not_hide_the_harm() {
    let mut world = polluted(1.0);
    world.run(600, WORKERS);
    assert_eq!(world.ruled(Ruling::Harm).first().map(|verdict| verdict.to), Some(1), "{:#?}", world.verdicts);
}

#[test]
fn one_bad_window_costs_no_stop_where_nothing_is_worse() {
    let mut world = polluted(0.0);
    let before = world.compared_for;
    world.run(1200, WORKERS);
    assert_eq!(world.ruled(Ruling::Suspected), []);
    let stopped = world.compared_for - before;
    assert!(stopped <= Duration::from_secs(6), "{stopped:?}");
}
