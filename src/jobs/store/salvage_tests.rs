//! How much of a damaged store lives on, and is all of it true?

use std::collections::{BTreeMap, BTreeSet};

use super::corruption_tests::{Outcome, open_damaged, sound};
use super::test_medium::{Model, Random, rounds, seed, spread};

/// What is done to a file, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Flip,
    Zero,
    Swap,
    Cut,
}

/// Damages one random place, of those where something is written: damage of the rest is none.
fn damage(bytes: &[u8], random: &mut Random) -> (Damage, usize, Vec<u8>) {
    let mut damaged = bytes.to_vec();
    let page = |random: &mut Random| random.below(bytes.len() / 4096) * 4096;
    match random.below(8) {
        0 => {
            let at = page(random);
            damaged[at..at + 4096].fill(0);
            (Damage::Zero, at, damaged)
        }
        1 => {
            let (from, to) = (page(random), page(random));
            damaged.copy_within(from..from + 4096, to);
            (Damage::Swap, to, damaged)
        }
        2 => {
            damaged.truncate(random.below(bytes.len()));
            (Damage::Cut, damaged.len(), damaged)
        }
        _ => {
            let at = std::iter::repeat_with(|| random.below(bytes.len())).find(|at| bytes[*at] != 0).unwrap();
            damaged[at] ^= 1 << random.below(8);
            (Damage::Flip, at, damaged)
        }
    }
}

/// Where the records of the last state lie in a sound file, and what they are.
fn places(state: &Model, bytes: &[u8]) -> Vec<(String, usize, Vec<u8>)> {
    let place = |(name, record): (String, Vec<u8>)| {
        let at = bytes.windows(record.len()).position(|window| window == record).unwrap();
        (name, at, record)
    };
    state.sealed().into_iter().map(place).collect()
}

#[derive(Debug, Default)]
struct Sum {
    places: usize,
    quarantined: usize,
    intact: usize,
    survived: usize,
}

/// R16: flips, zeroed and swapped pages, cut files, after an orderly end and after a kill.
#[test]
fn damage_anywhere_costs_the_records_it_hits_and_never_gives_a_wrong_one() {
    let seed = seed(16);
    let states = &sound().states;
    let last = &states[states.len() - 1];
    let places = [places(last, &sound().closed), places(last, &sound().killed)];
    let outcomes = spread(rounds(1000, 10_000), |round| {
        let mut random = Random(seed.wrapping_add(round as u64));
        let killed = round % 2 == 1;
        let bytes = if killed { &sound().killed } else { &sound().closed };
        let (damage, at, damaged) = damage(bytes, &mut random);
        let what = format!("{damage:?} at {at}, killed {killed}, round {round}");
        let (outcome, found) = open_damaged(&what, damaged.clone());
        assert!(killed || outcome != Outcome::RolledBack, "{what}: after an orderly end nothing is undone silently");
        // Counted where it means something: the same commit, and only part of the file hit.
        let counted = outcome == Outcome::Quarantined && damage != Damage::Cut;
        let is_intact = |(_, at, record): &&(String, usize, Vec<u8>)| damaged[*at..].starts_with(record);
        let places = places[usize::from(killed)].iter().filter(|_| counted);
        let intact: BTreeSet<&String> = places.filter(is_intact).map(|(name, ..)| name).collect();
        let names: BTreeSet<String> = found.sealed().into_iter().map(|(name, _)| name).collect();
        (damage, outcome, intact.len(), intact.iter().filter(|name| names.contains(**name)).count())
    });
    let mut sums: BTreeMap<Damage, Sum> = BTreeMap::new();
    for (damage, outcome, intact, survived) in outcomes {
        let sum = sums.entry(damage).or_default();
        sum.places += 1;
        sum.quarantined += usize::from(outcome == Outcome::Quarantined);
        sum.intact += intact;
        sum.survived += survived;
    }
    eprintln!("{sums:#?}");
    let flips = &sums[&Damage::Flip];
    assert!(flips.quarantined > 50, "only {} flips were found out: do they hit data at all?", flips.quarantined);
    assert!(flips.survived * 100 >= flips.intact * 99, "{} of {} intact records", flips.survived, flips.intact);
}
