//! What does a controller ask of the node itself? `down/cmd/{name}`: request and reply, and the site's hold.

use std::time::Duration;

use super::core::{Act, Core};
use super::desk::Now;
use super::hear::TOPIC_CHARS_LOGGED;
use super::keeper::Request;
use super::trust::May;
use crate::fault::{Code, Fault};
use crate::governor::Order;
use crate::jobs::job::Job;
use crate::jobs::store::Batch;
use crate::jobs::table::Entry;
use crate::link::messages::{self, Command, ErrorBody, JobSummary, JobsPage, JobsQuery, Listing, Pong, Reply, Status};
use crate::link::{AckToken, Publish, Qos, packet_bytes};
use crate::telemetry::LogLimit;
use crate::trust::order;
use crate::units::{Instant, JobId};

/// Most command replies that wait for the store at once.
const WAITING_MAX: usize = 64;
/// Most bytes of jobs in one reply; the rest is on further pages. A hundred jobs always fit.
const JOBS_BYTES_MAX: usize = 256 * 1024;
/// Commands that change nothing: they may be asked any number of times.
const ASKING: [&str; 4] = ["ping", "describe", "jobs", "result"];
/// How long a broker keeps a reply.
const REPLY_EXPIRY_S: u32 = 60;
/// The site's hold ends by itself after this unless it is renewed (PROTOCOL section 1).
const FLEET_HOLD_MAX: Duration = Duration::from_secs(15 * 60);

/// Who is waiting for an answer, and for which job's result.
#[derive(Debug)]
pub(super) struct Waiting {
    back: Address,
    job: JobId,
}

/// Where a reply goes.
#[derive(Clone, Debug)]
pub(super) struct Address {
    topic: String,
    correlation: Option<Vec<u8>>,
}

impl Core {
    /// Carries out a command and replies, if a reply was asked for and may go where it should.
    pub(super) fn obey(&mut self, now: Now, name: &str, message: &Publish, ack: Option<AckToken>) {
        let back = self.address(now, message);
        let reply = if message.retain {
            let text =
                format!("command {name:?} arrived retained: it would run again at every connect; publish it without");
            Some(Reply::Error(ErrorBody::from(&Fault::new(Code::JobRetained, text))))
        } else {
            let judged = match ASKING.contains(&name) {
                true => self.desk.trust.judge_harmless(now, name, "", message),
                false => self.desk.trust.judge_command(now, name, message),
            };
            let may = match judged {
                Ok(may) => may,
                Err(fault) => return self.refuse(now, name, &fault, back, ack),
            };
            match messages::parse_command(name, &message.body) {
                Ok(command) if may == May::Act => self.carry_out(now, command, back.as_ref()),
                // The reply to the first one may be lost.
                Ok(_) => Some(Reply::Done),
                Err(fault) => Some(Reply::Error(ErrorBody::from(&fault))),
            }
        };
        if let (Some(reply), Some(back)) = (reply, back) {
            self.reply(back, &reply);
        }
        self.acknowledge_when_remembered(ack);
    }

    /// An order that does not count: told to whoever asked, and to everybody who watches.
    fn refuse(&mut self, now: Now, name: &str, fault: &Fault, back: Option<Address>, ack: Option<AckToken>) {
        if let Some(back) = back {
            self.reply(back, &Reply::Error(ErrorBody::from(fault)));
        }
        let name: String = name.chars().take(TOPIC_CHARS_LOGGED).collect();
        self.desk.refuse_event(now, &name, fault, ack);
    }

    /// What was carried out must not be carried out again after a crash: what tells of it is made durable first.
    fn acknowledge_when_remembered(&mut self, ack: Option<AckToken>) {
        if self.desk.trust.has_marks() {
            self.desk.report(Batch::default(), ack);
        } else {
            self.acknowledge(ack);
        }
    }

    /// `None`: the store has been asked and the reply follows.
    fn carry_out(&mut self, now: Now, command: Command, back: Option<&Address>) -> Option<Reply> {
        static OBEYED: LogLimit = LogLimit::new(20, 60);
        if let Some(suppressed) = OBEYED.admit(now.mono) {
            tracing::info!(command = command.name(), suppressed, "command");
        }
        Some(match command {
            Command::Ping => Reply::Pong(Pong {
                session: self.desk.reports.session().to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                at: now.wall,
            }),
            Command::Describe { job: None } => Reply::Node {
                info: self.desk.reports.node_info(),
                state: self.desk.reports.node_state(self.desk.counts(), self.desk.unacknowledged(), None),
            },
            Command::Describe { job: Some(id) } => match self.desk.told_job(&id) {
                Some(job) => {
                    let told = summary(&job, self.desk.why_waiting(&job));
                    Reply::Job(JobSummary { body_digest: Some(job.body.to_string()), ..told })
                }
                None => Reply::Error(ErrorBody::from(&unknown(&id))),
            },
            Command::Jobs(query) => return back.map(|back| self.list(&query, back)),
            Command::Result { job } => return self.ask_result(job, back),
            Command::Drain => {
                self.desk.set_draining(true);
                self.order(Order::Drain);
                Reply::Done
            }
            Command::Resume => {
                self.desk.set_draining(false);
                self.set_safe_mode(now, None);
                self.hold_until = None;
                self.order(Order::Resume);
                self.order(Order::Release);
                Reply::Done
            }
            Command::Hold { span } => {
                self.hold(now.mono, span);
                Reply::Done
            }
            Command::Release => {
                self.release();
                Reply::Done
            }
        })
    }

    /// The jobs asked for, as many as fit into the reply. Why a job waits is told to people only.
    fn list(&self, query: &JobsQuery, back: &Address) -> Reply {
        let empty = answer(back.clone(), &Reply::Jobs(JobsPage::default()));
        let bytes_max = self.packet_bytes_max.saturating_sub(packet_bytes(&empty)).min(JOBS_BYTES_MAX);
        let wanted = |entry: &Entry<'_>| query.lists(entry.is_open(), entry.keeps_result());
        let max = query.max as usize;
        Reply::Jobs(match &query.listing {
            Listing::Newest => {
                // One more, to know whether there are more.
                let jobs = self.desk.jobs().newest(max.saturating_add(1), wanted);
                let told = jobs.iter().filter_map(|entry| self.desk.told(entry.job()));
                let told = told.map(|job| summary(&job, self.desk.why_waiting(&job)));
                JobsPage::fill(told, max, bytes_max)
            }
            Listing::ById { after } => {
                let jobs = self.desk.jobs().after(after.as_ref()).filter(wanted);
                let told = jobs.filter_map(|entry| self.desk.told(entry.job()));
                JobsPage::fill(told.map(|job| summary(&job, None)), max, bytes_max)
            }
        })
    }

    fn ask_result(&mut self, job: JobId, back: Option<&Address>) -> Option<Reply> {
        let back = back?;
        let refuse = |fault: &Fault| Some(Reply::Error(ErrorBody::from(fault)));
        match self.desk.told_job(&job) {
            None => return refuse(&unknown(&job)),
            Some(known) if !known.is_terminal() => {
                let text = format!("job {job} is {}; its result comes when it ends", known.state.as_str());
                return refuse(&Fault::new(Code::JobUnknown, text));
            }
            Some(_) => {}
        }
        if self.replies.len() >= WAITING_MAX {
            return refuse(&Fault::new(Code::QueueFull, format!("{WAITING_MAX} results are being read; ask again")));
        }
        self.reply_count += 1;
        let reply = self.reply_count;
        self.acts.push_back(Act::Store(Request::Result { id: job.clone(), reply }));
        self.replies.insert(reply, Waiting { back: back.clone(), job });
        None
    }

    /// The store has answered.
    pub(super) fn reply_with_result(&mut self, reply: u64, outcome: Result<Option<Vec<u8>>, Fault>) {
        let Some(Waiting { back, job }) = self.replies.remove(&reply) else { return };
        let reply = match outcome {
            Err(fault) => Reply::Error(ErrorBody::from(&fault)),
            Ok(Some(body)) => Reply::Result(body),
            Ok(None) => Reply::Error(ErrorBody::from(&Fault::new(
                Code::JobUnknown,
                format!("the result of job {job} is no longer kept; it was acknowledged or its retention ended"),
            ))),
        };
        self.reply(back, &reply);
    }

    /// Sends a reply, or says why it cannot be sent.
    fn reply(&mut self, back: Address, reply: &Reply) {
        let mut message = answer(back.clone(), reply);
        let (bytes, limit) = (packet_bytes(&message), self.packet_bytes_max);
        if bytes > limit {
            let text = format!(
                "the reply is a packet of {bytes} bytes, and broker and node allow {limit}: raise max_packet_size at the \
                 broker, or ask for less at once"
            );
            message = answer(back, &Reply::Error(ErrorBody::from(&Fault::new(Code::OutputTooLarge, text))));
        }
        self.courier.publish(message);
    }

    /// The site is held or released. Retained on purpose, so that a node that was away hears of it.
    pub(super) fn fleet_hold(&mut self, now: Now, message: &Publish, ack: Option<AckToken>) {
        let holds_only = match self.desk.trust.judge_command(now, order::FLEET_HOLD, message) {
            Ok(may) => may == May::Repeat,
            // Quiet harms nothing, and what the broker keeps comes with every connection.
            Err(fault) if fault.code == Code::TrustClockDoubt => true,
            Err(fault) => return self.refuse(now, order::FLEET_HOLD, &fault, None, ack),
        };
        match messages::parse_hold(&message.body) {
            Ok(None) if holds_only => {}
            Ok(None) => self.release(),
            Ok(Some(span)) => self.hold(now.mono, Some(span.unwrap_or(FLEET_HOLD_MAX).min(FLEET_HOLD_MAX))),
            Err(fault) => {
                // In doubt the site wants quiet.
                static UNREADABLE: LogLimit = LogLimit::new(5, 60);
                if let Some(suppressed) = UNREADABLE.admit(now.mono) {
                    tracing::warn!(%fault, suppressed, "unreadable hold of the site: holding");
                }
                self.hold(now.mono, Some(FLEET_HOLD_MAX));
            }
        }
        self.acknowledge_when_remembered(ack);
    }

    fn hold(&mut self, now: Instant, span: Option<Duration>) {
        self.hold_until = span.map(|span| now.after(span));
        self.order(Order::Hold);
    }

    fn release(&mut self) {
        self.hold_until = None;
        self.order(Order::Release);
    }

    /// Ends a hold whose time has come.
    pub(super) fn end_hold_if_due(&mut self, now: Instant) {
        if self.hold_until.is_some_and(|until| until <= now) {
            // A controller may ask for many short ones.
            static OVER: LogLimit = LogLimit::new(10, 60);
            if let Some(suppressed) = OVER.admit(now) {
                tracing::info!(suppressed, "hold is over");
            }
            self.release();
        }
    }

    fn order(&mut self, order: Order) {
        self.acts.push_back(Act::Order(order));
    }

    fn address(&self, now: Now, message: &Publish) -> Option<Address> {
        let topic = message.response_topic.clone()?;
        if !self.terms.topics.may_reply_to(&topic) {
            static ELSEWHERE: LogLimit = LogLimit::new(10, 60);
            if let Some(suppressed) = ELSEWHERE.admit(now.mono) {
                let topic: String = topic.chars().take(TOPIC_CHARS_LOGGED).collect();
                tracing::warn!(
                    ?topic,
                    suppressed,
                    "no reply: a Response Topic is below the protocol's root, not a node's"
                );
            }
            return None;
        }
        Some(Address { topic, correlation: message.correlation.clone() })
    }
}

fn summary(job: &Job, waiting: Option<String>) -> JobSummary {
    JobSummary {
        id: job.id.to_string(),
        model: job.model.name.to_string(),
        priority: job.priority,
        deadline: job.deadline,
        waiting,
        body_digest: None,
        result_kept: Some(job.keeps_result()),
        status: Status::of(job),
    }
}

fn unknown(id: &JobId) -> Fault {
    Fault::new(Code::JobUnknown, format!("no job {id} is known here; list them with the jobs command"))
}

fn answer(back: Address, reply: &Reply) -> Publish {
    Publish {
        topic: back.topic,
        body: reply.render(),
        qos: Qos::AtLeastOnce,
        retain: false,
        expiry_s: Some(REPLY_EXPIRY_S),
        content_type: Some(messages::JSON.to_owned()),
        response_topic: None,
        correlation: back.correlation,
        properties: Vec::new(),
    }
}
