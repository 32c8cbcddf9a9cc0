//! Does our memory stay where it is?

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

/// Memory of this process that is in RAM, in bytes; `None` where the kernel does not say.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    kibibytes.map(|kibibytes: u64| kibibytes * 1024)
}

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
