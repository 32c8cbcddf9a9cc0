//! How does the agent hold one worker process? Its start, its socket, what it writes to stderr, its end.
//!
//! All waiting is in [`Child::step`], which can be dropped at any moment without losing anything.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use super::protocol::{BadFrame, Frames, FromWorker};
use super::{infer, jail};
use crate::sys::join::{self, Joins};
use crate::sys::process::{self, Exit};
use crate::units::FRAME_BYTES_MAX;

/// Lines of stderr that are logged for one process; further ones are read and dropped.
pub const STDERR_LINES_MAX: usize = 50;
/// Longest line of stderr that is kept, in bytes.
pub const STDERR_LINE_BYTES_MAX: usize = 256;
/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// Frames that may wait to be sent: a model and an item, once more after the worker asked for the model.
const OUTGOING_MAX: usize = 8;

/// Address space beyond plans and items: the program, its stack, frames and what the allocator cannot use.
const ADDRESS_SLACK_BYTES: u64 = 512 * 1024 * 1024;

/// Address space of a worker whose plans and items may take so many bytes.
pub(super) fn address_bytes(plan_bytes: u64, item_bytes: u64) -> u64 {
    plan_bytes.saturating_add(item_bytes).saturating_add(ADDRESS_SLACK_BYTES)
}

/// How to start a worker process.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The binary.
    pub exe: &'a std::path::Path,
    /// Which worker of the node this is.
    pub slot: usize,
    /// The one core to run on; `None`: any.
    pub core: Option<usize>,
    /// What its plans may take, in bytes.
    pub plan_bytes: u64,
    /// Its address space, in bytes.
    pub address_bytes: u64,
    /// How its sandbox is to be.
    pub sandbox: jail::Policy,
    /// The page of the sentinel's beat, and how old the beat may become before the worker stops itself.
    pub dead_man: Option<(BorrowedFd<'a>, Duration)>,
}

/// One worker process and the agent's end of its socket. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    process: Option<std::process::Child>,
    pid: i32,
    slot: usize,
    socket: UnixStream,
    frames: Frames,
    outgoing: VecDeque<Outgoing>,
    buffer: Vec<u8>,
    stderr: Option<pipe::Receiver>,
    line: Vec<u8>,
    lines: usize,
    last_words: String,
}

#[derive(Debug)]
struct Outgoing {
    frame: Arc<Vec<u8>>,
    sent: usize,
    file: Option<OwnedFd>,
}

/// What a step brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A message.
    Message(Box<FromWorker>),
    /// Something moved, but there is nothing to tell.
    Quiet,
    /// The process has closed its socket, so it has ended or is about to.
    Gone,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Code or signal.
    pub exit: Exit,
    /// The last line it wrote to stderr; empty when there was none.
    pub last_words: String,
}

impl Child {
    /// Starts a worker process that dies with this thread, and is in its groups from before its first instruction.
    ///
    /// # Errors
    /// When the binary cannot be executed, or processes or descriptors have run out.
    pub fn spawn(start: &Start<'_>, groups: Option<Arc<Joins>>) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(start.exe);
        command.arg("worker");
        command.args(["--slot", &start.slot.to_string(), "--parent", &std::process::id().to_string()]);
        command.args(["--plan-bytes", &start.plan_bytes.to_string()]);
        command.args(["--address-bytes", &start.address_bytes.to_string()]);
        command.args(["--sandbox", start.sandbox.level.as_str(), "--user", &start.sandbox.user.to_string()]);
        if !start.sandbox.network {
            command.args(["--shared-network", "yes"]);
        }
        if let Some(core) = start.core {
            command.args(["--core", &core.to_string()]);
        }
        if let Some((page, limit)) = start.dead_man {
            command.args(["--dead-man-fd", &page.as_raw_fd().to_string()]);
            command.args(["--dead-man-ms", &limit.as_millis().to_string()]);
            process::pass_on(&mut command, page);
        }
        // The engine reads variables of its own; a backtrace would open files. A group of its own: Ctrl-C on a terminal is for
        // the agent, which ends its workers in order.
        command.env_clear().env("RUST_BACKTRACE", "0").current_dir("/").process_group(0);
        command.envs(infer::environment(start.core));
        // Both outputs are heard. Nothing is to be written to the first, and /dev/null, where it could go, is not everywhere.
        let (stderr, output) = io::pipe()?;
        command.stdin(OwnedFd::from(theirs)).stdout(output.try_clone()?).stderr(output);
        process::tie_to_parent(&mut command);
        if let Some(groups) = groups {
            join::join_before_exec(&mut command, groups);
        }
        let process = command.spawn()?;
        // `command` holds the worker's ends of socket and pipe open: without that no end of file would ever come.
        drop(command);
        let pid = i32::try_from(process.id()).map_err(io::Error::other)?;
        let stderr = pipe::Receiver::from_owned_fd(stderr.into());
        let mut child = Self {
            process: Some(process),
            pid,
            slot: start.slot,
            socket: UnixStream::from_std(ours)?,
            frames: Frames::default(),
            outgoing: VecDeque::new(),
            buffer: vec![0; READ_BYTES],
            stderr: None,
            line: Vec::new(),
            lines: 0,
            last_words: String::new(),
        };
        // Only here, so that a process that is not to be heard is killed.
        child.stderr = Some(stderr?);
        Ok(child)
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Queues a frame, and a file to travel beside its first byte.
    ///
    /// # Errors
    /// When too many frames wait already: a worker that does not read is no worker.
    pub fn send(&mut self, frame: Arc<Vec<u8>>, file: Option<OwnedFd>) -> Result<(), BadFrame> {
        if self.outgoing.len() >= OUTGOING_MAX {
            return Err(BadFrame::TooLong { bytes: (FRAME_BYTES_MAX * OUTGOING_MAX) as u64 });
        }
        self.outgoing.push_back(Outgoing { frame, sent: 0, file });
        Ok(())
    }

    /// Waits until something happens, and does what can be done without waiting more. Dropping the wait loses nothing.
    ///
    /// # Errors
    /// When what came is not a frame.
    pub async fn step(&mut self) -> Result<Step, BadFrame> {
        if let Some(frame) = self.frames.next_frame()? {
            let message = FromWorker::decode(frame)?;
            self.frames.shrink();
            return Ok(Step::Message(Box::new(message)));
        }
        let interest =
            if self.outgoing.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        tokio::select! {
            ready = self.socket.ready(interest) => {
                let Ok(ready) = ready else { return Ok(Step::Gone) };
                // A write fails when the process has gone; the read that follows tells.
                if ready.is_writable() && self.flush().is_err() {
                    self.outgoing.clear();
                }
                if ready.is_readable() && self.read() == 0 {
                    return Ok(Step::Gone);
                }
            }
            () = heard(self.stderr.as_ref()) => self.listen(),
        }
        Ok(Step::Quiet)
    }

    /// Kills the process, stopped or not. It is not reaped before [`Child::end`].
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            // Refused only when it has been reaped, which needs `self`.
            let _gone = process.kill();
        }
    }

    /// Waits for the end of the process and gives its id back to the kernel. Take it out of the gate before, and kill it.
    ///
    /// # Errors
    /// When the process cannot be waited for, which means that somebody else has reaped it.
    pub async fn end(mut self) -> io::Result<Ended> {
        self.reap().await
    }

    /// As [`Child::end`], for one that is still needed to be talked about.
    ///
    /// # Errors
    /// As [`Child::end`].
    pub(super) async fn reap(&mut self) -> io::Result<Ended> {
        let Some(mut process) = self.process.take() else {
            return Err(io::Error::other("the process was waited for already"));
        };
        let waited = tokio::task::spawn_blocking(move || process.wait()).await;
        let status = waited.map_err(io::Error::other)??;
        // What it wrote is still in the pipe, whose other end is closed now.
        self.listen();
        self.end_line();
        let exit = status.code().map(Exit::Code).or(status.signal().map(Exit::Signal));
        let exit = exit.ok_or_else(|| io::Error::other("neither an exit code nor a signal"))?;
        Ok(Ended { exit, last_words: std::mem::take(&mut self.last_words) })
    }

    /// Sends what the socket takes. An error means that the process has gone.
    fn flush(&mut self) -> io::Result<()> {
        while let Some(first) = self.outgoing.front_mut() {
            let rest = &first.frame[first.sent..];
            let sent = match &first.file {
                Some(file) => self.socket.try_io(Interest::WRITABLE, || send_with_file(&self.socket, rest, file)),
                None => self.socket.try_write(rest),
            };
            match sent {
                Ok(sent) => {
                    first.sent += sent;
                    first.file = None;
                    if first.sent == first.frame.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once; 0 when the process has closed its end.
    fn read(&mut self) -> usize {
        match self.socket.try_read(&mut self.buffer) {
            Ok(bytes) => {
                self.frames.extend(&self.buffer[..bytes]);
                bytes
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => usize::MAX,
            Err(_) => 0,
        }
    }

    /// Reads what is there of stderr, line by line.
    fn listen(&mut self) {
        let mut bytes = [0; 1024];
        // Bounded, so that a babbling worker does not keep the agent here.
        for _ in 0..16 {
            let Some(stderr) = &self.stderr else { return };
            match stderr.try_read(&mut bytes) {
                Ok(0) => self.stderr = None,
                Ok(read) => bytes[..read].iter().for_each(|byte| self.hear(*byte)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stderr = None,
            }
        }
    }

    fn hear(&mut self, byte: u8) {
        if byte == b'\n' {
            self.end_line();
        } else if self.line.len() < STDERR_LINE_BYTES_MAX {
            self.line.push(byte);
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
        if line.is_empty() {
            return;
        }
        self.lines += 1;
        if self.lines <= STDERR_LINES_MAX {
            tracing::warn!(slot = self.slot, pid = self.pid, "worker says: {line}");
        }
        self.last_words = line;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut process) = self.process.take() {
            // Killed, so this is short; without it the process would stay a zombie.
            let _gone = process.wait();
        }
    }
}

/// Waits until stderr has something; for ever when it is closed.
async fn heard(stderr: Option<&pipe::Receiver>) {
    match stderr {
        // An error shows again, and is handled, when it is read.
        Some(stderr) => _ = stderr.readable().await,
        None => std::future::pending().await,
    }
}

fn send_with_file(socket: &UnixStream, bytes: &[u8], file: &OwnedFd) -> io::Result<usize> {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room for a descriptor beside the frame"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}
