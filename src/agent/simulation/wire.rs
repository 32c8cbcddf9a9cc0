//! How do agent and broker reach each other? The link's client and the connection, as `link/connection.rs` has them.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::broker::{Broker, connect_time, retry_time};
use super::scenario::{MS, S, between, chance};
use crate::link::backoff::Cause;
use crate::link::inflight::Unacknowledged;
use crate::link::{AckToken, Command, Event, Link, Publish, Qos, Received};
use crate::sim::day::Random;
use crate::units::{Instant, PACKET_BYTES_MAX};

use super::wall;

/// Commands that the channel takes.
const COMMANDS_MAX: usize = 16;
/// QoS 1 publishes on their way at once.
const WINDOW_MAX: usize = 16;
/// Publishes that wait for the window.
const WAITING_MAX: usize = 256;
/// Silence that ends a connection.
const PATIENCE: Duration = Duration::from_secs(6);

#[derive(Debug)]
enum Upward {
    Publish { packet: Option<u16>, message: Publish },
    Ack(u16),
    Disconnect,
}

#[derive(Debug)]
enum Downward {
    Answer { packet: u16, refused: bool },
    Message { packet: u16, message: Publish },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Tries again then.
    Down(Instant),
    /// Up then, if the broker is there.
    Opening(Instant),
    Up,
    /// Nobody uses it: the agent is dead or has said goodbye.
    Ended,
}

/// Client and connection, and the broker behind them.
#[derive(Debug)]
pub(super) struct Wire {
    random: Random,
    pub(super) broker: Broker,
    /// Messages of which so many in a thousand are refused.
    pub(super) refused: u64,
    phase: Phase,
    session_present: bool,
    epoch: u64,
    half_open: bool,
    answered: Instant,
    commands: VecDeque<Command>,
    /// The client looks at the channel not before.
    pub(super) takes_at: Instant,
    waiting: VecDeque<(Publish, Option<u64>)>,
    unacknowledged: Unacknowledged,
    flying: BTreeMap<u16, Option<u64>>,
    packet: u16,
    leaving: bool,
    upward: VecDeque<(Instant, Upward)>,
    downward: VecDeque<(Instant, Downward)>,
    events: VecDeque<(Instant, Event)>,
    will: Option<Publish>,
    /// Acks that the agent gave and that were not looked at yet.
    pub(super) released: Vec<AckToken>,
    /// Publishes that the agent gave and that were not looked at yet.
    pub(super) told: Vec<(Option<u64>, Publish)>,
}

/// What the agent holds of it.
#[derive(Debug)]
pub(super) struct Port(pub(super) Rc<RefCell<Wire>>);

impl Link for Port {
    fn offer(&mut self, command: Command) -> Result<(), Box<Command>> {
        let mut wire = self.0.borrow_mut();
        if wire.commands.len() >= COMMANDS_MAX {
            return Err(Box::new(command));
        }
        match &command {
            Command::Ack(token) => wire.released.push(*token),
            Command::Publish { message, token } => wire.told.push((*token, message.clone())),
            Command::Shutdown { .. } => {}
        }
        wire.commands.push_back(command);
        Ok(())
    }
}

impl Wire {
    pub(super) fn new(random: Random, broker: Broker, refused: u64) -> Self {
        Self {
            random,
            broker,
            refused,
            phase: Phase::Ended,
            session_present: false,
            epoch: 0,
            half_open: false,
            answered: Instant::default(),
            commands: VecDeque::new(),
            takes_at: Instant::default(),
            waiting: VecDeque::new(),
            unacknowledged: Unacknowledged::default(),
            flying: BTreeMap::new(),
            packet: 0,
            leaving: false,
            upward: VecDeque::new(),
            downward: VecDeque::new(),
            events: VecDeque::new(),
            will: None,
            released: Vec::new(),
            told: Vec::new(),
        }
    }

    // ---- lives ----

    /// A new agent has a new client.
    pub(super) fn start(&mut self, now: Instant, will: Publish) {
        self.forget();
        self.phase = Phase::Down(now);
        self.epoch = 0;
        self.will = Some(will);
        self.takes_at = now;
    }

    /// The agent is dead: what is on its way may arrive, what the client holds is gone.
    pub(super) fn die(&mut self, now: Instant) {
        if self.phase != Phase::Ended {
            self.cut(now);
        }
        self.phase = Phase::Ended;
        self.commands.clear();
        self.events.clear();
        self.released.clear();
        self.told.clear();
    }

    /// The connection breaks.
    pub(super) fn disconnect(&mut self, now: Instant) {
        match self.phase {
            Phase::Up | Phase::Opening(_) => {}
            Phase::Down(_) | Phase::Ended => return,
        }
        self.cut(now);
        let wait = retry_time(&mut self.random);
        self.phase = Phase::Down(now.after(wait));
        let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(0);
        self.tell(now, Event::Down { why: "it broke, as the seed says".to_owned(), cause: Cause::Lost, retry_in_ms });
    }

    /// What was sent may still arrive; nothing comes back.
    fn cut(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Up | Phase::Opening(_)) {
            let arrive = self.random.below(self.upward.len() as u64 + 1);
            for _ in 0..arrive {
                if let Some((_, packet)) = self.upward.pop_front() {
                    self.arrive(now, packet);
                }
            }
            self.broker.lost(now, self.will.clone().filter(|_| !self.leaving));
        }
        self.forget();
    }

    /// A connection dies with everything it holds.
    fn forget(&mut self) {
        self.leaving = false;
        self.upward.clear();
        self.downward.clear();
        self.waiting.clear();
        self.flying.clear();
        self.unacknowledged = Unacknowledged::default();
        self.half_open = false;
    }

    pub(super) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    pub(super) fn has_room(&self) -> bool {
        self.commands.len() < COMMANDS_MAX
    }

    /// Nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        let client = self.commands.is_empty() && self.waiting.is_empty() && self.flying.is_empty();
        client && self.upward.is_empty() && self.downward.is_empty() && self.events.is_empty() && self.broker.is_idle()
    }

    // ---- the agent's side ----

    fn tell(&mut self, now: Instant, event: Event) {
        let last = self.events.back().map_or(now, |(at, _)| *at);
        let delay = between(&mut self.random, MS / 100, MS);
        self.events.push_back((now.after(delay).max(last), event));
    }

    pub(super) fn events_at(&self) -> Option<Instant> {
        self.events.front().map(|(at, _)| *at)
    }

    pub(super) fn event(&mut self) -> Option<Event> {
        self.events.pop_front().map(|(_, event)| event)
    }

    // ---- the client ----

    pub(super) fn works_at(&self, now: Instant) -> Option<Instant> {
        let takes = !self.commands.is_empty() && self.waiting.len() < WAITING_MAX && !self.leaving;
        let commands = takes.then_some(self.takes_at);
        let upward = self.upward.front().map(|(at, _)| *at);
        let downward = self.downward.front().map(|(at, _)| *at);
        let phase = match self.phase {
            Phase::Down(at) | Phase::Opening(at) => Some(at),
            Phase::Up => (!self.flying.is_empty() || self.half_open).then(|| self.answered.after(PATIENCE)),
            Phase::Ended => None,
        };
        let wills = self.broker.wills_at();
        [commands, upward, downward, phase, wills].into_iter().flatten().min().map(|at| at.max(now))
    }

    /// Does what is due: one thing.
    pub(super) fn work(&mut self, now: Instant) {
        if self.broker.wills_at().is_some_and(|at| at <= now) {
            self.broker.publish_wills(now);
        } else if self.downward.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, packet)) = self.downward.pop_front() {
                self.hear(now, packet);
            }
        } else if self.upward.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, packet)) = self.upward.pop_front() {
                self.arrive(now, packet);
            }
        } else if self.takes_at <= now && !self.commands.is_empty() && self.waiting.len() < WAITING_MAX {
            self.takes_at = now.after(between(&mut self.random, Duration::ZERO, MS / 10));
            if let Some(command) = self.commands.pop_front() {
                self.obey(now, command);
            }
        } else {
            self.advance(now);
        }
        self.pump(now);
    }

    fn advance(&mut self, now: Instant) {
        match self.phase {
            Phase::Down(at) if at <= now => {
                if self.broker.is_away(now) {
                    self.phase = Phase::Down(now.after(retry_time(&mut self.random)));
                    return;
                }
                self.epoch += 1;
                self.answered = now;
                self.session_present = self.broker.connect();
                self.phase = Phase::Opening(now.after(connect_time(&mut self.random)));
            }
            Phase::Opening(at) if at <= now => {
                self.phase = Phase::Up;
                let (epoch, session_present) = (self.epoch, self.session_present);
                self.tell(now, Event::Up { epoch, session_present, packet_bytes_max: PACKET_BYTES_MAX });
            }
            Phase::Up if self.answered.after(PATIENCE) <= now && (self.half_open || !self.flying.is_empty()) => {
                self.disconnect(now);
            }
            Phase::Down(_) | Phase::Opening(_) | Phase::Up | Phase::Ended => {}
        }
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Publish { message, token } if self.is_up() => match message.qos {
                Qos::AtMostOnce => self.send(now, Upward::Publish { packet: None, message }),
                Qos::AtLeastOnce => self.waiting.push_back((message, token)),
            },
            Command::Publish { .. } => {}
            Command::Ack(token) => {
                if token.epoch == self.epoch && matches!(self.phase, Phase::Up | Phase::Opening(_)) {
                    for packet in self.unacknowledged.done(token.packet) {
                        self.send(now, Upward::Ack(packet));
                    }
                }
            }
            Command::Shutdown { last_words } => {
                if self.is_up() {
                    self.waiting.extend(last_words.map(|message| (message, None)));
                    self.leaving = true;
                } else {
                    self.phase = Phase::Ended;
                    self.tell(now, Event::Closed);
                }
            }
        }
    }

    fn send(&mut self, now: Instant, packet: Upward) {
        let last = self.upward.back().map_or(now, |(at, _)| *at);
        let delay = between(&mut self.random, MS / 10, 20 * MS);
        self.upward.push_back((now.after(delay).max(last), packet));
    }

    /// Sends what windows allow, both ways.
    fn pump(&mut self, now: Instant) {
        while self.is_up()
            && self.flying.len() < WINDOW_MAX
            && let Some((message, token)) = self.waiting.pop_front()
        {
            if self.flying.is_empty() {
                self.answered = now;
            }
            self.packet = self.packet % 30 + 1;
            while self.flying.contains_key(&self.packet) {
                self.packet = self.packet % 30 + 1;
            }
            self.flying.insert(self.packet, token);
            self.send(now, Upward::Publish { packet: Some(self.packet), message });
        }
        if self.leaving && self.waiting.is_empty() && self.flying.is_empty() && self.is_up() {
            self.leaving = false;
            self.send(now, Upward::Disconnect);
            self.phase = Phase::Ended;
            self.tell(now, Event::Closed);
        }
        while matches!(self.phase, Phase::Up | Phase::Opening(_))
            && !self.half_open
            && let Some((packet, message)) = self.broker.send()
        {
            self.push(now, Downward::Message { packet, message });
        }
    }

    fn push(&mut self, now: Instant, packet: Downward) {
        let last = self.downward.back().map_or(now, |(at, _)| *at);
        let delay = between(&mut self.random, MS / 10, 20 * MS);
        self.downward.push_back((now.after(delay).max(last), packet));
    }

    // ---- the connection ----

    /// Something arrives at the broker.
    fn arrive(&mut self, now: Instant, packet: Upward) {
        if self.half_open || self.broker.is_away(now) {
            return;
        }
        match packet {
            Upward::Publish { packet, message } => {
                let refused = packet.is_some() && chance(&mut self.random, self.refused);
                if !refused {
                    self.broker.publish(now, message);
                }
                if let Some(packet) = packet {
                    self.push(now, Downward::Answer { packet, refused });
                }
            }
            Upward::Ack(packet) => {
                if !self.broker.acknowledged(packet) {
                    // Out of turn: the broker closes the connection.
                    self.disconnect(now);
                }
            }
            Upward::Disconnect => self.will = None,
        }
    }

    /// Something arrives at the client.
    fn hear(&mut self, now: Instant, packet: Downward) {
        match packet {
            Downward::Answer { packet, refused } => {
                self.answered = now;
                let Some(token) = self.flying.remove(&packet) else { return };
                if let Some(token) = token {
                    let why = "refused, as the seed says".to_owned();
                    self.tell(now, if refused { Event::Refused { token, why } } else { Event::Delivered { token } });
                }
            }
            Downward::Message { packet, message } => {
                self.unacknowledged.received(packet, 0, usize::MAX);
                let ack = Some(AckToken { epoch: self.epoch, packet });
                self.tell(now, Event::Received(Received { message, at: wall(now), ack }));
            }
        }
    }

    /// The broker takes everything and answers nothing, until the client gives up.
    pub(super) fn half_open(&mut self, now: Instant) {
        if self.is_up() {
            self.half_open = true;
            self.answered = now;
        }
    }

    /// The link takes no commands for a while.
    pub(super) fn press_back(&mut self, now: Instant) {
        self.takes_at = now.after(between(&mut self.random, 100 * MS, 5 * S));
    }
}
