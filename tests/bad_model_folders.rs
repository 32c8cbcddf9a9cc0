//! Can what lies in a folder of models lead the agent elsewhere? Paths, links, pipes and devices are refused, and what
//! is swapped under a running agent costs its own jobs only.

#[path = "support/onnx.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod onnx;

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use common::batch::in_a_trough;
use common::controller::Controller;
use common::folders::{install, manifest};
use common::node::{Node, Setup};
use neap::units::MODEL_BYTES_MAX;
use serde_json::json;
use tempfile::TempDir;

fn relu() -> Vec<u8> {
    onnx::relu().file()
}

fn serving(models: &Path) -> (Node, Controller) {
    in_a_trough(&Setup::new().with("models", "dir", models.display().to_string()))
}

fn submit(controller: &Controller, id: &str, model: &str) {
    let input = json!({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [-1.0, 2.0]}]});
    controller.submit(id, &json!({"model": model, "limits": {"attempts": 1}, "input": input}));
}

fn assert_serves(controller: &Controller, id: &str) {
    submit(controller, id, "good");
    let result = controller.wait_for_result(id);
    assert_eq!(result["outputs"][0]["data"], json!([0.0, 2.0]), "{result}");
}

fn pipe(path: &Path) {
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).expect("a pipe can be made");
}

#[test]
fn what_leads_out_of_its_folder_or_is_no_file_is_left_out_and_the_others_serve() {
    let models = TempDir::new().expect("a folder can be made");
    let outside = TempDir::new().expect("a folder can be made");
    let good = relu();
    fs::write(outside.path().join("secret.onnx"), &good).expect("a file can be written");
    install(models.path(), "good", &good, &manifest("good", &good, "y"));
    let naming = |name: &str, file: &str| manifest(name, &good, "y").replace("model.onnx", file);
    let secret = outside.path().join("secret.onnx").display().to_string();
    let mut expected = vec![
        ("parent", naming("parent", "../good/model.onnx"), "6:8: file"),
        ("far-parent", naming("far-parent", "../../../../../../etc/passwd"), "6:8: file"),
        ("absolute", naming("absolute", "/etc/passwd"), "6:8: file"),
        ("absolute-elsewhere", naming("absolute-elsewhere", &secret), "6:8: file"),
        ("hidden-parent", naming("hidden-parent", "1/../../good/model.onnx"), "6:8: file"),
        ("nul", naming("nul", "model\\u0000.onnx"), "6:8: file"),
    ];
    for (name, text, _) in &expected {
        install(models.path(), name, &good, text);
    }
    let replaced = |name: &str| {
        let folder = install(models.path(), name, &good, &manifest(name, &good, "y"));
        fs::remove_file(folder.join("model.onnx")).expect("a file can be removed");
        folder.join("model.onnx")
    };
    symlink(outside.path().join("secret.onnx"), replaced("link")).expect("a link can be made");
    symlink("/dev/zero", replaced("zeros")).expect("a link can be made");
    symlink("model.onnx", replaced("link-to-itself")).expect("a link can be made");
    pipe(&replaced("pipe"));
    fs::create_dir(replaced("folder")).expect("a folder can be made");
    let huge = File::create(replaced("huge")).expect("a file can be made");
    huge.set_len(MODEL_BYTES_MAX + 1).expect("a sparse file can be made");
    expected.extend([
        ("link", String::new(), "outside the model's folder"),
        ("zeros", String::new(), "outside the model's folder"),
        ("link-to-itself", String::new(), "symbolic link"),
        ("pipe", String::new(), "not a regular file"),
        ("folder", String::new(), "not a regular file"),
        ("huge", String::new(), "larger than"),
    ]);
    let (node, controller) = serving(models.path());
    assert_serves(&controller, "good-1");
    let log = node.log();
    for (name, _, says) in expected {
        let path = models.path().join(name).join("model.toml").display().to_string();
        let line = log.lines().find(|line| line.contains(&path) && line.contains("left out"));
        let line = line.unwrap_or_else(|| panic!("nothing about {name} in:\n{log}"));
        assert!(line.contains(says), "{name}: {says:?} is not in: {line}");
        submit(&controller, &format!("{name}-1"), name);
        let refused = controller.wait_for_result(&format!("{name}-1"));
        assert_eq!(refused["error"]["code"], "model.unknown", "{name}: {refused}");
    }
}

#[test]
fn a_file_that_is_swapped_under_a_running_agent_is_not_computed_with() {
    let models = TempDir::new().expect("a folder can be made");
    let outside = TempDir::new().expect("a folder can be made");
    let good = relu();
    fs::write(outside.path().join("secret"), b"a secret").expect("a file can be written");
    for name in ["good", "other", "hard-link", "link", "zeros", "pipe", "gone", "huge"] {
        // Bytes behind the end that every reader skips: no two are the same model.
        let file = if name == "good" { good.clone() } else { [&good[..], &[0x12, 1, name.as_bytes()[0]]].concat() };
        install(models.path(), name, &file, &manifest(name, &file, "y"));
    }
    let (node, controller) = serving(models.path());
    assert_serves(&controller, "before");
    let agent = node.agent_pid();
    let emptied = |name: &str| {
        let path = models.path().join(name).join("model.onnx");
        fs::remove_file(&path).expect("a file can be removed");
        path
    };
    fs::write(emptied("other"), b"another file").expect("a file can be written");
    fs::hard_link(outside.path().join("secret"), emptied("hard-link")).expect("a link can be made");
    symlink(outside.path().join("secret"), emptied("link")).expect("a link can be made");
    symlink("/dev/zero", emptied("zeros")).expect("a link can be made");
    pipe(&emptied("pipe"));
    emptied("gone");
    let huge = File::create(emptied("huge")).expect("a file can be made");
    huge.set_len(MODEL_BYTES_MAX + 1).expect("a sparse file can be made");

    let expected = [
        ("other", "model.hash_mismatch"),
        ("hard-link", "model.hash_mismatch"),
        ("link", "model.unknown"),
        ("zeros", "model.unknown"),
        ("pipe", "model.unknown"),
        ("gone", "model.unknown"),
        ("huge", "model.too_large"),
    ];
    for (name, code) in expected {
        submit(&controller, name, name);
        let result = controller.wait_for_result(name);
        assert_eq!(result["error"]["code"], code, "{name}: {result}");
        assert!(!result.to_string().contains("a secret"), "{result}");
        assert_serves(&controller, &format!("after-{name}"));
    }
    assert_eq!(node.agent_pid(), agent);
    assert!(!node.log().contains("panicked at"), "{}", node.log());
}
