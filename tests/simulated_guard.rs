//! Does the harm guard keep its promises on simulated days, and would the simulation notice if it did not?
//!
//! A neighbour of known harm says how it fares; the guard's law is told once more in `src/sim/world/law.rs`.
//! `NEAP_DAYS` plays another number of days, `NEAP_SEED` begins with another seed.

#![expect(clippy::wildcard_enum_match_arm, reason = "each planted mistake touches one thing and leaves the rest")]

use std::sync::LazyLock;
use std::time::Duration;

use neap::governor::guard::{News, Settings};
use neap::governor::{BadPolicy, Decision, Governor, Mode, Order, Policy, Sample};
use neap::sentinel::Decider;
use neap::sim::world::{Curves, Neighbour, Summary, Timer, play_guarded};
use neap::units::{Health, Instant};

const FIRST_SEED: u64 = 20_261_122;
const DAYS: u64 = 24;
/// Within so many days a planted mistake must be noticed.
const MUTANT_DAYS: u64 = 12;

/// A quiet RAN, one that each worker makes half as bad again, and one that gets worse by itself at noon.
const HARMLESS: Neighbour = Neighbour { harm: 0.0, noise: 0.4, step: 0.0 };
const HARMED: Neighbour = Neighbour { harm: 1.0, noise: 0.2, step: 0.0 };
const STEPPED: Neighbour = Neighbour { harm: 0.0, noise: 0.3, step: 2.0 };

static CURVES: LazyLock<Curves> = LazyLock::new(Curves::new);

fn number(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, but must be a whole number"))
}

fn governor(policy: Policy, settings: Settings) -> Governor {
    Governor::guarded(policy, settings).expect("the script begins with a policy that can work")
}

fn days(neighbour: Neighbour) -> Vec<Summary> {
    let (first, count) = (number("NEAP_SEED", FIRST_SEED), number("NEAP_DAYS", DAYS));
    let day = |seed: u64| {
        let timer = if seed.is_multiple_of(4) { Timer::Exact } else { Timer::Late };
        play_guarded(seed, &CURVES, timer, neighbour, governor).unwrap_or_else(|failure| panic!("{failure}"))
    };
    (first..first.saturating_add(count)).map(day).collect()
}

/// Harm, calm, suspected, cleared.
fn ruled(days: &[Summary]) -> [u64; 4] {
    days.iter().fold([0; 4], |sum, day| std::array::from_fn(|place| sum[place] + day.ruled[place]))
}

#[test]
fn a_harmful_neighbour_is_found_on_every_day_on_which_inference_runs_for_long() {
    let days = days(HARMED);
    let long = |day: &&Summary| day.in_troughs > Duration::from_secs(4 * 3600);
    let found: Vec<_> = days.iter().filter(long).map(|day| day.first_harm).collect();
    let missed = found.iter().filter(|first| first.is_none()).count();
    eprintln!("{:?} (harm, calm, suspected, cleared); first harm after {found:?}", ruled(&days));
    assert!(found.len() >= 4, "only {} days with long troughs", found.len());
    // Troughs that are cut into pieces shorter than a few windows leave nothing to compare.
    assert!(missed * 10 <= found.len(), "not found on {missed} of {} days", found.len());
}

#[test]
fn without_harm_hardly_any_worker_is_lost() {
    for neighbour in [HARMLESS, STEPPED] {
        let days = days(neighbour);
        let [harm, _, suspected, cleared] = ruled(&days);
        eprintln!(
            "{neighbour:?}: {harm} false alarms, {suspected} suspicions, {cleared} cleared in {} days",
            days.len()
        );
        assert!(harm * 12 <= days.len() as u64, "{harm} false alarms in {} days of {neighbour:?}", days.len());
    }
}

#[test]
fn the_guard_never_adds_to_what_would_have_run_without_it() {
    // The law and the load's own reference hold at every step of the days above; in sum it shows as time in troughs
    // that is the same, and starts that are no more.
    for seed in FIRST_SEED..FIRST_SEED + 6 {
        let play = |enabled| {
            let build = |policy, settings| governor(policy, Settings { enabled, ..settings });
            play_guarded(seed, &CURVES, Timer::Exact, HARMED, build).unwrap_or_else(|failure| panic!("{failure}"))
        };
        let (with, without) = (play(true), play(false));
        assert!(with.starts <= without.starts, "{} and {} starts", with.starts, without.starts);
        assert!(with.ruled[0] == 0 || without.ruled == [0; 4], "a guard that is off rules nothing");
    }
}

// ---- the simulation notices what is wrong ----

/// A mistake that a guard could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    IsDeaf,
    ForgetsTheCeiling,
    RaisesTooEarly,
    ComparesForTooLong,
    ComparesTooOften,
    BlamesUsForEverything,
    KeepsItsVerdictsToItself,
}

const MISTAKES: [Mistake; 7] = [
    Mistake::IsDeaf,
    Mistake::ForgetsTheCeiling,
    Mistake::RaisesTooEarly,
    Mistake::ComparesForTooLong,
    Mistake::ComparesTooOften,
    Mistake::BlamesUsForEverything,
    Mistake::KeepsItsVerdictsToItself,
];

/// A governor whose guard has one mistake.
struct Mistaken {
    mistake: Mistake,
    inner: Governor,
    busy: u8,
    decision: Decision,
}

impl Mistaken {
    fn new(mistake: Mistake, policy: Policy, settings: Settings) -> Self {
        let settings = match mistake {
            Mistake::RaisesTooEarly => Settings { calm: settings.calm / 2, ..settings },
            Mistake::ComparesTooOften => Settings { control_every: settings.control_every * 2 / 3, ..settings },
            Mistake::ComparesForTooLong => {
                Settings { window: settings.window * 3 / 2, control_every: settings.control_every, ..settings }
            }
            _ => settings,
        };
        let inner = governor(policy, settings);
        let decision = inner.decision();
        Self { mistake, inner, busy: 0, decision }
    }

    fn give(&mut self, decision: Option<Decision>) -> Option<Decision> {
        let mut decision = decision?;
        if self.mistake == Mistake::ForgetsTheCeiling && decision.mode == Mode::Trough {
            decision.budget = self.inner.policy().workers;
        }
        self.decision = decision;
        Some(decision)
    }
}

impl Decider for Mistaken {
    fn on_sample(&mut self, now: Instant, sample: Sample) -> Option<Decision> {
        let decision = self.inner.on_sample(now, sample);
        self.give(decision)
    }

    fn on_order(&mut self, now: Instant, order: Order) -> Option<Decision> {
        let decision = self.inner.on_order(now, order);
        self.give(decision)
    }

    fn on_timeout(&mut self, now: Instant) -> Option<Decision> {
        let decision = self.inner.on_timeout(now);
        self.give(decision)
    }

    fn set_policy(&mut self, now: Instant, policy: Policy) -> Result<Option<Decision>, BadPolicy> {
        let decision = self.inner.set_policy(now, policy)?;
        Ok(self.give(decision))
    }

    fn on_health(&mut self, now: Instant, figure: Health, value: u32) {
        match self.mistake {
            Mistake::IsDeaf => {}
            Mistake::BlamesUsForEverything if self.busy > 0 => self.inner.on_health(now, figure, value * 2),
            _ => self.inner.on_health(now, figure, value),
        }
    }

    fn on_work(&mut self, now: Instant, busy: u8) -> Option<Decision> {
        self.busy = busy;
        let decision = self.inner.on_work(now, busy);
        self.give(decision)
    }

    fn take_news(&mut self) -> Option<News> {
        let news = self.inner.take_news();
        news.filter(|_| self.mistake != Mistake::KeepsItsVerdictsToItself)
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.inner.next_timeout()
    }

    fn decision(&self) -> Decision {
        if self.mistake == Mistake::ForgetsTheCeiling { self.decision } else { self.inner.decision() }
    }

    fn policy(&self) -> &Policy {
        self.inner.policy()
    }
}

/// Whether a day with that mistake is told from a good one: by a promise not kept, harm not found, or a false alarm.
fn is_noticed(mistake: Mistake, seed: u64) -> Option<String> {
    let play = |neighbour| {
        play_guarded(seed, &CURVES, Timer::Late, neighbour, |policy, settings| Mistaken::new(mistake, policy, settings))
    };
    let harmed = match play(HARMED) {
        Err(failure) => return Some(failure.what.lines().next().unwrap_or("").to_owned()),
        Ok(day) => day,
    };
    let good = play_guarded(seed, &CURVES, Timer::Late, HARMED, governor).unwrap_or_else(|failure| panic!("{failure}"));
    if harmed.first_harm.is_none() && good.first_harm.is_some() {
        return Some("harm was not found".to_owned());
    }
    match play(HARMLESS) {
        Err(failure) => Some(failure.what.lines().next().unwrap_or("").to_owned()),
        Ok(day) => (day.ruled[0] > 1).then(|| format!("{} false alarms in one day", day.ruled[0])),
    }
}

#[test]
fn every_planted_mistake_of_a_guard_is_noticed_within_a_few_days() {
    for mistake in MISTAKES {
        let noticed = (FIRST_SEED..FIRST_SEED + MUTANT_DAYS).find_map(|seed| Some((seed, is_noticed(mistake, seed)?)));
        let (seed, what) = noticed.unwrap_or_else(|| panic!("{mistake:?} was not noticed in {MUTANT_DAYS} days"));
        eprintln!("{mistake:?}: {} days; {what}", seed - FIRST_SEED + 1);
    }
}
