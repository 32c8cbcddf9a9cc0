//! How was the load? Writes a recording that [`super::trace`] can replay.
//!
//! Not for the hot path: the agent feeds it from the sentinel's reports. What was stale or malformed leaves no line,
//! so in the replay it is silence, which means the same: busy.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use super::fusion::{Fused, FusedLoad};
use super::push::Line;
use super::{Metric, Observed, Problem, Reading};
use crate::units::{CellId, Instant, Utilization};

/// Largest recording: what can be replayed.
pub const BYTES_MAX: u64 = super::trace::BYTES_MAX;

/// Turns loads into lines. Pure.
#[derive(Clone, Copy, Debug)]
pub struct Recorder {
    began: Instant,
    late: u64,
    late_at: Option<Instant>,
}

impl Recorder {
    /// Times are counted from `began`.
    pub fn new(began: Instant) -> Self {
        Self { began, late: 0, late_at: None }
    }

    /// The line of a fused load; `None` when nothing is known. Each late event raises a counter of the recording's
    /// own by one, and every line carries it.
    pub fn fused(&mut self, at: Instant, fused: &Fused) -> Option<String> {
        match fused.load {
            FusedLoad::Level(_, level) => Some(self.line(at, fused.cell, Some((fused.metric, level)), Some(self.late))),
            FusedLoad::Late(_) => {
                if self.late_at.replace(fused.received) != Some(fused.received) {
                    self.late += 1;
                }
                Some(self.line(at, fused.cell, None, Some(self.late)))
            }
            FusedLoad::Malformed(_) | FusedLoad::Stale(_) | FusedLoad::Unheard => None,
        }
    }

    /// The line of one reading of one source.
    pub fn reading(&self, at: Instant, reading: &Reading) -> String {
        match reading.observed {
            Observed::Level { metric, level, late } => self.line(at, reading.cell, Some((metric, level)), late),
            Observed::Late { count } => self.line(at, reading.cell, None, Some(count)),
            Observed::Gone => self.write(at, &Line { cell: reading.cell, gone: true, ..Line::default() }),
        }
    }

    fn line(&self, at: Instant, cell: CellId, level: Option<(Metric, Utilization)>, late: Option<u64>) -> String {
        let mut line = Line { cell, late, ..Line::default() };
        if let Some((metric, level)) = level {
            let percent = u8::try_from(level.permille().div_ceil(10)).ok();
            match metric {
                Metric::PrbTotDl => line.dl = percent,
                Metric::PrbTotUl => line.ul = percent,
                Metric::Cpu | Metric::Late | Metric::Unknown => line.cpu = percent,
            }
        }
        self.write(at, &line)
    }

    fn write(&self, at: Instant, line: &Line) -> String {
        let since = at.since(self.began);
        let mut text = String::with_capacity(80);
        // Writing to a String cannot fail.
        let _ = write!(text, "{{\"t_s\":{}.{:06},", since.as_secs(), since.subsec_micros());
        line.write_members(&mut text);
        text.push_str("}\n");
        text
    }
}

/// Writes lines to a file up to a limit.
#[derive(Debug)]
pub struct Recording {
    file: File,
    left: u64,
    dropped: u64,
}

impl Recording {
    /// Makes the file, which must not be there yet.
    pub fn create(path: &Path) -> Result<Self, Problem> {
        let remedy = "choose a new file in a directory that the agent's user may write";
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|error| Problem::io("make the recording", path, error, remedy))?;
        Ok(Self { file, left: BYTES_MAX, dropped: 0 })
    }

    /// Appends a line. Over [`BYTES_MAX`] it is dropped and counted, as is every line after it.
    pub fn append(&mut self, line: &str) -> io::Result<()> {
        match self.left.checked_sub(line.len() as u64) {
            Some(left) if self.dropped == 0 => {
                self.file.write_all(line.as_bytes())?;
                self.left = left;
            }
            Some(_) | None => self.dropped += 1,
        }
        Ok(())
    }

    /// Lines that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::push;
    use crate::units::SourceId;

    const BEGAN: Instant = Instant::from_nanos(1_000_000_000);

    fn fused(load: FusedLoad, received_ns: u64) -> Fused {
        let received = Instant::from_nanos(received_ns);
        let (metric, cell) = (Metric::PrbTotUl, CellId(7));
        Fused { load, fresh_until: received, changes_at: received, stamped: None, received, metric, cell }
    }

    #[test]
    fn a_line_has_the_time_since_the_beginning_and_the_published_name() {
        let level = Utilization::from_permille(123).unwrap();
        let line = Recorder::new(BEGAN)
            .fused(Instant::from_nanos(3_500_001_000), &fused(FusedLoad::Level(SourceId(0), level), 3));
        assert_eq!(line.as_deref(), Some("{\"t_s\":2.500001,\"cell\":7,\"RRU.PrbTotUl\":13,\"late\":0}\n"));
    }

    #[test]
    fn one_late_event_is_counted_once_however_often_it_is_reported() {
        let mut recorder = Recorder::new(BEGAN);
        let late = |ns| fused(FusedLoad::Late(SourceId(0)), ns);
        let counts = [5, 5, 9].map(|ns| recorder.fused(BEGAN, &late(ns)).unwrap());
        let counts = counts.map(|line| push::parse(line.trim().as_bytes()).unwrap().late.unwrap());
        assert_eq!(counts, [1, 1, 2]);
    }

    #[test]
    fn what_is_not_known_leaves_no_line() {
        let mut recorder = Recorder::new(BEGAN);
        for load in [FusedLoad::Unheard, FusedLoad::Stale(SourceId(1)), FusedLoad::Malformed(SourceId(1))] {
            assert_eq!(recorder.fused(BEGAN, &fused(load, 1)), None);
        }
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("day.ndjson");
        Recording::create(&path).unwrap().append("{\"t_s\":0}\n").unwrap();
        assert!(Recording::create(&path).is_err());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "{\"t_s\":0}\n");
    }

    #[test]
    fn a_full_recording_drops_lines_and_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("day.ndjson");
        let mut recording = Recording::create(&path).unwrap();
        recording.left = 10;
        for line in ["12345678\n", "12\n", "\n"] {
            recording.append(line).unwrap();
        }
        assert_eq!((recording.dropped(), std::fs::read_to_string(path).unwrap().as_str()), (2, "12345678\n"));
    }

    proptest! {
        #[test]
        fn a_recorded_reading_is_never_lower_when_it_is_read_again(
            permille in 0_u16..=1000, cell: u64, late: Option<u64>, which in 0..3,
        ) {
            let metric = [Metric::PrbTotDl, Metric::PrbTotUl, Metric::Cpu][usize::try_from(which).unwrap()];
            let level = Utilization::from_permille(permille).unwrap();
            let observed = Observed::Level { metric, level, late };
            let reading = Reading { source: SourceId(2), cell: CellId(cell), stamped: None, observed };
            let line = Recorder::new(BEGAN).reading(BEGAN, &reading);
            let again = push::parse(line.trim().as_bytes()).unwrap().reading(SourceId(2)).unwrap();
            let Observed::Level { metric: metric_again, level: level_again, late: late_again } = again.observed else {
                panic!("{again:?} is not a level");
            };
            prop_assert_eq!((metric_again, late_again, again.cell), (metric, late, reading.cell));
            prop_assert!(level_again >= level && level_again.permille() - permille < 10);
        }
    }
}
