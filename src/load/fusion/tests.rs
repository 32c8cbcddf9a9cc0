mod planning;

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const FRESHNESS: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const A: SourceId = SourceId(0);
const B: SourceId = SourceId(1);
const REQUIRED: Trust = Trust { freshness: FRESHNESS, required: true, planning: false };
const OPTIONAL: Trust = Trust { freshness: FRESHNESS, required: false, planning: false };
const PLANNING: Trust = Trust { freshness: FRESHNESS, required: false, planning: true };

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
}

fn observed(percent: u8, late: Option<u64>) -> Observed {
    Observed::Level { metric: Metric::PrbTotDl, level: Utilization::from_percent(percent).unwrap(), late }
}

fn reading(source: SourceId, cell: u64, percent: u8) -> Observation {
    Ok(Reading { source, cell: CellId(cell), stamped: None, observed: observed(percent, None) })
}

fn stamped(stamp: Instant, percent: u8) -> Observation {
    Ok(Reading { source: A, cell: CellId(1), stamped: Some(stamp), observed: observed(percent, None) })
}

fn with_late(percent: u8, late: u64) -> Observation {
    Ok(Reading { source: A, cell: CellId(1), stamped: None, observed: observed(percent, Some(late)) })
}

fn gone(source: SourceId, cell: u64) -> Observation {
    Ok(Reading { source, cell: CellId(cell), stamped: None, observed: Observed::Gone })
}

fn garbage(source: SourceId) -> Observation {
    Err(Malformed { source, why: "a test" })
}

fn level(source: SourceId, percent: u8) -> FusedLoad {
    FusedLoad::Level(source, Utilization::from_percent(percent).unwrap())
}

fn fusion(trust: &[Trust], heard: &[(u64, Observation)]) -> Fusion {
    let mut fusion = Fusion::new(trust);
    for (ms, observation) in heard {
        fusion.on_observation(at(*ms), *observation);
    }
    fusion
}

#[test]
fn nothing_heard_is_unheard() {
    assert_eq!(Fusion::new(&[REQUIRED]).current(at(0)).load, FusedLoad::Unheard);
    assert_eq!(Fusion::new(&[]).current(at(0)).load, FusedLoad::Unheard);
}

#[test]
fn the_highest_cell_of_the_highest_source_counts() {
    let fusion = fusion(
        &[REQUIRED, REQUIRED],
        &[(0, reading(A, 1, 5)), (0, reading(A, 2, 30)), (0, reading(B, 1, 20)), (0, reading(B, 2, 29))],
    );
    let fused = fusion.current(at(1));
    assert_eq!((fused.load, fused.cell, fused.received), (level(A, 30), CellId(2), at(0)));
}

#[test]
fn a_required_source_that_falls_silent_means_stale() {
    let fusion = fusion(&[REQUIRED, OPTIONAL], &[(0, reading(A, 1, 5)), (500, reading(B, 1, 5))]);
    assert_eq!(fusion.current(at(999)).load, level(A, 5));
    let fused = fusion.current(at(1000));
    assert_eq!((fused.load, fused.received), (FusedLoad::Stale(A), at(1000)));
}

#[test]
fn a_required_source_that_was_never_heard_means_stale() {
    let fusion = fusion(&[REQUIRED, REQUIRED], &[(0, reading(A, 1, 5))]);
    assert_eq!(fusion.current(at(0)).load, FusedLoad::Stale(B));
}

#[test]
fn an_optional_source_that_falls_silent_is_ignored_while_another_is_fresh() {
    let fusion = fusion(&[OPTIONAL, OPTIONAL], &[(0, reading(A, 1, 80)), (600, reading(B, 1, 5))]);
    assert_eq!(fusion.current(at(999)).load, level(A, 80));
    assert_eq!(fusion.current(at(1000)).load, level(B, 5));
    assert_eq!(fusion.current(at(1600)).load, FusedLoad::Stale(B));
}

#[test]
fn silence_that_lowers_the_load_is_a_reason_to_ask_again() {
    let busy_falls_silent = fusion(&[OPTIONAL, OPTIONAL], &[(0, reading(A, 1, 80)), (600, reading(B, 1, 5))]);
    let fused = busy_falls_silent.current(at(600));
    assert_eq!((fused.load, fused.changes_at), (level(A, 80), at(1000)));
    let heard = [(0, reading(A, 1, 5)), (500, reading(A, 2, 5)), (900, reading(B, 1, 6))];
    let half_silent = fusion(&[OPTIONAL, OPTIONAL], &heard);
    let fused = half_silent.current(at(1000));
    assert_eq!((fused.load, fused.changes_at), (FusedLoad::Stale(A), at(1500)));
    assert_eq!(half_silent.current(at(1500)).load, level(B, 6));
}

#[test]
fn an_optional_source_that_was_never_heard_is_ignored_while_another_is_fresh() {
    let fusion = fusion(&[OPTIONAL, OPTIONAL], &[(0, reading(B, 1, 5))]);
    assert_eq!(fusion.current(at(1)).load, level(B, 5));
}

#[test]
fn a_silent_cell_means_stale_even_when_its_source_is_optional_and_reports_others() {
    for trust in [REQUIRED, OPTIONAL] {
        let heard = [(0, reading(A, 1, 5)), (0, reading(A, 2, 5)), (900, reading(A, 1, 5)), (900, reading(B, 1, 5))];
        let fused = fusion(&[trust, REQUIRED], &heard).current(at(1000));
        assert_eq!((fused.load, fused.cell), (FusedLoad::Stale(A), CellId(2)));
    }
}

#[test]
fn a_silent_cell_that_reports_again_is_believed() {
    let heard = [(0, reading(A, 1, 5)), (0, reading(A, 2, 5)), (1500, reading(A, 1, 6)), (1500, reading(A, 2, 7))];
    assert_eq!(fusion(&[REQUIRED], &heard).current(at(1500)).load, level(A, 7));
}

#[test]
fn a_cell_that_is_gone_no_longer_counts() {
    let heard = [(0, reading(A, 1, 5)), (0, reading(A, 2, 90)), (900, gone(A, 2)), (900, reading(A, 1, 6))];
    assert_eq!(fusion(&[REQUIRED], &heard).current(at(1500)).load, level(A, 6));
}

#[test]
fn a_required_source_whose_cells_are_all_gone_gives_no_permission() {
    let heard = [(0, reading(A, 1, 5)), (0, reading(B, 1, 5)), (1, gone(A, 1))];
    assert_eq!(fusion(&[REQUIRED, OPTIONAL], &heard).current(at(2)).load, FusedLoad::Stale(A));
    assert_eq!(fusion(&[REQUIRED], &heard).current(at(2)).load, FusedLoad::Unheard);
}

#[test]
fn a_goodbye_that_was_overtaken_by_a_reading_is_ignored() {
    let late_goodbye = Reading { source: A, cell: CellId(1), stamped: Some(at(50)), observed: Observed::Gone };
    let heard = [(100, stamped(at(90), 70)), (101, Ok(late_goodbye))];
    assert_eq!(fusion(&[REQUIRED], &heard).current(at(102)).load, level(A, 70));
}

#[test]
fn malformed_means_busy_until_the_next_good_reading_of_that_source() {
    let mut fusion = fusion(&[REQUIRED, REQUIRED], &[(0, reading(A, 1, 5)), (0, reading(B, 1, 5)), (1, garbage(A))]);
    assert_eq!(fusion.current(at(2)).load, FusedLoad::Malformed(A));
    fusion.on_observation(at(3), reading(B, 1, 5));
    assert_eq!(fusion.current(at(3)).load, FusedLoad::Malformed(A));
    fusion.on_observation(at(4), reading(A, 1, 5));
    assert_eq!(fusion.current(at(4)).load, level(A, 5));
}

#[test]
fn a_good_line_in_the_same_moment_does_not_heal_a_bad_one() {
    let fusion = fusion(&[REQUIRED], &[(0, garbage(A)), (0, reading(A, 1, 5))]);
    assert_eq!(fusion.current(at(1)).load, FusedLoad::Malformed(A));
}

#[test]
fn neither_a_goodbye_nor_a_counter_nor_an_old_reading_heals_a_bad_one() {
    let counter = Reading { source: A, cell: CellId(1), stamped: None, observed: Observed::Late { count: 0 } };
    for healer in [gone(A, 2), Ok(counter), stamped(at(0), 5)] {
        let heard = [(1500, reading(A, 1, 5)), (1600, garbage(A)), (1700, healer)];
        assert_eq!(fusion(&[REQUIRED], &heard).current(at(1701)).load, FusedLoad::Malformed(A), "{healer:?}");
    }
}

#[test]
fn a_late_slot_is_held_against_levels_that_follow() {
    let mut fusion = fusion(&[REQUIRED], &[(0, with_late(5, 7)), (1, with_late(5, 8)), (1, with_late(5, 8))]);
    let fused = fusion.current(at(2));
    assert_eq!((fused.load, fused.metric, fused.fresh_until), (FusedLoad::Late(A), Metric::Late, at(1001)));
    fusion.on_observation(at(900), with_late(5, 8));
    assert_eq!(fusion.current(at(1000)).load, FusedLoad::Late(A));
    assert_eq!(fusion.current(at(1001)).load, level(A, 5));
}

#[test]
fn the_first_count_of_late_slots_is_the_base() {
    assert_eq!(fusion(&[REQUIRED], &[(0, with_late(5, 9))]).current(at(0)).load, level(A, 5));
}

#[test]
fn a_counter_of_late_slots_that_restarts_counts_as_late_and_sets_a_new_base() {
    let mut fusion = fusion(&[REQUIRED], &[(0, with_late(5, 9)), (1, with_late(5, 0))]);
    assert_eq!(fusion.current(at(1)).load, FusedLoad::Late(A));
    fusion.on_observation(at(1100), with_late(5, 0));
    assert_eq!(fusion.current(at(1101)).load, level(A, 5));
    fusion.on_observation(at(1102), with_late(5, 1));
    assert_eq!(fusion.current(at(1102)).load, FusedLoad::Late(A));
}

#[test]
fn a_count_of_late_slots_that_was_overtaken_is_no_restart() {
    let count =
        |ms, late| Ok(Reading { source: A, cell: CellId(1), stamped: Some(at(ms)), observed: observed(5, Some(late)) });
    let heard = [(100, count(90, 8)), (101, count(80, 7)), (120, count(110, 8))];
    assert_eq!(fusion(&[REQUIRED], &heard).current(at(121)).load, level(A, 5));
    let heard = [(100, count(90, 8)), (101, count(80, 9))];
    assert_eq!(fusion(&[REQUIRED], &heard).current(at(121)).load, FusedLoad::Late(A));
}

#[test]
fn a_counter_alone_is_no_level_and_keeps_none_fresh() {
    let counter = |count| Ok(Reading { source: A, cell: CellId(1), stamped: None, observed: Observed::Late { count } });
    assert_eq!(fusion(&[REQUIRED], &[(0, counter(1))]).current(at(0)).load, FusedLoad::Unheard);
    let mut fusion = fusion(&[REQUIRED], &[(0, reading(A, 1, 5)), (900, counter(1))]);
    assert_eq!(fusion.current(at(1000)).load, FusedLoad::Stale(A));
    fusion.on_observation(at(1001), counter(2));
    assert_eq!(fusion.current(at(1001)).load, FusedLoad::Late(A));
}

#[test]
fn a_stamp_from_the_future_is_malformed() {
    let ahead = |ms| fusion(&[REQUIRED], &[(0, stamped(at(ms), 5))]).current(at(0)).load;
    assert_eq!(ahead(10), level(A, 5));
    assert_eq!(ahead(11), FusedLoad::Malformed(A));
}

#[test]
fn a_stamp_a_little_ahead_does_not_make_a_reading_live_longer() {
    let fusion = fusion(&[REQUIRED], &[(0, stamped(at(10), 5))]);
    assert_eq!(fusion.current(at(0)).fresh_until, at(1000));
    assert_eq!(fusion.current(at(1000)).load, FusedLoad::Stale(A));
}

#[test]
fn freshness_counts_from_the_stamp() {
    let fusion = fusion(&[REQUIRED], &[(800, stamped(at(0), 5))]);
    assert_eq!(fusion.current(at(999)).load, level(A, 5));
    assert_eq!(fusion.current(at(1000)).load, FusedLoad::Stale(A));
}

#[test]
fn a_reading_older_than_its_freshness_is_stale_at_once() {
    let fusion = fusion(&[REQUIRED], &[(2000, stamped(at(0), 5))]);
    assert_eq!(fusion.current(at(2000)).load, FusedLoad::Stale(A));
}

#[test]
fn an_overtaken_reading_may_raise_the_level_but_not_lower_it() {
    let after = |percent| fusion(&[REQUIRED], &[(100, stamped(at(90), 50)), (101, stamped(at(80), percent))]);
    assert_eq!(after(10).current(at(101)).load, level(A, 50));
    let raised = after(70).current(at(101));
    assert_eq!((raised.load, raised.stamped), (level(A, 70), Some(at(80))));
    assert_eq!(raised.fresh_until, at(1090), "the newer reading's time still counts");
}

#[test]
fn more_cells_than_the_table_holds_mean_busy_for_as_long_as_they_report() {
    let mut fusion = Fusion::new(&[REQUIRED]);
    for cell in 0..=CELLS_MAX as u64 {
        fusion.on_observation(at(0), reading(A, cell, 5));
    }
    for cell in 0..CELLS_MAX as u64 {
        fusion.on_observation(at(999), reading(A, cell, 5));
    }
    assert_eq!(fusion.current(at(999)).load, FusedLoad::Malformed(A));
    fusion.on_observation(at(1001), reading(A, 0, 5));
    assert_eq!(fusion.current(at(1001)).load, level(A, 5));
}

#[test]
fn a_cell_that_is_gone_leaves_room_for_another() {
    let mut fusion = Fusion::new(&[REQUIRED]);
    for cell in 0..10 * CELLS_MAX as u64 {
        fusion.on_observation(at(0), reading(A, cell, 5));
        fusion.on_observation(at(0), gone(A, cell));
    }
    fusion.on_observation(at(0), reading(A, 1, 6));
    assert_eq!(fusion.current(at(0)).load, level(A, 6));
}

#[test]
fn more_sources_than_the_table_holds_are_never_believed() {
    let fusion = fusion(&[OPTIONAL; SOURCES_MAX + 1], &[(0, reading(A, 1, 5))]);
    assert!(matches!(fusion.current(at(0)).load, FusedLoad::Malformed(_)));
}

#[test]
fn an_unknown_source_gives_no_permission() {
    let fusion = fusion(&[REQUIRED], &[(0, reading(B, 1, 5))]);
    assert_eq!(fusion.current(at(0)).load, FusedLoad::Unheard);
}

/// What the rules say, written the slow way: every reading is kept, and each moment is worked out anew.
mod reference {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    pub(super) struct Reference {
        /// Last reading by source and cell: when, and which level.
        pub(super) last: BTreeMap<(u8, u64), (Instant, Utilization)>,
        pub(super) malformed: BTreeMap<u8, Instant>,
    }

    impl Reference {
        pub(super) fn on(&mut self, now: Instant, observation: Observation) {
            match observation {
                Err(malformed) => drop(self.malformed.insert(malformed.source.0, now)),
                Ok(Reading { source, cell, observed, .. }) => match observed {
                    Observed::Gone => drop(self.last.remove(&(source.0, cell.0))),
                    Observed::Late { .. } | Observed::Health { .. } => {}
                    Observed::Level { level, .. } => {
                        self.last.insert((source.0, cell.0), (now, level));
                        if self.malformed.get(&source.0).is_some_and(|at| now > *at) {
                            self.malformed.remove(&source.0);
                        }
                    }
                },
            }
        }

        /// The level, when there is permission to believe one.
        pub(super) fn level(&self, now: Instant, trust: &[Trust]) -> Option<Utilization> {
            let plans = |id: u8| trust.get(usize::from(id)).is_some_and(|trust| trust.planning);
            if self.malformed.keys().any(|id| !plans(*id)) {
                return None;
            }
            let mut levels = Vec::new();
            for (id, trust) in (0_u8..).zip(trust).filter(|(_, trust)| !trust.planning) {
                let cells: Vec<_> =
                    self.last.iter().filter(|((source, _), _)| *source == id).map(|(_, l)| *l).collect();
                let fresh = cells.iter().filter(|(at, _)| now < at.after(trust.freshness)).count();
                if fresh == cells.len() && fresh > 0 {
                    levels.extend(cells.iter().map(|(_, level)| *level));
                } else if trust.required || fresh > 0 {
                    return None;
                }
            }
            let vouched = levels.into_iter().max()?;
            let planned = self
                .last
                .iter()
                .filter(|((id, _), (at, _))| plans(*id) && now < at.after(trust[usize::from(*id)].freshness));
            planned.map(|(_, (_, level))| *level).chain([vouched]).max()
        }
    }
}

/// One event: milliseconds since the last one and what happens.
fn event() -> impl Strategy<Value = (u64, Observation)> {
    let source = (0_u8..3).prop_map(SourceId);
    let pause = prop_oneof![Just(0_u64), 1..50_u64, 400..700_u64];
    let observation = prop_oneof![
        12 => (source.clone(), 0..3_u64, 0..=100_u8).prop_map(|(source, cell, percent)| reading(source, cell, percent)),
        1 => source.clone().prop_map(garbage),
        1 => (source, 0..3_u64).prop_map(|(source, cell)| gone(source, cell)),
    ];
    (pause, observation)
}

fn trust() -> impl Strategy<Value = Vec<Trust>> {
    let one = (any::<bool>(), 200..1500_u64, 0..4_u8).prop_map(|(required, ms, grade)| Trust {
        required,
        freshness: Duration::from_millis(ms),
        planning: grade == 0,
    });
    proptest::collection::vec(one, 3)
}

fn is_level(load: FusedLoad) -> bool {
    matches!(load, FusedLoad::Level(..))
}

proptest! {
    #[test]
    fn the_level_is_what_the_rules_say(trust in trust(), events in proptest::collection::vec(event(), 1..60)) {
        let (mut fusion, mut reference) = (Fusion::new(&trust), reference::Reference::default());
        let mut ms = 0;
        for (pause, observation) in events {
            ms += pause;
            fusion.on_observation(at(ms), observation);
            reference.on(at(ms), observation);
            for later in [0, 1, 150, 600] {
                let now = at(ms + later);
                let fused = match fusion.current(now).load {
                    FusedLoad::Level(_, level) => Some(level),
                    FusedLoad::Late(_) | FusedLoad::Malformed(_) | FusedLoad::Stale(_) | FusedLoad::Unheard => None,
                };
                prop_assert_eq!(fused, reference.level(now, &trust), "at {} + {} ms", ms, later);
            }
        }
    }

    #[test]
    fn a_level_holds_in_silence_until_the_end_of_its_freshness_and_not_longer(
        trust in trust(), events in proptest::collection::vec(event(), 1..40),
    ) {
        let mut fusion = Fusion::new(&trust);
        let mut ms = 0;
        for (pause, observation) in events {
            ms += pause;
            fusion.on_observation(at(ms), observation);
            let fused = fusion.current(at(ms));
            if is_level(fused.load) {
                prop_assert!(fused.fresh_until > at(ms));
                let just_before = Instant::from_nanos(fused.fresh_until.as_nanos() - 1);
                prop_assert!(is_level(fusion.current(just_before).load));
                prop_assert!(!is_level(fusion.current(fused.fresh_until).load));
            }
        }
    }

    #[test]
    fn time_alone_changes_nothing_before_it_is_time_to_ask_again(
        trust in trust(), events in proptest::collection::vec(event(), 1..40),
    ) {
        let mut fusion = Fusion::new(&trust);
        let mut ms = 0;
        for (pause, observation) in events {
            ms += pause;
            fusion.on_observation(at(ms), observation);
            let mut fused = fusion.current(at(ms));
            // Each change is followed by the next, until none is left.
            while fused.changes_at < Instant::from_nanos(u64::MAX) {
                let just_before = fusion.current(Instant::from_nanos(fused.changes_at.as_nanos() - 1));
                prop_assert_eq!((just_before.load, just_before.fresh_until), (fused.load, fused.fresh_until));
                fused = fusion.current(fused.changes_at);
            }
        }
    }

    #[test]
    fn time_that_runs_backwards_revives_nothing(
        events in proptest::collection::vec((0..3000_u64, 0..=100_u8), 1..20), back in 1..3000_u64,
    ) {
        let mut fusion = Fusion::new(&[REQUIRED]);
        let mut latest = 0;
        for (ms, percent) in events {
            latest = latest.max(ms);
            fusion.on_observation(at(ms), reading(A, 1, percent));
        }
        prop_assert_eq!(fusion.current(at(latest.saturating_sub(back))), fusion.current(at(latest)));
    }

    #[test]
    fn every_change_of_a_counter_means_late(counts in proptest::collection::vec(0..3_u64, 2..30)) {
        let mut fusion = Fusion::new(&[REQUIRED]);
        let mut last = counts[0];
        for (turn, count) in (0..).zip(counts) {
            // Further apart than the hold, so that each stands for itself.
            let now = at(turn * 2000);
            fusion.on_observation(now, with_late(5, count));
            let late = fusion.current(now.after(MS)).load == FusedLoad::Late(A);
            prop_assert_eq!(late, count != last);
            last = count;
        }
    }
}
