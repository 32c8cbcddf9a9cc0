//! What does a worker give up before it reads its first byte? Everything it will not need.
//!
//! Dying with the agent is required: a worker without an agent has nobody who stops it for the RAN. The rest is tried,
//! and what the kernel or a container refuses is told to the agent, which publishes it. System call filters and Landlock
//! come on top of this, not instead of it.

use std::io;

use crate::sys::{fds, process, sched};

/// Open files of a worker: three standard ones, models, and what recvmsg brings.
pub const FILES_MAX: u64 = 64;
/// First descriptor that a worker closes: 0 is the socket to the agent, 1 and 2 are standard output and error.
const FIRST_STRANGE_FILE: i32 = 3;

/// What this worker may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Process id of the agent.
    pub parent: i32,
    /// The one core to run on; `None`: any.
    pub core: Option<usize>,
    /// Address space, in bytes: the kernel's barrier behind the allocator's own.
    pub address_bytes: u64,
}

/// Locks this process in. Returns one sentence for each step that was refused.
///
/// # Errors
/// When the agent is gone, or its end cannot be bound to ours.
pub fn enter(settings: &Settings) -> io::Result<Vec<String>> {
    process::die_with_parent(settings.parent)?;
    let limits = process::Limits {
        files: Some(FILES_MAX),
        file_bytes: Some(0),
        core_bytes: Some(0),
        processes: Some(0),
        address_space_bytes: Some(settings.address_bytes),
        cpu_seconds: None,
    };
    let steps = [
        ("close inherited files", fds::close_from(FIRST_STRANGE_FILE)),
        ("run at SCHED_IDLE", sched::idle_self()),
        ("run at nice 19", sched::nice_self(19)),
        ("pin to the core", settings.core.map_or(Ok(()), sched::pin_self)),
        ("be the OOM killer's first choice", process::oom_score_adj(1000)),
        ("give up privileges", process::no_new_privs()),
        ("limit resources", process::set_limits(&limits)),
        // Last: afterwards the files of this process in /proc belong to root. An agent that is not root still reads what
        // it needs there (task, stat, schedstat, cgroup), but not open files and memory maps.
        ("hide memory from other processes", process::not_dumpable()),
    ];
    // Again: whatever changes the credentials of a process makes the kernel forget the request, and the agent may have
    // died meanwhile.
    process::die_with_parent(settings.parent)?;
    let refused = steps.into_iter().filter_map(|(step, outcome)| Some((step, outcome.err()?)));
    Ok(refused.map(|(step, error)| format!("jail: could not {step}: {error}")).collect())
}
