//! Do the controller's commands and a node understand each other? The real binary on both sides, a broker between.
#![cfg(feature = "demo")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use neap::sim::broker::Broker;
use serde_json::Value;

/// A node with an agent, its broker, and a feeder that keeps its trough open until it is told otherwise.
struct Node {
    folder: tempfile::TempDir,
    agent: Child,
    feeder: Option<Child>,
    _broker: Broker,
}

impl Node {
    fn start() -> Self {
        let broker = Broker::start().expect("a broker starts");
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models");
        let text = format!(
            "[node]\nsite = \"test\"\nname = \"node-1\"\n[mqtt]\nhost = \"127.0.0.1\"\nport = {}\n\
             [governor]\nsettle_s = 0.1\nsettle_max_s = 0.2\nflap_window_s = 0.1\n\
             [[load]]\nname = \"du\"\nkind = \"push\"\nsocket = \"{}\"\n\
             [jobs]\nstate_dir = \"{}\"\n[models]\ndir = \"{}\"\n",
            broker.address().port(),
            path("load.sock"),
            path("state"),
            models.display()
        );
        fs::write(folder.path().join("neap.toml"), text).expect("a file can be written");
        let log = fs::File::create(folder.path().join("log")).expect("a file can be written");
        let agent = Command::new(env!("CARGO_BIN_EXE_neap"))
            .args(["run", "--config", &path("neap.toml")])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the agent starts");
        let mut node = Self { folder, agent, feeder: None, _broker: broker };
        node.wait_until_up();
        node
    }

    fn neap(&self, arguments: &[&str]) -> Output {
        let config = self.folder.path().join("neap.toml").display().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
        command.args(arguments).args(["--config", &config]).stdin(Stdio::null()).output().expect("the binary runs")
    }

    /// Pushes this load from now on.
    fn feed(&mut self, percent: &str) {
        self.stop_feeder();
        let config = self.folder.path().join("neap.toml").display().to_string();
        let feeder = Command::new(env!("CARGO_BIN_EXE_neap"))
            .args(["feed", "--prb", percent, "--every", "100ms", "--config", &config])
            .spawn()
            .expect("the binary runs");
        self.feeder = Some(feeder);
    }

    fn stop_feeder(&mut self) {
        if let Some(mut feeder) = self.feeder.take() {
            let _ = feeder.kill();
            let _ = feeder.wait();
        }
    }

    fn wait_until_up(&mut self) {
        for _ in 0..100 {
            if self.folder.path().join("load.sock").exists() && self.neap(&["jobs"]).status.success() {
                return;
            }
            assert!(self.agent.try_wait().expect("a child").is_none(), "the agent ended: {}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
        panic!("the agent did not come up: {}", self.log());
    }

    /// Asks for the job until its status is this.
    fn wait_for(&self, job: &str, status: &str) -> Value {
        for _ in 0..300 {
            let known = json(&self.neap(&["jobs", job, "--json"]));
            if known["status"] == status {
                return known;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("job {job} is not {status}: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_feeder();
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn code_and_words(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn sample(model: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model).join("samples");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("samples").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files.first().expect("a sample").display().to_string()
}

#[test]
fn a_picture_goes_in_and_labels_with_boxes_come_out() {
    let mut node = Node::start();
    node.feed("5");
    let picture = sample("objects");
    let output = node.neap(&["submit", "--model", "objects", "--input", &picture, "--id", "one", "--wait"]);
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(words.contains("job one: objects v1") && words.contains("score") && words.contains("box"), "{words}");

    let result = json(&node.neap(&["result", "one", "--json"]));
    assert_eq!((&result["id"], &result["model_name"]), (&"one".into(), &"objects".into()));
    assert!(result["outputs"].as_array().is_some_and(|outputs| !outputs.is_empty()), "{result}");

    let again = node.neap(&["submit", "--model", "objects", "--input", &picture, "--id", "one", "--priority", "9"]);
    let (code, words) = code_and_words(&again);
    assert!(code == Some(65) && words.contains("job.id_conflict"), "{code:?} {words}");
}

#[test]
fn several_pictures_are_items_of_one_job_and_a_bad_one_does_not_spoil_the_others() {
    let mut node = Node::start();
    node.feed("5");
    let inputs = [sample("objects"), format!("{}/Cargo.toml", env!("CARGO_MANIFEST_DIR"))];
    let output = node.neap(&["submit", "--model", "objects", "--input", &inputs[0], &inputs[1], "--wait", "--json"]);
    let result = json(&output);
    assert!(result["items"][0]["outputs"].is_array(), "{result}");
    assert_eq!(result["items"][1]["error"]["code"], "input.decode");
}

#[test]
fn a_job_that_waits_says_why_and_can_be_taken_back() {
    let mut node = Node::start();
    node.feed("90");
    let submitted =
        node.neap(&["submit", "--model", "objects", "--input", &sample("objects"), "--id", "two", "--json"]);
    assert_eq!(json(&submitted)["status"], "QUEUED");
    let waiting = node.wait_for("two", "QUEUED");
    assert!(waiting["waiting"].as_str().is_some_and(|why| !why.is_empty()), "{waiting}");
    let (code, words) = code_and_words(&node.neap(&["result", "two"]));
    assert_eq!(code, Some(65), "{words}");

    assert_eq!(json(&node.neap(&["cancel", "two", "--json"]))["status"], "CANCELED");
    assert_eq!(json(&node.neap(&["cancel", "two", "--json"]))["status"], "CANCELED");
    let (code, words) = code_and_words(&node.neap(&["cancel", "no-such-job"]));
    assert!(code == Some(65) && words.contains("job.unknown"), "{code:?} {words}");
}

#[test]
fn what_the_node_refuses_is_told_with_its_code() {
    let node = Node::start();
    let refused = node.neap(&["submit", "--model", "no-such-model", "--input", &sample("objects")]);
    let (code, words) = code_and_words(&refused);
    assert!(code == Some(65) && words.contains("model.unknown") && words.contains("objects"), "{code:?} {words}");
}

#[test]
fn watch_tells_states_and_jobs_as_lines_of_json() {
    let mut node = Node::start();
    node.feed("5");
    let submitted =
        node.neap(&["submit", "--model", "objects", "--input", &sample("objects"), "--id", "three", "--wait"]);
    assert_eq!(submitted.status.code(), Some(0));
    // State and inventory are kept by the broker: a watcher that comes late hears them at once.
    let output = node.neap(&["watch", "--json", "--for", "2s"]);
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let kinds: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let state = kinds.iter().find(|line| line["kind"] == "state").unwrap_or_else(|| panic!("no state in {lines}"));
    assert_eq!((&state["node"], &state["body"]["online"]), (&"node-1".into(), &true.into()));
    assert!(kinds.iter().any(|line| line["kind"] == "info"), "{lines}");
}

#[test]
fn a_forgotten_job_is_gone() {
    let mut node = Node::start();
    node.feed("5");
    let submitted =
        node.neap(&["submit", "--model", "objects", "--input", &sample("objects"), "--id", "four", "--wait"]);
    assert_eq!(submitted.status.code(), Some(0));
    assert_eq!(node.neap(&["result", "four", "--forget"]).status.code(), Some(0));
    for _ in 0..100 {
        let (code, words) = code_and_words(&node.neap(&["result", "four"]));
        if code == Some(65) && words.contains("job.unknown") {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("the node still knows the job: {}", node.log());
}
