//! What does one line of the push format say? Pure.
//!
//! One flat JSON object a line. Unknown keys are skipped, known keys are strict:
//!
//! | key | value | meaning |
//! |---|---|---|
//! | `cell` | integer | PCI or NCGI; 0 when left out |
//! | `RRU.PrbTotDl`, `RRU.PrbTotUl` | integer 0 to 100 | percent of PRBs used (3GPP TS 28.552); the higher one counts |
//! | `cpu` | integer 0 to 100 | percent of the RAN's CPU, where there is no PRB figure |
//! | `late` | integer | running count of late or missed slots |
//! | `enqueue_us`, `slot_us`, `run_queue_us`, `pressure_permille` | integer | how the RAN fares: [`Health`] |
//! | `mono_ns` | integer | when it was measured, `CLOCK_MONOTONIC` of this host |
//! | `gone` | boolean | the cell was taken out of service |
//!
//! At least one level, `late`, `gone` or figure of health. Whole numbers may be written `6` or `6.0`; `6.5`, `6e0` and `"6"` may not.

use std::fmt::Write as _;

use super::json::{self, Value};
use crate::load::{Metric, Observed, Reading};
use crate::units::{CellId, Health, Instant, SourceId, Utilization};

/// One line of the push format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Which cell.
    pub cell: CellId,
    /// Downlink PRBs in percent, at most 100.
    pub dl: Option<u8>,
    /// Uplink PRBs in percent, at most 100.
    pub ul: Option<u8>,
    /// CPU of the RAN in percent, at most 100.
    pub cpu: Option<u8>,
    /// Running count of late or missed slots.
    pub late: Option<u64>,
    /// How the RAN fares, by the position of the figure in [`Health::ALL`].
    pub health: [Option<u32>; Health::ALL.len()],
    /// When it was measured.
    pub stamped: Option<Instant>,
    /// Whether the cell was taken out of service.
    pub gone: bool,
}

/// Reads one line. The error says what is wrong with it, without its content: it goes to the log.
pub fn parse(line: &[u8]) -> Result<Line, &'static str> {
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
    let mut parsed = Line::default();
    let (mut cell, mut gone) = (None, None);
    json::each_member(text, |key, value| match key {
        "cell" => set(&mut cell, whole(value)?),
        "RRU.PrbTotDl" => set(&mut parsed.dl, percent(value)?),
        "RRU.PrbTotUl" => set(&mut parsed.ul, percent(value)?),
        "cpu" => set(&mut parsed.cpu, percent(value)?),
        "late" => set(&mut parsed.late, whole(value)?),
        "mono_ns" => set(&mut parsed.stamped, Instant::from_nanos(whole(value)?)),
        "gone" => set(&mut gone, boolean(value)?),
        other => match Health::ALL.iter().position(|figure| figure.as_str() == other) {
            Some(place) => set(&mut parsed.health[place], figure(value)?),
            None => Ok(()),
        },
    })?;
    parsed.cell = CellId(cell.unwrap_or(0));
    parsed.gone = gone.unwrap_or(false);
    let says_load = parsed.level().is_some() || parsed.late.is_some();
    let says_health = parsed.health.iter().any(Option::is_some);
    match (parsed.gone, says_load) {
        (true, true) => Err("gone together with a load"),
        (false, false) if !says_health => Err("neither RRU.PrbTotDl nor RRU.PrbTotUl nor cpu nor late nor gone"),
        (true | false, false) | (false, true) => Ok(parsed),
    }
}

/// A key that occurs twice is contradictory: the higher value may be either.
fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), &'static str> {
    if slot.replace(value).is_some() { Err("a key that occurs twice") } else { Ok(()) }
}

fn percent(value: Value<'_>) -> Result<u8, &'static str> {
    match u8::try_from(whole(value)?) {
        Ok(percent) if percent <= 100 => Ok(percent),
        Ok(_) | Err(_) => Err("a percentage above 100"),
    }
}

fn whole(value: Value<'_>) -> Result<u64, &'static str> {
    let Value::Number(text) = value else { return Err("a value that is not a number") };
    if text.starts_with('-') {
        return Err("a negative number");
    }
    let whole = match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
        Some(_) => return Err("a number that is not whole"),
        None => text,
    };
    if whole.bytes().any(|byte| !byte.is_ascii_digit()) {
        return Err("a number with an exponent");
    }
    whole.parse().map_err(|_| "a number above 64 bits")
}

fn figure(value: Value<'_>) -> Result<u32, &'static str> {
    u32::try_from(whole(value)?).map_err(|_| "a figure of health above 32 bits")
}

fn boolean(value: Value<'_>) -> Result<bool, &'static str> {
    match value {
        Value::Bool(value) => Ok(value),
        Value::Number(_) | Value::Other => Err("a value that is neither true nor false"),
    }
}

impl Line {
    /// The highest level that the line carries; downlink first among equals.
    pub fn level(&self) -> Option<(Metric, Utilization)> {
        let levels = [(Metric::Cpu, self.cpu), (Metric::PrbTotUl, self.ul), (Metric::PrbTotDl, self.dl)];
        let known = |(metric, percent): (Metric, Option<u8>)| Some((metric, Utilization::from_percent(percent?)?));
        levels.into_iter().filter_map(known).max_by_key(|(_, level)| *level)
    }

    /// The readings that the line is: the load first. At least one, or [`parse`] would have refused it.
    pub fn readings(&self, source: SourceId) -> impl Iterator<Item = Reading> + use<> {
        let Self { cell, late, health, stamped, .. } = *self;
        let load = match (self.gone, self.level(), late) {
            (true, _, _) => Some(Observed::Gone),
            (false, Some((metric, level)), late) => Some(Observed::Level { metric, level, late }),
            (false, None, Some(count)) => Some(Observed::Late { count }),
            (false, None, None) => None,
        };
        let figures = Health::ALL.into_iter().zip(health);
        let health = figures.filter_map(|(figure, value)| Some(Observed::Health { figure, value: value? }));
        load.into_iter().chain(health).map(move |observed| Reading { source, cell, stamped, observed })
    }

    /// The line for a feeder to send, with its newline.
    pub fn encode(&self) -> String {
        let mut line = String::from("{");
        self.write_members(&mut line);
        line.push_str("}\n");
        line
    }

    /// Appends the members of the line, without braces: `"cell":1,"RRU.PrbTotDl":6`.
    pub(in crate::load) fn write_members(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(out, "\"cell\":{}", self.cell.0);
        for (key, percent) in [("RRU.PrbTotDl", self.dl), ("RRU.PrbTotUl", self.ul), ("cpu", self.cpu)] {
            if let Some(percent) = percent {
                let _ = write!(out, ",\"{key}\":{percent}");
            }
        }
        for (key, number) in [("late", self.late), ("mono_ns", self.stamped.map(Instant::as_nanos))] {
            if let Some(number) = number {
                let _ = write!(out, ",\"{key}\":{number}");
            }
        }
        for (figure, value) in Health::ALL.into_iter().zip(self.health) {
            if let Some(value) = value {
                let _ = write!(out, ",\"{}\":{value}", figure.as_str());
            }
        }
        if self.gone {
            out.push_str(",\"gone\":true");
        }
    }
}

/// One line for a feeder to send, with its newline. Percentages are 0 to 100.
pub fn encode(
    cell: CellId,
    dl: Option<u8>,
    ul: Option<u8>,
    late: Option<u64>,
    stamp: Option<Instant>,
    gone: bool,
) -> String {
    Line { cell, dl, ul, late, stamped: stamp, gone, ..Line::default() }.encode()
}
