//! What do the facts mean for the promises, and what can be done? Facts in, findings out; pure.

use super::facts::Facts;
use crate::units::CoreList;

/// Numbers of capabilities.
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_NICE: u32 = 23;
/// Oldest kernels: with `cgroup.kill` and cpu.idle, with short slices.
const KERNEL_GOOD: (u32, u32) = (5, 15);
const KERNEL_MIN: (u32, u32) = (5, 4);
/// The kernel's period of real-time threads, unless somebody changed it.
const RT_PERIOD_US: i64 = 1_000_000;
/// Memory below which a worker with a model hardly fits, in KiB.
const MEMORY_MIN_KIB: u64 = 256 * 1024;

/// How good an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// As good as Neap can use.
    Ok,
    /// Neap works, with a smaller promise.
    Weaker,
    /// A part does not work.
    Missing,
}

impl Verdict {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Weaker => "weaker",
            Self::Missing => "missing",
        }
    }
}

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) item: &'static str,
    /// How good it is.
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) found: String,
    /// What a lesser verdict means for the promises; empty for "ok".
    pub(super) meaning: &'static str,
    /// What to do about it; empty for "ok".
    pub(super) remedy: String,
}

impl Finding {
    pub(super) fn ok(item: &'static str, found: impl Into<String>) -> Self {
        Self { item, verdict: Verdict::Ok, found: found.into(), meaning: "", remedy: String::new() }
    }

    pub(super) fn lesser(
        item: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        meaning: &'static str,
        remedy: impl Into<String>,
    ) -> Self {
        Self { item, verdict, found: found.into(), meaning, remedy: remedy.into() }
    }
}

/// Judges everything that files tell, the yield path first. `harvest` are the cores of the workers; empty: any.
pub(super) fn judge(facts: &Facts, harvest: &[usize]) -> Vec<Finding> {
    vec![
        kernel(facts),
        preemption(facts),
        real_time(facts),
        throttling(facts),
        locked_memory(facts),
        isolation(facts, harvest),
        siblings(facts, harvest),
        frequency(facts, harvest),
        groups(facts),
        pressure(facts),
        seccomp(facts),
        namespaces(facts),
        identity(facts),
        new_privileges(facts),
        memory(facts),
    ]
}

fn kernel(facts: &Facts) -> Finding {
    let found = facts.release.clone().unwrap_or_else(|| "unknown".to_owned());
    match facts.kernel() {
        Some(version) if version >= KERNEL_GOOD => Finding::ok("kernel", found),
        Some(version) if version >= KERNEL_MIN => Finding::lesser(
            "kernel",
            Verdict::Weaker,
            found,
            "no cpu.idle, cgroup.kill or Landlock in all of these kernels: the floor below the workers has holes",
            "a kernel of 5.15 or later, or a vendor kernel with these parts brought back",
        ),
        Some(_) | None => Finding::lesser(
            "kernel",
            Verdict::Missing,
            found,
            "pidfds and much of cgroup version 2 are not there: nothing was tested on such a kernel",
            "a kernel of 5.4 at least, better 5.15",
        ),
    }
}

fn preemption(facts: &Facts) -> Finding {
    let is_rt = facts.realtime.as_deref() == Some("1") || facts.version.contains("PREEMPT_RT");
    match (is_rt, facts.version.contains("PREEMPT")) {
        (true, _) => Finding::ok("preemption", "PREEMPT_RT"),
        (false, true) => Finding::lesser(
            "preemption",
            Verdict::Weaker,
            "PREEMPT, not PREEMPT_RT",
            "the kernel itself may delay a yield by milliseconds in rare cases",
            "a PREEMPT_RT kernel, which the RAN wants as well",
        ),
        (false, false) => Finding::lesser(
            "preemption",
            Verdict::Weaker,
            "no kernel preemption",
            "a system call of any process may delay a yield for as long as it takes",
            "a kernel with PREEMPT_RT, or preempt=full on the kernel's command line",
        ),
    }
}

fn real_time(facts: &Facts) -> Finding {
    let item = "SCHED_FIFO";
    let limit = facts.limit("Max realtime priority").unwrap_or(0);
    if facts.rt_runtime_us == Some(0) {
        let found = "sched_rt_runtime_us is 0";
        let meaning = "no thread may be a real-time one: the sentinel competes with ordinary threads";
        return Finding::lesser(item, Verdict::Weaker, found, meaning, "sysctl kernel.sched_rt_runtime_us=950000");
    }
    match (facts.has_capability(CAP_SYS_NICE), limit) {
        (true, _) => Finding::ok(item, "CAP_SYS_NICE"),
        (false, 1..) => Finding::ok(item, format!("up to priority {limit}, by limit")),
        (false, 0) => Finding::lesser(
            item,
            Verdict::Weaker,
            "not permitted",
            "the sentinel is an ordinary thread: yields of 10 ms and more happen on a busy core",
            "LimitRTPRIO=98 in the unit, as config/neap.service has it, and [sentinel] priority",
        ),
    }
}

/// What the kernel takes from real-time threads that never sleep, which those of a RAN on isolated cores do not.
fn throttling(facts: &Facts) -> Finding {
    let item = "RT throttling";
    match facts.rt_runtime_us {
        Some(..0) => Finding::ok(item, "off: sched_rt_runtime_us is -1"),
        Some(RT_PERIOD_US..) => Finding::ok(item, "off: the whole period is theirs"),
        Some(runtime_us) => Finding::lesser(
            item,
            Verdict::Weaker,
            format!("sched_rt_runtime_us is {runtime_us}"),
            "a SCHED_FIFO thread of the RAN that does not sleep loses its core for the rest of each second as soon as \
             something waits there, and a worker that waits there gets that time",
            "no worker on the RAN's cores ([workers] cores and reserved); sysctl kernel.sched_rt_runtime_us=-1, and \
             from Linux 6.12 on 0 in /sys/kernel/debug/sched/fair_server/cpu*/runtime",
        ),
        None => Finding::ok(item, "not known: no sched_rt_runtime_us"),
    }
}

fn locked_memory(facts: &Facts) -> Finding {
    let item = "locked memory";
    let limit = facts.limit("Max locked memory").unwrap_or(0);
    let may = limit == u64::MAX || facts.has_capability(CAP_IPC_LOCK);
    if may {
        return Finding::ok(item, "without limit");
    }
    let meaning = "a page of the yield path may have to be fetched from disk in the middle of a yield";
    Finding::lesser(item, Verdict::Weaker, format!("{limit} bytes"), meaning, "LimitMEMLOCK=infinity in the unit")
}

fn isolation(facts: &Facts, harvest: &[usize]) -> Finding {
    let item = "isolated cores";
    let named = |list: &str| if list.is_empty() { "none".to_owned() } else { list.to_owned() };
    let found = format!("isolcpus {}, nohz_full {}", named(&facts.isolated), named(&facts.nohz_full));
    if facts.isolated.is_empty() {
        let meaning = "the kernel may run anything beside the RAN's threads, inference included";
        let remedy =
            "isolcpus= and nohz_full= for the RAN's cores on the kernel's command line, and [workers] reserved";
        return Finding::lesser(item, Verdict::Weaker, found, meaning, remedy);
    }
    if harvest.iter().any(|core| contains(&facts.isolated, *core)) {
        let meaning = "a worker is pinned to an isolated core, which is most often one of the RAN's";
        return Finding::lesser(item, Verdict::Weaker, found, meaning, "take these cores out of [workers] cores");
    }
    Finding::ok(item, found)
}

fn siblings(facts: &Facts, harvest: &[usize]) -> Finding {
    let item = "SMT siblings";
    let shared: Vec<&str> = facts
        .harvested(harvest)
        .filter(|core| core.siblings.contains([',', '-']))
        .map(|core| core.siblings.as_str())
        .collect();
    let Some(first) = shared.first() else {
        return Finding::ok(item, "no core shares its execution units");
    };
    let listed: Vec<usize> = (0..facts.cores.len()).filter(|core| contains(first, *core)).collect();
    Finding::lesser(
        item,
        Verdict::Weaker,
        format!("{} harvest cores are threads of shared cores, such as {}", shared.len(), CoreList(&listed)),
        "a running worker slows its sibling, and shares caches with it: side channels between model and baseband",
        "no RAN thread on a sibling of a harvest core, or SMT off (echo off > /sys/devices/system/cpu/smt/control)",
    )
}

fn frequency(facts: &Facts, harvest: &[usize]) -> Finding {
    let item = "cpufreq governor";
    let mut governors: Vec<&str> = facts.harvested(harvest).filter_map(|core| core.governor.as_deref()).collect();
    governors.sort_unstable();
    governors.dedup();
    if governors.iter().all(|governor| *governor == "performance") {
        let found = if governors.is_empty() { "none: the frequency is fixed, or not ours" } else { "performance" };
        return Finding::ok(item, found);
    }
    let meaning = "a core that must wake and speed up first makes yields longer, and costs of models vary";
    let remedy = "the governor performance on the RAN's and the harvest cores";
    Finding::lesser(item, Verdict::Weaker, governors.join(", "), meaning, remedy)
}

fn groups(facts: &Facts) -> Finding {
    let item = "cgroups";
    let meaning = "the kernel does not hold the workers with all of cpu.idle, memory.max, freeze and kill";
    match (&facts.cgroup_v2, facts.has_cgroup_v1) {
        (Some(controllers), false) => {
            let has = |name: &&&str| controllers.split(' ').any(|listed| listed == **name);
            let lacking: Vec<&str> =
                ["cpu", "cpuset", "memory", "pids"].iter().filter(|name| !has(name)).copied().collect();
            if lacking.is_empty() {
                return Finding::ok(item, format!("version 2: {controllers}"));
            }
            let remedy = format!("a kernel with the controllers {}", lacking.join(" "));
            Finding::lesser(item, Verdict::Weaker, format!("version 2: {controllers}"), meaning, remedy)
        }
        (v2, true) => {
            let found = if v2.is_some() { "versions 1 and 2" } else { "version 1 only" };
            let remedy = "systemd.unified_cgroup_hierarchy=1 on the kernel's command line";
            Finding::lesser(item, Verdict::Weaker, found, meaning, remedy)
        }
        (None, false) => {
            let meaning = "nothing but signals holds the workers, and a job may use all memory";
            Finding::lesser(item, Verdict::Missing, "none mounted", meaning, "mount cgroup2 at /sys/fs/cgroup")
        }
    }
}

fn pressure(facts: &Facts) -> Finding {
    if facts.has_pressure {
        return Finding::ok("pressure (PSI)", "told by the kernel");
    }
    let meaning = "memory that gets scarce is noticed by what is left only, later than by those who wait for it";
    Finding::lesser(
        "pressure (PSI)",
        Verdict::Weaker,
        "not told",
        meaning,
        "CONFIG_PSI=y, or psi=1 on the command line",
    )
}

fn seccomp(facts: &Facts) -> Finding {
    let item = "seccomp";
    let open = "a model that takes over its worker may make any system call: [sandbox] \"required\" refuses every job";
    match &facts.seccomp_actions {
        Some(_) if facts.seccomp_refused => Finding::lesser(
            item,
            Verdict::Missing,
            "the kernel lists its filters, but nobody answers the system call",
            open,
            "run on the machine itself: emulators of programs (qemu-user) have no seccomp",
        ),
        Some(actions) if actions.contains("kill_process") => Finding::ok(item, "filters, kill_process"),
        Some(actions) => {
            let meaning = "a worker that breaks out of its list of system calls is not killed as a whole";
            Finding::lesser(item, Verdict::Weaker, actions.clone(), meaning, "a kernel of 4.14 or later")
        }
        None => Finding::lesser(
            item,
            Verdict::Missing,
            "no filters",
            open,
            "CONFIG_SECCOMP_FILTER=y; without it jobs run only with a weaker [sandbox]",
        ),
    }
}

fn namespaces(facts: &Facts) -> Finding {
    let item = "user namespaces";
    match (facts.user_namespaces, facts.unprivileged_userns) {
        (Some(1..), Some(0)) => Finding::lesser(
            item,
            Verdict::Weaker,
            "for root only",
            "workers get no network namespace of their own; seccomp and Landlock still deny them the network",
            "sysctl kernel.unprivileged_userns_clone=1, if the machine's rules allow it",
        ),
        (Some(1..), None | Some(_)) => Finding::ok(item, "available"),
        (Some(0) | None, _) => Finding::lesser(
            item,
            Verdict::Weaker,
            "not available",
            "workers get no network namespace of their own, and PrivateUsers=yes of the unit ends the start with 217/USER",
            "CONFIG_USER_NS=y and sysctl user.max_user_namespaces above 0, or PrivateUsers=no in a drop-in of the unit",
        ),
    }
}

fn identity(facts: &Facts) -> Finding {
    match facts.status("Uid:") {
        Some("0") => Finding::lesser(
            "user",
            Verdict::Weaker,
            "root",
            "a fault of the agent costs the machine and not only the agent",
            "User=neap, as config/neap.service has it; nothing in Neap needs root",
        ),
        Some(uid) => Finding::ok("user", format!("uid {uid}")),
        None => Finding::ok("user", "unknown"),
    }
}

fn new_privileges(facts: &Facts) -> Finding {
    match facts.status("NoNewPrivs:") {
        Some("1") => Finding::ok("no_new_privs", "set for this process"),
        Some(_) => Finding::ok("no_new_privs", "known to the kernel; each worker sets it for itself"),
        None => Finding::lesser(
            "no_new_privs",
            Verdict::Missing,
            "not known to the kernel",
            "seccomp filters cannot be set without privileges",
            "a kernel of 4.10 or later",
        ),
    }
}

fn memory(facts: &Facts) -> Finding {
    let item = "memory";
    match facts.available_kib {
        Some(kib) if kib >= MEMORY_MIN_KIB => Finding::ok(item, format!("{} MiB available", kib / 1024)),
        Some(kib) => Finding::lesser(
            item,
            Verdict::Weaker,
            format!("{} MiB available", kib / 1024),
            "a worker with a model hardly fits: jobs are sent back when memory gets short",
            "smaller models, or [workers] memory_mib below what is left",
        ),
        None => Finding::lesser(item, Verdict::Weaker, "unknown", "nothing is known of it", "mount /proc"),
    }
}

/// Whether a kernel's list such as `1,4-6` has that core.
fn contains(list: &str, core: usize) -> bool {
    list.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bounds = first.trim().parse::<usize>().ok().zip(last.trim().parse::<usize>().ok());
        bounds.is_some_and(|(first, last)| (first..=last).contains(&core))
    })
}
