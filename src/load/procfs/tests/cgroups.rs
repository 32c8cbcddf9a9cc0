//! Is the CPU time of a cgroup told right, whatever becomes of the cgroup?

use super::*;

#[test]
fn run_time_of_a_cgroup_is_a_share_of_its_cores() {
    let (v2, v1) = ("sys/fs/cgroup/ran.slice/cpu.stat", "sys/fs/cgroup/ran.slice/cpuacct.usage");
    let grown = X86_CPU_STAT.replace("usage_usec 1842547518", "usage_usec 1842607518");
    assert_ne!(grown, X86_CPU_STAT);
    let without_usage = "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n";
    let cases = [
        (vec![(v2, X86_CPU_STAT)], (v2, grown.as_str())),
        (vec![(v1, "1857723252907\n"), (v2, without_usage)], (v1, "1857783252907\n")),
    ];
    for (before, (file, after)) in cases {
        let host = Host::new();
        before.iter().for_each(|(file, text)| host.write(file, text));
        let mut procfs = host.open(&cgroup());
        assert_eq!(host.look(&mut procfs, 0), None);
        host.write(file, after);
        assert_eq!(host.level(&mut procfs, 100), 300, "60 ms of 200 ms in {file}");
    }
}

#[test]
fn a_cgroup_that_is_not_there_is_malformed_until_it_comes() {
    let host = Host::new();
    let mut procfs = host.open(&cgroup());
    assert!(host.look(&mut procfs, 100).unwrap().is_err());
    host.write("sys/fs/cgroup/ran.slice/cpu.stat", "usage_usec 1000\n");
    assert_eq!(host.look(&mut procfs, 100), None);
    assert_eq!(host.level(&mut procfs, 100), 0);
}

#[test]
fn a_cgroup_whose_counter_goes_backwards_or_is_no_number_is_malformed() {
    for bad in ["usage_usec 999\n", "usage_usec x\n", "usage_usec -5\n", "", "usage_usec 18446744073709551615\n"] {
        let host = Host::new();
        host.write("sys/fs/cgroup/ran.slice/cpu.stat", "usage_usec 1000\n");
        let mut procfs = host.open(&cgroup());
        host.look(&mut procfs, 100);
        host.write("sys/fs/cgroup/ran.slice/cpu.stat", bad);
        assert!(host.look(&mut procfs, 100).unwrap().is_err(), "{bad:?}");
    }
}

#[test]
fn a_cgroup_that_goes_and_comes_back_is_malformed_in_between_and_counts_anew() {
    let host = Host::new();
    let (folder, stat) = (host.root.path().join("sys/fs/cgroup/ran.slice"), "sys/fs/cgroup/ran.slice/cpu.stat");
    host.write(stat, "usage_usec 900000\n");
    let mut procfs = host.open(&cgroup());
    host.look(&mut procfs, 0);
    // What a removed cgroup's open file reads is an error; of an ordinary file it is what was there, cut off here.
    host.write(stat, "");
    fs::remove_dir_all(&folder).unwrap();
    for _ in 0..3 {
        assert!(host.look(&mut procfs, 100).unwrap().is_err());
    }
    host.write(stat, "usage_usec 100\n");
    assert_eq!(host.look(&mut procfs, 100), None);
    host.write(stat, "usage_usec 100100\n");
    assert_eq!(host.level(&mut procfs, 100), 500);
}

#[test]
fn a_unit_is_found_in_whichever_slice_and_hierarchy_it_is() {
    let places = [
        ("sys/fs/cgroup/system.slice/gnb.service", true),
        ("sys/fs/cgroup/ran.slice/ran-du.slice/gnb.service", true),
        ("sys/fs/cgroup/cpuacct/system.slice/gnb.service", false),
        ("sys/fs/cgroup/cpu,cpuacct/system.slice/gnb.service", false),
        ("sys/fs/cgroup/unified/system.slice/gnb.service", false),
    ];
    for (place, is_v2) in places {
        let host = Host::new();
        if is_v2 {
            host.write("sys/fs/cgroup/cgroup.controllers", "cpu\n");
        } else {
            // Another hierarchy of version 1, which knows no CPU time.
            host.write("sys/fs/cgroup/memory/system.slice/gnb.service/tasks", "1\n");
        }
        let unit = What::Cgroup { group: Group::Unit("gnb.service".into()), cores: 2 };
        let mut procfs = host.open(&unit);
        let none = host.look(&mut procfs, 0).unwrap().unwrap_err().why;
        assert_eq!(none, "a systemd unit that has no cgroup with CPU time");
        let count = |us: u64| {
            host.write(&format!("{place}/cpu.stat"), &format!("usage_usec {us}\n"));
        };
        count(1000);
        assert!(host.look(&mut procfs, 100).unwrap().is_err(), "no search at every look");
        assert_eq!(host.look(&mut procfs, 2000), None, "{place}");
        count(101_000);
        assert_eq!(host.level(&mut procfs, 100), 500, "{place}");
    }
}

#[test]
fn ten_thousand_threads_cost_a_cgroup_its_run_queue_delay_and_not_its_level() {
    let host = Host::new();
    host.write("sys/fs/cgroup/ran.slice/cpu.stat", "usage_usec 1000\n");
    let tids: String = (1..=10_000).map(|tid| format!("{tid}\n")).collect();
    host.write("sys/fs/cgroup/ran.slice/cgroup.threads", &tids);
    let mut procfs = host.open(&cgroup());
    assert_eq!(host.all(&mut procfs, 0), []);
    assert_eq!(host.all(&mut procfs, 1000).len(), 1, "a level alone");
    assert_eq!(host.level(&mut procfs, 1000), 0);
}
