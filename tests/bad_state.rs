//! Does the agent start where it can, say clearly why where it cannot, and outlive a disk that is full?

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Output, Stdio};

use common::node::{Node, Setup};
use common::wait_for;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};

/// An agent of its own, which must end by itself.
fn ends(node: &Node) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.args(["run", "--config"]).arg(node.config()).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the agent can be started");
    let mut child = Owned(Some(child));
    let end = || child.0.as_mut().and_then(|child| child.try_wait().expect("a child can be asked"));
    wait_for("the end of an agent that cannot start", String::new, end);
    child.0.take().expect("taken once").wait_with_output().expect("its output can be read")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Killed when dropped.
struct Owned(Option<Child>);

impl Owned {
    fn pid(&self) -> Pid {
        Pid::from_child(self.0.as_ref().expect("owned"))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn job() -> Value {
    let tensor = json!({"name": "kpi", "shape": [1, 16], "datatype": "FP32", "data": vec![0.5; 16]});
    json!({"model": "kpi-anomaly", "input": {"inputs": [tensor]}})
}

// ---- it cannot start ----

#[test]
fn a_state_directory_has_one_agent_and_the_second_is_told_who_it_is() {
    let node = Node::start(&Setup::new());
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let second = ends(&node);
    assert_eq!(second.status.code(), Some(75));
    let pid = node.agent_pid().to_string();
    assert!(said(&second).contains("state.locked") && said(&second).contains(&pid), "{}", said(&second));
    controller.submit("still-served", &job());
    controller.wait_for_state("still-served", "SUCCEEDED");
}

#[test]
fn what_keeps_an_agent_from_starting_is_named_with_its_remedy() {
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    let file = file.path().display().to_string();
    for (setup, code, says) in [
        (Setup::new().with("models", "dir", "/nowhere/models"), 78, vec!["/nowhere/models", "folder that exists"]),
        (Setup::new().with("models", "dir", file.clone()), 78, vec![&file, "folder"]),
        (Setup::new().with("mqtt", "password_file", "/nowhere/password"), 78, vec!["/nowhere/password"]),
        (Setup::new().with("governor", "busy_above", 140), 78, vec!["config.invalid", "busy_above = 140", "1 to 100"]),
        (Setup::new().with("jobs", "sate_dir", "/tmp"), 78, vec!["config.invalid", "jobs.sate_dir"]),
    ] {
        let output = ends(&Node::prepare(&setup));
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        says.iter().for_each(|part| assert!(said(&output).contains(part), "{part:?} is not in: {}", said(&output)));
        assert!(!said(&output).contains("panicked"), "{}", said(&output));
    }
}

#[test]
fn a_load_socket_that_somebody_listens_on_is_not_taken_away() {
    let node = Node::prepare(&Setup::new());
    let path = node.folder.path().join("load.sock");
    let listener = UnixDatagram::bind(&path).expect("a socket can be bound");
    let refused = ends(&node);
    assert_eq!(refused.status.code(), Some(75));
    let said = said(&refused);
    assert!(said.contains(&path.display().to_string()) && said.contains("live process"), "{said}");
    assert!(UnixDatagram::unbound().and_then(|sender| sender.send_to(b"here", &path)).is_ok());
    assert_eq!(listener.recv(&mut [0; 8]).expect("it listens still"), 4);
}

// ---- it starts all the same ----

#[test]
fn a_damaged_store_is_kept_aside_and_an_empty_one_started() {
    let mut node = Node::start(&Setup::new());
    node.feeder.low();
    node.controller().wait_for_mode("trough");
    assert_eq!(node.terminate_agent().0, Some(0));
    let state = node.folder.path().join("state");
    let store = state.join("jobs.redb");
    let damaged: Vec<u8> = fs::read(&store).expect("the store is there").iter().map(|byte| byte ^ 0x55).collect();
    fs::write(&store, &damaged).expect("the store can be written");
    node.start_agent();
    let controller = node.controller();
    controller.wait_for_mode("trough");
    controller.submit("after-damage", &job());
    controller.wait_for_state("after-damage", "SUCCEEDED");
    assert!(node.log().contains("state.corrupt") && node.log().contains("jobs.redb.corrupt-1"), "{}", node.log());
    assert_eq!(fs::read(state.join("jobs.redb.corrupt-1")).expect("it is kept"), damaged);
}

#[test]
fn a_node_without_models_says_so_and_names_none() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let node = Node::start(&Setup::new().with("models", "dir", folder.path().display().to_string()));
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    controller.submit("to-no-model", &job());
    let result = controller.wait_for_result("to-no-model");
    assert_eq!(result["error"]["code"], "model.unknown", "{result}");
    assert!(result["error"]["message"].as_str().is_some_and(|text| text.contains("installed: none")), "{result}");
    assert!(node.log().contains("no model is installed"), "{}", node.log());
}

#[test]
fn a_broker_that_accepts_and_says_nothing_holds_nothing_up() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port can be bound");
    let port = silent.local_addr().expect("it has an address").port();
    let mut node = Node::start(&Setup::new().with("mqtt", "port", i64::from(port)));
    node.feeder.low();
    let _kept = silent.accept().expect("the agent connects");
    node.wait_for_workers(1);
    let (code, _) = node.terminate_agent();
    assert_eq!(code, Some(0), "{}", node.log());
}

// ---- the disk is full ----

/// No file of the agent may grow beyond, nor be written there: what a full disk is to the store.
fn limit_files(agent: &Owned, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Some(agent.pid()), Resource::Fsize, limit).expect("a child can be limited");
}

#[test]
fn a_full_disk_refuses_new_jobs_holds_up_accepted_ones_and_is_outlived() {
    let node = Node::prepare(&Setup::new());
    let log = fs::File::create(node.folder.path().join("agent.log")).expect("a log can be made");
    // Beyond its limit a process gets a signal besides the error; a full disk gives the error alone.
    let agent = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" run --config \"$1\"", env!("CARGO_BIN_EXE_neap")])
        .arg(node.config())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the agent can be started");
    let mut agent = Owned(Some(agent));
    let controller = node.controller();
    node.feeder.high();
    controller.wait_for_mode("busy");
    controller.submit("accepted", &job());
    controller.wait_for_state("accepted", "QUEUED");

    limit_files(&agent, Some(4096));
    controller.submit("refused", &job());
    let result = controller.wait_for_result("refused");
    assert_eq!(
        (&result["error"]["code"], &result["error"]["retryable"]),
        (&json!("state.io"), &json!(true)),
        "{result}"
    );
    node.feeder.low();
    controller.wait_for_mode("trough");
    controller.submit("refused-too", &job());
    let result = controller.wait_for_result("refused-too");
    assert_eq!(result["error"]["code"], "state.io", "{result}");
    assert!(controller.statuses("accepted").iter().all(|status| status["status"] == "QUEUED"), "{}", controller.told());

    limit_files(&agent, None);
    controller.wait_for_state("accepted", "SUCCEEDED");
    controller.submit("welcome", &job());
    controller.wait_for_state("welcome", "SUCCEEDED");
    for id in ["refused", "refused-too"] {
        let states = controller.statuses(id);
        assert!(states.iter().all(|status| status["status"] == "REJECTED"), "{id}: {states:?}");
    }
    kill_process(agent.pid(), Signal::TERM).expect("a child can be signalled");
    let end = || agent.0.as_mut().and_then(|agent| agent.try_wait().expect("a child can be asked"));
    let status = wait_for("the end of the agent", String::new, end);
    assert_eq!(status.code(), Some(0));
    let log = fs::read_to_string(node.folder.path().join("agent.log")).unwrap_or_default();
    assert!(log.contains("not stored, trying again") && !log.contains("panicked"), "{log}");
}
