//! Does the governor keep its promises on every simulated day, and would the simulation notice if it did not?
//!
//! `NEAP_DAYS` plays another number of days (default 1000), `NEAP_SEED` begins with another seed. A day depends on its
//! seed alone, so a day that fails is repeated with `NEAP_SEED=… NEAP_DAYS=1`.

#![expect(clippy::wildcard_enum_match_arm, reason = "each planted mistake touches one thing and leaves the rest")]

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use neap::governor::guard::News;
use neap::governor::{BadPolicy, Decision, Governor, Load, Mode, Order, Policy, Sample};
use neap::load::fusion::Trust;
use neap::sentinel::Decider;
use neap::sim::world::{Curves, DAY, Failure, Summary, Timer, play, play_with};
use neap::units::{Health, Instant, WORKERS_MAX};

const DAYS: u64 = 1000;
const FIRST_SEED: u64 = 20_261_122;
/// Days on which something once went wrong.
/// * 20261128: a source that is not required said "busy" once and fell silent. Nobody asked the fusion again, so the
///   settle time began with the next reading of another source.
const REGRESSIONS: [u64; 1] = [20_261_128];
/// Within so many days a planted mistake must be noticed.
const MUTANT_DAYS: u64 = 8;

static CURVES: LazyLock<Curves> = LazyLock::new(Curves::new);

fn number(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, but must be a whole number"))
}

fn governor(policy: Policy) -> Governor {
    Governor::new(policy).expect("the script begins with a policy that can work")
}

fn day(seed: u64) -> Result<Summary, Box<Failure>> {
    // On some days the timer is exact, and so are the bounds.
    let timer = if seed.is_multiple_of(4) { Timer::Exact } else { Timer::Late };
    play(seed, &CURVES, timer, governor)
}

/// Plays the days on all cores. Of several that fail, tells the first.
fn play_all(seeds: Range<u64>) -> Result<Summary, Box<Failure>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let some = |thread: usize| {
        let mut total = Summary::default();
        for seed in seeds.clone().skip(thread).step_by(threads) {
            total.add(&day(seed)?);
        }
        Ok(total)
    };
    let parts: Vec<Result<Summary, Box<Failure>>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn({
                    let some = &some;
                    move || some(thread)
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("a day ends without a panic")).collect()
    });
    let failed = parts.iter().filter_map(|part| part.as_ref().err()).map(|failure| failure.seed).min();
    parts.into_iter().try_fold(Summary::default(), |mut total, part| match part {
        Ok(part) => {
            total.add(&part);
            Ok(total)
        }
        Err(failure) if Some(failure.seed) == failed => Err(failure),
        Err(_) => Ok(total),
    })
}

// ---- the promises ----

#[test]
fn every_promise_is_kept_on_every_day() {
    let (first, days) = (number("NEAP_SEED", FIRST_SEED), number("NEAP_DAYS", DAYS));
    let total = play_all(first..first.saturating_add(days)).unwrap_or_else(|failure| panic!("{failure}"));
    let share = total.in_troughs.as_secs_f64() / (DAY.as_secs_f64() * days as f64);
    eprintln!("{days} days: {total}; {:.0} % of the time in troughs", share * 100.0);
    if days >= DAYS {
        // Promises about a world in which nothing happens would be easily kept.
        let (starts, stops) = (total.starts / days, total.stops / days);
        assert!(starts >= 5 && stops >= 10, "too quiet: {starts} troughs and {stops} stops a day");
        assert!((0.1..0.9).contains(&share), "{share} of the time in troughs");
        assert!(total.displaced > days / 10 && total.killed > days / 10, "the workers are too tame: {total}");
    }
}

#[test]
fn days_that_once_went_wrong_go_well() {
    for seed in REGRESSIONS {
        day(seed).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn the_same_seed_gives_the_same_day_to_the_last_act() {
    let seeds = FIRST_SEED..FIRST_SEED + 20;
    let traces = |_| seeds.clone().map(|seed| day(seed).unwrap_or_else(|failure| panic!("{failure}")).trace);
    let [once, again]: [Vec<u64>; 2] = [0, 1].map(|round| traces(round).collect());
    assert_eq!(once, again);
    assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), 20, "different seeds give different days");
}

/// Wants to be called far more often than the governor does.
struct Eager(Governor, Instant);

#[test]
fn calling_the_timeout_early_and_often_changes_nothing() {
    for seed in FIRST_SEED..FIRST_SEED + 10 {
        let calm = play(seed, &CURVES, Timer::Exact, governor).unwrap_or_else(|failure| panic!("{failure}"));
        let eager = play(seed, &CURVES, Timer::Exact, |policy| Eager(governor(policy), Instant::default()));
        let eager = eager.unwrap_or_else(|failure| panic!("{failure}"));
        assert!(eager.wakes > calm.wakes + 2000, "{} and {} wakes", eager.wakes, calm.wakes);
        assert_eq!(eager.decided, calm.decided, "seed {seed}: {} and {} decisions", eager.decisions, calm.decisions);
    }
}

impl Decider for Eager {
    fn on_sample(&mut self, now: Instant, sample: Sample) -> Option<Decision> {
        self.1 = now;
        self.0.on_sample(now, sample)
    }

    fn on_order(&mut self, now: Instant, order: Order) -> Option<Decision> {
        self.1 = now;
        self.0.on_order(now, order)
    }

    fn on_timeout(&mut self, now: Instant) -> Option<Decision> {
        self.1 = now;
        self.0.on_timeout(now)
    }

    fn set_policy(&mut self, now: Instant, policy: Policy) -> Result<Option<Decision>, BadPolicy> {
        self.1 = now;
        self.0.set_policy(now, policy)
    }

    fn on_health(&mut self, now: Instant, figure: Health, value: u32) {
        self.0.on_health(now, figure, value);
    }

    fn on_work(&mut self, now: Instant, busy: u8) -> Option<Decision> {
        self.0.on_work(now, busy)
    }

    fn take_news(&mut self) -> Option<News> {
        self.0.take_news()
    }

    fn next_timeout(&self) -> Option<Instant> {
        let often = self.1.after(Duration::from_secs(17));
        Some(self.0.next_timeout().map_or(often, |wanted| wanted.min(often)))
    }

    fn decision(&self) -> Decision {
        self.0.decision()
    }

    fn policy(&self) -> &Policy {
        self.0.policy()
    }
}

// ---- the simulation notices what is wrong ----

/// A mistake that a governor could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    BelievesStaleLoad,
    RunsOnMalformed,
    RunsOnLateSlots,
    StartsWithoutSettling,
    NeverLearnsFromFlapping,
    StopsOnlyWhenWokenAgain,
    StopsAboveTheLimitInsteadOfAtIt,
    ForgetsTheHold,
    ForgetsTheDrain,
    NeverRaises,
    RaisesAtOnce,
    NeverStarts,
    GrantsOneTooMany,
    SleepsTooLong,
    SleepsForEver,
    Spins,
    TakesABadPolicy,
    IgnoresANewPolicy,
}

const MISTAKES: [Mistake; 18] = [
    Mistake::BelievesStaleLoad,
    Mistake::RunsOnMalformed,
    Mistake::RunsOnLateSlots,
    Mistake::StartsWithoutSettling,
    Mistake::NeverLearnsFromFlapping,
    Mistake::StopsOnlyWhenWokenAgain,
    Mistake::StopsAboveTheLimitInsteadOfAtIt,
    Mistake::ForgetsTheHold,
    Mistake::ForgetsTheDrain,
    Mistake::NeverRaises,
    Mistake::RaisesAtOnce,
    Mistake::NeverStarts,
    Mistake::GrantsOneTooMany,
    Mistake::SleepsTooLong,
    Mistake::SleepsForEver,
    Mistake::Spins,
    Mistake::TakesABadPolicy,
    Mistake::IgnoresANewPolicy,
];

/// A governor with one mistake.
struct Mistaken {
    mistake: Mistake,
    inner: Governor,
    /// The policy that it shows.
    policy: Policy,
    decision: Decision,
    now: Instant,
    low: Option<Load>,
}

impl Mistaken {
    fn new(mistake: Mistake, policy: Policy) -> Self {
        let inner = governor(Self::bent(mistake, policy.clone()));
        let decision = inner.decision();
        Self { mistake, inner, policy, decision, now: Instant::default(), low: None }
    }

    /// What it takes the policy for.
    fn bent(mistake: Mistake, policy: Policy) -> Policy {
        match mistake {
            Mistake::StartsWithoutSettling => {
                Policy { settle: neap::governor::SETTLE_MIN, settle_max: neap::governor::SETTLE_MIN, ..policy }
            }
            Mistake::NeverLearnsFromFlapping => Policy { settle_max: policy.settle, ..policy },
            Mistake::RaisesAtOnce => Policy { raise_every: Duration::ZERO, ..policy },
            Mistake::StopsAboveTheLimitInsteadOfAtIt => {
                let above = neap::units::Utilization::from_permille(policy.busy_above.permille() + 1);
                Policy { busy_above: above.unwrap_or(policy.busy_above), ..policy }
            }
            _ => policy,
        }
    }

    fn give(&mut self, now: Instant, decision: Option<Decision>) -> Option<Decision> {
        self.now = now;
        let mut decision = decision?;
        let before = self.decision;
        match self.mistake {
            Mistake::NeverRaises => decision.budget = decision.budget.min(1),
            Mistake::GrantsOneTooMany if decision.budget > 0 && usize::from(decision.budget) < WORKERS_MAX => {
                decision.budget += 1;
            }
            Mistake::NeverStarts if decision.budget > 0 => (decision.budget, decision.mode) = (0, Mode::Settling),
            Mistake::StopsOnlyWhenWokenAgain if decision.budget == 0 && before.budget > 0 => {
                return None;
            }
            _ => {}
        }
        self.decision = decision;
        Some(decision)
    }
}

impl Decider for Mistaken {
    fn on_sample(&mut self, now: Instant, mut sample: Sample) -> Option<Decision> {
        let low = self.low;
        match (self.mistake, sample.load) {
            (Mistake::BelievesStaleLoad, Load::Stale(_)) => {
                sample.load = low.unwrap_or(sample.load);
                sample.fresh_until = Instant::from_nanos(u64::MAX);
            }
            (Mistake::RunsOnMalformed, Load::Malformed(_)) | (Mistake::RunsOnLateSlots, Load::Late(_)) => {
                sample.load = low.unwrap_or(sample.load);
            }
            (Mistake::BelievesStaleLoad, _) => sample.fresh_until = Instant::from_nanos(u64::MAX),
            _ => {}
        }
        if let Load::Level(..) = sample.load {
            self.low = Some(sample.load);
        }
        let decision = self.inner.on_sample(now, sample);
        self.give(now, decision)
    }

    fn on_order(&mut self, now: Instant, order: Order) -> Option<Decision> {
        match (self.mistake, order) {
            (Mistake::ForgetsTheHold, Order::Hold) | (Mistake::ForgetsTheDrain, Order::Drain) => None,
            _ => {
                let decision = self.inner.on_order(now, order);
                self.give(now, decision)
            }
        }
    }

    fn on_timeout(&mut self, now: Instant) -> Option<Decision> {
        let decision = self.inner.on_timeout(now);
        self.give(now, decision)
    }

    fn set_policy(&mut self, now: Instant, policy: Policy) -> Result<Option<Decision>, BadPolicy> {
        if let (Mistake::TakesABadPolicy, Err(_)) = (self.mistake, policy.check()) {
            self.policy = policy;
            return Ok(None);
        }
        policy.check()?;
        self.policy = policy.clone();
        if self.mistake == Mistake::IgnoresANewPolicy {
            return Ok(None);
        }
        let decision = self.inner.set_policy(now, Self::bent(self.mistake, policy))?;
        Ok(self.give(now, decision))
    }

    fn on_health(&mut self, now: Instant, figure: Health, value: u32) {
        self.inner.on_health(now, figure, value);
    }

    fn on_work(&mut self, now: Instant, busy: u8) -> Option<Decision> {
        let decision = self.inner.on_work(now, busy);
        self.give(now, decision)
    }

    fn take_news(&mut self) -> Option<News> {
        self.inner.take_news()
    }

    fn next_timeout(&self) -> Option<Instant> {
        let wanted = self.inner.next_timeout();
        match self.mistake {
            Mistake::SleepsTooLong => wanted.map(|at| at.after(Duration::from_millis(200))),
            Mistake::SleepsForEver => None,
            Mistake::Spins => wanted.map(|_| self.now),
            _ => wanted,
        }
    }

    fn decision(&self) -> Decision {
        self.decision
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }
}

#[test]
fn every_planted_mistake_is_noticed_within_a_few_days() {
    for mistake in MISTAKES {
        let noticed = (FIRST_SEED..FIRST_SEED + MUTANT_DAYS)
            .find_map(|seed| play(seed, &CURVES, Timer::Late, |policy| Mistaken::new(mistake, policy)).err());
        let failure = noticed.unwrap_or_else(|| panic!("{mistake:?} was not noticed in {MUTANT_DAYS} days"));
        eprintln!("{mistake:?}: {} days; {}", failure.seed - FIRST_SEED + 1, failure.what.lines().next().unwrap_or(""));
    }
}

/// Changes what a node takes a source for.
type Mistaking = fn(&mut Trust);

/// A mistake that a node could make about what it hears from a controller.
const MISTAKEN_PLANS: [(&str, Mistaking); 3] = [
    ("believes a plan as it believes the RAN", |trust| trust.planning = false),
    ("stops when plans stay away", |trust| {
        (trust.required, trust.planning) = (trust.required || trust.planning, false);
    }),
    ("never lets a plan raise the load", |trust| {
        if trust.planning {
            trust.freshness = Duration::from_nanos(1);
        }
    }),
];

#[test]
fn every_mistake_about_plans_is_noticed_within_a_few_days() {
    for (what, mistake) in MISTAKEN_PLANS {
        let noticed = (FIRST_SEED..FIRST_SEED + 3 * MUTANT_DAYS)
            .find_map(|seed| play_with(seed, &CURVES, Timer::Late, governor, mistake).err());
        let failure = noticed.unwrap_or_else(|| panic!("a node that {what} was not noticed"));
        eprintln!("{what}: {} days; {}", failure.seed - FIRST_SEED + 1, failure.what.lines().next().unwrap_or(""));
    }
}

#[test]
fn a_failure_tells_the_seed_the_moment_the_last_events_and_how_to_repeat_it() {
    let build = |policy| Mistaken::new(Mistake::NeverStarts, policy);
    let failure = (FIRST_SEED..).find_map(|seed| play(seed, &CURVES, Timer::Late, build).err()).expect("one fails");
    let text = failure.to_string();
    let command = format!("NEAP_SEED={} NEAP_DAYS=1 cargo test --test simulated_days", failure.seed);
    assert!(text.contains(&command) && text.contains("Heard(Ok(Reading"), "{text}");
    assert!(!failure.recent.is_empty() && failure.at < DAY, "{text}");
    let again = play(failure.seed, &CURVES, Timer::Late, build).expect_err("it fails each time");
    assert_eq!((again.at, &again.what, &again.recent), (failure.at, &failure.what, &failure.recent));
}
