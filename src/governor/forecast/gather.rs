//! What was the load in each step? Levels at any moments become the mean, the highest level and the free share of steps.

use std::time::Duration;

use super::super::{BadPolicy, Policy};
use super::days::Entry;
use super::numbers::{STEP, STEP_MS, Step, is_likely, real, whole};
use super::shadow::{HOLD, Shadow};
use crate::units::{Instant, Utilization, WallTime};

/// Moments that are further apart are of another line: a node that was off, or a clock that was set.
const GAP_MAX_MS: i64 = 24 * 60 * 60 * 1000;
/// A new line of moments is believed when it has gone on for so long.
const LINE_MS: i64 = 10 * 60 * 1000;
/// Two moments of the new line are at most so far apart.
const LINE_GAP_MS: i64 = 4 * STEP_MS;
/// So late may a moment come and count as the last one.
const DISORDER_MS: i64 = 2_000;
/// Of a step so much must be known.
const KNOWN_MIN: Duration = Duration::from_secs(30);
/// Most steps that one level can end: those that it holds for, and the one before.
const CLOSED_MAX: usize = 4;

const _: () = assert!(HOLD.as_secs() <= STEP.as_secs() * 2, "a level closes at most three steps");

/// A step that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) step: Step,
    pub(super) entry: Entry,
}

/// What followed from a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// A new line of moments has begun.
    pub(super) restarted: bool,
    /// The steps that ended, in order.
    pub(super) closed: [Option<Closed>; CLOSED_MAX],
}

/// The step that goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present {
    pub(super) step: Step,
    /// What its mean will be if the level stays, in permille.
    pub(super) level: f64,
    /// The last free share, of 1.
    pub(super) free: f64,
}

/// What is known of a step so far.
#[derive(Clone, Copy, Debug)]
struct Part {
    step: Step,
    known_ms: i64,
    /// Level times milliseconds.
    sum: i64,
    max: u16,
    given: Duration,
}

impl Part {
    const fn of(step: Step) -> Self {
        Self { step, known_ms: 0, sum: 0, max: 0, given: Duration::ZERO }
    }
}

/// Makes steps of levels.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    policy: Policy,
    shadow: Shadow,
    /// Moment that the shadow calls zero.
    origin: WallTime,
    part: Option<Part>,
    /// The last moment.
    at: Option<WallTime>,
    /// The level in force.
    level: Option<Utilization>,
    /// First and last moment of a line that is not believed yet.
    other: Option<(WallTime, WallTime)>,
    free: u16,
}

impl Gather {
    pub(super) fn new(policy: Policy) -> Result<Self, BadPolicy> {
        Ok(Self {
            shadow: Shadow::new(policy.clone())?,
            policy,
            origin: WallTime::default(),
            part: None,
            at: None,
            level: None,
            other: None,
            free: 0,
        })
    }

    pub(super) fn set_policy(&mut self, policy: &Policy) -> Result<(), BadPolicy> {
        self.shadow.set_policy(policy)?;
        self.policy = policy.clone();
        Ok(())
    }

    pub(super) fn on_load(&mut self, at: WallTime, level: Utilization) -> Heard {
        self.on_change(at, Some(level))
    }

    pub(super) fn on_silence(&mut self, at: WallTime) -> Heard {
        self.on_change(at, None)
    }

    fn on_change(&mut self, at: WallTime, level: Option<Utilization>) -> Heard {
        let mut heard = Heard::default();
        let Some(at) = self.in_line(at, &mut heard) else { return heard };
        self.hold_until(at, &mut heard);
        let step = Step::containing(at);
        if self.part.is_none_or(|part| part.step != step) {
            self.part = Some(Part::of(step));
        }
        let moment = self.moment(at);
        match level {
            Some(level) => {
                self.shadow.on_level(moment, level);
                if let Some(part) = &mut self.part {
                    part.max = part.max.max(level.permille());
                }
            }
            None => self.shadow.on_silence(moment),
        }
        self.level = level;
        self.at = Some(at);
        heard
    }

    /// The moment as it counts; `None` for one that is out of line.
    fn in_line(&mut self, at: WallTime, heard: &mut Heard) -> Option<WallTime> {
        if !is_likely(at) {
            return None;
        }
        let Some(last) = self.at else {
            self.restart(at, heard);
            return Some(at);
        };
        let ahead = at.as_millis().saturating_sub(last.as_millis());
        if (-DISORDER_MS..=GAP_MAX_MS).contains(&ahead) {
            self.other = None;
            return Some(at.max(last));
        }
        let other = match self.other {
            Some((first, latest)) if (0..=LINE_GAP_MS).contains(&at.as_millis().saturating_sub(latest.as_millis())) => {
                (first, at)
            }
            Some(_) | None => (at, at),
        };
        self.other = Some(other);
        if other.1.as_millis().saturating_sub(other.0.as_millis()) < LINE_MS {
            return None;
        }
        self.restart(at, heard);
        Some(at)
    }

    fn restart(&mut self, at: WallTime, heard: &mut Heard) {
        // The policy was checked when it came.
        if let Ok(shadow) = Shadow::new(self.policy.clone()) {
            self.shadow = shadow;
        }
        (self.origin, self.part, self.at, self.level, self.other) = (at, None, None, None, None);
        heard.restarted = true;
    }

    fn moment(&self, at: WallTime) -> Instant {
        Instant::default().after(at.since(self.origin))
    }

    /// Counts the level in force up to a moment, and closes the steps that end before it.
    fn hold_until(&mut self, at: WallTime, heard: &mut Heard) {
        let (Some(mut from), Some(mut part)) = (self.at, self.part) else { return };
        let known_until = if self.level.is_some() { from.after(HOLD).min(at) } else { from };
        for closed in &mut heard.closed {
            let end = part.step.later(1).begin();
            self.count(&mut part, from, known_until.min(end));
            if end > at {
                let until = self.moment(at);
                part.given += self.shadow.run_until(until);
                break;
            }
            part.given += self.shadow.run_until(self.moment(end));
            *closed = self.close(&part);
            // Longer than a level holds, nothing is known: those steps are left out.
            let next = if end < known_until { part.step.later(1) } else { Step::containing(at) };
            from = end.max(from);
            part = Part::of(next);
            if end >= known_until {
                self.shadow.run_until(self.moment(next.begin()));
                let until = self.moment(at);
                part.given += self.shadow.run_until(until);
                break;
            }
        }
        self.part = Some(part);
    }

    fn count(&self, part: &mut Part, from: WallTime, until: WallTime) {
        let span = until.as_millis().saturating_sub(from.as_millis());
        if let Some(level) = self.level.filter(|_| span > 0) {
            part.known_ms += span;
            part.sum += i64::from(level.permille()) * span;
            part.max = part.max.max(level.permille());
        }
    }

    fn close(&mut self, part: &Part) -> Option<Closed> {
        if part.known_ms < i64::try_from(KNOWN_MIN.as_millis()).unwrap_or(STEP_MS) {
            return None;
        }
        self.free = self.shadow.share(part.given, STEP);
        let mean = whole(real(part.sum) / real(part.known_ms));
        let entry = Entry { mean, max: part.max.max(mean), free: self.free, measured: true };
        Some(Closed { step: part.step, entry })
    }

    /// The step that goes on, and what its mean will be if the level stays.
    pub(super) fn present(&self) -> Option<(Step, f64)> {
        let (at, level, part) = (self.at?, self.level?, self.part?);
        let left = part.step.later(1).begin().as_millis().saturating_sub(at.as_millis()).max(0);
        let known = part.known_ms + left;
        let sum = part.sum + i64::from(level.permille()) * left;
        Some((part.step, if known > 0 { real(sum) / real(known) } else { f64::from(level.permille()) }))
    }

    /// The same with the free share of the last step that ended.
    pub(super) fn present_free(&self) -> Option<Present> {
        let (step, level) = self.present()?;
        Some(Present { step, level, free: f64::from(self.free) / 1000.0 })
    }
}
