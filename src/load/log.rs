//! Has the RAN written that it failed? Its log is followed, and each line with the pattern stops inference at once.
//!
//! OCUDU and srsRAN write `Real-time failure in FAPI: ...` (or `RF`, `lower PHY`, `OFH`) when a slot was lost. That is
//! later than any load figure but certain, so it is a running count of late slots and no level: nothing runs because of
//! this source, and it cannot be required. A log that is away is told and grants nothing.
//!
//! A regular file is followed from its end, over rotation by renaming and by cutting. A named pipe is emptied as fast as
//! it fills and may lose its writers. More than [`BYTES_PER_SECOND_MAX`] is not searched: that counts as a failure.

mod follow;
mod search;

use std::path::{Path, PathBuf};

pub use follow::Follow;
pub use search::Search;

use super::mailbox::Mailbox;
use super::{Observed, Problem, Reading};
use crate::units::{CellId, SourceId};

/// What OCUDU and srsRAN write, unless configured.
pub const PATTERN_DEFAULT: &str = "Real-time failure";
/// Longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 256;
/// Most bytes that are searched in a second; a log at debug level has a tenth of it.
pub const BYTES_PER_SECOND_MAX: u64 = 32 * 1024 * 1024;
/// Observations that wait for the sentinel at most: one for each piece read.
const WAITING_MAX: usize = 64;

/// Which log, and what in it is a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A regular file or a named pipe; it may come later.
    pub path: PathBuf,
    /// Part of a line that tells of a failure.
    pub pattern: String,
}

/// Checks the settings.
pub(super) fn check(settings: &Settings, required: bool) -> Result<(), Problem> {
    let Settings { path, pattern } = settings;
    if required {
        return Err(Problem::setting("required", required, "false for a log: it tells of failures and gives no level"));
    }
    if !path.is_absolute() {
        return Err(Problem::setting("path", path.display(), "an absolute path of a file or a named pipe"));
    }
    if pattern.trim().is_empty() || pattern.len() > PATTERN_BYTES_MAX || pattern.contains(['\n', '\0']) {
        let limit = "a part of one line, 1 to 256 bytes and not only spaces";
        return Err(Problem::setting("pattern", pattern.escape_debug(), limit));
    }
    Ok(())
}

/// Starts the thread that follows. The log may come later.
pub(super) fn open(id: SourceId, settings: &Settings) -> Result<Mailbox, Problem> {
    let (path, search) = (settings.path.clone(), Search::new(settings.pattern.as_bytes()));
    let follow = move |poster: &super::mailbox::Poster| {
        let mut follow = Follow::new(&path, search);
        follow.run(poster.leave_fd(), &|| poster.is_over(), &mut |at, count| {
            let observed = Observed::Late { count };
            poster.post(Ok(Reading { source: id, cell: CellId(0), stamped: Some(at), observed }));
        });
    };
    Mailbox::start("neap-log", WAITING_MAX, follow).map_err(|error| Problem::Io {
        attempt: "start the thread",
        place: "neap-log".to_owned(),
        error,
        remedy: "raise the limits of open files and of tasks of the agent's service",
    })
}

/// What would be followed, for people who set it up.
///
/// # Errors
/// A sentence: why nothing can be followed now.
pub fn inquire(path: &Path) -> Result<&'static str, String> {
    follow::kind(path).map_err(|why| format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests;
