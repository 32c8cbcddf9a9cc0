//! What only shows when it is loaded or computed: memory, time, and answers that are not what was declared.

use super::super::onnx::{FLOAT, Graph, INT64, Message, inner, integer, integers, ints, node, tensor, value, with};
use super::{BadModel, Seen, list, relu, with_nodes};

pub(super) fn models() -> Vec<BadModel> {
    vec![
        later("joined-with-itself", joined(), "worker.memory", ""),
        later("fill-computed", computed("ConstantOfShape"), "worker.memory", ""),
        later("expand-computed", expanded(), "worker.memory", ""),
        later("range-computed", counted(), "worker.memory", ""),
        later("terabytes-around-a-point", padded(), "worker.memory", ""),
        BadModel {
            seen: Seen::Before,
            ..later("outer-products", outer(), "model.too_large", "makes 400000000 elements")
        },
        later("products-for-hours", endless(), "worker.timeout", "limits.wall_ms"),
        later("steps-for-hours", stepping(), "worker.timeout", "limits.wall_ms"),
        later("output-of-another-rank", ranked(), "model.shape", "correct model.toml"),
        later("output-of-another-type", typed(), "model.shape", "correct model.toml"),
        later("shapes-that-do-not-meet", unmet(), "model.run", "broadcast"),
        later("reshape-to-another-size", resized(), "model.shape", ""),
        BadModel {
            seen: Seen::Before,
            ..later("input-of-another-type", declared(), "model.shape", "correct model.toml")
        },
        BadModel { seen: Seen::Before, ..later("input-of-another-name", renamed(), "model.shape", "does not declare") },
        BadModel {
            seen: Seen::Before,
            ..later("output-of-another-name", other_output(), "model.shape", "does not give")
        },
    ]
}

fn later(name: &'static str, file: Vec<u8>, code: &'static str, says: &'static str) -> BadModel {
    BadModel { name, file, code, says, seen: Seen::Later }
}

/// Joins itself with itself, which thirty times is 4 GiB.
fn joined() -> Vec<u8> {
    let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("d{at}") };
    let join = |at: usize| with(node("Concat", &[&name(at), &name(at)], &[&name(at + 1)]), integer("axis", 0));
    let mut nodes: Vec<_> = (0..30).map(join).collect();
    nodes.push(node("Relu", &["d30"], &["y"]));
    with_nodes(nodes, vec![])
}

/// A shape of 2^30 that is computed from constants, so that the file does not show it.
fn large() -> (Vec<Message>, Vec<Message>) {
    (vec![node("Mul", &["root", "root"], &["shape"])], vec![list("root", &[1 << 15])])
}

fn added(mut nodes: Vec<Message>, constants: Vec<Message>) -> Vec<u8> {
    nodes.push(node("ReduceMax", &["big"], &["top"]));
    nodes.push(node("Add", &["x", "top"], &["y"]));
    with_nodes(nodes, constants)
}

fn computed(op: &str) -> Vec<u8> {
    let (mut nodes, constants) = large();
    nodes.push(node(op, &["shape"], &["big"]));
    added(nodes, constants)
}

fn expanded() -> Vec<u8> {
    let (mut nodes, constants) = large();
    nodes.push(node("Expand", &["x", "shape"], &["wide"]));
    nodes.push(node("Exp", &["wide"], &["big"]));
    added(nodes, constants)
}

fn counted() -> Vec<u8> {
    let number = |name, value| tensor(name, INT64, &[], &ints(&[value]));
    let nodes = vec![
        node("Mul", &["root", "root"], &["limit"]),
        node("Range", &["start", "limit", "delta"], &["numbers"]),
        with(node("Cast", &["numbers"], &["big"]), integer("to", 1)),
    ];
    added(nodes, vec![number("root", 1 << 15), number("start", 0), number("delta", 1)])
}

/// Each side of one point in space is padded by no more than is allowed.
fn padded() -> Vec<u8> {
    let nodes = vec![
        node("Reshape", &["x", "point"], &["p"]),
        with(node("Conv", &["p", "w"], &["big"]), integers("pads", &[4096; 6])),
    ];
    added(nodes, vec![tensor("w", FLOAT, &[1; 5], &1_f32.to_le_bytes()), list("point", &[1; 5])])
}

/// A column times a row, 20,000 of each: 1.6 GB.
fn outer() -> Vec<u8> {
    let nodes = vec![
        node("Expand", &["x", "column"], &["c"]),
        node("Expand", &["x", "row"], &["r"]),
        node("Mul", &["c", "r"], &["big"]),
    ];
    added(nodes, vec![list("column", &[20_000, 1]), list("row", &[1, 20_000])])
}

/// Products of large matrices: hours, from a short file.
fn endless() -> Vec<u8> {
    let name = |at: usize| format!("p{at}");
    let mut nodes = vec![node("Expand", &["x", "large"], &["p0"])];
    nodes.extend((0..1000).map(|at| node("MatMul", &[&name(at), "p0"], &[&name(at + 1)])));
    nodes.push(node("ReduceMax", &["p1000"], &["top"]));
    nodes.push(node("Add", &["x", "top"], &["s"]));
    nodes.push(node("Reshape", &["s", "flat"], &["y"]));
    with_nodes(nodes, vec![list("large", &[1500, 1500]), list("flat", &[-1])])
}

/// Ten million steps of nothing; how many is computed.
fn stepping() -> Vec<u8> {
    let body = Graph {
        nodes: vec![node("Add", &["s", "i"], &["t"]), node("Exp", &["i"], &["o"])],
        constants: vec![],
        inputs: vec![value("s", FLOAT, &[1]), value("i", FLOAT, &[1])],
        outputs: vec![value("t", FLOAT, &[1]), value("o", FLOAT, &[1])],
    };
    let scan = with(node("Scan", &["x", "rows"], &["y", "all"]), integer("num_scan_inputs", 1));
    let nodes = vec![
        node("Mul", &["root", "root"], &["shape"]),
        node("Expand", &["x", "shape"], &["rows"]),
        with(scan, inner("body", body)),
    ];
    with_nodes(nodes, vec![list("root", &[2000, 1])])
}

/// Gives a matrix where a list is declared.
fn ranked() -> Vec<u8> {
    with_nodes(vec![node("Unsqueeze", &["x", "first"], &["y"])], vec![list("first", &[0])])
}

fn typed() -> Vec<u8> {
    with_nodes(vec![with(node("Cast", &["x"], &["y"]), integer("to", 7))], vec![])
}

fn unmet() -> Vec<u8> {
    let nodes = vec![
        node("Expand", &["x", "three"], &["a"]),
        node("Expand", &["x", "four"], &["b"]),
        node("Add", &["a", "b"], &["y"]),
    ];
    with_nodes(nodes, vec![list("three", &[3]), list("four", &[4])])
}

fn resized() -> Vec<u8> {
    with_nodes(vec![node("Reshape", &["x", "seven"], &["y"])], vec![list("seven", &[7])])
}

fn declared() -> Vec<u8> {
    Graph { inputs: vec![value("x", INT64, &[0])], ..relu() }.file()
}

fn renamed() -> Vec<u8> {
    let nodes = vec![node("Relu", &["z"], &["y"])];
    Graph { nodes, inputs: vec![value("z", FLOAT, &[0])], ..relu() }.file()
}

fn other_output() -> Vec<u8> {
    let nodes = vec![node("Relu", &["x"], &["z"])];
    Graph { nodes, outputs: vec![value("z", FLOAT, &[0])], ..relu() }.file()
}
