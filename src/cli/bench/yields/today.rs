//! What do people use today? A script that looks once a second, and nice values that stop nothing.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::crew::{Crew, Member};
use super::super::latency::Latencies;
use super::super::page::{self, LastInstruction, Phase};
use super::stage::{Stage, is_stopped, out_of_time};
use super::tally::Tally;
use crate::cli::failure::Failure;
use crate::sys::{clock, futex, sched, signal};
use crate::units::Instant;

/// Time between two looks of the poller.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Share of the last second, in percent, from which the poller calls the core busy: `busy_above` of the sentinels here.
const POLL_BUSY_PERCENT: u64 = 40;
/// Longest wait for a second in which nobody else is busy on the core of the load.
const CALM_MAX: Duration = Duration::from_secs(8);
/// Longest wait for the poller.
const POLL_MAX: Duration = Duration::from_secs(20);
/// For how long the core of a nice worker is busy.
pub(super) const BUSY: Duration = Duration::from_secs(1);
/// For how long it runs alone before.
const ALONE: Duration = Duration::from_millis(200);
/// Turns without an event that counts after which no further one is tried.
const VOID_TURNS_MAX: u32 = 3;
/// Longest time for one event that counts, its repetitions included.
const TURN_MAX: Duration = Duration::from_secs(15);
/// Tries for one event that counts.
const TRIES: usize = 12;

/// A thread that reads `/proc/stat` once a second and sends `kill -STOP`.
#[derive(Debug)]
pub(super) struct Poller {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// It may stop: there are workers that run.
    armed: AtomicBool,
    leave: AtomicBool,
    /// Looks so far.
    looks: AtomicU64,
    /// Whether the last look found the core busy.
    busy: AtomicBool,
}

impl Poller {
    /// Starts it: `core` is the one whose load counts.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(core: usize, crew: &Crew) -> Result<Self, Failure> {
        let shared = Arc::new(Shared::default());
        let pids: Vec<i32> = crew.members.iter().map(|member| member.pid).collect();
        let its = Arc::clone(&shared);
        let run = move || {
            let mut before = read_core(core);
            while !its.leave.load(SeqCst) {
                std::thread::park_timeout(POLL_EVERY);
                let now = read_core(core);
                let busy = is_busy(before, now);
                before = now;
                its.busy.store(busy, SeqCst);
                if busy && its.armed.load(SeqCst) {
                    // A worker that has gone is noticed where the page is read.
                    pids.iter().for_each(|pid| _ = signal::stop_process(*pid));
                }
                its.looks.fetch_add(1, SeqCst);
            }
        };
        let thread = std::thread::Builder::new().name("neap-poller".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Failure::io("cannot start a thread", &error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until it has looked and found the core idle; says whether it has.
    fn wait_for_calm(&self) -> bool {
        let until = clock::now().after(CALM_MAX);
        let seen = self.shared.looks.load(SeqCst);
        while self.shared.looks.load(SeqCst) == seen || self.shared.busy.load(SeqCst) {
            if clock::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.leave.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It cannot panic: it reads a file and sends signals.
            let _ended = thread.join();
        }
    }
}

/// One event of the poller: this thread becomes the load, for as long as the workers run.
///
/// # Errors
/// When a worker has ended, or the machine is never idle.
pub(super) fn poll_stop(stage: &mut Stage, tally: &mut Tally) -> Result<(), Failure> {
    if tally.times.count() == 0 && tally.void_turns >= VOID_TURNS_MAX {
        return Ok(());
    }
    let poller = Poller::start(stage.event_core(), &stage.crew)?;
    let deadline = clock::now().after(TURN_MAX);
    stage.bound(|stage| {
        for _ in 0..TRIES {
            if poll_once(stage, &poller, tally)? || clock::now() >= deadline {
                break;
            }
        }
        Ok(())
    })?;
    if tally.times.count() == 0 {
        let text = "others kept the core of the load busy, so the poller had no idle second to begin with";
        tally.missing = Some(text.to_owned());
        tally.void_turns += 1;
    } else {
        tally.missing = None;
    }
    Ok(())
}

/// Says whether the event counts.
fn poll_once(stage: &mut Stage, poller: &Poller, tally: &mut Tally) -> Result<bool, Failure> {
    poller.shared.armed.store(false, SeqCst);
    for member in &stage.crew.members {
        signal::continue_process(member.pid).map_err(|error| Failure::io("cannot continue a worker", &error))?;
    }
    if !poller.wait_for_calm() {
        return Ok(false);
    }
    poller.shared.armed.store(true, SeqCst);
    let phase = stage.chance(POLL_EVERY);
    std::thread::sleep(phase);
    if all_stopped(&stage.crew)? {
        tally.early += 1;
        return Ok(false);
    }
    let event = clock::now();
    let until = event.after(POLL_MAX);
    while !all_stopped(&stage.crew)? {
        if clock::now() >= until {
            return Err(out_of_time("stopped by the poller", POLL_MAX));
        }
    }
    Ok(count(stage, tally, event, clock::now()))
}

fn all_stopped(crew: &Crew) -> Result<bool, Failure> {
    crew.members.iter().try_fold(true, |all, member| Ok(all && is_stopped(member)?))
}

/// Takes an event in without what is only known of quick ones; says whether it counts.
fn count(stage: &Stage, tally: &mut Tally, event: Instant, stopped: Instant) -> bool {
    let judge = |member: &Member| page::judge(event, member.page.snapshot(), stopped);
    match stage.crew.members.iter().map(judge).reduce(page::latest) {
        Some(LastInstruction::At(last)) => tally.times.record(last.since(event)),
        Some(LastInstruction::NotAfter(last)) => {
            tally.times.record(last.since(event));
            tally.bounds += 1;
        }
        Some(LastInstruction::Unseen) | None => {
            tally.unseen += 1;
            return false;
        }
        Some(LastInstruction::Before) => {
            tally.displaced += 1;
            return false;
        }
    }
    true
}

/// What is known of a nice worker beside its last instruction.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    /// Share of the core that the worker still got while the load lasted, one for each event.
    pub(super) shares: Vec<f64>,
    /// Time until the load got the core for the first time.
    pub(super) first: Latencies,
}

/// A thread that is busy on one core when it is told to.
#[derive(Debug)]
struct Load {
    shared: Arc<LoadShared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct LoadShared {
    /// Rises by one for each span of load.
    word: AtomicU32,
    until_ns: AtomicU64,
    first_ns: AtomicU64,
}

impl Load {
    fn start(core: usize) -> Result<Self, Failure> {
        let shared = Arc::new(LoadShared::default());
        let its = Arc::clone(&shared);
        let run = move || {
            // Refused nowhere that let the worker be bound to that core.
            let _bound = sched::pin_self(core);
            let mut seen = 0;
            loop {
                while its.word.load(SeqCst) == seen {
                    let _woken = futex::wait(&its.word, seen, None);
                }
                seen = its.word.load(SeqCst);
                if seen == u32::MAX {
                    return;
                }
                its.first_ns.store(clock::now().as_nanos(), SeqCst);
                while clock::now().as_nanos() < its.until_ns.load(SeqCst) {
                    std::hint::spin_loop();
                }
            }
        };
        let thread = std::thread::Builder::new().name("neap-load".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Failure::io("cannot start a thread", &error))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.word.store(u32::MAX, SeqCst);
        futex::wake(&self.shared.word, 1);
        if let Some(thread) = self.thread.take() {
            // It cannot panic: it reads the clock.
            let _ended = thread.join();
        }
    }
}

/// One event of a worker that nobody stops: a normal thread is busy on its core for [`BUSY`]. `nice` is the crew of
/// nice workers, stopped before and after.
///
/// # Errors
/// When a worker has ended.
pub(super) fn nice19(stage: &mut Stage, nice: &Crew, tally: &mut Tally, beside: &mut Beside) -> Result<(), Failure> {
    let Some(member) = nice.members.first() else { return Ok(()) };
    let load = Load::start(member.core)?;
    stage.bound(|_| {
        for _ in 0..TRIES {
            if nice_once(member, &load, tally, beside)? {
                break;
            }
        }
        Ok(())
    })
}

/// Says whether the event counts.
fn nice_once(member: &Member, load: &Load, tally: &mut Tally, beside: &mut Beside) -> Result<bool, Failure> {
    let failed = |error: std::io::Error| Failure::io("cannot look at a worker", &error);
    signal::continue_process(member.pid).map_err(failed)?;
    std::thread::sleep(ALONE);
    let cpu_before = member.cpu().map_err(failed)?;
    let event = clock::now();
    load.shared.until_ns.store(event.after(BUSY).as_nanos(), SeqCst);
    load.shared.word.fetch_add(1, SeqCst);
    futex::wake(&load.shared.word, 1);
    std::thread::sleep(BUSY.saturating_sub(clock::now().since(event)));
    let (seen, cpu_after) = (member.page.snapshot(), member.cpu().map_err(failed)?);
    signal::stop_process(member.pid).map_err(failed)?;
    if seen.phase != Phase::Stamp {
        tally.unseen += 1;
        return Ok(false);
    }
    // A stamp before the event counts as zero here: if the load took the core at once and for good, that is a stop.
    tally.times.record(seen.stamp.since(event).min(BUSY));
    beside.shares.push(cpu_after.saturating_sub(cpu_before).as_secs_f64() / BUSY.as_secs_f64());
    beside.first.record(Instant::from_nanos(load.shared.first_ns.load(SeqCst)).since(event));
    Ok(true)
}

/// Ticks of a core, all and idle, from `/proc/stat`.
fn read_core(core: usize) -> (u64, u64) {
    core_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default(), core)
}

fn core_ticks(stat: &str, core: usize) -> (u64, u64) {
    let name = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
    (ticks.iter().sum(), ticks.get(3).copied().unwrap_or(0) + ticks.get(4).copied().unwrap_or(0))
}

fn is_busy(before: (u64, u64), now: (u64, u64)) -> bool {
    let (all, idle) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
    all > 0 && all.saturating_sub(idle) * 100 >= all * POLL_BUSY_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_busy_when_it_was_for_two_fifths_of_the_second() {
        let stat = "cpu  9 9 9 9\ncpu0 10 0 10 70 10 0 0 0 0 0\ncpu1 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!((core_ticks(stat, 0), core_ticks(stat, 1), core_ticks(stat, 2)), ((100, 80), (36, 9), (0, 0)));
        assert!(is_busy((0, 0), (100, 60)) && !is_busy((0, 0), (100, 61)) && !is_busy((5, 5), (5, 5)));
    }
}
