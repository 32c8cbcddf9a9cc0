//! How does a process begin, limit itself and end?

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::FdFlags;
use rustix::process::{
    DumpableBehavior, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getpid, getppid, getrlimit,
    set_dumpable_behavior, set_parent_process_death_signal, setrlimit, waitid,
};

use super::{no_such_process, signal, target};

/// A process id that no process ever has: one above the highest. Whatever is asked of it is refused with `ESRCH`.
pub const NOBODY: i32 = super::PID_MAX;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Waits for the end of a child and releases its process id. Blocks; see [`exit_fd`] for waiting without blocking.
///
/// # Errors
/// `ECHILD` when it is not a child of this process, or was reaped before.
pub fn reap(pid: i32) -> io::Result<Exit> {
    let pid = target(pid)?;
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                let code = status.exit_status().map(Exit::Code);
                let exit = code.or_else(|| status.terminating_signal().map(Exit::Signal));
                return exit.ok_or_else(|| io::Error::other("waitid reported neither an exit code nor a signal"));
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A descriptor that becomes readable when the process ends (pidfd): wait for it in an event loop, then [`reap`].
///
/// # Errors
/// `ESRCH` when there is no such process, `ENOSYS` before Linux 5.3.
pub fn exit_fd(pid: i32) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(target(pid)?, PidfdFlags::empty())?)
}

/// Ids of the first `max` threads of a process.
///
/// # Errors
/// `ENOENT` when there is no such process, or no `/proc`.
pub fn threads(pid: i32, max: usize) -> io::Result<Vec<i32>> {
    let folder = format!("/proc/{}/task", target(pid)?.as_raw_nonzero());
    let ids = std::fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(ids.take(max).collect())
}

/// Asks the kernel to kill this process when the thread that forked it ends, and makes sure that it is not too late.
///
/// # Errors
/// `ESRCH` when the parent is not `parent` any more: it died before the request, so leave now.
pub fn die_with_parent(parent: i32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() == Some(target(parent)?) { Ok(()) } else { Err(no_such_process()) }
}

/// Makes the child of `command` die with the thread that spawns it, from before its first instruction: a child that is
/// stopped while it starts cannot outlive the agent. The child starts with no signal blocked.
pub fn tie_to_parent(command: &mut Command) -> &mut Command {
    let parent = getpid().as_raw_nonzero().get();
    // SAFETY: between fork and exec the closure makes system calls only (prctl, getppid, sigprocmask). It neither
    // allocates nor locks: all error paths build an `io::Error` from an errno.
    unsafe { command.pre_exec(move || die_with_parent(parent).and_then(|()| signal::unblock_all())) }
}

/// Leaves the child of `command` a descriptor that this process closes in all others, under the same number. It must
/// stay open until the child was spawned.
pub fn pass_on(command: &mut Command, fd: BorrowedFd<'_>) {
    let fd = fd.as_raw_fd();
    let keep = move || {
        // SAFETY: between fork and exec the descriptor is the copy of the parent's open one, as the caller promises.
        // Even if it were not, only a flag of a descriptor would change.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        Ok(())
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(keep) };
}

/// Limits that a process sets for itself; `None` leaves what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Highest number of open files.
    pub files: Option<u64>,
    /// Largest file that may be written, in bytes.
    pub file_bytes: Option<u64>,
    /// Largest core dump, in bytes.
    pub core_bytes: Option<u64>,
    /// Most processes and threads of the user.
    pub processes: Option<u64>,
    /// Address space, in bytes.
    pub address_space_bytes: Option<u64>,
    /// Stack of the first thread, in bytes.
    pub stack_bytes: Option<u64>,
    /// Memory locked against being swapped out, in bytes.
    pub locked_bytes: Option<u64>,
    /// CPU time, in seconds.
    pub cpu_seconds: Option<u64>,
}

/// Lowers the limits of this process, soft and hard; a limit that is lower already stays.
///
/// # Errors
/// None that lowering a limit is known to give.
pub fn set_limits(limits: &Limits) -> io::Result<()> {
    let all = [
        (Resource::Nofile, limits.files),
        (Resource::Fsize, limits.file_bytes),
        (Resource::Core, limits.core_bytes),
        (Resource::Nproc, limits.processes),
        (Resource::As, limits.address_space_bytes),
        (Resource::Stack, limits.stack_bytes),
        (Resource::Memlock, limits.locked_bytes),
        (Resource::Cpu, limits.cpu_seconds),
    ];
    for (resource, wanted) in all {
        let Some(wanted) = wanted else { continue };
        let held = getrlimit(resource);
        let lower = |held: Option<u64>| Some(held.map_or(wanted, |held| held.min(wanted)));
        setrlimit(resource, Rlimit { current: lower(held.current), maximum: lower(held.maximum) })?;
    }
    Ok(())
}

/// Gives up every privilege that an executed file could grant.
///
/// # Errors
/// None on Linux 3.5 and later.
pub fn no_new_privs() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Keeps other processes of the user from reading this one's memory, and from dumping it.
///
/// # Errors
/// None on any supported kernel.
pub fn not_dumpable() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// How early the kernel kills this process when memory runs out: -1000 never, 1000 first.
///
/// # Errors
/// `EACCES` when lowering without privilege; `ENOENT` without `/proc`.
pub fn oom_score_adj(value: i16) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", value.to_string())
}

#[cfg(test)]
#[expect(clippy::zombie_processes, reason = "they are reaped by the functions under test")]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn pid(child: &std::process::Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn the_way_a_child_ended_is_told() {
        let child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        assert_eq!(reap(pid(&child)).unwrap(), Exit::Code(7));
        let child = Command::new("sh").args(["-c", "kill -9 $$"]).spawn().unwrap();
        assert_eq!(reap(pid(&child)).unwrap(), Exit::Signal(9));
        assert_eq!(reap(pid(&child)).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn an_end_can_be_waited_for_by_descriptor() {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let ended = exit_fd(pid(&child)).unwrap();
        let zero = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&zero)).unwrap(), 0);
        drop(child.stdin.take());
        assert_eq!(poll(&mut [PollFd::new(&ended, PollFlags::IN)], None).unwrap(), 1);
        assert_eq!(reap(pid(&child)).unwrap(), Exit::Code(0));
    }

    #[test]
    fn whoever_has_another_parent_is_told_to_leave() {
        let own = getpid().as_raw_nonzero().get();
        let mut command = Command::new("true");
        // SAFETY: the closure makes two system calls on plain integers.
        unsafe { command.pre_exec(move || die_with_parent(own.saturating_add(1))) };
        assert_eq!(command.spawn().unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_change_of_credentials_unties_a_process_and_it_can_be_tied_again() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can change its group, which is what makes the kernel forget the tie");
            return;
        }
        let own = getpid().as_raw_nonzero().get();
        let check = move || {
            let is = |wanted: Option<Signal>| match rustix::process::parent_process_death_signal() {
                Ok(signal) if signal == wanted => Ok(()),
                Ok(_) | Err(_) => Err(io::Error::from_raw_os_error(libc::EPROTO)),
            };
            die_with_parent(own)?;
            is(Some(Signal::KILL))?;
            // SAFETY: the system call takes three integers.
            if unsafe { libc::setresgid(65534, 65534, 65534) } != 0 {
                return Err(io::Error::last_os_error());
            }
            is(None)?;
            die_with_parent(own)?;
            is(Some(Signal::KILL))
        };
        let mut command = Command::new("true");
        // SAFETY: the closure makes system calls on plain integers.
        unsafe { command.pre_exec(check) };
        assert!(command.status().unwrap().success());
    }

    #[test]
    fn a_descriptor_that_is_passed_on_is_open_in_the_child_and_in_no_other() {
        use std::os::fd::AsFd as _;
        let file = std::fs::File::open("/dev/null").unwrap();
        let look = |pass: bool| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("test -e /proc/self/fd/{}", file.as_raw_fd())]);
            if pass {
                pass_on(&mut command, file.as_fd());
            }
            command.status().unwrap().success()
        };
        assert_eq!((look(true), look(false)), (true, false));
    }

    #[test]
    fn a_tied_child_dies_with_the_thread_that_spawned_it_even_when_stopped() {
        let pid = std::thread::spawn(|| {
            let child = tie_to_parent(Command::new("sleep").arg("1000")).spawn().unwrap();
            signal::stop_process(pid(&child)).unwrap();
            pid(&child)
        });
        assert_eq!(reap(pid.join().unwrap()).unwrap(), Exit::Signal(9));
    }

    #[test]
    fn a_tied_child_starts_with_no_signal_blocked_though_its_parent_blocks_one() {
        let [own, child] = std::thread::spawn(|| {
            signal::block_child_signal().unwrap();
            let mut command = Command::new("cat");
            let output = tie_to_parent(command.arg("/proc/self/status")).output().unwrap();
            let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            [own, String::from_utf8(output.stdout).unwrap()]
        })
        .join()
        .unwrap();
        assert!(own.contains("SigBlk:\t0000000000010000"), "{own}");
        assert!(child.contains("SigBlk:\t0000000000000000"), "{child}");
    }
}
