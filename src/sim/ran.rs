//! How does a DU behave where none is at hand? Periodic threads that do real work in every slot, each with a deadline.
//!
//! One thread for each core given. At the begin of its slot it wakes, does work in proportion to the load curve, and
//! sleeps until the next slot. Work that ends after the deadline is a missed slot, and so is a slot that began while the
//! thread was still at work on an earlier one. A further thread tells the load to a real load source.
//!
//! ```text
//!  curve ──▶ slot threads: wake, work, deadline ──missed──▶ radio thread ──push, UDP, shm──▶ agent
//!  curve ──────────────────────────────────────────────────▶   (each change at its moment, repeats)
//! ```
//!
//! It does not harm its machine: a thread rests between any two slots whatever happens, gives a slot up that takes many
//! times its length, and ends at a set time. Load of 100 % is a set share of the slot ([`Settings::peak`]), which is
//! found by measuring the work on the quiet core.

pub mod curve;
pub mod radio;
pub mod slots;
pub mod work;

mod calibrate;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::sys::{clock, sched};
use crate::units::{Instant, Utilization};
use curve::Curve;
use radio::{Radio, Told, Wire};
use slots::{Account, Grid};
use work::{Kind, Work};

/// Most cores, so most slot threads.
pub const CORES_MAX: usize = 64;
/// Shortest and longest slot: 60 kHz subcarriers have 0.25 ms, a radio frame is 10 ms.
pub const SLOT: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(10));
/// Longest deadline, in slots.
pub const DEADLINE_SLOTS_MAX: u32 = 10;
/// Highest share of a slot that full load may take; the rest is what other threads of the machine live on.
pub const PEAK_MAX: Utilization = match Utilization::from_percent(95) {
    Some(peak) => peak,
    None => Utilization::FULL,
};
/// Longest run.
pub const LASTING_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Memory that a thread works in.
pub const BYTES_MAX: usize = 1 << 30;

/// A thread rests at least this part of a slot between two slots.
const REST_PART: u32 = 20;
/// A slot's work is given up after so many slots.
const GIVE_UP_SLOTS: u32 = 20;
/// Units of work between two looks at the clock.
const LOOK_UNITS: u64 = 8;
/// From the start of the threads to their first slot.
const LEAD: Duration = Duration::from_millis(20);

/// What the emulator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// One thread is bound to each; 1 to [`CORES_MAX`] different ones.
    pub cores: Vec<usize>,
    /// Length of a slot, within [`SLOT`].
    pub slot: Duration,
    /// Time from the begin of a slot to the deadline of its work.
    pub deadline: Duration,
    /// Share of the slot that full load takes on a quiet core, up to [`PEAK_MAX`].
    pub peak: Utilization,
    /// What is done.
    pub work: Kind,
    /// Bytes of the working set of the random walk; `None`: half of the core's cache of level 2.
    pub cache_bytes: Option<usize>,
    /// Bytes of the buffer that is streamed through.
    pub stream_bytes: usize,
    /// SCHED_FIFO priority to ask for, 1 to 99; SCHED_OTHER without.
    pub priority: Option<u8>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    /// The load.
    pub curve: Curve,
    /// How long, up to [`LASTING_MAX`].
    pub lasting: Duration,
    /// To whom the load is told.
    pub radio: Option<radio::Settings>,
}

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting out of its range.
    #[error("{what} {value} is not allowed: {rule}")]
    Setting {
        /// Name.
        what: &'static str,
        /// Value.
        value: String,
        /// What it may be.
        rule: String,
    },
    /// The core is not there, or not ours.
    #[error("cannot bind a thread to core {core}: {source}; this process may use the cores {allowed:?}")]
    Core {
        /// Which.
        core: usize,
        /// Why not.
        source: io::Error,
        /// Those that may be used.
        allowed: Vec<usize>,
    },
    /// Nobody takes the load.
    #[error("cannot tell the load to {place}: {source}; is the agent running, and is that where its [[load]] listens?")]
    Radio {
        /// Where.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// All threads together.
    pub account: Account,
    /// How it was told.
    pub told: Told,
    /// How long it ran.
    pub lasted: Duration,
}

/// An emulator that is calibrated and not running.
#[derive(Debug)]
pub struct Ran {
    settings: Settings,
    cores: Vec<Core>,
    is_fifo: bool,
}

/// What a slot thread brings along.
#[derive(Debug)]
struct Core {
    number: usize,
    work: Work,
    /// Time of one unit of the work on the quiet core, in ns.
    unit_ns: f64,
}

/// An emulator that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    settings: Settings,
    shared: Arc<Shared>,
    begun: Instant,
    slots: Vec<SlotThread>,
    radio: Option<JoinHandle<Told>>,
    is_fifo: bool,
}

/// Gives back what it was given, and its account.
type SlotThread = JoinHandle<(Core, Account)>;

/// What the threads of a run share.
#[derive(Debug)]
struct Shared {
    grid: Grid,
    end: Instant,
    curve: Curve,
    wire: Wire,
    stop: AtomicBool,
    slots: AtomicU64,
    missed: AtomicU64,
}

impl Settings {
    /// Checks every figure.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), Error> {
        let bad = |what, value: String, rule: String| Err(Error::Setting { what, value, rule });
        let distinct = (1..).zip(&self.cores).all(|(next, core)| !self.cores[next..].contains(core));
        if self.cores.is_empty() || self.cores.len() > CORES_MAX || !distinct {
            let rule = format!("give 1 to {CORES_MAX} different ones");
            return bad("the list of cores", format!("{:?}", self.cores), rule);
        }
        if self.slot < SLOT.0 || self.slot > SLOT.1 {
            return bad("a slot of", format!("{:?}", self.slot), format!("give {:?} to {:?}", SLOT.0, SLOT.1));
        }
        if self.deadline.is_zero() || self.deadline > self.slot * DEADLINE_SLOTS_MAX {
            let rule = format!("it must be above 0 and at most {DEADLINE_SLOTS_MAX} slots");
            return bad("a deadline of", format!("{:?}", self.deadline), rule);
        }
        if self.peak == Utilization::IDLE || self.peak > PEAK_MAX {
            let rule = format!("full load must take more than nothing and at most {PEAK_MAX} of the slot");
            return bad("a peak of", self.peak.to_string(), rule);
        }
        let bytes = self.cache_bytes.unwrap_or_default().max(self.stream_bytes);
        if bytes > BYTES_MAX {
            return bad("a memory of", format!("{bytes} bytes"), format!("give at most {BYTES_MAX} bytes"));
        }
        Ok(())
    }

    /// Bytes that the walk of a thread on that core goes through.
    pub fn cache_bytes_of(&self, core: usize) -> usize {
        /// Where the machine does not tell.
        const UNKNOWN: usize = 1 << 20;
        // Half, because pages lie where they lie: all of them would not find a place at the same time.
        let half = || sched::level_2_cache_bytes(core).unwrap_or(UNKNOWN) / 2;
        self.cache_bytes.unwrap_or_else(half).min(BYTES_MAX)
    }
}

impl Ran {
    /// Takes the memory, binds a thread to each core and finds out how long the work takes there. Takes 100 to 300 ms;
    /// the machine should be as quiet as it gets.
    ///
    /// # Errors
    /// A setting that cannot be, or a core that is not ours.
    pub fn prepare(settings: Settings) -> Result<Self, Error> {
        settings.check()?;
        // All at once, as they will run: what the threads take from one another is the RAN's own.
        let barrier = Arc::new(Barrier::new(settings.cores.len()));
        let threads: Vec<_> =
            settings.cores.iter().map(|core| (*core, calibrator(&settings, *core, &barrier))).collect();
        let mut cores = Vec::new();
        let mut is_fifo = settings.priority.is_some();
        for (core, thread) in threads {
            let (work, unit_ns, fifo) = join(thread.map_err(Error::Thread)?).map_err(|source| Error::Core {
                core,
                source,
                allowed: sched::cores(),
            })?;
            is_fifo &= fifo;
            cores.push(Core { number: core, work, unit_ns });
        }
        Ok(Self { settings, cores, is_fifo })
    }

    /// What it is.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether the slot threads run as SCHED_FIFO; SCHED_OTHER if not.
    pub fn is_fifo(&self) -> bool {
        self.is_fifo
    }

    /// Time of one unit of work on each core when it was quietest, in ns.
    pub fn unit_ns(&self) -> Vec<(usize, f64)> {
        self.cores.iter().map(|core| (core.number, core.unit_ns)).collect()
    }

    /// Starts a run.
    ///
    /// # Errors
    /// Nobody takes the load, or there is no thread.
    pub fn start(self, play: Play) -> Result<Running, Error> {
        let Self { settings, cores, is_fifo } = self;
        let radio = play.radio.map(|radio| open(radio, &play.curve)).transpose()?;
        let begun = clock::now().after(LEAD);
        let (slot, deadline) = (settings.slot, settings.deadline);
        let grid = Grid { start: begun, slot, deadline, rest: slot / REST_PART };
        let shared = Arc::new(Shared {
            grid,
            end: begun.after(play.lasting.min(LASTING_MAX)),
            curve: play.curve,
            wire: Wire::default(),
            stop: AtomicBool::new(false),
            slots: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        });
        let mut running = Running { settings, shared, begun, slots: Vec::new(), radio: None, is_fifo };
        // The radio first: a run must not be told of later than it begins.
        if let Some(radio) = radio {
            running.radio = Some(running.radio_thread(radio).map_err(Error::Thread)?);
        }
        for core in cores {
            let thread = running.slot_thread(core).map_err(Error::Thread)?;
            running.slots.push(thread);
        }
        Ok(running)
    }
}

impl Running {
    /// When the first slot begins.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// When it ends by itself.
    pub fn end(&self) -> Instant {
        self.shared.end
    }

    /// Slots due and missed so far.
    pub fn so_far(&self) -> (u64, u64) {
        (self.shared.slots.load(Relaxed), self.shared.missed.load(Relaxed))
    }

    /// The load in force.
    pub fn load(&self, now: Instant) -> Utilization {
        self.shared.curve.at(now.since(self.begun))
    }

    /// Ends it before its time, at the next slot.
    pub fn stop(&self) {
        self.shared.stop.store(true, Relaxed);
    }

    /// Waits for its end and gives the emulator back, for another run with the same memory and calibration.
    pub fn finish(mut self) -> (Ran, Outcome) {
        let mut outcome = Outcome::default();
        let mut cores = Vec::new();
        for thread in std::mem::take(&mut self.slots) {
            let (core, account) = join(thread);
            outcome.account.add(&account);
            cores.push(core);
        }
        self.shared.wire.stop();
        if let Some(radio) = self.radio.take() {
            outcome.told = join(radio);
        }
        outcome.lasted = clock::now().min(self.shared.end).since(self.begun);
        (Ran { settings: self.settings.clone(), cores, is_fifo: self.is_fifo }, outcome)
    }

    fn slot_thread(&self, mut core: Core) -> io::Result<SlotThread> {
        let shared = Arc::clone(&self.shared);
        let priority = self.settings.priority;
        let full = full_units(&self.settings, core.unit_ns);
        thread::Builder::new().name(format!("ransim-{}", core.number)).spawn(move || {
            let mut account = Account::default();
            // It was there when it was calibrated; without it the thread runs where it may, which is told by lateness.
            let _bound = prepare_thread(core.number, priority);
            shared.play(&mut core.work, full, &mut account);
            (core, account)
        })
    }

    fn radio_thread(&self, radio: Radio) -> io::Result<JoinHandle<Told>> {
        let shared = Arc::clone(&self.shared);
        let priority = self.settings.priority;
        thread::Builder::new().name("ransim-radio".to_owned()).spawn(move || {
            let _exact = sched::exact_timers_self();
            let _fifo = priority.map(sched::fifo_self);
            radio.run(&shared.curve, shared.grid.start, &shared.wire)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        self.shared.wire.stop();
    }
}

impl Shared {
    /// The life of a slot thread. Between its first and its last slot it neither allocates nor locks.
    fn play(&self, work: &mut Work, full: u64, account: &mut Account) {
        let Self { grid, end, curve, .. } = self;
        let mut number = 0;
        while grid.begin(number) < *end && !self.stop.load(Relaxed) {
            clock::sleep_until(grid.begin(number));
            let woke = clock::now();
            let level = curve.at(grid.begin(number).since(grid.start));
            if !do_slot(work, units(level, full), grid.begin(number).after(grid.slot * GIVE_UP_SLOTS)) {
                account.given_up += 1;
            }
            let done = clock::now();
            self.wire.worked(done.since(grid.begin(number)));
            let mut missed = u64::from(account.worked(grid, number, woke, done));
            let next = grid.next(number, done);
            let skipped = (number + 1..next).take_while(|number| grid.begin(*number) < *end).count() as u64;
            if skipped > 0 {
                account.skipped(skipped);
                missed += skipped;
            }
            self.slots.fetch_add(1 + skipped, Relaxed);
            if missed > 0 {
                self.missed.fetch_add(missed, Relaxed);
                self.wire.missed(missed);
            }
            number = next;
        }
    }
}

/// Units of work at that load.
fn units(level: Utilization, full: u64) -> u64 {
    (full.saturating_mul(u64::from(level.permille())) + 500) / 1000
}

/// Units of work at full load.
fn full_units(settings: &Settings, unit_ns: f64) -> u64 {
    let share = f64::from(settings.peak.permille()) / 1000.0;
    let units = settings.slot.as_secs_f64() * 1e9 * share / unit_ns.max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a slot has at most 10 000 000 ns")]
    let units = units.round().clamp(1.0, 1e7) as u64;
    units
}

/// Does so many units, but nothing after `give_up`; says whether all were done.
fn do_slot(work: &mut Work, units: u64, give_up: Instant) -> bool {
    let mut left = units;
    while left > 0 {
        let part = left.min(LOOK_UNITS);
        for _ in 0..part {
            work.unit();
        }
        left -= part;
        if left > 0 && clock::now() >= give_up {
            return false;
        }
    }
    true
}

/// Opens the way to the agent and tells it the first load.
fn open(settings: radio::Settings, curve: &Curve) -> Result<Radio, Error> {
    let place = match &settings.target {
        radio::Target::Push(path) | radio::Target::Shm(path) => path.display().to_string(),
        radio::Target::Udp(address) => address.to_string(),
    };
    let opened = Radio::open(settings).and_then(|mut radio| {
        radio.try_once(curve.at(Duration::ZERO))?;
        Ok(radio)
    });
    opened.map_err(|source| Error::Radio { place, source })
}

type Calibrated = io::Result<(Work, f64, bool)>;

/// A thread that makes and calibrates the work of a core.
fn calibrator(settings: &Settings, core: usize, barrier: &Arc<Barrier>) -> io::Result<JoinHandle<Calibrated>> {
    let (settings, barrier) = (settings.clone(), Arc::clone(barrier));
    thread::Builder::new().name(format!("ransim-{core}")).spawn(move || {
        let bound = prepare_thread(core, settings.priority);
        let mut work = Work::new(settings.work, settings.cache_bytes_of(core), settings.stream_bytes);
        // Whoever could not be bound is waited for as well, or the others would wait for ever.
        barrier.wait();
        let is_fifo = bound?;
        let unit_ns = calibrate::unit_ns(&mut work);
        Ok((work, unit_ns, is_fifo))
    })
}

/// Binds this thread to its core and takes the best class; says whether that is SCHED_FIFO.
fn prepare_thread(core: usize, priority: Option<u8>) -> io::Result<bool> {
    sched::pin_self(core)?;
    // Without it sleeps end up to 50 µs late, which is told by lateness.
    let _exact = sched::exact_timers_self();
    Ok(priority.is_some_and(|priority| sched::fifo_self(priority).is_ok()))
}

/// The value of a thread; a panic in it goes on here.
fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests;
