//! Does a store of an older schema become one of today, whole or not at all?

use redb::ReadableDatabase;

use super::meta::{KEY_SCHEMA, META, SCHEMA};
use super::records::{JOBS, OUTBOX, encode_job, encode_message, encode_payload};
use super::test_medium::{Disk, Random, crash_images};
use super::tests::{QUOTA, full_job, id, job, message, payload, submit};
use super::*;

/// A store as the first version wrote it: values without checksums, `meta` without one either.
pub(super) fn of_schema_1(folder: &Path) {
    let database = redb::Database::create(folder.join("jobs.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        for (key, value) in [(KEY_SCHEMA, 1), ("boots", 41), ("commits", 1000), ("next_seq", 8)] {
            meta.insert(key, value).unwrap();
        }
        let mut jobs = transaction.open_table(JOBS).unwrap();
        jobs.insert("a", encode_job(&job("a")).as_slice()).unwrap();
        jobs.insert("b", encode_job(&full_job("b")).as_slice()).unwrap();
        let mut payloads = transaction.open_table(PAYLOADS).unwrap();
        payloads.insert("a", encode_payload(&payload(5000)).as_slice()).unwrap();
        payloads.insert("b", encode_payload(&payload(0)).as_slice()).unwrap();
        let mut items = transaction.open_table(ITEMS).unwrap();
        items.insert(("b", 0), b"zero".as_slice()).unwrap();
        items.insert(("b", 1), b"".as_slice()).unwrap();
        transaction.open_table(RESULTS).unwrap().insert("c", b"body".as_slice()).unwrap();
        let mut outbox = transaction.open_table(OUTBOX).unwrap();
        outbox.insert(3, encode_message(&message("kept"), false).as_slice()).unwrap();
        outbox.insert(7, encode_message(&message("droppable"), true).as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

fn check(opened: &Opened) {
    assert_eq!(opened.quarantined, None);
    assert_eq!(opened.jobs, [job("a"), full_job("b")]);
    let store = &opened.store;
    assert_eq!(store.payload(&id("a")), Ok(Some(payload(5000))));
    assert_eq!(store.payload(&id("b")), Ok(Some(payload(0))));
    assert_eq!(store.items(&id("b")), Ok(vec![b"zero".to_vec(), vec![]]));
    assert_eq!(store.result(&id("c")), Ok(Some(b"body".to_vec())));
    assert_eq!(store.outbox(0, 9), Ok(vec![(3, message("kept")), (7, message("droppable"))]));
}

fn schema_of(file: &Path) -> u64 {
    let database = redb::Database::open(file).unwrap();
    let meta = database.begin_read().unwrap().open_table(META).unwrap();
    meta.get(KEY_SCHEMA).unwrap().unwrap().value()
}

#[test]
fn a_store_of_schema_1_is_brought_up_to_date_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    of_schema_1(folder.path());
    let mut opened = Store::open(folder.path(), QUOTA).unwrap();
    assert_eq!(opened.boot, 42);
    check(&opened);
    let seqs = opened.store.commit(&Batch { messages: vec![message("next")], ..Batch::default() });
    assert_eq!(seqs, Ok(vec![8]));
    opened.store.commit(&Batch { delivered: vec![8], ..Batch::default() }).unwrap();
    let bytes = opened.store.bytes();
    drop(opened);
    assert_eq!(schema_of(&folder.path().join("jobs.redb")), SCHEMA);
    let opened = Store::open(folder.path(), QUOTA).unwrap();
    assert_eq!((opened.boot, opened.store.bytes()), (43, bytes));
    check(&opened);
}

#[test]
fn a_power_cut_at_any_write_of_the_migration_leaves_a_whole_store() {
    let folder = tempfile::tempdir().unwrap();
    of_schema_1(folder.path());
    let before = std::fs::read(folder.path().join("jobs.redb")).unwrap();
    let disk = Disk::with(before.clone());
    drop(disk.open(QUOTA).unwrap());
    let log = disk.inode().log;
    let mut random = Random(1);
    let mut images = 0;
    for _ in 0..10 {
        crash_images(&before, &log, 0, &mut random, |_, image| {
            check(&Disk::with(image).open(QUOTA).unwrap());
            images += 1;
        });
    }
    assert!(images > 50, "only {images} crash images were made");
}

#[test]
fn a_record_whose_checksum_is_wrong_is_never_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), QUOTA).unwrap().store;
    store.commit(&submit("a", 100)).unwrap();
    let live = store.live.as_ref().unwrap();
    // As a fault of memory would have it: the pages are sound, what they hold is not.
    let transaction = live.database.begin_write().unwrap();
    let record = |value: &[u8]| seal::seal("payloads", b"b", value.to_vec());
    transaction.open_table(PAYLOADS).unwrap().insert("a", record(b"another job's").as_slice()).unwrap();
    transaction.commit().unwrap();
    let fault = store.payload(&id("a")).unwrap_err();
    assert_eq!(fault.code, crate::fault::Code::StateCorrupt);
    assert!(fault.message.contains("the checksum of record \"a\" is wrong"), "{fault}");
    drop(store);
    let opened = Store::open(folder.path(), QUOTA).unwrap();
    assert!(opened.quarantined.is_some());
}
