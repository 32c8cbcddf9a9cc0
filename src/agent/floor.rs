//! What holds the workers whatever happens to the agent? Their cgroups and cores, as the configuration has them.

use std::path::Path;

use super::Error;
use crate::config::Settings;
use crate::sys::sched;
use crate::units::CoreList;
use crate::worker::cgroup::{self, Cgroups, Floor, Had, Limits};

/// Memory of a worker beyond its models and items: the program, its stacks, and what the allocator cannot use.
const MEMORY_SLACK_BYTES: u64 = 64 * 1024 * 1024;
/// Processes and threads of a worker: it computes on one.
const PROCESSES_MAX: u32 = 16;
/// The floor's item of the cores that are left to the RAN.
const RESERVED: &str = "reserved cores";

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

/// What [`Cgroups::open`] could have on this machine, and the cores, without disturbing an agent that runs.
pub fn look(settings: &Settings) -> Floor {
    told(settings, Cgroups::look(&cgroup_settings(settings)))
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
