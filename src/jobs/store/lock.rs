//! Who uses the state directory? One process at a time, by a lock that dies with it.
//!
//! A POSIX record lock: it belongs to the process. A lock by `flock` belongs to the open file, and every child has that
//! open between fork and exec; an agent that was killed while it forked a worker left its lock to that child, for as
//! long as the child got no core to die on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::medium::private;
use super::recovery::Trouble;

/// Held locked as long as an agent uses the state directory; holds its process id.
const FILE: &str = "jobs.lock";

/// Device and inode of every lock that this process holds. A record lock does not keep its own process out, and would
/// be gone as soon as the file were closed that a second taker had opened.
static TAKEN: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// The lock of a state directory, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: Option<File>,
    key: (u64, u64),
}

impl Lock {
    /// Takes the lock of that folder.
    ///
    /// # Errors
    /// [`Trouble::Locked`] when somebody else holds it, [`Trouble::Io`] when the file cannot be made.
    pub(super) fn take(folder: &Path) -> Result<Self, Trouble> {
        let path = folder.join(FILE);
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if fs::metadata(&path).is_ok_and(|found| taken.contains(&(found.dev(), found.ino()))) {
            return Err(Trouble::Locked(format!("process {}", std::process::id())));
        }
        let mut file = private(true).open(path)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Err(Trouble::Locked(holder(&file))),
            Err(err) => return Err(io::Error::from(err).into()),
        }
        let found = file.metadata()?;
        // For people only: on a full disk the lock holds without it.
        let _ = sign(&mut file);
        let key = (found.dev(), found.ino());
        taken.insert(key);
        Ok(Self { file: Some(file), key })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closed before anybody of this process can open it again: closing it then would take that one's lock away.
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        self.file = None;
        taken.remove(&self.key);
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Who holds the lock, as the kernel knows.
fn holder(file: &File) -> String {
    match fcntl_getlk(file, &Flock::from(FlockType::WriteLock)).ok().flatten().and_then(|held| held.pid) {
        Some(pid) => format!("process {}", pid.as_raw_nonzero()),
        None => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;
    use crate::sys::join::{Joins, join_before_exec};

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        for _ in 0..2 {
            assert!(
                matches!(Lock::take(folder.path()), Err(Trouble::Locked(who)) if who.ends_with(&std::process::id().to_string()))
            );
        }
        drop(first);
        assert!(Lock::take(folder.path()).is_ok());
    }

    #[test]
    fn a_child_that_has_not_executed_its_program_yet_holds_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        // Between fork and exec the child writes to its groups: into a pipe that is full, so it stays there.
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
        while rustix::io::write(&writer, &[0; 1]).is_ok() {}
        rustix::io::ioctl_fionbio(&writer, false).unwrap();
        let joins = Arc::new(Joins::new(vec![writer]).unwrap());
        let child = std::thread::spawn(move || {
            let mut command = Command::new("true");
            join_before_exec(command.stdin(Stdio::null()), joins).spawn().unwrap().wait().unwrap()
        });
        let own = fs::read("/proc/self/cmdline").unwrap();
        let forked = || {
            let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
            let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
            let children: Vec<String> =
                lists.flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
            children.iter().any(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == own))
        };
        while !forked() {
            assert!(!child.is_finished(), "the child never was between fork and exec");
            std::thread::yield_now();
        }
        drop(lock);
        let again = Lock::take(folder.path());
        // Room in the pipe lets it go on.
        rustix::io::read(&reader, &mut [0; 4096]).unwrap();
        child.join().unwrap();
        assert!(again.is_ok());
    }
}
