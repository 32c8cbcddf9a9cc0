//! How does a controller speak the protocol? Its messages in and out, without the network. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::News;
use super::assortment::{Assortment, Wish};
use super::book::{Book, Change, Sight, Tally};
use super::inquiry::{Inquiry, Next};
use super::seen::seen;
use crate::jobs::job::{ModelRef, State};
use crate::link::messages::{
    self, BadMessage, Command as Order, Draft, ErrorBody, NodeEvent, NodeState, Outcome, Reply, Request, Status,
    parse_result, render_submit,
};
use crate::link::reconcile::{Standing, Step, step};
use crate::link::topics::{Topics, Up};
use crate::link::{AckToken, Command, Event, Publish, Received};
use crate::units::{Instant, JobId, WallTime};

/// A message nobody took within this is forgotten by the broker, in seconds.
const EXPIRY_S: u32 = 3600;
/// A question that the node has not taken by then is asked again anyway, in seconds.
const QUESTION_EXPIRY_S: u32 = 60;
/// Begins the mark of a reply that brings a result; the job's id follows.
const RESULT_MARK: &[u8] = b"result-";
/// Most received messages whose acknowledgement waits for room in the link's queue.
const ACKS_MAX: usize = 4096;

/// The controller's side of the protocol.
#[derive(Debug)]
pub struct Desk {
    topics: Topics,
    assortment: Assortment,
    book: Book,
    open_max: usize,
    is_up: bool,
    /// Messages the broker has not acknowledged, by token, and whether the link has them.
    outgoing: BTreeMap<u64, (Publish, bool)>,
    next_token: u64,
    acks: VecDeque<AckToken>,
    /// Submits of the open jobs: a broker may forget one that it acknowledged.
    submits: BTreeMap<JobId, Publish>,
    /// Where the node's replies go.
    replies: String,
    inquiry: Inquiry,
    /// Seen, but not yet told: the job's last status is still to come.
    sights: BTreeMap<JobId, Vec<Sight>>,
    news: VecDeque<News>,
}

impl Desk {
    /// A desk with an empty book that keeps up to `open_max` jobs open, and asks the node about them every so often.
    pub fn new(topics: Topics, assortment: Assortment, open_max: usize, replies: String, ask_every: Duration) -> Self {
        Self {
            topics,
            assortment,
            book: Book::default(),
            open_max,
            is_up: false,
            outgoing: BTreeMap::new(),
            next_token: 1,
            acks: VecDeque::new(),
            submits: BTreeMap::new(),
            replies,
            inquiry: Inquiry::new(ask_every),
            sights: BTreeMap::new(),
            news: VecDeque::new(),
        }
    }

    /// Enters one more job, when fewer than `open_max` are open and the link is up.
    pub fn submit(&mut self, now: WallTime) {
        if !self.is_up || self.book.open() >= self.open_max || !self.book.has_room() {
            return;
        }
        let Some(wish) = self.assortment.next_wish() else { return };
        // A UUID is a legal job id; if that ever changes, the demo submits nothing and says so.
        let Ok(id) = messages::new_id().parse::<JobId>() else { return };
        let titles: Vec<String> = wish.samples.iter().map(|sample| sample.title.clone()).collect();
        let items = u32::try_from(titles.len()).unwrap_or(u32::MAX);
        let title = match titles.as_slice() {
            [only] => format!("{} {only}", wish.model),
            _ => format!("{} {items} items", wish.model),
        };
        self.news.push_back(News::Submitted { id: id.clone(), title, items });
        self.book.submit(id.clone(), wish.model.to_string(), titles);
        let topic = self.topics.submit(&id);
        let rendered = render_submit(&draft(wish), true);
        let mut properties = rendered.properties;
        let (source, event_id) = (self.topics.source(), messages::new_id());
        properties.extend(messages::envelope("neap.job.submit", id.as_str(), &source, &event_id, now, None));
        let submit = Publish {
            content_type: Some(rendered.content_type),
            properties,
            ..message(topic, rendered.body, EXPIRY_S)
        };
        self.submits.insert(id, submit.clone());
        self.publish(submit);
    }

    /// Asks the node what it knows of the open jobs, when that is due.
    pub fn ask(&mut self, now: Instant, random: u64) {
        if self.is_up
            && let Some(query) = self.inquiry.begin(now, random, self.book.open_ids())
        {
            self.order(&Order::Jobs(query), self.inquiry.mark());
        }
    }

    /// Takes in what the link says.
    pub fn on_event(&mut self, event: Event) {
        match event {
            Event::Up { .. } => {
                self.is_up = true;
                // Whatever was not acknowledged is offered again; the node knows a job it has seen.
                self.outgoing.values_mut().for_each(|(_, is_offered)| *is_offered = false);
                self.acks.clear();
                self.inquiry.hurry();
                self.news.push_back(News::Link { up: true, why: String::new() });
            }
            Event::Down { why, .. } => {
                self.is_up = false;
                self.news.push_back(News::Link { up: false, why });
            }
            Event::Received(received) => self.received(&received),
            Event::Delivered { token } => {
                self.outgoing.remove(&token);
            }
            Event::Refused { token, why } => {
                self.outgoing.remove(&token);
                self.news.push_back(News::Note(format!("the broker refused a message: {why}")));
            }
            Event::Closed => self.is_up = false,
        }
    }

    /// Hands over what is to be sent, as long as `offer` takes it.
    pub fn send(&mut self, offer: &mut dyn FnMut(Command) -> bool) {
        while let Some(token) = self.acks.front() {
            if !offer(Command::Ack(*token)) {
                return;
            }
            self.acks.pop_front();
        }
        if !self.is_up {
            return;
        }
        for (token, (message, is_offered)) in self.outgoing.iter_mut().filter(|(_, (_, is_offered))| !is_offered) {
            *is_offered = offer(Command::Publish { message: message.clone(), token: Some(*token) });
            if !*is_offered {
                return;
            }
        }
    }

    /// What happened since it was last asked.
    pub fn news(&mut self) -> impl Iterator<Item = News> {
        std::mem::take(&mut self.news).into_iter()
    }

    /// Jobs that have not ended.
    pub fn open(&self) -> usize {
        self.book.open()
    }

    /// The figures as they are now.
    pub fn tally(&self) -> Tally {
        self.book.tally()
    }

    fn received(&mut self, received: &Received) {
        if let Some(token) = received.ack.filter(|_| self.acks.len() < ACKS_MAX) {
            self.acks.push_back(token);
        }
        let Received { message: Publish { topic, body, correlation, .. }, .. } = received;
        if *topic == self.replies {
            if let Err(error) = self.reply(correlation.as_deref().unwrap_or_default(), body) {
                self.book.contradicted();
                self.news.push_back(News::Note(format!("{topic}: {error}")));
            }
            return;
        }
        let node = self.topics.node().clone();
        let Some((_, up)) = self.topics.parse_up(topic).filter(|(from, _)| *from == node) else { return };
        let understood = match up {
            Up::State => NodeState::parse(body).map(|state| self.state(state)),
            Up::Job(id) => Status::parse(body).map(|status| self.status(&id, &status)),
            Up::Result(id) => parse_result(body).map(|outcome| self.result(&id, outcome)),
            Up::Event => NodeEvent::parse(body).map(|event| self.event(event)),
            Up::Info | Up::Load | Up::Metrics => Ok(()),
        };
        if let Err(error) = understood {
            self.book.contradicted();
            self.news.push_back(News::Note(format!("{topic}: {error}")));
        }
    }

    fn state(&mut self, state: NodeState) {
        if let NodeState::Online { open_jobs: Some(_), .. } = &state {
            self.inquiry.hurry();
        }
        self.news.push_back(match state {
            NodeState::Online { mode, reason, .. } => News::State { mode, reason },
            NodeState::Offline { cause, .. } => News::Note(format!("the node is offline: {cause}")),
        });
    }

    fn event(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Yield(event) => {
                self.book.yielded(event.total_us);
                self.news.push_back(News::Yield(event));
            }
            NodeEvent::Alarm { code, message, .. } => {
                self.news.push_back(News::Note(format!("alarm {code}: {message}")));
            }
            NodeEvent::Guard(event) => self.news.push_back(News::Note(format!("guard: {}", event.text))),
            NodeEvent::Resume { .. } => {}
        }
    }

    fn status(&mut self, id: &JobId, status: &Status) {
        let change = self.book.status(id, status.version, status.status, status.progress.done);
        let state = status.status;
        if change == Change::Progress {
            self.news.push_back(News::Progress { id: id.clone(), state, done: status.progress.done });
        }
        if let Some(error) = status.error.as_ref().filter(|_| change != Change::None) {
            self.news.push_back(News::Note(format!("{id} {}: {}", state.as_str(), sentence(error))));
        }
        self.ended(change, id);
    }

    fn result(&mut self, id: &JobId, outcome: Outcome) {
        let seen = match outcome {
            Outcome::Done(result) => {
                let items = u32::try_from(result.items.len()).unwrap_or(u32::MAX);
                self.assortment.learn(&result.model, items, result.cpu);
                let words =
                    |item: Result<Vec<_>, ErrorBody>| item.map(|outputs| seen(&outputs)).map_err(|e| sentence(&e));
                result.items.into_iter().map(words).collect()
            }
            Outcome::Error(error) => vec![Err(sentence(&error))],
        };
        let (change, sights) = self.book.result(id, seen);
        if !sights.is_empty() {
            self.sights.insert(id.clone(), sights);
        }
        self.ended(change, id);
    }

    /// Tells of a job whose status and result are both there, and lets the node forget it.
    fn ended(&mut self, change: Change, id: &JobId) {
        let Some((state, _)) = self.book.stands(id).filter(|_| change == Change::Settled) else { return };
        let sights = self.sights.remove(id).unwrap_or_default();
        self.news.push_back(News::Ended { id: id.clone(), state, sights });
        self.submits.remove(id);
        // The node does not know what it has rejected.
        if state != State::Rejected {
            self.publish(message(self.topics.ack(id), Vec::new(), EXPIRY_S));
        }
    }

    // ---- what a broker forgot ----

    fn reply(&mut self, mark: &[u8], body: &[u8]) -> Result<(), BadMessage> {
        match Reply::parse(body)? {
            Reply::Jobs(page) => {
                for job in &page.jobs {
                    if let Some(id) = job.id.parse().ok().filter(|id| self.book.known(id).is_some()) {
                        self.status(&id, &job.status);
                    }
                }
                match self.inquiry.page(mark, &page.jobs, page.more) {
                    Next::Nothing => {}
                    Next::Page(query) => self.order(&Order::Jobs(query), self.inquiry.mark()),
                    Next::Over(verdict) => verdict.into_iter().for_each(|(id, standing)| self.stands(&id, standing)),
                }
            }
            Reply::Result(body) => {
                let id = mark.strip_prefix(RESULT_MARK).and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
                if let Some(id) = id {
                    self.result(&id, parse_result(&body)?);
                }
            }
            // The next round shows how it stands.
            Reply::Error(_) | Reply::Pong(_) | Reply::Node { .. } | Reply::Job(_) | Reply::Done => {}
        }
        Ok(())
    }

    /// The node's word on a job that had no end here when it was asked.
    fn stands(&mut self, id: &JobId, standing: Standing) {
        let Some(known) = self.book.known(id) else { return };
        match step(known, standing) {
            Step::Done | Step::Wait => {}
            Step::Fetch => {
                self.order(&Order::Result { job: id.clone() }, [RESULT_MARK, id.as_str().as_bytes()].concat());
            }
            Step::Submit => {
                let waits = |submit: &Publish| self.outgoing.values().any(|(message, _)| message.topic == submit.topic);
                if let Some(submit) = self.submits.get(id).filter(|submit| !waits(submit)).cloned() {
                    self.news.push_back(News::Note(format!("{id} is not known to the node: submitted again")));
                    self.publish(submit);
                }
            }
            Step::Lost => {
                self.news.push_back(News::Note(format!("what came of {id} is nowhere any more")));
                self.submits.remove(id);
                self.book.give_up(id);
            }
        }
    }

    fn order(&mut self, order: &Order, mark: Vec<u8>) {
        self.publish(Publish {
            content_type: Some(messages::JSON.to_owned()),
            response_topic: Some(self.replies.clone()),
            correlation: Some(mark),
            ..message(self.topics.command(order.name()), order.render(), QUESTION_EXPIRY_S)
        });
    }

    fn publish(&mut self, message: Publish) {
        self.outgoing.insert(self.next_token, (message, false));
        self.next_token += 1;
    }
}

fn message(topic: String, body: Vec<u8>, expiry_s: u32) -> Publish {
    Publish { expiry_s: Some(expiry_s), ..Publish::plain(topic, body) }
}

/// The submit of a wish.
fn draft(wish: Wish) -> Draft {
    let model = ModelRef { name: wish.model, version: Some(wish.version), digest: None };
    let request = |sample: super::assortment::Sample| Request {
        inputs: sample.inputs,
        interpret: sample.interpret,
        outputs: None,
    };
    let mut draft = Draft::new(model, wish.samples.into_iter().map(request).collect());
    draft.priority = wish.priority;
    draft
}

fn sentence(error: &ErrorBody) -> String {
    format!("{}: {}", error.code, error.message)
}

#[cfg(test)]
mod tests;
