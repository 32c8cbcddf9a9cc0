//! What is remembered of a job that has ended? As little as answers a repetition of its submit and a question for it.

use std::time::Duration;

use crate::fault::Fault;
use crate::jobs::job::{Job, Limits, ModelRef, State};
use crate::units::{Digest, JobId, Name, WallTime};

/// Most model names that are kept once for all jobs that name them; further ones are kept with each job.
const MODELS_MAX: usize = 64;

/// A job that has ended. Several times as many as open ones are known, so each field is as small as it can be.
#[derive(Debug)]
pub(super) struct Ended {
    body: Digest,
    changed: WallTime,
    deadline: Option<WallTime>,
    /// What most jobs have not.
    rare: Option<Box<Rare>>,
    reason: &'static str,
    version: u32,
    attempt: u32,
    items: u32,
    done: u32,
    yields: u32,
    suspended_ms: u32,
    /// Which of [`Models`]; [`MODELS_MAX`] when it is with the rare parts.
    model: u16,
    state: State,
    priority: u8,
    acknowledged: bool,
}

#[derive(Debug)]
struct Rare {
    model: Option<Name>,
    fault: Option<Fault>,
    traceparent: Option<String>,
}

/// Names of the models that ended jobs asked for.
#[derive(Debug, Default)]
pub(super) struct Models(Vec<Name>);

impl Ended {
    pub(super) fn new(job: Job, models: &mut Models) -> Self {
        let (model, name) = models.place(job.model.name);
        let rare = Rare { model: name, fault: job.fault, traceparent: job.traceparent };
        let is_plain = rare.model.is_none() && rare.fault.is_none() && rare.traceparent.is_none();
        Self {
            body: job.body,
            changed: job.changed,
            deadline: job.deadline,
            rare: (!is_plain).then(|| Box::new(rare)),
            reason: job.reason,
            version: u32::try_from(job.version).unwrap_or(u32::MAX),
            attempt: job.attempt,
            items: job.items,
            done: job.done,
            yields: job.yields,
            suspended_ms: u32::try_from(job.suspended.as_millis()).unwrap_or(u32::MAX),
            model,
            state: job.state,
            priority: job.priority,
            acknowledged: job.acknowledged,
        }
    }

    /// A controller has its result. Tells whether that is news.
    pub(super) fn acknowledge(&mut self) -> bool {
        !std::mem::replace(&mut self.acknowledged, true)
    }

    /// Whether its result is still there to be asked for.
    pub(super) fn keeps_result(&self) -> bool {
        !self.acknowledged
    }

    /// How it ended.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// When it ended.
    pub(super) fn changed(&self) -> WallTime {
        self.changed
    }

    /// After this its result had no value.
    pub(super) fn deadline(&self) -> Option<WallTime> {
        self.deadline
    }

    /// The job as far as it is still known. What it was allowed and what it spent is told in its result and nowhere
    /// else, so it is zero here.
    pub(super) fn job(&self, id: &JobId, models: &Models) -> Job {
        const FORGOTTEN: Limits = Limits { wall: Duration::ZERO, memory_bytes: 0, attempts: 0, output_bytes: 0 };
        let rare = self.rare.as_deref();
        let name = rare.and_then(|rare| rare.model.as_ref()).or_else(|| models.0.get(usize::from(self.model)));
        Job {
            id: id.clone(),
            body: self.body,
            model: ModelRef {
                name: name.expect("a name is in one of the two places").clone(),
                version: None,
                digest: None,
            },
            priority: self.priority,
            deadline: self.deadline,
            not_before: None,
            limits: FORGOTTEN,
            traceparent: rare.and_then(|rare| rare.traceparent.clone()),
            items: self.items,
            received: self.changed,
            state: self.state,
            version: u64::from(self.version),
            attempt: self.attempt,
            failures: 0,
            crashes: 0,
            interruptions: 0,
            done: self.done,
            yields: self.yields,
            suspended: Duration::from_millis(u64::from(self.suspended_ms)),
            ran: Duration::ZERO,
            cpu: Duration::ZERO,
            reason: self.reason,
            fault: rare.and_then(|rare| rare.fault.clone()),
            acknowledged: self.acknowledged,
            changed: self.changed,
        }
    }
}

impl Models {
    /// Where the name is kept, and the name when it is not here.
    fn place(&mut self, name: Name) -> (u16, Option<Name>) {
        let known = self.0.iter().position(|known| *known == name);
        let place = known.unwrap_or(self.0.len()).min(MODELS_MAX);
        let index = u16::try_from(place).unwrap_or(u16::MAX);
        if place == MODELS_MAX {
            return (index, Some(name));
        }
        if known.is_none() {
            self.0.push(name);
        }
        (index, None)
    }
}

const _: () = assert!(size_of::<Ended>() <= 120, "tens of thousands of these are in memory");
const _: () = assert!(MODELS_MAX < u16::MAX as usize, "the index is that wide");
