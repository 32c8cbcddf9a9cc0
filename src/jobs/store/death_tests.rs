//! Is it safe to die at any step? Every operation on the disk in one job's life, one after the other.

use std::time::Duration;

use super::schema_tests::of_schema_1;
use super::test_medium::{Disk, Model};
use super::tests::{NOW, QUOTA, id, message, names, submit};
use super::*;
use crate::jobs::job::{Event, State};

/// One job from submit to forget, with messages that come and go, as the batches that the agent would commit.
fn life() -> Vec<Batch> {
    let mut batches = vec![submit("d", 3000)];
    let mut job = batches[0].jobs[0].clone();
    let told = |job: &Job| Batch { jobs: vec![job.clone()], messages: vec![message("up/job/d")], ..Batch::default() };
    let mut moved = |event: Event, more: Batch| {
        job.apply(event, NOW).unwrap();
        Batch { at: Some(NOW), ..Batch { jobs: told(&job).jobs, messages: told(&job).messages, ..more } }
    };
    batches.push(moved(Event::Start, Batch::default()));
    for index in 0..3 {
        let items = vec![(id("d"), index, vec![b'i'; 500])];
        let (cpu, ran) = (Duration::from_millis(1), Duration::from_millis(2));
        batches.push(moved(Event::ItemDone { cpu, ran }, Batch { items, ..Batch::default() }));
        if index == 0 {
            batches.push(moved(Event::Yield, Batch::default()));
            batches.push(moved(Event::Resume { stopped: Duration::from_secs(1) }, Batch::default()));
        }
    }
    let (drop_payloads, drop_items) = (vec![id("d")], vec![id("d")]);
    let results = vec![(id("d"), vec![b'r'; 2000])];
    batches.push(moved(Event::Succeed, Batch { results, drop_payloads, drop_items, ..Batch::default() }));
    batches.push(Batch { delivered: (1..100).collect(), ..Batch::default() });
    batches.push(Batch { acknowledged: vec![id("d")], drop_results: vec![id("d")], ..Batch::default() });
    batches.push(Batch { forget: vec![id("d")], ..Batch::default() });
    batches
}

/// What the store holds, as the batches applied so far have it.
fn states(disk: &Disk, batches: &[Batch]) -> Vec<Model> {
    let Opened { mut store, jobs, .. } = disk.open(QUOTA).unwrap();
    let mut jobs = jobs;
    let mut states = vec![Model::of(&store, &jobs, &names())];
    for batch in batches {
        store.commit(batch).unwrap();
        for job in &batch.jobs {
            jobs.retain(|known| known.id != job.id);
            jobs.push(job.clone());
        }
        jobs.retain(|job| !batch.forget.contains(&job.id));
        for job in jobs.iter_mut().filter(|job| batch.acknowledged.contains(&job.id)) {
            job.acknowledged = true;
        }
        states.push(Model::of(&store, &jobs, &names()));
    }
    assert_eq!(disk.open(QUOTA).err().map(|fault| fault.code), None);
    states
}

/// Lives until the disk stops: how many batches were acknowledged, and whether all were.
fn live(disk: &Disk, batches: &[Batch]) -> (usize, bool) {
    let Ok(mut opened) = disk.open(QUOTA) else { return (0, false) };
    let acknowledged = batches.iter().take_while(|batch| opened.store.commit(batch).is_ok()).count();
    (acknowledged, acknowledged == batches.len())
}

/// Dies at each operation in turn, on a disk as `prepare` gives it, and looks at what the next run finds.
fn die_at_every_step(what: &str, prepare: impl Fn() -> Disk) -> u64 {
    let batches = life();
    let states = states(&prepare(), &batches);
    for step in 0.. {
        let mut survived = false;
        for power_cut in [false, true] {
            let what = format!("{what}, step {step}, power cut {power_cut}");
            let disk = prepare();
            disk.state().failure = Some((step, u64::MAX));
            let (acknowledged, all) = live(&disk, &batches);
            survived = all;
            let disk = disk.after_death(power_cut);
            let opened = disk.open(QUOTA).unwrap_or_else(|fault| panic!("{what}: {fault}"));
            let found = Model::of(&opened.store, &opened.jobs, &names());
            let allowed = &states[acknowledged..(acknowledged + 2).min(states.len())];
            assert!(allowed.contains(&found), "{what}: {acknowledged} acknowledged, {found:?}, allowed {allowed:?}");
            assert!(disk.state().aside.len() < 2, "{what}: set aside twice");
            let last = opened.jobs.iter().find(|job| job.id == id("d")).map(|job| job.state);
            assert!(acknowledged < 8 || last.is_none_or(State::is_terminal), "{what}: a job that ended goes on");
        }
        if survived {
            return step;
        }
    }
    unreachable!("it lives in the end")
}

/// R2: creation, then a whole life.
#[test]
fn a_process_that_dies_at_any_step_of_a_jobs_life_loses_nothing() {
    let steps = die_at_every_step("life", Disk::default);
    assert!(steps > 40, "only {steps} steps");
}

#[test]
fn a_process_that_dies_while_it_brings_an_old_store_up_to_date_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    of_schema_1(folder.path());
    let old = std::fs::read(folder.path().join("jobs.redb")).unwrap();
    die_at_every_step("migration", || Disk::with(old.clone()));
}

#[test]
fn a_process_that_dies_while_it_copies_a_doubtful_store_loses_nothing() {
    let old = two_jobs(false);
    let steps = die_at_every_step("renewal", || {
        let disk = Disk::with(old.clone());
        disk.doubt().set_unsynced(true);
        disk
    });
    assert!(steps > 40, "only {steps} steps");
}

#[test]
fn a_process_that_dies_while_it_sets_a_store_aside_loses_no_more_than_the_damage_did() {
    let mut old = two_jobs(true);
    let at = old.windows(100).rposition(|window| window == [b'p'; 100]).unwrap();
    old[at..at + 100].fill(0);
    die_at_every_step("set aside", || Disk::with(old.clone()));
    let disk = Disk::with(old.clone());
    let opened = disk.open(QUOTA).unwrap();
    let quarantined = opened.quarantined.unwrap();
    assert!(quarantined.kept > 2 && quarantined.lost == Some(1), "{quarantined:?}");
    assert_eq!(opened.without_input.len(), 1);
}

/// The bytes of a store with two jobs, as an orderly end leaves them, or a kill.
fn two_jobs(in_order: bool) -> Vec<u8> {
    let disk = Disk::default();
    let mut store = disk.open(QUOTA).unwrap().store;
    store.commit(&submit("a", 2000)).unwrap();
    store.commit(&submit("b", 2000)).unwrap();
    let killed = disk.inode().live;
    drop(store);
    if in_order { disk.inode().live } else { killed }
}
