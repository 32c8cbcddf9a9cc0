//! Is a job refused at once when it cannot be done in time, with the figures, and only when its cost is known?

mod common;
#[path = "support/files.rs"]
mod files;

use std::fs;
use std::time::Duration;

use common::controller::{Controller, media_job};
use common::emulation::not_under_emulation;
use common::node::{Node, Setup, models};
use files::copy;
use neap::link::Publish;
use neap::sys::clock;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Items of a job that takes some seconds of CPU time on any machine.
const ITEMS: usize = 60;

/// Why these tests cannot be had from qemu-user.
const SLOW: &str = "a model that costs enough takes longer there than an appraisal may";

/// A folder with one model.
fn faces() -> TempDir {
    let folder = TempDir::new().expect("a folder can be made");
    copy(&models().join("faces"), &folder.path().join("faces"));
    folder
}

fn job(id: &str, items: usize, seconds: u64) -> Publish {
    let picture = fs::read(models().join("faces/samples/camera.jpg")).expect("the sample is there");
    let deadline = clock::wall().after(Duration::from_secs(seconds)).to_string();
    media_job(id, "faces", "image", &vec![picture; items], &json!({"deadline": deadline}))
}

/// The jobs in the order in which they were started.
fn started(controller: &Controller) -> Vec<String> {
    let started = |message: &common::controller::Message| {
        let id = message.topic.strip_prefix("up/job/")?;
        (message.json["reason"] == "started").then(|| id.to_owned())
    };
    controller.messages().iter().filter_map(started).collect()
}

#[test]
fn an_impossible_deadline_is_refused_at_once_with_its_figures_once_the_cost_is_known() {
    if not_under_emulation(SLOW) {
        return;
    }
    let models = faces();
    let setup = Setup::new().with("models", "dir", models.path().display().to_string());
    let node = Node::start(&setup);
    let controller = node.controller();
    controller.wait("the inventory", |messages| messages.iter().any(|m| m.topic == "up/info").then_some(()));

    // Nothing runs yet: the load is silent.
    controller.publish(job("unknown", ITEMS, 3));
    controller.wait_for_state("unknown", "QUEUED");

    let appraised = node.cli(&["models", "appraise"]).output().expect("the binary can be started");
    assert!(appraised.status.success(), "{}", String::from_utf8_lossy(&appraised.stderr));
    node.hangup();
    let run_us = controller.wait("an inventory with costs", |messages| {
        let infos = messages.iter().rev().filter(|message| message.topic == "up/info");
        infos.filter_map(|message| message.json["models"][0]["run_us_p50"].as_u64()).next()
    });

    // Half of what it takes on one core, so that no machine is quick enough; the rest is for a slow broker.
    let needs = run_us * ITEMS as u64 / 1_000_000;
    assert!(needs > 2, "{ITEMS} items take only {needs} s: give it more");
    controller.publish(job("impossible", ITEMS, needs / 2));
    controller.wait_for_state("impossible", "REJECTED");
    let error = controller.wait_for_result("impossible")["error"].clone();
    assert_eq!((&error["code"], &error["retryable"]), (&json!("job.infeasible"), &json!(false)), "{error}");
    let text = error["message"].as_str().unwrap_or_default();
    for word in ["needs ", " s of core time before 20", "one worker has ", "give it a later deadline, fewer items"] {
        assert!(text.contains(word), "{word:?} in {text}");
    }

    for (id, minutes) in [("third", 50), ("first", 30), ("second", 40)] {
        controller.publish(job(id, 1, 60 * minutes));
        controller.wait_for_state(id, "QUEUED");
    }
    node.feeder.low();
    for id in ["first", "second", "third"] {
        controller.wait_for_state(id, "SUCCEEDED");
    }
    let order: Vec<String> = started(&controller).into_iter().filter(|id| id != "unknown").collect();
    assert_eq!(order, ["first", "second", "third"], "earliest deadline first");
    let known: Vec<Value> = controller.statuses("unknown");
    assert!(known.iter().all(|status| status["status"] != "REJECTED"), "{known:?}");
}

#[test]
fn a_node_that_is_told_to_refuses_nothing_for_its_deadline() {
    if not_under_emulation(SLOW) {
        return;
    }
    let models = faces();
    let setup = Setup::new().with("models", "dir", models.path().display().to_string()).with(
        "jobs",
        "refuse_infeasible",
        false,
    );
    let node = Node::start(&setup);
    let controller = node.controller();
    let appraised = node.cli(&["models", "appraise"]).output().expect("the binary can be started");
    assert!(appraised.status.success(), "{}", String::from_utf8_lossy(&appraised.stderr));
    node.hangup();
    controller.wait("an inventory with costs", |messages| {
        let infos = messages.iter().rev().filter(|message| message.topic == "up/info");
        infos.filter_map(|message| message.json["models"][0]["run_us_p50"].as_u64()).next()
    });
    controller.publish(job("impossible", ITEMS, 2));
    controller.wait_for_state("impossible", "QUEUED");
    controller.wait_for_state("impossible", "TIMED_OUT");
}
