//! What does the shell around the core do? The same as the daemon's, in this world instead of the real one.

use super::{World, settings, terms, wall};
use crate::agent::core::{Act, Core};
use crate::agent::desk::{Desk, Now};
use crate::agent::keeper::Answer;
use crate::agent::pressure::Shortage;
use crate::agent::reports::{Impairment, Reports};
use crate::agent::simulation::scenario::{MS, Mutation, S, between};
use crate::agent::simulation::wire::Port;
use crate::link::messages::Info;
use crate::link::{Event as LinkEvent, topics::Down};
use crate::sentinel::Report;
use crate::units::Instant;

/// The loop looks around at least this often.
const TURN_MAX: std::time::Duration = S;
/// The memory is looked at this often.
const MEMORY_EVERY: std::time::Duration = std::time::Duration::from_secs(2);
/// Timers that may ring in a row without anything else happening and without time passing.
const SPINS_MAX: u32 = 50;

/// The end of an orderly stop.
#[derive(Clone, Copy, Debug)]
struct Ending {
    /// The last words are said.
    said: bool,
    until: Instant,
}

/// A living agent.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) core: Core,
    turn_at: Instant,
    memory_at: Instant,
    ending: Option<Ending>,
    spins: (Instant, u32),
}

/// What the agent can hear, or notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Link,
    Store,
    Worker,
    Sentinel,
    Room,
    Timer,
}

impl World {
    fn both(&self) -> Now {
        Now::sure(self.now, wall(self.now))
    }

    pub(super) fn start_agent(&mut self) -> Result<(), String> {
        let (topics, workers) = (super::topics(), self.scenario.workers);
        let sources = vec!["push".to_owned()];
        let now = self.both();
        let reports = Reports::new(topics, Info::default(), sources, &self.scenario.policy, now.wall);
        self.audit.restart();
        self.wire.borrow_mut().start(self.now, reports.will(now.wall));
        let opened = self.disk.open(self.now);
        let (jobs, trouble) = opened.map_or_else(|why| (Vec::new(), Some(why)), |jobs| (jobs, None));
        let desk = Desk::new(now, settings(&self.scenario), super::library(), reports, workers, jobs);
        self.radio.restart(self.now);
        self.crew.set_budget(self.now, 0);
        let port = Port(std::rc::Rc::clone(&self.wire));
        let mut core = Core::new(now, terms(), desk, port, || None);
        self.audit.heard_disk(trouble.is_some(), trouble.is_none());
        core.impair(now, Impairment::Disk, trouble);
        let spins = (self.now, 0);
        self.node = Some(Node { core, turn_at: self.now, memory_at: self.now, ending: None, spins });
        self.note(&[1], || "the agent starts".to_owned());
        self.after_input()
    }

    /// The agent is gone, from one instruction to the next.
    pub(super) fn kill_agent(&mut self) -> Result<(), String> {
        self.note(&[2], || "the agent is killed".to_owned());
        self.kill_after = None;
        self.node = None;
        self.crew.die();
        self.disk.crash()?;
        self.wire.borrow_mut().die(self.now);
        let wait = if self.is_calm { MS } else { 3 * S };
        self.starts_at = self.now.after(between(&mut self.random, MS, wait));
        self.look_at_disk()
    }

    /// SIGTERM.
    pub(super) fn stop_agent(&mut self) -> Result<(), String> {
        let now = self.both();
        let Some(node) = self.node.as_mut().filter(|node| node.ending.is_none()) else { return Ok(()) };
        node.core.wind_down(now);
        node.ending = Some(Ending { said: false, until: self.now.after(600 * MS) });
        self.note(&[3], || "the agent is stopped".to_owned());
        self.perform()?;
        self.crew.die();
        self.after_input()
    }

    /// When the agent has something to hear, or to do.
    pub(super) fn input_at(&self) -> Option<(Instant, Input)> {
        let node = self.node.as_ref()?;
        let wire = self.wire.borrow();
        let room = (node.core.courier.is_waiting() && wire.has_room()).then_some(self.now);
        let runs = node.ending.is_none();
        let inputs = [
            (wire.events_at(), Input::Link),
            (self.disk.answers_at(), Input::Store),
            (room, Input::Room),
            (Some(node.turn_at), Input::Timer),
            (self.crew.events_at().filter(|_| runs), Input::Worker),
            (self.radio.reports_at().filter(|_| runs), Input::Sentinel),
        ];
        let inputs = inputs.into_iter().filter_map(|(at, input)| at.map(|at| (at.max(self.now), input)));
        inputs.min_by_key(|(at, _)| *at)
    }

    pub(super) fn hear(&mut self, input: Input) -> Result<(), String> {
        let now = self.both();
        match input {
            Input::Link => self.hear_link(now)?,
            Input::Store => {
                if let Some(answer) = self.disk.answer()
                    && !self.hear_store(now, answer)
                {
                    return self.kill_agent();
                }
            }
            Input::Worker => {
                if let Some(event) = self.crew.event() {
                    self.note(&[6], || format!("worker: {event:?}"));
                    self.audit.answered(&event)?;
                    if let Some(node) = &mut self.node {
                        node.core.hear_worker(now, event);
                    }
                }
            }
            Input::Sentinel => self.hear_sentinel(now),
            Input::Room => {
                if let Some(node) = &mut self.node {
                    node.core.courier.flush();
                }
            }
            Input::Timer => self.ring()?,
        }
        self.after_input()
    }

    fn hear_link(&mut self, now: Now) -> Result<(), String> {
        let Some(event) = self.wire.borrow_mut().event() else { return Ok(()) };
        self.note(&[4], || super::words(&event));
        let Some(node) = &mut self.node else { return Ok(()) };
        if let LinkEvent::Received(received) = &event
            && let Some(ack) = received.ack
        {
            self.audit.received(&received.message, ack);
            let is_submit = matches!(super::topics().parse_down(&received.message.topic), Some(Down::Submit(_)));
            if is_submit && self.scenario.mutation == Some(Mutation::EarlyAck) {
                node.core.courier.ack(ack);
            }
        }
        if let LinkEvent::Delivered { token } | LinkEvent::Refused { token, .. } = &event {
            self.audit.delivered(*token);
        }
        let is_closed = event == LinkEvent::Closed;
        node.core.hear_link(now, event);
        if is_closed && let Some(ending) = &mut node.ending {
            ending.until = self.now;
        }
        Ok(())
    }

    /// `false` when the agent cannot go on.
    fn hear_store(&mut self, now: Now, answer: Answer) -> bool {
        match &answer {
            Answer::Committed { ticket, outcome } => {
                let (ticket, is_refused) = (*ticket, outcome.is_err());
                self.note(&[5, ticket, is_refused.into()], || match is_refused {
                    true => format!("store: ticket {ticket} is refused"),
                    false => format!("store: ticket {ticket} is durable"),
                });
                self.audit.committed(ticket, is_refused);
            }
            Answer::Fetched { id, slot, .. } => {
                let slot = *slot;
                self.note(&[15, slot as u64], || format!("store: input of {id} for slot {slot}"));
            }
            Answer::Outbox { messages } => {
                let count = messages.len();
                self.note(&[16, count as u64], || format!("store: {count} messages of the outbox"));
            }
            Answer::Result { reply, .. } => {
                let reply = *reply;
                self.note(&[17, reply], || format!("store: a result for reply {reply}"));
            }
            Answer::Disk(why) => {
                let refuses = why.is_some();
                self.audit.heard_disk(refuses, false);
                self.note(&[18, refuses.into()], || format!("store: the disk refuses: {refuses}"));
            }
            Answer::Stored { commits, messages } => {
                let (commits, count) = (*commits, messages.len());
                self.note(&[25, commits as u64, count as u64], || {
                    format!("store: hands over {count} messages of {commits} commits")
                });
            }
            Answer::Opened(found) => {
                let jobs = found.jobs.len();
                self.audit.heard_disk(true, true);
                self.note(&[26, jobs as u64], || format!("store: is open, with {jobs} jobs"));
            }
            Answer::Kept => self.note(&[27], || "store: keeps messages to be read".to_owned()),
            Answer::Unread { .. } | Answer::Dropped { .. } | Answer::Broken(_) => {}
        }
        self.node.as_mut().is_some_and(|node| node.core.hear_store(now, answer).is_ok())
    }

    fn hear_sentinel(&mut self, now: Now) {
        while let Some(report) = self.radio.take_report(self.now) {
            if let Report::Mode { decision, .. } = &report {
                let decision = *decision;
                self.audit.told_budget(decision.budget);
                let (mode, budget) = (decision.mode as u64, decision.budget);
                self.note(&[7, mode, budget.into()], || format!("sentinel: {:?}, budget {budget}", decision.mode));
            }
            if let Some(node) = &mut self.node {
                node.core.hear_sentinel(now, report);
            }
        }
    }

    /// The timer rings, or an orderly end takes its next step.
    fn ring(&mut self) -> Result<(), String> {
        let Some(node) = &mut self.node else { return Ok(()) };
        node.spins = match node.spins {
            (at, spins) if at == self.now => (at, spins + 1),
            (_, _) => (self.now, 0),
        };
        match node.spins.1 > SPINS_MAX {
            true => Err("the agent's timer rings again and again in the same moment".to_owned()),
            false => Ok(()),
        }
    }

    /// What follows from whatever was heard: the turn of the loop.
    pub(super) fn after_input(&mut self) -> Result<(), String> {
        let now = self.both();
        let Some(node) = &mut self.node else { return Ok(()) };
        if node.ending.is_some() {
            return self.end();
        }
        if node.core.watches_memory() && node.memory_at <= self.now {
            node.memory_at = self.now.after(MEMORY_EVERY);
            let shortage = Shortage::Available { bytes: 3 << 20, min: 64 << 20 };
            node.core.hear_memory(now, (self.now < self.memory_short_until).then_some(shortage));
        }
        node.core.telemetry.overflowed(self.radio.overflowed);
        let answers = self.disk.look(self.now);
        self.look_at_disk()?;
        for answer in answers {
            if !self.hear_store(now, answer) {
                return self.kill_agent();
            }
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        node.core.turn(now);
        self.perform()?;
        if let Some(node) = &mut self.node {
            let due = node.core.next_turn(now).unwrap_or(TURN_MAX).min(TURN_MAX);
            // The runtime's timers have a resolution of a millisecond.
            node.turn_at = self.now.after(due.max(MS));
            self.audit.bounds(&node.core, &self.scenario)?;
        }
        Ok(())
    }

    /// One step of the orderly end: flush, last words, gone.
    fn end(&mut self) -> Result<(), String> {
        let now = self.both();
        let Some(node) = &mut self.node else { return Ok(()) };
        node.core.settle();
        self.perform()?;
        let Some(node) = &mut self.node else { return Ok(()) };
        let Some(ending) = &mut node.ending else { return Ok(()) };
        if !ending.said && (node.core.is_flushed() || ending.until <= self.now) {
            *ending = Ending { said: true, until: self.now.after(800 * MS) };
            node.core.last_words(now);
        }
        node.turn_at = ending.until;
        let is_over = ending.said && ending.until <= self.now;
        self.perform()?;
        if !is_over || self.node.is_none() {
            return Ok(());
        }
        self.node = None;
        self.note(&[8], || "the agent has stopped".to_owned());
        let is_done = self.disk.finish(self.now)?;
        self.wire.borrow_mut().die(self.now);
        self.starts_at = self.now.after(between(&mut self.random, MS, 3 * S));
        self.look_at_disk()?;
        let started = self.disk.shelf.jobs.values().find(|job| job.state.is_started());
        match started.filter(|_| is_done && self.audit.has_store()) {
            Some(job) => Err(format!("{} is {:?} after an orderly end", job.id, job.state)),
            None => Ok(()),
        }
    }

    /// Does what the core wants done, and looks at it.
    fn perform(&mut self) -> Result<(), String> {
        while let Some(act) = self.node.as_mut().and_then(|node| node.core.next_act()) {
            match &mut self.kill_after {
                Some(0) => return self.kill_agent(),
                Some(left) => *left -= 1,
                None => {}
            }
            self.audit.act(&act, &self.disk)?;
            self.act(act)?;
        }
        self.look_at_link()?;
        self.audit.acted()
    }

    fn act(&mut self, act: Act) -> Result<(), String> {
        let now = self.now;
        match act {
            Act::Store(request) => {
                self.note(&[9], || super::asked(&request));
                let answer = self.disk.ask(now, request);
                self.look_at_disk()?;
                if let Some(answer) = answer {
                    if !self.hear_store(self.both(), answer) {
                        return self.kill_agent();
                    }
                    if let Some(node) = &mut self.node {
                        node.core.settle();
                    }
                }
            }
            Act::Work { slot, work } => {
                let (token, item) = (work.token, work.item);
                self.note(&[10, slot as u64, token, item.into()], || {
                    format!("  → worker {slot}: item {item} of token {token}")
                });
                self.crew.run(now, slot, &work)?;
            }
            Act::Kill { slot, why, token } => {
                self.note(&[11, slot as u64, token.unwrap_or(0)], || {
                    format!("  → worker {slot}: kill, {why}, token {token:?}")
                });
                self.crew.kill(now, slot, why, token);
            }
            Act::Token { slot, token } => self.radio.set_token(slot, token),
            Act::MayStart { slot, may_start } => self.crew.set_may_start(slot, may_start),
            // No source of these worlds takes any.
            Act::Plan(_) => {}
            Act::Order(order) => {
                self.note(&[12, order as u64], || format!("  → sentinel: {order:?}"));
                self.radio.order(now, order, self.crew.busy());
                self.crew.set_budget(now, self.radio.budget());
            }
        }
        Ok(())
    }

    /// What the agent gave to the link.
    fn look_at_link(&mut self) -> Result<(), String> {
        let (released, told) = {
            let mut wire = self.wire.borrow_mut();
            (std::mem::take(&mut wire.released), std::mem::take(&mut wire.told))
        };
        for (token, message) in told {
            self.note(&[13, token.unwrap_or(0)], || super::told(token, &message));
            self.audit.told(token.filter(|token| *token != u64::MAX), &message)?;
        }
        for ack in released {
            self.note(&[14, ack.epoch, ack.packet.into()], || format!("  → link: ack {}/{}", ack.epoch, ack.packet));
            self.audit.acknowledged(ack)?;
        }
        Ok(())
    }
}
