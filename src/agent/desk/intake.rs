//! What does a controller want? Submit, cancel, ack.

use super::super::reports::Impairment;
use super::super::trust::{self, May};
use super::outputs;
use super::unsettled::Later;
use super::{Desk, Now};
use crate::fault::{Code, Fault};
use crate::jobs::job::{Event, Job, Spec};
use crate::jobs::queue;
use crate::jobs::store::{Batch, Payload};
use crate::link::messages::{self, Body};
use crate::link::{AckToken, Publish};
use crate::model::signed;
use crate::telemetry::LogLimit;
use crate::trust::order::{self, Authority};
use crate::units::{BadName, Digest, JobId};

impl Desk {
    /// A job arrived.
    pub(in crate::agent) fn submit(&mut self, now: Now, id: JobId, message: Publish, ack: Option<AckToken>) {
        let digest = digest(&message.body);
        if let Some(known) = self.jobs.get(&id).as_deref() {
            if known.body == digest && self.jobs.is_undecided(&id) {
                self.later.entry(id).or_default().push(Later::Again(ack));
            } else if known.body == digest {
                let again = self.reports.status(known);
                self.commit(Batch { droppable: vec![again], ..Batch::default() }, ack, None);
            } else {
                let text = format!("job {id} is known with another body; send the new one under a new id");
                let judged = self.trust.judge_harmless(now, order::SUBMIT, id.as_str(), &message);
                let fault = judged.err().unwrap_or_else(|| Fault::new(Code::JobIdConflict, text));
                if self.jobs.is_undecided(&id) {
                    self.later.entry(id).or_default().push(Later::Conflict(fault, ack));
                } else {
                    self.refuse_event(now, id.as_str(), &fault, ack);
                }
            }
            return;
        }
        let judged = self.trust.judge_job(now, id.as_str(), &message);
        match judged.and_then(|authority| self.admit(now, &id, &message, digest, authority.as_ref())) {
            Ok((job, header_bytes)) => {
                let payload = Payload { body: message.body, content_type: message.content_type, header_bytes };
                let batch = Batch {
                    jobs: vec![job.clone()],
                    payloads: vec![(id.clone(), payload)],
                    messages: vec![self.reports.status(&job)],
                    ..Batch::default()
                };
                self.jobs.insert_undecided(job);
                self.commit(batch, ack, Some(id));
            }
            Err(fault) => {
                static REFUSED: LogLimit = LogLimit::new(20, 60);
                if let Some(suppressed) = REFUSED.admit(now.mono) {
                    tracing::info!(job = %id, %fault, suppressed, "job refused");
                }
                // A stranger can cause any number of these: they give way before the outbox grows without a limit.
                let batch = Batch { droppable: self.reports.rejected(&id, &fault, now.wall), ..Batch::default() };
                self.commit(batch, ack, None);
            }
        }
    }

    fn admit(
        &self,
        now: Now,
        id: &JobId,
        message: &Publish,
        body: Digest,
        authority: Option<&Authority>,
    ) -> Result<(Job, Option<usize>), Fault> {
        if message.retain {
            let text =
                format!("job {id} arrived retained: it would run again at every connect; publish it without retain");
            return Err(Fault::new(Code::JobRetained, text));
        }
        if self.draining {
            let text = "the node takes no new jobs; send it elsewhere, or here after a resume";
            return Err(Fault::new(Code::NodeDraining, text));
        }
        if let Some(why) = self.reports.impaired(Impairment::Disk) {
            let text = format!("the disk under the state directory refuses to be written; send the job later ({why})");
            return Err(Fault::new(Code::StateIo, text));
        }
        if let Some(why) = self.reports.impaired(Impairment::SafeMode) {
            return Err(Fault::new(
                Code::NodeSafeMode,
                format!("the node is in safe mode and takes no new jobs: {why}"),
            ));
        }
        if let Some(why) = self.reports.impaired(Impairment::Sandbox) {
            return Err(Fault::new(Code::SandboxUnavailable, format!("the node takes no new jobs: {why}")));
        }
        queue::admit(&self.settings.capacity, self.jobs.open(), self.jobs.len())?;
        let wire = Body::of(message)?;
        let header_bytes = wire.header_bytes;
        let submit = messages::parse_submit(&wire, &self.settings.limits, now.due)?;
        trust::check_model(authority, &submit.model.name)?;
        let entry = self.library.find(&submit.model.name, submit.model.version, submit.model.digest.as_ref())?;
        signed::check_expiry(&entry, now.wall)?;
        self.suspects.admit(&entry.manifest)?;
        for (index, request) in submit.items.iter().enumerate() {
            let checked = entry.manifest.check_inputs(&request.inputs).map(drop);
            checked.and_then(|()| outputs::check(&entry.manifest, request)).map_err(|fault| match submit.batch {
                true => Fault::new(fault.code, format!("item {index}: {}", fault.message)),
                false => fault,
            })?;
        }
        let spec = Spec {
            id: id.clone(),
            body,
            model: submit.model,
            priority: submit.priority,
            deadline: submit.deadline,
            not_before: submit.not_before,
            limits: submit.limits,
            traceparent: messages::traceparent(&message.properties).map(str::to_owned),
            items: u32::try_from(submit.items.len()).unwrap_or(u32::MAX),
        };
        let job = Job::new(spec, now.wall);
        self.check_feasible(now, &job, &entry)?;
        Ok((job, header_bytes))
    }

    /// The acknowledgement of an order about a job, when the order counts; else it is refused.
    #[expect(clippy::option_option, reason = "an order without acknowledgement counts as well")]
    pub(in crate::agent) fn admits(
        &mut self,
        now: Now,
        order: &str,
        id: &JobId,
        message: &Publish,
        ack: Option<AckToken>,
    ) -> Option<Option<AckToken>> {
        match self.trust.judge_harmless(now, order, id.as_str(), message) {
            Ok(May::Act | May::Repeat) => Some(ack),
            Err(fault) => {
                self.refuse_event(now, id.as_str(), &fault, ack);
                None
            }
        }
    }

    /// A controller takes a job back. Always ends in the job's terminal status.
    pub(in crate::agent) fn cancel(&mut self, now: Now, id: &JobId, ack: Option<AckToken>) {
        match self.jobs.get(id).as_deref() {
            None => self.refuse_unknown(now, id, ack),
            Some(_) if self.jobs.is_undecided(id) => {
                self.later.entry(id.clone()).or_default().push(Later::Cancel(ack));
            }
            Some(job) if job.is_terminal() => {
                let again = self.reports.status(job);
                self.commit(Batch { droppable: vec![again], ..Batch::default() }, ack, None);
            }
            Some(_) => {
                // Its worker is killed at once; the broker may forget the order when a crash cannot undo it.
                self.change_for(now, id, Event::Cancel, ack);
                self.detach(now, id, Code::JobCanceled);
            }
        }
    }

    /// A controller has the result: the data may go. The id stays known until retention ends, against repeats.
    pub(in crate::agent) fn forget(&mut self, now: Now, id: &JobId, ack: Option<AckToken>) {
        match self.jobs.entry(id).map(|entry| entry.is_open()) {
            Some(false) if self.jobs.acknowledge(id) => {
                let (acknowledged, drop_results) = (vec![id.clone()], vec![id.clone()]);
                self.commit(Batch { acknowledged, drop_results, ..Batch::default() }, ack, None);
            }
            // Again: nothing is left to be forgotten.
            Some(false) => self.acknowledge(ack),
            Some(true) => {
                let text = format!("job {id} has not ended; an ack is only for results");
                self.refuse_event(now, id.as_str(), &Fault::new(Code::JobMalformed, text), ack);
            }
            None => self.refuse_unknown(now, id, ack),
        }
    }

    fn refuse_unknown(&mut self, now: Now, id: &JobId, ack: Option<AckToken>) {
        let fault = Fault::new(Code::JobUnknown, format!("no job {id} is known here; list them with the jobs command"));
        self.refuse_event(now, id.as_str(), &fault, ack);
    }

    /// A cancel or ack arrived with the retain flag.
    pub(in crate::agent) fn refuse_retained(&mut self, now: Now, id: &JobId, ack: Option<AckToken>) {
        let text = format!(
            "an order for job {id} arrived retained: it would count again at every connect; publish it without"
        );
        self.refuse_event(now, id.as_str(), &Fault::new(Code::JobRetained, text), ack);
    }

    /// A message about a job whose id is not one.
    pub(in crate::agent) fn refuse_id(&mut self, now: Now, bad: &BadName, ack: Option<AckToken>) {
        self.refuse_event(now, "", &Fault::new(Code::JobMalformed, bad.to_string()), ack);
    }

    /// Nobody's status can tell this, so an alarm does. Alarms give way in a long outage: a stranger may cause many.
    pub(in crate::agent) fn refuse_event(&mut self, now: Now, subject: &str, fault: &Fault, ack: Option<AckToken>) {
        static REFUSED: LogLimit = LogLimit::new(20, 60);
        if let Some(suppressed) = REFUSED.admit(now.mono) {
            tracing::info!(job = subject, %fault, suppressed, "refused");
        }
        let batch = Batch { droppable: vec![self.reports.alarm(subject, fault, now.wall)], ..Batch::default() };
        self.commit(batch, ack, None);
    }
}

fn digest(body: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest(sha2::Sha256::digest(body).into())
}
