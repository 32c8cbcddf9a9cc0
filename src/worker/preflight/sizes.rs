//! How much does a constant ask for? Shapes, counts and factors that come from the file are bounded before they are used.

use super::attributes::{self, PAD_MAX, STEP_MAX, shown};
use super::facts::Node;
use super::tensors;
use crate::fault::Fault;
use crate::units::ELEMENTS_MAX;

/// Largest factor of a `Resize`, and of all axes together.
pub const SCALE_MAX: f64 = 4_096.0;
/// Most steps of a `Scan` whose length is known.
pub const STEPS_MAX: u64 = 65_536;

/// Checks what the constant inputs of a node make of it, and that no shape that is known is beyond any tensor.
pub(super) fn check(node: &Node<'_>) -> Result<(), Fault> {
    match node.op() {
        "ConstantOfShape" => {
            let value = node.attribute("value").and_then(|attribute| attribute.t.as_ref());
            if value.is_some_and(|value| tensors::product(&value.dims) != Some(1)) {
                return node.refuse("fills with a value that is not one element");
            }
            input_bounded(node, 0)
        }
        "Expand" | "Tile" => input_bounded(node, 1),
        "Reshape" => input_shape(node),
        "Range" => steps(node),
        "Resize" => resize(node),
        "Pad" => node.integers(1).map_or(Ok(()), |pads| padding(node, &pads)),
        "TopK" => top(node),
        "OneHot" => counted(node, 1, "depth"),
        "NonMaxSuppression" => counted(node, 2, "max_output_boxes_per_class"),
        "BlackmanWindow" | "HammingWindow" | "HannWindow" => counted(node, 0, "size"),
        "STFT" => counted(node, 1, "frame_step").and_then(|()| counted(node, 3, "frame_length")),
        "DFT" => counted(node, 1, "dft_length"),
        "MelWeightMatrix" => counted(node, 0, "num_mel_bins").and_then(|()| counted(node, 1, "dft_length")),
        "Div" | "Mod" => divisor(node),
        "Slice" => match node.integers(4) {
            Some(steps) if steps.contains(&0) => node.refuse("has a step of 0, at least 1 or at most -1 is allowed"),
            Some(_) | None => Ok(()),
        },
        "Split" => node.integers(1).map_or(Ok(()), |parts| split(node, &parts)),
        "Squeeze" | "Unsqueeze" | "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd"
        | "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => {
            node.integers(1).map_or(Ok(()), |axes| attributes::axes(node, &axes))
        }
        "CumSum" => match node.integers(1).as_deref() {
            Some([axis]) => attributes::axis(node, "axis", *axis),
            Some(_) | None => Ok(()),
        },
        "Gather" => indices(node),
        _ => Ok(()),
    }
}

/// Refuses a shape that is known to hold more elements than any tensor may.
pub(super) fn known(node: &Node<'_>, shape: &[Option<u64>]) -> Result<(), Fault> {
    // An open dimension counts as one: it is at least that, or the tensor is empty.
    let lengths = shape.iter().map(|dim| dim.unwrap_or(1));
    if lengths.clone().any(|length| length == 0) {
        return Ok(());
    }
    let elements = lengths.fold(1_u64, u64::saturating_mul);
    if elements <= ELEMENTS_MAX as u64 {
        return Ok(());
    }
    node.refuse_size(format!("makes {elements} elements, at most {ELEMENTS_MAX} are allowed"))
}

/// Lengths that are given as constants: each in range, all together no more than a tensor may have.
pub(super) fn bounded(node: &Node<'_>, what: &str, dims: &[i64]) -> Result<(), Fault> {
    match tensors::product(dims) {
        Some(elements) if elements <= ELEMENTS_MAX as u64 => Ok(()),
        Some(elements) => {
            node.refuse_size(format!("asks by {what} for {elements} elements, at most {ELEMENTS_MAX} are allowed"))
        }
        None => node.refuse_size(format!(
            "has {} as {what}; at most {} dimensions of 0 to {} are allowed",
            shown(dims),
            tensors::AXES_MAX,
            tensors::DIMENSION_MAX
        )),
    }
}

fn input_bounded(node: &Node<'_>, at: usize) -> Result<(), Fault> {
    node.integers(at).map_or(Ok(()), |dims| bounded(node, "a constant shape", &dims))
}

/// The new shape of a `Reshape`: -1 is what is left, 0 what was.
fn input_shape(node: &Node<'_>) -> Result<(), Fault> {
    let Some(dims) = node.integers(1) else { return Ok(()) };
    if dims.iter().filter(|dim| **dim == -1).count() > 1 {
        return node.refuse(format!("has the shape {}, in which only one dimension may be -1", shown(&dims)));
    }
    let fixed: Vec<i64> = dims.iter().map(|dim| if *dim == -1 { 1 } else { *dim }).collect();
    bounded(node, "a constant shape", &fixed)
}

fn steps(node: &Node<'_>) -> Result<(), Fault> {
    let number = |at| node.constant(at).and_then(tensors::numbers).and_then(|numbers| numbers.first().copied());
    let delta = number(2);
    if delta.is_some_and(|delta| delta == 0.0 || !delta.is_finite()) {
        return node.refuse("has a delta of 0 or one that is not finite; every step must lead on");
    }
    let (Some(start), Some(limit), Some(delta)) = (number(0), number(1), delta) else { return Ok(()) };
    let count = (limit - start) / delta;
    #[expect(clippy::cast_precision_loss, reason = "the limit is far below 2^53")]
    let most = ELEMENTS_MAX as f64;
    if count <= most {
        return Ok(());
    }
    node.refuse_size(format!("counts from {start} to {limit} by {delta}, at most {ELEMENTS_MAX} steps are allowed"))
}

fn resize(node: &Node<'_>) -> Result<(), Fault> {
    // Operator set 10 had no region of interest before the scales.
    let scales = if node.version < 11 { 1 } else { 2 };
    if let Some(scales) = node.constant(scales).and_then(tensors::numbers) {
        let fits = |scale: &f64| scale.is_finite() && *scale > 0.0 && *scale <= SCALE_MAX;
        let product: f64 = scales.iter().product();
        if !scales.iter().all(fits) || product > SCALE_MAX {
            let text = format!(
                "has scales {:?}, above 0 and together at most {SCALE_MAX} are allowed",
                &scales[..scales.len().min(8)]
            );
            return node.refuse(text);
        }
    }
    match node.integers(3) {
        Some(sizes) if sizes.contains(&0) => node.refuse("resizes to a length of 0, at least 1 is allowed"),
        Some(sizes) => bounded(node, "its sizes", &sizes),
        None => Ok(()),
    }
}

fn padding(node: &Node<'_>, pads: &[i64]) -> Result<(), Fault> {
    match pads.iter().find(|pad| !(-STEP_MAX..=PAD_MAX).contains(pad)) {
        Some(pad) => node.refuse(format!("pads by {pad}, {} to {PAD_MAX} are allowed", -STEP_MAX)),
        None if !pads.len().is_multiple_of(2) => {
            node.refuse(format!("has {} pads, two for each axis are needed", pads.len()))
        }
        None => Ok(()),
    }
}

fn top(node: &Node<'_>) -> Result<(), Fault> {
    counted(node, 1, "k")?;
    let k = node.integers(1).and_then(|ints| ints.first().copied());
    let k = k.or(node.attribute("k").map(|attribute| attribute.i));
    let (Some(k), Some(shape)) = (k, node.shape(0)) else { return Ok(()) };
    let axis = node.attribute("axis").map_or(-1, |attribute| attribute.i);
    let axis = if axis < 0 { axis + shape.len().cast_signed() as i64 } else { axis };
    match usize::try_from(axis).ok().and_then(|axis| shape.get(axis).copied().flatten()) {
        Some(length) if u64::try_from(k).is_ok_and(|k| k > length) => {
            node.refuse(format!("asks for the {k} largest of {length}"))
        }
        Some(_) | None => Ok(()),
    }
}

/// A constant that is a count.
fn counted(node: &Node<'_>, at: usize, what: &str) -> Result<(), Fault> {
    let count = node.integers(at).and_then(|ints| ints.first().copied());
    match count {
        Some(count) if count < 1 && what != "max_output_boxes_per_class" => {
            node.refuse(format!("has {what} = {count}, at least 1 is allowed"))
        }
        // "As many as there are" is written as the largest number.
        Some(count) if what != "max_output_boxes_per_class" && count > ELEMENTS_MAX.cast_signed() as i64 => {
            node.refuse_size(format!("has {what} = {count}, at most {ELEMENTS_MAX} is allowed"))
        }
        Some(_) | None => Ok(()),
    }
}

fn divisor(node: &Node<'_>) -> Result<(), Fault> {
    if node.has_zero_integer(1) {
        return node.refuse("divides integers by a constant that holds a 0");
    }
    Ok(())
}

fn split(node: &Node<'_>, parts: &[i64]) -> Result<(), Fault> {
    if let Some(part) = parts.iter().find(|part| **part < 1) {
        return node.refuse(format!("is split into a part of {part}, at least 1 is allowed"));
    }
    attributes::splits(node, parts)
}

/// Constant indices into an axis whose length is known.
fn indices(node: &Node<'_>) -> Result<(), Fault> {
    let (Some(indices), Some(shape)) = (node.integers(1), node.shape(0)) else { return Ok(()) };
    let axis = node.attribute("axis").map_or(0, |attribute| attribute.i);
    let axis = if axis < 0 { axis + shape.len().cast_signed() as i64 } else { axis };
    let Some(length) = usize::try_from(axis).ok().and_then(|axis| shape.get(axis).copied().flatten()) else {
        return Ok(());
    };
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    match indices.iter().find(|index| !(-length..length).contains(*index)) {
        Some(index) => node.refuse(format!("takes element {index} of an axis of {length}")),
        None => Ok(()),
    }
}
