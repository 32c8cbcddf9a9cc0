//! What did the base station itself count in the past hours? 3GPP performance measurement files, for planning. Pure.
//!
//! Two forms: the XML of TS 32.435 (`measCollecFile`; TS 28.532 names its root `measDataFile`), and the JSON of a
//! TS 28.532 performance event (`event.perf3gppFields.measDataCollection`), alone or in an array. Of the measurements of
//! TS 28.552 these are read, for each measured object:
//!
//! | measurement | meaning |
//! |---|---|
//! | `RRU.PrbTotDl`, `RRU.PrbTotUl` | percent of PRBs used; the higher direction counts |
//! | `RRU.PrbUsedDl` with `RRU.PrbAvailDl`, the same for `Ul` | PRBs used and there were; when there is no percentage |
//!
//! What is marked suspect, makes no sense, or has no time is left out and counted. A file that is no PM file, or goes
//! beyond a limit, is refused as a whole. DTDs are refused, so no entity but XML's own five means anything.

mod figures;
mod json;
mod xml;

use std::io::{self, BufRead, Read as _};
use std::time::Duration;

use crate::fault::plain;
use crate::units::{Utilization, WallTime};
use figures::Figures;

/// Largest XML file, in bytes.
pub const XML_BYTES_MAX: u64 = 64 << 20;
/// Largest JSON file, in bytes: all of it is held in memory while it is read.
pub const JSON_BYTES_MAX: u64 = 4 << 20;
/// Most levels of one file.
pub const LEVELS_MAX: usize = 100_000;
/// Longest name of a measured object that is kept, in bytes.
pub const OBJECT_BYTES_MAX: usize = 400;
/// Longest reason of a refusal, in bytes.
const REASON_BYTES_MAX: usize = 400;
/// Most measured objects of one file.
pub const OBJECTS_MAX: usize = 10_000;
/// Shortest and longest time that one level is the mean of.
const SPAN_MIN: Duration = Duration::from_secs(1);
const SPAN_MAX: Duration = Duration::from_secs(86_400);
/// 2000-01-01 and 2100-01-01: what lies outside is no time of a measurement.
const FIRST: WallTime = WallTime::from_millis(946_684_800_000);
const LAST: WallTime = WallTime::from_millis(4_102_444_800_000);

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Names of the measured objects, as `measObjLdn` has them; each once.
    pub objects: Vec<String>,
    /// In the order of the file.
    pub levels: Vec<Level>,
    /// What was left out.
    pub left_out: LeftOut,
}

/// Mean PRB usage of one object over one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Its place in [`Counted::objects`].
    pub object: usize,
    /// Begin of the time.
    pub from: WallTime,
    /// How long it was: the granularity period.
    pub span: Duration,
    /// How high.
    pub level: Utilization,
}

/// How many values were left out, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Marked suspect by whoever counted.
    pub suspect: u64,
    /// No number, negative, above 100 percent, or more PRBs used than there were.
    pub absurd: u64,
    /// Without a granularity period or its end, or with one that cannot be.
    pub untimed: u64,
}

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no PM file, or beyond a limit.
    #[error("{0}")]
    Form(String),
}

/// Reads a file of either form. One of which nothing counts is good as well: it may hold other measurements.
///
/// # Errors
/// What cannot be read, is neither form, or goes beyond a limit.
pub fn parse(mut input: impl BufRead) -> Result<Counted, BadFile> {
    match first_sign(&mut input)? {
        Some(b'<') => xml::parse(input),
        Some(b'{' | b'[') => {
            let mut text = Vec::new();
            input.take(JSON_BYTES_MAX + 1).read_to_end(&mut text)?;
            if text.len() as u64 > JSON_BYTES_MAX {
                return Err(form(format!(
                    "more than {JSON_BYTES_MAX} bytes of JSON: split the file, or use the XML form"
                )));
            }
            json::parse(&text)
        }
        Some(_) | None => Err(form("neither XML (TS 32.435) nor JSON (TS 28.532): it begins with neither < nor {")),
    }
}

/// The first byte that is no white space and no byte order mark; it is not taken.
fn first_sign(input: &mut impl BufRead) -> io::Result<Option<u8>> {
    for _ in 0..4096 {
        let Some(byte) = input.fill_buf()?.first().copied() else { return Ok(None) };
        if !byte.is_ascii_whitespace() && !matches!(byte, 0xef | 0xbb | 0xbf) {
            return Ok(Some(byte));
        }
        input.consume(1);
    }
    Ok(None)
}

fn form(why: impl AsRef<str>) -> BadFile {
    BadFile::Form(plain(why.as_ref(), REASON_BYTES_MAX))
}

impl Counted {
    /// The highest level of any object for each time, ascending: what a node that serves them all has to expect.
    /// Objects whose name does not hold `object` are left aside.
    pub fn highest(&self, object: Option<&str>) -> Vec<(WallTime, Duration, Utilization)> {
        let mut highest = std::collections::BTreeMap::new();
        for level in &self.levels {
            let name = self.objects.get(level.object).map_or("", String::as_str);
            if object.is_none_or(|object| name.contains(object)) {
                let known = highest.entry((level.from, level.span)).or_insert(level.level);
                *known = (*known).max(level.level);
            }
        }
        highest.into_iter().map(|((from, span), level)| (from, span, level)).collect()
    }

    /// Takes in what was counted of one object in one time.
    fn take(
        &mut self,
        object: &str,
        time: Option<(WallTime, Duration)>,
        suspect: bool,
        figures: &Figures,
    ) -> Result<(), BadFile> {
        if figures.is_empty() {
            return Ok(());
        }
        if suspect {
            self.left_out.suspect += 1;
            return Ok(());
        }
        let Some((from, span)) = time else {
            self.left_out.untimed += 1;
            return Ok(());
        };
        let Some(level) = figures.level() else {
            self.left_out.absurd += 1;
            return Ok(());
        };
        if self.levels.len() == LEVELS_MAX {
            return Err(form(format!("more than {LEVELS_MAX} levels: split the file by time or by object")));
        }
        let object = self.object(object)?;
        self.levels.push(Level { object, from, span, level });
        Ok(())
    }

    /// Its place. Files list the same objects in the same order, so it is mostly near the last one.
    fn object(&mut self, name: &str) -> Result<usize, BadFile> {
        let name = plain(name, OBJECT_BYTES_MAX);
        let after = self.levels.last().map_or(0, |level| level.object + 1);
        if self.objects.get(after) == Some(&name) {
            return Ok(after);
        }
        if let Some(place) = self.objects.iter().position(|known| *known == name) {
            return Ok(place);
        }
        if self.objects.len() == OBJECTS_MAX {
            return Err(form(format!("more than {OBJECTS_MAX} measured objects: split the file by object")));
        }
        self.objects.push(name);
        Ok(self.objects.len() - 1)
    }
}

/// The time that ends there, when it can be one.
fn time(end: WallTime, span: Duration) -> Option<(WallTime, Duration)> {
    let millis = i64::try_from(span.as_millis()).ok()?;
    let from = WallTime::from_millis(end.as_millis().checked_sub(millis)?);
    ((SPAN_MIN..=SPAN_MAX).contains(&span) && from >= FIRST && end <= LAST).then_some((from, span))
}

#[cfg(test)]
mod tests;
