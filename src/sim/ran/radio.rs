//! Who tells the load? The emulator's side of a load source: each change at its moment, and repeats within freshness.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use super::curve::Curve;
use crate::load::push::Line;
use crate::load::shm;
use crate::sys::{clock, futex};
use crate::units::{CellId, Health, Instant, Utilization};

/// A receiver whose queue is full is tried again after this.
const RETRY: Duration = Duration::from_millis(1);

/// Where load is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The Unix datagram socket of a `push` source.
    Push(PathBuf),
    /// The address of a `push_udp` source.
    Udp(SocketAddr),
    /// The page of a `shm` source.
    Shm(PathBuf),
}

/// How load is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where.
    pub target: Target,
    /// Which cell it is the load of.
    pub cell: CellId,
    /// The load is told again at least this often; a source must hear it within its freshness.
    pub repeat: Duration,
    /// Whether the count of missed deadlines goes with it, as `late`.
    pub tells_late: bool,
}

/// What came of telling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Messages that were taken.
    pub sent: u64,
    /// Attempts that failed, because the queue was full or nobody was there.
    pub refused: u64,
}

/// What the slot threads tell the radio thread.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// Missed deadlines so far.
    missed: AtomicU64,
    /// Moves with each news; the radio thread sleeps on it.
    news: AtomicU32,
    /// Longest time from the begin of a slot to the end of its work since it was last told, in µs.
    slot_us: AtomicU32,
    stop: AtomicBool,
}

impl Wire {
    /// So many more deadlines were missed. A system call at most, and no lock.
    pub(super) fn missed(&self, count: u64) {
        self.missed.fetch_add(count, SeqCst);
        self.ring();
    }

    /// A slot's work took so long. Wakes nobody: it is told with the next message.
    pub(super) fn worked(&self, took: Duration) {
        self.slot_us.fetch_max(u32::try_from(took.as_micros()).unwrap_or(u32::MAX), Relaxed);
    }

    /// The longest slot since the last call, once there was one.
    fn take_slot_us(&self) -> Option<u32> {
        Some(self.slot_us.swap(0, Relaxed)).filter(|us| *us > 0)
    }

    /// The radio thread is to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, SeqCst);
        self.ring();
    }

    /// Whether it is to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(SeqCst)
    }

    fn ring(&self) {
        self.news.fetch_add(1, SeqCst);
        futex::wake(&self.news, 1);
    }
}

/// The thread that tells the load.
#[derive(Debug)]
pub(super) struct Radio {
    settings: Settings,
    way: Way,
    told: Told,
}

#[derive(Debug)]
enum Way {
    Unix(UnixDatagram, PathBuf),
    Udp(UdpSocket, SocketAddr),
    Shm(shm::Writer),
}

impl Radio {
    /// Opens the way. Nothing is sent yet, and at a socket nobody need listen yet; a page must be there.
    ///
    /// # Errors
    /// The system refuses a socket, or there is no such page.
    pub(super) fn open(settings: Settings) -> io::Result<Self> {
        let way = match &settings.target {
            Target::Push(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Way::Unix(socket, path.clone())
            }
            Target::Udp(address) => {
                let own = if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
                let socket = UdpSocket::bind(own)?;
                socket.set_nonblocking(true)?;
                Way::Udp(socket, *address)
            }
            Target::Shm(path) => Way::Shm(shm::Writer::open(path).map_err(io::Error::other)?),
        };
        Ok(Self { settings, way, told: Told::default() })
    }

    /// Tells a load once, to see whether somebody is there.
    ///
    /// # Errors
    /// Nobody is.
    pub(super) fn try_once(&mut self, level: Utilization) -> io::Result<()> {
        match self.send(level, None, None, clock::now()) {
            // A full queue has an owner.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Err(_) | Ok(_) => Ok(()),
        }
    }

    /// Tells the load of the curve that begins at `start`, until stopped.
    pub(super) fn run(mut self, curve: &Curve, start: Instant, wire: &Wire) -> Told {
        let mut change = start;
        let mut level = curve.at(Duration::ZERO);
        let mut late = None;
        let mut due = start;
        while !wire.is_stopped() {
            let news = wire.news.load(SeqCst);
            let now = clock::now();
            // Every change is told, even one that this thread was late for, stamped with its own moment.
            let next_change = curve.next_change(change.since(start)).map(|elapsed| start.after(elapsed));
            let stamp = match next_change {
                Some(moment) if moment <= now => {
                    (change, level) = (moment, curve.at(moment.since(start)));
                    Some(moment)
                }
                Some(_) | None => None,
            };
            let missed = self.settings.tells_late.then(|| wire.missed.load(SeqCst));
            if stamp.is_some() || missed != late || due <= now {
                late = missed;
                let is_sent = self.tell(level, missed, wire.take_slot_us(), stamp.unwrap_or(now));
                due = now.after(if is_sent { self.settings.repeat } else { RETRY.min(self.settings.repeat) });
                continue;
            }
            let until = next_change.map_or(due, |moment| moment.min(due));
            if futex::wait(&wire.news, news, Some(until)).is_err() {
                clock::sleep_until(until);
            }
        }
        self.told
    }

    fn tell(&mut self, level: Utilization, late: Option<u64>, slot_us: Option<u32>, stamp: Instant) -> bool {
        let is_sent = self.send(level, late, slot_us, stamp).is_ok();
        *(if is_sent { &mut self.told.sent } else { &mut self.told.refused }) += 1;
        is_sent
    }

    fn send(&mut self, level: Utilization, late: Option<u64>, slot_us: Option<u32>, stamp: Instant) -> io::Result<()> {
        // Whole percent, rounded up: load is never told lower than it is.
        let percent = u8::try_from(level.permille().div_ceil(10)).unwrap_or(100);
        let cell = self.settings.cell;
        let line = || {
            let mut line = Line { cell, dl: Some(percent), late, stamped: Some(stamp), ..Line::default() };
            // A page has no place for it.
            line.health[Health::SlotLatency as usize] = slot_us;
            line.encode()
        };
        match &mut self.way {
            Way::Unix(socket, path) => socket.send_to(line().as_bytes(), path).map(drop),
            Way::Udp(socket, address) => socket.send_to(line().as_bytes(), *address).map(drop),
            Way::Shm(page) => {
                page.write(cell, level, Utilization::IDLE, late.unwrap_or(0), stamp);
                page.ring();
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::load::push::parse;
    use crate::load::{Metric, Observed, Source as _};

    fn settings(target: Target) -> Settings {
        Settings { target, cell: CellId(7), repeat: Duration::from_millis(5), tells_late: true }
    }

    /// Lines that arrive, parsed as the agent does.
    struct Agent {
        socket: UnixDatagram,
        path: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Agent {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("load.sock");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            Self { socket, path, _folder: folder }
        }

        fn hear(&self) -> Line {
            let mut buffer = [0; 4096];
            let length = self.socket.recv(&mut buffer).unwrap();
            parse(buffer[..length].trim_ascii()).unwrap()
        }
    }

    #[test]
    fn each_change_is_told_with_the_stamp_of_its_moment_and_repeated() {
        let agent = Agent::new();
        let curve = Curve::bursty(3, Duration::from_millis(40), Duration::from_millis(30));
        let radio = Radio::open(settings(Target::Push(agent.path.clone()))).unwrap();
        let wire = Arc::new(Wire::default());
        let start = clock::now();
        let (played, shared) = (curve.clone(), Arc::clone(&wire));
        let thread = thread::spawn(move || radio.run(&played, start, &shared));
        let mut change = Duration::ZERO;
        let (mut changes, mut repeats) = (0, 0);
        while changes < 10 {
            let line = agent.hear();
            let at = line.stamped.unwrap().since(start);
            if curve.next_change(change) == Some(at) {
                change = at;
                changes += 1;
            } else {
                repeats += 1;
            }
            assert_eq!((line.cell, line.dl.map(u16::from)), (CellId(7), Some(curve.at(change).permille() / 10)));
        }
        wire.stop();
        let told = thread.join().unwrap();
        assert!(repeats > 0 && told.sent >= changes + repeats, "{repeats} repeats, {told:?}");
    }

    #[test]
    fn a_missed_deadline_is_told_at_once_as_a_late_slot() {
        let agent = Agent::new();
        let quiet = Settings { repeat: Duration::from_secs(3600), ..settings(Target::Push(agent.path.clone())) };
        let radio = Radio::open(quiet).unwrap();
        let wire = Arc::new(Wire::default());
        let shared = Arc::clone(&wire);
        let thread = thread::spawn(move || radio.run(&Curve::steady(Utilization::IDLE), clock::now(), &shared));
        assert_eq!(agent.hear().late, Some(0));
        wire.missed(3);
        assert_eq!(agent.hear().late, Some(3));
        wire.stop();
        thread.join().unwrap();
    }

    #[test]
    fn the_longest_slot_since_the_last_message_is_told_once() {
        let agent = Agent::new();
        let radio = Radio::open(settings(Target::Push(agent.path.clone()))).unwrap();
        let wire = Arc::new(Wire::default());
        [300, 700, 500].into_iter().for_each(|us| wire.worked(Duration::from_micros(us)));
        let shared = Arc::clone(&wire);
        let thread = thread::spawn(move || radio.run(&Curve::steady(Utilization::IDLE), clock::now(), &shared));
        let told = [agent.hear(), agent.hear()].map(|line| line.health[Health::SlotLatency as usize]);
        assert_eq!(told, [Some(700), None]);
        wire.stop();
        thread.join().unwrap();
    }

    #[test]
    fn an_agent_that_is_not_there_is_counted_and_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nobody.sock");
        let mut radio = Radio::open(settings(Target::Push(path.clone()))).unwrap();
        assert_eq!(radio.try_once(Utilization::IDLE).unwrap_err().kind(), io::ErrorKind::NotFound);
        let wire = Arc::new(Wire::default());
        let shared = Arc::clone(&wire);
        let thread = thread::spawn(move || radio.run(&Curve::steady(Utilization::FULL), clock::now(), &shared));
        thread::sleep(Duration::from_millis(20));
        let agent = UnixDatagram::bind(&path).unwrap();
        agent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(agent.recv(&mut [0; 4096]).unwrap() > 0);
        wire.stop();
        let told = thread.join().unwrap();
        assert!(told.sent > 0 && told.refused > 0, "{told:?}");
    }

    #[test]
    fn udp_carries_the_same_lines() {
        let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
        agent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut radio = Radio::open(settings(Target::Udp(agent.local_addr().unwrap()))).unwrap();
        radio.try_once(Utilization::from_permille(123).unwrap()).unwrap();
        let mut buffer = [0; 4096];
        let length = agent.recv(&mut buffer).unwrap();
        assert_eq!(parse(buffer[..length].trim_ascii()).unwrap().dl, Some(13));
    }

    #[test]
    fn a_page_carries_the_load_in_permille() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("load.shm");
        let missing = Radio::open(settings(Target::Shm(path.clone()))).unwrap_err().to_string();
        assert!(missing.contains("load.shm"), "{missing}");
        let id = crate::units::SourceId(0);
        let freshness = Duration::from_secs(60);
        let mut agent = shm::Shm::open(id, &path, 0o600, freshness, clock::now()).unwrap();
        let mut radio = Radio::open(settings(Target::Shm(path))).unwrap();
        radio.try_once(Utilization::from_permille(123).unwrap()).unwrap();
        let mut heard = Vec::new();
        agent.read(clock::now(), &mut |observation| heard.push(observation.unwrap()));
        let levels: Vec<_> = heard.iter().map(|reading| (reading.cell, reading.observed)).collect();
        let level = Observed::Level {
            metric: Metric::PrbTotDl,
            level: Utilization::from_permille(123).unwrap(),
            late: Some(0),
        };
        assert_eq!(levels, [(CellId(7), level)]);
    }
}
