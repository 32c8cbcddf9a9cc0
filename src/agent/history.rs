//! Where is it remembered how earlier runs ended? A tiny file beside the store, and what the agent does with it.
//!
//! The file must never be in the way: when it cannot be read or written there is no safe mode, the log says so, and
//! the agent goes on.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::crashes::{BootId, RECORD_BYTES, Record, Terms};
use crate::sys::clock;
use crate::units::Instant;

/// Name of the file in the state directory.
const FILE: &str = "runs.bin";
/// Where the kernel names its run.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How earlier runs ended, and how this one is going.
#[derive(Debug)]
pub(super) struct History {
    terms: Terms,
    /// `None` when it cannot be kept.
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    file: File,
    record: Record,
    /// What was in the file before this start; until the run has begun it is put back when this is dropped: a start
    /// that fails and says why is no crash.
    before: Option<Vec<u8>>,
}

impl History {
    /// Writes down that a run begins, in the state directory `folder`, before anything else can crash.
    pub(super) fn begin(folder: &Path, terms: Terms) -> Self {
        let kept = if terms.crashes == 0 { Ok(None) } else { begin(folder, terms, clock::since_boot()).map(Some) };
        let kept = kept.unwrap_or_else(|error| {
            let path = folder.join(FILE);
            tracing::error!(path = %path.display(), %error, "crashes cannot be counted: there will be no safe mode");
            None
        });
        Self { terms, kept }
    }

    /// The start is over and the run has begun: from now on an end without [`History::end`] is a crash.
    pub(super) fn begun(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.before = None;
        }
    }

    /// Whether this run is in safe mode.
    pub(super) fn is_safe_mode(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.record.is_safe())
    }

    /// Why this run is in safe mode; `None` when it is not.
    pub(super) fn safe_mode(&self) -> Option<String> {
        self.kept.as_ref().and_then(|kept| kept.record.why(self.terms))
    }

    /// Leaves safe mode when it was calm for long enough; whether it does.
    pub(super) fn leave_if_calm(&mut self) -> bool {
        let calm = |kept: &Kept| kept.record.is_safe() && kept.record.is_calm(clock::since_boot(), self.terms);
        let calm = self.kept.as_ref().is_some_and(calm);
        if calm {
            self.leave();
        }
        calm
    }

    /// Leaves safe mode; nothing happens when it is not in force.
    pub(super) fn leave(&mut self) {
        self.change(Record::leave);
    }

    /// The run ends in order.
    pub(super) fn end(&mut self) {
        self.change(Record::end);
    }

    fn change(&mut self, change: impl FnOnce(&mut Record)) {
        let Some(kept) = &mut self.kept else { return };
        change(&mut kept.record);
        if let Err(error) = kept.file.write_all_at(&kept.record.encode(), 0) {
            tracing::error!(%error, "the record of crashes cannot be written: the next start may count one too many");
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(before) = &self.before else { return };
        let put_back = self.file.write_all_at(before, 0).and_then(|()| self.file.set_len(before.len() as u64));
        if let Err(error) = put_back {
            tracing::warn!(%error, "this start will be taken for a crash");
        }
    }
}

fn begin(folder: &Path, terms: Terms, now: Instant) -> io::Result<Kept> {
    let boot = boot_id()?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(folder.join(FILE))?;
    let mut before = Vec::new();
    // One byte more than a record: a longer file is none.
    (&file).take(RECORD_BYTES as u64 + 1).read_to_end(&mut before)?;
    let last = Record::decode(&before);
    if last.is_none() && !before.is_empty() {
        tracing::warn!(bytes = before.len(), "the record of crashes is unreadable; it begins anew");
        file.set_len(0)?;
    }
    let record = Record::start(last.as_ref(), boot, now, terms);
    file.write_all_at(&record.encode(), 0)?;
    Ok(Kept { file, record, before: Some(before) })
}

/// The name of the kernel's run, from a UUID in text.
fn boot_id() -> io::Result<BootId> {
    let text = std::fs::read_to_string(BOOT_ID)?;
    let id = uuid::Uuid::parse_str(text.trim());
    id.map(uuid::Uuid::into_bytes).map_err(|_| io::Error::other(format!("{BOOT_ID} holds no UUID")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    /// A run that has begun; dropping it is a crash.
    fn run(folder: &Path, terms: Terms) -> History {
        let mut history = History::begin(folder, terms);
        history.begun();
        history
    }

    const TERMS: Terms = Terms { crashes: 3, window: Duration::from_secs(300), calm: Duration::from_secs(600) };

    #[test]
    fn three_starts_without_an_end_are_remembered_and_the_fourth_is_safe() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            assert_eq!(run(folder.path(), TERMS).safe_mode(), None);
        }
        let mut history = run(folder.path(), TERMS);
        assert!(history.safe_mode().is_some_and(|why| why.contains("3 times")));
        assert!(!history.leave_if_calm());
        history.end();
        assert_eq!(run(folder.path(), TERMS).safe_mode(), None);
    }

    #[test]
    fn a_start_that_said_why_it_failed_is_no_crash() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..10 {
            drop(History::begin(folder.path(), TERMS));
        }
        assert_eq!(fs::read(folder.path().join(FILE)).unwrap(), b"");
        drop(run(folder.path(), TERMS));
        let before = fs::read(folder.path().join(FILE)).unwrap();
        drop(History::begin(folder.path(), TERMS));
        assert_eq!(fs::read(folder.path().join(FILE)).unwrap(), before);
    }

    #[test]
    fn garbage_in_the_file_begins_the_count_anew() {
        let folder = tempfile::tempdir().unwrap();
        for garbage in [vec![0; RECORD_BYTES], vec![0xff; 10], b"x".repeat(100_000)] {
            fs::write(folder.path().join(FILE), garbage).unwrap();
            assert_eq!(run(folder.path(), TERMS).safe_mode(), None);
            assert_eq!(fs::metadata(folder.path().join(FILE)).unwrap().len(), RECORD_BYTES as u64);
        }
    }

    #[test]
    fn without_a_place_to_write_there_is_no_safe_mode_and_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("file");
        fs::write(&in_the_way, "").unwrap();
        for _ in 0..10 {
            let mut history = run(&in_the_way.join("state"), TERMS);
            assert_eq!(history.safe_mode(), None);
            history.leave();
            history.end();
        }
    }

    #[test]
    fn a_full_disk_costs_the_count_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join(FILE)).unwrap();
        assert_eq!(run(folder.path(), TERMS).safe_mode(), None);
    }

    #[test]
    fn switched_off_it_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::begin(folder.path(), Terms { crashes: 0, ..TERMS });
        history.end();
        assert!(!folder.path().join(FILE).exists());
    }
}
