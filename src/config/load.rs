//! Which load sources are there, and which keys has each kind?

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::read::Section;
use crate::units::{Name, SOURCES_MAX};

/// Longest path of a Unix socket, in bytes, as the kernel has it.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// One `[[load]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Its name in reports.
    pub name: Name,
    /// For how long a reading may be believed.
    pub freshness: Duration,
    /// Whether its silence alone means busy.
    pub required: bool,
    /// What it reads.
    pub kind: Kind,
}

/// What a source reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Newline JSON on a Unix datagram socket.
    Push {
        /// Path of the socket; made at start.
        socket: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The same over UDP from this machine.
    PushUdp {
        /// Loopback address and port.
        listen: SocketAddr,
    },
    /// CPU time from `/proc`.
    Procfs {
        /// Whose.
        what: Watched,
        /// How often.
        period: Duration,
    },
    /// Replay of a recording.
    Trace {
        /// CSV or NDJSON.
        file: PathBuf,
        /// Times real time.
        speed: f64,
        /// Whether it starts again at its end.
        repeat: bool,
    },
}

/// Whose CPU time is load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// These cores, less the agent's own workers; empty: all.
    Cores(Vec<usize>),
    /// The processes of a cgroup.
    Cgroup(PathBuf),
    /// The processes of that name.
    Process(String),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    Push,
    PushUdp,
    Procfs,
    Trace,
}

/// Values of `kind`.
pub(super) const KINDS: [(&str, Word); 4] =
    [("push", Word::Push), ("push_udp", Word::PushUdp), ("procfs", Word::Procfs), ("trace", Word::Trace)];

/// Reads every `[[load]]`.
pub(super) fn sources(root: &mut Section<'_, '_>) -> Vec<Source> {
    let mut names: Vec<Name> = Vec::new();
    let mut sources = Vec::new();
    for mut section in root.sections("load", SOURCES_MAX) {
        let source = source(&mut section);
        if let Some(source) = source {
            if names.contains(&source.name) {
                section.complain("name", "is the name of an earlier source as well: reports must tell them apart");
            }
            names.push(source.name.clone());
            sources.push(source);
        }
        section.finish();
    }
    sources
}

fn source(section: &mut Section<'_, '_>) -> Option<Source> {
    let word = section.one_of("kind", &KINDS);
    let word = section.require("kind", word, "\"push\" (or \"push_udp\", \"procfs\", \"trace\")");
    let name = section.parsed("name", "must be 1 to 63 of a-z 0-9 -, in quotes, not starting with -");
    let name = section.require("name", name, "\"du\" (what reports call this source)");
    let freshness = section.millis("freshness_ms", 2_000, 10..=3_600_000);
    let required = section.flag("required", true);
    let kind = match word {
        Some(Word::Push) => push(section),
        Some(Word::PushUdp) => push_udp(section),
        Some(Word::Procfs) => procfs(section, freshness),
        Some(Word::Trace) => trace(section),
        None => None,
    };
    Some(Source { name: name?, freshness, required, kind: kind? })
}

fn push(section: &mut Section<'_, '_>) -> Option<Kind> {
    let socket = section.path("socket").unwrap_or_else(|| PathBuf::from("/run/neap/load.sock"));
    let bytes = socket.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        let rule = format!("is {bytes} bytes long: the kernel takes socket paths of at most {SOCKET_PATH_BYTES_MAX}");
        section.complain("socket", &rule);
    }
    let mode = section.integer("mode", 0o660, 0o600..=0o777, "permission bits, e.g. 0o660");
    if mode & 0o002 != 0 {
        section.complain("mode", "lets every user of the machine push load: use 0o660 and a group");
    }
    Some(Kind::Push { socket, mode: u32::try_from(mode).ok()? })
}

fn push_udp(section: &mut Section<'_, '_>) -> Option<Kind> {
    let listen = section.parsed("listen", "must be an address and port in quotes, e.g. \"127.0.0.1:9700\"");
    let listen: SocketAddr = section.require("listen", listen, "\"127.0.0.1:9700\"")?;
    if !listen.ip().is_loopback() {
        section.complain("listen", "is reachable from other machines, and load is not authenticated: use 127.0.0.1");
    }
    Some(Kind::PushUdp { listen })
}

fn procfs(section: &mut Section<'_, '_>, freshness: Duration) -> Option<Kind> {
    let cores = section.integers("cores", 1_024, 0..=1_023);
    let cgroup = section.path("cgroup");
    let process = section.text("process", 64);
    let period = section.millis("period_ms", 100, 10..=60_000);
    if period >= freshness {
        section.complain("period_ms", "must be below freshness_ms: every reading would be stale before the next");
    }
    let given: Vec<&str> = ["cores", "cgroup", "process"].into_iter().filter(|key| section.has(key)).collect();
    if let [_, second, ..] = given[..] {
        section.complain(second, "only one of cores, cgroup and process may say whose CPU time is load");
    }
    let what = match (cgroup, process) {
        (Some(cgroup), _) => Watched::Cgroup(cgroup),
        (None, Some(process)) => Watched::Process(process),
        (None, None) => Watched::Cores(cores.into_iter().filter_map(|core| usize::try_from(core).ok()).collect()),
    };
    Some(Kind::Procfs { what, period })
}

fn trace(section: &mut Section<'_, '_>) -> Option<Kind> {
    let speed = section.number("speed", 1.0, 0.001..=1_000_000.0);
    let repeat = section.flag("repeat", false);
    let file = section.path("file");
    let file = section.require("file", file, "\"/usr/share/neap/day.csv\" (a recording)")?;
    Some(Kind::Trace { file, speed, repeat })
}
