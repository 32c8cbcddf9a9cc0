//! Graphs with circles, doubles, gaps, bad names and too much in them.

use super::super::onnx::{FLOAT, Graph, INT64, Message, floats, inner, integer, ints, node, tensor, value, with};
use super::{BadModel, bad, list, relu, with_nodes};

pub(super) fn models() -> Vec<BadModel> {
    let mut all = shapes_of_graphs();
    all.extend(names());
    all.extend(inner_graphs());
    all.extend(counts());
    all
}

fn shapes_of_graphs() -> Vec<BadModel> {
    let two = |one: Message, other: Message| with_nodes(vec![one, other], vec![]);
    let outputs = |outputs: Vec<Message>| Graph { outputs, ..relu() }.file();
    let twin = || tensor("w", FLOAT, &[1], &floats(&[1.0]));
    let y = || value("y", FLOAT, &[0]);
    let add = node("Add", &["x", "w"], &["y"]);
    vec![
        bad("circle-of-one", with_nodes(vec![node("Add", &["x", "y"], &["y"])], vec![]), "model.graph", "circle"),
        bad(
            "circle-of-two",
            two(node("Add", &["x", "y"], &["a"]), node("Relu", &["a"], &["y"])),
            "model.graph",
            "circle",
        ),
        bad(
            "circle-beside",
            with_nodes(
                vec![node("Relu", &["x"], &["y"]), node("Relu", &["b"], &["a"]), node("Relu", &["a"], &["b"])],
                vec![],
            ),
            "model.graph",
            "2 of 3 operators",
        ),
        bad("input-from-nowhere", with_nodes(vec![node("Add", &["x", "z"], &["y"])], vec![]), "model.graph", "\"z\""),
        bad("output-from-nowhere", outputs(vec![y(), value("z", FLOAT, &[0])]), "model.graph", "\"z\""),
        bad("no-output", outputs(vec![]), "model.graph", "no output"),
        bad("output-twice", outputs(vec![y(), y()]), "model.graph", "two outputs"),
        bad(
            "value-twice",
            two(node("Relu", &["x"], &["y"]), node("Neg", &["x"], &["y"])),
            "model.graph",
            "two values are called \"y\"",
        ),
        bad(
            "value-named-as-input",
            two(node("Relu", &["x"], &["x"]), node("Relu", &["x"], &["y"])),
            "model.graph",
            "two values are called \"x\"",
        ),
        bad(
            "input-twice",
            Graph { inputs: vec![value("x", FLOAT, &[0]), value("x", FLOAT, &[0])], ..relu() }.file(),
            "model.graph",
            "two inputs",
        ),
        bad("constant-twice", with_nodes(vec![add], vec![twin(), twin()]), "model.graph", "two constants"),
    ]
}

fn names() -> Vec<BadModel> {
    let through = |name: &str| with_nodes(vec![node("Relu", &["x"], &[name]), node("Relu", &[name], &["y"])], vec![]);
    let symbol = |symbol: &str| {
        let dimension = Message::default().message(1, Message::default().bytes(2, symbol));
        let kind = Message::default().message(1, Message::default().int(1, FLOAT).message(2, dimension));
        Graph { inputs: vec![Message::default().bytes(1, "x").message(2, kind)], ..relu() }.file()
    };
    let unnamed = Graph { constants: vec![tensor("", FLOAT, &[1], &floats(&[1.0]))], ..relu() }.file();
    vec![
        bad("long-name", through(&"n".repeat(2000)), "model.name", "2000 bytes"),
        bad("name-with-escape", through("\u{1b}[31mred"), "model.name", "control characters"),
        bad("name-with-newline", through("a\nb"), "model.name", "control characters"),
        bad("constant-without-name", unnamed, "model.name", "has no name"),
        bad("symbol-of-brackets", symbol(&"(".repeat(50_000)), "model.name", "50000 bytes"),
        bad("symbol-of-a-long-sum", symbol(&"N+".repeat(20_000)), "model.name", "40000 bytes"),
        bad("symbol-not-ascii", symbol("N\u{202e}M"), "model.name", "ASCII"),
    ]
}

/// `If` whose branches are these.
fn branches(one: Graph, other: Graph) -> Vec<u8> {
    let branching = with(with(node("If", &["c"], &["y"]), inner("then_branch", one)), inner("else_branch", other));
    with_nodes(vec![branching], vec![tensor("c", 9, &[], &[1])])
}

/// A branch that gives `out` by one operator.
fn branch(op: &str, inputs: &[&str], out: &str) -> Graph {
    Graph { nodes: vec![node(op, inputs, &[out])], outputs: vec![value(out, FLOAT, &[0])], ..Graph::default() }
}

/// `Scan` over `scanned` values, with a body of those inputs and outputs.
fn scan(
    scanned: i64,
    body_inputs: &[&str],
    body_outputs: &[&str],
    inputs: &[&str],
    constants: Vec<Message>,
) -> Vec<u8> {
    let body = Graph {
        nodes: body_outputs.iter().map(|name| node("Relu", &[body_inputs[0]], &[name])).collect(),
        constants: vec![],
        inputs: body_inputs.iter().map(|name| value(name, FLOAT, &[1])).collect(),
        outputs: body_outputs.iter().map(|name| value(name, FLOAT, &[1])).collect(),
    };
    let scan = with(with(node("Scan", inputs, &["y"]), integer("num_scan_inputs", scanned)), inner("body", body));
    with_nodes(vec![node("Expand", &["x", "long"], &["rows"]), scan], constants)
}

fn inner_graphs() -> Vec<BadModel> {
    let long = |rows: i64| vec![list("long", &[rows, 1])];
    let mut deep = branch("Relu", &["x"], "y");
    for at in 0..5 {
        let name = format!("d{at}");
        let nodes = vec![with(node("If", &["c"], &[&name]), inner("then_branch", deep))];
        deep = Graph { nodes, outputs: vec![value(&name, FLOAT, &[0])], ..Graph::default() };
    }
    let many = || {
        let nodes = (0..2600).map(|at| node("Relu", &["x"], &[&format!("v{at}")])).collect();
        Graph { nodes, outputs: vec![value("v0", FLOAT, &[0])], ..Graph::default() }
    };
    let taking = Graph { inputs: vec![value("i", FLOAT, &[0])], ..branch("Relu", &["x"], "a") };
    let other = || branch("Neg", &["x"], "b");
    let symbol = {
        let dimension = Message::default().message(1, Message::default().bytes(2, "(".repeat(50_000)));
        let kind = Message::default().message(1, Message::default().int(1, FLOAT).message(2, dimension));
        Graph { inputs: vec![Message::default().bytes(1, "i").message(2, kind)], ..branch("Relu", &["x"], "a") }
    };
    let stray = with(node("Relu", &["x"], &["y"]), inner("body", branch("Relu", &["x"], "a")));
    let rounds = with(node("Loop", &["n", "c"], &["y"]), inner("body", branch("Relu", &["x"], "a")));
    let infinite = vec![list("n", &[i64::MAX]), tensor("c", 9, &[1], &[1])];
    vec![
        bad("inner-graphs-deep", branches(deep, other()), "model.too_large", "nested deeper than 4"),
        bad("inner-graphs-wide", branches(many(), many()), "model.too_large", "above the limit of 5000"),
        bad("branch-with-inputs", branches(taking, other()), "model.attribute", "has a branch of 1 inputs"),
        bad(
            "branch-without-outputs",
            branches(Graph { outputs: vec![], ..other() }, other()),
            "model.attribute",
            "and 0 outputs",
        ),
        bad("branch-in-a-circle", branches(branch("Relu", &["y"], "a"), other()), "model.graph", "circle"),
        bad("branch-from-nowhere", branches(branch("Relu", &["z"], "a"), other()), "model.graph", "\"z\""),
        bad("symbol-in-a-branch", branches(symbol, other()), "model.attribute", "has a branch of 1 inputs"),
        bad("graph-in-relu", with_nodes(vec![stray], vec![]), "model.attribute", "only If and Scan"),
        bad("loop-for-ever", with_nodes(vec![rounds], infinite), "model.unsupported_op", "ai.onnx.Loop"),
        bad("scan-of-nothing", scan(0, &["i"], &["o"], &["rows"], long(4)), "model.attribute", "num_scan_inputs = 0"),
        bad("scan-of-more-than-given", scan(3, &["i"], &["o"], &["rows"], long(4)), "model.attribute", "3 of them"),
        bad("scan-body-too-wide", scan(1, &["i", "j"], &["o"], &["rows"], long(4)), "model.attribute", "a body of 2"),
        bad("scan-of-many-steps", scan(1, &["i"], &["o"], &["rows"], long(10_000_000)), "model.too_large", "steps"),
    ]
}

fn counts() -> Vec<BadModel> {
    let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("r{at}") };
    let mut chain: Vec<_> = (0..20_000).map(|at| node("Relu", &[&name(at)], &[&name(at + 1)])).collect();
    chain.push(node("Relu", &["r20000"], &["y"]));
    let constants = (0..20_001).map(|at| tensor(&format!("w{at}"), INT64, &[1], &ints(&[1]))).collect();
    let links = with(node("Concat", &["x"; 2000], &["y"]), integer("axis", 0));
    let ranked = Graph { inputs: vec![value("x", FLOAT, &[1; 100])], ..relu() };
    let long = Graph { inputs: vec![value("x", FLOAT, &[1 << 40])], ..relu() };
    vec![
        bad("chain-of-20000", with_nodes(chain, vec![]), "model.too_large", "limit of 5000"),
        bad("constants-20001", with_nodes(relu().nodes, constants), "model.too_large", "limit of 20000"),
        bad("inputs-2000-of-one-node", with_nodes(vec![links], vec![]), "model.too_large", "2000 inputs"),
        bad("input-of-100-dimensions", ranked.file(), "model.shape", "100 dimensions"),
        bad("input-of-2-to-40", long.file(), "model.shape", "1099511627776"),
    ]
}
