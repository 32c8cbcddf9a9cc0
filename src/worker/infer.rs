//! How is a network computed? By tract, which only this file names.
//!
//! Shapes are always pinned: tract is ten times slower with open dimensions, and some graphs cannot even be typed with
//! them.
//!
//! What is wrong with a file is said before tract sees it where that is possible ([`mod@preflight`]),
//! because tract's own answer may be a panic, an abort or a silently wrong result. The caller still catches panics and
//! limits memory.

mod kernels;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

pub(super) use tract_onnx::pb as onnx;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, TValue, TractError, TractResult,
    TypedRunnableModel, tensor1, tract_linalg as linalg,
};

pub use self::kernels::{Kernels, environment, kernels};
use super::engine::{Engine, Node, Pinned, Plan, Survey};
use super::preflight::{self, Brief, Cleared};
use crate::fault::{Code, Fault};
use crate::model::Port;
use crate::sys::clock;
use crate::tensor::{DataType, Tensor, elements};
use crate::units::ELEMENTS_MAX;

/// The engine and its version: what a model costs, and whether it loads at all, holds for these only.
pub const ENGINE: &str = "tract-onnx 0.23.9";

const _: () = assert!(cfg!(target_endian = "little"), "tensors are handed to the engine as they are in memory");

/// The engine in use.
pub fn engine() -> Box<dyn Engine> {
    // Shapes that the exporter wrote for its own batch contradict the pinned ones: only the graph counts.
    Box::new(Tract::new())
}

/// Judges the file of a model as [`Engine::load`] does before it builds anything, and does no more than that.
///
/// # Errors
/// As [`preflight::inspect`].
pub fn preflight(file: &[u8], inputs: &[Pinned], outputs: &[Port]) -> Result<Cleared, Fault> {
    Tract::new().clear(file, inputs, outputs)
}

/// Has the engine look at the processor and its caches, which it does in files: a locked-in worker has none to read.
pub fn warm_up() {
    linalg::isa::native();
    linalg::cache::last_level_cache();
    kernels::kind();
}

/// The family of cores that the engine takes this processor for.
fn engine_kind() -> String {
    #[cfg(target_arch = "aarch64")]
    let kind = format!("{:?}", linalg::arm64::Kind::choose());
    #[cfg(not(target_arch = "aarch64"))]
    let kind = linalg::isa::native().nickname().to_owned();
    kind
}

struct Tract {
    onnx: tract_onnx::Onnx,
}

impl Tract {
    fn new() -> Self {
        Self { onnx: tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true) }
    }

    fn clear(&self, file: &[u8], inputs: &[Pinned], outputs: &[Port]) -> Result<Cleared, Fault> {
        let knows = |op: &str| self.onnx.op_register.0.contains_key(op);
        preflight::inspect(file, &knows, inputs, outputs)
    }
}

impl Engine for Tract {
    fn load(&self, file: Vec<u8>, inputs: &[Pinned], outputs: &[Port]) -> Result<Box<dyn Plan>, Fault> {
        let before = clock::own_cpu();
        let proto = self.clear(&file, inputs, outputs)?.model;
        let preflight = clock::own_cpu().saturating_sub(before);
        drop(file);
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

// ---- fault texts ----

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

#[cfg(test)]
pub(super) mod tests;
