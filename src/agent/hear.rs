//! What does each event do? From the sentinel, the store, and the link.

use super::core::Core;
use super::desk::Now;
use super::keeper::{Answer, Found};
use super::probe;
use super::reports::{self, Impairment};
use crate::fault::{Code, Fault};
use crate::jobs::store::Batch;
use crate::link::topics::Down;
use crate::link::{AckToken, Event, Received};
use crate::sentinel::Report;
use crate::telemetry::LogLimit;
use crate::trust::order;
use crate::units::Instant;
use crate::worker::handle;

/// Most of a stranger's topic that is logged.
pub(super) const TOPIC_CHARS_LOGGED: usize = 200;

impl Core {
    /// The sentinel has something to tell.
    pub(super) fn hear_sentinel(&mut self, now: Now, report: Report) {
        match report {
            Report::Mode { at, decision } => {
                self.desk.set_budget(now, at, decision.budget);
                self.let_workers_start();
                self.desk.reports.set_decision(now, at, decision);
                self.telemetry.state_changed();
            }
            Report::Yield(record) => {
                let touched = self.desk.jobs_of(&record.jobs);
                let causes = self.telemetry.yielded(now, &record);
                static YIELDED: LogLimit = LogLimit::new(20, 60);
                if let Some(suppressed) = YIELDED.admit(now.mono) {
                    let (reason, total_us) = (&record.reason, record.total().as_micros());
                    tracing::info!(?reason, total_us, workers = record.workers, suppressed, "yielded");
                }
                let event = self.desk.reports.yielded(&record, causes.as_ref(), &touched, now.wall);
                self.desk.report(Batch { droppable: vec![event], ..Batch::default() }, None);
            }
            Report::Resumed { at: _, workers, jobs } => {
                let touched = self.desk.jobs_of(&jobs);
                let event = self.desk.reports.resumed(workers, &touched, now.wall);
                self.desk.report(Batch { droppable: vec![event], ..Batch::default() }, None);
            }
            Report::Load { fused, .. } => {
                self.tuning.hear(now, &fused);
                self.desk.reports.set_load(&fused);
                self.telemetry.loaded(&fused);
                self.outlooks.hear(now, &fused);
            }
            Report::Guard(news) => self.hear_guard(now, news),
            Report::Killed { slot, .. } => {
                self.telemetry.killed();
                tracing::error!(slot, "worker did not stop in time and was killed");
            }
        }
    }

    /// A worker has something to tell.
    pub(super) fn hear_worker(&mut self, now: Now, event: handle::Event) {
        if let handle::Event::Parked { slot, times, time } = event {
            self.hear_parked(now, slot, times, time);
        }
        let refused = match &event {
            handle::Event::Ready { .. } => Some(None),
            handle::Event::Exited { fault: Some(fault), .. } if fault.code == Code::SandboxUnavailable => {
                Some(Some(fault.message.clone()))
            }
            handle::Event::Exited { .. } | handle::Event::Done { .. } | handle::Event::Parked { .. } => None,
        };
        self.desk.worker(now, event);
        // While another worker serves, so does the node.
        if let Some(why) = refused.filter(|why| why.is_none() || !self.desk.has_worker()) {
            self.impair(now, Impairment::Sandbox, why);
        }
    }

    /// The store answers.
    ///
    /// # Errors
    /// When it can no longer keep promises.
    pub(super) fn hear_store(&mut self, now: Now, answer: Answer) -> Result<(), Fault> {
        match answer {
            Answer::Committed { ticket, outcome } => self.desk.committed(now, ticket, outcome)?,
            Answer::Fetched { id, slot, outcome } => self.desk.fetched(now, slot, &id, outcome),
            Answer::Outbox { messages } => {
                for (seq, message) in self.outbox.read(messages) {
                    self.courier.offer(seq, reports::publish(message));
                }
            }
            Answer::Stored { commits, messages } => {
                for (seq, message) in self.outbox.handed_over(commits, messages) {
                    self.courier.offer(seq, reports::publish(message));
                }
            }
            Answer::Kept => self.outbox.kept(),
            Answer::Result { reply, body } => self.reply_with_result(reply, Ok(body)),
            Answer::Unread { reply, fault } => self.reply_with_result(reply, Err(fault)),
            Answer::Disk(why) => self.impair(now, Impairment::Disk, why),
            Answer::Opened(found) => self.adopt(now, *found),
            Answer::Dropped { total } => self.telemetry.gave_way(total),
            Answer::Broken(fault) => return Err(fault),
        }
        Ok(())
    }

    /// A store was opened while the agent runs. The time of `now` was judged with what it knows of the clock.
    fn adopt(&mut self, now: Now, found: Found) {
        self.desk.trust.recall(&found.marks);
        self.desk.adopt(now, found.jobs);
        self.desk.tell_of_damage(now, &found.damage);
        self.outbox.stored();
        self.telemetry.state_changed();
    }

    /// The link has something to tell.
    pub(super) fn hear_link(&mut self, now: Now, event: Event) {
        match event {
            Event::Up { epoch, session_present, packet_bytes_max } => {
                tracing::info!(epoch, session_present, packet_bytes_max, "connected");
                self.connected = true;
                self.packet_bytes_max = packet_bytes_max;
                self.outbox.up();
                self.courier.up();
                self.courier.publish(self.desk.reports.info(now.wall));
                self.telemetry.born();
                self.outlooks.born();
                self.probe.up();
            }
            // The link has logged why.
            Event::Down { why, cause, .. } => {
                self.connected = false;
                self.probe.down(now.mono, cause, why);
                self.outbox.down();
                self.courier.down();
            }
            Event::Delivered { token: probe::TOKEN } => self.probe.delivered(now.mono),
            Event::Delivered { token } => self.outbox.settle(token),
            Event::Refused { token: probe::TOKEN, why } => self.probe.refused(now.mono, &why),
            Event::Refused { token, why } => self.refused(now.mono, token, &why),
            Event::Received(received) => self.hear_message(now, received),
            Event::Closed => self.connected = false,
        }
    }

    /// Something keeps the node from its best for this reason, or (`None`) not any more: told in state, log and events.
    pub(super) fn impair(&mut self, now: Now, what: Impairment, why: Option<String>) {
        let was = self.desk.reports.impaired(what).is_some();
        if !self.desk.reports.set_impaired(what, why.clone()) {
            return;
        }
        self.telemetry.state_changed();
        self.let_workers_start();
        let (code, what) = (what.code(), what.as_str());
        match &why {
            Some(why) => tracing::error!(what, why, "degraded"),
            None => tracing::info!(what, "no longer degraded"),
        }
        // The sentence may change with every try; beginning and end are the events.
        if was != why.is_some() {
            let fault = Fault::new(code, format!("{what}: {}", why.as_deref().unwrap_or("over")));
            let event = self.desk.reports.alarm("", &fault, now.wall);
            self.desk.report(Batch { droppable: vec![event], ..Batch::default() }, None);
        }
    }

    /// A message that can never be sent. The result itself stays in the store and answers to the result command.
    fn refused(&mut self, now: Instant, token: u64, why: &str) {
        static REFUSED: LogLimit = LogLimit::new(10, 60);
        if let Some(suppressed) = REFUSED.admit(now) {
            let said = "the broker refuses this message; it is taken out of the outbox";
            tracing::error!(message = token, why, suppressed, "{said}");
        }
        self.telemetry.refused();
        self.outbox.settle(token);
    }

    fn hear_message(&mut self, now: Now, received: Received) {
        let Received { message, ack, .. } = received;
        match self.terms.topics.parse_down(&message.topic) {
            Some(Down::Submit(id)) => self.desk.submit(now, id, message, ack),
            Some(Down::Cancel(id) | Down::Ack(id)) if message.retain => self.desk.refuse_retained(now, &id, ack),
            Some(Down::Cancel(id)) => {
                if let Some(ack) = self.desk.admits(now, order::CANCEL, &id, &message, ack) {
                    self.desk.cancel(now, &id, ack);
                }
            }
            Some(Down::Ack(id)) => {
                if let Some(ack) = self.desk.admits(now, order::ACK, &id, &message, ack) {
                    self.desk.forget(now, &id, ack);
                    self.telemetry.state_changed();
                }
            }
            Some(Down::Command(name)) => self.obey(now, &name, &message, ack),
            Some(Down::Load) => self.hear_plan(now, &message, ack),
            Some(Down::FleetHold) => self.fleet_hold(now, &message, ack),
            Some(Down::OwnState) => {
                self.probe.echoed(&message.body);
                // A late Will of an earlier connection: say again that this node lives.
                if self.desk.reports.is_false_death(&message.body) {
                    self.telemetry.state_changed();
                }
                self.acknowledge(ack);
            }
            None => self.misaddressed(now, &message.topic, ack),
        }
    }

    /// A message whose topic means nothing here. A bad job id is told, because its sender waits for an answer.
    fn misaddressed(&mut self, now: Now, topic: &str, ack: Option<AckToken>) {
        static MISADDRESSED: LogLimit = LogLimit::new(10, 60);
        if let Some(suppressed) = MISADDRESSED.admit(now.mono) {
            let topic: String = topic.chars().take(TOPIC_CHARS_LOGGED).collect();
            tracing::warn!(?topic, suppressed, "a message whose topic means nothing here");
        }
        match self.terms.topics.bad_job_id(topic) {
            Some(bad) => self.desk.refuse_id(now, &bad, ack),
            None => self.acknowledge(ack),
        }
    }

    pub(super) fn acknowledge(&mut self, ack: Option<AckToken>) {
        if let Some(ack) = ack {
            self.courier.ack(ack);
        }
    }
}
