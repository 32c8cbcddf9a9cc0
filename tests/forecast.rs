//! Does a node tell how much core time it expects, and remember over a restart what that rests on?
//!
//! The real agent on Mosquitto where it is installed. What takes days to learn is learned by the same code beforehand,
//! and laid where an earlier run would have left it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::controller::{Controller, Message};
use common::node::{Node, Setup};
use common::told::told;
use neap::governor::Policy;
use neap::governor::forecast::{Forecast, Settings};
use neap::link::messages::Capacity;
use neap::sys::clock;
use neap::units::{Utilization, WallTime};
use serde_json::Value;

const DAYS: i64 = 10;
const DAY_MS: i64 = 86_400_000;
const STEP_MS: i64 = 120_000;

/// The policy of [`Setup::new`].
fn policy() -> Policy {
    Policy {
        workers: 1,
        busy_above: Utilization::from_percent(40).unwrap(),
        idle_below: Utilization::from_percent(25).unwrap(),
        settle: Duration::from_millis(100),
        settle_max: Duration::from_millis(200),
        flap_window: Duration::from_millis(50),
        raise_every: Duration::from_millis(50),
    }
}

/// A node that was quiet for the first half of each of the last ten days (counted from this hour) and busy in the other.
fn learned(now: WallTime) -> Vec<u8> {
    let mut forecast = Forecast::new(Settings::new(policy())).unwrap();
    let (first, end) = (now.as_millis() - DAYS * DAY_MS, now.as_millis() - STEP_MS);
    for (index, at) in (0_i64..).zip((first..end).step_by(usize::try_from(STEP_MS).unwrap())) {
        let quiet = index * STEP_MS % DAY_MS < DAY_MS / 2;
        let level = Utilization::from_percent(if quiet { 5 } else { 80 }).unwrap();
        forecast.on_load(WallTime::from_millis(at), level);
    }
    forecast.snapshot()
}

fn state(node: &Node) -> PathBuf {
    node.folder.path().join("state/forecast.bin")
}

/// A node that has not been started, with what it learned.
fn prepared(setup: &Setup) -> Node {
    let node = Node::prepare(setup);
    fs::create_dir_all(state(&node).parent().unwrap()).unwrap();
    fs::write(state(&node), learned(clock::wall())).unwrap();
    node
}

fn outlooks(controller: &Controller) -> Vec<Message> {
    controller.read(|messages| messages.iter().filter(|message| message.topic == "up/outlook").cloned().collect())
}

fn outlook(controller: &Controller) -> (Message, Capacity) {
    let message = controller
        .wait("an outlook", |messages| messages.iter().rev().find(|message| message.topic == "up/outlook").cloned());
    let capacity = Capacity::parse(&message.body).unwrap();
    (message, capacity)
}

/// The first twelve hours are free and what comes after them is not, give or take an hour: other days are looked at
/// moved by up to half an hour.
fn is_as_learned(capacity: &Capacity) {
    let spans = capacity.outlook.spans();
    assert_eq!(spans.len(), 60, "15 hours in quarters");
    assert!(spans[4..40].iter().all(|free| free.p50 == capacity.outlook.span()), "{capacity:?}");
    assert!(spans[54..].iter().all(|free| free.p50.is_zero()), "{capacity:?}");
    assert!(capacity.errors.iter().all(|error| error.error_permille.is_some_and(f64::is_finite)), "{capacity:?}");
}

#[test]
fn a_node_publishes_a_retained_outlook_with_its_own_error_and_remembers_over_restarts() {
    let mut node = prepared(&Setup::new().with("forecast", "horizon_h", 15));
    node.start_agent();
    node.feeder.low();
    let controller = node.controller();
    let (message, first) = outlook(&controller);
    assert!(message.properties.iter().any(|(name, value)| name == "type" && value == "neap.node.outlook"));
    assert_eq!((first.workers, first.errors.len()), (1, 6));
    assert!((10..=11).contains(&first.days), "{first:?}");
    is_as_learned(&first);

    let written = fs::metadata(state(&node)).unwrap().ino();
    let (code, _) = node.terminate_agent();
    assert_eq!(code, Some(0), "{}", node.log());
    assert_ne!(fs::metadata(state(&node)).unwrap().ino(), written, "it was kept at the end");
    // Whoever comes while no agent runs finds it at the broker.
    let late = node.controller();
    let (message, retained) = outlook(&late);
    assert_eq!(retained, first);
    assert!(message.retain || !node.broker.shows_retain());

    node.start_agent();
    let again = late.wait("the outlook of the second run", |messages| {
        let of = messages.iter().filter(|message| message.topic == "up/outlook");
        of.filter_map(|message| Capacity::parse(&message.body).ok()).find(|capacity| capacity.session != first.session)
    });
    assert_eq!(again.days, first.days);
    is_as_learned(&again);
    assert!(outlooks(&late).len() <= 4, "an outlook is no stream");
}

#[test]
fn a_state_that_is_damaged_is_told_and_begins_anew() {
    let mut node = prepared(&Setup::new());
    let mut bytes = fs::read(state(&node)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(state(&node), bytes).unwrap();
    node.start_agent();
    let (_, capacity) = outlook(&node.controller());
    assert_eq!(capacity.days, 0);
    assert!(capacity.outlook.spans().iter().all(|free| free.p10.is_zero()));
    assert!(node.log().contains("the forecast begins anew"), "{}", node.log());
}

#[test]
fn an_outlook_neither_starts_nor_stops_anything() {
    // All that was learned says: busy for the next hours. The load is low all the same, and the node works.
    let mut node = Node::prepare(&Setup::new());
    fs::create_dir_all(state(&node).parent().unwrap()).unwrap();
    let shifted = WallTime::from_millis(clock::wall().as_millis() - DAY_MS / 2);
    fs::write(state(&node), learned(shifted)).unwrap();
    node.start_agent();
    node.feeder.low();
    let controller = node.controller();
    let (_, capacity) = outlook(&controller);
    assert!(capacity.outlook.spans()[8].p90.is_zero(), "{capacity:?}");
    controller.wait_for_mode("trough");
    node.feeder.high();
    controller.wait_for_mode("busy");
}

#[test]
fn a_node_that_is_told_not_to_says_nothing() {
    let mut node = prepared(&Setup::new().with("forecast", "enabled", false));
    let before = fs::read(state(&node)).unwrap();
    node.start_agent();
    node.feeder.low();
    let controller = node.controller();
    controller.wait_for_mode("trough");
    node.terminate_agent();
    assert!(outlooks(&controller).is_empty());
    assert_eq!(fs::read(state(&node)).unwrap(), before);
}

#[test]
fn the_command_shows_the_hours_as_bars_and_the_message_as_json() {
    let mut node = prepared(&Setup::new());
    let run = |node: &Node, more: &[&str]| told(&mut node.cli(&[&["outlook"], more].concat()));
    let (code, _, told) = run(&node, &["--timeout", "1s"]);
    assert_eq!(code, Some(69), "{told}");
    assert!(told.contains("the broker has no outlook of node test/node-1"), "{told}");

    node.start_agent();
    outlook(&node.controller());
    let (code, shown, told) = run(&node, &[]);
    assert_eq!(code, Some(0), "{told}");
    let bars = shown.lines().filter(|line| line.contains(&"█".repeat(40))).count();
    assert!((30..=48).contains(&bars), "{shown}");
    assert!(shown.contains("30 min ahead"), "{shown}");
    let (code, json, told) = run(&node, &["--json"]);
    assert_eq!(code, Some(0), "{told}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["p10_s"].as_array().map(Vec::len), Some(48));
}

/// PM files of the last five days, one a day: quiet for twelve hours from this hour on, busy for the other twelve.
fn pm_files(folder: &Path, now: WallTime) {
    let quarter = i64::try_from(Duration::from_secs(900).as_millis()).unwrap();
    for day in 1..=5 {
        let from = (now.as_millis() - day * DAY_MS) / quarter * quarter;
        let of = |index: i64| {
            let end = WallTime::from_millis(from + (index + 1) * quarter);
            let percent = if index < 48 { 5 } else { 80 };
            format!(
                "<measInfo><granPeriod duration=\"PT900S\" endTime=\"{end}\"/><measType p=\"1\">RRU.PrbTotDl</measType>\
                 <measValue measObjLdn=\"NRCellDU=1\"><r p=\"1\">{percent}</r></measValue></measInfo>"
            )
        };
        let infos: String = (0..96).map(of).collect();
        let text = format!("<measCollecFile><measData>{infos}</measData></measCollecFile>");
        fs::write(folder.join(format!("day-{day}.xml")), text).unwrap();
    }
}

#[test]
fn a_node_that_never_ran_knows_the_usual_day_from_pm_files() {
    let folder = tempfile::tempdir().unwrap();
    pm_files(folder.path(), clock::wall());
    fs::write(folder.path().join("bad.xml"), "no PM file").unwrap();
    let path = folder.path().display().to_string();
    let mut node = Node::prepare(&Setup::new().with("forecast", "pm_dir", path).with("forecast", "horizon_h", 15));
    node.start_agent();
    node.feeder.low();
    let controller = node.controller();
    controller.wait_for_mode("trough");
    let until = clock::now().after(Duration::from_secs(60));
    while !node.log().contains("from PM files") {
        assert!(clock::now() < until, "{}", node.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let log = node.log();
    assert!(log.contains("bad.xml") && log.contains("files=5"), "{log}");
    // What is learned is told at the latest with the next outlook, and kept: the second run begins with it.
    node.terminate_agent();
    node.start_agent();
    let again = node.controller();
    let known = again.wait("an outlook that knows the days", |messages| {
        let of = messages.iter().filter(|message| message.topic == "up/outlook");
        of.filter_map(|message| Capacity::parse(&message.body).ok()).find(|capacity| capacity.days >= 5)
    });
    let spans = known.outlook.spans();
    assert!(spans[4..40].iter().all(|free| free.p50 == known.outlook.span()), "{known:?}");
    assert!(spans[54..].iter().all(|free| free.p50.is_zero()), "{known:?}");
}
