//! What is known of the values of a graph before anything is computed? Constants, and the shapes that follow from them.

use std::collections::HashMap;

use super::text::{Named, refuse};
use super::{onnx, tensors};
use crate::fault::{Code, Fault};

/// Lengths of the dimensions of a value, as far as they are known.
pub(super) type Shape = Vec<Option<u64>>;

/// What is known of one value.
#[derive(Clone, Debug, Default)]
pub(super) struct Fact<'a> {
    /// Which node of its graph makes it; `None` for inputs and constants.
    pub(super) node: Option<usize>,
    /// Its content, when that is in the file.
    pub(super) constant: Option<&'a onnx::TensorProto>,
    /// Its content, when a `Constant` has it as plain integers.
    pub(super) integers: Option<&'a [i64]>,
    /// Its shape; `None` when not even the rank is known.
    pub(super) shape: Option<Shape>,
}

/// The values of a graph by name, and of the graphs around it.
pub(super) struct Scope<'a, 'o> {
    pub(super) facts: HashMap<&'a str, Fact<'a>>,
    pub(super) outer: Option<&'o Scope<'a, 'o>>,
}

impl<'a> Scope<'a, '_> {
    /// The innermost value of that name.
    pub(super) fn find(&self, name: &str) -> Option<&Fact<'a>> {
        self.facts.get(name).or_else(|| self.outer.and_then(|outer| outer.find(name)))
    }
}

/// A node among what is known of its inputs.
pub(super) struct Node<'a> {
    pub(super) proto: &'a onnx::NodeProto,
    /// Full name of its operator set.
    pub(super) domain: &'a str,
    /// The version of that set that the model asks for.
    pub(super) version: i64,
    /// Facts of its inputs, in order.
    inputs: Vec<Option<Fact<'a>>>,
}

impl<'a> Node<'a> {
    /// Looks its inputs up.
    pub(super) fn new(proto: &'a onnx::NodeProto, domain: &'a str, version: i64, scope: &Scope<'a, '_>) -> Self {
        // No rule looks farther.
        const INPUTS_LOOKED_AT: usize = 8;
        let inputs = proto.input.iter().take(INPUTS_LOOKED_AT);
        let inputs = inputs.map(|name| scope.find(name).cloned()).collect();
        Self { proto, domain, version, inputs }
    }

    pub(super) fn op(&self) -> &'a str {
        &self.proto.op_type
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&'a onnx::AttributeProto> {
        self.proto.attribute.iter().find(|attribute| attribute.name == name)
    }

    /// An input that is constant.
    pub(super) fn constant(&self, at: usize) -> Option<&'a onnx::TensorProto> {
        self.inputs.get(at)?.as_ref()?.constant
    }

    /// The integers of an input that is a small constant.
    pub(super) fn integers(&self, at: usize) -> Option<Vec<i64>> {
        let given = self.inputs.get(at)?.as_ref()?;
        given.integers.map(<[i64]>::to_vec).or_else(|| given.constant.and_then(tensors::integers))
    }

    /// Whether an input is a constant of integers with a 0 among them.
    pub(super) fn has_zero_integer(&self, at: usize) -> bool {
        self.constant(at).is_some_and(tensors::has_zero_integer)
            || self.integers(at).is_some_and(|integers| integers.contains(&0))
    }

    /// The shape of an input, as far as it is known.
    pub(super) fn shape(&self, at: usize) -> Option<&Shape> {
        self.inputs.get(at)?.as_ref()?.shape.as_ref()
    }

    pub(super) fn rank(&self, at: usize) -> Option<usize> {
        self.shape(at).map(Vec::len)
    }

    /// The node in a sentence.
    pub(super) fn place(&self) -> String {
        let proto = self.proto;
        let name = if proto.name.is_empty() { proto.output.first() } else { Some(&proto.name) };
        format!("{} node {}", self.op(), Named(name.map_or("", String::as_str)))
    }

    /// Refuses it for an attribute, or for a constant that serves as one.
    pub(super) fn refuse<T>(&self, why: impl AsRef<str>) -> Result<T, Fault> {
        let text = format!("{} {}; correct the model or export it again", self.place(), why.as_ref());
        refuse(Code::ModelAttribute, text)
    }

    /// Refuses it for a size.
    pub(super) fn refuse_size<T>(&self, why: impl AsRef<str>) -> Result<T, Fault> {
        let text = format!("{} {}; use a smaller model or input", self.place(), why.as_ref());
        refuse(Code::ModelTooLarge, text)
    }
}

/// The shape of a tensor in the file.
pub(super) fn shape_of(tensor: &onnx::TensorProto) -> Shape {
    tensor.dims.iter().map(|dim| u64::try_from(*dim).ok()).collect()
}

/// The shape of the first output, for operators whose shape follows simply from what is known.
pub(super) fn output(node: &Node<'_>) -> Option<Shape> {
    let known = |dims: Vec<i64>| dims.into_iter().map(|dim| u64::try_from(dim).ok()).collect();
    match node.op() {
        "Relu" | "LeakyRelu" | "Sigmoid" | "Tanh" | "Abs" | "Neg" | "Exp" | "Log" | "Sqrt" | "Ceil" | "Floor"
        | "Round" | "Erf" | "Softmax" | "LogSoftmax" | "Cast" | "Identity" | "Clip" | "Dropout"
        | "BatchNormalization" | "LayerNormalization" | "Not" | "Sign" | "Reciprocal" | "CumSum" | "Gelu" | "Elu"
        | "HardSigmoid" | "HardSwish" | "QuantizeLinear" | "DequantizeLinear" => node.shape(0).cloned(),
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "And" | "Or" | "Xor" | "Equal" | "Less" | "Greater" => {
            broadcast(node.shape(0)?, node.shape(1)?)
        }
        "ConstantOfShape" => node.integers(0).map(known),
        "Expand" => {
            let dims = known(node.integers(1)?);
            broadcast(node.shape(0)?, &dims)
        }
        "Reshape" => reshape(node),
        "Tile" => {
            let (shape, repeats) = (node.shape(0)?, node.integers(1)?);
            let times =
                |(dim, repeat): (&Option<u64>, &i64)| dim.and_then(|dim| dim.checked_mul(u64::try_from(*repeat).ok()?));
            (shape.len() == repeats.len()).then(|| shape.iter().zip(&repeats).map(times).collect())
        }
        "Transpose" => {
            let shape = node.shape(0)?;
            match node.attribute("perm") {
                None => Some(shape.iter().rev().copied().collect()),
                Some(perm) => perm.ints.iter().map(|at| shape.get(usize::try_from(*at).ok()?).copied()).collect(),
            }
        }
        "Conv" | "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => Some(vec![None; node.rank(0)?]),
        _ => None,
    }
}

fn broadcast(one: &Shape, other: &Shape) -> Option<Shape> {
    let rank = one.len().max(other.len());
    let at = |shape: &Shape, axis: usize| match (axis + shape.len()).checked_sub(rank) {
        None => Some(1),
        Some(at) => shape.get(at).copied().flatten(),
    };
    let dims = (0..rank).map(|axis| match (at(one, axis), at(other, axis)) {
        (Some(1), dim) | (dim, Some(1)) => Some(dim),
        // What is open must fit what is known, or be one.
        (Some(dim), None) | (None, Some(dim)) => Some(Some(dim)),
        (None, None) => Some(None),
        (Some(one), Some(other)) => (one == other).then_some(Some(one)),
    });
    dims.collect()
}

fn reshape(node: &Node<'_>) -> Option<Shape> {
    let wanted = node.integers(1)?;
    if wanted.len() > tensors::AXES_MAX {
        return None;
    }
    let before = node.shape(0);
    let total = before.and_then(|shape| shape.iter().try_fold(1_u64, |product, dim| product.checked_mul((*dim)?)));
    let dim = |(at, wanted): (usize, &i64)| match *wanted {
        0 => before.and_then(|shape| shape.get(at).copied().flatten()),
        wanted => u64::try_from(wanted).ok(),
    };
    let mut shape: Shape = wanted.iter().enumerate().map(dim).collect();
    if let Some(open) = wanted.iter().position(|wanted| *wanted == -1) {
        let others = shape.iter().enumerate().filter(|(at, _)| *at != open);
        let others = others.map(|(_, dim)| *dim).try_fold(1_u64, |product, dim| product.checked_mul(dim?));
        shape[open] = total.zip(others).and_then(|(total, others)| total.checked_div(others));
    }
    Some(shape)
}
