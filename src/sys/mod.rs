//! What do we ask of the kernel? Every system call that needs `unsafe`, and the clock: one small file per topic.
//!
//! Everything returns `io::Result` and takes plain values, so callers degrade by themselves where a kernel or a
//! container refuses (`ENOSYS`, `EPERM`). Safe wrappers of `rustix` are used where they exist.
#![expect(unsafe_code, reason = "the one place of the crate where system calls are made by hand")]

pub mod alloc;
pub mod clock;
pub mod credential;
pub mod dead_man;
pub mod event;
pub mod fds;
pub mod forbidden;
pub mod futex;
pub mod guarded;
pub mod join;
pub mod kernel;
pub mod memory;
pub mod privilege;
pub mod process;
pub mod sched;
pub mod seccomp;
pub mod shared;
pub mod signal;
pub mod usage;
pub mod watched;

use std::io;

use rustix::process::Pid;

/// One above the highest process id that Linux gives out (`PID_MAX_LIMIT`). Far greater ones overflow into the ids of other CPU clocks.
const PID_MAX: i32 = 4 * 1024 * 1024;

/// Any number, evenly spread: the seed of the standard library's hash maps. For jitter, not for secrets.
pub fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Refuses process ids that would name a group or every process (`kill(0)`, `kill(-1)`), or that cannot be.
fn target(pid: i32) -> io::Result<Pid> {
    let valid = (1..=PID_MAX).contains(&pid).then_some(pid);
    valid.and_then(Pid::from_raw).ok_or_else(no_such_process)
}

fn no_such_process() -> io::Error {
    io::Error::from_raw_os_error(libc::ESRCH)
}
