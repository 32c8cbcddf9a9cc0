//! Is memory short on this node, and which workers give theirs back?
//!
//! The kernel tells how long tasks waited for memory (PSI, `pressure/memory`) and how much is available (`meminfo`).
//! Where it takes a PSI trigger, it wakes this loop when the limit is reached; besides, both files are read every
//! [`LOOK_EVERY`] while there are workers, or memory was short a while ago. What cannot be read does not count: missing
//! figures about memory put nobody at risk, unlike those about load.
//!
//! [`Relief`] decides, without I/O: the cheapest workers first, with time between the steps for the kernel to see what
//! it gained. Until memory was not short for `calm`, nothing starts.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::future::pending;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::watched::Watched;
use crate::units::{Instant, Utilization};

/// How often the files are read.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Time between two steps of relief.
const STEP_EVERY: Duration = Duration::from_secs(2);
/// Over this span the kernel measures for the trigger; whoever has no privilege may only ask for multiples of it.
const WINDOW: Duration = Duration::from_secs(2);
/// Spans over which two readings make a share.
const SPAN_MIN: Duration = Duration::from_secs(1);
const SPAN_MAX: Duration = Duration::from_secs(10);
/// Most bytes read of a file of the kernel's.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// When memory is short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Folder in which `pressure/memory` and `meminfo` are.
    pub(super) proc: PathBuf,
    /// Short when some task waited for this share of the time.
    pub(super) stall_above: Utilization,
    /// Short when less is available, in bytes.
    pub(super) available_min_bytes: u64,
    /// How long it must not be short before workers start again.
    pub(super) calm: Duration,
}

/// Why memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// The kernel's trigger fired: tasks waited for at least `limit` of [`WINDOW`].
    Trigger {
        /// `stall_above`.
        limit: Utilization,
    },
    /// Some task waited for this share of the time.
    Stall {
        /// The share.
        share: Utilization,
        /// `stall_above`.
        limit: Utilization,
    },
    /// Little is available, in bytes.
    Available {
        /// How much.
        bytes: u64,
        /// `available_min_mib`, in bytes.
        min: u64,
    },
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes / (1024 * 1024);
        match self {
            Self::Trigger { limit } => write!(f, "tasks waited for memory {limit} of the time or more"),
            Self::Stall { share, limit } => {
                write!(f, "tasks waited for memory {share} of the time, memory.stall_above is {limit}")
            }
            Self::Available { bytes, min } => {
                write!(f, "{} MiB are available, memory.available_min_mib is {}", mib(*bytes), mib(*min))
            }
        }
    }
}

// ---- the files ----

/// Looks at the kernel's files.
#[derive(Debug)]
pub(super) struct Watcher {
    settings: Settings,
    trigger: Option<Watched>,
    looked: Option<Instant>,
    /// Moment and reading of the running count of waiting, in µs.
    waited: Option<(Instant, u64)>,
}

impl Watcher {
    /// Watches these files; needs a runtime.
    pub(super) fn new(settings: Settings) -> Self {
        let trigger = trigger(&settings);
        match &trigger {
            Ok(_) => tracing::info!("memory pressure is told by the kernel"),
            Err(error) => {
                let path = settings.psi();
                tracing::info!(path = %path.display(), %error, "no trigger for memory pressure, looking every 2 s instead");
            }
        }
        Self { settings, trigger: trigger.ok(), looked: None, waited: None }
    }

    /// Resolves when the kernel says that tasks wait for memory; never where it takes no trigger.
    pub(super) async fn triggered(&self) {
        let Some(trigger) = &self.trigger else { return pending().await };
        match trigger.urgent().await {
            // An event is taken by being seen.
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => pending().await,
        }
    }

    /// What the trigger said, as a reason.
    pub(super) fn by_trigger(&self) -> Shortage {
        Shortage::Trigger { limit: self.settings.stall_above }
    }

    /// Whether it is time to look again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.since(looked) >= LOOK_EVERY)
    }

    /// Reads the files. Says why memory is short, if it is.
    pub(super) fn look(&mut self, now: Instant) -> Option<Shortage> {
        self.looked = Some(now);
        let waited_us = read(&self.settings.psi()).ok().and_then(|text| waited_us(&text));
        let limit = self.settings.stall_above;
        let share = waited_us.and_then(|waited_us| self.share(now, waited_us));
        let stall = share.filter(|share| *share >= limit).map(|share| Shortage::Stall { share, limit });
        let min = self.settings.available_min_bytes;
        let available = read(&self.settings.proc.join("meminfo")).ok().and_then(|text| available_bytes(&text));
        let scarce = available.filter(|bytes| *bytes < min).map(|bytes| Shortage::Available { bytes, min });
        stall.or(scarce)
    }

    /// Share of the time since the last reading in which some task waited; `None` when that was too soon, or too long
    /// ago to say anything about now.
    fn share(&mut self, now: Instant, waited_us: u64) -> Option<Utilization> {
        let (since, before) = *self.waited.get_or_insert((now, waited_us));
        let span = now.since(since);
        if span < SPAN_MIN {
            return None;
        }
        self.waited = Some((now, waited_us));
        let span_us = u64::try_from(span.as_micros()).ok().filter(|_| span <= SPAN_MAX)?;
        let permille = waited_us.saturating_sub(before).saturating_mul(1000) / span_us;
        Some(u16::try_from(permille).ok().and_then(Utilization::from_permille).unwrap_or(Utilization::FULL))
    }
}

impl Settings {
    fn psi(&self) -> PathBuf {
        self.proc.join("pressure/memory")
    }
}

/// Asks the kernel to tell when tasks wait for memory.
fn trigger(settings: &Settings) -> io::Result<Watched> {
    let limit_us = WINDOW.as_micros() * u128::from(settings.stall_above.permille()) / 1000;
    let wanted = format!("some {} {}\0", limit_us.max(1), WINDOW.as_micros());
    // Never creates it: elsewhere than in /proc a file of that name is an ordinary one.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(settings.psi())?;
    if file.metadata()?.len() > 0 {
        return Err(io::Error::other("not a file of the kernel's"));
    }
    file.write_all(wanted.as_bytes())?;
    Watched::urgent_only(file.into())
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The running count of µs in which some task waited: `some avg10=0.00 avg60=0.00 avg300=0.10 total=993939`.
fn waited_us(psi: &str) -> Option<u64> {
    let line = psi.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split_whitespace().find_map(|field| field.strip_prefix("total=")?.parse().ok())
}

/// `MemAvailable:   21328168 kB`.
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

// ---- the decision ----

/// What a worker has of the node's memory, and what is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holds {
    /// Loaded models only: lost is the time to load them again.
    Models,
    /// A job that stands: lost is what it had computed of one item.
    Stopped,
    /// A job that runs: the same, and it would have gone on.
    Running,
    /// Nothing: there is no process, or it is dying.
    Nothing,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Give up the workers of these slots.
    Evict(Vec<usize>),
    /// Memory has not been short for long enough: workers may start.
    Calm,
}

/// Decides who gives memory back, and when workers may start again.
#[derive(Debug)]
pub(super) struct Relief {
    calm: Duration,
    /// When memory was last seen to be short; `None` once it has been calm.
    short: Option<Instant>,
    acted: Option<Instant>,
}

impl Relief {
    /// Memory is not short.
    pub(super) fn new(calm: Duration) -> Self {
        Self { calm, short: None, acted: None }
    }

    /// Whether memory is short, or was a while ago.
    pub(super) fn is_short(&self) -> bool {
        self.short.is_some()
    }

    /// Takes in whether memory is short, and what each worker has of it.
    pub(super) fn on_look(&mut self, now: Instant, is_short: bool, places: &[Holds]) -> Option<Step> {
        if !is_short {
            let calm = self.short.is_some_and(|short| now.since(short) >= self.calm);
            if calm {
                (self.short, self.acted) = (None, None);
            }
            return calm.then_some(Step::Calm);
        }
        self.short = Some(now);
        if self.acted.is_some_and(|acted| now.since(acted) < STEP_EVERY) {
            return None;
        }
        let cheapest = places.iter().copied().min().filter(|holds| *holds != Holds::Nothing)?;
        let mut slots: Vec<usize> = (0..places.len()).filter(|slot| places[*slot] == cheapest).collect();
        if cheapest == Holds::Running {
            // One at a time, from the last that the budget let run.
            slots.drain(..slots.len().saturating_sub(1));
        }
        self.acted = Some(now);
        Some(Step::Evict(slots))
    }
}

#[cfg(test)]
mod tests;
