//! Does a node say how strong its sandbox is, in every result, and run nothing where the one that is required is missing?
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::Path;

use common::controller::{Controller, read_json};
use common::node::{Node, Setup, models};
use neap::worker::jail::achieved::{Given, Step};
use neap::worker::jail::{Policy, selftest};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::{Value, json};

fn small() -> Value {
    json!({"model": "kpi-anomaly", "input": read_json(models().join("kpi-anomaly/samples/healthy.json"))})
}

/// This thread, and every program that it starts from now on, runs as on a kernel without Landlock.
fn lose_landlock() {
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let refused = [(libc::SYS_landlock_create_ruleset, Vec::new())].into();
    let refuse = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, refuse, arch).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

fn strength_of_a_result(controller: &Controller) -> Value {
    controller.wait_for_mode("trough");
    controller.submit("told", &small());
    let result = controller.wait_for_result("told");
    result["parameters"]["sandbox"].clone()
}

#[test]
fn a_result_tells_the_strength_that_this_machine_gives() {
    let here = selftest::probe(Path::new(env!("CARGO_BIN_EXE_neap")), Policy::default()).unwrap();
    if let Some(why) = here.unavailable() {
        eprintln!("SKIPPED: no sandbox here: {why}");
        return;
    }
    let node = Node::start(&Setup::new());
    let controller = node.controller();
    node.feeder.low();
    assert_eq!(strength_of_a_result(&controller), here.strength().as_str());
}

#[test]
fn where_the_best_is_enough_a_result_without_landlock_says_that_it_is_less() {
    lose_landlock();
    let here = selftest::probe(Path::new(env!("CARGO_BIN_EXE_neap")), Policy::default());
    assert!(here.is_err() || here.is_ok_and(|here| here.given(Step::Landlock) == Given::No));
    let node = Node::start(&Setup::new().with("sandbox", "level", "best-effort"));
    let controller = node.controller();
    node.feeder.low();
    assert_eq!(strength_of_a_result(&controller), "partial");
}

#[test]
fn a_node_that_cannot_have_the_sandbox_it_requires_is_degraded_and_runs_nothing() {
    lose_landlock();
    let node = Node::start(&Setup::new());
    let controller = node.controller();
    node.feeder.low();
    let why = controller.wait("a node that is degraded by its sandbox", |messages| {
        let states = messages.iter().rev().filter(|message| message.topic == "up/state");
        let causes = states.filter_map(|state| state.json["degraded"].as_array()).flatten();
        causes.filter_map(Value::as_str).find(|why| why.starts_with("sandbox: ")).map(str::to_owned)
    });
    assert!(why.contains("Landlock") && why.contains("best-effort"), "{why}");
    controller.wait_for_mode("trough");
    controller.submit("new", &small());
    let refused = controller.wait_for_state("new", "REJECTED");
    assert_eq!(refused["error"]["code"], "sandbox.unavailable", "{refused}");
    let alarms = controller.events("alarm");
    assert!(alarms.iter().any(|alarm| alarm["code"] == "sandbox.unavailable"), "{alarms:?}");
}
