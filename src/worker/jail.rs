//! What does a worker give up before it reads its first byte? Everything it will not need.
//!
//! Dying with the agent is required: a worker without an agent has nobody who stops it for the RAN. The rest is tried
//! and told item by item ([`achieved`]): the agent publishes it, and at [`Level::Required`] a worker without
//! `no_new_privs`, Landlock or a filter of system calls serves nobody.
//!
//! The rings, from the outside in: another user, no capability and an empty network where the agent's own rights allow
//! it; limits of files, processes and memory; [`landlock`] without a rule; [`filter`], the list of system calls. Each
//! stands without the others: an old kernel of a vendor has no Landlock, one with OABI support no filter.
//!
//! What needs files is done before the door closes (`warm_up`): the engine looks at the processor and its caches.

pub mod achieved;
pub mod filter;
mod landlock;
pub mod selftest;

use std::io;

pub use self::achieved::Level;
use self::achieved::{Achieved, Given, Outcome, Step};
use crate::sys::{clock, fds, privilege, process, sched};

/// Open files of a worker: three standard ones, models, and what recvmsg brings.
pub const FILES_MAX: u64 = 32;
/// Stack of a worker, in bytes.
const STACK_BYTES: u64 = 8 * 1024 * 1024;
/// First descriptor that a worker closes: 0 is the socket to the agent, 1 and 2 are standard output and error.
const FIRST_STRANGE_FILE: i32 = 3;
/// Who a worker of a root agent becomes when nobody says otherwise: a number that belongs to no user or service by the
/// rules of systemd, so that it owns nothing.
pub const USER: u32 = 60_900;

/// How the sandbox is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How much of it must be had.
    pub level: Level,
    /// Number of the user that a worker of a root agent becomes.
    pub user: u32,
    /// Whether a worker gets a network namespace.
    pub network: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { level: Level::Required, user: USER, network: true }
    }
}

/// What this worker may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Process id of the agent.
    pub parent: i32,
    /// The one core to run on; `None`: any.
    pub core: Option<usize>,
    /// Address space, in bytes: the kernel's barrier behind the allocator's own.
    pub address_bytes: u64,
    /// How the sandbox is to be.
    pub policy: Policy,
    /// Whether it behaves as one that computes beside a RAN: last in line for the core, first in line to be killed.
    pub manners: bool,
}

/// A process that has locked itself in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// What the sandbox has come to.
    pub achieved: Achieved,
    /// One sentence for each step that was refused and that a worker expects.
    pub notes: Vec<String>,
}

/// Locks this process in. `warm_up` is what needs files for the last time. Only for a process of one thread.
///
/// # Errors
/// When the agent is gone, or its end cannot be bound to ours.
pub fn enter(settings: &Settings, warm_up: impl FnOnce()) -> io::Result<Entered> {
    let policy = settings.policy;
    let is_on = policy.level != Level::Off;
    let started = clock::now();
    process::die_with_parent(settings.parent)?;
    let mut steps = Steps::default();
    steps.tell(Step::Files, fds::close_from(FIRST_STRANGE_FILE), "none but those of a worker");
    let mut notes = if settings.manners { manners(settings.core) } else { Vec::new() };
    let uid = if is_on { give_up_identity(&mut steps, policy) } else { privilege::user() };
    // Again: whatever changes the credentials of a process makes the kernel forget the request, and the agent may have
    // died meanwhile.
    process::die_with_parent(settings.parent)?;
    let limits = process::set_limits(&limits(settings.address_bytes));
    let detail = "no file or process can be made; files, stack and address space are limited";
    steps.tell(Step::Limits, limits, detail);
    let before = clock::now();
    warm_up();
    let warm_up = clock::now().since(before);
    // From here on the files of this process in /proc belong to root. An agent that is not root still reads what it
    // needs there (task, stat, schedstat, cgroup), but not open files and memory maps.
    steps.tell(Step::Hidden, process::not_dumpable(), "no process of the same user can read or dump it");
    steps.tell(Step::NoNewPrivs, process::no_new_privs(), "no executed file can grant anything");
    let landlock_abi = if is_on { lock(&mut steps) } else { 0 };
    let set_up = clock::now().since(started).saturating_sub(warm_up);
    let level = policy.level;
    let achieved = Achieved { level, outcomes: steps.0, landlock_abi, uid, set_up, warm_up };
    notes.extend(achieved.notes());
    Ok(Entered { achieved, notes })
}

/// How a worker behaves towards everybody else; one sentence for each refusal.
fn manners(core: Option<usize>) -> Vec<String> {
    let steps = [
        ("run at SCHED_IDLE", sched::idle_self()),
        ("run at nice 19", sched::nice_self(19)),
        ("pin to the core", core.map_or(Ok(()), sched::pin_self)),
        ("be the OOM killer's first choice", process::oom_score_adj(1000)),
    ];
    let refused = steps.into_iter().filter_map(|(step, outcome)| Some((step, outcome.err()?)));
    refused.map(|(step, error)| format!("jail: could not {step}: {error}")).collect()
}

fn limits(address_bytes: u64) -> process::Limits {
    process::Limits {
        files: Some(FILES_MAX),
        file_bytes: Some(0),
        core_bytes: Some(0),
        processes: Some(0),
        address_space_bytes: Some(address_bytes),
        stack_bytes: Some(STACK_BYTES),
        locked_bytes: Some(0),
        cpu_seconds: None,
    }
}

/// Leaves the agent's network and user and every capability behind; the user that the worker is then.
///
/// The order is the kernel's: a network namespace wants a capability, which the change of user takes, or else a user
/// namespace, in which nobody else is to be found.
fn give_up_identity(steps: &mut Steps, policy: Policy) -> u32 {
    // Takes 0.3 to 0.5 ms, most of the whole sandbox. A UTS namespace besides would hide nothing but the host's name.
    let mut network = if policy.network { Some(privilege::leave_network(false)) } else { None };
    // Without privilege there is nothing to give up here.
    let _bits = privilege::lock_secure_bits();
    let mut bounding = privilege::empty_bounding_set();
    let user = become_user(policy.user);
    let uid = privilege::user();
    if let Some(Err(_)) = network {
        network = Some(privilege::leave_network(true));
        // There the process may.
        let _bits = privilege::lock_secure_bits();
        bounding = bounding.or_else(|_| privilege::empty_bounding_set());
    }
    let (given, detail) = match network {
        Some(Ok(())) => (Given::Yes, "an empty network, and no System V IPC of others".to_owned()),
        Some(Err(error)) => (Given::No, format!("the network of the agent: {error}")),
        None => (Given::No, "the network of the agent, as [sandbox] network_namespace says".to_owned()),
    };
    steps.push(Step::Network, given, detail);
    steps.push(Step::User, user.0, user.1);
    let bounding = if bounding.is_ok() { "none, and none to be had" } else { "none" };
    steps.tell(Step::Capabilities, privilege::drop_capabilities(), bounding);
    uid
}

fn become_user(user: u32) -> (Given, String) {
    if !privilege::is_root() {
        return (Given::No, format!("user {}, that of the agent, which is not root", privilege::user()));
    }
    // An agent that cannot stop its workers must not let them go.
    if !privilege::may_signal_all() {
        return (Given::No, "root: without CAP_KILL the agent could not stop a worker of another user".to_owned());
    }
    match privilege::become_user(user) {
        Ok(()) => (Given::Yes, format!("user {user}, who owns nothing")),
        Err(error) => (Given::No, format!("root: the change to user {user} was refused: {error}")),
    }
}

/// The last two rings; which Landlock the kernel has.
fn lock(steps: &mut Steps) -> u8 {
    let landlock::Locked { given, abi, detail } = landlock::enter();
    steps.push(Step::Landlock, given, detail);
    let (given, detail) = match filter::enter() {
        Ok(how) => (Given::Yes, how),
        Err(why) => (Given::No, why),
    };
    steps.push(Step::Seccomp, given, detail);
    abi
}

/// What became of the items so far.
#[derive(Default)]
struct Steps(Vec<Outcome>);

impl Steps {
    fn push(&mut self, step: Step, given: Given, detail: String) {
        self.0.push(Outcome { step, given, detail });
    }

    fn tell(&mut self, step: Step, outcome: io::Result<()>, detail: &str) {
        match outcome {
            Ok(()) => self.push(step, Given::Yes, detail.to_owned()),
            Err(error) => self.push(step, Given::No, error.to_string()),
        }
    }
}
