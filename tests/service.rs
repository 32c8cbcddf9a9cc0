//! Does the service manager hear the truth? A socket that listens like systemd's, the real agent, and a thread of it
//! that is made to hang.

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::node::{Broker, Node, Setup};
use common::wait_for;
use neap::sys::clock;
use neap::units::Instant;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What a service manager hears, line by line, and when.
struct Manager {
    folder: TempDir,
    heard: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Manager {
    fn listen() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket can be bound");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let place = Arc::clone(&heard);
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let now = clock::now();
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let mut heard = place.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend(text.lines().map(|line| (now, line.to_owned())));
            }
        });
        Self { folder, heard }
    }

    /// The words that put an agent under it, with a watchdog of that time.
    fn within(&self, watchdog: Duration) -> Vec<String> {
        let socket = self.folder.path().join("notify").display().to_string();
        vec!["env".to_owned(), format!("NOTIFY_SOCKET={socket}"), format!("WATCHDOG_USEC={}", watchdog.as_micros())]
    }

    fn lines(&self) -> Vec<(Instant, String)> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it has heard that line since a moment.
    fn count(&self, line: &str, since: Instant) -> usize {
        self.lines().iter().filter(|(at, heard)| *at >= since && heard == line).count()
    }

    fn wait_for(&self, node: &Node, what: &str, since: Instant, look: impl Fn(&str) -> bool) -> Instant {
        let told = || format!("{:?}\n{}", self.lines(), node.log());
        wait_for(what, told, || self.lines().iter().find(|(at, line)| *at >= since && look(line)).map(|(at, _)| *at))
    }
}

const START: Instant = Instant::from_nanos(0);

#[test]
fn without_a_broker_it_is_ready_beats_reloads_and_stops() {
    let manager = Manager::listen();
    // Nobody listens on port 1: a node starts without backhaul.
    let setup = Setup::new().with("mqtt", "port", 1);
    let mut node = Node::prepare_on(&setup, Broker::start(), &manager.within(Duration::from_millis(900)));
    node.start_agent();
    let ready = manager.wait_for(&node, "READY", START, |line| line == "READY=1");
    manager.wait_for(&node, "a status", START, |line| line.starts_with("STATUS=") && line.contains("not connected"));
    let beats = || (manager.count("WATCHDOG=1", ready) >= 5).then_some(());
    wait_for("five beats", || node.log(), beats);
    assert_eq!(manager.count("WATCHDOG=1", START), manager.count("WATCHDOG=1", ready), "no beat before READY");

    let reload = clock::now();
    node.hangup();
    let reloading = manager.wait_for(&node, "RELOADING", reload, |line| line == "RELOADING=1");
    manager.wait_for(&node, "its moment", reload, |line| line.starts_with("MONOTONIC_USEC="));
    manager.wait_for(&node, "READY again", reloading, |line| line == "READY=1");

    let (code, _) = node.terminate_agent();
    assert_eq!(code, Some(0), "{}", node.log());
    manager.wait_for(&node, "STOPPING", reload, |line| line == "STOPPING=1");
}

#[test]
fn the_status_names_what_is_wrong() {
    let manager = Manager::listen();
    let setup = Setup::new().with("safe_mode", "crashes", 1);
    let mut node = Node::prepare_on(&setup, Broker::start(), &manager.within(Duration::from_secs(30)));
    node.start_agent();
    manager.wait_for(&node, "READY", START, |line| line == "READY=1");
    node.kill_agent();
    node.start_agent();
    manager.wait_for(&node, "its status", START, |line| {
        line.starts_with("STATUS=degraded (safe_mode): the agent crashed")
    });
}

/// Holds one thread of a process at its next system call, for as long as this lives.
struct Held(Child);

impl Held {
    /// `None`, said loudly, where that is not possible.
    fn new(tid: &str) -> Option<Self> {
        let strace = Command::new("strace")
            .args(["-p", tid, "-e", "trace=all", "-e", "inject=all:delay_enter=60000000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match strace {
            Ok(child) => child,
            Err(error) => {
                eprintln!("\n!!! SKIPPED: strace cannot be started ({error}), no thread can be held !!!\n");
                return None;
            }
        };
        std::thread::sleep(Duration::from_millis(500));
        if child.try_wait().expect("a child can be asked").is_some() {
            eprintln!("\n!!! SKIPPED: strace is not permitted here, no thread can be held !!!\n");
            return None;
        }
        Some(Self(child))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // In order: a killed strace would leave the thread stopped.
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.0.wait();
    }
}

/// The thread of that name.
fn thread(pid: i32, name: &str) -> Option<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let is_it = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let task = tasks.map(|task| task.path()).find(|path| is_it(path))?;
    Some(task.file_name()?.to_string_lossy().into_owned())
}

#[test]
fn while_the_sentinel_hangs_there_is_no_beat() {
    let manager = Manager::listen();
    let watchdog = Duration::from_millis(900);
    let mut node = Node::prepare_on(&Setup::new(), Broker::start(), &manager.within(watchdog));
    node.start_agent();
    manager.wait_for(&node, "a beat", START, |line| line == "WATCHDOG=1");
    let sentinel = thread(node.agent_pid(), "neap-sentinel").expect("the agent has a sentinel");
    let Some(held) = Held::new(&sentinel) else { return };
    // What it did just before it was held may still bring one.
    std::thread::sleep(watchdog);
    let from = clock::now();
    std::thread::sleep(4 * watchdog);
    assert_eq!(manager.count("WATCHDOG=1", from), 0, "{}", node.log());
    assert!(node.log().contains("no beat for the watchdog"), "{}", node.log());
    drop(held);
    let again = clock::now();
    manager.wait_for(&node, "a beat again", again, |line| line == "WATCHDOG=1");
}

// ---- the unit ----

#[test]
fn systemd_accepts_the_unit() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/neap.service");
    let text = fs::read_to_string(unit).expect("the unit is there");
    for needed in ["Type=notify", "WatchdogSec=15s", "Restart=always", "Delegate=cpu cpuset memory pids", "adjtimex"] {
        assert!(text.contains(needed), "{needed}");
    }
    // The binary has another place here.
    let folder = tempfile::tempdir().expect("a folder can be made");
    let copy = folder.path().join("neap.service");
    let mut file = fs::File::create(&copy).expect("a file can be made");
    let text = text.replace("/usr/bin/neap", env!("CARGO_BIN_EXE_neap"));
    file.write_all(text.as_bytes()).expect("a file can be written");
    let verdict = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output();
    let Ok(verdict) = verdict else {
        eprintln!("\n!!! SKIPPED: systemd-analyze is not installed, the unit is not verified !!!\n");
        return;
    };
    let said = String::from_utf8_lossy(&verdict.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("neap.service")).collect();
    assert!(verdict.status.success() && ours.is_empty(), "{said}");
}
