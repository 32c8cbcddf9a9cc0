//! Is every acknowledged commit there after a crash at any moment, and nothing besides?

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::test_medium::{Disk, Model, Random, crash_images, rounds, seed, spread};
use super::tests::{QUOTA, names, step, step_of, submit};
use super::*;
use crate::fault::Code;

/// A run whose every operation on the disk is known, and what the store held at each acknowledgement.
struct Run {
    log: Vec<test_medium::Op>,
    /// Length of the log at the acknowledgement, and the state that was acknowledged. The first is the empty store.
    acknowledged: Vec<(usize, Model)>,
}

fn run(seed: u64, commits: usize, smaller: usize) -> Run {
    let disk = Disk::default();
    let mut store = disk.open(QUOTA).unwrap().store;
    let mut random = Random(seed);
    let mut model = Model::default();
    let mut acknowledged = vec![(disk.inode().log.len(), model.clone())];
    for _ in 0..commits {
        let batch = step_of(&model, &mut random, smaller);
        let seqs = store.commit(&batch).unwrap();
        model.apply(&batch, &seqs);
        acknowledged.push((disk.inode().log.len(), model.clone()));
    }
    // An orderly close writes too, and may be cut short as well.
    drop(store);
    Run { log: disk.inode().log, acknowledged }
}

/// Opens every image of one history; returns how many there were.
fn survive_all_images(seed: u64, smaller: usize) -> usize {
    let mut images = 0;
    let run = run(seed, 12, smaller);
    let mut random = Random(seed);
    crash_images(&[], &run.log, run.acknowledged[0].0, &mut random, |point, image| {
        let last = run.acknowledged.iter().rposition(|(length, _)| *length <= point).unwrap();
        let opened = Disk::with(image).open(QUOTA).unwrap();
        assert_eq!(opened.quarantined, None, "seed {seed}, cut after {point} operations");
        let found = Model::of(&opened.store, &opened.jobs, &names());
        // The commit that was under way is there whole or not at all.
        let allowed = &run.acknowledged[last..(last + 2).min(run.acknowledged.len())];
        let whole = allowed.iter().any(|(_, model)| *model == found);
        assert!(whole, "seed {seed}, cut after {point} operations, {last} commits acknowledged");
        images += 1;
    });
    images
}

/// R3: power is cut at any write, any part of what was not synced is there, torn at any byte.
#[test]
fn acknowledged_commits_survive_a_power_cut_at_any_byte_and_no_phantom_appears() {
    let (seed, wanted) = (seed(3), rounds(10_000, 1_000_000));
    let images = AtomicUsize::new(0);
    let histories = AtomicU64::new(0);
    spread(std::thread::available_parallelism().map_or(1, std::num::NonZero::get), |_| {
        while images.load(Ordering::Relaxed) < wanted {
            let history = histories.fetch_add(1, Ordering::Relaxed);
            // Mostly small bodies, for speed; some as large as they come.
            let smaller = if history.is_multiple_of(16) { 1 } else { 100 };
            images.fetch_add(survive_all_images(seed.wrapping_add(history), smaller), Ordering::Relaxed);
        }
    });
    eprintln!("{} images of {} histories", images.into_inner(), histories.into_inner());
}

#[test]
fn a_store_recovered_from_a_crash_takes_commits_and_gives_them_back() {
    let run = run(99, 6, 1);
    let (mut cuts, mut random) = (Random(99), Random(98));
    let mut images = 0;
    crash_images(&[], &run.log, run.acknowledged[0].0, &mut cuts, |_, image| {
        images += 1;
        if images % 5 != 0 {
            return;
        }
        let disk = Disk::with(image);
        let Opened { mut store, jobs, .. } = disk.open(QUOTA).unwrap();
        let mut model = Model::of(&store, &jobs, &names());
        for _ in 0..3 {
            let batch = step(&model, &mut random);
            let seqs = store.commit(&batch).unwrap();
            model.apply(&batch, &seqs);
        }
        // And once more pulls the plug: only what was synced is left.
        let again = Disk::with(disk.inode().durable).open(QUOTA).unwrap();
        assert_eq!(Model::of(&again.store, &again.jobs, &names()), model);
    });
}

#[test]
fn a_disk_that_fails_at_any_operation_loses_nothing_that_was_acknowledged() {
    let (mut refused, mut renewed) = (0, 0);
    for at in 0..60 {
        for length in [1, 2, 5] {
            let disk = Disk::default();
            let what = format!("failure at {at} for {length}");
            let (model, faults, twice) = run_on_failing(&disk, at, length, &what);
            refused += faults;
            renewed += disk.state().renewals;
            let opened = Disk::with(disk.inode().durable).open(QUOTA).unwrap();
            check(Model::of(&opened.store, &opened.jobs, &names()), &model, twice, &what);
        }
    }
    assert!(refused > 20 && renewed > 5, "{refused} refusals, {renewed} renewals: the failures were not met");
}

/// Commits over a disk that fails for a while, repeating each batch until it is taken. Returns what must be there, how
/// many commits were refused, and whether a batch was repeated whose fate was unknown.
fn run_on_failing(disk: &Disk, at: u64, length: u64, what: &str) -> (Model, u32, bool) {
    let mut store = disk.open(QUOTA).unwrap().store;
    let mut random = Random(7);
    let mut model = Model::default();
    let (mut refused, mut twice) = (0, false);
    disk.state().failure = Some((at, length));
    for _ in 0..12 {
        let batch = step(&model, &mut random);
        let seqs = loop {
            match store.commit(&batch) {
                Ok(seqs) => break seqs,
                Err(fault) => assert_eq!(fault.code, Code::StateIo, "{what}: {fault}"),
            }
            refused += 1;
            if store.is_open() {
                let jobs: Vec<Job> = model.jobs.values().cloned().collect();
                check(Model::of(&store, &jobs, &names()), &model, twice, what);
            } else {
                twice = true;
            }
        };
        model.apply(&batch, &seqs);
    }
    (model, refused, twice)
}

/// The store holds what it acknowledged and nothing else; but messages may be there `twice`.
fn check(mut found: Model, model: &Model, twice: bool, what: &str) {
    if twice {
        found.outbox.retain(|seq, _| model.outbox.contains_key(seq));
    }
    assert_eq!(found, *model, "{what}");
}

#[test]
fn reading_while_closed_says_what_to_expect() {
    let disk = Disk::default();
    let mut store = disk.open(QUOTA).unwrap().store;
    store.commit(&submit("a", 10)).unwrap();
    disk.state().failure = Some((0, u64::MAX));
    assert_eq!(store.commit(&submit("b", 10)).unwrap_err().code, Code::StateIo);
    assert!(!store.is_open());
    let fault = store.payload(&"a".parse().unwrap()).unwrap_err();
    assert!(fault.message.contains("the next commit opens it again"), "{fault}");
    disk.state().failure = None;
    assert!(store.commit(&submit("b", 10)).is_ok());
    assert!(store.payload(&"a".parse().unwrap()).unwrap().is_some());
}
