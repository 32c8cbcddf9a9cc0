//! Does the RAN emulator do what it says? The real binary, with a listener in the place of an agent.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use neap::load::push::{Line, parse};
use neap::sys::sched;
use serde_json::Value;

fn ransim(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.arg("ransim").args(arguments).stdin(Stdio::null());
    command
}

fn json_of(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}{told}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("not one JSON object ({error}):\n{text}\n{told}"))
}

#[test]
fn every_kind_of_work_accounts_for_every_slot() {
    for work in ["compute", "cache", "bandwidth", "mixed"] {
        let output = ransim(&["--seconds", "1", "--work", work, "--load", "40", "--json"]).output().expect("it starts");
        let figures = json_of(&output);
        let number =
            |path: &str| figures.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {figures}"));
        assert_eq!((number("/slots"), number("/seconds")), (1000.0, 1.0), "{figures}");
        assert!(number("/missed") <= number("/slots") && number("/skipped") <= number("/missed"), "{figures}");
        for times in ["/slot_us", "/wake_us"] {
            let times = ["p50", "p99", "p999", "max"].map(|key| number(&format!("{times}/{key}")));
            assert!(times.is_sorted() && times[0] > 0.0, "{figures}");
        }
        assert!(number("/cores/0/unit_ns") > 0.0, "{figures}");
        assert_eq!((&figures["work"], &figures["class"]), (&work.into(), &"other".into()), "{figures}");
    }
}

#[test]
fn half_slots_on_all_cores_are_counted_on_each() {
    let cores = sched::cores();
    let list = cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let arguments =
        ["--seconds", "1", "--cores", &list, "--slot", "0.5ms", "--load", "5", "--work", "compute", "--json"];
    let figures = json_of(&ransim(&arguments).output().expect("it starts"));
    assert_eq!(figures["slots"].as_u64(), Some(2000 * cores.len() as u64), "{figures}");
}

#[test]
fn sched_fifo_is_taken_where_it_is_permitted_and_told_where_not() {
    let output = ransim(&["--seconds", "1", "--load", "10", "--fifo", "10", "--json"]).output().expect("it starts");
    let figures = json_of(&output);
    let told = String::from_utf8_lossy(&output.stderr);
    match figures["class"].as_str() {
        Some("fifo") => assert!(!told.contains("SCHED_FIFO"), "{told}"),
        Some("other") => assert!(told.contains("SCHED_FIFO is not permitted"), "{told}"),
        class => panic!("class {class:?} in {figures}"),
    }
}

#[test]
fn the_load_that_is_worked_is_pushed_with_its_missed_deadlines() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("load.sock");
    let agent = UnixDatagram::bind(&path).expect("a socket");
    agent.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket has time-outs");
    let socket = path.display().to_string();
    // No work ends within a microsecond of a slot's begin, so every slot is missed.
    let arguments = ["--seconds", "2", "--quiet", "100ms", "--busy", "100ms", "--deadline", "1us", "--cell", "3"];
    let child =
        ransim(&arguments).args(["--json", "--push", &socket]).stdout(Stdio::piped()).spawn().expect("it starts");
    let (mut quiet, mut busy, mut late) = (0, 0, 0);
    while late < 100 || quiet == 0 || busy == 0 {
        let mut buffer = [0; 4096];
        let length = agent.recv(&mut buffer).expect("the load is told");
        let line: Line = parse(buffer[..length].trim_ascii()).expect("it is a line of the push source");
        assert!(line.stamped.is_some() && line.cell.0 == 3, "{line:?}");
        match line.dl {
            Some(..=25) => quiet += 1,
            Some(50..) => busy += 1,
            Some(_) | None => panic!("neither quiet nor busy: {line:?}"),
        }
        assert!(line.late.unwrap_or(0) >= late, "the count went back: {line:?} after {late}");
        late = line.late.unwrap_or(0).max(late);
    }
    // Whoever listens no longer must not keep it.
    drop(agent);
    let figures = json_of(&child.wait_with_output().expect("it ends"));
    assert_eq!((&figures["missed"], figures["slots"].as_u64()), (&figures["slots"], Some(2000)), "{figures}");
    assert!(figures["told"]["sent"].as_u64() > Some(0), "{figures}");
}

#[test]
fn an_interrupt_ends_it_with_the_summary() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("load.sock");
    let agent = UnixDatagram::bind(&path).expect("a socket");
    agent.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket has time-outs");
    let socket = path.display().to_string();
    let arguments = ["--seconds", "3600", "--load", "5", "--push", &socket];
    let child = ransim(&arguments).stdout(Stdio::piped()).spawn().expect("it starts");
    // The first message only looks whether somebody is there; from the second on, the run has begun.
    for _ in 0..2 {
        agent.recv(&mut [0; 4096]).expect("the load is told");
    }
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(interrupted.success());
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("slots missed their deadline") && text.contains("p99.9"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_is_refused_with_the_rule() {
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--slot", "20ms"], 64, "250µs to 10ms"),
        (&["--slot", "fast"], 64, "500us"),
        (&["--cores", "900"], 64, "may use the cores"),
        (&["--peak", "99"], 64, "95"),
        (&["--load", "5", "--curve", "bursty"], 64, "--curve steady"),
        (&["--push", "/nowhere/load.sock"], 69, "is the agent running"),
    ];
    for (arguments, code, rule) in cases {
        let output = ransim(arguments).args(["--seconds", "1"]).output().expect("it starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(rule), "{arguments:?}: {told}");
    }
}
