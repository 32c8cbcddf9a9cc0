//! How is a log followed that is rotated, cut, or a pipe whose writers come and go?
//!
//! The thread sleeps in `poll` on the pipe, or on inotify for a file and its folder, and looks after the path itself
//! once in [`LOOK_EVERY`]: a file system that tells no changes (or a watch that cannot be had) costs only promptness.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};

use super::super::told::Told;
use super::{BYTES_PER_SECOND_MAX, Search};
use crate::sys::clock;
use crate::units::Instant;

/// Between two looks at the path when nothing tells of changes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two looks at the path when inotify does; for links and pipes, whose change it does not tell.
const LOOK_EVERY_WATCHED: Duration = Duration::from_secs(1);
/// Read at once: what a pipe holds.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces read before somebody may ask to end.
const PIECES_MAX: usize = 64;
/// After so long a log that is gone is told.
const MISSING_MAX: Duration = Duration::from_secs(5);
/// Span of the limit of bytes.
const SECOND: Duration = Duration::from_secs(1);

const AWAY: &str = "the log is not there";
const NO_LOG: &str = "it is neither a regular file nor a named pipe";

/// Follows one log.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    search: Search,
    log: Option<Log>,
    watch: Option<OwnedFd>,
    count: u64,
    /// Whether the log was there, or looked for, before: what comes later is new from its first byte.
    begun: bool,
    missing_since: Option<Instant>,
    budget: Budget,
    told: Told,
    piece: Box<[u8]>,
}

/// An open log.
#[derive(Debug)]
struct Log {
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    is_pipe: bool,
    /// How far a regular file has been read.
    at: u64,
}

/// Bytes that may still be searched in this second.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    began: Instant,
    used: u64,
}

impl Budget {
    /// Takes so many bytes; says whether they were left.
    fn take(&mut self, now: Instant, bytes: u64) -> bool {
        if now.since(self.began) >= SECOND {
            *self = Self { began: now, used: 0 };
        }
        self.used = self.used.saturating_add(bytes);
        self.used <= BYTES_PER_SECOND_MAX
    }

    /// Whether these are the first bytes that were not left.
    fn just_spent(&self, bytes: u64) -> bool {
        self.used.saturating_sub(bytes) <= BYTES_PER_SECOND_MAX
    }
}

/// What can be followed at the path.
pub(super) fn kind(path: &Path) -> Result<&'static str, String> {
    let log = Log::open(path).map_err(|error| error.to_string())?;
    Ok(if log.is_pipe { "a named pipe" } else { "a file" })
}

impl Follow {
    /// Opens nothing yet.
    pub fn new(path: &Path, search: Search) -> Self {
        Self {
            path: path.to_owned(),
            search,
            log: None,
            watch: None,
            count: 0,
            begun: false,
            missing_since: None,
            budget: Budget::default(),
            told: Told::default(),
            piece: vec![0; PIECE_BYTES].into_boxed_slice(),
        }
    }

    /// Follows until it is over, which `leave` tells by being readable. `post` gets the count when it changes, and a
    /// first 0, with the moment.
    pub fn run(&mut self, leave: BorrowedFd<'_>, is_over: &dyn Fn() -> bool, post: &mut dyn FnMut(Instant, u64)) {
        while !is_over() {
            if self.look(post) {
                self.sleep(leave);
            }
        }
    }

    /// Reads what there is, and sees whether the path names another log by now. Says whether all of it was read.
    pub fn look(&mut self, post: &mut dyn FnMut(Instant, u64)) -> bool {
        let first = !mem::replace(&mut self.begun, true);
        if self.log.is_none() {
            self.open(if first { SeekFrom::End(0) } else { SeekFrom::Start(0) });
        }
        if first {
            // The base: without it the first failure would be none.
            post(clock::now(), 0);
        }
        if !self.read(post) {
            return false;
        }
        if !self.is_replaced() {
            return true;
        }
        // What was written to the old one after it was read and before the new one was there.
        self.read(post);
        self.open(SeekFrom::Start(0));
        self.read(post)
    }

    /// Whether the path names another file than the open one. One that is gone may still be written to.
    fn is_replaced(&mut self) -> bool {
        let Some(log) = &self.log else { return false };
        let now = clock::now();
        match std::fs::metadata(&self.path) {
            Ok(found) => {
                self.missing_since = None;
                (found.dev(), found.ino()) != log.identity
            }
            Err(error) => {
                // Between renaming the old and making the new one there is none for a moment.
                let since = *self.missing_since.get_or_insert(now);
                if now.since(since) >= MISSING_MAX && self.told.admit(now, AWAY) {
                    tracing::warn!(path = %self.path.display(), %error, "the RAN's log is gone: its failures are seen as far as the old file is still written; looking on");
                }
                false
            }
        }
    }

    /// Opens what the path names, in place of what is open.
    fn open(&mut self, from: SeekFrom) {
        // First the folder, so that a file which is made from now on is told.
        self.watch = watch(&self.path);
        let opened = Log::open(&self.path).and_then(|mut log| {
            if !log.is_pipe {
                log.at = log.file.seek(from)?;
            }
            Ok(log)
        });
        self.search.begin_anew();
        match opened {
            Ok(log) => {
                if self.told.admit(clock::now(), "open") {
                    tracing::info!(path = %self.path.display(), is_pipe = log.is_pipe, "following the RAN's log");
                }
                if let Some(watch) = self.watch.as_ref().filter(|_| !log.is_pipe) {
                    let _looked_at_now_and_then = inotify::add_watch(watch, &self.path, WatchFlags::MODIFY);
                }
                self.log = Some(log);
            }
            Err(error) => {
                self.log = None;
                if self.told.admit(clock::now(), AWAY) {
                    tracing::warn!(path = %self.path.display(), %error, "the RAN's log cannot be followed: its failures are not seen; looking on");
                }
            }
        }
    }

    /// Says whether it came to the end; otherwise it shall be called again.
    fn read(&mut self, post: &mut dyn FnMut(Instant, u64)) -> bool {
        let Some(mut log) = self.log.as_mut() else { return true };
        if log.was_cut() {
            log.at = log.file.seek(SeekFrom::Start(0)).unwrap_or(0);
            self.search.begin_anew();
        }
        for _ in 0..PIECES_MAX {
            match log.file.read(&mut self.piece) {
                // The end of a file, or a pipe without writers.
                Ok(0) => return true,
                Ok(length) => {
                    log.at = log.at.saturating_add(length as u64);
                    let now = clock::now();
                    let found = self.found(now, length);
                    if found > 0 {
                        self.count = self.count.saturating_add(found);
                        post(now, self.count);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    if self.told.admit(clock::now(), AWAY) {
                        tracing::warn!(path = %self.path.display(), %error, "the RAN's log cannot be read: its failures are not seen; opening it again");
                    }
                    self.log = None;
                    return true;
                }
            }
            let Some(still) = &mut self.log else { return true };
            log = still;
        }
        false
    }

    /// Failures in the piece just read. What is above the limit is left out, and that is one failure a second.
    fn found(&mut self, now: Instant, length: usize) -> u64 {
        let bytes = length as u64;
        if self.budget.take(now, bytes) {
            return self.search.feed(&self.piece[..length]);
        }
        self.search.begin_anew();
        let skipped = self.log.as_mut().map_or(0, Log::skip);
        if self.told.admit(now, "flood") {
            let path = self.path.display();
            tracing::warn!(%path, skipped, limit = BYTES_PER_SECOND_MAX, "the RAN's log grows faster than it is searched; the rest of this second is left out, which means busy: lower its level");
        }
        u64::from(self.budget.just_spent(bytes))
    }

    /// Until something may have changed.
    fn sleep(&mut self, leave: BorrowedFd<'_>) {
        let pipe = self.log.as_ref().filter(|log| log.is_pipe).map(|log| log.file.as_fd());
        let span = if self.watch.is_some() || pipe.is_some() { LOOK_EVERY_WATCHED } else { LOOK_EVERY };
        let mut fds = vec![PollFd::from_borrowed_fd(leave, PollFlags::IN)];
        fds.extend(pipe.map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
        fds.extend(self.watch.as_ref().map(|watch| PollFd::new(watch, PollFlags::IN)));
        let timeout = Timespec::try_from(span).ok();
        // An error is a signal: the look that follows does no harm.
        let _ = poll(&mut fds, timeout.as_ref());
        let hung_up =
            pipe.is_some() && fds[1].revents().contains(PollFlags::HUP) && !fds[1].revents().contains(PollFlags::IN);
        if hung_up {
            self.hang_on();
        }
        if let Some(watch) = &self.watch {
            // What has changed is seen by looking.
            while rustix::io::read(watch, &mut self.piece[..]).is_ok() {}
        }
    }

    /// A pipe that could only be opened for reading says on and on that its last writer went. A fresh descriptor waits
    /// for the next one; it is there before the old one is closed, so no writer finds the pipe without a reader.
    fn hang_on(&mut self) {
        let fresh = Log::open(&self.path);
        if let (Some(log), Ok(fresh)) = (&mut self.log, fresh)
            && fresh.identity == log.identity
        {
            *log = fresh;
        } else {
            self.log = None;
        }
    }
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let found = std::fs::metadata(path)?;
        if !found.is_file() && !found.file_type().is_fifo() {
            return Err(io::Error::other(NO_LOG));
        }
        let open = |access: OFlags| rustix::fs::open(path, access | flags, Mode::empty());
        // With a writing end of our own a pipe never ends. That needs the permission to write.
        let file = if found.file_type().is_fifo() {
            open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY))?
        } else {
            open(OFlags::RDONLY)?
        };
        let file = File::from(file);
        let found = file.metadata()?;
        let is_pipe = found.file_type().is_fifo();
        if !is_pipe && !found.is_file() {
            return Err(io::Error::other(NO_LOG));
        }
        Ok(Self { file, identity: (found.dev(), found.ino()), is_pipe, at: 0 })
    }

    fn was_cut(&self) -> bool {
        !self.is_pipe && self.file.metadata().is_ok_and(|found| found.len() < self.at)
    }

    /// Goes to the end of a file; says how many bytes that left out. A pipe has no end to go to.
    fn skip(&mut self) -> u64 {
        let before = self.at;
        if !self.is_pipe {
            self.at = self.file.seek(SeekFrom::End(0)).unwrap_or(before);
        }
        self.at.saturating_sub(before)
    }
}

/// Becomes readable when a file comes into the folder of the path.
fn watch(path: &Path) -> Option<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    let folder = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
    inotify::add_watch(&watch, path.parent()?, folder).ok()?;
    Some(watch)
}
