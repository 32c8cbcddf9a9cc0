//! What does the broker make of what it is given? Sessions, retained messages, Wills, and a memory that can be lost.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::scenario::{MS, S, between, chance};
use crate::link::Publish;
use crate::link::topics::Topics;
use crate::sim::day::Random;
use crate::units::Instant;

/// QoS 1 messages on their way to the agent at once.
const RECEIVE_MAX: usize = 16;
/// How long a Will waits for its client to come back.
const WILL_DELAY: Duration = Duration::from_secs(3);
/// Messages that wait for one client; the oldest give way.
const WAITING_MAX: usize = 1000;

/// The agent's session.
#[derive(Debug, Default)]
struct Session {
    waiting: VecDeque<Publish>,
    /// Sent and not acknowledged, in their order.
    flying: VecDeque<(u16, Publish)>,
    packet: u16,
}

/// The broker.
#[derive(Debug)]
pub(super) struct Broker {
    random: Random,
    topics: Topics,
    /// Messages of which so many in a thousand arrive twice.
    pub(super) twice: u64,
    pub(super) retained: BTreeMap<String, Publish>,
    session: Option<Session>,
    /// On their way to the controller.
    to_controller: VecDeque<(Instant, Publish)>,
    /// Wills that wait for their time.
    wills: Vec<(Instant, Publish)>,
    /// The last Will that was published or called off.
    old_will: Option<Publish>,
    pub(super) away_until: Instant,
}

impl Broker {
    pub(super) fn new(random: Random, topics: Topics, twice: u64) -> Self {
        Self {
            random,
            topics,
            twice,
            retained: BTreeMap::new(),
            session: None,
            to_controller: VecDeque::new(),
            wills: Vec::new(),
            old_will: None,
            away_until: Instant::default(),
        }
    }

    pub(super) fn is_away(&self, now: Instant) -> bool {
        now < self.away_until
    }

    /// Killed, with its memory.
    pub(super) fn wipe(&mut self) {
        self.retained.clear();
        self.session = None;
        self.to_controller.clear();
        self.wills.clear();
    }

    // ---- the agent's side ----

    /// The agent connects and subscribes: whether its session is still there.
    pub(super) fn connect(&mut self) -> bool {
        let present = self.session.is_some();
        let session = self.session.get_or_insert_default();
        let again = std::mem::take(&mut session.flying);
        for (_, message) in again.into_iter().rev() {
            session.waiting.push_front(message);
        }
        for topic in [self.topics.state(), self.topics.fleet_hold()] {
            session.waiting.extend(self.retained.get(&topic).cloned());
        }
        self.old_will = self.wills.pop().map(|(_, will)| will).or(self.old_will.take());
        self.wills.clear();
        present
    }

    /// The connection ended without a goodbye.
    pub(super) fn lost(&mut self, now: Instant, will: Option<Publish>) {
        self.wills.extend(will.map(|will| (now.after(WILL_DELAY), will)));
    }

    /// The next message that may be sent to the agent, with its packet id; now and then the same again.
    pub(super) fn send(&mut self) -> Option<(u16, Publish)> {
        let session = self.session.as_mut()?;
        if session.flying.len() >= RECEIVE_MAX {
            return None;
        }
        let message = session.waiting.pop_front()?;
        if chance(&mut self.random, self.twice) {
            session.waiting.push_back(message.clone());
        }
        session.packet = session.packet % 40 + 1;
        while session.flying.iter().any(|(packet, _)| *packet == session.packet) {
            session.packet = session.packet % 40 + 1;
        }
        session.flying.push_back((session.packet, message.clone()));
        Some((session.packet, message))
    }

    /// The agent acknowledged a message: whether it was its turn.
    pub(super) fn acknowledged(&mut self, packet: u16) -> bool {
        let Some(session) = self.session.as_mut() else { return true };
        match session.flying.front() {
            Some((first, _)) if *first == packet => {
                session.flying.pop_front();
                true
            }
            Some(_) | None => false,
        }
    }

    /// The agent publishes.
    pub(super) fn publish(&mut self, now: Instant, message: Publish) {
        if message.retain {
            self.retained.insert(message.topic.clone(), message.clone());
        }
        if message.topic == self.topics.state() {
            self.hand_to_agent(Publish { retain: false, ..message.clone() });
        }
        let again = chance(&mut self.random, self.twice);
        for _ in 0..if again { 2 } else { 1 } {
            let last = self.to_controller.back().map_or(now, |(at, _)| *at);
            let delay = between(&mut self.random, MS, 50 * MS);
            self.to_controller.push_back((now.after(delay).max(last), message.clone()));
        }
    }

    fn hand_to_agent(&mut self, message: Publish) {
        if let Some(session) = self.session.as_mut() {
            if session.waiting.len() >= WAITING_MAX {
                session.waiting.pop_front();
            }
            session.waiting.push_back(message);
        }
    }

    // ---- the controller's side ----

    /// The controller publishes; `false` when the broker is not there, or its answer is lost.
    pub(super) fn take(&mut self, now: Instant, message: &Publish) -> bool {
        if self.is_away(now) {
            return false;
        }
        if message.topic == self.topics.fleet_hold() {
            if message.body.is_empty() {
                self.retained.remove(&message.topic);
            } else {
                self.retained.insert(message.topic.clone(), message.clone());
            }
        }
        self.hand_to_agent(message.clone());
        !chance(&mut self.random, self.twice)
    }

    pub(super) fn delivery_at(&self) -> Option<Instant> {
        self.to_controller.front().map(|(at, _)| *at)
    }

    pub(super) fn delivery(&mut self) -> Option<Publish> {
        self.to_controller.pop_front().map(|(_, message)| message)
    }

    // ---- Wills ----

    pub(super) fn wills_at(&self) -> Option<Instant> {
        self.wills.iter().map(|(at, _)| *at).min().map(|at| at.max(self.away_until))
    }

    pub(super) fn publish_wills(&mut self, now: Instant) {
        let (due, kept) = std::mem::take(&mut self.wills).into_iter().partition(|(at, _)| *at <= now);
        self.wills = kept;
        let due: Vec<(Instant, Publish)> = due;
        for (_, will) in due {
            self.old_will = Some(will.clone());
            self.publish(now, will);
        }
    }

    /// The Will of a session that has long come back is published late.
    pub(super) fn publish_old_will(&mut self, now: Instant) {
        if let Some(will) = self.old_will.clone().filter(|_| !self.is_away(now)) {
            self.publish(now, will);
        }
    }

    /// Nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        let session =
            self.session.as_ref().is_none_or(|session| session.waiting.is_empty() && session.flying.is_empty());
        session && self.to_controller.is_empty() && self.wills.is_empty()
    }
}

/// How long a connect takes.
pub(super) fn connect_time(random: &mut Random) -> Duration {
    between(random, 5 * MS, 200 * MS)
}

/// How long until a client tries again.
pub(super) fn retry_time(random: &mut Random) -> Duration {
    between(random, 50 * MS, 2 * S)
}
