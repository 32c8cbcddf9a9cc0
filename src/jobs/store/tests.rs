//! Does the store keep what it was given, and say so when it cannot?

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use proptest::prelude::*;

use super::test_medium::{Disk, Model, Random};
use super::*;
use crate::fault::Code;
use crate::jobs::job::{Event, Limits, ModelRef, Spec, State};
use crate::units::Digest;

pub(super) const QUOTA: Quota = Quota { bytes: 64 << 20, messages: 1000 };
pub(super) const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

pub(super) fn id(name: &str) -> JobId {
    name.parse().unwrap()
}

pub(super) fn message(topic: &str) -> Message {
    let properties = vec![("type".to_owned(), "neap.job".to_owned())];
    Message { topic: topic.to_owned(), body: b"{}".to_vec(), expiry_s: Some(86_400), properties, queued: NOW }
}

pub(super) fn payload(length: usize) -> Payload {
    Payload { body: vec![b'p'; length], content_type: Some("application/json".to_owned()), header_bytes: None }
}

pub(super) fn job(name: &str) -> Job {
    let spec = Spec {
        id: id(name),
        body: Digest([9; 32]),
        model: ModelRef { name: "person-detect".parse().unwrap(), version: None, digest: None },
        priority: 5,
        deadline: None,
        not_before: None,
        limits: Limits { wall: Duration::from_secs(600), memory_bytes: 1 << 28, attempts: 3, output_bytes: 1 << 16 },
        traceparent: None,
        items: 3,
    };
    Job::new(spec, NOW)
}

/// A job with a value other than the default in every field.
pub(super) fn full_job(name: &str) -> Job {
    let fault = Fault::new(Code::WorkerCrashed, "signal 11 in \"conv\"; ü");
    Job {
        model: ModelRef { name: "m".parse().unwrap(), version: Some(7), digest: Some(Digest([0xa5; 32])) },
        deadline: Some(NOW.after(Duration::from_millis(1))),
        not_before: Some(WallTime::from_millis(-5)),
        traceparent: Some("00-4bf9-01".to_owned()),
        state: State::Suspended,
        version: u64::MAX,
        attempt: 4,
        failures: 2,
        crashes: 1,
        interruptions: 4,
        done: 2,
        yields: 17,
        suspended: Duration::from_nanos(1_000_000_001),
        ran: Duration::from_nanos(3),
        cpu: Duration::from_micros(9),
        reason: "yield",
        fault: Some(fault),
        changed: NOW.after(Duration::from_secs(9)),
        acknowledged: true,
        ..job(name)
    }
}

/// A job as it is accepted, with its input and the message that says so.
pub(super) fn submit(name: &str, payload_bytes: usize) -> Batch {
    Batch {
        jobs: vec![job(name)],
        payloads: vec![(id(name), payload(payload_bytes))],
        messages: vec![message(&format!("up/job/{name}"))],
        ..Batch::default()
    }
}

#[test]
fn everything_committed_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("var/neap");
    let mut opened = Store::open(&state, QUOTA).unwrap();
    assert_eq!((opened.jobs.len(), opened.boot, &opened.quarantined), (0, 1, &None));
    let batch = Batch {
        items: vec![(id("a"), 0, b"zero".to_vec()), (id("a"), 1, vec![])],
        results: vec![(id("a"), b"result".to_vec())],
        ..submit("a", 10)
    };
    assert_eq!(opened.store.commit(&batch), Ok(vec![1]));
    assert_eq!(opened.store.commit(&Batch { jobs: vec![full_job("b")], ..Batch::default() }), Ok(vec![]));
    let bytes = opened.store.bytes();
    drop(opened);

    let Opened { store, jobs, boot, quarantined, .. } = Store::open(&state, QUOTA).unwrap();
    assert_eq!((boot, quarantined), (2, None));
    assert_eq!(jobs, [job("a"), full_job("b")]);
    assert_eq!(store.payload(&id("a")), Ok(Some(payload(10))));
    assert_eq!(store.payload(&id("b")), Ok(None));
    assert_eq!(store.items(&id("a")), Ok(vec![b"zero".to_vec(), vec![]]));
    assert_eq!(store.result(&id("a")), Ok(Some(b"result".to_vec())));
    assert_eq!(store.outbox(0, 10), Ok(vec![(1, message("up/job/a"))]));
    assert_eq!((store.bytes(), store.outbox_len()), (bytes, 1));
}

#[test]
fn state_is_private_to_the_agents_user() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("neap");
    let _opened = Store::open(&state, QUOTA).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("jobs.redb")), 0o600);
}

#[test]
fn a_delivered_message_is_gone_and_its_number_is_not_used_again() {
    let disk = Disk::default();
    let mut store = disk.open(QUOTA).unwrap().store;
    let three = Batch { messages: vec![message("1"), message("2")], droppable: vec![message("3")], ..Batch::default() };
    assert_eq!(store.commit(&three), Ok(vec![1, 2, 3]));
    store.commit(&Batch { delivered: vec![2, 77], ..Batch::default() }).unwrap();
    assert_eq!(store.outbox(0, 9), Ok(vec![(1, message("1")), (3, message("3"))]));
    assert_eq!(store.outbox(1, 9), Ok(vec![(3, message("3"))]));
    assert_eq!(store.outbox(0, 1), Ok(vec![(1, message("1"))]));
    store.commit(&Batch { delivered: vec![1, 3], ..Batch::default() }).unwrap();
    assert_eq!((store.outbox_len(), store.bytes()), (0, 0));
    drop(store);
    assert_eq!(disk.open(QUOTA).unwrap().store.commit(&submit("a", 1)), Ok(vec![4]));
}

#[test]
fn forgetting_a_job_leaves_nothing_of_it() {
    let mut store = Disk::default().open(QUOTA).unwrap().store;
    let items = vec![(id("a"), 0, vec![1; 100]), (id("a"), 1, vec![2; 100]), (id("ab"), 0, vec![3; 7])];
    store.commit(&Batch { items, results: vec![(id("a"), vec![4; 50])], messages: vec![], ..submit("a", 99) }).unwrap();
    store.commit(&Batch { forget: vec![id("a")], ..Batch::default() }).unwrap();
    assert_eq!(store.items(&id("a")), Ok(vec![]));
    assert_eq!((store.payload(&id("a")), store.result(&id("a"))), (Ok(None), Ok(None)));
    assert_eq!(store.items(&id("ab")), Ok(vec![vec![3; 7]]), "a neighbour keeps its own");
    assert_eq!(store.bytes(), 7 + seal::SEAL_BYTES as u64);
}

#[test]
fn one_commit_is_one_sync_however_many_batches_it_takes() {
    let disk = Disk::default();
    let mut store = disk.open(QUOTA).unwrap().store;
    let count = |store: &mut Store, batches: &[Batch]| {
        let before = disk.state().syncs;
        store.commit_many(batches).into_iter().for_each(|answer| drop(answer.unwrap()));
        disk.state().syncs - before
    };
    assert_eq!(count(&mut store, &[submit("a", 100)]), 1);
    assert_eq!(count(&mut store, &[submit("b", 100), submit("c", 100), submit("d", 100)]), 1);
    assert_eq!(count(&mut store, &[Batch::default()]), 0, "nothing to do costs nothing");
    assert_eq!(count(&mut store, &[]), 0);
}

#[test]
fn a_full_store_refuses_inputs_and_takes_everything_else() {
    let quota = Quota { bytes: 10_000, ..QUOTA };
    let mut store = Disk::default().open(quota).unwrap().store;
    store.commit(&submit("a", 6000)).unwrap();
    assert_eq!(store.admit(5000).unwrap_err().code, Code::SpoolFull);
    let result = Batch { results: vec![(id("a"), vec![1; 9000])], messages: vec![message("r")], ..Batch::default() };
    let answers = store.commit_many(&[submit("b", 5000), result, submit("c", 3000)]);
    assert_eq!(answers[0].as_ref().unwrap_err().code, Code::SpoolFull);
    assert_eq!(answers[1], Ok(vec![2]), "a result is never refused");
    assert!(answers[2].is_ok(), "judged by what was there when the group began");
    assert_eq!(store.payload(&id("b")), Ok(None));
    assert_eq!(store.admit(1).unwrap_err().code, Code::SpoolFull);
    assert!(store.commit(&Batch { results: vec![(id("c"), vec![1; 9000])], ..Batch::default() }).is_ok());
}

#[test]
fn payloads_of_one_group_share_the_room() {
    let mut store = Disk::default().open(Quota { bytes: 10_000, ..QUOTA }).unwrap().store;
    let answers = store.commit_many(&[submit("a", 6000), submit("b", 6000)]);
    assert!(answers[0].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().code, Code::SpoolFull);
}

#[test]
fn a_full_outbox_drops_what_may_be_lost_and_counts_it() {
    let disk = Disk::default();
    let quota = Quota { messages: 3, ..QUOTA };
    let mut store = disk.open(quota).unwrap().store;
    let mixed = Batch { messages: vec![message("a")], droppable: vec![message("b"), message("c")], ..Batch::default() };
    store.commit(&mixed).unwrap();
    drop(store);
    let mut store = disk.open(quota).unwrap().store;
    store.commit(&Batch { messages: vec![message("d")], ..Batch::default() }).unwrap();
    let topics =
        |store: &Store| store.outbox(0, 9).unwrap().into_iter().map(|(_, message)| message.topic).collect::<String>();
    assert_eq!((topics(&store).as_str(), store.dropped()), ("acd", 1));
    store.commit(&Batch { messages: vec![message("e"), message("f")], ..Batch::default() }).unwrap();
    assert_eq!((topics(&store).as_str(), store.dropped()), ("adef", 2), "what must arrive stays");
    assert_eq!(store.outbox_len(), 4);
}

#[test]
fn an_outbox_full_of_messages_that_must_arrive_refuses_jobs_and_takes_what_ends_them() {
    let mut store = Disk::default().open(Quota { messages: 3, ..QUOTA }).unwrap().store;
    let answers = store.commit_many(&[submit("a", 10), submit("b", 0), submit("c", 10), submit("d", 10)]);
    assert!(answers[..3].iter().all(Result::is_ok));
    assert_eq!(answers[3].as_ref().unwrap_err().code, Code::SpoolFull, "the group is counted too");
    assert_eq!(store.admit(0).unwrap_err().code, Code::SpoolFull);
    assert_eq!(store.commit(&submit("d", 0)).unwrap_err().code, Code::SpoolFull, "however small the input");
    assert!(store.commit(&Batch { messages: vec![message("end")], ..Batch::default() }).is_ok());
    store.commit(&Batch { delivered: vec![1, 2], ..Batch::default() }).unwrap();
    assert!(store.commit(&submit("d", 10)).is_ok());
    assert_eq!(store.dropped(), 0);
}

#[test]
fn the_highest_trusted_wall_time_is_kept() {
    let disk = Disk::default();
    let at = |millis| Some(WallTime::from_millis(millis));
    let mut opened = disk.open(QUOTA).unwrap();
    assert_eq!(opened.wall_high, None);
    opened.store.commit(&Batch { at: at(2_000), ..submit("a", 10) }).unwrap();
    opened.store.commit(&Batch { at: at(1_000), ..submit("b", 10) }).unwrap();
    opened.store.commit(&submit("c", 10)).unwrap();
    drop(opened);
    let mut opened = disk.open(QUOTA).unwrap();
    assert_eq!(opened.wall_high, at(2_000));
    opened.store.commit(&Batch { at: at(3_000), ..Batch::default() }).unwrap();
    drop(opened);
    assert_eq!(disk.open(QUOTA).unwrap().wall_high, at(3_000));
}

#[test]
fn marks_rise_and_are_kept() {
    let disk = Disk::default();
    let marks = |all: &[(&str, u64)]| all.iter().map(|(name, mark)| ((*name).to_owned(), *mark)).collect::<Vec<_>>();
    let mut opened = disk.open(QUOTA).unwrap();
    assert_eq!(opened.marks, []);
    opened.store.commit(&Batch { marks: marks(&[("a", 5), ("b", 1)]), ..submit("a", 10) }).unwrap();
    opened.store.commit(&Batch { marks: marks(&[("a", 4)]), ..Batch::default() }).unwrap();
    opened.store.commit(&submit("b", 10)).unwrap();
    drop(opened);
    let mut opened = disk.open(QUOTA).unwrap();
    assert_eq!((&opened.marks, opened.jobs.len()), (&marks(&[("a", 5), ("b", 1)]), 2));
    opened.store.commit(&Batch { marks: marks(&[("b", u64::MAX)]), ..Batch::default() }).unwrap();
    drop(opened);
    assert_eq!(disk.open(QUOTA).unwrap().marks, marks(&[("a", 5), ("b", u64::MAX)]));
}

#[test]
fn a_second_agent_on_the_same_state_is_told_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(folder.path(), QUOTA).unwrap();
    let fault = Store::open(folder.path(), QUOTA).unwrap_err();
    assert_eq!(fault.code, Code::StateLocked);
    let holder = format!("jobs.redb is in use by process {}", std::process::id());
    assert!(fault.message.contains(&holder), "{fault}");
    drop(first);
    assert!(Store::open(folder.path(), QUOTA).is_ok());
}

#[test]
fn a_store_of_a_newer_version_is_kept_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = Store::open(folder.path(), QUOTA).unwrap();
    opened.store.commit(&submit("a", 10)).unwrap();
    drop(opened);
    let database = redb::Database::open(folder.path().join("jobs.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(meta::META).unwrap().insert(meta::KEY_SCHEMA, 9).unwrap();
    transaction.commit().unwrap();
    drop(database);

    let opened = Store::open(folder.path(), QUOTA).unwrap();
    assert_eq!((opened.jobs.len(), opened.boot), (0, 1));
    let quarantined = opened.quarantined.unwrap();
    assert_eq!(quarantined.fault.code, Code::StateVersion);
    assert!(quarantined.fault.message.contains("schema 9, this version reads up to 2"), "{}", quarantined.fault);
    assert_eq!(quarantined.path, folder.path().join("jobs.redb.newer-1"));
    let database = redb::Database::open(quarantined.path).unwrap();
    let jobs = database.begin_read().unwrap().open_table(records::JOBS).unwrap();
    assert!(redb::ReadableTable::get(&jobs, "a").unwrap().is_some(), "its records are as they were");
}

#[test]
fn a_state_directory_that_cannot_be_made_is_an_error_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let fault = Store::open(&file.join("state"), QUOTA).unwrap_err();
    assert_eq!(fault.code, Code::StateIo);
    assert!(fault.message.contains("must be writable"), "{fault}");
}

#[test]
fn a_file_that_may_have_lost_a_sync_is_replaced_by_a_synced_copy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.redb");
    let mut store = Store::open(folder.path(), QUOTA).unwrap().store;
    store.commit(&submit("a", 100_000)).unwrap();
    // As after a commit whose sync failed.
    recovery::close(store.live.take().unwrap());
    store.medium.doubt().set_unsynced(true);
    let before = fs::metadata(&file).unwrap().ino();
    store.commit(&submit("b", 10)).unwrap();
    let after = fs::metadata(&file).unwrap();
    assert_ne!(after.ino(), before);
    assert_eq!(after.permissions().mode() & 0o777, 0o600);
    drop(store);
    let opened = Store::open(folder.path(), QUOTA).unwrap();
    assert_eq!((opened.jobs.len(), opened.quarantined), (2, None));
    assert_eq!(opened.store.payload(&id("a")), Ok(Some(payload(100_000))));
}

#[test]
fn the_leavings_of_an_interrupted_start_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("jobs.redb.new"), "half a store").unwrap();
    let opened = Store::open(folder.path(), QUOTA).unwrap();
    assert_eq!((opened.boot, opened.quarantined), (1, None));
    assert!(!folder.path().join("jobs.redb.new").exists());
}

/// Names that random histories use; few, so that they meet.
pub(super) fn names() -> Vec<JobId> {
    ["a", "b", "c", "d", "e", "f"].into_iter().map(id).collect()
}

/// One step of a plausible life: a job comes, moves, yields outputs, ends, is forgotten; messages come and go.
pub(super) fn step(model: &Model, random: &mut Random) -> Batch {
    step_of(model, random, 1)
}

/// A step whose bodies are so many times smaller.
pub(super) fn step_of(model: &Model, random: &mut Random, smaller: usize) -> Batch {
    let names = names();
    let name = names[random.below(names.len())].clone();
    let topic = format!("up/job/{name}");
    let mut batch = Batch { messages: vec![message(&topic)], ..Batch::default() };
    if let Some(seq) = model.outbox.keys().next().filter(|_| random.below(2) == 0) {
        batch.delivered.push(*seq);
    }
    let Some(job) = model.jobs.get(&name) else {
        let size = [10, 3000, 20_000, 150_000][random.below(4)];
        return Batch { delivered: batch.delivered, ..submit(name.as_str(), size / smaller) };
    };
    let mut job = job.clone();
    match (job.state, random.below(4)) {
        (State::Queued, _) => job.apply(Event::Start, NOW).unwrap(),
        (State::InProgress, 0) => job.apply(Event::Yield, NOW).unwrap(),
        (State::Suspended, _) => job.apply(Event::Resume { stopped: Duration::from_millis(3) }, NOW).unwrap(),
        (State::InProgress, _) if job.done < job.items => {
            batch.items.push((name, job.done, vec![b'i'; 1 + random.below(9000 / smaller)]));
            job.apply(Event::ItemDone { cpu: Duration::from_millis(1), ran: Duration::from_millis(2) }, NOW).unwrap();
        }
        (State::InProgress, _) => {
            batch.results.push((name.clone(), vec![b'r'; random.below(40_000 / smaller)]));
            batch.drop_items.push(name.clone());
            batch.drop_payloads.push(name);
            job.apply(Event::Succeed, NOW).unwrap();
        }
        (State::Succeeded | State::Failed | State::TimedOut | State::Rejected | State::Canceled, _) => {
            return Batch { forget: vec![name], messages: vec![], ..batch };
        }
    }
    Batch { jobs: vec![job], ..batch }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_store_opened_again_holds_what_a_model_holds(seed in any::<u64>(), steps in 1usize..40) {
        let disk = Disk::default();
        let mut random = Random(seed);
        let mut model = Model::default();
        let mut store = disk.open(QUOTA).unwrap().store;
        for _ in 0..steps {
            let batch = step(&model, &mut random);
            let seqs = store.commit(&batch).unwrap();
            model.apply(&batch, &seqs);
            if random.below(8) == 0 {
                drop(store);
                store = disk.open(QUOTA).unwrap().store;
            }
        }
        let bytes = store.bytes();
        drop(store);
        let opened = disk.open(QUOTA).unwrap();
        prop_assert_eq!(opened.store.bytes(), bytes, "the running count is the true one");
        prop_assert_eq!(Model::of(&opened.store, &opened.jobs, &names()), model);
    }
}

#[test]
fn an_acknowledged_result_marks_the_record_and_leaves_the_rest_of_it() {
    let disk = Disk::default();
    let mut opened = disk.open(QUOTA).unwrap();
    let kept = Job { acknowledged: false, ..full_job("kept") };
    let jobs = vec![kept.clone(), Job { acknowledged: false, ..full_job("other") }];
    opened.store.commit(&Batch { jobs: jobs.clone(), ..Batch::default() }).unwrap();
    let acknowledged = ["kept", "unknown"].map(|id| id.parse().unwrap()).to_vec();
    opened.store.commit(&Batch { acknowledged, ..Batch::default() }).unwrap();
    drop(opened);
    assert_eq!(disk.open(QUOTA).unwrap().jobs, [Job { acknowledged: true, ..kept }, jobs[1].clone()]);
}

#[test]
fn a_job_that_was_refused_and_written_all_the_same_is_taken_out_again() {
    let mut met = 0;
    for at in 0..40 {
        let disk = Disk::default();
        let mut store = disk.open(QUOTA).unwrap().store;
        store.commit(&submit("kept", 10)).unwrap();
        // Long enough for the opening to fail as well, so that nobody can tell at once what is in the file.
        disk.state().failure = Some((at, 12));
        let change = Batch { jobs: vec![job("kept")], messages: vec![message("end")], ..Batch::default() };
        let answers = store.commit_many(&[submit("refused", 10), change.clone()]);
        if answers[0].is_ok() {
            break;
        }
        let unknown = !store.is_open();
        let mut tries = 0;
        while store.commit(&change).is_err() {
            tries += 1;
            assert!(tries < 40, "failure at {at}");
        }
        met += usize::from(unknown);
        drop(store);
        let opened = disk.open(QUOTA).unwrap();
        assert_eq!(opened.jobs, [job("kept")], "failure at {at}");
        assert_eq!(opened.store.payload(&id("refused")), Ok(None));
        let topics: Vec<String> = opened.store.outbox(0, 9).unwrap().into_iter().map(|(_, m)| m.topic).collect();
        assert_eq!(topics.iter().filter(|topic| topic.contains("refused")).count(), 0, "{topics:?}");
        assert!(topics.iter().any(|topic| topic == "end"), "what belongs to accepted jobs stays: {topics:?}");
    }
    assert!(met > 3, "the failures were not met: {met}");
}
