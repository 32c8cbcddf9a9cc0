//! What stands between the database and its file? One that notes failed syncs, and holds writes back until they may go.

use std::collections::VecDeque;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{BackendError, StorageBackend};

/// Most bytes held back. Opening writes little: the header, and a root or two when the last run was killed.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is known against a file after the disk has refused something. It outlives the medium: whoever opens the same
/// place again must know.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    unsynced: AtomicBool,
    refused: AtomicBool,
}

impl Doubt {
    /// Whether a sync failed: the one error after which what is read back proves nothing.
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::Relaxed)
    }

    /// A sync failed, or (`false`) a copy took the file's place.
    pub(super) fn set_unsynced(&self, unsynced: bool) {
        self.unsynced.store(unsynced, Ordering::Relaxed);
    }

    /// Whether the disk refused anything since the last call: what looks like damage then may be the disk's doing.
    pub(super) fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }

    fn note<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.inspect_err(|err| {
            // A file that is too short, or not a store: damage, not a refusal.
            if !matches!(err.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) {
                self.refused.store(true, Ordering::Relaxed);
            }
        })
    }
}

/// What the database believes to have done.
#[derive(Debug)]
enum Held {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

#[derive(Debug, Default)]
struct Holding {
    ops: VecDeque<Held>,
    bytes: usize,
}

/// What a [`Watched`] backend shares with its owner.
#[derive(Debug)]
pub(super) struct Control {
    inner: Box<dyn StorageBackend>,
    doubt: Arc<Doubt>,
    /// Writes that wait for [`Control::release`]; `None` when they go straight to the file.
    holding: Mutex<Option<Holding>>,
}

impl Control {
    /// The file is sound: what was held back is written, in its order, and nothing is held from now on.
    pub(super) fn release(&self) -> io::Result<()> {
        let mut holding = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(held) = holding.as_mut().and_then(|holding| holding.ops.pop_front()) {
            match held {
                Held::Write(offset, data) => self.doubt.note(self.inner.write(offset, &data))?,
                Held::SetLen(len) => self.doubt.note(self.inner.set_len(len))?,
                Held::Sync => self.sync()?,
            }
        }
        *holding = None;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.doubt.note(self.inner.sync_data()).inspect_err(|_| self.doubt.set_unsynced(true))
    }
}

/// The backend. Until it is released it never changes the file, so a file that turns out to be damaged stays as it was
/// found.
#[derive(Debug)]
pub(super) struct Watched(Arc<Control>);

impl Watched {
    /// Over `inner`, holding writes back.
    pub(super) fn holding(inner: Box<dyn StorageBackend>, doubt: Arc<Doubt>) -> (Self, Arc<Control>) {
        let holding = Mutex::new(Some(Holding::default()));
        let control = Arc::new(Control { inner, doubt, holding });
        (Self(Arc::clone(&control)), control)
    }

    /// Holds an operation back; `false` when it is to be carried out instead.
    fn hold(&self, held: impl FnOnce() -> Held) -> io::Result<bool> {
        let mut holding = self.0.holding.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(holding) = holding.as_mut() else { return Ok(false) };
        let held = held();
        if let Held::Write(_, data) = &held {
            holding.bytes += data.len();
        }
        if holding.bytes > HELD_BYTES_MAX {
            let text = format!("opening would write more than {HELD_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        holding.ops.push_back(held);
        Ok(true)
    }
}

impl Holding {
    /// Length of the file as the database believes it to be.
    fn length(&self, inner: u64) -> u64 {
        self.ops.iter().fold(inner, |length, held| match held {
            Held::SetLen(len) => *len,
            Held::Write(offset, data) => length.max(offset.saturating_add(data.len() as u64)),
            Held::Sync => length,
        })
    }

    /// Lays what was held back over what was read from `offset` on.
    fn lay_over(&self, offset: u64, out: &mut [u8]) {
        let end = offset.saturating_add(out.len() as u64);
        for held in &self.ops {
            let Held::Write(at, data) = held else { continue };
            let (from, to) = ((*at).max(offset), at.saturating_add(data.len() as u64).min(end));
            let Some(length) = to.checked_sub(from).and_then(|length| usize::try_from(length).ok()) else { continue };
            if let (Ok(start), Ok(skip)) = (usize::try_from(from - offset), usize::try_from(from - at)) {
                out[start..start + length].copy_from_slice(&data[skip..skip + length]);
            }
        }
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        let holding = self.0.holding.lock().unwrap_or_else(PoisonError::into_inner);
        let length = self.0.inner.len()?;
        Ok(holding.as_ref().map_or(length, |holding| holding.length(length)))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let guard = self.0.holding.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(holding) = guard.as_ref().filter(|holding| !holding.ops.is_empty()) else {
            drop(guard);
            return self.0.doubt.note(self.0.inner.read(offset, out));
        };
        let length = self.0.inner.len()?;
        if offset.saturating_add(out.len() as u64) > holding.length(length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (old, new) = out.split_at_mut(there);
        self.0.doubt.note(self.0.inner.read(offset, old))?;
        new.fill(0);
        holding.lay_over(offset, out);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.hold(|| Held::SetLen(len))? { Ok(()) } else { self.0.doubt.note(self.0.inner.set_len(len)) }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.hold(|| Held::Sync)? { Ok(()) } else { self.0.sync() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.hold(|| Held::Write(offset, data.to_vec()))? {
            Ok(())
        } else {
            self.0.doubt.note(self.0.inner.write(offset, data))
        }
    }

    fn close(&self) -> io::Result<()> {
        self.0.inner.close()
    }

    // The medium keeps others out. A lock of the file itself would be held on by a child of the agent between its fork
    // and its exec.

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}
