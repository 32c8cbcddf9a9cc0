use std::fs;
use std::path::Path;

use super::facts::Facts;
use super::verdicts::{Verdict, judge};

/// Files below a root, and what they say.
type Tree = &'static [(&'static str, &'static str)];

/// A server with everything in place.
const SERVER: Tree = &[
    ("proc/sys/kernel/osrelease", "6.12.8-rt8-amd64\n"),
    ("proc/version", "Linux version 6.12.8-rt8-amd64 (gcc 14.2.0) #1 SMP PREEMPT_RT Debian\n"),
    ("sys/kernel/realtime", "1\n"),
    (
        "proc/self/status",
        "Name:\tneap\nUid:\t997\t997\t997\t997\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n",
    ),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max locked memory         unlimited            unlimited            bytes     \n\
         Max realtime priority     98                   98                   \n",
    ),
    ("proc/sys/kernel/seccomp/actions_avail", "kill_process kill_thread trap errno user_notif trace log allow\n"),
    ("proc/sys/user/max_user_namespaces", "127500\n"),
    ("proc/sys/kernel/sched_rt_runtime_us", "-1\n"),
    ("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
    ("proc/meminfo", "MemTotal:       32573924 kB\nMemFree:        20000000 kB\nMemAvailable:   28000000 kB\n"),
    ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n"),
    ("sys/devices/system/cpu/isolated", "0-1\n"),
    ("sys/devices/system/cpu/nohz_full", "0-1\n"),
    ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0\n"),
    ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1\n"),
    ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2\n"),
    ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "3\n"),
    ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance\n"),
];

/// An ARM board with a vendor's kernel, cgroups of version 1, run by root.
const BOARD: Tree = &[
    ("proc/sys/kernel/osrelease", "5.4.70-yocto-standard+g1a2b3c\n"),
    ("proc/version", "Linux version 5.4.70-yocto-standard (gcc 9.3.0) #1 SMP PREEMPT Mon Nov 2 2020\n"),
    ("proc/self/status", "Name:\tneap\nUid:\t0\t0\t0\t0\nCapEff:\t0000003fffffffff\nNoNewPrivs:\t0\n"),
    (
        "proc/self/limits",
        "Max locked memory         65536                65536                bytes     \nMax realtime priority     0                    0\n",
    ),
    ("proc/sys/kernel/sched_rt_runtime_us", "0\n"),
    ("proc/meminfo", "MemTotal:        507904 kB\nMemAvailable:    180000 kB\n"),
    ("sys/fs/cgroup/memory/tasks", "1\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand\n"),
    ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1\n"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "ondemand\n"),
];

fn facts(tree: Tree, change: &[(&str, &str)]) -> Facts {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in tree.iter().chain(change) {
        let file = folder.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    Facts::read(folder.path())
}

fn verdict(facts: &Facts, harvest: &[usize], item: &str) -> (Verdict, String) {
    let findings = judge(facts, harvest);
    let finding = findings.iter().find(|finding| finding.item == item).unwrap();
    let is_told = finding.verdict == Verdict::Ok || !(finding.meaning.is_empty() || finding.remedy.is_empty());
    assert!(is_told, "a lesser verdict says what it means and what to do: {finding:?}");
    (finding.verdict, finding.found.clone())
}

#[test]
fn a_server_with_everything_in_place_is_ok_in_every_item() {
    let findings = judge(&facts(SERVER, &[]), &[2, 3]);
    let lesser: Vec<_> = findings.iter().filter(|finding| finding.verdict != Verdict::Ok).collect();
    assert!(lesser.is_empty() && findings.len() >= 14, "{lesser:#?}");
}

#[test]
fn a_vendors_board_is_told_what_it_lacks() {
    let board = facts(BOARD, &[]);
    for (item, expected) in [
        ("kernel", Verdict::Weaker),
        ("preemption", Verdict::Weaker),
        ("SCHED_FIFO", Verdict::Weaker),
        ("locked memory", Verdict::Ok),
        ("isolated cores", Verdict::Weaker),
        ("SMT siblings", Verdict::Ok),
        ("cpufreq governor", Verdict::Weaker),
        ("cgroups", Verdict::Weaker),
        ("pressure (PSI)", Verdict::Weaker),
        ("seccomp", Verdict::Missing),
        ("user namespaces", Verdict::Weaker),
        ("user", Verdict::Weaker),
        ("no_new_privs", Verdict::Ok),
        ("memory", Verdict::Weaker),
    ] {
        assert_eq!(verdict(&board, &[], item).0, expected, "{item}");
    }
}

#[test]
fn a_harvest_core_that_shares_its_units_or_belongs_to_the_ran_is_told() {
    let siblings = [
        ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,3\n"),
        ("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "1,3\n"),
    ];
    let shared = facts(SERVER, &siblings);
    let (found, text) = verdict(&shared, &[3], "SMT siblings");
    assert!(found == Verdict::Weaker && text.contains("1,3"), "{text}");
    assert_eq!(verdict(&shared, &[2], "SMT siblings").0, Verdict::Ok);
    assert_eq!(verdict(&shared, &[1], "isolated cores").0, Verdict::Weaker);
}

#[test]
fn what_is_switched_off_is_told_apart_from_what_is_not_there() {
    let locked = facts(SERVER, &[("proc/sys/kernel/unprivileged_userns_clone", "0\n")]);
    assert_eq!(verdict(&locked, &[], "user namespaces"), (Verdict::Weaker, "for root only".to_owned()));
    let none = facts(SERVER, &[("proc/sys/user/max_user_namespaces", "0\n")]);
    assert_eq!(verdict(&none, &[], "user namespaces").1, "not available");
    let poor = facts(SERVER, &[("sys/fs/cgroup/cgroup.controllers", "memory pids\n")]);
    assert_eq!(verdict(&poor, &[], "cgroups").0, Verdict::Weaker);
}

#[test]
fn filters_that_are_listed_but_refused_are_missing() {
    let emulated = Facts { seccomp_refused: true, ..facts(SERVER, &[]) };
    let (found, text) = verdict(&emulated, &[], "seccomp");
    assert!(found == Verdict::Missing && text.contains("nobody answers"), "{text}");
}

#[test]
fn real_time_threads_that_can_be_throttled_are_told() {
    for (runtime, expected) in [("950000", Verdict::Weaker), ("1000000", Verdict::Ok), ("-1", Verdict::Ok)] {
        let machine = facts(SERVER, &[("proc/sys/kernel/sched_rt_runtime_us", runtime)]);
        assert_eq!(verdict(&machine, &[], "RT throttling").0, expected, "{runtime}");
    }
}

#[test]
fn a_machine_that_tells_nothing_is_judged_without_a_panic() {
    let nothing = Facts::read(Path::new("/nonexistent"));
    assert_eq!(verdict(&nothing, &[0], "kernel").0, Verdict::Missing);
    assert_eq!(verdict(&nothing, &[0], "cgroups").0, Verdict::Missing);
    assert!(judge(&facts(&[("proc/sys/kernel/osrelease", "x.y\n")], &[]), &[9]).len() >= 14);
}
