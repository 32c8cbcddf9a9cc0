//! What do workers do when they are stopped? Simulated processes, and a gate that signals them.
//!
//! The gate keeps the rules of the real one (`worker/gate.rs`): a worker enters stopped, a stop is signalled once,
//! a worker whose stop is not confirmed is not continued.

use std::time::Duration;

use super::script::part;
use crate::sim::day::Random;
use crate::sys::signal::Seen;
use crate::units::{Instant, WORKERS_MAX};
use crate::worker::gate::{Slots, Stop};

/// A worker's CPU clock is brought up to date so often while it runs: by the tick of the slowest kernel.
const TICK: Duration = Duration::from_millis(10);
/// Longest time from a signal to the last instruction, for a worker that does as it should.
pub(super) const PROMPT_MAX: Duration = Duration::from_micros(100);
/// The same for one that is slow.
pub(super) const SLOW_MAX: Duration = Duration::from_millis(10);
/// Longest time without a core.
const DISPLACED_MAX: Duration = Duration::from_secs(5);
/// Longest time until the agent has started another worker in the place of one that has ended.
const REFILL_MAX: Duration = Duration::from_secs(10);

/// How a worker takes the signals of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It stops so long afterwards.
    Stops(Duration),
    /// Somebody continues it before it takes the first signals; it takes the second.
    Deaf,
    /// It stops for nothing.
    Stubborn,
    /// It has lost its core for so long, and takes its stop when it has it back.
    Displaced(Duration),
}

/// What a worker's process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Stopped,
    Executing,
    /// Executing until then.
    Stopping(Instant),
    /// Executing, whatever it was sent.
    Ignoring(Answer),
    /// Without a core until then; stops at once when it gets it if a stop is pending.
    Displaced {
        until: Instant,
        stop_pending: bool,
    },
    /// Ended; the agent notices and clears the slot then.
    Ended(Instant),
}

/// What the gate believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Runs,
    Stopped,
}

#[derive(Clone, Copy, Debug)]
struct Worker {
    pid: i32,
    state: State,
    body: Body,
    /// CPU time used before `since`, the moment from which it executes without a break.
    used: Duration,
    since: Instant,
    /// Whether its CPU clock can be read.
    readable: bool,
    /// The signals of the stop under way, and how it answers.
    signalled: Option<(Instant, Answer)>,
}

/// One slot.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Filled(Worker),
    /// The agent puts a new worker in then.
    Empty(Instant),
}

/// Workers and the gate before them.
#[derive(Debug)]
pub(super) struct Workers {
    slots: [Slot; WORKERS_MAX],
    budget: u8,
    random: Random,
    unruly_permille: u64,
    pids: i32,
    /// Slots whose worker executes, and when something changes by itself; `None` when that must be found out anew.
    known: Option<(Slots, Option<Instant>)>,
}

/// What changed by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// The kernel says that a child has stopped or ended.
    pub(super) child: bool,
    /// The agent says that a slot was filled.
    pub(super) filled: bool,
}

impl Worker {
    fn executes(&self) -> bool {
        match self.body {
            Body::Executing | Body::Stopping(_) | Body::Ignoring(_) => true,
            Body::Stopped | Body::Displaced { .. } | Body::Ended(_) => false,
        }
    }

    fn set_body(&mut self, now: Instant, body: Body) {
        let executed = self.executes();
        self.body = body;
        if executed && !self.executes() {
            self.used += now.since(self.since);
        } else if !executed && self.executes() {
            self.since = now;
        }
    }

    /// Its CPU clock as it reads: exact when it does not execute, else as of the last tick.
    fn cpu(&self, now: Instant) -> Option<Duration> {
        let running = if self.executes() {
            let tick = u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX);
            Instant::from_nanos(now.as_nanos() / tick * tick).since(self.since)
        } else {
            Duration::ZERO
        };
        self.readable.then_some(self.used + running)
    }

    /// When its body changes by itself.
    fn next_at(&self) -> Option<Instant> {
        match self.body {
            Body::Stopped | Body::Executing | Body::Ignoring(_) => None,
            Body::Stopping(at) | Body::Displaced { until: at, .. } | Body::Ended(at) => Some(at),
        }
    }

    /// The signals of a stop arrive.
    fn take_stop(&mut self, now: Instant, answer: Answer) {
        match self.body {
            Body::Stopped | Body::Ended(_) | Body::Stopping(_) => {}
            Body::Displaced { until, .. } => self.set_body(now, Body::Displaced { until, stop_pending: true }),
            Body::Executing | Body::Ignoring(_) => {
                let body = match answer {
                    Answer::Stops(latency) => Body::Stopping(now.after(latency)),
                    Answer::Deaf | Answer::Stubborn => Body::Ignoring(answer),
                    Answer::Displaced(span) => Body::Displaced { until: now.after(span), stop_pending: true },
                };
                self.set_body(now, body);
            }
        }
    }
}

impl Workers {
    /// All slots filled, nothing runs.
    pub(super) fn new(now: Instant, seed: u64, unruly_permille: u64) -> Self {
        let slots = [Slot::Empty(now); WORKERS_MAX];
        let mut workers = Self { slots, budget: 0, random: Random::new(seed), unruly_permille, pids: 100, known: None };
        (0..WORKERS_MAX).for_each(|slot| workers.fill(now, slot));
        workers
    }

    fn fill(&mut self, now: Instant, slot: usize) {
        self.known = None;
        self.pids += 1;
        let readable = self.random.below(50) > 0;
        self.slots[slot] = Slot::Filled(Worker {
            pid: self.pids,
            state: State::Fresh,
            body: Body::Stopped,
            used: Duration::ZERO,
            since: now,
            readable,
            signalled: None,
        });
    }

    fn filled(&self) -> impl Iterator<Item = (usize, &Worker)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| match place {
            Slot::Filled(worker) => Some((slot, worker)),
            Slot::Empty(_) => None,
        })
    }

    fn worker(&mut self, slot: usize) -> Option<&mut Worker> {
        self.known = None;
        match self.slots.get_mut(slot)? {
            Slot::Filled(worker) => Some(worker),
            Slot::Empty(_) => None,
        }
    }

    fn same(&mut self, slot: usize, pid: i32) -> Option<&mut Worker> {
        self.worker(slot).filter(|worker| worker.pid == pid)
    }

    /// Workers that execute instructions.
    pub(super) fn executing(&mut self) -> Slots {
        self.know().0
    }

    /// The signals that the worker of that slot was sent last.
    pub(super) fn signalled(&self, slot: usize) -> Option<(Instant, Answer)> {
        self.filled().find(|(filled, _)| *filled == slot).and_then(|(_, worker)| worker.signalled)
    }

    /// Whether the worker of that slot is kept from running though it could.
    pub(super) fn is_kept_stopped(&self, slot: usize) -> bool {
        self.filled().any(|(filled, worker)| filled == slot && worker.body == Body::Stopped)
    }

    // ---- what happens by itself ----

    /// When something changes by itself.
    pub(super) fn next_at(&mut self) -> Option<Instant> {
        self.know().1
    }

    fn know(&mut self) -> (Slots, Option<Instant>) {
        if let Some(known) = self.known {
            return known;
        }
        let next = |place: &Slot| match place {
            Slot::Filled(worker) => worker.next_at(),
            Slot::Empty(until) => Some(*until),
        };
        let mut executing = Slots::NONE;
        self.filled().filter(|(_, worker)| worker.executes()).for_each(|(slot, _)| executing.insert(slot));
        let known = (executing, self.slots.iter().filter_map(next).min());
        self.known = Some(known);
        known
    }

    /// Lets happen what is due.
    pub(super) fn pass(&mut self, now: Instant) -> Changed {
        let mut changed = Changed::default();
        self.known = None;
        for slot in 0..WORKERS_MAX {
            let worker = match &mut self.slots[slot] {
                Slot::Empty(until) if *until <= now => {
                    self.fill(now, slot);
                    changed.filled = true;
                    continue;
                }
                Slot::Empty(_) => continue,
                Slot::Filled(worker) => worker,
            };
            if worker.next_at().is_none_or(|at| at > now) {
                continue;
            }
            match worker.body {
                Body::Stopped | Body::Executing | Body::Ignoring(_) => {}
                Body::Stopping(_) | Body::Displaced { stop_pending: true, .. } => {
                    worker.set_body(now, Body::Stopped);
                    changed.child = true;
                }
                Body::Displaced { stop_pending: false, .. } => worker.set_body(now, Body::Executing),
                Body::Ended(_) => self.slots[slot] = Slot::Empty(now.after(part(&mut self.random, REFILL_MAX))),
            }
        }
        changed
    }

    /// The worker of that slot ends. Says whether there was one.
    pub(super) fn end(&mut self, now: Instant, slot: usize) -> bool {
        let noticed = now.after(part(&mut self.random, Duration::from_millis(5)));
        let ended = |worker: &mut Worker| worker.set_body(now, Body::Ended(noticed));
        self.worker(slot).filter(|worker| !matches!(worker.body, Body::Ended(_))).map(ended).is_some()
    }

    // ---- the gate ----

    /// As `Pass::stop_beyond`.
    pub(super) fn stop_beyond(&mut self, now: Instant, budget: u8) -> Stop {
        self.budget = budget;
        self.known = None;
        let mut stop = Stop { signalled: now, read: now, ..Stop::default() };
        for slot in usize::from(budget)..WORKERS_MAX {
            let Slot::Filled(mut worker) = self.slots[slot] else { continue };
            if worker.state != State::Runs {
                continue;
            }
            let answer = self.answer();
            stop.slots.insert(slot);
            (stop.pids[slot], stop.threads[slot]) = (worker.pid, 1);
            worker.take_stop(now, answer);
            (worker.state, worker.signalled) = (State::Stopped, Some((now, answer)));
            stop.cpu_signalled[slot] = worker.cpu(now);
            self.slots[slot] = Slot::Filled(worker);
        }
        stop
    }

    fn answer(&mut self) -> Answer {
        if self.random.below(1000) >= self.unruly_permille {
            return Answer::Stops(part(&mut self.random, PROMPT_MAX));
        }
        match self.random.below(5) {
            0 | 1 => Answer::Stops(part(&mut self.random, SLOW_MAX)),
            2 => Answer::Deaf,
            3 => Answer::Stubborn,
            _ => Answer::Displaced(part(&mut self.random, DISPLACED_MAX)),
        }
    }

    /// As `Pass::resume_below`.
    pub(super) fn resume_below(&mut self, now: Instant, unconfirmed: Slots) {
        for slot in (0..usize::from(self.budget)).filter(|slot| !unconfirmed.contains(*slot)) {
            let Some(worker) = self.worker(slot).filter(|worker| worker.state != State::Runs) else { continue };
            (worker.state, worker.signalled) = (State::Runs, None);
            match worker.body {
                Body::Stopped | Body::Stopping(_) | Body::Ignoring(_) => worker.set_body(now, Body::Executing),
                Body::Displaced { until, .. } => worker.body = Body::Displaced { until, stop_pending: false },
                Body::Executing | Body::Ended(_) => {}
            }
        }
    }

    /// As `Pass::look`.
    pub(super) fn look(&mut self, now: Instant, slot: usize, pid: i32) -> (Seen, Option<Duration>) {
        let Some(worker) = self.same(slot, pid) else { return (Seen::Exited, None) };
        let seen = match worker.body {
            Body::Stopped => Seen::Stopped,
            Body::Ended(_) => Seen::Exited,
            Body::Executing | Body::Stopping(_) | Body::Ignoring(_) | Body::Displaced { .. } => Seen::Running,
        };
        (seen, worker.cpu(now))
    }

    /// As `Pass::repeat`.
    pub(super) fn repeat(&mut self, now: Instant, slot: usize, pid: i32) {
        let latency = part(&mut self.random, PROMPT_MAX);
        let Some(worker) = self.same(slot, pid) else { return };
        if worker.body != Body::Ignoring(Answer::Stubborn) {
            worker.take_stop(now, Answer::Stops(latency));
        }
    }

    /// As `Pass::kill`.
    pub(super) fn kill(&mut self, now: Instant, slot: usize, pid: i32) {
        if self.same(slot, pid).is_some() {
            self.end(now, slot);
        }
    }

    /// Whether the worker that was stopped in that slot executes.
    pub(super) fn still_executes(&mut self, slot: usize, pid: i32) -> bool {
        self.same(slot, pid).is_some_and(|worker| worker.executes())
    }
}
