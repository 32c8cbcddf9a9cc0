//! How do frames reach the worker? Over the socket that is its standard input, with files beside them (`SCM_RIGHTS`).
//!
//! Blocking: a worker has one thread and nothing else to do.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::protocol::{BadFrame, Frames, FromWorker, ToWorker};

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// Files that may wait for their frame; the agent sends one beside each [`ToWorker::Load`].
const FILES_MAX: usize = 4;

/// The worker's end of the socketpair.
#[derive(Debug)]
pub struct Channel<'a> {
    socket: BorrowedFd<'a>,
    frames: Frames,
    files: VecDeque<OwnedFd>,
    buffer: Vec<u8>,
}

/// Why the channel is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket failed.
    #[error("the socket to the agent failed: {0}")]
    Socket(#[from] io::Error),
    /// The agent sent something else than frames.
    #[error("the agent sent nonsense: {0}")]
    Frame(#[from] BadFrame),
    /// More files than frames that need one.
    #[error("the agent sent more than {FILES_MAX} files without a frame")]
    Files,
    /// The socket closed inside a frame.
    #[error("the agent went away in the middle of a frame")]
    Cut,
}

impl<'a> Channel<'a> {
    /// A channel over a connected stream socket.
    pub fn new(socket: BorrowedFd<'a>) -> Self {
        Self { socket, frames: Frames::default(), files: VecDeque::new(), buffer: vec![0; READ_BYTES] }
    }

    /// Waits for the next frame; `None` when the agent has closed its end.
    ///
    /// # Errors
    /// When the socket fails or what comes is not a frame: there is no way back into step, so the worker ends.
    pub fn receive(&mut self) -> Result<Option<ToWorker>, ChannelError> {
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                let message = ToWorker::decode(frame)?;
                self.frames.shrink();
                return Ok(Some(message));
            }
            if self.read()? == 0 {
                return if self.frames.is_empty() { Ok(None) } else { Err(ChannelError::Cut) };
            }
        }
    }

    /// The file that came beside the frame received last, if one did.
    pub fn take_file(&mut self) -> Option<File> {
        self.files.pop_front().map(File::from)
    }

    /// Sends a whole frame.
    ///
    /// # Errors
    /// When the agent is gone, or the frame is too long (then nothing was sent).
    pub fn send(&self, message: &FromWorker) -> Result<(), ChannelError> {
        let frame = message.encode()?;
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match send(self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<usize, ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut pieces = [IoSliceMut::new(&mut self.buffer)];
            match recvmsg(self.socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received.bytes,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        if self.files.len() > FILES_MAX {
            return Err(ChannelError::Files);
        }
        self.frames.extend(&self.buffer[..received]);
        Ok(received)
    }
}
