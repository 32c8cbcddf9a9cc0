//! Does the demo show what it promises? Runs the real binary through a day of 20 seconds and looks at its figures.
#![cfg(feature = "demo")]

#[path = "support/told.rs"]
mod told;

use std::process::Command;

use told::{json, told};

/// Slack for what the outside measurement adds to a yield: two readings of the clocks, and their timing.
const MARGIN_US: f64 = 50_000.0;
/// CPU time that may be found later than 100 ms after a rise: a worker that others have displaced from its core takes
/// its stop when it next gets one, and its clock shows the kernel's work for that, 10 to 80 µs each time.
const LATE_MAX_US: f64 = 20_000.0;

/// Runs the demo and gives exit code, figures, and what it said on the way.
fn demo(arguments: &[&str]) -> (Option<i32>, String, String) {
    told(Command::new(env!("CARGO_BIN_EXE_neap")).arg("demo").args(arguments))
}

#[test]
fn a_day_loses_nothing_and_runs_nothing_while_busy_that_yields_do_not_explain() {
    let (code, stdout, stderr) = demo(&["--seconds", "20", "--seed", "3", "--json"]);
    let figures = json(&stdout, &stderr);
    let number = |key: &str| figures[key].as_f64().unwrap_or_else(|| panic!("{key} is missing in {figures}"));

    assert_eq!((number("lost"), number("unfinished")), (0.0, 0.0), "{figures}\n{stderr}");
    assert_eq!(number("jobs_failed"), 0.0, "{figures}\n{stderr}");
    assert_eq!(number("contradictions"), 0.0, "{figures}\n{stderr}");
    assert!(number("jobs_succeeded") > 0.0, "{figures}\n{stderr}");
    assert_eq!(number("jobs_succeeded"), number("jobs_submitted"), "{figures}\n{stderr}");
    assert!(number("items_done") >= number("jobs_succeeded"), "{figures}");
    assert!(number("yields") > 0.0, "{figures}\n{stderr}");
    assert!(number("trough_seconds") > 0.0 && number("busy_seconds") > 0.0, "{figures}");
    assert!(number("inference_cpu_seconds") > 0.0, "{figures}");

    // Measured from the workers' own CPU clocks, each worker for itself; told by the agent per yield.
    let worst = figures["yield_latency_us"]["max"].as_f64().expect("a maximum");
    let explained = number("yields") * worst * number("workers") + MARGIN_US;
    assert!(number("ran_while_busy_us") <= explained, "more than the {explained} µs that yields explain: {figures}");
    // On a machine that keeps the sentinel waiting for long, what the yields explain reaches beyond the first 100 ms.
    let late = (worst - 100_000.0).max(0.0) * number("yields") * number("workers") + LATE_MAX_US;
    assert!(number("ran_while_busy_late_us") <= late, "more than {late} µs late: {figures}");
    assert_eq!(code, Some(0), "{figures}\n{stderr}");
}

#[test]
fn a_folder_without_models_is_named_with_its_remedy() {
    let (code, stdout, stderr) = demo(&["--seconds", "10", "--models", "/nowhere"]);

    assert_eq!(code, Some(69), "{stdout}{stderr}");
    assert!(stderr.contains("/nowhere") && stderr.contains("--models"), "{stderr}");
}
