//! What was the load on the last days? Three weeks of steps, and nothing else grows.

use std::time::Duration;

use super::super::{BadPolicy, Policy};
use super::numbers::{A_DAY, STEP, STEPS_A_DAY, Step, time_of_day};
use super::shadow::Shadow;
use crate::units::{Instant, Utilization};

/// Days remembered.
pub const DAYS_MAX: usize = 21;
/// The same, to count with.
const COUNT: i64 = 21;
const _: () = assert!(COUNT.unsigned_abs() == DAYS_MAX as u64, "one number");
/// In place of a level: not known.
const MISSING: u16 = u16::MAX;

/// One step as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Mean level, in permille.
    pub(super) mean: u16,
    /// Highest level, in permille.
    pub(super) max: u16,
    /// Share of the workers' time that the governor would have given, in permille.
    pub(super) free: u16,
    /// Whether it was measured here.
    pub(super) measured: bool,
}

impl Entry {
    const NONE: Self = Self { mean: MISSING, max: MISSING, free: 0, measured: false };

    /// A level that somebody else has counted.
    pub(super) const fn told(level: Utilization, is_idle: bool) -> Self {
        let level = level.permille();
        Self { mean: level, max: level, free: if is_idle { 1000 } else { 0 }, measured: false }
    }

    const fn is_known(&self) -> bool {
        self.mean != MISSING
    }
}

/// One day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) day: i64,
    /// By time of day: always [`STEPS_A_DAY`] entries.
    entries: Box<[Entry]>,
}

impl Row {
    /// A day of which nothing is known.
    pub(super) fn new(day: i64) -> Self {
        Self { day, entries: vec![Entry::NONE; STEPS_A_DAY].into() }
    }

    /// The entry at a time of day, counted on round the clock.
    pub(super) fn at(&self, time_of_day: usize) -> Option<&Entry> {
        self.entries.get(time_of_day % STEPS_A_DAY).filter(|entry| entry.is_known())
    }

    /// Notes what a time of day was like.
    pub(super) fn set(&mut self, time_of_day: usize, entry: Entry) {
        if let Some(place) = self.entries.get_mut(time_of_day) {
            *place = entry;
        }
    }
}

/// The last days.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Days {
    /// By day, modulo [`DAYS_MAX`]; empty until there is one.
    rows: Vec<Option<Row>>,
}

impl Days {
    fn place_of(day: i64) -> usize {
        usize::try_from(day.rem_euclid(COUNT)).unwrap_or(0)
    }

    /// Takes a day in place of whichever was there.
    pub(super) fn put_row(&mut self, row: Row) {
        self.rows.resize(DAYS_MAX, None);
        let place = Self::place_of(row.day);
        self.rows[place] = Some(row);
    }

    /// Notes what a step was like.
    pub(super) fn put(&mut self, step: Step, entry: Entry) {
        if self.row(step.day()).is_none() {
            self.put_row(Row::new(step.day()));
        }
        if let Some(Some(row)) = self.rows.get_mut(Self::place_of(step.day())) {
            row.set(time_of_day(step), entry);
        }
    }

    /// Notes what somebody else says that a step was like. Tells whether that is news: of several cells, or words about
    /// one time, the highest counts, in whatever order they come.
    pub(super) fn put_told(&mut self, today: i64, step: Step, entry: Entry) -> bool {
        let age = today.saturating_sub(step.day());
        let known = self.get(step).is_some_and(|known| known.measured || known.mean >= entry.mean);
        let place = self.rows.get(Self::place_of(step.day())).and_then(Option::as_ref);
        let newer = place.is_some_and(|row| row.day > step.day());
        if !(0..COUNT).contains(&age) || known || newer {
            return false;
        }
        self.put(step, entry);
        true
    }

    /// What a step was like.
    pub(super) fn get(&self, step: Step) -> Option<&Entry> {
        self.row(step.day())?.at(time_of_day(step))
    }

    /// The last entry at the target's time of day that was known at the origin.
    pub(super) fn same_time_before(&self, origin: Step, target: Step) -> Option<&Entry> {
        let days = (target.since(origin).max(1) + A_DAY - 1) / A_DAY;
        self.get(target.later(-days * A_DAY))
    }

    fn row(&self, day: i64) -> Option<&Row> {
        self.rows.get(Self::place_of(day))?.as_ref().filter(|row| row.day == day)
    }

    /// The days known, in no order of time.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().flatten()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.iter().count()
    }

    /// Works out again what would have been free, under another policy. Within a step only the highest level is known,
    /// and it counts for all of it.
    pub(super) fn judge_again(&mut self, policy: &Policy) -> Result<(), BadPolicy> {
        let mut shadow = Shadow::new(policy.clone())?;
        let mut days: Vec<i64> = self.iter().map(|row| row.day).collect();
        days.sort_unstable();
        let Some(first) = days.first().copied() else { return Ok(()) };
        for day in days {
            // Rows too far apart (a clock that was set) are judged each by itself.
            let offset = u32::try_from(day.saturating_sub(first)).unwrap_or(u32::MAX).min(10_000);
            let midnight = Duration::from_secs(24 * 60 * 60) * offset;
            let Some(Some(row)) = self.rows.get_mut(Self::place_of(day)) else { continue };
            let mut begin = Instant::default().after(midnight);
            for entry in &mut row.entries {
                let end = begin.after(STEP);
                shadow.run_until(begin);
                if entry.is_known() {
                    shadow.on_level(begin, Utilization::from_permille(entry.max).unwrap_or(Utilization::FULL));
                } else {
                    shadow.on_silence(begin);
                }
                let given = shadow.run_until(end);
                entry.free = shadow.share(given, STEP);
                begin = end;
            }
        }
        Ok(())
    }
}
