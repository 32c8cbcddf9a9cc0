//! What did the operator ask for? TOML → checked settings; the one place with defaults.
//!
//! [`Settings::read`] finds every mistake of a file at once, each with file:line:column, what is allowed and what to
//! do. A file that is right says nothing about the machine; [`Settings::surroundings`] looks at that.

mod guard;
mod read;
mod sections;
mod sources;
mod surroundings;
mod tls;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use read::Problem;
pub use surroundings::PasswordError;

use crate::governor::{self, Policy};
use crate::jobs::feasible::DelayTerms;
use crate::jobs::job::Limits;
use crate::link;
use crate::link::topics::Topics;
use crate::trust::Mode;
use crate::units::Utilization;
use crate::worker::{cgroup, jail};
use crate::{load, telemetry};

/// Largest configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Where the status socket is unless the file says otherwise.
pub const STATUS_SOCKET: &str = "/run/neap/status.sock";

/// Everything an agent is told, checked: each value in its range, paths absolute, relations kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Who this node is.
    pub node: Node,
    /// How it reaches its controller.
    pub mqtt: Mqtt,
    /// When inference may run; `workers` comes from `[workers] count`.
    pub policy: Policy,
    /// How careful the harm guard is.
    pub guard: governor::guard::Settings,
    /// How the yield path runs.
    pub sentinel: Sentinel,
    /// Where load is read, in the order of the file.
    pub load: load::Settings,
    /// Who computes.
    pub workers: Workers,
    /// When memory is short, and what follows.
    pub memory: Memory,
    /// What holds them.
    pub cgroup: Cgroup,
    /// How they are locked in.
    pub sandbox: jail::Policy,
    /// Which work is taken, and what is kept of it.
    pub jobs: Jobs,
    /// Whose orders count.
    pub trust: Trust,
    /// Folder of the models.
    pub models_dir: PathBuf,
    /// The longest single operator of a model that is not remarked on.
    pub worst_node_max: Option<Duration>,
    /// When the agent's crashes are too many.
    pub safe_mode: SafeMode,
    /// What can be looked at from the same machine.
    pub status: Status,
    /// What is logged.
    pub log: Log,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Root, site and name, as every topic of the node has them.
    pub topics: Topics,
}

/// `[mqtt]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mqtt {
    /// Host name or address of the broker.
    pub host: String,
    /// TCP port of the broker.
    pub port: u16,
    /// How the way there is kept private; `None`: it is not.
    pub tls: Option<link::tls::Settings>,
    /// User name, when the broker wants one.
    pub username: Option<String>,
    /// File that holds the password, readable by its owner only.
    pub password_file: Option<PathBuf>,
    /// Keep-alive interval.
    pub keep_alive: Duration,
    /// How long the broker keeps the session of an absent node.
    pub session_expiry: Duration,
    /// Longest wait before a lost connection is tried again.
    pub reconnect_max: Duration,
    /// Whether plaintext to a broker on another machine is accepted.
    pub allow_insecure: bool,
}

/// `[sentinel]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentinel {
    /// `SCHED_FIFO` priority; `None`: an ordinary thread with a short slice.
    pub priority: Option<u8>,
    /// A worker not confirmed stopped after this gets its signals once more, and is frozen where that is possible.
    pub signal_again: Duration,
    /// A worker not confirmed stopped after this is killed.
    pub confirm_kill: Duration,
    /// A worker that has not heard of the sentinel for this long stops itself.
    pub dead_man: Duration,
}

/// `[workers]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// Worker processes, one harvest core each.
    pub count: u8,
    /// Cores they are pinned to, one each; empty: the kernel chooses.
    pub cores: Vec<usize>,
    /// Cores that neither a worker nor the agent itself may use.
    pub reserved: Vec<usize>,
    /// Memory for models and tensors of one worker, in bytes.
    pub memory_bytes: u64,
    /// A worker stopped for longer than this is killed and its job queued again.
    pub evict_after: Duration,
}

/// `[memory]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Folder in which `pressure/memory` and `meminfo` are.
    pub proc: PathBuf,
    /// Memory is short when some task waits for it for this share of two seconds.
    pub stall_above: Utilization,
    /// Memory is short when less is available, in bytes.
    pub available_min_bytes: u64,
    /// How long memory must not be short before workers start again.
    pub calm: Duration,
}

/// `[cgroup]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Whether workers get cgroups.
    pub mode: cgroup::Mode,
    /// The group to make them in, from the top of each hierarchy; `None`: the one that the agent is started in.
    pub path: Option<PathBuf>,
}

/// `[jobs]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jobs {
    /// Folder of the durable state.
    pub state_dir: PathBuf,
    /// Most jobs that wait or run at once.
    pub open_max: usize,
    /// How long ended jobs and their results stay queryable.
    pub retention: Duration,
    /// Most bytes of inputs, results and undelivered messages on disk.
    pub spool_bytes: u64,
    /// Whether a job is refused whose deadline cannot be met.
    pub refuse_infeasible: bool,
    /// Which work waits for a better moment.
    pub delay: DelayTerms,
    /// Limits of a job that names none.
    pub limits: Limits,
    /// Limits that no job may exceed.
    pub limits_max: Limits,
}

/// `[trust]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The key ring; `None`: there is none.
    pub keys: Option<PathBuf>,
    /// What happens to orders that nobody signed.
    pub mode: Mode,
}

/// `[safe_mode]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SafeMode {
    /// So many crashes begin it, at most 16; 0: never.
    pub crashes: u8,
    /// Within this time.
    pub window: Duration,
    /// So long without another one ends it.
    pub calm: Duration,
}

/// `[status]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether there is anything to look at.
    pub enabled: bool,
    /// Unix socket with the pages of metrics and yields.
    pub socket: PathBuf,
    /// Permission bits of that socket.
    pub mode: u32,
    /// Loopback address and port with the same pages.
    pub listen: Option<SocketAddr>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Least important level that is written, or a list of `target=level`.
    pub level: String,
    /// How a line looks.
    pub format: telemetry::Format,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("config.invalid: cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is far longer than any configuration.
    #[error("config.invalid: {} is longer than {FILE_BYTES_MAX} bytes: is it a configuration file?", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The file has mistakes: all of them, in the order of the file.
    #[error("{}", problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// At least one.
        problems: Vec<Problem>,
    },
}

impl Settings {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read or has mistakes; the text then has one line for each.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(Error::TooLarge { path: path.to_owned() });
        }
        Self::parse(&path.display().to_string(), &text)
    }

    /// Checks the text of a file; `file` is how its mistakes name it.
    ///
    /// # Errors
    /// When it has mistakes.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let (settings, problems, _) = sections::read(file, text);
        match settings {
            Some(settings) if problems.is_empty() => Ok(settings),
            Some(_) | None => Err(Error::Invalid { problems }),
        }
    }

    /// Sections of `new` that differ and take effect only after a restart. The others (`[governor]`, `[guard]`, the limits of
    /// `[jobs]`, the models folder) are reloaded.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let limits_aside = |jobs: &Jobs| (jobs.state_dir.clone(), jobs.spool_bytes);
        let differs = [
            ("node", self.node != new.node),
            ("mqtt", self.mqtt != new.mqtt),
            ("sentinel", self.sentinel != new.sentinel),
            ("load", self.load != new.load),
            ("workers", self.workers != new.workers),
            ("memory", self.memory != new.memory),
            ("cgroup", self.cgroup != new.cgroup),
            ("sandbox", self.sandbox != new.sandbox),
            ("jobs", limits_aside(&self.jobs) != limits_aside(&new.jobs)),
            ("trust", self.trust != new.trust),
            ("safe_mode", self.safe_mode != new.safe_mode),
            ("status", self.status != new.status),
            ("log", self.log != new.log),
        ];
        differs.into_iter().filter_map(|(section, differs)| differs.then_some(section)).collect()
    }
}

/// Every key a file may have, as `section.key`.
pub fn keys() -> BTreeSet<String> {
    sections::keys()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn minimal() -> Settings {
        let text = "[node]\nsite = \"north\"\nname = \"cell-17\"\n[mqtt]\nhost = \"127.0.0.1\"\n";
        Settings::parse("minimal.toml", text).unwrap()
    }

    #[test]
    fn a_change_of_policy_needs_no_restart_but_a_change_of_broker_does() {
        let old = minimal();
        let mut new = old.clone();
        new.policy.settle = Duration::from_secs(5);
        assert_eq!(old.needs_restart(&new), Vec::<&str>::new());
        new.mqtt.port = 8_883;
        new.jobs.open_max = 5;
        assert_eq!(old.needs_restart(&new), ["mqtt"]);
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read_to_its_end() {
        let error = Settings::read(Path::new("/dev/zero")).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
}
