//! What does the store answer, and what is asked of it? A change is one batch; its answer settles it.

use super::unsettled::Later;
use super::{AckToken, Ask, Desk, Draft, Effect, Fetched, Now, PACKET_BYTES_MAX, Pending, reports};
use crate::agent::reports::Impairment;
use crate::fault::{Code, Fault};
use crate::jobs::job::Event;
use crate::jobs::store::Batch;
use crate::link::messages::{self, Body};
use crate::telemetry::LogLimit;
use crate::units::JobId;

impl Desk {
    /// A batch is durable, or was refused.
    ///
    /// # Errors
    /// When the store refused something other than a submit: promises can no longer be kept.
    pub(in crate::agent) fn committed(
        &mut self,
        now: Now,
        ticket: u64,
        outcome: Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Some(pending) = self.pending.remove(&ticket) else { return Ok(()) };
        for job in pending.jobs {
            self.unsettled.settled(job, outcome.is_ok());
        }
        if let Some(id) = &pending.submit {
            self.jobs.decide(id);
        }
        match (outcome, &pending.submit) {
            (Ok(()), _) => {
                self.effects.push_back(Effect::Outbox);
                self.acknowledge(pending.ack);
            }
            (Err(fault), Some(id)) => {
                static REFUSED: LogLimit = LogLimit::new(20, 60);
                if let Some(suppressed) = REFUSED.admit(now.mono) {
                    tracing::warn!(job = %id, %fault, suppressed, "job refused by the store");
                }
                self.jobs.remove(id);
                let batch = Batch { droppable: self.reports.rejected(id, &fault, now.wall), ..Batch::default() };
                if fault.code == Code::SpoolFull {
                    // The quota is for inputs: what is said of it still has room, and so outlives this connection.
                    self.commit(batch, pending.ack, None);
                } else {
                    self.tell(batch, pending.ack);
                }
            }
            (Err(fault), None) => return Err(fault),
        }
        if let Some(id) = pending.submit {
            self.decided(now, &id);
        }
        Ok(())
    }

    fn decided(&mut self, now: Now, id: &JobId) {
        for later in self.later.remove(id).unwrap_or_default() {
            match later {
                // Whether it was taken has just been told.
                Later::Again(ack) => self.acknowledge(ack),
                Later::Conflict(fault, ack) => self.refuse_event(now, id.as_str(), &fault, ack),
                Later::Cancel(ack) => self.cancel(now, id, ack),
            }
        }
    }

    /// The input of a job that is to start was read.
    pub(in crate::agent) fn fetched(&mut self, now: Now, slot: usize, id: &JobId, outcome: Result<Fetched, Fault>) {
        let place = &mut self.bench.places[slot];
        place.fetches = place.fetches.saturating_sub(1);
        // An earlier attempt that was given up may have been at the same job, in the same place: its answer comes before
        // this attempt is durable.
        let waiting = place.run.as_ref().is_some_and(|run| run.job == *id && run.requests.is_empty());
        if !waiting || place.fetches > 0 {
            return;
        }
        let parsed = outcome.and_then(|fetched| {
            // Limits and deadline were judged at admission; a deadline that passed meanwhile is the queue's business.
            let payload = &fetched.payload;
            let (content_type, header_bytes) = (payload.content_type.as_deref(), payload.header_bytes);
            let submit = Draft::parse(&Body { bytes: &payload.body, content_type, header_bytes }, PACKET_BYTES_MAX)?;
            Ok((submit, fetched.items))
        });
        match parsed {
            Ok((submit, bodies)) => {
                let Some(run) = self.bench.places[slot].run.as_mut() else { return };
                run.next = bodies.len();
                run.body_bytes = bodies.iter().map(Vec::len).sum();
                run.item_errors = bodies.iter().filter(|body| messages::is_item_error(body)).count();
                run.batch = submit.batch;
                run.bodies = bodies;
                run.requests = submit.items;
                run.begin(now.mono);
                self.feed(slot);
                self.finish_if_complete(now, slot);
            }
            Err(fault) => {
                self.clear(now, slot);
                self.change(now, id, Event::Fault(fault));
            }
        }
    }

    pub(super) fn commit(&mut self, mut batch: Batch, ack: Option<AckToken>, submit: Option<JobId>) {
        if self.reports.impaired(Impairment::Disk).is_some() && batch.only_tells() {
            self.tell(batch, ack);
            return;
        }
        batch.at = batch.at.or(self.mark);
        // A job may be refused with all that its batch brings.
        if submit.is_none() {
            batch.marks.append(&mut self.trust.take_marks());
        }
        self.tickets += 1;
        let ticket = self.tickets;
        batch.jobs.iter().for_each(|job| self.unsettled.asked(job));
        self.pending.insert(ticket, Pending { ack, submit, jobs: batch.jobs.clone() });
        self.effects.push_back(Effect::Ask(Ask::Commit { ticket, batch: Box::new(batch) }));
    }

    /// Says without the store what changes nothing: a disk that refuses would hold it up, and the broker with it.
    pub(super) fn tell(&mut self, batch: Batch, ack: Option<AckToken>) {
        let messages = batch.messages.into_iter().chain(batch.droppable).map(reports::publish);
        if ack.is_some() {
            self.effects.push_back(Effect::Tell { messages: messages.collect(), ack });
        } else {
            self.effects.extend(messages.map(Effect::Publish));
        }
    }
}
