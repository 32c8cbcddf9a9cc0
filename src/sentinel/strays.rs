//! Which stopped workers does somebody keep continuing? Pure.

use std::time::Duration;

use crate::units::WORKERS_MAX;
use crate::worker::gate::Slots;

/// CPU time between two sightings above which a worker did not just take its stop, which costs 10 to 80 µs.
const RAN_MIN: Duration = Duration::from_millis(1);

/// Where stopped workers were seen running, each with its process and its CPU time then.
#[derive(Debug, Default)]
pub(super) struct Strays {
    seen: [Option<(i32, Duration)>; WORKERS_MAX],
}

impl Strays {
    /// The worker of `slot` is to be stopped and was seen running. Whether signals are in vain: it was sent them before,
    /// and has run since. One that merely waits for a core to stop on has not.
    pub(super) fn on_stray(&mut self, slot: usize, pid: i32, cpu: Option<Duration>) -> bool {
        let (Some(cpu), Some(seen)) = (cpu, self.seen.get_mut(slot)) else { return false };
        match seen {
            Some((known, before)) if *known == pid => cpu.saturating_sub(*before) >= RAN_MIN,
            Some(_) | None => {
                *seen = Some((pid, cpu));
                false
            }
        }
    }

    /// These workers run again, as they may.
    pub(super) fn forget(&mut self, slots: Slots) {
        slots.iter().for_each(|slot| self.seen[slot] = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_worker_that_runs_between_two_sightings_is_kept_running_by_somebody() {
        let mut strays = Strays::default();
        assert!(!strays.on_stray(0, 7, Some(10 * MS)), "the first time, signals may do");
        assert!(!strays.on_stray(0, 7, Some(10 * MS)), "it waits for a core to stop on");
        assert!(!strays.on_stray(0, 7, None));
        assert!(strays.on_stray(0, 7, Some(11 * MS)));
        assert!(!strays.on_stray(0, 8, Some(90 * MS)), "another process");
        let mut resumed = Slots::NONE;
        resumed.insert(0);
        strays.forget(resumed);
        assert!(!strays.on_stray(0, 8, Some(200 * MS)), "it ran as it may");
        assert!(!strays.on_stray(WORKERS_MAX, 8, Some(MS)));
    }
}
