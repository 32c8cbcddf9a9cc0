//! What holds a worker whatever happens to its agent? Looked at from outside: `/proc` and the cgroup folders.
//!
//! Where no cgroup can be made (an ordinary user, a container), these tests say loudly that they were skipped.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::batch::{assert_whole, at_work};
use common::controller::Controller;
use common::node::{Node, Setup, is_alive};
use common::wait_for;
use neap::sys::sched;
use serde_json::Value;

/// What the node says of its floor.
fn floor(controller: &Controller) -> Vec<String> {
    let info = |message: &&common::controller::Message| message.topic.ends_with("up/info");
    let info =
        controller.wait("up/info", |messages| messages.iter().rev().find(info).map(|message| message.json.clone()));
    let lines = info["floor"].as_array().unwrap_or_else(|| panic!("no floor in {info}"));
    lines.iter().map(|line| line.as_str().expect("a sentence").to_owned()).collect()
}

/// The agent's folders in each hierarchy, by its own word; `None`, loudly, where it has none.
fn folders(controller: &Controller) -> Option<Vec<PathBuf>> {
    let floor = floor(controller);
    let line = floor.iter().find_map(|line| line.strip_prefix("cgroup: yes: "));
    if line.is_none() {
        eprintln!("SKIPPED: no cgroups here: {floor:?}");
    }
    let folders = line?.split("; ").filter_map(|part| part.split_once(" in ")).map(|(_, path)| PathBuf::from(path));
    Some(folders.collect())
}

fn processes(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Something that a worker could have left behind, killed with the test.
struct Leftover(Child);

impl Leftover {
    fn in_groups(groups: &[PathBuf]) -> Self {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep can be started");
        let leftover = Self(child);
        for group in groups {
            fs::write(group.join("cgroup.procs"), leftover.0.id().to_string()).expect("a process can be moved");
        }
        leftover
    }

    fn is_alive(&self) -> bool {
        is_alive(i32::try_from(self.0.id()).expect("a process id is an i32"))
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Numbers of the cores that every thread of a process may use, as the kernel lists them.
fn allowed(pid: i32) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there").flatten();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("every status has it");
        line.trim().to_owned()
    };
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    texts.map(|text| (field(&text, "Name:"), field(&text, "Cpus_allowed_list:"))).collect()
}

// ---- the groups ----

#[test]
fn a_worker_is_in_groups_of_its_own_and_the_agent_removes_them_when_it_ends() {
    let (mut node, controller) = at_work(&Setup::new().with("workers", "count", 2));
    let Some(folders) = folders(&controller) else { return };
    let workers = node.wait_for_workers(2);
    for folder in &folders {
        let mut inside: Vec<i32> = ["0", "1"].iter().flat_map(|slot| processes(&folder.join(slot))).collect();
        inside.sort_unstable();
        assert_eq!(inside, workers, "{}", folder.display());
        assert!(!processes(&folder.join("0")).contains(&node.agent_pid()) && processes(folder).is_empty());
    }
    let idle = folders.iter().map(|folder| folder.join("cpu.idle")).find(|path| path.exists());
    if let Some(idle) = idle {
        assert_eq!(fs::read_to_string(idle).expect("it is there").trim(), "1");
    }
    assert!(!node.log().contains("could not enter"), "{}", node.log());
    assert_eq!(node.terminate_agent().0, Some(0));
    // What was killed may need a moment of its core to be gone; the agent does not wait long for it.
    let gone =
        || folders.iter().all(|folder| !folder.exists() || !processes(&folder.join("0")).is_empty()).then_some(());
    wait_for("the end of the groups", || format!("{folders:?}"), gone);
}

#[test]
fn what_a_killed_agent_left_in_its_groups_dies_at_its_next_start_and_the_job_is_done() {
    let (mut node, controller) = at_work(&Setup::new());
    let Some(folders) = folders(&controller) else { return };
    let groups: Vec<PathBuf> = folders.iter().map(|folder| folder.join("0")).collect();
    let leftover = Leftover::in_groups(&groups);
    node.kill_agent();
    assert!(leftover.is_alive() && folders.iter().all(|folder| folder.is_dir()), "nobody has cleaned up");

    node.start_agent();
    wait_for("the end of what was left", || node.log(), || (!leftover.is_alive()).then_some(()));
    let told = || node.log().contains("killed what a dead agent had left").then_some(());
    wait_for("a word about it", || node.log(), told);
    assert_whole(&controller, 2);
}

#[test]
fn the_groups_of_a_dead_agent_are_removed_by_its_neighbour_and_those_of_a_live_one_are_not_touched() {
    let (live, controller) = at_work(&Setup::new());
    let worker = live.wait_for_workers(1);
    let mut dead = Node::start(&Setup::new());
    let dead_controller = dead.controller();
    let Some(abandoned) = folders(&dead_controller) else { return };
    let leftover = Leftover::in_groups(&abandoned.iter().map(|folder| folder.join("0")).collect::<Vec<_>>());
    dead.kill_agent();

    let third = Node::start(&Setup::new());
    third.controller().wait_for_mode("blind");
    wait_for("the end of what was left", || third.log(), || (!leftover.is_alive()).then_some(()));
    assert!(abandoned.iter().all(|folder| !folder.exists()), "{abandoned:?}");
    assert_eq!(live.workers(), worker, "another agent's worker was touched");
    assert_whole(&controller, 1);
}

#[test]
fn a_worker_that_was_frozen_behind_its_back_and_killed_is_followed_by_one_that_runs() {
    let (node, controller) = at_work(&Setup::new());
    let Some(folders) = folders(&controller) else { return };
    let Some(freeze) = folders.iter().map(|folder| folder.join("0/cgroup.freeze")).find(|path| path.exists()) else {
        eprintln!("SKIPPED: version 2 is not mounted here");
        return;
    };
    let first = node.wait_for_workers(1)[0];
    let pid = rustix::process::Pid::from_raw(first).expect("a process id is not 0");
    fs::write(&freeze, "1").expect("a group can be frozen");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("a worker can be killed");
    assert_whole(&controller, 2);
    assert_eq!(fs::read_to_string(freeze).expect("it is there").trim(), "0");
    assert_ne!(node.wait_for_workers(1)[0], first);
}

#[test]
fn required_groups_that_cannot_be_had_keep_the_agent_from_starting() {
    let setup = Setup::new().with("cgroup", "mode", "required").with("cgroup", "path", "/no-such-group-anywhere");
    let node = Node::prepare(&setup);
    let output = node.cli(&["run"]).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("\"required\"") && said.contains("/no-such-group-anywhere"), "{said}");
}

#[test]
fn switched_off_the_workers_run_without_groups_and_it_is_told() {
    let (node, controller) = at_work(&Setup::new().with("cgroup", "mode", "off"));
    let floor = floor(&controller);
    assert!(floor.iter().any(|line| line.starts_with("cgroup: no: cgroup.mode is \"off\"")), "{floor:?}");
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", node.wait_for_workers(1)[0])).expect("it is there");
    assert!(!groups.contains("neap-agent"), "{groups}");
}

#[test]
fn a_check_tells_the_floor_and_does_not_disturb_the_agent_that_runs() {
    let (node, controller) = at_work(&Setup::new());
    let workers = node.wait_for_workers(1);
    let output = node.cli(&["check", "--json"]).output().expect("the binary runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let items = report["floor"].as_array().unwrap_or_else(|| panic!("{report}"));
    assert!(items.iter().any(|item| item["item"] == "cpu.idle" && item["text"].is_string()), "{report}");
    let words = ["yes", "nearly", "no"];
    assert!(items.iter().all(|item| item["had"].as_str().is_some_and(|had| words.contains(&had))), "{report}");
    let text = node.cli(&["check"]).output().expect("the binary runs");
    assert!(String::from_utf8_lossy(&text.stdout).contains("floor: cpu.idle: "), "{text:?}");
    assert_eq!(node.workers(), workers);
    assert_whole(&controller, 1);
}

// ---- reserved cores ----

#[test]
fn no_thread_of_the_agent_and_no_worker_may_use_a_reserved_core() {
    let cores = sched::cores();
    let [reserved, ref left @ ..] = cores[..] else { panic!("no core at all") };
    if left.is_empty() {
        eprintln!("SKIPPED: this machine gives us one core only");
        return;
    }
    let setup = Setup::new().with("workers", "reserved", vec![i64::try_from(reserved).expect("a small number")]);
    let (node, controller) = at_work(&setup);
    let expected = neap::units::CoreList(left).to_string();
    for pid in [vec![node.agent_pid()], node.wait_for_workers(1)].concat() {
        let threads = allowed(pid);
        assert!(threads.iter().all(|(_, cores)| *cores == expected), "expected {expected}: {threads:?}");
    }
    let threads = allowed(node.agent_pid());
    assert!(threads.iter().any(|(name, _)| name == "neap-sentinel"), "{threads:?}");
    let floor = floor(&controller);
    assert!(
        floor.iter().any(|line| line.starts_with(&format!("reserved cores: yes: {reserved} for the RAN"))),
        "{floor:?}"
    );
}

#[test]
fn a_worker_on_its_own_core_stays_there_when_others_are_reserved() {
    let cores = sched::cores();
    let [reserved, .., own] = cores[..] else {
        eprintln!("SKIPPED: this machine gives us one core only");
        return;
    };
    let number = |core: usize| i64::try_from(core).expect("a small number");
    let setup = Setup::new().with("workers", "reserved", vec![number(reserved)]);
    let (node, _controller) = at_work(&setup.with("workers", "cores", vec![number(own)]));
    let worker = node.wait_for_workers(1)[0];
    assert!(allowed(worker).iter().all(|(_, cores)| *cores == own.to_string()), "{:?}", allowed(worker));
}

#[test]
fn an_agent_with_no_core_left_does_not_start() {
    let all: Vec<i64> = (0..1024).collect();
    let node = Node::prepare(&Setup::new().with("workers", "reserved", all));
    let output = node.cli(&["run"]).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("workers.reserved = [0-1023] cannot be kept"), "{said}");
}
