//! How soon does Neap stop? The real sentinel thread with a real source, governor and gate, over the bench's workers.

use std::io;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::super::crew::{Crew, Member};
use super::method::Method;
use super::stage::{SETTLE, Stopper, is_stopped, out_of_time};
use crate::cli::failure::{Class, Failure};
use crate::governor::{Mode, Policy, guard};
use crate::load::{self, push, shm};
use crate::sentinel::{self, Report, Sentinel, YieldClass, YieldRecord};
use crate::sys::clock;
use crate::units::{CellId, Utilization};
use crate::worker::gate::Gate;

/// How long a reading is believed: longer than any round, so that only the events make the node busy.
const FRESHNESS: Duration = Duration::from_secs(3_600);
/// Longest wait for a trough.
const TROUGH_MAX: Duration = Duration::from_secs(30);
/// Longest wait for the record of a stop that was seen already.
const RECORD_MAX: Duration = Duration::from_millis(50);
/// As in the agent's defaults.
const SIGNAL_AGAIN: Duration = Duration::from_millis(50);
/// A worker must not be killed because the machine stalls: its end would end the bench.
const CONFIRM_KILL: Duration = Duration::from_secs(60);
const IDLE_PERCENT: u8 = 3;
const BUSY_PERCENT: u8 = 90;

/// The way in of the load.
#[derive(Debug)]
enum Feed {
    Unix(UnixDatagram, Lines),
    Udp(UdpSocket, Lines),
    Shm(shm::Writer),
}

/// What is sent: made before the event.
#[derive(Debug)]
struct Lines {
    idle: String,
    busy: String,
}

impl Lines {
    fn new() -> Self {
        let line = |percent| push::encode(CellId(1), Some(percent), None, None, None, false);
        Self { idle: line(IDLE_PERCENT), busy: line(BUSY_PERCENT) }
    }

    fn of(&self, load: Load) -> &[u8] {
        match load {
            Load::Idle => self.idle.as_bytes(),
            Load::Busy => self.busy.as_bytes(),
        }
    }
}

/// What the sentinel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Idle,
    Busy,
}

/// A sentinel over the crew.
#[derive(Debug)]
pub(super) struct Watched {
    feed: Feed,
    gate: Arc<Gate>,
    crew: usize,
    // Ended before the gate is emptied, in `drop`.
    sentinel: Option<Sentinel>,
}

impl Watched {
    /// Starts a sentinel that hears by `method`, and puts the crew, which must be stopped, into its gate.
    ///
    /// # Errors
    /// When the source cannot be opened or the thread not started.
    pub(super) fn start(method: Method, folder: &Path, priority: Option<u8>, crew: &Crew) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io("cannot open the way in of the load", &error);
        let (kind, connect) = way_in(method, folder).map_err(failed)?;
        let gate = Gate::new();
        let workers = u8::try_from(crew.members.len()).unwrap_or(u8::MAX);
        let sentinel = sentinel::start(settings(kind, priority, workers)?, Arc::clone(&gate));
        let sentinel = sentinel.map_err(|error| Failure::new(Class::Software, error.to_string()))?;
        for (slot, member) in crew.members.iter().enumerate() {
            gate.fill(slot, member.pid);
        }
        sentinel.worker_changed();
        let feed = connect.open().map_err(failed)?;
        Ok(Self { feed, gate, crew: crew.members.len(), sentinel: Some(sentinel) })
    }

    /// The scheduling class of the sentinel.
    pub(super) fn class(&self) -> Option<YieldClass> {
        self.sentinel.as_ref().map(Sentinel::class)
    }

    fn send(&mut self, load: Load) -> Result<(), Failure> {
        let sent = match &mut self.feed {
            Feed::Unix(socket, lines) => socket.send(lines.of(load)),
            Feed::Udp(socket, lines) => socket.send(lines.of(load)),
            Feed::Shm(writer) => {
                let percent = match load {
                    Load::Idle => IDLE_PERCENT,
                    Load::Busy => BUSY_PERCENT,
                };
                let level = Utilization::from_percent(percent).unwrap_or(Utilization::FULL);
                writer.write(CellId(1), level, Utilization::IDLE, 0, clock::now());
                writer.ring();
                Ok(0)
            }
        };
        sent.map(drop).map_err(|error| Failure::io("cannot send load to the sentinel", &error))
    }

    /// Takes reports until one is wanted; `None` when none has come within `max`.
    fn wait<T>(&self, max: Duration, wanted: impl Fn(Report) -> Option<T>) -> Option<T> {
        let sentinel = self.sentinel.as_ref()?;
        let until = clock::now().after(max);
        loop {
            sentinel.clear_report_fd();
            while let Some(report) = sentinel.reports().pop() {
                if let Some(found) = wanted(report) {
                    return Some(found);
                }
            }
            let left = until.since(clock::now());
            if left.is_zero() {
                return None;
            }
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let bell = sentinel.report_fd();
            // An interrupted wait is one more turn.
            let _rang = poll(&mut [PollFd::new(&bell, PollFlags::IN)], Some(&left));
        }
    }
}

impl Stopper for Watched {
    fn resume(&mut self, _: &Crew) -> Result<(), Failure> {
        self.send(Load::Idle)?;
        let begun = |report| match report {
            Report::Mode { decision, .. } => (decision.mode == Mode::Trough).then_some(()),
            Report::Yield(_)
            | Report::Resumed { .. }
            | Report::Load { .. }
            | Report::Guard(_)
            | Report::Killed { .. } => None,
        };
        self.wait(TROUGH_MAX, begun).ok_or_else(|| out_of_time("let run by the sentinel", TROUGH_MAX))
    }

    fn strike(&mut self) -> Result<(), Failure> {
        self.send(Load::Busy)
    }

    fn is_still(&self, member: &Member) -> Result<bool, Failure> {
        is_stopped(member)
    }

    fn record(&mut self) -> Option<YieldRecord> {
        self.wait(RECORD_MAX, |report| match report {
            Report::Yield(record) => Some(record),
            Report::Mode { .. }
            | Report::Resumed { .. }
            | Report::Load { .. }
            | Report::Guard(_)
            | Report::Killed { .. } => None,
        })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Stops the workers and waits for it.
        self.sentinel = None;
        (0..self.crew).for_each(|slot| self.gate.clear(slot));
    }
}

/// How the bench's end of a source is opened once the source is there.
enum Connect {
    Unix(std::path::PathBuf),
    Udp(std::net::SocketAddr),
    Shm(std::path::PathBuf),
}

impl Connect {
    fn open(&self) -> io::Result<Feed> {
        match self {
            Self::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Ok(Feed::Unix(socket, Lines::new()))
            }
            Self::Udp(address) => {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                socket.connect(address)?;
                Ok(Feed::Udp(socket, Lines::new()))
            }
            Self::Shm(path) => shm::Writer::open(path).map(Feed::Shm).map_err(io::Error::other),
        }
    }
}

fn way_in(method: Method, folder: &Path) -> io::Result<(load::Kind, Connect)> {
    match method {
        Method::Push => {
            let socket = folder.join("load.sock");
            Ok((load::Kind::Push { socket: socket.clone(), mode: push::SOCKET_MODE_DEFAULT }, Connect::Unix(socket)))
        }
        Method::Udp => {
            // A port that was free a moment ago.
            let listen = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
            Ok((load::Kind::PushUdp { listen }, Connect::Udp(listen)))
        }
        Method::Shm => {
            let path = folder.join("load.page");
            Ok((load::Kind::Shm { path: path.clone(), mode: shm::MODE_DEFAULT }, Connect::Shm(path)))
        }
        Method::Floor | Method::PollStop | Method::CgroupFreeze | Method::Nice19 => {
            Err(io::Error::other(format!("{} is no source of load", method.name())))
        }
    }
}

/// As in the agent; only that a trough comes back at once.
pub(in crate::cli::bench) fn settings(
    kind: load::Kind,
    priority: Option<u8>,
    workers: u8,
) -> Result<sentinel::Settings, Failure> {
    let percent = |value| {
        let text = "a limit of the bench is no percentage; report this";
        Utilization::from_percent(value).ok_or_else(|| Failure::new(Class::Software, text))
    };
    let policy = Policy {
        workers,
        busy_above: percent(40)?,
        idle_below: percent(15)?,
        settle: SETTLE,
        settle_max: SETTLE,
        flap_window: Duration::ZERO,
        raise_every: Duration::ZERO,
    };
    let source =
        load::SourceSettings { name: "bench".to_owned(), freshness: FRESHNESS, required: true, record: None, kind };
    let load = load::Settings { sources: vec![source] };
    let guard = guard::Settings::off();
    Ok(sentinel::Settings { policy, guard, load, priority, signal_again: SIGNAL_AGAIN, confirm_kill: CONFIRM_KILL })
}
