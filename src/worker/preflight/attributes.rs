//! Do the attributes of an operator make sense? What the engine would divide by, index with or allocate is in range.

use std::collections::BTreeSet;

use super::facts::Node;
use super::text::{Named, refuse};
use super::{NAME_BYTES_MAX, onnx, tensors};
use crate::fault::{Code, Fault};
use crate::units::ELEMENTS_MAX;

/// Most attributes of one node.
pub const ATTRIBUTES_MAX: usize = 64;
/// Most values in an attribute that is a list; the trees and classifiers of `ai.onnx.ml` keep their weights in lists.
pub const LIST_MAX: usize = 4_096;
/// The same for `ai.onnx.ml`.
pub const LIST_ML_MAX: usize = 4 * 1024 * 1024;
/// Widest padding of one side, in elements.
pub const PAD_MAX: i64 = 4_096;
/// Widest kernel, step and spread, and most groups.
pub const STEP_MAX: i64 = 65_536;
/// Highest axis that an operator may name; no tensor has a higher rank.
pub const AXIS_MAX: i64 = tensors::AXES_MAX.cast_signed() as i64;

type Attribute = onnx::AttributeProto;

/// Checks the attributes of one node, alone and together.
pub(super) fn check(node: &Node<'_>) -> Result<(), Fault> {
    let attributes = &node.proto.attribute;
    if attributes.len() > ATTRIBUTES_MAX {
        return node.refuse(format!("has {} attributes, at most {ATTRIBUTES_MAX} are allowed", attributes.len()));
    }
    let mut names = BTreeSet::new();
    for attribute in attributes {
        if !names.insert(attribute.name.as_str()) {
            return node.refuse(format!("has two attributes {}", Named(&attribute.name)));
        }
        form(node, attribute)?;
        one(node, attribute)?;
    }
    windows(node)
}

/// What holds for every attribute, whatever it is for.
fn form(node: &Node<'_>, attribute: &Attribute) -> Result<(), Fault> {
    let name = Named(&attribute.name);
    if attribute.name.is_empty() || attribute.name.len() > NAME_BYTES_MAX {
        let text =
            format!("has an attribute name of {} bytes, 1 to {NAME_BYTES_MAX} are allowed", attribute.name.len());
        return node.refuse(text);
    }
    if !attribute.ref_attr_name.is_empty() {
        return node.refuse(format!("takes attribute {name} from a local function, and those are not served"));
    }
    if onnx::attribute_proto::AttributeType::try_from(attribute.r#type).is_err() {
        return node.refuse(format!("has attribute {name} of the unknown type {}", attribute.r#type));
    }
    let sparse = attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty();
    if sparse || !attribute.type_protos.is_empty() {
        return node.refuse(format!("has attribute {name}, a sparse tensor or a type, which is not served"));
    }
    let most = if node.domain == "ai.onnx.ml" { LIST_ML_MAX } else { LIST_MAX };
    let longest = attribute.ints.len().max(attribute.floats.len()).max(attribute.strings.len());
    if longest > most {
        return node.refuse(format!("has attribute {name} of {longest} values, at most {most} are allowed"));
    }
    Ok(())
}

/// What the name of an attribute says about its value.
fn one(node: &Node<'_>, attribute: &Attribute) -> Result<(), Fault> {
    let (ints, int) = (attribute.ints.as_slice(), attribute.i);
    match attribute.name.as_str() {
        "strides" | "dilations" | "kernel_shape" => each(node, attribute, 1, STEP_MAX),
        "output_padding" => each(node, attribute, 0, PAD_MAX),
        // `Pad` may crop; kernels may not.
        "pads" if node.op() == "Pad" => each(node, attribute, -STEP_MAX, PAD_MAX),
        "pads" => each(node, attribute, 0, PAD_MAX),
        "group" | "hidden_size" | "num_heads" | "kv_num_heads" | "q_num_heads" | "blocksize" | "num_groups"
        | "size" => range(node, attribute, 1, STEP_MAX),
        "num_outputs" => range(node, attribute, 1, LIST_MAX.cast_signed() as i64),
        "bits" => range(node, attribute, 1, 8),
        "block_size" | "K" | "N" | "k" => range(node, attribute, 1, ELEMENTS_MAX.cast_signed() as i64),
        "num_scan_inputs" => range(node, attribute, 1, LIST_MAX.cast_signed() as i64),
        "scan_input_directions" | "scan_output_directions" => each(node, attribute, 0, 1),
        "scan_input_axes" | "scan_output_axes" => each(node, attribute, -AXIS_MAX, AXIS_MAX - 1),
        "perm" => permutation(node, ints),
        "axes" => axes(node, ints),
        "axis" => axis(node, "axis", int),
        "batch_dims" => range(node, attribute, -AXIS_MAX, AXIS_MAX - 1),
        "split" => each(node, attribute, 1, tensors::DIMENSION_MAX.cast_signed()).and_then(|()| splits(node, ints)),
        "to" | "dtype" | "output_dtype" => element_type(node, attribute),
        "auto_pad" => word(node, attribute, &["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
        "direction" if matches!(node.op(), "LSTM" | "GRU" | "RNN") => {
            word(node, attribute, &["forward", "reverse", "bidirectional"])
        }
        "shape" | "output_shape" => super::sizes::bounded(node, &attribute.name, ints),
        _ => Ok(()),
    }
}

fn each(node: &Node<'_>, attribute: &Attribute, least: i64, most: i64) -> Result<(), Fault> {
    match attribute.ints.iter().find(|int| !(least..=most).contains(int)) {
        None => Ok(()),
        Some(int) => node.refuse(format!("has {int} in {}, {least} to {most} are allowed", attribute.name)),
    }
}

fn range(node: &Node<'_>, attribute: &Attribute, least: i64, most: i64) -> Result<(), Fault> {
    // An attribute of another type than the name says is for the engine to refuse.
    let of_int = [onnx::attribute_proto::AttributeType::Int, onnx::attribute_proto::AttributeType::Undefined];
    if !of_int.map(|of| of as i32).contains(&attribute.r#type) || (least..=most).contains(&attribute.i) {
        return Ok(());
    }
    node.refuse(format!("has {} = {}, {least} to {most} are allowed", attribute.name, attribute.i))
}

fn word(node: &Node<'_>, attribute: &Attribute, allowed: &[&str]) -> Result<(), Fault> {
    let given = String::from_utf8_lossy(&attribute.s);
    if allowed.contains(&given.as_ref()) {
        return Ok(());
    }
    node.refuse(format!("has {} = {}, one of {allowed:?} is allowed", attribute.name, Named(&given)))
}

fn element_type(node: &Node<'_>, attribute: &Attribute) -> Result<(), Fault> {
    let number = i32::try_from(attribute.i).unwrap_or(-1);
    // 0 means "not given" for the output type of quantisation.
    if tensors::served(number).is_some() || (number == 0 && attribute.name == "output_dtype") {
        return Ok(());
    }
    let text = format!(
        "{} makes elements of type {}, which is not served; convert the model to float or an integer type",
        node.place(),
        tensors::type_name(number)
    );
    refuse(Code::ModelDatatype, text)
}

fn permutation(node: &Node<'_>, perm: &[i64]) -> Result<(), Fault> {
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq((0..).take(perm.len())) {
        return node.refuse(format!("has perm = {}, which is no permutation", shown(perm)));
    }
    match node.rank(0) {
        Some(rank) if rank != perm.len() => {
            node.refuse(format!("has perm of {} axes for an input of rank {rank}", perm.len()))
        }
        Some(_) | None => Ok(()),
    }
}

/// Axes of the first input, or of the output for `Unsqueeze`: in range, and none twice.
pub(super) fn axes(node: &Node<'_>, axes: &[i64]) -> Result<(), Fault> {
    let rank = node.rank(0).map(|rank| if node.op() == "Unsqueeze" { rank + axes.len() } else { rank });
    let most = rank.and_then(|rank| i64::try_from(rank).ok()).unwrap_or(AXIS_MAX);
    let mut seen = BTreeSet::new();
    for axis in axes {
        if !(-most..most).contains(axis) {
            return node.refuse(format!("has {axis} in axes, {} to {} are allowed", -most, most - 1));
        }
        let known = if *axis < 0 && rank.is_some() { *axis + most } else { *axis };
        if !seen.insert(known) {
            return node.refuse(format!("has axis {axis} twice in axes"));
        }
    }
    Ok(())
}

/// One axis of the first input.
pub(super) fn axis(node: &Node<'_>, name: &str, axis: i64) -> Result<(), Fault> {
    // These may name the place behind the last axis.
    let behind = usize::from(matches!(node.op(), "Flatten" | "OneHot"));
    let rank = node.rank(0).map(|rank| rank + behind);
    let most = rank.and_then(|rank| i64::try_from(rank).ok()).unwrap_or(AXIS_MAX);
    // A scalar has no axis, and exporters write 0 all the same.
    if (-most..most).contains(&axis) || (most == 0 && axis == 0) || (behind == 1 && axis == most) {
        return Ok(());
    }
    node.refuse(format!("has {name} = {axis}, {} to {} are allowed", -most, most - 1))
}

/// Lengths of the parts of a `Split`: one for each output, all of the axis together.
pub(super) fn splits(node: &Node<'_>, parts: &[i64]) -> Result<(), Fault> {
    if parts.len() != node.proto.output.len() {
        return node.refuse(format!("is split into {} parts but has {} outputs", parts.len(), node.proto.output.len()));
    }
    let axis = node.attribute("axis").map_or(0, |attribute| attribute.i);
    let Some(shape) = node.shape(0) else { return Ok(()) };
    let axis = if axis < 0 { axis + shape.len().cast_signed() as i64 } else { axis };
    let length = usize::try_from(axis).ok().and_then(|axis| shape.get(axis).copied().flatten());
    let sum = parts.iter().try_fold(0_i64, |sum, part| sum.checked_add(*part));
    match length {
        Some(length) if sum != i64::try_from(length).ok() => {
            node.refuse(format!("is split into {}, but the axis is {length} long", shown(parts)))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether the lists that describe a sliding window agree with one another and with the weights.
fn windows(node: &Node<'_>) -> Result<(), Fault> {
    if !matches!(
        node.op(),
        "Conv" | "ConvTranspose" | "ConvInteger" | "QLinearConv" | "MaxPool" | "AveragePool" | "LpPool"
    ) {
        return Ok(());
    }
    let list = |name: &str| node.attribute(name).map(|attribute| attribute.ints.as_slice());
    let weights = match node.op() {
        "QLinearConv" => node.constant(3),
        "MaxPool" | "AveragePool" | "LpPool" => None,
        _ => node.constant(1),
    };
    let kernel = weights.map(|weights| weights.dims.get(2..).unwrap_or_default()).or(list("kernel_shape"));
    let Some(kernel) = kernel else { return Ok(()) };
    if weights.is_some() && list("kernel_shape").is_some_and(|shape| shape != kernel) {
        return node.refuse(format!(
            "has kernel_shape {}, but weights for {}",
            shown(list("kernel_shape").unwrap_or_default()),
            shown(kernel)
        ));
    }
    if weights.is_some_and(|weights| weights.dims.len() < 3 || weights.dims.contains(&0)) {
        return node.refuse("has weights of no extent; a convolution needs one of rank 3 or more");
    }
    let rank = kernel.len();
    let expected = [("strides", rank), ("dilations", rank), ("output_padding", rank), ("pads", 2 * rank)];
    for (name, length) in expected {
        if let Some(ints) = list(name).filter(|ints| !ints.is_empty() && ints.len() != length) {
            return node.refuse(format!("has {} values in {name}, its kernel needs {length}", ints.len()));
        }
    }
    if node.rank(0).is_some_and(|input| input != rank + 2) {
        return node.refuse(format!("has a kernel of {rank} axes for an input of rank {}", node.rank(0).unwrap_or(0)));
    }
    let group = node.attribute("group").map_or(1, |attribute| attribute.i);
    let channels = weights.and_then(|weights| weights.dims.first().copied()).unwrap_or(0);
    if group > 0 && channels % group != 0 {
        return node.refuse(format!("has {channels} channels, which do not divide into group = {group}"));
    }
    Ok(())
}

/// The first of some integers.
pub(super) fn shown(ints: &[i64]) -> String {
    const SHOWN_MAX: usize = 16;
    if ints.len() <= SHOWN_MAX { format!("{ints:?}") } else { format!("{:?} and more", &ints[..SHOWN_MAX]) }
}
