//! What would the radio do? Replay of a recording.
//!
//! Two forms, read whole and checked when opened:
//! * CSV with the header `seconds,percent` or `seconds,percent,cell`: seconds are decimal and never go down, percent is
//!   0 to 100 and may have decimals (rounded up), and counts as `RRU.PrbTotDl`.
//! * NDJSON: lines of the push format, each with `t_s`, seconds that never go down. What [`super::recorder`] writes.
//!
//! The first line plays at once, the others at their distance from it. Without `repeat` the replay falls silent at its
//! end, so the load goes stale. A gap in the recording that is longer than the source's freshness is stale as well.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::push;
use super::{Metric, Observation, Observed, Problem, READ_MAX, Reading, Source};
use crate::fault::plain;
use crate::units::{CellId, Instant, SourceId, Utilization};

/// Largest recording, in bytes.
pub const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most lines of a recording: two months of 30-second samples, at 80 bytes each in memory.
pub const LINES_MAX: usize = 200_000;
/// Slowest replay.
pub const SPEED_MIN: f64 = 0.001;
/// Fastest replay.
pub const SPEED_MAX: f64 = 100_000.0;
/// Latest time in a recording: seconds since 1970 fit as well.
const SECONDS_MAX: f64 = 1e10;
/// Longest reason that is repeated from the reader of JSON, in bytes.
const WHY_BYTES_MAX: usize = 200;
/// Shortest turn of a repeated recording.
const TURN_MIN: Duration = Duration::from_millis(100);

/// Replays a recording.
#[derive(Debug)]
pub struct Trace {
    steps: Vec<Step>,
    /// Length of a turn, when it is repeated.
    turn: Option<Duration>,
    /// When the present turn began.
    began: Instant,
    next: usize,
}

/// One reading of a recording.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    /// Since the beginning of the turn.
    offset: Duration,
    reading: Reading,
}

/// Checks the speed.
pub(super) fn check_speed(speed: f64) -> Result<(), Problem> {
    if (SPEED_MIN..=SPEED_MAX).contains(&speed) {
        return Ok(());
    }
    Err(Problem::setting("speed", speed, "0.001 to 100000 recorded seconds a second"))
}

impl Trace {
    /// Reads the recording; its first line plays at `now`.
    pub fn open(id: SourceId, file: &Path, speed: f64, repeat: bool, now: Instant) -> Result<Self, Problem> {
        check_speed(speed)?;
        let text = read(file)?;
        let records = parse(id, &text).map_err(|bad| match bad {
            Bad::Line(line, why) => Problem::Line { file: file.to_owned(), line, why },
            Bad::Whole(why) => Problem::Recording { file: file.to_owned(), why },
        })?;
        let first_s = records.first().map_or(0.0, |record| record.at_s);
        let step = |record: &Record| {
            let offset = Duration::from_secs_f64((record.at_s - first_s) / speed);
            Step { offset, reading: record.reading }
        };
        let steps: Vec<Step> = records.iter().map(step).collect();
        let turn = repeat.then(|| turn(&steps));
        Ok(Self { steps, turn, began: now, next: 0 })
    }

    /// When the next step plays.
    fn due(&self) -> Option<Instant> {
        self.steps.get(self.next).map(|step| self.began.after(step.offset))
    }
}

impl Source for Trace {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn next_poll(&self) -> Option<Instant> {
        self.due()
    }

    fn read(&mut self, now: Instant, sink: &mut dyn FnMut(Observation)) {
        for _ in 0..READ_MAX {
            let Some(due) = self.due().filter(|due| *due <= now) else { return };
            sink(Ok(Reading { stamped: Some(due), ..self.steps[self.next].reading }));
            self.next += 1;
            if let Some(turn) = self.turn.filter(|_| self.next == self.steps.len()) {
                self.began = self.began.after(turn);
                self.next = 0;
            }
        }
    }
}

/// The last line lasts as long as the one before it did.
fn turn(steps: &[Step]) -> Duration {
    let last = steps.last().map_or(Duration::ZERO, |step| step.offset);
    let before = steps.iter().rev().map(|step| step.offset).find(|offset| *offset < last);
    (last + before.map_or(TURN_MIN, |before| last - before)).max(TURN_MIN)
}

fn read(file: &Path) -> Result<String, Problem> {
    let failed = |error| Problem::io("read the recording", file, error, "give the path of a CSV or NDJSON file");
    let mut text = String::new();
    File::open(file).map_err(failed)?.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > BYTES_MAX {
        let why = "is larger than 16 MiB: cut it into parts, or sample it more coarsely".to_owned();
        return Err(Problem::Recording { file: file.to_owned(), why });
    }
    Ok(text)
}

struct Record {
    at_s: f64,
    reading: Reading,
}

#[derive(Debug)]
enum Bad {
    /// Line from 1, and why.
    Line(usize, String),
    Whole(String),
}

fn parse(source: SourceId, text: &str) -> Result<Vec<Record>, Bad> {
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty())
        .peekable();
    let Some((first, header)) = lines.peek().copied() else {
        return Err(Bad::Whole("is empty: a recording has at least one line with a load".to_owned()));
    };
    let with_cell = match header {
        _ if header.starts_with('{') => None,
        "seconds,percent" => Some(false),
        "seconds,percent,cell" => Some(true),
        _ => {
            let why = format!(
                "{:?} is neither the header \"seconds,percent\" or \"seconds,percent,cell\" of a CSV recording \
                 nor a line of JSON",
                start_of(header)
            );
            return Err(Bad::Line(first, why));
        }
    };
    if with_cell.is_some() {
        lines.next();
    }
    let mut records: Vec<Record> = Vec::new();
    for (number, line) in lines {
        let record = match with_cell {
            Some(with_cell) => csv(source, line, with_cell).map(|record| vec![record]),
            None => ndjson(source, line),
        };
        let record = record.map_err(|why| Bad::Line(number, why))?;
        let Some(at_s) = record.first().map(|record| record.at_s) else { continue };
        if records.last().is_some_and(|last| at_s < last.at_s) {
            return Err(Bad::Line(number, format!("{at_s} s is before the line above: times must not go down")));
        }
        if records.len() + record.len() > LINES_MAX {
            return Err(Bad::Line(number, "more than 200000 readings: cut the recording into parts".to_owned()));
        }
        records.extend(record);
    }
    if records.is_empty() {
        return Err(Bad::Whole("has a header and no lines: nothing to play".to_owned()));
    }
    Ok(records)
}

fn csv(source: SourceId, line: &str, with_cell: bool) -> Result<Record, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let (at, percent, cell) = match (fields.as_slice(), with_cell) {
        ([at, percent], false) => (at, percent, "0"),
        ([at, percent, cell], true) => (at, percent, *cell),
        _ => return Err(format!("{} fields where the header has {}", fields.len(), 2 + usize::from(with_cell))),
    };
    let at_s = at.parse().map_err(|_| format!("seconds {:?} is not a number", start_of(at))).and_then(check_seconds)?;
    let percent_value: f64 = percent.parse().map_err(|_| format!("percent {:?} is not a number", start_of(percent)))?;
    let level = level(percent_value).ok_or_else(|| format!("percent {} is not 0 to 100", start_of(percent)))?;
    let cell = cell.parse().map(CellId).map_err(|_| format!("cell {:?} is not a whole number", start_of(cell)))?;
    let observed = Observed::Level { metric: Metric::PrbTotDl, level, late: None };
    Ok(Record { at_s, reading: Reading { source, cell, stamped: None, observed } })
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

fn ndjson(source: SourceId, line: &str) -> Result<Vec<Record>, String> {
    #[derive(Deserialize)]
    struct Timed {
        t_s: f64,
    }
    let timed: Timed = serde_json::from_str(line).map_err(|error| {
        // It repeats what stands there, however long that is.
        format!("no time \"t_s\" in seconds: {}", plain(&error.to_string(), WHY_BYTES_MAX))
    })?;
    let at_s = check_seconds(timed.t_s)?;
    let line = push::parse(line.as_bytes())?;
    Ok(line.readings(source).map(|reading| Record { at_s, reading }).collect())
}

fn check_seconds(seconds: f64) -> Result<f64, String> {
    if (0.0..=SECONDS_MAX).contains(&seconds) { Ok(seconds) } else { Err(format!("time {seconds} s is not 0 to 1e10")) }
}

/// Enough of a text to find it again.
fn start_of(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
