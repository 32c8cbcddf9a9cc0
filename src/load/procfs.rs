//! How much CPU time does the RAN use, and how long do its threads wait for a core? For RAN software that says nothing
//! about itself.
//!
//! Levels are the higher of two shares: that of the last period, which rises at once, and that of the last
//! [`rate::LONG_WINDOW`], because a core without its tick accounts run time only once a second. Beside them come, once
//! a second, readings of
//! [`Health`](crate::units::Health): run-queue delay of the RAN's threads and pressure (PSI) of its cgroup.
//!
//! Which kind to take:
//! * [`What::Cgroup`]: cheapest and exact. Take it when the RAN has a cgroup or a systemd unit of its own.
//! * [`What::Threads`]: exact, and may leave out threads that poll. A thread that ends costs two periods of *busy*;
//!   RAN software that starts and ends threads all the time wants `Cgroup`.
//! * [`What::Cores`]: the last resort. `/proc/stat` counts in ticks of 10 ms, so one core at 100 ms is known to 10 %,
//!   and sampled ticks can be far off (6 % where run time said 33 %). No thread is named, so no run-queue delay is known.
//!
//! A RAN that polls uses its cores fully without any traffic: none of these sees its troughs.

mod cgroup;
mod cores;
mod delay;
mod files;
mod group;
mod health;
mod pressure;
pub mod rate;
mod threads;
mod workers;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mailbox::Mailbox;
use super::sampler::{self, Probe};
use super::{Malformed, Metric, Observation, Observed, OwnWorkers, Problem, Reading};
use crate::units::{CellId, Instant, SourceId, Utilization};
use rate::Rate;

pub use group::Group;
pub use health::HEALTH_PERIOD;
pub use pressure::Pressure;
pub use threads::Select;

/// Time between two looks unless configured.
pub const PERIOD_DEFAULT: Duration = Duration::from_millis(100);
/// Shortest period: five ticks of `/proc/stat`.
pub const PERIOD_MIN: Duration = Duration::from_millis(50);
/// Longest period: a source that looks less often is of no use for yielding.
pub const PERIOD_MAX: Duration = Duration::from_secs(10);
/// Observations that wait for the sentinel at most: those of four looks.
const WAITING_MAX: usize = 12;
/// Most cores of a host.
pub const CORES_MAX: usize = 1024;

/// What is read, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `/` on a node; a folder of fixtures in tests.
    pub root: PathBuf,
    /// Whose CPU time.
    pub what: What,
    /// Whose pressure.
    pub pressure: Pressure,
    /// Time between two looks.
    pub period: Duration,
}

/// Whose CPU time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// All that runs on these cores, less the agent's own workers as far as they are pinned to them.
    Cores(Vec<usize>),
    /// A cgroup, as a share of this many cores.
    Cgroup {
        /// Which cgroup.
        group: Group,
        /// Cores that are 100 %.
        cores: usize,
    },
    /// Threads, as a share of this many cores.
    Threads {
        /// Which threads.
        select: Select,
        /// Cores that are 100 %.
        cores: usize,
        /// Whether the level is at least the share that the busiest thread uses of one core. For RAN software with one
        /// thread that everything waits for. Wrong where a thread polls, which is at 100 % without any traffic.
        hottest: bool,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cores(cores) => write!(f, "cores {cores:?}"),
            Self::Cgroup { group: Group::Folder(path), .. } => write!(f, "cgroup {}", path.display()),
            Self::Cgroup { group: Group::Unit(name), .. } => write!(f, "unit {name}"),
            Self::Threads { select: Select::Name(name), .. } => write!(f, "process {name}"),
            Self::Threads { select: Select::Pids(pids), .. } => write!(f, "pids {pids:?}"),
        }
    }
}

/// Reads counters once a period.
#[derive(Debug)]
pub struct Procfs {
    id: SourceId,
    meter: Meter,
    rate: Rate,
    vitals: health::Vitals,
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
pub(super) fn check(settings: &Settings, freshness: Duration) -> Result<(), Problem> {
    let period = settings.period;
    if period < PERIOD_MIN || period > PERIOD_MAX {
        return Err(Problem::setting("period", format_args!("{period:?}"), "50 ms to 10 s"));
    }
    if freshness < period * 2 {
        let limit = "at least twice the period, or every reading is stale before the next one comes";
        return Err(Problem::setting("freshness", format_args!("{freshness:?}"), limit));
    }
    settings.pressure.check()?;
    let capacity = match &settings.what {
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
        What::Cgroup { group, cores } => {
            group.check()?;
            *cores
        }
        What::Threads { select, cores, hottest: _ } => {
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
pub(super) fn open(id: SourceId, settings: &Settings, own_workers: OwnWorkers) -> Result<Mailbox, Problem> {
    sampler::start("neap-procfs", Procfs::open(id, settings, own_workers)?, settings.period, WAITING_MAX)
}

impl Procfs {
    /// Opens the counters; call [`Procfs::observe`] once a period.
    ///
    /// # Errors
    /// When the cores are not there.
    pub fn open(id: SourceId, settings: &Settings, own_workers: OwnWorkers) -> Result<Self, Problem> {
        let root: &Path = &settings.root;
        let (meter, capacity) = match &settings.what {
            What::Cores(list) => (Meter::Cores(cores::Cores::open(root, list, own_workers)?), list.len()),
            What::Cgroup { group, cores } => (Meter::Cgroup(cgroup::Cgroup::new(root, group)), *cores),
            What::Threads { select, cores, hottest } => {
                (Meter::Threads(threads::Threads::new(root, select.clone(), *hottest, own_workers)), *cores)
            }
        };
        let vitals = health::Vitals::new(root, &settings.what, &settings.pressure);
        Ok(Self { id, meter, rate: Rate::new(capacity), vitals, look_max: settings.period / 4 })
    }

    /// Looks, and hands over what the look says: no level while there is nothing to compare with, nor when it was
    /// interrupted.
    pub fn observe(&mut self, clock: &dyn Fn() -> Instant, sink: &mut dyn FnMut(Observation)) {
        // Searches take long, so they come before the time that the counters are read at.
        let searched = self.search(clock());
        let at = clock();
        let counted = searched.and_then(|()| self.count());
        let is_interrupted = clock().since(at) > self.look_max;
        match counted {
            Err(why) => {
                self.rate = Rate::new(self.rate.cores());
                sink(Err(Malformed { source: self.id, why }));
            }
            Ok(_) if is_interrupted => {}
            Ok(totals) => {
                let hottest = self.hottest(at);
                let level = self.rate.level(at, totals.busy_ns).map(|level| level.max(hottest));
                let observed = level.map(|level| Observed::Level { metric: Metric::Cpu, level, late: None });
                observed.into_iter().for_each(|observed| sink(Ok(self.reading(at, observed))));
            }
        }
        let watched = match &self.meter {
            Meter::Threads(_) => Some(
                counted.and_then(|totals| totals.delay_ns.ok_or("threads that have no run-queue delay in schedstat")),
            ),
            Meter::Cores(_) | Meter::Cgroup(_) => None,
        };
        let source = self.id;
        self.vitals.look(clock, watched, &mut |at, figure, value| {
            let observed = Observed::Health { figure, value };
            sink(Ok(Reading { source, cell: CellId(0), stamped: Some(at), observed }));
        });
    }

    fn search(&mut self, now: Instant) -> Result<(), &'static str> {
        match &mut self.meter {
            Meter::Cores(_) => Ok(()),
            Meter::Cgroup(meter) => meter.search(now),
            Meter::Threads(meter) => meter.search(now),
        }
    }

    fn count(&mut self) -> Result<threads::Totals, &'static str> {
        let busy_ns = match &mut self.meter {
            Meter::Cores(meter) => meter.busy_ns()?,
            Meter::Cgroup(meter) => meter.busy_ns()?,
            Meter::Threads(meter) => return meter.count(),
        };
        Ok(threads::Totals { busy_ns, delay_ns: None })
    }

    /// The share of the busiest thread, where it counts.
    fn hottest(&mut self, at: Instant) -> Utilization {
        match &mut self.meter {
            Meter::Threads(meter) => meter.hottest(at).unwrap_or_default(),
            Meter::Cores(_) | Meter::Cgroup(_) => Utilization::default(),
        }
    }

    fn reading(&self, at: Instant, observed: Observed) -> Reading {
        Reading { source: self.id, cell: CellId(0), stamped: Some(at), observed }
    }
}

impl Probe for Procfs {
    fn look(&mut self, clock: &dyn Fn() -> Instant, sink: &mut dyn FnMut(Observation)) {
        self.observe(clock, sink);
    }
}

#[cfg(test)]
mod tests;
