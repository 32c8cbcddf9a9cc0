//! Does the agent tune its thresholds from the load that it remembers, say why, and give them back at a reload?

mod common;

use std::fs;
use std::process::Output;
use std::time::Duration;

use common::node::{Node, Setup};
use common::wait_for;
use neap::governor::Policy;
use neap::governor::tuning::{Mode, SLOT, Terms, Tuner};
use neap::sys::clock;
use neap::units::{Utilization, WallTime};
use serde_json::{Value, json};

/// Slots of a day.
const DAY: u32 = 720;

fn setup(mode: &str) -> Setup {
    Setup::new()
        .with("governor", "busy_above", 40)
        .with("governor", "idle_below", 30)
        .with("governor", "settle_s", 1)
        .with("governor", "settle_max_s", 1)
        .with("governor", "flap_window_s", 300)
        .with("tuning", "mode", mode)
}

fn percent(percent: u8) -> Utilization {
    Utilization::from_percent(percent).expect("a percentage")
}

/// What an earlier run would have kept: two days in which the load went up every half hour.
fn earlier_run(policy: &Policy) -> String {
    let terms = Terms {
        mode: Mode::Auto,
        evictions_max: Some(5),
        increase_max_permille: None,
        busy_above_min: percent(20),
        idle_below_min: percent(15),
        settle_max: Duration::from_secs(1800),
    };
    let mut tuner = Tuner::new(terms, policy.clone()).expect("a policy that works");
    let begin = WallTime::from_millis(clock::wall().as_millis() - 2 * 24 * 3600 * 1000);
    for slot in 0..2 * DAY {
        let level = if (slot / 8).is_multiple_of(2) { 5 } else { 60 };
        tuner.on_load(begin.after(SLOT * slot), Some(percent(level)));
    }
    tuner.snapshot()
}

fn configured() -> Policy {
    Policy {
        workers: 1,
        busy_above: percent(40),
        idle_below: percent(30),
        settle: Duration::from_secs(1),
        settle_max: Duration::from_secs(1),
        flap_window: Duration::from_secs(300),
        raise_every: Duration::from_secs(1),
    }
}

/// A node that remembers two days.
fn node(mode: &str) -> Node {
    let mut node = Node::prepare(&setup(mode));
    let folder = node.folder.path().join("state");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join("tuning.txt"), earlier_run(&configured())).expect("a file can be written");
    node.start_agent();
    node
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn state(node: &Node) -> Value {
    let output = node.cli(&["tuning", "--json"]).output().expect("the binary can be started");
    if !output.status.success() {
        return Value::Null;
    }
    serde_json::from_str(&told(&output)).expect("JSON")
}

#[test]
fn auto_changes_the_settle_time_says_why_and_a_reload_takes_it_back() {
    let node = node("auto");
    let controller = node.controller();
    let changed = || state(&node)["changes"].as_array().filter(|changes| !changes.is_empty()).cloned();
    let changes = wait_for("a change", || node.log(), changed);
    let text = changes[0]["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("tuning: ") && text.contains("intent 5") && text.contains("would have given"), "{text}");
    let now = state(&node);
    let settle = |figures: &str| now[figures]["settle_s"].as_f64().unwrap_or_default();
    assert!(settle("in_force") > 1.0 && settle("configured") == 1.0, "{now}");
    let events = || controller.events("tuning").into_iter().next();
    let event = wait_for("an event", || controller.told(), events);
    assert_eq!((&event["in_force"], event["text"].as_str()), (&json!(true), Some(text)), "{event}");
    assert!(node.log().contains(text), "{}", node.log());
    let shown = told(&node.cli(&["tuning"]).output().expect("the binary can be started"));
    assert!(shown.contains("mode        auto") && shown.contains(text), "{shown}");

    // The governor goes by it: with the configured second the trough would be there at once.
    node.feeder.low();
    controller.wait_for_mode("settling");
    std::thread::sleep(Duration::from_secs(3));
    assert!(!node.log().contains("panicked"));
    let mode = || controller.ask("describe", &json!({}))["node"]["state"]["mode"].clone();
    assert_eq!(mode(), "settling");

    node.hangup();
    controller.wait_for_mode("trough");
    let back = state(&node);
    assert_eq!(back["in_force"], back["configured"], "{back}");
    assert_eq!(back["changes"].as_array().map(Vec::len), Some(2), "the past stays known: {back}");
}

#[test]
fn a_suggestion_is_told_and_changes_nothing() {
    let node = node("suggest");
    let controller = node.controller();
    let suggested = || state(&node)["suggested"]["text"].as_str().map(str::to_owned);
    let text = wait_for("a suggestion", || node.log(), suggested);
    assert!(text.starts_with("tuning: ") && text.contains("intent 5"), "{text}");
    let now = state(&node);
    assert_eq!((&now["in_force"], &now["changes"]), (&now["configured"], &json!([])), "{now}");
    node.feeder.low();
    controller.wait_for_mode("trough");
}
