//! What do workers do? Simulated processes behind handles that keep the rules of `worker/supervisor.rs`.
//!
//! CPU time passes only while the sentinel's budget reaches the worker's slot, and then at the pace of the clock.

use std::collections::VecDeque;
use std::time::Duration;

use super::scenario::{MS, Mutation, S, Shares, between, chance};
use crate::fault::{Code, Fault};
use crate::sim::day::Random;
use crate::tensor::Tensor;
use crate::units::Instant;
use crate::worker::handle::{Event, OPEN_MAX, Output, Work};
use crate::worker::jail::achieved::Achieved;

/// Longest wait before a process is started again.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Running time of an item that never ends.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

/// How an item will end, once it has had its CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answers,
    Fails(Code),
    Crashes,
}

#[derive(Debug)]
struct Errand {
    token: u64,
    item: u32,
    input: f32,
    fate: Fate,
    cpu: Duration,
    left: Duration,
    sent: bool,
}

#[derive(Debug)]
enum Order {
    Run(Errand),
    Kill { why: Code, token: Option<u64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    /// None; not to be started before.
    None(Instant),
    /// Starting, which takes so much more of its CPU time.
    Starting(Duration),
    Up,
}

#[derive(Debug)]
struct Slot {
    process: Process,
    may_start: bool,
    orders: VecDeque<(Instant, Order)>,
    queue: VecDeque<Errand>,
    /// Items handed over and not answered.
    open: usize,
    retry: Duration,
}

impl Slot {
    fn new() -> Self {
        Self {
            process: Process::None(Instant::default()),
            may_start: false,
            orders: VecDeque::new(),
            queue: VecDeque::new(),
            open: 0,
            retry: 100 * MS,
        }
    }

    /// CPU time until something happens.
    fn left(&self) -> Option<Duration> {
        match self.process {
            Process::None(_) => None,
            Process::Starting(left) => Some(left),
            Process::Up => self.queue.front().map(|errand| errand.left),
        }
    }

    fn compute(&mut self, span: Duration) {
        match &mut self.process {
            Process::None(_) => {}
            Process::Starting(left) => *left = left.saturating_sub(span),
            Process::Up => {
                if let Some(errand) = self.queue.front_mut() {
                    errand.left = errand.left.saturating_sub(span);
                }
            }
        }
    }

    /// What the process has in hand: the first, and behind it one of the same attempt.
    fn send(&mut self) {
        if self.process != Process::Up {
            return;
        }
        let token = self.queue.front().map(|errand| errand.token);
        for errand in self.queue.iter_mut().take(2).filter(|errand| Some(errand.token) == token) {
            errand.sent = true;
        }
    }
}

/// All workers and their handles.
#[derive(Debug)]
pub(super) struct Crew {
    random: Random,
    shares: Shares,
    mutation: Option<Mutation>,
    slots: Vec<Slot>,
    now: Instant,
    /// The first so many may run.
    budget: usize,
    events: VecDeque<(Instant, Event)>,
    last_output: f32,
}

impl Crew {
    pub(super) fn new(random: Random, workers: usize, shares: Shares, mutation: Option<Mutation>) -> Self {
        let slots = (0..workers).map(|_| Slot::new()).collect();
        Self {
            random,
            shares,
            mutation,
            slots,
            now: Instant::default(),
            budget: 0,
            events: VecDeque::new(),
            last_output: 0.0,
        }
    }

    /// The agent is dead, and all workers with it.
    pub(super) fn die(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = Slot::new());
        self.events.clear();
    }

    /// Faults stop. Items that never end are left to the job's limit.
    pub(super) fn calm(&mut self) {
        self.shares = Shares::default();
    }

    // ---- the sentinel's side ----

    /// The first so many run from now on, the others stand.
    pub(super) fn set_budget(&mut self, now: Instant, budget: u8) {
        self.pass(now);
        self.budget = budget.into();
    }

    fn runs(&self, slot: usize) -> bool {
        slot < self.budget || self.mutation == Some(Mutation::RunsWhileBusy)
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, now: Instant) {
        let span = now.since(self.now);
        self.now = self.now.max(now);
        for slot in 0..self.slots.len() {
            if self.runs(slot) {
                self.slots[slot].compute(span);
            }
        }
    }

    /// How many of the slots have a process with work.
    pub(super) fn busy(&self) -> u8 {
        let is_busy = |slot: &&Slot| slot.process == Process::Up && !slot.queue.is_empty();
        u8::try_from(self.slots.iter().filter(is_busy).count()).unwrap_or(u8::MAX)
    }

    // ---- the agent's side ----

    pub(super) fn run(&mut self, now: Instant, slot: usize, work: &Work) -> Result<(), String> {
        let fate = self.fate();
        let hangs = chance(&mut self.random, self.shares.hangs);
        let cpu = if hangs { FOR_EVER } else { between(&mut self.random, 10 * MS, 1500 * MS) };
        let input = work.inputs.first().and_then(Tensor::to_f32s).and_then(|values| values.first().copied());
        let input = input.ok_or_else(|| format!("item {} of token {} has no input", work.item, work.token))?;
        let (token, item) = (work.token, work.item);
        let errand = Errand { token, item, input, fate, cpu, left: cpu, sent: false };
        if self.slots[slot].open >= OPEN_MAX {
            return Err(format!("worker {slot} is handed a third item, {item} of token {token}"));
        }
        self.slots[slot].open += 1;
        self.order(now, slot, Order::Run(errand));
        Ok(())
    }

    fn fate(&mut self) -> Fate {
        if chance(&mut self.random, self.shares.crashes) {
            return Fate::Crashes;
        }
        if !chance(&mut self.random, self.shares.item_faults) {
            return Fate::Answers;
        }
        const CODES: [Code; 6] = [
            Code::ModelRun,
            Code::InputDecode,
            Code::WorkerMemory,
            Code::WorkerProtocol,
            Code::OutputTooLarge,
            Code::WorkerTimeout,
        ];
        Fate::Fails(CODES[usize::try_from(self.random.below(6)).unwrap_or(0)])
    }

    pub(super) fn kill(&mut self, now: Instant, slot: usize, why: Code, token: Option<u64>) {
        self.order(now, slot, Order::Kill { why, token });
    }

    pub(super) fn set_may_start(&mut self, slot: usize, may_start: bool) {
        self.slots[slot].may_start = may_start;
    }

    fn order(&mut self, now: Instant, slot: usize, order: Order) {
        let delay = between(&mut self.random, Duration::ZERO, MS / 2);
        let orders = &mut self.slots[slot].orders;
        let last = orders.back().map_or(now, |(at, _)| *at);
        orders.push_back((now.after(delay).max(last), order));
    }

    pub(super) fn events_at(&self) -> Option<Instant> {
        self.events.front().map(|(at, _)| *at)
    }

    pub(super) fn event(&mut self) -> Option<Event> {
        self.events.pop_front().map(|(_, event)| event)
    }

    fn tell(&mut self, now: Instant, event: Event) {
        let delay = between(&mut self.random, MS / 100, MS);
        let last = self.events.back().map_or(now, |(at, _)| *at);
        self.events.push_back((now.after(delay).max(last), event));
    }

    // ---- processes ----

    pub(super) fn works_at(&self) -> Option<Instant> {
        (0..self.slots.len()).filter_map(|slot| self.slot_at(slot)).min()
    }

    fn slot_at(&self, index: usize) -> Option<Instant> {
        let slot = &self.slots[index];
        let ordered = slot.orders.front().map(|(at, _)| *at);
        let due = match slot.process {
            Process::None(from) => slot.may_start.then(|| from.max(self.now)),
            Process::Starting(_) | Process::Up => {
                slot.left().filter(|_| self.runs(index)).map(|left| self.now.after(left))
            }
        };
        ordered.into_iter().chain(due).min()
    }

    /// Does what is due: one thing.
    pub(super) fn work(&mut self, now: Instant) {
        self.pass(now);
        let due = (0..self.slots.len()).find(|slot| self.slot_at(*slot).is_some_and(|at| at <= now));
        let Some(index) = due else { return };
        let slot = &mut self.slots[index];
        if slot.orders.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, order)) = slot.orders.pop_front() {
                self.obey(now, index, order);
            }
            self.slots[index].send();
            return;
        }
        match slot.process {
            Process::None(_) => {
                let slow = chance(&mut self.random, 100);
                let start = between(&mut self.random, 5 * MS, if slow { 3 * S } else { 50 * MS });
                self.slots[index].process = Process::Starting(start);
            }
            Process::Starting(_) => {
                slot.process = Process::Up;
                slot.send();
                self.tell(now, Event::Ready { slot: index, pid: 1, jail: Vec::new(), sandbox: Achieved::default() });
            }
            Process::Up => self.end_item(now, index),
        }
    }

    fn end_item(&mut self, now: Instant, index: usize) {
        let Some(errand) = self.slots[index].queue.front() else { return };
        let outcome = match errand.fate {
            Fate::Crashes => {
                self.exit(now, index, Fault::new(Code::WorkerCrashed, "it crashed, as the seed says"));
                return;
            }
            Fate::Fails(code) => Err(Fault::new(code, "it failed, as the seed says")),
            Fate::Answers => {
                let right = errand.input + 1.0;
                let is_wrong = self.mutation == Some(Mutation::WrongAnswer) && self.last_output > 0.0;
                let value = if is_wrong { self.last_output } else { right };
                self.last_output = right;
                let tensors = Tensor::f32s("y", vec![1], &[value]).into_iter().collect();
                let cpu = errand.cpu;
                Ok(Output { tensors, cpu, wall: cpu, load_cpu: None, peak_bytes: 1 })
            }
        };
        self.slots[index].retry = 100 * MS;
        self.answer(now, index, outcome);
        self.slots[index].send();
    }

    fn answer(&mut self, now: Instant, index: usize, outcome: Result<Output, Fault>) {
        let slot = &mut self.slots[index];
        let Some(errand) = slot.queue.pop_front() else { return };
        slot.open -= 1;
        self.tell(now, Event::Done { slot: index, token: errand.token, item: errand.item, outcome });
    }

    fn obey(&mut self, now: Instant, index: usize, order: Order) {
        let slot = &mut self.slots[index];
        match order {
            Order::Run(errand) => slot.queue.push_back(errand),
            Order::Kill { why, token } => {
                let is_at_it = slot.queue.front().is_some_and(|errand| errand.sent && Some(errand.token) == token);
                let fault = Fault::new(why, "killed by the agent");
                if (token.is_none() || is_at_it) && !matches!(slot.process, Process::None(_)) {
                    self.exit(now, index, fault);
                    return;
                }
                let is_withdrawn = |errand: &Errand| Some(errand.token) == token;
                for errand in self.withdraw(index, is_withdrawn) {
                    let outcome = Err(fault.clone());
                    self.tell(now, Event::Done { slot: index, token: errand.token, item: errand.item, outcome });
                }
            }
        }
    }

    fn withdraw(&mut self, index: usize, which: impl Fn(&Errand) -> bool) -> Vec<Errand> {
        let slot = &mut self.slots[index];
        let (out, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut slot.queue).into_iter().partition(which);
        slot.queue = kept.into();
        slot.open -= out.len();
        out
    }

    /// A process ends; the work it was at is void.
    fn exit(&mut self, now: Instant, index: usize, fault: Fault) {
        let slot = &mut self.slots[index];
        let was_killed = !matches!(fault.code, Code::WorkerCrashed | Code::WorkerStart);
        let retry_in = if was_killed { Duration::ZERO } else { slot.retry };
        if !was_killed {
            slot.retry = (slot.retry * 2).min(RETRY_MAX);
        }
        slot.process = Process::None(now.after(retry_in));
        let first = slot.queue.front().filter(|errand| errand.sent || fault.code == Code::WorkerStart);
        let token = first.map(|errand| errand.token);
        for (_, order) in std::mem::take(&mut self.slots[index].orders) {
            self.obey(now, index, order);
        }
        self.withdraw(index, |errand| Some(errand.token) == token);
        self.tell(now, Event::Exited { slot: index, token, fault: Some(fault), retry_in });
    }

    /// A process dies by itself.
    pub(super) fn lose(&mut self, now: Instant) {
        self.pass(now);
        let index = usize::try_from(self.random.below(self.slots.len() as u64)).unwrap_or(0);
        let code = match self.slots[index].process {
            Process::None(_) => return,
            Process::Starting(_) => Code::WorkerStart,
            Process::Up => Code::WorkerCrashed,
        };
        self.exit(now, index, Fault::new(code, "it ended, as the seed says"));
    }
}
