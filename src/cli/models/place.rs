//! Where do models go, and how do they get there whole? One folder each, exchanged in one step.
//!
//! ```text
//! <models>/<name>/              what serves
//! <models>/.previous/<name>/    what served before: for `neap models rollback`
//! <models>/.staging/            what is on its way; whoever installs holds .staging/lock
//!     new/  swap-<name>/  fetch-<id>/
//! ```
//!
//! Hidden folders are no models to anybody. A model is complete, checked and synchronised in `.staging` before it is
//! exchanged with the one that serves; whatever is interrupted leaves the old or the new one, and the next run clears up.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::cli::failure::{Class, Failure};
use crate::model::library::Entry;
use crate::units::Name;

const STAGING: &str = ".staging";
const PREVIOUS: &str = ".previous";
const LOCK: &str = "lock";
const NEW: &str = "new";
const SWAP: &str = "swap-";

/// The folder of models, locked for one installation.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    /// Nobody else installs as long as it is held.
    _lock: File,
}

impl Place {
    /// Locks the folder and ends what an interrupted installation left.
    pub(super) fn open(dir: &Path) -> Result<Self, Failure> {
        let dir = dir.canonicalize().map_err(|error| cannot("read the models folder", dir, &error))?;
        for hidden in [STAGING, PREVIOUS] {
            make_folder(&dir.join(hidden))?;
        }
        let path = dir.join(STAGING).join(LOCK);
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let lock = open.open(&path).map_err(|error| cannot("make", &path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("models are being installed in {} already: wait until that is done", dir.display());
                return Err(Failure::new(Class::TemporaryFailure, text));
            }
            Err(TryLockError::Error(error)) => return Err(cannot("lock", &path, &error)),
        }
        let place = Self { dir, _lock: lock };
        place.recover()?;
        Ok(place)
    }

    /// The folder of models.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the model of that name serves.
    pub(super) fn of(&self, name: &Name) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// Where the one before it is kept.
    pub(super) fn previous(&self, name: &Name) -> PathBuf {
        self.dir.join(PREVIOUS).join(name.as_str())
    }

    /// An empty folder for a model on its way.
    pub(super) fn new_folder(&self) -> Result<PathBuf, Failure> {
        let folder = self.dir.join(STAGING).join(NEW);
        remove(&folder)?;
        make_folder(&folder)?;
        Ok(folder)
    }

    /// A folder for what is fetched from one address; what is there of an earlier try is kept, that of others is not.
    pub(super) fn fetch_folder(&self, id: &str) -> Result<PathBuf, Failure> {
        let wanted = format!("fetch-{id}");
        self.clear(|name| name == wanted)?;
        let folder = self.dir.join(STAGING).join(wanted);
        make_folder(&folder)?;
        Ok(folder)
    }

    /// Puts a checked model in the place of its name; the one that served there is kept as the previous one.
    pub(super) fn put(&self, staged: &Path, name: &Name) -> Result<(), Failure> {
        let serves = self.of(name);
        let swap = self.dir.join(STAGING).join(format!("{SWAP}{name}"));
        make_readable(staged).and_then(|()| sync(staged)).map_err(|error| cannot("finish", staged, &error))?;
        remove(&swap)?;
        rename(staged, &swap)?;
        if fs::symlink_metadata(&serves).is_err() {
            rename(&swap, &serves)?;
        } else if exchange(&swap, &serves)? {
            self.keep(&swap, name)?;
        } else {
            // Two steps on file systems that have no exchange: the next run goes back if it ends between them.
            remove(&self.previous(name))?;
            rename(&serves, &self.previous(name))?;
            rename(&swap, &serves)?;
        }
        self.sync_folders()
    }

    /// Exchanges the model that serves with the previous one.
    pub(super) fn exchange_with_previous(&self, name: &Name) -> Result<(), Failure> {
        let (serves, previous) = (self.of(name), self.previous(name));
        if fs::symlink_metadata(&serves).is_err() {
            rename(&previous, &serves)?;
        } else if !exchange(&previous, &serves)? {
            let swap = self.dir.join(STAGING).join(format!("{SWAP}{name}"));
            rename(&previous, &swap)?;
            rename(&serves, &previous)?;
            rename(&swap, &serves)?;
        }
        self.sync_folders()
    }

    /// Takes a model away: out of sight in one step, then for good.
    pub(super) fn take_away(&self, folder: &Path) -> Result<(), Failure> {
        let gone = self.dir.join(STAGING).join("removed");
        remove(&gone)?;
        rename(folder, &gone)?;
        self.sync_folders()?;
        remove(&gone)
    }

    fn keep(&self, folder: &Path, name: &Name) -> Result<(), Failure> {
        remove(&self.previous(name))?;
        rename(folder, &self.previous(name))
    }

    fn recover(&self) -> Result<(), Failure> {
        let staging = self.dir.join(STAGING);
        for name in names(&staging)? {
            let Some(name) = name.strip_prefix(SWAP).and_then(|name| name.parse::<Name>().ok()) else { continue };
            let (swap, serves, previous) =
                (staging.join(format!("{SWAP}{name}")), self.of(&name), self.previous(&name));
            let version = |folder: &Path| Entry::at(folder).map(|entry| entry.manifest.version).ok();
            if fs::symlink_metadata(&serves).is_err() && fs::symlink_metadata(&previous).is_ok() {
                rename(&previous, &serves)?;
            } else if version(&swap) < version(&serves) && version(&swap).is_some() {
                // It was exchanged already and only not kept yet.
                self.keep(&swap, &name)?;
            }
        }
        self.clear(|name| name.starts_with("fetch-"))
    }

    /// Removes whatever is on its way, except the lock and what is to be kept.
    fn clear(&self, keep: impl Fn(&str) -> bool) -> Result<(), Failure> {
        let staging = self.dir.join(STAGING);
        for name in names(&staging)?.iter().filter(|name| *name != LOCK && !keep(name)) {
            remove(&staging.join(name))?;
        }
        Ok(())
    }

    fn sync_folders(&self) -> Result<(), Failure> {
        for folder in [self.dir.clone(), self.dir.join(PREVIOUS), self.dir.join(STAGING)] {
            let synced = File::open(&folder).and_then(|open| open.sync_all());
            synced.map_err(|error| cannot("synchronise", &folder, &error))?;
        }
        Ok(())
    }
}

/// Exchanges two folders in one step; `false` where the file system has no such step.
fn exchange(one: &Path, other: &Path) -> Result<bool, Failure> {
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(cannot("exchange", other, &error.into())),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(|error| cannot("put in place", to, &error))
}

fn remove(path: &Path) -> Result<(), Failure> {
    let removed = match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", path, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn names(folder: &Path) -> Result<Vec<String>, Failure> {
    let found = fs::read_dir(folder).map_err(|error| cannot("list", folder, &error))?;
    let name = |entry: io::Result<fs::DirEntry>| Some(entry.ok()?.file_name().to_string_lossy().into_owned());
    Ok(found.filter_map(name).collect())
}

/// Makes a folder; one that is there already is left.
pub(super) fn make_folder(path: &Path) -> Result<(), Failure> {
    match fs::DirBuilder::new().mode(0o755).recursive(true).create(path) {
        Ok(()) => Ok(()),
        Err(error) => Err(cannot("make the folder", path, &error)),
    }
}

/// Models are no secret to the agent, whoever installs them and with whatever mask.
fn make_readable(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() {
            make_readable(&path)?;
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

/// Brings every file and folder below to the disk.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() {
            sync(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

/// What could not be done with a file, and what to do about it.
pub(super) fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    let is = |kind| error.kind() == kind;
    let remedy = if is(io::ErrorKind::StorageFull) || is(io::ErrorKind::QuotaExceeded) {
        ": free some space, such as with neap models rm; nothing that served was changed"
    } else if is(io::ErrorKind::ReadOnlyFilesystem) {
        ": mount it writable, or name another folder with --dir"
    } else if is(io::ErrorKind::PermissionDenied) {
        ": run this as the owner of the folder"
    } else {
        ""
    };
    let failure = Failure::io("", error);
    Failure::new(failure.class, format!("cannot {what} {}: {error}{remedy}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] = b"not really a network";

    fn model(folder: &Path, version: u32) {
        use sha2::Digest as _;
        let digest = crate::units::Digest(sha2::Sha256::digest(BYTES).into());
        fs::create_dir_all(folder).unwrap();
        let text = format!(
            "name = \"m\"\nversion = {version}\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\n\
             digest = \"{digest}\"\ninputs = [{{ name = \"x\", datatype = \"FP32\", shape = [2] }}]\n\
             outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [2] }}]\n"
        );
        fs::write(folder.join("model.toml"), text).unwrap();
        fs::write(folder.join("m.onnx"), BYTES).unwrap();
    }

    fn version(folder: &Path) -> Option<u32> {
        Entry::at(folder).ok().map(|entry| entry.manifest.version)
    }

    fn name() -> Name {
        "m".parse().unwrap()
    }

    fn put(place: &Place, number: u32) {
        let staged = place.new_folder().unwrap();
        model(&staged, number);
        place.put(&staged, &name()).unwrap();
    }

    #[test]
    fn a_new_model_takes_the_place_of_the_old_one_which_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::open(root.path()).unwrap();
        put(&place, 1);
        assert_eq!((version(&place.of(&name())), version(&place.previous(&name()))), (Some(1), None));
        put(&place, 2);
        put(&place, 3);
        assert_eq!((version(&place.of(&name())), version(&place.previous(&name()))), (Some(3), Some(2)));
        place.exchange_with_previous(&name()).unwrap();
        assert_eq!((version(&place.of(&name())), version(&place.previous(&name()))), (Some(2), Some(3)));
        place.take_away(&place.of(&name())).unwrap();
        assert_eq!(version(&place.of(&name())), None);
    }

    #[test]
    fn two_cannot_install_at_once() {
        let root = tempfile::tempdir().unwrap();
        let first = Place::open(root.path()).unwrap();
        assert_eq!(Place::open(root.path()).unwrap_err().class, Class::TemporaryFailure);
        drop(first);
        assert!(Place::open(root.path()).is_ok());
    }

    #[test]
    fn what_was_interrupted_is_ended_by_the_next_run() {
        let root = tempfile::tempdir().unwrap();
        let staging = root.path().join(STAGING);
        // Exchanged, but not kept yet.
        model(&root.path().join("m"), 2);
        model(&staging.join("swap-m"), 1);
        // A part of a download, and nonsense.
        fs::create_dir_all(staging.join("fetch-1")).unwrap();
        fs::create_dir_all(staging.join("new/deep")).unwrap();
        fs::write(staging.join("rubbish"), "x").unwrap();
        drop(Place::open(root.path()).unwrap());
        assert_eq!((version(&root.path().join("m")), version(&root.path().join(".previous/m"))), (Some(2), Some(1)));
        let mut left = names(&staging).unwrap();
        left.sort();
        assert_eq!(left, ["fetch-1", "lock"]);
        // Not exchanged yet: the new one is forgotten, the previous one stays.
        model(&staging.join("swap-m"), 3);
        drop(Place::open(root.path()).unwrap());
        assert_eq!((version(&root.path().join("m")), version(&root.path().join(".previous/m"))), (Some(2), Some(1)));
        // Between the two steps where there is no exchange.
        fs::rename(root.path().join("m"), root.path().join(".previous/old")).unwrap();
        fs::remove_dir_all(root.path().join(".previous/m")).unwrap();
        fs::rename(root.path().join(".previous/old"), root.path().join(".previous/m")).unwrap();
        model(&staging.join("swap-m"), 3);
        drop(Place::open(root.path()).unwrap());
        assert_eq!(version(&root.path().join("m")), Some(2));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_with_what_to_do() {
        let full = cannot("copy", Path::new("/m"), &io::Error::from(io::ErrorKind::StorageFull));
        assert!(full.text.contains("free some space"), "{}", full.text);
        let read_only = cannot("make", Path::new("/m"), &io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        assert!(read_only.text.contains("mount it writable"), "{}", read_only.text);
        assert_eq!(cannot("make", Path::new("/m"), &io::Error::from(io::ErrorKind::PermissionDenied)).class.code(), 77);
    }
}
