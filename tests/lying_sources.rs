//! Can somebody who flaps or lies start inference, or a controller stop or start it by what it does not say? With the
//! real agent; the same for every kind of source, and to the nanosecond, is in `src/sentinel/judge/tests.rs`.

#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::batch::{assert_whole, at_work, submit};
use common::controller::Controller;
use common::node::{Node, Setup};
use common::wait_for;
use neap::link::messages::{LoadPlan, PlannedCell, PlannedUsage};
use neap::sys::clock;
use neap::units::{CellId, WallTime};
use serde_json::json;

/// For so long it is watched that nothing starts, or stops. Not a wait: the longer, the more would be seen.
const WATCHED: Duration = Duration::from_millis(1500);
/// How often the controller reports.
const REPORT_EVERY: Duration = Duration::from_millis(150);

fn setup() -> Setup {
    Setup::new().with_another_source("name = \"planned\"\nkind = \"mqtt\"")
}

fn report_of(controller: &Controller, at: WallTime, percent: u8) {
    let usage = PlannedUsage::Prb { dl: Some(percent), ul: None };
    let cells = vec![PlannedCell { cell: CellId(1), usage }];
    controller.send("down/load", LoadPlan { at, cells }.render());
}

fn report(controller: &Controller, percent: u8) {
    report_of(controller, clock::wall(), percent);
}

/// Says something again and again while nothing may be started.
fn assert_nothing_starts(node: &Node, mut say: impl FnMut(u64)) {
    let end = clock::now().after(WATCHED);
    for turn in 0.. {
        if clock::now() >= end {
            return;
        }
        say(turn);
        std::thread::sleep(REPORT_EVERY);
        assert_eq!(node.workers(), Vec::<i32>::new(), "a worker was started although nothing may run");
    }
}

/// Whether any status of the batch says that it was stopped.
fn was_stopped(controller: &Controller) -> bool {
    controller.statuses("batch").iter().any(|status| status["status"] == "SUSPENDED")
}

#[test]
fn a_node_that_hears_only_its_controller_runs_nothing() {
    let node = Node::start(&setup());
    let controller = node.controller();
    // The push source is silent from the beginning.
    controller.wait_for_mode("blind");
    submit(&controller, "batch", &json!({}));
    assert_nothing_starts(&node, |_| report(&controller, 1));
    node.feeder.low();
    controller.wait_for_mode("trough");
    controller.wait_for_state("batch", "IN_PROGRESS");
}

#[test]
fn a_controller_that_flaps_or_lies_starts_nothing_while_the_ran_is_busy() {
    let node = Node::start(&setup());
    let controller = node.controller();
    node.feeder.high();
    controller.wait_for_mode("busy");
    submit(&controller, "batch", &json!({}));
    assert_nothing_starts(&node, |turn| match turn % 4 {
        0 => report(&controller, 0),
        1 => report(&controller, 100),
        2 => controller.send("down/load", "nonsense"),
        _ => report_of(&controller, clock::wall().after(Duration::from_secs(3_600)), 0),
    });
}

#[test]
fn a_ran_that_flaps_starts_nothing_that_stays_up_while_its_controller_says_busy() {
    let node = Node::start(&setup());
    let controller = node.controller();
    report(&controller, 95);
    node.feeder.high();
    controller.wait_for_mode("busy");
    submit(&controller, "batch", &json!({}));
    assert_nothing_starts(&node, |turn| {
        report(&controller, 95);
        if turn % 2 == 0 { node.feeder.low() } else { node.feeder.high() }
    });
}

#[test]
fn a_report_of_load_stops_what_runs_and_one_without_load_lets_it_go_on() {
    let (node, controller) = at_work(&setup());
    report(&controller, 90);
    controller.wait_for_state("batch", "SUSPENDED");
    let events = || controller.events("yield");
    let event = wait_for("the event of the yield", || node.log(), || events().into_iter().next());
    let cause = &event["cause"];
    assert_eq!((&cause["source"], &cause["value"]), (&json!("planned"), &json!(90)), "{event}");
    assert!(event["detect_us"] == 0, "the clock of a yield begins with the receipt of a report: {event}");
    report(&controller, 2);
    assert_whole(&controller, 1);
}

#[test]
fn nonsense_old_reports_and_silence_of_a_controller_stop_nothing() {
    let (node, controller) = at_work(&setup());
    let hour_ago = WallTime::from_millis(clock::wall().as_millis() - 3_600_000);
    for body in ["", "nonsense", "{\"cells\":[]}", "{\"at\":\"2026-11-22T01:00:00Z\",\"cells\":[{\"cell\":1}]}"] {
        controller.send("down/load", body);
    }
    report_of(&controller, hour_ago, 100);
    report_of(&controller, clock::wall().after(Duration::from_secs(60)), 100);
    assert_whole(&controller, 1);
    assert!(!was_stopped(&controller), "{:?}", controller.statuses("batch"));
    wait_for("a line about it", || node.log(), || node.log().contains("load report does not count").then_some(()));
}

#[test]
fn the_loss_of_the_ran_stops_what_runs_although_its_controller_says_low() {
    let (node, controller) = at_work(&setup().with_source("freshness_ms", 500));
    report(&controller, 1);
    node.feeder.silent();
    controller.wait_for_state("batch", "SUSPENDED");
    let event = wait_for("the yield", || node.log(), || controller.events("yield").into_iter().next());
    assert_eq!((&event["cause"]["source"], &event["cause"]["reason"]), (&json!("push"), &json!("stale")), "{event}");
    node.feeder.low();
    assert_whole(&controller, 1);
}

#[test]
fn an_operator_reports_load_from_the_command_line() {
    let (node, controller) = at_work(&setup());
    let sent = node.cli(&["order", "load", "--prb", "71", "--ul", "12", "--json"]).output().expect("the binary runs");
    let told = String::from_utf8_lossy(&sent.stdout).into_owned();
    assert!(sent.status.success() && told.contains("\"sent\":true"), "{told}{}", String::from_utf8_lossy(&sent.stderr));
    controller.wait_for_state("batch", "SUSPENDED");
    let gone = node.cli(&["order", "load", "--gone"]).output().expect("the binary runs");
    assert!(gone.status.success());
    assert_whole(&controller, 1);
    let nothing = node.cli(&["order", "load"]).output().expect("the binary runs");
    let why = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(nothing.status.code() == Some(64) && why.contains("--prb"), "{why}");
}
