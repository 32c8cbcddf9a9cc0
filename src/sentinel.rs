//! Who gets out of the way? The thread that joins load, governor and gate, and the mission's one promise with them.
//!
//! A plain OS thread, event-driven, of the highest priority that the system permits below the RAN's. It sleeps in `epoll`,
//! or at the futex of a page in shared memory when there is one (`wait.rs`).
//! Between its start and its end it does not allocate, lock or log; it never waits for a worker.
//! In every wake the load comes first and a stop is signalled before anything else is done. What happened is handed
//! over as [`Report`]s in a bounded queue; when nobody takes them they are counted and dropped.
//!
//! ```text
//!  sources ─▶ fusion ─▶ governor ─▶ gate: pause flag, SIGSTOP      (the hot path)
//!  signalfd, timer ─▶ stops: confirmed? overdue? ─▶ reports        (after it)
//! ```
//!
//! Between a wake and the signals it reads the datagram that woke it (nothing at all for a page), and makes no other
//! system call; `tests/yield_path_system_calls.rs` holds that. To see it on a node, with what comes after the signals:
//!
//! ```text
//! strace -p "$(ps -eLo tid=,comm= | awk '$2 == "neap-sentinel" { print $1 }')"         each call in its order
//! strace -c -p "$(ps -eLo tid=,comm= | awk '$2 == "neap-sentinel" { print $1 }')"      their counts, after Ctrl-C
//! ```
//!
//! It cannot fail half: when it panics, or its event loop breaks, it stops all workers and aborts the process.

mod ears;
pub(crate) mod judge;
mod pace;
mod reflex;
mod rehearsal;
pub(crate) mod stops;
mod strays;
mod surroundings;
#[cfg(test)]
mod tests;
mod wait;
mod watch;

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};

use crossbeam_queue::ArrayQueue;

use crate::governor::guard::{self, BadSettings, News};
use crate::governor::{BadPolicy, Decision, Governor, Order, Policy, Reason};
use crate::ledger::cause::Deltas;
use crate::load::fusion::{self, Fused, Fusion};
use crate::load::{self, Metric, Source};
use crate::sys::event::Doorbell;
use crate::sys::{clock, memory};
use crate::units::{CellId, Instant, SOURCES_MAX, SourceId, Utilization, WORKERS_MAX};
use crate::worker::gate::Gate;
pub use judge::Decider;
pub use rehearsal::shed_again;
use watch::Watch;
pub use watch::take_best_class;

/// Most reports that wait to be taken.
pub const REPORTS_MAX: usize = 512;

/// What the sentinel needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How to decide.
    pub policy: Policy,
    /// How careful the harm guard is.
    pub guard: guard::Settings,
    /// Where load is read.
    pub load: load::Settings,
    /// SCHED_FIFO priority to ask for, 1 to 99; below that of the RAN's threads.
    pub priority: Option<u8>,
    /// Time after its signals at which a worker that still runs is stopped with more force: the signals are repeated,
    /// in case somebody continued it before it had taken the first, and it is frozen where its cgroup allows.
    pub signal_again: Duration,
    /// Time after its signals at which a worker that still runs is killed.
    pub confirm_kill: Duration,
}

/// Something that the agent should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Mode or budget changed, or the kind of reason did; the first tells the mode at the start.
    Mode {
        /// When.
        at: Instant,
        /// The decision in force since then.
        decision: Decision,
    },
    /// One stop of at least one running worker, sent when all its workers are confirmed (or killed).
    Yield(YieldRecord),
    /// Workers that had been stopped go on.
    Resumed {
        /// When.
        at: Instant,
        /// How many.
        workers: u8,
        /// Tokens of their jobs by slot; 0 = idle, or not resumed.
        jobs: [u64; WORKERS_MAX],
    },
    /// The load: at most ten a second, and each jump. Left out first when the queue fills.
    Load {
        /// When it was fused.
        at: Instant,
        /// What is known.
        fused: Fused,
    },
    /// The harm guard has something to tell.
    Guard(News),
    /// A worker did not stop in time and was killed.
    Killed {
        /// When.
        at: Instant,
        /// Its slot.
        slot: u8,
    },
}

/// The ledger's entry of one yield: cause and every moment from the sample to the confirmed stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct YieldRecord {
    /// The source that decided; without meaning when `reason` names none.
    pub source: SourceId,
    /// Why.
    pub reason: Reason,
    /// The figure that decided.
    pub metric: Metric,
    /// Its cell.
    pub cell: CellId,
    /// Its level; full when there was none to believe.
    pub level: Utilization,
    /// The limit in force, `busy_above`.
    pub threshold: Utilization,
    /// The sample's own stamp, when it had one.
    pub stamped: Option<Instant>,
    /// When the sample was received, its freshness ran out, or the order was taken up.
    pub received: Instant,
    /// When the governor had decided.
    pub decided: Instant,
    /// When the last signal was sent.
    pub signalled: Instant,
    /// When the last worker was seen stopped, had been displaced, or was killed.
    pub confirmed: Instant,
    /// How many workers were let run until then.
    pub workers: u8,
    /// How many of them did not have to be stopped, because they got no core any more: with the stop pending, and by
    /// their CPU clocks, they executed nothing after `confirmed`.
    pub displaced: u8,
    /// How many of them did not stop by signals and were frozen: somebody continued them all the time, or they were in
    /// the kernel for long.
    pub frozen: u8,
    /// Tokens of their jobs by slot; 0 = idle, or not stopped here.
    pub jobs: [u64; WORKERS_MAX],
    /// CPU time that the workers used between decision and confirmed stop, by their own CPU clocks. An upper bound:
    /// the clock of a running process may lag by a tick, then it is the time that passed.
    pub cpu_after: Duration,
    /// What the kernel counted around it, when it was slow (`ledger::cause::SLOW`) and there was a baseline.
    pub around: Option<Deltas>,
}

impl YieldRecord {
    /// Sample's own stamp to receipt; zero when it has none.
    pub fn detect(&self) -> Duration {
        self.received.since(self.begin())
    }

    /// Receipt to decision.
    pub fn decide(&self) -> Duration {
        self.decided.since(self.received)
    }

    /// Decision to confirmed stop.
    pub fn stop(&self) -> Duration {
        self.confirmed.since(self.decided)
    }

    /// The yield latency: sample's own stamp, or receipt when it has none, to confirmed stop.
    pub fn total(&self) -> Duration {
        self.confirmed.since(self.begin())
    }

    fn begin(&self) -> Instant {
        self.stamped.unwrap_or(self.received)
    }
}

/// How soon the sentinel gets a core when it wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YieldClass {
    /// Before every normal thread, with this priority.
    Fifo(u8),
    /// Among the normal threads, with a time slice of 100 µs.
    ShortSlice,
    /// As any thread.
    Other,
}

/// As it is published: `fifo 20`, `short-slice`, `other`.
impl fmt::Display for YieldClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fifo(priority) => write!(f, "fifo {priority}"),
            Self::ShortSlice => f.write_str("short-slice"),
            Self::Other => f.write_str("other"),
        }
    }
}

/// Why the sentinel did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy cannot work.
    #[error(transparent)]
    Policy(#[from] BadPolicy),
    /// A source cannot be opened.
    #[error(transparent)]
    Load(#[from] load::OpenError),
    /// More sources than the tables hold.
    #[error("{0} load sources are configured, but at most {SOURCES_MAX} are possible")]
    TooManySources(usize),
    /// The system refused something.
    #[error("the sentinel could not {what}")]
    System {
        /// What it was about to do.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What the thread is made of, with the sources already open.
pub(crate) struct Parts {
    /// How to decide.
    pub(crate) policy: Policy,
    /// How careful the harm guard is.
    pub(crate) guard: guard::Settings,
    /// Sources by id.
    pub(crate) sources: Vec<Box<dyn Source>>,
    /// Made for the same sources.
    pub(crate) fusion: Fusion,
    /// How long the mode is `starting` while no source is heard; then it is `blind`.
    pub(crate) grace: Duration,
    /// SCHED_FIFO priority to ask for.
    pub(crate) priority: Option<u8>,
    /// As in [`Settings`].
    pub(crate) signal_again: Duration,
    /// As in [`Settings`].
    pub(crate) confirm_kill: Duration,
}

/// What handle and thread share.
#[derive(Debug)]
struct Shared {
    /// Rings when one of the requests below is made.
    doorbell: Doorbell,
    held: AtomicBool,
    draining: AtomicBool,
    worker_changed: AtomicBool,
    leave: AtomicBool,
    /// The latest policy wanted.
    policy: ArrayQueue<Policy>,
    /// The latest settings of the guard wanted.
    guard: ArrayQueue<guard::Settings>,
    reports: ArrayQueue<Report>,
    /// Rings when reports wait.
    report_bell: Doorbell,
    /// Reports were handed over since it rang.
    untold: AtomicBool,
    overflowed: AtomicU64,
    /// Passes of the thread.
    passes: AtomicU64,
}

/// Handle of the sentinel thread. Dropping it stops all workers and ends the thread.
#[derive(Debug)]
pub struct Sentinel {
    shared: Arc<Shared>,
    class: YieldClass,
    memory_locked: bool,
    inbox: Option<load::mqtt::Inbox>,
    thread: Option<JoinHandle<()>>,
}

/// Opens the load sources and starts the thread "neap-sentinel". Locks the memory of the process if that is permitted.
///
/// Call `sys::signal::block_child_signal` before any other thread exists: otherwise stops are confirmed by timer only,
/// up to a millisecond late.
///
/// # Errors
/// A policy that cannot work, a source that cannot be opened, or a system that is out of descriptors.
pub fn start(settings: Settings, gate: Arc<Gate>) -> Result<Sentinel, Error> {
    let Settings { policy, guard, load, priority, signal_again, confirm_kill } = settings;
    let now = clock::now();
    let open = |(id, source)| load::open(source, SourceId(id), now, own_workers(&gate));
    if load.sources.len() > SOURCES_MAX {
        return Err(Error::TooManySources(load.sources.len()));
    }
    let sources = (0..).zip(&load.sources).map(open).collect::<Result<Vec<_>, _>>()?;
    let fusion = Fusion::new(&load.trust());
    let grace = fusion::grace(&load.trust());
    memory::shed();
    let memory_locked = memory::lock_all().is_ok();
    let parts = Parts { policy, guard, sources, fusion, grace, priority, signal_again, confirm_kill };
    let mut sentinel = start_with(parts, gate)?;
    sentinel.memory_locked = memory_locked;
    Ok(sentinel)
}

/// How soon a sentinel that asks for `priority` would get a core here. Tries it on a thread that ends at once.
///
/// # Errors
/// When no thread can be started.
pub fn class_for(priority: Option<u8>) -> io::Result<YieldClass> {
    let trial =
        std::thread::Builder::new().name("neap-trial".to_owned()).spawn(move || watch::prepare_thread(priority));
    trial?.join().map_err(|_| io::Error::other("the trial thread panicked"))
}

/// The gate's table of processes in the words of the load sources, which take the workers' CPU time off.
fn own_workers(gate: &Gate) -> load::OwnWorkers {
    let pids = gate.pids();
    Arc::new(move |place| {
        let live = pids.iter().map(|pid| pid.load(SeqCst)).filter(|pid| *pid != 0);
        place.iter_mut().zip(live).map(|(place, pid)| *place = pid).count()
    })
}

/// Starts the thread with sources that are open.
pub(crate) fn start_with(parts: Parts, gate: Arc<Gate>) -> Result<Sentinel, Error> {
    let system = |what| move |source| Error::System { what, source };
    let shared = Arc::new(Shared::new().map_err(system("make an eventfd"))?);
    let governor = Governor::guarded(parts.policy.clone(), parts.guard.clone())?;
    let priority = parts.priority;
    let inbox = parts.sources.iter().find_map(|source| source.inbox());
    let watch =
        Watch::new(parts, governor, Arc::clone(&gate), Arc::clone(&shared)).map_err(system("set up its event loop"))?;
    let (tell_class, class) = std::sync::mpsc::sync_channel(1);
    let run = move || {
        let _the_starter_waits = tell_class.send(watch::prepare_thread(priority));
        watch::run_or_abort(watch, &gate);
    };
    let thread = std::thread::Builder::new().name("neap-sentinel".to_owned()).spawn(run);
    let thread = thread.map_err(system("start its thread"))?;
    let class = class.recv().unwrap_or(YieldClass::Other);
    Ok(Sentinel { shared, class, memory_locked: false, inbox, thread: Some(thread) })
}

impl Sentinel {
    /// Passes an order on. Orders are states, not events: held or not, draining or not; the latest counts.
    pub fn order(&self, order: Order) {
        match order {
            Order::Hold => self.shared.held.store(true, SeqCst),
            Order::Release => self.shared.held.store(false, SeqCst),
            Order::Drain => self.shared.draining.store(true, SeqCst),
            Order::Resume => self.shared.draining.store(false, SeqCst),
        }
        self.shared.doorbell.ring();
    }

    /// A slot of the gate was filled: applies the budget in force to it at once.
    pub fn worker_changed(&self) {
        self.shared.worker_changed.store(true, SeqCst);
        self.shared.doorbell.ring();
    }

    /// Something that calls [`Sentinel::worker_changed`], for those who do not hold the sentinel. Calls after its end
    /// do nothing.
    pub fn worker_changed_fn(&self) -> Arc<dyn Fn() + Send + Sync> {
        let shared = Arc::clone(&self.shared);
        Arc::new(move || {
            shared.worker_changed.store(true, SeqCst);
            shared.doorbell.ring();
        })
    }

    /// Replaces the policy.
    ///
    /// # Errors
    /// A policy that cannot work; the old one stays.
    pub fn set_policy(&self, policy: Policy) -> Result<(), BadPolicy> {
        policy.check()?;
        self.shared.policy.force_push(policy);
        self.shared.doorbell.ring();
        Ok(())
    }

    /// Replaces the settings of the harm guard.
    ///
    /// # Errors
    /// Settings that cannot work; the old ones stay.
    pub fn set_guard(&self, settings: guard::Settings) -> Result<(), BadSettings> {
        settings.check()?;
        self.shared.guard.force_push(settings);
        self.shared.doorbell.ring();
        Ok(())
    }

    /// Reports in the order in which they happened. Clear the bell first, then take until it is empty.
    pub fn reports(&self) -> &ArrayQueue<Report> {
        &self.shared.reports
    }

    /// Readable when reports wait.
    pub fn report_fd(&self) -> BorrowedFd<'_> {
        self.shared.report_bell.as_fd()
    }

    /// Makes [`Sentinel::report_fd`] unreadable.
    pub fn clear_report_fd(&self) {
        self.shared.report_bell.clear();
    }

    /// Reports that were dropped because nobody took them in time.
    pub fn overflowed(&self) -> u64 {
        self.shared.overflowed.load(SeqCst)
    }

    /// Passes of the thread so far. [`Sentinel::ask_for_a_pass`] must raise it, or the thread hangs.
    pub fn passes(&self) -> u64 {
        self.shared.passes.load(Relaxed)
    }

    /// Wakes the thread for nothing.
    pub fn ask_for_a_pass(&self) {
        self.shared.doorbell.ring();
    }

    /// How soon the thread gets a core.
    pub fn class(&self) -> YieldClass {
        self.class
    }

    /// Whether the process's memory is locked, so that no page of the yield path can be missing.
    pub fn memory_locked(&self) -> bool {
        self.memory_locked
    }

    /// Where a controller's load reports go, when a source takes them.
    pub fn inbox(&self) -> Option<&load::mqtt::Inbox> {
        self.inbox.as_ref()
    }

    /// Stops all workers, waits until that is confirmed, and ends the thread.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.shared.leave.store(true, SeqCst);
        self.shared.doorbell.ring();
        if let Some(thread) = self.thread.take() {
            // A thread that panics aborts the process, so there is no error to see here.
            let _ended = thread.join();
        }
    }
}

impl Shared {
    fn new() -> io::Result<Self> {
        Ok(Self {
            doorbell: Doorbell::new()?,
            held: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            worker_changed: AtomicBool::new(false),
            leave: AtomicBool::new(false),
            policy: ArrayQueue::new(1),
            guard: ArrayQueue::new(1),
            reports: ArrayQueue::new(REPORTS_MAX),
            report_bell: Doorbell::new()?,
            untold: AtomicBool::new(false),
            overflowed: AtomicU64::new(0),
            passes: AtomicU64::new(0),
        })
    }

    /// Hands a report over, or counts it as lost. To be followed by [`Shared::tell`].
    fn report(&self, report: Report) {
        if self.reports.push(report).is_err() {
            self.overflowed.fetch_add(1, SeqCst);
        }
        self.untold.store(true, SeqCst);
    }

    /// Rings for the reports that were handed over since the last time: one system call for all that a wake brought.
    fn tell(&self) {
        if self.untold.swap(false, SeqCst) {
            self.report_bell.ring();
        }
    }
}
