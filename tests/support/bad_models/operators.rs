//! Operators that are not served, and versions of them.

use super::super::onnx::{FLOAT, Graph, Message, floats, holding, node, tensor, with};
use super::{BadModel, bad, relu, with_nodes};

/// Field of a node: its domain.
const DOMAIN: u64 = 7;

pub(super) fn models() -> Vec<BadModel> {
    let op = |op: &str| with_nodes(vec![node(op, &["x"], &["y"])], vec![]);
    let of = |domain: &str, op: &str, sets: &[(&str, i64)]| {
        let graph = Graph { nodes: vec![node(op, &["x"], &["y"]).bytes(DOMAIN, domain)], ..relu() };
        graph.file_of(8, sets).into_bytes()
    };
    let sets = |sets: &[(&str, i64)]| relu().file_of(8, sets).into_bytes();
    let format = |ir_version: u64| relu().file_of(ir_version, &[("", 13)]).into_bytes();
    let microsoft = [("", 13), ("com.microsoft", 1)];
    let function = |domain: &str| {
        let body = Message::default().bytes(1, "Relu").bytes(4, "a").bytes(5, "b").bytes(10, domain);
        relu().file_of(8, &[("", 13)]).message(25, body.message(7, node("Neg", &["a"], &["b"]))).into_bytes()
    };
    let training = relu().file_of(8, &[("", 13)]).message(20, Message::default()).into_bytes();
    let hidden = {
        let constant = with(node("Constant", &[], &["w"]), holding("value", tensor("", FLOAT, &[1], &floats(&[1.0]))));
        let foreign = node("Add", &["x", "w"], &["y"]).bytes(DOMAIN, "ai.onnx.preview");
        with_nodes(vec![constant, foreign], vec![])
    };
    vec![
        bad("operator-unknown", op("Frobnicate"), "model.unsupported_op", "ai.onnx.Frobnicate"),
        bad("operator-without-name", op(""), "model.unsupported_op", "ai.onnx."),
        bad("operator-of-a-long-name", op(&"A".repeat(1 << 20)), "model.unsupported_op", "…"),
        bad("operator-with-escape", op("Relu\u{1b}[2J"), "model.unsupported_op", "\\u{1b}"),
        bad("operator-in-capitals", op("RELU"), "model.unsupported_op", "ai.onnx.RELU"),
        bad("domain-foreign", of("evil.corp", "Relu", &[("", 13)]), "model.unsupported_op", "evil.corp.Relu"),
        bad(
            "domain-foreign-imported",
            of("evil.corp", "Relu", &[("", 13), ("evil.corp", 1)]),
            "model.unsupported_op",
            "evil.corp.Relu",
        ),
        bad("domain-preview", hidden, "model.unsupported_op", "ai.onnx.preview.Add"),
        bad("domain-borrowed", of("com.microsoft", "Relu", &microsoft), "model.unsupported_op", "com.microsoft.Relu"),
        bad(
            "namesake",
            of("com.microsoft", "Attention", &microsoft),
            "model.unsupported_op",
            "com.microsoft.Attention",
        ),
        bad("domain-not-imported", of("com.microsoft", "FastGelu", &[("", 13)]), "model.opset", "does not import"),
        bad(
            "trees",
            of("ai.onnx.ml", "TreeEnsembleRegressor", &[("", 13), ("ai.onnx.ml", 3)]),
            "model.unsupported_op",
            "TreeEnsembleRegressor",
        ),
        bad("set-9999", sets(&[("", 9999)]), "model.opset", "version 9999, 7 to 23"),
        bad("set-0", sets(&[("", 0)]), "model.opset", "version 0"),
        bad("set-6", sets(&[("", 6)]), "model.opset", "version 6"),
        bad("set-negative", sets(&[("", -13)]), "model.opset", "version -13"),
        bad("set-missing", sets(&[]), "model.opset", "does not say"),
        bad("set-of-another-domain-only", sets(&[("ai.onnx.ml", 3)]), "model.opset", "does not say"),
        bad("set-twice", sets(&[("", 13), ("ai.onnx", 14)]), "model.opset", "twice"),
        bad("set-of-trees-5", sets(&[("", 13), ("ai.onnx.ml", 5)]), "model.opset", "ai.onnx.ml version 5"),
        bad("format-0", format(0), "model.opset", "ir_version 0, 3 to 13"),
        bad("format-99", format(99), "model.opset", "ir_version 99"),
        bad("format-negative", format(u64::MAX), "model.opset", "ir_version -1"),
        bad("function", function("corp.example"), "model.unsupported_op", "defines a function"),
        bad("function-over-relu", function(""), "model.unsupported_op", "defines a function"),
        bad("training", training, "model.unsupported_op", "training"),
    ]
}
