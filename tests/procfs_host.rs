//! Does the `procfs` source see a real RAN, and does inference give way to it? Against this kernel, its cgroups and the
//! real agent. The RAN is this test's own binary with threads of their own names.
//!
//! Where no cgroup can be made (an ordinary user, a container), the test that wants one says loudly that it skipped.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::batch::submit;
use common::node::{Node, Setup, state};
use common::wait_for;
use neap::load::procfs::{Group, PERIOD_DEFAULT, Pressure, Procfs, Select, Settings, What};
use neap::load::{Observation, Observed};
use neap::sys::{clock, process};
use neap::units::{Health, SourceId};
use serde_json::json;

/// What makes a process of this binary the RAN: name of its threads, how many, and the file whose presence is traffic.
const RAN: [&str; 3] = ["NEAP_TEST_RAN_NAME", "NEAP_TEST_RAN_THREADS", "NEAP_TEST_RAN_TRAFFIC"];

/// Not a test of its own: with those variables this process is the RAN until it is killed.
#[test]
fn the_ran() {
    let [Ok(name), Ok(threads), Ok(traffic)] = RAN.map(std::env::var) else { return };
    let traffic = PathBuf::from(traffic);
    for number in 0..threads.parse::<usize>().expect("a number of threads") {
        let traffic = traffic.clone();
        let work = move || {
            loop {
                let until = clock::now().after(Duration::from_millis(20));
                if traffic.exists() {
                    while clock::now() < until {}
                } else {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        };
        std::thread::Builder::new().name(format!("{name}#{number}")).spawn(work).expect("a thread can be started");
    }
    std::thread::sleep(Duration::from_secs(3600));
}

/// A RAN that runs; it dies with the test.
struct Ran {
    child: Child,
    folder: tempfile::TempDir,
    name: String,
}

impl Ran {
    fn start(threads: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let name = format!("ran{}", std::process::id() % 100_000);
        let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
        command.args(["--exact", "the_ran", "--nocapture"]).stdin(Stdio::null()).stdout(Stdio::null());
        command.envs(RAN.into_iter().zip([name.clone(), threads.to_string()]));
        command.env(RAN[2], folder.path().join("traffic"));
        let child = process::tie_to_parent(&mut command).spawn().expect("the RAN can be started");
        let ran = Self { child, folder, name };
        let count = || fs::read_dir(format!("/proc/{}/task", ran.pid())).map_or(0, Iterator::count);
        wait_for("the threads of the RAN", String::new, || (count() >= threads + 2).then_some(()));
        ran
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id is an i32")
    }

    fn traffic(&self, is_on: bool) {
        let file = self.folder.path().join("traffic");
        if is_on {
            fs::write(file, "").expect("a file can be written");
        } else {
            fs::remove_file(file).expect("a file can be removed");
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Ran {
    fn drop(&mut self) {
        self.end();
    }
}

fn open(what: What) -> Procfs {
    let settings = Settings { root: "/".into(), what, pressure: Pressure::Own, period: PERIOD_DEFAULT };
    Procfs::open(SourceId(0), &settings, Arc::new(|_| 0)).expect("nothing has to be there yet")
}

fn look(procfs: &mut Procfs) -> Vec<Observation> {
    let mut all = Vec::new();
    procfs.observe(&clock::now, &mut |observation| all.push(observation));
    all
}

/// Looks once a period until `wanted` finds something.
fn look_for<T>(what: &str, procfs: &mut Procfs, wanted: impl Fn(&Observation) -> Option<T>) -> T {
    wait_for(what, String::new, || {
        std::thread::sleep(PERIOD_DEFAULT);
        look(procfs).iter().find_map(&wanted)
    })
}

fn busy_permille(observation: &Observation) -> Option<u16> {
    match observation.ok()?.observed {
        Observed::Level { level, .. } => Some(level.permille()).filter(|level| *level > 500),
        Observed::Late { .. } | Observed::Health { .. } | Observed::Gone => None,
    }
}

fn health(observation: &Observation, wanted: Health) -> Option<u32> {
    match observation.ok()?.observed {
        Observed::Health { figure, value } => (figure == wanted).then_some(value),
        Observed::Level { .. } | Observed::Late { .. } | Observed::Gone => None,
    }
}

// ---- the agent ----

/// Waits until the worker is stopped by the kernel's word, and for the yield's event with one of these reasons.
fn assert_gives_way(node: &Node, controller: &common::controller::Controller, yields_before: usize, reasons: &[&str]) {
    let stopped = || {
        let workers = node.workers();
        (!workers.is_empty() && workers.iter().all(|pid| state(*pid) == Some('T'))).then_some(())
    };
    wait_for("a stopped worker", || node.log(), stopped);
    let event = wait_for(
        "an event of the yield",
        || node.log(),
        || {
            let events = controller.events("yield");
            let mut new = events.into_iter().skip(yields_before);
            new.find(|event| reasons.iter().any(|reason| event["cause"]["reason"] == *reason))
        },
    );
    assert_eq!(event["cause"]["source"], "ran", "{event}");
    eprintln!("yield: {event}");
}

#[test]
fn a_real_thread_that_gets_busy_stops_the_workers_and_so_does_the_end_of_the_ran() {
    let mut ran = Ran::start(2);
    let source = format!(
        "name = \"ran\"\nkind = \"procfs\"\ncores = [0]\nprocess = \"{}*\"\nperiod_ms = 50\nfreshness_ms = 2000",
        ran.name
    );
    // Without the guard: it would stop inference for other work of the machine that makes these threads wait.
    let node = Node::start(&Setup::new().with("guard", "enabled", false).with_another_source(&source));
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    ["batch", "second", "third"].iter().for_each(|id| submit(&controller, id, &json!({})));
    // At work, whether or not it gets a core: inference takes only what nothing else on the machine wants.
    controller.wait_for_state("batch", "IN_PROGRESS");
    let runs = || node.workers().iter().any(|pid| state(*pid).is_some_and(|state| state != 'T')).then_some(());
    wait_for("a worker at work", || node.log(), runs);

    let before = controller.events("yield").len();
    ran.traffic(true);
    assert_gives_way(&node, &controller, before, &["above"]);
    ran.traffic(false);
    controller.wait_for_mode("trough");
    wait_for("a worker that runs again", || node.log(), runs);

    let before = controller.events("yield").len();
    let killed = clock::now();
    ran.end();
    assert_gives_way(&node, &controller, before, &["malformed", "stale"]);
    eprintln!("the RAN's end was seen, and told by the broker, {:?} later", clock::now().since(killed));
}

// ---- cgroups ----

/// A folder of this name in every hierarchy that tells CPU time or pressure, gone with the test.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    /// `None`, loudly, where none can be made.
    fn make(name: &str) -> Option<Self> {
        let top = Path::new("/sys/fs/cgroup");
        let tops: Vec<PathBuf> = match top.join("cgroup.controllers").exists() {
            true => vec![top.to_owned()],
            false => ["cpuacct", "unified"].iter().map(|name| top.join(name)).filter(|top| top.is_dir()).collect(),
        };
        let made: Vec<PathBuf> =
            tops.iter().map(|top| top.join(name)).filter(|folder| fs::create_dir(folder).is_ok()).collect();
        if made.is_empty() || made.len() < tops.len() {
            made.iter().for_each(|folder| drop(fs::remove_dir(folder)));
            eprintln!("SKIPPED: no cgroup can be made in {tops:?}");
            return None;
        }
        // One below it: a cgroup's figures are those of all that is in it.
        made.iter().for_each(|folder| fs::create_dir(folder.join("du")).expect("a cgroup can be made in a cgroup"));
        Some(Self(made))
    }

    fn take(&self, pid: i32) {
        for folder in &self.0 {
            fs::write(folder.join("du/cgroup.procs"), pid.to_string()).expect("a process can be moved");
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for folder in &self.0 {
            // It takes a moment until the kernel has let go of a process that ended.
            for _ in 0..100 {
                let _ = fs::remove_dir(folder.join("du"));
                if fs::remove_dir(folder).is_ok() || !folder.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

#[test]
fn a_real_cgroup_tells_load_delay_and_pressure_and_may_go_and_come_back() {
    let name = format!("neap-test-{}.service", std::process::id());
    let mut procfs = open(What::Cgroup { group: Group::Unit(name.clone()), cores: 1 });
    for round in ["first", "again"] {
        assert!(look(&mut procfs).iter().all(Result::is_err), "nothing is there yet, or any more");
        let Some(groups) = Cgroups::make(&name) else { return };
        let threads = std::thread::available_parallelism().map_or(2, usize::from) + 1;
        let mut ran = Ran::start(threads);
        groups.take(ran.pid());
        ran.traffic(true);
        let level = look_for("a busy level", &mut procfs, busy_permille);
        // With more spinning threads than cores one of them waits at any time.
        let delay = look_for("a run-queue delay", &mut procfs, |seen| {
            health(seen, Health::RunQueueDelay).filter(|delay| *delay > 100_000)
        });
        let tells = groups.0.iter().any(|folder| fs::read(folder.join("cpu.pressure")).is_ok());
        let pressure = tells.then(|| {
            look_for("pressure", &mut procfs, |seen| health(seen, Health::Pressure).filter(|pressure| *pressure > 100))
        });
        eprintln!(
            "{round}: level {level} permille, run-queue delay {delay} µs a second, pressure {pressure:?} permille"
        );
        if pressure.is_none() {
            eprintln!("SKIPPED: this kernel tells no pressure of cgroups");
        }
        ran.traffic(false);
        tell_cost("a cgroup", &mut procfs);
        ran.end();
        drop(groups);
        look_for("a word that the cgroup is gone", &mut procfs, |seen| seen.err());
    }
}

// ---- cost ----

fn tell_cost(what: &str, procfs: &mut Procfs) {
    let timed = |_| {
        let begin = clock::now();
        look(procfs);
        clock::now().since(begin)
    };
    let mut took: Vec<Duration> = (0..200).map(timed).collect();
    took.sort_unstable();
    eprintln!("a look at {what}: median {:?}, p99 {:?}", took[100], took[198]);
}

#[test]
fn two_hundred_threads_are_read_in_one_look() {
    let ran = Ran::start(200);
    for hottest in [false, true] {
        let mut procfs = open(What::Threads { select: Select::Pids(vec![ran.pid()]), cores: 8, hottest });
        look_for("a level", &mut procfs, |seen| seen.ok());
        tell_cost(&format!("202 threads, hottest {hottest}"), &mut procfs);
    }
}
