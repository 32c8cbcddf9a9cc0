//! How is it said? Everything the agent publishes, put into words and envelopes of PROTOCOL.

use std::collections::BTreeMap;
use std::time::Duration;

use super::desk::Now;
use super::models;
use super::telemetry::Counters;
use crate::fault::{Code, Fault};
use crate::governor::guard::Figure;
use crate::governor::{Decision, Mode, Policy, Reason};
use crate::jobs::job::{Job, State};
use crate::jobs::store::Message;
use crate::ledger::cause::Causes;
use crate::link::messages::{
    self, ErrorBody, GuardEvent, Info, InfoCertificate, LoadSample, NodeEvent, NodeState, OpenJobs, Progress,
    ResultHead, Status,
};
use crate::link::topics::Topics;
use crate::link::{Publish, Qos};
use crate::load::fusion::{Fused, FusedLoad};
use crate::model::Manifest;
use crate::model::library::Library;
use crate::sentinel::YieldRecord;
use crate::units::{Instant, JobId, SourceId, Utilization, WallTime};
use crate::worker::jail::achieved::Strength;

/// How long a broker keeps reports for an absent controller.
const REPORT_EXPIRY_S: u32 = 24 * 60 * 60;
/// How long a broker keeps telemetry.
const TELEMETRY_EXPIRY_S: u32 = 60;
/// What a node is before the sentinel's first decision.
const FIRST: Decision = Decision { budget: 0, mode: Mode::Starting, reason: Reason::NoSampleYet };

/// What can keep a node from its best, while it goes on as well as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Impairment {
    /// The disk under the state directory refuses: nothing new can be promised.
    Disk,
    /// It crashed again and again: it reports, and runs nothing.
    SafeMode,
    /// The sandbox that is required cannot be had: no worker serves.
    Sandbox,
    /// The wall clock is in doubt: nothing expires by it.
    Clock,
    /// The broker takes or gives less than the protocol needs.
    Broker,
    /// Everybody on the way to the broker can read and change what is said.
    Insecure,
    /// A certificate ends soon or has ended, or new ones are no good.
    Certificate,
}

impl Impairment {
    /// All, the worst first.
    pub(super) const ALL: [Self; 7] =
        [Self::Disk, Self::SafeMode, Self::Sandbox, Self::Clock, Self::Broker, Self::Insecure, Self::Certificate];

    /// As it is written in messages and metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::SafeMode => "safe_mode",
            Self::Sandbox => "sandbox",
            Self::Clock => "clock",
            Self::Broker => "broker",
            Self::Insecure => "insecure",
            Self::Certificate => "certificate",
        }
    }

    /// The code of the event that tells of it.
    pub(super) const fn code(self) -> Code {
        match self {
            Self::Disk | Self::Broker | Self::Insecure => Code::NodeDegraded,
            Self::Certificate => Code::TlsCertExpiring,
            Self::SafeMode => Code::NodeSafeMode,
            Self::Sandbox => Code::SandboxUnavailable,
            Self::Clock => Code::ClockDoubt,
        }
    }

    /// Whether no job starts while it lasts.
    pub(super) const fn closes(self) -> bool {
        match self {
            Self::Disk | Self::SafeMode | Self::Sandbox => true,
            Self::Clock | Self::Broker | Self::Insecure | Self::Certificate => false,
        }
    }
}

/// What is known of the node for its reports.
#[derive(Debug)]
pub(super) struct Reports {
    topics: Topics,
    session: String,
    info: Info,
    sources: Vec<String>,
    settle: Duration,
    decision: Decision,
    since: WallTime,
    load: Option<Fused>,
    /// Why memory is short.
    short: Option<String>,
    /// What keeps the node from its best, and why.
    impairments: BTreeMap<Impairment, String>,
}

impl Reports {
    /// Reports of a new session.
    pub(super) fn new(topics: Topics, info: Info, sources: Vec<String>, policy: &Policy, now: WallTime) -> Self {
        Self {
            topics,
            session: messages::new_id(),
            info,
            sources,
            settle: policy.settle,
            decision: FIRST,
            since: now,
            load: None,
            short: None,
            impairments: BTreeMap::new(),
        }
    }

    /// The policy changed.
    pub(super) fn set_policy(&mut self, policy: &Policy) {
        self.settle = policy.settle;
    }

    /// The models changed.
    pub(super) fn set_library(&mut self, library: &Library, worst_node_max: Option<Duration>) {
        self.info.models = models::offered(library, worst_node_max);
        self.info.models_refused = models::refused(library);
    }

    /// The governor decided, at that monotonic moment.
    pub(super) fn set_decision(&mut self, now: Now, at: Instant, decision: Decision) {
        if decision.mode != self.decision.mode {
            let ago = i64::try_from(now.mono.since(at).as_millis()).unwrap_or(0);
            self.since = WallTime::from_millis(now.wall.as_millis() - ago);
        }
        self.decision = decision;
    }

    /// Memory is short for this reason; `None`: it is not, or not any more.
    pub(super) fn set_short(&mut self, reason: Option<String>) {
        self.short = reason;
    }

    /// How private the way to the broker is, and which certificate ends first.
    pub(super) fn set_transport(&mut self, transport: &str, first_to_end: Option<InfoCertificate>) -> bool {
        let before = (std::mem::take(&mut self.info.transport), self.info.certificate.take());
        self.info.transport = transport.to_owned();
        self.info.certificate = first_to_end;
        before != (self.info.transport.clone(), self.info.certificate.clone())
    }

    /// Whether memory is short.
    pub(super) fn is_short(&self) -> bool {
        self.short.is_some()
    }

    /// The node is impaired in that way for this reason; `None`: it is not, or not any more. Tells whether that is news.
    pub(super) fn set_impaired(&mut self, what: Impairment, why: Option<String>) -> bool {
        let before = match &why {
            Some(why) => self.impairments.insert(what, why.clone()),
            None => self.impairments.remove(&what),
        };
        before != why
    }

    /// Why the node is impaired in that way, if it is.
    pub(super) fn impaired(&self, what: Impairment) -> Option<&str> {
        self.impairments.get(&what).map(String::as_str)
    }

    /// Why nothing starts besides mode and memory.
    fn closing(&self) -> Option<(Impairment, &str)> {
        Impairment::ALL.into_iter().filter(|what| what.closes()).find_map(|what| Some((what, self.impaired(what)?)))
    }

    /// Whether memory, disk and history allow a job to start; the governor is asked elsewhere.
    pub(super) fn may_start(&self) -> bool {
        !self.is_short() && self.closing().is_none()
    }

    /// Whether a worker may be started. Only a start tells whether the sandbox can be had by now.
    pub(super) fn may_start_worker(&self) -> bool {
        !self.is_short() && self.closing().is_none_or(|(worst, _)| worst == Impairment::Sandbox)
    }

    /// The governor's decision in force.
    pub(super) fn decision(&self) -> Decision {
        self.decision
    }

    /// The load that decides, once one was told.
    pub(super) fn fused(&self) -> Option<&Fused> {
        self.load.as_ref()
    }

    /// The load that decides.
    pub(super) fn set_load(&mut self, fused: &Fused) {
        self.load = Some(*fused);
    }

    /// This run of the agent.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    // ---- the node ----

    /// Why nothing starts, as `mode: reason`; `None` in a trough with enough memory and nothing in the way.
    pub(super) fn closed(&self) -> Option<String> {
        if let Some((what, why)) = self.closing() {
            return Some(format!("degraded ({}): {why}", what.as_str()));
        }
        let open = self.decision.mode == Mode::Trough && !self.is_short();
        (!open).then(|| format!("mode {}: {}", self.decision.mode.as_str(), self.reason()))
    }

    /// `site/name` of the node.
    pub(super) fn node(&self) -> String {
        format!("{}/{}", self.topics.site(), self.topics.node())
    }

    /// Name of a source.
    pub(super) fn source(&self, id: SourceId) -> &str {
        self.sources.get(usize::from(id.0)).map_or("?", String::as_str)
    }

    fn metric(&self) -> &'static str {
        self.load.map_or("load", |fused| fused.metric.as_str())
    }

    /// Why nothing runs, or why it may: in a trough, short memory is what counts.
    fn reason(&self) -> String {
        match &self.short {
            Some(short) if self.decision.mode == Mode::Trough => short.clone(),
            Some(_) | None => self.load_reason(),
        }
    }

    fn load_reason(&self) -> String {
        let metric = self.metric();
        match self.decision.reason {
            Reason::NoSampleYet => "no load sample yet".to_owned(),
            Reason::NoSource => "no load source is to be trusted".to_owned(),
            Reason::Stale(id) => format!("source {} is silent for longer than its freshness", self.source(id)),
            Reason::Malformed(id) => format!("source {} sent something that makes no sense", self.source(id)),
            Reason::Late(id) => format!("source {} reported late slots", self.source(id)),
            Reason::Above { source, level, limit } => {
                format!("{metric} {level} ≥ {limit} ({})", self.source(source))
            }
            Reason::NotBelow { source, level, limit } => {
                format!("{metric} {level}, not below {limit} ({})", self.source(source))
            }
            Reason::Settling { .. } => format!("{metric} is low, not yet for the settle time"),
            Reason::Low { source, level, limit } => {
                format!("{metric} {level} < {limit} for {} s ({})", self.settle.as_secs_f64(), self.source(source))
            }
            Reason::Guarded(figure) => {
                format!("the radio fares worse while inference runs ({})", figure.map_or("late", Figure::as_str))
            }
            Reason::Comparing(_) => "a short stop, to see how the radio fares without inference".to_owned(),
            Reason::Held => "held by order".to_owned(),
            Reason::Draining => "draining by order".to_owned(),
        }
    }

    pub(super) fn node_state(
        &self,
        (running, queued): (usize, usize),
        unacknowledged: usize,
        open_jobs: Option<OpenJobs>,
    ) -> NodeState {
        let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
        NodeState::Online {
            session: self.session.clone(),
            since: self.since,
            mode: self.decision.mode.as_str().to_owned(),
            reason: self.reason(),
            running: count(running),
            queued: count(queued),
            unacknowledged: count(unacknowledged),
            open_jobs,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            degraded: self.impairments.iter().map(|(what, why)| format!("{}: {why}", what.as_str())).collect(),
        }
    }

    /// Retained state of a living node.
    pub(super) fn state(
        &self,
        counts: (usize, usize),
        unacknowledged: usize,
        open_jobs: Option<OpenJobs>,
        now: WallTime,
    ) -> Publish {
        let state = self.node_state(counts, unacknowledged, open_jobs);
        self.retained("neap.node.state", self.topics.state(), state.render(), now)
    }

    /// What the broker says when the node is gone without a word.
    pub(super) fn will(&self, now: WallTime) -> Publish {
        self.retained("neap.node.state", self.topics.state(), NodeState::will(&self.session).render(), now)
    }

    /// The last words of a clean stop.
    pub(super) fn death(&self, now: WallTime) -> Publish {
        self.retained("neap.node.state", self.topics.state(), NodeState::death(&self.session).render(), now)
    }

    /// Whether somebody (a late Will) says that this living node is dead.
    pub(super) fn is_false_death(&self, body: &[u8]) -> bool {
        matches!(NodeState::parse(body), Ok(NodeState::Offline { .. }))
    }

    /// The inventory.
    pub(super) fn node_info(&self) -> Info {
        self.info.clone()
    }

    /// Retained inventory.
    pub(super) fn info(&self, now: WallTime) -> Publish {
        self.retained("neap.node.info", self.topics.info(), self.info.render(), now)
    }

    fn retained(&self, type_: &str, topic: String, body: Vec<u8>, now: WallTime) -> Publish {
        Publish { retain: true, expiry_s: None, ..publish(self.message(type_, topic, "", body, None, now)) }
    }

    // ---- jobs ----

    /// Where a job stands.
    pub(super) fn status(&self, job: &Job) -> Message {
        let trace = job.traceparent.as_deref();
        let body = Status::of(job).render();
        self.message("neap.job.status", self.topics.job(&job.id), job.id.as_str(), body, trace, job.changed)
    }

    /// A submit that was not accepted: status and error.
    pub(super) fn rejected(&self, id: &JobId, fault: &Fault, now: WallTime) -> Vec<Message> {
        let status = Status {
            status: State::Rejected,
            version: 1,
            attempt: 0,
            at: now,
            reason: fault.code.as_str().to_owned(),
            progress: Progress { done: 0, total: 0 },
            yields: 0,
            suspended: Duration::ZERO,
            error: Some(ErrorBody::from(fault)),
        };
        let error = messages::render_error(fault);
        vec![
            self.message("neap.job.status", self.topics.job(id), id.as_str(), status.render(), None, now),
            self.message("neap.job.result", self.topics.result(id), id.as_str(), error, None, now),
        ]
    }

    /// Body of a job's result: one item object, or all of the batch.
    pub(super) fn result_body(job: &Job, model: &Manifest, items: &[Vec<u8>], batch: bool, jail: Strength) -> Vec<u8> {
        let head = ResultHead {
            id: &job.id,
            model: &model.name,
            version: model.version,
            digest: &model.digest,
            attempt: job.attempt,
            wall: job.ran,
            cpu: job.cpu,
            yields: job.yields,
            suspended: job.suspended,
            sandbox: jail.as_str(),
        };
        messages::render_result(&head, items, batch)
    }

    /// Body of the result of a job that ended without one.
    pub(super) fn error_body(job: &Job) -> Vec<u8> {
        let fault = job.fault.clone().unwrap_or_else(|| match job.state {
            State::Canceled => {
                Fault::new(Code::JobCanceled, format!("job {} was taken back by its controller", job.id))
            }
            State::TimedOut => Fault::new(Code::JobExpired, format!("the deadline of job {} passed", job.id)),
            State::Queued
            | State::InProgress
            | State::Suspended
            | State::Succeeded
            | State::Failed
            | State::Rejected => Fault::new(Code::JobAttempts, format!("job {} ended without a result", job.id)),
        });
        messages::render_error(&fault)
    }

    /// The result's message.
    pub(super) fn result(&self, job: &Job, body: Vec<u8>) -> Message {
        let trace = job.traceparent.as_deref();
        self.message("neap.job.result", self.topics.result(&job.id), job.id.as_str(), body, trace, job.changed)
    }

    // ---- events and telemetry ----

    /// Something that is not a job's status went wrong: an event for people.
    pub(super) fn alarm(&self, subject: &str, fault: &Fault, now: WallTime) -> Message {
        let event = NodeEvent::Alarm { code: fault.code.as_str().to_owned(), message: fault.message.clone(), at: now };
        self.message("neap.node.alarm", self.topics.event(), subject, event.render(), None, now)
    }

    /// Inference gave way.
    pub(super) fn yielded(
        &self,
        record: &YieldRecord,
        causes: Option<&Causes>,
        jobs: &[JobId],
        now: WallTime,
    ) -> Message {
        let jobs = jobs.iter().map(ToString::to_string).collect();
        let event = NodeEvent::Yield(self.yield_event(record, causes, jobs, now));
        self.message("neap.node.yield", self.topics.event(), "", event.render(), None, now)
    }

    /// Inference goes on.
    pub(super) fn resumed(&self, workers: u8, jobs: &[JobId], now: WallTime) -> Message {
        let jobs = jobs.iter().map(ToString::to_string).collect();
        let event = NodeEvent::Resume { workers: u32::from(workers), jobs, at: now };
        self.message("neap.node.resume", self.topics.event(), "", event.render(), None, now)
    }

    /// The harm guard has come to a verdict.
    pub(super) fn guard_message(&self, event: &GuardEvent, now: WallTime) -> Message {
        let body = NodeEvent::Guard(event.clone()).render();
        self.message("neap.node.guard", self.topics.event(), "", body, None, now)
    }

    /// The load that decides, once there is one.
    pub(super) fn load(&self, now: WallTime) -> Option<Publish> {
        let fused = self.load?;
        let (source, value): (SourceId, Option<Utilization>) = match fused.load {
            FusedLoad::Level(id, level) => (id, Some(level)),
            FusedLoad::Late(id) | FusedLoad::Malformed(id) | FusedLoad::Stale(id) => (id, None),
            FusedLoad::Unheard => return None,
        };
        let sample = LoadSample {
            source: self.source(source).to_owned(),
            cell: fused.cell.0,
            metric: fused.metric.as_str().to_owned(),
            value,
            at: now,
        };
        Some(self.telemetry("neap.node.load", self.topics.load(), sample.render(), now))
    }

    /// Counters since the start.
    pub(super) fn metrics(&self, counters: &Counters, now: WallTime) -> Publish {
        let body = self.metrics_body(counters, now).render();
        self.telemetry("neap.node.metrics", self.topics.metrics(), body, now)
    }

    fn telemetry(&self, type_: &str, topic: String, body: Vec<u8>, now: WallTime) -> Publish {
        let message = self.message(type_, topic, "", body, None, now);
        Publish { qos: Qos::AtMostOnce, expiry_s: Some(TELEMETRY_EXPIRY_S), ..publish(message) }
    }

    fn message(
        &self,
        type_: &str,
        topic: String,
        subject: &str,
        body: Vec<u8>,
        trace: Option<&str>,
        at: WallTime,
    ) -> Message {
        let properties = messages::envelope(type_, subject, &self.topics.source(), &messages::new_id(), at, trace);
        Message { topic, body, expiry_s: Some(REPORT_EXPIRY_S), properties, queued: at }
    }
}

/// A stored message as the link sends it.
pub(super) fn publish(message: Message) -> Publish {
    Publish {
        topic: message.topic,
        body: message.body,
        qos: Qos::AtLeastOnce,
        retain: false,
        expiry_s: message.expiry_s,
        content_type: Some(messages::JSON.to_owned()),
        response_topic: None,
        correlation: None,
        properties: message.properties,
    }
}
