//! Do the tests run on the machine itself, or under an emulator that has no clock of its own and knows fewer system calls?
//!
//! `tests/arm/emulated` says so in a variable. There, right or wrong counts, and nothing else does. A whole machine under
//! an emulator (`tests/system.rs`) says so in another: it lacks nothing, but it is as slow.

#![allow(dead_code, missing_docs, unreachable_pub)]

/// Set by `tests/arm/emulated` for whatever it starts.
const VARIABLE: &str = "NEAP_EMULATED";
/// Set in the machines that `tests/system.rs` boots.
const MACHINE: &str = "NEAP_SYSTEM_MACHINE";

/// How many times longer than on the machine itself a test waits for what has to happen.
const SLOW_BY: u32 = 4;

/// Whether an emulator runs this test.
pub fn is_emulated() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Whether this machine as a whole is emulated.
pub fn is_machine_emulated() -> bool {
    std::env::var_os(MACHINE).is_some()
}

/// By what a bound on real time is multiplied: 1 on the machine itself.
pub fn slow_by() -> u32 {
    if is_emulated() || is_machine_emulated() { SLOW_BY } else { 1 }
}

/// The sandbox that workers of a test are to have: an emulator has neither Landlock nor filters of system calls, so there
/// the required one could not be had, and no job would run.
pub fn sandbox_level() -> &'static str {
    if is_emulated() { "best-effort" } else { "required" }
}

/// Whether this test cannot be had from an emulator, for that reason; says loudly that it is skipped. `tests/arm/run`
/// counts these lines.
pub fn not_under_emulation(reason: &str) -> bool {
    if is_emulated() {
        eprintln!("\n!!! SKIPPED: not under emulation: {reason} !!!\n");
    }
    is_emulated()
}

/// Whether this test cannot be had because qemu-user tells a 32-bit program where the machine met a fault, not where the
/// program did: 4096 bytes beside it. Says loudly that it is skipped.
pub fn tells_faults_elsewhere() -> bool {
    let reason = "qemu-user tells 32-bit programs another address of a fault";
    cfg!(target_pointer_width = "32") && not_under_emulation(reason)
}
