//! In which state is a job, and which moves are legal? PROTOCOL section 3 as a pure state machine.

use std::time::Duration;

use crate::fault::{Code, Fault};
use crate::units::{Digest, JobId, Name, WallTime};

/// Times a job may kill its worker before it is failed for good, whatever attempts are left.
pub const CRASHES_MAX: u32 = 2;
/// Attempts in a row, without a finished item, that may end because the agent did. Many, for a node without power is not
/// the job's fault: workers are processes of their own, so that what kills the agent as well is next to impossible.
pub const INTERRUPTIONS_MAX: u32 = 20;

/// The codes that [`Job::reason`] takes; they are part of the protocol and never renamed.
pub mod reason {
    /// Accepted and durable.
    pub const ACCEPTED: &str = "accepted";
    /// An attempt started.
    pub const STARTED: &str = "started";
    /// An item is finished.
    pub const PROGRESS: &str = "progress";
    /// Stopped for the RAN.
    pub const YIELD: &str = "yield";
    /// Continued where it was.
    pub const RESUMED: &str = "resumed";
    /// Its worker was given up; the next attempt goes on from the last finished item.
    pub const EVICTED: &str = "evicted";
    /// The agent started anew while an attempt was under way.
    pub const RESTARTED: &str = "restarted";
    /// An attempt failed and another one follows.
    pub const RETRY: &str = "retry";
    /// All items are finished.
    pub const DONE: &str = "done";
    /// Ended by its fault.
    pub const FAILED: &str = "failed";
    /// Taken back by its controller.
    pub const CANCELED: &str = "canceled";
    /// Its deadline passed.
    pub const DEADLINE: &str = "deadline";
    /// One that this version does not know.
    pub const OTHER: &str = "other";

    const ALL: [&str; 12] =
        [ACCEPTED, STARTED, PROGRESS, YIELD, RESUMED, EVICTED, RESTARTED, RETRY, DONE, FAILED, CANCELED, DEADLINE];

    /// The code of that text; [`OTHER`] for what a later version wrote.
    pub fn parse(text: &str) -> &'static str {
        ALL.into_iter().find(|code| *code == text).unwrap_or(OTHER)
    }
}

/// One job as the node knows it. Its input stays in the store until an attempt starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Identity.
    pub id: JobId,
    /// Digest of the submit body: same id with another digest is a conflict.
    pub body: Digest,
    /// Model asked for.
    pub model: ModelRef,
    /// 0 to 9; higher goes first.
    pub priority: u8,
    /// After this the result has no value.
    pub deadline: Option<WallTime>,
    /// Not to be started before.
    pub not_before: Option<WallTime>,
    /// What one attempt may use.
    pub limits: Limits,
    /// W3C trace context the submit brought, passed through to every report.
    pub traceparent: Option<String>,
    /// Items in the batch; 1 for a single input.
    pub items: u32,
    /// When it was accepted.
    pub received: WallTime,
    /// Where it stands.
    pub state: State,
    /// Rises by one with every published change; stored with it.
    pub version: u64,
    /// Starts so far; the running one included.
    pub attempt: u32,
    /// Attempts that ended in a fault; counts against `limits.attempts` (evictions do not).
    pub failures: u32,
    /// Times it killed its worker; two are enough.
    pub crashes: u32,
    /// Attempts since the last finished item that ended because the agent did (power, a kill); no failures.
    pub interruptions: u32,
    /// Items finished, in order, and journalled.
    pub done: u32,
    /// Times it was stopped for the RAN.
    pub yields: u32,
    /// Time spent stopped.
    pub suspended: Duration,
    /// Wall time spent running, all attempts, stops excluded.
    pub ran: Duration,
    /// CPU time spent, all attempts.
    pub cpu: Duration,
    /// Why it is where it is: a code of [`reason`], such as `accepted`, `started`, `yield`, `resumed`, `evicted`, `done`.
    pub reason: &'static str,
    /// What ended it, when it ended badly; or the last attempt's fault.
    pub fault: Option<Fault>,
    /// Last change.
    pub changed: WallTime,
    /// A controller has said that it has the result: nothing but the job itself is kept, against repeats.
    pub acknowledged: bool,
}

/// What a job is from the start: all that its sender chose.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Identity.
    pub id: JobId,
    /// Digest of the submit body.
    pub body: Digest,
    /// Model asked for.
    pub model: ModelRef,
    /// 0 to 9; higher goes first.
    pub priority: u8,
    /// After this the result has no value.
    pub deadline: Option<WallTime>,
    /// Not to be started before.
    pub not_before: Option<WallTime>,
    /// What one attempt may use.
    pub limits: Limits,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Items in the batch; 1 for a single input.
    pub items: u32,
}

/// Which model a job asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRef {
    /// By name.
    pub name: Name,
    /// By version; the highest installed otherwise.
    pub version: Option<u32>,
    /// And only if it has this digest.
    pub digest: Option<Digest>,
}

/// What one attempt of a job may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Running time of the whole job, stops excluded.
    pub wall: Duration,
    /// Memory of the worker beyond what the model needs to be loaded.
    pub memory_bytes: u64,
    /// Attempts that may end in a fault.
    pub attempts: u32,
    /// Output of one item.
    pub output_bytes: u64,
}

/// States, spelled as AWS IoT Jobs does, plus `Suspended`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Waiting.
    Queued,
    /// A worker runs it.
    InProgress,
    /// Its worker is stopped for the RAN.
    Suspended,
    /// Done; terminal.
    Succeeded,
    /// Ended by a fault; terminal.
    Failed,
    /// Its deadline passed; terminal.
    TimedOut,
    /// Never accepted; terminal.
    Rejected,
    /// Taken back; terminal.
    Canceled,
}

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An attempt starts.
    Start,
    /// The RAN wants its cores.
    Yield,
    /// The trough is back.
    Resume {
        /// How long it stood.
        stopped: Duration,
    },
    /// The next item, in order, is finished.
    ItemDone {
        /// CPU time it took.
        cpu: Duration,
        /// Running time it took, stops excluded.
        ran: Duration,
    },
    /// All items are finished.
    Succeed,
    /// The attempt ended in a fault. Retryable faults with attempts left go back to the queue.
    Fault(Fault),
    /// Its worker was given up (memory, a long stop, an orderly shutdown): back to the queue, not counted as a failure.
    Evict {
        /// How long it stood before; zero when it was running.
        stopped: Duration,
    },
    /// The agent restarted: back to the queue with attempt + 1, not counted as a failure; failed after
    /// [`INTERRUPTIONS_MAX`] of them without a finished item.
    Restart,
    /// Taken back by the controller.
    Cancel,
    /// Its deadline passed.
    Expire,
    /// What it needs to run is gone: it fails, whatever attempts are left.
    Lose(Fault),
}

/// A move that the table in PROTOCOL section 3 does not have.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("a job that is {state:?} cannot {event:?}")]
pub struct IllegalMove {
    /// Where it stood.
    pub state: State,
    /// What was tried.
    pub event: Event,
}

impl State {
    /// Every state, in the order of the protocol.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::InProgress,
        Self::Suspended,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Rejected,
        Self::Canceled,
    ];

    /// The state as it is written in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::InProgress => "IN_PROGRESS",
            Self::Suspended => "SUSPENDED",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED_OUT",
            Self::Rejected => "REJECTED",
            Self::Canceled => "CANCELED",
        }
    }

    /// The state of that text, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether nothing leaves it.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Queued | Self::InProgress | Self::Suspended => false,
            Self::Succeeded | Self::Failed | Self::TimedOut | Self::Rejected | Self::Canceled => true,
        }
    }

    /// Whether an attempt is under way, in a worker that runs or stands.
    pub const fn is_started(self) -> bool {
        match self {
            Self::InProgress | Self::Suspended => true,
            Self::Queued | Self::Succeeded | Self::Failed | Self::TimedOut | Self::Rejected | Self::Canceled => false,
        }
    }
}

impl Job {
    /// A job that was accepted at `now`: queued, version 1.
    pub fn new(spec: Spec, now: WallTime) -> Self {
        Self {
            id: spec.id,
            body: spec.body,
            model: spec.model,
            priority: spec.priority,
            deadline: spec.deadline,
            not_before: spec.not_before,
            limits: spec.limits,
            traceparent: spec.traceparent,
            items: spec.items,
            received: now,
            state: State::Queued,
            version: 1,
            attempt: 0,
            failures: 0,
            crashes: 0,
            interruptions: 0,
            done: 0,
            yields: 0,
            suspended: Duration::ZERO,
            ran: Duration::ZERO,
            cpu: Duration::ZERO,
            reason: reason::ACCEPTED,
            fault: None,
            changed: now,
            acknowledged: false,
        }
    }

    /// Whether nothing changes it any more.
    pub const fn is_terminal(&self) -> bool {
        self.state.is_terminal()
    }

    /// Whether it has ended and its result is still there to be asked for.
    pub const fn keeps_result(&self) -> bool {
        self.is_terminal() && !self.acknowledged
    }

    /// Before when it must not be started. One that was started has had its moment, whatever the clock says since.
    pub fn earliest_start(&self) -> Option<WallTime> {
        self.not_before.filter(|_| self.attempt == 0)
    }

    /// Whether the deadline has passed at `now`, terminal or not.
    pub fn is_overdue(&self, now: WallTime) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Applies one event: the table of PROTOCOL section 3. An accepted event raises `version` by one; a refused one
    /// changes nothing.
    ///
    /// Three moves go beyond the drawing. `ItemDone`, `Succeed` and `Fault` are legal in `Suspended`, because an answer
    /// may already be under way when the worker is stopped, and because a stopped worker can be killed from outside.
    /// `Evict` is legal in `InProgress`, for an orderly shutdown and for memory pressure.
    ///
    /// # Errors
    /// [`IllegalMove`] when the table does not have the move.
    pub fn apply(&mut self, event: Event, now: WallTime) -> Result<(), IllegalMove> {
        let started = self.state.is_started();
        let open = !self.is_terminal();
        match event {
            Event::Start if self.state == State::Queued => {
                self.attempt = self.attempt.saturating_add(1);
                self.enter(State::InProgress, reason::STARTED);
            }
            Event::Yield if self.state == State::InProgress => {
                self.yields = self.yields.saturating_add(1);
                self.enter(State::Suspended, reason::YIELD);
            }
            Event::Resume { stopped } if self.state == State::Suspended => {
                self.suspended = self.suspended.saturating_add(stopped);
                self.enter(State::InProgress, reason::RESUMED);
            }
            Event::ItemDone { cpu, ran } if started && self.done < self.items => {
                self.done += 1;
                self.interruptions = 0;
                self.cpu = self.cpu.saturating_add(cpu);
                self.ran = self.ran.saturating_add(ran);
                self.enter(self.state, reason::PROGRESS);
            }
            Event::Succeed if started && self.done == self.items => {
                self.fault = None;
                self.enter(State::Succeeded, reason::DONE);
            }
            Event::Fault(fault) if started => self.fail(fault),
            Event::Evict { stopped } if started => {
                self.suspended = self.suspended.saturating_add(stopped);
                self.enter(State::Queued, reason::EVICTED);
            }
            Event::Restart if started => self.restart(),
            Event::Cancel if open => {
                self.fault = Some(Fault::new(Code::JobCanceled, self.taken_back()));
                self.enter(State::Canceled, reason::CANCELED);
            }
            Event::Expire if open => {
                self.fault = Some(Fault::new(Code::JobExpired, self.too_late(now)));
                self.enter(State::TimedOut, reason::DEADLINE);
            }
            Event::Lose(fault) if open => {
                self.fault = Some(fault);
                self.enter(State::Failed, reason::FAILED);
            }
            Event::Start
            | Event::Yield
            | Event::Resume { .. }
            | Event::ItemDone { .. }
            | Event::Succeed
            | Event::Fault(_)
            | Event::Evict { .. }
            | Event::Restart
            | Event::Cancel
            | Event::Expire
            | Event::Lose(_) => return Err(IllegalMove { state: self.state, event }),
        }
        self.version = self.version.saturating_add(1);
        self.changed = now;
        Ok(())
    }

    fn enter(&mut self, state: State, reason: &'static str) {
        self.state = state;
        self.reason = reason;
    }

    /// An attempt ended in a fault: again, if that can help and is still allowed, else never.
    fn fail(&mut self, fault: Fault) {
        self.failures = self.failures.saturating_add(1);
        if fault.code == Code::WorkerCrashed {
            self.crashes = self.crashes.saturating_add(1);
        }
        let again = fault.code.retryable() && self.failures < self.limits.attempts && self.crashes < CRASHES_MAX;
        self.fault = Some(fault);
        match again {
            true => self.enter(State::Queued, reason::RETRY),
            false => self.enter(State::Failed, reason::FAILED),
        }
    }

    /// The agent went down during an attempt. A pole without power, or an operator's kill, is not the job's failure; only
    /// a job that is there again and again and never gets an item done may be what ends the agent.
    fn restart(&mut self) {
        self.interruptions = self.interruptions.saturating_add(1);
        if self.interruptions < INTERRUPTIONS_MAX {
            self.enter(State::Queued, reason::RESTARTED);
            return;
        }
        let text = format!(
            "the agent ended during {} attempts without a finished item between, limit {INTERRUPTIONS_MAX}; the last was \
             attempt {}: see in the node's log why it ended, and submit the job again, or with smaller items",
            self.interruptions, self.attempt
        );
        self.fault = Some(Fault::new(Code::JobAttempts, text));
        self.enter(State::Failed, reason::FAILED);
    }

    fn taken_back(&self) -> String {
        format!(
            "canceled by its controller with {} of {} items done; submit it under a new id to run it",
            self.done, self.items
        )
    }

    fn too_late(&self, now: WallTime) -> String {
        let deadline = self.deadline.map_or_else(|| "none".to_owned(), |deadline| deadline.to_string());
        let (done, items) = (self.done, self.items);
        format!(
            "deadline {deadline} passed at {} with {done} of {items} items done; submit it with a later deadline",
            now
        )
    }
}

#[cfg(test)]
mod tests;
