//! How is kept beside the store what was learned? A file that is replaced as a whole or not at all.
//!
//! It must never be in the way: one that cannot be written is told of. A thread of its own writes it, because a disk may
//! take seconds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::telemetry::LogLimit;
use crate::units::Instant;

/// At the end it is waited for so long.
const PATIENCE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(5);

/// What tells one such file from another.
#[derive(Debug)]
pub(super) struct Form {
    /// Name of the file in the state directory.
    pub(super) name: &'static str,
    /// Name of the one that is to replace it.
    pub(super) fresh: &'static str,
    /// Name of the thread that writes it.
    pub(super) thread: &'static str,
    /// Longest that it can be, in bytes.
    pub(super) bytes_max: usize,
    /// What is lost when it cannot be written.
    pub(super) what: &'static str,
    /// How often that is told.
    pub(super) told: LogLimit,
}

/// The file, and whoever is writing it.
#[derive(Debug)]
pub(super) struct Snapshot {
    form: &'static Form,
    folder: PathBuf,
    kept_at: Instant,
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl Snapshot {
    /// The file of that state directory, which counts as kept at `now`.
    pub(super) fn new(now: Instant, folder: &Path, form: &'static Form) -> Self {
        Self { form, folder: folder.to_owned(), kept_at: now, writer: None }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(self.form.name)
    }

    /// What is kept; of a file that is too long, enough to see that.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path())?.take(self.form.bytes_max as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Whether nothing was kept for so long.
    pub(super) fn is_due(&self, now: Instant, every: Duration) -> bool {
        now.since(self.kept_at) >= every
    }

    /// Keeps what `snapshot` gives, unless something is being written.
    pub(super) fn keep(&mut self, now: Instant, snapshot: impl FnOnce() -> Option<Vec<u8>>) {
        self.kept_at = now;
        if !self.is_done(now) {
            return;
        }
        let Some(snapshot) = snapshot() else { return };
        let (folder, form) = (self.folder.clone(), self.form);
        let writer = std::thread::Builder::new().name(form.thread.to_owned());
        match writer.spawn(move || write(&folder, form, &snapshot)) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => self.tell(now, &error),
        }
    }

    /// Waits for what is being written, for a moment.
    pub(super) fn finish(&mut self, now: Instant) {
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if self.is_done(now) {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether nothing is being written any more.
    pub(super) fn is_done(&mut self, now: Instant) -> bool {
        let Some(writer) = self.writer.take_if(|writer| writer.is_finished()) else { return self.writer.is_none() };
        if let Ok(Err(error)) = writer.join() {
            self.tell(now, &error);
        }
        true
    }

    fn tell(&self, now: Instant, error: &io::Error) {
        if let Some(suppressed) = self.form.told.admit(now) {
            tracing::warn!(%error, suppressed, "{} cannot be kept; a restart would begin anew", self.form.what);
        }
    }
}

/// Replaces the file: what is under its name is always whole.
fn write(folder: &Path, form: &Form, snapshot: &[u8]) -> io::Result<()> {
    let fresh = folder.join(form.fresh);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(snapshot)?;
    file.sync_data()?;
    fs::rename(&fresh, folder.join(form.name))?;
    File::open(folder)?.sync_all()
}
