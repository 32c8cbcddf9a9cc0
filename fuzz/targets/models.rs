//! What a model's author sends, before the engine sees it.

use neap::model::Port;
use neap::tensor::DataType;
use neap::worker::engine::Pinned;
use neap::worker::preflight::inspect;

use super::{bounded, is_plain_fault};

/// Memory for each byte of an ONNX file: an empty node of two bytes is a record of many fields, kept twice for a moment.
const HELD_PER_ONNX_BYTE: u64 = 1024;

/// An ONNX file, for a network from `x` to `y` with four numbers each, and for one without ports. The engine is not
/// asked: it may do anything with what has passed.
pub fn model_preflight(bytes: &[u8]) {
    let x = Pinned { name: "x".to_owned(), datatype: DataType::Fp32, shape: vec![1, 4] };
    let y = Port { name: "y".to_owned(), datatype: DataType::Fp32, shape: vec![Some(1), Some(4)], default: None };
    for (inputs, outputs) in [(vec![x], vec![y]), (Vec::new(), Vec::new())] {
        for knows in [true, false] {
            let judged = bounded(bytes.len(), HELD_PER_ONNX_BYTE, || {
                inspect(bytes, &|_: &str| knows, &inputs, &outputs).map(|cleared| cleared.remarks)
            });
            match judged {
                Ok(remarks) => assert!(remarks.len() <= bytes.len()),
                Err(fault) => is_plain_fault(&fault),
            }
        }
    }
}
