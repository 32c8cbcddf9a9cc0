//! Thousands of worlds; and is the audit itself any good?

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::scenario::Mutation;
use super::trace::Words;
use super::world::{Failure, Summary};
use super::*;

/// Worlds in the ordinary run, and in the long one (`NEAP_CHAOS=full`).
const WORLDS: u64 = 5_000;
const WORLDS_FULL: u64 = 200_000;
/// A broken part is noticed within so many worlds.
const MUTANT_WORLDS: u64 = 200;

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Plays the worlds on all cores; gives the failure of the lowest seed.
fn play_all(worlds: u64) -> Result<Vec<Summary>, Failure> {
    let (next, first) = (AtomicU64::new(0), Mutex::new(None::<Failure>));
    let summaries = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= worlds || first.lock().unwrap().is_some() {
                        return;
                    }
                    match World::play(seed, None, Words::None) {
                        Ok(summary) => summaries.lock().unwrap().push(summary),
                        Err(failure) => {
                            let mut first = first.lock().unwrap();
                            if first.as_ref().is_none_or(|first| failure.seed < first.seed) {
                                *first = Some(failure);
                            }
                        }
                    }
                }
            });
        }
    });
    match first.into_inner().unwrap() {
        Some(failure) => Err(failure),
        None => Ok(summaries.into_inner().unwrap()),
    }
}

#[test]
fn in_every_world_what_was_accepted_ends_once_and_everything_drains() {
    if let Some(seed) = env("NEAP_SEED").and_then(|seed| seed.parse().ok()) {
        let played = World::play(seed, None, Words::All);
        played.map_or_else(|failure| panic!("{failure}"), |summary| eprintln!("{summary:?}"));
        return;
    }
    let worlds = if env("NEAP_CHAOS").as_deref() == Some("full") { WORLDS_FULL } else { WORLDS };
    match play_all(worlds) {
        Ok(summaries) => {
            let total = |of: fn(&Summary) -> u64| summaries.iter().map(of).sum::<u64>();
            let (steps, accepted, kills) =
                (total(|world| world.steps), total(|world| world.accepted as u64), total(|world| world.kills));
            eprintln!("{worlds} worlds: {steps} steps, {accepted} jobs accepted, {kills} kills of the agent");
            assert!(accepted > 3 * worlds && kills > worlds / 2, "too little happens in these worlds");
        }
        Err(failure) => {
            // The same again, this time with words.
            let again = World::play(failure.seed, None, Words::Last).err().unwrap_or(failure);
            panic!("{again}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in 0..20 {
        let play = || World::play(seed, None, Words::None).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(play(), play(), "seed {seed}");
    }
}

#[test]
fn every_broken_part_is_noticed() {
    for mutation in Mutation::ALL {
        let noticed = (0..MUTANT_WORLDS).find_map(|seed| World::play(seed, Some(mutation), Words::None).err());
        let Some(failure) = noticed else { panic!("{mutation:?} is not noticed in {MUTANT_WORLDS} worlds") };
        eprintln!("{mutation:?}: seed {}, {}", failure.seed, failure.what);
    }
}
