//! Does `neap models test` judge each model alone? Through the real binary and its worker.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/bad_models.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod bad_models;
#[path = "common/folders.rs"]
#[allow(unreachable_pub, reason = "other tests reach it through another module")]
mod folders;
#[path = "support/onnx.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod onnx;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use folders::{install, manifest};
use serde_json::{Value, json};

/// A model that is to give the positive part of -1.
fn add(models: &Path, name: &str, file: &[u8]) {
    let golden = "[[golden]]\ninput = \"in.json\"\noutput = \"out.json\"\ninterpret = false\n";
    let folder = install(models, name, file, &[&manifest(name, file, "y"), golden].concat());
    let tensor = |name: &str, data: [f32; 1]| json!({"name": name, "datatype": "FP32", "shape": [1], "data": data});
    fs::write(folder.join("in.json"), json!({"inputs": [tensor("x", [-1.0])]}).to_string()).unwrap();
    fs::write(folder.join("out.json"), json!({"outputs": [tensor("y", [0.0])]}).to_string()).unwrap();
}

/// Exit code, and what is said of each model: whether it is right, and why.
fn test(models: &Path, timeout: &str) -> (Option<i32>, Vec<(String, bool, String)>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.args(["models", "test", "--json", "--timeout", timeout, "--dir"]).arg(models).stdin(Stdio::null());
    let output = command.output().unwrap();
    let finding = |line: &str| {
        let said: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| said[key].as_str().unwrap().to_owned();
        (text("name"), said["right"].as_bool().unwrap(), text("detail"))
    };
    (output.status.code(), String::from_utf8_lossy(&output.stdout).lines().map(finding).collect())
}

#[test]
fn a_model_that_does_not_end_spoils_none_that_is_tested_after_it() {
    let models = tempfile::tempdir().unwrap();
    let endless = bad_models::corpus().into_iter().find(|model| model.name == "products-for-hours").unwrap();
    // Another file for each, or they would be one model.
    let relu = onnx::relu().file();
    add(models.path(), "a-good", &relu);
    add(models.path(), "b-endless", &endless.file);
    add(models.path(), "c-good", &[&relu[..], &[0x12, 1, b'c']].concat());
    add(models.path(), "d-good", &[&relu[..], &[0x12, 1, b'd']].concat());
    // A good model may need a while where somebody else wants the core.
    let mut heard = Vec::new();
    for timeout in ["3s", "15s", "60s"] {
        let (code, findings) = test(models.path(), timeout);
        assert_eq!(code, Some(65), "{findings:?}");
        let (name, right, why) = &findings[1];
        assert!(name == "b-endless" && !right && why.contains("worker.timeout: no answer within"), "{findings:?}");
        heard = findings.iter().map(|(_, right, _)| *right).collect();
        if heard == [true, false, true, true] {
            return;
        }
        eprintln!("within {timeout} each: {findings:?}");
    }
    panic!("good models are wrong however long they may take: {heard:?}");
}
