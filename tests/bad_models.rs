//! Can a model folder harm the agent? Manifests with mistakes are left out, hostile networks cost their own jobs, and
//! the other models serve on.

#[path = "support/onnx.rs"]
#[allow(dead_code, reason = "the tests of one worker use the rest")]
mod onnx;

mod common;

use std::fs;
use std::path::Path;

use common::controller::Controller;
use common::node::{Node, Setup};
use neap::units::Digest;
use onnx::{FLOAT, Graph, INT64, external_tensor, floats, integers, ints, node, tensor, value, with};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

// ---- models ----

/// `y = relu(x)`, one open dimension.
fn relu() -> Graph {
    Graph {
        nodes: vec![node("Relu", &["x"], &["y"])],
        constants: vec![],
        inputs: vec![value("x", FLOAT, &[0])],
        outputs: vec![value("y", FLOAT, &[0])],
    }
}

fn with_nodes(nodes: Vec<onnx::Message>, constants: Vec<onnx::Message>) -> Vec<u8> {
    Graph { nodes, constants, ..relu() }.file()
}

/// Doubles itself in every step: 30 operators ask for 4 GiB.
fn doubling() -> Vec<u8> {
    let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("d{at}") };
    let mut nodes: Vec<_> = (0..30).map(|at| node("Tile", &[&name(at), "two"], &[&name(at + 1)])).collect();
    nodes.push(node("Relu", &[&name(30)], &["y"]));
    with_nodes(nodes, vec![tensor("two", INT64, &[1], &ints(&[2]))])
}

/// A filled gigabyte times four, from a file of a few hundred bytes.
fn four_gigabytes() -> Vec<u8> {
    let nodes = vec![
        node("ConstantOfShape", &["shape"], &["big"]),
        node("ReduceMax", &["big"], &["top"]),
        node("Add", &["x", "top"], &["y"]),
    ];
    with_nodes(nodes, vec![tensor("shape", INT64, &[1], &ints(&[1 << 30]))])
}

/// Terabytes of zeros around a picture of one pixel.
fn padded() -> Vec<u8> {
    let conv = with(node("Conv", &["p", "w"], &["c"]), integers("pads", &[1 << 21; 4]));
    let nodes = vec![node("Reshape", &["x", "pixel"], &["p"]), conv, node("Reshape", &["c", "flat"], &["y"])];
    let constants = vec![
        tensor("w", FLOAT, &[1, 1, 1, 1], &floats(&[1.0])),
        tensor("pixel", INT64, &[4], &ints(&[1; 4])),
        tensor("flat", INT64, &[1], &ints(&[-1])),
    ];
    with_nodes(nodes, constants)
}

/// Products of large matrices: hours, from a short file.
fn endless() -> Vec<u8> {
    let name = |at: usize| format!("p{at}");
    let mut nodes = vec![node("Expand", &["x", "large"], &["p0"])];
    nodes.extend((0..1000).map(|at| node("MatMul", &[&name(at), "p0"], &[&name(at + 1)])));
    nodes.push(node("ReduceMax", &["p1000"], &["top"]));
    nodes.push(node("Add", &["x", "top"], &["s"]));
    nodes.push(node("Reshape", &["s", "flat"], &["y"]));
    let constants = vec![tensor("large", INT64, &[2], &ints(&[1500, 1500])), tensor("flat", INT64, &[1], &ints(&[-1]))];
    with_nodes(nodes, constants)
}

/// A chain so long that the optimiser, whose time grows with its square, would take minutes.
fn long_chain(count: usize) -> Vec<u8> {
    let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("r{at}") };
    let mut nodes: Vec<_> = (0..count).map(|at| node("Relu", &[&name(at)], &[&name(at + 1)])).collect();
    nodes.push(node("Relu", &[&name(count)], &["y"]));
    with_nodes(nodes, vec![])
}

fn manifest(name: &str, file: &[u8], output: &str) -> String {
    let digest = Digest(Sha256::digest(file).into());
    format!(
        "name = \"{name}\"\nversion = 1\nsummary = \"Made by a test.\"\nlicence = \"Apache-2.0\"\n\
         source = \"made by a test\"\nfile = \"model.onnx\"\ndigest = \"{digest}\"\n\
         inputs = [{{ name = \"x\", datatype = \"FP32\", shape = [-1] }}]\n\
         outputs = [{{ name = \"{output}\", datatype = \"FP32\", shape = [-1] }}]\n"
    )
}

fn install(folder: &Path, name: &str, file: &[u8], manifest: &str) {
    let folder = folder.join(name);
    fs::create_dir(&folder).expect("a folder can be made");
    fs::write(folder.join("model.onnx"), file).expect("a file can be written");
    fs::write(folder.join("model.toml"), manifest).expect("a file can be written");
}

/// Name, file, and the code in which its jobs end.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = relu().file();
    let external = with_nodes(vec![node("Add", &["x", "w"], &["y"])], vec![external_tensor("w", &[1], "/etc/passwd")]);
    let integer_zero = |name| tensor(name, INT64, &[1], &ints(&[0]));
    let divided = with_nodes(
        vec![node("Div", &["one", "zero"], &["q"]), node("Reshape", &["x", "q"], &["y"])],
        vec![tensor("one", INT64, &[1], &ints(&[1])), integer_zero("zero")],
    );
    vec![
        (
            "garbage",
            (0..4096_u32).flat_map(|at| (at.wrapping_mul(2_654_435_761)).to_be_bytes()).collect(),
            "model.parse",
        ),
        ("truncated", good[..good.len() / 2].to_vec(), "model.parse"),
        ("empty", vec![], "model.parse"),
        ("foreign", with_nodes(vec![node("Frobnicate", &["x"], &["y"])], vec![]), "model.unsupported_op"),
        ("external", external, "model.external_data"),
        ("divided", divided, "model.parse"),
        ("no-such-output", good, "model.shape"),
        ("long-chain", long_chain(20_000), "model.too_large"),
        ("doubling", doubling(), "worker.memory"),
        ("four-gigabytes", four_gigabytes(), "worker.memory"),
        ("padded", padded(), "worker.memory"),
        ("endless", endless(), "worker.timeout"),
    ]
}

// ---- jobs ----

fn job(model: &str, values: &[f32]) -> Value {
    let input = json!({"inputs": [{"name": "x", "shape": [values.len()], "datatype": "FP32", "data": values}]});
    let limits = json!({"wall_ms": 1000, "memory_bytes": 64 << 20, "attempts": 1});
    json!({"model": model, "limits": limits, "input": input})
}

fn assert_serves(controller: &Controller, id: &str) {
    controller.submit(id, &job("good", &[-1.0, 2.0]));
    let result = controller.wait_for_result(id);
    assert_eq!(result["outputs"][0]["data"], json!([0.0, 2.0]), "{result}");
}

fn in_a_trough(models: &Path) -> (Node, Controller) {
    let node = Node::start(&Setup::new().with("models", "dir", models.display().to_string()));
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    (node, controller)
}

#[test]
fn a_hostile_model_ends_its_job_with_a_code_and_nothing_else() {
    let models = TempDir::new().expect("a folder can be made");
    let good = relu().file();
    install(models.path(), "good", &good, &manifest("good", &good, "y"));
    for (name, file, _) in hostile() {
        let output = if name == "no-such-output" { "z" } else { "y" };
        install(models.path(), name, &file, &manifest(name, &file, output));
    }
    install(models.path(), "swapped", &good, &manifest("swapped", b"another file", "y"));
    let (node, controller) = in_a_trough(models.path());
    let agent = node.agent_pid();

    for (name, _, code) in hostile().into_iter().chain([("swapped", vec![], "model.hash_mismatch")]) {
        controller.submit(name, &job(name, &[1.0]));
        let result = controller.wait_for_result(name);
        assert_eq!(result["error"]["code"], code, "{name}: {result}");
        controller.wait_for_state(name, "FAILED");
        assert_serves(&controller, &format!("after-{name}"));
    }
    assert_eq!(node.agent_pid(), agent);
    node.wait_for_workers(1);
    assert!(!node.log().contains("panicked at"), "{}", node.log());
}

#[test]
fn a_model_that_fails_to_load_three_times_is_quarantined_and_one_that_only_refuses_a_shape_is_not() {
    let models = TempDir::new().expect("a folder can be made");
    let good = relu().file();
    let broken = with_nodes(vec![node("Frobnicate", &["x"], &["y"])], vec![]);
    let four = with_nodes(vec![node("Add", &["x", "w"], &["y"])], vec![tensor("w", FLOAT, &[4], &floats(&[1.0; 4]))]);
    for (name, file) in [("good", &good), ("broken", &broken), ("four", &four)] {
        install(models.path(), name, file, &manifest(name, file, "y"));
    }
    let (_node, controller) = in_a_trough(models.path());
    for model in ["broken", "four"] {
        for time in 1..=3 {
            let id = format!("{model}-{time}");
            controller.submit(&id, &job(model, &[1.0; 3]));
            controller.wait_for_state(&id, "FAILED");
        }
        let id = format!("{model}-4");
        controller.submit(&id, &job(model, &[1.0; 4]));
    }
    let refused = controller.wait_for_result("broken-4");
    assert_eq!(refused["error"]["code"], "model.quarantined", "{refused}");
    let sentence = refused["error"]["message"].as_str().unwrap_or_default();
    assert!(sentence.contains("broken") && sentence.contains("3 times") && sentence.contains("replace"), "{sentence}");
    controller.wait_for_state("broken-4", "REJECTED");
    let served = controller.wait_for_result("four-4");
    assert_eq!(served["outputs"][0]["data"], json!([2.0, 2.0, 2.0, 2.0]), "{served}");
}

#[test]
fn a_manifest_with_a_mistake_is_left_out_with_its_place_and_the_others_serve() {
    let models = TempDir::new().expect("a folder can be made");
    let good = relu().file();
    let right = |name: &str| manifest(name, &good, "y");
    install(models.path(), "good", &good, &right("good"));
    let mistakes = [
        ("typo", right("typo").replace("licence", "license"), "4:1: license: unknown field `license`"),
        ("name", right("name").replace("\"name\"", "\"../up\""), "1:8: name: name"),
        ("outside", right("outside").replace("model.onnx", "../good/model.onnx"), "6:8: file: "),
        ("shape", right("shape").replace("[-1] }]\noutputs", "[0] }]\noutputs"), "dimension 0"),
        ("not-toml", "name = ".to_owned(), "1:"),
        ("missing", right("missing").replace("version = 1\n", ""), "1:1: model.toml: missing field `version`"),
        ("huge", format!("{}# {}", right("huge"), "x".repeat(1 << 20)), "65536"),
        ("twin", right("good"), "already in"),
    ];
    for (folder, text, _) in &mistakes {
        install(models.path(), folder, &good, text);
    }
    fs::create_dir(models.path().join("no-model")).expect("a folder can be made");
    let (node, controller) = in_a_trough(models.path());
    assert_serves(&controller, "good-1");
    let log = node.log();
    for (folder, _, says) in mistakes {
        let path = models.path().join(folder).join("model.toml").display().to_string();
        let line = log.lines().find(|line| line.contains(&path) && line.contains("left out"));
        let line = line.unwrap_or_else(|| panic!("nothing about {folder} in:\n{log}"));
        assert!(line.contains(says), "{folder}: {says:?} is not in: {line}");
    }
    controller.submit("typo-1", &job("typo", &[1.0]));
    let refused = controller.wait_for_result("typo-1");
    assert_eq!(refused["error"]["code"], "model.unknown", "{refused}");
    assert!(refused["error"]["message"].as_str().is_some_and(|text| text.contains("installed: good")), "{refused}");
}
