//! What does a node on stage need? A private folder, a configuration in it, and the real agent as a child process.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use toml::{Table, Value};

use crate::sys::{clock, process};

/// The configuration that all starts from: the one a developer runs by hand.
const LAB: &str = include_str!("../../../config/lab.toml");
/// The configuration of a node, whose governor has the times that are shipped.
const SHIPPED: &str = include_str!("../../../config/neap.toml");
/// The day that the times in `config/lab.toml` are made for, in seconds.
const LAB_DAY_SECONDS: f64 = 60.0;
/// Shortest time the configuration takes for the governor's waits, in seconds.
const GOVERNOR_SECONDS_MIN: f64 = 0.05;
/// The agent promises to end within 2 s of SIGTERM; after this it is killed.
const STOP_MAX: Duration = Duration::from_secs(4);
/// How often an ending agent is looked at.
const STOP_LOOK: Duration = Duration::from_millis(5);
/// Bytes and lines of the agent's log that are shown when it fails.
const LOG_TAIL_BYTES: u64 = 16 * 1024;
const LOG_TAIL_LINES: usize = 25;

/// A folder of this run only, readable by its owner only, removed when it is dropped.
#[derive(Debug)]
pub(in crate::cli) struct Folder(PathBuf);

impl Folder {
    /// Makes it in the system's folder for temporary files; its name tells of which command and process it is.
    ///
    /// # Errors
    /// When that folder is missing or not writable.
    pub(in crate::cli) fn new(command: &str) -> io::Result<Self> {
        Self::below(&std::env::temp_dir(), command)
    }

    /// Makes it in memory where that is possible, as a page of load wants it.
    ///
    /// # Errors
    /// As [`Folder::new`].
    pub(in crate::cli) fn in_memory(command: &str) -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::below(memory, command) } else { Self::new(command) }
    }

    /// Makes it in that folder.
    ///
    /// # Errors
    /// As [`Folder::new`].
    pub(in crate::cli) fn below(parent: &Path, command: &str) -> io::Result<Self> {
        let unique = uuid::Uuid::now_v7().simple().to_string();
        let path = parent.join(format!("neap-{command}-{}-{unique}", std::process::id()));
        // Not recursive: a name that exists already is refused, never shared.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(in crate::cli) fn path(&self) -> &Path {
        &self.0
    }

    pub(in crate::cli) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed lies in the system's folder for things that may be removed.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is changed in `config/lab.toml`.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Changes {
    /// Where the broker listens.
    pub(in crate::cli) broker: SocketAddr,
    /// Where load is pushed to.
    pub(in crate::cli) socket: PathBuf,
    /// Where the agent keeps its state.
    pub(in crate::cli) state_dir: PathBuf,
    /// Where the models are.
    pub(in crate::cli) models: PathBuf,
    /// Name of the node; as in the file when `None`.
    pub(in crate::cli) name: Option<String>,
    /// Worker processes; as in the file when `None`.
    pub(in crate::cli) workers: Option<u8>,
    /// Their cores, one for each worker; the kernel chooses when there are none.
    pub(in crate::cli) cores: Vec<usize>,
    /// How long a worker may stand before it is killed; as in the file when `None`.
    pub(in crate::cli) evict_after: Option<Duration>,
    /// The governor's limits and waits.
    pub(in crate::cli) governor: Pace,
}

impl Changes {
    /// A node with one worker and the shipped limits, everything of which lies in the folder of a bench.
    pub(in crate::cli) fn of_a_bench(folder: &Path, broker: SocketAddr, models: PathBuf) -> Self {
        Self {
            broker,
            socket: folder.join("load.sock"),
            state_dir: folder.join("state"),
            models,
            name: Some("bench".to_owned()),
            workers: Some(1),
            cores: Vec::new(),
            evict_after: None,
            governor: Pace::Shipped(1.0),
        }
    }
}

/// Whose limits and waits the governor has; the waits shrink and grow with the day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cli) enum Pace {
    /// Those of `config/lab.toml`, for a day of this length.
    #[cfg_attr(not(any(feature = "demo", test)), expect(dead_code, reason = "the demo's"))]
    Lab(Duration),
    /// Those of `config/neap.toml`, for a time that runs so many times as fast.
    Shipped(f64),
}

/// The text of the node's configuration.
///
/// # Errors
/// When `config/lab.toml` lacks a section that has to be changed: a mistake of the build, not of its user.
pub(in crate::cli) fn configuration(changes: &Changes) -> Result<String, String> {
    let mut root: Table = LAB.parse().map_err(|error| format!("config/lab.toml: {error}"))?;
    let path = |path: &Path| Value::String(path.display().to_string());
    if let Some(name) = &changes.name {
        section(&mut root, "node")?.insert("name".to_owned(), Value::String(name.clone()));
    }
    let mqtt = section(&mut root, "mqtt")?;
    mqtt.insert("host".to_owned(), Value::String(changes.broker.ip().to_string()));
    mqtt.insert("port".to_owned(), Value::Integer(i64::from(changes.broker.port())));
    section(&mut root, "jobs")?.insert("state_dir".to_owned(), path(&changes.state_dir));
    section(&mut root, "models")?.insert("dir".to_owned(), path(&changes.models));
    section(&mut root, "status")?.insert("socket".to_owned(), path(&changes.socket.with_file_name("status.sock")));
    // The log is kept in a file that is only looked at when the agent fails.
    section(&mut root, "log")?.insert("level".to_owned(), Value::String("info".to_owned()));
    let workers = section(&mut root, "workers")?;
    if let Some(count) = changes.workers {
        workers.insert("count".to_owned(), Value::Integer(i64::from(count)));
        workers.remove("cores");
    }
    if !changes.cores.is_empty() {
        let cores = changes.cores.iter().filter_map(|core| i64::try_from(*core).ok()).map(Value::Integer);
        workers.insert("cores".to_owned(), Value::Array(cores.collect()));
    }
    if let Some(span) = changes.evict_after {
        workers.insert("evict_after_s".to_owned(), Value::Float(span.as_secs_f64()));
    }
    let scale = match changes.governor {
        Pace::Lab(day) => day.as_secs_f64() / LAB_DAY_SECONDS,
        Pace::Shipped(speed) => {
            let mut shipped: Table = SHIPPED.parse().map_err(|error| format!("config/neap.toml: {error}"))?;
            let governor = shipped.remove("governor").ok_or("config/neap.toml: there is no [governor]")?;
            root.insert("governor".to_owned(), governor);
            speed.recip()
        }
    };
    let governor = section(&mut root, "governor")?;
    // Every wait of the governor is in seconds and belongs to the day's pace.
    for (key, value) in governor.iter_mut().filter(|(key, _)| key.ends_with("_s")) {
        let given = value.as_float().or_else(|| value.as_integer().map(small));
        let given = given.ok_or_else(|| format!("{key} in [governor] is not a number"))?;
        // The one wait that may be as short as one likes, or none at all.
        let least = if key == "raise_every_s" { 0.0 } else { GOVERNOR_SECONDS_MIN };
        *value = Value::Float((given * scale).max(least));
    }
    let source = root.get_mut("load").and_then(|load| load.get_mut(0)).and_then(Value::as_table_mut);
    let source = source.ok_or("config/lab.toml: there is no [[load]]")?;
    source.insert("socket".to_owned(), path(&changes.socket));
    toml::to_string(&root).map_err(|error| format!("config/lab.toml: {error}"))
}

fn section<'a>(root: &'a mut Table, name: &str) -> Result<&'a mut Table, String> {
    root.get_mut(name).and_then(Value::as_table_mut).ok_or_else(|| format!("config/lab.toml: there is no [{name}]"))
}

/// A small whole number of seconds.
fn small(value: i64) -> f64 {
    f64::from(i32::try_from(value).unwrap_or(i32::MAX))
}

/// The agent, running as a child of this process.
#[derive(Debug)]
pub(in crate::cli) struct Agent {
    child: Child,
    log: PathBuf,
}

/// How an agent ended after SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Ended {
    /// By itself and well, after this time.
    Well(Duration),
    /// With this status.
    Badly(ExitStatus),
    /// It had to be killed.
    Killed,
}

impl Agent {
    /// Starts `neap run --config` with this very binary. It dies with the calling thread.
    ///
    /// # Errors
    /// When the log file cannot be made or the process not started.
    pub(in crate::cli) fn start(config: &Path, log: PathBuf) -> io::Result<Self> {
        Self::start_with(config, log, &[])
    }

    /// The same with paths in its environment.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub(in crate::cli) fn start_with(config: &Path, log: PathBuf, paths: &[(&str, &Path)]) -> io::Result<Self> {
        let file = File::create_new(&log)?;
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["run", "--config"])
            .arg(config)
            .envs(paths.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C is for the command, which ends the agent in its own time.
            .process_group(0);
        let child = process::tie_to_parent(&mut command).spawn()?;
        Ok(Self { child, log })
    }

    /// Its process id.
    pub(in crate::cli) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, when it has.
    pub(in crate::cli) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end, and waits for that; kills it when it takes too long.
    pub(in crate::cli) fn stop(&mut self) -> Ended {
        let asked = clock::now();
        // It may have ended by itself; the wait below tells.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        loop {
            let now = clock::now();
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ended::Well(now.since(asked)),
                Ok(Some(status)) => return Ended::Badly(status),
                Ok(None) if now.since(asked) < STOP_MAX => thread::sleep(STOP_LOOK),
                Ok(None) | Err(_) => {
                    self.kill();
                    return Ended::Killed;
                }
            }
        }
    }

    /// The end of its log.
    pub(in crate::cli) fn log_tail(&self) -> String {
        let tail = tail(&self.log).unwrap_or_else(|error| format!("(its log cannot be read: {error})"));
        if tail.trim().is_empty() { "(its log is empty)".to_owned() } else { tail }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
    }
}

/// The last lines of a file that may be long.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Settings;

    fn changes(seconds: u64) -> Changes {
        Changes {
            broker: "127.0.0.1:4711".parse().unwrap(),
            socket: "/tmp/neap-demo/load.sock".into(),
            state_dir: "/tmp/neap-demo/state".into(),
            models: "/srv/models".into(),
            name: None,
            workers: Some(2),
            cores: Vec::new(),
            evict_after: None,
            governor: Pace::Lab(Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn the_filled_lab_configuration_is_one_the_agent_accepts() {
        for seconds in [10, 20, 60, 3600] {
            let text = configuration(&changes(seconds)).unwrap();
            let settings = Settings::parse("filled", &text).unwrap();
            assert_eq!((settings.mqtt.port, settings.workers.count), (4711, 2));
            assert_eq!(settings.models_dir, PathBuf::from("/srv/models"));
            assert_eq!(settings.jobs.state_dir, PathBuf::from("/tmp/neap-demo/state"));
        }
    }

    #[test]
    fn the_shipped_waits_shrink_with_the_time_and_its_limits_stay() {
        let shipped = Settings::parse("shipped", SHIPPED).unwrap().policy;
        let text = configuration(&Changes { governor: Pace::Shipped(600.0), ..changes(1) }).unwrap();
        let filled = Settings::parse("filled", &text).unwrap().policy;
        assert_eq!((filled.busy_above, filled.idle_below), (shipped.busy_above, shipped.idle_below));
        for (fast, slow) in [
            (filled.settle, shipped.settle),
            (filled.settle_max, shipped.settle_max),
            (filled.flap_window, shipped.flap_window),
            (filled.raise_every, shipped.raise_every),
        ] {
            // The configuration knows whole milliseconds.
            assert!(fast.abs_diff(slow / 600) < Duration::from_millis(1), "{fast:?} of {slow:?}");
        }
    }

    #[test]
    fn a_shorter_day_settles_sooner() {
        let settle = |seconds| {
            let text = configuration(&changes(seconds)).unwrap();
            Settings::parse("filled", &text).unwrap().policy.settle
        };
        assert_eq!(settle(120), settle(60) * 2);
        assert!(settle(20) < settle(60));
    }

    #[test]
    fn the_folder_is_private_and_goes_away() {
        let folder = Folder::new("test").unwrap();
        let path = folder.join("state");
        fs::write(&path, "x").unwrap();
        let mode = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(folder);
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn of_a_long_log_only_the_last_lines_are_shown() {
        let folder = Folder::new("test").unwrap();
        let path = folder.join("log");
        fs::write(&path, (0..5000).map(|line| format!("line {line}\n")).collect::<String>()).unwrap();
        let shown = tail(&path).unwrap();
        assert_eq!(shown.lines().count(), LOG_TAIL_LINES);
        assert!(shown.ends_with("line 4999"));
    }
}
