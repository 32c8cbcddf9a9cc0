//! The frames of an appraisal: what does a loaded model cost?

use std::time::Duration;

use super::codec::{Reader, Writer, cut};
use super::{BadFrame, NOTE_BYTES_MAX};
use crate::tensor::Tensor;
use crate::units::Digest;

/// Most runs that one frame can tell of.
pub const RUNS_MAX: usize = 64;

/// A loaded model to be measured, with the inputs of the item that loaded it.
#[derive(Clone, Debug, PartialEq)]
pub struct Appraise {
    /// Comes back with the answer.
    pub token: u64,
    /// Which model.
    pub digest: Digest,
    /// Runs to make, at most [`RUNS_MAX`]; fewer when `cpu` is used up.
    pub runs: u32,
    /// CPU time for all of them; one that has begun is finished.
    pub cpu: Duration,
    /// Heap that a run may use beyond what is loaded, in bytes.
    pub memory_bytes: u64,
    /// A medium or raw inputs.
    pub tensors: Vec<Tensor>,
}

/// What a loaded model costs. Times are CPU times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appraised {
    /// The token of the request.
    pub token: u64,
    /// What was said about the file before the engine saw it.
    pub preflight: Duration,
    /// Heap of the loaded network, in bytes.
    pub plan_bytes: u64,
    /// Operators of the loaded network.
    pub nodes: u32,
    /// Name of the operator that takes longest.
    pub worst_name: String,
    /// What it does.
    pub worst_op: String,
    /// How long it takes: the shortest of several times.
    pub worst: Duration,
    /// Each run of the network, at most [`RUNS_MAX`].
    pub runs: Vec<Duration>,
}

impl Appraise {
    pub(super) fn write(&self, mut writer: Writer) -> Writer {
        writer.u64(self.token);
        writer.digest(self.digest);
        writer.u32(self.runs);
        writer.span(self.cpu);
        writer.u64(self.memory_bytes);
        writer.tensors(&self.tensors);
        writer
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, BadFrame> {
        Ok(Self {
            token: reader.u64("token")?,
            digest: reader.digest()?,
            runs: reader.u32("runs")?,
            cpu: reader.span("cpu_ns")?,
            memory_bytes: reader.u64("memory_bytes")?,
            tensors: reader.tensors()?,
        })
    }
}

impl Appraised {
    pub(super) fn write(&self, mut writer: Writer) -> Writer {
        writer.u64(self.token);
        writer.span(self.preflight);
        writer.u64(self.plan_bytes);
        writer.u32(self.nodes);
        writer.text(cut(&self.worst_name, NOTE_BYTES_MAX));
        writer.text(cut(&self.worst_op, NOTE_BYTES_MAX));
        writer.span(self.worst);
        let runs = &self.runs[..self.runs.len().min(RUNS_MAX)];
        writer.length(runs.len());
        runs.iter().for_each(|run| writer.span(*run));
        writer
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, BadFrame> {
        Ok(Self {
            token: reader.u64("token")?,
            preflight: reader.span("preflight_ns")?,
            plan_bytes: reader.u64("plan_bytes")?,
            nodes: reader.u32("nodes")?,
            worst_name: reader.text("worst_name", NOTE_BYTES_MAX)?,
            worst_op: reader.text("worst_op", NOTE_BYTES_MAX)?,
            worst: reader.span("worst_ns")?,
            runs: {
                let count = reader.length("runs", RUNS_MAX)?;
                (0..count).map(|_| reader.span("run_ns")).collect::<Result<_, _>>()?
            },
        })
    }
}
