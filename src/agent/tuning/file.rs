//! Where is it kept what was tuned, and the load it rests on? A file beside the store, replaced as a whole or not at all.
//!
//! It must never be in the way: one that cannot be read or written is told of, and the tuning begins anew. A thread of
//! its own writes it, because a disk may take seconds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::agent::desk::Now;
use crate::governor::tuning::{Mode, SNAPSHOT_BYTES_MAX, Tuner};
use crate::telemetry::LogLimit;
use crate::units::Instant;

/// Name of the file in the state directory, and of the one that is to replace it.
const FILE: &str = "tuning.txt";
const FRESH: &str = "tuning.new";
/// It is written this often: flash wears out.
const KEEP_EVERY: Duration = Duration::from_secs(3600);
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
    /// The file of that state directory.
    pub(in crate::agent) fn new(now: Instant, folder: &Path) -> Self {
        Self { folder: folder.to_owned(), kept_at: now, writer: None }
    }

    /// Gives the tuner what an earlier run has kept; whether its figures are in force again.
    pub(in crate::agent) fn restore(&self, now: Now, tuner: &mut Tuner) -> bool {
        let path = self.folder.join(FILE);
        if tuner.terms().mode == Mode::Off {
            return false;
        }
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, path = %path.display(), "the tuning begins anew");
                }
                return false;
            }
        };
        tuner.restore(now.wall, &text).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "the tuning begins anew");
            false
        })
    }

    /// Whether it is time to write.
    pub(in crate::agent) fn is_due(&self, now: Instant) -> bool {
        now.since(self.kept_at) >= KEEP_EVERY
    }

    /// Writes it now, unless it is being written.
    pub(in crate::agent) fn keep(&mut self, now: Instant, tuner: &Tuner) {
        self.kept_at = now;
        if tuner.terms().mode == Mode::Off || !self.is_written(now) {
            return;
        }
        let (folder, text) = (self.folder.clone(), tuner.snapshot());
        match std::thread::Builder::new().name("tuning".to_owned()).spawn(move || write(&folder, &text)) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => tell(now, &error),
        }
    }

    /// Waits for what is being written, for a moment.
    pub(in crate::agent) fn finish(&mut self, now: Instant) {
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if self.is_written(now) {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn is_written(&mut self, now: Instant) -> bool {
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
        tracing::warn!(%error, suppressed, "what was tuned cannot be kept; a restart would begin anew");
    }
}

/// The file, if it is not longer than one can be.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SNAPSHOT_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Replaces the file: what is under its name is always whole.
fn write(folder: &Path, text: &str) -> io::Result<()> {
    let fresh = folder.join(FRESH);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&fresh, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}
