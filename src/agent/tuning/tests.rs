//! Is what was tuned kept, shown, and given up when it should be?

use std::time::Duration;

use super::*;
use crate::units::Instant;

const SLOT: Duration = Duration::from_secs(120);
const DAY: usize = 720;

fn percent(percent: u8) -> Utilization {
    Utilization::from_percent(percent).unwrap()
}

fn policy() -> Policy {
    Policy {
        workers: 1,
        busy_above: percent(40),
        idle_below: percent(30),
        settle: Duration::from_secs(5),
        settle_max: Duration::from_secs(5),
        flap_window: Duration::from_secs(300),
        raise_every: Duration::ZERO,
    }
}

fn terms(mode: Mode) -> Terms {
    Terms {
        mode,
        evictions_max: Some(5),
        increase_max_permille: None,
        busy_above_min: percent(20),
        idle_below_min: percent(15),
        settle_max: Duration::from_secs(1800),
    }
}

fn now(slot: usize) -> Now {
    let passed = SLOT * u32::try_from(slot).unwrap();
    Now::sure(Instant::default().after(passed), WallTime::from_millis(1_767_571_200_000).after(passed))
}

/// A tuner after two days of a load that goes up and down all the time.
fn learned(mode: Mode) -> (Tuning, Vec<News>) {
    let mut tuning = Tuning::new(terms(mode), &policy()).unwrap();
    let mut news = Vec::new();
    for slot in 0..2 * DAY {
        let level = if (slot / 8).is_multiple_of(2) { 5 } else { 60 };
        tuning.tuner.as_mut().unwrap().on_load(now(slot).wall, Some(percent(level)));
        news.extend(tuning.step(now(slot)));
        while tuning.tuner.as_ref().unwrap().is_looking() {
            news.extend(tuning.step(now(slot)));
        }
    }
    (tuning, news)
}

#[test]
fn a_change_is_shown_with_its_reason_and_a_suggestion_apart_from_it() {
    let (tuning, news) = learned(Mode::Auto);
    assert!(matches!(news.first(), Some(News::Changed(_))), "{news:?}");
    let state = tuning.state();
    assert!(state.in_force.settle_s > state.configured.settle_s && state.suggested.is_none(), "{state:?}");
    assert!(state.changes[0].in_force && state.changes[0].text.contains("intent 5"), "{state:?}");
    let (tuning, news) = learned(Mode::Suggest);
    assert!(news.iter().all(|news| matches!(news, News::Suggested(_))), "{news:?}");
    let state = tuning.state();
    assert_eq!((state.in_force, state.changes.len()), (state.configured, 0));
    assert!(state.suggested.is_some_and(|change| !change.in_force && change.text.starts_with("tuning: settle 5 s")));
}

#[test]
fn what_was_tuned_is_there_after_a_restart_and_a_spoilt_file_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (before, _) = learned(Mode::Auto);
    let tuner = before.tuner.as_ref().unwrap();
    let mut kept = Keepsake::new(now(2 * DAY).mono, folder.path());
    assert!(!kept.is_due(now(2 * DAY).mono) && kept.is_due(now(2 * DAY + 30).mono));
    kept.keep(now(2 * DAY).mono, tuner);
    kept.finish(now(2 * DAY).mono);
    let fresh = || Tuner::new(terms(Mode::Auto), policy()).unwrap();
    let mut after = fresh();
    assert!(kept.restore(now(2 * DAY), &mut after));
    assert_eq!(after.policy(), tuner.policy());
    std::fs::write(folder.path().join("tuning.txt"), b"\xff\xfe").unwrap();
    let mut after = fresh();
    assert!(!kept.restore(now(2 * DAY), &mut after));
    assert_eq!(after.policy(), policy());
}

#[test]
fn a_clock_in_doubt_teaches_nothing() {
    let mut tuning = Tuning::new(terms(Mode::Auto), &policy()).unwrap();
    let doubtful = Now { due: WallTime::from_millis(0), ..now(5) };
    let mut fused = crate::load::fusion::Fusion::new(&[]).current(doubtful.mono);
    fused.load = FusedLoad::Level(crate::units::SourceId(0), percent(5));
    tuning.hear(doubtful, &fused);
    assert_eq!(tuning.tuner.as_ref().unwrap().history().levels().len(), 0);
    tuning.hear(now(5), &fused);
    assert_eq!(tuning.tuner.as_ref().unwrap().history().levels().len(), 1);
}
