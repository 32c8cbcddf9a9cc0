//! How busy are the cores of a DPDK application that polls? Asked over its telemetry socket (version 2).
//!
//! A polling core uses all of its CPU time whatever the traffic, so the kernel knows nothing. The application itself
//! counts the cycles in which it found work: `/eal/lcore/usage`, in DPDK 23.03 and later, when it registers a usage
//! callback. The level is the share of the busiest lcore; `rx_missed_errors` of the ports, frames that nobody fetched
//! in time, are the late slots of this source.
//!
//! The first look after each connection only sets the base. Everything else that is not two good replies in a row is
//! [`Malformed`]: an application that is not there, does not answer, says something else or has counted backwards.

mod inquiry;
mod lcores;
mod replies;
mod socket;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use inquiry::inquire;
pub use lcores::Lcores;
pub use replies::{Info, Usage, info, missed, ports, usage};

use super::mailbox::Mailbox;
use super::sampler::{self, Probe};
use super::told::Told;
use super::{Malformed, Metric, Observation, Observed, Problem, Reading};
use crate::units::{CellId, Instant, SourceId};
use socket::Connection;

/// Where the first process of DPDK's default prefix listens, when root runs it.
pub const SOCKET_DEFAULT: &str = "/var/run/dpdk/rte/dpdk_telemetry.v2";
/// Time between two looks unless configured.
pub const PERIOD_DEFAULT: Duration = Duration::from_millis(100);
/// Shortest period: each look is at least one message to a thread that has no core of its own.
pub const PERIOD_MIN: Duration = Duration::from_millis(20);
/// Longest period: a source that looks less often is of no use for yielding.
pub const PERIOD_MAX: Duration = Duration::from_secs(10);
/// Most lcores of one application.
pub const LCORES_MAX: usize = 1024;
/// Most ports of one application.
pub const PORTS_MAX: usize = 64;
/// Longest path of a socket, in bytes: `sun_path` less its end mark and a suffix.
const SOCKET_BYTES_MAX: usize = 104;
/// Longest name of a process, in bytes: the kernel cuts it there.
const PROCESS_BYTES_MAX: usize = 15;
/// All questions of one look are answered within this time, or the connection is given up.
const LOOK_MAX: Duration = Duration::from_millis(500);
/// Between two attempts to connect.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Observations that wait for the sentinel at most.
const WAITING_MAX: usize = 4;

/// Which application, and what of it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Path of its telemetry socket.
    pub socket: PathBuf,
    /// Name of its process, as the kernel has it. With it the socket and its neighbours (`:1`, `:2`, ...) are tried
    /// until the one of this process is found: which process gets which suffix depends on who started first.
    pub process: Option<String>,
    /// Lcores that count; all that it reports when empty.
    pub lcores: Vec<u32>,
    /// Ports whose missed frames count; all that it has when empty.
    pub ports: Vec<u16>,
    /// Whether an lcore whose cycles stand still is parked, and so idle. Otherwise it may be stuck, and means busy.
    pub parked_idle: bool,
    /// Time between two looks.
    pub period: Duration,
}

/// Checks the settings.
pub(super) fn check(settings: &Settings, freshness: Duration) -> Result<(), Problem> {
    let Settings { socket, process, lcores, ports, period, parked_idle: _ } = settings;
    if !socket.is_absolute() || socket.as_os_str().len() > SOCKET_BYTES_MAX {
        return Err(Problem::setting("socket", socket.display(), "an absolute path of at most 104 bytes"));
    }
    if let Some(name) = process.as_ref().filter(|name| name.is_empty() || name.len() > PROCESS_BYTES_MAX) {
        return Err(Problem::setting("process", name, "the 1 to 15 bytes that /proc/PID/comm shows"));
    }
    let repeated = (1..lcores.len()).any(|i| lcores[..i].contains(&lcores[i]));
    if repeated || lcores.len() > LCORES_MAX {
        return Err(Problem::setting("lcores", format_args!("{lcores:?}"), "at most 1024 different lcores"));
    }
    let repeated = (1..ports.len()).any(|i| ports[..i].contains(&ports[i]));
    if repeated || ports.len() > PORTS_MAX {
        return Err(Problem::setting("ports", format_args!("{ports:?}"), "at most 64 different ports"));
    }
    if *period < PERIOD_MIN || *period > PERIOD_MAX {
        return Err(Problem::setting("period", format_args!("{period:?}"), "20 ms to 10 s"));
    }
    if freshness < *period * 2 {
        let limit = "at least twice the period, or every reading is stale before the next one comes";
        return Err(Problem::setting("freshness", format_args!("{freshness:?}"), limit));
    }
    Ok(())
}

/// Starts the thread that asks. The application may come later, and until then means busy.
pub(super) fn open(id: SourceId, settings: &Settings) -> Result<Mailbox, Problem> {
    sampler::start("neap-dpdk", Dpdk::new(id, settings.clone()), settings.period, WAITING_MAX)
}

/// Asks once a period.
#[derive(Debug)]
pub struct Dpdk {
    id: SourceId,
    settings: Settings,
    lcores: Lcores,
    connection: Option<Connection>,
    /// Before that nothing is tried again.
    retry_at: Instant,
    told: Told,
    /// Whether readings come: the log says so once for each connection.
    good: bool,
}

/// What a look gave.
struct Seen {
    at: Instant,
    usage: Usage,
    missed: Option<u64>,
}

impl Dpdk {
    /// Connects at the first look.
    pub fn new(id: SourceId, settings: Settings) -> Self {
        let lcores = Lcores::new(&settings.lcores, settings.parked_idle);
        let (retry_at, told) = (Instant::default(), Told::default());
        Self { id, settings, lcores, connection: None, retry_at, told, good: false }
    }

    /// What a look says; `None` while there is nothing to compare with, and between two attempts to connect.
    pub fn observe(&mut self, clock: &dyn Fn() -> Instant) -> Option<Observation> {
        let now = clock();
        if self.connection.is_none() && now < self.retry_at {
            return None;
        }
        let seen = match self.ask(now.after(LOOK_MAX), clock) {
            Ok(seen) => seen,
            Err(why) => {
                // An answer that comes late would be taken for that to the next question.
                self.connection = None;
                self.retry_at = clock().after(RETRY_EVERY);
                return Some(self.malformed(clock(), why));
            }
        };
        match self.lcores.level(seen.at, clock(), &seen.usage) {
            Err(why) => Some(self.malformed(clock(), why)),
            Ok(level) => {
                let level = level?;
                self.tell_good(&seen);
                let observed = Observed::Level { metric: Metric::Lcore, level, late: seen.missed };
                Some(Ok(Reading { source: self.id, cell: CellId(0), stamped: Some(seen.at), observed }))
            }
        }
    }

    /// All questions of one look.
    fn ask(&mut self, until: Instant, clock: &dyn Fn() -> Instant) -> Result<Seen, &'static str> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            connection @ None => {
                self.lcores.forget();
                self.good = false;
                connection.insert(socket::find(&self.settings, until, clock)?)
            }
        };
        let at = clock();
        let usage = replies::usage(connection.ask(replies::USAGE, until, clock)?)?;
        let missed = all_missed(connection, &self.settings.ports, until, clock)?;
        Ok(Seen { at, usage, missed })
    }

    fn malformed(&mut self, now: Instant, why: &'static str) -> Observation {
        self.good = false;
        if self.told.admit(now, why) {
            tracing::warn!(socket = %self.settings.socket.display(), "DPDK telemetry gives no load, which means busy: {why}");
        }
        Err(Malformed { source: self.id, why })
    }

    fn tell_good(&mut self, seen: &Seen) {
        if std::mem::replace(&mut self.good, true) {
            return;
        }
        let Some(connection) = self.connection.as_ref().filter(|_| self.told.admit(seen.at, "good")) else { return };
        let (socket, Info { version, pid, .. }) = (connection.path().display(), connection.info());
        let lcores = seen.usage.lcores().count();
        tracing::info!(%socket, %version, pid, lcores, missed = seen.missed, "DPDK telemetry gives load");
    }
}

impl Probe for Dpdk {
    fn look(&mut self, clock: &dyn Fn() -> Instant, sink: &mut dyn FnMut(Observation)) {
        self.observe(clock).into_iter().for_each(sink);
    }
}

/// The frames that all ports missed. `None` when the application knows no ports and none were asked for.
fn all_missed(
    connection: &mut Connection,
    wanted: &[u16],
    until: Instant,
    clock: &dyn Fn() -> Instant,
) -> Result<Option<u64>, &'static str> {
    let found = match wanted {
        [] => replies::ports(connection.ask(replies::PORTS, until, clock)?)?,
        wanted => Some(wanted.to_vec()),
    };
    let Some(found) = found else { return Ok(None) };
    let mut sum = 0_u64;
    for port in found {
        let question = format!("{},{port}", replies::XSTATS);
        sum = sum.saturating_add(replies::missed(connection.ask(&question, until, clock)?)?);
    }
    Ok(Some(sum))
}

/// The socket of the nth further process of the same prefix: DPDK adds the first number that is free.
fn neighbour(socket: &Path, suffix: u8) -> PathBuf {
    if suffix == 0 {
        return socket.to_owned();
    }
    let mut name = socket.as_os_str().to_owned();
    name.push(format!(":{suffix}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
