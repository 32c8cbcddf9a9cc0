//! Does `neap pm` say what the files say, and is its recording one that a source plays?

#[path = "support/told.rs"]
mod told;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use told::told;

fn file(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pm").join(name);
    path.display().to_string()
}

fn pm(arguments: &[&str]) -> (Option<i32>, String, String) {
    told(Command::new(env!("CARGO_BIN_EXE_neap")).arg("pm").args(arguments))
}

#[test]
fn files_of_both_forms_are_summed_up() {
    let (code, stdout, stderr) = pm(&["--json", &file("two_cells.xml"), &file("lists_and_prefix.xml")]);
    assert_eq!(code, Some(0), "{stderr}");
    let json: Value = serde_json::from_str(&stdout).expect("one JSON object");
    let permille: Vec<u64> =
        json["levels"].as_array().expect("levels").iter().filter_map(|level| level["permille"].as_u64()).collect();
    assert_eq!(permille, [310, 450, 505], "{json}");
    assert_eq!((&json["from"], &json["to"]), (&"2026-11-22T00:00:00.000Z".into(), &"2026-11-22T02:05:00.000Z".into()));
    assert_eq!(json["left_out"], serde_json::json!({"suspect": 1, "absurd": 2, "untimed": 1}));
    let (code, stdout, _) = pm(&["--object", "NRCellDU=2", &file("event.json")]);
    assert!(code == Some(0) && stdout.contains("NRCellDU=2") && !stdout.contains("NRCellDU=1"), "{stdout}");
    assert!(stdout.contains("highest 6.0 %") && stdout.contains("left out: 1 suspect, 1 absurd"), "{stdout}");
}

#[test]
fn a_recording_of_them_is_one_that_a_trace_source_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let day = folder.path().join("day.csv");
    let path = day.display().to_string();
    let (code, _, stderr) = pm(&["--to", &path, &file("two_cells.xml")]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(std::fs::read_to_string(&day).expect("it is there"), "seconds,percent\n0,31.0\n900,45.0\n");
    let now = neap::sys::clock::now();
    neap::load::trace::Trace::open(neap::units::SourceId(0), &day, 1.0, false, now).expect("a recording");
    let (code, _, stderr) = pm(&["--to", &path, &file("two_cells.xml")]);
    assert!(code != Some(0) && stderr.contains("day.csv"), "what is there is not overwritten: {stderr}");
}

#[test]
fn a_file_that_is_none_is_named_with_the_reason() {
    let (code, stdout, stderr) = pm(&[&file("two_cells.xml"), concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE")]);
    assert!(code == Some(65) && stdout.is_empty() && stderr.contains("LICENSE: neither XML"), "{code:?} {stderr}");
    let (code, _, stderr) = pm(&["/nowhere/pm.xml"]);
    assert!(code == Some(74) && stderr.contains("/nowhere/pm.xml"), "{code:?} {stderr}");
}
