//! Where is it kept what was tuned, and the load it rests on? A [`Snapshot`] beside the store.
//!
//! One that cannot be read is told of, and the tuning begins anew.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::agent::desk::Now;
use crate::agent::snapshot::{Form, Snapshot};
use crate::governor::tuning::{Mode, SNAPSHOT_BYTES_MAX, Tuner};
use crate::telemetry::LogLimit;
use crate::units::Instant;

/// It is written this often: flash wears out.
const KEEP_EVERY: Duration = Duration::from_secs(3600);

static FORM: Form = Form {
    name: "tuning.txt",
    fresh: "tuning.new",
    thread: "tuning",
    bytes_max: SNAPSHOT_BYTES_MAX,
    what: "what was tuned",
    told: LogLimit::new(2, 3600),
};

/// The file of what was tuned.
#[derive(Debug)]
pub(in crate::agent) struct Keepsake(Snapshot);

impl Keepsake {
    /// The file of that state directory.
    pub(in crate::agent) fn new(now: Instant, folder: &Path) -> Self {
        Self(Snapshot::new(now, folder, &FORM))
    }

    /// Gives the tuner what an earlier run has kept; whether its figures are in force again.
    pub(in crate::agent) fn restore(&self, now: Now, tuner: &mut Tuner) -> bool {
        if tuner.terms().mode == Mode::Off {
            return false;
        }
        let text = self.0.read().and_then(|bytes| {
            String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        });
        let path = self.0.path();
        let text = match text {
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
        self.0.is_due(now, KEEP_EVERY)
    }

    /// Writes it now, unless it is being written.
    pub(in crate::agent) fn keep(&mut self, now: Instant, tuner: &Tuner) {
        self.0.keep(now, || (tuner.terms().mode != Mode::Off).then(|| tuner.snapshot().into_bytes()));
    }

    /// Waits for what is being written, for a moment.
    pub(in crate::agent) fn finish(&mut self, now: Instant) {
        self.0.finish(now);
    }
}
