//! What do agent and worker say to each other? Length-prefixed frames over a socketpair, pure and without serde.
//!
//! A frame is its length (u32, little-endian, bytes that follow), its kind (u8) and a body of integers (little-endian),
//! texts and tensors (each with its length in front). The agent takes the worker for hostile after any mistake here: a
//! model may have taken the process over. So every count is checked against `units` and against the bytes that are
//! there before anything is allocated, a code must be a known one, and nothing may follow the body.
//!
//! A model's bytes never travel in a frame: a [sealed](super::sealed) memory file travels beside [`ToWorker::Load`] as
//! `SCM_RIGHTS`, so a worker needs no right to open files.

pub mod appraise;
mod codec;
mod sandbox;

use std::time::Duration;

use self::appraise::{Appraise, Appraised};
use self::codec::{Reader, Writer, cut};
use super::jail::achieved::Achieved;
use crate::fault::Fault;
use crate::tensor::Tensor;
use crate::units::{Digest, FRAME_BYTES_MAX};

/// Bytes of a frame's length prefix.
pub const PREFIX_BYTES: usize = 4;
/// Most elements of a BYTES tensor in a frame: each costs the reader more than the four bytes it may have.
pub const STRINGS_MAX: usize = 64 * 1024;
/// Most notes in a [`Hello`].
pub const NOTES_MAX: usize = 16;
/// Longest note or version in a [`Hello`], in bytes.
pub const NOTE_BYTES_MAX: usize = 512;

const LOAD: u8 = 1;
const RUN: u8 = 2;
const FORGET: u8 = 3;
const APPRAISE: u8 = 4;
const HELLO: u8 = 129;
const DONE: u8 = 130;
const FAILED: u8 = 131;
const NEED_MODEL: u8 = 132;
const PARKED: u8 = 133;
const APPRAISED: u8 = 134;

/// What the agent says.
#[derive(Clone, Debug, PartialEq)]
pub enum ToWorker {
    /// Here is a model; its file travels beside this frame.
    Load(Load),
    /// Compute.
    Run(Run),
    /// This model will not be asked for again.
    Forget(Digest),
    /// Measure a model that is loaded.
    Appraise(Appraise),
}

/// A model for the worker to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Digest that the file must have.
    pub digest: Digest,
    /// The text of `model.toml`, as the agent read and checked it.
    pub manifest: String,
    /// Names of the classes, one a line.
    pub labels: String,
}

/// One item to compute.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Which job's attempt; comes back with the answer.
    pub token: u64,
    /// Which item of it; comes back with the answer.
    pub item: u32,
    /// Which model.
    pub digest: Digest,
    /// Whether the outputs are to be turned into what `model.toml` says they mean.
    pub interpret: bool,
    /// Heap that the item may use beyond what is loaded, in bytes.
    pub memory_bytes: u64,
    /// Longest output, all tensors together, in bytes.
    pub output_bytes: u64,
    /// A medium or raw inputs.
    pub tensors: Vec<Tensor>,
}

/// What the worker says.
#[derive(Clone, Debug, PartialEq)]
pub enum FromWorker {
    /// The process is ready.
    Hello(Hello),
    /// The item is computed.
    Done(Done),
    /// The item cannot be computed.
    Failed(Failed),
    /// The item's model is not here (any more): load it and ask again.
    NeedModel(NeedModel),
    /// The process stopped itself while it was at the item whose answer follows.
    Parked(Parked),
    /// What a loaded model costs.
    Appraised(Appraised),
}

/// First frame of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the binary.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// What the jail could not do, one sentence each; empty when all was done.
    pub notes: Vec<String>,
    /// What its sandbox has come to.
    pub sandbox: Achieved,
}

/// Output of one item and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// The token of the request.
    pub token: u64,
    /// The item of the request.
    pub item: u32,
    /// CPU time of preparing, running and interpreting.
    pub cpu: Duration,
    /// Time from request to answer, stops included.
    pub wall: Duration,
    /// CPU time of loading the model, when this item was the first that needed it.
    pub load_cpu: Option<Duration>,
    /// Highest use of heap while the item was worked on, loaded models included, in bytes.
    pub peak_bytes: u64,
    /// What came out.
    pub tensors: Vec<Tensor>,
}

/// Why an item has no output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The token of the request.
    pub token: u64,
    /// The item of the request.
    pub item: u32,
    /// What went wrong.
    pub fault: Fault,
}

/// Which item waits for which model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedModel {
    /// The token of the request.
    pub token: u64,
    /// The item of the request.
    pub item: u32,
    /// The model it needs.
    pub digest: Digest,
}

/// How often and how long a worker stopped itself because the sentinel was silent, since it last said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// How often.
    pub times: u32,
    /// How long in all; stops from outside do not count.
    pub time: Duration,
}

/// Why some bytes are not a frame, or something does not fit one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Longer than any frame may be.
    #[error("a frame of {bytes} bytes is above the limit of {FRAME_BYTES_MAX}")]
    TooLong {
        /// How long it is.
        bytes: u64,
    },
    /// No kind, or not one of this direction.
    #[error("a frame of unknown kind {kind}")]
    Kind {
        /// The kind byte; 0 when the frame is empty.
        kind: u8,
    },
    /// The body ends before its last field.
    #[error("the frame ends inside {field}")]
    Short {
        /// Which field is cut.
        field: &'static str,
    },
    /// The body goes on after its last field.
    #[error("the frame has {bytes} bytes too many")]
    Long {
        /// How many.
        bytes: usize,
    },
    /// A field that is out of range.
    #[error("the frame's {field} is not acceptable: {why}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl ToWorker {
    /// The whole frame, length prefix included.
    ///
    /// # Errors
    /// When it would be longer than [`FRAME_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, BadFrame> {
        match self {
            Self::Load(load) => load.encode(),
            Self::Run(run) => run.encode(),
            Self::Forget(digest) => {
                let mut writer = Writer::new(FORGET);
                writer.digest(*digest);
                writer.finish()
            }
            Self::Appraise(appraise) => appraise.write(Writer::new(APPRAISE)).finish(),
        }
    }

    /// Reads a frame without its length prefix.
    ///
    /// # Errors
    /// On anything that [`ToWorker::encode`] does not write.
    pub fn decode(frame: &[u8]) -> Result<Self, BadFrame> {
        let (kind, mut reader) = Reader::new(frame)?;
        let message = match kind {
            LOAD => Self::Load(Load {
                digest: reader.digest()?,
                manifest: reader.text("manifest", FRAME_BYTES_MAX)?,
                labels: reader.text("labels", FRAME_BYTES_MAX)?,
            }),
            RUN => Self::Run(Run {
                token: reader.u64("token")?,
                item: reader.u32("item")?,
                digest: reader.digest()?,
                interpret: reader.flag("interpret")?,
                memory_bytes: reader.u64("memory_bytes")?,
                output_bytes: reader.u64("output_bytes")?,
                tensors: reader.tensors()?,
            }),
            FORGET => Self::Forget(reader.digest()?),
            APPRAISE => Self::Appraise(Appraise::read(&mut reader)?),
            kind => return Err(BadFrame::Kind { kind }),
        };
        reader.finish()?;
        Ok(message)
    }
}

impl Load {
    /// The whole frame, length prefix included.
    ///
    /// # Errors
    /// When it would be longer than [`FRAME_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, BadFrame> {
        let mut writer = Writer::new(LOAD);
        writer.digest(self.digest);
        writer.text(&self.manifest);
        writer.text(&self.labels);
        writer.finish()
    }
}

impl Run {
    /// The whole frame, length prefix included.
    ///
    /// # Errors
    /// When it would be longer than [`FRAME_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, BadFrame> {
        let mut writer = Writer::new(RUN);
        writer.u64(self.token);
        writer.u32(self.item);
        writer.digest(self.digest);
        writer.u8(u8::from(self.interpret));
        writer.u64(self.memory_bytes);
        writer.u64(self.output_bytes);
        writer.tensors(&self.tensors);
        writer.finish()
    }
}

impl FromWorker {
    /// The whole frame, length prefix included.
    ///
    /// # Errors
    /// When it would be longer than [`FRAME_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, BadFrame> {
        let writer = match self {
            Self::Hello(hello) => hello.write(),
            Self::Done(done) => done.write(),
            Self::Failed(Failed { token, item, fault }) => {
                let mut writer = Writer::new(FAILED);
                writer.u64(*token);
                writer.u32(*item);
                writer.text(fault.code.as_str());
                writer.text(&fault.message);
                writer
            }
            Self::NeedModel(NeedModel { token, item, digest }) => {
                let mut writer = Writer::new(NEED_MODEL);
                writer.u64(*token);
                writer.u32(*item);
                writer.digest(*digest);
                writer
            }
            Self::Parked(Parked { times, time }) => {
                let mut writer = Writer::new(PARKED);
                writer.u32(*times);
                writer.span(*time);
                writer
            }
            Self::Appraised(appraised) => appraised.write(Writer::new(APPRAISED)),
        };
        writer.finish()
    }

    /// Reads a frame without its length prefix.
    ///
    /// # Errors
    /// On anything that [`FromWorker::encode`] does not write.
    pub fn decode(frame: &[u8]) -> Result<Self, BadFrame> {
        let (kind, mut reader) = Reader::new(frame)?;
        let message = match kind {
            HELLO => Self::Hello(Hello {
                version: reader.text("version", NOTE_BYTES_MAX)?,
                pid: reader.u32("pid")?,
                notes: reader.notes()?,
                sandbox: reader.sandbox()?,
            }),
            DONE => Self::Done(Done {
                token: reader.u64("token")?,
                item: reader.u32("item")?,
                cpu: reader.span("cpu_ns")?,
                wall: reader.span("wall_ns")?,
                load_cpu: if reader.flag("loaded")? { Some(reader.span("load_cpu_ns")?) } else { None },
                peak_bytes: reader.u64("peak_bytes")?,
                tensors: reader.tensors()?,
            }),
            FAILED => {
                Self::Failed(Failed { token: reader.u64("token")?, item: reader.u32("item")?, fault: reader.fault()? })
            }
            NEED_MODEL => Self::NeedModel(NeedModel {
                token: reader.u64("token")?,
                item: reader.u32("item")?,
                digest: reader.digest()?,
            }),
            PARKED => Self::Parked(Parked { times: reader.u32("times")?, time: reader.span("parked_ns")? }),
            APPRAISED => Self::Appraised(Appraised::read(&mut reader)?),
            kind => return Err(BadFrame::Kind { kind }),
        };
        reader.finish()?;
        Ok(message)
    }
}

impl Hello {
    fn write(&self) -> Writer {
        let mut writer = Writer::new(HELLO);
        writer.text(cut(&self.version, NOTE_BYTES_MAX));
        writer.u32(self.pid);
        let notes = &self.notes[..self.notes.len().min(NOTES_MAX)];
        writer.length(notes.len());
        for note in notes {
            writer.text(cut(note, NOTE_BYTES_MAX));
        }
        writer.sandbox(&self.sandbox);
        writer
    }
}

impl Done {
    fn write(&self) -> Writer {
        let mut writer = Writer::new(DONE);
        writer.u64(self.token);
        writer.u32(self.item);
        writer.span(self.cpu);
        writer.span(self.wall);
        writer.u8(u8::from(self.load_cpu.is_some()));
        if let Some(cpu) = self.load_cpu {
            writer.span(cpu);
        }
        writer.u64(self.peak_bytes);
        writer.tensors(&self.tensors);
        writer
    }
}

/// Bytes of data in some tensors, all together.
pub fn data_bytes(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|tensor| tensor.data.len() as u64).sum()
}

// ---- streams of frames ----

/// Cuts a stream of bytes into frames. Holds at most one frame and what came in one read behind it.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    taken: usize,
}

impl Frames {
    /// Adds what was read.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, without its length prefix; `None` when more must be read.
    ///
    /// # Errors
    /// When the frame to come is announced longer than [`FRAME_BYTES_MAX`].
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, BadFrame> {
        let rest = &self.bytes[self.taken..];
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(BadFrame::TooLong { bytes: length as u64 });
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.taken + PREFIX_BYTES;
        self.taken = start + length;
        Ok(Some(&self.bytes[start..self.taken]))
    }

    /// Whether every byte was taken as part of a frame.
    pub fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Gives back the memory of a long frame once all frames are taken.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.taken = 0;
            self.bytes.shrink_to(64 * 1024);
        }
    }
}

#[cfg(test)]
mod tests;
