//! Can a source that flaps or lies start inference? Every kind of source in the words that it uses, through the real
//! fusion and governor, beside one that says busy.

use super::*;
use crate::load::fusion::Trust;
use crate::load::{Malformed, Metric, Observed, Reading};
use crate::sim::day::Random;
use crate::units::{CELLS_MAX, CellId, Health, SourceId, Utilization};

const HONEST: SourceId = SourceId(0);
const LIAR: SourceId = SourceId(1);
const FRESHNESS: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(10);
/// Two minutes.
const STEPS: u64 = 12_000;

/// In whose words the liar speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Levels by cell with a counter of late slots: push, a page in shared memory, a recording.
    Push,
    /// The same, each with its stamp.
    Shm,
    /// CPU time of the host's cell: procfs.
    Procfs,
    /// CPU time by cell, and figures of health: the metrics of a gNB.
    Metrics,
    /// CPU time and a counter of missed packets: DPDK.
    Dpdk,
    /// Late slots alone: the RAN's log.
    Log,
    /// A controller's reports.
    Mqtt,
}

const KINDS: [Kind; 7] = [Kind::Push, Kind::Shm, Kind::Procfs, Kind::Metrics, Kind::Dpdk, Kind::Log, Kind::Mqtt];

/// How it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Always nothing to do.
    Low,
    /// Low and high in turn.
    Flaps,
    /// Good and senseless in turn.
    Babbles,
    /// One cell after the other appears and goes.
    Swarms,
    /// From the future and from long ago.
    Misdates,
    /// Counters that run up and down.
    Counts,
    /// Any of these at random.
    Raves,
}

const LIES: [Lie; 7] = [Lie::Low, Lie::Flaps, Lie::Babbles, Lie::Swarms, Lie::Misdates, Lie::Counts, Lie::Raves];

fn percent(value: u8) -> Utilization {
    Utilization::from_percent(value).unwrap()
}

fn at(step: u64) -> Instant {
    Instant::from_nanos(3_600_000_000_000).after(STEP * u32::try_from(step).unwrap())
}

fn trust(required: bool, planning: bool) -> Trust {
    Trust { freshness: FRESHNESS, required, planning }
}

fn judge(trust: &[Trust]) -> Judge {
    let policy = Policy {
        workers: 2,
        busy_above: percent(40),
        idle_below: percent(25),
        settle: Duration::from_millis(100),
        settle_max: Duration::from_secs(1),
        flap_window: Duration::from_secs(1),
        raise_every: Duration::ZERO,
    };
    Judge::new(at(0), Fusion::new(trust), Governor::new(policy).unwrap(), FRESHNESS)
}

/// What the liar says in that step.
fn said(kind: Kind, lie: Lie, step: u64, random: &mut Random) -> Observation {
    let now = at(step);
    let cell = CellId(if lie == Lie::Swarms { step / 2 % (3 * CELLS_MAX as u64) } else { 1 });
    let even = step.is_multiple_of(2);
    let lie = if lie == Lie::Raves { LIES[usize::try_from(random.below(6)).unwrap()] } else { lie };
    if lie == Lie::Babbles && even {
        return Err(Malformed { source: LIAR, why: "babble" });
    }
    let level = percent(if lie == Lie::Flaps && even { 95 } else { 1 });
    let count = if lie == Lie::Counts { random.below(3) } else { 7 };
    let stamped = match lie {
        Lie::Misdates if even => Some(now.after(Duration::from_secs(random.below(100)))),
        Lie::Misdates => Some(at(step / 2)),
        Lie::Low | Lie::Flaps | Lie::Babbles | Lie::Swarms | Lie::Counts | Lie::Raves => match kind {
            Kind::Shm | Kind::Mqtt => Some(now),
            Kind::Push | Kind::Procfs | Kind::Metrics | Kind::Dpdk | Kind::Log => None,
        },
    };
    let metric = match kind {
        Kind::Push | Kind::Shm | Kind::Log | Kind::Mqtt => Metric::PrbTotDl,
        Kind::Procfs | Kind::Metrics | Kind::Dpdk => Metric::Cpu,
    };
    let observed = match (kind, lie) {
        (_, Lie::Swarms) if even => Observed::Gone,
        (Kind::Log, _) => Observed::Late { count },
        (Kind::Metrics, _) if step.is_multiple_of(3) => Observed::Health { figure: Health::EnqueueDelay, value: 1 },
        (Kind::Push | Kind::Shm | Kind::Dpdk, _) => Observed::Level { metric, level, late: Some(count) },
        (Kind::Procfs | Kind::Metrics | Kind::Mqtt, _) => Observed::Level { metric, level, late: None },
    };
    Ok(Reading { source: LIAR, cell, stamped, observed })
}

fn honest(level: u8) -> Observation {
    let observed = Observed::Level { metric: Metric::PrbTotDl, level: percent(level), late: None };
    Ok(Reading { source: HONEST, cell: CellId(1), stamped: None, observed })
}

/// Lets the time of that moment pass, as the sentinel does.
fn pass(judge: &mut Judge, now: Instant) {
    if judge.load_is_due(now) {
        judge.on_load(now);
    }
    judge.on_timeout(now);
}

#[test]
fn no_liar_of_any_kind_starts_inference_while_another_source_says_busy() {
    for (kind, lie) in KINDS.into_iter().flat_map(|kind| LIES.map(|lie| (kind, lie))) {
        for (honest_required, liar_required) in [(true, true), (true, false), (false, true), (false, false)] {
            let planning = kind == Kind::Mqtt;
            let mut judge = judge(&[trust(honest_required, false), trust(liar_required && !planning, planning)]);
            let mut random = Random::new(step_seed(kind, lie));
            judge.on_observation(at(0), honest(90));
            for step in 1..STEPS {
                pass(&mut judge, at(step));
                if step.is_multiple_of(50) {
                    judge.on_observation(at(step), honest(if random.below(2) == 0 { 90 } else { 41 }));
                }
                judge.on_observation(at(step), said(kind, lie, step, &mut random));
                let decision = judge.decision();
                assert_eq!(decision.budget, 0, "{kind:?} {lie:?} at step {step}: {decision:?}");
            }
        }
    }
}

fn step_seed(kind: Kind, lie: Lie) -> u64 {
    1 + kind as u64 * 100 + lie as u64
}

#[test]
fn reports_of_a_controller_alone_start_nothing_whatever_they_say() {
    for lie in LIES {
        for beside in [vec![], vec![trust(true, false)], vec![trust(false, false)]] {
            let mut trusts = beside.clone();
            // Without another source it has the first place.
            let id = SourceId(u8::try_from(trusts.len()).unwrap());
            trusts.push(trust(false, true));
            let mut judge = judge(&trusts);
            let mut random = Random::new(step_seed(Kind::Mqtt, lie));
            for step in 1..STEPS / 4 {
                pass(&mut judge, at(step));
                let said = said(Kind::Mqtt, lie, step, &mut random);
                let mine = said.map(|reading| Reading { source: id, ..reading });
                judge.on_observation(at(step), mine.map_err(|bad| Malformed { source: id, ..bad }));
                assert_eq!(judge.decision().budget, 0, "{lie:?} at step {step} beside {beside:?}");
            }
        }
    }
}

#[test]
fn the_loss_of_a_required_source_stops_what_runs_at_the_end_of_its_freshness_to_the_nanosecond() {
    for kind in KINDS {
        let planning = kind == Kind::Mqtt;
        let mut judge = judge(&[trust(true, false), trust(false, planning)]);
        let mut random = Random::new(1);
        let last = 300;
        for step in 1..=last {
            pass(&mut judge, at(step));
            judge.on_observation(at(step), honest(3));
            judge.on_observation(at(step), said(kind, Lie::Low, step, &mut random));
        }
        assert!(judge.decision().budget > 0, "{kind:?}: both say low");
        // The other goes on as if nothing were.
        let until = at(last).after(FRESHNESS);
        for step in last + 1.. {
            if at(step) >= until {
                break;
            }
            pass(&mut judge, at(step));
            judge.on_observation(at(step), said(kind, Lie::Low, step, &mut random));
            assert!(judge.decision().budget > 0, "{kind:?}: it is still believed");
        }
        assert_eq!(judge.next_moment().min(until), judge.next_moment(), "{kind:?}: it wakes in time");
        let just_before = Instant::from_nanos(until.as_nanos() - 1);
        pass(&mut judge, just_before);
        assert!(judge.decision().budget > 0, "{kind:?}");
        pass(&mut judge, until);
        assert_eq!(judge.decision().budget, 0, "{kind:?}: {:?}", judge.decision());
    }
}

#[test]
fn the_loss_of_a_controller_stops_nothing_and_a_report_of_load_does() {
    let mut judge = judge(&[trust(true, false), trust(false, true)]);
    let report = |step, level| {
        let observed = Observed::Level { metric: Metric::PrbTotDl, level: percent(level), late: None };
        Ok(Reading { source: LIAR, cell: CellId(1), stamped: Some(at(step)), observed })
    };
    let mut stopped = Vec::new();
    for step in 1..3_000 {
        pass(&mut judge, at(step));
        judge.on_observation(at(step), honest(3));
        match step {
            100 => _ = judge.on_observation(at(step), report(step, 3)),
            1_000 => _ = judge.on_observation(at(step), report(step, 90)),
            _ => {}
        }
        if judge.decision().budget == 0 && step > 50 {
            stopped.push(step);
        }
    }
    let freshness = FRESHNESS.as_nanos() / STEP.as_nanos();
    assert_eq!(stopped.first(), Some(&1_000), "at once");
    let back = stopped.last().copied().unwrap_or_default();
    assert!(u128::from(back) >= 1_000 + freshness - 1, "for as long as it is believed: {back}");
    assert!(u128::from(back) < 1_000 + freshness + 300, "and not for ever: {back}");
}
