//! What may this process do that its neighbours may not? And how does it give that up?
//!
//! All calls are about the calling thread: only for a process that has one.

use std::io;

use rustix::process::{Gid, Uid, geteuid, getuid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, UnshareFlags, capabilities, clear_ambient_capability_set,
    set_capabilities, set_capabilities_secure_bits, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// One above the highest number of a capability that any kernel could know.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// Number of the user that this process is.
pub fn user() -> u32 {
    getuid().as_raw()
}

/// Whether this process is root, in its own user namespace.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether this process may signal processes of other users.
pub fn may_signal_all() -> bool {
    capabilities(None).is_ok_and(|held| held.effective.contains(CapabilitySet::KILL))
}

/// Becomes another user for good, with a group of the same number and no others. The kernel forgets which signal was
/// asked for at the parent's death.
///
/// # Errors
/// `EPERM` without `CAP_SETUID` and `CAP_SETGID`, `EINVAL` for a number that this user namespace does not have.
pub fn become_user(user: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Makes sure that root is no more than any other user when a file is executed, and that this stays so.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn lock_secure_bits() -> io::Result<()> {
    use CapabilitiesSecureBits as Bits;
    let bits = Bits::NO_ROOT | Bits::NO_ROOT_LOCKED | Bits::KEEP_CAPS_LOCKED;
    let ambient = Bits::NO_CAP_AMBIENT_RAISE | Bits::NO_CAP_AMBIENT_RAISE_LOCKED;
    Ok(set_capabilities_secure_bits(bits | ambient)?)
}

/// Empties the bounding set: no executed file can grant a capability any more.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn empty_bounding_set() -> io::Result<()> {
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: this prctl takes one number and touches no memory.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result != 0 {
            let error = io::Error::last_os_error();
            // Beyond the last that this kernel knows.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Gives up every capability.
///
/// # Errors
/// None on any supported kernel: giving up is always allowed.
pub fn drop_capabilities() -> io::Result<()> {
    // Before Linux 4.3 there is no such set, so nothing in it.
    let _none = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Moves into a network and a System V IPC namespace of its own, in which there is nothing. With `user` into a user
/// namespace as well, which is how it is permitted without `CAP_SYS_ADMIN`; there the process holds every capability
/// until it drops them, over nothing but these namespaces. Who may signal the process does not change.
///
/// # Errors
/// `EPERM` where that is not permitted, `ENOSPC` when there are too many namespaces, `EINVAL` where the kernel has none.
pub fn leave_network(user: bool) -> io::Result<()> {
    let flags = UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
    let flags = if user { flags | UnshareFlags::NEWUSER } else { flags };
    // SAFETY: the table of open files, which is what makes this call unsafe, is not among the flags.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}
