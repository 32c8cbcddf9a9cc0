//! Who listens to the descriptors while the sentinel sleeps at a futex?
//!
//! A companion, "neap-ears", of the same scheduling class. It waits in `epoll` for everything that has a descriptor
//! (datagrams, the handle's doorbell, the workers' signals), notes what is readable, and rings the page's doorbell, so
//! that the sentinel has one thing to wait for. It reads nothing and decides nothing.
//!
//! No wake is lost: the companion notes before it rings, the sentinel reads the count of rings before it takes the notes,
//! and it sleeps only while the count is what it was then. A descriptor is reported once (`EPOLLONESHOT`) until the
//! sentinel has looked at it and asks for it again; what has arrived meanwhile is then reported at once. The notes are in
//! memory of our own: whoever may write the page can wake the sentinel in vain, which the flood limit bounds, but cannot
//! take a note away, and at the latest the sentinel looks at its next moment.

use std::io;
use std::os::fd::AsFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread::JoinHandle;

use super::wait::{Descriptors, Ready};
use super::watch;
use crate::load::shm::Bell;
use crate::sys::event::Doorbell;
use crate::units::Instant;

/// Sleep at the doorbell of a page, and the companion that listens meanwhile. Dropping it ends the companion.
#[derive(Debug)]
pub(super) struct Ears {
    bell: Bell,
    /// The page's source: looked at after every wake.
    page: Ready,
    /// The doorbell's count before the last look.
    rings: u32,
    notes: Arc<Notes>,
    companion: Option<JoinHandle<()>>,
}

/// What both share.
#[derive(Debug)]
struct Notes {
    descriptors: Descriptors,
    /// What is readable, as [`Ready`].
    ready: AtomicU32,
    /// The companion has ended, and should not have.
    deaf: AtomicBool,
    leave: Doorbell,
}

impl Ears {
    /// Starts the companion. The descriptors are watched with `ONESHOT`.
    pub(super) fn start(priority: Option<u8>, page: Ready, bell: Bell, descriptors: Descriptors) -> io::Result<Self> {
        let leave = Doorbell::new()?;
        descriptors.add(leave.as_fd(), Ready::LEAVE)?;
        let notes = Notes { descriptors, ready: AtomicU32::new(0), deaf: AtomicBool::new(false), leave };
        let notes = Arc::new(notes);
        let rings = bell.rings();
        let listen = {
            let (notes, bell) = (Arc::clone(&notes), bell.clone());
            move || {
                watch::prepare_thread(priority);
                if !matches!(catch_unwind(AssertUnwindSafe(|| listen(&notes, &bell))), Ok(Ok(()))) {
                    notes.deaf.store(true, SeqCst);
                    bell.ring();
                }
            }
        };
        let companion = std::thread::Builder::new().name("neap-ears".to_owned()).spawn(listen)?;
        Ok(Self { bell, page, rings, notes, companion: Some(companion) })
    }

    /// Sleeps until somebody rings or the moment has come.
    ///
    /// # Errors
    /// When the companion is gone: nothing but the page would be heard any more.
    pub(super) fn sleep(&mut self, until: Option<Instant>) -> io::Result<Ready> {
        self.bell.wait(self.rings, until)?;
        // Before everything else: what is noted or written after this count rings again.
        self.rings = self.bell.rings();
        let noted = Ready(self.notes.ready.swap(0, SeqCst));
        if self.notes.deaf.load(SeqCst) {
            return Err(io::Error::other("the thread that listens to the descriptors has ended"));
        }
        Ok(noted.and(self.page))
    }

    /// What the companion listens to.
    pub(super) fn descriptors(&self) -> &Descriptors {
        &self.notes.descriptors
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.notes.leave.ring();
        if let Some(companion) = self.companion.take() {
            // It catches its own panics.
            let _ended = companion.join();
        }
    }
}

/// The companion, until it is told to leave.
fn listen(notes: &Notes, bell: &Bell) -> io::Result<()> {
    loop {
        let ready = notes.descriptors.wait()?;
        if ready.has(Ready::LEAVE) {
            return Ok(());
        }
        if ready != Ready::default() {
            notes.ready.fetch_or(ready.0, SeqCst);
            bell.ring();
        }
    }
}
