//! Where do the bytes lie? The state directory: its lock, the store's file, its copies.
//!
//! Behind a trait, so that tests can put a disk there that fails and loses writes.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::backend::Doubt;
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

    /// Opens the store there is for reading only: nothing can change it through what this gives.
    fn inspect(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Gives the store's file a second name that stays when another one takes its place, and says which. Called again
    /// for the same file, because the agent died in between, it gives the same name.
    fn set_aside(&self, kind: &str) -> io::Result<PathBuf>;

    /// Writes the store's bytes to a new file that takes its place. After a failed `fsync` the kernel may hold pages
    /// that it believes to be written: they must be made dirty again before anything is built on them.
    fn renew(&self) -> io::Result<()>;

    /// Writes so many bytes beside the store and takes them away again: whether the disk has room for them.
    fn room(&self, bytes: u64) -> io::Result<()>;

    /// What is known against the store's file.
    fn doubt(&self) -> &Arc<Doubt>;
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

    /// Copies the store to the name that new ones have before they are whole.
    fn copy(&self) -> io::Result<()> {
        self.try_to_copy().inspect_err(|_| {
            // Half a copy would take the room that a full disk does not have.
            let _ = fs::remove_file(&self.fresh);
        })
    }

    fn try_to_copy(&self) -> io::Result<()> {
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

    fn inspect(&self) -> io::Result<Box<dyn StorageBackend>> {
        backend(File::open(&self.file)?)
    }

    fn set_aside(&self, kind: &str) -> io::Result<PathBuf> {
        let store = fs::metadata(&self.file)?;
        for number in 1..=ASIDE_MAX {
            let aside = self.folder.join(format!("{FILE}.{kind}-{number}"));
            match fs::metadata(&aside) {
                Ok(found) if (found.dev(), found.ino()) == (store.dev(), store.ino()) => return Ok(aside),
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    // A file system without hard links gets a copy.
                    if fs::hard_link(&self.file, &aside).is_err() {
                        self.copy()?;
                        fs::rename(&self.fresh, &aside)?;
                    }
                    self.sync_folder()?;
                    return Ok(aside);
                }
                Err(err) => return Err(err),
            }
        }
        let text = format!("{ASIDE_MAX} files {FILE}.{kind}-* are kept already, the limit: move them away");
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, text))
    }

    fn renew(&self) -> io::Result<()> {
        self.copy()?;
        self.publish()
    }

    fn room(&self, bytes: u64) -> io::Result<()> {
        let taken = private(true).truncate(true).open(&self.fresh).and_then(|mut file| {
            io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
            file.sync_all()
        });
        let removed = fs::remove_file(&self.fresh);
        taken.and(removed)
    }

    fn doubt(&self) -> &Arc<Doubt> {
        &self.doubt
    }
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}
