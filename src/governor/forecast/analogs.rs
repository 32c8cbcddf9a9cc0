//! How much was free on days like this one? The quantiles of coming spans, from the days remembered.

use super::days::{Days, Row};
use super::numbers::{A_DAY, STEP_MS, Step, real, time_of_day};
use super::profile::Profile;

/// A day is looked at several times, moved by so many steps: what happened at 18:20 could have happened at 18:00.
const SHIFTS: [i64; 7] = [-15, -10, -5, 0, 5, 10, 15];
/// Two presents are alike when what is left of their difference is within this share of the usual spread.
const ALIKE: f64 = 0.5;
/// The same for the free share of the last step, of 1.
const ALIKE_FREE: f64 = 0.4;
/// Days that count as seen without having been: one without anything free and one with everything. With few days the
/// outer quantiles are as far out as so few days allow.
const UNSEEN: [(f64, f64); 2] = [(0.0, 0.25), (1.0, 0.25)];
/// However special the present is, it leaves at least so many days' worth of evidence.
const EVIDENCE_MIN: f64 = 4.0;
/// Of a span so much must be known of a day that counts.
const KNOWN_MIN: f64 = 0.6;

/// What is asked.
pub(super) struct Asked {
    /// First step.
    pub(super) begin: Step,
    /// Length of a span, in milliseconds.
    pub(super) span: i64,
    pub(super) count: usize,
    /// Deviation and free share of now.
    pub(super) present: Option<(Option<f64>, f64)>,
    /// Usual size of a deviation.
    pub(super) spread: Option<f64>,
}

/// A day that went on from a present of its own.
struct Analog {
    /// Its step at the time of the first one asked for.
    begin: Step,
    /// How far its present was from now: deviation in units of the spread, and free share.
    apart: Option<(f64, f64)>,
}

/// Shares (of 1) that are free in each span: 10th, 50th and 90th percentile.
pub(super) fn quantiles(
    days: &Days,
    profile: &Profile,
    asked: &Asked,
    left_of_deviation: impl Fn(i64) -> f64,
) -> Vec<[f64; 3]> {
    let analogs = analogs(days, profile, asked);
    let mut seen = Vec::with_capacity(analogs.len() + UNSEEN.len());
    let span = |index: usize| {
        let edge = |index: usize| i64::try_from(index).unwrap_or(0).saturating_mul(asked.span) / STEP_MS;
        let (first, end) = (edge(index), edge(index + 1));
        let left = left_of_deviation(i64::midpoint(first, end).max(1));
        seen.clear();
        for analog in &analogs {
            if let Some(free) = free(days, analog.begin, first, end) {
                seen.push((free, likeness(analog, left)));
            }
        }
        blend(&mut seen);
        seen.extend(UNSEEN);
        seen.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        [0.1, 0.5, 0.9].map(|share| quantile(&seen, share))
    };
    (0..asked.count).map(span).collect()
}

fn analogs(days: &Days, profile: &Profile, asked: &Asked) -> Vec<Analog> {
    let mut analogs = Vec::with_capacity(days.count() * SHIFTS.len());
    let time = i64::try_from(time_of_day(asked.begin)).unwrap_or(0);
    for Row { day: number, .. } in days.iter() {
        for shift in SHIFTS {
            let begin = Step(number.saturating_mul(A_DAY).saturating_add(time + shift));
            // Only what had begun before now has gone on since.
            if begin >= asked.begin {
                continue;
            }
            let apart = asked.present.and_then(|(deviation, free)| {
                let then = days.get(begin)?;
                let before = profile.deviation(begin, f64::from(then.mean))?;
                let spread = asked.spread.filter(|spread| *spread > 0.05)?;
                let free_then = f64::from(days.get(begin.later(-1))?.free) / 1000.0;
                Some(((before - deviation?) / spread, free_then - free))
            });
            analogs.push(Analog { begin, apart });
        }
    }
    analogs
}

/// Weight of a day by its present, as far as a present says anything about so late a span.
fn likeness(analog: &Analog, left: f64) -> f64 {
    let (deviation, free) = analog.apart.unwrap_or((1.0, 0.5));
    let (deviation, free) = (deviation * left / ALIKE, free * left / ALIKE_FREE);
    (-0.5 * (deviation * deviation + free * free)).exp()
}

/// Mean share that was free between two steps counted from `begin`; `None` when too little of it is known.
fn free(days: &Days, begin: Step, first: i64, end: i64) -> Option<f64> {
    let known = (first..end).filter_map(|step| days.get(begin.later(step)));
    let (count, sum) = known.fold((0_i64, 0_i64), |(count, sum), entry| (count + 1, sum + i64::from(entry.free)));
    let enough = count > 0 && real(count) >= KNOWN_MIN * real(end - first);
    enough.then(|| real(sum) / real(count) / 1000.0)
}

/// Turns weights into days' worth of evidence: as many as they are worth together, and when that is too few, all days
/// count a little.
fn blend(seen: &mut [(f64, f64)]) {
    let sum: f64 = seen.iter().map(|(_, weight)| weight).sum();
    let squares: f64 = seen.iter().map(|(_, weight)| weight * weight).sum();
    let shifts = SHIFTS.map(|_| 1.0_f64).iter().sum::<f64>();
    let all = real(i64::try_from(seen.len()).unwrap_or(0)) / shifts;
    let worth = if squares > 0.0 { sum * sum / squares / shifts } else { 0.0 };
    let lacking = (EVIDENCE_MIN.min(all) - worth).max(0.0);
    let each = lacking / (all * shifts).max(1.0);
    for (_, weight) in seen {
        *weight = each + if sum > 0.0 { *weight / sum * worth } else { 0.0 };
    }
}

/// The value below which so large a share of the weight lies; values ascend.
fn quantile(seen: &[(f64, f64)], share: f64) -> f64 {
    let all: f64 = seen.iter().map(|(_, weight)| weight).sum();
    let mut below = 0.0;
    for (value, weight) in seen {
        below += weight;
        if below >= share * all {
            return *value;
        }
    }
    0.0
}
