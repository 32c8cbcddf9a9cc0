//! Is everything that the first yield needs in memory? One stop for practice, before the first real one.
//!
//! Memory that is locked stays where it is, but comes only when it is first touched. So the thread goes the whole way from
//! a reading to the confirmed stop once, with tables of its own and a worker that does not exist: the code, the tables of
//! the dynamic linker and the stack are touched then, and no page of them can be missing later.

use std::sync::Arc;
use std::time::Duration;

use super::reflex::{Reflex, ReflexParts};
use super::stops::Stops;
use super::{Report, Shared};
use crate::governor::{Governor, Policy};
use crate::load::fusion::{Fusion, Trust};
use crate::load::{Metric, Observed, Reading};
use crate::sys::{clock, memory, process};
use crate::units::{CellId, SourceId, Utilization};
use crate::worker::gate::Gate;

/// Stack that the thread may come to use, several times over.
const STACK_BYTES: usize = 64 * 1024;

/// Lets go of what the process has used for a while and does not use now, and brings back what a yield needs by another
/// rehearsal, on the thread that calls it. Says whether the memory is still locked as it was.
///
/// Only while no worker lives: then there is nobody to stop while pages are missing, and before there is one, the sources'
/// own code has come back with the readings of the settle time.
pub fn shed_again(policy: &Policy, memory_locked: bool) -> bool {
    let still_locked = if memory_locked {
        memory::shed_locked()
    } else {
        memory::shed();
        true
    };
    run(policy);
    still_locked
}

/// Stops a worker that does not exist. Says whether it came to that.
pub(super) fn run(policy: &Policy) -> bool {
    touch_stack();
    let Ok(shared) = Shared::new().map(Arc::new) else { return false };
    let Ok(governor) = Governor::new(policy.clone()) else { return false };
    let gate = Gate::new();
    gate.fill(0, process::NOBODY);
    let now = clock::now();
    // Far enough for the settle time to be over, and still fresh.
    let later = now.after(policy.settle_max.saturating_mul(2));
    let fusion = Fusion::new(&[Trust { freshness: Duration::MAX, required: true, planning: false }]);
    let stops = Stops::new(Duration::ZERO, Duration::ZERO);
    let parts = ReflexParts { fusion, governor, stops, grace: Duration::ZERO };
    let mut reflex = Reflex::new(now, parts, gate, Arc::clone(&shared));
    let reading = |level| {
        let observed = Observed::Level { metric: Metric::PrbTotDl, level, late: Some(0) };
        Ok(Reading { source: SourceId(0), cell: CellId(0), stamped: None, observed })
    };
    reflex.on_observation(now, reading(Utilization::IDLE));
    reflex.on_time(later);
    reflex.on_observation(later, reading(Utilization::FULL));
    reflex.confirm(true);
    shared.tell();
    std::iter::from_fn(|| shared.reports.pop()).any(|report| matches!(report, Report::Yield(_)))
}

#[inline(never)]
fn touch_stack() {
    std::hint::black_box(&mut [0_u8; STACK_BYTES]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rehearsal_goes_all_the_way_to_the_confirmed_stop() {
        let policy = |settle, raise_every| Policy {
            workers: 2,
            busy_above: Utilization::from_permille(400).unwrap(),
            idle_below: Utilization::from_permille(150).unwrap(),
            settle,
            settle_max: settle * 2,
            flap_window: Duration::from_secs(300),
            raise_every,
        };
        for settle in [Duration::from_millis(50), Duration::from_secs(43_200)] {
            for raise_every in [Duration::ZERO, Duration::from_secs(3600)] {
                assert!(run(&policy(settle, raise_every)), "{settle:?} {raise_every:?}");
            }
        }
    }
}
