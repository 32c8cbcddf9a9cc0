//! Which files does this process hold open?

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

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

/// Takes over a descriptor that this process was started with; it is closed when the result is dropped. Only for a
/// process that has just begun, and once for each number: nobody else may own it.
///
/// # Errors
/// `EBADF` when there is no open descriptor of that number, or it is one of the three standard ones.
pub fn take_inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: a number is only looked up; whether it is open is what the call tells.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) })?;
    // SAFETY: it is open (just checked). That nobody else owns it is the caller's promise; breaking it confuses files,
    // not memory.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd as _, IntoRawFd as _};

    use super::*;

    #[test]
    fn only_an_open_descriptor_beyond_the_standard_ones_is_taken_over() {
        for fd in [-1, 0, 2, 1_000_000] {
            assert_eq!(take_inherited(fd).unwrap_err().raw_os_error(), Some(libc::EBADF), "descriptor {fd}");
        }
        let fd = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let taken = take_inherited(fd).unwrap();
        assert_eq!(taken.as_raw_fd(), fd);
    }
}
