//! The thread itself: what it waits for, and in which order it acts.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use rustix::event::epoll;

use super::pace::{Flood, LoadPace, ReasonPace};
use super::stops::{End, Step, Stops};
use super::{Parts, REPORTS_MAX, Report, Shared, YieldClass, YieldRecord};
use crate::governor::{Decision, Governor, Load, Order, Reason, Sample};
use crate::load::Source;
use crate::load::fusion::{Fused, FusedLoad, Fusion};
use crate::sys::event::Timer;
use crate::sys::signal::Seen;
use crate::sys::{clock, sched, signal};
use crate::units::{Instant, SOURCES_MAX, SourceId, Utilization, WORKERS_MAX};
use crate::worker::gate::{Gate, Resume};

/// Time slice to ask for when SCHED_FIFO is not permitted, in µs.
const SLICE_US: u32 = 100;
/// How often to look for workers that somebody else has continued, besides at every SIGCHLD: the kernel sends none for
/// a worker that was continued before it had taken its stop.
const STRAYS_EVERY: Duration = Duration::from_secs(1);
/// Rest after each wake of a flood.
const FLOOD_REST: Duration = Duration::from_millis(1);

/// Marks of descriptors in the event loop: a source has its index.
const DOORBELL: u64 = 100;
const TIMER: u64 = 101;
const CHILD: u64 = 102;
const EVENTS_MAX: usize = SOURCES_MAX + 3;

const _: () = assert!(SOURCES_MAX <= u8::BITS as usize, "ready sources are the bits of a u8");

/// Everything that the thread owns.
pub(super) struct Watch {
    epoll: OwnedFd,
    timer: Timer,
    /// What the timer is set to.
    armed: Option<Instant>,
    /// `None` where signalfd is refused: stops are then confirmed by timer.
    child_signal: Option<OwnedFd>,
    sources: Vec<Box<dyn Source>>,
    flood: Flood,
    core: Core,
}

/// Everything but the descriptors: what a source's observations act on.
struct Core {
    fusion: Fusion,
    fused: Fused,
    governor: Governor,
    gate: Arc<Gate>,
    stops: Stops,
    /// When to look for strays at the latest.
    strays_at: Instant,
    shared: Arc<Shared>,
    load_pace: LoadPace,
    reason_pace: ReasonPace,
    /// When to be blind if no source is heard; `None` once that is past or one was.
    blind_at: Option<Instant>,
    held: bool,
    draining: bool,
}

/// Which descriptors are readable.
#[derive(Clone, Copy, Default)]
struct Ready {
    sources: u8,
    doorbell: bool,
    timer: bool,
    child: bool,
}

/// Why a decision is made now: begins the clock of a yield.
#[derive(Clone, Copy)]
enum Trigger {
    /// The fused load, by its own moments.
    Load,
    /// Something else, at this moment.
    Other(Instant),
}

/// Takes the best scheduling class that is permitted, and keeps SIGCHLD for the descriptor.
pub(super) fn prepare_thread(priority: Option<u8>) -> YieldClass {
    // Refused nowhere; without it stops are confirmed by timer.
    let _blocked = signal::block_child_signal();
    if let Some(priority) = priority.filter(|priority| sched::fifo_self(*priority).is_ok()) {
        return YieldClass::Fifo(priority);
    }
    match sched::short_slice_self(SLICE_US) {
        Ok(()) => YieldClass::ShortSlice,
        Err(_) => YieldClass::Other,
    }
}

/// Runs until told to leave. Whatever else ends the loop stops all workers and aborts: half an agent with a running
/// worker is the worst state.
pub(super) fn run_or_abort(mut watch: Watch, gate: &Gate) {
    match catch_unwind(AssertUnwindSafe(|| watch.run())) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => {
            gate.pass().stop_beyond(0);
            tracing::error!(%error, "the sentinel's event loop broke; all workers are stopped, aborting");
        }
        Err(_) => {
            gate.pass().stop_beyond(0);
            tracing::error!("the sentinel panicked; all workers are stopped, aborting");
        }
    }
    std::process::abort();
}

impl Watch {
    pub(super) fn new(parts: Parts, governor: Governor, gate: Arc<Gate>, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = Timer::new()?;
        let child_signal = signal::child_signal_fd().ok();
        let watch = |fd, mark| epoll::add(&epoll, fd, epoll::EventData::new_u64(mark), epoll::EventFlags::IN);
        watch(shared.doorbell.as_fd(), DOORBELL)?;
        watch(timer.as_fd(), TIMER)?;
        if let Some(child_signal) = &child_signal {
            watch(child_signal.as_fd(), CHILD)?;
        }
        for (mark, source) in (0..).zip(&parts.sources) {
            if let Some(fd) = source.fd() {
                watch(fd, mark)?;
            }
        }
        let now = clock::now();
        let core = Core {
            fused: parts.fusion.current(now),
            fusion: parts.fusion,
            reason_pace: ReasonPace::new(now, governor.decision().reason),
            governor,
            gate,
            stops: Stops::new(parts.signal_again, parts.confirm_kill),
            strays_at: now.after(STRAYS_EVERY),
            shared,
            load_pace: LoadPace::default(),
            blind_at: Some(now.after(parts.grace)),
            held: false,
            draining: false,
        };
        Ok(Self { epoll, timer, armed: None, child_signal, sources: parts.sources, flood: Flood::default(), core })
    }

    fn run(&mut self) -> io::Result<()> {
        self.core.shared.report(Report::Mode { at: clock::now(), decision: self.core.governor.decision() });
        loop {
            let ready = self.wait()?;
            self.hear(clock::now(), ready.sources);
            let now = clock::now();
            self.core.on_time(now);
            if ready.doorbell {
                self.core.shared.doorbell.clear();
                self.core.obey(now);
            }
            if let (true, Some(child_signal)) = (ready.child, &self.child_signal) {
                signal::clear_child_signal(child_signal.as_fd());
            }
            self.core.confirm(ready.child);
            if self.core.shared.leave.load(SeqCst) && self.core.stops.is_empty() {
                return Ok(());
            }
            if self.flood.on_wake(now) {
                std::thread::sleep(FLOOD_REST);
            }
        }
    }

    /// Sleeps until something is readable or the next moment has come.
    fn wait(&mut self) -> io::Result<Ready> {
        let polls = self.sources.iter().filter_map(|source| source.next_poll());
        let wanted = polls.chain(self.core.next_moment()).min();
        if wanted != self.armed {
            self.timer.set(wanted)?;
            self.armed = wanted;
        }
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; EVENTS_MAX];
        let count = match epoll::wait(&self.epoll, &mut events[..], None) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut ready = Ready::default();
        for event in &events[..count.min(EVENTS_MAX)] {
            match event.data.u64() {
                DOORBELL => ready.doorbell = true,
                TIMER => ready.timer = true,
                CHILD => ready.child = true,
                source => {
                    ready.sources |= u8::try_from(source).ok().and_then(|n| 1_u8.checked_shl(n.into())).unwrap_or(0)
                }
            }
        }
        if ready.timer {
            self.timer.clear();
            self.armed = None;
        }
        Ok(ready)
    }

    /// Reads the sources that have something or are due, and acts on each observation by itself: a peak between two
    /// low readings of one datagram is a peak.
    ///
    /// Each gets its own moment: this thread may be displaced for milliseconds between wake and reading, and what was
    /// stamped meanwhile must not look as if it came from the future.
    fn hear(&mut self, now: Instant, ready: u8) {
        let core = &mut self.core;
        for (index, source) in self.sources.iter_mut().enumerate() {
            let due = source.next_poll().is_some_and(|at| at <= now);
            if due || ready & (1 << index) != 0 {
                source.read(now, &mut |observation| {
                    let received = clock::now();
                    core.fusion.on_observation(received, observation);
                    core.on_load(received);
                });
            }
        }
    }
}

impl Core {
    /// When something is due, descriptors aside.
    fn next_moment(&self) -> Option<Instant> {
        let fresh_until = self.blind_at.is_none().then_some(self.fused.fresh_until);
        let moments = [fresh_until, self.blind_at, self.governor.next_timeout(), self.stops.next_look()];
        moments.into_iter().flatten().chain([self.strays_at]).min()
    }

    /// Asks the fusion, decides, acts.
    fn on_load(&mut self, now: Instant) {
        self.blind_at = None;
        self.fused = self.fusion.current(now);
        if let Some(decision) = self.governor.on_sample(now, self.sample()) {
            self.apply(decision, Trigger::Load);
            self.report_mode(now, decision);
        } else {
            let decision = self.governor.decision();
            if self.reason_pace.admit(now, decision.reason) {
                self.shared.report(Report::Mode { at: now, decision });
            }
        }
        let room = self.shared.reports.len() < REPORTS_MAX / 2;
        if room && self.load_pace.admit(now, self.fused.load) {
            self.shared.report(Report::Load { at: now, fused: self.fused });
        }
    }

    /// Lets time pass for the fusion (freshness) and for the governor (settle time, raises).
    fn on_time(&mut self, now: Instant) {
        let unheard = self.blind_at.is_some_and(|at| at <= now);
        let expired = self.blind_at.is_none() && self.fused.fresh_until <= now;
        if unheard || expired {
            self.on_load(now);
        }
        if self.governor.next_timeout().is_some_and(|at| at <= now)
            && let Some(decision) = self.governor.on_timeout(now)
        {
            self.apply(decision, Trigger::Other(now));
            self.report_mode(now, decision);
        }
    }

    /// Takes up what the handle asks for.
    fn obey(&mut self, now: Instant) {
        let leave = self.shared.leave.load(SeqCst);
        let (held, draining) = (self.shared.held.load(SeqCst), self.shared.draining.load(SeqCst) || leave);
        if std::mem::replace(&mut self.draining, draining) != draining {
            let decision = self.governor.on_order(now, if draining { Order::Drain } else { Order::Resume });
            self.carry_out(now, decision);
        }
        if std::mem::replace(&mut self.held, held) != held {
            let decision = self.governor.on_order(now, if held { Order::Hold } else { Order::Release });
            self.carry_out(now, decision);
        }
        if let Some(policy) = self.shared.policy.pop()
            && let Ok(decision) = self.governor.set_policy(now, policy)
        {
            self.carry_out(now, decision);
        }
        if self.shared.worker_changed.swap(false, SeqCst) {
            self.apply(self.governor.decision(), Trigger::Other(now));
        }
    }

    fn carry_out(&mut self, now: Instant, decision: Option<Decision>) {
        if let Some(decision) = decision {
            self.apply(decision, Trigger::Other(now));
            self.report_mode(now, decision);
        }
    }

    /// The stop, then the rest.
    fn apply(&mut self, decision: Decision, trigger: Trigger) {
        let decided = clock::now();
        let pass = self.gate.pass();
        let stop = pass.stop_beyond(decision.budget);
        let signalled = clock::now();
        let resume = pass.resume_below(self.stops.waiting().0);
        drop(pass);
        self.report_resume(signalled, resume);
        self.stops.begin(self.record(decision, trigger, decided, signalled), stop);
    }

    /// Looks at the stops under way, kills what is overdue, stops what somebody else has continued, and continues what
    /// had to wait for its stop.
    fn confirm(&mut self, signalled: bool) {
        let now = clock::now();
        let strays = signalled || now >= self.strays_at;
        if !strays && self.stops.next_look().is_none_or(|look| now < look) {
            return;
        }
        let pass = self.gate.pass();
        let (waiting, pids) = self.stops.waiting();
        let mut any = false;
        for slot in waiting.iter() {
            let (seen, cpu) = pass.look(slot, pids[slot]);
            let at = clock::now();
            let step = match seen {
                Seen::Stopped | Seen::Exited => None,
                Seen::Running => Some(self.stops.on_running(slot, at, cpu)),
            };
            let end = match step {
                None => End::Stopped,
                Some(None) => continue,
                Some(Some(Step::Repeat)) => {
                    pass.repeat(slot, pids[slot]);
                    continue;
                }
                Some(Some(Step::Leave)) => End::Displaced,
                Some(Some(Step::Kill)) => {
                    pass.kill(slot, pids[slot]);
                    self.shared.report(Report::Killed { at, slot: u8::try_from(slot).unwrap_or(u8::MAX) });
                    End::Killed
                }
            };
            any = true;
            if let Some(record) = self.stops.confirm(slot, at, end, cpu) {
                self.shared.report(Report::Yield(record));
            }
        }
        self.stops.on_look(now);
        if strays {
            pass.stop_strays(self.stops.waiting().0);
            self.strays_at = now.after(STRAYS_EVERY);
        }
        if any {
            let resume = pass.resume_below(self.stops.waiting().0);
            self.report_resume(clock::now(), resume);
        }
    }

    /// The record of a stop that is signalled now; the workers' part is added by [`Stops::begin`].
    fn record(&self, decision: Decision, trigger: Trigger, decided: Instant, signalled: Instant) -> YieldRecord {
        let fused = self.fused;
        let (stamped, received) = match trigger {
            Trigger::Load => (fused.stamped, fused.received),
            Trigger::Other(at) => (None, at),
        };
        YieldRecord {
            source: source(decision.reason).or(fused_source(fused.load)).unwrap_or_default(),
            reason: decision.reason,
            metric: fused.metric,
            cell: fused.cell,
            level: match fused.load {
                FusedLoad::Level(_, level) => level,
                FusedLoad::Late(_) | FusedLoad::Malformed(_) | FusedLoad::Stale(_) | FusedLoad::Unheard => {
                    Utilization::FULL
                }
            },
            threshold: self.governor.policy().busy_above,
            stamped,
            received,
            decided,
            signalled,
            confirmed: signalled,
            workers: 0,
            displaced: 0,
            jobs: [0; WORKERS_MAX],
            cpu_after: Duration::ZERO,
        }
    }

    /// The fused load as the governor takes it.
    fn sample(&self) -> Sample {
        let Fused { load, fresh_until, received, .. } = self.fused;
        match load {
            FusedLoad::Level(source, level) => Sample { load: Load::Level(source, level), fresh_until },
            FusedLoad::Late(source) => Sample { load: Load::Late(source), fresh_until },
            FusedLoad::Malformed(source) => Sample { load: Load::Malformed(source), fresh_until },
            // While another source is fresh the node is busy, then it is blind.
            FusedLoad::Stale(source) => {
                Sample { load: Load::Stale(source), fresh_until: self.fusion.silent_from().unwrap_or(received) }
            }
            FusedLoad::Unheard => Sample { load: Load::Unheard, fresh_until },
        }
    }

    fn report_mode(&mut self, now: Instant, decision: Decision) {
        self.reason_pace.on_mode(now, decision.reason);
        self.shared.report(Report::Mode { at: now, decision });
    }

    fn report_resume(&self, at: Instant, resume: Resume) {
        if !resume.slots.is_empty() {
            self.shared.report(Report::Resumed { at, workers: resume.slots.count(), jobs: resume.jobs });
        }
    }
}

fn fused_source(load: FusedLoad) -> Option<SourceId> {
    match load {
        FusedLoad::Level(source, _) | FusedLoad::Late(source) => Some(source),
        FusedLoad::Malformed(source) | FusedLoad::Stale(source) => Some(source),
        FusedLoad::Unheard => None,
    }
}

fn source(reason: Reason) -> Option<SourceId> {
    match reason {
        Reason::Stale(source) | Reason::Malformed(source) | Reason::Late(source) => Some(source),
        Reason::Above { source, .. } | Reason::NotBelow { source, .. } | Reason::Low { source, .. } => Some(source),
        Reason::NoSampleYet | Reason::NoSource | Reason::Settling { .. } | Reason::Held | Reason::Draining => None,
    }
}
