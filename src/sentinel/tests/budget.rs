//! The budget with several real workers: up one at a time, down all at once.

use std::collections::BTreeSet;

use super::*;

const WORKERS: usize = 4;
/// Long enough to be told apart on a machine that stalls; no assertion depends on its exact length.
const RAISE: Duration = Duration::from_millis(300);

/// Slots whose worker is not stopped by the kernel's word.
fn running(world: &World) -> BTreeSet<usize> {
    let runs = |slot: &usize| signal::poll_stopped(world.workers[*slot].pid()).unwrap() == Seen::Running;
    (0..WORKERS).filter(runs).collect()
}

#[test]
fn a_trough_begins_with_one_worker_adds_one_at_a_time_in_order_and_ends_for_all_at_once() {
    let policy = Policy { raise_every: RAISE, ..policy(u8::try_from(WORKERS).unwrap()) };
    let (parts, feed) = parts(Waits::Descriptors, policy, FOREVER, None);
    let world = world_of(parts, feed, (0..WORKERS).map(|_| Worker::start()).collect());
    world.workers.iter().for_each(|worker| assert!(worker.stands_still(), "nothing runs before the load is known"));

    for round in 0..2 {
        world.feed(60);
        let mut raised = Vec::new();
        for budget in 1..=WORKERS {
            raised.push(world.wait_for("raise", |report| match report {
                Report::Mode { at, decision } if usize::from(decision.budget) == budget => Some(at),
                Report::Mode { decision, .. } => {
                    assert!(usize::from(decision.budget) < budget, "round {round}: {decision:?} before {budget}");
                    None
                }
                Report::Yield(_)
                | Report::Resumed { .. }
                | Report::Load { .. }
                | Report::Guard(_)
                | Report::Killed { .. } => None,
            }));
            world.workers[budget - 1].wait_until_it_computes();
            // By the time of the look more may have been let run, but never one without all those before it.
            let seen = running(&world);
            assert!(seen.iter().copied().eq(0..seen.len()) && seen.len() >= budget, "{budget}: {seen:?}");
        }
        let gaps: Vec<Duration> = raised.windows(2).map(|pair| pair[1].since(pair[0])).collect();
        // Each raise is due at a multiple of the span since the first: one that is late brings the next no sooner.
        let due = |raise: usize| RAISE * u32::try_from(raise).unwrap();
        let on_time = (1..WORKERS).all(|raise| raised[raise].since(raised[0]) >= due(raise));
        assert!(on_time, "raised after {gaps:?}");

        world.feed(900);
        let record = world.wait_for_yield();
        assert_eq!(usize::from(record.workers), WORKERS, "one stop for all: {record:?}");
        assert_eq!((record.jobs[0], record.jobs[WORKERS - 1], record.jobs[WORKERS]), (100, 103, 0));
        world.workers.iter().for_each(|worker| assert!(worker.stands_still(), "round {round}"));
    }
}
