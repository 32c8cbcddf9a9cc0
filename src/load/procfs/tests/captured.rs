//! Do the files that real kernels wrote say what was going on there? x86-64 and ARM, cgroups of both versions.
//!
//! Expected values are worked out by hand from the files: see the README beside them.

use super::*;

macro_rules! moments {
    ($name:literal) => {
        [0, 1].map(|moment| match moment {
            0 => include_str!(concat!("../../../../tests/data/procfs/", $name, ".0.tree")),
            _ => include_str!(concat!("../../../../tests/data/procfs/", $name, ".1.tree")),
        })
    };
}

/// One machine at two moments, and what is true of the time in between.
struct Machine {
    name: &'static str,
    moments: [&'static str; 2],
    worker: i32,
    /// The folder of `gnb.service`.
    folder: &'static str,
    /// Levels in permille: the cgroup, core 1 less the worker, `up_phy*` on 8 cores, its busiest thread.
    levels: [u16; 4],
    /// What the RAN's threads on core 1 ran there, in permille.
    on_core: u16,
    /// µs a second of all threads in the cgroup.
    run_queue: u32,
    /// Permille.
    pressure: Option<u32>,
}

fn machines() -> [Machine; 3] {
    [
        Machine {
            name: "x86-64, hybrid",
            moments: moments!("x86_64/hybrid"),
            worker: 1900,
            folder: "/sys/fs/cgroup/cpuacct/ran.slice/gnb.service",
            levels: [661, 359, 124, 755],
            on_core: 336,
            run_queue: 540_228,
            pressure: Some(359),
        },
        Machine {
            name: "ARM, cgroups of version 2",
            moments: moments!("aarch64/cgroup_v2"),
            worker: 86,
            folder: "/sys/fs/cgroup/ran.slice/gnb.service",
            levels: [663, 344, 123, 706],
            on_core: 350,
            run_queue: 376_264,
            pressure: Some(237),
        },
        Machine {
            name: "ARM, cgroups of version 1, without PSI",
            moments: moments!("aarch64/cgroup_v1_without_psi"),
            worker: 84,
            folder: "/sys/fs/cgroup/cpu,cpuacct/ran.slice/gnb.service",
            levels: [661, 214, 122, 710],
            on_core: 344,
            run_queue: 401_389,
            pressure: None,
        },
    ]
}

impl Machine {
    fn host(&self) -> Host {
        let host = Host::new();
        self.unpack(&host, 0);
        host.worker.store(self.worker, Ordering::Relaxed);
        host
    }

    fn unpack(&self, host: &Host, moment: usize) {
        let (head, files) = self.moments[moment].split_once("\n== ").unwrap();
        let at = head.strip_prefix("# at ").and_then(|rest| rest.split_once(" ns")).unwrap().0;
        host.now.set(Instant::from_nanos(at.parse().unwrap()));
        for file in files.split("\n== ") {
            let (path, text) = file.split_once('\n').unwrap_or((file, ""));
            host.write(path, text);
        }
    }

    /// Level, run-queue delay and pressure between the two moments.
    fn between(&self, what: &What) -> (u16, [Option<u32>; 2]) {
        let host = self.host();
        let mut sources = [host.open(what), host.open(what)];
        for procfs in &mut sources {
            assert_eq!(host.look(procfs, 0), None, "{}: {what}", self.name);
        }
        self.unpack(&host, 1);
        let [first, second] = &mut sources;
        (host.level(first, 0), host.health(second, 0))
    }
}

#[test]
fn a_cgroup_has_its_level_its_run_queue_delay_and_its_pressure() {
    for machine in machines() {
        let by_folder = What::Cgroup { group: Group::Folder(machine.folder.into()), cores: 2 };
        let by_unit = What::Cgroup { group: Group::Unit("gnb.service".into()), cores: 2 };
        let expected = (machine.levels[0], [Some(machine.run_queue), machine.pressure]);
        assert_eq!(machine.between(&by_folder), expected, "{}", machine.name);
        assert_eq!(machine.between(&by_unit), expected, "{}", machine.name);
    }
}

#[test]
fn threads_have_their_level_and_the_same_run_queue_delay_as_their_cgroup() {
    for machine in machines() {
        let of = |name: &str, cores, hottest| {
            let select = Select::Name(name.to_owned());
            machine.between(&What::Threads { select, cores, hottest })
        };
        assert_eq!(of("up_phy*", 8, false).0, machine.levels[2], "{}", machine.name);
        assert_eq!(of("up_phy*", 8, true).0, machine.levels[3], "{}", machine.name);
        let worker = machine.worker;
        let pids = vec![worker - 2, worker - 1];
        let (level, health) = machine.between(&What::Threads { select: Select::Pids(pids), cores: 2, hottest: false });
        assert_eq!(health, [Some(machine.run_queue), None], "{}", machine.name);
        assert!(level.abs_diff(machine.levels[0]) <= 5, "{}: {level} by threads", machine.name);
    }
}

#[test]
fn run_time_is_right_where_ticks_are_far_off() {
    let mut ticks_off_max = 0;
    for machine in machines() {
        let (by_ticks, health) = machine.between(&What::Cores(vec![1]));
        assert_eq!((by_ticks, health), (machine.levels[1], [None, None]), "{}", machine.name);
        ticks_off_max = ticks_off_max.max(by_ticks.abs_diff(machine.on_core));
        let mut by_run_time = 0;
        for name in ["mac*", "cu_up*"] {
            let select = Select::Name(name.to_owned());
            by_run_time += machine.between(&What::Threads { select, cores: 1, hottest: false }).0;
        }
        assert!(by_run_time.abs_diff(machine.on_core) <= 2, "{}: {by_run_time}", machine.name);
    }
    assert!(ticks_off_max > 100, "one of the kernels told 21 % where 34 % was run");
}
