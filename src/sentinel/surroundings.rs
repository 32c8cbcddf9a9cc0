//! What else happened around a yield? The kernel's counts before the sentinel slept, and after a slow stop.
//!
//! Nothing is read between a sample and the confirmed stop. The baseline is taken right before the thread sleeps, while
//! workers run and no stop is under way, at most every [`BASELINE_GAP`]: 3 µs each time, so at most 0.06 % of a core.

use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::Duration;

use super::YieldRecord;
use crate::ledger::cause::{Deltas, SLOW};
use crate::sys::clock;
use crate::sys::usage::{OwnUsage, RunDelay, ThreadUsage};
use crate::units::{Instant, WORKERS_MAX};

/// Shortest time between two baselines of the thread itself.
const BASELINE_GAP: Duration = Duration::from_millis(5);
/// Shortest time between two baselines of the workers: one read for each.
const WORKERS_GAP: Duration = Duration::from_millis(50);

/// Baselines, and the files that they are read from.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// Opened by the thread itself; `Some(None)` where the kernel has none.
    own: Option<Option<OwnUsage>>,
    baseline: Option<(Instant, ThreadUsage)>,
    /// When the thread slept again without a new baseline: what was decided until then was decided in the first wake
    /// after the baseline.
    slept_again: Option<Instant>,
    workers: [Option<Worker>; WORKERS_MAX],
    workers_at: Instant,
}

#[derive(Debug)]
struct Worker {
    pid: i32,
    file: RunDelay,
    waited: Duration,
}

impl Surroundings {
    /// The thread is about to sleep. `quiet` says that workers run and no stop is under way.
    pub(super) fn before_sleep(&mut self, quiet: bool, pids: &[AtomicI32; WORKERS_MAX]) {
        let now = clock::now();
        if !quiet || self.baseline.is_some_and(|(at, _)| now.since(at) < BASELINE_GAP) {
            self.slept_again.get_or_insert(now);
            return;
        }
        if now.since(self.workers_at) >= WORKERS_GAP {
            self.workers_at = now;
            self.workers.iter_mut().zip(pids).for_each(|(worker, pid)| renew(worker, pid.load(SeqCst)));
        }
        let own = self.own.get_or_insert_with(|| OwnUsage::open().ok());
        self.baseline = own.as_ref().and_then(OwnUsage::read).map(|usage| (now, usage));
        self.slept_again = None;
    }

    /// What was counted since the baseline, for a slow yield that is confirmed; its workers were those from slot
    /// `budget` on.
    pub(super) fn around(&self, record: &YieldRecord, budget: u8) -> Option<Deltas> {
        let (at, then) = self.baseline.filter(|_| record.total() >= SLOW)?;
        let now = self.own.as_ref()?.as_ref()?.read()?;
        let count = |now: u64, then: u64| u32::try_from(now.saturating_sub(then)).unwrap_or(u32::MAX);
        let delays = self.workers.iter().skip(usize::from(budget)).flatten();
        let delays = delays.filter_map(|worker| Some(worker.file.read()?.saturating_sub(worker.waited)));
        // Asleep from the baseline to the wake that brought the sample, nothing was counted that is not this yield's.
        let first_wake = self.slept_again.is_none_or(|slept| record.decided <= slept);
        let before = if first_wake { Duration::ZERO } else { record.stamped.unwrap_or(record.received).since(at) };
        Some(Deltas {
            beside: before + clock::now().since(record.confirmed),
            waited: now.waited.saturating_sub(then.waited),
            ran: now.ran.saturating_sub(then.ran),
            major_faults: count(now.major_faults, then.major_faults),
            minor_faults: count(now.minor_faults, then.minor_faults),
            preempted: count(now.preempted, then.preempted),
            worker_waited: delays.max().unwrap_or_default(),
        })
    }
}

/// Reads a worker's baseline; opens its file when the slot has another process than before.
fn renew(worker: &mut Option<Worker>, pid: i32) {
    if worker.as_ref().is_none_or(|known| known.pid != pid) {
        let file = RunDelay::of_process(pid).ok();
        *worker = file.map(|file| Worker { pid, file, waited: Duration::ZERO });
    }
    let waited = worker.as_ref().and_then(|known| known.file.read());
    match (worker.as_mut(), waited) {
        (Some(known), Some(waited)) => known.waited = waited,
        // It has ended; without a baseline nothing is told of it.
        (_, None) => *worker = None,
        (None, Some(_)) => {}
    }
}
