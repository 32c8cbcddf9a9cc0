//! How does the agent's loop wait for a descriptor that another thread rings?

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A descriptor of ours that the tokio runtime watches for reading.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Watches a descriptor; needs a runtime.
    ///
    /// # Errors
    /// When the kernel cannot poll it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the value that moves in, which is never replaced, closed or given out
        // before the registration is dropped with it.
        let watched = unsafe { AsyncFd::register(fd) };
        Ok(Self(watched?))
    }

    /// Watches a descriptor for urgent events (`EPOLLPRI`) and nothing else; needs a runtime.
    ///
    /// # Errors
    /// When the kernel cannot poll it.
    pub fn urgent_only(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: as in `new`.
        let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::PRIORITY) };
        Ok(Self(watched?))
    }

    /// Resolves when something urgent has happened. Clear the guard to wait for the next.
    ///
    /// # Errors
    /// When the runtime is ending.
    pub async fn urgent(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.ready(Interest::PRIORITY).await
    }

    /// Resolves when there is something to read. Clear the guard after the descriptor itself was cleared.
    ///
    /// # Errors
    /// When the runtime is ending.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }
}
