//! What becomes of a model that cannot serve? It is left out or quarantined, with the reason, and the others serve on.

#[path = "support/onnx.rs"]
#[allow(dead_code, reason = "the tests of one worker use the rest")]
mod onnx;

mod common;

use std::fs;
use std::path::Path;

use common::batch::in_a_trough;
use common::controller::Controller;
use common::folders::{install, manifest};
use common::node::{Node, Setup};
use onnx::{FLOAT, Graph, floats, integer, node, relu, tensor, with};
use serde_json::{Value, json};
use tempfile::TempDir;

// ---- models ----

fn with_nodes(nodes: Vec<onnx::Message>, constants: Vec<onnx::Message>) -> Vec<u8> {
    Graph { nodes, constants, ..relu() }.file()
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

fn serving(models: &Path) -> (Node, Controller) {
    in_a_trough(&Setup::new().with("models", "dir", models.display().to_string()))
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
    let (_node, controller) = serving(models.path());
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
fn a_model_that_needs_more_than_a_job_usually_gets_is_quarantined_and_one_that_was_starved_is_not() {
    let models = TempDir::new().expect("a folder can be made");
    // Joins itself with itself, thirty times.
    let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("d{at}") };
    let join = |at: usize| with(node("Concat", &[&name(at), &name(at)], &[&name(at + 1)]), integer("axis", 0));
    let mut nodes: Vec<_> = (0..30).map(join).collect();
    nodes.push(node("Relu", &["d30"], &["y"]));
    let greedy = with_nodes(nodes, vec![]);
    for name in ["greedy", "starved"] {
        // Another file for each, or they would be one model.
        let file = [&greedy[..], &[0x12, 1, name.as_bytes()[0]]].concat();
        let text = manifest(name, &file, "y").replacen("shape = [-1]", "shape = [1]", 1);
        install(models.path(), name, &file, &text);
    }
    let (_node, controller) = serving(models.path());
    for (model, megabytes) in [("greedy", 256), ("starved", 64)] {
        for time in 1..=4 {
            let id = format!("{model}-{time}");
            let mut job = job(model, &[1.0]);
            job["limits"] = json!({"wall_ms": 60_000, "memory_bytes": megabytes << 20, "attempts": 1});
            controller.submit(&id, &job);
            let code = controller.wait_for_result(&id)["error"]["code"].clone();
            let quarantined = model == "greedy" && time == 4;
            assert_eq!(code, if quarantined { "model.quarantined" } else { "worker.memory" }, "{id}");
        }
    }
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
    let (node, controller) = serving(models.path());
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
