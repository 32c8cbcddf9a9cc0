//! In which state is a job, and which moves are legal? PROTOCOL section 3 as a pure state machine.

use std::time::Duration;

use crate::fault::Fault;
use crate::units::{Digest, JobId, Name, WallTime};

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
    /// Why it is where it is: a short code such as `accepted`, `started`, `yield`, `resumed`, `evicted`, `done`.
    pub reason: String,
    /// What ended it, when it ended badly; or the last attempt's fault.
    pub fault: Option<Fault>,
    /// Last change.
    pub changed: WallTime,
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
    /// The trough is back; `stopped` is how long it stood.
    Resume { stopped: Duration },
    /// The next item, in order, is finished.
    ItemDone { cpu: Duration, ran: Duration },
    /// All items are finished.
    Succeed,
    /// The attempt ended in a fault. Retryable faults with attempts left go back to the queue.
    Fault(Fault),
    /// Its worker was killed for memory or a long stop: back to the queue, not counted as a failure.
    Evict { stopped: Duration },
    /// The agent restarted: back to the queue with attempt + 1, or failed when attempts are used up.
    Restart,
    /// Taken back by the controller.
    Cancel,
    /// Its deadline passed.
    Expire,
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
