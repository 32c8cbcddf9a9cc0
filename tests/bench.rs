//! Does a bench measure the real thing, and say so in the promised form? Runs the real binary with few events.

use std::io::Read as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const EVENTS: u64 = 50;
/// `sysexits.h`: unavailable.
const UNAVAILABLE: i32 = 69;

fn neap(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_neap")).args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether the machine has the two cores that a bench needs; says loudly when not.
fn has_cores(output: &Output) -> bool {
    if output.status.code() == Some(UNAVAILABLE) {
        eprintln!("SKIPPED: {}", stderr(output));
        return false;
    }
    assert!(output.status.success(), "{}", stderr(output));
    true
}

fn figure(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("{key} in {object}"))
}

/// Figures in an order that no noise can break.
fn assert_ordered(name: &str, figures: &Value) {
    let [p50, p99, p999, max] = ["p50_us", "p99_us", "p999_us", "max_us"].map(|key| figure(figures, key));
    assert!(0.0 <= p50 && p50 <= p99 && p99 <= p999 && p999 <= max, "{name}: {figures}");
    assert!(figure(figures, "n") > 0.0, "{name}: {figures}");
}

#[test]
fn a_short_run_gives_every_figure_in_the_promised_form() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("yield.html");
    let events = EVENTS.to_string();
    let path = report.to_str().expect("a path of text");
    let output = neap(&["bench", "yield", "--events", &events, "--model", "kpi-anomaly", "--json", "--report", path]);
    if !has_cores(&output) {
        return;
    }
    let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(json["n"].as_u64(), Some(EVENTS), "{json}");
    for name in ["floor", "shm", "push", "udp", "nice19"] {
        assert_ordered(name, &json[name]);
    }
    // What depends on rights and on what else runs here is null with a reason in the report.
    for name in ["cgroup_freeze", "poll_stop"] {
        if json[name].is_null() {
            eprintln!("SKIPPED: {name} could not be measured here");
        } else {
            assert_ordered(name, &json[name]);
        }
    }
    for name in ["shm", "push", "udp"] {
        let ratio = &json["ratio_to_floor"][name];
        let expected = figure(&json[name], "p99_us") / figure(&json["floor"], "p99_us");
        assert!((figure(ratio, "p99") / expected - 1.0).abs() < 1e-9, "{name}: {ratio}");
        assert!(figure(ratio, "p50") > 0.0 && figure(ratio, "p999") > 0.0, "{name}: {ratio}");
        // The poller needs two fifths of a second to notice anything at all.
        if !json["poll_stop"].is_null() {
            assert!(figure(&json["poll_stop"], "p50_us") > figure(&json[name], "p50_us"), "{json}");
        }
    }
    assert!(json["machine"]["yield_class"].as_str().is_some_and(|class| class.starts_with("SCHED_")), "{json}");

    let html = std::fs::read_to_string(&report).expect("the report is there");
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"), "{} bytes", html.len());
    assert!(html.contains("<svg") && html.contains("bare floor") && !html.contains("<script"));
}

#[test]
fn a_bench_that_cannot_begin_says_why_before_it_takes_minutes() {
    let cases: [(&[&str], i32, &str); 4] = [
        (&["bench", "yield", "--model", "no-such-model"], 65, "kpi-anomaly"),
        (&["bench", "yield", "--models", "/no/such/folder"], 65, "--models"),
        (&["bench", "yield", "--report", "/no/such/folder/x.html"], 74, "/no/such/folder/x.html"),
        (&["bench", "yield", "--events", "0"], 64, "--events"),
    ];
    for (arguments, code, text) in cases {
        let output = neap(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_interrupted_bench_ends_and_clears_its_things_away() {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_neap"))
        .args(["bench", "yield", "--model", "kpi-anomaly"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stderr = bench.stderr.take().expect("a pipe");
    // Its first word is that it has begun, or why it cannot.
    let mut begun = [0; 10];
    stderr.read_exact(&mut begun).expect("a word on standard error");
    let pid = bench.id();
    let interrupt = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    let _gone = rustix::process::kill_process(interrupt, rustix::process::Signal::INT);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("text");
    let status = bench.wait().expect("it ends");
    if status.code() == Some(UNAVAILABLE) {
        eprintln!("SKIPPED: {rest}");
        return;
    }
    assert_eq!(status.code(), Some(75), "{rest}");
    assert!(rest.contains("interrupted"), "{rest}");
    let mine = format!("neap-bench-{pid}");
    for folder in ["/dev/shm", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let left: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(&mine)), "{folder} has {left:?}");
    }
}
