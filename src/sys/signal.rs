//! How is a process stopped, continued, killed, and how do we see that it happened?

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::process::{Signal, WaitId, WaitIdOptions, kill_process as kill, waitid};

use super::target;

/// What a look at a child shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// At least one of its threads may still run.
    Running,
    /// Every thread is stopped.
    Stopped,
    /// It has ended, or is no child of ours.
    Exited,
}

/// Stops a process by way of one of its threads: unlike [`stop_process`] this interrupts the thread at once, whichever
/// thread the kernel would have chosen.
///
/// # Errors
/// `ESRCH` when the process has no such thread, so a thread id that was reused elsewhere is harmless.
pub fn stop_thread(pid: i32, tid: i32) -> io::Result<()> {
    let [pid, tid] = [target(pid)?, target(tid)?].map(rustix::process::Pid::as_raw_nonzero);
    // SAFETY: the system call takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid.get(), tid.get(), libc::SIGSTOP) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Stops a process.
///
/// # Errors
/// `ESRCH` when there is none, `EPERM` when it is not ours.
pub fn stop_process(pid: i32) -> io::Result<()> {
    Ok(kill(target(pid)?, Signal::STOP)?)
}

/// Continues a stopped process, and takes back stops that have not taken effect.
///
/// # Errors
/// As [`stop_process`].
pub fn continue_process(pid: i32) -> io::Result<()> {
    Ok(kill(target(pid)?, Signal::CONT)?)
}

/// Kills a process, stopped or not.
///
/// # Errors
/// As [`stop_process`].
pub fn kill_process(pid: i32) -> io::Result<()> {
    Ok(kill(target(pid)?, Signal::KILL)?)
}

/// Looks whether a child is stopped as a whole. Takes nothing away: a look can be repeated, and an end is left to be
/// reaped. The kernel forgets a stop in the moment of the next SIGCONT, so no look shows an earlier one.
///
/// # Errors
/// `EINVAL` for a process id that names no process.
pub fn poll_stopped(pid: i32) -> io::Result<Seen> {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(target(pid)?), options) {
        Ok(None) => Ok(Seen::Running),
        Ok(Some(status)) if status.stopped() => Ok(Seen::Stopped),
        Ok(Some(_)) | Err(rustix::io::Errno::CHILD) => Ok(Seen::Exited),
        Err(error) => Err(error.into()),
    }
}

/// Blocks SIGCHLD in this thread and in those that it will start. Call it in `main` before any thread exists:
/// a thread that does not block it would swallow the signal that [`child_signal_fd`] waits for.
///
/// # Errors
/// None on any supported kernel.
pub fn block_child_signal() -> io::Result<()> {
    mask(libc::SIG_BLOCK, &set_of(&[libc::SIGCHLD]))
}

/// Keeps a write beyond the limit of file sizes (RLIMIT_FSIZE) from ending this process: the write fails instead, as on a
/// full disk. Call it in `main` before any thread exists.
///
/// # Errors
/// None on any supported kernel.
pub fn block_file_size_signal() -> io::Result<()> {
    mask(libc::SIG_BLOCK, &set_of(&[libc::SIGXFSZ]))
}

/// Blocks no signal in this thread. Makes system calls only, so it may be used between fork and exec: a blocked signal
/// would stay blocked in the new program, and the standard library does not reset the mask.
pub(super) fn unblock_all() -> io::Result<()> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    mask(libc::SIG_SETMASK, &set)
}

fn mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is an initialised signal set; the old mask is not asked for.
    let errno = unsafe { libc::pthread_sigmask(how, &raw const *set, std::ptr::null_mut()) };
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// A descriptor that becomes readable when a child stops, continues or ends (signalfd). Several such events may be
/// reported as one. See [`block_child_signal`].
///
/// # Errors
/// `EMFILE` and its like; `ENOSYS` where a sandbox forbids it.
pub fn child_signal_fd() -> io::Result<OwnedFd> {
    signal_fd(&set_of(&[libc::SIGCHLD]))
}

/// What a person or a supervisor says to end a tool that has something to clear away: SIGINT and SIGTERM, kept until
/// they are asked for.
#[derive(Debug)]
pub struct Interrupt(OwnedFd);

impl Interrupt {
    /// Keeps both from ending this process from now on. Call it before any other thread exists.
    ///
    /// # Errors
    /// `EMFILE` and its like.
    pub fn keep() -> io::Result<Self> {
        let set = set_of(&[libc::SIGINT, libc::SIGTERM]);
        mask(libc::SIG_BLOCK, &set)?;
        Ok(Self(signal_fd(&set)?))
    }

    /// Whether one has come. Does not block.
    pub fn came(&self) -> bool {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        rustix::io::read(&self.0, &mut info).is_ok()
    }
}

fn signal_fd(set: &libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: `set` is an initialised signal set, and -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const *set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the descriptor of [`child_signal_fd`] unreadable.
pub fn clear_child_signal(fd: BorrowedFd<'_>) {
    let mut info = MaybeUninit::<[libc::signalfd_siginfo; 4]>::uninit();
    loop {
        // SAFETY: the buffer is as long as said, and what is written into it is never read.
        let read = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size_of_val(&info)) };
        if read <= 0 {
            return;
        }
    }
}

fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set, `sigaddset` adds to it and refuses what is no signal.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Keeps the dead-man's handle off this thread and those that it starts: only where a test has more threads than one.
#[cfg(test)]
pub(super) fn block_profile_signal() -> io::Result<()> {
    mask(libc::SIG_BLOCK, &set_of(&[libc::SIGPROF]))
}

/// Starts the child with SIGCHLD blocked in its first thread, as the agent does for itself in `main`.
#[cfg(test)]
pub(crate) fn start_with_child_signal_blocked(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: the closure changes the signal mask and touches nothing else.
    unsafe { command.pre_exec(block_child_signal) }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::sys::clock;

    fn spin() -> (Child, i32) {
        let child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        (child, pid)
    }

    fn wait_until(seen: Seen, pid: i32) {
        let end = clock::now().after(std::time::Duration::from_secs(60));
        while poll_stopped(pid).unwrap() != seen {
            assert!(clock::now() < end, "not {seen:?} within a minute");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    #[test]
    fn a_stop_is_seen_as_often_as_one_looks_and_forgotten_when_continued() {
        let (mut child, pid) = spin();
        assert_eq!(poll_stopped(pid).unwrap(), Seen::Running);
        stop_thread(pid, pid).unwrap();
        stop_process(pid).unwrap();
        wait_until(Seen::Stopped, pid);
        assert_eq!(poll_stopped(pid).unwrap(), Seen::Stopped);
        continue_process(pid).unwrap();
        assert_eq!(poll_stopped(pid).unwrap(), Seen::Running);
        kill_process(pid).unwrap();
        wait_until(Seen::Exited, pid);
        assert!(child.wait().is_ok(), "the look left the end to be reaped");
        assert_eq!(poll_stopped(pid).unwrap(), Seen::Exited);
    }

    #[test]
    fn no_signal_goes_to_groups_or_to_everybody() {
        for pid in [0, -1, i32::MIN] {
            for result in [stop_process(pid), continue_process(pid), kill_process(pid), stop_thread(pid, pid)] {
                assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ESRCH), "pid {pid}");
            }
            assert!(poll_stopped(pid).is_err());
        }
    }

    #[test]
    fn a_thread_of_another_process_is_not_stopped() {
        let (mut child, pid) = spin();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(stop_thread(own, pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(poll_stopped(pid).unwrap(), Seen::Running);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
