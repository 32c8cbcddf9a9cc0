//! How soon has Neap decided? The real sentinel thread with the real source, over a process that does nothing.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::super::yields::sentinels;
use super::ways::{Feed, Opened, Way};
use crate::cli::failure::{Class, Failure};
use crate::governor::Mode;
use crate::sentinel::{self, Report, Sentinel, YieldClass};
use crate::sys::{clock, process};
use crate::worker::gate::Gate;

/// Longest wait for a decision, or for the process to be let run; then the bench has failed.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A sentinel that hears of load by one way.
pub(super) struct Heard {
    feed: Box<dyn Feed>,
    gate: Arc<Gate>,
    // Ended before the gate is emptied, in `drop`.
    sentinel: Option<Sentinel>,
    process: Child,
}

impl Heard {
    /// Starts the sentinel, and a process for it to stop.
    ///
    /// # Errors
    /// When the source cannot be opened, or thread or process not started.
    pub(super) fn start(way: &Way, folder: &Path, priority: Option<u8>) -> Result<Self, Failure> {
        let failed = |error| Failure::io(&format!("cannot open the way in of {}", way.name), &error);
        let Opened { kind, connect } = (way.open)(folder).map_err(failed)?;
        let gate = Gate::new();
        // It waits for ever for something to read, and ends with the bench.
        let mut command = Command::new("cat");
        process::tie_to_parent(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()));
        let process = command.spawn().map_err(|error| Failure::io("cannot start cat, to be stopped", &error))?;
        let sentinel = sentinel::start(sentinels::settings(kind, priority, 1)?, Arc::clone(&gate));
        let sentinel = sentinel.map_err(|error| Failure::new(Class::Software, error.to_string()))?;
        gate.fill(0, i32::try_from(process.id()).unwrap_or(i32::MAX));
        sentinel.worker_changed();
        Ok(Self { feed: connect().map_err(failed)?, gate, sentinel: Some(sentinel), process })
    }

    /// The scheduling class of the sentinel.
    pub(super) fn class(&self) -> Option<YieldClass> {
        self.sentinel.as_ref().map(Sentinel::class)
    }

    /// Tells that the load is low, and waits until the process may run.
    ///
    /// # Errors
    /// When it cannot be told, or nothing comes of it.
    pub(super) fn calm(&mut self) -> Result<(), Failure> {
        self.feed.calm(clock::now()).map_err(not_sent)?;
        self.wait("let the process run", |report| match report {
            Report::Mode { decision, .. } => (decision.mode == Mode::Trough).then_some(()),
            Report::Yield(_)
            | Report::Resumed { .. }
            | Report::Load { .. }
            | Report::Guard(_)
            | Report::Killed { .. } => None,
        })
    }

    /// One event: from right before it is handed over to the decision.
    ///
    /// # Errors
    /// When it cannot be told, nothing comes of it, or something else made the sentinel decide.
    pub(super) fn event(&mut self) -> Result<Duration, Failure> {
        let sent = clock::now();
        self.feed.rise(sent).map_err(not_sent)?;
        let record = self.wait("decide", |report| match report {
            Report::Yield(record) => Some(record),
            Report::Mode { .. }
            | Report::Resumed { .. }
            | Report::Load { .. }
            | Report::Guard(_)
            | Report::Killed { .. } => None,
        })?;
        if record.stamped.is_some_and(|stamped| stamped != sent) || record.decided < sent {
            let text = format!("the sentinel stopped for something else than the event: {:?}", record.reason);
            return Err(Failure::new(Class::Software, text));
        }
        Ok(record.decided.since(sent))
    }

    /// Takes reports until one is wanted.
    fn wait<T>(&self, what: &str, wanted: impl Fn(Report) -> Option<T>) -> Result<T, Failure> {
        let until = clock::now().after(WAIT_MAX);
        while let Some(sentinel) = &self.sentinel {
            sentinel.clear_report_fd();
            while let Some(report) = sentinel.reports().pop() {
                if let Some(found) = wanted(report) {
                    return Ok(found);
                }
            }
            let left = until.since(clock::now());
            if left.is_zero() {
                break;
            }
            let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
            let left = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
            let bell = sentinel.report_fd();
            // An interrupted wait is one more turn.
            let _rang = poll(&mut [PollFd::new(&bell, PollFlags::IN)], Some(&left));
        }
        let text = format!("the sentinel did not {what} within {} s; is the machine overloaded?", WAIT_MAX.as_secs());
        Err(Failure::new(Class::TemporaryFailure, text))
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        // Stops the process and waits for it.
        self.sentinel = None;
        self.gate.clear(0);
        // It may have ended by itself.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn not_sent(error: std::io::Error) -> Failure {
    Failure::io("cannot send load to the sentinel", &error)
}
