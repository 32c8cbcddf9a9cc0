//! What may a source of planning grade do? Raise the load, and nothing else.

use super::*;

/// The first source vouches, the second plans.
const TRUST: [Trust; 2] = [REQUIRED, PLANNING];
const EVENING: u64 = 5_000;

fn heard(ms: u64, percent: u8) -> (u64, Observation) {
    (ms, reading(A, 1, percent))
}

fn planned(ms: u64, cell: u64, percent: u8) -> (u64, Observation) {
    (ms, reading(B, cell, percent))
}

#[test]
fn a_node_that_hears_plans_only_is_as_blind_as_one_that_hears_nothing() {
    let alone = fusion(&[PLANNING], &[(0, reading(A, 1, 5))]);
    assert_eq!(alone.current(at(1)).load, FusedLoad::Unheard);
    assert_eq!(alone.silent_from(), None);
    let beside = fusion(&TRUST, &[planned(0, 1, 5)]);
    assert_eq!(beside.current(at(1)).load, FusedLoad::Unheard, "the required source has not spoken");
    let optional = fusion(&[OPTIONAL, PLANNING], &[heard(0, 5), planned(900, 1, 5)]);
    assert_eq!(optional.current(at(1000)).load, FusedLoad::Stale(A), "a plan keeps no level alive");
}

#[test]
fn a_plan_raises_the_load_as_long_as_it_is_fresh_and_never_lowers_it() {
    let fusion =
        fusion(&[Trust { freshness: FRESHNESS * 10, ..REQUIRED }, PLANNING], &[heard(0, 30), planned(0, 1, 80)]);
    let fused = fusion.current(at(1));
    assert_eq!((fused.load, fused.changes_at), (level(B, 80), at(1000)));
    assert_eq!(fusion.current(at(1000)).load, level(A, 30), "its silence is no reason to stop");
    let lower = super::fusion(&TRUST, &[heard(0, 30), planned(0, 1, 2)]);
    assert_eq!(lower.current(at(1)).load, level(A, 30));
}

#[test]
fn cells_of_a_plan_fall_silent_one_by_one() {
    let trust = [Trust { freshness: FRESHNESS * 10, ..REQUIRED }, PLANNING];
    let fusion = fusion(&trust, &[heard(0, 3), planned(0, 1, 80), planned(400, 2, 60), planned(800, 3, 20)]);
    let steps = [(999, level(B, 80)), (1000, level(B, 60)), (1400, level(B, 20)), (1800, level(A, 3))];
    for (ms, load) in steps {
        assert_eq!(fusion.current(at(ms)).load, load, "{ms}");
    }
    assert_eq!(fusion.current(at(1000)).changes_at, at(1400));
}

#[test]
fn a_plan_holds_no_level_past_the_silence_of_those_who_vouch() {
    let trust = [REQUIRED, Trust { freshness: FRESHNESS * 10, ..PLANNING }];
    let fusion = fusion(&trust, &[heard(0, 3), planned(0, 1, 8)]);
    let fused = fusion.current(at(0));
    assert_eq!((fused.load, fused.fresh_until), (level(B, 8), at(1000)));
    assert_eq!(fusion.current(at(1000)).load, FusedLoad::Stale(A));
}

#[test]
fn nonsense_counters_and_the_future_of_a_plan_count_for_nothing() {
    let ahead = Reading { source: B, cell: CellId(1), stamped: Some(at(EVENING)), observed: observed(90, None) };
    let late = |count| Ok(Reading { source: B, cell: CellId(1), stamped: None, observed: Observed::Late { count } });
    let fusion =
        fusion(&TRUST, &[heard(0, 5), (1, garbage(B)), (2, Ok(ahead)), (3, late(1)), (4, late(2)), planned(5, 1, 4)]);
    assert_eq!(fusion.current(at(6)).load, level(A, 5));
}

#[test]
fn a_yield_that_a_plan_brings_begins_with_its_receipt() {
    let old = Reading { source: B, cell: CellId(1), stamped: Some(at(100)), observed: observed(90, None) };
    let fused = fusion(&TRUST, &[heard(700, 5), (900, Ok(old))]).current(at(901));
    assert_eq!((fused.load, fused.stamped, fused.received), (level(B, 90), None, at(900)));
    assert_eq!(fused.changes_at, at(1100), "its age counts from its own stamp");
}

#[test]
fn a_plan_that_names_too_many_cells_neither_stops_the_node_nor_shuts_later_plans_out() {
    let mut fusion = fusion(&[Trust { freshness: FRESHNESS * 10, ..REQUIRED }, PLANNING], &[heard(0, 5)]);
    for cell in 0..2 * CELLS_MAX as u64 {
        fusion.on_observation(at(0), reading(B, cell, 4));
    }
    assert_eq!(fusion.current(at(1)).load, level(A, 5));
    fusion.on_observation(at(1000), reading(B, 9_999, 70));
    assert_eq!(fusion.current(at(1000)).load, level(B, 70), "what is no longer believed makes room");
}

#[test]
fn a_cell_that_is_gone_leaves_the_plan() {
    let fusion = fusion(&TRUST, &[heard(0, 5), planned(0, 1, 80), (10, gone(B, 1))]);
    assert_eq!(fusion.current(at(11)).load, level(A, 5));
}
