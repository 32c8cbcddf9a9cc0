//! Which system calls does a worker need? One list, and the filter that is made of it.
//!
//! Everything that is not on the list ends the process with SIGSYS, which the agent reports as
//! `worker.sandbox_violation`. The numbers are those of the machine that the build is for: x86_64 and aarch64. Others,
//! armv7 among them, have no filter because `seccompiler` makes none for them; their level says so.
//!
//! The list is what a worker was seen to call after it has locked itself in (`tests/sandbox.rs` looks with strace), and
//! entries that no test here can make it call carry the reason why they stay.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod list;

/// Locks this thread in, for good; one sentence on how, or why not.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn enter() -> Result<String, String> {
    use crate::sys::seccomp;
    let own = list::Own { process: rustix::process::getpid().as_raw_nonzero().get() };
    let program = program(own).map_err(|error| format!("the filter of system calls could not be made: {error}"))?;
    seccomp::install(&program).map_err(|error| format!("the kernel refused the filter of system calls: {error}"))?;
    Ok(format!("nothing but {} system calls", list::LIST.len()))
}

/// See above.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
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
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return list::LIST.iter().map(|entry| Allowed { name: entry.name, why: entry.why, unseen: entry.unseen }).collect();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Vec::new()
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn program(own: list::Own) -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    use seccompiler::{SeccompAction, SeccompFilter, SeccompRule};
    let mut rules = std::collections::BTreeMap::<i64, Vec<SeccompRule>>::new();
    for entry in list::LIST {
        let conditions = entry.conditions(own)?;
        let alternatives = conditions.into_iter().map(SeccompRule::new).collect::<Result<Vec<_>, _>>()?;
        rules.insert(entry.number, alternatives);
    }
    let machine = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, machine)?.try_into()
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_short_and_no_system_call_is_on_the_list_twice() {
        let program = program(list::Own { process: 4711 }).unwrap();
        assert!(program.len() < 400, "{} instructions", program.len());
        let mut numbers: Vec<_> = list::LIST.iter().map(|entry| entry.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), list::LIST.len());
    }

    #[test]
    fn every_entry_says_why_it_is_there() {
        for entry in list::LIST {
            assert!(entry.why.len() > 10, "{}", entry.name);
            assert!(entry.unseen.is_none_or(|unseen| unseen.len() > 10), "{}", entry.name);
        }
    }
}
