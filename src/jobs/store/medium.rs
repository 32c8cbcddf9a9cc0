//! Where do the bytes lie? The state directory: its lock, the store's file, its copies.
//!
//! Behind a trait, so that tests can put a disk there that fails and loses writes.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::recovery::Trouble;

/// Name of the store in the state directory.
pub(super) const FILE: &str = "jobs.redb";
/// Held locked as long as an agent uses the state directory; holds its process id.
const LOCK_FILE: &str = "jobs.lock";
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
}

/// A directory on a real file system.
#[derive(Debug)]
pub(super) struct Folder {
    folder: PathBuf,
    file: PathBuf,
    fresh: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl Folder {
    /// Creates the directory when it is missing and takes its lock.
    pub(super) fn take(folder: &Path) -> Result<Self, Trouble> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut lock = private(true).open(folder.join(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Trouble::Locked(holder(&mut lock))),
            Err(TryLockError::Error(err)) => return Err(err.into()),
        }
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())?;
        let fresh = folder.join(format!("{FILE}.new"));
        // What an interrupted creation or renewal left: the store itself was still in its place then.
        if fresh.try_exists()? {
            fs::remove_file(&fresh)?;
        }
        Ok(Self { folder: folder.to_owned(), file: folder.join(FILE), fresh, _lock: lock })
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// Options for a file that only the agent's user may read: it holds inputs and results.
fn private(create: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).mode(0o600);
    options
}

/// Who holds the lock, as far as the lock file tells.
fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.take(20).read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok()) {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
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
        new.sync_all()?;
        self.publish()
    }
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

/// A backend that remembers whether a sync failed: the one error after which what is read back proves nothing.
#[derive(Debug)]
pub(super) struct Watched {
    inner: Box<dyn StorageBackend>,
    sync_failed: Arc<AtomicBool>,
}

impl Watched {
    pub(super) fn new(inner: Box<dyn StorageBackend>, sync_failed: Arc<AtomicBool>) -> Self {
        Self { inner, sync_failed }
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data().inspect_err(|_| self.sync_failed.store(true, Ordering::Relaxed))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
