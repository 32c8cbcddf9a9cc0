//! How busy is the radio on stage? Plays a station's day to the agent, and watches from outside what workers use.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::measure::{self, Meter, Usage};
use crate::load::push;
use crate::sim::day::{Compressed, Day, SAMPLES};
use crate::sys::clock;
use crate::units::{CellId, Instant, Utilization};

/// The load is told again at least this often, well within the freshness of `config/lab.toml`.
const REPEAT: Duration = Duration::from_millis(40);
/// When the agent's socket is full, the next attempt follows after this.
const RETRY: Duration = Duration::from_millis(1);
/// Cell numbers are 1, 2, … like physical cell ids.
const FIRST_CELL: u64 = 1;

/// What is played.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Emulator {
    /// The day.
    pub(in crate::cli) day: Day,
    /// How fast it is played.
    pub(in crate::cli) length: Compressed,
    /// Which part is played, in played time since midnight; it may go on into the next day, which is the same.
    pub(in crate::cli) part: Range<Duration>,
    /// From here on the radio is busy.
    pub(in crate::cli) busy_above: Utilization,
    /// Below this it is in a trough.
    pub(in crate::cli) idle_below: Utilization,
    /// Whose CPU clocks are read.
    pub(in crate::cli) subject: Subject,
    /// Another process whose CPU clock is read at the same moments, and with it how long the first waited for cores.
    pub(in crate::cli) beside: Option<i32>,
    /// What the agent is told.
    pub(in crate::cli) told: Told,
}

/// Whose CPU clocks are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Subject {
    /// Whatever this agent starts: its workers.
    ChildrenOf(u32),
    /// These processes.
    Processes(Vec<i32>),
}

/// What the agent is told while a day is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Told {
    /// The day; after it the radio is idle until [`Emulator::play`] is told to stop.
    Day,
    /// The day, and the playing ends with it.
    DayOnce,
    /// That the radio is busy throughout, and the playing ends with the day.
    BusyOnce,
}

impl Subject {
    fn processes(&self) -> Vec<i32> {
        match self {
            Self::ChildrenOf(agent) => measure::children(*agent),
            Self::Processes(pids) => pids.clone(),
        }
    }
}

/// What the emulator is told while it plays.
#[derive(Debug, Default)]
pub(in crate::cli) struct Orders {
    idle: AtomicBool,
    stop: AtomicBool,
}

impl Orders {
    /// Cuts the day short: from now on the radio is idle.
    pub(in crate::cli) fn idle(&self) {
        self.idle.store(true, Ordering::Relaxed);
    }

    /// Ends the emulator.
    pub(in crate::cli) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What was played and seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Played {
    /// What the workers used.
    pub(in crate::cli) usage: Usage,
    /// How long they waited for a core, in the same terms.
    pub(in crate::cli) waits: Usage,
    /// What the process beside them used.
    pub(in crate::cli) beside: Usage,
    /// Time with the load below `idle_below`.
    pub(in crate::cli) trough: Duration,
    /// Time with the load at or above `busy_above`.
    pub(in crate::cli) busy: Duration,
    /// Datagrams the agent's socket took.
    pub(in crate::cli) sent: u64,
    /// Datagrams it did not take at the first attempt.
    pub(in crate::cli) refused: u64,
}

impl Emulator {
    /// Plays the day to the agent's socket until it is told to stop; meant for a thread of its own. `show` hears of each
    /// sample that begins ([`SAMPLES`] after the last) and must return at once.
    ///
    /// # Errors
    /// When no datagram socket can be made or `socket` does not exist.
    pub(in crate::cli) fn play(&self, socket: &Path, orders: &Orders, show: &Show<'_>) -> io::Result<Played> {
        let to = UnixDatagram::unbound()?;
        to.set_nonblocking(true)?;
        to.connect(socket)?;
        let mut run = Run::new(self, clock::now());
        while !orders.stop.load(Ordering::Relaxed) {
            run.is_cut |= orders.idle.load(Ordering::Relaxed);
            run.turn(&to, show);
            let now = clock::now();
            if run.is_over(now) {
                break;
            }
            thread::sleep(run.next_turn(now).since(now));
        }
        Ok(run.end(clock::now()))
    }

    /// The load of each cell in sample `index`; idle after the day's end.
    fn loads(&self, index: Option<usize>) -> impl Iterator<Item = Utilization> {
        self.day.cells().iter().map(move |cell| index.map_or(Utilization::IDLE, |index| cell.at(index)))
    }
}

/// Hears of each sample that begins, and its load.
pub(in crate::cli) type Show<'a> = dyn Fn(usize, Utilization) + 'a;

/// A day being played.
struct Run<'a> {
    emulator: &'a Emulator,
    meter: Meter,
    waits: Meter,
    beside: Meter,
    played: Played,
    workers: Vec<i32>,
    started: Instant,
    /// Sample in force, `None` after the day's end; the outer one until the first is sent.
    index: Option<Option<usize>>,
    /// The rest of the day is left out.
    is_cut: bool,
    level: Level,
    level_since: Instant,
    /// When the load was last told.
    told: Instant,
    /// A datagram that the agent's socket has not taken yet.
    unsent: Option<String>,
}

/// What the load means to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Idle,
    Between,
    Busy,
}

impl<'a> Run<'a> {
    fn new(emulator: &'a Emulator, now: Instant) -> Self {
        let mut run = Self {
            emulator,
            meter: Meter::default(),
            waits: Meter::default(),
            beside: Meter::default(),
            played: Played::default(),
            workers: emulator.subject.processes(),
            started: now,
            index: None,
            is_cut: false,
            level: Level::Between,
            level_since: now,
            told: now,
            unsent: None,
        };
        run.read_clocks();
        run
    }

    /// Where in the day it is, in played time since midnight.
    fn position(&self, now: Instant) -> Duration {
        self.emulator.part.start + now.since(self.started)
    }

    /// Whether the day has ended, and the playing with it.
    fn is_over(&self, now: Instant) -> bool {
        match self.emulator.told {
            Told::Day => false,
            Told::DayOnce | Told::BusyOnce => self.position(now) >= self.emulator.part.end,
        }
    }

    /// Does what is due now.
    fn turn(&mut self, to: &UnixDatagram, show: &Show<'_>) {
        let now = clock::now();
        if self.meter.late_at().is_some_and(|late| late <= now) {
            self.read_clocks();
            self.meter.late();
        }
        let position = self.position(now);
        let plays = position < self.emulator.part.end && !self.is_cut;
        let index = plays.then(|| self.emulator.length.count(position));
        if self.index != Some(index) {
            self.begin(index, to, show);
        } else if self.unsent.is_some() {
            self.send(to);
        } else if now >= self.told.after(REPEAT) {
            self.tell(index, now, to);
            // Not while it matters: looking for new workers takes longer than reading the clocks of known ones.
            self.workers = self.emulator.subject.processes();
            self.read_clocks();
        }
    }

    /// Begins a sample. The clocks are read before the agent can know of a rise, and before it can know of a fall.
    fn begin(&mut self, index: Option<usize>, to: &UnixDatagram, show: &Show<'_>) {
        let load = self.emulator.loads(index).max().unwrap_or(Utilization::FULL);
        let level = self.emulator.level(load);
        let (rises, falls) =
            (level == Level::Busy && self.level != level, level != Level::Busy && self.level == Level::Busy);
        // Workers may have been started since the last sample. One that is found only at a fall would have all that it
        // ever used counted as used while busy.
        self.workers = self.emulator.subject.processes();
        self.read_clocks();
        let now = clock::now();
        if rises {
            self.meter.rises(now);
        }
        if falls {
            self.meter.falls();
        }
        self.tell(index, now, to);
        self.enter(level, now);
        self.index = Some(index);
        show(index.unwrap_or(SAMPLES), load);
    }

    fn read_clocks(&mut self) {
        self.meter.read(&measure::cpu_of(&self.workers));
        if let Some(pid) = self.emulator.beside {
            self.waits.read(&measure::waits_of(&self.workers));
            self.beside.read(&measure::cpu_of(&[pid]));
        }
    }

    /// Tells the agent the load of every cell, stamped `now`.
    fn tell(&mut self, index: Option<usize>, now: Instant, to: &UnixDatagram) {
        let mut lines = String::new();
        for (cell, load) in (FIRST_CELL..).zip(self.emulator.loads(index)) {
            let load = match self.emulator.told {
                Told::Day | Told::DayOnce => load,
                Told::BusyOnce => Utilization::FULL,
            };
            let downlink = u8::try_from(load.permille() / 10).unwrap_or(100);
            // Most traffic of a mobile network flows down.
            let uplink = downlink / 3;
            lines.push_str(&push::encode(CellId(cell), Some(downlink), Some(uplink), Some(0), Some(now), false));
        }
        self.told = now;
        self.unsent = Some(lines);
        self.send(to);
    }

    fn send(&mut self, to: &UnixDatagram) {
        let Some(lines) = &self.unsent else { return };
        match to.send(lines.as_bytes()) {
            Ok(_) => self.played.sent += 1,
            // A full socket takes it a moment later; a dead agent is noticed by whoever started it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.played.refused += 1;
                return;
            }
            Err(_) => self.played.refused += 1,
        }
        self.unsent = None;
    }

    /// The level changes: the clocks were read a moment ago.
    fn enter(&mut self, level: Level, now: Instant) {
        if level != self.level {
            match level {
                Level::Idle => [&mut self.meter, &mut self.waits, &mut self.beside].map(Meter::trough_begins),
                Level::Between | Level::Busy => {
                    [&mut self.meter, &mut self.waits, &mut self.beside].map(Meter::trough_ends)
                }
            };
        }
        let spent = now.since(self.level_since);
        match self.level {
            Level::Idle => self.played.trough += spent,
            Level::Busy => self.played.busy += spent,
            Level::Between => {}
        }
        (self.level, self.level_since) = (level, now);
    }

    /// When there is something to do again.
    fn next_turn(&self, now: Instant) -> Instant {
        if self.unsent.is_some() {
            return now.after(RETRY);
        }
        let sample = match self.index {
            Some(Some(index)) => {
                let begin = self.emulator.length.start(index + 1).min(self.emulator.part.end);
                Some(self.started.after(begin.saturating_sub(self.emulator.part.start)))
            }
            Some(None) | None => None,
        };
        [sample, self.meter.late_at()].into_iter().flatten().fold(self.told.after(REPEAT), Ord::min)
    }

    /// Closes what is open.
    fn end(mut self, now: Instant) -> Played {
        self.read_clocks();
        self.meter.falls();
        self.enter(Level::Between, now);
        Played { usage: self.meter.usage(), waits: self.waits.usage(), beside: self.beside.usage(), ..self.played }
    }
}

impl Emulator {
    fn level(&self, load: Utilization) -> Level {
        if load >= self.busy_above {
            Level::Busy
        } else if load < self.idle_below {
            Level::Idle
        } else {
            Level::Between
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Utilization;

    fn emulator(millis: u64) -> Emulator {
        let percent = |percent| Utilization::from_percent(percent).unwrap();
        Emulator {
            day: Day::new(3),
            length: Compressed { length: Duration::from_millis(millis) },
            part: Duration::ZERO..Duration::from_millis(millis),
            busy_above: percent(40),
            idle_below: percent(25),
            subject: Subject::ChildrenOf(std::process::id()),
            beside: Some(i32::try_from(std::process::id()).unwrap()),
            told: Told::Day,
        }
    }

    #[test]
    fn every_sample_of_the_day_reaches_the_socket_and_then_the_radio_is_idle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("push.sock");
        let agent = UnixDatagram::bind(&path).unwrap();
        agent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let shown = std::sync::atomic::AtomicUsize::new(0);
        let show = |index: usize, _: Utilization| shown.store(index, Ordering::Relaxed);
        let (orders, emulator) = (Orders::default(), emulator(1500));

        let (played, highest, last) = thread::scope(|scope| {
            let playing = scope.spawn(|| emulator.play(&path, &orders, &|index, load| show(index, load)));
            let mut highest = 0;
            let mut buffer = [0; 4096];
            let mut idle_in_a_row = 0;
            let mut last = String::new();
            while idle_in_a_row < 20 {
                let length = agent.recv(&mut buffer).unwrap();
                last = String::from_utf8(buffer[..length].to_vec()).unwrap();
                let levels: Vec<u64> = last
                    .lines()
                    .map(|line| {
                        serde_json::from_str::<serde_json::Value>(line).unwrap()["RRU.PrbTotDl"].as_u64().unwrap()
                    })
                    .collect();
                let level = levels.into_iter().max().unwrap();
                highest = highest.max(level);
                idle_in_a_row = if level == 0 { idle_in_a_row + 1 } else { 0 };
            }
            orders.stop();
            (playing.join().unwrap().unwrap(), highest, last)
        });

        let expected = (0..SAMPLES).map(|index| emulator.day.load(index).permille() / 10).max().unwrap();
        assert!(highest >= 40 && highest <= u64::from(expected), "highest {highest} of {expected}");
        assert_eq!(last.lines().count(), emulator.day.cells().len());
        assert!(last.contains("mono_ns"), "{last}");
        assert!(played.usage.busy_periods > 0 && played.trough > Duration::ZERO && played.busy > Duration::ZERO);
    }

    #[test]
    fn a_part_of_the_day_ends_by_itself_and_a_busy_one_tells_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("push.sock");
        let agent = UnixDatagram::bind(&path).unwrap();
        agent.set_nonblocking(true).unwrap();
        let part = Duration::from_millis(2100)..Duration::from_millis(2400);
        let emulator = Emulator { part, told: Told::BusyOnce, ..emulator(2000) };

        let seen = std::cell::RefCell::new(Vec::new());
        let played = emulator.play(&path, &Orders::default(), &|index, _| seen.borrow_mut().push(index)).unwrap();

        let mut buffer = [0; 4096];
        let mut told = 0;
        while let Ok(length) = agent.recv(&mut buffer) {
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            assert!(text.lines().all(|line| line.contains("\"RRU.PrbTotDl\":100")), "{text}");
            told += 1;
        }
        let seen = seen.into_inner();
        assert!(told > 0 && played.sent >= told, "{told} of {}", played.sent);
        assert_eq!(seen.first(), Some(&emulator.length.count(emulator.part.start)));
        assert!(seen.iter().all(|index| (SAMPLES..2 * SAMPLES).contains(index)), "the next day: {seen:?}");
        assert!(played.beside.cpu >= played.beside.while_idle, "{played:?}");
    }

    #[test]
    fn limits_cut_the_load_into_idle_between_and_busy() {
        let emulator = emulator(1);
        let level = |percent| emulator.level(Utilization::from_percent(percent).unwrap());
        assert_eq!(
            [level(24), level(25), level(39), level(40)],
            [Level::Idle, Level::Between, Level::Between, Level::Busy]
        );
    }
}
