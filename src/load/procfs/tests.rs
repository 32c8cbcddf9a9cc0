use std::cell::Cell;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::load::Source;
use crate::units::Utilization;

const A: SourceId = SourceId(2);
const ARM: [&str; 2] =
    [include_str!("../../../tests/data/procfs/arm/stat.0"), include_str!("../../../tests/data/procfs/arm/stat.1")];
const X86: [&str; 2] =
    [include_str!("../../../tests/data/procfs/x86/stat.0"), include_str!("../../../tests/data/procfs/x86/stat.1")];
const X86_SCHEDSTAT: &str = include_str!("../../../tests/data/procfs/x86/schedstat");
const X86_CPU_STAT: &str = include_str!("../../../tests/data/procfs/x86/cgroup-v2-cpu.stat");

/// A host made of files, with a clock and at most one worker.
struct Host {
    root: tempfile::TempDir,
    now: Cell<Instant>,
    worker: Arc<AtomicI32>,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { root, now: Cell::new(Instant::from_nanos(5_000_000_000)), worker: Arc::default() }
    }

    /// Writes in place, so that a file kept open sees it.
    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn open(&self, what: &What) -> Procfs {
        let worker = Arc::clone(&self.worker);
        let own: OwnWorkers = Arc::new(move |pids| {
            pids[0] = worker.load(Ordering::Relaxed);
            usize::from(pids[0] != 0)
        });
        Procfs::open(A, self.root.path(), what, PERIOD_DEFAULT, own).unwrap()
    }

    /// What a look after `ms` says.
    fn look(&self, procfs: &mut Procfs, ms: u64) -> Option<Observation> {
        self.now.set(self.now.get().after(Duration::from_millis(ms)));
        procfs.observe(&|| self.now.get())
    }

    fn level(&self, procfs: &mut Procfs, ms: u64) -> u16 {
        permille(self.look(procfs, ms).expect("a level"))
    }

    fn thread(&self, pid: i32, tid: i32, name: &str, run_ms: u64) {
        let folder = format!("proc/{pid}/task/{tid}");
        self.write(&format!("{folder}/comm"), &format!("{name}\n"));
        self.write(&format!("{folder}/schedstat"), &format!("{} 5 6\n", run_ms * 1_000_000));
        if pid == tid {
            self.write(&format!("proc/{pid}/comm"), &format!("{name}\n"));
        }
    }

    fn worker(&self, pid: i32, cores: &str, run_ms: u64) {
        self.write(&format!("proc/{pid}/schedstat"), &format!("{} 5 6\n", run_ms * 1_000_000));
        self.write(
            &format!("proc/{pid}/status"),
            &format!("Name:\tneap\nCpus_allowed:\tf\nCpus_allowed_list:\t{cores}\n"),
        );
        self.worker.store(pid, Ordering::Relaxed);
    }
}

fn permille(observation: Observation) -> u16 {
    let reading = observation.unwrap();
    match reading.observed {
        Observed::Level { metric: Metric::Cpu, level, late: None } => level.permille(),
        other @ (Observed::Level { .. } | Observed::Late { .. } | Observed::Health { .. } | Observed::Gone) => {
            panic!("{other:?} is no CPU level")
        }
    }
}

fn no_workers() -> OwnWorkers {
    Arc::new(|_| 0)
}

fn by_name(pattern: &str, cores: usize) -> What {
    What::Threads { select: Select::Name(pattern.to_owned()), cores }
}

fn cgroup() -> What {
    What::Cgroup { path: "/sys/fs/cgroup/ran.slice".into(), cores: 2 }
}

// ---- cores ----

#[test]
fn busy_ticks_of_the_cores_are_a_share_of_their_time() {
    for (cores, expected) in [(vec![0, 1], 400), (vec![2], 0), (vec![3], 1000), (vec![3, 2, 1, 0], 450)] {
        let host = Host::new();
        host.write("proc/stat", ARM[0]);
        let mut procfs = host.open(&What::Cores(cores.clone()));
        assert_eq!(host.look(&mut procfs, 0), None, "one count is no share");
        host.write("proc/stat", ARM[1]);
        assert_eq!(host.level(&mut procfs, 1000), expected, "cores {cores:?}");
    }
}

#[test]
fn a_captured_x86_host_gives_what_was_captured() {
    for (core, expected) in [(0, 995), (1, 1000)] {
        let host = Host::new();
        host.write("proc/stat", X86[0]);
        let mut procfs = host.open(&What::Cores(vec![core]));
        assert_eq!(host.look(&mut procfs, 0), None);
        host.write("proc/stat", X86[1]);
        host.now.set(host.now.get().after(Duration::from_nanos(2_000_335_581)));
        assert_eq!(permille(procfs.observe(&|| host.now.get()).unwrap()), expected);
    }
}

fn level_with_worker(before: impl Fn(&Host), after: impl Fn(&Host)) -> u16 {
    let host = Host::new();
    host.write("proc/stat", ARM[0]);
    before(&host);
    let mut procfs = host.open(&What::Cores(vec![0, 1]));
    host.look(&mut procfs, 0);
    host.write("proc/stat", ARM[1]);
    after(&host);
    host.level(&mut procfs, 1000)
}

#[test]
fn own_workers_on_the_cores_are_subtracted() {
    assert_eq!(level_with_worker(|host| host.worker(77, "1", 5000), |host| host.worker(77, "1", 5300)), 250);
    assert_eq!(level_with_worker(|host| host.worker(77, "0-1", 5000), |host| host.worker(77, "0-1", 5300)), 250);
}

#[test]
fn own_workers_that_may_run_elsewhere_are_not_subtracted() {
    for cores in ["1,3", "0-3", "3", "", "x"] {
        assert_eq!(level_with_worker(|h| h.worker(77, cores, 5000), |h| h.worker(77, cores, 5300)), 400, "{cores:?}");
    }
}

#[test]
fn a_worker_that_has_just_started_is_not_subtracted_yet() {
    assert_eq!(level_with_worker(|_| {}, |host| host.worker(78, "1", 300)), 400);
    assert_eq!(level_with_worker(|host| host.worker(77, "1", 5000), |host| host.worker(78, "1", 5300)), 400);
}

#[test]
fn a_worker_whose_counter_goes_backwards_is_not_subtracted() {
    assert_eq!(level_with_worker(|host| host.worker(77, "1", 5000), |host| host.worker(77, "1", 4000)), 400);
}

#[test]
fn a_worker_that_ran_longer_than_the_ticks_show_makes_no_negative_load() {
    assert_eq!(level_with_worker(|host| host.worker(77, "1", 0), |host| host.worker(77, "1", 60_000)), 0);
}

#[test]
fn a_worker_that_pins_itself_later_is_subtracted_from_then_on() {
    let host = Host::new();
    host.write("proc/stat", ARM[0]);
    host.worker(77, "0-3", 0);
    let mut procfs = host.open(&What::Cores(vec![1]));
    host.worker(77, "1", 0);
    for _ in 0..20 {
        host.look(&mut procfs, 100);
    }
    host.write("proc/stat", ARM[1]);
    host.worker(77, "1", 600);
    assert_eq!(host.level(&mut procfs, 1000), 0, "600 ms of ticks less 600 ms of the worker");
}

#[test]
fn a_core_that_is_not_there_is_refused_at_the_start_and_malformed_later() {
    let host = Host::new();
    host.write("proc/stat", ARM[0]);
    let cores = What::Cores(vec![0, 4]);
    let refused = Procfs::open(A, host.root.path(), &cores, PERIOD_DEFAULT, no_workers()).unwrap_err().to_string();
    assert!(refused.contains("[0, 4]") && refused.contains("online"), "{refused}");
    let mut procfs = host.open(&What::Cores(vec![2]));
    host.write("proc/stat", &ARM[1].replace("cpu2 ", "gpu2 "));
    assert!(host.look(&mut procfs, 100).unwrap().is_err());
}

#[test]
fn ticks_that_make_no_sense_are_malformed_and_the_next_good_ones_start_anew() {
    let bad = [
        "",
        "cpu0 99999 9999 9999 999999 999 999\n",
        "cpu0 a b c d e f g\n",
        "cpu0 1 1 1 1 1 1 1\n",
        "cpu0 -1 0 0 0 0 0 0 0\n",
        "\u{0}\u{0}",
    ];
    for text in bad.into_iter().chain(["cpu0 18446744073709551615 18446744073709551615 0 0 0 0 0 0\n"]) {
        let host = Host::new();
        host.write("proc/stat", ARM[0]);
        let mut procfs = host.open(&What::Cores(vec![0]));
        host.look(&mut procfs, 0);
        host.write("proc/stat", text);
        assert!(host.look(&mut procfs, 100).unwrap().is_err(), "{text:?}");
        host.write("proc/stat", ARM[1]);
        let again = host.look(&mut procfs, 100);
        assert!(again.is_none() || again.unwrap().is_err(), "{text:?}");
    }
}

#[test]
fn a_look_that_was_interrupted_gives_no_reading() {
    let host = Host::new();
    host.write("proc/stat", ARM[0]);
    let mut procfs = host.open(&What::Cores(vec![0]));
    host.look(&mut procfs, 0);
    let slow = || {
        host.now.set(host.now.get().after(Duration::from_millis(100)));
        host.now.get()
    };
    assert_eq!(procfs.observe(&slow), None);
    assert_eq!(host.level(&mut procfs, 100), 0);
}

// ---- cgroup ----

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

// ---- threads ----

#[test]
fn threads_are_chosen_by_the_name_of_their_process_or_their_own() {
    let host = Host::new();
    let run = |ms: u64| {
        host.thread(100, 100, "gnb", ms);
        host.thread(100, 101, "upper_phy_dl#0", ms);
        host.thread(200, 200, "other", ms);
        host.thread(200, 201, "gnb_helper", ms);
    };
    run(1000);
    let mut levels = Vec::new();
    let mut sources = ["gnb", "*_dl#?", "gnb*", "*"].map(|pattern| host.open(&by_name(pattern, 1)));
    for procfs in &mut sources {
        assert_eq!(host.look(procfs, 0), None);
    }
    run(1010);
    host.now.set(host.now.get().after(Duration::from_millis(100)));
    for procfs in &mut sources {
        levels.push(host.level(procfs, 0));
    }
    assert_eq!(levels, [200, 100, 300, 400]);
}

#[test]
fn threads_of_named_processes_are_all_counted() {
    let host = Host::new();
    host.write("proc/300/task/300/schedstat", X86_SCHEDSTAT);
    host.thread(300, 301, "a", 100);
    let mut procfs = host.open(&What::Threads { select: Select::Pids(vec![300]), cores: 2 });
    assert_eq!(host.look(&mut procfs, 0), None);
    host.thread(300, 301, "a", 150);
    assert_eq!(host.level(&mut procfs, 100), 250);
}

#[test]
fn own_workers_are_never_taken_for_the_ran() {
    let host = Host::new();
    host.thread(100, 100, "ran", 10);
    host.thread(77, 77, "ran-like", 10);
    host.worker.store(77, Ordering::Relaxed);
    let mut procfs = host.open(&by_name("ran*", 1));
    host.look(&mut procfs, 0);
    host.thread(77, 77, "ran-like", 110);
    assert_eq!(host.level(&mut procfs, 100), 0);
}

#[test]
fn a_thread_that_ends_is_malformed_and_the_others_go_on() {
    let host = Host::new();
    host.thread(100, 100, "gnb", 10);
    host.thread(100, 101, "gnb", 10);
    let mut procfs = host.open(&by_name("gnb", 1));
    host.look(&mut procfs, 0);
    fs::remove_dir_all(host.root.path().join("proc/100/task/101")).unwrap();
    let found_out = host.look(&mut procfs, 3000).unwrap();
    assert_eq!(found_out, Err(Malformed { source: A, why: "a thread that ended" }));
    assert_eq!(host.look(&mut procfs, 100), None);
    host.thread(100, 100, "gnb", 30);
    assert_eq!(host.level(&mut procfs, 100), 200);
}

#[test]
fn a_thread_that_starts_later_is_found() {
    let host = Host::new();
    host.thread(100, 100, "gnb", 10);
    let mut procfs = host.open(&by_name("gnb", 1));
    host.look(&mut procfs, 0);
    host.thread(100, 102, "late", 10);
    host.look(&mut procfs, 3000);
    host.thread(100, 102, "late", 110);
    assert_eq!(host.level(&mut procfs, 100), 1000);
}

#[test]
fn no_such_thread_is_malformed_until_it_comes() {
    let host = Host::new();
    let mut procfs = host.open(&by_name("gnb", 1));
    for ms in [0, 100] {
        assert!(host.look(&mut procfs, ms).unwrap().is_err());
    }
    host.thread(100, 100, "gnb", 10);
    assert_eq!(host.look(&mut procfs, 3000), None);
    assert_eq!(host.level(&mut procfs, 100), 0);
}

#[test]
fn one_missing_process_of_several_is_malformed() {
    let host = Host::new();
    host.thread(100, 100, "gnb", 10);
    let mut procfs = host.open(&What::Threads { select: Select::Pids(vec![100, 200]), cores: 1 });
    assert!(host.look(&mut procfs, 100).unwrap().is_err());
}

#[test]
fn zeros_of_a_kernel_without_scheduler_statistics_are_not_taken_for_idleness() {
    let host = Host::new();
    host.thread(100, 100, "gnb", 0);
    let mut procfs = host.open(&by_name("gnb", 1));
    for _ in 0..3 {
        let why = host.look(&mut procfs, 100).unwrap().unwrap_err().why;
        assert_eq!(why, "threads that have no run time in schedstat");
    }
}

#[test]
fn too_many_threads_are_malformed() {
    let host = Host::new();
    (1..=600).for_each(|tid| host.thread(1, tid, "gnb", 10));
    let mut procfs = host.open(&by_name("gnb", 1));
    assert!(host.look(&mut procfs, 0).unwrap().unwrap_err().why.starts_with("more than 512 threads"));
}

// ---- this host ----

fn wait_and_read(source: &mut dyn Source) -> Vec<Observation> {
    let fd = source.fd().unwrap();
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)), Ok(1), "the sampler said nothing");
    let mut all = Vec::new();
    source.read(Instant::default(), &mut |observation| all.push(observation));
    all
}

#[test]
fn this_process_has_a_level_until_its_source_is_dropped() {
    let own = i32::try_from(std::process::id()).unwrap();
    let what = What::Threads { select: Select::Pids(vec![own]), cores: 1 };
    let mut source = open(A, Path::new("/"), &what, PERIOD_MIN, no_workers()).unwrap();
    assert!(source.next_poll().is_none());
    // Threads of other tests end at any time, which is malformed: then a level has to follow.
    let level = (0..200).find_map(|_| wait_and_read(&mut source).into_iter().find_map(Result::ok));
    assert!(level.is_some_and(|reading| reading.stamped.is_some_and(|at| at > Instant::default())));
}

#[test]
fn a_process_that_dies_is_malformed() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let what = What::Threads { select: Select::Pids(vec![pid]), cores: 1 };
    let mut source = open(A, Path::new("/"), &what, PERIOD_MIN, no_workers()).unwrap();
    let level = (0..200).find_map(|_| wait_and_read(&mut source).into_iter().find_map(Result::ok));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(level.is_some());
    let malformed = (0..200).find_map(|_| wait_and_read(&mut source).into_iter().find_map(Result::err));
    assert!(malformed.is_some());
}

#[test]
fn settings_that_cannot_work_are_refused_with_the_rule() {
    let second = Duration::from_secs(1);
    let cores = || What::Cores(vec![0]);
    let threads = |select| What::Threads { select, cores: 1 };
    let cases = [
        (cores(), Duration::from_millis(10), second, "50 ms to 10 s"),
        (cores(), Duration::from_secs(11), Duration::from_secs(60), "50 ms to 10 s"),
        (cores(), second, second, "twice the period"),
        (What::Cores(vec![]), PERIOD_DEFAULT, second, "different cores"),
        (What::Cores(vec![1, 1]), PERIOD_DEFAULT, second, "different cores"),
        (What::Cores(vec![1024]), PERIOD_DEFAULT, second, "different cores"),
        (What::Cgroup { path: "ran".into(), cores: 1 }, PERIOD_DEFAULT, second, "absolute path"),
        (What::Cgroup { path: "/ran".into(), cores: 0 }, PERIOD_DEFAULT, second, "1 to 1024"),
        (threads(Select::Pids(vec![])), PERIOD_DEFAULT, second, "1 to 64"),
        (threads(Select::Pids(vec![-1])), PERIOD_DEFAULT, second, "1 to 64"),
        (threads(Select::Name(String::new())), PERIOD_DEFAULT, second, "1 to 64"),
    ];
    for (what, period, freshness, rule) in cases {
        let refused = check(&what, period, freshness).unwrap_err().to_string();
        assert!(refused.contains(rule), "{refused}");
    }
    check(&cores(), PERIOD_DEFAULT, second).unwrap();
}

proptest! {
    #[test]
    fn arbitrary_counter_files_never_panic(text in "(cpu[0-9 ]{0,40}\n|usage_usec [0-9]{0,25}\n|[0-9 ]{0,25}|.{0,20}){0,5}") {
        let host = Host::new();
        host.write("proc/stat", "cpu0 0 0 0 0 0 0 0 0\n");
        host.thread(1, 1, "gnb", 1);
        host.worker(5, "0", 1);
        let sources = [What::Cores(vec![0]), cgroup(), by_name("gnb", 1)].map(|what| host.open(&what));
        for path in ["proc/stat", "sys/fs/cgroup/ran.slice/cpu.stat", "proc/1/task/1/schedstat", "proc/5/schedstat", "proc/5/status"] {
            host.write(path, &text);
        }
        for mut procfs in sources {
            for _ in 0..2 {
                if let Some(Ok(reading)) = host.look(&mut procfs, 100) {
                    let Observed::Level { level, .. } = reading.observed else { panic!("not a level") };
                    prop_assert!(level <= Utilization::FULL);
                }
            }
        }
    }
}
