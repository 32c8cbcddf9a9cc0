//! Does a recording come back as it was, and what do governor and queue make of it? The real binary, from the emission
//! of synthetic days to the page, and from a live socket to the replay.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use neap::sys::clock;
use serde_json::Value;

fn neap(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    neap(arguments).current_dir(folder).output().expect("the binary starts")
}

fn ok(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {told}");
    String::from_utf8(output.stdout).expect("it is text")
}

fn refused(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    told
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not one JSON object ({error}): {text}"))
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

/// A configuration with that `[governor]`.
fn config(folder: &Path, name: &str, governor: &str) -> PathBuf {
    let socket = folder.join("load.sock").display().to_string();
    let text = format!(
        "[node]\nsite = \"north\"\nname = \"cell-17\"\n[mqtt]\nhost = \"127.0.0.1\"\n[governor]\n{governor}\n\
         [[load]]\nname = \"du\"\nkind = \"push\"\nsocket = \"{socket}\"\n"
    );
    let path = folder.join(name);
    fs::write(&path, text).expect("a file can be written");
    path
}

#[test]
fn synthetic_days_are_emitted_replayed_and_shown_as_table_json_and_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    ok(folder, &["ransim", "--emit", "days.csv", "--days", "2", "--cells", "4", "--seed", "5"]);
    let lines = fs::read_to_string(folder.join("days.csv")).expect("it is there");
    assert_eq!(lines.lines().count(), 1 + 2 * 720 * 4);
    config(folder, "shipped.toml", "settle_s = 30");
    config(folder, "dwell.toml", "settle_s = 360");
    let arguments = ["replay", "--trace", "days.csv", "--config", "shipped.toml", "dwell.toml"];
    let table = ok(folder, &[&arguments[..], &["--html", "page.html"]].concat());
    for row in
        ["shipped", "dwell", "harvest", "yields a day", "busy overlap", "forecast error, 30 min", "jobs: deadline met"]
    {
        assert!(table.contains(row), "{row} in\n{table}");
    }
    let told = ok(folder, &[&arguments[..], &["--json"]].concat());
    let mut first = json(&told);
    assert_eq!((number(&first, "/nodes"), number(&first, "/readings")), (4.0, 5760.0));
    assert!((number(&first, "/node_days") - 4.0 * 1439.0 / 720.0).abs() < 1e-6);
    for config in [0, 1] {
        let figure = |path: &str| number(&first, &format!("/configs/{config}/{path}"));
        assert_eq!(figure("busy_overlap_s"), 0.0);
        assert_eq!(figure("freshness_s"), 360.0, "three times two minutes");
        let (harvest, most) = (figure("harvest_percent"), figure("plain/harvest_percent"));
        assert!(0.0 < harvest && harvest < most && most <= 100.0, "{harvest} of {most}");
        assert!(figure("yields_per_day") <= figure("plain/yields_per_day"));
        let modes = first.pointer(&format!("/configs/{config}/modes_percent")).and_then(Value::as_object);
        let all: f64 = modes.expect("modes").values().filter_map(Value::as_f64).sum();
        assert!((all - 100.0).abs() < 1e-6, "{all}");
        let jobs = ["met", "missed", "refused", "open"].map(|key| figure(&format!("jobs/all/{key}")));
        assert_eq!(jobs.iter().sum::<f64>(), figure("jobs/all/came"));
        assert!(figure("jobs/all/met") > 0.0);
    }
    assert!(number(&first, "/configs/1/harvest_percent") < number(&first, "/configs/0/harvest_percent"));
    // The same again is the same, but for how long it took.
    let mut second = json(&ok(folder, &[&arguments[..], &["--json"]].concat()));
    for value in [&mut first, &mut second] {
        value.as_object_mut().expect("an object").remove("run");
    }
    assert_eq!(first, second);
    let page = fs::read_to_string(folder.join("page.html")).expect("the page is there");
    for part in
        ["<svg", "shipped", "dwell", "A day of one node", "Harvest by hour", "Forecast error", "prefers-color-scheme"]
    {
        assert!(page.contains(part), "{part}");
    }
    for foreign in ["<script", "<link", "src=\"", "href=", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

#[test]
fn days_go_to_standard_output_and_the_same_seed_gives_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let emit = ["ransim", "--emit", "-", "--cells", "2", "--step", "10m", "--seed", "9"];
    let text = ok(folder.path(), &emit);
    assert_eq!(text.lines().count(), 2 * 144);
    assert!(text.starts_with("{\"t_s\":0.000000,\"cell\":1,\"RRU.PrbTotDl\":"), "{}", &text[..60]);
    assert_eq!(text, ok(folder.path(), &emit));
    assert!(refused(folder.path(), &["ransim", "--emit", "days.xyz"], 64).contains("--format"));
}

#[test]
fn recordings_turn_into_one_another_and_what_is_lost_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    ok(folder, &["ransim", "--emit", "a.csv", "--cells", "3", "--step", "30m"]);
    ok(folder, &["record", "--from", "a.csv", "--to", "b.ndjson"]);
    ok(folder, &["record", "--from", "b.ndjson", "--to", "c.csv"]);
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("it is there");
    assert_eq!(read("a.csv"), read("c.csv"));
    fs::write(
        folder.join("rich.ndjson"),
        "{\"t_s\":1,\"cell\":2,\"RRU.PrbTotUl\":5,\"late\":7}\n{\"t_s\":2,\"late\":8}\n",
    )
    .expect("written");
    let output = run(folder, &["record", "--from", "rich.ndjson", "--to", "poor.csv"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("lost: 2 counts of late slots") && told.contains("1 lines without a level"), "{told}");
    assert_eq!(read("poor.csv"), "seconds,percent,cell\n1,5,2\n");
    // Nothing is written over by accident.
    assert!(refused(folder, &["record", "--from", "a.csv", "--to", "c.csv"], 64).contains("--force"));
    assert!(refused(folder, &["record", "--from", "a.csv", "--to", "a.csv", "--force"], 64).contains("into itself"));
    ok(folder, &["record", "--from", "rich.ndjson", "--to", "c.csv", "--force"]);
    assert_eq!(read("c.csv"), read("poor.csv"));
}

#[test]
fn a_live_source_is_recorded_and_replayed() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let config = config(folder, "neap.toml", "settle_s = 0.05\nflap_window_s = 0.05").display().to_string();
    let mut child = neap(&["record", "--config", &config, "--source", "du", "--to", "du.ndjson"])
        .current_dir(folder)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let ran = UnixDatagram::unbound().expect("a socket");
    let socket = folder.join("load.sock");
    let patience = clock::now().after(Duration::from_secs(60));
    while ran.connect(&socket).is_err() {
        assert!(clock::now() < patience, "nobody listens");
        std::thread::sleep(Duration::from_millis(20));
    }
    // A second one is told who has the socket, and what to do.
    let told = refused(folder, &["record", "--config", &config, "--to", "other.ndjson"], 75);
    assert!(told.contains("record = "), "{told}");
    for percent in [5, 5, 5, 80, 5] {
        ran.send(format!("{{\"cell\":7,\"RRU.PrbTotDl\":{percent},\"late\":3,\"enqueue_us\":40}}\n").as_bytes())
            .expect("sent");
        std::thread::sleep(Duration::from_millis(120));
    }
    ran.send(b"nonsense").expect("sent");
    let written = || fs::read_to_string(folder.join("du.ndjson")).unwrap_or_default().lines().count();
    while written() < 10 {
        assert!(clock::now() < patience, "{} lines", written());
        std::thread::sleep(Duration::from_millis(50));
    }
    interrupt(&child);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let recording = fs::read_to_string(folder.join("du.ndjson")).expect("it is there");
    let levels = recording.lines().filter(|line| line.contains("\"RRU.PrbTotDl\":")).count();
    let health = recording.lines().filter(|line| line.contains("\"enqueue_us\":40")).count();
    assert_eq!((levels, health), (5, 5), "{recording}");
    let replayed = json(&ok(folder, &["replay", "--trace", "du.ndjson", "--config", &config, "--json"]));
    assert_eq!(number(&replayed, "/nodes"), 1.0);
    assert_eq!(number(&replayed, "/configs/0/yields"), 1.0, "{replayed}");
    assert_eq!(number(&replayed, "/configs/0/freshness_s"), 2.0, "as configured: the readings came often");
}

fn interrupt(child: &std::process::Child) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().expect("kill is there");
    assert!(sent.success());
}

#[test]
fn a_recording_ends_after_its_time_with_nothing_heard() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let output = run(folder, &["record", "--push", "load.sock", "--to", "x.csv", "--seconds", "300ms"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(folder.join("x.csv")).expect("it is there"), "seconds,percent,cell\n");
    assert!(!folder.join("load.sock").exists(), "the socket goes with it");
    assert!(refused(folder, &["replay", "--trace", "x.csv"], 65).contains("x.csv: has a header and no lines"));
}

#[test]
fn broken_recordings_jobs_and_configurations_are_told_with_file_and_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let long = format!("seconds,percent\n0,1{}\n", " ".repeat(70_000));
    let cases: [(&str, &str, &str); 7] = [
        ("bad.csv", "seconds,percent\n0,5\n120,101\n", "bad.csv:3: percent 101 is not 0 to 100"),
        ("back.csv", "seconds,percent\n120,5\n0,5\n", "back.csv:3: 0 s is before the line above"),
        ("nan.csv", "seconds,percent\n0,NaN\n", "nan.csv:2: percent NaN is not 0 to 100"),
        ("empty.csv", "", "empty.csv: is empty"),
        ("what.csv", "time,load\n", "what.csv:1: \"time,load\" is neither the header"),
        ("bad.ndjson", "{\"t_s\":0,\"cpu\":5}\n{\"t_s\":1}\n", "bad.ndjson:2: "),
        ("long.csv", &long, "long.csv:2: is longer than 65536 bytes"),
    ];
    for (name, text, expected) in cases {
        fs::write(folder.join(name), text).expect("written");
        for arguments in [["replay", "--trace", name, "--json", "--no-jobs"], ["record", "--from", name, "--to", "-"]] {
            let told = refused(folder, &arguments, 65);
            assert!(told.contains(expected), "{arguments:?}: {told}");
        }
    }
    assert!(refused(folder, &["replay", "--trace", "gone.csv"], 74).contains("gone.csv"));
    fs::write(folder.join("good.csv"), "seconds,percent\n0,5\n120,5\n").expect("written");
    fs::write(folder.join("jobs.ndjson"), "\n{\"model\":\"m\",\"items\":0,\"item_ms\":1}\n").expect("written");
    let told = refused(folder, &["replay", "--trace", "good.csv", "--jobs", "jobs.ndjson"], 65);
    assert!(told.contains("jobs.ndjson:2: items 0 is not 1 to 10000"), "{told}");
    config(folder, "wrong.toml", "busy_above = 400");
    let told = refused(folder, &["replay", "--trace", "good.csv", "--config", "wrong.toml"], 78);
    assert!(told.contains("wrong.toml:7:"), "{told}");
}

#[test]
fn a_day_of_a_hundred_cells_is_replayed_and_every_reading_is_accounted_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    ok(folder, &["ransim", "--emit", "day.csv", "--cells", "100"]);
    let replayed = json(&ok(folder, &["replay", "--trace", "day.csv", "--json"]));
    assert_eq!((number(&replayed, "/nodes"), number(&replayed, "/readings")), (100.0, 72_000.0));
    assert!(number(&replayed, "/run/days_of_100_cells_per_second") > 0.0);
    let told = refused(folder, &["replay", "--trace", "day.csv", "--fuse"], 65);
    assert!(told.contains("day.csv:66: more than 64 cells"), "{told}");
}
