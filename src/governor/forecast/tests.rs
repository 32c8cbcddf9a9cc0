//! Is the forecast as good as it says, and does nothing that comes in harm it?

use std::time::Duration;

use proptest::prelude::*;

use super::super::Policy;
use super::numbers::STEP_MS;
use super::*;

mod reach;
mod series;
mod state;

/// A Monday in 2026, 00:00 UTC.
const MIDNIGHT: i64 = 1_767_571_200_000;

fn policy() -> Policy {
    Policy {
        workers: 2,
        busy_above: percent(40),
        idle_below: percent(25),
        settle: Duration::from_secs(360),
        settle_max: Duration::from_secs(1800),
        flap_window: Duration::from_secs(300),
        raise_every: Duration::from_secs(1),
    }
}

fn forecast() -> Forecast {
    Forecast::new(Settings::new(policy())).unwrap()
}

fn percent(percent: u8) -> Utilization {
    Utilization::from_percent(percent).unwrap()
}

fn permille(permille: u16) -> Utilization {
    Utilization::from_permille(permille).unwrap()
}

/// The moment at which step `index` begins.
fn at(index: usize) -> WallTime {
    WallTime::from_millis(MIDNIGHT + i64::try_from(index).unwrap() * STEP_MS)
}

/// Feeds a whole series, one level for each step, from step `first` on.
fn feed(forecast: &mut Forecast, first: usize, levels: &[u16]) {
    for (index, level) in levels.iter().enumerate() {
        forecast.on_load(at(first + index), permille(*level));
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn nothing_learned_promises_nothing() {
    let forecast = forecast();
    assert_eq!(forecast.predict(30 * MINUTE), None);
    let outlook = forecast.outlook(at(0));
    assert_eq!(outlook.spans().len(), 48);
    assert!(outlook.spans().iter().all(|free| free.p10.is_zero() && free.p50.is_zero()));
    assert!(forecast.scores().iter().all(|score| score.used == Method::Persistence && score.error_permille.is_none()));
}

#[test]
fn a_load_without_a_past_is_forecast_to_stay() {
    let mut forecast = forecast();
    forecast.on_load(at(0), percent(30));
    for minutes in [0, 2, 30, 120, 360, 1440, 100_000] {
        assert_eq!(forecast.predict(minutes * MINUTE), Some(percent(30)));
    }
}

#[test]
fn a_step_is_the_mean_over_time_and_not_over_messages() {
    let mut forecast = forecast();
    forecast.on_load(at(0), percent(100));
    // Ten messages in the last second, after a whole minute of full load and one of none.
    forecast.on_load(WallTime::from_millis(MIDNIGHT + 60_000), percent(0));
    for millis in 0..10 {
        forecast.on_load(WallTime::from_millis(MIDNIGHT + 119_000 + millis * 100), percent(0));
    }
    forecast.on_load(at(1), percent(0));
    let entry = forecast.days.get(Step::containing(at(0))).unwrap();
    assert_eq!((entry.mean, entry.max, entry.measured), (500, 1000, true));
}

#[test]
fn the_free_share_of_a_step_is_what_the_governor_would_have_given() {
    let mut forecast = forecast();
    // Low for 6 minutes of settling, then one worker for a second, then both; stopped in the middle of step 4.
    feed(&mut forecast, 0, &[100, 100, 100, 100]);
    forecast.on_load(WallTime::from_millis(MIDNIGHT + 4 * STEP_MS), permille(100));
    forecast.on_load(WallTime::from_millis(MIDNIGHT + 4 * STEP_MS + 60_000), permille(400));
    forecast.on_load(at(5), permille(400));
    let free = |index: usize| forecast.days.get(Step::containing(at(index))).unwrap().free;
    assert_eq!((free(0), free(1), free(2)), (0, 0, 0), "settling");
    assert_eq!(free(3), 996, "one of two workers is late by a second of two minutes");
    assert_eq!(free(4), 500);
}

#[test]
fn a_load_holds_for_two_steps_and_no_longer() {
    let mut forecast = forecast();
    forecast.on_load(at(0), percent(10));
    forecast.on_load(at(20), percent(10));
    let known: Vec<bool> = (0..20).map(|index| forecast.days.get(Step::containing(at(index))).is_some()).collect();
    assert_eq!(known.iter().filter(|known| **known).count(), 2);
    assert!(known[0] && known[1]);
}

#[test]
fn a_silence_ends_the_load_at_once() {
    let mut forecast = forecast();
    forecast.on_load(at(0), percent(10));
    forecast.on_silence(at(1));
    forecast.on_load(at(3), percent(10));
    assert!(forecast.days.get(Step::containing(at(0))).is_some());
    assert!(forecast.days.get(Step::containing(at(1))).is_none());
    assert!(forecast.days.get(Step::containing(at(2))).is_none());
}

#[test]
fn a_moment_out_of_line_changes_nothing() {
    let mut calm = forecast();
    let mut disturbed = forecast();
    for index in 0..3000 {
        calm.on_load(at(index), permille(100));
        disturbed.on_load(at(index), permille(100));
        if index % 7 == 5 {
            disturbed.on_load(WallTime::from_millis(0), percent(99));
            disturbed.on_load(WallTime::from_millis(i64::MAX), percent(99));
            disturbed.on_load(WallTime::from_millis(i64::MIN), percent(99));
            disturbed.on_load(at(index / 2), percent(99));
        }
    }
    assert_eq!(calm.snapshot(), disturbed.snapshot());
}

#[test]
fn a_clock_that_was_set_is_followed_after_ten_minutes() {
    let mut forecast = forecast();
    feed(&mut forecast, 720 * 30, &[100; 100]);
    // Back by 20 days.
    feed(&mut forecast, 720 * 10, &[700; 4]);
    assert_eq!(forecast.predict(2 * MINUTE), Some(permille(100)), "not believed yet");
    feed(&mut forecast, 720 * 10 + 4, &[700; 8]);
    assert_eq!(forecast.predict(2 * MINUTE), Some(permille(700)));
    assert!(forecast.days.get(Step::containing(at(720 * 10 + 8))).is_some());
}

#[test]
fn history_teaches_the_usual_day_and_scores_nothing() {
    let now = at(720 * 14);
    let quarter = 15 * MINUTE;
    let mut forecast = forecast();
    let before = forecast.scores();
    for day in 0..14 {
        for index in 0..96 {
            // Busy from 08:00 to 20:00.
            let level = if (32..80).contains(&index) { percent(60) } else { percent(5) };
            let from = WallTime::from_millis(MIDNIGHT + day * 86_400_000 + index * 900_000);
            assert!(forecast.on_history(now, from, quarter, level));
        }
    }
    assert_eq!(forecast.scores(), before);
    assert_eq!(forecast.days_known(), 14);
    let outlook = forecast.outlook(at(720 * 14));
    // Midnight to 08:00 all is free, and after it nothing.
    let (night, day) = (outlook.spans()[10], outlook.spans()[40]);
    assert_eq!((night.p10, night.p50), (2 * quarter, 2 * quarter));
    assert_eq!((day.p50, day.p90), (Duration::ZERO, Duration::ZERO));
}

#[test]
fn history_never_outranks_what_was_measured_nor_comes_from_the_future_or_from_long_ago() {
    let mut forecast = forecast();
    feed(&mut forecast, 0, &[100; 20]);
    let now = at(20);
    assert!(!forecast.on_history(now, at(2), 15 * MINUTE, percent(90)), "measured");
    assert!(!forecast.on_history(now, at(20), 15 * MINUTE, percent(90)), "the future");
    assert!(!forecast.on_history(at(720 * 40), at(720 * 3), 15 * MINUTE, percent(90)), "long ago");
    assert!(!forecast.on_history(now, WallTime::from_millis(i64::MAX), 15 * MINUTE, percent(90)));
    assert!(!forecast.on_history(now, WallTime::from_millis(i64::MIN), Duration::MAX, percent(90)));
    assert_eq!(forecast.days.get(Step::containing(at(3))).map(|entry| entry.mean), Some(100));
}

#[test]
fn a_stricter_policy_leaves_less_of_the_past_free() {
    let mut forecast = forecast();
    feed(&mut forecast, 0, &[200; 720 * 4]);
    let free = |forecast: &Forecast| forecast.outlook(at(720 * 4)).spans()[4].p50;
    assert_eq!(free(&forecast), 30 * MINUTE);
    forecast.set_policy(&Policy { idle_below: percent(15), ..policy() }).unwrap();
    assert_eq!(free(&forecast), Duration::ZERO);
    forecast.set_policy(&policy()).unwrap();
    assert_eq!(free(&forecast), 30 * MINUTE);
    assert!(forecast.set_policy(&Policy { workers: 0, ..policy() }).is_err());
    assert_eq!(*forecast.settings(), Settings::new(policy()));
}

#[test]
fn the_time_of_day_is_that_of_utc() {
    assert_eq!(Forecast::time_of_day(WallTime::parse("2026-03-29T02:31:00+02:00").unwrap()), 15);
    assert_eq!(Forecast::time_of_day(WallTime::from_millis(-1)), 719);
    assert_eq!(Forecast::time_of_day(WallTime::from_millis(0)), 0);
}

/// Code below a path of the source tree, without its comments and without this forecast.
fn code_below(path: &std::path::Path) -> String {
    if path.ends_with("forecast") {
        return String::new();
    }
    if path.is_dir() {
        let mut entries: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        return entries.iter().map(|entry| code_below(entry)).collect();
    }
    let text = std::fs::read_to_string(path).unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//") && line.trim() != "pub mod forecast;";
    text.lines().filter(is_code).map(|line| format!("{}: {line}\n", path.display())).collect()
}

#[test]
fn nothing_on_the_way_from_load_to_workers_knows_of_a_forecast() {
    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let deciders = ["governor/mod.rs", "governor/policy.rs", "sentinel.rs", "sentinel", "worker", "load/fusion.rs"];
    let mut lines = 0;
    for decider in deciders.map(|path| src.join(path)) {
        let code = code_below(&decider);
        lines += code.lines().count();
        let knows =
            |line: &&str| ["forecast::", "Forecast", "Outlook", "outlook::"].iter().any(|word| line.contains(word));
        let found: Vec<&str> = code.lines().filter(knows).collect();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
    assert!(lines > 2_000, "the tree was read");
}

fn any_moment() -> impl Strategy<Value = i64> {
    prop_oneof![
        10 => 0..40_i64 * 86_400_000,
        2 => MIDNIGHT..MIDNIGHT + 3 * 86_400_000,
        1 => any::<i64>(),
        1 => Just(i64::MIN),
        1 => Just(i64::MAX),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the moments, nothing panics, nothing grows, and whatever is said is in range.
    #[test]
    fn no_order_of_moments_breaks_it(
        jumps in prop::collection::vec((any_moment(), 1_usize..40, 0_i64..400_000, 0_u16..=1000, 0_u8..8), 1..30),
    ) {
        let mut forecast = forecast();
        for (start, count, step, level, kind) in jumps {
            for index in 0..i64::try_from(count).unwrap() {
                let at = WallTime::from_millis(start.saturating_add(index * step));
                match kind {
                    0 => forecast.on_silence(at),
                    1 => { forecast.on_history(at, at, 15 * MINUTE, permille(level)); }
                    _ => forecast.on_load(at, permille(level)),
                }
                if let Some(said) = forecast.predict(MINUTE * u32::from(level)) {
                    prop_assert!(said <= Utilization::FULL);
                }
            }
            let outlook = forecast.outlook(WallTime::from_millis(start));
            for free in outlook.spans() {
                prop_assert!(free.p10 <= free.p50 && free.p50 <= free.p90 && free.p90 <= 30 * MINUTE);
            }
        }
        prop_assert!(forecast.snapshot().len() <= SNAPSHOT_BYTES_MAX);
        prop_assert!(forecast.scores().iter().all(|score| score.error_permille.is_none_or(f64::is_finite)));
        let mut other = super::tests::forecast();
        other.restore(&forecast.snapshot()).unwrap();
        prop_assert_eq!(other.snapshot(), forecast.snapshot());
    }
}
