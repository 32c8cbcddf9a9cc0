//! Does tuning keep what is wanted, within its bounds, and never do anything foolish?

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::sim::day::{Day, SAMPLES};

const BEGIN: i64 = 1_767_571_200_000;

fn percent(percent: u8) -> Utilization {
    Utilization::from_percent(percent).unwrap()
}

fn at(slot: usize) -> WallTime {
    WallTime::from_millis(BEGIN).after(SLOT * u32::try_from(slot).unwrap())
}

/// A plain threshold: what a hasty operator configures.
fn hasty() -> Policy {
    Policy {
        workers: 2,
        busy_above: percent(40),
        idle_below: percent(40),
        settle: Duration::from_secs(5),
        settle_max: Duration::from_secs(5),
        flap_window: Duration::from_secs(300),
        raise_every: Duration::from_secs(1),
    }
}

fn terms(mode: Mode) -> Terms {
    Terms {
        mode,
        evictions_max: Some(5),
        increase_max_permille: None,
        busy_above_min: percent(20),
        idle_below_min: percent(10),
        settle_max: Duration::from_secs(3600),
    }
}

fn tuner(terms: Terms, policy: Policy) -> Tuner {
    Tuner::new(terms, policy).unwrap()
}

/// Plays so many slots from `from` on, with a step now and then as the agent does it.
fn play(tuner: &mut Tuner, from: usize, count: usize, level: impl Fn(usize) -> Option<Utilization>) -> Vec<News> {
    let mut news = Vec::new();
    for slot in from..from + count {
        tuner.on_load(at(slot), level(slot));
        news.extend(tuner.step(at(slot)));
        while tuner.is_looking() {
            news.extend(tuner.step(at(slot)));
        }
    }
    news
}

fn days(seed: u64) -> impl Fn(usize) -> Option<Utilization> {
    let days: Vec<Day> = (0..4).map(|day| Day::new(seed * 31 + day)).collect();
    move |slot| Some(days[slot / SAMPLES % days.len()].load(slot % SAMPLES))
}

fn evictions_a_day(policy: &Policy, history: &History) -> u64 {
    replay(policy, history).unwrap().evictions_a_day_permille() / 1000
}

#[test]
fn on_synthetic_days_auto_keeps_the_intent_where_some_candidate_can() {
    let (mut kept, mut missed) = (0, 0);
    for seed in 1..=6 {
        let mut tuner = tuner(terms(Mode::Auto), hasty());
        play(&mut tuner, 0, 3 * SAMPLES, days(seed));
        let before = evictions_a_day(&hasty(), tuner.history());
        let after = replay(&tuner.policy(), tuner.history()).unwrap();
        let candidates = tuner.candidates();
        let possible = candidates.iter().any(|setting| {
            replay(&setting.in_policy(&hasty()), tuner.history()).unwrap().evictions_a_day_permille() <= 5000
        });
        assert!(before <= 5 || !tuner.changes.is_empty(), "seed {seed}: {before} evictions a day and no change");
        if possible {
            // The last change rests on what was known a day before at most.
            assert!(after.evictions_a_day_permille() <= 5500, "seed {seed}: {after}");
            kept += 1;
        } else {
            assert!(after.evictions_a_day_permille() / 1000 <= before, "seed {seed}: {after}");
            missed += 1;
        }
    }
    assert!(kept >= 3, "{kept} kept, {missed} impossible: these days show too little");
}

#[test]
fn a_change_says_what_it_rests_on_and_what_it_would_have_brought() {
    let mut tuner = tuner(terms(Mode::Auto), hasty());
    let news = play(&mut tuner, 0, 3 * SAMPLES, days(3));
    let Some(News::Changed(change)) = news.first() else { panic!("{news:?}") };
    let text = change.to_string();
    for part in ["tuning: ", " → ", " evictions a day over the last ", "intent 5; ", " would have given ", " points "]
    {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(change.to.is_within(&change.from), "{text}");
    assert_eq!(tuner.policy().busy_above, hasty().busy_above, "fewer stops come of later starts");
    let gaps = tuner.changes.iter().zip(tuner.changes.iter().skip(1)).map(|(a, b)| b.at.since(a.at));
    assert!(gaps.into_iter().all(|gap| gap >= CHANGE_EVERY));
}

#[test]
fn a_suggestion_changes_nothing_and_is_made_once() {
    let mut tuner = tuner(terms(Mode::Suggest), hasty());
    let news = play(&mut tuner, 0, 3 * SAMPLES, days(3));
    assert!(!news.is_empty() && news.iter().all(|news| matches!(news, News::Suggested(_))), "{news:?}");
    assert!(news.len() < 20, "{} suggestions", news.len());
    assert_eq!((tuner.policy(), tuner.changes().len()), (hasty(), 0));
    assert!(tuner.suggested().is_some());
    let mut off = super::tests::tuner(terms(Mode::Off), hasty());
    assert_eq!(play(&mut off, 0, 3 * SAMPLES, days(3)), []);
    assert_eq!(off.history().known(), Duration::ZERO);
}

#[test]
fn a_reset_brings_the_configured_figures_back_for_a_day_at_least() {
    let mut tuner = tuner(terms(Mode::Auto), hasty());
    play(&mut tuner, 0, 2 * SAMPLES, days(3));
    assert_ne!(tuner.policy(), hasty());
    let slot = 2 * SAMPLES;
    tuner.reset(at(slot), terms(Mode::Auto), hasty()).unwrap();
    assert_eq!(tuner.policy(), hasty());
    assert_eq!(tuner.changes().last().unwrap().to, Setting::of(&hasty()));
    assert_eq!(play(&mut tuner, slot, SAMPLES - 1, days(3)), [], "it rests for a day");
    assert!(!play(&mut tuner, slot + SAMPLES - 1, SAMPLES / 4, days(3)).is_empty());
}

#[test]
fn a_load_that_says_nothing_changes_nothing() {
    for level in [Some(Utilization::IDLE), Some(Utilization::FULL), None] {
        let mut tuner = tuner(terms(Mode::Auto), hasty());
        assert_eq!(play(&mut tuner, 0, 2 * SAMPLES, |_| level), [], "{level:?}");
        assert_eq!(tuner.policy(), hasty());
    }
}

#[test]
fn a_tuned_node_goes_back_towards_its_configuration_when_the_load_has_become_calm() {
    let mut tuner = tuner(terms(Mode::Auto), hasty());
    // Quiet for a quarter of an hour, busy for another: only a long settle time would sit it out.
    let storm = |slot: usize| Some(percent(if (slot / 8).is_multiple_of(2) { 5 } else { 60 }));
    play(&mut tuner, 0, 2 * SAMPLES, storm);
    let tuned = tuner.policy();
    assert!(tuned.settle > hasty().settle, "{tuned:?}");
    // Two troughs of some hours a day.
    let calm = |slot: usize| Some(percent(if (slot / 180).is_multiple_of(2) { 5 } else { 60 }));
    play(&mut tuner, 2 * SAMPLES, 7 * SAMPLES, calm);
    assert!(tuner.policy().settle < tuned.settle, "{:?}", tuner.changes);
}

#[test]
fn a_ran_that_fares_badly_lowers_the_limits_step_by_step_to_the_bounds_and_no_further() {
    let terms = Terms { evictions_max: None, increase_max_permille: Some(10), ..terms(Mode::Auto) };
    let mut tuner = tuner(terms, hasty());
    let mut last = tuner.policy();
    play(&mut tuner, 0, SAMPLES, days(3));
    assert_eq!(tuner.policy(), hasty(), "nothing was compared");
    (1..COMPARISONS_MIN).for_each(|_| tuner.on_comparison("enqueue_us", 900));
    play(&mut tuner, SAMPLES, 60, days(3));
    assert_eq!(tuner.policy(), hasty(), "a few comparisons may be chance");
    let mut tuner = super::tests::tuner(terms, hasty());
    play(&mut tuner, 0, SAMPLES, days(3));
    for day in 1..12 {
        (0..COMPARISONS_MIN).for_each(|_| tuner.on_comparison("slot_us", 50));
        let news = play(&mut tuner, day * SAMPLES, SAMPLES, days(3));
        assert!(news.len() <= 1, "one change for each comparison, and one a day: {news:?}");
        let now = tuner.policy();
        assert!(now.busy_above <= last.busy_above && now.idle_below <= last.idle_below);
        last = now;
    }
    assert_eq!((last.busy_above, last.idle_below), (percent(20), percent(10)));
    assert!(
        tuner.changes().last().unwrap().to_string().contains("slot_us was 5 % higher while inference ran, intent 1 %")
    );
}

#[test]
fn what_was_tuned_survives_a_restart_and_gives_way_to_a_new_configuration() {
    let mut before = tuner(terms(Mode::Auto), hasty());
    play(&mut before, 0, 2 * SAMPLES, days(3));
    let (snapshot, now) = (before.snapshot(), at(2 * SAMPLES));
    assert!(snapshot.len() < SNAPSHOT_BYTES_MAX);
    let mut after = tuner(terms(Mode::Auto), hasty());
    assert_eq!(after.restore(now, &snapshot), Ok(true));
    assert_eq!((after.policy(), after.snapshot()), (before.policy(), snapshot.clone()));
    assert!(after.history().levels().eq(before.history().levels()));
    // Everything that makes them void.
    let other = Policy { settle: Duration::from_secs(4), ..hasty() };
    let narrow = Terms { settle_max: hasty().settle, idle_below_min: hasty().idle_below, ..terms(Mode::Auto) };
    for (terms, policy) in [(terms(Mode::Suggest), hasty()), (terms(Mode::Auto), other), (narrow, hasty())] {
        let mut after = tuner(terms, policy.clone());
        assert_eq!(after.restore(now, &snapshot), Ok(false));
        assert_eq!(after.policy(), policy);
        assert_eq!(after.changes().len(), before.changes().len(), "the past stays known");
    }
}

#[test]
fn a_gap_in_the_load_is_unknown_and_a_clock_set_back_rewrites_nothing() {
    let mut history = History::default();
    history.enter(at(0), Some(percent(5)));
    history.enter(at(1), Some(percent(60)));
    history.enter(at(1), Some(percent(10)));
    history.enter(at(3), None);
    history.enter(at(5), Some(percent(20)));
    history.enter(at(2), Some(percent(30)));
    let levels: Vec<Option<u16>> = history.levels().map(|level| level.map(Utilization::permille)).collect();
    assert_eq!(levels, [Some(50), Some(600), Some(100), None, None, Some(300)]);
    history.enter(at(2 * SLOTS_MAX), Some(percent(7)));
    assert_eq!(history.levels().len(), SLOTS_MAX);
}

#[test]
fn a_replay_counts_what_the_load_has_ended_and_nothing_else() {
    let mut history = History::default();
    for (slot, level) in [Some(5), Some(5), Some(60), Some(5), None, Some(5), Some(5)].into_iter().enumerate() {
        history.enter(at(slot), level.map(percent));
    }
    let outcome = replay(&hasty(), &history).unwrap();
    assert_eq!((outcome.evictions, outcome.known), (1, SLOT * 6));
    let settle = hasty().settle;
    assert_eq!(outcome.harvest, (SLOT * 2 - settle) + (SLOT - settle) + (SLOT * 2 - settle));
}

fn any_level() -> impl Strategy<Value = Option<Utilization>> {
    prop::option::weighted(0.9, (0_u16..=1000).prop_map(|permille| Utilization::from_permille(permille).unwrap()))
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (1_u16..=1000, 0_u16..1000, 1_u64..4000, 0_u64..4000).prop_map(|(busy, below, settle, more)| Policy {
        busy_above: Utilization::from_permille(busy).unwrap(),
        idle_below: Utilization::from_permille(busy.saturating_sub(below).max(1)).unwrap(),
        settle: Duration::from_secs(settle),
        settle_max: Duration::from_secs(settle + more),
        ..hasty()
    })
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let level = || (0_u16..=1000).prop_map(|permille| Utilization::from_permille(permille).unwrap());
    let intents = (prop::option::of(0_u32..50), prop::option::of(0_u32..100));
    (prop::sample::select(Mode::ALL.to_vec()), intents, level(), level(), 0_u64..5000).prop_map(
        |(mode, (evictions_max, increase_max_permille), busy_above_min, idle_below_min, settle)| Terms {
            mode,
            evictions_max,
            increase_max_permille,
            busy_above_min,
            idle_below_min,
            settle_max: Duration::from_secs(settle),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn whatever_the_load_was_nothing_is_ever_outside_the_bounds(
        policy in any_policy(), terms in any_terms(), harm in -100_i32..500,
        levels in prop::collection::vec((any_level(), 1_usize..60), 1..40),
    ) {
        let levels: Vec<_> = levels.into_iter().flat_map(|(level, slots)| std::iter::repeat_n(level, slots)).collect();
        let mut tuner = tuner(terms, policy.clone());
        for day in 0..4 {
            (0..COMPARISONS_MIN).for_each(|_| tuner.on_comparison("slot_us", harm));
            for news in play(&mut tuner, day * SAMPLES, SAMPLES, |slot| levels[slot % levels.len()]) {
                let (News::Changed(change) | News::Suggested(change)) = &news;
                prop_assert!(tuner.allows(&change.to), "{change}");
                prop_assert_eq!(matches!(news, News::Changed(_)), terms.mode == Mode::Auto);
                prop_assert!(terms.mode != Mode::Off);
            }
            let now = tuner.policy();
            prop_assert!(tuner.allows(&tuner.in_force()) && now.check().is_ok());
            prop_assert!(now.busy_above <= policy.busy_above && now.idle_below <= policy.idle_below);
            prop_assert!(now.settle >= policy.settle);
            prop_assert_eq!((now.workers, now.raise_every), (policy.workers, policy.raise_every));
        }
        prop_assert!(tuner.changes().len() <= 4);
        let mut again = super::tests::tuner(terms, policy);
        prop_assert!(again.restore(at(4 * SAMPLES), &tuner.snapshot()).is_ok());
        prop_assert_eq!(again.policy(), tuner.policy());
    }

    #[test]
    fn no_snapshot_breaks_it(text in "(neap-tuning 1\n)?([a-z_]{0,12} [0-9 -]{0,30}\n){0,8}", cut in any::<prop::sample::Index>()) {
        let mut learned = tuner(terms(Mode::Auto), hasty());
        play(&mut learned, 0, 40, days(1));
        let whole = learned.snapshot();
        for text in [text.as_str(), &whole[..cut.index(whole.len())]] {
            let mut tuner = tuner(terms(Mode::Auto), hasty());
            let _ = tuner.restore(at(0), text);
            prop_assert!(tuner.allows(&tuner.in_force()));
            prop_assert!(tuner.history().levels().len() <= SLOTS_MAX);
        }
    }
}
