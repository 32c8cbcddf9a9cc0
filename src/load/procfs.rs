//! How much CPU time does the RAN use? For RAN software that says nothing about itself.
//!
//! Readings are the higher of two shares: that of the last period, which rises at once, and that of the last
//! [`rate::LONG_WINDOW`], because a core without its tick accounts run time only once a second.
//!
//! Which kind to take:
//! * [`What::Cgroup`]: cheapest and exact. Take it when the RAN has a cgroup or a systemd unit of its own.
//! * [`What::Threads`]: exact, and may leave out threads that poll. A thread that ends costs two periods of *busy*;
//!   RAN software that starts and ends threads all the time wants `Cgroup`.
//! * [`What::Cores`]: the last resort. `/proc/stat` counts in ticks of 10 ms, so one core at 100 ms is known to 10 %,
//!   and sampled ticks can be far off (6 % where run time said 33 %).
//!
//! A RAN that polls uses its cores fully without any traffic: none of these sees its troughs.

mod cgroup;
mod cores;
mod files;
pub mod rate;
mod threads;
mod workers;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mailbox::Mailbox;
use super::sampler::{self, Probe};
use super::{Malformed, Metric, Observation, Observed, OwnWorkers, Problem, Reading};
use crate::units::{CellId, Instant, SourceId};
use rate::Rate;

pub use threads::Select;

/// Time between two looks unless configured.
pub const PERIOD_DEFAULT: Duration = Duration::from_millis(100);
/// Shortest period: five ticks of `/proc/stat`.
pub const PERIOD_MIN: Duration = Duration::from_millis(50);
/// Longest period: a source that looks less often is of no use for yielding.
pub const PERIOD_MAX: Duration = Duration::from_secs(10);
/// Observations that wait for the sentinel at most.
const WAITING_MAX: usize = 4;
/// Most cores of a host.
pub const CORES_MAX: usize = 1024;

/// Whose CPU time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// All that runs on these cores, less the agent's own workers as far as they are pinned to them.
    Cores(Vec<usize>),
    /// A cgroup, as a share of this many cores.
    Cgroup {
        /// Its folder, such as `/sys/fs/cgroup/ran.slice` (version 2 or the `cpuacct` folder of version 1).
        path: PathBuf,
        /// Cores that are 100 %.
        cores: usize,
    },
    /// Threads, as a share of this many cores.
    Threads {
        /// Which threads.
        select: Select,
        /// Cores that are 100 %.
        cores: usize,
    },
}

/// Reads counters once a period.
#[derive(Debug)]
pub struct Procfs {
    id: SourceId,
    meter: Meter,
    rate: Rate,
    /// A look that took longer was interrupted: its counters and its time do not belong together.
    look_max: Duration,
}

#[derive(Debug)]
enum Meter {
    Cores(cores::Cores),
    Cgroup(cgroup::Cgroup),
    Threads(threads::Threads),
}

/// Checks the settings.
pub(super) fn check(what: &What, period: Duration, freshness: Duration) -> Result<(), Problem> {
    if period < PERIOD_MIN || period > PERIOD_MAX {
        return Err(Problem::setting("period", format_args!("{period:?}"), "50 ms to 10 s"));
    }
    if freshness < period * 2 {
        let limit = "at least twice the period, or every reading is stale before the next one comes";
        return Err(Problem::setting("freshness", format_args!("{freshness:?}"), limit));
    }
    let capacity = match what {
        What::Cores(cores) => {
            let repeated = (1..cores.len()).any(|i| cores[..i].contains(&cores[i]));
            if cores.is_empty() || repeated || cores.iter().any(|core| *core >= CORES_MAX) {
                return Err(Problem::setting(
                    "cores",
                    format_args!("{cores:?}"),
                    "a list of different cores below 1024",
                ));
            }
            cores.len()
        }
        What::Cgroup { path, cores } => {
            if !path.is_absolute() {
                return Err(Problem::setting("cgroup", path.display(), "an absolute path below /sys/fs/cgroup"));
            }
            *cores
        }
        What::Threads { select, cores } => {
            select.check()?;
            *cores
        }
    };
    if capacity == 0 || capacity > CORES_MAX {
        return Err(Problem::setting("cores", capacity, "1 to 1024, the number of cores that are the RAN's"));
    }
    Ok(())
}

/// Opens the counters and starts the thread that reads them. Cores must exist; a cgroup or a thread may come later
/// and until then means busy.
pub(super) fn open(
    id: SourceId,
    root: &Path,
    what: &What,
    period: Duration,
    own_workers: OwnWorkers,
) -> Result<Mailbox, Problem> {
    sampler::start("neap-procfs", Procfs::open(id, root, what, period, own_workers)?, period, WAITING_MAX)
}

impl Procfs {
    /// Opens the counters; call [`Procfs::observe`] once a period.
    pub fn open(
        id: SourceId,
        root: &Path,
        what: &What,
        period: Duration,
        own_workers: OwnWorkers,
    ) -> Result<Self, Problem> {
        let (meter, capacity) = match what {
            What::Cores(list) => (Meter::Cores(cores::Cores::open(root, list, own_workers)?), list.len()),
            What::Cgroup { path, cores } => (Meter::Cgroup(cgroup::Cgroup::new(root, path)), *cores),
            What::Threads { select, cores } => {
                (Meter::Threads(threads::Threads::new(root, select.clone(), own_workers)), *cores)
            }
        };
        Ok(Self { id, meter, rate: Rate::new(capacity), look_max: period / 4 })
    }

    /// What a look says; `None` while there is nothing to compare with, and when it was interrupted.
    pub fn observe(&mut self, clock: &dyn Fn() -> Instant) -> Option<Observation> {
        let at = clock();
        let busy = match &mut self.meter {
            Meter::Cores(meter) => meter.busy_ns(),
            Meter::Cgroup(meter) => meter.busy_ns(),
            Meter::Threads(meter) => meter.busy_ns(at),
        };
        match busy {
            Err(why) => {
                self.rate = Rate::new(self.rate.cores());
                Some(Err(Malformed { source: self.id, why }))
            }
            Ok(_) if clock().since(at) > self.look_max => None,
            Ok(busy) => {
                let level = self.rate.level(at, busy)?;
                let observed = Observed::Level { metric: Metric::Cpu, level, late: None };
                Some(Ok(Reading { source: self.id, cell: CellId(0), stamped: Some(at), observed }))
            }
        }
    }
}

impl Probe for Procfs {
    fn look(&mut self, clock: &dyn Fn() -> Instant, sink: &mut dyn FnMut(Observation)) {
        self.observe(clock).into_iter().for_each(sink);
    }
}

#[cfg(test)]
mod tests;
