//! Tensors whose data is elsewhere, missing, too much, or of a type that is not served.

use super::super::onnx::{FLOAT, INT64, Message, external_tensor, floats, holding, inner, node, tensor, with};
use super::{BadModel, bad, relu, with_nodes};

/// Element types of ONNX.
const STRING: u64 = 8;
const BFLOAT16: u64 = 16;
const COMPLEX64: u64 = 14;

pub(super) fn models() -> Vec<BadModel> {
    let add = || vec![node("Add", &["x", "w"], &["y"])];
    let weight = |weight: Message| with_nodes(add(), vec![weight]);
    let one = || floats(&[1.0]);
    let outside = |location: &str| weight(external_tensor("w", &[1], location));
    let head = |datatype: u64, dims: &[u64]| {
        let tensor = dims.iter().fold(Message::default(), |tensor, dim| tensor.int(1, *dim));
        tensor.int(2, datatype).bytes(8, "w")
    };
    let given = |tensor: Message| {
        let constant = with(node("Constant", &[], &["w"]), holding("value", tensor));
        with_nodes([vec![constant], add()].concat(), vec![])
    };
    let sparse = |values: Message| {
        let graph = relu().message().message(15, Message::default().message(1, values).int(3, 1));
        let sets = Message::default().int(2, 13);
        Message::default().int(1, 8).message(7, graph).message(8, sets).into_bytes()
    };
    let in_a_branch = {
        let mut branch = relu();
        branch.inputs = vec![];
        branch.constants = vec![external_tensor("v", &[1], "weights.bin")];
        let branching = with(node("If", &["c"], &["y"]), inner("then_branch", branch));
        with_nodes(vec![branching], vec![tensor("c", 9, &[], &[1])])
    };
    vec![
        bad("data-beside", outside("weights.bin"), "model.external_data", "\"w\" keeps its data in another file"),
        bad("data-at-an-absolute-path", outside("/etc/passwd"), "model.external_data", "\"w\""),
        bad("data-at-a-parent", outside("../../../../etc/shadow"), "model.external_data", "\"w\""),
        bad("data-of-a-device", outside("/dev/zero"), "model.external_data", "\"w\""),
        bad("data-somewhere", weight(tensor("w", FLOAT, &[1], &one()).int(14, 1)), "model.external_data", "\"w\""),
        bad(
            "data-in-a-third-place",
            weight(tensor("w", FLOAT, &[1], &one()).int(14, 7)),
            "model.external_data",
            "\"w\"",
        ),
        bad("data-of-an-attribute", given(external_tensor("w", &[1], "w.bin")), "model.external_data", "\"w\""),
        bad("data-of-a-sparse-tensor", sparse(external_tensor("w", &[1], "w.bin")), "model.external_data", "\"w\""),
        bad("data-of-a-branch", in_a_branch, "model.external_data", "\"v\""),
        bad("sparse", sparse(tensor("w", FLOAT, &[1], &one())), "model.datatype", "sparse"),
        bad("dimension-negative", weight(tensor("w", FLOAT, &[u64::MAX], &one())), "model.shape", "[-1]"),
        bad("dimension-of-2-to-40", weight(tensor("w", FLOAT, &[1 << 40], &one())), "model.shape", "1099511627776"),
        bad("dimensions-overflow", weight(tensor("w", FLOAT, &[1 << 31; 4], &one())), "model.shape", "2147483648"),
        bad("dimensions-of-a-gigabyte", weight(head(FLOAT, &[1 << 14, 1 << 14])), "model.shape", "268435456 bytes"),
        bad("dimensions-17", weight(tensor("w", FLOAT, &[1; 17], &one())), "model.shape", "cannot be inside"),
        bad("data-too-short", weight(tensor("w", FLOAT, &[4], &one())), "model.shape", "holds 4 bytes, expected 16"),
        bad("data-too-long", weight(tensor("w", FLOAT, &[], &[0; 400])), "model.shape", "holds 400 bytes, expected 4"),
        bad("data-missing", weight(head(FLOAT, &[4])), "model.shape", "holds 0 elements, expected 4"),
        bad(
            "data-in-the-wrong-field",
            weight(head(FLOAT, &[1]).bytes(7, [1])),
            "model.shape",
            "holds 0 elements, expected 1",
        ),
        bad("elements-too-many", weight(head(INT64, &[1]).bytes(7, [1; 9])), "model.shape", "holds 9 elements"),
        bad("text-as-raw-bytes", weight(tensor("w", STRING, &[1], b"ebb")), "model.datatype", "text as raw bytes"),
        bad("type-bfloat16", weight(tensor("w", BFLOAT16, &[1], &[0; 2])), "model.datatype", "BFLOAT16"),
        bad("type-complex", weight(tensor("w", COMPLEX64, &[1], &[0; 8])), "model.datatype", "COMPLEX64"),
        bad("type-none", weight(tensor("w", 0, &[1], &one())), "model.datatype", "UNDEFINED"),
        bad("type-77", weight(tensor("w", 77, &[1], &one())), "model.datatype", "number 77"),
        bad(
            "segment",
            weight(tensor("w", FLOAT, &[1], &one()).message(3, Message::default().int(1, 0).int(2, 1))),
            "model.parse",
            "one segment",
        ),
    ]
}
