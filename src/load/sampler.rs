//! How is `/proc` read without holding up the sentinel? On a thread of its own.
//!
//! A look at `/proc` takes from ten microseconds to milliseconds, in which a datagram that says *busy* would have to
//! wait. So a [`Sampler`] looks at its own pace, and to the sentinel it is one more event-driven source. Should its
//! thread be starved or die, its readings go stale, which means busy.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{ClockId, clock_gettime};

use super::{Observation, Problem, Source};
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
    doorbell: OwnedFd,
    ended: AtomicBool,
}

impl Sampler {
    /// Starts the thread.
    pub fn start(mut probe: impl Probe, period: Duration) -> Result<Self, Problem> {
        let failed = |error| {
            let remedy = "raise the limits of open files and of tasks of the agent's service";
            Problem::io("start the thread that reads", Path::new("/proc"), error, remedy)
        };
        let doorbell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let waiting = ArrayQueue::new(WAITING_MAX);
        let shared = Arc::new(Shared { waiting, doorbell, ended: AtomicBool::new(false) });
        let theirs = Arc::clone(&shared);
        let run = move || {
            while !theirs.ended.load(Ordering::Acquire) {
                if let Some(observation) = probe.look(&monotonic) {
                    theirs.waiting.force_push(observation);
                    // Fails only when the counter is full, and then the bell is ringing already.
                    let _ = rustix::io::write(&theirs.doorbell, &1_u64.to_ne_bytes());
                }
                thread::park_timeout(period);
            }
        };
        let builder = thread::Builder::new().name("neap-procfs".to_owned()).stack_size(STACK_BYTES);
        let thread = builder.spawn(run).map_err(failed)?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

/// `CLOCK_MONOTONIC`: nanoseconds since its origin.
fn monotonic() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
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
        let _ = rustix::io::read(&self.shared.doorbell, &mut [0_u8; 8]);
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
