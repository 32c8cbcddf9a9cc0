//! Does inference give way to the radio, whatever happens? Judged by the kernel's account of the workers' CPU time, never
//! by the agent's word.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::batch::{assert_whole, at_work, batch_items, submit};
use common::controller::Controller;
use common::node::{Node, Setup, is_alive, state, workers_of};
use common::wait_for;
use neap::sys::clock;
use serde_json::{Value, json};

/// For so long a stopped worker is watched. Not a wait: the longer, the more would be seen.
const WATCHED: Duration = Duration::from_millis(1500);

/// Waits until every worker is stopped by the kernel's word, then watches that none uses CPU time; gives the clocks.
fn assert_stands(node: &Node) -> BTreeMap<i32, Duration> {
    let stopped = || node.workers().iter().all(|pid| state(*pid) == Some('T')) && !node.workers().is_empty();
    wait_for("stopped workers", || node.log(), || stopped().then_some(()));
    let before = node.worker_cpu();
    let end = clock::now().after(WATCHED);
    while clock::now() < end {
        assert_eq!(node.worker_cpu(), before, "a stopped worker used CPU time");
        std::thread::sleep(Duration::from_millis(20));
    }
    before
}

/// Watches that nobody starts a worker: starting one costs a core as well.
fn assert_no_worker(node: &Node) {
    let end = clock::now().after(WATCHED);
    while clock::now() < end {
        assert_eq!(node.workers(), Vec::<i32>::new(), "a worker was started although nothing may run");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the same workers use CPU time again.
fn assert_goes_on(node: &Node, before: &BTreeMap<i32, Duration>) {
    wait_for(
        "CPU time of the same workers",
        || node.log(),
        || {
            let now = node.worker_cpu();
            assert!(before.keys().all(|pid| now.contains_key(pid)), "a worker is gone: {before:?} {now:?}");
            before.iter().any(|(pid, cpu)| now[pid] > *cpu + Duration::from_millis(1)).then_some(())
        },
    );
}

/// Makes the node give way, watches, lets it go on, and sees the batch to its end; gives the yield's event.
fn give_way_and_go_on(setup: &Setup, reason: &str, give_way: impl Fn(&Node, &Controller)) -> Value {
    let (node, controller) = at_work(setup);
    give_way(&node, &controller);
    controller.wait_for_state("batch", "SUSPENDED");
    let before = assert_stands(&node);
    // Orders are taken back by the test itself.
    node.feeder.low();
    if reason == "held" {
        controller.ask("resume", &json!({}));
    }
    assert_goes_on(&node, &before);
    let result = assert_whole(&controller, 1);
    let figures = &result["parameters"];
    assert!(figures["suspended_ms"].as_u64() >= Some(1400), "{figures}");
    assert!(figures["yields"].as_u64() >= Some(1), "{figures}");
    let event = controller.events("yield").into_iter().find(|event| event["cause"]["reason"] == reason);
    let event = event.unwrap_or_else(|| panic!("no yield because of {reason}: {:?}", controller.events("yield")));
    assert_eq!((&event["workers"], &event["jobs"]), (&json!(1), &json!(["batch"])));
    let resumes = controller.events("resume");
    assert!(resumes.iter().any(|resume| resume["jobs"] == json!(["batch"])), "{resumes:?}");
    eprintln!("yield because of {reason}: {event}");
    event
}

#[test]
fn load_above_the_limit_stops_the_workers_and_they_go_on_where_they_were() {
    let event = give_way_and_go_on(&Setup::new(), "above", |node, _| node.feeder.high());

    let cause = &event["cause"];
    assert_eq!((&cause["source"], &cause["metric"]), (&json!("push"), &json!("RRU.PrbTotDl")), "{event}");
    assert_eq!((&cause["value"], &cause["threshold"]), (&json!(90), &json!(40)), "{event}");
    let us = |key: &str| event[key].as_u64().unwrap_or_else(|| panic!("{key} is missing in {event}"));
    let parts = us("detect_us") + us("decide_us") + us("stop_us");
    assert!((parts..=parts + 3).contains(&us("total_us")), "each part is rounded down: {event}");
    assert!(us("total_us") > 0 && us("total_us") < 60_000_000, "{event}");
}

#[test]
fn a_source_that_falls_silent_means_busy() {
    let setup = Setup::new().with_source("freshness_ms", 500);
    give_way_and_go_on(&setup, "stale", |node, _| node.feeder.silent());
}

#[test]
fn a_source_that_talks_nonsense_means_busy() {
    give_way_and_go_on(&Setup::new(), "malformed", |node, _| node.feeder.raw(b"{\"cell\":1,\"RRU.PrbTotDl\":-3}\n"));
}

#[test]
fn a_late_slot_means_busy_at_once_however_low_the_load() {
    // A settle time that is long enough to be watched: the load itself stays low.
    let setup = Setup::new().with("governor", "settle_s", 4).with("governor", "settle_max_s", 8);
    give_way_and_go_on(&setup, "late", |node, _| node.feeder.more_late(1));
}

#[test]
fn a_hold_stops_the_workers_until_resume() {
    give_way_and_go_on(&Setup::new(), "held", |_, controller| {
        controller.ask("hold", &json!({}));
    });
}

#[test]
fn a_hold_ends_by_itself_when_its_time_is_over() {
    let (node, controller) = at_work(&Setup::new());
    controller.ask("hold", &json!({"for_ms": 3000}));
    controller.wait_for_state("batch", "SUSPENDED");
    let before = assert_stands(&node);
    assert_goes_on(&node, &before);
    assert_whole(&controller, 1);
}

#[test]
fn two_workers_stop_together() {
    let (node, controller) = at_work(&Setup::new().with("workers", "count", 2));
    submit(&controller, "second", &json!({}));
    controller.wait_for_state("second", "IN_PROGRESS");
    node.feeder.high();
    controller.wait_for_state("batch", "SUSPENDED");
    controller.wait_for_state("second", "SUSPENDED");
    let before = assert_stands(&node);
    assert_eq!(before.len(), 2);
    node.feeder.low();
    assert_goes_on(&node, &before);
    controller.wait_for_state("second", "SUCCEEDED");
    assert_whole(&controller, 1);
}

#[test]
fn a_node_without_any_source_is_blind_and_runs_nothing() {
    let node = Node::start(&Setup::new().without_sources());
    let controller = node.controller();
    let state = controller.wait_for_mode("blind");
    assert!(state["reason"].as_str().is_some_and(|reason| reason.contains("no load source")), "{state}");
    submit(&controller, "batch", &json!({}));
    controller.wait_for_state("batch", "QUEUED");
    assert_no_worker(&node);
    let job = controller.ask("describe", &json!({"job": "batch"}));
    assert_eq!(job["job"]["status"], "QUEUED");
    assert!(job["job"]["waiting"].as_str().is_some_and(|why| why.contains("blind")), "{job}");
}

#[test]
fn no_worker_survives_its_agent_running_or_stopped() {
    for stopped in [false, true] {
        let (mut node, controller) = at_work(&Setup::new().with("workers", "count", 2));
        if stopped {
            node.feeder.high();
            controller.wait_for_state("batch", "SUSPENDED");
            assert_stands(&node);
        }
        let (agent, workers) = (node.agent_pid(), node.wait_for_workers(2));
        assert_eq!(workers_of(agent), workers);
        let asked = clock::now();
        node.kill_agent();
        let gone = || workers.iter().all(|pid| !is_alive(*pid)).then_some(());
        wait_for("the end of the workers", || format!("{workers:?}"), gone);
        eprintln!("workers gone {:?} after SIGKILL of the agent (stopped: {stopped})", clock::now().since(asked));
        assert_eq!(workers_of(agent), Vec::<i32>::new());
    }
}

#[test]
fn a_worker_that_stands_too_long_is_given_up_and_its_job_goes_on_from_the_last_finished_item() {
    let (node, controller) = at_work(&Setup::new().with("workers", "evict_after_s", 1));
    let first = node.wait_for_workers(1)[0];
    node.feeder.high();
    let suspended = controller.wait_for_state("batch", "SUSPENDED");
    let evicted = controller.wait_for_status("batch", "eviction", |status| status["reason"] == "evicted");
    assert_eq!((&evicted["status"], &evicted["attempt"]), (&json!("QUEUED"), &json!(1)), "{evicted}");
    let done = evicted["progress"]["done"].as_u64().expect("a count");
    assert!(done >= suspended["progress"]["done"].as_u64().expect("a count"), "{suspended} {evicted}");
    wait_for("the end of the worker", || node.log(), || (!is_alive(first)).then_some(()));

    assert_no_worker(&node);

    node.feeder.low();
    let again = controller.wait_for_status("batch", "attempt 2", |status| status["attempt"] == 2);
    assert_eq!((&again["status"], &again["progress"]["done"]), (&json!("IN_PROGRESS"), &json!(done)), "{again}");
    assert_whole(&controller, 2);
    // Each change raises the version by one, so each item was finished once: queued, two starts, an eviction, the end,
    // a yield and (but for the one that ended in the eviction) a resume for each stop, and the items.
    let last = controller.wait_for_state("batch", "SUCCEEDED");
    let yields = last["yields"].as_u64().expect("a count");
    assert_eq!(last["version"].as_u64(), Some(batch_items() as u64 + 4 + 2 * yields), "{last}");
}
