//! What holds a worker if the agent fails? A cgroup for each: it runs only when nothing else wants the core, has limits
//! of memory and processes, and can be frozen and killed whatever its process does.
//!
//! ```text
//! BASE                          the group the agent was started in, or [cgroup] path
//! ├── neap-agent-NODE-HASH.ctl  the agent, where version 2 forbids it to stay in BASE
//! └── neap-agent-NODE-HASH      ours: cpu.idle, so that it does not compete with what lies beside it
//!     ├── 0                     worker 0: cpu.idle, memory.max, pids.max, …
//!     └── 1
//! ```
//! The same in every hierarchy that is mounted: one of version 2 on a modern node, several of version 1 on an old one, or
//! controllers of version 1 and the freezing and killing of version 2 on a hybrid one. Everything may be refused; then
//! the worker runs without, and [`Floor`] tells what is missing and what to do.
//!
//! In reading order: `places` finds the hierarchies, `make` makes the groups in them, `home` takes over and removes our
//! folder, `v2` and `v1` are the two kinds of `hierarchy`, `freezer` freezes and kills off the hot path, `floor` tells.
//!
//! Measured on a two-core machine (Linux 6.18), a SCHED_IDLE worker against a busy process in another default group:
//! with `cpu.idle` on the worker's group alone, inside a folder of default weight, it took 50 % of the core; with
//! `cpu.idle` on the folder as well, 0 %. So the folder is idle, too, and groups above it that are not are told.

mod floor;
mod freezer;
mod hierarchy;
mod home;
mod make;
mod places;
mod tree;
mod v1;
mod v2;

#[cfg(test)]
pub(crate) mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use self::freezer::{Freezer, Levers};
use self::hierarchy::Hierarchy;
use self::home::Home;
use self::make::Purpose;
use self::tree::{Kernel, Tree};
use crate::sys::clock;
use crate::sys::join::Joins;
use crate::units::WORKERS_MAX;

pub use self::floor::{Floor, Had, Item};

/// What a unit needs to hand its controllers on.
const DELEGATE: &str = "add Delegate=cpu cpuset memory pids to the unit";
/// Items without which [`Mode::Required`] refuses.
const ESSENTIAL: [&str; 3] = ["cgroup", "cpu.idle", "memory.max"];
/// The file that freezes a group of version 2.
const FREEZE_FILE: &str = "cgroup.freeze";
/// How long a start waits until what was wished for the slot's last process is done, and how often it looks.
const SETTLE_MAX: Duration = Duration::from_secs(5);
const SETTLE_LOOK: Duration = Duration::from_millis(2);
/// How long the end waits for killed processes to be gone.
const CLOSE_MAX: Duration = Duration::from_millis(200);
const CLOSE_LOOK: Duration = Duration::from_millis(5);

/// Whether workers get cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// As far as they can be had.
    #[default]
    Auto,
    /// The agent does not start, and no worker runs, without the CPU and memory limits.
    Required,
    /// Not at all.
    Off,
}

/// How workers are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether at all.
    pub mode: Mode,
    /// The group to make our folder in, counted from the top of each hierarchy, such as `/neap.slice`; `None`: the one
    /// that the agent was started in.
    pub path: Option<PathBuf>,
    /// Name of our folder, see [`name`]. There must be one agent of that name.
    pub name: String,
    /// Limits of each worker, by slot.
    pub workers: Vec<Limits>,
}

/// Limits of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Cores it may use, as the kernel writes lists (`3` or `1-3`); `None`: all.
    pub cores: Option<String>,
    /// Memory that it may rightly need, in bytes.
    pub memory_bytes: u64,
    /// Most processes and threads.
    pub processes: u32,
}

impl Limits {
    /// What it may rightly need is never throttled.
    fn memory_bytes_high(&self) -> u64 {
        self.memory_bytes
    }

    /// `memory.high` is 90 % of it.
    fn memory_bytes_max(&self) -> u64 {
        self.memory_bytes.saturating_add(self.memory_bytes / 9)
    }
}

/// Name of the folder of the agent that has that state directory, of which there is one.
pub fn name(node: &str, state_dir: &Path) -> String {
    let state_dir = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned());
    let hash = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
    let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("neap-agent-{node}-{hash}")
}

/// Why there are no cgroups although they are required.
#[derive(Debug, thiserror::Error)]
#[error("cgroup.mode is \"required\", but {}; remedy that, or set it to \"auto\" to run without", .missing.join("; and "))]
pub struct Error {
    /// What cannot be had: item and sentence.
    missing: Vec<String>,
}

/// Files that tell about the memory of one worker's group, for whoever evicts it when memory gets scarce. They exist as
/// long as the agent runs, also while the slot has no process; each may be watched with `poll` (`POLLPRI`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemorySigns {
    /// `memory.pressure` (PSI) of version 2: takes triggers such as `some 50000 1000000`.
    pub pressure: Option<PathBuf>,
    /// `memory.events` of version 2: counts `high`, `max`, `oom` and `oom_kill`.
    pub events: Option<PathBuf>,
    /// `memory.failcnt` of version 1: counts how often the limit was met.
    pub failcnt: Option<PathBuf>,
}

/// The cgroups of all workers of this agent. Removed when it is dropped.
#[derive(Debug)]
pub struct Cgroups {
    mode: Mode,
    tree: Arc<dyn Tree>,
    made: Made,
    freezer: Option<Freezer>,
    closed: AtomicBool,
}

impl Cgroups {
    /// No cgroups at all: signals alone hold the workers.
    pub fn none() -> Self {
        Self {
            mode: Mode::Off,
            tree: Arc::new(Kernel),
            made: Made::default(),
            freezer: None,
            closed: AtomicBool::new(false),
        }
    }

    /// Makes the groups of all workers, after killing what an agent of the same name has left and what dead agents have
    /// left beside it. Blocks for half a second at most when there was something to kill.
    ///
    /// # Errors
    /// When they are required and cannot be had.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        Self::open_in(settings, Arc::new(Kernel), Path::new("/proc/self"))
    }

    fn open_in(settings: &Settings, tree: Arc<dyn Tree>, proc_self: &Path) -> Result<Self, Error> {
        let mut made = make::make(settings, tree.as_ref(), proc_self, Purpose::Hold);
        let freezer = match Freezer::start(made.slots.iter().map(Slot::levers).collect()) {
            Ok(freezer) => Some(freezer),
            Err(error) => {
                made.floor.tell("cgroup.freeze", Had::No, format!("its thread cannot be started: {error}"));
                None
            }
        };
        let cgroups = Self { mode: settings.mode, tree, made, freezer, closed: AtomicBool::new(false) };
        let missing = cgroups.made.floor.items().iter().filter(|item| ESSENTIAL.contains(&item.name));
        let missing: Vec<String> = missing.filter(|item| item.had == Had::No).map(Item::to_string).collect();
        if settings.mode == Mode::Required && !missing.is_empty() {
            return Err(Error { missing });
        }
        Ok(cgroups)
    }

    /// What [`Cgroups::open`] could have, started where this process is. Makes a group of another name and removes it;
    /// an agent that runs does not notice.
    pub fn look(settings: &Settings) -> Floor {
        let name = format!("{}{}", home::PREFIXES[1], std::process::id());
        let workers = settings.workers.iter().take(1).cloned().collect();
        let settings = Settings { name, workers, ..settings.clone() };
        let made = make::make(&settings, &Kernel, Path::new("/proc/self"), Purpose::Look);
        made.remove(&Kernel);
        made.floor
    }

    /// What could be had and what not.
    pub fn floor(&self) -> &Floor {
        &self.made.floor
    }

    /// Files that tell about the memory of the worker of a slot.
    pub fn memory_signs(&self, slot: usize) -> MemorySigns {
        let groups = self.made.slots.get(slot).map_or([].as_slice(), |slot| &slot.groups);
        let find = |file: &str| groups.iter().map(|group| group.join(file)).find(|path| path.is_file());
        MemorySigns {
            pressure: find("memory.pressure"),
            events: find("memory.events"),
            failcnt: find("memory.failcnt"),
        }
    }

    // ---- the agent's side: the life of a process ----

    /// The groups that the next process of a slot is to enter, once they are free of what was wished for the last one:
    /// a process that enters a frozen group never begins. `None` when they do not get free.
    pub(super) async fn before_start(&self, slot: usize) -> Option<Arc<Joins>> {
        if let Some(freezer) = &self.freezer {
            freezer.set_entered(slot, false);
            freezer.thaw(slot);
            let end = clock::now().after(SETTLE_MAX);
            while !freezer.is_settled(slot) {
                if clock::now() >= end {
                    return None;
                }
                tokio::time::sleep(SETTLE_LOOK).await;
            }
        }
        self.made.slots.get(slot).map(|slot| Arc::clone(&slot.joins))
    }

    /// The process of a slot was started; one sentence for each group that it did not enter.
    pub(super) fn after_start(&self, slot: usize, tried: bool) -> Vec<String> {
        let Some(groups) = self.made.slots.get(slot) else { return Vec::new() };
        if !tried {
            return vec![
                "cgroup: the worker runs outside of its groups: the kernel is still busy with its last process"
                    .to_owned(),
            ];
        }
        let mut refused = Vec::new();
        for (group, outcome) in groups.groups.iter().zip(groups.joins.outcome()) {
            match outcome {
                Ok(()) => {
                    if let (Some(freezer), true) = (&self.freezer, group.join(FREEZE_FILE).exists()) {
                        freezer.set_entered(slot, true);
                    }
                }
                Err(error) => refused.push(format!("cgroup: the worker could not enter {}: {error}", group.display())),
            }
        }
        refused
    }

    /// Whether a worker may not run outside of its groups.
    pub(super) fn is_required(&self) -> bool {
        self.mode == Mode::Required
    }

    /// Kills everything in the groups of a slot, soon: whatever the worker has started goes with it.
    pub fn kill(&self, slot: usize) {
        if let Some(freezer) = self.freezer.as_ref().filter(|_| slot < self.made.slots.len()) {
            freezer.kill(slot);
        }
    }

    // ---- the sentinel's side: never waits, allocates or locks ----

    /// Has the worker of a slot frozen, if it can be, soon.
    pub(super) fn freeze(&self, slot: usize) {
        if let Some(freezer) = &self.freezer {
            freezer.freeze(slot);
        }
    }

    /// Has the worker of a slot go on, soon, if it was frozen.
    pub(super) fn thaw(&self, slot: usize) {
        if let Some(freezer) = &self.freezer {
            freezer.thaw(slot);
        }
    }

    /// Whether the kernel says that the worker of a slot is frozen, and nothing else is wished.
    pub(super) fn is_frozen(&self, slot: usize) -> bool {
        self.freezer.as_ref().is_some_and(|freezer| freezer.is_frozen(slot))
    }

    // ---- the end ----

    /// Kills what is left and removes the groups; what needs longer to die than a moment is left to the next start.
    /// The workers should be gone already.
    pub fn close(&self) {
        if self.closed.swap(true, SeqCst) {
            return;
        }
        let end = clock::now().after(CLOSE_MAX);
        loop {
            self.made.kill(self.tree.as_ref());
            if self.made.remove(self.tree.as_ref()) || clock::now() >= end {
                return;
            }
            std::thread::sleep(CLOSE_LOOK);
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.close();
    }
}

// === impl Made ===

/// What was made in the hierarchies.
#[derive(Debug, Default)]
struct Made {
    held: Vec<Held>,
    slots: Vec<Slot>,
    floor: Floor,
}

/// Our folder in one hierarchy.
#[derive(Debug)]
struct Held {
    hierarchy: Box<dyn Hierarchy>,
    home: Home,
}

/// The groups of one worker.
#[derive(Debug)]
struct Slot {
    /// Those that its process can enter, in the order of `joins`.
    groups: Vec<PathBuf>,
    joins: Arc<Joins>,
}

impl Made {
    fn kill(&self, tree: &dyn Tree) {
        for held in &self.held {
            let groups = tree::groups(&held.home.folder, WORKERS_MAX);
            let used = groups.iter().filter(|group| !tree::processes(group).is_empty());
            used.for_each(|group| held.hierarchy.kill(tree, group));
        }
    }

    /// Removes all that is empty; whether nothing is left.
    fn remove(&self, tree: &dyn Tree) -> bool {
        let mut all = true;
        for Held { hierarchy, home } in &self.held {
            if !home.folder.exists() {
                continue;
            }
            home.remove_groups(tree);
            if home.is_empty() {
                hierarchy.leave(tree, &home.folder);
            }
            all &= home.remove(tree).is_ok();
        }
        all
    }
}

impl Slot {
    fn levers(&self) -> Levers {
        let open = |file: &str, write: bool| {
            let found = self.groups.iter().map(|group| group.join(file)).find(|path| path.exists())?;
            File::options().read(!write).write(write).open(found).ok()
        };
        Levers {
            freeze: open(FREEZE_FILE, true).zip(open("cgroup.events", false)),
            kill: open("cgroup.kill", true),
            listed: self.groups.clone(),
        }
    }
}
