//! Does our memory stay where it is?

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

/// Keeps every page that the process has touched, or will touch, from being paged out. Pages become resident when they
/// are first used, so this costs no memory by itself. Children do not inherit it.
///
/// # Errors
/// `EPERM` without the privilege, or when the process has a limit on locked memory: under such a limit, locking what
/// is to come would turn a later allocation into an abort.
pub fn lock_all() -> io::Result<()> {
    if getrlimit(Resource::Memlock).current.is_some() && !rustix::process::geteuid().is_root() {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(())
}
