//! What does a line of a recording say? The two forms, read and written line by line.
//!
//! * CSV with the header `seconds,percent` or `seconds,percent,cell`: seconds are decimal and never go down, percent is
//!   0 to 100 and may have decimals (rounded up to a tenth), and counts as `RRU.PrbTotDl`.
//! * NDJSON: lines of the push format, each with `t_s`, seconds that never go down. Says all that a source can say.
//!
//! [`Parser`] is pure and the one reader of both forms: [`super::trace`] plays what it understands in real time,
//! [`Reader`] streams it from files that no agent would play, of up to [`FILE_BYTES_MAX`]. [`Writer`] writes both forms
//! and counts what a form cannot say.

mod stream;
#[cfg(test)]
mod tests;
mod write;

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

pub use stream::{FILE_BYTES_MAX, LINE_BYTES_MAX, Reader};
pub use write::{Lost, Writer};
pub(super) use write::{line_of, write_line};

use super::{Metric, Observed, Reading, push};
use crate::fault::plain;
use crate::units::{CellId, SourceId, Utilization};

/// Latest time in a recording: seconds since 1970 fit as well.
const SECONDS_MAX: f64 = 1e10;
/// Longest reason that is repeated from the reader of JSON, in bytes.
const WHY_BYTES_MAX: usize = 200;

/// How a recording is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `seconds,percent,cell`.
    Csv,
    /// Lines of the push format with `t_s`.
    Ndjson,
}

impl Form {
    /// The form of a file of that name; `None` when its ending says nothing.
    pub fn of_path(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?;
        match ending {
            "csv" => Some(Self::Csv),
            "ndjson" | "jsonl" | "json" => Some(Self::Ndjson),
            _ => None,
        }
    }

    /// The form as it is written in arguments.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }
}

/// One line of a recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Seconds since the recording's own beginning of time.
    pub at_s: f64,
    /// What it says.
    pub said: Said,
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Said {
    /// A level, as CSV has it.
    Level {
        /// Which cell.
        cell: CellId,
        /// Rounded up to a permille.
        level: Utilization,
        /// Whether the line was more exact.
        rounded: bool,
    },
    /// A line of the push format.
    Push(push::Line),
}

impl Entry {
    /// Its time, to a microsecond, which is as exact as recordings are written.
    pub fn at(&self) -> Duration {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1e16 by the parser's check")]
        let micros = (self.at_s * 1e6).round() as u64;
        Duration::from_micros(micros)
    }

    /// The readings that the line is, in the order in which a source would hand them over.
    pub fn readings(&self, source: SourceId) -> impl Iterator<Item = Reading> + use<> {
        let (level, line) = match self.said {
            Said::Level { cell, level, .. } => {
                let observed = Observed::Level { metric: Metric::PrbTotDl, level, late: None };
                (Some(Reading { source, cell, stamped: None, observed }), None)
            }
            Said::Push(line) => (None, Some(line)),
        };
        level.into_iter().chain(line.into_iter().flat_map(move |line| line.readings(source)))
    }
}

/// Reads a recording line by line. Pure.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    columns: Option<Columns>,
    latest_s: Option<f64>,
}

/// What the first line said about the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    Json,
    Csv { with_cell: bool },
}

impl Parser {
    /// Takes the next line, with or without its line break. `None` for the header and for empty lines.
    ///
    /// # Errors
    /// Value and rule, when the line makes no sense or its time goes back.
    pub fn line(&mut self, text: &str) -> Result<Option<Entry>, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let columns = match self.columns {
            Some(columns) => columns,
            None => {
                let columns = columns(text)?;
                self.columns = Some(columns);
                if columns != Columns::Json {
                    return Ok(None);
                }
                columns
            }
        };
        let entry = match columns {
            Columns::Json => ndjson(text)?,
            Columns::Csv { with_cell } => csv(text, with_cell)?,
        };
        let at_s = entry.at_s;
        if self.latest_s.is_some_and(|latest| at_s < latest) {
            return Err(format!("{at_s} s is before the line above: times must not go down"));
        }
        self.latest_s = Some(at_s);
        Ok(Some(entry))
    }

    /// What is wrong with a recording that ends here; nothing when it said something.
    pub fn end(&self) -> Option<&'static str> {
        match (self.columns, self.latest_s) {
            (None, _) => Some("is empty: a recording has at least one line with a load"),
            (Some(_), None) => Some("has a header and no lines: nothing to play"),
            (Some(_), Some(_)) => None,
        }
    }
}

fn columns(header: &str) -> Result<Columns, String> {
    match header {
        _ if header.starts_with('{') => Ok(Columns::Json),
        "seconds,percent" => Ok(Columns::Csv { with_cell: false }),
        "seconds,percent,cell" => Ok(Columns::Csv { with_cell: true }),
        _ => Err(format!(
            "{:?} is neither the header \"seconds,percent\" or \"seconds,percent,cell\" of a CSV recording \
             nor a line of JSON",
            start_of(header)
        )),
    }
}

fn csv(line: &str, with_cell: bool) -> Result<Entry, String> {
    let mut fields = line.split(',').map(str::trim);
    let columns = 2 + usize::from(with_cell);
    let wrong = || format!("{} fields where the header has {columns}", line.split(',').count());
    let (Some(at), Some(percent)) = (fields.next(), fields.next()) else { return Err(wrong()) };
    let cell = if with_cell { fields.next().ok_or_else(wrong)? } else { "0" };
    if fields.next().is_some() {
        return Err(wrong());
    }
    let at_s = at.parse().map_err(|_| format!("seconds {:?} is not a number", start_of(at))).and_then(check_seconds)?;
    let percent_value: f64 = percent.parse().map_err(|_| format!("percent {:?} is not a number", start_of(percent)))?;
    let level = level(percent_value).ok_or_else(|| format!("percent {} is not 0 to 100", start_of(percent)))?;
    let cell = cell.parse().map(CellId).map_err(|_| format!("cell {:?} is not a whole number", start_of(cell)))?;
    let rounded = (f64::from(level.permille()) - percent_value * 10.0).abs() > 1e-6;
    Ok(Entry { at_s, said: Said::Level { cell, level, rounded } })
}

/// Rounded up to a permille; `None` outside 0 to 100 and for NaN.
fn level(percent: f64) -> Option<Utilization> {
    if !(0.0..=100.0).contains(&percent) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000 by the check above")]
    let permille = (percent * 10.0 - 1e-6).ceil().max(0.0) as u16;
    Utilization::from_permille(permille)
}

fn ndjson(line: &str) -> Result<Entry, String> {
    #[derive(Deserialize)]
    struct Timed {
        t_s: f64,
    }
    let timed: Timed = serde_json::from_str(line).map_err(|error| {
        // It repeats what stands there, however long that is.
        format!("no time \"t_s\" in seconds: {}", plain(&error.to_string(), WHY_BYTES_MAX))
    })?;
    let at_s = check_seconds(timed.t_s)?;
    Ok(Entry { at_s, said: Said::Push(push::parse(line.as_bytes())?) })
}

fn check_seconds(seconds: f64) -> Result<f64, String> {
    if (0.0..=SECONDS_MAX).contains(&seconds) { Ok(seconds) } else { Err(format!("time {seconds} s is not 0 to 1e10")) }
}

/// Enough of a text to find it again.
fn start_of(text: &str) -> String {
    text.chars().take(40).collect()
}
