//! A sentinel of its own with one worker, and every way to tell it the load.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use neap::governor::{Mode, Policy};
use neap::load::shm::Writer;
use neap::load::{self, push};
use neap::sentinel::{self, Report, Sentinel, YieldRecord};
use neap::sys::clock;
use neap::units::{CellId, Instant, Utilization};
use neap::worker::gate::Gate;

/// No assertion depends on a shorter time.
pub(crate) const FOREVER: Duration = Duration::from_secs(60);
/// The cell that is reported.
pub(crate) const CELL: CellId = CellId(7);

/// How the load arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By Unix datagram; the sentinel waits at its descriptors.
    Push,
    /// By UDP; likewise.
    Udp,
    /// By page and ring; the sentinel waits at the doorbell.
    Page,
    /// By Unix datagram, with a page beside it of which nobody makes use: the companion hears it.
    PushBesidePage,
}

/// What can be told without touching the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// 3 percent.
    Low,
    /// 90 percent, under a stamp as old as the sentinel: slow yields are looked into.
    High,
    /// A datagram that makes no sense; of a page, that its cell is gone. Either ends a trough.
    Nonsense,
}

/// A worker that computes until it is killed, killed with the test.
pub(crate) struct Worker(pub(crate) Child);

impl Worker {
    pub(crate) fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("there is a shell"))
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process id")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _killed = self.0.kill().and_then(|()| self.0.wait());
    }
}

enum Feed {
    Push(UnixDatagram),
    Udp(UdpSocket),
    Page(Writer),
}

/// The sentinel at work. Dropped in this order.
pub(crate) struct GivingWay {
    pub(crate) sentinel: Sentinel,
    pub(crate) worker: Worker,
    pub(crate) page: PathBuf,
    feed: Feed,
    lines: [(Told, String); 3],
    began: Instant,
    _folder: tempfile::TempDir,
}

impl GivingWay {
    pub(crate) fn start(way: Way, priority: Option<u8>) -> Self {
        Self::start_with(way, priority, false)
    }

    /// With a recording of each source beside it.
    pub(crate) fn start_recorded(way: Way, priority: Option<u8>) -> Self {
        Self::start_with(way, priority, true)
    }

    fn start_with(way: Way, priority: Option<u8>, recorded: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, page) = (folder.path().join("load.sock"), folder.path().join("load.shm"));
        let listen = free_port();
        let shm = || load::Kind::Shm { path: page.clone(), mode: 0o600 };
        let unix = || load::Kind::Push { socket: socket.clone(), mode: 0o600 };
        let source = |name: &str, required, kind| load::SourceSettings {
            name: name.to_owned(),
            freshness: FOREVER,
            required,
            kind,
            record: recorded.then(|| load::recorder::Settings {
                file: folder.path().join(format!("{name}.ndjson")),
                bytes_max: 1 << 20,
            }),
        };
        let sources = match way {
            Way::Push => vec![source("du", true, unix())],
            Way::Udp => vec![source("du", true, load::Kind::PushUdp { listen })],
            Way::Page => vec![source("phy", true, shm())],
            Way::PushBesidePage => vec![source("du", true, unix()), source("phy", false, shm())],
        };
        let settings = sentinel::Settings {
            policy: policy(),
            guard: neap::governor::guard::Settings::default(),
            load: load::Settings { sources },
            priority,
            signal_again: Duration::from_millis(50),
            confirm_kill: FOREVER,
        };
        let gate = Gate::with(neap::worker::cgroup::Cgroups::none(), Some(FOREVER)).expect("a page");
        let sentinel = sentinel::start(settings, gate.clone()).expect("the sentinel starts");
        let worker = Worker::start();
        gate.fill(0, worker.pid());
        sentinel.worker_changed();
        let feed = match way {
            Way::Push | Way::PushBesidePage => {
                let feed = UnixDatagram::unbound().expect("a socket");
                feed.connect(&socket).expect("the sentinel listens");
                Feed::Push(feed)
            }
            Way::Udp => {
                let feed = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                feed.connect(listen).expect("the sentinel listens");
                Feed::Udp(feed)
            }
            Way::Page => Feed::Page(Writer::open(&page).expect("the sentinel has made the page")),
        };
        let began = clock::now();
        let line = |percent, stamp| push::encode(CELL, Some(percent), None, None, stamp, false);
        let lines =
            [(Told::Low, line(3, None)), (Told::High, line(90, Some(began))), (Told::Nonsense, "nonsense".to_owned())];
        Self { sentinel, worker, page, feed, lines, began, _folder: folder }
    }

    /// Reports without touching the heap.
    pub(crate) fn tell(&mut self, told: Told) {
        let line = self.lines.iter().find(|(what, _)| *what == told).map_or("", |(_, line)| line).as_bytes();
        match (&mut self.feed, told) {
            (Feed::Push(socket), _) => assert_eq!(socket.send(line).expect("it listens"), line.len()),
            (Feed::Udp(socket), _) => assert_eq!(socket.send(line).expect("it listens"), line.len()),
            (Feed::Page(writer), Told::Low) => write(writer, 3, clock::now()),
            (Feed::Page(writer), Told::High) => write(writer, 90, self.began),
            (Feed::Page(writer), Told::Nonsense) => {
                writer.write_gone(CELL, clock::now());
                writer.ring();
            }
        }
    }

    /// Reports downlink load in percent, stamped now.
    pub(crate) fn feed(&mut self, percent: u8) {
        let now = clock::now();
        let line = || push::encode(CELL, Some(percent), None, None, Some(now), false);
        let sent = match &mut self.feed {
            Feed::Push(socket) => socket.send(line().as_bytes()).is_ok(),
            Feed::Udp(socket) => socket.send(line().as_bytes()).is_ok(),
            Feed::Page(writer) => {
                write(writer, percent, now);
                true
            }
        };
        assert!(sent, "the sentinel does not take the load");
    }

    /// Takes reports until one is the wanted one; allocates nothing.
    pub(crate) fn wait_for<T>(&self, wanted: impl Fn(&Report) -> Option<T>) -> T {
        let end = clock::now().after(FOREVER);
        loop {
            if let Some(found) = self.sentinel.reports().pop().as_ref().and_then(&wanted) {
                return found;
            }
            assert!(clock::now() < end, "no such report within a minute");
            std::thread::yield_now();
        }
    }

    pub(crate) fn wait_for_trough(&self) {
        self.wait_for(|report| match report {
            Report::Mode { decision, .. } if decision.mode == Mode::Trough => Some(()),
            Report::Mode { .. } | Report::Yield(_) | Report::Resumed { .. } => None,
            Report::Load { .. } | Report::Guard(_) | Report::Killed { .. } => None,
        });
    }

    pub(crate) fn wait_for_yield(&self) -> YieldRecord {
        self.wait_for(|report| match report {
            Report::Yield(record) => Some(*record),
            Report::Mode { .. }
            | Report::Resumed { .. }
            | Report::Load { .. }
            | Report::Guard(_)
            | Report::Killed { .. } => None,
        })
    }
}

fn write(writer: &mut Writer, percent: u8, stamp: Instant) {
    let level = Utilization::from_percent(percent).expect("a percentage");
    writer.write(CELL, level, Utilization::IDLE, 0, stamp);
    writer.ring();
}

/// In force for every one of them.
pub(crate) fn policy() -> Policy {
    let percent = |value| Utilization::from_percent(value).expect("a percentage");
    Policy {
        workers: 1,
        busy_above: percent(40),
        idle_below: percent(15),
        settle: Duration::from_millis(1),
        settle_max: Duration::from_millis(1),
        flap_window: Duration::ZERO,
        raise_every: Duration::ZERO,
    }
}

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.local_addr().expect("it is bound")
}
