//! What do the numbers mean? Units, identifiers and every limit, shared by all modules.
//!
//! Pure: no clock is read here, no serde is derived here. Time is a value that the shell passes in.

pub mod outlook;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

// ---- limits: every queue, buffer, message and table has one ----

/// Most worker processes, so most harvest cores, on one node.
pub const WORKERS_MAX: usize = 16;
/// Most load sources configured at once.
pub const SOURCES_MAX: usize = 8;
/// Most cells that one source may report.
pub const CELLS_MAX: usize = 64;
/// Longest job id, in characters.
pub const JOB_ID_CHARS_MAX: usize = 64;
/// Longest site, node or model name, in characters.
pub const NAME_CHARS_MAX: usize = 63;
/// Largest job manifest (the JSON part of a submit with binary tensors), in bytes.
pub const MANIFEST_BYTES_MAX: usize = 8 * 1024;
/// Largest MQTT packet in either direction, in bytes; announced to the broker.
pub const PACKET_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest frame between agent and worker, in bytes.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest model file, in bytes.
pub const MODEL_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Most items in one job.
pub const ITEMS_MAX: usize = 10_000;
/// Most tensors in one request or response.
pub const TENSORS_MAX: usize = 64;
/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 8;
/// Most elements of a tensor.
pub const ELEMENTS_MAX: usize = 16 * 1024 * 1024;
/// Most jobs known to a node at once, terminal ones included.
///
/// So many that the agent keeps its promise of 32 MiB with ten thousand of them open: without any it has 12 MiB. Measured
/// as `tests/table_memory.rs` does, an open one takes 643 bytes and one that has ended 244: 10,000 x 643 + 40,000 x 244
/// bytes are 15.4 MiB, and the rest is for what is on its way.
pub const JOBS_MAX: usize = 50_000;
/// Longest text of a fault, in bytes.
pub const FAULT_TEXT_BYTES_MAX: usize = 1024;

const _: () = assert!(PACKET_BYTES_MAX < FRAME_BYTES_MAX, "an item that arrived must fit a frame");
const _: () = assert!(MANIFEST_BYTES_MAX < PACKET_BYTES_MAX, "a manifest must fit a packet");

// ---- time ----

/// A moment of the monotonic clock: nanoseconds of `CLOCK_MONOTONIC`, comparable between processes of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The moment `nanos` nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time that passed since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `span` later; the end of time when that overflows.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A moment of the wall clock: milliseconds since 1970-01-01T00:00:00Z. Only for deadlines, expiry and what people read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(i64);

/// First and last millisecond that RFC 3339, with its four-digit years, can write.
const RFC_3339_MILLIS: (i64, i64) = (-62_167_219_200_000, 253_402_207_199_999);

impl WallTime {
    /// The moment `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The moment a text names: RFC 3339; another offset than `Z` is converted, less than a millisecond is dropped.
    ///
    /// # Errors
    /// A sentence with an example, when it is not an RFC 3339 moment with an offset.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = text.parse::<jiff::Timestamp>().map(|timestamp| Self(timestamp.as_millisecond()));
        // More is understood than RFC 3339 has: names of zones, and years of six digits, which could not be written again.
        match parsed {
            Ok(at)
                if text.len() <= 64
                    && !text.contains('[')
                    && !text.starts_with(['+', '-'])
                    && at.0 >= RFC_3339_MILLIS.0 =>
            {
                Ok(at)
            }
            Ok(_) | Err(_) => {
                let shown: String = text.chars().take(40).collect();
                Err(format!("{shown:?} is not a time; write it as 2026-11-22T06:00:00.000Z"))
            }
        }
    }

    /// Time that passed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The moment `span` later.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// RFC 3339, UTC, milliseconds: `2026-11-22T06:00:00.000Z`. Moments outside the years 0 to 9999 are written as the
/// nearest inside.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = RFC_3339_MILLIS;
        let timestamp = jiff::Timestamp::from_millisecond(self.0.clamp(first, last)).unwrap_or_default();
        write!(f, "{timestamp:.3}")
    }
}

// ---- load ----

/// How much of a resource is used, in integer permille, 0 to 1000: exact, so the governor is testable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Utilization(u16);

impl Utilization {
    /// Nothing used.
    pub const IDLE: Self = Self(0);
    /// All used; also what every unknown load counts as.
    pub const FULL: Self = Self(1000);

    /// `None` above 1000 permille: out of range is an error, never clamped into a permission to run.
    pub const fn from_permille(permille: u16) -> Option<Self> {
        if permille <= 1000 { Some(Self(permille)) } else { None }
    }

    /// From percent, 0 to 100 (3GPP TS 28.552 spells PRB usage in integer percent).
    pub const fn from_percent(percent: u8) -> Option<Self> {
        if percent <= 100 { Some(Self(percent as u16 * 10)) } else { None }
    }

    /// Permille, 0 to 1000.
    pub const fn permille(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Utilization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 10 {
            0 => write!(f, "{} %", self.0 / 10),
            tenth => write!(f, "{}.{tenth} %", self.0 / 10),
        }
    }
}

/// How the RAN itself fares: figures that get worse when something disturbs it. What they mean for the load is nothing;
/// what they mean for us is read by comparing spans in which we run with spans in which we do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Longest wait of one of its tasks for being begun, in µs within a report (OCUDU `executor_metrics.enqueue_max`).
    EnqueueDelay,
    /// Longest time from the begin of a slot to the end of its work, in µs within a report (OCUDU `max_latency`).
    SlotLatency,
    /// Time that its threads waited for a core, in µs for each second (`schedstat`).
    RunQueueDelay,
    /// Share of time in which one of its tasks waited for a core, in permille (PSI `cpu`, `some`).
    Pressure,
}

impl Health {
    /// Every figure.
    pub const ALL: [Self; 4] = [Self::EnqueueDelay, Self::SlotLatency, Self::RunQueueDelay, Self::Pressure];

    /// The figure as it is written in messages and recordings, with its unit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EnqueueDelay => "enqueue_us",
            Self::SlotLatency => "slot_us",
            Self::RunQueueDelay => "run_queue_us",
            Self::Pressure => "pressure_permille",
        }
    }
}

/// Cores as the kernel writes them: `0`, `1-3`, `0,2-5`. Ascending, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreList<'a>(pub &'a [usize]);

impl fmt::Display for CoreList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|a, b| a.checked_add(1) == Some(*b));
        for (index, run) in runs.enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [only] => write!(f, "{comma}{only}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

/// Which served cell: PCI or NCGI, as the RAN software numbers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellId(pub u64);

/// Which configured load source: its position in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u8);

// ---- names ----

/// A text that is not what a name, id or digest must look like. Says what the rule is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not allowed: {rule}")]
pub struct BadName {
    what: &'static str,
    value: String,
    rule: &'static str,
}

impl BadName {
    fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        let value = value.chars().take(80).collect();
        Self { what, value, rule }
    }
}

/// Identity of a job, chosen by its sender: `[A-Za-z0-9._-]{1,64}`, safe in topics, files and logs.
///
/// Shared: indices name a job as often as they like.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Arc<str>);

impl JobId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || text.len() > JOB_ID_CHARS_MAX || !text.chars().all(legal) {
            return Err(BadName::new("job id", text, "1 to 64 of A-Z a-z 0-9 . _ -"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a site, node, pool or model: `[a-z0-9][a-z0-9-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() || text.len() > NAME_CHARS_MAX || text.starts_with('-') || !text.chars().all(legal) {
            return Err(BadName::new("name", text, "1 to 63 of a-z 0-9 -, not starting with -"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a character may steer what shows it: control characters, and those that turn or hide text (bidirectional
/// marks, line and paragraph separators, invisible fillers). Text of others shows none of them.
pub fn is_steering(c: char) -> bool {
    let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    c.is_control() || hidden || matches!(c, '\u{61c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Puts `\u001b` and the like in place of every steering character but those in `kept`; right within JSON text, too.
pub fn escape_steering(text: &str, kept: &[char]) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_steering(c) && !kept.contains(&c) {
            // All of them lie below U+10000: four digits are enough.
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// SHA-256 of some bytes; a model is named by it. Text form: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName::new("digest", text, "sha256: and 64 hexadecimal digits");
        let hex = text.strip_prefix("sha256:").ok_or_else(bad)?.as_bytes();
        if hex.len() != 64 {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_chunks().0) {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            let (Some(high), Some(low)) = (high, low) else { return Err(bad()) };
            *byte = u8::try_from(high << 4 | low).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}
