//! How soon has a thread read what was sent, when it does nothing else? What the kernel itself takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ways::{Bare, Feed, Way};
use crate::cli::failure::{Class, Failure};
use crate::sentinel::take_best_class;
use crate::sys::clock;
use crate::units::Instant;

/// Longest wait for one read; then the bench has failed.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A thread that reads, and the end that it hears from.
pub(super) struct Reader {
    feed: Box<dyn Feed>,
    arrived: Receiver<Instant>,
    leave: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts a thread of the sentinel's scheduling class.
    ///
    /// # Errors
    /// When the socket cannot be made or the thread not started.
    pub(super) fn start(way: &Way, folder: &std::path::Path, priority: Option<u8>) -> Result<Self, Failure> {
        let failed = |error| Failure::io(&format!("cannot open a bare socket for {}", way.name), &error);
        let Bare { feed, mut read } = (way.bare)(folder).map_err(failed)?;
        let leave = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&leave);
        let (tell, arrived) = sync_channel(1);
        let (tell_ready, ready) = sync_channel(1);
        let run = move || {
            take_best_class(priority);
            let _the_starter_waits = tell_ready.send(());
            while read().is_ok() && !over.load(SeqCst) {
                if tell.send(clock::now()).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("neap-bare-read".to_owned()).spawn(run).map_err(failed)?;
        let _ready_or_ended = ready.recv();
        Ok(Self { feed, arrived, leave, thread: Some(thread) })
    }

    /// One event: from right before it is handed over to its having been read.
    ///
    /// # Errors
    /// When it cannot be sent, or is not read within half a minute.
    pub(super) fn event(&mut self) -> Result<Duration, Failure> {
        let sent = clock::now();
        self.feed.rise(sent).map_err(|error| Failure::io("cannot send to the bare socket", &error))?;
        let arrived = self.arrived.recv_timeout(WAIT_MAX).map_err(|_| {
            let text = format!("a bare read took more than {} s; is the machine overloaded?", WAIT_MAX.as_secs());
            Failure::new(Class::TemporaryFailure, text)
        })?;
        Ok(arrived.since(sent))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.leave.store(true, SeqCst);
        // A thread that cannot be woken is left alone: the process ends soon.
        if self.feed.calm(clock::now()).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ended = thread.join();
        }
    }
}
