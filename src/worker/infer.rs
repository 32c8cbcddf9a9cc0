//! How is a network computed? By tract, which only this file names.
//!
//! Shapes are always pinned: tract is ten times slower with open dimensions, and some graphs cannot even be typed with
//! them.
//!
//! What is wrong with a file is said before tract sees it where that is possible (`Preflight`), because tract's own
//! answer may be a panic, an abort or a silently wrong result. The caller still catches panics and limits memory.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tract_onnx::pb;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, TValue, TractError, TractResult,
    TypedRunnableModel, tensor1, tract_linalg,
};

use super::engine::{Engine, Node, Pinned, Plan, Survey};
use crate::fault::{Code, Fault};
use crate::model::Port;
use crate::sys::clock;
use crate::tensor::{DataType, Tensor, elements};
use crate::units::{ELEMENTS_MAX, FAULT_TEXT_BYTES_MAX, MODEL_BYTES_MAX};

/// Most operators in one model, its inner graphs included: the optimiser's time grows with their square.
pub const NODES_MAX: usize = 5_000;
/// Deepest nesting of inner graphs (If, Loop, Scan).
pub const GRAPH_DEPTH_MAX: usize = 4;
/// Longest symbolic dimension, in bytes: tract's parser recurses over it.
pub const DIM_PARAM_BYTES_MAX: usize = 128;
/// Operator sets that tract knows. It looks operators up by name alone, so others would be mistaken for these.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];

/// The engine and its version: what a model costs, and whether it loads at all, holds for these only.
pub const ENGINE: &str = "tract-onnx 0.23.9";

const _: () = assert!(cfg!(target_endian = "little"), "tensors are handed to the engine as they are in memory");

/// The engine in use.
pub fn engine() -> Box<dyn Engine> {
    // Shapes that the exporter wrote for its own batch contradict the pinned ones: only the graph counts.
    Box::new(Tract { onnx: tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true) })
}

/// Has the engine look at the processor and its caches, which it does in files: a locked-in worker has none to read.
pub fn warm_up() {
    tract_linalg::isa::native();
    tract_linalg::cache::last_level_cache();
}

struct Tract {
    onnx: tract_onnx::Onnx,
}

impl Engine for Tract {
    fn load(&self, onnx: Vec<u8>, inputs: &[Pinned], outputs: &[Port]) -> Result<Box<dyn Plan>, Fault> {
        let mut proto = self.onnx.proto_model_for_read(&mut onnx.as_slice()).map_err(|error| parse(&error))?;
        drop(onnx);
        let knows = |op: &str| self.onnx.op_register.0.contains_key(op);
        let before = clock::own_cpu();
        Preflight { knows: &knows, nodes: 0 }.check(&mut proto, inputs, outputs)?;
        let preflight = clock::own_cpu().saturating_sub(before);
        let mut model = self.onnx.model_for_proto_model(&proto).map_err(|error| refused(Code::ModelParse, &error))?;
        drop(proto);
        let pinned = pin(&mut model, inputs);
        let plan = pinned
            .and_then(|()| model.into_optimized())
            .and_then(|model| model.into_runnable())
            .map_err(|error| refused(Code::ModelShape, &error))?;
        Ok(Box::new(TractPlan { plan, outputs: outputs.to_vec(), preflight }))
    }
}

/// Puts the graph's inputs into the request's order, with the request's shapes.
fn pin(model: &mut tract_onnx::prelude::InferenceModel, inputs: &[Pinned]) -> TractResult<()> {
    let mut outlets = Vec::with_capacity(inputs.len());
    for input in inputs {
        let graph_inputs = model.input_outlets()?;
        let outlet = graph_inputs.iter().find(|outlet| model.node(outlet.node).name == input.name);
        outlets.push(*outlet.ok_or_else(|| TractError::msg(format!("the graph has no input {:?}", input.name)))?);
    }
    model.set_input_outlets(&outlets)?;
    for (at, input) in inputs.iter().enumerate() {
        model.set_input_fact(at, InferenceFact::dt_shape(to_datum(input.datatype), input.shape.as_slice()))?;
    }
    Ok(())
}

// === impl TractPlan ===

struct TractPlan {
    plan: Arc<TypedRunnableModel>,
    outputs: Vec<Port>,
    preflight: Duration,
}

impl Plan for TractPlan {
    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Fault> {
        let values = inputs.into_iter().map(to_value).collect::<Result<_, Fault>>()?;
        let values = self.plan.run(values).map_err(|error| failed(&error))?;
        self.outputs.iter().zip(&values).map(|(port, value)| from_value(port, value)).collect()
    }

    fn survey(&self, inputs: Vec<Tensor>) -> Result<Survey, Fault> {
        let values = inputs.into_iter().map(to_value).collect::<Result<_, Fault>>()?;
        let mut nodes = Vec::new();
        let mut state = self.plan.spawn().map_err(|error| failed(&error))?;
        let run = state.run_plan_with_eval(values, |context, op_state, node, inputs| {
            let before = clock::own_cpu();
            let outputs = tract_onnx::tract_core::plan::eval(context, op_state, node, inputs);
            let cpu = clock::own_cpu().saturating_sub(before);
            nodes.push(Node { name: node.name.clone(), op: node.op.name().into_owned(), cpu });
            outputs
        });
        run.map_err(|error| failed(&error))?;
        Ok(Survey { preflight: self.preflight, nodes })
    }
}

fn failed(error: &TractError) -> Fault {
    Fault::new(Code::ModelRun, format!("the model failed while it ran: {}", Brief::of(error)))
}

fn to_value(tensor: Tensor) -> Result<TValue, Fault> {
    let failed = |error: &TractError| {
        Fault::new(Code::ModelRun, format!("input {:?} cannot be handed over: {}", tensor.name, Brief::of(error)))
    };
    let made = match tensor.datatype {
        DataType::Bytes => {
            let strings = tensor.to_strings().unwrap_or_default();
            let strings = strings.into_iter().map(|string| String::from_utf8(string.to_vec()));
            let strings: Vec<String> = strings.collect::<Result<_, _>>().map_err(|error| {
                let text = format!("input {:?} goes into the network as text and must be UTF-8: {error}", tensor.name);
                Fault::new(Code::InputDecode, text)
            })?;
            tensor1(&strings).into_shape(&tensor.shape)
        }
        DataType::Bool
        | DataType::Uint8
        | DataType::Uint16
        | DataType::Uint32
        | DataType::Uint64
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Fp16
        | DataType::Fp32
        | DataType::Fp64 => plain(&tensor),
    };
    made.map(IntoTValue::into_tvalue).map_err(|error| failed(&error))
}

/// A tensor of numbers in tract's form.
fn plain(tensor: &Tensor) -> TractResult<tract_onnx::prelude::Tensor> {
    let mut made = tract_onnx::prelude::Tensor::zero_dt(to_datum(tensor.datatype), &tensor.shape)?;
    let bytes = made.as_bytes_mut();
    if bytes.len() != tensor.data.len() {
        return Err(TractError::msg(format!("{} bytes expected, {} given", bytes.len(), tensor.data.len())));
    }
    if tensor.datatype == DataType::Bool {
        // A Rust bool of any other value than 0 and 1 would be undefined behaviour.
        bytes.iter_mut().zip(&tensor.data).for_each(|(made, given)| *made = u8::from(*given != 0));
    } else {
        bytes.copy_from_slice(&tensor.data);
    }
    Ok(made)
}

fn from_value(port: &Port, value: &TValue) -> Result<Tensor, Fault> {
    let unreadable = |error: &TractError| {
        Fault::new(Code::ModelRun, format!("output {:?} cannot be read: {}", port.name, Brief::of(error)))
    };
    let shape = value.shape().to_vec();
    let declared = from_datum(value.datum_type()) == Some(port.datatype) && port.accepts_shape(&shape);
    if !declared {
        let text = format!(
            "output {:?} is {:?} of shape {shape:?}, but model.toml declares {} of shape {:?}; correct model.toml",
            port.name,
            value.datum_type(),
            port.datatype,
            port.shape
        );
        return Err(Fault::new(Code::ModelShape, text));
    }
    if elements(&shape).is_none() {
        let text = format!("output {:?} of shape {shape:?} is above the limit of {ELEMENTS_MAX} elements", port.name);
        return Err(Fault::new(Code::OutputTooLarge, text));
    }
    let data = match port.datatype {
        DataType::Bytes => {
            let view = value.try_as_plain_ram().and_then(|view| view.as_slice::<String>());
            Tensor::strings("", view.map_err(|error| unreadable(&error))?).data
        }
        DataType::Int64 if value.datum_type() == DatumType::TDim => {
            let numbers: Cow<'_, _> = value.cast_to::<i64>().map_err(|error| unreadable(&error))?;
            numbers.as_bytes().to_vec()
        }
        DataType::Bool
        | DataType::Uint8
        | DataType::Uint16
        | DataType::Uint32
        | DataType::Uint64
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Fp16
        | DataType::Fp32
        | DataType::Fp64 => {
            value.try_as_plain_ram().map_err(|error| unreadable(&error))?;
            value.as_bytes().to_vec()
        }
    };
    Tensor::new(&port.name, port.datatype, shape, data)
        .map_err(|error| Fault::new(Code::OutputTooLarge, error.to_string()))
}

fn to_datum(datatype: DataType) -> DatumType {
    match datatype {
        DataType::Bool => DatumType::Bool,
        DataType::Uint8 => DatumType::U8,
        DataType::Uint16 => DatumType::U16,
        DataType::Uint32 => DatumType::U32,
        DataType::Uint64 => DatumType::U64,
        DataType::Int8 => DatumType::I8,
        DataType::Int16 => DatumType::I16,
        DataType::Int32 => DatumType::I32,
        DataType::Int64 => DatumType::I64,
        DataType::Fp16 => DatumType::F16,
        DataType::Fp32 => DatumType::F32,
        DataType::Fp64 => DatumType::F64,
        DataType::Bytes => DatumType::String,
    }
}

/// The type in which a value leaves the worker; symbolic dimensions leave as the integers they are.
fn from_datum(datum: DatumType) -> Option<DataType> {
    if datum == DatumType::TDim {
        return Some(DataType::Int64);
    }
    DataType::ALL.into_iter().find(|datatype| to_datum(*datatype) == datum.unquantized())
}

// === impl Preflight ===

/// What can be said about a model before the engine builds it.
struct Preflight<'a> {
    knows: &'a dyn Fn(&str) -> bool,
    nodes: usize,
}

impl Preflight<'_> {
    /// Refuses what the engine would choke on, and reduces the graph to the outputs asked for.
    fn check(&mut self, proto: &mut pb::ModelProto, inputs: &[Pinned], outputs: &[Port]) -> Result<(), Fault> {
        let Some(graph) = &mut proto.graph else {
            return Err(Fault::new(Code::ModelParse, "the file holds no graph; export the model to ONNX again"));
        };
        self.graph(graph, 0)?;
        check_inputs(graph, inputs)?;
        select_outputs(graph, outputs)?;
        for input in &mut graph.input {
            forget_symbols(input);
        }
        Ok(())
    }

    fn graph(&mut self, graph: &pb::GraphProto, depth: usize) -> Result<(), Fault> {
        if depth > GRAPH_DEPTH_MAX {
            let text = format!("inner graphs are nested deeper than {GRAPH_DEPTH_MAX}; simplify the model");
            return Err(Fault::new(Code::ModelTooLarge, text));
        }
        self.nodes += graph.node.len();
        if self.nodes > NODES_MAX {
            let text = format!("{} operators are above the limit of {NODES_MAX}; simplify the model", self.nodes);
            return Err(Fault::new(Code::ModelTooLarge, text));
        }
        graph.initializer.iter().try_for_each(check_tensor)?;
        for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
            check_symbols(value)?;
        }
        graph.node.iter().try_for_each(|node| self.node(node, depth))
    }

    fn node(&mut self, node: &pb::NodeProto, depth: usize) -> Result<(), Fault> {
        if !DOMAINS.contains(&node.domain.as_str()) || !(self.knows)(&node.op_type) {
            let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
            let text = format!(
                "operator {domain}.{} (node {:?}) is not supported; export the model without it",
                Brief::of(&node.op_type),
                Brief::of(&node.name).to_string()
            );
            return Err(Fault::new(Code::ModelUnsupportedOp, text));
        }
        for attribute in &node.attribute {
            attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
            attribute.g.iter().chain(&attribute.graphs).try_for_each(|graph| self.graph(graph, depth + 1))?;
        }
        Ok(())
    }
}

fn check_tensor(tensor: &pb::TensorProto) -> Result<(), Fault> {
    let name = Brief::of(&tensor.name);
    let external = tensor.data_location == Some(pb::tensor_proto::DataLocation::External as i32);
    if external || !tensor.external_data.is_empty() {
        let text = format!("tensor \"{name}\" keeps its data in another file; save the model with all data inside");
        return Err(Fault::new(Code::ModelExternalData, text));
    }
    let product = tensor.dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(u64::try_from(*dim).ok()?));
    if product.is_none_or(|product| product > MODEL_BYTES_MAX) {
        let text = format!(
            "tensor \"{name}\" of dimensions {:?} cannot be inside a file of at most {MODEL_BYTES_MAX} bytes",
            &tensor.dims[..tensor.dims.len().min(16)]
        );
        return Err(Fault::new(Code::ModelShape, text));
    }
    Ok(())
}

/// Dimensions that the graph declares for a value, if it declares any.
fn dims(value: &pb::ValueInfoProto) -> Option<&[pb::tensor_shape_proto::Dimension]> {
    let pb::type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    Some(&tensor.shape.as_ref()?.dim)
}

fn check_symbols(value: &pb::ValueInfoProto) -> Result<(), Fault> {
    use pb::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    for dim in dims(value).unwrap_or_default() {
        match &dim.value {
            Some(DimParam(symbol)) if symbol.len() > DIM_PARAM_BYTES_MAX => {
                let text = format!(
                    "value \"{}\" has a symbolic dimension of {} bytes, at most {DIM_PARAM_BYTES_MAX} are allowed",
                    Brief::of(&value.name),
                    symbol.len()
                );
                return Err(Fault::new(Code::ModelParse, text));
            }
            Some(DimParam(_) | DimValue(_)) | None => {}
        }
    }
    Ok(())
}

/// Takes the names of open dimensions away: each is pinned to a number, and their expressions may contradict it.
fn forget_symbols(value: &mut pb::ValueInfoProto) {
    let Some(pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), .. }) = &mut value.r#type else {
        return;
    };
    for dim in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim) {
        dim.value = None;
    }
}

/// Whether the graph takes exactly these inputs, in any order.
fn check_inputs(graph: &pb::GraphProto, inputs: &[Pinned]) -> Result<(), Fault> {
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let taken: Vec<_> = graph.input.iter().filter(|input| !constants.contains(input.name.as_str())).collect();
    for input in &taken {
        if !inputs.iter().any(|pinned| pinned.name == input.name) {
            let text =
                format!("the model takes an input {:?} that model.toml does not declare; declare it", input.name);
            return Err(Fault::new(Code::ModelShape, text));
        }
    }
    for pinned in inputs {
        let Some(input) = taken.iter().find(|input| pinned.name == input.name) else {
            let names: Vec<_> = taken.iter().map(|input| input.name.as_str()).collect();
            let text = format!(
                "model.toml declares an input {:?} that the model does not take; it takes {names:?}",
                pinned.name
            );
            return Err(Fault::new(Code::ModelShape, text));
        };
        check_input(input, pinned)?;
    }
    Ok(())
}

fn check_input(input: &pb::ValueInfoProto, pinned: &Pinned) -> Result<(), Fault> {
    use pb::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    let declared = match input.r#type.as_ref().and_then(|kind| kind.value.as_ref()) {
        Some(pb::type_proto::Value::TensorType(tensor)) => pb::tensor_proto::DataType::try_from(tensor.elem_type).ok(),
        None => None,
    };
    let datum = declared.and_then(|declared| DatumType::try_from(declared).ok());
    if datum != Some(to_datum(pinned.datatype)) {
        let text = format!(
            "input {:?} is {} by model.toml, {datum:?} by the model; correct model.toml",
            pinned.name, pinned.datatype
        );
        return Err(Fault::new(Code::ModelShape, text));
    }
    let Some(dims) = dims(input) else { return Ok(()) };
    let open = |dim: &pb::tensor_shape_proto::Dimension, length: usize| match &dim.value {
        Some(DimValue(fixed)) => *fixed <= 0 || usize::try_from(*fixed) == Ok(length),
        Some(DimParam(_)) | None => true,
    };
    if dims.len() == pinned.shape.len() && dims.iter().zip(&pinned.shape).all(|(dim, length)| open(dim, *length)) {
        return Ok(());
    }
    let fixed: Vec<Option<i64>> = dims
        .iter()
        .map(|dim| match &dim.value {
            Some(DimValue(fixed)) => Some(*fixed),
            Some(DimParam(_)) | None => None,
        })
        .collect();
    let text = format!(
        "input {:?} is of shape {:?}, but the model takes {fixed:?} (None is open); correct the request or model.toml",
        pinned.name, pinned.shape
    );
    Err(Fault::new(Code::ModelShape, text))
}

/// Leaves the graph with the declared outputs, in their order: nothing else is computed.
fn select_outputs(graph: &mut pb::GraphProto, outputs: &[Port]) -> Result<(), Fault> {
    let mut selected = Vec::with_capacity(outputs.len());
    for port in outputs {
        let Some(output) = graph.output.iter().find(|output| output.name == port.name) else {
            let names: Vec<_> = graph.output.iter().map(|output| output.name.as_str()).collect();
            let text = format!(
                "model.toml declares an output {:?} that the model does not give; it gives {names:?}",
                port.name
            );
            return Err(Fault::new(Code::ModelShape, text));
        };
        selected.push(output.clone());
    }
    graph.output = selected;
    Ok(())
}

// ---- fault texts ----

fn parse(error: &TractError) -> Fault {
    let text = format!("this is not a readable ONNX file: {}; export the model again", Brief::of(error));
    Fault::new(Code::ModelParse, text)
}

/// A refusal of the engine; unsupported operators hide behind several texts.
fn refused(otherwise: Code, error: &TractError) -> Fault {
    let text = Brief::of(error).to_string();
    let lower = text.to_lowercase();
    let unsupported = ["unimplemented", "not implemented", "unsupported", "not supported", "can not be made a typedop"];
    let code = if lower.contains("external data") {
        Code::ModelExternalData
    } else if unsupported.iter().any(|hint| lower.contains(hint)) {
        Code::ModelUnsupportedOp
    } else {
        otherwise
    };
    Fault::new(code, format!("the engine cannot load the model: {text}"))
}

/// Shows the beginning of something whose text may be of any length.
struct Brief(String);

impl Brief {
    fn of(thing: &impl fmt::Display) -> Self {
        let mut brief = Self(String::new());
        // An error means that the limit is reached, and then the beginning is there.
        let _ = write!(brief, "{thing:#}");
        brief
    }
}

impl fmt::Write for Brief {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = FAULT_TEXT_BYTES_MAX / 2 - self.0.len();
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
