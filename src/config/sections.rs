//! Which keys has each section, with which default and range, and how must they relate?

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::read::{Document, Problem, Section};
use super::{
    Cgroup, Jobs, Log, Memory, Mqtt, Node, STATUS_SOCKET, SafeMode, Sentinel, Settings, Status, Trust, Workers,
    forecast, guard, sources, tls, tuning,
};
use crate::governor::{BadPolicy, Policy};
use crate::jobs::feasible::DelayTerms;
use crate::jobs::job::Limits;
use crate::link::settings::{PLAIN_PORT, TLS_PORT};
use crate::link::topics::{RESERVED, Topics};
use crate::units::{JOBS_MAX, Name, PACKET_BYTES_MAX, WORKERS_MAX};
use crate::worker::cgroup::Mode;
use crate::worker::jail::{self, Level};
use crate::{telemetry, trust};

/// Longest path that a Unix socket can have.
const SOCKET_PATH_BYTES_MAX: usize = 107;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Shortest "longest wait" for the broker: below it a broker that is down is only knocked at.
const RECONNECT_MAX_MIN: Duration = Duration::from_millis(500);
const HOUR: Duration = Duration::from_secs(3600);
/// Highest number of a core.
const CORE_MAX: u64 = 1023;
/// Most cores that can be reserved.
const RESERVED_MAX: usize = 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const NAME_RULE: &str = "must be 1 to 63 of a-z 0-9 -, in quotes, not starting with -";

/// Reads the whole text: settings when every required key is there, all problems, every key that was asked for.
pub(super) fn read(file: &str, text: &str) -> (Option<Settings>, Vec<Problem>, BTreeSet<String>) {
    let document = Document::new(file, text);
    let table = document.parse();
    let settings = table.as_ref().and_then(|table| {
        let mut root = Section::root(&document, table);
        let settings = settings(&mut root);
        root.finish();
        settings
    });
    let (problems, known) = document.finish();
    (settings, problems, known)
}

/// Every key that some file may have: those of each kind of load source included.
pub(super) fn keys() -> BTreeSet<String> {
    // One at a time: there are more kinds than a file may have sources.
    let of_kind = |(kind, _): &(&str, _)| read("", &format!("[[load]]\nkind = \"{kind}\"\n")).2;
    sources::KINDS.iter().flat_map(of_kind).collect()
}

fn settings(root: &mut Section<'_, '_>) -> Option<Settings> {
    let node = node(root.section("node"));
    let mqtt = mqtt(root.section("mqtt"));
    let governor = root.section("governor");
    let sentinel = sentinel(root.section("sentinel"));
    let load = sources::settings(root);
    let workers = workers(root.section("workers"));
    let policy = policy(governor, workers.count);
    let guard = guard::settings(root.section("guard"));
    let tuning = tuning::terms(root.section("tuning"), &policy);
    let memory = memory(root.section("memory"));
    let cgroup = cgroup(root.section("cgroup"));
    let sandbox = sandbox(root.section("sandbox"));
    let jobs = jobs(root.section("jobs"));
    let trust = trust(root.section("trust"));
    let (models_dir, worst_node_max) = models(root.section("models"));
    let forecast = forecast::settings(root.section("forecast"));
    let safe_mode = safe_mode(root.section("safe_mode"));
    let status = status(root.section("status"));
    let log = log(root.section("log"));
    Some(Settings {
        node: node?,
        mqtt: mqtt?,
        policy,
        guard,
        tuning,
        sentinel,
        load,
        workers,
        memory,
        cgroup,
        sandbox,
        jobs,
        trust,
        models_dir,
        worst_node_max,
        forecast,
        safe_mode,
        status,
        log,
    })
}

fn node(mut section: Section<'_, '_>) -> Option<Node> {
    let site: Option<Name> = section.parsed("site", NAME_RULE);
    let name: Option<Name> = section.parsed("name", NAME_RULE);
    let root = section.text("root", 64).unwrap_or_else(|| "neap".to_owned());
    let site = section.require("site", site, "\"north\" (second level of every topic)");
    let name = section.require("name", name, "\"cell-17\" (unique within its site)");
    let topics = site.zip(name).map(|(site, name)| Topics::new(&root, site, name));
    if let Some(Err(error)) = &topics {
        section.complain("root", &error.to_string());
    }
    let reserved = |node: &Node| RESERVED.contains(&node.topics.node().as_str());
    let node = topics.and_then(Result::ok).map(|topics| Node { topics });
    if node.as_ref().is_some_and(reserved) {
        section.complain("name", &format!("is a level of the protocol's own: anything but {}", RESERVED.join(", ")));
    }
    section.finish();
    node
}

fn mqtt(mut section: Section<'_, '_>) -> Option<Mqtt> {
    let host = section.text("host", 253);
    let tls = tls::settings(&mut section);
    let port_default = if section.has("ca_file") { TLS_PORT } else { PLAIN_PORT };
    let port = section.integer("port", port_default.into(), 1..=65_535, "TCP port");
    let username = section.text("username", 256);
    let password_file = section.path("password_file");
    let keep_alive = section.seconds("keep_alive_s", Duration::from_secs(15), Duration::from_secs(5)..=HOUR);
    let session_expiry = section.seconds("session_expiry_s", 7 * DAY, Duration::from_secs(60)..=30 * DAY);
    let reconnect_max = section.seconds("reconnect_max_s", Duration::from_secs(60), RECONNECT_MAX_MIN..=HOUR);
    let allow_insecure = section.flag("allow_insecure", false);
    let host = section.require("host", host, "\"127.0.0.1\" (the broker)");
    if let Some(host) = &host {
        if host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '@')) {
            section.complain("host", "must be a host name or an address, without scheme, path or port");
        } else if !is_loopback(host) && !allow_insecure && !section.has("ca_file") {
            section.complain(
                "host",
                "is another machine, and the connection is not encrypted: speak TLS with ca_file = \"/…\", or accept \
                 plaintext with allow_insecure = true",
            );
        }
    }
    if password_file.is_some() && username.is_none() && !section.has("username") {
        section.complain("password_file", "needs a user name as well: add username = \"…\"");
    }
    section.finish();
    let port = u16::try_from(port).ok()?;
    let host = host?;
    Some(Mqtt { host, port, tls, username, password_file, keep_alive, session_expiry, reconnect_max, allow_insecure })
}

/// Whether that host is this machine, as far as its name says.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn policy(mut section: Section<'_, '_>, workers: u8) -> Policy {
    let span = |least_ms: u64, most: Duration| Duration::from_millis(least_ms)..=most;
    let policy = Policy {
        workers,
        busy_above: section.percent("busy_above", 40),
        idle_below: section.percent("idle_below", 15),
        settle: section.seconds("settle_s", Duration::from_secs(120), span(50, HOUR)),
        settle_max: section.seconds("settle_max_s", Duration::from_secs(600), span(50, DAY)),
        flap_window: section.seconds("flap_window_s", Duration::from_secs(300), span(50, DAY)),
        raise_every: section.seconds("raise_every_s", Duration::from_secs(1), span(0, HOUR)),
    };
    match policy.check() {
        Ok(())
        | Err(BadPolicy::Workers(_) | BadPolicy::NeverIdle | BadPolicy::SettleTooShort(_) | BadPolicy::Guard(_)) => {
            // The ranges of the keys have seen to these.
        }
        Err(BadPolicy::LimitsCrossed { busy_above, .. }) => {
            let rule = format!("must not be above busy_above ({busy_above}): a node would start and stop at once");
            section.complain(if section.has("idle_below") { "idle_below" } else { "busy_above" }, &rule);
        }
        Err(BadPolicy::SettleCrossed { settle, .. }) => {
            let rule = format!("must be at least settle_s ({} s): it is what settle_s grows to", settle.as_secs_f64());
            section.complain(if section.has("settle_max_s") { "settle_max_s" } else { "settle_s" }, &rule);
        }
    }
    section.finish();
    policy
}

fn sentinel(mut section: Section<'_, '_>) -> Sentinel {
    let priority = section.optional_integer("priority", 1..=98, "SCHED_FIFO, below that of the RAN");
    let sentinel = Sentinel {
        priority: priority.and_then(|priority| u8::try_from(priority).ok()),
        signal_again: section.millis("signal_again_ms", 50, 5..=10_000),
        confirm_kill: section.millis("confirm_kill_ms", 500, 10..=60_000),
        // Twice the beat's period at the least: a beat that is a little late is no silence.
        dead_man: section.millis("dead_man_ms", 500, 200..=60_000),
    };
    if sentinel.signal_again >= sentinel.confirm_kill {
        let key = if section.has("confirm_kill_ms") { "confirm_kill_ms" } else { "signal_again_ms" };
        section
            .complain(key, "confirm_kill_ms must be above signal_again_ms: the signals are repeated before the kill");
    }
    section.finish();
    sentinel
}

fn workers(mut section: Section<'_, '_>) -> Workers {
    let count = section.integer("count", 1, 1..=WORKERS_MAX as u64, "worker processes");
    let cores = section.integers("cores", WORKERS_MAX, 0..=CORE_MAX);
    let reserved = section.integers("reserved", RESERVED_MAX, 0..=CORE_MAX);
    let core_numbers = |cores: Vec<u64>| cores.into_iter().filter_map(|core| usize::try_from(core).ok());
    let workers = Workers {
        count: u8::try_from(count).unwrap_or(u8::MAX),
        cores: core_numbers(cores).collect(),
        reserved: core_numbers(reserved).collect::<BTreeSet<_>>().into_iter().collect(),
        memory_bytes: section.integer("memory_mib", 512, 32..=65_536, "MiB for each worker") * MIB,
        evict_after: section.seconds("evict_after_s", Duration::from_secs(900), Duration::from_secs(1)..=DAY),
    };
    if !workers.cores.is_empty() && workers.cores.len() != usize::from(workers.count) {
        let rule = format!("must name one core for each of the {} workers, or none at all", workers.count);
        section.complain("cores", &rule);
    }
    if let Some(core) = workers.cores.iter().find(|core| workers.reserved.contains(core)) {
        let rule = format!("must not name core {core}, which cores gives to a worker: take it out of one of the two");
        section.complain("reserved", &rule);
    }
    section.finish();
    workers
}

fn memory(mut section: Section<'_, '_>) -> Memory {
    let memory = Memory {
        proc: section.path("proc").unwrap_or_else(|| PathBuf::from("/proc")),
        stall_above: section.percent("stall_above", 10),
        available_min_bytes: section.integer("available_min_mib", 64, 0..=1_048_576, "MiB") * MIB,
        calm: section.seconds("calm_s", Duration::from_secs(30), Duration::from_secs(1)..=HOUR),
    };
    section.finish();
    memory
}

fn cgroup(mut section: Section<'_, '_>) -> Cgroup {
    let modes = [("auto", Mode::Auto), ("required", Mode::Required), ("off", Mode::Off)];
    let cgroup = Cgroup { mode: section.one_of("mode", &modes).unwrap_or_default(), path: section.path("path") };
    section.finish();
    cgroup
}

fn sandbox(mut section: Section<'_, '_>) -> jail::Policy {
    let levels = Level::ALL.map(|level| (level.as_str(), level));
    let level = section.one_of("level", &levels).unwrap_or_default();
    if !level.is_available() {
        section.complain("level", "is for builds with debug assertions only: say \"best-effort\"");
    }
    let user = section.integer("user", u64::from(jail::USER), 1..=4_294_967_294, "number of a user, not 0");
    let network = section.flag("network_namespace", true);
    section.finish();
    jail::Policy { level, user: u32::try_from(user).unwrap_or(jail::USER), network }
}

fn jobs(mut section: Section<'_, '_>) -> Jobs {
    let retention_h = section.integer("retention_h", 168, 1..=8_760, "hours");
    let state_dir = section.path("state_dir").unwrap_or_else(|| PathBuf::from("/var/lib/neap"));
    let open_max = section.integer("open_max", 1_000, 1..=JOBS_MAX as u64, "jobs that wait or run");
    let (limits, limits_max) = limits(&mut section);
    let jobs = Jobs {
        state_dir,
        open_max: usize::try_from(open_max).unwrap_or(JOBS_MAX),
        retention: Duration::from_secs(retention_h * 3600),
        spool_bytes: section.integer("spool_mib", 64, 1..=1_048_576, "MiB") * MIB,
        refuse_infeasible: section.flag("refuse_infeasible", true),
        delay: DelayTerms {
            stretch_above: Duration::from_secs(section.integer(
                "delay_above_s",
                60,
                1..=86_400,
                "seconds for one item",
            )),
            wait_max: HOUR
                * u32::try_from(section.integer("delay_max_h", 12, 0..=168, "hours (0: no delay)")).unwrap_or(0),
        },
        limits,
        limits_max,
    };
    section.finish();
    jobs
}

/// A job's limits come in pairs: `KEY` for a job that names none, `KEY_max` that no job may exceed.
fn limits(section: &mut Section<'_, '_>) -> (Limits, Limits) {
    let output_kib_max = PACKET_BYTES_MAX as u64 / KIB * 3 / 4;
    let wall = pair(section, ["wall_s", "wall_s_max"], [600, 3_600], 1..=604_800, "seconds");
    let memory = pair(section, ["memory_mib", "memory_mib_max"], [256, 512], 1..=65_536, "MiB");
    let attempts = pair(section, ["attempts", "attempts_max"], [3, 10], 1..=100, "attempts");
    let output = pair(section, ["output_kib", "output_kib_max"], [256, 2_048], 1..=output_kib_max, "KiB");
    let limits = |at: usize| Limits {
        wall: Duration::from_secs(wall[at]),
        memory_bytes: memory[at] * MIB,
        attempts: u32::try_from(attempts[at]).unwrap_or(1),
        output_bytes: output[at] * KIB,
    };
    (limits(0), limits(1))
}

fn pair(
    section: &mut Section<'_, '_>,
    [key, key_max]: [&'static str; 2],
    [default, default_max]: [u64; 2],
    range: RangeInclusive<u64>,
    unit: &str,
) -> [u64; 2] {
    let value = section.integer(key, default, range.clone(), unit);
    let most = section.integer(key_max, default_max, range, unit);
    // A lowered maximum lowers a default that nobody wrote.
    let value = if section.has(key) { value } else { value.min(most) };
    if value > most {
        section.complain(key, &format!("must not be above {key_max} ({most})"));
    }
    [value, most]
}

fn trust(mut section: Section<'_, '_>) -> Trust {
    let keys = section.path("keys");
    let modes = [("require", trust::Mode::Require), ("warn", trust::Mode::Warn)];
    let mode = section.one_of("mode", &modes);
    if mode.is_some() && keys.is_none() && !section.has("keys") {
        section.complain("mode", "needs a key ring to judge by: add keys = \"/etc/neap/keys.json\"");
    }
    section.finish();
    let mode = if keys.is_some() { mode.unwrap_or(trust::Mode::Require) } else { trust::Mode::None };
    Trust { keys, mode }
}

fn models(mut section: Section<'_, '_>) -> (PathBuf, Option<Duration>) {
    let folder = section.path("dir").unwrap_or_else(|| PathBuf::from("/usr/share/neap/models"));
    let worst_node_max = section.optional_integer("worst_node_ms_max", 1..=60_000, "ms");
    section.finish();
    (folder, worst_node_max.map(Duration::from_millis))
}

fn safe_mode(mut section: Section<'_, '_>) -> SafeMode {
    let crashes = section.integer("crashes", 5, 0..=16, "crashes (0: no safe mode)");
    let range = Duration::from_secs(1)..=DAY;
    let safe_mode = SafeMode {
        crashes: u8::try_from(crashes).unwrap_or(u8::MAX),
        window: section.seconds("window_s", Duration::from_secs(300), range.clone()),
        calm: section.seconds("calm_s", Duration::from_secs(1_800), range),
    };
    section.finish();
    safe_mode
}

fn status(mut section: Section<'_, '_>) -> Status {
    let enabled = section.flag("enabled", true);
    let socket = section.path("socket").unwrap_or_else(|| PathBuf::from(STATUS_SOCKET));
    let mode = section.integer("mode", 0o660, 0..=0o777, "permission bits, e.g. 0o660");
    let listen: Option<SocketAddr> =
        section.parsed("listen", "must be an address and port in quotes, e.g. \"127.0.0.1:9464\"");
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        section.complain(
            "socket",
            &format!("is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a socket's path may have"),
        );
    }
    if mode & 0o600 != 0o600 {
        section.complain("mode", "must let at least the owner read and write, such as 0o660");
    }
    if listen.is_some_and(|listen| !listen.ip().is_loopback()) {
        section.complain(
            "listen",
            "must be a loopback address such as 127.0.0.1:9464: the pages are for this machine; to scrape from another, \
             put a proxy in front that checks who asks",
        );
    }
    section.finish();
    let mode = u32::try_from(mode).unwrap_or(0o600);
    Status { enabled, socket, mode, listen }
}

fn log(mut section: Section<'_, '_>) -> Log {
    let level = section.text("level", 256).unwrap_or_else(|| "info".to_owned());
    if let Err(telemetry::Error::Level { why, .. }) = telemetry::check_level(&level) {
        let rule = "give error, warn, info, debug, trace or off, or a list like \"info,neap::link=debug\"";
        section.complain("level", &format!("{why}: {rule}"));
    }
    let formats = [("text", telemetry::Format::Text), ("json", telemetry::Format::Json)];
    let format = section.one_of("format", &formats).unwrap_or_default();
    let log = Log { level, format };
    section.finish();
    log
}
