//! Series of levels: synthetic days, and those that are made to mislead.

use crate::sim::day::{Cell, Character, Random, SAMPLES};

/// So many days of one cell.
pub(super) fn cell(character: Character, seed: u64, days: usize) -> Vec<u16> {
    let mut random = Random::new(seed);
    let day = |_| {
        let cell = Cell::new(character, &mut random);
        (0..SAMPLES).map(move |index| cell.at(index).permille())
    };
    (0..days).flat_map(day).collect()
}

fn level(share: f64) -> u16 {
    super::numbers::whole(share * 1000.0)
}

/// A walk between none and all, reflected there: nothing but the present helps.
pub(super) fn walk(seed: u64, days: usize) -> Vec<u16> {
    let mut random = Random::new(seed);
    let mut at: f64 = 0.5;
    let step = |_| {
        at += 0.02 * random.normal();
        at = if at < 0.0 {
            -at
        } else if at > 1.0 {
            2.0 - at
        } else {
            at
        };
        level(at)
    };
    (0..days * SAMPLES).map(step).collect()
}

/// Levels that have nothing to do with one another.
pub(super) fn noise(seed: u64, days: usize) -> Vec<u16> {
    let mut random = Random::new(seed);
    (0..days * SAMPLES).map(|_| level(random.share())).collect()
}

/// High and low by turns.
pub(super) fn square(period: usize, days: usize) -> Vec<u16> {
    (0..days * SAMPLES).map(|index| if index % period < period / 2 { 700 } else { 50 }).collect()
}

/// A cell whose days become those of another one in the middle.
pub(super) fn change(seed: u64, days: usize) -> Vec<u16> {
    let mut levels = cell(Character::between(1.0), seed, days / 2);
    levels.extend(cell(Character { night: 0.3, peak: 0.02, ..Character::between(0.5) }, seed + 1, days - days / 2));
    levels
}

/// A cell in the first half, a walk in the second: what was learned is worth nothing.
pub(super) fn cell_then_walk(seed: u64, days: usize) -> Vec<u16> {
    let mut levels = cell(Character::between(0.5), seed, days / 2);
    levels.extend(walk(seed, days - days / 2));
    levels
}

/// A cell whose clock is moved by an hour in the middle, as by the change to summer time.
pub(super) fn summer_time(seed: u64, days: usize) -> Vec<u16> {
    let mut levels = cell(Character::between(0.5), seed, days);
    let middle = days / 2 * SAMPLES;
    levels.drain(middle..middle + 30);
    levels
}
