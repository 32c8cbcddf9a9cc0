//! What does a controller do? It submits, takes back, asks, acknowledges; and what it has not heard of it asks for again.

use std::collections::VecDeque;
use std::time::Duration;

use super::scenario::{JobPlan, MS, S, Scenario, about, between, chance};
use crate::link::Publish;
use crate::link::messages::{Command, JobsQuery, Listing, Reply};
use crate::link::topics::Topics;
use crate::sim::day::Random;
use crate::units::{Instant, JobId};

/// Time between two looks at what is missing.
const RECONCILE_EVERY: Duration = Duration::from_secs(4);
/// The broker is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);
/// Command, not job: what its reply is known by.
const RESUME: &[u8] = b"resume";

/// What the controller knows of one job.
#[derive(Clone, Debug)]
struct Belief {
    plan: JobPlan,
    submitted: bool,
    canceled: bool,
    conflicted: bool,
    /// It has the result.
    done: bool,
    /// It was told that this job is never accepted.
    given_up: bool,
    acknowledged: bool,
}

/// The controller.
#[derive(Debug)]
pub(super) struct Controller {
    random: Random,
    topics: Topics,
    begin: Instant,
    beliefs: Vec<Belief>,
    commands_every: Duration,
    command_at: Instant,
    reconcile_at: Instant,
    /// To the broker, in order.
    outbox: VecDeque<Publish>,
    sends_at: Instant,
    is_calm: bool,
    /// The node has said, since the calm began, that it takes jobs.
    is_resumed: bool,
    acknowledges: u64,
}

impl Controller {
    pub(super) fn new(mut random: Random, topics: Topics, begin: Instant, scenario: &Scenario) -> Self {
        let belief = |plan: &JobPlan| Belief {
            plan: plan.clone(),
            submitted: false,
            canceled: false,
            conflicted: false,
            done: false,
            given_up: false,
            acknowledged: false,
        };
        Self {
            topics,
            begin,
            beliefs: scenario.jobs.iter().map(belief).collect(),
            commands_every: scenario.commands_every,
            command_at: begin.after(about(&mut random, scenario.commands_every)),
            reconcile_at: begin.after(RECONCILE_EVERY),
            outbox: VecDeque::new(),
            sends_at: begin,
            is_calm: false,
            is_resumed: false,
            // Where the store is small it must be told what may go.
            acknowledges: if scenario.quota.0 < 10_000 { 1000 } else { random.below(1001) },
            random,
        }
    }

    /// Faults have stopped: nothing new is asked, what is missing is asked for.
    pub(super) fn calm(&mut self, now: Instant) {
        self.is_calm = true;
        self.reconcile_at = now;
        self.post(Publish { retain: true, ..self.message(self.topics.fleet_hold(), Vec::new()) });
    }

    /// Every job has its end here, and nothing is on its way.
    pub(super) fn is_content(&self) -> bool {
        let known = self.beliefs.iter().all(|belief| belief.done || belief.given_up);
        known && self.is_resumed && self.outbox.is_empty()
    }

    /// Jobs that it knows no end of.
    pub(super) fn missing(&self) -> Vec<&JobId> {
        let missing = self.beliefs.iter().filter(|belief| !(belief.done || belief.given_up));
        missing.map(|belief| &belief.plan.id).collect()
    }

    // ---- to the broker ----

    fn message(&self, topic: String, body: Vec<u8>) -> Publish {
        Publish::plain(topic, body)
    }

    fn post(&mut self, message: Publish) {
        self.outbox.push_back(message);
    }

    fn command(&mut self, command: &Command, correlation: &[u8]) {
        let message = self.message(self.topics.command(command.name()), command.render());
        let response_topic = Some(self.topics.reply("ctl"));
        self.post(Publish { response_topic, correlation: Some(correlation.to_vec()), ..message });
    }

    fn submit(&mut self, index: usize) {
        let plan = &self.beliefs[index].plan;
        let message = self.message(self.topics.submit(&plan.id), plan.body.clone());
        let retain = plan.retained && !self.beliefs[index].submitted;
        self.beliefs[index].submitted = true;
        self.post(Publish { retain, ..message });
    }

    pub(super) fn works_at(&self, now: Instant) -> Option<Instant> {
        let sends = (!self.outbox.is_empty()).then_some(self.sends_at);
        let command = (!self.is_calm).then_some(self.command_at);
        let jobs = self.beliefs.iter().filter_map(|belief| self.due(belief)).min();
        let reconcile = Some(self.reconcile_at);
        [sends, command, jobs, reconcile].into_iter().flatten().min().map(|at| at.max(now))
    }

    /// When the next thing about a job is due.
    fn due(&self, belief: &Belief) -> Option<Instant> {
        let Belief { plan, submitted, canceled, conflicted, .. } = belief;
        let submit = (!submitted).then_some(plan.at);
        let cancel = plan.cancel.filter(|_| !canceled);
        let conflict = plan.conflict.filter(|_| !conflicted);
        [submit, cancel, conflict].into_iter().flatten().min().map(|at| self.begin.after(at))
    }

    /// Does what is due: one thing. Gives what is to be handed to the broker.
    pub(super) fn work(&mut self, now: Instant) -> Option<Publish> {
        let due = (0..self.beliefs.len()).find(|job| self.due(&self.beliefs[*job]).is_some_and(|at| at <= now));
        if let Some(job) = due {
            self.do_next(job);
        } else if !self.is_calm && self.command_at <= now {
            self.command_at = now.after(about(&mut self.random, self.commands_every));
            self.order();
        } else if self.reconcile_at <= now {
            self.reconcile_at = now.after(RECONCILE_EVERY);
            self.reconcile();
        } else if self.sends_at <= now {
            return self.outbox.front().cloned();
        }
        None
    }

    /// The broker has taken the message, or has not.
    pub(super) fn sent(&mut self, now: Instant, taken: bool) {
        if taken {
            self.outbox.pop_front();
        }
        self.sends_at = now.after(if taken { between(&mut self.random, MS, 30 * MS) } else { AGAIN });
    }

    fn do_next(&mut self, job: usize) {
        let belief = &mut self.beliefs[job];
        let id = belief.plan.id.clone();
        if !belief.submitted {
            self.submit(job);
        } else if belief.plan.conflict.is_some() && !belief.conflicted {
            belief.conflicted = true;
            let mut other = belief.plan.body.clone();
            other.push(b' ');
            self.post(self.message(self.topics.submit(&id), other));
        } else {
            belief.canceled = true;
            self.post(self.message(self.topics.cancel(&id), Vec::new()));
        }
    }

    /// Any command, for no reason.
    fn order(&mut self) {
        let job = usize::try_from(self.random.below(self.beliefs.len() as u64)).unwrap_or(0);
        let id = self.beliefs[job].plan.id.clone();
        let span = Some(between(&mut self.random, S, 10 * S));
        let command = match self.random.below(12) {
            0 => Command::Ping,
            1 => Command::Describe { job: None },
            2 | 3 => Command::Describe { job: Some(id) },
            4 => Command::Jobs(JobsQuery { max: 9, listing: Listing::Newest, open: None, unacknowledged: None }),
            5 => Command::Jobs(JobsQuery::unsettled(Some(id), 100)),
            6 => Command::Result { job: id },
            7 => Command::Drain,
            8 => Command::Resume,
            9 => Command::Release,
            10 => Command::Hold { span },
            _ => {
                let hold = self.message(self.topics.fleet_hold(), Command::Hold { span }.render());
                self.post(Publish { retain: true, ..hold });
                return;
            }
        };
        self.command(&command, b"whatever");
        if chance(&mut self.random, 100) {
            self.post(
                self.message(self.topics.submit(&self.beliefs[job].plan.id).replace("job-", "job %"), Vec::new()),
            );
        }
    }

    /// Asks for every result that is missing.
    fn reconcile(&mut self) {
        if self.is_calm && !self.is_resumed {
            self.command(&Command::Resume, RESUME);
        }
        let is_missing = !self.missing().is_empty();
        for job in 0..self.beliefs.len() {
            let belief = &self.beliefs[job];
            let id = belief.plan.id.clone();
            if belief.submitted && !belief.done && !belief.given_up && self.outbox.len() < 50 {
                self.command(&Command::Result { job: id.clone() }, id.as_str().as_bytes());
            } else if belief.acknowledged && is_missing && self.is_calm && self.acknowledges == 1000 {
                self.post(self.message(self.topics.ack(&id), Vec::new()));
            }
        }
    }

    // ---- from the node ----

    /// It has the result of this job.
    pub(super) fn has_result(&mut self, id: &JobId) {
        let acknowledges = chance(&mut self.random, self.acknowledges);
        let Some(belief) = self.beliefs.iter_mut().find(|belief| belief.plan.id == *id) else { return };
        belief.done = true;
        if acknowledges && !belief.acknowledged {
            belief.acknowledged = true;
            let topic = self.topics.ack(id);
            self.post(self.message(topic, Vec::new()));
        }
    }

    /// This job was not accepted, now or ever.
    pub(super) fn was_rejected(&mut self, id: &JobId, retryable: bool) {
        let Some(belief) = self.beliefs.iter_mut().find(|belief| belief.plan.id == *id) else { return };
        belief.given_up |= !retryable;
    }

    /// The node has replied to a command. Gives the result when it was one.
    pub(super) fn replied(&mut self, correlation: &[u8], reply: Reply) -> Option<(JobId, Vec<u8>)> {
        if correlation == RESUME {
            self.is_resumed |= self.is_calm && matches!(reply, Reply::Done);
            return None;
        }
        let job = self.beliefs.iter().position(|belief| belief.plan.id.as_str().as_bytes() == correlation)?;
        match reply {
            Reply::Result(body) => return Some((self.beliefs[job].plan.id.clone(), body)),
            // Not known, or not ended: to send it again does no harm, and helps if it was lost.
            Reply::Error(error) => {
                if error.code == "job.unknown" && !self.beliefs[job].done {
                    self.submit(job);
                }
            }
            Reply::Pong(_) | Reply::Node { .. } | Reply::Job(_) | Reply::Jobs(_) | Reply::Done => {}
        }
        None
    }
}
