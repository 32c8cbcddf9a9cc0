//! Where do the bytes lie? The state directory: its lock, the store's file, its copies.
//!
//! Behind a trait, so that tests can put a disk there that fails and loses writes.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::lock::Lock;
use super::recovery::Trouble;

/// Name of the store in the state directory.
pub(super) const FILE: &str = "jobs.redb";
/// Most files set aside. With more than this something breaks the store again and again, and a person must look.
const ASIDE_MAX: u32 = 8;

/// A place that holds one store.
pub(super) trait Medium: Debug + Send {
    /// The store's file, for people.
    fn path(&self) -> &Path;

    /// Whether there is a store.
    fn exists(&self) -> io::Result<bool>;

    /// Opens the store there is.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Opens an empty place beside the store; [`Medium::publish`] makes it the store.
    fn create(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Makes what was created the store, durably.
    fn publish(&self) -> io::Result<()>;

    /// Takes the store out of use without touching its content, and says where it is now.
    fn set_aside(&self, kind: &str) -> io::Result<PathBuf>;

    /// Writes the store's bytes to a new file that takes its place. After a failed `fsync` the kernel may hold pages
    /// that it believes to be written: they must be made dirty again before anything is built on them.
    fn renew(&self) -> io::Result<()>;

    /// What is known against the store's file.
    fn doubt(&self) -> &Arc<Doubt>;
}

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

/// A directory on a real file system.
#[derive(Debug)]
pub(super) struct Folder {
    folder: PathBuf,
    file: PathBuf,
    fresh: PathBuf,
    doubt: Arc<Doubt>,
    _lock: Lock,
}

impl Folder {
    /// Creates the directory when it is missing and takes its lock.
    pub(super) fn take(folder: &Path, doubt: Arc<Doubt>) -> Result<Self, Trouble> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = Lock::take(folder)?;
        let fresh = folder.join(format!("{FILE}.new"));
        // What an interrupted creation or renewal left: the store itself was still in its place then.
        if fresh.try_exists()? {
            fs::remove_file(&fresh)?;
        }
        Ok(Self { folder: folder.to_owned(), file: folder.join(FILE), fresh, doubt, _lock: lock })
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn copy_to_fresh(&self) -> io::Result<()> {
        let mut old = File::open(&self.file)?;
        let mut new = private(true).truncate(true).open(&self.fresh)?;
        // Not `fs::copy`: a reflink would share the very blocks that may be missing.
        let mut chunk = vec![0; 256 * 1024];
        loop {
            match old.read(&mut chunk)? {
                0 => break,
                length => new.write_all(&chunk[..length])?,
            }
        }
        new.sync_all()
    }
}

/// Options for a file that only the agent's user may read: it holds inputs and results.
pub(super) fn private(create: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).mode(0o600);
    options
}

impl Medium for Folder {
    fn path(&self) -> &Path {
        &self.file
    }

    fn exists(&self) -> io::Result<bool> {
        self.file.try_exists()
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        backend(private(false).open(&self.file)?)
    }

    fn create(&self) -> io::Result<Box<dyn StorageBackend>> {
        backend(private(true).truncate(true).open(&self.fresh)?)
    }

    fn publish(&self) -> io::Result<()> {
        fs::rename(&self.fresh, &self.file)?;
        self.sync_folder()
    }

    fn set_aside(&self, kind: &str) -> io::Result<PathBuf> {
        for number in 1..=ASIDE_MAX {
            let aside = self.folder.join(format!("{FILE}.{kind}-{number}"));
            if !aside.try_exists()? {
                fs::rename(&self.file, &aside)?;
                self.sync_folder()?;
                return Ok(aside);
            }
        }
        let text = format!("{ASIDE_MAX} files {FILE}.{kind}-* are kept already, the limit: move them away");
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, text))
    }

    fn renew(&self) -> io::Result<()> {
        self.copy_to_fresh().inspect_err(|_| {
            // Half a copy would take the room that a full disk does not have.
            let _ = fs::remove_file(&self.fresh);
        })?;
        self.publish()
    }

    fn doubt(&self) -> &Arc<Doubt> {
        &self.doubt
    }
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

/// A backend that remembers whether a sync failed, and leaves it to the medium to keep others out: a lock of the file
/// itself would be held on by a child of the agent between its fork and its exec.
#[derive(Debug)]
pub(super) struct Watched {
    inner: Box<dyn StorageBackend>,
    doubt: Arc<Doubt>,
}

impl Watched {
    pub(super) fn new(inner: Box<dyn StorageBackend>, doubt: Arc<Doubt>) -> Self {
        Self { inner, doubt }
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.doubt.note(self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.doubt.note(self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.doubt.note(self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.doubt.note(self.inner.sync_data()).inspect_err(|_| self.doubt.set_unsynced(true))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.doubt.note(self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

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
