//! How does version 1 hold a worker? One hierarchy for each controller. Its freezer is not used: what it has frozen
//! ignores SIGKILL.

use std::path::Path;

use super::Limits;
use super::floor::{Floor, Had};
use super::hierarchy::{Hierarchy, kill_listed};
use super::tree::{Put, Tree, put};
use super::v2::mib;

/// Least value of `cpu.shares`; the default is 1024.
const SHARES_MIN: &str = "2";

/// A hierarchy of version 1.
#[derive(Debug)]
pub(super) struct V1 {
    name: String,
    controllers: Vec<&'static str>,
}

impl V1 {
    /// The hierarchy of these controllers.
    pub(super) fn new(name: String, controllers: Vec<&'static str>) -> Self {
        Self { name, controllers }
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    /// Whether a hierarchy of these controllers is used. Not one with cpuset: a group of it takes no process before its
    /// cores are set, loses cores that go offline for good, and then its processes to the group above.
    pub(super) fn is_of_use(controllers: &[&str]) -> bool {
        !controllers.contains(&"cpuset")
    }
}

impl Hierarchy for V1 {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, tree: &dyn Tree, home: &Path) {
        if self.has("cpu") && !matches!(put(tree, home, "cpu.idle", "1"), Put::Done) {
            // Told by what the groups get.
            let _told = put(tree, home, "cpu.shares", SHARES_MIN);
        }
    }

    fn limit(&self, tree: &dyn Tree, group: &Path, limits: &Limits, floor: &mut Floor) {
        if self.has("cpu") {
            match put(tree, group, "cpu.idle", "1") {
                Put::Done => floor.tell("cpu.idle", Had::Yes, "inference gets only what nothing else wants"),
                Put::Absent | Put::Refused(_) => match put(tree, group, "cpu.shares", SHARES_MIN) {
                    Put::Done => floor.tell(
                        "cpu.idle",
                        Had::Nearly,
                        "this kernel has none (it came with Linux 5.15): cpu.shares 2 instead, a 500th of a default group",
                    ),
                    Put::Absent => floor.tell("cpu.idle", Had::No, "this kernel has neither cpu.idle nor cpu.shares"),
                    Put::Refused(error) => floor.tell("cpu.idle", Had::No, format!("cpu.shares is refused: {error}")),
                },
            }
        }
        if self.has("memory") {
            limit_memory(tree, group, limits, floor);
        }
        if self.has("pids") {
            match put(tree, group, "pids.max", &limits.processes.to_string()) {
                Put::Done => floor.tell("pids.max", Had::Yes, format!("{} processes and threads", limits.processes)),
                Put::Absent => floor.tell("pids.max", Had::No, "this kernel has none"),
                Put::Refused(error) => floor.tell("pids.max", Had::No, format!("refused: {error}")),
            }
        }
    }

    fn why_not(&self, _: &str) -> Option<(Had, String)> {
        None
    }

    fn kill(&self, _: &dyn Tree, group: &Path) {
        kill_listed(group);
    }

    fn leave(&self, _: &dyn Tree, _: &Path) {}
}

fn limit_memory(tree: &dyn Tree, group: &Path, limits: &Limits, floor: &mut Floor) {
    let max = limits.memory_bytes_max();
    // Memory and swap together may not be limited below memory alone: out of the way first.
    let counts_swap = matches!(put(tree, group, "memory.memsw.limit_in_bytes", "-1"), Put::Done);
    match put(tree, group, "memory.limit_in_bytes", &max.to_string()) {
        Put::Done => floor.tell("memory.max", Had::Yes, format!("{}, as memory.limit_in_bytes", mib(max))),
        Put::Absent => floor.tell("memory.max", Had::No, "this kernel has no memory.limit_in_bytes"),
        Put::Refused(error) => {
            floor.tell("memory.max", Had::No, format!("memory.limit_in_bytes = {max} is refused: {error}"));
        }
    }
    if counts_swap && matches!(put(tree, group, "memory.memsw.limit_in_bytes", &max.to_string()), Put::Done) {
        floor.tell("memory.swap.max", Had::Yes, "no swap beyond memory.max, as memory.memsw.limit_in_bytes");
    } else if matches!(put(tree, group, "memory.swappiness", "0"), Put::Done) {
        floor.tell("memory.swap.max", Had::Nearly, "swap is not counted here: memory.swappiness 0 instead");
    } else {
        floor.tell("memory.swap.max", Had::No, "version 1 does not limit swap here; run the node without swap");
    }
    floor.tell("memory.high", Had::No, "version 1 has none; a worker meets memory.max without a warning");
}
