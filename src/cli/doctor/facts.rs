//! What do the kernel's files say? Read below a root folder, so that the files of other machines can be judged as well.

use std::fs;
use std::path::Path;

use crate::units::CoreList;

/// Most cores that are looked at.
const CORES_MAX: usize = 1024;
/// Most bytes that are read of a file.
const FILE_CHARS_MAX: usize = 64 * 1024;

/// What is known of one core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Core {
    /// Its number.
    pub(super) number: usize,
    /// The other threads of the same physical core, as the kernel lists them with this one.
    pub(super) siblings: String,
    /// Its cpufreq governor, where there is one.
    pub(super) governor: Option<String>,
}

/// What the files say; `None` and empty where there is no such file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Release of the kernel, such as `5.10.120-rt70`.
    pub(super) release: Option<String>,
    /// `/proc/version`.
    pub(super) version: String,
    /// `/sys/kernel/realtime`: 1 with PREEMPT_RT.
    pub(super) realtime: Option<String>,
    /// `/proc/self/status`.
    pub(super) status: String,
    /// `/proc/self/limits`.
    pub(super) limits: String,
    /// What seccomp can do.
    pub(super) seccomp_actions: Option<String>,
    /// Whether seccomp is refused whatever the files say; what is read is `false`, only a try can tell.
    pub(super) seccomp_refused: bool,
    /// How many user namespaces may exist.
    pub(super) user_namespaces: Option<u64>,
    /// Debian's switch for unprivileged ones.
    pub(super) unprivileged_userns: Option<u64>,
    /// Share of real-time threads, in µs of `rt_period`; -1: all.
    pub(super) rt_runtime_us: Option<i64>,
    /// Controllers of cgroup version 2, at the top.
    pub(super) cgroup_v2: Option<String>,
    /// Whether there is a hierarchy of version 1.
    pub(super) has_cgroup_v1: bool,
    /// Whether memory pressure is told.
    pub(super) has_pressure: bool,
    /// Isolated cores, and those without ticks.
    pub(super) isolated: String,
    /// See `isolated`.
    pub(super) nohz_full: String,
    /// Every core.
    pub(super) cores: Vec<Core>,
    /// Memory that is available, in KiB.
    pub(super) available_kib: Option<u64>,
}

impl Facts {
    /// Reads them below `root`, which is `/` on the machine itself.
    pub(super) fn read(root: &Path) -> Self {
        let text = |path: &str| -> Option<String> {
            let text = fs::read_to_string(root.join(path)).ok()?;
            Some(text.chars().take(FILE_CHARS_MAX).collect::<String>().trim().to_owned())
        };
        let number = |path: &str| text(path)?.parse().ok();
        let meminfo = text("proc/meminfo").unwrap_or_default();
        Self {
            release: text("proc/sys/kernel/osrelease"),
            version: text("proc/version").unwrap_or_default(),
            realtime: text("sys/kernel/realtime"),
            status: text("proc/self/status").unwrap_or_default(),
            limits: text("proc/self/limits").unwrap_or_default(),
            seccomp_actions: text("proc/sys/kernel/seccomp/actions_avail"),
            seccomp_refused: false,
            user_namespaces: number("proc/sys/user/max_user_namespaces"),
            unprivileged_userns: number("proc/sys/kernel/unprivileged_userns_clone"),
            rt_runtime_us: text("proc/sys/kernel/sched_rt_runtime_us").and_then(|text| text.parse().ok()),
            cgroup_v2: text("sys/fs/cgroup/cgroup.controllers")
                .or_else(|| text("sys/fs/cgroup/unified/cgroup.controllers")),
            has_cgroup_v1: ["cpu", "memory"].iter().any(|name| root.join("sys/fs/cgroup").join(name).is_dir()),
            has_pressure: text("proc/pressure/memory").is_some(),
            isolated: text("sys/devices/system/cpu/isolated").unwrap_or_default(),
            nohz_full: text("sys/devices/system/cpu/nohz_full").unwrap_or_default(),
            cores: cores(root, text),
            available_kib: field(&meminfo, "MemAvailable:").and_then(|value| value.parse().ok()),
        }
    }

    /// A word of `/proc/self/status`.
    pub(super) fn status(&self, name: &str) -> Option<&str> {
        field(&self.status, name)
    }

    /// Major and minor number of the kernel.
    pub(super) fn kernel(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.as_deref()?.split(['.', '-', '+']).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// Soft limit of `/proc/self/limits`; `u64::MAX` for none.
    pub(super) fn limit(&self, name: &str) -> Option<u64> {
        let line = self.limits.lines().find_map(|line| line.strip_prefix(name))?;
        match line.split_whitespace().next()? {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        }
    }

    /// Whether this process has that capability, by its number.
    pub(super) fn has_capability(&self, number: u32) -> bool {
        let set = self.status("CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
        set >> number & 1 == 1
    }

    /// Harvest cores, or every core when none is named.
    pub(super) fn harvested<'a>(&'a self, harvest: &'a [usize]) -> impl Iterator<Item = &'a Core> {
        self.cores.iter().filter(move |core| harvest.is_empty() || harvest.contains(&core.number))
    }
}

/// The first word after a name at the begin of a line.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

fn cores(root: &Path, text: impl Fn(&str) -> Option<String>) -> Vec<Core> {
    let folder = |number: usize| format!("sys/devices/system/cpu/cpu{number}");
    let core = |number| Core {
        number,
        siblings: text(&format!("{}/topology/thread_siblings_list", folder(number)))
            .unwrap_or_else(|| CoreList(&[number]).to_string()),
        governor: text(&format!("{}/cpufreq/scaling_governor", folder(number))),
    };
    (0..CORES_MAX).take_while(|number| root.join(folder(*number)).is_dir()).map(core).collect()
}
