//! A corpus of bad models, made anew from this text wherever it is needed: nothing of it is in the tree as bytes.
//!
//! Each takes `x` and gives `y`, both FP32 of one open dimension, unless that is what is wrong with it. Each has the code
//! in which its job must end, and words that must be in the sentence. Families by what is bad: the file (`files`), the
//! graph (`graphs`), its operators (`operators`), its tensors (`tensors`), attributes (`attributes`), constants that ask
//! for too much (`sizes`), and what only shows when it is computed (`costly`).

#[path = "bad_models/attributes.rs"]
mod attributes;
#[path = "bad_models/costly.rs"]
mod costly;
#[path = "bad_models/files.rs"]
mod files;
#[path = "bad_models/graphs.rs"]
mod graphs;
#[path = "bad_models/mutations.rs"]
pub(crate) mod mutations;
#[path = "bad_models/operators.rs"]
mod operators;
#[path = "bad_models/sizes.rs"]
mod sizes;
#[path = "bad_models/tensors.rs"]
mod tensors;

use super::onnx::{Graph, INT64, Message, ints, relu, tensor};

/// Who finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The pre-flight, from the file alone.
    Before,
    /// The engine, or the limits around it.
    Later,
}

/// One bad model.
#[derive(Clone, Debug)]
pub(crate) struct BadModel {
    /// What is bad, as a name of a model.
    pub(crate) name: &'static str,
    /// The ONNX file.
    pub(crate) file: Vec<u8>,
    /// The code in which its job ends.
    pub(crate) code: &'static str,
    /// Words in the sentence.
    pub(crate) says: &'static str,
    /// Who finds out.
    pub(crate) seen: Seen,
}

/// All of them.
pub(crate) fn corpus() -> Vec<BadModel> {
    let mut all = files::models();
    all.extend(graphs::models());
    all.extend(operators::models());
    all.extend(tensors::models());
    all.extend(attributes::models());
    all.extend(sizes::models());
    all.extend(costly::models());
    all
}

fn bad(name: &'static str, file: Vec<u8>, code: &'static str, says: &'static str) -> BadModel {
    BadModel { name, file, code, says, seen: Seen::Before }
}

// ---- building blocks ----

fn with_nodes(nodes: Vec<Message>, constants: Vec<Message>) -> Vec<u8> {
    Graph { nodes, constants, ..relu() }.file()
}

/// A constant list of integers.
fn list(name: &str, values: &[i64]) -> Message {
    tensor(name, INT64, &[values.len() as u64], &ints(values))
}

/// `y = op(x, …)` with more inputs, which are constants.
fn with_constants(op: Message, constants: Vec<Message>) -> Vec<u8> {
    with_nodes(vec![op], constants)
}
