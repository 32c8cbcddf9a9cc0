//! Does the harvest bench give its figures? Runs the real binary with its real agent for a few seconds of played load.
#![cfg(feature = "demo")]

#[path = "support/benches.rs"]
mod benches;

use benches::{json, run};

#[test]
fn a_short_run_gives_every_promised_figure_within_what_is_possible() {
    let folder = tempfile::tempdir().expect("a folder for the report");
    let report = folder.path().join("harvest.html");
    let path = report.to_str().expect("a path of text");
    let (code, stdout, stderr) =
        run("harvest", &["--seconds", "8", "--model", "prb-forecast", "--json", "--report", path]);
    let figures = json(&stdout, &stderr);
    let number = |key: &str| figures[key].as_f64().unwrap_or_else(|| panic!("{key} is missing in {figures}"));

    assert_eq!(code, Some(0), "{figures}\n{stderr}");
    // Wide bounds: the machine may be busy with other things in either round.
    assert!(number("harvest_ratio") > 0.0, "{figures}");
    assert!(number("harvest_ratio_undisturbed") < 1.5, "{figures}");
    assert!(number("agent_cpu_ratio") > 0.0 && number("agent_cpu_ratio") < number("workers") + 1.0, "{figures}");
    assert!(number("sentinel_cpu_ratio") > 0.0, "{figures}");
    assert!(number("sentinel_cpu_ratio") < number("agent_cpu_ratio"), "a thread of the agent: {figures}");
    assert!(number("agent_rss_bytes") > f64::from(1 << 20), "{figures}");
    assert!(number("trough_seconds") > 0.0 && number("trough_seconds") < number("seconds"), "{figures}");
    let possible = number("trough_seconds") * number("workers") * 1.1 + 0.1;
    assert!(number("neap_cpu_seconds") <= possible, "more than the troughs' cores: {figures}");
    assert!(number("items_done") > 0.0 && number("jobs_done") > 0.0, "{figures}");
    assert!(figures["rounds"].as_array().is_some_and(|rounds| !rounds.is_empty()), "{figures}");
    assert!(figures["reasons"]["settling_seconds"].as_f64() > Some(0.0), "every trough settles: {figures}");
    let html = std::fs::read_to_string(&report).expect("a report");
    assert!(html.contains("<h1>Neap: harvest of troughs</h1>") && html.ends_with("</html>\n"));
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_starts() {
    for (arguments, code, words) in [
        (&["--workers", "16", "--seconds", "8"][..], 64, "ask for fewer"),
        (&["--model", "no-such-model"][..], 65, "no-such-model"),
        (&["--broker", "192.0.2.1:1883"][..], 64, "HOST:PORT"),
    ] {
        let (ended, stdout, stderr) = run("harvest", arguments);
        // A machine with sixteen cores has room for sixteen workers.
        if code == 64 && arguments[0] == "--workers" && ended == Some(0) {
            eprintln!("SKIPPED: this machine has cores for {arguments:?}");
            continue;
        }
        assert_eq!(ended, Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
        assert!(stdout.is_empty(), "{arguments:?}");
    }
}
