//! What does the agent do about everything it hears? All of its logic, and nothing that it could touch.
//!
//! Inputs are methods that carry `now`: what the sentinel, the workers, the store, the link and the memory have to tell
//! ([`hear`](super::hear), [`memory`](super::memory), [`commands`](super::commands)). Outputs are [`Act`]s, to be done in
//! their order, and what the courier hands to the [`Link`]. The daemon's shell does them for real; a simulation does
//! them in a world of its own, with the very same code.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::commands::Waiting;
use super::courier::Courier;
use super::desk::{Desk, Effect, Now};
use super::keeper::Request;
use super::outbox::Outbox;
use super::outlook::Outlooks;
use super::planning::{self, Planning};
use super::pressure::Relief;
use super::probe::{self, Probe};
use super::reports::Impairment;
use super::telemetry::Telemetry;
use super::tuning::Tuning;
use crate::fault::Code;
use crate::governor::Order;
use crate::jobs::store::Batch;
use crate::link::Link;
use crate::link::topics::Topics;
use crate::sys::usage::HostUsage;
use crate::telemetry::LogLimit;
use crate::units::{Instant, PACKET_BYTES_MAX, WallTime};
use crate::worker::handle::Work;

/// What is to be done, in order.
#[derive(Debug)]
pub(super) enum Act {
    /// Ask the store.
    Store(Request),
    /// Hand work to a worker.
    Work { slot: usize, work: Work },
    /// Kill a worker, and with it its work of that token; without one whatever it does.
    Kill { slot: usize, why: Code, token: Option<u64> },
    /// The worker of this slot now runs the job of this token; 0: none. Goes into yield records.
    Token { slot: usize, token: u64 },
    /// A process may be started for that slot, or may not.
    MayStart { slot: usize, may_start: bool },
    /// Tell the sentinel.
    Order(Order),
    /// Hand a controller's load report to its source.
    Plan(planning::Heard),
}

/// What the core knows of the configuration; the desk has its own part.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// Names of the node.
    pub(super) topics: Topics,
    /// Workers that hear nothing of the sentinel for longer stop themselves.
    pub(super) dead_man: Duration,
    /// Memory must not have been short for so long before workers start again.
    pub(super) memory_calm: Duration,
    /// Age at which a controller's load report is no longer believed; `None`: no source takes any.
    pub(super) plan_age_max: Option<Duration>,
}

/// The agent's logic and everything it remembers.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) terms: Terms,
    pub(super) desk: Desk,
    pub(super) courier: Courier,
    pub(super) telemetry: Telemetry,
    /// What is expected of the hours to come; nothing until it is given a forecast.
    pub(super) outlooks: Outlooks,
    pub(super) outbox: Outbox,
    pub(super) relief: Relief,
    pub(super) probe: Probe,
    pub(super) tuning: Tuning,
    pub(super) planning: Planning,
    pub(super) acts: VecDeque<Act>,
    /// Command replies that wait for the store.
    pub(super) replies: BTreeMap<u64, Waiting>,
    pub(super) reply_count: u64,
    pub(super) hold_until: Option<Instant>,
    pub(super) connected: bool,
    /// How many alarms are told.
    pub(super) alarms: LogLimit,
    /// Largest packet that may be published, by the last connection.
    pub(super) packet_bytes_max: usize,
    since: WallTime,
}

impl Core {
    /// A core around a desk, that reaches the broker over `link`.
    pub(super) fn new(
        now: Now,
        terms: Terms,
        desk: Desk,
        link: impl Link + 'static,
        host: fn() -> Option<HostUsage>,
    ) -> Self {
        Self {
            relief: Relief::new(terms.memory_calm),
            probe: Probe::new(terms.topics.state()),
            tuning: Tuning::default(),
            planning: Planning::new(terms.plan_age_max),
            terms,
            desk,
            courier: Courier::new(link),
            telemetry: Telemetry::new(host),
            outlooks: Outlooks::default(),
            outbox: Outbox::default(),
            acts: VecDeque::new(),
            replies: BTreeMap::new(),
            reply_count: 0,
            hold_until: None,
            connected: false,
            alarms: LogLimit::new(20, 60),
            packet_bytes_max: PACKET_BYTES_MAX,
            since: now.wall,
        }
    }

    /// The next thing to do.
    pub(super) fn next_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// Whether the broker is reached.
    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// When the agent started.
    pub(super) fn since(&self) -> WallTime {
        self.since
    }

    /// What is due now, and what follows from whatever was heard. To be called after every input.
    pub(super) fn turn(&mut self, now: Now) {
        self.end_hold_if_due(now.mono);
        self.desk.tick(now);
        if self.desk.reports.closed().is_none() {
            self.telemetry.watch_host(now);
        }
        self.look_at_broker(now);
        self.take_effects();
        self.deliver(now);
        self.tell_outlook(now);
        if self.connected {
            for message in self.telemetry.due(now, &self.desk, &self.courier) {
                if self.probe.takes(&message.topic, &message.body) {
                    self.courier.offer(probe::TOKEN, message);
                } else {
                    self.courier.publish(message);
                }
            }
        }
    }

    fn look_at_broker(&mut self, now: Now) {
        if self.probe.turn(now.mono) {
            self.telemetry.state_changed();
        }
        let trouble = self.probe.trouble().map(str::to_owned);
        self.impair(now, Impairment::Broker, trouble);
    }

    /// When [`Core::turn`] is due at the latest, as time from now; `None`: not before something is heard.
    pub(super) fn next_turn(&self, now: Now) -> Option<Duration> {
        let telemetry = if self.connected { self.telemetry.next(now) } else { None };
        let hold = self.hold_until.map(|until| until.since(now.mono));
        let probe = self.probe.next(now.mono);
        let outbox = self.outbox.next(now.mono);
        self.desk.next_tick(now).into_iter().chain(telemetry).chain(hold).chain(probe).chain(outbox).min()
    }

    /// Deletes what arrived, when something else is committed as well, or it is time, or more is to be read.
    fn deliver(&mut self, now: Now) {
        let commits = self.acts.iter().any(|act| matches!(act, Act::Store(Request::Commit { .. })));
        if commits || self.outbox.is_due(now.mono) || self.outbox.wants_to_read() {
            self.settle();
        }
    }

    /// Turns the desk's effects into acts. Deletes what arrived, then reads what may be offered: in this order, or it
    /// would be offered twice.
    pub(super) fn settle(&mut self) {
        self.take_effects();
        let settled = self.outbox.take_settled();
        if !settled.is_empty() {
            self.desk.report(Batch { delivered: settled, ..Batch::default() }, None);
            self.take_effects();
        }
        if let Some((after, max)) = self.outbox.wants() {
            self.acts.push_back(Act::Store(Request::Outbox { after, max }));
        }
    }

    fn take_effects(&mut self) {
        while let Some(effect) = self.desk.next_effect() {
            match effect {
                Effect::Ask(request) => self.acts.push_back(Act::Store(request)),
                Effect::Work { slot, work } => self.acts.push_back(Act::Work { slot, work }),
                Effect::Kill { slot, why, token } => self.acts.push_back(Act::Kill { slot, why, token: Some(token) }),
                Effect::Empty { slot, why } => self.acts.push_back(Act::Kill { slot, why, token: None }),
                Effect::Token { slot, token } => self.acts.push_back(Act::Token { slot, token }),
                Effect::Ack(ack) => self.courier.ack(ack),
                Effect::Publish(message) => self.courier.publish(message),
                Effect::Tell { messages, ack } => self.courier.tell(messages, ack),
                Effect::Outbox => self.outbox.stored(),
            }
        }
    }

    /// Everything that may wait in here, for who looks whether it is bounded.
    #[cfg(test)]
    pub(super) fn queued(&self) -> [(&'static str, usize); 7] {
        let [waiting, held] = self.courier.queued();
        let [pending, effects] = self.desk.queued();
        [
            ("acts", self.acts.len()),
            ("replies", self.replies.len()),
            ("courier", waiting),
            ("courier's held", held),
            ("outbox", self.outbox.queued()),
            ("desk's commits", pending),
            ("desk's effects", effects),
        ]
    }

    // ---- the end ----

    /// Nothing starts any more, and running jobs go back to the queue.
    pub(super) fn wind_down(&mut self, now: Now) {
        self.acts.push_back(Act::Order(Order::Drain));
        self.desk.give_back(now);
        self.settle();
    }

    /// Everything is committed, and, while connected, everything delivered.
    pub(super) fn is_flushed(&self) -> bool {
        self.desk.nothing_pending() && (!self.connected || self.outbox.is_idle())
    }

    /// Says goodbye.
    pub(super) fn last_words(&mut self, now: Now) {
        self.courier.shut_down(self.desk.reports.death(now.wall));
    }
}
