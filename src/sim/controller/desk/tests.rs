//! The desk, with the network played by the test.

use super::super::assortment::{Offer, Sample};
use super::*;
use crate::fault::{Code, Fault};
use crate::jobs::job::State;
use crate::link::Qos;
use crate::link::backoff::Cause;
use crate::link::messages::{Body, JobSummary, JobsPage, Progress, render_error};
use crate::tensor::Tensor;

const EVERY: Duration = Duration::from_secs(10);

fn desk(open_max: usize) -> Desk {
    let topics = Topics::new("neap", "lab".parse().unwrap(), "node-1".parse().unwrap()).unwrap();
    let inputs = vec![Tensor::bytes("image", &[0xff; 20_000])];
    let samples = vec![Sample { title: "a.jpg".to_owned(), inputs, interpret: true }];
    let offer = Offer::new("objects".parse().unwrap(), 1, samples);
    let mut desk = Desk::new(topics, Assortment::new(vec![offer], 1), open_max, "replies".to_owned(), EVERY);
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
    let message = Publish::plain(topic, body);
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

#[test]
fn what_the_node_does_not_know_is_submitted_again_and_what_it_keeps_is_fetched() {
    let mut desk = desk(2);
    (0..2).for_each(|_| desk.submit(WallTime::default()));
    let topics = desk.topics.clone();
    let submits = sent(&mut desk);
    let ids: Vec<JobId> = submits.iter().map(|(message, _)| submitted_id(message, &topics)).collect();
    submits.iter().for_each(|(_, token)| desk.on_event(Event::Delivered { token: token.unwrap() }));

    // The connection was new, so the first round begins at once; the broker was wiped, so the first job is unknown.
    desk.ask(Instant::from_nanos(0), 0);
    desk.ask(Instant::from_nanos(20_000_000_000), 0);
    let question = sent(&mut desk).pop().expect("a question").0;
    assert_eq!((question.topic, question.response_topic.as_deref()), (topics.command("jobs"), Some("replies")));
    let ended = JobSummary {
        id: ids[1].to_string(),
        model: "objects".to_owned(),
        priority: 5,
        deadline: None,
        waiting: None,
        body_digest: None,
        result_kept: Some(true),
        status: Status::parse(&status(State::Failed, 4)).unwrap(),
    };
    let page = Reply::Jobs(JobsPage { jobs: vec![ended], more: false });
    answer(&mut desk, question.correlation, &page);
    let next = sent(&mut desk);
    let topics_of = |sent: &[(Publish, Option<u64>)]| sent.iter().map(|(m, _)| m.topic.clone()).collect::<Vec<_>>();
    let mut found = topics_of(&next);
    found.sort();
    assert_eq!(found, [topics.command("result"), topics.submit(&ids[0])]);
    let same = next.iter().find(|(message, _)| message.topic == submits[0].0.topic);
    assert_eq!(same.map(|(message, _)| &message.body), Some(&submits[0].0.body), "the same body under the same id");

    let question = next.into_iter().find(|(message, _)| message.topic == topics.command("result")).unwrap().0;
    answer(&mut desk, question.correlation, &Reply::Result(render_error(&Fault::new(Code::InputDecode, "no picture"))));
    assert_eq!((desk.open(), topics_of(&sent(&mut desk))), (1, vec![topics.ack(&ids[1])]));
    assert_eq!((desk.tally().failed, desk.tally().contradictions), (1, 0));
}

fn answer(desk: &mut Desk, correlation: Option<Vec<u8>>, reply: &Reply) {
    let message = Publish { correlation, ..message("replies".to_owned(), reply.render(), 60) };
    desk.on_event(Event::Received(Received { message, at: WallTime::default(), ack: None }));
}
