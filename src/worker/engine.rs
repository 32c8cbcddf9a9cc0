//! What must something be able to do to compute networks here? The border between the worker and its engine.
//!
//! An [`Engine`] turns the bytes of an ONNX file and the shapes that a request brings into a [`Plan`]; a plan turns inputs
//! into outputs and can be used again for the same shapes.

use std::time::Duration;

use crate::fault::Fault;
use crate::model::Port;
use crate::tensor::{DataType, Tensor};

/// One input as a request brings it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pinned {
    /// Name in the graph.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Length of each dimension.
    pub shape: Vec<usize>,
}

impl Pinned {
    /// What these tensors pin.
    pub fn of(tensors: &[Tensor]) -> Vec<Self> {
        let pin = |tensor: &Tensor| Self {
            name: tensor.name.clone(),
            datatype: tensor.datatype,
            shape: tensor.shape.clone(),
        };
        tensors.iter().map(pin).collect()
    }
}

/// Something that can compute networks.
pub trait Engine {
    /// Makes a plan for inputs of exactly these names, types and shapes, giving exactly these outputs.
    ///
    /// # Errors
    /// One of the codes `model.*`, see [`preflight`](super::preflight). May also panic,
    /// take any amount of memory and any time: the caller is prepared for all of it.
    fn load(&self, onnx: Vec<u8>, inputs: &[Pinned], outputs: &[Port]) -> Result<Box<dyn Plan>, Fault>;
}

/// A network, ready to compute for fixed shapes.
pub trait Plan {
    /// Computes the outputs, in the order asked for. Keeps nothing from one call to the next.
    ///
    /// # Errors
    /// `model.run` when an operator fails, `model.shape` when the outputs are not the ones declared,
    /// `output.too_large` when they are larger than any tensor may be.
    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Fault>;

    /// Computes once and takes the CPU time of every operator, in the order in which they run.
    ///
    /// # Errors
    /// As [`Plan::run`].
    fn survey(&self, inputs: Vec<Tensor>) -> Result<Survey, Fault>;
}

/// What a network is made of and what each part costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// CPU time of what was said about the file before the engine built the plan.
    pub preflight: Duration,
    /// Every operator, in the order in which they run; a loop counts as one.
    pub nodes: Vec<Node>,
}

/// One operator of a loaded network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name, made from that in the graph.
    pub name: String,
    /// What it does, in the engine's words.
    pub op: String,
    /// CPU time that it took.
    pub cpu: Duration,
}
