//! How is a recording written, and what can a form not say?

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use super::{Entry, Form, Said};
use crate::load::push::Line;
use crate::load::{Metric, Observed, Reading};
use crate::units::{Health, Utilization};

/// What a form could not say, in lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Counts of late slots.
    pub late: u64,
    /// Figures of health.
    pub health: u64,
    /// Cells that went out of service.
    pub gone: u64,
    /// Which figure the level was: uplink, CPU, or the lower one of two directions.
    pub metric: u64,
    /// The source's own stamps.
    pub stamps: u64,
    /// Levels that were rounded up, to whole percent in NDJSON and to a tenth in CSV.
    pub rounded: u64,
    /// Lines with nothing else, that were left out.
    pub lines: u64,
}

impl Lost {
    /// What was lost, each kind with its count; nothing when all was said.
    pub fn words(&self) -> Vec<String> {
        let kinds = [
            (self.late, "counts of late slots"),
            (self.health, "figures of health"),
            (self.gone, "notices of cells out of service"),
            (self.metric, "names of the figure behind the level (CSV has one level a cell)"),
            (self.stamps, "stamps of the source"),
            (self.rounded, "levels were rounded up"),
            (self.lines, "lines without a level were left out"),
        ];
        kinds.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
    }
}

/// Writes a recording up to a size.
#[derive(Debug)]
pub struct Writer<W> {
    pub(super) out: W,
    form: Form,
    left: u64,
    text: String,
    lost: Lost,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a recording of at most so many bytes.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn new(mut out: W, form: Form, bytes_max: u64) -> io::Result<Self> {
        let header = match form {
            Form::Csv => "seconds,percent,cell\n",
            Form::Ndjson => "",
        };
        out.write_all(header.as_bytes())?;
        let left = bytes_max.saturating_sub(header.len() as u64);
        Ok(Self { out, form, left, text: String::with_capacity(256), lost: Lost::default(), written: 0 })
    }

    /// Writes an entry of another recording; whether there was room.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<bool> {
        match (self.form, entry.said) {
            (Form::Csv, Said::Push(line)) => {
                self.count_lost(&line);
                let load = line.level().map(|(_, level)| (line.cell.0, level));
                self.level(entry.at(), load)
            }
            (Form::Csv, Said::Level { cell, level, rounded }) => {
                self.lost.rounded += u64::from(rounded);
                self.level(entry.at(), Some((cell.0, level)))
            }
            (Form::Ndjson, Said::Push(line)) => {
                write_line(&mut self.text, entry.at(), &line);
                self.flush_line()
            }
            (Form::Ndjson, Said::Level { cell, level, rounded }) => {
                self.lost.rounded += u64::from(rounded || !level.permille().is_multiple_of(10));
                let line = Line { cell, dl: percent(level), ..Line::default() };
                write_line(&mut self.text, entry.at(), &line);
                self.flush_line()
            }
        }
    }

    /// Writes what a source said; whether there was room.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn reading(&mut self, at: Duration, reading: &Reading) -> io::Result<bool> {
        let line = line_of(reading);
        match (self.form, reading.observed) {
            (Form::Ndjson, observed) => {
                let fine = matches!(observed, Observed::Level { level, .. } if !level.permille().is_multiple_of(10));
                self.lost.rounded += u64::from(fine);
                write_line(&mut self.text, at, &line);
                self.flush_line()
            }
            (Form::Csv, Observed::Level { level, .. }) => {
                self.count_lost(&line);
                self.level(at, Some((reading.cell.0, level)))
            }
            (Form::Csv, Observed::Late { .. } | Observed::Health { .. } | Observed::Gone) => {
                self.count_lost(&line);
                self.level(at, None)
            }
        }
    }

    /// What the form could not say so far.
    pub const fn lost(&self) -> Lost {
        self.lost
    }

    /// Lines written so far, the header aside.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Writes what is still in buffers.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub(super) fn level(&mut self, at: Duration, load: Option<(u64, Utilization)>) -> io::Result<bool> {
        let Some((cell, level)) = load else {
            self.lost.lines += 1;
            return Ok(true);
        };
        self.text.clear();
        write_seconds(&mut self.text, at);
        // Writing to a String cannot fail.
        let _ = match level.permille() % 10 {
            0 => writeln!(self.text, ",{},{cell}", level.permille() / 10),
            tenth => writeln!(self.text, ",{}.{tenth},{cell}", level.permille() / 10),
        };
        self.flush_line()
    }

    fn count_lost(&mut self, line: &Line) {
        let Line { late, health, stamped, gone, dl, .. } = line;
        let only_downlink = line.level().is_none_or(|(metric, _)| metric == Metric::PrbTotDl) && line.ul.is_none();
        self.lost.late += u64::from(late.is_some());
        self.lost.health += u64::from(health.iter().any(Option::is_some));
        self.lost.stamps += u64::from(stamped.is_some());
        self.lost.gone += u64::from(*gone);
        self.lost.metric += u64::from(!only_downlink || (dl.is_some() && line.cpu.is_some()));
    }

    fn flush_line(&mut self) -> io::Result<bool> {
        let Some(left) = self.left.checked_sub(self.text.len() as u64) else { return Ok(false) };
        self.out.write_all(self.text.as_bytes())?;
        (self.left, self.written) = (left, self.written + 1);
        Ok(true)
    }
}

/// What a source said, as a line of the push format. Its stamp stays behind: the recording has its own times.
pub(in crate::load) fn line_of(reading: &Reading) -> Line {
    let mut line = Line { cell: reading.cell, ..Line::default() };
    match reading.observed {
        Observed::Level { metric, level, late } => {
            line.late = late;
            match metric {
                Metric::PrbTotDl => line.dl = percent(level),
                Metric::PrbTotUl => line.ul = percent(level),
                Metric::Cpu | Metric::Lcore | Metric::Late | Metric::BitRate | Metric::Unknown => {
                    line.cpu = percent(level)
                }
            }
        }
        Observed::Late { count } => line.late = Some(count),
        Observed::Health { figure, value } => line.health = Health::ALL.map(|f| (f == figure).then_some(value)),
        Observed::Gone => line.gone = true,
    }
    line
}

/// Upwards: a replay must not give more permission than the radio did.
fn percent(level: Utilization) -> Option<u8> {
    u8::try_from(level.permille().div_ceil(10)).ok()
}

/// One line of the push format with its time.
pub(in crate::load) fn write_line(text: &mut String, since: Duration, line: &Line) {
    text.clear();
    text.push_str("{\"t_s\":");
    // Writing to a String cannot fail.
    let _ = write!(text, "{}.{:06},", since.as_secs(), since.subsec_micros());
    line.write_members(text);
    text.push_str("}\n");
}

/// Seconds with as many decimals as are needed, at most six.
fn write_seconds(text: &mut String, at: Duration) {
    let _ = match (at.subsec_micros(), at.subsec_micros() % 1000) {
        (0, _) => write!(text, "{}", at.as_secs()),
        (_, 0) => write!(text, "{}.{:03}", at.as_secs(), at.subsec_millis()),
        (micros, _) => write!(text, "{}.{micros:06}", at.as_secs()),
    };
}
