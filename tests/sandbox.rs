//! Does the sandbox of a worker hold, and does a worker's own work fit into it without a system call to spare?
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "support/onnx.rs"]
mod onnx;
#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "support/rig.rs"]
mod rig;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use neap::fault::Code;
use neap::worker::handle::Event;
use neap::worker::jail::achieved::{Given, Step};
use neap::worker::jail::selftest::{self, Outcome};
use neap::worker::jail::{Policy, filter};

use self::onnx::{FLOAT, Graph, INT64, ints, node, tensor, value};
use self::rig::{Model, Rig, input, script};

const NEAP: &str = env!("CARGO_BIN_EXE_neap");

/// Whether this kernel gives what is required; says so, loudly, when it does not.
fn is_given() -> bool {
    let achieved = selftest::probe(Path::new(NEAP), Policy::default()).unwrap();
    let why = achieved.unavailable();
    if let Some(why) = &why {
        eprintln!("SKIPPED: no sandbox here: {why}");
    }
    why.is_none()
}

/// `y = x + x`.
fn sum() -> Model {
    Model::new(graph(vec![node("Add", &["x", "x"], &["y"])]).file())
}

/// Divides by a zero that is computed while it is optimised: a panic in the engine.
fn panicking() -> Model {
    let integers = |name| value(name, INT64, &[1]);
    let graph = Graph {
        nodes: vec![
            node("Sub", &["one", "one"], &["zero"]),
            node("Div", &["one", "zero"], &["q"]),
            node("Add", &["x", "q"], &["y"]),
        ],
        constants: vec![tensor("one", INT64, &[1], &ints(&[1]))],
        inputs: vec![integers("x")],
        outputs: vec![integers("y")],
    };
    Model::new(graph.file()).ports("x INT64 1", "y INT64 1")
}

fn graph(nodes: Vec<onnx::Message>) -> Graph {
    let open = |name| value(name, FLOAT, &[0]);
    Graph { nodes, constants: vec![], inputs: vec![open("x")], outputs: vec![open("y")] }
}

/// A worker whose command line goes on like this.
fn worker_with(folder: &Path, arguments: &str) -> PathBuf {
    script(folder, &format!("exec {NEAP} \"$@\" {arguments}"))
}

/// A worker whose system calls are written down.
fn worker_under_strace(folder: &Path) -> PathBuf {
    let log = folder.join("strace");
    script(folder, &format!("exec strace -D -qq -o {}.$$ {NEAP} \"$@\"", log.display()))
}

#[test]
fn all_that_is_forbidden_is_denied_before_and_after_a_panic() {
    if !is_given() {
        return;
    }
    let findings = selftest::run(Path::new(NEAP), Policy::default()).unwrap();
    let names: BTreeSet<_> = findings.iter().map(|finding| finding.name).collect();
    assert!(names.len() >= 20 && findings.len() == 2 * names.len(), "{} attempts", findings.len());
    for finding in findings {
        assert!(finding.outcome.is_denied(), "{} ({}): {}", finding.name, finding.after_panic, finding.outcome);
    }
}

#[test]
fn the_self_test_can_tell_what_is_allowed_from_what_is_denied() {
    if !is_given() {
        return;
    }
    let tried = |name| selftest::try_one(Path::new(NEAP), Policy::default(), name, false).unwrap();
    assert!(matches!(tried("allowed"), Outcome::Allowed(how) if how.contains("it said \"allowed\"")));
    // Ends that are no violation, and are not taken for one.
    for (name, signal) in [("abort", "Signal(6)"), ("fault", "Signal(11)")] {
        assert!(matches!(tried(name), Outcome::Allowed(how) if how.starts_with(signal)), "{name}: {:?}", tried(name));
    }
}

#[test]
fn an_operator_can_ask_whether_the_sandbox_holds() {
    if !is_given() {
        return;
    }
    let output = Command::new(NEAP).args(["worker", "--selftest-sandbox", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["strength"]), (Some(0), &serde_json::json!("full")), "{report}");
    let attempts = report["attempts"].as_array().unwrap();
    assert!(attempts.len() >= 40 && attempts.iter().all(|attempt| attempt["denied"] == true), "{report}");
}

#[test]
fn a_probe_tells_every_item_and_what_entering_cost() {
    let achieved = selftest::probe(Path::new(NEAP), Policy::default()).unwrap();
    let steps: Vec<_> = achieved.outcomes.iter().map(|outcome| outcome.step).collect();
    assert_eq!(steps, Step::ALL);
    assert!(!achieved.set_up.is_zero());
    // Whoever is root gives it up, where the kernel lets it.
    assert_eq!(achieved.given(Step::User) == Given::Yes, achieved.uid == Policy::default().user);
    eprintln!("entering the sandbox: {:?}, warming up: {:?}", achieved.set_up, achieved.warm_up);
}

#[tokio::test]
async fn a_worker_that_makes_a_forbidden_call_is_told_as_a_violation_and_another_follows() {
    if !is_given() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::of(worker_with(folder.path(), "--attempt open_passwd"));
    for _ in 0..2 {
        let Event::Exited { fault, .. } = rig.event().await else { panic!("an exit was expected") };
        let fault = fault.unwrap();
        assert_eq!(fault.code, Code::WorkerSandboxViolation, "{fault}");
        assert!(!fault.code.retryable());
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_abort_in_the_sandbox_is_an_abort() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::of(worker_with(folder.path(), "--attempt abort"));
    let Event::Exited { fault, .. } = rig.event().await else { panic!("an exit was expected") };
    let fault = fault.unwrap();
    assert!(fault.message.contains("SIGABRT"), "{fault}");
    rig.stop().await;
}

#[tokio::test]
async fn a_panic_in_the_sandbox_is_an_answer() {
    let mut rig = Rig::start().await;
    let one = vec![neap::tensor::Tensor::new("x", neap::tensor::DataType::Int64, vec![1], vec![0; 8]).unwrap()];
    let fault = rig.ask(&panicking(), one).await.unwrap_err();
    assert!(fault.message.contains("panic"), "{fault}");
    assert_eq!(rig.ask(&sum(), input(&[1.0])).await.unwrap().tensors[0].to_f32s().unwrap(), [2.0]);
    assert_eq!(rig.exits, 0);
    rig.stop().await;
}

/// Names of the system calls that the workers made after they were locked in.
fn locked_in(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if !entry.file_name().unwrap().to_string_lossy().starts_with("strace.") {
            continue;
        }
        let log = std::fs::read_to_string(&entry).unwrap();
        let after = log.split_once("seccomp(SECCOMP_SET_MODE_FILTER").map_or("", |(_, after)| after);
        let lines = after.lines().skip(1).filter(|line| !line.starts_with(['+', '-']));
        names.extend(lines.filter_map(|line| Some(line.split_once('(')?.0.trim().to_owned())));
    }
    names
}

/// In the manner of Firecracker's test of the same name: a list that only ever grows is no list.
#[tokio::test]
async fn no_system_call_is_on_the_list_that_nobody_needs() {
    if !is_given() {
        return;
    }
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace cannot be run here, so nobody has looked at the system calls");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::of(worker_under_strace(folder.path()));
    // Small and large, good and bad: loading, running, growing blocks, memory given back, the engine's panics.
    for length in [1, 50_000] {
        rig.ask(&sum(), input(&vec![1.0; length])).await.unwrap();
    }
    let one = vec![neap::tensor::Tensor::new("x", neap::tensor::DataType::Int64, vec![1], vec![0; 8]).unwrap()];
    rig.ask(&panicking(), one).await.unwrap_err();
    rig.stop().await;
    // Each way to end.
    let exe = worker_under_strace(folder.path());
    for end in ["allowed", "abort", "fault", "over_memory"] {
        selftest::try_one(&exe, Policy::default(), end, false).unwrap();
    }
    let seen = locked_in(folder.path());
    assert!(seen.contains("recvmsg"), "strace may not attach here: {seen:?}");
    let idle: Vec<_> = filter::allowed()
        .into_iter()
        .filter(|allowed| allowed.unseen.is_none() && !seen.contains(allowed.name))
        .map(|allowed| allowed.name)
        .collect();
    assert_eq!(idle, Vec::<&str>::new(), "on the list, without a reason, and not seen among {seen:?}");
}
