//! Does `neap bench worker` measure what it says? Real workers, in and outside the sandbox, with few rounds.
//!
//! No speed is judged here: the machine of a test is never quiet.

#[path = "support/benches.rs"]
mod benches;

use std::path::Path;

use benches::{copy, json, run};
use serde_json::Value;

#[test]
fn few_rounds_give_every_figure_in_the_promised_form_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("worker.html").display().to_string();
    // The two smallest of the bundled models.
    let models = folder.path().join("models");
    for name in ["kpi-anomaly", "prb-forecast"] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name), &models.join(name));
    }
    let models = models.display().to_string();
    let few = ["--starts", "5", "--appraisals", "1", "--rounds", "2", "--round-ms", "50", "--model", "prb-forecast"];
    let (code, stdout, stderr) =
        run("worker", &[&few[..], &["--json", "--report", &report, "--models", &models]].concat());
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let json = json(&stdout, &stderr);
    let figure = |value: &Value, key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key} is missing in {json}"));
    assert!(figure(&json, "sandbox_us_p50") > 0.0, "{json}");
    assert!(figure(&json, "sandbox_us_p50") / 1e3 < figure(&json, "ready_ms_p50"), "a part of the start: {json}");
    assert!(figure(&json, "ready_ms_p50") <= figure(&json, "ready_ms_p99"), "{json}");
    assert!((0.0..1.0).contains(&figure(&json, "preflight_ratio")), "{json}");
    // Two halves of 50 ms: only what is out of all reason is wrong.
    assert!((0.1..10.0).contains(&figure(&json, "sandbox_throughput_ratio")), "{json}");
    let models = json["models"].as_object().expect("models by name");
    let names: Vec<&str> = models.keys().map(String::as_str).collect();
    assert_eq!(names, ["kpi-anomaly", "prb-forecast"]);
    for (name, model) in models {
        for key in ["load_ms", "run_us_p50", "worst_node_us"] {
            assert!(figure(model, key) > 0.0, "{name}: {key} in {json}");
        }
        assert!(figure(model, "rss_bytes") > 1e6, "{name}: {json}");
    }
    assert_eq!((&json["starts"], &json["rounds"], &json["refused"]), (&5.into(), &2.into(), &serde_json::json!({})));
    assert!(json["reached"]["sandbox_throughput"].is_boolean(), "{json}");
    assert!(stderr.contains("neap bench: 0 %"), "progress is told: {stderr}");
    let page = std::fs::read_to_string(&report).expect("the report is there");
    assert!(page.contains("What a worker costs") && page.contains("prb-forecast"));
    assert_eq!(workers_left(), Vec::<String>::new(), "every worker has ended");
}

/// Worker processes whose parent has gone: nobody but this test starts benches here.
fn workers_left() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let line = |path: std::path::PathBuf| {
        let line = std::fs::read_to_string(path.join("cmdline")).ok()?.replace('\0', " ");
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
        (line.contains(" bench-worker ") && parent == "1").then_some(line)
    };
    processes.filter_map(|process| line(process.path())).collect()
}

#[test]
fn what_cannot_be_measured_is_named_with_its_remedy() {
    let (code, stdout, stderr) = run("worker", &["--model", "no-such-model"]);
    assert!(code == Some(65) && stdout.is_empty() && stderr.contains("no-such-model"), "{code:?}: {stderr}");
    let (code, _, stderr) = run("worker", &["--starts", "1"]);
    assert_eq!(code, Some(64), "{stderr}");
}
