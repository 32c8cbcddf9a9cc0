//! What does the thread wait for, and in which order does it act?

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll;

use super::pace::Flood;
use super::reflex::{Reflex, ReflexParts};
use super::stops::Stops;
use super::{Parts, Shared, YieldClass};
use crate::governor::Governor;
use crate::load::Source;
use crate::sys::event::Timer;
use crate::sys::{clock, sched, signal};
use crate::units::{Instant, SOURCES_MAX};
use crate::worker::gate::Gate;

/// Time slice to ask for when SCHED_FIFO is not permitted, in µs.
const SLICE_US: u32 = 100;
/// Rest after each wake of a flood.
const FLOOD_REST: Duration = Duration::from_millis(1);

/// Marks of descriptors in the event loop: a source has its index.
const DOORBELL: u64 = 100;
const TIMER: u64 = 101;
const CHILD: u64 = 102;
const EVENTS_MAX: usize = SOURCES_MAX + 3;

const _: () = assert!(SOURCES_MAX <= u8::BITS as usize, "ready sources are the bits of a u8");

/// Everything that the thread owns.
pub(super) struct Watch {
    epoll: OwnedFd,
    timer: Timer,
    /// What the timer is set to.
    armed: Option<Instant>,
    /// `None` where signalfd is refused: stops are then confirmed by timer.
    child_signal: Option<OwnedFd>,
    sources: Vec<Box<dyn Source>>,
    flood: Flood,
    /// The handle's: rings when it wants something.
    shared: Arc<Shared>,
    reflex: Reflex,
}

/// Which descriptors are readable.
#[derive(Clone, Copy, Default)]
struct Ready {
    sources: u8,
    doorbell: bool,
    timer: bool,
    child: bool,
}

/// Takes the best scheduling class that is permitted, and keeps SIGCHLD for the descriptor.
pub(super) fn prepare_thread(priority: Option<u8>) -> YieldClass {
    // Refused nowhere; without it stops are confirmed by timer.
    let _blocked = signal::block_child_signal();
    if let Some(priority) = priority.filter(|priority| sched::fifo_self(*priority).is_ok()) {
        return YieldClass::Fifo(priority);
    }
    match sched::short_slice_self(SLICE_US) {
        Ok(()) => YieldClass::ShortSlice,
        Err(_) => YieldClass::Other,
    }
}

/// Runs until told to leave. Whatever else ends the loop stops all workers and aborts: half an agent with a running
/// worker is the worst state.
pub(super) fn run_or_abort(mut watch: Watch, gate: &Gate) {
    match catch_unwind(AssertUnwindSafe(|| watch.run())) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => {
            gate.pass().stop_beyond(0);
            tracing::error!(%error, "the sentinel's event loop broke; all workers are stopped, aborting");
        }
        Err(_) => {
            gate.pass().stop_beyond(0);
            tracing::error!("the sentinel panicked; all workers are stopped, aborting");
        }
    }
    std::process::abort();
}

impl Watch {
    pub(super) fn new(parts: Parts, governor: Governor, gate: Arc<Gate>, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = Timer::new()?;
        let child_signal = signal::child_signal_fd().ok();
        let watch = |fd, mark| epoll::add(&epoll, fd, epoll::EventData::new_u64(mark), epoll::EventFlags::IN);
        watch(shared.doorbell.as_fd(), DOORBELL)?;
        watch(timer.as_fd(), TIMER)?;
        if let Some(child_signal) = &child_signal {
            watch(child_signal.as_fd(), CHILD)?;
        }
        for (mark, source) in (0..).zip(&parts.sources) {
            if let Some(fd) = source.fd() {
                watch(fd, mark)?;
            }
        }
        let now = clock::now();
        let Parts { fusion, grace, signal_again, confirm_kill, sources, .. } = parts;
        let stops = Stops::new(signal_again, confirm_kill);
        let reflex = Reflex::new(now, ReflexParts { fusion, governor, stops, grace }, gate, Arc::clone(&shared));
        Ok(Self { epoll, timer, armed: None, child_signal, sources, flood: Flood::default(), shared, reflex })
    }

    fn run(&mut self) -> io::Result<()> {
        self.reflex.announce(clock::now());
        loop {
            let ready = self.wait()?;
            self.hear(clock::now(), ready.sources);
            let now = clock::now();
            self.reflex.beat(now);
            self.reflex.on_time(now);
            if ready.doorbell {
                self.shared.doorbell.clear();
                self.reflex.obey(now);
            }
            if let (true, Some(child_signal)) = (ready.child, &self.child_signal) {
                signal::clear_child_signal(child_signal.as_fd());
            }
            self.reflex.confirm(ready.child);
            if self.reflex.may_leave() {
                return Ok(());
            }
            if self.flood.on_wake(now) {
                std::thread::sleep(FLOOD_REST);
            }
        }
    }

    /// Sleeps until something is readable or the next moment has come.
    fn wait(&mut self) -> io::Result<Ready> {
        let polls = self.sources.iter().filter_map(|source| source.next_poll());
        let wanted = polls.chain(self.reflex.next_moment()).min();
        if wanted != self.armed {
            self.timer.set(wanted)?;
            self.armed = wanted;
        }
        self.reflex.before_sleep();
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; EVENTS_MAX];
        let count = match epoll::wait(&self.epoll, &mut events[..], None) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut ready = Ready::default();
        for event in &events[..count.min(EVENTS_MAX)] {
            match event.data.u64() {
                DOORBELL => ready.doorbell = true,
                TIMER => ready.timer = true,
                CHILD => ready.child = true,
                source => {
                    ready.sources |= u8::try_from(source).ok().and_then(|n| 1_u8.checked_shl(n.into())).unwrap_or(0)
                }
            }
        }
        if ready.timer {
            self.timer.clear();
            self.armed = None;
        }
        Ok(ready)
    }

    /// Reads the sources that have something or are due, and acts on each observation by itself: a peak between two
    /// low readings of one datagram is a peak.
    ///
    /// Each gets its own moment: this thread may be displaced for milliseconds between wake and reading, and what was
    /// stamped meanwhile must not look as if it came from the future.
    fn hear(&mut self, now: Instant, ready: u8) {
        let reflex = &mut self.reflex;
        for (index, source) in self.sources.iter_mut().enumerate() {
            let due = source.next_poll().is_some_and(|at| at <= now);
            if due || ready & (1 << index) != 0 {
                source.read(now, &mut |observation| {
                    reflex.on_observation(clock::now(), observation);
                });
            }
        }
    }
}
