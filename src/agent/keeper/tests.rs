//! The thread over a real file.

use super::*;
use crate::jobs::job::{Limits, ModelRef, Spec};
use crate::jobs::store::Quota;
use crate::units::{Digest, WallTime};

const QUOTA: Quota = Quota { bytes: 1 << 20, messages: 100 };

fn batch(topic: &str) -> Box<Batch> {
    let queued = WallTime::from_millis(0);
    let message = Message { topic: topic.to_owned(), body: Vec::new(), expiry_s: None, properties: Vec::new(), queued };
    Box::new(Batch { messages: vec![message], ..Batch::default() })
}

fn submit(name: &str) -> Box<Batch> {
    let payload = Payload { body: vec![1], content_type: None, header_bytes: None };
    Box::new(Batch { payloads: vec![(name.parse().unwrap(), payload)], ..Batch::default() })
}

fn job(name: &str) -> Job {
    let spec = Spec {
        id: name.parse().unwrap(),
        body: Digest([0; 32]),
        model: ModelRef { name: "m".parse().unwrap(), version: None, digest: None },
        priority: 0,
        deadline: None,
        not_before: None,
        limits: Limits { wall: Duration::from_secs(1), memory_bytes: 1, attempts: 1, output_bytes: 1 },
        traceparent: None,
        items: 1,
    };
    Job::new(spec, WallTime::from_millis(0))
}

fn next(answers: &mut Answers<Answer>) -> Answer {
    answers.blocking_recv().expect("the thread lives")
}

#[test]
fn a_store_that_cannot_be_opened_refuses_new_jobs_keeps_changes_and_is_opened_when_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    // A file where the directory should be.
    std::fs::write(&state, "").unwrap();
    let opener = Opener::new(&state, QUOTA);
    let fault = opener.open().unwrap_err();
    assert_eq!(fault.code, Code::StateIo);
    let (mut keeper, mut answers) = Keeper::start(opener, Err(fault)).unwrap();
    let refused = keeper.ask(Request::Commit { ticket: 1, batch: submit("a") });
    match refused {
        Some(Answer::Committed { ticket: 1, outcome: Err(fault) }) => {
            assert!(fault.code == Code::StateIo && fault.message.contains("send the job later"), "{fault}");
        }
        other => panic!("{other:?}"),
    }
    let taken = keeper.ask(Request::Commit { ticket: 2, batch: batch("kept") });
    assert!(matches!(taken, Some(Answer::Committed { ticket: 2, outcome: Ok(()) })), "{taken:?}");
    assert!(keeper.ask(Request::Outbox { after: 0, max: 9 }).is_none());
    std::fs::remove_file(&state).unwrap();
    let found = loop {
        match next(&mut answers) {
            Answer::Opened(found) => break found,
            Answer::Disk(Some(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((found.jobs.len(), found.wall_high, found.damage), (0, None, Damage::default()));
    assert!(matches!(next(&mut answers), Answer::Disk(None)));
    match next(&mut answers) {
        Answer::Stored { commits: 0, messages } => {
            assert_eq!(messages[0].1.topic, "kept", "who waited was told before")
        }
        other => panic!("{other:?}"),
    }
    match next(&mut answers) {
        Answer::Outbox { messages } => assert_eq!(messages[0].1.topic, "kept"),
        other => panic!("{other:?}"),
    }
    assert!(keeper.ask(Request::Commit { ticket: 3, batch: submit("a") }).is_none());
    assert!(matches!(next(&mut answers), Answer::Stored { commits: 1, .. }));
    assert!(matches!(next(&mut answers), Answer::Committed { ticket: 3, outcome: Ok(()) }));
    keeper.stop();
}

#[test]
fn a_store_that_is_opened_late_brings_its_time_and_what_is_wanting_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let opener = Opener::new(folder.path(), QUOTA);
    let (job, mark) = (job("a"), WallTime::from_millis(77));
    let mut store = opener.open().unwrap().store;
    store.commit(&Batch { at: Some(mark), jobs: vec![job.clone()], ..Batch::default() }).unwrap();
    drop(store);
    let fault = Fault::new(Code::StateIo, "the disk refuses");
    let (mut keeper, mut answers) = Keeper::start(opener, Err(fault)).unwrap();
    let found = loop {
        if let Answer::Opened(found) = next(&mut answers) {
            break found;
        }
    };
    let damage = Damage { set_aside: None, without_input: vec![job.id.clone()] };
    assert_eq!((found.jobs.len(), found.wall_high, found.damage), (1, Some(mark), damage));
    keeper.stop();
}

#[test]
fn a_thread_that_ends_has_committed_what_was_asked_and_let_the_store_go() {
    let folder = tempfile::tempdir().unwrap();
    let opener = Opener::new(folder.path(), QUOTA);
    let store = opener.open().unwrap().store;
    let (mut keeper, answers) = Keeper::start(opener, Ok(store)).unwrap();
    for ticket in 0..100 {
        assert!(keeper.ask(Request::Commit { ticket, batch: submit(&format!("job-{ticket}")) }).is_none());
    }
    drop(answers);
    keeper.stop();
    let store = Store::open(folder.path(), QUOTA).unwrap().store;
    assert!((0..100).all(|n| store.payload(&format!("job-{n}").parse().unwrap()).unwrap().is_some()));
}

#[test]
fn a_disk_that_does_not_answer_is_told_and_nobody_waits_for_it() {
    let shared = Arc::new(Shared { state: Mutex::new(State::default()), bell: Condvar::new() });
    let keeper = Keeper { shared: Arc::clone(&shared), thread: None };
    let now = Instant::from_nanos(0).after(Duration::from_secs(100));
    shared.lock().busy_since = Some(now);
    assert!(keeper.ask(Request::Commit { ticket: 1, batch: submit("a") }).is_none());
    assert!(keeper.ask(Request::Commit { ticket: 2, batch: batch("b") }).is_none());
    assert!(keeper.look(now.after(STALLED_AFTER - Duration::from_millis(1))).is_empty());
    let told = keeper.look(now.after(STALLED_AFTER));
    assert!(matches!(&told[0], Answer::Disk(Some(why)) if why.contains("not answered for 10 s")), "{told:?}");
    assert!(matches!(&told[1], Answer::Committed { ticket: 1, outcome: Err(_) }), "{told:?}");
    assert!(matches!(&told[2], Answer::Committed { ticket: 2, outcome: Ok(()) }), "{told:?}");
    assert!(keeper.look(now.after(STALLED_AFTER * 2)).is_empty(), "told once");
    assert!(keeper.ask(Request::Commit { ticket: 3, batch: submit("c") }).is_some());
}
