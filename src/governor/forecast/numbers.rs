//! How is time divided, and how are levels turned into numbers that can be averaged?

use std::time::Duration;

use crate::units::{Utilization, WallTime};

/// Length of a step.
pub const STEP: Duration = Duration::from_secs(120);
/// Steps of a day of UTC.
pub const STEPS_A_DAY: usize = 720;
/// The same, to count with.
pub(super) const A_DAY: i64 = 720;
/// Milliseconds of a step.
pub(super) const STEP_MS: i64 = 120_000;
/// Added to a level before its logarithm is taken, in permille: a level of 0 has one then, and the difference between
/// no load and next to none counts for little.
const OFFSET: f64 = 10.0;

/// Furthest day from the epoch that is believed: 9,000 years.
pub(super) const DAY_FURTHEST: i64 = 3_300_000;

/// Whether a moment lies in the years that anything is reckoned for.
pub(super) const fn is_likely(at: WallTime) -> bool {
    let day = Step::containing(at).day();
    day > -DAY_FURTHEST && day < DAY_FURTHEST
}

/// Which two minutes: counted from the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step(pub(super) i64);

impl Step {
    /// The step in which a moment lies.
    pub(super) const fn containing(at: WallTime) -> Self {
        Self(at.as_millis().div_euclid(STEP_MS))
    }

    /// Its first moment.
    pub(super) const fn begin(self) -> WallTime {
        WallTime::from_millis(self.0.saturating_mul(STEP_MS))
    }

    /// The step so many steps later.
    pub(super) const fn later(self, steps: i64) -> Self {
        Self(self.0.saturating_add(steps))
    }

    /// Steps since an earlier one; negative when it is later.
    pub(super) const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The day in which it lies, counted from the epoch.
    pub(super) const fn day(self) -> i64 {
        self.0.div_euclid(A_DAY)
    }
}

/// Position of a step within its day, 0 to 719.
pub(super) fn time_of_day(step: Step) -> usize {
    usize::try_from(step.0.rem_euclid(A_DAY)).unwrap_or(0)
}

/// Whole steps of a span, rounded to the nearest.
pub(super) fn steps(span: Duration) -> i64 {
    let half = STEP / 2;
    i64::try_from((span + half).as_millis() / STEP.as_millis()).unwrap_or(A_DAY)
}

/// A span in milliseconds.
pub(super) fn minute(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(STEP_MS)
}

/// The logarithm of a level in permille, with an offset so that it always has one.
pub(super) fn log_of(level: f64) -> f64 {
    (level + OFFSET).ln()
}

/// The level of such a logarithm, within 0 to 1000 permille.
pub(super) fn level_of(log: f64) -> f64 {
    (log.exp() - OFFSET).clamp(0.0, 1000.0)
}

/// The nearest whole permille.
pub(super) fn whole(level: f64) -> u16 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000")]
    let whole = level.round().clamp(0.0, 1000.0) as u16;
    whole
}

/// A level as the rest of the program has it.
pub(super) fn utilization(level: f64) -> Utilization {
    Utilization::from_permille(whole(level)).unwrap_or(Utilization::FULL)
}

/// A count or a span of milliseconds, to reckon with: exact below 2⁵³, which is 285,000 years.
pub(super) fn real(count: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts and spans here are far below 2^53")]
    let real = count as f64;
    real
}
