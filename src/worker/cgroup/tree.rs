//! How is a hierarchy changed? Making and removing folders and writing files, behind a trait so that tests can show a
//! kernel that this machine does not have.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Largest file that is read. `mountinfo` of a machine with thousands of containers is that long.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What changes a hierarchy. Reading goes through the file system itself.
pub(super) trait Tree: Debug + Send + Sync {
    /// Makes a group.
    fn make(&self, folder: &Path) -> io::Result<()>;
    /// Removes a group without processes and without groups.
    fn remove(&self, folder: &Path) -> io::Result<()>;
    /// Writes one value in one call.
    fn write(&self, file: &Path, value: &str) -> io::Result<()>;
}

/// The kernel's.
#[derive(Debug)]
pub(super) struct Kernel;

impl Tree for Kernel {
    fn make(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)
    }

    fn remove(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir(folder)
    }

    fn write(&self, file: &Path, value: &str) -> io::Result<()> {
        // Never created: a file that is not there is a kernel that cannot do it.
        OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
    }
}

/// What came of a value that was to be written.
#[derive(Debug)]
pub(super) enum Put {
    /// Written.
    Done,
    /// There is no such file.
    Absent,
    /// Refused.
    Refused(io::Error),
}

/// Writes a value, telling a missing file from a refusal.
pub(super) fn put(tree: &dyn Tree, folder: &Path, file: &str, value: &str) -> Put {
    match tree.write(&folder.join(file), value) {
        Ok(()) => Put::Done,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Put::Absent,
        Err(error) => Put::Refused(error),
    }
}

/// The text of a file, trimmed; `None` when it cannot be read.
pub(super) fn read(folder: &Path, file: &str) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    File::open(folder.join(file)).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

/// Process ids in a file such as `cgroup.procs`.
pub(super) fn processes(folder: &Path) -> Vec<i32> {
    let text = read(folder, "cgroup.procs").unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The groups in a group, at most `max`.
pub(super) fn groups(folder: &Path, max: usize) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .take(max)
        .collect()
}

/// A file that is written later.
pub(super) fn open(folder: &Path, file: &str) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().write(true).open(folder.join(file))?.into())
}
