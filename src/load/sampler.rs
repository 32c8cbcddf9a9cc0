//! How is `/proc` read without holding up the sentinel? On a thread of its own.
//!
//! A look at `/proc` takes from ten microseconds to milliseconds, in which a datagram that says *busy* would have to
//! wait. So a [`Sampler`] looks at its own pace, and to the sentinel it is one more event-driven source. Should its
//! thread be starved or die, its readings go stale, which means busy.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::{Observation, Problem, Source};
use crate::sys::{clock, event::Doorbell};
use crate::units::Instant;

/// Observations that wait for the sentinel at most; older ones are dropped for newer ones.
const WAITING_MAX: usize = 4;
/// Stack of the thread: it reads files into buffers on the heap.
const STACK_BYTES: usize = 256 * 1024;

/// Something that is looked at once a period.
pub trait Probe: Send + 'static {
    /// Looks; `clock` tells the time. `None` when there is nothing to say yet.
    fn look(&mut self, clock: &dyn Fn() -> Instant) -> Option<Observation>;
}

/// Runs a [`Probe`] on its own thread until dropped.
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    waiting: ArrayQueue<Observation>,
    doorbell: Doorbell,
    ended: AtomicBool,
}

impl Sampler {
    /// Starts the thread.
    pub fn start(mut probe: impl Probe, period: Duration) -> Result<Self, Problem> {
        let failed = |error| {
            let remedy = "raise the limits of open files and of tasks of the agent's service";
            Problem::io("start the thread that reads", Path::new("/proc"), error, remedy)
        };
        let (waiting, doorbell) = (ArrayQueue::new(WAITING_MAX), Doorbell::new().map_err(failed)?);
        let shared = Arc::new(Shared { waiting, doorbell, ended: AtomicBool::new(false) });
        let theirs = Arc::clone(&shared);
        let run = move || {
            while !theirs.ended.load(Ordering::Acquire) {
                if let Some(observation) = probe.look(&clock::now) {
                    theirs.waiting.force_push(observation);
                    theirs.doorbell.ring();
                }
                thread::park_timeout(period);
            }
        };
        let builder = thread::Builder::new().name("neap-procfs".to_owned()).stack_size(STACK_BYTES);
        let thread = builder.spawn(run).map_err(failed)?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Source for Sampler {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.doorbell.as_fd())
    }

    fn next_poll(&self) -> Option<Instant> {
        None
    }

    fn read(&mut self, _now: Instant, sink: &mut dyn FnMut(Observation)) {
        // The bell first: what is pushed after the queue was emptied rings it again.
        self.shared.doorbell.clear();
        for _ in 0..WAITING_MAX {
            match self.shared.waiting.pop() {
                Some(observation) => sink(observation),
                None => return,
            }
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
