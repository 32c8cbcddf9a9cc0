//! What time is it really? Judges the machine's wall clock by a steady one, and doubts it when the two disagree.
//!
//! Deadlines, `not_before` and retention are moments of the wall clock, and that clock lies: it begins in 1970 on a
//! board without a battery, is set by hand, or follows a time service that is wrong. So nothing in the agent reads it
//! bare. A [`Judge`] gets every reading together with the steady clock (`CLOCK_BOOTTIME`, which goes on through a
//! suspend), and gives the *effective* time and whether it is in doubt.
//!
//! # Rules
//!
//! 1. **In a run** the effective time is carried on by the steady clock. A reading within [`TOLERANCE`] of it is the
//!    effective time: a slew is followed, at up to a tenth of the clock's rate. Any other is a *jump*: the time is in
//!    doubt and goes on by the steady clock.
//! 2. **At the start** the time is in doubt when the reading is before the mark (the highest effective time that was
//!    ever stored) or before [`FLOOR`] (no such program existed then), or further after the mark than a node is likely
//!    to have been off ([`OFF_MAX`]; [`UNREMEMBERED_MAX`] after the floor when there is no mark). The effective time
//!    then begins at the later of mark and floor: less than that it cannot be.
//! 3. **Doubt ends** when the reading has gone on steadily, from one moment on, for long enough:
//!
//!    | the reading, compared with the effective time | kernel calls its clock synchronised | or not |
//!    |---|---|---|
//!    | agrees again | 10 s | 10 s |
//!    | up to a day off | 1 min | 10 min |
//!    | after a start: ahead, by no more than a node may have been off | 1 min | 1 min |
//!    | after a start: ahead by up to ten years | 1 min | 10 min |
//!    | in a run: ahead by up to ten years | 1 min | never |
//!    | ahead by more, or behind by more than a day | 10 min | never |
//!    | before [`FLOOR`] | never | never |
//!
//!    What is then adopted is the effective time, and the new mark, even when it is lower: a mark that is itself wrong
//!    (from 2100) does not lock the node for ever, because a synchronised clock ends its rule.
//!    A mark that comes later in the run, because the store could not be opened before, counts as at the start: the time
//!    is judged anew with it. Only the first one counts; after that the run knows better than any store. And it ends no
//!    doubt about a clock that jumped in this run.
//! 4. **While in doubt nothing is due** ([`Judged::due`]): no job expires, no id is forgotten, no `not_before` has
//!    come, no deadline of a submit has passed. Jobs without times run as ever, and those with a deadline too. When
//!    doubt ends, everything due happens.

use std::time::Duration;

use crate::units::{Instant, WallTime};

/// How far a reading may be from the steady clock and still be believed.
pub(super) const TOLERANCE: Duration = Duration::from_secs(2);
/// No reading before 2026-01-01 is right: this program did not exist.
pub(super) const FLOOR: WallTime = WallTime::from_millis(1_767_225_600_000);
/// The reference is renewed this often; with [`TOLERANCE`] this limits the rate that is followed to a tenth.
const RENEW: Duration = Duration::from_secs(20);

/// How long a reading must have gone on steadily: one that agrees again, one with good reasons, one without.
const AGREES: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(60);
const LATE: Duration = Duration::from_secs(600);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// A node that was off is rarely off for longer.
const OFF_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Furthest after the floor that is believed at the very first start.
const UNREMEMBERED_MAX: Duration = YEAR.saturating_mul(30);
/// Further ahead of what is known than this, only a synchronised clock is believed, and late.
const FAR: Duration = YEAR.saturating_mul(10);

/// One look at the clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// The steady clock.
    pub steady: Instant,
    /// The machine's wall clock.
    pub raw: WallTime,
    /// Whether the kernel calls its wall clock synchronised.
    pub synchronised: bool,
}

/// The time that the agent goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    /// The effective wall time.
    pub wall: WallTime,
    /// Whether it is beyond doubt.
    pub sure: bool,
}

impl Judged {
    /// The moment up to which things are due: none while the time is in doubt.
    pub(super) const fn due(self) -> WallTime {
        if self.sure { self.wall } else { WallTime::from_millis(i64::MIN) }
    }
}

/// What changed with a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The time is in doubt now, or for another reason: [`Judge::why`] tells.
    Doubt,
    /// The machine's clock agrees again.
    Agrees,
    /// What the machine's clock says was adopted.
    Adopted {
        /// The effective time until then.
        from: WallTime,
        /// And from then on.
        to: WallTime,
    },
}

/// Judges one machine's clock.
#[derive(Debug)]
pub(super) struct Judge {
    /// A moment at which the effective time was right as far as is known: it is carried on from there.
    reference: Line,
    wall: WallTime,
    doubt: Option<Doubt>,
    /// Whether a mark is in it.
    recalled: bool,
}

/// A clock that goes on steadily from one moment.
#[derive(Clone, Copy, Debug)]
struct Line {
    at: Instant,
    wall: WallTime,
}

impl Line {
    fn on(self, steady: Instant) -> WallTime {
        self.wall.after(steady.since(self.at))
    }
}

#[derive(Debug)]
struct Doubt {
    /// What the machine's clock has said since it last jumped.
    candidate: Line,
    origin: Origin,
    /// The sentence, and the candidate that it was made for.
    why: String,
    why_of: Instant,
}

/// How the effective time was known when doubt began.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// It was right, and the steady clock carries it on.
    Run,
    /// It is the least that it can be, and may be that much later without surprise.
    Start { off_max: Duration, remembered: bool },
}

impl Judge {
    /// Judges the first reading of a run. `mark` is the highest effective time that was ever stored.
    pub(super) fn new(first: Reading, mark: Option<WallTime>) -> Self {
        let Reading { steady, raw, .. } = first;
        let least = mark.map_or(FLOOR, |mark| mark.max(FLOOR));
        let off_max = if mark.is_some() { OFF_MAX } else { UNREMEMBERED_MAX };
        let line = |wall| Line { at: steady, wall };
        if raw.after(TOLERANCE) >= least && raw <= least.after(off_max) {
            return Self { reference: line(raw), wall: raw, doubt: None, recalled: mark.is_some() };
        }
        let mut judge = Self { reference: line(least), wall: least, doubt: None, recalled: mark.is_some() };
        judge.begin(first, Origin::Start { off_max, remembered: mark.is_some() });
        judge
    }

    /// The mark of a store that was opened at this reading, after the first one. Tells what that changes.
    pub(super) fn recall(&mut self, reading: Reading, mark: WallTime) -> Option<News> {
        if self.recalled {
            return None;
        }
        let Reading { steady, raw, .. } = reading;
        let from = self.reference.on(steady);
        let was_in_doubt = match &self.doubt {
            Some(Doubt { origin: Origin::Run, .. }) => {
                self.recalled = true;
                if from >= mark {
                    return None;
                }
                self.reference = Line { at: steady, wall: mark };
                self.wall = mark;
                self.begin(reading, Origin::Run);
                return Some(News::Doubt);
            }
            Some(Doubt { origin: Origin::Start { .. }, .. }) => true,
            None => false,
        };
        *self = Self::new(reading, Some(mark));
        match (was_in_doubt, &self.doubt) {
            (_, Some(_)) => Some(News::Doubt),
            (true, None) if gap(raw, from).0 <= TOLERANCE => Some(News::Agrees),
            (true, None) => Some(News::Adopted { from, to: raw }),
            (false, None) => None,
        }
    }

    /// The time as of the last reading.
    pub(super) fn judged(&self) -> Judged {
        Judged { wall: self.wall, sure: self.doubt.is_none() }
    }

    /// Why the time is in doubt, and what ends that, in one sentence.
    pub(super) fn why(&self) -> Option<&str> {
        self.doubt.as_ref().map(|doubt| doubt.why.as_str())
    }

    /// Takes a reading. To be called at least once a second: between two calls nothing of the clock is known.
    pub(super) fn observe(&mut self, reading: Reading) -> Option<News> {
        let Reading { steady, raw, synchronised } = reading;
        let expected = self.reference.on(steady);
        let Some(doubt) = &mut self.doubt else {
            if gap(raw, expected).0 > TOLERANCE {
                self.wall = expected;
                self.begin(reading, Origin::Run);
                return Some(News::Doubt);
            }
            self.wall = raw;
            if steady.since(self.reference.at) >= RENEW {
                self.reference = Line { at: steady, wall: raw };
            }
            return None;
        };
        self.wall = expected;
        if gap(raw, doubt.candidate.on(steady)).0 > TOLERANCE {
            doubt.candidate = Line { at: steady, wall: raw };
            return None;
        }
        let steady_for = steady.since(doubt.candidate.at);
        if patience(doubt.origin, raw, expected, synchronised).is_some_and(|wait| steady_for >= wait) {
            self.doubt = None;
            self.reference = Line { at: steady, wall: raw };
            self.wall = raw;
            let agrees = gap(raw, expected).0 <= TOLERANCE;
            return Some(if agrees { News::Agrees } else { News::Adopted { from: expected, to: raw } });
        }
        // A clock that jumps all the time is told of once: the sentence follows when it has been steady for a while.
        if doubt.why_of != doubt.candidate.at && steady_for >= AGREES {
            doubt.why_of = doubt.candidate.at;
            doubt.why = sentence(doubt.origin, raw, expected);
            return Some(News::Doubt);
        }
        None
    }

    fn begin(&mut self, reading: Reading, origin: Origin) {
        let Reading { steady, raw, .. } = reading;
        let why = sentence(origin, raw, self.wall);
        self.doubt = Some(Doubt { candidate: Line { at: steady, wall: raw }, origin, why, why_of: steady });
    }
}

/// How far `raw` is from `expected`, and whether it is ahead.
fn gap(raw: WallTime, expected: WallTime) -> (Duration, bool) {
    if raw >= expected { (raw.since(expected), true) } else { (expected.since(raw), false) }
}

/// How long a reading must have gone on steadily to be adopted; `None`: for ever. The table of the module.
fn patience(origin: Origin, raw: WallTime, expected: WallTime, synchronised: bool) -> Option<Duration> {
    let (off, ahead) = gap(raw, expected);
    if off <= TOLERANCE {
        return Some(AGREES);
    }
    if raw < FLOOR {
        return None;
    }
    if synchronised {
        let likely = off <= DAY || (ahead && off <= FAR);
        return Some(if likely { SOON } else { LATE });
    }
    match origin {
        Origin::Start { off_max, .. } if ahead && off <= off_max => Some(SOON),
        Origin::Start { .. } if ahead && off <= FAR => Some(LATE),
        Origin::Start { .. } | Origin::Run => (off <= DAY).then_some(LATE),
    }
}

/// What is wrong, what is done meanwhile, and what helps.
fn sentence(origin: Origin, raw: WallTime, expected: WallTime) -> String {
    let (off, ahead) = gap(raw, expected);
    let span = span(off);
    let what = match origin {
        Origin::Run if off <= TOLERANCE => format!("the wall clock jumped and is back at {raw}"),
        Origin::Run => {
            let way = if ahead { "forward" } else { "back" };
            format!("the wall clock jumped {way} by {span} to {raw}; this run goes on from {expected}")
        }
        Origin::Start { .. } if raw < FLOOR => {
            format!("the wall clock says {raw}, before this program existed; at the least it is {expected}")
        }
        Origin::Start { remembered: true, .. } => {
            let side = if ahead { "after" } else { "before" };
            format!("the wall clock says {raw}, {span} {side} {expected}, the last time that this node knows")
        }
        Origin::Start { remembered: false, .. } => {
            format!("the wall clock says {raw}, {span} after {expected}, when this program was young")
        }
    };
    let minutes = |wait: Duration| match wait.as_secs() {
        seconds @ 0..=59 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    };
    let with = patience(origin, raw, expected, true).map(minutes);
    let without = patience(origin, raw, expected, false).map(minutes);
    let end = match (with, without) {
        (Some(with), Some(without)) if with == without => format!("it is believed when it stays so for {with}"),
        (Some(with), Some(without)) => {
            format!("it is believed when it stays so for {with} synchronised, or for {without}")
        }
        (Some(with), None) => {
            format!("it is believed when it stays so for {with} synchronised: start a time service, or set it right")
        }
        (None, _) => "it is never believed: start a time service, or set it right".to_owned(),
    };
    format!("{what}; deadlines and not_before wait; {end}")
}

/// A span for people: seconds, or the largest unit of which there are at least two.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(YEAR.as_secs(), "years"), (DAY.as_secs(), "days"), (3600, "h"), (60, "min")];
    let found = units.into_iter().find(|(unit, _)| seconds >= 2 * unit);
    found.map_or_else(|| format!("{seconds} s"), |(unit, name)| format!("{} {name}", seconds / unit))
}

#[cfg(test)]
mod tests;
