//! What does the thread do with what it hears? Load to fusion to governor to gate, and the stops to their end.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::judge::Judge;
use super::pace::{LoadPace, ReasonPace};
use super::stops::{End, Step, Stops};
use super::strays::Strays;
use super::surroundings::Surroundings;
use super::{REPORTS_MAX, Report, Shared, YieldRecord};
use crate::governor::{Decision, Governor, Order, Reason};
use crate::load::Observation;
use crate::load::fusion::{FusedLoad, Fusion};
use crate::sys::clock;
use crate::sys::signal::Seen;
use crate::units::{Instant, SourceId, Utilization, WORKERS_MAX};
use crate::worker::gate::{Gate, Resume};

/// How often to look for workers that somebody else has continued, besides at every SIGCHLD: the kernel sends none for
/// a worker that was continued before it had taken its stop.
const STRAYS_EVERY: Duration = Duration::from_secs(1);

/// Everything but the descriptors: what observations, time and orders act on.
pub(super) struct Reflex {
    judge: Judge,
    gate: Arc<Gate>,
    stops: Stops,
    /// When to look for strays at the latest.
    strays_at: Instant,
    strays: Strays,
    shared: Arc<Shared>,
    surroundings: Surroundings,
    load_pace: LoadPace,
    reason_pace: ReasonPace,
    held: bool,
    draining: bool,
}

/// What a [`Reflex`] is made of.
pub(super) struct ReflexParts {
    pub(super) fusion: Fusion,
    pub(super) governor: Governor,
    pub(super) stops: Stops,
    pub(super) grace: Duration,
}

/// Why a decision is made now: begins the clock of a yield.
#[derive(Clone, Copy)]
enum Trigger {
    /// The fused load, by its own moments.
    Load,
    /// Something else, at this moment.
    Other(Instant),
}

impl Reflex {
    /// Nothing heard, nothing running. `grace` is how long the mode is `starting` while no source is heard.
    pub(super) fn new(now: Instant, parts: ReflexParts, gate: Arc<Gate>, shared: Arc<Shared>) -> Self {
        let ReflexParts { fusion, governor, stops, grace } = parts;
        Self {
            reason_pace: ReasonPace::new(now, governor.decision().reason),
            judge: Judge::new(now, fusion, governor, grace),
            gate,
            stops,
            strays_at: now.after(STRAYS_EVERY),
            strays: Strays::default(),
            shared,
            surroundings: Surroundings::default(),
            load_pace: LoadPace::default(),
            held: false,
            draining: false,
        }
    }

    /// Tells the mode at the start.
    pub(super) fn announce(&self, now: Instant) {
        self.shared.report(Report::Mode { at: now, decision: self.judge.decision() });
    }

    /// Whether the handle wants the thread to end and every stop is confirmed.
    pub(super) fn may_leave(&self) -> bool {
        self.shared.leave.load(SeqCst) && self.stops.is_empty()
    }

    /// Takes in what a source saw, and acts on it at once: a peak between two low readings is a peak.
    pub(super) fn on_observation(&mut self, now: Instant, observation: Observation) {
        let decision = self.judge.on_observation(now, observation);
        self.act_on_load(now, decision);
    }

    /// When something is due, descriptors aside.
    pub(super) fn next_moment(&self) -> Option<Instant> {
        let moments = [self.stops.next_look(), self.gate.next_beat()];
        moments.into_iter().flatten().chain([self.judge.next_moment(), self.strays_at]).min()
    }

    /// Tells the workers that this thread is awake.
    pub(super) fn beat(&self, now: Instant) {
        self.gate.beat(now);
    }

    /// The thread is about to sleep: notes what slow yields are compared with.
    pub(super) fn before_sleep(&mut self) {
        let quiet = self.judge.decision().budget > 0 && self.stops.is_empty();
        self.surroundings.before_sleep(quiet, self.gate.pids_ref());
    }

    /// Acts on a look at the load, and tells what it gave.
    fn act_on_load(&mut self, now: Instant, decision: Option<Decision>) {
        if let Some(decision) = decision {
            self.apply(decision, Trigger::Load);
            self.report_mode(now, decision);
        } else {
            let decision = self.judge.decision();
            if self.reason_pace.admit(now, decision.reason) {
                self.shared.report(Report::Mode { at: now, decision });
            }
        }
        let room = self.shared.reports.len() < REPORTS_MAX / 2;
        let fused = self.judge.fused();
        if room && self.load_pace.admit(now, fused.load) {
            self.shared.report(Report::Load { at: now, fused });
        }
    }

    /// Lets time pass for the fusion (freshness) and for the governor (settle time, raises).
    pub(super) fn on_time(&mut self, now: Instant) {
        if self.judge.load_is_due(now) {
            let decision = self.judge.on_load(now);
            self.act_on_load(now, decision);
        }
        let decision = self.judge.on_timeout(now);
        self.carry_out(now, decision);
        let decision = self.judge.on_work(now, self.gate.busy());
        self.carry_out(now, decision);
        while let Some(news) = self.judge.take_news() {
            self.shared.report(Report::Guard(news));
        }
    }

    /// Takes up what the handle asks for.
    pub(super) fn obey(&mut self, now: Instant) {
        let leave = self.shared.leave.load(SeqCst);
        let (held, draining) = (self.shared.held.load(SeqCst), self.shared.draining.load(SeqCst) || leave);
        if std::mem::replace(&mut self.draining, draining) != draining {
            let decision = self.judge.on_order(now, if draining { Order::Drain } else { Order::Resume });
            self.carry_out(now, decision);
        }
        if std::mem::replace(&mut self.held, held) != held {
            let decision = self.judge.on_order(now, if held { Order::Hold } else { Order::Release });
            self.carry_out(now, decision);
        }
        if let Some(policy) = self.shared.policy.pop()
            && let Ok(decision) = self.judge.set_policy(now, policy)
        {
            self.carry_out(now, decision);
        }
        if let Some(settings) = self.shared.guard.pop()
            && let Ok(decision) = self.judge.set_guard(now, settings)
        {
            self.carry_out(now, decision);
        }
        if self.shared.worker_changed.swap(false, SeqCst) {
            self.apply(self.judge.decision(), Trigger::Other(now));
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
        let resume = pass.resume_below(self.stops.waiting().0);
        drop(pass);
        self.on_resume(resume);
        self.stops.begin(self.record(decision, trigger, decided, stop.signalled), stop);
    }

    /// Looks at the stops under way, kills what is overdue, stops what somebody else has continued, and continues what
    /// had to wait for its stop.
    pub(super) fn confirm(&mut self, signalled: bool) {
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
                Seen::Stopped | Seen::Exited => Err(End::Stopped),
                // It has not taken its stop and will not until it is thawed, but it executes nothing.
                Seen::Running if pass.is_frozen(slot) => Err(End::Frozen),
                Seen::Running => Ok(self.stops.on_running(slot, at, cpu)),
            };
            let end = match step {
                Err(end) => end,
                Ok(None) => continue,
                Ok(Some(Step::Repeat)) => {
                    pass.repeat(slot, pids[slot]);
                    pass.freeze(slot, pids[slot]);
                    continue;
                }
                Ok(Some(Step::Leave)) => End::Displaced,
                Ok(Some(Step::Kill)) => {
                    pass.kill(slot, pids[slot]);
                    self.shared.report(Report::Killed { at, slot: u8::try_from(slot).unwrap_or(u8::MAX) });
                    End::Killed
                }
            };
            any = true;
            if let Some(mut record) = self.stops.confirm(slot, at, end, cpu) {
                record.around = self.surroundings.around(&record, self.judge.decision().budget);
                self.shared.report(Report::Yield(record));
            }
        }
        self.stops.on_look(now);
        if strays {
            for slot in pass.stop_strays(self.stops.waiting().0).iter() {
                let pid = pass.pid(slot);
                if self.strays.on_stray(slot, pid, clock::process_cpu(pid).ok()) {
                    pass.freeze(slot, pid);
                }
            }
            self.strays_at = now.after(STRAYS_EVERY);
        }
        if any {
            let resume = pass.resume_below(self.stops.waiting().0);
            drop(pass);
            self.on_resume(resume);
        }
    }

    /// The record of a stop that is signalled now; the workers' part is added by [`Stops::begin`].
    fn record(&self, decision: Decision, trigger: Trigger, decided: Instant, signalled: Instant) -> YieldRecord {
        let fused = self.judge.fused();
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
            threshold: self.judge.policy().busy_above,
            stamped,
            received,
            decided,
            signalled,
            confirmed: signalled,
            workers: 0,
            displaced: 0,
            frozen: 0,
            jobs: [0; WORKERS_MAX],
            cpu_after: Duration::ZERO,
            around: None,
        }
    }

    fn report_mode(&mut self, now: Instant, decision: Decision) {
        self.reason_pace.on_mode(now, decision.reason);
        self.shared.report(Report::Mode { at: now, decision });
    }

    fn on_resume(&mut self, resume: Resume) {
        self.strays.forget(resume.slots);
        if !resume.slots.is_empty() {
            let at = clock::now();
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
        Reason::NoSampleYet | Reason::NoSource | Reason::Settling { .. } => None,
        Reason::Guarded(_) | Reason::Comparing(_) | Reason::Held | Reason::Draining => None,
    }
}
