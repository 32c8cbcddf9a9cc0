//! What happens next? All parts of one world, and the loop that lets time pass.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::audit::{Audit, Heard};
use super::broker::Broker;
use super::controller::Controller;
use super::crew::Crew;
use super::disk::Disk;
use super::node::{Input, Node};
use super::radio::Radio;
use super::scenario::{Fault, MS, Mutation, S, Scenario, about, between, wrong_outlook};
use super::trace::{Trace, Words, digest};
use super::wire::Wire;
use super::{BEGIN, since_begin, tail, topics, wall};
use crate::link::Publish;
use crate::link::messages::{NodeState, Reply};
use crate::link::topics::Up;
use crate::sim::day::Random;
use crate::units::Instant;

/// After the faults everything must have drained within this time.
const CALM_MAX: Duration = Duration::from_secs(900);
/// More than any world needs.
const STEPS_MAX: u64 = 2_000_000;

/// What a world brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) steps: u64,
    pub(super) accepted: usize,
    pub(super) kills: u64,
    /// Fingerprint of everything that happened.
    pub(super) trace: u64,
}

/// A promise that was not kept.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) seed: u64,
    pub(super) at: Duration,
    pub(super) what: String,
    pub(super) recent: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, what, recent } = self;
        recent.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        writeln!(f, "world of seed {seed}, after {} s: {what}", at.as_secs_f64())?;
        write!(f, "to see all of it: NEAP_SEED={seed} cargo test --lib agent::simulation")
    }
}

/// What is due next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Calm,
    Fault(usize),
    Start,
    Input(Input),
    Disk,
    Crew,
    Radio,
    Wire,
    Controller,
    Delivery,
}

/// All of it.
#[derive(Debug)]
pub(in crate::agent) struct World {
    pub(super) scenario: Scenario,
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) trace: Trace,
    pub(super) audit: Audit,
    pub(super) wire: Rc<RefCell<Wire>>,
    pub(super) disk: Disk,
    pub(super) crew: Crew,
    pub(super) radio: Radio,
    pub(super) controller: Controller,
    /// Faults and when they come next.
    faults: Vec<(Fault, Duration, Instant)>,
    pub(super) node: Option<Node>,
    pub(super) starts_at: Instant,
    pub(super) is_calm: bool,
    pub(super) memory_short_until: Instant,
    /// The agent is killed after so many acts.
    pub(super) kill_after: Option<u64>,
    kills: u64,
    results_told: u64,
}

impl World {
    /// Plays the world of that seed to its end.
    pub(super) fn play(seed: u64, mutation: Option<Mutation>, words: Words) -> Result<Summary, Failure> {
        let mut world = Self::new(seed, mutation, words);
        match world.run() {
            Ok(steps) => {
                let (accepted, kills, trace) = (world.audit.accepted(), world.kills, world.trace.fingerprint());
                Ok(Summary { steps, accepted, kills, trace })
            }
            Err(what) => Err(Failure { seed, at: since_begin(world.now), what, recent: world.trace.lines() }),
        }
    }

    fn new(seed: u64, mutation: Option<Mutation>, words: Words) -> Self {
        let scenario = Scenario::new(seed, mutation);
        // Streams of their own: what one part draws must not change what another one does.
        let mut seeds = Random::new(!seed);
        let mut random = || Random::new(seeds.bits());
        let shares = scenario.shares;
        let broker = Broker::new(random(), topics(), shares.twice);
        let mut weather = random();
        let faults = scenario.faults.iter();
        let faults = faults.map(|(fault, mean)| (*fault, *mean, BEGIN.after(about(&mut weather, *mean)))).collect();
        Self {
            now: BEGIN,
            random: weather,
            trace: Trace::new(words),
            audit: Audit::new(topics(), &scenario),
            wire: Rc::new(RefCell::new(Wire::new(random(), broker, shares.refused))),
            disk: Disk::new(random(), scenario.quota, mutation),
            crew: Crew::new(random(), scenario.workers, shares, mutation),
            radio: Radio::new(random(), &scenario.policy, scenario.sample_every, shares.bad_readings),
            controller: Controller::new(random(), topics(), BEGIN, &scenario),
            faults,
            node: None,
            starts_at: BEGIN,
            is_calm: false,
            memory_short_until: BEGIN,
            kill_after: None,
            kills: 0,
            results_told: 0,
            scenario,
        }
    }

    pub(super) fn note(&mut self, numbers: &[u64], text: impl FnOnce() -> String) {
        self.trace.note(self.now, numbers, text);
    }

    fn run(&mut self) -> Result<u64, String> {
        let scenario = self.scenario.clone();
        self.note(&[0], || format!("{scenario:?}"));
        let give_up = BEGIN.after(self.scenario.storm).after(CALM_MAX);
        for step in 0..STEPS_MAX {
            if self.is_calm && self.has_drained() {
                return self.look_at_the_end().map(|()| step);
            }
            let (at, next) = self.next();
            if at > give_up {
                return Err(format!("nothing drains: {}", self.left()));
            }
            let at = at.max(self.now);
            self.audit.pass(at, self.radio.budget());
            self.now = at;
            self.step(next)?;
        }
        Err(format!("{STEPS_MAX} steps, and no end"))
    }

    fn next(&self) -> (Instant, Next) {
        let mut first = (Instant::from_nanos(u64::MAX), Next::Calm);
        let mut consider = |at: Option<Instant>, next: Next| {
            if let Some(at) = at.filter(|at| *at < first.0) {
                first = (at, next);
            }
        };
        if !self.is_calm {
            consider(Some(BEGIN.after(self.scenario.storm)), Next::Calm);
            for (index, (_, _, at)) in self.faults.iter().enumerate() {
                consider(Some(*at), Next::Fault(index));
            }
        }
        match self.input_at() {
            Some((at, input)) => consider(Some(at), Next::Input(input)),
            None => consider(self.node.is_none().then_some(self.starts_at), Next::Start),
        }
        consider(self.disk.works_at(self.now), Next::Disk);
        consider(self.crew.works_at(), Next::Crew);
        consider(self.node.is_some().then(|| self.radio.works_at()), Next::Radio);
        let wire = self.wire.borrow();
        consider(wire.works_at(self.now), Next::Wire);
        consider(wire.broker.delivery_at(), Next::Delivery);
        consider(self.controller.works_at(self.now), Next::Controller);
        first
    }

    fn step(&mut self, next: Next) -> Result<(), String> {
        match next {
            Next::Calm => self.calm(),
            Next::Fault(index) => return self.fault(index),
            Next::Start => return self.start_agent(),
            Next::Input(input) => return self.hear(input),
            Next::Disk => {
                self.disk.work(self.now)?;
                return self.look_at_disk();
            }
            Next::Crew => self.crew.work(self.now),
            Next::Radio => {
                self.radio.work(self.now, self.crew.busy());
                self.crew.set_budget(self.now, self.radio.budget());
            }
            Next::Wire => self.wire.borrow_mut().work(self.now),
            Next::Controller => {
                if let Some(message) = self.controller.work(self.now) {
                    self.note(&[20, digest(&message.body)], || format!("controller: {}", tail(&message.topic)));
                    let taken = self.wire.borrow_mut().broker.take(self.now, &message);
                    self.controller.sent(self.now, taken);
                }
            }
            Next::Delivery => return self.deliver(),
        }
        Ok(())
    }

    // ---- faults ----

    fn fault(&mut self, index: usize) -> Result<(), String> {
        let (fault, mean, _) = self.faults[index];
        self.faults[index].2 = self.now.after(about(&mut self.random, mean));
        self.note(&[21, fault as u64], || format!("*** {fault:?}"));
        let now = self.now;
        let until = |random: &mut Random, most| now.after(between(random, 100 * MS, most));
        match fault {
            Fault::Kill if self.node.is_some() => {
                self.kills += 1;
                match self.random.below(8) {
                    0 | 1 => return self.kill_agent(),
                    acts => self.kill_after = Some(acts - 2),
                }
            }
            Fault::Kill => {}
            Fault::Stop => return self.stop_agent(),
            Fault::Disconnect => self.wire.borrow_mut().disconnect(now),
            Fault::Outage => {
                let mut wire = self.wire.borrow_mut();
                wire.disconnect(now);
                wire.broker.away_until = until(&mut self.random, 15 * S);
            }
            Fault::Wipe => {
                let mut wire = self.wire.borrow_mut();
                wire.disconnect(now);
                wire.broker.wipe();
                wire.broker.away_until = until(&mut self.random, 2 * S);
            }
            Fault::HalfOpen => self.wire.borrow_mut().half_open(now),
            Fault::BackPressure => self.wire.borrow_mut().press_back(now),
            Fault::DiskRefuses => self.disk.refuses_until = until(&mut self.random, 8 * S),
            Fault::DiskStalls => {
                // Now and then for so long that it counts as refusing.
                let most = if self.random.below(4) == 0 { 15 * S } else { 3 * S };
                self.disk.stalls_until = until(&mut self.random, most);
            }
            Fault::MemoryShort => self.memory_short_until = until(&mut self.random, 8 * S),
            Fault::LoadStorm => self.radio.storm_until = until(&mut self.random, 10 * S),
            Fault::LoadSilence => self.radio.silent_until = until(&mut self.random, 8 * S),
            Fault::WorkerDies => self.crew.lose(now),
            Fault::WrongOutlook => {
                let outlook = wrong_outlook(&mut self.random, wall(now));
                if let Some(node) = &mut self.node {
                    node.core.desk.set_outlook((self.random.below(8) > 0).then_some(outlook));
                }
            }
            Fault::OldWill => self.wire.borrow_mut().broker.publish_old_will(now),
        }
        Ok(())
    }

    /// Faults stop.
    fn calm(&mut self) {
        self.note(&[22], || "*** calm".to_owned());
        let now = self.now;
        self.is_calm = true;
        self.kill_after = None;
        (self.disk.refuses_until, self.disk.stalls_until, self.memory_short_until) = (now, now, now);
        self.radio.calm(now);
        self.crew.calm();
        self.controller.calm(now);
        let mut wire = self.wire.borrow_mut();
        (wire.refused, wire.broker.twice, wire.broker.away_until, wire.takes_at) = (0, 0, now, now);
    }

    // ---- what is looked at ----

    pub(super) fn look_at_disk(&mut self) -> Result<(), String> {
        self.audit.waived(&std::mem::take(&mut self.disk.waived));
        for batch in std::mem::take(&mut self.disk.fresh) {
            self.note(&[23], || format!("durable: {}", super::summary(&batch)));
            self.audit.durable(&batch)?;
        }
        Ok(())
    }

    /// A message reaches the controller.
    fn deliver(&mut self) -> Result<(), String> {
        let Some(mut message) = self.wire.borrow_mut().broker.delivery() else { return Ok(()) };
        let up = topics().parse_up(&message.topic).map(|(_, up)| up);
        self.note(&[24], || format!("controller hears {}", tail(&message.topic)));
        match up {
            Some(Up::Job(id)) => self.audit.heard_status(&id, &message.body),
            Some(Up::Result(id)) => {
                self.results_told += 1;
                if self.scenario.mutation == Some(Mutation::OtherBytes) && self.results_told.is_multiple_of(5) {
                    message.body.push(b' ');
                }
                match self.audit.heard_result(&id, &message.body)? {
                    Heard::Result => self.controller.has_result(&id),
                    Heard::Rejection { retryable } => self.controller.was_rejected(&id, retryable),
                }
                Ok(())
            }
            Some(Up::State | Up::Info | Up::Event | Up::Load | Up::Metrics) => Ok(()),
            None => self.reply(&message),
        }
    }

    fn reply(&mut self, message: &Publish) -> Result<(), String> {
        let reply = Reply::parse(&message.body).map_err(|error| error.to_string())?;
        let correlation = message.correlation.clone().unwrap_or_default();
        let Some((id, body)) = self.controller.replied(&correlation, reply) else { return Ok(()) };
        match self.audit.heard_result(&id, &body)? {
            Heard::Result => self.controller.has_result(&id),
            Heard::Rejection { .. } => return Err(format!("the stored result of {id} is a rejection")),
        }
        Ok(())
    }

    // ---- the end ----

    fn has_drained(&self) -> bool {
        let Some(node) = &self.node else { return false };
        let is_quiet = self.controller.is_content() && self.disk.is_idle() && self.wire.borrow().is_up();
        is_quiet && node.core.is_flushed() && self.wire.borrow().is_idle() && self.is_told()
    }

    /// The broker has the truth about the node.
    fn is_told(&self) -> bool {
        let wire = self.wire.borrow();
        let state = wire.broker.retained.get(&topics().state()).and_then(|state| NodeState::parse(&state.body).ok());
        let session = self.node.as_ref().map(|node| node.core.desk.reports.session());
        matches!(state, Some(NodeState::Online { session: told, .. }) if Some(told.as_str()) == session)
    }

    fn look_at_the_end(&self) -> Result<(), String> {
        self.audit.drained(&self.disk.shelf)?;
        let Some(node) = &self.node else { return Ok(()) };
        match node.core.queued().iter().find(|(_, length)| *length > 0) {
            Some((name, length)) => Err(format!("all has drained, and {length} are left in {name}")),
            None => Ok(()),
        }
    }

    fn left(&self) -> String {
        let missing = self.controller.missing();
        let open: Vec<String> =
            self.disk.shelf.jobs.values().map(|job| format!("{} {:?}", job.id, job.state)).collect();
        let wire = self.wire.borrow();
        let flushed = self.node.as_ref().map(|node| (node.core.is_flushed(), node.core.queued()));
        format!(
            "the controller misses {missing:?} (content: {}), stored are {open:?}, disk idle {}, link up {} and idle {}, \
             flushed {flushed:?}, state told {}",
            self.controller.is_content(),
            self.disk.is_idle(),
            wire.is_up(),
            wire.is_idle(),
            self.is_told()
        )
    }
}
