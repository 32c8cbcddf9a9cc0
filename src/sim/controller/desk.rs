//! How does a controller speak the protocol? Its messages in and out, without the network. Pure.

use std::collections::{BTreeMap, VecDeque};

use super::News;
use super::assortment::{Assortment, Wish};
use super::book::{Book, Change, Sight, Tally};
use super::seen::seen;
use crate::jobs::job::ModelRef;
use crate::link::messages::{
    self, Draft, ErrorBody, NodeEvent, NodeState, Outcome, Request, Status, parse_result, render_submit,
};
use crate::link::topics::{Topics, Up};
use crate::link::{AckToken, Command, Event, Publish, Qos, Received};
use crate::units::{JobId, WallTime};

/// A message nobody took within this is forgotten by the broker, in seconds.
const EXPIRY_S: u32 = 3600;
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
    /// Seen, but not yet told: the job's last status is still to come.
    sights: BTreeMap<JobId, Vec<Sight>>,
    news: VecDeque<News>,
}

impl Desk {
    /// A desk with an empty book that keeps up to `open_max` jobs open.
    pub fn new(topics: Topics, assortment: Assortment, open_max: usize) -> Self {
        Self {
            topics,
            assortment,
            book: Book::default(),
            open_max,
            is_up: false,
            outgoing: BTreeMap::new(),
            next_token: 1,
            acks: VecDeque::new(),
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
        self.publish(topic, rendered.body, Some(rendered.content_type), properties);
    }

    /// Takes in what the link says.
    pub fn on_event(&mut self, event: Event) {
        match event {
            Event::Up { .. } => {
                self.is_up = true;
                // Whatever was not acknowledged is offered again; the node knows a job it has seen.
                self.outgoing.values_mut().for_each(|(_, is_offered)| *is_offered = false);
                self.acks.clear();
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
        let Received { message: Publish { topic, body, .. }, .. } = received;
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
        self.publish(self.topics.ack(id), Vec::new(), None, Vec::new());
    }

    fn publish(
        &mut self,
        topic: String,
        body: Vec<u8>,
        content_type: Option<String>,
        properties: Vec<(String, String)>,
    ) {
        let message = Publish {
            topic,
            body,
            qos: Qos::AtLeastOnce,
            retain: false,
            expiry_s: Some(EXPIRY_S),
            content_type,
            response_topic: None,
            correlation: None,
            properties,
        };
        self.outgoing.insert(self.next_token, (message, false));
        self.next_token += 1;
    }
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
mod tests {
    use std::time::Duration;

    use super::super::assortment::{Offer, Sample};
    use super::*;
    use crate::fault::{Code, Fault};
    use crate::jobs::job::State;
    use crate::link::backoff::Cause;
    use crate::link::messages::{Body, Progress, render_error};
    use crate::tensor::Tensor;

    fn desk(open_max: usize) -> Desk {
        let topics = Topics::new("neap", "lab".parse().unwrap(), "node-1".parse().unwrap()).unwrap();
        let inputs = vec![Tensor::bytes("image", &[0xff; 20_000])];
        let samples = vec![Sample { title: "a.jpg".to_owned(), inputs, interpret: true }];
        let offer = Offer::new("objects".parse().unwrap(), 1, samples);
        let mut desk = Desk::new(topics, Assortment::new(vec![offer], 1), open_max);
        desk.on_event(Event::Up { epoch: 1, session_present: false, packet_bytes_max: 1 << 20 });
        desk
    }

    fn sent(desk: &mut Desk) -> Vec<(Publish, Option<u64>)> {
        let mut sent = Vec::new();
        desk.send(&mut |command| {
            if let Command::Publish { message, token } = command {
                sent.push((message, token));
            }
            true
        });
        sent
    }

    fn receive(desk: &mut Desk, topic: String, body: Vec<u8>) {
        let message = Publish {
            topic,
            body,
            qos: Qos::AtLeastOnce,
            retain: false,
            expiry_s: None,
            content_type: None,
            response_topic: None,
            correlation: None,
            properties: Vec::new(),
        };
        desk.on_event(Event::Received(Received { message, at: WallTime::default(), ack: None }));
    }

    fn status(state: State, version: u64) -> Vec<u8> {
        let progress = Progress { done: 0, total: 1 };
        let (at, reason) = (WallTime::default(), "test".to_owned());
        Status {
            status: state,
            version,
            attempt: 1,
            at,
            reason,
            progress,
            yields: 0,
            suspended: Duration::ZERO,
            error: None,
        }
        .render()
    }

    fn submitted_id(message: &Publish, topics: &Topics) -> JobId {
        let id: JobId = message.topic.rsplit('/').next().unwrap().parse().unwrap();
        assert_eq!(message.topic, topics.submit(&id));
        id
    }

    #[test]
    fn a_submit_is_one_the_node_understands() {
        let mut desk = desk(1);
        desk.submit(WallTime::from_millis(1));
        let (message, token) = sent(&mut desk).remove(0);
        let draft = Draft::parse(&Body::of(&message).unwrap(), usize::MAX).unwrap();
        assert_eq!(draft.model.name.as_str(), "objects");
        assert_eq!(draft.items[0].inputs[0].data.len(), 20_004);
        assert!(token.is_some() && message.qos == Qos::AtLeastOnce && !message.retain);
    }

    #[test]
    fn no_more_jobs_are_open_than_asked_for() {
        let mut desk = desk(3);
        (0..10).for_each(|_| desk.submit(WallTime::default()));
        assert_eq!((desk.open(), sent(&mut desk).len()), (3, 3));
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_after_a_new_connection() {
        let mut desk = desk(2);
        desk.submit(WallTime::default());
        desk.submit(WallTime::default());
        let first = sent(&mut desk);
        assert!(sent(&mut desk).is_empty());
        desk.on_event(Event::Delivered { token: first[0].1.unwrap() });
        desk.on_event(Event::Down { why: "reset".to_owned(), cause: Cause::Lost, retry_in_ms: 1 });
        assert!(sent(&mut desk).is_empty());
        desk.on_event(Event::Up { epoch: 2, session_present: false, packet_bytes_max: 1 << 20 });
        assert_eq!(sent(&mut desk), [first[1].clone()]);
    }

    #[test]
    fn a_message_the_link_has_no_room_for_is_offered_again() {
        let mut desk = desk(1);
        desk.submit(WallTime::default());
        desk.send(&mut |_| false);
        assert_eq!(sent(&mut desk).len(), 1);
    }

    #[test]
    fn a_job_with_status_and_result_is_told_once_and_acknowledged() {
        let mut desk = desk(1);
        desk.submit(WallTime::default());
        let topics = desk.topics.clone();
        let id = submitted_id(&sent(&mut desk)[0].0, &topics);
        let error = render_error(&Fault::new(Code::InputDecode, "no picture"));
        for _ in 0..2 {
            receive(&mut desk, topics.result(&id), error.clone());
            receive(&mut desk, topics.job(&id), status(State::Failed, 3));
        }
        let ended: Vec<News> = desk.news().filter(|news| matches!(news, News::Ended { .. })).collect();
        let [News::Ended { sights, state: State::Failed, .. }] = ended.as_slice() else { panic!("{ended:?}") };
        assert_eq!(sights[0].to_string(), "a.jpg: input.decode: no picture (objects)");
        let acks: Vec<String> = sent(&mut desk).into_iter().map(|(message, _)| message.topic).collect();
        assert_eq!((desk.open(), acks), (0, vec![topics.ack(&id)]));
        assert_eq!((desk.tally().failed, desk.tally().lost, desk.tally().contradictions), (1, 0, 0));
    }

    #[test]
    fn unreadable_reports_are_contradictions_and_other_nodes_are_nobodys_business() {
        let mut desk = desk(1);
        let topics = desk.topics.clone();
        let other = topics.of_node("node-2".parse().unwrap());
        receive(&mut desk, other.job(&"x".parse().unwrap()), b"nonsense".to_vec());
        assert_eq!(desk.tally().contradictions, 0);
        receive(&mut desk, topics.event(), b"nonsense".to_vec());
        assert_eq!(desk.tally().contradictions, 1);
    }
}
