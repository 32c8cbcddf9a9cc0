//! Where are verdicts kept? One small file for each model, named by its digest, in a folder that the caller chooses.
//!
//! A file is written whole or not at all: beside its place, synced, renamed. What cannot be read, is too large or makes
//! no sense is no verdict.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Verdict;
use crate::units::Digest;

/// Largest file of a verdict, in bytes.
pub const VERDICT_BYTES_MAX: u64 = 16 * 1024;
/// Most verdicts in a folder; the oldest gives way.
pub const VERDICTS_MAX: usize = 1024;

/// Where the agent keeps verdicts, below its state directory.
pub fn folder_in(state_dir: &Path) -> PathBuf {
    state_dir.join("verdicts")
}

/// The verdict about the file of that digest, if there is one that can be read.
pub fn read(folder: &Path, digest: &Digest) -> Option<Verdict> {
    let options = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(options).open(path(folder, digest)).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut json = Vec::new();
    let read = file.take(VERDICT_BYTES_MAX + 1).read_to_end(&mut json).ok()?;
    let verdict = if read as u64 <= VERDICT_BYTES_MAX { Verdict::parse(&json) } else { None };
    verdict.filter(|verdict| verdict.digest == *digest)
}

/// Keeps a verdict in place of an older one about the same file. Makes the folder if it is missing.
///
/// # Errors
/// When folder or file cannot be written.
pub fn write(folder: &Path, verdict: &Verdict) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    make_room(folder)?;
    let path = path(folder, &verdict.digest);
    // One name for each process that writes: two at once must not write into the same file.
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    let written = (|| {
        let mut file = File::create(&beside)?;
        file.write_all(&verdict.render())?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // It may never have been there.
        let _gone = fs::remove_file(&beside);
    }
    written
}

/// Forgets the verdict about the file of that digest.
///
/// # Errors
/// When there is one that cannot be removed.
pub fn remove(folder: &Path, digest: &Digest) -> io::Result<()> {
    match fs::remove_file(path(folder, digest)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn path(folder: &Path, digest: &Digest) -> PathBuf {
    let text = digest.to_string();
    folder.join(format!("{}.json", text.strip_prefix("sha256:").unwrap_or(&text)))
}

/// Removes the oldest files until one more fits.
fn make_room(folder: &Path) -> io::Result<()> {
    let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        // One that was removed meanwhile needs no room.
        let Ok(facts) = file.metadata() else { continue };
        if facts.is_file() {
            kept.push((facts.modified().unwrap_or(SystemTime::UNIX_EPOCH), file.path()));
        }
    }
    kept.sort();
    let surplus = (kept.len() + 1).saturating_sub(VERDICTS_MAX);
    kept.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}
