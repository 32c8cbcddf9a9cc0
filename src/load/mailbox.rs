//! How does a thread that waits for the outside hand over what it saw? Through a bounded queue with a doorbell.
//!
//! What takes time, allocates or speaks a protocol is not done on the sentinel's thread. A thread of the source's own
//! does it and posts [`Observation`]s; to the sentinel the [`Mailbox`] is one more event-driven source. Should that
//! thread be starved or die, its readings go stale, which means busy. When the queue is full the oldest observation
//! gives way to the newest: a running count says the same with its next value.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::{Observation, READ_MAX, Source};
use crate::sys::event::Doorbell;
use crate::sys::sched;

/// Stack of the thread: what it reads goes into buffers on the heap.
const STACK_BYTES: usize = 256 * 1024;
/// Slice of the thread, in µs: it works seldom and shortly, and what it has to say may be a stop.
const SLICE_US: u32 = 100;

/// The sentinel's end. Dropping it ends the thread.
#[derive(Debug)]
pub struct Mailbox {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The thread's end.
#[derive(Clone, Debug)]
pub struct Poster {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    waiting: ArrayQueue<Observation>,
    /// Rings for the sentinel.
    doorbell: Doorbell,
    /// Rings for the thread when it is to end.
    leave: Doorbell,
    ended: AtomicBool,
}

impl Mailbox {
    /// A mailbox that somebody else in this process posts to. [`Poster::is_over`] tells that nobody reads it any more.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn pair(waiting_max: usize) -> io::Result<(Self, Poster)> {
        let shared = Arc::new(Shared::new(waiting_max)?);
        Ok((Self { shared: Arc::clone(&shared), thread: None }, Poster { shared }))
    }

    /// Starts a thread of this name (at most 15 bytes) that runs `work`. It must return soon after [`Poster::is_over`]
    /// is true, and look at that whenever [`Poster::leave_fd`] is readable, or it was unparked.
    ///
    /// # Errors
    /// When the system has no thread or no descriptor left.
    pub fn start(name: &str, waiting_max: usize, work: impl FnOnce(&Poster) + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(waiting_max)?);
        let poster = Poster { shared: Arc::clone(&shared) };
        let builder = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
        let run = move || {
            // Refused by some kernels: then it waits its turn like any thread.
            let _refused = sched::short_slice_self(SLICE_US);
            work(&poster);
        };
        let thread = builder.spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Shared {
    fn new(waiting_max: usize) -> io::Result<Self> {
        let (doorbell, leave) = (Doorbell::new()?, Doorbell::new()?);
        let waiting = ArrayQueue::new(waiting_max.max(1));
        Ok(Self { waiting, doorbell, leave, ended: AtomicBool::new(false) })
    }
}

impl Poster {
    /// Hands an observation over; the oldest gives way when there is no room.
    pub fn post(&self, observation: Observation) {
        self.shared.waiting.force_push(observation);
        self.shared.doorbell.ring();
    }

    /// Whether the mailbox is gone.
    pub fn is_over(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Readable once the mailbox is gone: for threads that sleep in `poll`.
    pub fn leave_fd(&self) -> BorrowedFd<'_> {
        self.shared.leave.as_fd()
    }

    /// Sleeps so long, or until the mailbox is gone.
    pub fn rest(&self, span: Duration) {
        if !self.is_over() {
            thread::park_timeout(span);
        }
    }
}

impl Source for Mailbox {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.doorbell.as_fd())
    }

    fn next_poll(&self) -> Option<crate::units::Instant> {
        None
    }

    fn read(&mut self, _now: crate::units::Instant, sink: &mut dyn FnMut(Observation)) {
        // The bell first: what is pushed after the queue was emptied rings it again.
        self.shared.doorbell.clear();
        for _ in 0..READ_MAX {
            match self.shared.waiting.pop() {
                Some(observation) => sink(observation),
                None => return,
            }
        }
        if !self.shared.waiting.is_empty() {
            self.shared.doorbell.ring();
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.leave.ring();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panics aborts the process, so there is no error to see here.
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::load::Malformed;
    use crate::sys::clock;
    use crate::units::SourceId;

    fn observation(why: &'static str) -> Observation {
        Err(Malformed { source: SourceId(0), why })
    }

    fn heard(mailbox: &mut Mailbox) -> Vec<&'static str> {
        let mut heard = Vec::new();
        mailbox.read(clock::now(), &mut |observation| heard.push(observation.unwrap_err().why));
        heard
    }

    #[test]
    fn the_oldest_gives_way_and_the_order_is_kept() {
        let (done, is_done) = mpsc::sync_channel(1);
        let mut mailbox = Mailbox::start("test-mail", 2, move |poster| {
            ["first", "second", "third"].into_iter().for_each(|why| poster.post(observation(why)));
            done.send(()).unwrap();
        })
        .unwrap();
        is_done.recv().unwrap();
        assert_eq!(heard(&mut mailbox), ["second", "third"]);
        assert_eq!(heard(&mut mailbox), [""; 0]);
    }

    #[test]
    fn a_thread_that_rests_for_long_ends_with_its_mailbox() {
        let mailbox = Mailbox::start("test-mail", 2, |poster| {
            while !poster.is_over() {
                poster.rest(Duration::from_secs(3600));
            }
        })
        .unwrap();
        drop(mailbox);
    }
}
