//! Are the sums what the module says they are? Small recordings with figures that can be worked out by hand.

use super::*;
use crate::load::{Metric, Observed};
use crate::sim::emit::{Emission, STEP};
use crate::sim::{emit, replay};
use crate::units::{SourceId, Utilization};

const MINUTE: Duration = Duration::from_secs(60);

fn percent(percent: u8) -> Utilization {
    Utilization::from_percent(percent).unwrap()
}

/// One worker, at once, between 15 and 40 %, after a settle time of two minutes.
pub(super) fn setup() -> Setup {
    let policy = Policy {
        workers: 1,
        busy_above: percent(40),
        idle_below: percent(15),
        settle: MINUTE * 2,
        settle_max: MINUTE * 10,
        flap_window: MINUTE * 5,
        raise_every: Duration::ZERO,
    };
    Setup { name: "test".to_owned(), policy, freshness: MINUTE * 6, evict_after: MINUTE * 15, open_max: 1000 }
}

fn settings(setups: Vec<Setup>) -> Settings {
    Settings { setups, fuse: false, foresee: false, starts: Duration::ZERO, streams: mix::built_in() }
}

fn reading(cell: u64, level: u8) -> Reading {
    let observed = Observed::Level { metric: Metric::PrbTotDl, level: percent(level), late: None };
    Reading { source: SourceId(0), cell: CellId(cell), stamped: None, observed }
}

/// Replays two-minute samples of one cell and gives what came of the first configuration.
fn replayed(setups: Vec<Setup>, levels: &[u8]) -> Vec<Outcome> {
    let mut replay = Replay::new(settings(setups)).unwrap();
    for (index, level) in (0..).zip(levels) {
        replay.hear(STEP * index, reading(1, *level)).unwrap();
    }
    replay.end();
    replay.finish()
}

#[test]
fn harvest_yields_and_evictions_are_what_the_governor_made_of_the_load() {
    // Low for 20 minutes, busy for 4, low for 20, busy for 30, low for 20.
    let levels = [vec![10; 10], vec![50; 2], vec![10; 10], vec![60; 15], vec![10; 11]].concat();
    let outcome = &replayed(vec![setup()], &levels)[0];
    let totals = &outcome.totals;
    assert_eq!((totals.time, totals.core_time, totals.low), (MINUTE * 94, MINUTE * 94, MINUTE * 60));
    // Each trough begins two minutes after the load has fallen.
    assert_eq!(totals.granted, MINUTE * (18 + 18 + 18));
    assert_eq!(totals.runs, account::Runs { starts: 3, yields: 2, evictions: 1, longest: MINUTE * 18 });
    assert_eq!(totals.plain, account::Runs { starts: 3, yields: 2, evictions: 1, longest: MINUTE * 20 });
    assert_eq!(totals.overlap, Duration::ZERO);
    // From 10 to 50 the last quarter of two minutes is at or above 40, from 10 to 60 two fifths.
    assert_eq!(totals.unseen, Duration::from_secs(30 + 48));
    assert_eq!(totals.modes.iter().sum::<Duration>(), totals.time);
    let thresholds = totals.curve.thresholds();
    assert_eq!((thresholds[39].yields, thresholds[39].threshold), (2, 40));
    assert!((thresholds[39].harvest - totals.plain_harvest()).abs() < 1e-9);
    assert_eq!(outcome.picture.day(Duration::ZERO).1, [MINUTE * 20, MINUTE * 44]);
    assert_eq!(totals.hours[0].granted + totals.hours[1].granted, totals.granted);
    assert_eq!(totals.hours[0].core_time, MINUTE * 60);
}

#[test]
fn a_recording_that_falls_silent_is_busy_until_it_goes_on() {
    let mut replay = Replay::new(settings(vec![setup()])).unwrap();
    for minutes in [0, 2, 4, 60, 62, 64] {
        replay.hear(MINUTE * minutes, reading(1, 5)).unwrap();
    }
    replay.end();
    let totals = replay.finish().remove(0).totals;
    // Believed until minute 10, of which 2 are settling; then 4 minutes of which 2 are settling.
    assert_eq!((totals.low, totals.granted), (MINUTE * 14, MINUTE * 10));
    assert_eq!((totals.runs.yields, totals.runs.evictions), (1, 1));
    assert_eq!(totals.overlap, Duration::ZERO);
}

#[test]
fn cells_are_nodes_of_their_own_or_one_node_of_which_the_highest_counts() {
    let play = |fuse| {
        let mut replay = Replay::new(Settings { fuse, ..settings(vec![setup()]) }).unwrap();
        for index in 0..30 {
            replay.hear(STEP * index, reading(1, 5)).unwrap();
            replay.hear(STEP * index, reading(2, if index < 15 { 80 } else { 5 })).unwrap();
        }
        replay.end();
        (replay.nodes(), replay.finish().remove(0).totals)
    };
    let (apart, fused) = (play(false), play(true));
    assert_eq!((apart.0, apart.1.time, apart.1.granted), (2, MINUTE * 116, MINUTE * (56 + 26)));
    assert_eq!((fused.0, fused.1.time, fused.1.granted), (1, MINUTE * 58, MINUTE * 26));
}

#[test]
fn a_node_has_as_many_cells_as_a_source_and_a_replay_as_many_nodes_as_it_says() {
    let mut replay = Replay::new(Settings { fuse: true, ..settings(vec![setup()]) }).unwrap();
    for cell in 0..CELLS_MAX as u64 {
        replay.hear(Duration::ZERO, reading(cell, 5)).unwrap();
    }
    assert_eq!(replay.hear(Duration::ZERO, reading(999, 5)), Err(TooMany::Cells));
}

/// So many cells for so many days.
fn days(setups: Vec<Setup>, cells: u32, days: u32, seed: u64) -> Vec<Outcome> {
    let streams = Vec::new();
    let mut replay = Replay::new(Settings { streams, ..settings(setups) }).unwrap();
    let mut emission = Emission::new(emit::Settings { days, cells, seed, step: STEP });
    let mut samples = Vec::new();
    while let Some(at) = emission.step(&mut samples) {
        for (cell, level) in (1..).zip(&samples) {
            let observed = Observed::Level { metric: Metric::PrbTotDl, level: *level, late: None };
            let cell = CellId(cell);
            replay.hear(at, Reading { source: SourceId(0), cell, stamped: None, observed }).unwrap();
        }
    }
    replay.end();
    replay.finish()
}

/// The policy for samples of two minutes: the shipped limits, six minutes of low load before a start.
fn dwelling() -> Setup {
    let policy = Policy { settle: MINUTE * 6, ..setup().policy };
    Setup { name: "dwell".to_owned(), policy, ..setup() }
}

#[test]
fn a_dwell_with_a_gap_has_a_fifth_of_the_evictions_of_a_plain_threshold_for_four_points_of_harvest() {
    for seed in [1, 2, 3] {
        let outcome = days(vec![dwelling()], 24, 5, seed).remove(0);
        let totals = &outcome.totals;
        let rival = totals.curve.rival(totals.harvest()).unwrap();
        let points = rival.harvest - totals.harvest();
        assert!((0.0..=replay::plain::POINTS).contains(&points), "seed {seed}: {points} of harvest for {rival:?}");
        let (ours, theirs) = (totals.a_day(totals.runs.yields), totals.a_day(rival.yields));
        assert!((9.0..48.0).contains(&theirs), "seed {seed}: {theirs} a day at {} %", rival.threshold);
        assert!(ours * 5.0 <= theirs, "seed {seed}: {ours} a day against {theirs} at {} %", rival.threshold);
        assert_eq!(totals.overlap, Duration::ZERO, "seed {seed}");
    }
}

#[test]
fn the_shipped_policy_never_overlaps_and_is_far_below_every_plain_threshold() {
    let policy = setup().policy;
    for seed in [4, 5, 6] {
        let totals = days(vec![Setup { policy: policy.clone(), ..setup() }], 24, 3, seed).remove(0).totals;
        let rival = totals.curve.rival(totals.harvest()).unwrap();
        assert!(totals.runs.yields * 100 <= rival.yields * 23, "seed {seed}: {:?} against {rival:?}", totals.runs);
        assert_eq!(totals.overlap, Duration::ZERO, "seed {seed}");
    }
}

#[test]
fn the_forecast_is_compared_with_what_came_and_persistence_with_it() {
    // The same two days over and over: after a week the time of the day says more than the present.
    let levels: Vec<u8> = (0..14 * 720_u32).map(|index| if index % 720 < 300 { 10 } else { 60 }).collect();
    let mut replay = Replay::new(Settings { foresee: true, ..settings(vec![setup()]) }).unwrap();
    for (index, level) in (0..).zip(&levels) {
        replay.hear(STEP * index, reading(1, *level)).unwrap();
    }
    replay.end();
    let errors = replay.finish().remove(0).totals.errors;
    assert_eq!(errors[0].count, 14 * 720 - 3);
    // Persistence is wrong by 50 points for as long as the horizon, twice a day.
    let expected = 500.0 * 2.0 * 60.0 / 720.0 / 10.0;
    let persistence = errors[4].persistence_percent().unwrap();
    assert!((persistence - expected).abs() < 0.3, "{persistence} %, expected {expected} %");
    let ratio = errors[4].against_persistence().unwrap();
    assert!(ratio < 0.9, "{ratio}");
}

#[test]
fn configurations_side_by_side_do_not_touch_one_another() {
    let levels = [vec![10; 10], vec![50; 2], vec![20; 20], vec![60; 5], vec![10; 11]].concat();
    let both = replayed(vec![setup(), dwelling()], &levels);
    for (index, alone) in [setup(), dwelling()].into_iter().enumerate() {
        let alone = replayed(vec![alone], &levels).remove(0);
        assert_eq!(format!("{:?}", both[index].totals), format!("{:?}", alone.totals));
    }
    assert_ne!(both[0].totals.granted, both[1].totals.granted);
}

#[test]
fn seconds_since_1970_tell_the_hour_themselves() {
    let noon = Duration::from_secs(1_767_571_200 + 12 * 3600);
    assert_eq!(Clock::of(noon, MINUTE).since_midnight(Instant::default().after(noon)), MINUTE * 720);
    let clock = Clock::of(Duration::ZERO, MINUTE * 90);
    assert_eq!(clock.since_midnight(Instant::default().after(MINUTE)), MINUTE * 91);
    let at = Instant::default().after(MINUTE * 5);
    assert_eq!(clock.instant(clock.wall(at)), at);
    assert_eq!(clock.wall(Instant::default()).to_string(), "2026-01-05T01:30:00.000Z");
}
