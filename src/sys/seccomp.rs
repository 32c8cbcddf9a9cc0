//! How does a process bind itself to a list of system calls?

use std::io;

use seccompiler::sock_filter;

/// `struct sock_fprog` of the kernel.
#[repr(C)]
struct Program {
    length: libc::c_ushort,
    instructions: *const sock_filter,
}

/// Installs a filter of this thread's system calls, for good. The process must have `no_new_privs` set.
///
/// The filter does not ask for the mitigation against reading across speculated stores, which kernels before 5.16 turn
/// on for filtered processes and which costs inference many percent: it keeps a process from reading its own memory by
/// speculation, and all of this one's memory is its own.
///
/// # Errors
/// `EINVAL` for a filter that the kernel does not take, or a kernel without filters; `EACCES` without `no_new_privs`.
pub fn install(filter: &[sock_filter]) -> io::Result<()> {
    let length = libc::c_ushort::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = Program { length, instructions: filter.as_ptr() };
    // SAFETY: `program` says where `length` instructions are, which live as long as the call; the kernel copies and
    // checks them. What the process may call afterwards concerns no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this thread may ask for a filter at all: the system call is there and says that it can end a process. Files in
/// `/proc` tell of the machine's kernel, even where an emulator is between it and us.
pub fn can_end_processes() -> bool {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads one word from a valid place; nothing is changed by the question.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    result == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_lists_the_action_answers_so_when_it_is_asked() {
        if crate::emulation::is_emulated() {
            assert!(!can_end_processes(), "no emulator of programs has seccomp, whatever the files of the kernel say");
            return;
        }
        let listed = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
        assert_eq!(can_end_processes(), listed.split_whitespace().any(|action| action == "kill_process"));
    }
}
