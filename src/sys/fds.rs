//! Which files does this process hold open?

use std::io;
use std::os::fd::RawFd;

/// Closes every file descriptor from `first` on. Only for a process that has just begun: whoever holds one of them in an
/// `OwnedFd` would close a stranger's later.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the system call takes three integers and touches no memory of ours. That no descriptor above `first` is
    // owned by anybody is the caller's promise; breaking it confuses files, not memory.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
