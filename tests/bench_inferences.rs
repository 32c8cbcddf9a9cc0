//! Does the bench for those who count from outside run what it says, and does a locked-in process compute as any other?
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
    command.args(["bench", "inferences", "--models", models]).args(arguments).output().unwrap()
}

fn told(arguments: &[&str]) -> Value {
    let output = bench(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let told = if arguments.contains(&"--confined") { output.stderr } else { output.stdout };
    serde_json::from_str(String::from_utf8(told).unwrap().lines().last().unwrap()).unwrap()
}

#[test]
fn every_model_runs_as_often_as_asked() {
    for (model, count) in [("kpi-anomaly", "40"), ("prb-forecast", "7"), ("speech", "1"), ("kpi-anomaly", "0")] {
        let told = told(&["--model", model, "--count", count]);
        assert_eq!(told["model"], model);
        assert_eq!(told["count"], count.parse::<u32>().unwrap());
        assert_eq!(told["cpu_ms"].as_f64().unwrap() > 0.01, count != "0", "{told}");
    }
}

#[test]
fn a_whole_item_runs_as_well() {
    for model in ["kpi-anomaly", "speech"] {
        let told = told(&["--model", model, "--count", "2", "--whole"]);
        assert_eq!((&told["whole"], &told["count"]), (&true.into(), &2.into()), "{told}");
    }
}

#[test]
fn a_locked_in_process_computes_with_the_same_kernels() {
    let open = told(&["--model", "kpi-anomaly", "--count", "1"]);
    let confined = told(&["--model", "kpi-anomaly", "--count", "1", "--confined"]);
    for what in ["processor", "kind", "kernels"] {
        assert_eq!(open[what], confined[what], "{what}");
    }
    assert!(open["kernels"]["f32"].as_str().unwrap().contains("_mmm_f32_"), "{open}");
}

#[test]
fn a_case_or_model_that_is_not_there_is_told_with_those_that_are() {
    for (arguments, words) in [
        (["--model", "kpi-anomaly", "--case", "no-such"], "healthy"),
        (["--model", "no-such", "--count", "1"], "no-such"),
    ] {
        let output = bench(&arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(words), "{arguments:?}: {error}");
    }
}
