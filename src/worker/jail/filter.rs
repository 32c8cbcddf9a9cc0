//! Which system calls does a worker need? One list, and the filter that is made of it.
//!
//! Everything that is not on the list ends the process with SIGSYS, which the agent reports as
//! `worker.sandbox_violation`. The numbers are those of the machine that the build is for: x86_64, aarch64 and 32-bit ARM,
//! for which the filter is made in a way of its own (`filter/arm.rs`). Others have none, and their level says so.
//!
//! The list is what a worker was seen to call after it has locked itself in (`tests/sandbox.rs` looks with strace), and
//! entries that no test here can make it call carry the reason why they stay.

#[cfg(any(target_arch = "arm", all(test, target_arch = "x86_64"), all(test, target_arch = "aarch64")))]
mod arm;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
mod list;
#[cfg(test)]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
mod tests;

/// Locks this thread in, for good; one sentence on how, or why not.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
pub(super) fn enter() -> Result<String, String> {
    use crate::sys::seccomp;
    let own = list::Own { process: rustix::process::getpid().as_raw_nonzero().get() };
    let program = program(own).map_err(|error| format!("the filter of system calls could not be made: {error}"))?;
    seccomp::install(&program).map_err(|error| format!("the kernel refused the filter of system calls: {error}"))?;
    Ok(format!("nothing but {} system calls", list::list().count()))
}

/// See above.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
pub(super) fn enter() -> Result<String, String> {
    Err(format!("there is no filter of system calls for {}", std::env::consts::ARCH))
}

/// A system call that a worker may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Its name.
    pub name: &'static str,
    /// What a worker needs it for.
    pub why: &'static str,
    /// Why it stays although it is not seen on an ordinary machine; `None`: it is.
    pub unseen: Option<&'static str>,
}

/// The list; empty where there is no filter.
pub fn allowed() -> Vec<Allowed> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
    return list::list().map(|entry| Allowed { name: entry.name, why: entry.why, unseen: entry.unseen }).collect();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
    Vec::new()
}

/// The filter for the machine that this build is for.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn program(own: list::Own) -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    compile(list::list().copied(), own, std::env::consts::ARCH)
}

/// See above.
#[cfg(target_arch = "arm")]
fn program(own: list::Own) -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    let program = compile(list::list().copied(), own, "aarch64")?;
    let changed = "arm: the filter for aarch64 does not begin as seccompiler has made it so far";
    arm::retarget(program).ok_or_else(|| seccompiler::BackendError::InvalidTargetArch(changed.to_owned()))
}

/// The filter that lets these calls pass and no other, on that machine.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
fn compile(
    entries: impl Iterator<Item = list::Entry>,
    own: list::Own,
    machine: &str,
) -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    use seccompiler::{SeccompAction, SeccompFilter, SeccompRule};
    let mut rules = std::collections::BTreeMap::<i64, Vec<SeccompRule>>::new();
    for entry in entries {
        let conditions = entry.conditions(own)?;
        let alternatives = conditions.into_iter().map(SeccompRule::new).collect::<Result<Vec<_>, _>>()?;
        #[allow(clippy::unnecessary_cast, reason = "the type has 32 bits on machines of 32 bits")]
        rules.insert(entry.number as i64, alternatives);
    }
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, machine.try_into()?)?.try_into()
}
