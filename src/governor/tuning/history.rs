//! What was the load of the past days? The highest level of each two minutes, for a week.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::{Utilization, WallTime};

/// Time that one entry stands for.
pub const SLOT: Duration = Duration::from_secs(120);
/// Entries that are kept: a week.
pub const SLOTS_MAX: usize = 7 * 720;
/// A level goes on unheard through so many slots at the most: after that somebody was asleep, or the clock has jumped.
const HOLD_SLOTS_MAX: usize = 5;
const SLOT_MILLIS: i64 = 120_000;

/// The highest level of each slot; `None` where the load was not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Number of the newest slot, counted from the epoch of the wall clock.
    newest: Option<i64>,
    levels: VecDeque<Option<Utilization>>,
    /// The level in force, which goes on until another one is heard.
    level: Option<Utilization>,
}

impl History {
    /// From what was kept: the number of the newest slot, and the levels, the oldest first. Too many are cut.
    pub(super) fn restored(newest: i64, levels: impl IntoIterator<Item = Option<Utilization>>) -> Self {
        let mut levels: VecDeque<_> = levels.into_iter().collect();
        while levels.len() > SLOTS_MAX {
            levels.pop_front();
        }
        Self { newest: (!levels.is_empty()).then_some(newest), levels, level: None }
    }

    /// Takes in the level that is in force from `now` on. A clock that was set back changes nothing that is past.
    pub fn enter(&mut self, now: WallTime, level: Option<Utilization>) {
        let slot = now.as_millis().div_euclid(SLOT_MILLIS);
        let newest = *self.newest.get_or_insert(slot.saturating_sub(1));
        let passed = slot.saturating_sub(newest);
        if passed > 0 {
            // The level that was in force until now went on through the slots between.
            let slots = usize::try_from(passed).unwrap_or(usize::MAX);
            if slots > SLOTS_MAX {
                self.levels.clear();
            }
            for passed in 0..slots.min(SLOTS_MAX) {
                self.levels.push_back(self.level.filter(|_| passed < HOLD_SLOTS_MAX));
            }
            while self.levels.len() > SLOTS_MAX {
                self.levels.pop_front();
            }
            self.newest = Some(slot);
            // At the very begin of a slot nothing of it belongs to the level before.
            if now.as_millis().rem_euclid(SLOT_MILLIS) == 0
                && let Some(last) = self.levels.back_mut()
            {
                *last = level;
            }
        }
        self.level = level;
        if let Some(last) = self.levels.back_mut() {
            // One moment of the unknown makes the slot unknown only if nothing else is known of it.
            *last = (*last).max(level);
        }
    }

    /// Takes in that time has passed, and the level is still in force.
    pub fn pass(&mut self, now: WallTime) {
        if self.newest.is_some_and(|newest| now.as_millis().div_euclid(SLOT_MILLIS) > newest) {
            self.enter(now, self.level);
        }
    }

    /// The highest level of each slot, the oldest first.
    pub fn levels(&self) -> impl ExactSizeIterator<Item = Option<Utilization>> {
        self.levels.iter().copied()
    }

    /// Number of the newest slot.
    pub const fn newest(&self) -> Option<i64> {
        self.newest
    }

    /// Time of which the load is known.
    pub fn known(&self) -> Duration {
        let slots = self.levels.iter().filter(|level| level.is_some()).count();
        SLOT * u32::try_from(slots).unwrap_or(u32::MAX)
    }
}
