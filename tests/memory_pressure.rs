//! Do workers give their memory back when it is short, and does the job end well all the same? The kernel's figures come
//! from a folder of the test's.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::batch::{assert_whole, at_work};
use common::node::{Setup, is_alive};
use common::wait_for;
use neap::sys::clock;
use serde_json::{Value, json};

const PLENTY_KB: u64 = 8_000_000;

/// What the kernel would say: µs that tasks waited for memory so far, kB that are available.
fn tell(proc: &Path, waited_us: u64, available_kb: u64) {
    let psi = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={waited_us}\n");
    let meminfo = format!("MemTotal: 16000000 kB\nMemAvailable:   {available_kb} kB\n");
    fs::create_dir_all(proc.join("pressure")).expect("a folder can be made");
    for (name, text) in [("pressure/memory", psi), ("meminfo", meminfo)] {
        // Never half a file.
        fs::write(proc.join("new"), text).expect("a file can be written");
        fs::rename(proc.join("new"), proc.join(name)).expect("a file can be renamed");
    }
}

#[test]
fn workers_give_their_memory_back_when_it_is_short_and_the_job_goes_on_from_the_last_finished_item() {
    let proc = tempfile::tempdir().expect("a temporary folder can be made");
    tell(proc.path(), 0, PLENTY_KB);
    let setup = Setup::new()
        .with("memory", "proc", proc.path().display().to_string())
        .with("memory", "stall_above", 10)
        .with("memory", "available_min_mib", 100)
        .with("memory", "calm_s", 3);
    let (node, controller) = at_work(&setup);
    let first = node.wait_for_workers(1)[0];

    tell(proc.path(), 0, 99_000);
    let evicted = controller.wait_for_status("batch", "eviction", |status| status["reason"] == "evicted");
    assert_eq!((&evicted["status"], &evicted["attempt"]), (&json!("QUEUED"), &json!(1)), "{evicted}");
    let done = evicted["progress"]["done"].as_u64().expect("a count");
    wait_for("the end of the worker", || node.log(), || (!is_alive(first)).then_some(()));
    let told = || controller.events("alarm").into_iter().find(|alarm| alarm["code"] == "node.memory");
    let alarm = wait_for("an alarm", || node.log(), told);
    assert!(alarm["message"].as_str().is_some_and(|text| text.contains("96 MiB are available")), "{alarm}");
    let job = controller.ask("describe", &json!({"job": "batch"}));
    let why = job["job"]["waiting"].as_str().unwrap_or_default();
    assert!(why.contains("memory is short"), "{job}");
    let says_so = |node: &Value| node["reason"].as_str().is_some_and(|reason| reason.contains("memory is short"));
    let state = || says_so(&controller.ask("describe", &json!({}))["node"]["state"]).then_some(());
    wait_for("a state that says so", || controller.told(), state);

    let end = clock::now().after(Duration::from_secs(4));
    while clock::now() < end {
        assert_eq!(node.workers(), Vec::<i32>::new(), "a worker was started while memory is short");
        std::thread::sleep(Duration::from_millis(50));
    }
    tell(proc.path(), 0, PLENTY_KB);
    let again = controller.wait_for_status("batch", "attempt 2", |status| status["attempt"] == 2);
    assert_eq!((&again["status"], &again["progress"]["done"]), (&json!("IN_PROGRESS"), &json!(done)), "{again}");

    // Now it is plenty, but tasks wait for it: ten seconds at once, which is the whole of any span it is seen in.
    controller.wait_for_items("batch", done + 1);
    tell(proc.path(), 10_000_000, PLENTY_KB);
    let evicted = controller
        .wait_for_status("batch", "eviction", |status| status["reason"] == "evicted" && status["attempt"] == 2);
    assert!(evicted["progress"]["done"].as_u64() > Some(done), "{evicted}");
    // Every item once, and an attempt that was given up for memory is no failure.
    assert_whole(&controller, 3);
}
