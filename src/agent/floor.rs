//! What holds the workers whatever happens to the agent? Their cgroups and cores, as the configuration has them.

use std::path::Path;

use super::Error;
use crate::config::Settings;
use crate::sentinel::{self, YieldClass};
use crate::sys::{memory, sched};
use crate::units::CoreList;
use crate::worker::cgroup::{self, Cgroups, Floor, Had, Limits};

/// Memory of a worker beyond its models and items: the program, its stacks, and what the allocator cannot use.
const MEMORY_SLACK_BYTES: u64 = 64 * 1024 * 1024;
/// Processes and threads of a worker: it computes on one.
const PROCESSES_MAX: u32 = 16;
/// The floor's item of the cores that are left to the RAN.
const RESERVED: &str = "reserved cores";
/// The floor's item of the sentinel's scheduling class.
const CLASS: &str = "yield class";
/// The floor's item of the sentinel's memory.
const LOCKED: &str = "memory locked";

/// Keeps this thread, and what it starts, off the reserved cores. Call it before any other thread exists.
///
/// # Errors
/// When no core would be left.
pub fn keep_off_reserved_cores(settings: &Settings) -> Result<(), Error> {
    let reserved = &settings.workers.reserved;
    if reserved.is_empty() {
        return Ok(());
    }
    let left = usable(settings);
    let refused = |why: String| Error::Cores { reserved: CoreList(reserved).to_string(), why };
    if left.is_empty() {
        return Err(refused(format!("this process may use {} only", CoreList(&sched::cores()))));
    }
    sched::confine_self(&left).map_err(|error| refused(error.to_string()))
}

/// What an agent could have on this machine: class and memory of the sentinel, groups, cores. Does not disturb an agent
/// that runs; locks the memory of the process that looks.
pub fn look(settings: &Settings) -> Floor {
    let mut floor = told(settings, Cgroups::look(&cgroup_settings(settings)));
    let (had, text) = class(settings.sentinel.priority, sentinel::class_for(settings.sentinel.priority).ok());
    floor.tell(CLASS, had, text);
    let (had, text) = match memory::lock_all() {
        Ok(()) => (Had::Yes, "no page of the yield path can be missing".to_owned()),
        Err(error) => {
            let remedy = "a page may have to be fetched in the middle of a yield; give the unit LimitMEMLOCK=infinity";
            (Had::No, format!("{error}: {remedy}"))
        }
    };
    floor.tell(LOCKED, had, text);
    floor
}

/// What the class means that a sentinel of that priority gets; `None`: it could not be tried.
fn class(priority: Option<u8>, class: Option<YieldClass>) -> (Had, String) {
    let slice = match class {
        Some(fifo @ YieldClass::Fifo(_)) => {
            return (Had::Yes, format!("{fifo}: the sentinel gets a core before every ordinary thread"));
        }
        Some(slice @ YieldClass::ShortSlice) => format!("{slice}: an ordinary thread with a slice of 100 µs"),
        Some(other @ YieldClass::Other) => {
            format!("{other}: an ordinary thread; this kernel knows no short slice (6.12 and later do)")
        }
        None => return (Had::No, "no thread could be started to try it; free processes and memory".to_owned()),
    };
    let remedy = match priority {
        None => "for SCHED_FIFO set [sentinel] priority, below that of the RAN's threads".to_owned(),
        Some(priority) => format!(
            "SCHED_FIFO {priority} is refused: give the unit LimitRTPRIO={priority} or CAP_SYS_NICE; on cgroup version 1 \
             the group needs cpu.rt_runtime_us above 0 as well"
        ),
    };
    (if priority.is_some() { Had::No } else { Had::Nearly }, format!("{slice}; {remedy}"))
}

/// The floor with what it says about cores.
pub(super) fn told(settings: &Settings, mut floor: Floor) -> Floor {
    let reserved = &settings.workers.reserved;
    if !reserved.is_empty() {
        let left = usable(settings);
        let (had, left) = match left.is_empty() {
            true => (Had::No, "none, so it does not start".to_owned()),
            false => (Had::Yes, CoreList(&left).to_string()),
        };
        let text = format!("{} for the RAN; the agent and its workers use {left}", CoreList(reserved));
        floor.tell(RESERVED, had, text);
    }
    floor
}

/// Tells the log.
pub(super) fn log(floor: &Floor) {
    for item in floor.items() {
        match item.had {
            Had::Yes => tracing::info!("floor: {item}"),
            Had::Nearly | Had::No => tracing::warn!("floor: {item}"),
        }
    }
}

/// How the workers of this agent are held.
pub(super) fn cgroup_settings(settings: &Settings) -> cgroup::Settings {
    let workers = &settings.workers;
    let cores = |slot: usize| match workers.cores.get(slot) {
        Some(core) => Some(core.to_string()),
        None => (!workers.reserved.is_empty()).then(|| CoreList(&usable(settings)).to_string()),
    };
    let memory_bytes = workers.memory_bytes + settings.jobs.limits_max.memory_bytes + MEMORY_SLACK_BYTES;
    let limits = |slot| Limits { cores: cores(slot), memory_bytes, processes: PROCESSES_MAX };
    cgroup::Settings {
        mode: settings.cgroup.mode,
        path: settings.cgroup.path.clone(),
        name: cgroup::name(settings.node.topics.node().as_str(), Path::new(&settings.jobs.state_dir)),
        workers: (0..usize::from(workers.count)).map(limits).collect(),
    }
}

/// Cores that this process may use and that are not reserved.
fn usable(settings: &Settings) -> Vec<usize> {
    sched::cores().into_iter().filter(|core| !settings.workers.reserved.contains(core)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_told_with_what_would_make_it_better() {
        assert_eq!(class(Some(20), Some(YieldClass::Fifo(20))).0, Had::Yes);
        let (had, text) = class(Some(20), Some(YieldClass::ShortSlice));
        assert!(had == Had::No && text.contains("LimitRTPRIO=20") && text.starts_with("short-slice"), "{text}");
        let (had, text) = class(None, Some(YieldClass::Other));
        assert!(had == Had::Nearly && text.contains("[sentinel] priority"), "{text}");
        assert_eq!(class(None, None).0, Had::No);
    }
}
