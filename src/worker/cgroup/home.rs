//! Whose are the groups? Ours carry our name and are locked as long as the agent lives; nothing else is ever touched.
//!
//! An agent that is killed leaves its groups behind. The next start, of the same agent or of another in the same place,
//! kills what is left in them and removes them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::hierarchy::Hierarchy;
use super::tree::{self, Tree};
use crate::sys::clock;

/// How the folders of agents begin, and those of a mere look.
pub(super) const PREFIXES: [&str; 2] = ["neap-agent-", "neap-probe-"];
/// Groups that are looked at in a folder of somebody's. An agent has one for each worker.
const GROUPS_SEEN_MAX: usize = 1024;
/// How often the lock is tried: somebody may be sweeping.
const LOCK_TRIES: usize = 20;
const LOCK_REST: Duration = Duration::from_millis(5);
/// For killed processes to be gone. On a busy core that may take longer; they compute nothing meanwhile.
const GONE_MAX: Duration = Duration::from_millis(500);
const GONE_LOOK: Duration = Duration::from_millis(5);

/// Our folder in one hierarchy.
#[derive(Debug)]
pub(super) struct Home {
    /// The folder.
    pub(super) folder: PathBuf,
    /// Held as long as we live; the kernel lets go of it with the process.
    _lock: Option<OwnedFd>,
}

impl Home {
    /// Makes our folder in `base`, or takes over the one that an agent of the same name has left, and kills what is left
    /// in it. Whoever calls this must be the only one of that name. Gives the number of processes killed.
    ///
    /// # Errors
    /// `EACCES` and `EROFS` where we may make no groups.
    pub(super) fn take(
        tree: &dyn Tree,
        hierarchy: &dyn Hierarchy,
        base: &Path,
        name: &str,
    ) -> io::Result<(Self, usize)> {
        let folder = base.join(name);
        let lock = make_and_lock(tree, &folder)?;
        let killed = empty(tree, hierarchy, &folder);
        Ok((Self { folder, _lock: lock }, killed))
    }

    /// Removes the groups in the folder that have no process.
    pub(super) fn remove_groups(&self, tree: &dyn Tree) {
        for group in tree::groups(&self.folder, GROUPS_SEEN_MAX) {
            // One in which somebody still dies stays.
            let _stays = tree.remove(&group);
        }
    }

    /// Whether no group is left in the folder.
    pub(super) fn is_empty(&self) -> bool {
        tree::groups(&self.folder, 1).is_empty()
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// `EBUSY` while a group is in it.
    pub(super) fn remove(&self, tree: &dyn Tree) -> io::Result<()> {
        tree.remove(&self.folder)
    }
}

/// Kills and removes what dead agents have left in `base`: folders that carry our kind of name and that nobody has
/// locked. Gives the number of processes killed.
pub(super) fn sweep(tree: &dyn Tree, hierarchy: &dyn Hierarchy, base: &Path, own: &str) -> usize {
    let ours =
        |folder: &PathBuf| folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_ours(name, own));
    let mut killed = 0;
    for folder in tree::groups(base, GROUPS_SEEN_MAX).into_iter().filter(ours) {
        // The lock is held until the folder is gone, so that nobody moves in meanwhile.
        let Ok(Some(_lock)) = try_lock(&folder) else { continue };
        killed += empty(tree, hierarchy, &folder);
        // The group beside it, where that agent itself was.
        let ctl = folder.with_extension(super::v2::CTL);
        if ctl.is_dir() {
            let _stays = tree.remove(&ctl);
        }
        // Where somebody still dies, the next start removes it.
        let _stays = remove(tree, &folder);
    }
    killed
}

/// Whether a folder is one of an agent, or of a look, and not `own`.
fn is_ours(name: &str, own: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name != own && PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && name.chars().all(plain)
}

/// Makes a folder and locks it. Without a lock (a stranger holds it) we are no worse off than without locks.
fn make_and_lock(tree: &dyn Tree, folder: &Path) -> io::Result<Option<OwnedFd>> {
    for _ in 0..LOCK_TRIES {
        match tree.make(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if let Ok(Some(lock)) = try_lock(folder) {
            return Ok(Some(lock));
        }
        std::thread::sleep(LOCK_REST);
    }
    if folder.is_dir() { Ok(None) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
}

/// Locks a folder unless somebody has; `None` then, and when it was removed in that moment.
fn try_lock(folder: &Path) -> io::Result<Option<OwnedFd>> {
    let file = File::open(folder)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let locked = identity(file.metadata()?);
    let is_there = std::fs::metadata(folder).is_ok_and(|meta| identity(meta) == locked);
    Ok(is_there.then(|| file.into()))
}

/// Kills everything in the groups of a folder; gives how many processes that were.
fn empty(tree: &dyn Tree, hierarchy: &dyn Hierarchy, folder: &Path) -> usize {
    let groups = tree::groups(folder, GROUPS_SEEN_MAX);
    let left = || groups.iter().map(|group| tree::processes(group).len()).sum::<usize>();
    let found = left();
    let end = clock::now().after(GONE_MAX);
    while left() > 0 && clock::now() < end {
        groups.iter().for_each(|group| hierarchy.kill(tree, group));
        std::thread::sleep(GONE_LOOK);
    }
    found
}

/// Removes a folder of ours and the groups in it.
fn remove(tree: &dyn Tree, folder: &Path) -> io::Result<()> {
    for group in tree::groups(folder, GROUPS_SEEN_MAX) {
        tree.remove(&group)?;
    }
    tree.remove(folder)
}
