//! In which order does the thread act when it wakes?

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::pace::Flood;
use super::reflex::{Reflex, ReflexParts};
use super::rehearsal;
use super::stops::Stops;
use super::wait::{Ready, Wait};
use super::{Parts, Shared, YieldClass};
use crate::governor::{Governor, Policy};
use crate::load::Source;
use crate::sys::{clock, sched, signal};
use crate::units::Instant;
use crate::worker::gate::Gate;

/// Time slice to ask for when SCHED_FIFO is not permitted, in µs.
const SLICE_US: u32 = 100;
/// Rest after each wake of a flood.
const FLOOD_REST: Duration = Duration::from_millis(1);

/// Everything that the thread owns.
pub(super) struct Watch {
    wait: Wait,
    sources: Vec<Box<dyn Source>>,
    flood: Flood,
    /// The handle's: rings when it wants something.
    shared: Arc<Shared>,
    reflex: Reflex,
    policy: Policy,
}

/// Takes the best scheduling class that is permitted, and keeps SIGCHLD for the descriptor.
pub(super) fn prepare_thread(priority: Option<u8>) -> YieldClass {
    // Refused nowhere; without it stops are confirmed by timer.
    let _blocked = signal::block_child_signal();
    take_best_class(priority)
}

/// Takes the best scheduling class that is permitted, for whatever has to be as quick as the sentinel.
pub fn take_best_class(priority: Option<u8>) -> YieldClass {
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
        let Parts { policy, guard: _, fusion, grace, signal_again, confirm_kill, sources, priority } = parts;
        let wait = Wait::new(priority, &shared, &sources)?;
        let stops = Stops::new(signal_again, confirm_kill);
        let parts = ReflexParts { fusion, governor, stops, grace };
        let reflex = Reflex::new(clock::now(), parts, gate, Arc::clone(&shared));
        Ok(Self { wait, sources, flood: Flood::default(), shared, reflex, policy })
    }

    fn run(&mut self) -> io::Result<()> {
        rehearsal::run(&self.policy);
        self.reflex.announce(clock::now());
        self.shared.tell();
        loop {
            self.reflex.before_sleep();
            let polls = self.sources.iter().filter_map(|source| source.next_poll());
            let ready = self.wait.sleep(polls.chain(self.reflex.next_moment()).min())?;
            self.hear(clock::now(), ready);
            let now = clock::now();
            self.reflex.beat(now);
            self.reflex.on_time(now);
            if ready.has(Ready::DOORBELL) {
                self.shared.doorbell.clear();
                self.reflex.obey(now);
            }
            if ready.has(Ready::CHILD) {
                self.wait.clear_child_signal();
            }
            self.reflex.confirm(ready.has(Ready::CHILD));
            self.shared.tell();
            self.shared.passes.fetch_add(1, Relaxed);
            if self.reflex.may_leave() {
                return Ok(());
            }
            self.wait.again(ready, &self.shared, &self.sources)?;
            if self.flood.on_wake(now) {
                std::thread::sleep(FLOOD_REST);
            }
        }
    }

    /// Reads the sources that have something, then those that are due: a look at `/proc` takes longer than a datagram
    /// may wait. Acts on each observation by itself: a peak between two low readings of one datagram is a peak.
    ///
    /// Each gets its own moment: this thread may be displaced for milliseconds between wake and reading, and what was
    /// stamped meanwhile must not look as if it came from the future.
    fn hear(&mut self, now: Instant, ready: Ready) {
        let reflex = &mut self.reflex;
        let mut act = |observation| reflex.on_observation(clock::now(), observation);
        for (index, source) in self.sources.iter_mut().enumerate() {
            if ready.has(Ready::source(index)) {
                source.read(now, &mut act);
            }
        }
        for source in &mut self.sources {
            if source.next_poll().is_some_and(|at| at <= now) {
                source.read(now, &mut act);
            }
        }
    }
}
