//! Is what the node did what it should have done? Every promise, checked before and after every step.

use std::fmt;
use std::time::Duration;

use super::law::Law;
use super::node::{Act, CONFIRM_KILL, Node, SIGNAL_AGAIN};
use super::reference::Reference;
use super::script::{DAY, Transition};
use super::workers::{Answer, PROMPT_MAX};
use super::{Summary, Timer};
use crate::governor::guard::News;
use crate::governor::{Decision, Mode, Policy};
use crate::sentinel::YieldRecord;
use crate::sentinel::judge::Decider;
use crate::units::{Instant, WORKERS_MAX};

/// The node's timer rings at most so late: its thread is kept off its core.
pub(super) const LAG_MAX: Duration = Duration::from_millis(20);
/// Longest time between two looks at a worker that should stop, with the timer late.
const LOOK_MAX: Duration = Duration::from_millis(10 + 2 * 20);
/// Longest time in which stops may follow each other without a moment in which all are confirmed.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// Since when something is so, and whether time alone brought it about: then the node's timer may be late.
#[derive(Clone, Copy, Debug)]
struct Since {
    at: Instant,
    by_time: bool,
}

/// What the auditor remembers.
#[derive(Debug)]
pub(super) struct Audit {
    pub(super) reference: Reference,
    /// How late the node's timer may be.
    lag: Duration,
    /// By slot: since when its worker must not run.
    over: [Option<Since>; WORKERS_MAX],
    /// By slot: since when its worker should run, by the node's own decision.
    under: [Option<Instant>; WORKERS_MAX],
    /// What `over` and `under` were last brought up to date with.
    noted: (Option<u8>, u8),
    open_since: Option<Instant>,
    /// Most starts that the policies in force so far allow on top of what a day allows; see [`Audit::starts_max`].
    extra_starts: u64,
    waits: (Duration, Duration),
    /// What the guard may do, where there is one.
    pub(super) law: Option<Law>,
    pub(super) summary: Summary,
}

type Checked = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

impl Audit {
    pub(super) fn new(reference: Reference, timer: Timer) -> Self {
        let mut audit = Self {
            over: [None; WORKERS_MAX],
            under: [None; WORKERS_MAX],
            noted: (None, 0),
            open_since: None,
            extra_starts: 3,
            waits: (Duration::MAX, Duration::MAX),
            law: None,
            summary: Summary::default(),
            reference,
            lag: match timer {
                Timer::Late => LAG_MAX,
                // What is due at this very moment is not late.
                Timer::Exact => Duration::from_nanos(1),
            },
        };
        audit.count_policy();
        audit
    }

    // ---- before a step ----

    /// What had to have happened by now, and what must not have gone on until now.
    pub(super) fn before<D: Decider>(&mut self, now: Instant, node: &mut Node<D>) -> Checked {
        for slot in node.workers.executing().iter() {
            let Some(over) = self.over[slot] else { continue };
            let signalled = node.workers.signalled(slot);
            let lag = if over.by_time { self.lag } else { Duration::ZERO };
            let end = signalled.map_or(over.at.after(lag), |(at, answer)| at.after(longest(answer)));
            let how = signalled.map(|(_, answer)| answer);
            ensure!(
                now <= end,
                "worker {slot} executes, but must not since {:?} ago (by time: {}, its stop: {how:?})",
                now.since(over.at),
                over.by_time
            );
        }
        let Decision { budget, mode, reason } = node.decision();
        let ceiling = self.law.as_ref().map_or(u8::MAX, |law| if Law::explains(reason) { 0 } else { law.ceiling });
        let least = self.reference.at_least(now, self.lag).min(ceiling);
        ensure!(
            budget >= least,
            "the budget is {budget} (mode {}), but should be {least} by now: the load is low, known and fresh, for at \
             least {:?}",
            mode.as_str(),
            self.reference.wait
        );
        for (slot, since) in self.under.iter().enumerate().take(usize::from(budget)) {
            let Some(since) = since.filter(|since| now.since(*since) > CONFIRM_KILL + LOOK_MAX * 2) else { continue };
            let kept = node.workers.is_kept_stopped(slot);
            ensure!(!kept, "worker {slot} is stopped, but has been within the budget for {:?}", now.since(since));
        }
        let open = self.open_since.map(|since| now.since(since)).unwrap_or_default();
        // Nothing need happen in between, so only a node that was woken can be blamed: it is, by the next check.
        ensure!(open <= OPEN_MAX, "stops are open for {open:?}");
        Ok(())
    }

    /// Time alone may have changed what should be.
    pub(super) fn pass(&mut self, now: Instant) {
        self.reference.pass(now);
        self.note_limits(now, true);
    }

    /// Something comes from outside.
    pub(super) fn hear(&mut self, now: Instant, transition: &Transition) {
        self.reference.hear(now, transition);
        match transition {
            // A trough that an order ended is no reason to wait longer, and its low time counts again.
            Transition::Ordered(_) => self.extra_starts += 2,
            Transition::Reloaded(_) => {
                self.count_policy();
                if let Some(law) = &mut self.law {
                    law.set_workers(self.reference.policy.workers);
                }
            }
            Transition::Heard(_) | Transition::Died(_) => {}
        }
        self.note_limits(now, false);
    }

    fn note_limits(&mut self, now: Instant, by_time: bool) {
        let most = self.reference.at_most(now);
        if self.noted.0.replace(most) == Some(most) {
            return;
        }
        let most = usize::from(most);
        for (slot, over) in self.over.iter_mut().enumerate() {
            *over = if slot < most { None } else { over.or(Some(Since { at: now, by_time })) };
        }
    }

    // ---- after a step ----

    /// What the node did, and how it stands now.
    pub(super) fn after<D: Decider>(&mut self, now: Instant, node: &Node<D>, acts: &[Act]) -> Checked {
        for act in acts {
            match act {
                Act::Decided(decision) => self.on_decision(now, *decision)?,
                Act::Confirmed { slot, end, executes } => {
                    ensure!(!executes, "worker {slot} was confirmed ({end:?}), but executes");
                    self.summary.killed += u64::from(*end == crate::sentinel::stops::End::Killed);
                }
                Act::Yielded(record) => self.on_record(record)?,
                Act::Ruled(News::Compared(_)) => {}
                Act::Ruled(News::Verdict(verdict)) => match &mut self.law {
                    Some(law) => law.on_verdict(verdict)?,
                    None => return Err(format!("a guard that is off says {verdict:?}")),
                },
            }
        }
        let decision = node.decision();
        self.check_decision(now, decision)?;
        self.check_guard(now, decision)?;
        ensure!(*node.policy() == self.reference.policy, "the policy in force is {:?}", node.policy());
        ensure!(
            node.next_at() > now,
            "after all was done the next timeout is not in the future, but {:?} ago",
            now.since(node.next_at())
        );
        self.note_limits(now, false);
        if std::mem::replace(&mut self.noted.1, decision.budget) != decision.budget {
            for (slot, under) in self.under.iter_mut().enumerate() {
                *under = if slot < usize::from(decision.budget) { under.or(Some(now)) } else { None };
            }
        }
        self.open_since = if node.stops_are_open() { self.open_since.or(Some(now)) } else { None };
        Ok(())
    }

    /// The guard keeps its law; and what it does is no end of a trough, nor does it keep one from beginning.
    fn check_guard(&mut self, now: Instant, decision: Decision) -> Checked {
        let Some(law) = &mut self.law else { return Ok(()) };
        law.after(now, decision, self.lag)?;
        let is_guarded = Law::explains(decision.reason);
        ensure!(!is_guarded || self.reference.at_most(now) > 0, "the guard stands where the load already forbids it");
        if is_guarded && self.reference.trough.is_none() {
            self.reference.on_start(now);
        }
        // Mode and budget may be the same when the load ends what the guard had stopped: nobody says so.
        if decision.budget == 0 && !is_guarded && self.reference.trough.is_some() {
            self.end_trough(now, decision)?;
        }
        Ok(())
    }

    fn on_decision(&mut self, now: Instant, decision: Decision) -> Checked {
        self.summary.decisions += 1;
        self.check_decision(now, decision)?;
        if self.law.is_some() && Law::explains(decision.reason) {
            return Ok(());
        }
        match (decision.budget > 0, self.reference.trough) {
            (true, None) => {
                self.summary.starts += 1;
                self.reference.on_start(now);
            }
            (false, Some(_)) => self.end_trough(now, decision)?,
            (true, Some(_)) | (false, None) => {}
        }
        Ok(())
    }

    fn end_trough(&mut self, now: Instant, decision: Decision) -> Checked {
        let Some(trough) = self.reference.trough else { return Ok(()) };
        ensure!(
            self.reference.at_most(now) == 0,
            "the trough was ended for no reason ({:?}): the load is {:?}",
            decision.reason,
            self.reference.level
        );
        self.summary.in_troughs += now.since(trough.since);
        self.summary.yields += u64::from(self.reference.on_end(now).is_some());
        Ok(())
    }

    fn check_decision(&self, now: Instant, decision: Decision) -> Checked {
        let Decision { budget, mode, reason } = decision;
        let most = self.reference.at_most(now);
        let Policy { workers, .. } = self.reference.policy;
        ensure!(budget <= workers, "the budget is {budget}, but the policy allows {workers}");
        ensure!(
            budget <= most,
            "the budget is {budget} ({reason:?}), but must be at most {most}: level {:?}, low since {:?}, wait {:?}",
            self.reference.level,
            self.reference.low_for(now),
            self.reference.wait
        );
        ensure!((budget > 0) == (mode == Mode::Trough), "the budget is {budget} in mode {}", mode.as_str());
        Ok(())
    }

    fn on_record(&mut self, record: &YieldRecord) -> Checked {
        let YieldRecord { decided, signalled, confirmed, workers, displaced, cpu_after, .. } = *record;
        let took = confirmed.since(signalled);
        self.summary.stops += u64::from(workers);
        self.summary.displaced += u64::from(displaced);
        self.summary.stop_max = self.summary.stop_max.max(took);
        ensure!(confirmed >= signalled && decided <= signalled, "moments out of order: {record:?}");
        ensure!(took <= CONFIRM_KILL + LOOK_MAX, "a stop took {took:?}: {record:?}");
        ensure!(workers > 0 && displaced <= workers, "a stop of nobody: {record:?}");
        ensure!(cpu_after <= confirmed.since(decided) * u32::from(workers), "more CPU time than passed: {record:?}");
        Ok(())
    }

    // ---- after the day ----

    pub(super) fn finish(&mut self, end: Instant) -> Checked {
        if let Some(trough) = self.reference.trough {
            self.summary.in_troughs += end.since(trough.since);
        }
        let (starts, most) = (self.summary.starts, self.starts_max());
        ensure!(starts <= most, "{starts} troughs began in one day, but the policies allow {most}");
        Ok(())
    }

    /// Most troughs that may begin in one day, by the policies alone, whatever the load does.
    ///
    /// Each start is earned by low load for the wait in force, at least `settle`. So there are at most day ÷ `settle`,
    /// and one for each order, which may end a trough without ending the low load.
    ///
    /// A better bound: let `d` be how many doublings take the wait to `settle_max`; it is `d_max` at most, and that at
    /// the begin and after a change of the policy. A trough that the load ends within `flap_window` lowers `d` by one
    /// if it can; a longer one raises it by at most one for each `flap_window` that it lasted. So in all
    /// * starts with `d` = 0 cost `settle_max` each: at most day ÷ `settle_max`;
    /// * short troughs with `d` > 0: at most one for each time that `d` was raised, so the sum of all `d_max` and
    ///   day ÷ `flap_window`;
    /// * long troughs: at most day ÷ `flap_window`;
    /// * troughs that an order ended or the day did, and the one after each: two for each order, and three.
    fn starts_max(&self) -> u64 {
        let (settle, settle_max) = self.waits;
        let most = |span: Duration| u64::try_from(DAY.as_nanos().checked_div(span.as_nanos()).unwrap_or(u128::MAX));
        let each_settled = most(settle).unwrap_or(u64::MAX).saturating_add(self.extra_starts);
        let spans = most(self.summary.flap_window_min).unwrap_or(u64::MAX);
        let slowed = most(settle_max).unwrap_or(u64::MAX).saturating_add(spans.saturating_mul(2));
        each_settled.min(slowed.saturating_add(self.extra_starts))
    }

    fn count_policy(&mut self) {
        let Policy { settle, settle_max, flap_window, .. } = self.reference.policy;
        self.waits = (self.waits.0.min(settle), self.waits.1.min(settle_max));
        self.summary.flap_window_min = self.summary.flap_window_min.min(flap_window);
        let doublings = (0..).take_while(|doubled| settle * 2_u32.saturating_pow(*doubled) < settle_max).count();
        // A new policy may also end a trough that the load did not.
        self.extra_starts += doublings as u64 + 2;
    }
}

/// Longest time for which a worker with this answer executes after its signals.
fn longest(answer: Answer) -> Duration {
    match answer {
        Answer::Stops(latency) => latency,
        Answer::Deaf => SIGNAL_AGAIN + LOOK_MAX + PROMPT_MAX,
        Answer::Stubborn => CONFIRM_KILL + LOOK_MAX,
        Answer::Displaced(_) => Duration::ZERO,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transitions, wakes, decisions, starts, yields, stops, displaced, killed, .. } = self;
        write!(
            f,
            "{transitions} transitions, {wakes} wakes, {decisions} decisions, {starts} troughs ({yields} ended by the \
             load), {stops} stops of workers ({displaced} displaced, {killed} killed)"
        )
    }
}
