//! The list itself: name, number, what the arguments must be, why it is there, and why it stays where it is not seen.
//!
//! Most calls are the same everywhere ([`COMMON`]). Machines of 32 bits have calls of their own for what needs more bits
//! than a register has: places in files, times of the years after 2038 (`arm.rs`).

use libc::c_long;
use seccompiler::{BackendError, SeccompCmpArgLen as Length, SeccompCmpOp as Compare, SeccompCondition as Condition};

/// What the rules need to know of the process that locks itself in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    /// Its process id, which is the id of its only thread as well.
    pub(super) process: i32,
}

/// One system call that a worker may make.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) number: c_long,
    pub(super) arguments: &'static [Argument],
    pub(super) why: &'static str,
    /// Why it stays although no test on an ordinary machine sees it; `None`: a test sees it.
    pub(super) unseen: Option<&'static str>,
}

/// What an argument must be, by its place; all of an entry's must hold.
pub(super) enum Argument {
    /// This integer of 32 bits.
    Is(u8, i32),
    /// One of these integers of 32 bits.
    OneOf(u8, &'static [i32]),
    /// None of these bits.
    Without(u8, i32),
    /// The process that made the filter.
    OwnId(u8),
    /// No address.
    #[cfg_attr(target_pointer_width = "32", expect(dead_code, reason = "there `send` has no address to be null"))]
    Null(u8),
}
use Argument::{Is, Null, OneOf, OwnId, Without};

pub(super) const fn seen(
    name: &'static str,
    number: c_long,
    arguments: &'static [Argument],
    why: &'static str,
) -> Entry {
    Entry { name, number, arguments, why, unseen: None }
}

pub(super) const fn unseen(
    name: &'static str,
    number: c_long,
    arguments: &'static [Argument],
    why: &'static str,
    unseen: &'static str,
) -> Entry {
    Entry { name, number, arguments, why, unseen: Some(unseen) }
}

/// Why the calls of a nap stay.
pub(super) const PARKED: &str =
    "only while the agent is silent; tests/worker.rs and tests/dead_man.rs park workers that have this filter";
/// Descriptor of the socket to the agent.
pub(super) const SOCKET: i32 = 0;
pub(super) const ANY: &[Argument] = &[];
pub(super) const NOT_EXECUTABLE: &[Argument] = &[Without(2, libc::PROT_EXEC)];
/// What may be asked of a descriptor; nothing may be changed.
pub(super) const ASK: &[Argument] = &[OneOf(1, &[libc::F_GETFD, libc::F_GET_SEALS])];
/// Nobody is ever waited for: there is one thread.
const WAKE: &[Argument] = &[Is(1, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG)];
/// What may be advised about memory: that it is not needed.
const GIVE_BACK: &[Argument] = &[OneOf(2, &[libc::MADV_DONTNEED, libc::MADV_FREE])];
/// Signals whose handlers the standard library and abort touch.
const FATAL: &[Argument] = &[OneOf(0, &[libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT])];
const OWN_ABORT: &[Argument] = &[OwnId(0), OwnId(1), Is(2, libc::SIGABRT)];

/// What the list is on this machine.
pub(super) fn list() -> impl Iterator<Item = &'static Entry> {
    COMMON.iter().chain(OWN)
}

#[cfg(target_arch = "arm")]
use super::arm::OWN;

/// What machines of 64 bits call by these names.
#[cfg(not(target_arch = "arm"))]
const OWN: &[Entry] = &[
    seen("sendto", libc::SYS_sendto, &[Is(0, SOCKET), Null(4)], "answers to the agent, and to nobody by address"),
    seen("lseek", libc::SYS_lseek, ANY, "how long a model's file is, and back to its beginning"),
    seen("fcntl", libc::SYS_fcntl, ASK, "whether a model is sealed; debug builds: whether what they close is open"),
    seen("mmap", libc::SYS_mmap, NOT_EXECUTABLE, "the allocator's large blocks"),
];

/// What is called by the same name everywhere.
pub(super) const COMMON: &[Entry] = &[
    // The agent: frames and files come and go over one socket, last words over standard error.
    seen("recvmsg", libc::SYS_recvmsg, &[Is(0, SOCKET)], "frames of the agent, and the models beside them"),
    seen("write", libc::SYS_write, &[Is(0, libc::STDERR_FILENO)], "last words: a panic, a stack overflow, no memory"),
    unseen(
        "writev",
        libc::SYS_writev,
        &[Is(0, libc::STDERR_FILENO)],
        "last words of the C library when it finds the heap broken",
        "needs a heap that is broken on purpose",
    ),
    // Models: descriptors that were handed over.
    seen("read", libc::SYS_read, ANY, "a model's file"),
    seen("close", libc::SYS_close, ANY, "a model that is not needed any more"),
    // Memory: never executable.
    seen("brk", libc::SYS_brk, ANY, "the allocator's small blocks"),
    seen("munmap", libc::SYS_munmap, ANY, "large blocks given back, and the signal stack at the end"),
    seen("mremap", libc::SYS_mremap, ANY, "a large block that grows"),
    seen("madvise", libc::SYS_madvise, GIVE_BACK, "memory given back after a model was loaded"),
    unseen(
        "mprotect",
        libc::SYS_mprotect,
        NOT_EXECUTABLE,
        "the allocator opens pages that it has reserved",
        "the C library does so in a second heap, which it makes when brk finds no room beside the first",
    ),
    seen("getrandom", libc::SYS_getrandom, ANY, "seeds of hash maps"),
    // Time.
    seen(
        "clock_gettime",
        libc::SYS_clock_gettime,
        ANY,
        "CPU time of an item; all clocks where the kernel's page has none",
    ),
    // The dead-man's handle: a handler on top of whatever runs, which naps while the agent is silent.
    seen("rt_sigreturn", libc::SYS_rt_sigreturn, ANY, "the way back from the handler of SIGPROF"),
    unseen("clock_nanosleep", libc::SYS_clock_nanosleep, ANY, "naps of the dead-man's handle", PARKED),
    unseen("restart_syscall", libc::SYS_restart_syscall, ANY, "a nap that was stopped and continued", PARKED),
    unseen("getppid", libc::SYS_getppid, ANY, "whether the agent still lives", PARKED),
    unseen(
        "nanosleep",
        libc::SYS_nanosleep,
        ANY,
        "naps of the dead-man's handle",
        "what musl, and glibc before 2.31, nap by",
    ),
    // Panics and ends.
    seen("futex", libc::SYS_futex, WAKE, "the C library ends its once-only work, such as the first unwinding, by it"),
    seen("rt_sigprocmask", libc::SYS_rt_sigprocmask, ANY, "abort opens SIGABRT first"),
    seen("getpid", libc::SYS_getpid, ANY, "abort signals the process itself"),
    seen("gettid", libc::SYS_gettid, ANY, "abort signals the thread itself"),
    seen("tgkill", libc::SYS_tgkill, OWN_ABORT, "abort, and nobody else, by no other signal"),
    unseen(
        "tkill",
        libc::SYS_tkill,
        &[OwnId(0), Is(1, libc::SIGABRT)],
        "abort, and nobody else, by no other signal",
        "how musl aborts",
    ),
    seen(
        "rt_sigaction",
        libc::SYS_rt_sigaction,
        FATAL,
        "a fault that is no stack overflow goes to the kernel; never SIGPROF",
    ),
    unseen(
        "sigaltstack",
        libc::SYS_sigaltstack,
        ANY,
        "the standard library puts its signal stack away at the end",
        "that of Rust 1.99 leaves it where it is, older ones do not",
    ),
    seen("exit_group", libc::SYS_exit_group, ANY, "the end of the process"),
];

impl Entry {
    /// Alternatives, each a list of conditions that must all hold; no alternative when anything goes.
    pub(super) fn conditions(&self, own: Own) -> Result<Vec<Vec<Condition>>, BackendError> {
        let mut all = vec![Vec::new()];
        for argument in self.arguments {
            // The kernel takes 32 bits of such an argument, so the filter does.
            let is = |index: u8, value: i32| {
                let bits = u64::from(value.cast_unsigned());
                Condition::new(index, Length::Dword, Compare::Eq, bits)
            };
            let alternatives = match argument {
                Is(index, value) => vec![is(*index, *value)?],
                OneOf(index, values) => values.iter().map(|value| is(*index, *value)).collect::<Result<_, _>>()?,
                OwnId(index) => vec![is(*index, own.process)?],
                Without(index, bits) => {
                    let mask = u64::from(bits.cast_unsigned());
                    vec![Condition::new(*index, Length::Dword, Compare::MaskedEq(mask), 0)?]
                }
                Null(index) => vec![Condition::new(*index, Length::Qword, Compare::Eq, 0)?],
            };
            let with = |condition: &Condition| {
                all.iter()
                    .map(|before: &Vec<Condition>| before.iter().chain([condition]).cloned().collect())
                    .collect::<Vec<_>>()
            };
            all = alternatives.iter().flat_map(with).collect();
        }
        all.retain(|conditions| !conditions.is_empty());
        Ok(all)
    }
}
