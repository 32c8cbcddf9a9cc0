//! Does a damaged file ever keep the agent from starting, or pass for a sound one?

use std::fs;
use std::sync::OnceLock;

use super::test_medium::{Disk, Model, Random};
use super::tests::{QUOTA, names, step, submit};
use super::*;
use crate::fault::Code;

/// Bytes of a store and every state that it ever acknowledged.
pub(super) struct Sound {
    /// As an orderly end leaves them.
    pub(super) closed: Vec<u8>,
    /// As a killed process leaves them: nothing vouches for the last commit but its own checksums.
    pub(super) killed: Vec<u8>,
    pub(super) states: Vec<Model>,
}

pub(super) fn sound() -> &'static Sound {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    SOUND.get_or_init(|| {
        let disk = Disk::default();
        let mut store = disk.open(QUOTA).unwrap().store;
        let mut random = Random(3);
        let mut states = vec![Model::default()];
        for _ in 0..20 {
            let mut model = states[states.len() - 1].clone();
            let batch = step(&model, &mut random);
            let seqs = store.commit(&batch).unwrap();
            model.apply(&batch, &seqs);
            states.push(model);
        }
        let killed = disk.inode().live;
        drop(store);
        Sound { closed: disk.inode().live, killed, states }
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Whole,
    RolledBack,
    Quarantined,
}

fn open(what: &str, bytes: Vec<u8>) -> Outcome {
    open_damaged(what, bytes).0
}

/// Opens the damaged bytes. Whatever comes out is a state that once was, or what is left of it beside the kept file.
pub(super) fn open_damaged(what: &str, bytes: Vec<u8>) -> (Outcome, Model) {
    let disk = Disk::with(bytes.clone());
    let mut opened = disk.open(QUOTA).unwrap_or_else(|fault| panic!("{what}: {fault}"));
    let found = Model::of(&opened.store, &opened.jobs, &names());
    let states = &sound().states;
    let outcome = match &opened.quarantined {
        None if found == states[states.len() - 1] => Outcome::Whole,
        None => {
            assert_eq!(found, states[states.len() - 2], "{what}: neither sound nor reported");
            Outcome::RolledBack
        }
        Some(quarantined) => {
            let rest = states.iter().rev().take(2).map(|state| found.is_rest_of(state));
            let rest: Vec<String> = rest.filter_map(Result::err).collect();
            assert!(rest.len() < 2, "{what}: {rest:?}");
            assert_eq!(quarantined.fault.code, Code::StateCorrupt, "{what}");
            assert_eq!(disk.state().aside.len(), 1, "{what}");
            assert!(disk.state().aside[0].1 == bytes, "{what}: what was set aside was changed");
            assert_eq!(quarantined.kept, found.records() as u64, "{what}");
            Outcome::Quarantined
        }
    };
    // It works from here on, whatever it was.
    let seqs = opened.store.commit(&submit("zz", 10)).unwrap_or_else(|fault| panic!("{what}: {fault}"));
    assert!(found.outbox.keys().all(|seq| *seq < seqs[0]), "{what}: a number is used twice");
    (outcome, found)
}

#[test]
fn any_change_of_the_header_is_survived() {
    for bytes in [&sound().closed, &sound().killed] {
        for at in 0..320 {
            for change in [0x01, 0x02, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= change;
                open(&format!("byte {at} xor {change:#x}"), bytes);
            }
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_survived_and_never_passes_for_a_fresh_one() {
    let bytes = &sound().closed;
    let mut random = Random(5);
    let mut lengths: Vec<usize> = (0..60).map(|_| random.below(bytes.len())).collect();
    lengths.extend([0, 1, 9, 64, 319, 320, 4095, 4096, 8192, bytes.len() - 1, bytes.len() - 4096]);
    for length in lengths {
        let outcome = open(&format!("cut to {length} bytes"), bytes[..length].to_vec());
        assert_eq!(outcome, Outcome::Quarantined, "cut to {length} bytes");
        let killed = &sound().killed;
        open(&format!("killed, cut to {length} bytes"), killed[..length.min(killed.len())].to_vec());
    }
}

#[test]
fn files_that_were_never_a_store_are_set_aside() {
    let mut noise = Random(1);
    let garbage: Vec<u8> = (0..100_000).map(|_| u8::try_from(noise.below(256)).unwrap()).collect();
    for (what, bytes) in [("garbage", garbage), ("text", b"hello".to_vec()), ("zeroes", vec![0; 1 << 20])] {
        assert_eq!(open(what, bytes), Outcome::Quarantined);
    }
}

#[test]
fn a_sound_redb_file_of_another_program_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let database = redb::Database::create(folder.path().join("jobs.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u32, u32>::new("other")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let fault = Store::open(folder.path(), QUOTA).unwrap().quarantined.unwrap().fault;
    assert!(fault.message.contains("no schema number"), "{fault}");
}

#[test]
fn damaged_files_are_kept_byte_for_byte_up_to_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=8 {
        fs::write(folder.path().join("jobs.redb"), format!("garbage {number}")).unwrap();
        let opened = Store::open(folder.path(), QUOTA).unwrap();
        let quarantined = opened.quarantined.unwrap();
        assert_eq!(quarantined.path, folder.path().join(format!("jobs.redb.corrupt-{number}")));
        assert_eq!(fs::read_to_string(&quarantined.path).unwrap(), format!("garbage {number}"));
        assert!(quarantined.fault.message.contains("starts with an empty store"), "{}", quarantined.fault);
    }
    fs::write(folder.path().join("jobs.redb"), "garbage 9").unwrap();
    let fault = Store::open(folder.path(), QUOTA).unwrap_err();
    assert_eq!(fault.code, Code::StateCorrupt);
    assert!(fault.message.contains("8 files") && fault.message.contains("move them away"), "{fault}");
    assert_eq!(fs::read_to_string(folder.path().join("jobs.redb")).unwrap(), "garbage 9");
}

#[test]
fn a_panic_over_a_damaged_file_is_contained_and_known_to_be() {
    assert!(!panic_is_contained());
    let outcome: Result<(), Trouble> = contained(|| {
        assert!(panic_is_contained());
        panic!("page {} is not a page", 7)
    });
    assert!(!panic_is_contained());
    assert!(matches!(outcome, Err(Trouble::Corrupt(why)) if why.contains("page 7 is not a page")));
}
