//! How does version 2 hold a worker? One hierarchy for everything; a group with controllers for its groups has no
//! processes of its own.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::floor::{Floor, Had};
use super::hierarchy::{Hierarchy, kill_listed};
use super::places::CONTROLLERS;
use super::tree::{self, Put, Tree, put};
use super::{DELEGATE, Limits};

/// What the agent's own group is called when a unit has it made (`DelegateSubgroup=ctl`).
pub(super) const CTL: &str = "ctl";

/// The hierarchy of version 2.
#[derive(Debug)]
pub(super) struct V2 {
    base: PathBuf,
    own_pid: i32,
    /// Whether the agent may be moved. A mere look may not.
    may_move: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Controllers that the groups in `home` do not get, and why.
    missing: BTreeMap<&'static str, (Had, String)>,
    /// Controllers that were given to the groups of `base` by us.
    enabled: Vec<&'static str>,
    /// The group the agent was moved to.
    ctl: Option<PathBuf>,
}

impl V2 {
    /// The hierarchy, where our folder is made in `base`.
    pub(super) fn new(base: PathBuf, own_pid: i32, may_move: bool) -> Self {
        Self { base, own_pid, may_move, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `base` give a controller to its groups.
    fn enable(&self, tree: &dyn Tree, home: &Path, controller: &'static str) -> Result<(), (Had, String)> {
        let no = |why| (Had::No, why);
        let base = self.base.display();
        if !listed(&self.base, "cgroup.controllers", controller) {
            return Err(no(format!("the {controller} controller is not given to {base}; {DELEGATE}")));
        }
        if listed(&self.base, "cgroup.subtree_control", controller) {
            return Ok(());
        }
        // Asked with processes in it, the kernel refuses `memory` but gives `cpu`, `cpuset` and `pids`, and makes the group
        // one of threads: no group in it could then hold a worker. So there must be room before anything is asked for.
        if !tree::processes(&self.base).is_empty() && !self.is_top() {
            self.make_room(tree, home)?;
        }
        let asked = tree.write(&self.base.join("cgroup.subtree_control"), &format!("+{controller}"));
        asked.map_err(|error| no(format!("{base} refuses to give {controller} to its groups: {error}; {DELEGATE}")))?;
        self.state().enabled.push(controller);
        Ok(())
    }

    /// Whether `base` is the top of the whole hierarchy, which may have processes and groups with controllers. It alone
    /// has no type; what a container sees as its top has one.
    fn is_top(&self) -> bool {
        !self.base.join("cgroup.type").exists()
    }

    /// Leaves `base` without processes.
    fn make_room(&self, tree: &dyn Tree, home: &Path) -> Result<(), (Had, String)> {
        let base = self.base.display();
        if tree::processes(&self.base) != [self.own_pid] {
            let text = format!(
                "{base} has processes besides the agent, so its groups get no controllers; start the agent as a service of \
                 its own ({DELEGATE}), or name another group in [cgroup] path"
            );
            return Err((Had::No, text));
        }
        if !self.may_move {
            let text = format!("not tried: {base} gives it to its groups when the agent has moved aside, at its start");
            return Err((Had::Nearly, text));
        }
        let moved = self.move_aside(tree, home);
        moved.map_err(|error| (Had::No, format!("the agent cannot move out of {base}: {error}")))
    }

    /// Moves the agent into a group beside `home`: not into it, because what is in there runs only when nothing else
    /// does.
    fn move_aside(&self, tree: &dyn Tree, home: &Path) -> io::Result<()> {
        let ctl = home.with_extension(CTL);
        match tree.make(&ctl) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        tree.write(&ctl.join("cgroup.procs"), &self.own_pid.to_string())?;
        self.state().ctl = Some(ctl);
        Ok(())
    }
}

impl Hierarchy for V2 {
    fn name(&self) -> &str {
        "cgroup v2"
    }

    fn prepare(&self, tree: &dyn Tree, home: &Path) {
        for controller in CONTROLLERS {
            let given = self.enable(tree, home, controller).and_then(|()| {
                if listed(home, "cgroup.subtree_control", controller) {
                    return Ok(());
                }
                tree.write(&home.join("cgroup.subtree_control"), &format!("+{controller}"))
                    .map_err(|error| (Had::No, format!("{} refuses to give {controller} on: {error}", home.display())))
            });
            if let Err(why) = given {
                self.state().missing.insert(controller, why);
            }
        }
        if !matches!(put(tree, home, "cpu.idle", "1"), Put::Done) {
            // Told by what the groups get.
            let _told = put(tree, home, "cpu.weight", "1");
        }
    }

    fn limit(&self, tree: &dyn Tree, group: &Path, limits: &Limits, floor: &mut Floor) {
        let missing = |controller| self.state().missing.contains_key(controller);
        if !missing("cpu") {
            match put(tree, group, "cpu.idle", "1") {
                Put::Done => floor.tell("cpu.idle", Had::Yes, "inference gets only what nothing else wants"),
                Put::Absent => match put(tree, group, "cpu.weight", "1") {
                    Put::Done => floor.tell(
                        "cpu.idle",
                        Had::Nearly,
                        "this kernel has none (it came with Linux 5.15): cpu.weight 1 instead, a hundredth of a default group",
                    ),
                    Put::Absent => floor.tell("cpu.idle", Had::No, "this kernel has neither cpu.idle nor cpu.weight"),
                    Put::Refused(error) => floor.tell("cpu.idle", Had::No, format!("cpu.weight is refused: {error}")),
                },
                Put::Refused(error) => floor.tell("cpu.idle", Had::No, format!("refused: {error}")),
            }
        }
        if let (Some(cores), false) = (&limits.cores, missing("cpuset")) {
            simple(tree, group, floor, "cpuset.cpus", cores, &format!("cores {cores}"));
        }
        if !missing("memory") {
            let (max, high) = (limits.memory_bytes_max(), limits.memory_bytes_high());
            simple(tree, group, floor, "memory.max", &max.to_string(), &mib(max));
            simple(tree, group, floor, "memory.high", &high.to_string(), &mib(high));
            simple(tree, group, floor, "memory.swap.max", "0", "no swap");
            simple(tree, group, floor, "memory.oom.group", "1", "killed as a whole");
        }
        if !missing("pids") {
            let text = format!("{} processes and threads", limits.processes);
            simple(tree, group, floor, "pids.max", &limits.processes.to_string(), &text);
        }
        let files = [
            ("cgroup.freeze", "5.2", "a worker that signals do not stop is frozen"),
            ("cgroup.kill", "5.14", "whatever a worker has started dies with it"),
        ];
        for (file, came, text) in files {
            match tree::open(group, file) {
                Ok(_) => floor.tell(file, Had::Yes, text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    floor.tell(
                        file,
                        Had::No,
                        format!("this kernel has none (it came with Linux {came}); signals only"),
                    );
                }
                Err(error) => floor.tell(file, Had::No, format!("refused: {error}; signals only")),
            }
        }
    }

    fn why_not(&self, controller: &str) -> Option<(Had, String)> {
        self.state().missing.get(controller).cloned()
    }

    fn kill(&self, tree: &dyn Tree, group: &Path) {
        if !matches!(put(tree, group, "cgroup.kill", "1"), Put::Done) {
            kill_listed(group);
        }
    }

    fn leave(&self, tree: &dyn Tree, home: &Path) {
        let State { enabled, ctl, .. } = std::mem::take(&mut *self.state());
        let Some(ctl) = ctl else { return };
        // Before a process can come back, nothing may be given on any more. A failure leaves groups that the next start,
        // or whoever gave us the base, removes.
        for controller in enabled {
            let _left = tree.write(&home.join("cgroup.subtree_control"), &format!("-{controller}"));
            let _left = tree.write(&self.base.join("cgroup.subtree_control"), &format!("-{controller}"));
        }
        let _left =
            tree.write(&self.base.join("cgroup.procs"), &self.own_pid.to_string()).and_then(|()| tree.remove(&ctl));
    }
}

/// Whether a file of words, such as `cgroup.controllers`, has that one.
fn listed(folder: &Path, file: &str, word: &str) -> bool {
    tree::read(folder, file).is_some_and(|text| text.split_whitespace().any(|listed| listed == word))
}

/// A limit that is set, or not.
fn simple(tree: &dyn Tree, group: &Path, floor: &mut Floor, file: &'static str, value: &str, text: &str) {
    match put(tree, group, file, value) {
        Put::Done => floor.tell(file, Had::Yes, text),
        Put::Absent => floor.tell(file, Had::No, "this kernel has none"),
        Put::Refused(error) => floor.tell(file, Had::No, format!("{value} is refused: {error}")),
    }
}

/// Bytes as people read them.
pub(super) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}
