//! How busy is the radio? One file per source, [`fusion`] joins them.
//!
//! A source turns something outside (a socket, `/proc`, a recording) into [`Reading`]s. It never decides.
//! What cannot be read is [`Malformed`], what falls silent goes stale, and both mean busy.

pub mod dpdk;
pub mod fusion;
pub mod host;
pub mod log;
pub mod mailbox;
pub mod mqtt;
pub mod ocudu;
pub mod pm;
pub mod procfs;
pub mod push;
pub mod recorder;
pub mod recording;
pub mod sampler;
pub mod shm;
mod told;
pub mod trace;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use crate::units::{CellId, Health, Instant, SourceId, Utilization, WORKERS_MAX};

/// Observations after which [`Source::read`] returns, so that a flood at one source cannot hold up the others. A
/// datagram that has been begun is finished.
pub const READ_MAX: usize = 64;

/// One observation of one cell (or of the host: cell 0) by one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which source.
    pub source: SourceId,
    /// Which cell.
    pub cell: CellId,
    /// When it was measured, by the source's own stamp on this host's monotonic clock.
    pub stamped: Option<Instant>,
    /// What was measured.
    pub observed: Observed,
}

/// What a source saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Load level by metric, and the source's running count of late or missed slots, when it has one.
    Level {
        /// Which figure.
        metric: Metric,
        /// How high.
        level: Utilization,
        /// Late or missed slots since the RAN started.
        late: Option<u64>,
    },
    /// The running count of late or missed slots alone. Says nothing about the level, so it keeps no level fresh.
    Late {
        /// Late or missed slots since the RAN started.
        count: u64,
    },
    /// How the RAN fares, for the harm guard. Says nothing about the level, so it keeps no level fresh.
    Health {
        /// Which figure.
        figure: Health,
        /// In the unit of the figure.
        value: u32,
    },
    /// The cell was taken out of service by its RAN: it no longer counts.
    Gone,
}

/// Which figure a level is, under its published name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Downlink PRB usage, `RRU.PrbTotDl` (3GPP TS 28.552 §5.1.1.2.1).
    PrbTotDl,
    /// Uplink PRB usage, `RRU.PrbTotUl` (3GPP TS 28.552 §5.1.1.2.2).
    PrbTotUl,
    /// CPU time of the RAN.
    Cpu,
    /// Busy cycles of the busiest lcore of a DPDK application.
    Lcore,
    /// Count of late or missed slots.
    Late,
    /// Share of the highest bit rate.
    BitRate,
    /// None: nothing readable was heard.
    Unknown,
}

impl Metric {
    /// The published name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PrbTotDl => "RRU.PrbTotDl",
            Self::PrbTotUl => "RRU.PrbTotUl",
            Self::Cpu => "cpu",
            Self::Lcore => "lcore",
            Self::Late => "late",
            Self::BitRate => "bit_rate",
            Self::Unknown => "unknown",
        }
    }
}

/// A message or file that made no sense: counts as busy until the source's next good reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Which source.
    pub source: SourceId,
    /// Why, for the log; static so that the hot path does not allocate.
    pub why: &'static str,
}

/// What a source hands over.
pub type Observation = Result<Reading, Malformed>;

/// A load source, driven by the sentinel thread.
///
/// After construction no method allocates, locks or logs.
pub trait Source: Send {
    /// Readable when observations wait; `None` for polled sources.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// When to call [`Source::read`] next; `None` for event-driven sources.
    fn next_poll(&self) -> Option<Instant>;

    /// What wakes the sentinel for this source without a descriptor; only a page in shared memory has one.
    fn bell(&self) -> Option<shm::Bell> {
        None
    }

    /// The end that the agent posts to, of a source that has nothing outside this process to listen at.
    fn inbox(&self) -> Option<mqtt::Inbox> {
        None
    }

    /// Hands waiting observations to `sink`, about [`READ_MAX`] a call; never blocks. What is left keeps
    /// [`Source::fd`] readable or [`Source::next_poll`] in the past.
    fn read(&mut self, now: Instant, sink: &mut dyn FnMut(Observation));
}

/// Writes the process ids of the agent's own workers to the front of the array and says how many there are.
/// Called often and from any thread: it must not block.
pub type OwnWorkers = Arc<dyn Fn(&mut [i32; WORKERS_MAX]) -> usize + Send + Sync>;

/// Which sources there are; the position of a source is its [`SourceId`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// At most `SOURCES_MAX`.
    pub sources: Vec<SourceSettings>,
}

impl Settings {
    /// What [`fusion::Fusion::new`] needs of them.
    pub fn trust(&self) -> Vec<fusion::Trust> {
        let trust = |s: &SourceSettings| {
            let planning = s.kind.is_planning();
            fusion::Trust { freshness: s.freshness, required: s.required && !planning, planning }
        };
        self.sources.iter().map(trust).collect()
    }
}

/// One source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    /// Name for messages and logs.
    pub name: String,
    /// Age at which a reading is no longer believed.
    pub freshness: Duration,
    /// Whether nothing may run without this source.
    pub required: bool,
    /// Where the readings come from.
    pub kind: Kind,
    /// Where to record them, if at all.
    pub record: Option<recorder::Settings>,
}

/// Where readings come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// JSON lines on a Unix datagram socket.
    Push {
        /// Path of the socket, made at start and removed at the end.
        socket: PathBuf,
        /// Its permission bits, such as 0o660.
        mode: u32,
    },
    /// JSON lines over UDP.
    PushUdp {
        /// A loopback address: datagrams carry no proof of who sent them.
        listen: SocketAddr,
    },
    /// A page in shared memory.
    Shm {
        /// Path of its file, made at start if it is missing and left there at the end.
        path: PathBuf,
        /// Its permission bits, such as 0o660.
        mode: u32,
    },
    /// CPU time of the RAN, by the kernel.
    Procfs(procfs::Settings),
    /// Busy cycles of the lcores of a DPDK application.
    Dpdk(dpdk::Settings),
    /// Lines in the RAN's log that tell of a failure.
    Log(log::Settings),
    /// JSON metrics of an OCUDU or srsRAN Project gNB.
    Ocudu(ocudu::Settings),
    /// Replay of a recording.
    Trace {
        /// CSV or NDJSON.
        file: PathBuf,
        /// Recorded seconds that pass in one second.
        speed: f64,
        /// Whether it starts again at its end; otherwise it falls silent.
        repeat: bool,
    },
    /// Reports of a controller over MQTT, for planning. The freshness is their greatest age.
    Mqtt,
}

impl Kind {
    /// Whether it is second-hand and slow: it may raise the load and never vouches for it.
    pub const fn is_planning(&self) -> bool {
        match self {
            Self::Mqtt => true,
            Self::Push { .. }
            | Self::PushUdp { .. }
            | Self::Shm { .. }
            | Self::Procfs(_)
            | Self::Dpdk(_)
            | Self::Log(_)
            | Self::Ocudu(_)
            | Self::Trace { .. } => false,
        }
    }
}

impl SourceSettings {
    /// Checks what can be checked without opening anything.
    pub fn check(&self) -> Result<(), OpenError> {
        let checked = match &self.kind {
            Kind::Push { socket, mode } => push::check_socket(socket, *mode),
            Kind::PushUdp { listen } => push::check_listen(*listen),
            Kind::Shm { path, mode } => shm::check(path, *mode),
            Kind::Procfs(settings) => procfs::check(settings, self.freshness),
            Kind::Dpdk(settings) => dpdk::check(settings, self.freshness),
            Kind::Log(settings) => log::check(settings, self.required),
            Kind::Ocudu(settings) => ocudu::check(settings),
            Kind::Trace { speed, .. } => trace::check_speed(*speed),
            Kind::Mqtt => Ok(()),
        };
        let checked = checked.and_then(|()| check_freshness(self.freshness));
        checked.map_err(|problem| self.error(problem))
    }

    fn error(&self, problem: Problem) -> OpenError {
        OpenError { name: self.name.clone(), problem }
    }
}

/// Longest freshness: a reading older than an hour says nothing about now.
pub const FRESHNESS_MAX: Duration = Duration::from_secs(3600);

fn check_freshness(freshness: Duration) -> Result<(), Problem> {
    if freshness.is_zero() || freshness > FRESHNESS_MAX {
        let limit = "above 0 and at most 1 h; three times the time between two readings is usual";
        return Err(Problem::setting("freshness", format!("{freshness:?}"), limit));
    }
    Ok(())
}

/// Opens a source. `now` is when a recording starts to play.
pub fn open(
    settings: &SourceSettings,
    id: SourceId,
    now: Instant,
    own_workers: OwnWorkers,
) -> Result<Box<dyn Source>, OpenError> {
    settings.check()?;
    let opened: Result<Box<dyn Source>, Problem> = match &settings.kind {
        Kind::Push { socket, mode } => push::Push::unix(id, socket, *mode).map(|source| Box::new(source) as _),
        Kind::PushUdp { listen } => push::Push::udp(id, *listen).map(|source| Box::new(source) as _),
        Kind::Shm { path, mode } => {
            shm::Shm::open(id, path, *mode, settings.freshness, now).map(|source| Box::new(source) as _)
        }
        Kind::Procfs(procfs) => procfs::open(id, procfs, own_workers).map(|source| Box::new(source) as _),
        Kind::Dpdk(settings) => dpdk::open(id, settings).map(|source| Box::new(source) as _),
        Kind::Log(settings) => log::open(id, settings).map(|source| Box::new(source) as _),
        Kind::Ocudu(settings) => ocudu::open(id, settings).map(|source| Box::new(source) as _),
        Kind::Trace { file, speed, repeat } => {
            trace::Trace::open(id, file, *speed, *repeat, now).map(|source| Box::new(source) as _)
        }
        Kind::Mqtt => mqtt::Mqtt::open(id).map(|source| Box::new(source) as _),
    };
    let recorded = opened.and_then(|source| match &settings.record {
        Some(record) => Ok(Box::new(recorder::Recorded::start(source, record, now)?) as _),
        None => Ok(source),
    });
    recorded.map_err(|problem| settings.error(problem))
}

/// A source that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("load source {name:?}: {problem}")]
pub struct OpenError {
    /// Name of the source in the configuration.
    pub name: String,
    /// What is wrong and what to do.
    #[source]
    pub problem: Problem,
}

/// Why a source cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A value outside its range.
    #[error("{key} {value} is not allowed: it must be {limit}")]
    Setting {
        /// Name of the setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        limit: &'static str,
    },
    /// Somebody listens at that socket.
    #[error("{path} is in use by a live process: stop the other agent, or give this one a socket path of its own")]
    SocketInUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is in the socket's place.
    #[error("{path} is not a socket and is left alone: remove it, or choose another socket path")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// Something else is in the page's place.
    #[error("{path} is no load page of this version and is left alone ({why}): remove it, or choose another path")]
    NotALoadPage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system refused.
    #[error("cannot {attempt} {place}: {error}; {remedy}")]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// With which path or address.
        place: String,
        /// Why not.
        error: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A line of a recording that makes no sense.
    #[error("{file}:{line}: {why}")]
    Line {
        /// The recording.
        file: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Value and rule.
        why: String,
    },
    /// A recording that cannot be played.
    #[error("{file}: {why}")]
    Recording {
        /// The recording.
        file: PathBuf,
        /// Value, limit and remedy.
        why: String,
    },
}

impl Problem {
    fn setting(key: &'static str, value: impl fmt::Display, limit: &'static str) -> Self {
        Self::Setting { key, value: value.to_string(), limit }
    }

    fn io(attempt: &'static str, place: &Path, error: io::Error, remedy: &'static str) -> Self {
        Self::Io { attempt, place: place.display().to_string(), error, remedy }
    }
}

#[cfg(test)]
mod tests;
