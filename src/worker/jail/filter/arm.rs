//! What is different about the filter on 32-bit ARM? Its mark of the architecture, and the calls of a machine of 32 bits.
//!
//! `seccompiler` makes filters for machines of 64 bits only. A filter sees every call through the same `struct
//! seccomp_data` on all of them: number, architecture, and six arguments of 64 bits, each half read on its own. On 32-bit
//! ARM that is little-endian as on aarch64, the upper halves are zero, and the rules here look at lower halves only (all
//! arguments are 32 bits wide, so the sign of one is never extended into bits that are compared). So the filter is made
//! for aarch64 with ARM's numbers, and the one constant that says aarch64 is replaced ([`retarget`]).
//!
//! Calls of ARM alone, of which `cacheflush` and `set_tls` have numbers from 0x0f0000 on, are not on the list: nothing is
//! compiled after the start, and no thread is made. Kernels that still run programs of the ABI before EABI
//! (`CONFIG_OABI_COMPAT`) have no filters.
//!
//! `openat` is denied and does not end the worker: whenever it chooses a kernel, tract looks into `/proc/cpuinfo` for the
//! core's name there, and takes the kernels for any core with NEON when it cannot.

use libc::c_long;
use seccompiler::{BpfProgram, sock_filter};

use super::list::{ANY, ASK, Argument::Is, Entry, NOT_EXECUTABLE, PARKED, SOCKET, seen, unseen};

/// `AUDIT_ARCH_AARCH64` of the kernel: `EM_AARCH64`, 64 bits, little-endian.
pub(super) const AARCH64: u32 = 183 | 0x8000_0000 | 0x4000_0000;
/// `AUDIT_ARCH_ARM` of the kernel: `EM_ARM`, little-endian.
pub(super) const ARM: u32 = 40 | 0x4000_0000;
/// Instruction that loads a word of `struct seccomp_data`.
pub(super) const LOAD: u16 = 0x20;
/// Instruction that compares what was loaded with a constant.
pub(super) const EQUAL: u16 = 0x15;
/// Instruction that ends the filter with a constant.
pub(super) const RETURN: u16 = 0x06;
/// Where the architecture is in `struct seccomp_data`.
pub(super) const ARCHITECTURE: u32 = 4;
/// Where the number is in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
/// What the filter says to `openat`: `SECCOMP_RET_ERRNO` with `EACCES`.
pub(super) const DENIED: u32 = 0x0005_0000 | libc::EACCES.cast_unsigned();

/// What 32-bit ARM calls by other names. The numbers are ABI; those of times after 2038 are not in the `libc` crate.
pub(super) const OWN: &[Entry] = &[
    seen("send", SEND, &[Is(0, SOCKET)], "answers to the agent; it has no address"),
    seen("_llseek", LLSEEK, ANY, "how long a model's file is, and back to its beginning"),
    seen("fcntl64", FCNTL64, ASK, "whether a model is sealed; debug builds: whether what they close is open"),
    seen("mmap2", MMAP2, NOT_EXECUTABLE, "the allocator's large blocks"),
    seen("clock_gettime64", CLOCK_GETTIME64, ANY, "as clock_gettime, which kernels before 5.1 have alone"),
    seen("sigreturn", SIGRETURN, ANY, "the way back from the handler of SIGPROF, which takes one argument"),
    unseen("clock_nanosleep_time64", CLOCK_NANOSLEEP_TIME64, ANY, "naps of the dead-man's handle", PARKED),
];
/// What is denied with an error.
pub(super) const OPENAT: u32 = 322;
const SIGRETURN: c_long = 119;
const LLSEEK: c_long = 140;
const MMAP2: c_long = 192;
const FCNTL64: c_long = 221;
const SEND: c_long = 289;
const CLOCK_GETTIME64: c_long = 403;
const CLOCK_NANOSLEEP_TIME64: c_long = 407;

/// Makes a filter for aarch64 one for 32-bit ARM. `None` when the program is not what it is thought to be: the
/// architecture is looked at once, at its beginning, compared with aarch64's mark there, and that constant is nowhere else;
/// the number is loaded once.
pub(super) fn retarget(mut program: BpfProgram) -> Option<BpfProgram> {
    let loads = |offset: u32| move |step: &sock_filter| step.code == LOAD && step.k == offset;
    let looks = program.iter().filter(|step| loads(ARCHITECTURE)(step)).count();
    let marks = program.iter().filter(|step| step.k == AARCH64).count();
    let numbers = program.iter().filter(|step| loads(NUMBER)(step)).count();
    let number = program.iter().position(loads(NUMBER))?;
    let [look, compare, ..] = &mut program[..] else { return None };
    let is_known = look.code == LOAD && look.k == ARCHITECTURE && compare.code == EQUAL && compare.k == AARCH64;
    if !is_known || looks != 1 || marks != 1 || numbers != 1 {
        return None;
    }
    compare.k = ARM;
    // Jumps of a filter go forwards from where they stand; none of those before crosses this place (a test walks them).
    let denied =
        [sock_filter { code: EQUAL, jt: 0, jf: 1, k: OPENAT }, sock_filter { code: RETURN, jt: 0, jf: 0, k: DENIED }];
    program.splice(number + 1..number + 1, denied);
    Some(program)
}
