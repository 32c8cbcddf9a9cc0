//! How does what was learned survive a restart?
//!
//! Little-endian: `NEAPFC`, version (u16), checksum (CRC-32 of all that follows), the policy that the free shares were
//! worked out for, the scores of all horizons, then the days: number (i64) and [`STEPS_A_DAY`] entries of mean with the
//! mark of a measured one, highest level and free share (u16 each). Forecasts that wait for their time are not kept.
//! Nothing of a snapshot counts that is not whole, and nothing in it can be out of range.

use super::days::{DAYS_MAX, Entry, Row};
use super::numbers::{DAY_FURTHEST, STEPS_A_DAY};
use super::scores::{Horizon, Scores};
use super::{Days, Forecast, Policy};
use crate::units::Utilization;

const MAGIC: &[u8; 6] = b"NEAPFC";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 6 + 2 + 4;
/// Figures of a horizon: five of each of four methods and of what was used, and what is left of a deviation.
const FIGURES: usize = 5 * 5 + 2;
const POLICY_BYTES: usize = 8 * 7;
const ROW_BYTES: usize = 8 + STEPS_A_DAY * 6;
const BODY_BYTES: usize = POLICY_BYTES + 6 * FIGURES * 8;
/// Largest snapshot, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = HEAD_BYTES + BODY_BYTES + DAYS_MAX * ROW_BYTES;
/// No sum of scores is larger: 1000 permille on each step of an endless memory of two days.
const FIGURE_MAX: f64 = 1e7;
/// Set in a mean: measured here.
const MEASURED: u16 = 0x8000;
/// In place of a level: not known.
const MISSING: u16 = 0x7fff;

/// A snapshot that is not one, or not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSnapshot {
    /// Too short, too long, or not a whole number of days.
    #[error("a forecast's state has {bytes} bytes; it must be {least} and a whole number of days, at most {SNAPSHOT_BYTES_MAX}", least = HEAD_BYTES + BODY_BYTES)]
    Length {
        /// How many there are.
        bytes: usize,
    },
    /// Something else.
    #[error("this is not the state of a forecast: it does not begin with NEAPFC")]
    Magic,
    /// From another version of the program.
    #[error("the forecast's state is of version {0}, this program reads {VERSION}; it will learn anew")]
    Version(u16),
    /// Damaged.
    #[error("the forecast's state is damaged: its checksum is wrong; it will learn anew")]
    Checksum,
    /// A figure that cannot be.
    #[error("the forecast's state has a {0} that cannot be; it will learn anew")]
    Figure(&'static str),
}

impl Forecast {
    /// What was learned, to be given to [`Forecast::restore`] in another run.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_BYTES + self.days.count() * ROW_BYTES);
        policy_figures(&self.settings.policy).iter().for_each(|figure| body.extend(figure.to_le_bytes()));
        let mut scores = self.scores.clone();
        for horizon in &mut scores.horizons {
            figures(horizon).iter().for_each(|figure| body.extend(figure.to_le_bytes()));
        }
        for row in self.days.iter() {
            body.extend(row.day.to_le_bytes());
            for time in 0..STEPS_A_DAY {
                let words = row.at(time).map_or([MISSING, 0, 0], |entry| {
                    [entry.mean | if entry.measured { MEASURED } else { 0 }, entry.max, entry.free]
                });
                words.iter().for_each(|word| body.extend(word.to_le_bytes()));
            }
        }
        sealed(&body)
    }

    /// Takes over what another run has learned, in place of all that this one has.
    ///
    /// # Errors
    /// When it is not a whole snapshot of this version; nothing is changed then.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<(), BadSnapshot> {
        let bytes = snapshot.len();
        if !(HEAD_BYTES + BODY_BYTES..=SNAPSHOT_BYTES_MAX).contains(&bytes) {
            return Err(BadSnapshot::Length { bytes });
        }
        let (head, body) = snapshot.split_at(HEAD_BYTES);
        let (magic, head) = head.split_at(MAGIC.len());
        let (version, checksum) = head.split_at(2);
        if magic != MAGIC {
            return Err(BadSnapshot::Magic);
        }
        let version = u16::from_le_bytes([version[0], version[1]]);
        if version != VERSION {
            return Err(BadSnapshot::Version(version));
        }
        if checksum != crc32fast::hash(body).to_le_bytes() {
            return Err(BadSnapshot::Checksum);
        }
        let (fixed, rows) = body.split_at(BODY_BYTES);
        let (policy, figures) = fixed.split_at(POLICY_BYTES);
        if rows.len() % ROW_BYTES != 0 {
            return Err(BadSnapshot::Length { bytes });
        }
        let scores = read_scores(figures)?;
        let mut days = Days::default();
        for row in rows.as_chunks::<ROW_BYTES>().0 {
            days.put_row(read_row(row)?);
        }
        let same = policy_figures(&self.settings.policy)
            .iter()
            .flat_map(|figure| figure.to_le_bytes())
            .eq(policy.iter().copied());
        if !same {
            // The policy of this run was checked when it came.
            days.judge_again(&self.settings.policy).map_err(|_| BadSnapshot::Figure("policy"))?;
        }
        (self.days, self.scores) = (days, scores);
        self.profile.work_out_all(&self.days);
        Ok(())
    }
}

/// A snapshot of this version with that body, whatever it is: the head and a checksum that is right.
pub fn sealed(body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(HEAD_BYTES + body.len());
    whole.extend(MAGIC);
    whole.extend(VERSION.to_le_bytes());
    whole.extend(crc32fast::hash(body).to_le_bytes());
    whole.extend(body);
    whole
}

/// What the free shares depend on.
fn policy_figures(policy: &Policy) -> [u64; 7] {
    let Policy { workers, busy_above, idle_below, settle, settle_max, flap_window, raise_every } = policy;
    let nanos = |span: &std::time::Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    [
        u64::from(*workers),
        u64::from(busy_above.permille()),
        u64::from(idle_below.permille()),
        nanos(settle),
        nanos(settle_max),
        nanos(flap_window),
        nanos(raise_every),
    ]
}

fn figures(horizon: &mut Horizon) -> Vec<f64> {
    horizon_figures(horizon).into_iter().map(|figure| *figure).collect()
}

/// Every figure of a horizon, in the order of the format.
fn horizon_figures(horizon: &mut Horizon) -> Vec<&mut f64> {
    let tallies = horizon.methods.iter_mut().chain([&mut horizon.used]).flat_map(|tally| tally.figures());
    tallies.chain([&mut horizon.product, &mut horizon.square]).collect()
}

fn read_scores(bytes: &[u8]) -> Result<Scores, BadSnapshot> {
    let mut scores = Scores::default();
    let mut words = bytes.as_chunks().0.iter();
    for horizon in &mut scores.horizons {
        for figure in horizon_figures(horizon) {
            *figure = words.next().map_or(0.0, |word| f64::from_le_bytes(*word));
            if !figure.is_finite() || figure.abs() > FIGURE_MAX {
                return Err(BadSnapshot::Figure("score"));
            }
        }
        let negative = horizon
            .methods
            .iter_mut()
            .chain([&mut horizon.used])
            .any(|tally| tally.figures().iter().any(|figure| **figure < 0.0));
        if negative || horizon.square < 0.0 {
            return Err(BadSnapshot::Figure("score"));
        }
        horizon.choose();
    }
    Ok(scores)
}

fn read_row(bytes: &[u8]) -> Result<Row, BadSnapshot> {
    let (day, entries) = bytes.split_at(8);
    let day = day.try_into().map_or(i64::MAX, i64::from_le_bytes);
    if !(-DAY_FURTHEST..=DAY_FURTHEST).contains(&day) {
        return Err(BadSnapshot::Figure("day"));
    }
    let mut row = Row::new(day);
    for (time, words) in entries.as_chunks::<6>().0.iter().enumerate() {
        let word = |at: usize| u16::from_le_bytes([words[at], words[at + 1]]);
        let (mean, max, free) = (word(0) & !MEASURED, word(2), word(4));
        if mean == MISSING {
            continue;
        }
        if mean > max || max > Utilization::FULL.permille() || free > 1000 {
            return Err(BadSnapshot::Figure("level"));
        }
        row.set(time, Entry { mean, max, free, measured: word(0) & MEASURED != 0 });
    }
    Ok(row)
}
