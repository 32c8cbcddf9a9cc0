//! How is a worker stopped and continued? The table of live workers, and the signals in the order that works.
//!
//! `tgkill(SIGSTOP)` to every thread first (microseconds even under contention), then `kill(SIGSTOP)` for threads made
//! meanwhile. Confirmation is read back with `waitid(WSTOPPED|WNOHANG)`, never waited for.
//!
//! The agent fills and clears slots; only the sentinel continues a worker, so no other code can wake a stopped one.
//! A worker enters the table stopped: [`Gate::fill`] stops it before the sentinel can see it, and it runs when the
//! sentinel, told by `worker_changed`, finds its slot within the budget.
//!
//! The gate of an agent also holds the dead-man's handle of its workers ([`Gate::with`]): the sentinel gives the
//! beat in every pass that continues a worker, and again at least each [`BEAT_EVERY`] while one may run. Workers whose
//! sentinel falls silent stop themselves (`sys::dead_man`).
//!
//! Without locks: the sentinel never waits for the agent. The agent waits in [`Gate::clear`] for the end of a pass of
//! the sentinel (microseconds), so that a process id is never signalled after it was given back to the kernel.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::cgroup::Cgroups;
use crate::sys::dead_man::Beat;
use crate::sys::signal::{self, Seen};
use crate::sys::{clock, process};
use crate::units::{Instant, WORKERS_MAX};

/// Threads of one worker that are signalled one by one; further ones stop a little later, with the process.
pub const THREADS_MAX: usize = 8;

/// The beat is given at least this often while a worker may run.
pub const BEAT_EVERY: Duration = Duration::from_millis(100);

const _: () = assert!(WORKERS_MAX <= u16::BITS as usize, "a set of slots is a u16");

/// Table of live workers, shared between the agent's runtime and the sentinel thread without locks.
#[derive(Debug)]
pub struct Gate {
    /// Process ids, 0 where there is none. Cleared before the process is reaped, so none ever names a stranger.
    pids: Arc<[AtomicI32; WORKERS_MAX]>,
    slots: [Slot; WORKERS_MAX],
    /// The pause flag: slots below it may run. Written before any signal.
    budget: AtomicU8,
    /// Whether the sentinel is using process ids from the table right now.
    passing: AtomicBool,
    /// What holds the workers besides signals.
    cgroups: Cgroups,
    dead_man: Option<DeadMan>,
}

/// What workers stop themselves by when the sentinel is stuck.
#[derive(Debug)]
struct DeadMan {
    beat: Beat,
    limit: Duration,
    /// When the beat was given last, ns of the monotonic clock.
    given: AtomicU64,
}

/// One worker's place in the table.
#[derive(Debug, Default)]
struct Slot {
    /// Its threads, 0 where there is none.
    tids: [AtomicI32; THREADS_MAX],
    /// Token of the job that runs there, 0 when idle; goes into the yield record.
    job: AtomicU64,
    /// [`FRESH`], [`RUNS`] or [`STOPPED`].
    state: AtomicU8,
}

/// Stopped by [`Gate::fill`]; has never run.
const FRESH: u8 = 0;
/// Continued by the sentinel.
const RUNS: u8 = 1;
/// Stopped by the sentinel.
const STOPPED: u8 = 2;

/// A set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots(u16);

impl Slots {
    /// No slot.
    pub const NONE: Self = Self(0);

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    pub fn count(self) -> u8 {
        u8::try_from(self.0.count_ones()).unwrap_or(u8::MAX)
    }

    /// Whether `slot` is one of them.
    pub const fn contains(self, slot: usize) -> bool {
        slot < WORKERS_MAX && self.0 & (1 << slot) != 0
    }

    /// Adds a slot; one that cannot be is not added.
    pub const fn insert(&mut self, slot: usize) {
        if slot < WORKERS_MAX {
            self.0 |= 1 << slot;
        }
    }

    /// Takes a slot out.
    pub const fn remove(&mut self, slot: usize) {
        if slot < WORKERS_MAX {
            self.0 &= !(1 << slot);
        }
    }

    /// Ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..WORKERS_MAX).filter(move |slot| self.contains(*slot))
    }
}

/// What a stop met: the workers that were running, and what is needed to say later what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// Slots whose worker ran and got its signals.
    pub slots: Slots,
    /// Their processes.
    pub pids: [i32; WORKERS_MAX],
    /// Their jobs, 0 when idle.
    pub jobs: [u64; WORKERS_MAX],
    /// How many threads of each are known.
    pub threads: [u8; WORKERS_MAX],
    /// Their CPU time after the signals; `None` when the process had gone.
    pub cpu_signalled: [Option<Duration>; WORKERS_MAX],
    /// When the last signal had been sent; without meaning when there was none to send.
    pub signalled: Instant,
    /// When the last CPU time had been read.
    pub read: Instant,
}

/// What a resume met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Slots whose worker had been stopped by the sentinel and goes on; workers that run for the first time are left
    /// out.
    pub slots: Slots,
    /// Their jobs, 0 when idle.
    pub jobs: [u64; WORKERS_MAX],
}

impl Gate {
    /// An empty table that lets nothing run, for workers that signals alone hold and that do not stop themselves: for
    /// tools and tests that let them run without a sentinel.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::of(Cgroups::none(), None))
    }

    /// An empty table that lets nothing run, for workers in these cgroups, which stop themselves when the sentinel was
    /// silent for `dead_man`.
    ///
    /// # Errors
    /// When there is no memory or no descriptor for the page of the beat, and before Linux 5.1.
    pub fn with(cgroups: Cgroups, dead_man: Option<Duration>) -> io::Result<Arc<Self>> {
        let page = |limit| Ok::<_, io::Error>(DeadMan { beat: Beat::new()?, limit, given: AtomicU64::new(0) });
        Ok(Arc::new(Self::of(cgroups, dead_man.map(page).transpose()?)))
    }

    fn of(cgroups: Cgroups, dead_man: Option<DeadMan>) -> Self {
        Self {
            pids: Arc::new(std::array::from_fn(|_| AtomicI32::new(0))),
            slots: std::array::from_fn(|_| Slot::default()),
            budget: AtomicU8::new(0),
            passing: AtomicBool::new(false),
            cgroups,
            dead_man,
        }
    }

    /// The page of the beat, and how old the beat may become: for a worker that is started. Agent side.
    pub fn dead_man(&self) -> Option<(BorrowedFd<'_>, Duration)> {
        self.dead_man.as_ref().map(|dead_man| (dead_man.beat.fd(), dead_man.limit))
    }

    /// Says to the workers that whoever stops them is able to. The sentinel's, or whose who stands in for it.
    pub fn beat(&self, now: Instant) {
        if let Some(dead_man) = &self.dead_man {
            dead_man.beat.give(now);
            dead_man.given.store(now.as_nanos(), SeqCst);
        }
    }

    /// When the next beat is due; `None` while no worker may run, so that nobody wakes for it.
    pub fn next_beat(&self) -> Option<Instant> {
        let dead_man = self.dead_man.as_ref()?;
        let runs = |slot: &Slot| slot.state.load(SeqCst) == RUNS;
        let any = self.pids.iter().zip(&self.slots).any(|(pid, slot)| pid.load(SeqCst) != 0 && runs(slot));
        any.then(|| Instant::from_nanos(dead_man.given.load(SeqCst)).after(BEAT_EVERY))
    }

    /// Stops a process and enters it as the worker of `slot`. Tell the sentinel afterwards (`worker_changed`).
    /// The process must be a child of this one, and be tied to it (`sys::process::tie_to_parent`): it may be stopped
    /// before its first instruction. Agent side.
    ///
    /// # Panics
    /// When `slot` is not below `WORKERS_MAX`.
    pub fn fill(&self, slot: usize, pid: i32) {
        self.clear(slot);
        let place = &self.slots[slot];
        place.state.store(FRESH, SeqCst);
        place.tids[0].store(pid, SeqCst);
        place.signal_threads(pid);
        // Refused only for a process that has gone already.
        let _gone = signal::stop_process(pid);
        self.pids[slot].store(pid, SeqCst);
    }

    /// Takes the worker of `slot` out, if there is one. After the return the sentinel does not use its process id any
    /// more; only then may the process be reaped. Agent side.
    ///
    /// # Panics
    /// When `slot` is not below `WORKERS_MAX`.
    pub fn clear(&self, slot: usize) {
        self.pids[slot].store(0, SeqCst);
        // A pass that begins from now on reads 0; one that has begun may hold the old id.
        while self.passing.load(SeqCst) {
            std::thread::yield_now();
        }
        let place = &self.slots[slot];
        place.job.store(0, SeqCst);
        place.tids.iter().for_each(|tid| tid.store(0, SeqCst));
    }

    /// Says which job runs in `slot`; 0 for none. Agent side.
    ///
    /// # Panics
    /// When `slot` is not below `WORKERS_MAX`.
    pub fn set_job(&self, slot: usize, token: u64) {
        self.slots[slot].job.store(token, SeqCst);
    }

    /// Reads again which threads the worker of `slot` has: call it when a worker has started threads. Agent side.
    ///
    /// # Errors
    /// `/proc` cannot be read; the worker is then stopped by the threads known before and by its process id.
    ///
    /// # Panics
    /// When `slot` is not below `WORKERS_MAX`.
    pub fn refresh_threads(&self, slot: usize) -> io::Result<()> {
        let pid = self.pids[slot].load(SeqCst);
        if pid == 0 {
            return Ok(());
        }
        let tids = process::threads(pid, THREADS_MAX)?;
        let places = &self.slots[slot].tids;
        for (place, tid) in places.iter().zip(tids.into_iter().chain(std::iter::repeat(0))) {
            place.store(tid, SeqCst);
        }
        Ok(())
    }

    /// Workers that run and have a job.
    pub(crate) fn busy(&self) -> u8 {
        let runs = |slot: &&Slot| slot.job.load(SeqCst) != 0 && slot.state.load(SeqCst) == RUNS;
        let busy = self.slots.iter().take(usize::from(self.budget.load(SeqCst))).filter(runs).count();
        u8::try_from(busy).unwrap_or(u8::MAX)
    }

    /// The pause flag: whether the worker of `slot` may run by the decision in force. To start work it need not be
    /// asked: a worker that may not run is stopped.
    pub fn may_run(&self, slot: usize) -> bool {
        slot < usize::from(self.budget.load(SeqCst))
    }

    /// Process ids of the workers, 0 where there is none; always up to date. For load sources, which take the workers'
    /// CPU time off.
    pub fn pids(&self) -> Arc<[AtomicI32; WORKERS_MAX]> {
        Arc::clone(&self.pids)
    }

    /// What holds the workers besides signals.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// The same, to be looked at by the sentinel.
    pub(crate) fn pids_ref(&self) -> &[AtomicI32; WORKERS_MAX] {
        &self.pids
    }

    /// Begins to use process ids of the table. Sentinel only: there must be one pass at a time.
    pub(crate) fn pass(&self) -> Pass<'_> {
        self.passing.store(true, SeqCst);
        Pass(self)
    }
}

/// The sentinel's hold on the table: as long as it lives, no process of the table is reaped. Keep it short.
#[derive(Debug)]
pub(crate) struct Pass<'gate>(&'gate Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.passing.store(false, SeqCst);
    }
}

impl Pass<'_> {
    /// Lets the first `budget` slots run and sends every running worker beyond them the signals to stop. Nothing else
    /// is done before the last of them: each system call there is time in which a worker runs.
    pub(crate) fn stop_beyond(&self, budget: u8) -> Stop {
        self.0.budget.store(budget, SeqCst);
        let mut stop = Stop::default();
        for slot in usize::from(budget)..WORKERS_MAX {
            let place = &self.0.slots[slot];
            let pid = self.0.pids[slot].load(SeqCst);
            if pid == 0 || place.state.load(SeqCst) != RUNS {
                continue;
            }
            stop.threads[slot] = place.signal_threads(pid);
            stop.pids[slot] = pid;
            stop.slots.insert(slot);
        }
        for slot in stop.slots.iter() {
            // For threads that were not known. A process that has gone needs no stop.
            let _gone = signal::stop_process(stop.pids[slot]);
        }
        if stop.slots.is_empty() {
            return stop;
        }
        stop.signalled = clock::now();
        for slot in stop.slots.iter() {
            let place = &self.0.slots[slot];
            place.state.store(STOPPED, SeqCst);
            stop.cpu_signalled[slot] = clock::process_cpu(stop.pids[slot]).ok();
            stop.jobs[slot] = place.job.load(SeqCst);
        }
        stop.read = clock::now();
        stop
    }

    /// Continues every stopped worker within the budget, except those in `unconfirmed`: a stop is first seen to its
    /// end.
    pub(crate) fn resume_below(&self, unconfirmed: Slots) -> Resume {
        let mut resume = Resume::default();
        for slot in 0..usize::from(self.0.budget.load(SeqCst)).min(WORKERS_MAX) {
            let place = &self.0.slots[slot];
            let pid = self.0.pids[slot].load(SeqCst);
            let state = place.state.load(SeqCst);
            if pid == 0 || state == RUNS || unconfirmed.contains(slot) {
                continue;
            }
            place.state.store(RUNS, SeqCst);
            self.0.cgroups.thaw(slot);
            // Before the signal: a worker that has stood for long must not find an old beat.
            self.0.beat(clock::now());
            // A process that has gone is the agent's to clear.
            let _gone = signal::continue_process(pid);
            if state == STOPPED {
                resume.slots.insert(slot);
                resume.jobs[slot] = place.job.load(SeqCst);
            }
        }
        resume
    }

    /// Whether the process that was stopped in `slot` is stopped, with its CPU time. A process that was cleared has
    /// ended as far as the sentinel is concerned.
    pub(crate) fn look(&self, slot: usize, pid: i32) -> (Seen, Option<Duration>) {
        if self.0.pids[slot].load(SeqCst) != pid {
            return (Seen::Exited, None);
        }
        // The call fails for no child that is in the table; if it ever does, the stop is not confirmed.
        let seen = signal::poll_stopped(pid).unwrap_or(Seen::Running);
        (seen, clock::process_cpu(pid).ok())
    }

    /// The process in `slot`, 0 for none.
    pub(crate) fn pid(&self, slot: usize) -> i32 {
        self.0.pids[slot].load(SeqCst)
    }

    /// Has the process that was stopped in `slot` frozen, soon, if it is still there and can be.
    pub(crate) fn freeze(&self, slot: usize, pid: i32) {
        if self.0.pids[slot].load(SeqCst) == pid {
            self.0.cgroups.freeze(slot);
        }
    }

    /// Whether the process that was stopped in `slot` is frozen: it executes nothing, signals or not.
    pub(crate) fn is_frozen(&self, slot: usize) -> bool {
        self.0.cgroups.is_frozen(slot)
    }

    /// Stops again what somebody else has continued; slots in `unconfirmed` are being looked after already, and what is
    /// frozen cannot be continued. Says which.
    pub(crate) fn stop_strays(&self, unconfirmed: Slots) -> Slots {
        let mut strays = Slots::NONE;
        for slot in 0..WORKERS_MAX {
            let place = &self.0.slots[slot];
            let pid = self.0.pids[slot].load(SeqCst);
            if pid == 0 || place.state.load(SeqCst) == RUNS || unconfirmed.contains(slot) || self.is_frozen(slot) {
                continue;
            }
            if signal::poll_stopped(pid).is_ok_and(|seen| seen == Seen::Running) {
                self.repeat(slot, pid);
                strays.insert(slot);
            }
        }
        strays
    }

    /// Sends the signals of a stop once more, if the process is still there.
    pub(crate) fn repeat(&self, slot: usize, pid: i32) {
        if self.0.pids[slot].load(SeqCst) == pid {
            self.0.slots[slot].signal_threads(pid);
            let _gone = signal::stop_process(pid);
        }
    }

    /// Kills the process that was stopped in `slot`, if it is still there.
    pub(crate) fn kill(&self, slot: usize, pid: i32) {
        if self.0.pids[slot].load(SeqCst) == pid {
            let _gone = signal::kill_process(pid);
            self.0.cgroups.kill(slot);
        }
    }
}

impl Slot {
    /// First signal of a stop: to each known thread. A thread that has gone, or whose id is now another process's, is
    /// refused by the kernel. Says how many are known.
    fn signal_threads(&self, pid: i32) -> u8 {
        let mut known = 0;
        for tid in self.tids.iter().map(|tid| tid.load(SeqCst)).filter(|tid| *tid != 0) {
            let _gone = signal::stop_thread(pid, tid);
            known += 1;
        }
        known
    }
}
