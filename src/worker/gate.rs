//! How is a worker stopped and continued? The table of live workers, and the signals in the order that works.
//!
//! `tgkill(SIGSTOP)` to every thread first (microseconds even under contention), then `kill(SIGSTOP)` for threads made
//! meanwhile. Confirmation is read back with `waitid(WSTOPPED|WNOHANG)`, never waited for.
//!
//! The agent fills and clears slots; only the sentinel continues a worker, so no other code can wake a stopped one.
//! A worker enters the table stopped: [`Gate::fill`] stops it before the sentinel can see it, and it runs when the
//! sentinel, told by `worker_changed`, finds its slot within the budget.
//!
//! Without locks: the sentinel never waits for the agent. The agent waits in [`Gate::clear`] for the end of a pass of
//! the sentinel (microseconds), so that a process id is never signalled after it was given back to the kernel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::sys::signal::{self, Seen};
use crate::sys::{clock, process};
use crate::units::WORKERS_MAX;

/// Threads of one worker that are signalled one by one; further ones stop a little later, with the process.
pub const THREADS_MAX: usize = 8;

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
    pub const fn count(self) -> u8 {
        self.0.count_ones() as u8
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
    /// Their CPU time right before the signals; `None` when the process had gone.
    pub cpu_before: [Option<Duration>; WORKERS_MAX],
    /// Their CPU time right after the signals.
    pub cpu_signalled: [Option<Duration>; WORKERS_MAX],
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
    /// An empty table that lets nothing run.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            pids: Arc::new(std::array::from_fn(|_| AtomicI32::new(0))),
            slots: std::array::from_fn(|_| Slot::default()),
            budget: AtomicU8::new(0),
            passing: AtomicBool::new(false),
        })
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
    /// Lets the first `budget` slots run and sends every running worker beyond them the signals to stop.
    pub(crate) fn stop_beyond(&self, budget: u8) -> Stop {
        self.0.budget.store(budget, SeqCst);
        let mut stop = Stop::default();
        for slot in usize::from(budget)..WORKERS_MAX {
            let place = &self.0.slots[slot];
            let pid = self.0.pids[slot].load(SeqCst);
            if pid == 0 || place.state.load(SeqCst) != RUNS {
                continue;
            }
            stop.cpu_before[slot] = clock::process_cpu(pid).ok();
            stop.threads[slot] = place.signal_threads(pid);
            stop.pids[slot] = pid;
            stop.slots.insert(slot);
        }
        for slot in stop.slots.iter() {
            let place = &self.0.slots[slot];
            // For threads that were not known. A process that has gone needs no stop.
            let _gone = signal::stop_process(stop.pids[slot]);
            place.state.store(STOPPED, SeqCst);
            stop.cpu_signalled[slot] = clock::process_cpu(stop.pids[slot]).ok();
            stop.jobs[slot] = place.job.load(SeqCst);
        }
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

    /// Stops again what somebody else has continued; slots in `unconfirmed` are being looked after already.
    /// Says which.
    pub(crate) fn stop_strays(&self, unconfirmed: Slots) -> Slots {
        let mut strays = Slots::NONE;
        for slot in 0..WORKERS_MAX {
            let place = &self.0.slots[slot];
            let pid = self.0.pids[slot].load(SeqCst);
            if pid == 0 || place.state.load(SeqCst) == RUNS || unconfirmed.contains(slot) {
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A process that computes until it is killed, killed with the test.
    struct Spinner(Child);

    impl Spinner {
        fn start() -> Self {
            Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }
    }

    impl Drop for Spinner {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn slots<const N: usize>(slots: [usize; N]) -> Slots {
        let mut set = Slots::NONE;
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }

    fn wait_for(gate: &Gate, slot: usize, pid: i32, wanted: Seen) {
        let end = clock::now().after(Duration::from_secs(60));
        while gate.pass().look(slot, pid).0 != wanted {
            assert!(clock::now() < end, "not {wanted:?} within a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Applies a budget as the sentinel does.
    fn apply(gate: &Gate, budget: u8) -> (Stop, Resume) {
        let pass = gate.pass();
        (pass.stop_beyond(budget), pass.resume_below(Slots::NONE))
    }

    #[test]
    fn a_set_of_slots_holds_what_was_put_in() {
        let mut set = slots([0, 3, 15, 16, 99]);
        assert_eq!((set.count(), set.iter().collect::<Vec<_>>()), (3, vec![0, 3, 15]));
        set.remove(3);
        set.remove(99);
        assert!(!set.contains(3) && set.contains(15) && !set.contains(99) && !set.is_empty());
    }

    #[test]
    fn a_worker_enters_stopped_and_runs_only_by_the_sentinel() {
        let gate = Gate::new();
        let worker = Spinner::start();
        gate.fill(0, worker.pid());
        wait_for(&gate, 0, worker.pid(), Seen::Stopped);
        assert!(!gate.may_run(0));

        let (stop, resume) = apply(&gate, 1);
        assert_eq!((stop.slots, resume.slots), (Slots::NONE, Slots::NONE), "its first run is no resume");
        assert!(gate.may_run(0) && !gate.may_run(1));
        wait_for(&gate, 0, worker.pid(), Seen::Running);

        gate.set_job(0, 77);
        let (stop, _) = apply(&gate, 0);
        assert_eq!((stop.slots, stop.pids[0], stop.jobs[0]), (slots([0]), worker.pid(), 77));
        assert!(stop.cpu_before[0].is_some() && stop.cpu_before[0] <= stop.cpu_signalled[0]);
        assert_eq!(stop.threads[0], 1);
        wait_for(&gate, 0, worker.pid(), Seen::Stopped);
        assert_eq!(apply(&gate, 0).0.slots, Slots::NONE, "nothing is stopped twice");

        let (_, resume) = apply(&gate, 1);
        assert_eq!((resume.slots, resume.jobs[0]), (slots([0]), 77));
        wait_for(&gate, 0, worker.pid(), Seen::Running);
    }

    #[test]
    fn a_budget_lets_the_first_workers_run_and_stops_the_others() {
        let gate = Gate::new();
        let workers = [Spinner::start(), Spinner::start(), Spinner::start()];
        for (slot, worker) in workers.iter().enumerate() {
            gate.fill(slot, worker.pid());
        }
        apply(&gate, 3);
        let (stop, _) = apply(&gate, 1);
        assert_eq!(stop.slots, slots([1, 2]));
        for slot in [1, 2] {
            wait_for(&gate, slot, workers[slot].pid(), Seen::Stopped);
        }
        assert_eq!(gate.pass().look(0, workers[0].pid()).0, Seen::Running);
    }

    #[test]
    fn a_stop_that_is_not_confirmed_is_not_resumed() {
        let gate = Gate::new();
        let worker = Spinner::start();
        gate.fill(0, worker.pid());
        apply(&gate, 1);
        let pass = gate.pass();
        assert_eq!(pass.stop_beyond(0).slots, slots([0]));
        pass.stop_beyond(1);
        assert_eq!(pass.resume_below(slots([0])).slots, Slots::NONE);
        assert_eq!(pass.resume_below(Slots::NONE).slots, slots([0]));
    }

    #[test]
    fn a_worker_that_a_stranger_continued_is_stopped_again() {
        let gate = Gate::new();
        let worker = Spinner::start();
        gate.fill(0, worker.pid());
        wait_for(&gate, 0, worker.pid(), Seen::Stopped);
        assert_eq!(gate.pass().stop_strays(Slots::NONE), Slots::NONE);
        signal::continue_process(worker.pid()).unwrap();
        assert_eq!(gate.pass().stop_strays(slots([0])), Slots::NONE);
        assert_eq!(gate.pass().stop_strays(Slots::NONE), slots([0]));
        wait_for(&gate, 0, worker.pid(), Seen::Stopped);
    }

    #[test]
    fn a_cleared_slot_is_neither_signalled_nor_named_any_more() {
        let gate = Gate::new();
        let pids = gate.pids();
        let worker = Spinner::start();
        gate.fill(0, worker.pid());
        gate.set_job(0, 5);
        apply(&gate, 1);
        assert_eq!(pids[0].load(SeqCst), worker.pid());
        gate.clear(0);
        assert_eq!(pids[0].load(SeqCst), 0);
        assert_eq!(apply(&gate, 0).0, Stop::default());
        assert_eq!(gate.pass().look(0, worker.pid()), (Seen::Exited, None));
        gate.pass().kill(0, worker.pid());
        assert_eq!(signal::poll_stopped(worker.pid()).unwrap(), Seen::Running);
    }

    #[test]
    fn a_slot_is_not_given_back_while_the_sentinel_uses_it() {
        let gate = Gate::new();
        let worker = Spinner::start();
        gate.fill(0, worker.pid());
        let pass = gate.pass();
        let agent = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.clear(0)
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!agent.is_finished());
        drop(pass);
        agent.join().unwrap();
    }

    #[test]
    fn an_exited_worker_counts_as_stopped_and_a_worker_can_be_killed_while_stopped() {
        let gate = Gate::new();
        let worker = Spinner::start();
        gate.fill(3, worker.pid());
        wait_for(&gate, 3, worker.pid(), Seen::Stopped);
        gate.pass().kill(3, worker.pid());
        wait_for(&gate, 3, worker.pid(), Seen::Exited);
    }

    #[test]
    fn every_thread_of_a_worker_is_known_after_a_refresh() {
        let gate = Gate::new();
        let own = i32::try_from(std::process::id()).unwrap();
        // This process itself stands for a worker with threads: it is read only, never signalled.
        gate.pids[0].store(own, SeqCst);
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv().is_err());
        gate.refresh_threads(0).unwrap();
        let known = gate.slots[0].tids.iter().filter(|tid| tid.load(SeqCst) != 0).count();
        assert!(known >= 2, "{known}");
        drop(stop);
        assert!(thread.join().unwrap());
        assert!(gate.refresh_threads(1).is_ok(), "an empty slot has nothing to refresh");
    }
}
