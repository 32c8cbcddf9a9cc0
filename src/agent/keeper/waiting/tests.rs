use super::*;
use crate::jobs::job::{Event, Job, Limits, ModelRef, Spec};
use crate::jobs::store::{Message, Payload};
use crate::units::{Digest, JobId, WallTime};

fn id(text: &str) -> JobId {
    text.parse().unwrap()
}

fn job(name: &str, starts: usize) -> Job {
    let now = WallTime::from_millis(1_800_000_000_000);
    let spec = Spec {
        id: id(name),
        body: Digest([0; 32]),
        model: ModelRef { name: "m".parse().unwrap(), version: None, digest: None },
        priority: 0,
        deadline: None,
        not_before: None,
        limits: Limits { wall: std::time::Duration::from_secs(1), memory_bytes: 1, attempts: 100, output_bytes: 1 },
        traceparent: None,
        items: 1,
    };
    let mut job = Job::new(spec, now);
    for _ in 0..starts {
        job.apply(Event::Start, now).unwrap();
        job.apply(Event::Evict { stopped: std::time::Duration::ZERO }, now).unwrap();
    }
    job
}

fn message(topic: &str) -> Message {
    Message {
        topic: topic.to_owned(),
        body: Vec::new(),
        expiry_s: None,
        properties: Vec::new(),
        queued: WallTime::from_millis(0),
    }
}

fn change(ticket: u64, batch: Batch) -> Change {
    Change { tickets: vec![ticket], batch }
}

fn submit(ticket: u64, name: &str) -> Change {
    let payload = Payload { body: vec![1], content_type: None, header_bytes: None };
    change(ticket, Batch { jobs: vec![job(name, 0)], payloads: vec![(id(name), payload)], ..Batch::default() })
}

fn group(waiting: &mut Waiting) -> Vec<Change> {
    match waiting.take() {
        Some(Next::Group(group)) => group,
        Some(Next::Read(request)) => panic!("{request:?}"),
        None => Vec::new(),
    }
}

#[test]
fn changes_go_together_and_a_question_sees_what_came_before_it() {
    let mut waiting = Waiting::default();
    waiting.push(submit(1, "a"));
    waiting.push(change(2, Batch { jobs: vec![job("a", 1)], ..Batch::default() }));
    waiting.ask(Request::Fetch { id: id("a"), slot: 0 });
    waiting.push(change(3, Batch::default()));
    let tickets: Vec<u64> = group(&mut waiting).into_iter().flat_map(|change| change.tickets).collect();
    assert_eq!(tickets, [1, 2]);
    assert!(matches!(waiting.take(), Some(Next::Read(Request::Fetch { .. }))));
    assert_eq!(group(&mut waiting).len(), 1);
    assert!(waiting.take().is_none());
}

#[test]
fn what_is_put_back_comes_first_again() {
    let mut waiting = Waiting::default();
    waiting.push(submit(1, "a"));
    waiting.push(submit(2, "b"));
    let taken = group(&mut waiting);
    waiting.push(submit(3, "c"));
    waiting.put_back(taken);
    let tickets: Vec<u64> = group(&mut waiting).into_iter().flat_map(|change| change.tickets).collect();
    assert_eq!(tickets, [1, 2, 3]);
}

#[test]
fn giving_up_refuses_new_jobs_and_keeps_everything_else_without_anybody_waiting() {
    let mut waiting = Waiting::default();
    waiting.push(submit(1, "a"));
    waiting.push(change(2, Batch { jobs: vec![job("b", 1)], ..Batch::default() }));
    assert_eq!(waiting.give_up(), (vec![1], vec![2]));
    let left = group(&mut waiting);
    assert_eq!((left.len(), &left[0].tickets), (1, &vec![]));
    assert_eq!(left[0].batch.jobs[0].id, id("b"));
}

#[test]
fn a_disk_that_refuses_for_ever_takes_bounded_memory_and_no_promise_is_lost() {
    let mut waiting = Waiting::default();
    for turn in 0..100_000_usize {
        let batch = Batch {
            jobs: vec![job("a", turn % 50)],
            droppable: vec![message("yield")],
            messages: if turn % 10_000 == 0 { vec![message("end")] } else { Vec::new() },
            delivered: vec![turn as u64 % 16],
            ..Batch::default()
        };
        waiting.push(change(turn as u64, batch));
        assert!(waiting.changes <= CHANGES_MAX);
    }
    let dropped = waiting.dropped();
    assert!(dropped > 98_000, "{dropped}");
    let all: Vec<Change> =
        std::iter::from_fn(|| Some(group(&mut waiting)).filter(|group| !group.is_empty())).flatten().collect();
    let messages = |pick: fn(&Batch) -> usize| all.iter().map(|change| pick(&change.batch)).sum::<usize>();
    assert_eq!(messages(|batch| batch.messages.len()), 10, "what must arrive is kept");
    assert_eq!(messages(|batch| batch.droppable.len()) as u64 + dropped, 100_000, "what gave way is counted");
    assert_eq!(all.iter().map(|change| change.tickets.len()).sum::<usize>(), 100_000);
    assert!(messages(|batch| batch.delivered.len()) < 2 * CHANGES_MAX);
    assert_eq!(all.last().unwrap().batch.jobs, [job("a", 99_999 % 50)], "the last state wins");
}

#[test]
fn a_joined_change_leaves_what_its_parts_would_have_left_one_after_the_other() {
    let item = |name: &str, index| (id(name), index, vec![1]);
    let mut first = change(
        1,
        Batch {
            jobs: vec![job("a", 1), job("b", 1)],
            items: vec![item("a", 0), item("b", 0)],
            results: vec![(id("a"), vec![1]), (id("c"), vec![1])],
            ..Batch::default()
        },
    );
    first.join(change(
        2,
        Batch {
            jobs: vec![job("a", 2)],
            drop_items: vec![id("a")],
            items: vec![item("a", 0)],
            drop_results: vec![id("c")],
            forget: vec![id("b")],
            ..Batch::default()
        },
    ));
    let batch = first.batch;
    assert_eq!((first.tickets, batch.jobs), (vec![1, 2], vec![job("a", 2)]));
    assert_eq!((batch.items, batch.results), (vec![item("a", 0)], vec![(id("a"), vec![1])]));
    assert_eq!((batch.forget, batch.drop_items, batch.drop_results), (vec![id("b")], vec![id("a")], vec![id("c")]));
}
