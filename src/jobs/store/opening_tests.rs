//! Where does the time go when a store is opened? Printed, not judged: a busy machine would fail it.

use redb::ReadableDatabase;

use super::tests::{QUOTA, submit};
use super::*;
use crate::sys::clock;

const JOBS: usize = 10_000;

#[test]
fn ten_thousand_queued_jobs_are_there_after_an_orderly_end_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let quota = Quota { messages: 2 * JOBS, ..QUOTA };
    let mut store = Store::open(folder.path(), quota).unwrap().store;
    let batches: Vec<Batch> = (0..JOBS).map(|number| submit(&format!("job-{number:05}"), 200)).collect();
    for group in batches.chunks(1000) {
        assert!(store.commit_many(group).iter().all(Result::is_ok));
    }
    let file = folder.path().join("jobs.redb");
    let killed = std::fs::read(&file).unwrap();
    drop(store);
    for end in ["in order", "by a kill"] {
        if end == "by a kill" {
            std::fs::write(&file, &killed).unwrap();
        }
        let size = std::fs::metadata(&file).unwrap().len();
        let before = clock::now();
        let database = redb::Database::builder().open(&file).unwrap();
        drop(database.begin_read().unwrap());
        let plain = clock::now().since(before);
        drop(database);
        std::fs::write(&file, &killed).unwrap();
        let before = clock::now();
        let opened = Store::open(folder.path(), quota).unwrap();
        let whole = clock::now().since(before);
        assert_eq!((opened.jobs.len(), opened.without_input.len()), (JOBS, 0));
        let before = clock::now();
        let contents = recovery::read_all(&opened.store.live.as_ref().unwrap().database).unwrap();
        let read = clock::now().since(before);
        eprintln!("{end}: {size} bytes, plain open {plain:?}, Store::open {whole:?}, of that reading {read:?}");
        assert_eq!(contents.jobs.len(), JOBS);
    }
}
