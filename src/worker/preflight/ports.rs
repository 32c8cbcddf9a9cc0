//! Does a model take and give what `model.toml` says?

use std::collections::BTreeSet;

use super::onnx::tensor_shape_proto::Dimension;
use super::text::{Named, listed, refuse};
use super::{onnx, tensors};
use crate::fault::{Code, Fault};
use crate::model::Port;
use crate::worker::engine::Pinned;

/// Dimensions that the graph declares for a value, if it declares any.
pub(super) fn dims(value: &onnx::ValueInfoProto) -> Option<&[Dimension]> {
    let onnx::type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    Some(&tensor.shape.as_ref()?.dim)
}

/// Whether the graph takes exactly these inputs, in any order.
pub(super) fn check_inputs(graph: &onnx::GraphProto, inputs: &[Pinned]) -> Result<(), Fault> {
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let taken: Vec<_> = graph.input.iter().filter(|input| !constants.contains(input.name.as_str())).collect();
    for input in &taken {
        if !inputs.iter().any(|pinned| pinned.name == input.name) {
            let text =
                format!("the model takes an input {} that model.toml does not declare; declare it", Named(&input.name));
            return refuse(Code::ModelShape, text);
        }
    }
    for pinned in inputs {
        let Some(input) = taken.iter().find(|input| pinned.name == input.name) else {
            let names = listed(taken.iter().map(|input| input.name.as_str()));
            let text = format!(
                "model.toml declares an input {} that the model does not take; it takes {names}",
                Named(&pinned.name)
            );
            return refuse(Code::ModelShape, text);
        };
        check_input(input, pinned)?;
    }
    Ok(())
}

fn check_input(input: &onnx::ValueInfoProto, pinned: &Pinned) -> Result<(), Fault> {
    use onnx::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    let name = Named(&pinned.name);
    let declared = match input.r#type.as_ref().and_then(|kind| kind.value.as_ref()) {
        Some(onnx::type_proto::Value::TensorType(tensor)) => tensor.elem_type,
        None => return refuse(Code::ModelDatatype, format!("input {name} is no tensor; export the model again")),
    };
    if tensors::served(declared) != Some(pinned.datatype) {
        let declared = tensors::type_name(declared);
        let text =
            format!("input {name} is {} by model.toml, {declared} by the model; correct model.toml", pinned.datatype);
        return refuse(Code::ModelShape, text);
    }
    let Some(dims) = dims(input) else { return Ok(()) };
    let open = |dim: &Dimension, length: usize| match &dim.value {
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
        "input {name} is of shape {:?}, but the model takes {fixed:?} (None is open); correct the request or model.toml",
        pinned.shape
    );
    refuse(Code::ModelShape, text)
}

/// Whether the graph gives all of these outputs; their places in it.
pub(super) fn check_outputs(graph: &onnx::GraphProto, outputs: &[Port]) -> Result<Vec<usize>, Fault> {
    let find = |port: &Port| {
        graph.output.iter().position(|output| output.name == port.name).ok_or_else(|| {
            let names = listed(graph.output.iter().map(|output| output.name.as_str()));
            let text = format!(
                "model.toml declares an output {} that the model does not give; it gives {names}",
                Named(&port.name)
            );
            Fault::new(Code::ModelShape, text)
        })
    };
    outputs.iter().map(find).collect()
}
