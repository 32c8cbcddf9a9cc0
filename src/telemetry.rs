//! What do we tell the operator? Logs on stderr, limits for lines that the network can cause.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::units::{Instant, escape_steering};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter cannot be read.
    #[error(
        "log level {level:?} is not understood ({why}): give error, warn, info, debug, trace or off, or a list like info,neap::link=debug"
    )]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        why: String,
    },
    /// Called twice.
    #[error("logging has already been started in this process")]
    AlreadyStarted,
}

/// Starts logging to stderr. `level` is one level, or a list of `target=level`.
///
/// # Errors
/// A level that cannot be read, or a second call.
pub fn init(level: &str, format: Format, colour: bool) -> Result<(), Error> {
    let targets = targets(level)?;
    let registry = tracing_subscriber::registry().with(targets);
    let stderr = move || Plain { inner: io::stderr(), colour };
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(colour);
    match format {
        Format::Text => registry.with(layer).try_init(),
        Format::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| Error::AlreadyStarted)
}

/// Writes events so that nothing in them can steer the terminal or look like another line, whatever a peer put into it.
/// It counts on the subscriber to hand over each event as one piece that ends with a line break.
struct Plain<W> {
    inner: W,
    colour: bool,
}

impl<W: io::Write> io::Write for Plain<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (body, end) = text.strip_suffix('\n').map_or((text.as_ref(), ""), |body| (body, "\n"));
        // With colour, escapes are the subscriber's own: it has escaped those of the fields.
        let kept: &[char] = if self.colour { &['\x1b'] } else { &[] };
        self.inner.write_all((escape_steering(body, kept) + end).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Checks a level without starting anything.
///
/// # Errors
/// A level that cannot be read.
pub fn check_level(level: &str) -> Result<(), Error> {
    targets(level)?;
    Ok(())
}

fn targets(level: &str) -> Result<Targets, Error> {
    let bad = |why: &str| Error::Level { level: level.chars().take(80).collect(), why: why.to_owned() };
    let targets: Targets = level.parse().map_err(|error| bad(&format!("{error}")))?;
    // A bare word that is no level reads as a target that logs everything: a typo must not.
    let known = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    match level.split(',').map(str::trim).find(|part| !part.contains('=') && !known(part)) {
        Some("") => Err(bad("it is empty, or has an empty part")),
        Some(part) => Err(bad(&format!("{part:?} is no level"))),
        None => Ok(targets),
    }
}

/// Limits log lines that something outside can cause: at most `burst` in each span; the rest is counted.
///
/// ```
/// # use neap::{sys::clock, telemetry::LogLimit};
/// static REFUSED: LogLimit = LogLimit::new(5, 10);
/// if let Some(suppressed) = REFUSED.admit(clock::now()) {
///     tracing::warn!(suppressed, "refused a message");
/// }
/// ```
#[derive(Debug)]
pub struct LogLimit {
    burst: u32,
    span_ns: u64,
    /// Begin of the current span, ns of the monotonic clock.
    begin: AtomicU64,
    admitted: AtomicU32,
    suppressed: AtomicU64,
}

impl LogLimit {
    /// At most `burst` lines in each span of so many seconds.
    pub const fn new(burst: u32, span_s: u32) -> Self {
        let (begin, admitted, suppressed) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU64::new(0));
        Self { burst, span_ns: span_s as u64 * 1_000_000_000, begin, admitted, suppressed }
    }

    /// Whether to write a line now; if so, how many were left out since the last. Threads that ask in the same moment
    /// may together get a line more.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let now = now.as_nanos();
        let begin = self.begin.load(Relaxed);
        let over = now.saturating_sub(begin) >= self.span_ns || begin == 0;
        if over && self.begin.compare_exchange(begin, now.max(1), Relaxed, Relaxed).is_ok() {
            self.admitted.store(0, Relaxed);
        }
        if self.admitted.fetch_add(1, Relaxed) < self.burst {
            return Some(self.suppressed.swap(0, Relaxed));
        }
        // Not one more than is counted: the counter must not wrap into a permission.
        self.admitted.store(self.burst, Relaxed);
        self.suppressed.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn levels_and_lists_of_targets_are_understood() {
        for level in ["off", "error", "WARN", "info", "info,neap::link=debug", "warn, rumqttc=off"] {
            assert!(check_level(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn a_misspelt_level_is_refused_with_what_would_be_right() {
        for level in ["", "inof", "info,", "info,neap::link=dbg", "loud"] {
            let sentence = check_level(level).unwrap_err().to_string();
            assert!(sentence.contains(&format!("{level:?}")) && sentence.contains("error, warn, info"), "{sentence}");
        }
    }

    #[test]
    fn what_a_peer_says_stays_on_its_line_and_steers_nothing() {
        use std::io::Write as _;
        let written = |colour, event: &str| {
            let mut plain = Plain { inner: Vec::new(), colour };
            plain.write_all(event.as_bytes()).unwrap();
            String::from_utf8(plain.inner).unwrap()
        };
        let event = "WARN why=a\nERROR b\u{1b}[2J\u{9b}c\0\u{202e}d\n";
        assert_eq!(written(false, event), "WARN why=a\\u000aERROR b\\u001b[2J\\u009bc\\u0000\\u202ed\n");
        assert_eq!(written(true, "\u{1b}[33mWARN\u{1b}[0m a\rb\n"), "\u{1b}[33mWARN\u{1b}[0m a\\u000db\n");
    }

    #[test]
    fn a_log_limit_admits_a_burst_a_span_and_counts_the_rest() {
        let limit = LogLimit::new(2, 1);
        let answers: Vec<_> = (0..5).map(|ms| limit.admit(at(1000 + ms))).collect();
        assert_eq!(answers, [Some(0), Some(0), None, None, None]);
        assert_eq!(limit.admit(at(1999)), None);
        assert_eq!(limit.admit(at(2000)), Some(4));
        assert_eq!(limit.admit(at(2001)), Some(0));
        assert_eq!(limit.admit(at(2002)), None);
    }
}
