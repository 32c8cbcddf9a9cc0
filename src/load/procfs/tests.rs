mod captured;
mod cgroups;
mod cores;
mod health;
mod live;
mod threads;

use std::cell::Cell;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::units::{Health, Utilization};

const A: SourceId = SourceId(2);
const ARM: [&str; 2] = [
    include_str!("../../../tests/data/procfs/by_hand/stat.0"),
    include_str!("../../../tests/data/procfs/by_hand/stat.1"),
];
const X86: [&str; 2] = [
    include_str!("../../../tests/data/procfs/x86_64/stat.0"),
    include_str!("../../../tests/data/procfs/x86_64/stat.1"),
];
const X86_SCHEDSTAT: &str = include_str!("../../../tests/data/procfs/x86_64/schedstat");
const X86_CPU_STAT: &str = include_str!("../../../tests/data/procfs/x86_64/cgroup-v2-cpu.stat");

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
        self.open_with(what, Pressure::Own)
    }

    fn open_with(&self, what: &What, pressure: Pressure) -> Procfs {
        let worker = Arc::clone(&self.worker);
        let own: OwnWorkers = Arc::new(move |pids| {
            pids[0] = worker.load(Ordering::Relaxed);
            usize::from(pids[0] != 0)
        });
        let settings = Settings { pressure, ..settings(self.root.path(), what) };
        Procfs::open(A, &settings, own).unwrap()
    }

    /// All that a look after `ms` says.
    fn all(&self, procfs: &mut Procfs, ms: u64) -> Vec<Observation> {
        self.now.set(self.now.get().after(Duration::from_millis(ms)));
        seen(procfs, &|| self.now.get())
    }

    /// What a look after `ms` says of the level.
    fn look(&self, procfs: &mut Procfs, ms: u64) -> Option<Observation> {
        level_of(&self.all(procfs, ms))
    }

    /// What a look after `ms` says of the RAN's health: run-queue delay and pressure.
    fn health(&self, procfs: &mut Procfs, ms: u64) -> [Option<u32>; 2] {
        let all = self.all(procfs, ms);
        [Health::RunQueueDelay, Health::Pressure].map(|wanted| {
            let mut values = all.iter().flatten().filter_map(|reading| match reading.observed {
                Observed::Health { figure, value } if figure == wanted => Some(value),
                Observed::Health { .. } | Observed::Level { .. } | Observed::Late { .. } | Observed::Gone => None,
            });
            let value = values.next();
            assert_eq!(values.next(), None, "twice the same figure in one look");
            value
        })
    }

    fn level(&self, procfs: &mut Procfs, ms: u64) -> u16 {
        permille(self.look(procfs, ms).expect("a level"))
    }

    fn thread(&self, pid: i32, tid: i32, name: &str, run_ms: u64) {
        self.waiting_thread(pid, tid, name, run_ms, 0);
    }

    fn waiting_thread(&self, pid: i32, tid: i32, name: &str, run_ms: u64, waited_ms: u64) {
        let folder = format!("proc/{pid}/task/{tid}");
        let schedstat = format!("{} {} 6\n", run_ms * 1_000_000, waited_ms * 1_000_000);
        self.write(&format!("{folder}/comm"), &format!("{name}\n"));
        self.write(&format!("{folder}/schedstat"), &schedstat);
        self.write(&format!("proc/{tid}/schedstat"), &schedstat);
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

fn settings(root: &Path, what: &What) -> Settings {
    Settings { root: root.to_owned(), what: what.clone(), pressure: Pressure::Own, period: PERIOD_DEFAULT }
}

fn seen(procfs: &mut Procfs, clock: &dyn Fn() -> Instant) -> Vec<Observation> {
    let mut all = Vec::new();
    procfs.observe(clock, &mut |observation| all.push(observation));
    all
}

/// The one word about the level, if there is one.
fn level_of(all: &[Observation]) -> Option<Observation> {
    let is_level = |observation: &&Observation| match observation {
        Err(_) => true,
        Ok(reading) => !matches!(reading.observed, Observed::Health { .. }),
    };
    assert!(all.iter().filter(is_level).count() <= 1, "{all:?}");
    all.iter().find(is_level).copied()
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
    What::Threads { select: Select::Name(pattern.to_owned()), cores, hottest: false }
}

fn cgroup() -> What {
    What::Cgroup { group: Group::Folder("/sys/fs/cgroup/ran.slice".into()), cores: 2 }
}

#[test]
fn settings_that_cannot_work_are_refused_with_the_rule() {
    let second = Duration::from_secs(1);
    let cores = || What::Cores(vec![0]);
    let threads = |select| What::Threads { select, cores: 1, hottest: false };
    let folder = |path: &str, cores| What::Cgroup { group: Group::Folder(path.into()), cores };
    let unit = |name: &str| What::Cgroup { group: Group::Unit(name.to_owned()), cores: 1 };
    let cases = [
        (cores(), Duration::from_millis(10), second, "50 ms to 10 s"),
        (cores(), Duration::from_secs(11), Duration::from_secs(60), "50 ms to 10 s"),
        (cores(), second, second, "twice the period"),
        (What::Cores(vec![]), PERIOD_DEFAULT, second, "different cores"),
        (What::Cores(vec![1, 1]), PERIOD_DEFAULT, second, "different cores"),
        (What::Cores(vec![1024]), PERIOD_DEFAULT, second, "different cores"),
        (folder("ran", 1), PERIOD_DEFAULT, second, "absolute path"),
        (folder("/ran", 0), PERIOD_DEFAULT, second, "1 to 1024"),
        (unit("ocudu"), PERIOD_DEFAULT, second, "ocudu.service"),
        (unit("../x.service"), PERIOD_DEFAULT, second, "ocudu.service"),
        (unit(&format!("{}.service", "x".repeat(300))), PERIOD_DEFAULT, second, "ocudu.service"),
        (threads(Select::Pids(vec![])), PERIOD_DEFAULT, second, "1 to 64"),
        (threads(Select::Pids(vec![-1])), PERIOD_DEFAULT, second, "1 to 64"),
        (threads(Select::Name(String::new())), PERIOD_DEFAULT, second, "1 to 64"),
    ];
    let root = Path::new("/");
    for (what, period, freshness, rule) in cases {
        let refused = check(&Settings { period, ..settings(root, &what) }, freshness).unwrap_err().to_string();
        assert!(refused.contains(rule), "{refused}");
    }
    let pressure = Pressure::Folder("ran.slice".into());
    let refused = check(&Settings { pressure, ..settings(root, &cores()) }, second).unwrap_err().to_string();
    assert!(refused.contains("ran.slice") && refused.contains("\"host\""), "{refused}");
    check(&settings(root, &cores()), second).unwrap();
    check(&settings(root, &unit("ocudu.service")), second).unwrap();
}

proptest! {
    #[test]
    fn arbitrary_counter_files_never_panic(text in "(cpu[0-9 ]{0,40}\n|usage_usec [0-9]{0,25}\n|[0-9 ]{0,25}|some total=[0-9]{0,25}\n|.{0,20}){0,5}") {
        let host = Host::new();
        host.write("proc/stat", "cpu0 0 0 0 0 0 0 0 0\n");
        host.thread(1, 1, "gnb", 1);
        host.worker(5, "0", 1);
        host.write("sys/fs/cgroup/ran.slice/cgroup.threads", "1\n");
        let whats = [What::Cores(vec![0]), cgroup(), by_name("gnb", 1)];
        let sources = whats.map(|what| host.open_with(&what, Pressure::Folder("/sys/fs/cgroup/ran.slice".into())));
        for path in ["proc/stat", "sys/fs/cgroup/ran.slice/cpu.stat", "proc/1/task/1/schedstat", "proc/5/schedstat", "proc/5/status", "proc/1/schedstat", "sys/fs/cgroup/ran.slice/cgroup.threads", "sys/fs/cgroup/ran.slice/cpu.pressure"] {
            host.write(path, &text);
        }
        for mut procfs in sources {
            for _ in 0..2 {
                if let Some(Ok(reading)) = host.look(&mut procfs, 1000) {
                    let Observed::Level { level, .. } = reading.observed else { panic!("not a level") };
                    prop_assert!(level <= Utilization::FULL);
                }
            }
        }
    }
}
