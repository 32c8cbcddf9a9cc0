//! What can be said of a model's file before the engine sees it?
//!
//! The engine answers a bad model with a panic, an abort, an endless loop, all the memory there is, or silently with
//! wrong numbers. So everything that can be judged from the file alone is judged here, in time that grows with the file
//! and not faster: first the bytes as protobuf (`wire`), then each graph (`graph`), its operators (`operators`), their
//! attributes (`attributes`), the constants that drive sizes (`sizes`) and the ports (`ports`). What passes may still be
//! bad: the worker limits memory and catches panics, and the agent limits time.
//!
//! Symbols of open dimensions may be any short ASCII text, because exporters write expressions there; none of them
//! reaches the engine: they are forgotten, in inner graphs too, because all shapes are pinned.

mod attributes;
mod facts;
mod graph;
mod operators;
mod ports;
mod sizes;
mod tensors;
mod text;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use prost::Message as _;

pub use self::attributes::{ATTRIBUTES_MAX, AXIS_MAX, LIST_MAX, LIST_ML_MAX, PAD_MAX, STEP_MAX};
pub use self::sizes::{SCALE_MAX, STEPS_MAX};
pub use self::tensors::{AXES_MAX, DIMENSION_MAX};
pub(super) use self::text::Brief;
use self::text::{Named, refuse};
pub use self::wire::{DEPTH_MAX, FIELDS_MAX, MESSAGES_MAX, PACKED_BYTES_MAX};
use super::engine::Pinned;
use super::infer::onnx;
use crate::fault::{Code, Fault};
use crate::model::Port;
use crate::units::MODEL_BYTES_MAX;

/// Most operators in one model, its inner graphs included: the optimiser's time grows with their square.
pub const NODES_MAX: usize = 5_000;
/// Most constants in one model.
pub const INITIALISERS_MAX: usize = 20_000;
/// Deepest nesting of inner graphs (If, Scan).
pub const GRAPH_DEPTH_MAX: usize = 4;
/// Most inputs or outputs of one operator.
pub const LINKS_MAX: usize = 1_024;
/// Longest name of a node or value, in bytes.
pub const NAME_BYTES_MAX: usize = 1_024;
/// Longest symbolic dimension, in bytes.
pub const SYMBOL_BYTES_MAX: usize = 64;
/// Versions of the file format that are read.
pub const IR_VERSIONS: (i64, i64) = (3, 13);

/// Something worth knowing about a model that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// It quantises what it computes, not only its constants.
    QuantisedActivations,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QuantisedActivations => {
                "the model quantises its activations, which the engine is known to round differently; trust it only with \
                 golden cases, or quantise its weights alone"
            }
        })
    }
}

/// A model that has passed.
#[derive(Clone, Debug)]
pub struct Cleared {
    /// What the engine may build: only the outputs asked for, no symbols, no hints of the exporter.
    pub(super) model: onnx::ModelProto,
    /// What is worth knowing.
    pub remarks: Vec<Remark>,
}

/// Decodes and judges the file of a model. `knows` says whether the engine has an operator.
///
/// # Errors
/// One of the codes `model.*`, whose sentence names the place, the value and what is allowed.
pub fn inspect(
    file: &[u8],
    knows: &dyn Fn(&str) -> bool,
    inputs: &[Pinned],
    outputs: &[Port],
) -> Result<Cleared, Fault> {
    if file.len() as u64 > MODEL_BYTES_MAX {
        let text = format!("the file is {} bytes long, at most {MODEL_BYTES_MAX} are allowed", file.len());
        return refuse(Code::ModelTooLarge, text + "; store its weights as integers or half floats");
    }
    wire::check(file)?;
    let mut model = onnx::ModelProto::decode(file).map_err(|error| {
        let text = format!("this is not a readable ONNX file: {}; export the model again", Brief::of(&error));
        Fault::new(Code::ModelParse, text)
    })?;
    let (chosen, remarks) = check(&model, knows, inputs, outputs)?;
    if let Some(graph) = &mut model.graph {
        let mut given: Vec<_> = std::mem::take(&mut graph.output).into_iter().map(Some).collect();
        // The same output may be declared once only, so each is there to be taken.
        graph.output = chosen.into_iter().filter_map(|at| given.get_mut(at)?.take()).collect();
        forget_hints(graph);
    }
    Ok(Cleared { model, remarks })
}

/// Judges a decoded model; `Ok` are the places of the outputs asked for, and remarks.
fn check(
    model: &onnx::ModelProto,
    knows: &dyn Fn(&str) -> bool,
    inputs: &[Pinned],
    outputs: &[Port],
) -> Result<(Vec<usize>, Vec<Remark>), Fault> {
    let Some(graph) = &model.graph else {
        return refuse(Code::ModelParse, "the file holds no graph; export the model to ONNX again");
    };
    let imports = check_head(model)?;
    let shapes: Vec<_> = inputs
        .iter()
        .map(|pinned| (pinned.name.as_str(), pinned.shape.iter().map(|length| Some(*length as u64)).collect()))
        .collect();
    let mut walk = graph::Walk { knows, imports, nodes: 0, initialisers: 0, tensor_bytes: 0, remarks: Vec::new() };
    walk.graph(graph, &shapes, None, 0)?;
    ports::check_inputs(graph, inputs)?;
    Ok((ports::check_outputs(graph, outputs)?, walk.remarks))
}

/// What stands around the graph; `Ok` are the operator sets that the model imports.
fn check_head(model: &onnx::ModelProto) -> Result<HashMap<&str, i64>, Fault> {
    let (oldest, newest) = IR_VERSIONS;
    if !(oldest..=newest).contains(&model.ir_version) {
        let text = format!(
            "the file is of ir_version {}, {oldest} to {newest} are read; export the model again",
            model.ir_version
        );
        return refuse(Code::ModelOpset, text);
    }
    if let Some(function) = model.functions.first() {
        let name = function.name.as_deref().unwrap_or_default();
        let text = format!("the model defines a function {}, which is not served; export it inlined", Named(name));
        return refuse(Code::ModelUnsupportedOp, text);
    }
    if !model.training_info.is_empty() {
        return refuse(Code::ModelUnsupportedOp, "the model holds instructions for training; export it for inference");
    }
    let mut imports = HashMap::new();
    for import in &model.opset_import {
        let domain = operators::domain(&import.domain);
        if imports.insert(domain, import.version).is_some() {
            let text = format!("the model imports the operator set {} twice; export it again", Named(domain));
            return refuse(Code::ModelOpset, text);
        }
        // Others are imported by habit; their operators are refused one by one.
        let Some(set) = operators::set(domain) else { continue };
        let (lowest, highest) = set.versions;
        if !(lowest..=highest).contains(&import.version) {
            let text = format!(
                "the model is of operator set {domain} version {}, {lowest} to {highest} are served; export it for one \
                 of these",
                import.version
            );
            return refuse(Code::ModelOpset, text);
        }
    }
    if !imports.contains_key("ai.onnx") {
        return refuse(
            Code::ModelOpset,
            "the model does not say which version of ONNX's operators it needs; export it again",
        );
    }
    Ok(imports)
}

/// Takes away what the engine would parse but need not: symbols of dimensions and what the exporter thought of shapes.
fn forget_hints(graph: &mut onnx::GraphProto) {
    graph.value_info.clear();
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        let Some(onnx::TypeProto { value: Some(onnx::type_proto::Value::TensorType(tensor)), .. }) = &mut value.r#type
        else {
            continue;
        };
        for dim in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim) {
            if !matches!(dim.value, Some(onnx::tensor_shape_proto::dimension::Value::DimValue(length)) if length > 0) {
                dim.value = None;
            }
        }
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(forget_hints);
    }
}
