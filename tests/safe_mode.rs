//! Does an agent that crashes again and again stop doing what kills it? Kills the real one, and looks.

mod common;

use std::time::Duration;

use common::controller::{Controller, read_json};
use common::node::{Node, Setup, models};
use common::wait_for;
use serde_json::{Value, json};

const CRASHES: i64 = 5;

fn small() -> Value {
    json!({"model": "kpi-anomaly", "input": read_json(models().join("kpi-anomaly/samples/healthy.json"))})
}

fn setup() -> Setup {
    Setup::new().with("safe_mode", "crashes", CRASHES)
}

fn start(node: &mut Node) {
    node.start_agent();
    wait_for("the start of the agent", || node.log(), || node.log().contains("agent started").then_some(()));
}

/// A node in safe mode after as many crashes as that takes, with a job from before.
fn in_safe_mode(setup: &Setup) -> (Node, Controller) {
    let mut node = Node::prepare(setup);
    let controller = node.controller();
    node.feeder.high();
    start(&mut node);
    // What is sent before a node's first subscription, no broker keeps for it.
    wait_for_safe_mode(&controller, false);
    controller.submit("kept", &small());
    controller.wait_for_state("kept", "QUEUED");
    for crash in 1..=CRASHES {
        assert!(!node.log().contains("safe_mode"), "not before crash {crash}:\n{}", node.log());
        node.kill_agent();
        start(&mut node);
    }
    let state = wait_for_safe_mode(&controller, true);
    let why = state["degraded"][0].as_str().unwrap_or_default();
    assert!(why.contains("crashed 5 times") && why.contains("resume"), "{why}");
    (node, controller)
}

fn wait_for_safe_mode(controller: &Controller, safe: bool) -> Value {
    controller.wait(&format!("safe mode: {safe}"), |messages| {
        let last =
            messages.iter().rev().find(|message| message.topic == "up/state" && message.json["online"] == true)?;
        let degraded = last.json["degraded"].as_array().cloned().unwrap_or_default();
        let found = degraded.iter().any(|why| why.as_str().is_some_and(|why| why.starts_with("safe_mode")));
        (found == safe).then(|| last.json.clone())
    })
}

#[test]
fn after_five_crashes_it_reports_and_runs_nothing_until_a_controller_says_resume() {
    let (node, controller) = in_safe_mode(&setup());
    node.feeder.low();
    controller.wait_for_mode("trough");
    controller.submit("new", &small());
    let refused = controller.wait_for_state("new", "REJECTED");
    assert_eq!(refused["error"]["code"], "node.safe_mode", "{refused}");
    // In a trough a worker would be up by now: the node answers, and has none.
    let kept = controller.ask("describe", &json!({"job": "kept"}));
    assert_eq!(kept["job"]["status"], "QUEUED", "{kept}");
    assert!(kept["job"].to_string().contains("safe_mode"), "{kept}");
    assert_eq!(node.workers(), Vec::<i32>::new());
    let alarms = controller.events("alarm");
    assert!(alarms.iter().any(|alarm| alarm["code"] == "node.safe_mode"), "{alarms:?}");

    controller.ask("resume", &json!({}));
    wait_for_safe_mode(&controller, false);
    controller.wait_for_state("kept", "SUCCEEDED");
    controller.submit("newer", &small());
    controller.wait_for_state("newer", "SUCCEEDED");
}

#[test]
fn an_orderly_restart_ends_safe_mode_and_a_crash_does_not() {
    let (mut node, controller) = in_safe_mode(&setup());
    node.kill_agent();
    start(&mut node);
    wait_for("safe mode again", || node.log(), || node.log().contains("crashed 6 times").then_some(()));
    let (code, _) = node.terminate_agent();
    assert_eq!(code, Some(0), "{}", node.log());
    start(&mut node);
    node.feeder.low();
    controller.wait_for_state("kept", "SUCCEEDED");
    assert!(!node.log().contains("safe_mode"), "{}", node.log());
}

#[test]
fn after_a_calm_time_safe_mode_ends_by_itself() {
    let (node, controller) = in_safe_mode(&setup().with("safe_mode", "calm_s", 5));
    node.feeder.low();
    controller.wait_for_state("kept", "SUCCEEDED");
    wait_for_safe_mode(&controller, false);
    let over = |log: String| log.contains("no longer degraded").then_some(Duration::ZERO);
    wait_for("the end in the log", || node.log(), || over(node.log()));
}
