//! How was the load? Writes what a source said to a file that [`super::trace`] can replay.
//!
//! The sentinel's thread only puts readings into a bounded queue without locks; a thread of the recording's own writes
//! them. What was malformed leaves no line, so in the replay it is silence, which means the same: busy.
//!
//! A recording never harms what it records: readings that find no room in the queue, a full disk and the end of the
//! allowed size are told in the log once, and the source goes on. At each start the recording before is kept beside the
//! new one, with `.1` at the end of its name; an older one is lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::{Observation, Problem, Reading, Source, recording, shm, trace};
use crate::units::Instant;

/// Largest recording, in bytes: what can be replayed.
pub const BYTES_MAX: u64 = trace::BYTES_MAX;
/// Readings that wait to be written.
const QUEUE_MAX: usize = 4096;
/// Room for every line, so that nothing is allocated while it records.
const LINE_BYTES: usize = 256;
/// Time between two looks into the queue: 20 000 readings a second find room.
const WRITE_EVERY: Duration = Duration::from_millis(200);

/// Where one source is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file, made at the start.
    pub file: PathBuf,
    /// Size at which the recording ends, at most [`BYTES_MAX`].
    pub bytes_max: u64,
}

/// A source that is recorded.
pub(super) struct Recorded {
    inner: Box<dyn Source>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: ArrayQueue<(Instant, Reading)>,
    ended: AtomicBool,
    /// Readings that found no room.
    lost: AtomicU64,
}

impl Recorded {
    /// Makes the file and starts the thread. Times in the recording are counted from `began`.
    ///
    /// # Errors
    /// A file that cannot be made, or no thread.
    pub(super) fn start(inner: Box<dyn Source>, settings: &Settings, began: Instant) -> Result<Self, Problem> {
        let path = &settings.file;
        let writer = Writer::create(path, settings.bytes_max, began)?;
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(QUEUE_MAX),
            ended: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("neap-recorder".to_owned());
        let thread = thread.spawn(move || write_all(&theirs, writer));
        let remedy = "allow the agent more threads, or take `record` out";
        let thread = thread.map_err(|error| Problem::io("start a thread to record to", path, error, remedy))?;
        Ok(Self { inner, shared, thread: Some(thread) })
    }
}

impl Source for Recorded {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }

    fn next_poll(&self) -> Option<Instant> {
        self.inner.next_poll()
    }

    fn bell(&self) -> Option<shm::Bell> {
        self.inner.bell()
    }

    fn inbox(&self) -> Option<super::mqtt::Inbox> {
        self.inner.inbox()
    }

    fn read(&mut self, now: Instant, sink: &mut dyn FnMut(Observation)) {
        let shared = &self.shared;
        self.inner.read(now, &mut |observation| {
            // The load first: it may have to stop somebody.
            sink(observation);
            if let Ok(reading) = observation
                && shared.queue.push((now, reading)).is_err()
            {
                shared.lost.fetch_add(1, SeqCst);
            }
        });
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panics aborts the process, so there is no error to see here.
            let _ended = thread.join();
        }
    }
}

/// Writes what comes until the source is dropped.
fn write_all(shared: &Shared, mut writer: Writer) {
    let mut told_lost = false;
    loop {
        let ended = shared.ended.load(SeqCst);
        while let Some((at, reading)) = shared.queue.pop() {
            writer.append(at, &reading);
        }
        if !told_lost && shared.lost.load(SeqCst) > 0 {
            told_lost = true;
            tracing::warn!(file = %writer.path.display(), "readings come faster than they can be recorded; some are left out");
        }
        if ended {
            return;
        }
        std::thread::park_timeout(WRITE_EVERY);
    }
}

/// Writes lines to a file up to a limit.
#[derive(Debug)]
struct Writer {
    path: PathBuf,
    /// `None` once the recording has ended.
    file: Option<File>,
    began: Instant,
    bytes_left: u64,
    lines_left: usize,
    line: String,
}

impl Writer {
    fn create(path: &Path, bytes_max: u64, began: Instant) -> Result<Self, Problem> {
        let remedy = "choose a file in a directory that the agent's user may write";
        let failed = |error| Problem::io("make the recording", path, error, remedy);
        let mut before = path.as_os_str().to_owned();
        before.push(".1");
        match fs::rename(path, before) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        let (bytes_left, lines_left) = (bytes_max.min(BYTES_MAX), trace::LINES_MAX);
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            began,
            bytes_left,
            lines_left,
            line: String::with_capacity(LINE_BYTES),
        })
    }

    /// Appends a reading, unless the recording has ended.
    fn append(&mut self, at: Instant, reading: &Reading) {
        let Some(file) = &mut self.file else { return };
        recording::write_line(&mut self.line, at.since(self.began), &recording::line_of(reading));
        let path = self.path.display();
        match self.bytes_left.checked_sub(self.line.len() as u64).filter(|_| self.lines_left > 0) {
            None => {
                tracing::warn!(file = %path, "the recording has its full size and ends; the source goes on");
                self.file = None;
            }
            Some(left) => {
                (self.bytes_left, self.lines_left) = (left, self.lines_left - 1);
                if let Err(error) = file.write_all(self.line.as_bytes()) {
                    tracing::warn!(file = %path, %error, "the recording cannot be written and ends; the source goes on");
                    self.file = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
