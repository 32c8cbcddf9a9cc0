//! A node under test: a folder of its own, a broker, the real agent, a hand on the load, and a look at its workers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use neap::load::push::encode;
use neap::sys::{clock, process};
use neap::units::CellId;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use toml::{Table, Value};

pub use super::broker::Broker;
use super::controller::Controller;
use super::emulation::{is_emulated, sandbox_level};
use super::wait_for;

/// What every node here is called.
pub const SITE: &str = "test";
pub const NAME: &str = "node-1";
/// Everything that it says and hears is below this.
pub const BASE: &str = "neap/v1/test/node-1";

/// How often the load is told. The freshness of [`Setup::new`] is forty times as long: a busy machine is no silence.
const FEED_EVERY: Duration = Duration::from_millis(50);

// === Setup ===

/// A configuration, and how to change it.
#[derive(Clone, Debug)]
pub struct Setup(Table);

impl Setup {
    /// One worker, quick to settle, a `push` source, no eye for the memory of the machine that the tests run on, and no
    /// safe mode: agents are killed here all day.
    pub fn new() -> Self {
        let text = r#"
            [node]
            site = "test"
            name = "node-1"
            [mqtt]
            host = "127.0.0.1"
            keep_alive_s = 5
            [governor]
            busy_above = 40
            idle_below = 25
            settle_s = 0.1
            settle_max_s = 0.2
            flap_window_s = 0.05
            raise_every_s = 0.05
            [[load]]
            name = "push"
            kind = "push"
            freshness_ms = 2000
            [workers]
            count = 1
            evict_after_s = 300
            [memory]
            stall_above = 100
            available_min_mib = 0
            [jobs]
            wall_s = 3600
            [safe_mode]
            crashes = 0
            [models]
            [log]
            level = "info"
        "#;
        Self(text.parse().expect("the template is TOML"))
    }

    /// With another value of a key, such as `("governor", "busy_above", 60)`.
    pub fn with(mut self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        let section = self.0.entry(section).or_insert_with(|| Value::Table(Table::new()));
        section.as_table_mut().expect("a section is a table").insert(key.to_owned(), value.into());
        self
    }

    /// With another value of a key of the push source.
    pub fn with_source(mut self, key: &str, value: impl Into<Value>) -> Self {
        if let Some(source) = self.0.get_mut("load").and_then(|load| load.get_mut(0)).and_then(Value::as_table_mut) {
            source.insert(key.to_owned(), value.into());
        }
        self
    }

    /// With another source beside the push source: its section, without the heading.
    pub fn with_another_source(mut self, section: &str) -> Self {
        let section: Table = section.parse().expect("the section is TOML");
        let load = self.0.get_mut("load").and_then(Value::as_array_mut).expect("there is a list of sources");
        load.push(Value::Table(section));
        self
    }

    /// Without any load source.
    pub fn without_sources(mut self) -> Self {
        self.0.remove("load");
        self
    }

    /// Fills in what belongs to this run, unless the test has set it.
    fn complete(&self, folder: &Path, port: u16) -> String {
        let path = |name: &str| Value::from(folder.join(name).display().to_string());
        let mut setup = self.clone().with_source("socket", path("load.sock"));
        for (section, key, value) in [
            ("mqtt", "port", Value::from(i64::from(port))),
            ("jobs", "state_dir", path("state")),
            ("status", "socket", path("status.sock")),
            ("models", "dir", Value::from(models().display().to_string())),
            ("sandbox", "level", Value::from(sandbox_level())),
        ] {
            if setup.0.get(section).and_then(|section| section.get(key)).is_none() {
                setup = setup.with(section, key, value);
            }
        }
        toml::to_string(&setup.0).expect("a table can be written")
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

/// The models of this repository.
pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

// === Node ===

/// The node. The agent dies with it, and with the thread that started it.
pub struct Node {
    pub folder: TempDir,
    pub broker: Broker,
    pub feeder: Feeder,
    agent: Option<Child>,
    starts: usize,
    /// What starts the agent in another place, such as `nsenter`.
    within: Vec<String>,
}

impl Node {
    /// A node whose agent runs; the load is silent until the feeder is told otherwise.
    pub fn start(setup: &Setup) -> Self {
        let mut node = Self::prepare(setup);
        node.start_agent();
        node
    }

    /// A node whose agent does not run yet.
    pub fn prepare(setup: &Setup) -> Self {
        Self::prepare_on(setup, Broker::start(), &[])
    }

    /// The same with that broker; the agent is to be started by the command `within`, which becomes it.
    pub fn prepare_on(setup: &Setup, broker: Broker, within: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let feeder = Feeder::start(folder.path().join("load.sock"));
        let node = Self { folder, broker, feeder, agent: None, starts: 0, within: within.to_vec() };
        node.configure(setup);
        node
    }

    /// Writes the configuration; a running agent reads it at [`Node::hangup`].
    pub fn configure(&self, setup: &Setup) {
        let text = setup.complete(self.folder.path(), self.broker.port());
        fs::write(self.config(), text).expect("the configuration can be written");
    }

    /// Path of the configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("neap.toml")
    }

    /// Starts the agent, again or for the first time.
    pub fn start_agent(&mut self) {
        self.start_agent_under(&[]);
    }

    /// The same, by another program that becomes the agent: its words, before those of the agent.
    pub fn start_agent_under(&mut self, wrapper: &[String]) {
        assert!(self.agent.is_none(), "the agent runs already");
        self.starts += 1;
        let log = File::create(self.log_path(self.starts)).expect("a log can be made");
        let agent = [env!("CARGO_BIN_EXE_neap")];
        let mut words = self.within.iter().chain(wrapper).map(String::as_str).chain(agent);
        let mut command = Command::new(words.next().expect("there is a program"));
        command.args(words).args(["run", "--config"]).arg(self.config());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = process::tie_to_parent(&mut command).spawn().expect("the agent can be started");
        self.agent = Some(child);
    }

    /// A controller of its own.
    pub fn controller(&self) -> Controller {
        Controller::connect(self.broker.port())
    }

    /// A command of the command line, against this node.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
        command.args(arguments).arg("--config").arg(self.config()).stdin(Stdio::null());
        command
    }

    /// Process id of the agent.
    pub fn agent_pid(&self) -> i32 {
        let agent = self.agent.as_ref().expect("the agent runs");
        i32::try_from(agent.id()).expect("a process id is an i32")
    }

    /// How the agent ended, if it has.
    pub fn agent_ended(&mut self) -> Option<ExitStatus> {
        self.agent.as_mut()?.try_wait().expect("a child can be asked")
    }

    /// Takes leave of an agent that has ended.
    pub fn forget_agent(&mut self) {
        assert!(self.agent_ended().is_some(), "the agent runs");
        self.agent = None;
    }

    /// SIGKILL.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("the agent runs");
        assert!(agent.try_wait().expect("a child can be asked").is_none(), "the agent had ended:\n{}", self.log());
        agent.kill().expect("a child can be killed");
        let status = agent.wait().expect("a child can be waited for");
        assert_eq!(status.signal(), Some(9), "{}", self.log());
    }

    /// SIGTERM; the exit code, and how long it took.
    pub fn terminate_agent(&mut self) -> (Option<i32>, Duration) {
        let asked = clock::now();
        self.signal(Signal::TERM);
        let mut agent = self.agent.take().expect("the agent runs");
        let ended = || agent.try_wait().expect("a child can be asked");
        let status = wait_for("the end of the agent after SIGTERM", || self.log(), ended);
        (status.code(), clock::now().since(asked))
    }

    /// SIGHUP: the configuration is read again.
    pub fn hangup(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.agent_pid()).expect("a process id is not 0");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// The agent has ended by itself, or was killed by somebody else: how, once it has.
    pub fn wait_for_the_agents_end(&mut self) -> ExitStatus {
        let mut agent = self.agent.take().expect("the agent runs");
        wait_for("the end of the agent", || self.log(), || agent.try_wait().expect("a child can be asked"))
    }

    /// Process ids of the live workers. The agent starts nothing else.
    pub fn workers(&self) -> Vec<i32> {
        self.agent.as_ref().map(|agent| children(agent.id())).unwrap_or_default()
    }

    /// Waits until as many workers are up.
    pub fn wait_for_workers(&self, count: usize) -> Vec<i32> {
        wait_for(
            &format!("{count} workers"),
            || self.log(),
            || Some(self.workers()).filter(|workers| workers.len() == count),
        )
    }

    /// CPU time of the live workers, by the kernel's `schedstat`.
    pub fn worker_cpu(&self) -> BTreeMap<i32, Duration> {
        self.workers().into_iter().filter_map(|pid| Some((pid, cpu(pid)?))).collect()
    }

    fn log_path(&self, start: usize) -> PathBuf {
        self.folder.path().join(format!("agent-{start}.log"))
    }

    /// What the agent of the last start has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path(self.starts)).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- log of the agent, start {} ----\n{}", self.starts, self.log());
        }
    }
}

// === Processes ===

/// The live children of a process.
pub fn children(parent: u32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let mut pids: Vec<i32> =
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    pids.retain(|pid| is_alive(*pid));
    pids.sort_unstable();
    pids
}

/// Whether a process is there and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// State of a process as the kernel has it: `R` runs, `S` sleeps, `T` is stopped, `Z` has ended.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// CPU time of all threads of a process, in nanoseconds of the scheduler's own count.
pub fn cpu(pid: i32) -> Option<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(sum))
}

/// Every live worker process whose agent is, or was, that process: by its command line.
pub fn workers_of(agent: i32) -> Vec<i32> {
    let parent = agent.to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_worker = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        // An emulator's own words come first.
        words.get(if is_emulated() { 8 } else { 1 }) == Some(&&b"worker"[..])
            && words.windows(2).any(|pair| pair[0] == b"--parent" && pair[1] == parent.as_bytes())
    };
    pids.filter(is_worker).filter(|pid| is_alive(*pid)).collect()
}

// === Feeder ===

/// What the RAN says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Say {
    Nothing,
    Percent(u8),
    Raw(Vec<u8>),
}

/// The RAN's side of the push source: says the same again and again until it is told something else.
pub struct Feeder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    saying: Mutex<Saying>,
    changed: Condvar,
}

struct Saying {
    say: Say,
    late: u64,
    leave: bool,
}

impl Feeder {
    /// One that is silent.
    fn start(socket: PathBuf) -> Self {
        let saying = Mutex::new(Saying { say: Say::Nothing, late: 0, leave: false });
        let shared = Arc::new(Shared { saying, changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || feed(&of_thread, &socket));
        Self { shared, thread: Some(thread) }
    }

    /// Load of so many percent.
    pub fn percent(&self, percent: u8) {
        self.say(Say::Percent(percent));
    }

    /// A load at which inference may run.
    pub fn low(&self) {
        self.percent(5);
    }

    /// A load at which it must not.
    pub fn high(&self) {
        self.percent(90);
    }

    /// The source is gone.
    pub fn silent(&self) {
        self.say(Say::Nothing);
    }

    /// Something that makes no sense.
    pub fn raw(&self, datagram: &[u8]) {
        self.say(Say::Raw(datagram.to_vec()));
    }

    /// So many more late slots than before.
    pub fn more_late(&self, slots: u64) {
        self.change(|saying| saying.late += slots);
    }

    fn say(&self, say: Say) {
        self.change(|saying| saying.say = say);
    }

    fn change(&self, change: impl FnOnce(&mut Saying)) {
        change(&mut self.shared.saying.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.changed.notify_all();
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.change(|saying| saying.leave = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Says it at once when it changes, and every [`FEED_EVERY`].
fn feed(shared: &Shared, to: &Path) {
    let socket = UnixDatagram::unbound().expect("a socket can be made");
    let mut saying = shared.saying.lock().unwrap_or_else(PoisonError::into_inner);
    while !saying.leave {
        let datagram = match &saying.say {
            Say::Nothing => None,
            Say::Percent(percent) => {
                Some(encode(CellId(1), Some(*percent), None, Some(saying.late), Some(clock::now()), false).into_bytes())
            }
            Say::Raw(datagram) => Some(datagram.clone()),
        };
        if let Some(datagram) = datagram {
            // Refused while no agent listens: as with a real RAN, that is the agent's loss.
            let _ = socket.send_to(&datagram, to);
        }
        saying = shared.changed.wait_timeout(saying, FEED_EVERY).unwrap_or_else(PoisonError::into_inner).0;
    }
}
