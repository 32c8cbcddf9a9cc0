//! What does a controller want? Submit, cancel, ack.

use super::{Desk, LOAD_FAILURES_MAX, Now};
use crate::fault::{Code, Fault};
use crate::jobs::job::{Event, Job};
use crate::jobs::queue;
use crate::jobs::store::{Batch, Payload};
use crate::link::messages::{self, Submit};
use crate::link::{AckToken, Publish};
use crate::units::{Digest, JobId};

impl Desk {
    /// A job arrived.
    pub(super) fn submit(&mut self, now: Now, id: JobId, message: Publish, ack: Option<AckToken>) {
        let digest = digest(&message.body);
        if let Some(known) = self.jobs.get(&id) {
            if known.body == digest {
                let again = self.reports.status(known);
                self.commit(Batch { messages: vec![again], ..Batch::default() }, ack, None);
            } else {
                let text = format!("job {id} is known with another body; send the new one under a new id");
                self.refuse_event(now, &id, &Fault::new(Code::JobIdConflict, text), ack);
            }
            return;
        }
        let payload = Payload::from_publish(message);
        match self.admit(now, &id, &payload, digest) {
            Ok(job) => {
                let batch = Batch {
                    jobs: vec![job.clone()],
                    payloads: vec![(id.clone(), payload)],
                    messages: vec![self.reports.status(&job)],
                    ..Batch::default()
                };
                self.jobs.insert(id.clone(), job);
                self.commit(batch, ack, Some(id));
            }
            Err(fault) => {
                tracing::info!(job = %id, %fault, "job refused");
                let batch = Batch { messages: self.reports.rejected(&id, &fault, now.wall), ..Batch::default() };
                self.commit(batch, ack, None);
            }
        }
    }

    fn admit(&self, now: Now, id: &JobId, payload: &Payload, body: Digest) -> Result<Job, Fault> {
        if payload.retained {
            let text = format!("job {id} arrived retained: it would run again at every connect; publish it without retain");
            return Err(Fault::new(Code::JobRetained, text));
        }
        if self.draining {
            return Err(Fault::new(Code::NodeDraining, "the node takes no new jobs; send it elsewhere or after a resume"));
        }
        let open = self.jobs.values().filter(|job| !job.is_terminal()).count();
        queue::admit(&self.settings.capacity, open, self.jobs.len())?;
        let submit = self.parse(now, id, payload)?;
        let model = &submit.model;
        let entry = self.library.find(&model.name, model.version, model.digest.as_ref())?;
        if self.load_failures.get(&entry.manifest.digest).is_some_and(|failures| *failures >= LOAD_FAILURES_MAX) {
            let text = format!("model {} failed to load {LOAD_FAILURES_MAX} times; replace its file", model.name);
            return Err(Fault::new(Code::ModelQuarantined, text));
        }
        for (index, request) in submit.items.iter().enumerate() {
            entry.manifest.check_inputs(&request.inputs).map_err(|fault| match submit.items.len() {
                1 => fault,
                _ => Fault::new(fault.code, format!("item {index}: {}", fault.message)),
            })?;
        }
        Ok(submit.into_job(id.clone(), body, now.wall, self.reports.traceparent(payload)))
    }

    fn parse(&self, now: Now, id: &JobId, payload: &Payload) -> Result<Submit, Fault> {
        messages::parse_submit(id, payload, &self.settings.limits, now.wall)
    }

    /// A controller takes a job back. Always ends in the job's terminal status.
    pub(super) fn cancel(&mut self, now: Now, id: &JobId, ack: Option<AckToken>) {
        match self.jobs.get(id) {
            None => self.refuse_unknown(now, id, ack),
            Some(job) if job.is_terminal() => {
                let again = self.reports.status(job);
                self.commit(Batch { messages: vec![again], ..Batch::default() }, ack, None);
            }
            Some(_) => {
                self.change(now, id, Event::Cancel);
                self.detach(id, Code::JobCanceled);
                self.acknowledge(ack);
            }
        }
    }

    /// A controller has the result: the data may go. The id stays known until retention ends, against repeats.
    pub(super) fn forget(&mut self, now: Now, id: &JobId, ack: Option<AckToken>) {
        match self.jobs.get(id) {
            Some(job) if job.is_terminal() => {
                self.commit(Batch { drop_data: vec![id.clone()], ..Batch::default() }, ack, None);
            }
            Some(_) => {
                let text = format!("job {id} has not ended; an ack is only for results");
                self.refuse_event(now, id, &Fault::new(Code::JobMalformed, text), ack);
            }
            None => self.refuse_unknown(now, id, ack),
        }
    }

    fn refuse_unknown(&mut self, now: Now, id: &JobId, ack: Option<AckToken>) {
        let fault = Fault::new(Code::JobUnknown, format!("no job {id} is known here; list them with the jobs command"));
        self.refuse_event(now, id, &fault, ack);
    }

    fn refuse_event(&mut self, now: Now, id: &JobId, fault: &Fault, ack: Option<AckToken>) {
        tracing::info!(job = %id, %fault, "refused");
        let batch = Batch { messages: vec![self.reports.refused(id, fault, now.wall)], ..Batch::default() };
        self.commit(batch, ack, None);
    }
}

fn digest(body: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest(sha2::Sha256::digest(body).into())
}
