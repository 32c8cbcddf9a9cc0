//! Does a model still give what ONNX Runtime gave? Golden cases, and the comparison.
//!
//! Pure: the library reads the files. Golden files are Open Inference Protocol v2 requests and responses; a long output
//! may be thinned out: with `"parameters": {"every": N}` its `data` holds the elements 0, N, 2 N… only.

mod compare;
mod read;
#[cfg(test)]
mod tests;

pub use compare::{Mismatch, Report, compare};
pub(super) use read::read;

use super::manifest::Tolerance;
use crate::tensor::{DataType, Tensor};

/// A known input and its known result.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenCase {
    /// What it is called: the name of its expected output's file.
    pub name: String,
    /// What a job would carry.
    pub inputs: Vec<Tensor>,
    /// Whether the outputs are interpreted or raw.
    pub interpret: bool,
    /// What must come out.
    pub expected: Vec<Expected>,
    /// How far it may be off.
    pub tolerance: Tolerance,
}

/// One expected output, whole or thinned out.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// Name of the output.
    pub name: String,
    /// Its type.
    pub datatype: DataType,
    /// Its whole shape.
    pub shape: Vec<usize>,
    /// Only the elements 0, `every`, 2 × `every`… are given; 1: all.
    pub every: usize,
    /// The given elements.
    pub values: Values,
}

/// Elements of an expected output.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Of FP32.
    Numbers(Vec<f32>),
    /// Of BYTES.
    Texts(Vec<String>),
}
