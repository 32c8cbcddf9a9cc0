//! How does a child enter its cgroups before its first instruction?

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::shared::SharedPage;

/// Most groups that a child can enter: a page has a word for each, and no machine has that many hierarchies.
pub const GROUPS_MAX: usize = 16;

/// Values of a group's word in the shared page.
const NOT_TRIED: u32 = 0;
const JOINED: u32 = 1;
/// Above this: the error number.
const REFUSED: u32 = 2;

/// The groups of one child at a time: `cgroup.procs` of each, open for writing.
#[derive(Debug)]
pub struct Joins {
    groups: Vec<OwnedFd>,
    /// What came of it: the child writes, the parent reads after the start.
    outcome: SharedPage,
}

impl Joins {
    /// Groups to be entered in this order; those beyond [`GROUPS_MAX`] are left out.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM` and their like.
    pub fn new(mut groups: Vec<OwnedFd>) -> io::Result<Self> {
        groups.truncate(GROUPS_MAX);
        let (outcome, _fd) = SharedPage::create("neap-joins")?;
        Ok(Self { groups, outcome })
    }

    /// What the last child did with each group.
    pub fn outcome(&self) -> Vec<io::Result<()>> {
        let outcome = |index| match self.outcome.u32(index).load(SeqCst) {
            JOINED => Ok(()),
            NOT_TRIED => Err(io::Error::other("it was not tried")),
            code => Err(io::Error::from_raw_os_error(i32::try_from(code - REFUSED).unwrap_or(libc::EIO))),
        };
        (0..self.groups.len()).map(outcome).collect()
    }

    /// Moves the calling process into every group. Makes system calls only.
    fn join(&self) {
        for (index, group) in self.groups.iter().enumerate() {
            // "0" is the process that writes.
            // SAFETY: one byte is read from a static string; the descriptor is open as long as `self` lives.
            let written = unsafe { libc::write(group.as_raw_fd(), c"0".as_ptr().cast(), 1) };
            let code = match written {
                1 => JOINED,
                _ => io::Error::last_os_error()
                    .raw_os_error()
                    .and_then(|code| u32::try_from(code).ok())
                    .unwrap_or(0)
                    .saturating_add(REFUSED),
            };
            self.outcome.u32(index).store(code, SeqCst);
        }
    }
}

/// Makes the next child of `command` enter its groups between fork and exec, so that their limits hold for its whole
/// life. It starts even where a group refuses it: [`Joins::outcome`] tells after the start.
///
/// A group must not be frozen: the child would never get to its first instruction, nor the parent out of `spawn`.
pub fn join_before_exec(command: &mut Command, joins: Arc<Joins>) -> &mut Command {
    (0..joins.groups.len()).for_each(|index| joins.outcome.u32(index).store(NOT_TRIED, SeqCst));
    let join = move || {
        joins.join();
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls and stores into mapped memory only. It neither
    // allocates nor locks: an `io::Error` made of an error number is a plain value.
    unsafe { command.pre_exec(join) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_child_writes_its_own_entry_before_it_runs_and_tells_each_outcome() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cgroup.procs");
        let open = File::create(&path).unwrap();
        // Open for reading only: refuses every write.
        let deaf = File::open("/proc/self/status").unwrap();
        let joins = Arc::new(Joins::new(vec![open.into(), deaf.into()]).unwrap());
        let mut command = Command::new("cat");
        join_before_exec(command.arg(&path), Arc::clone(&joins));
        assert!(joins.outcome().iter().all(Result::is_err), "nothing was tried yet");
        assert_eq!(command.output().unwrap().stdout, b"0");
        let outcome = joins.outcome();
        assert!(outcome[0].is_ok());
        assert_eq!(outcome[1].as_ref().unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
