//! Does `neap bench interference` measure what it says? The real RAN emulator, sentinel, gate and workers, for seconds.
//!
//! No time is judged here: the machine of a test is never quiet.

#[path = "support/benches.rs"]
mod benches;

use benches::{json, run};

const METHODS: [&str; 4] = ["none", "neap", "sched_idle", "nice0"];

fn interference(arguments: &[&str]) -> (Option<i32>, String, String) {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
    run("interference", &[&["--models", models], arguments].concat())
}

#[test]
fn every_method_has_its_slots_and_who_may_compute_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report.html");
    let path = report.display().to_string();
    // Missed deadlines are kept back: on a machine that stalls all the time they would never let a worker run.
    let (code, stdout, stderr) =
        interference(&["--seconds", "12", "--model", "kpi-anomaly", "--no-late", "--json", "--report", &path]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let json = json(&stdout, &stderr);
    let number = |key: &str, method: &str| {
        json[key][method].as_f64().unwrap_or_else(|| panic!("{key} of {method} is missing in {json}"))
    };

    let slots = json["slots"].as_f64().expect("a count of slots");
    assert_eq!(slots, 1000.0, "12 s are shared by 3 rounds of 4 methods: {json}");
    for method in METHODS {
        assert!(number("missed", method) <= slots, "{json}");
        assert_eq!(json["total"]["slots"][method].as_f64(), Some(3.0 * slots), "{json}");
        assert!(number("slot_p99_us", method) > 0.0, "{json}");
        assert!(number("slot_p999_us", method) >= number("slot_p99_us", method), "{json}");
        assert_eq!(json["missed_by_round"][method].as_array().map(Vec::len), Some(3), "{json}");
    }
    let computed = METHODS.map(|method| json["total"]["inferences"][method].as_u64().expect("a count"));
    assert_eq!(computed[0], 0, "nobody computes beside nothing: {json}");
    assert!(computed[3] > 0 && number("inferences", "nice0") > 0.0, "{json}");

    let findings = json["findings"].as_array().expect("sentences");
    assert_eq!(findings.len(), 4, "{json}");
    let html = std::fs::read_to_string(&report).expect("the report was written");
    assert!(html.contains("<svg") && html.contains("SCHED_IDLE only") && html.contains("nice 0"), "{html}");
}

#[test]
fn neap_computes_in_troughs() {
    // On a machine that is full of other work a SCHED_IDLE worker may get no core for seconds, so it is given more than
    // one chance.
    let mut seen = Vec::new();
    for seconds in ["6", "12", "24"] {
        let (code, stdout, stderr) =
            interference(&["--seconds", seconds, "--model", "kpi-anomaly", "--work", "compute", "--no-late", "--json"]);
        assert_eq!(code, Some(0), "{stdout}{stderr}");
        let json = benches::json(&stdout, &stderr);
        if json["total"]["inferences"]["neap"].as_u64() > Some(0) {
            return;
        }
        seen.push(json);
    }
    panic!("no inference in any trough: {seen:?}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_measured() {
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--seconds", "1"], 64, "6..=36000"),
        (&["--cores", "900"], 64, "may use the cores"),
        (&["--slot", "50ms"], 64, "10ms"),
        (&["--model", "nobody"], 65, "nobody"),
        (&["--report", "/nowhere/report.html"], 74, "/nowhere/report.html"),
    ];
    for (arguments, code, rule) in cases {
        let (found, stdout, stderr) = interference(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {stdout}{stderr}");
        assert!(stderr.contains(rule), "{arguments:?}: {stderr}");
    }
}
