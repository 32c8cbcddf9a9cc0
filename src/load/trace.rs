//! What would the radio do? Replay of a recording.
//!
//! CSV or NDJSON as [`super::recording`] describes them, read whole and checked when opened; NDJSON is what
//! [`super::recorder`] writes.
//!
//! The first line plays at once, the others at their distance from it. Without `repeat` the replay falls silent at its
//! end, so the load goes stale. A gap in the recording that is longer than the source's freshness is stale as well.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use super::recording::Parser;
use super::{Observation, Problem, READ_MAX, Reading, Source};
use crate::units::{Instant, SourceId};

/// Largest recording, in bytes.
pub const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most lines of a recording: two months of 30-second samples, at 80 bytes each in memory.
pub const LINES_MAX: usize = 200_000;
/// Slowest replay.
pub const SPEED_MIN: f64 = 0.001;
/// Fastest replay.
pub const SPEED_MAX: f64 = 100_000.0;
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
    let mut parser = Parser::default();
    let mut records: Vec<Record> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let entry = parser.line(line).map_err(|why| Bad::Line(number, why))?;
        for reading in entry.iter().flat_map(|entry| entry.readings(source)) {
            if records.len() == LINES_MAX {
                return Err(Bad::Line(number, "more than 200000 readings: cut the recording into parts".to_owned()));
            }
            records.push(Record { at_s: entry.map_or(0.0, |entry| entry.at_s), reading });
        }
    }
    parser.end().map_or(Ok(records), |why| Err(Bad::Whole(why.to_owned())))
}

#[cfg(test)]
mod tests;
