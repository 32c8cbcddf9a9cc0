//! Which load sources are there, and which keys has each kind?

mod dpdk;
mod log;
mod mqtt;
mod ocudu;
mod procfs;

use std::net::SocketAddr;
use std::path::PathBuf;

use super::read::Section;
use super::sections::NAME_RULE;
use crate::load::shm::MODE_DEFAULT;
use crate::load::{Kind, Problem, Settings, SourceSettings, recorder};
use crate::units::{Name, SOURCES_MAX};

/// Values of `kind`.
pub(super) const KINDS: [(&str, Word); 10] = [
    ("push", Word::Push),
    ("push_udp", Word::PushUdp),
    ("shm", Word::Shm),
    ("procfs", Word::Procfs),
    ("dpdk", Word::Dpdk),
    ("log", Word::Log),
    ("ocudu", Word::Ocudu),
    ("ocudu_udp", Word::OcuduUdp),
    ("trace", Word::Trace),
    ("mqtt", Word::Mqtt),
];

#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    Push,
    PushUdp,
    Shm,
    Procfs,
    Dpdk,
    Log,
    Ocudu,
    OcuduUdp,
    Trace,
    Mqtt,
}

/// Reads every `[[load]]`.
pub(super) fn settings(root: &mut Section<'_, '_>) -> Settings {
    let mut sources: Vec<SourceSettings> = Vec::new();
    for mut section in root.sections("load", SOURCES_MAX) {
        if let Some(source) = source(&mut section) {
            if sources.iter().any(|earlier| earlier.name == source.name) {
                section.complain("name", "is the name of an earlier source as well: reports must tell them apart");
            }
            let file = source.record.as_ref().map(|record| &record.file);
            if file.is_some()
                && sources.iter().any(|earlier| earlier.record.as_ref().map(|record| &record.file) == file)
            {
                section
                    .complain("record", "is the recording of an earlier source as well: each needs a file of its own");
            }
            if is_shm(&source) && sources.iter().any(is_shm) {
                section.complain("kind", "is a second page in shared memory, and the sentinel waits at one: give the other RAN process a push source");
            }
            if source.kind == Kind::Mqtt && sources.iter().any(|earlier| earlier.kind == Kind::Mqtt) {
                section.complain(
                    "kind",
                    "is a second source of reports over MQTT, and a report names none: one takes them all",
                );
            }
            check(&section, &source);
            sources.push(source);
        }
        section.finish();
    }
    Settings { sources }
}

fn is_shm(source: &SourceSettings) -> bool {
    matches!(source.kind, Kind::Shm { .. })
}

fn source(section: &mut Section<'_, '_>) -> Option<SourceSettings> {
    let word = section.one_of("kind", &KINDS);
    let word = section.require(
        "kind",
        word,
        "\"push\" (or \"push_udp\", \"shm\", \"procfs\", \"dpdk\", \"log\", \"ocudu\", \"ocudu_udp\", \"trace\", \"mqtt\")",
    );
    let name: Option<Name> = section.parsed("name", NAME_RULE);
    let name = section.require("name", name, "\"du\" (what reports call this source)");
    let mut freshness = section.millis("freshness_ms", 2_000, 10..=3_600_000);
    // Other sources give levels, and one that is silent means busy unless it is told otherwise.
    let mut required = section.flag("required", !matches!(word, Some(Word::Log)));
    let kind = match word {
        Some(Word::Push) => push(section),
        Some(Word::PushUdp) => push_udp(section),
        Some(Word::Shm) => shm(section),
        Some(Word::Procfs) => procfs::procfs(section),
        Some(Word::Dpdk) => dpdk::dpdk(section),
        Some(Word::Log) => log::log(section),
        Some(Word::Ocudu) => ocudu::ocudu(section),
        Some(Word::OcuduUdp) => ocudu::ocudu_udp(section),
        Some(Word::Trace) => trace(section),
        Some(Word::Mqtt) => {
            let (kind, max_age) = mqtt::mqtt(section);
            (freshness, required) = (max_age, false);
            Some(kind)
        }
        None => None,
    };
    let record = record(section);
    Some(SourceSettings { name: name?.as_str().to_owned(), freshness, required, kind: kind?, record })
}

fn record(section: &mut Section<'_, '_>) -> Option<recorder::Settings> {
    let most = recorder::BYTES_MAX >> 20;
    let mebibytes = section.integer("record_max_mib", most, 1..=most, "mebibytes");
    let file = section.path("record")?;
    Some(recorder::Settings { file, bytes_max: mebibytes << 20 })
}

/// The source's own rules, at the key they are about.
fn check(section: &Section<'_, '_>, source: &SourceSettings) {
    let Err(error) = source.check() else { return };
    match error.problem {
        Problem::Setting { key, limit, .. } => {
            let key = match key {
                "freshness" => "freshness_ms",
                "period" => "period_ms",
                key => key,
            };
            section.complain(key, &format!("must be {limit}"));
        }
        problem @ (Problem::SocketInUse { .. }
        | Problem::NotASocket { .. }
        | Problem::NotALoadPage { .. }
        | Problem::Io { .. }
        | Problem::Line { .. }
        | Problem::Recording { .. }) => section.complain("kind", &problem.to_string()),
    }
}

fn push(section: &mut Section<'_, '_>) -> Option<Kind> {
    let socket = section.path("socket").unwrap_or_else(|| PathBuf::from("/run/neap/load.sock"));
    let mode = section.integer("mode", 0o660, 0..=0o777, "permission bits, e.g. 0o660");
    if mode & 0o002 != 0 {
        section.complain("mode", "lets every user of the machine push load: use 0o660 and a group");
    }
    Some(Kind::Push { socket, mode: u32::try_from(mode).ok()? })
}

fn push_udp(section: &mut Section<'_, '_>) -> Option<Kind> {
    let listen = section.parsed("listen", "must be an address and port in quotes, e.g. \"127.0.0.1:9700\"");
    let listen: SocketAddr = section.require("listen", listen, "\"127.0.0.1:9700\"")?;
    Some(Kind::PushUdp { listen })
}

fn shm(section: &mut Section<'_, '_>) -> Option<Kind> {
    let path = section.path("path").unwrap_or_else(|| PathBuf::from("/run/neap/load.shm"));
    let mode = section.integer("mode", u64::from(MODE_DEFAULT), 0..=0o777, "permission bits, e.g. 0o660");
    if mode & 0o002 != 0 {
        section.complain("mode", "lets every user of the machine write load: use 0o660 and a group");
    }
    Some(Kind::Shm { path, mode: u32::try_from(mode).ok()? })
}

fn trace(section: &mut Section<'_, '_>) -> Option<Kind> {
    let speed = section.number("speed", 1.0, 0.001..=100_000.0);
    let repeat = section.flag("repeat", false);
    let file = section.path("file");
    let file = section.require("file", file, "\"/usr/share/neap/day.csv\" (a recording)")?;
    Some(Kind::Trace { file, speed, repeat })
}
