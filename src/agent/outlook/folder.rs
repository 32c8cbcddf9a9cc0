//! Which measurement files are new in a folder, and what do they say together?
//!
//! Whoever writes into the folder is not trusted with more than its content: only regular files are read, links are not
//! followed, everything has a limit, and what is no PM file is told of once and left aside.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata, OpenOptions};
use std::io::BufReader;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::governor::forecast::STEP;
use crate::load::pm::{self, Counted, JSON_BYTES_MAX, XML_BYTES_MAX};
use crate::sys;
use crate::telemetry::LogLimit;
use crate::units::{Utilization, WallTime};

/// Most files read in one look.
pub(super) const FILES_A_LOOK_MAX: usize = 64;
/// Most files remembered; of more, those that were changed last count.
pub(super) const REMEMBERED_MAX: usize = 1024;
/// Most names of a folder that are looked at.
const NAMES_MAX: usize = 10_000;
/// Most periods of one look: three weeks of steps.
const PERIODS_MAX: usize = 21 * 720;

/// A time that was counted, and the highest level of any cell in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    /// Its begin.
    pub(super) from: WallTime,
    /// How long it was.
    pub(super) span: Duration,
    /// The highest level.
    pub(super) level: Utilization,
}

/// What the new files of one look say together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Files that were read and are good.
    pub(super) files: usize,
    periods: BTreeMap<(WallTime, Duration), Utilization>,
    /// Periods beyond the limit.
    left_out: usize,
}

impl Found {
    /// Joins what one file says: the highest of all cells counts, whichever file they are in. What is shorter than a
    /// step of the forecast teaches nothing.
    fn join(&mut self, counted: &Counted) {
        self.files += 1;
        for (from, span, level) in counted.highest(None).into_iter().filter(|(_, span, _)| *span >= STEP) {
            let is_full = self.periods.len() >= PERIODS_MAX;
            match self.periods.get_mut(&(from, span)) {
                Some(known) => *known = (*known).max(level),
                None if is_full => self.left_out += 1,
                None => {
                    self.periods.insert((from, span), level);
                }
            }
        }
    }

    /// The periods, ascending.
    pub(super) fn periods(&self) -> Vec<Period> {
        self.periods.iter().map(|((from, span), level)| Period { from: *from, span: *span, level: *level }).collect()
    }
}

/// What tells whether a file is another one now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    /// Seconds and nanoseconds.
    changed: (i64, i64),
    bytes: u64,
    is_file: bool,
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        Self { changed, bytes: metadata.len(), is_file: metadata.is_file() }
    }
}

/// A folder, and which of its files are known.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    known: BTreeMap<OsString, Mark>,
    /// It could not be read, and that was told.
    is_unreadable: bool,
    /// It has too many files, and that was told.
    is_crowded: bool,
}

impl Folder {
    /// A folder of which nothing is known.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), known: BTreeMap::new(), is_unreadable: false, is_crowded: false }
    }

    /// Reads what is new, the latest first.
    pub(super) fn look(&mut self) -> Found {
        let mut found = Found::default();
        let listed = match self.list() {
            Ok(listed) => listed,
            Err(error) => {
                if !std::mem::replace(&mut self.is_unreadable, true) {
                    let folder = self.path.display();
                    tracing::warn!(%error, %folder, "no PM files: forecast.pm_dir cannot be read; it is tried again");
                }
                return found;
            }
        };
        self.is_unreadable = false;
        let marks: BTreeMap<&OsStr, Mark> = listed.iter().map(|(mark, name)| (name.as_os_str(), *mark)).collect();
        self.known.retain(|name, mark| marks.get(name.as_os_str()) == Some(mark));
        let new: Vec<_> = listed.iter().filter(|(_, name)| !self.known.contains_key(name)).collect();
        for (mark, name) in new.into_iter().take(FILES_A_LOOK_MAX) {
            match read(&self.path.join(name), mark) {
                Ok(counted) => found.join(&counted),
                Err(why) => tell(name, &why),
            }
            self.known.insert(name.clone(), *mark);
        }
        if found.left_out > 0 {
            let left_out = found.left_out;
            tracing::warn!(left_out, max = PERIODS_MAX, "more periods in PM files than are taken at once");
        }
        found
    }

    /// The files that count, those that were changed last first.
    fn list(&mut self) -> std::io::Result<Vec<(Mark, OsString)>> {
        let mut listed = Vec::new();
        let mut names = 0;
        for entry in fs::read_dir(&self.path)?.take(NAMES_MAX) {
            let entry = entry?;
            names += 1;
            let name = entry.file_name();
            // One that is gone meanwhile is no longer of interest.
            if let (true, Ok(metadata)) = (limit(&name).is_some(), entry.metadata()) {
                listed.push((Mark::of(&metadata), name));
            }
        }
        listed.sort_unstable_by(|one, other| other.cmp(one));
        let is_crowded = names == NAMES_MAX || listed.len() > REMEMBERED_MAX;
        if is_crowded && !self.is_crowded {
            let folder = self.path.display();
            tracing::warn!(%folder, max = REMEMBERED_MAX, "too many PM files: the latest count; delete what is old");
        }
        self.is_crowded = is_crowded;
        listed.truncate(REMEMBERED_MAX);
        Ok(listed)
    }
}

/// Largest file of that name, in bytes; `None` for what is no PM file by its name.
fn limit(name: &OsStr) -> Option<u64> {
    let extension = Path::new(name).extension()?;
    [("xml", XML_BYTES_MAX), ("json", JSON_BYTES_MAX)]
        .into_iter()
        .find(|(known, _)| extension.eq_ignore_ascii_case(known))
        .map(|(_, bytes)| bytes)
}

fn read(path: &Path, mark: &Mark) -> Result<Counted, String> {
    const IRREGULAR: &str = "it is no regular file: put the file itself there, not a link";
    let max = path.file_name().and_then(limit).unwrap_or(0);
    if !mark.is_file {
        return Err(IRREGULAR.to_owned());
    }
    if mark.bytes > max {
        return Err(format!("it has {} bytes, at most {max}: split the file", mark.bytes));
    }
    // What the name stands for may have changed since it was listed.
    let mut options = OpenOptions::new();
    let opened = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| error.to_string())?;
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err(IRREGULAR.to_owned());
    }
    pm::parse(BufReader::new(file)).map_err(|error| error.to_string())
}

fn tell(name: &OsStr, why: &str) {
    static LEFT_ASIDE: LogLimit = LogLimit::new(8, 300);
    if let Some(suppressed) = LEFT_ASIDE.admit(sys::clock::now()) {
        tracing::warn!(file = ?name, why, suppressed, "a PM file does not count");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An XML file of one cell: periods of a quarter of an hour, from a moment on.
    pub(in crate::agent::outlook) fn xml(cell: u32, from: WallTime, percents: &[u8]) -> String {
        let quarter = Duration::from_secs(900);
        let of = |(index, percent): (u32, &u8)| {
            let end = from.after(quarter * (index + 1));
            format!(
                "<measInfo><granPeriod duration=\"PT900S\" endTime=\"{end}\"/><measType p=\"1\">RRU.PrbTotDl</measType>\
                 <measValue measObjLdn=\"NRCellDU={cell}\"><r p=\"1\">{percent}</r></measValue></measInfo>"
            )
        };
        let infos: String = (0..).zip(percents).map(of).collect();
        format!("<measCollecFile><measData>{infos}</measData></measCollecFile>")
    }

    fn from() -> WallTime {
        WallTime::from_millis(1_767_571_200_000)
    }

    fn levels(found: &Found) -> Vec<u16> {
        found.periods().iter().map(|period| period.level.permille()).collect()
    }

    #[test]
    fn a_file_is_read_once_and_again_when_it_was_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(dir.path());
        fs::write(dir.path().join("one.xml"), xml(1, from(), &[10, 20])).unwrap();
        fs::write(dir.path().join("notes.txt"), "not for us").unwrap();
        let found = folder.look();
        assert_eq!((found.files, levels(&found)), (1, vec![100, 200]));
        assert_eq!(found.periods()[1].from, from().after(Duration::from_secs(900)));
        assert_eq!(folder.look(), Found::default());
        fs::write(dir.path().join("one.xml"), xml(1, from(), &[10, 20, 30])).unwrap();
        let json = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pm/event.json")).unwrap();
        fs::write(dir.path().join("two.JSON"), json).unwrap();
        assert_eq!(folder.look().files, 2);
        fs::remove_file(dir.path().join("one.xml")).unwrap();
        assert_eq!((folder.look().files, folder.known.len()), (0, 1), "what is gone is forgotten");
    }

    #[test]
    fn the_cells_of_one_period_are_joined_by_their_highest_whichever_file_they_are_in() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.xml"), xml(1, from(), &[10, 80, 5])).unwrap();
        fs::write(dir.path().join("b.xml"), xml(2, from(), &[40, 20])).unwrap();
        let found = Folder::new(dir.path()).look();
        assert_eq!((found.files, levels(&found)), (2, vec![400, 800, 50]));
    }

    #[test]
    fn what_is_bad_huge_a_link_or_a_pipe_is_left_aside_and_not_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let outside = tempfile::tempdir().unwrap();
        let good = outside.path().join("good.xml");
        fs::write(&good, xml(1, from(), &[10])).unwrap();
        fs::write(at("bad.xml"), "<measCollecFile><measData>").unwrap();
        fs::write(at("empty.json"), "").unwrap();
        fs::File::create(at("huge.xml")).unwrap().set_len(XML_BYTES_MAX + 1).unwrap();
        fs::File::create(at("huge.json")).unwrap().set_len(JSON_BYTES_MAX + 1).unwrap();
        std::os::unix::fs::symlink(&good, at("link.xml")).unwrap();
        std::os::unix::fs::symlink("/nowhere", at("broken.xml")).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe.xml"), mode).unwrap();
        fs::create_dir(at("folder.xml")).unwrap();
        let mut folder = Folder::new(dir.path());
        assert_eq!(folder.look(), Found::default());
        assert_eq!(folder.known.len(), 8, "each of them is known");
        // A name that has come to mean something else since it was listed.
        let listed = Mark { changed: (0, 0), bytes: 1, is_file: true };
        assert!(read(&at("link.xml"), &listed).is_err(), "a link is not followed");
        assert!(read(&at("pipe.xml"), &listed).unwrap_err().contains("no regular file"), "a pipe is not waited for");
        let why = read(&at("huge.json"), &Mark { bytes: JSON_BYTES_MAX + 1, ..listed }).unwrap_err();
        assert!(why.contains("4194305 bytes, at most 4194304"), "{why}");
        fs::rename(&good, at("good.xml")).unwrap();
        assert_eq!(folder.look().files, 1, "they are in nobody's way");
    }

    #[test]
    fn many_files_are_read_in_parts_and_no_more_are_remembered_than_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..REMEMBERED_MAX + 10 {
            fs::write(dir.path().join(format!("{index}.xml")), "no PM file").unwrap();
        }
        for index in 0..FILES_A_LOOK_MAX + 6 {
            fs::write(dir.path().join(format!("good-{index}.xml")), xml(1, from(), &[10])).unwrap();
        }
        let mut folder = Folder::new(dir.path());
        // Written last, so read first, whatever the grain of the clock of the file system.
        let mut good = 0;
        for look in 1..=2 * REMEMBERED_MAX / FILES_A_LOOK_MAX {
            good += folder.look().files;
            assert!(folder.known.len() <= REMEMBERED_MAX.min(look * FILES_A_LOOK_MAX));
        }
        assert_eq!((good, folder.known.len()), (FILES_A_LOOK_MAX + 6, REMEMBERED_MAX));
        assert_eq!(folder.look(), Found::default(), "none is read twice");
    }

    #[test]
    fn a_folder_that_is_not_there_is_empty_until_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pm");
        let mut folder = Folder::new(&path);
        assert_eq!(folder.look(), Found::default());
        assert!(folder.is_unreadable);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("one.xml"), xml(1, from(), &[10])).unwrap();
        assert_eq!((folder.look().files, folder.is_unreadable), (1, false));
    }
}
