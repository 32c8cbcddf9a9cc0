//! Which streaming sources are there, and how is each told of load? One entry in [`WAYS`] a source.

use std::io;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::gnb;
use crate::load::{self, push, shm};
use crate::sys::clock;
use crate::units::{CellId, Instant, SourceId, Utilization};

pub(super) const IDLE_PERCENT: u8 = 3;
pub(super) const BUSY_PERCENT: u8 = 90;
/// How long a page is believed between two rings; without meaning for the bare read.
const PAGE_FRESHNESS: std::time::Duration = std::time::Duration::from_secs(3_600);

/// One streaming source.
pub(super) struct Way {
    /// Key in the JSON object and name of `--only`.
    pub(super) key: &'static str,
    /// For people.
    pub(super) name: &'static str,
    /// Prepares it for a sentinel.
    pub(super) open: fn(&Path) -> io::Result<Opened>,
    /// Opens the same kind of socket for a thread that only reads.
    pub(super) bare: fn(&Path) -> io::Result<Bare>,
}

/// All of them.
pub(super) const WAYS: [Way; 4] = [
    Way { key: "push-unix", name: "push, Unix datagram", open: open_unix, bare: bare_unix },
    Way { key: "push-udp", name: "push, UDP", open: open_udp, bare: bare_udp },
    Way { key: "shm", name: "shared page", open: open_page, bare: bare_page },
    Way { key: "ocudu", name: "OCUDU, WebSocket", open: gnb::open, bare: gnb::bare },
];

/// The names for `--only`.
pub(super) fn names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(WAYS.iter().map(|way| way.key))
}

/// The bench's end: what tells of load.
pub(super) trait Feed {
    /// Tells that the load is low, measured at `stamp`.
    fn calm(&mut self, stamp: Instant) -> io::Result<()>;
    /// Tells that it is high.
    fn rise(&mut self, stamp: Instant) -> io::Result<()>;
}

/// A source before its sentinel runs.
pub(super) struct Opened {
    /// For its configuration.
    pub(super) kind: load::Kind,
    /// Opens the bench's end once the sentinel runs.
    pub(super) connect: Box<dyn FnOnce() -> io::Result<Box<dyn Feed>>>,
}

/// Both ends of a bare read.
pub(super) struct Bare {
    /// The end that tells.
    pub(super) feed: Box<dyn Feed>,
    /// Blocks until something was told.
    pub(super) read: Box<dyn FnMut() -> io::Result<()> + Send>,
}

/// A push line over a connected socket.
struct Lines<S>(S, fn(&S, &[u8]) -> io::Result<usize>);

impl<S> Lines<S> {
    fn send(&self, percent: u8, stamp: Instant) -> io::Result<()> {
        let line = push::encode(CellId(1), Some(percent), None, None, Some(stamp), false);
        (self.1)(&self.0, line.as_bytes()).map(drop)
    }
}

impl<S> Feed for Lines<S> {
    fn calm(&mut self, stamp: Instant) -> io::Result<()> {
        self.send(IDLE_PERCENT, stamp)
    }

    fn rise(&mut self, stamp: Instant) -> io::Result<()> {
        self.send(BUSY_PERCENT, stamp)
    }
}

fn unix_feed(path: &Path) -> io::Result<Box<dyn Feed>> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(Box::new(Lines(socket, UnixDatagram::send)))
}

fn open_unix(folder: &Path) -> io::Result<Opened> {
    let socket = folder.join("load.sock");
    let kind = load::Kind::Push { socket: socket.clone(), mode: push::SOCKET_MODE_DEFAULT };
    Ok(Opened { kind, connect: Box::new(move || unix_feed(&socket)) })
}

fn bare_unix(folder: &Path) -> io::Result<Bare> {
    let path = folder.join("bare.sock");
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    let socket = UnixDatagram::bind(&path)?;
    let mut buffer = vec![0; push::DATAGRAM_BYTES_MAX + 1];
    let read = move || socket.recv(&mut buffer).map(drop);
    Ok(Bare { feed: unix_feed(&path)?, read: Box::new(read) })
}

fn udp_feed(address: std::net::SocketAddr) -> io::Result<Box<dyn Feed>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address)?;
    Ok(Box::new(Lines(socket, UdpSocket::send)))
}

fn open_udp(_: &Path) -> io::Result<Opened> {
    // A port that was free a moment ago.
    let listen = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    Ok(Opened { kind: load::Kind::PushUdp { listen }, connect: Box::new(move || udp_feed(listen)) })
}

fn bare_udp(_: &Path) -> io::Result<Bare> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let feed = udp_feed(socket.local_addr()?)?;
    let mut buffer = vec![0; push::DATAGRAM_BYTES_MAX + 1];
    Ok(Bare { feed, read: Box::new(move || socket.recv(&mut buffer).map(drop)) })
}

struct PageFeed(shm::Writer);

impl PageFeed {
    fn write(&mut self, percent: u8, stamp: Instant) {
        let level = Utilization::from_percent(percent).unwrap_or(Utilization::FULL);
        self.0.write(CellId(1), level, Utilization::IDLE, 0, stamp);
        self.0.ring();
    }
}

impl Feed for PageFeed {
    fn calm(&mut self, stamp: Instant) -> io::Result<()> {
        self.write(IDLE_PERCENT, stamp);
        Ok(())
    }

    fn rise(&mut self, stamp: Instant) -> io::Result<()> {
        self.write(BUSY_PERCENT, stamp);
        Ok(())
    }
}

fn page_feed(path: &Path) -> io::Result<Box<dyn Feed>> {
    Ok(Box::new(PageFeed(shm::Writer::open(path).map_err(io::Error::other)?)))
}

fn open_page(folder: &Path) -> io::Result<Opened> {
    let path = folder.join("load.page");
    let kind = load::Kind::Shm { path: path.clone(), mode: shm::MODE_DEFAULT };
    Ok(Opened { kind, connect: Box::new(move || page_feed(&path)) })
}

/// The page has no socket: what is least is the wake at its doorbell.
fn bare_page(folder: &Path) -> io::Result<Bare> {
    let path = folder.join("bare.page");
    let page = shm::Shm::open(SourceId(0), &path, shm::MODE_DEFAULT, PAGE_FRESHNESS, clock::now());
    let page = page.map_err(io::Error::other)?;
    let bell = load::Source::bell(&page).ok_or_else(|| io::Error::other("a page without a doorbell"))?;
    let mut rings = bell.rings();
    let read = move || {
        // Sleeps again when it was woken without a ring.
        while bell.rings() == rings {
            bell.wait(rings, None)?;
        }
        rings = bell.rings();
        Ok(())
    };
    Ok(Bare { feed: page_feed(&path)?, read: Box::new(read) })
}
