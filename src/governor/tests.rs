//! Claims about the governor, one by one, and against a reference that re-reads the whole history at every step.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const S: SourceId = SourceId(0);

fn policy() -> Policy {
    Policy {
        workers: 3,
        busy_above: permille(400),
        idle_below: permille(150),
        settle: ms(100),
        settle_max: ms(800),
        flap_window: ms(1000),
        raise_every: Duration::ZERO,
    }
}

fn permille(value: u16) -> Utilization {
    Utilization::from_permille(value).unwrap()
}

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn at(value_ms: u64) -> Instant {
    Instant::from_nanos(value_ms * 1_000_000)
}

fn governor() -> Governor {
    Governor::new(policy()).unwrap()
}

/// A level at a moment, fresh for ten seconds.
fn level(governor: &mut Governor, now_ms: u64, level: u16) -> Option<Decision> {
    let load = Load::Level(S, permille(level));
    governor.on_sample(at(now_ms), Sample { load, fresh_until: at(now_ms + 10_000) })
}

/// A governor in a trough that began at 1000 ms.
fn in_trough() -> Governor {
    let mut governor = governor();
    level(&mut governor, 900, 60);
    level(&mut governor, 1000, 60);
    assert_eq!(mode(&governor), (3, Mode::Trough));
    governor
}

fn mode(governor: &Governor) -> (u8, Mode) {
    (governor.decision().budget, governor.decision().mode)
}

#[test]
fn nothing_runs_before_the_first_sample() {
    let mut governor = governor();
    assert_eq!(governor.decision(), Decision { budget: 0, mode: Mode::Starting, reason: Reason::NoSampleYet });
    assert_eq!(governor.on_timeout(at(1_000_000)), None);
    assert_eq!((mode(&governor), governor.next_timeout()), ((0, Mode::Starting), None));
}

#[test]
fn a_start_is_earned_by_the_whole_settle_time() {
    let mut governor = governor();
    assert_eq!(level(&mut governor, 0, 149).unwrap().mode, Mode::Settling);
    assert_eq!(governor.decision().reason, Reason::Settling { until: at(100) });
    assert_eq!(governor.next_timeout(), Some(at(100)));
    assert_eq!(governor.on_timeout(at(99)), None);
    let reason = Reason::Low { source: S, level: permille(149), limit: permille(150) };
    assert_eq!(governor.on_timeout(at(100)), Some(Decision { budget: 3, mode: Mode::Trough, reason }));
}

#[test]
fn one_sample_between_the_limits_starts_the_settling_over() {
    let mut governor = governor();
    level(&mut governor, 0, 60);
    assert_eq!(level(&mut governor, 90, 150).unwrap().mode, Mode::Busy);
    let reason = Reason::NotBelow { source: S, level: permille(150), limit: permille(150) };
    assert_eq!(governor.decision().reason, reason);
    level(&mut governor, 95, 60);
    assert_eq!(governor.on_timeout(at(194)), None);
    assert_eq!(governor.on_timeout(at(195)).unwrap().budget, 3);
}

#[test]
fn a_trough_goes_on_between_the_limits_and_ends_at_the_upper_one() {
    let mut governor = in_trough();
    assert_eq!(level(&mut governor, 1001, 399), None);
    let limit = permille(400);
    assert_eq!(governor.decision().reason, Reason::Low { source: S, level: permille(399), limit });
    let reason = Reason::Above { source: S, level: limit, limit };
    assert_eq!(level(&mut governor, 1002, 400), Some(Decision { budget: 0, mode: Mode::Busy, reason }));
}

#[test]
fn whatever_is_no_trustworthy_level_stops_at_once() {
    let cases = [
        (Load::Late(S), Mode::Busy, Reason::Late(S)),
        (Load::Malformed(S), Mode::Busy, Reason::Malformed(S)),
        (Load::Stale(S), Mode::Busy, Reason::Stale(S)),
        (Load::Unheard, Mode::Blind, Reason::NoSource),
    ];
    for (load, mode, reason) in cases {
        let decision = in_trough().on_sample(at(1001), Sample { load, fresh_until: at(9000) });
        assert_eq!(decision, Some(Decision { budget: 0, mode, reason }));
    }
}

#[test]
fn stale_while_others_are_fresh_is_busy_and_stale_with_none_left_is_blind() {
    let mut governor = in_trough();
    governor.on_sample(at(1001), Sample { load: Load::Stale(S), fresh_until: at(1500) });
    assert_eq!((mode(&governor), governor.next_timeout()), ((0, Mode::Busy), Some(at(1500))));
    assert_eq!(governor.on_timeout(at(1500)).unwrap().mode, Mode::Blind);
    assert_eq!(governor.next_timeout(), None);
    governor.on_sample(at(1501), Sample { load: Load::Stale(S), fresh_until: at(1400) });
    assert_eq!(mode(&governor), (0, Mode::Blind));
}

#[test]
fn a_trough_ends_in_the_moment_in_which_its_last_sample_ends() {
    let mut governor = in_trough();
    let load = Load::Level(S, permille(0));
    governor.on_sample(at(1001), Sample { load, fresh_until: at(1200) });
    assert_eq!(governor.next_timeout(), Some(at(1200)));
    assert_eq!(governor.on_timeout(at(1199)), None);
    let decision = Decision { budget: 0, mode: Mode::Blind, reason: Reason::Stale(S) };
    assert_eq!(governor.on_timeout(at(1200)), Some(decision));
}

#[test]
fn a_gap_in_the_samples_ends_the_trough_even_when_no_timeout_was_called() {
    let mut governor = in_trough();
    let load = Load::Level(S, permille(0));
    governor.on_sample(at(1001), Sample { load, fresh_until: at(1200) });
    let decision = governor.on_sample(at(5000), Sample { load, fresh_until: at(6000) }).unwrap();
    assert_eq!((decision.budget, decision.mode), (0, Mode::Settling));
}

#[test]
fn a_yield_soon_after_the_start_doubles_the_settle_time_up_to_its_maximum() {
    let mut governor = governor();
    let mut now = 0;
    for settle in [100, 200, 400, 800, 800] {
        level(&mut governor, now, 0);
        assert_eq!(governor.decision().reason, Reason::Settling { until: at(now + settle) });
        now += settle;
        assert_eq!(governor.on_timeout(at(now)).unwrap().mode, Mode::Trough);
        now += 999;
        assert_eq!(level(&mut governor, now, 1000).unwrap().mode, Mode::Busy);
    }
}

#[test]
fn a_trough_that_lasts_halves_the_settle_time_for_each_calm_span() {
    let mut governor = governor();
    governor.settle.on_yield(&policy(), ms(1));
    governor.settle.on_yield(&policy(), ms(1));
    governor.settle.on_yield(&policy(), ms(1));
    assert_eq!(governor.settle.current(), ms(800));
    governor.settle.on_yield(&policy(), ms(2500));
    assert_eq!(governor.settle.current(), ms(200));
    governor.settle.on_yield(&policy(), ms(1_000_000_000));
    assert_eq!(governor.settle.current(), ms(100));
}

#[test]
fn an_order_to_hold_stops_at_once_and_is_no_flapping() {
    let mut governor = in_trough();
    let held = Decision { budget: 0, mode: Mode::Held, reason: Reason::Held };
    assert_eq!(governor.on_order(at(1001), Order::Hold), Some(held));
    assert_eq!(governor.settle.current(), ms(100));
    assert_eq!(level(&mut governor, 5000, 0), None);
    assert_eq!(governor.next_timeout(), Some(at(15_000)), "only the freshness is left to wait for");
    assert_eq!(governor.on_order(at(5001), Order::Release).unwrap().mode, Mode::Trough, "it was low all the time");
}

#[test]
fn draining_outlasts_every_release_and_ends_only_by_resume() {
    let mut governor = in_trough();
    assert_eq!(governor.on_order(at(1001), Order::Drain).unwrap().mode, Mode::Draining);
    assert_eq!(governor.on_order(at(1002), Order::Hold), None);
    assert_eq!(governor.on_order(at(1003), Order::Release), None);
    assert_eq!(level(&mut governor, 3000, 1000), None);
    assert_eq!(governor.on_order(at(3001), Order::Resume).unwrap().mode, Mode::Busy);
}

#[test]
fn time_that_runs_backwards_grants_nothing() {
    let mut governor = governor();
    level(&mut governor, 1000, 0);
    assert_eq!(governor.on_timeout(at(0)), None);
    assert_eq!(level(&mut governor, 10, 0), None);
    assert_eq!(governor.on_timeout(at(1099)), None);
    assert_eq!(mode(&governor), (0, Mode::Settling));
}

#[test]
fn workers_are_let_in_one_by_one_and_put_out_together() {
    let mut governor = Governor::new(Policy { raise_every: ms(50), ..policy() }).unwrap();
    level(&mut governor, 0, 0);
    assert_eq!(governor.on_timeout(at(100)).unwrap().budget, 1);
    assert_eq!(governor.next_timeout(), Some(at(150)));
    assert_eq!(governor.on_timeout(at(149)), None);
    assert_eq!(governor.on_timeout(at(150)).unwrap().budget, 2);
    assert_eq!(governor.on_timeout(at(300)).unwrap().budget, 3);
    assert_eq!(governor.next_timeout(), Some(at(10_000)));
    assert_eq!(level(&mut governor, 301, 1000).unwrap().budget, 0);
}

#[test]
fn a_stricter_policy_stops_at_once_and_a_bad_one_changes_nothing() {
    let mut governor = in_trough();
    let strict = Policy { busy_above: permille(50), idle_below: permille(50), ..policy() };
    assert_eq!(governor.set_policy(at(1001), strict).unwrap().unwrap().mode, Mode::Busy);
    let bad = Policy { busy_above: permille(100), ..policy() };
    let crossed = BadPolicy::LimitsCrossed { idle_below: permille(150), busy_above: permille(100) };
    assert_eq!(governor.set_policy(at(1002), bad).unwrap_err(), crossed);
    assert_eq!(governor.policy().busy_above, permille(50));
}

#[test]
fn fewer_workers_by_policy_are_fewer_at_once() {
    let mut governor = in_trough();
    let decision = governor.set_policy(at(1001), Policy { workers: 1, ..policy() }).unwrap().unwrap();
    assert_eq!((decision.budget, decision.mode), (1, Mode::Trough));
}

#[test]
fn a_bad_policy_is_refused_with_value_and_limit() {
    let cases = [
        (Policy { workers: 0, ..policy() }, "workers is 0, but must be 1 to 16"),
        (Policy { workers: 17, ..policy() }, "workers is 17, but must be 1 to 16"),
        (
            Policy { idle_below: permille(0), ..policy() },
            "idle_below is 0 %, so inference could never start; give at least 0.1 %",
        ),
        (
            Policy { idle_below: permille(401), ..policy() },
            "idle_below is 40.1 %, but must not exceed busy_above, which is 40 %",
        ),
        (Policy { settle: Duration::ZERO, ..policy() }, "settle is 0 µs, but must be at least 1000 µs"),
        (
            Policy { settle_max: ms(99), ..policy() },
            "settle_max is 99 ms, but must be at least settle, which is 100 ms",
        ),
    ];
    for (policy, sentence) in cases {
        assert_eq!(Governor::new(policy).unwrap_err().to_string(), sentence);
    }
}

// ---- against a reference ----

#[derive(Clone, Copy, Debug)]
enum Event {
    Sample { load: Load, fresh_ms: u64 },
    Order(Order),
    Timeout,
}

fn event() -> impl Strategy<Value = Event> {
    let level = prop_oneof![0..150_u16, 0..150_u16, 140..160_u16, 390..410_u16, 0..=1000_u16];
    let load = prop_oneof![
        12 => level.prop_map(|level| Load::Level(S, permille(level))),
        1 => Just(Load::Late(S)),
        1 => Just(Load::Malformed(S)),
        1 => Just(Load::Stale(S)),
        1 => Just(Load::Unheard),
    ];
    let order = prop_oneof![Just(Order::Hold), Just(Order::Release), Just(Order::Drain), Just(Order::Resume)];
    prop_oneof![
        12 => (load, prop_oneof![Just(10_000), 0..300_u64]).prop_map(|(load, fresh_ms)| Event::Sample { load, fresh_ms }),
        4 => Just(Event::Timeout),
        1 => order.prop_map(Event::Order),
    ]
}

/// Time to the next event in ms; now and then it runs backwards.
fn step() -> impl Strategy<Value = i64> {
    prop_oneof![10 => 0..60_i64, 3 => 60..400_i64, 1 => -500..0_i64]
}

/// What was heard, and nothing derived from it.
#[derive(Default)]
struct Reference {
    /// Time of receipt (never backwards) and sample.
    samples: Vec<(Instant, Sample)>,
    held: bool,
    drained: bool,
}

impl Reference {
    /// Whether anything at all may run now.
    fn may_run(&self, now: Instant, policy: &Policy) -> bool {
        let Some((_, sample)) = self.samples.last() else { return false };
        let low = matches!(sample.load, Load::Level(_, level) if level < policy.busy_above);
        low && now < sample.fresh_until && !self.held && !self.drained
    }

    /// How long the load has been known, fresh and below `idle_below` without interruption.
    fn low_for(&self, now: Instant, policy: &Policy) -> Duration {
        let mut begin = now;
        let mut next = now;
        for (received, sample) in self.samples.iter().rev() {
            let low = matches!(sample.load, Load::Level(_, level) if level < policy.idle_below);
            if !low || sample.fresh_until <= next {
                break;
            }
            begin = *received;
            next = *received;
        }
        now.since(begin)
    }
}

fn apply(governor: &mut Governor, reference: &mut Reference, now: Instant, event: Event) -> Option<Decision> {
    match event {
        Event::Sample { load, fresh_ms } => {
            let sample = Sample { load, fresh_until: now.after(ms(fresh_ms)) };
            let latest = reference.samples.last().map_or(now, |(last, _)| now.max(*last));
            reference.samples.push((latest, sample));
            governor.on_sample(now, sample)
        }
        Event::Order(order) => {
            match order {
                Order::Hold => reference.held = true,
                Order::Release => reference.held = false,
                Order::Drain => reference.drained = true,
                Order::Resume => reference.drained = false,
            }
            governor.on_order(now, order)
        }
        Event::Timeout => governor.on_timeout(now),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_runs_against_the_load_and_every_start_was_earned(
        steps in prop::collection::vec((step(), event()), 1..200),
        raise_ms in prop_oneof![Just(0_u64), 1..200_u64],
    ) {
        let policy = Policy { raise_every: ms(raise_ms), ..policy() };
        let mut governor = Governor::new(policy.clone()).unwrap();
        let mut reference = Reference::default();
        let (mut now_ms, mut latest) = (1000_i64, Instant::default());
        for (step, event) in steps {
            now_ms = (now_ms + step).max(0);
            let now = at(now_ms.unsigned_abs());
            latest = latest.max(now);
            let before = governor.decision();
            let changed = apply(&mut governor, &mut reference, now, event);
            let after = governor.decision();

            prop_assert!(after.budget <= policy.workers);
            prop_assert_eq!(after.budget > 0, after.mode == Mode::Trough);
            let differs = before.budget != after.budget || before.mode != after.mode;
            prop_assert_eq!(changed, differs.then_some(after));
            if after.budget > 0 {
                prop_assert!(reference.may_run(latest, &policy), "{after:?} at {latest:?}");
            }
            if before.budget == 0 && after.budget > 0 {
                let low_for = reference.low_for(latest, &policy);
                prop_assert!(low_for >= policy.settle, "started after {low_for:?}");
                prop_assert!(raise_ms == 0 || after.budget == 1, "started with {}", after.budget);
            }
            prop_assert!(governor.next_timeout().is_none_or(|timeout| timeout > latest), "a timeout in the past");
        }
    }

    #[test]
    fn low_load_leads_to_a_trough_whatever_happened_before(
        steps in prop::collection::vec((step(), event()), 0..100),
    ) {
        let mut governor = governor();
        let mut reference = Reference::default();
        let mut now_ms = 1000_i64;
        for (step, event) in steps {
            now_ms = (now_ms + step).max(0);
            apply(&mut governor, &mut reference, at(now_ms.unsigned_abs()), event);
        }
        // Time that ran backwards has to catch up with itself first.
        let begin = governor.clock;
        governor.on_order(begin, Order::Release);
        governor.on_order(begin, Order::Resume);
        let load = Load::Level(S, permille(149));
        for tick in 0..=90 {
            let now = begin.after(ms(tick * 10));
            governor.on_sample(now, Sample { load, fresh_until: now.after(ms(50)) });
        }
        prop_assert_eq!(mode(&governor), (3, Mode::Trough));
    }

    #[test]
    fn timeouts_alone_stop_a_trough_that_nobody_feeds(fresh_ms in 1..5000_u64, raise_ms in 0..300_u64) {
        let mut governor = Governor::new(Policy { raise_every: ms(raise_ms), ..policy() }).unwrap();
        let load = Load::Level(S, permille(0));
        governor.on_sample(at(0), Sample { load, fresh_until: at(fresh_ms) });
        let mut calls = 0;
        while let Some(timeout) = governor.next_timeout() {
            governor.on_timeout(timeout);
            prop_assert!(timeout <= at(fresh_ms));
            calls += 1;
            prop_assert!(calls <= 6, "settle, three workers, expiry");
        }
        prop_assert_eq!(mode(&governor), (0, Mode::Blind));
    }
}
