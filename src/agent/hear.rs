//! What does each event do? From the sentinel, the store, and the link.

use super::reports;
use super::{Agent, Error, keeper::Answer, now};
use crate::jobs::store::Batch;
use crate::link::topics::Down;
use crate::link::{AckToken, Event, Received};
use crate::sentinel::Report;

impl Agent {
    /// Takes every report that waits; the queue is bounded, and the sentinel fills it far slower than this empties it.
    pub(super) fn hear_sentinel(&mut self) {
        while let Some(report) = self.sentinel.reports().pop() {
            let now = now();
            match report {
                Report::Mode { at, decision } => {
                    self.desk.set_budget(now, at, decision.budget);
                    for (slot, handle) in self.handles.iter().enumerate() {
                        handle.set_may_start(slot < usize::from(decision.budget));
                    }
                    self.desk.reports.set_decision(now, at, decision);
                    self.telemetry.state_changed();
                }
                Report::Yield(record) => {
                    let touched = self.desk.jobs_of(&record.jobs);
                    self.telemetry.yielded(&record);
                    tracing::info!(
                        reason = ?record.reason,
                        total_us = record.total().as_micros(),
                        workers = record.workers,
                        "yielded"
                    );
                    let event = self.desk.reports.yielded(&record, &touched, now.wall);
                    self.desk.report(Batch { droppable: vec![event], ..Batch::default() }, None);
                }
                Report::Resumed { at: _, workers, jobs } => {
                    let touched = self.desk.jobs_of(&jobs);
                    let event = self.desk.reports.resumed(workers, &touched, now.wall);
                    self.desk.report(Batch { droppable: vec![event], ..Batch::default() }, None);
                }
                Report::Load { fused, .. } => {
                    self.desk.reports.set_load(&fused);
                    self.telemetry.loaded(&fused);
                }
                Report::Killed { slot, .. } => {
                    tracing::error!(slot, "worker did not stop in time and was killed");
                }
            }
        }
    }

    pub(super) fn hear_store(&mut self, answer: Answer) -> Result<(), Error> {
        match answer {
            Answer::Committed { ticket, outcome } => self.desk.committed(now(), ticket, outcome)?,
            Answer::Fetched { id, slot, outcome } => self.desk.fetched(now(), slot, &id, outcome),
            Answer::Outbox { messages } => {
                for (seq, message) in self.outbox.read(messages) {
                    self.courier.offer(seq, reports::publish(message));
                }
            }
            Answer::Result { reply, body } => self.reply_with_result(reply, body),
            Answer::Broken(fault) => return Err(Error::Store(fault)),
        }
        Ok(())
    }

    pub(super) fn hear_link(&mut self, event: Event) {
        match event {
            Event::Up { epoch, session_present, packet_bytes_max } => {
                tracing::info!(epoch, session_present, packet_bytes_max, "connected");
                self.connected = true;
                self.outbox.up();
                self.courier.publish(self.desk.reports.info(now().wall));
                self.telemetry.state_changed();
            }
            Event::Down { why, retry_in_ms } => {
                tracing::warn!(why, retry_in_ms, "not connected");
                self.connected = false;
                self.outbox.down();
                self.courier.down();
            }
            Event::Delivered { token } => self.outbox.settle(token),
            Event::Refused { token, why } => self.refused(token, &why),
            Event::Received(received) => self.hear_message(received),
            Event::Closed => self.connected = false,
        }
    }

    /// A message that can never be sent. The result itself stays in the store and answers to the result command.
    fn refused(&mut self, token: u64, why: &str) {
        tracing::error!(message = token, why, "the broker refuses this message; it is taken out of the outbox");
        self.telemetry.refused();
        self.outbox.settle(token);
    }

    fn hear_message(&mut self, received: Received) {
        let now = now();
        let Received { message, ack, .. } = received;
        match self.settings.node.topics.parse_down(&message.topic) {
            Some(Down::Submit(id)) => self.desk.submit(now, id, message, ack),
            Some(Down::Cancel(id)) => self.desk.cancel(now, &id, ack),
            Some(Down::Ack(id)) => self.desk.forget(now, &id, ack),
            Some(Down::Command(name)) => self.obey(now, &name, &message, ack),
            Some(Down::FleetHold) => self.fleet_hold(&message, ack),
            Some(Down::OwnState) => {
                // A late Will of an earlier connection: say again that this node lives.
                if self.desk.reports.is_false_death(&message.body) {
                    self.telemetry.state_changed();
                }
                self.acknowledge(ack);
            }
            None => {
                tracing::warn!(topic = ?message.topic, "a message whose topic means nothing here");
                self.acknowledge(ack);
            }
        }
    }

    pub(super) fn acknowledge(&mut self, ack: Option<AckToken>) {
        if let Some(ack) = ack {
            self.courier.ack(ack);
        }
    }
}
