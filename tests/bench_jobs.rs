//! Does `neap bench jobs` measure what it says? The real broker and agent, with few jobs.
//!
//! No speed is judged here: the machine of a test is never quiet.

#[path = "support/benches.rs"]
mod benches;

use std::path::Path;

use benches::{command, json, run, told};

/// `sysexits.h`: unavailable.
const UNAVAILABLE: i32 = 69;

#[test]
fn few_jobs_give_every_figure_in_the_promised_form_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().display().to_string();
    let (code, stdout, stderr) =
        run("jobs", &["--json", "--jobs", "200", "--single", "20", "--starts", "2", "--dir", &dir]);
    if code == Some(UNAVAILABLE) && stderr.contains("mosquitto") {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{stderr}");
        eprintln!("\n!!! SKIPPED: {stderr} !!!\n");
        return;
    }
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let json = json(&stdout, &stderr);
    let figure = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key} is missing in {json}"));
    for key in ["accepted_per_s", "raw_qos1_per_s", "accept_p50_us", "fdatasync_p50_us", "start_to_ready_ms"] {
        assert!(figure(key) > 0.0, "{key} in {json}");
    }
    let ratio = figure("accepted_per_s") / figure("raw_qos1_per_s");
    assert!((figure("ratio") - ratio).abs() < 0.01, "{json}");
    assert!(figure("accept_p50_us") <= figure("accept_p99_us"), "{json}");
    assert!(figure("start_to_ready_ms") <= figure("start_to_ready_ms_max"), "{json}");
    assert_eq!((&json["jobs"], &json["single_jobs"], &json["jobs_in_store"]), (&200.into(), &20.into(), &220.into()));
    assert!(
        json["reached"]["ratio"].is_boolean() && json["filesystem"].as_str().is_some_and(|told| told.contains('/'))
    );
    assert!(stderr.contains("neap bench: 0 %"), "progress is told: {stderr}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder is there").count(), 0, "everything is cleared away");
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let (code, stdout, stderr) = run("jobs", &["--dir", "/proc/no/such/folder"]);
    assert!(code != Some(0) && stdout.is_empty() && stderr.contains("--dir"), "{code:?}: {stderr}");
    let (code, _, stderr) = run("jobs", &["--jobs", "1"]);
    assert_eq!(code, Some(64), "{stderr}");
    let places = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];
    if places.iter().any(|place| Path::new(place).exists()) {
        eprintln!("SKIPPED: a mosquitto where services are cannot be hidden from the bench");
        return;
    }
    let empty = tempfile::tempdir().expect("a folder");
    let (code, _, stderr) = told(command("jobs", &[]).env("PATH", empty.path()));
    assert!(code == Some(UNAVAILABLE) && stderr.contains("apt install mosquitto"), "{code:?}: {stderr}");
}
