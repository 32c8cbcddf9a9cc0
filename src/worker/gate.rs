//! How is a worker stopped and continued? The table of live workers, and the signals in the order that works.
//!
//! `tgkill(SIGSTOP)` to every thread first (microseconds even under contention), then `kill(SIGSTOP)` for threads made
//! meanwhile. Confirmation is read back with `waitid(WSTOPPED|WNOHANG)`, never waited for.
//! The agent fills and clears slots; only the sentinel signals, so no other code can wake a stopped worker.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};

use crate::units::WORKERS_MAX;

/// Table of live workers, shared between the agent's runtime and the sentinel thread without locks.
#[derive(Debug)]
pub struct Gate {
    slots: [Slot; WORKERS_MAX],
}

/// One worker's place in the table.
#[derive(Debug)]
struct Slot {
    /// Process id, 0 when there is none. Cleared before the process is reaped, so it never names a stranger.
    pid: AtomicI32,
    /// Token of the job that runs there, 0 when idle; goes into the yield record.
    job: AtomicU64,
    /// Whether the sentinel has stopped it.
    stopped: AtomicBool,
}
