//! What does the node do? The real decisions, before simulated workers.
//!
//! Fusion, governor (or a broken one in its place) and the pending stops are the real code. What the sentinel thread
//! does with them is told here once more, in the order in which `sentinel/watch.rs` and `sentinel/reflex.rs` do it.

use std::time::Duration;

use super::script::{Scenario, Transition};
use super::workers::{Changed, Workers};
use crate::governor::guard::News;
use crate::governor::{Decision, Policy, Reason};
use crate::load::Metric;
use crate::load::fusion::{self, Fusion, Trust};
use crate::sentinel::YieldRecord;
use crate::sentinel::judge::{Decider, Judge};
use crate::sentinel::stops::{End, Step, Stops};
use crate::sys::signal::Seen;
use crate::units::{CellId, Instant, SourceId, Utilization, WORKERS_MAX};

/// Time after which signals are repeated, as configured.
pub(super) const SIGNAL_AGAIN: Duration = Duration::from_millis(50);
/// Time after which a worker is killed, as configured.
pub(super) const CONFIRM_KILL: Duration = Duration::from_millis(500);

/// The node under test.
#[derive(Debug)]
pub(super) struct Node<D> {
    judge: Judge<D>,
    stops: Stops,
    pub(super) workers: Workers,
}

/// Something that a node did in one step, for the auditor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Decided(Decision),
    /// A stop was confirmed for one worker; whether it executed at that moment.
    Confirmed {
        slot: usize,
        end: End,
        executes: bool,
    },
    Yielded(Box<YieldRecord>),
    /// The guard has something to tell.
    Ruled(News),
}

impl<D: Decider> Node<D> {
    /// `trust` is what it takes the scenario's sources for.
    pub(super) fn new(scenario: &Scenario, trust: &[Trust], governor: D, seed: u64) -> Self {
        let now = scenario.origin;
        let grace = fusion::grace(trust);
        Self {
            judge: Judge::new(now, Fusion::new(trust), governor, grace),
            stops: Stops::new(SIGNAL_AGAIN, CONFIRM_KILL),
            workers: Workers::new(now, seed, scenario.unruly_permille),
        }
    }

    /// When the node's timer rings.
    pub(super) fn next_at(&self) -> Instant {
        self.stops.next_look().map_or(self.judge.next_moment(), |look| look.min(self.judge.next_moment()))
    }

    pub(super) fn decision(&self) -> Decision {
        self.judge.decision()
    }

    pub(super) fn policy(&self) -> &Policy {
        self.judge.policy()
    }

    /// Whether a stop is not yet confirmed.
    pub(super) fn stops_are_open(&self) -> bool {
        !self.stops.is_empty()
    }

    /// Something comes from outside. Before anything but an observation the node has to be woken.
    pub(super) fn hear(&mut self, now: Instant, transition: &Transition, acts: &mut Vec<Act>) {
        let mut child = false;
        match transition {
            Transition::Heard(observation) => {
                let decision = self.judge.on_observation(now, *observation);
                self.carry_out(now, decision, acts);
                self.on_time(now, acts);
            }
            Transition::Ordered(order) => {
                let decision = self.judge.on_order(now, *order);
                self.carry_out(now, decision, acts);
            }
            Transition::Reloaded(policy) => {
                if let Ok(decision) = self.judge.set_policy(now, policy.clone()) {
                    self.carry_out(now, decision, acts);
                }
            }
            Transition::Died(slot) => child = self.workers.end(now, *slot),
        }
        self.confirm(now, child, acts);
    }

    /// The timer rings, or the workers have changed.
    pub(super) fn wake(&mut self, now: Instant, changed: Changed, acts: &mut Vec<Act>) {
        self.on_time(now, acts);
        if changed.filled {
            self.apply(now, self.judge.decision());
        }
        self.confirm(now, changed.child, acts);
    }

    fn on_time(&mut self, now: Instant, acts: &mut Vec<Act>) {
        if self.judge.load_is_due(now) {
            let decision = self.judge.on_load(now);
            self.carry_out(now, decision, acts);
        }
        let decision = self.judge.on_timeout(now);
        self.carry_out(now, decision, acts);
        // All that run have a job here.
        let busy = self.workers.executing().count().min(self.judge.decision().budget);
        let decision = self.judge.on_work(now, busy);
        self.tell_news(acts);
        self.carry_out(now, decision, acts);
    }

    /// Before what follows from it.
    fn tell_news(&mut self, acts: &mut Vec<Act>) {
        acts.extend(std::iter::from_fn(|| self.judge.take_news()).map(Act::Ruled));
    }

    fn carry_out(&mut self, now: Instant, decision: Option<Decision>, acts: &mut Vec<Act>) {
        self.tell_news(acts);
        if let Some(decision) = decision {
            acts.push(Act::Decided(decision));
            self.apply(now, decision);
        }
    }

    fn apply(&mut self, now: Instant, decision: Decision) {
        let stop = self.workers.stop_beyond(now, decision.budget);
        self.workers.resume_below(now, self.stops.waiting().0);
        self.stops.begin(record(now, decision.reason), stop);
    }

    fn confirm(&mut self, now: Instant, signalled: bool, acts: &mut Vec<Act>) {
        if !signalled && self.stops.next_look().is_none_or(|look| now < look) {
            return;
        }
        let (waiting, pids) = self.stops.waiting();
        for slot in waiting.iter() {
            let (seen, cpu) = self.workers.look(now, slot, pids[slot]);
            let end = match seen {
                Seen::Stopped | Seen::Exited => End::Stopped,
                Seen::Running => match self.stops.on_running(slot, now, cpu) {
                    None => continue,
                    Some(Step::Repeat) => {
                        self.workers.repeat(now, slot, pids[slot]);
                        continue;
                    }
                    Some(Step::Leave) => End::Displaced,
                    Some(Step::Kill) => {
                        self.workers.kill(now, slot, pids[slot]);
                        End::Killed
                    }
                },
            };
            acts.push(Act::Confirmed { slot, end, executes: self.workers.still_executes(slot, pids[slot]) });
            acts.extend(self.stops.confirm(slot, now, end, cpu).map(|record| Act::Yielded(Box::new(record))));
        }
        self.stops.on_look(now);
        self.workers.resume_below(now, self.stops.waiting().0);
    }
}

/// A record whose cause does not matter here.
fn record(now: Instant, reason: Reason) -> YieldRecord {
    YieldRecord {
        source: SourceId::default(),
        reason,
        metric: Metric::Unknown,
        cell: CellId::default(),
        level: Utilization::FULL,
        threshold: Utilization::FULL,
        stamped: None,
        received: now,
        decided: now,
        signalled: now,
        confirmed: now,
        workers: 0,
        displaced: 0,
        frozen: 0,
        jobs: [0; WORKERS_MAX],
        cpu_after: Duration::ZERO,
        around: None,
    }
}
