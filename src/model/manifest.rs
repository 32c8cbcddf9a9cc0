//! What does `model.toml` say? Inputs, outputs, how media becomes tensors, how tensors become results.

use crate::tensor::DataType;
use crate::units::{Digest, Name};

/// A model's manifest, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Name by which jobs ask for it.
    pub name: Name,
    /// Version; a job without one gets the highest installed.
    pub version: u32,
    /// What it does, one sentence.
    pub summary: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Where the weights come from and how they were converted.
    pub source: String,
    /// ONNX file, relative to the model's folder, no `..`, not absolute.
    pub file: String,
    /// Digest of the ONNX file.
    pub digest: Digest,
    /// Inputs of the network, in its order.
    pub inputs: Vec<Port>,
    /// Outputs of the network, in its order.
    pub outputs: Vec<Port>,
    /// How a medium becomes the network's inputs; `None`: raw tensors only.
    pub prepare: Option<Prepare>,
    /// Names of the classes, one a line in `labels` (a file beside the manifest), empty when there are none.
    pub labels: Option<String>,
}

/// One input or output of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Name in the ONNX graph.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions; `None` where the job chooses (the plan is pinned to what it chose). Written -1 in TOML.
    pub shape: Vec<Option<usize>>,
    /// For inputs: fill with this value when the request leaves it out (recurrent state, sample rate). Needs a fixed shape.
    pub default: Option<f64>,
}

/// How an encoded medium, sent as a BYTES tensor named [`Prepare::accepts`], becomes the network's inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepare {
    /// Name of the BYTES tensor a job sends instead of raw inputs, e.g. `image`, `audio`, `content`.
    pub accepts: String,
    /// Which input of the network it fills.
    pub input: String,
}
