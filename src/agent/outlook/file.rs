//! Where is it kept what the forecast has learned? A [`Snapshot`] beside the store.
//!
//! One that cannot be read is told of, and the forecast learns anew.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::Outlooks;
use crate::agent::snapshot::{Form, Snapshot};
use crate::governor::forecast::SNAPSHOT_BYTES_MAX;
use crate::telemetry::LogLimit;
use crate::units::Instant;

/// It is written at most so often: flash wears out.
const KEEP_EVERY: Duration = Duration::from_secs(600);

static FORM: Form = Form {
    name: "forecast.bin",
    fresh: "forecast.new",
    thread: "forecast",
    bytes_max: SNAPSHOT_BYTES_MAX,
    what: "what the forecast has learned",
    told: LogLimit::new(2, 3600),
};

/// The file of what was learned.
#[derive(Debug)]
pub(in crate::agent) struct Keepsake(Snapshot);

impl Keepsake {
    /// Gives the outlooks what an earlier run has learned.
    pub(in crate::agent) fn open(now: Instant, folder: &Path, outlooks: &mut Outlooks) -> Self {
        let file = Snapshot::new(now, folder, &FORM);
        let path = file.path();
        if outlooks.is_enabled() {
            match file.read() {
                Ok(bytes) => match outlooks.restore(&bytes) {
                    Ok(()) => tracing::info!(bytes = bytes.len(), "the forecast goes on with what was learned"),
                    Err(error) => tracing::warn!(%error, path = %path.display(), "the forecast begins anew"),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, path = %path.display(), "the forecast begins anew"),
            }
        }
        Self(file)
    }

    /// Keeps what was learned, when it is time and nothing is being written.
    pub(in crate::agent) fn look(&mut self, now: Instant, outlooks: &Outlooks) {
        if self.0.is_due(now, KEEP_EVERY) {
            self.keep(now, outlooks);
        }
    }

    /// Keeps what was learned now, unless something is being written.
    pub(in crate::agent) fn keep(&mut self, now: Instant, outlooks: &Outlooks) {
        self.0.keep(now, || outlooks.snapshot());
    }

    /// Waits for what is being written, for a moment.
    pub(in crate::agent) fn finish(&mut self, now: Instant) {
        self.0.finish(now);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{learned, outlooks};
    use super::*;

    fn finished(mut keepsake: Keepsake) {
        while !keepsake.0.is_done(Instant::default()) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_was_learned_survives_and_nothing_else_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let first = learned();
        let mut keepsake = Keepsake::open(Instant::default(), folder.path(), &mut outlooks());
        keepsake.look(Instant::default().after(KEEP_EVERY / 2), &first);
        assert!(keepsake.0.is_done(Instant::default()) && !folder.path().join(FORM.name).exists(), "not yet");
        keepsake.look(Instant::default().after(KEEP_EVERY), &first);
        finished(keepsake);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FORM.name]);
        let mut second = outlooks();
        finished(Keepsake::open(Instant::default(), folder.path(), &mut second));
        assert_eq!(second.snapshot(), first.snapshot());
    }

    #[test]
    fn a_file_that_is_cut_or_foreign_or_endless_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FORM.name);
        let whole = learned().snapshot().unwrap();
        for bytes in [&whole[..whole.len() - 1], b"", b"something else", &vec![0; 2 * SNAPSHOT_BYTES_MAX]] {
            fs::write(&path, bytes).unwrap();
            let mut outlooks = outlooks();
            finished(Keepsake::open(Instant::default(), folder.path(), &mut outlooks));
            assert_eq!(outlooks.snapshot(), None);
        }
        // A write that was cut leaves the old file.
        fs::write(&path, &whole).unwrap();
        fs::write(folder.path().join(FORM.fresh), &whole[..100]).unwrap();
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
