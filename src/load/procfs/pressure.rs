//! For how long did the RAN's tasks wait for a core? PSI, by its running total.
//!
//! The averages beside the total lag by ten seconds and more; the total is exact at every look.
//!
//! The host's pressure counts every task that waits, and a worker that waits behind the RAN is one: beside a RAN thread
//! that used a third of its core, an idle-class worker on the same core raised it from 0.3 to 17 % while the RAN itself
//! waited no longer (0.1 and 0.6 %; with the worker stopped 0.8 %). It would accuse inference of the RAN's own load,
//! so it is read only where the operator says so; the pressure of the RAN's cgroup counts the RAN's tasks alone.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::files::{below, read};
use super::group::{Finder, Group, pressure_files};
use crate::load::Problem;

/// Whose pressure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pressure {
    /// That of the cgroup whose CPU time is read; of threads and cores none.
    #[default]
    Own,
    /// That of the whole host, which our own workers raise by waiting.
    Host,
    /// That of the cgroup in this folder.
    Folder(PathBuf),
    /// Nobody's.
    Off,
}

impl Pressure {
    pub(super) fn check(&self) -> Result<(), Problem> {
        match self {
            Self::Folder(path) if !path.is_absolute() => {
                let limit = "\"cgroup\", \"host\", \"off\" or an absolute path below /sys/fs/cgroup";
                Err(Problem::setting("pressure", path.display(), limit))
            }
            Self::Folder(_) | Self::Own | Self::Host | Self::Off => Ok(()),
        }
    }

    /// The files that may tell it; `own` finds the RAN's cgroup, where one is read.
    fn files(&self, root: &Path, own: Option<&mut Finder>) -> Vec<PathBuf> {
        match (self, own) {
            (Self::Own, Some(own)) => own.folder().map_or(Vec::new(), |folder| pressure_files(root, &folder)),
            (Self::Folder(path), _) => pressure_files(root, &below(root, path)),
            (Self::Host, _) => vec![root.join("proc/pressure/cpu")],
            (Self::Own, None) | (Self::Off, _) => Vec::new(),
        }
    }
}

/// Reads the total.
#[derive(Debug)]
pub(super) struct Total {
    root: PathBuf,
    pressure: Pressure,
    own: Option<Finder>,
    file: Option<File>,
}

impl Total {
    /// `None` when nobody's pressure is wanted.
    pub(super) fn new(root: &Path, pressure: &Pressure, group: Option<&Group>) -> Option<Self> {
        match (pressure, group) {
            (Pressure::Off, _) | (Pressure::Own, None) => None,
            (Pressure::Own | Pressure::Host | Pressure::Folder(_), _) => {
                let own = group.map(|group| Finder::new(root, group));
                Some(Self { root: root.to_owned(), pressure: pressure.clone(), own, file: None })
            }
        }
    }

    /// Time in which a task waited, in nanoseconds, since the kernel began to count.
    pub(super) fn read_ns(&mut self) -> Result<u64, &'static str> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let files = self.pressure.files(&self.root, self.own.as_mut());
                files.iter().find_map(|path| File::open(path).ok()).ok_or("no cpu.pressure file")?
            }
        };
        let total_us = total_us(read(&file, &mut [0; 512])?)?;
        // Only a good file is kept: after an error the next look opens it anew.
        self.file = Some(file);
        total_us.checked_mul(1000).ok_or("a pressure above 64 bits")
    }
}

/// The total of the line `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn total_us(text: &str) -> Result<u64, &'static str> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "));
    let total = some.and_then(|line| line.split_ascii_whitespace().find_map(|word| word.strip_prefix("total=")));
    total.and_then(|number| number.parse().ok()).ok_or("a pressure file without a total")
}

#[cfg(test)]
mod tests {
    use super::total_us;

    #[test]
    fn the_total_of_the_line_some_is_read_whatever_stands_around_it() {
        let full = "full avg10=0.36 avg60=0.06 avg300=0.01 total=43220\n";
        let some = "some avg10=4.70 avg60=0.85 avg300=0.17 total=566888\n";
        assert_eq!(total_us(&format!("{some}{full}")), Ok(566_888));
        assert_eq!(total_us(&format!("{full}{some}")), Ok(566_888));
        assert_eq!(total_us("some total=7 new=1"), Ok(7));
        for bad in ["", full, "some\n", "some total=\n", "some total=-1\n", "some total=1.5\n", "some avg10=0.00\n"] {
            assert!(total_us(bad).is_err(), "{bad:?}");
        }
    }
}
