//! Can a bad network harm the agent? Each of a corpus, and good ones changed at random, go through the real agent and a
//! real worker as a job: each ends in its code, the agent lives on, and nobody takes more memory than was granted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/bad_models.rs"]
#[allow(dead_code, reason = "unit tests use the rest")]
mod bad_models;
#[path = "support/onnx.rs"]
#[allow(dead_code, reason = "unit tests use the rest")]
mod onnx;

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bad_models::{BadModel, Seen, mutations};
use common::batch::in_a_trough;
use common::controller::{Controller, read_json};
use common::folders::{install, manifest};
use common::node::{Node, Setup, models};
use common::random::{Random, full};
use neap::sys::clock;
use neap::units::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const MEGABYTE: u64 = 1024 * 1024;
/// What the plans of a worker may take, and what a job may take beyond them.
const PLANS_BYTES: u64 = 64 * MEGABYTE;
const JOB_BYTES: u64 = 64 * MEGABYTE;
/// What a worker may have beyond its limits: its own start, its stack and what the allocator cannot use.
const SLACK_BYTES: u64 = 16 * MEGABYTE;
/// Running time of jobs that would run for hours, and of changed models.
const WALL: Duration = Duration::from_secs(2);
/// Running time of the others: workers get only what a busy machine leaves.
const WALL_AMPLE: Duration = Duration::from_secs(30);
/// What starting a worker and telling of the end may take besides.
const WALL_SLACK: Duration = Duration::from_secs(20);
/// By how much the agent's highest resident memory may grow over the whole corpus.
const AGENT_GROWTH_BYTES_MAX: u64 = 16 * MEGABYTE;
/// Models in one folder, below the library's limit of 256.
const BATCH: usize = 240;

// ---- the node ----

fn setup(models: &Path) -> Setup {
    Setup::new().with("models", "dir", models.display().to_string()).with(
        "workers",
        "memory_mib",
        i64::try_from(PLANS_BYTES / MEGABYTE).unwrap(),
    )
}

fn job(model: &str, input: &Value, wall: Duration) -> Value {
    let wall_ms = u64::try_from(wall.as_millis()).unwrap();
    let limits = json!({"wall_ms": wall_ms, "memory_bytes": JOB_BYTES, "attempts": 1});
    json!({"model": model, "limits": limits, "input": input})
}

fn numbers(name: &str, datatype: &str, shape: &[usize], values: &[f64]) -> Value {
    json!({"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": values}]})
}

fn assert_serves(controller: &Controller, id: &str) {
    controller.submit(id, &job("good", &numbers("x", "FP32", &[2], &[-1.0, 2.0]), WALL_AMPLE));
    let result = controller.wait_for_result(id);
    assert_eq!(result["outputs"][0]["data"], json!([0.0, 2.0]), "{result}");
}

fn install_good(models: &Path) {
    let good = onnx::relu().file();
    install(models, "good", &good, &manifest("good", &good, "y"));
}

// ---- memory ----

/// A figure of `/proc/PID/status`, in bytes.
fn status_bytes(pid: i32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Looks every other millisecond how much memory of its own the worker has had at most.
struct Watch {
    agent: Arc<AtomicI32>,
    peak: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn start(node: &Node) -> Self {
        let agent = Arc::new(AtomicI32::new(node.agent_pid()));
        let (peak, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (watched, highest, stopped) = (Arc::clone(&agent), Arc::clone(&peak), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let agent = watched.load(Ordering::Relaxed);
                for pid in common::node::children(agent.unsigned_abs()) {
                    // What is mapped from the binary is no memory of its own.
                    let own = status_bytes(pid, "VmHWM").zip(status_bytes(pid, "RssFile"));
                    let own = own.map_or(0, |(highest, file)| highest.saturating_sub(file));
                    highest.fetch_max(own, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { agent, peak, thread: Some(thread), stop }
    }

    fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.agent.store(0, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// ---- the corpus ----

#[test]
fn each_bad_model_ends_its_job_in_its_code_within_its_limits_and_harms_nobody() {
    let folder = TempDir::new().unwrap();
    install_good(folder.path());
    let corpus = bad_models::corpus();
    assert!(corpus.len() < BATCH);
    for bad in &corpus {
        install(folder.path(), bad.name, &bad.file, &manifest(bad.name, &bad.file, "y"));
    }
    let (node, controller) = in_a_trough(&setup(folder.path()));
    assert_serves(&controller, "before");
    let agent = node.agent_pid();
    let grown_from = status_bytes(agent, "VmHWM").unwrap();
    let watch = Watch::start(&node);

    let rounds = if full() { 3 } else { 1 };
    for round in 0..rounds {
        run_all(&node, &controller, &corpus, round);
    }

    assert_eq!(node.agent_pid(), agent);
    assert!(common::node::is_alive(agent));
    let growth = status_bytes(agent, "VmHWM").unwrap() - grown_from;
    assert!(growth <= AGENT_GROWTH_BYTES_MAX, "the agent grew by {growth} bytes");
    let peak = watch.peak();
    assert!(peak > 0, "no worker was seen");
    let limit = PLANS_BYTES + JOB_BYTES + SLACK_BYTES;
    assert!(peak <= limit, "a worker had {peak} bytes, at most {limit} are allowed");
    node.wait_for_workers(1);
    assert!(!node.log().contains("panicked at"), "{}", node.log());
    eprintln!(
        "{rounds} times {} bad models; worker at most {} MiB, agent grew by {} KiB",
        corpus.len(),
        peak / MEGABYTE,
        growth / 1024
    );
}

fn run_all(node: &Node, controller: &Controller, corpus: &[BadModel], round: usize) {
    let one = numbers("x", "FP32", &[1], &[1.0]);
    let (mut slowest, mut wrong) = ((Duration::ZERO, ""), Vec::new());
    // After three failures of one model in one life of the agent it is quarantined: so three rounds and no more.
    for bad in corpus {
        let worker = node.wait_for_workers(1)[0];
        let id = format!("{}-{round}", bad.name);
        let began = clock::now();
        let wall = if bad.code == "worker.timeout" { WALL } else { WALL_AMPLE };
        controller.submit(&id, &job(bad.name, &one, wall));
        let result = controller.wait_for_result(&id);
        let took = clock::now().since(began);
        let sentence = result["error"]["message"].as_str().unwrap_or_default();
        if result["error"]["code"] != bad.code || !sentence.contains(bad.says) {
            wrong.push(format!("{}: expected {} with {:?}, got {result}", bad.name, bad.code, bad.says));
        }
        controller.wait_for_state(&id, "FAILED");
        assert!(took <= wall + WALL_SLACK, "{} took {took:?}", bad.name);
        slowest = slowest.max((took, bad.name));
        match bad.seen {
            // A refusal costs nobody's process.
            Seen::Before => assert_eq!(node.workers(), [worker], "{}", bad.name),
            Seen::Later => assert_serves(controller, &format!("after-{id}")),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_serves(controller, &format!("after-round-{round}"));
    eprintln!("round {round}: slowest was {} with {:?}", slowest.1, slowest.0);
}

// ---- good models, changed ----

/// A bundled model: its manifest, its file, an input, and how often it is changed.
struct Original {
    name: &'static str,
    manifest: String,
    file: Vec<u8>,
    input: Value,
    share: usize,
}

fn originals() -> Vec<Original> {
    let sample = |path: &str| read_json(models().join(path));
    let bytes = json!({"name": "bytes", "shape": [1, 2048], "datatype": "INT32", "data": vec![7; 2048]});
    let bytes = json!({"inputs": [bytes]});
    let inputs = [
        ("kpi-anomaly", sample("kpi-anomaly/samples/healthy.json"), 5),
        ("prb-forecast", sample("prb-forecast/samples/deep-night.json"), 4),
        ("speech", numbers("input", "FP32", &[1, 576], &[0.25; 576]), 2),
        ("file-type", bytes, 1),
    ];
    let original = |(name, input, share): (&'static str, Value, usize)| {
        let folder = models().join(name);
        let manifest = fs::read_to_string(folder.join("model.toml")).unwrap();
        // Cases and labels are not what is tried here.
        let manifest = manifest.split("\n[[golden]]").next().unwrap().to_owned();
        let file = fs::read(folder.join("1/model.onnx")).unwrap();
        Original { name, manifest, file, input, share }
    };
    inputs.map(original).into()
}

/// Makes the folder of a changed model.
fn install_changed(models: &Path, original: &Original, name: &str, file: &[u8]) {
    let digest = Digest(Sha256::digest(file).into());
    let lines = original.manifest.lines().map(|line| match line.split_once(" = ") {
        Some(("name", _)) => format!("name = \"{name}\""),
        Some(("digest", _)) => format!("digest = \"{digest}\""),
        Some(("file", _)) => "file = \"model.onnx\"".to_owned(),
        Some(("labels", _)) => "labels = \"labels.txt\"".to_owned(),
        Some(_) | None => line.to_owned(),
    });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    let folder = install(models, name, file, &text);
    let labels = common::node::models().join(original.name).join("labels.txt");
    if labels.is_file() {
        fs::copy(labels, folder.join("labels.txt")).unwrap();
    }
}

#[test]
fn good_models_changed_at_random_end_in_a_result_or_in_a_code_of_their_own() {
    let mut random = Random::of_run();
    let originals = originals();
    let (batches, of_each) = if full() { (10, BATCH / 12) } else { (1, 5) };
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..batches {
        let folder = TempDir::new().unwrap();
        install_good(folder.path());
        let mut changed = Vec::new();
        for original in &originals {
            for nth in 0..original.share * of_each {
                let name = format!("{}-{nth}", original.name);
                let file = mutations::mutate(&original.file, &mut || random.number());
                install_changed(folder.path(), original, &name, &file);
                changed.push((name, &original.input));
            }
        }
        let (node, controller) = in_a_trough(&setup(folder.path()));
        let agent = node.agent_pid();
        let watch = Watch::start(&node);
        for (name, input) in changed {
            controller.submit(&name, &job(&name, input, WALL));
            let result = controller.wait_for_result(&name);
            let code = result["error"]["code"].as_str().unwrap_or("none").to_owned();
            let own = code == "none"
                || code.starts_with("model.")
                || ["worker.memory", "worker.timeout", "worker.crashed"].contains(&code.as_str());
            assert!(own, "{name}: {result}");
            *ends.entry(code).or_default() += 1;
        }
        assert_serves(&controller, "after");
        assert_eq!(node.agent_pid(), agent);
        assert!(common::node::is_alive(agent) && !node.log().contains("panicked at"), "{}", node.log());
        let (peak, limit) = (watch.peak(), PLANS_BYTES + JOB_BYTES + SLACK_BYTES);
        assert!(peak <= limit, "a worker had {peak} bytes, at most {limit} are allowed");
    }
    eprintln!("changed models by their ends: {ends:?}");
    assert!(ends.len() > 1, "all ended alike: do the changes hit the graph at all? {ends:?}");
}
