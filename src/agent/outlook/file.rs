//! Where is it kept what the forecast has learned? A file beside the store, replaced as a whole or not at all.
//!
//! It must never be in the way: one that cannot be read or written is told of, and the forecast learns anew. A thread of
//! its own writes it, because a disk may take seconds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Outlooks;
use crate::governor::forecast::SNAPSHOT_BYTES_MAX;
use crate::telemetry::LogLimit;
use crate::units::Instant;

/// Name of the file in the state directory, and of the one that is to replace it.
const FILE: &str = "forecast.bin";
const FRESH: &str = "forecast.new";
/// It is written at most so often: flash wears out.
const KEEP_EVERY: Duration = Duration::from_secs(600);
/// At the end it is waited for so long.
const PATIENCE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(5);

/// The file, and whoever is writing it.
#[derive(Debug)]
pub(in crate::agent) struct Keepsake {
    folder: PathBuf,
    kept_at: Instant,
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl Keepsake {
    /// Gives the outlooks what an earlier run has learned.
    pub(in crate::agent) fn open(now: Instant, folder: &Path, outlooks: &mut Outlooks) -> Self {
        let path = folder.join(FILE);
        if outlooks.is_enabled() {
            match read(&path) {
                Ok(bytes) => match outlooks.restore(&bytes) {
                    Ok(()) => tracing::info!(bytes = bytes.len(), "the forecast goes on with what was learned"),
                    Err(error) => tracing::warn!(%error, path = %path.display(), "the forecast begins anew"),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, path = %path.display(), "the forecast begins anew"),
            }
        }
        Self { folder: folder.to_owned(), kept_at: now, writer: None }
    }

    /// Keeps what was learned, when it is time and nothing is being written.
    pub(in crate::agent) fn look(&mut self, now: Instant, outlooks: &Outlooks) {
        if now.since(self.kept_at) >= KEEP_EVERY {
            self.keep(now, outlooks);
        }
    }

    /// Keeps what was learned now, unless something is being written.
    pub(in crate::agent) fn keep(&mut self, now: Instant, outlooks: &Outlooks) {
        self.kept_at = now;
        if !self.is_done(now) {
            return;
        }
        let Some(snapshot) = outlooks.snapshot() else { return };
        let folder = self.folder.clone();
        let writer = std::thread::Builder::new().name("forecast".to_owned());
        match writer.spawn(move || write(&folder, &snapshot)) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => tell(now, &error),
        }
    }

    /// Waits for what is being written, for a moment.
    pub(in crate::agent) fn finish(&mut self, now: Instant) {
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if self.is_done(now) {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn is_done(&mut self, now: Instant) -> bool {
        let Some(writer) = self.writer.take_if(|writer| writer.is_finished()) else { return self.writer.is_none() };
        if let Ok(Err(error)) = writer.join() {
            tell(now, &error);
        }
        true
    }
}

fn tell(now: Instant, error: &io::Error) {
    static UNWRITTEN: LogLimit = LogLimit::new(2, 3600);
    if let Some(suppressed) = UNWRITTEN.admit(now) {
        tracing::warn!(%error, suppressed, "what the forecast has learned cannot be kept; a restart would begin anew");
    }
}

/// The file, if it is not longer than one can be.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SNAPSHOT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces the file: what is under its name is always whole.
fn write(folder: &Path, snapshot: &[u8]) -> io::Result<()> {
    let fresh = folder.join(FRESH);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(snapshot)?;
    file.sync_data()?;
    fs::rename(&fresh, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{learned, outlooks};
    use super::*;

    fn finished(mut keepsake: Keepsake) {
        while !keepsake.is_done(Instant::default()) {
            std::thread::sleep(LOOK);
        }
    }

    #[test]
    fn what_was_learned_survives_and_nothing_else_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let first = learned();
        let mut keepsake = Keepsake::open(Instant::default(), folder.path(), &mut outlooks());
        keepsake.look(Instant::default().after(KEEP_EVERY / 2), &first);
        assert!(keepsake.writer.is_none(), "not yet");
        keepsake.look(Instant::default().after(KEEP_EVERY), &first);
        finished(keepsake);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
        let mut second = outlooks();
        finished(Keepsake::open(Instant::default(), folder.path(), &mut second));
        assert_eq!(second.snapshot(), first.snapshot());
    }

    #[test]
    fn a_file_that_is_cut_or_foreign_or_endless_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let whole = learned().snapshot().unwrap();
        for bytes in [&whole[..whole.len() - 1], b"", b"something else", &vec![0; 2 * SNAPSHOT_BYTES_MAX]] {
            fs::write(&path, bytes).unwrap();
            let mut outlooks = outlooks();
            finished(Keepsake::open(Instant::default(), folder.path(), &mut outlooks));
            assert_eq!(outlooks.snapshot(), None);
        }
        // A write that was cut leaves the old file.
        fs::write(&path, &whole).unwrap();
        fs::write(folder.path().join(FRESH), &whole[..100]).unwrap();
        let mut outlooks = outlooks();
        finished(Keepsake::open(Instant::default(), folder.path(), &mut outlooks));
        assert_eq!(outlooks.snapshot(), Some(whole));
    }

    #[test]
    fn without_a_place_to_write_nothing_fails() {
        let folder = tempfile::tempdir().unwrap();
        let mut keepsake = Keepsake::open(Instant::default(), &folder.path().join("missing"), &mut outlooks());
        keepsake.keep(Instant::default(), &learned());
        finished(keepsake);
    }
}
