//! Does `neap bench footprint` measure what it says? The real agent and real workers, looked at for a moment.
//!
//! Bounds are wide: the test program is not optimised, and its machine is never quiet.

#[path = "support/benches.rs"]
mod benches;

use std::path::Path;

use benches::{copy, json, run};
use serde_json::Value;

#[test]
fn a_short_look_gives_every_figure_in_the_promised_form_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let (models, state) = (folder.path().join("models"), folder.path().join("state"));
    std::fs::create_dir(&state).expect("a folder");
    // The two smallest of the bundled models.
    for name in ["kpi-anomaly", "prb-forecast"] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name), &models.join(name));
    }
    let (models, dir) = (models.display().to_string(), state.display().to_string());
    let short = ["--starts", "2", "--settle-s", "1", "--idle-s", "2", "--json", "--models", &models, "--dir", &dir];
    let (code, stdout, stderr) = run("footprint", &short);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let json = json(&stdout, &stderr);
    let figure = |path: &str| {
        json.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is missing in {json}"))
    };
    assert!(figure("/executable/bytes") > 5e6 && json["executable"]["stripped"].is_boolean(), "{json}");
    let memory = |process: &str| {
        let bytes = |name: &str| figure(&format!("{process}/{name}"));
        let (rss, anonymous, files) = (bytes("rss_bytes"), bytes("anonymous_bytes"), bytes("file_bytes"));
        assert_eq!(rss, anonymous + files + bytes("shared_memory_bytes"), "the kinds add up: {json}");
        assert!(rss > 2e6 && rss < 1e9 && anonymous > 1e5 && files > 1e6, "{process}: {json}");
        assert!(bytes("rss_bytes_max") >= rss && bytes("threads") >= 1.0, "{process}: {json}");
        anonymous
    };
    let agent = memory("/agent/memory");
    assert!(agent < 100e6, "an agent without work: {json}");
    for model in ["kpi-anomaly", "prb-forecast"] {
        memory(&format!("/workers/{model}"));
    }
    let [min, p50, max] = ["min", "p50", "max"].map(|name| figure(&format!("/agent/start_to_ready_ms/{name}")));
    assert!(0.1 < min && min <= p50 && p50 <= max && max < 60_000.0, "{json}");
    assert!(figure("/agent/idle/seconds") >= 2.0 && figure("/agent/idle/cpu_percent") < 100.0, "{json}");
    // It has timers of a second; not thousands of them.
    assert!((0.1..10_000.0).contains(&figure("/agent/idle/wakes_per_s")), "{json}");
    match json["agent"]["idle"]["system_calls_per_s"].as_f64() {
        Some(calls) => assert!((0.1..100_000.0).contains(&calls), "{json}"),
        None => eprintln!("SKIPPED: system calls are counted by {}", json["agent"]["idle"]["system_calls_counted_by"]),
    }
    let threads = json["agent"]["idle"]["threads"].as_array().expect("a list of threads");
    assert!(threads.iter().any(|thread| thread["name"] == "neap-sentinel"), "{json}");
    assert!(json["reached"]["agent_memory"].is_boolean(), "{json}");
    assert!(stderr.contains("neap bench: 0 %"), "progress is told: {stderr}");
    let left: Vec<_> = std::fs::read_dir(&state).expect("the folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_cannot_be_measured_is_named_with_its_remedy() {
    let (code, stdout, stderr) = run("footprint", &["--models", "/no/such/folder"]);
    assert!(code == Some(65) && stdout.is_empty() && stderr.contains("/no/such/folder"), "{code:?}: {stderr}");
    let (code, _, stderr) = run("footprint", &["--dir", "/no/such/folder"]);
    assert!(code == Some(74) && stderr.contains("--dir"), "{code:?}: {stderr}");
    let (code, _, stderr) = run("footprint", &["--starts", "0"]);
    assert_eq!(code, Some(64), "{stderr}");
}
