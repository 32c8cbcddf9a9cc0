//! What must be true of what a machine saw of its node? Judges the lines of the step `agent`, and the doctor's report.

#![allow(unreachable_pub, reason = "parts of one test")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::machine::{Report, Step};

/// Samples of the job, in the order of `tests/system/agent`, which sends them twice; with the golden case of each.
const GOLDEN: [&str; 4] = ["capture", "invoice", "notes", "holiday"];
/// Share of a score that may differ, as the model's manifest has it.
const TOLERANCE: f64 = 0.001;
/// Numbers of scheduling classes.
const SCHED_FIFO: &str = "1";
const SCHED_IDLE: &str = "5";
/// What seccomp says of a process with a filter.
const FILTERED: &str = "2";

/// What the doctor must call "ok" on every kernel of Debian.
const LAYERS: [&str; 9] = [
    "kernel",
    "SCHED_FIFO",
    "locked memory",
    "cgroups",
    "pressure (PSI)",
    "seccomp",
    "user namespaces",
    "no_new_privs",
    "sealed memory, pidfd",
];
/// And of the groups, where a configuration is given.
const FLOOR: [&str; 10] = [
    "cgroup",
    "cpu.idle",
    "cpuset.cpus",
    "memory.max",
    "memory.high",
    "memory.swap.max",
    "memory.oom.group",
    "pids.max",
    "cgroup.freeze",
    "cgroup.kill",
];
/// What is no layer of the kernel's but how somebody has set the machine up; and Landlock, of which Linux 6.1 has the
/// part for files.
const MAY_BE_WEAKER: [&str; 7] =
    ["isolated cores", "RT throttling", "user", "clock", "sync time", "cpu.idle above", "Landlock"];

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The only value that was seen under that name.
fn one<'step>(step: &'step Step, name: &str) -> &'step str {
    let saw = step.saw(name);
    assert_eq!(saw.len(), 1, "{name}: {saw:?} in\n{}", step.output);
    saw[0]
}

fn item<'a>(doctor: &'a Value, name: &str) -> &'a Value {
    let items = doctor["items"].as_array().expect("a doctor has items");
    items.iter().find(|item| item["item"] == name).unwrap_or_else(|| panic!("the doctor has no item {name}: {doctor}"))
}

/// The kernel gives every layer, and the doctor sees it.
pub fn every_layer_is_there(report: &Report, is_realtime: bool) {
    let doctor = parse(one(report.step("doctor"), "doctor"));
    assert_eq!(doctor["missing"], 0, "{doctor}");
    for name in LAYERS {
        assert_eq!(item(&doctor, name)["verdict"], "ok", "{doctor}");
    }
    let abi = item(&doctor, "Landlock")["found"].as_str().unwrap_or_default();
    assert!(abi.starts_with("ABI "), "{abi}");
    let preemption = item(&doctor, "preemption");
    assert_eq!(preemption["found"] == "PREEMPT_RT", is_realtime, "{}: {preemption}", report.kernel);
    nothing_else_is_weaker(&doctor, is_realtime);

    let selftest = parse(one(report.step("sandbox"), "sandbox"));
    let attempts = selftest["attempts"].as_array().expect("attempts");
    assert!(attempts.len() >= 40, "{selftest}");
    for attempt in attempts {
        assert_eq!(attempt["denied"], true, "{attempt}");
    }
    assert_eq!((&selftest["uid"], &selftest["strength"]), (&json!(60_900), &json!("full")), "{selftest}");
}

fn nothing_else_is_weaker(doctor: &Value, is_realtime: bool) {
    for found in doctor["items"].as_array().expect("a doctor has items") {
        let name = found["item"].as_str().unwrap_or_default();
        let may = MAY_BE_WEAKER.contains(&name) || name == "preemption" && !is_realtime;
        assert!(found["verdict"] == "ok" || may, "{found}");
    }
}

/// The agent held its worker with all that the kernel has, ran the job, gave way, went on, and ended in order.
pub fn the_agent_ran_gave_way_and_went_on(step: &Step, is_realtime: bool, is_root: bool) {
    let doctor = parse(one(step, "doctor"));
    for name in FLOOR.iter().chain(&["state folder", "models", "broker"]) {
        assert_eq!(item(&doctor, name)["verdict"], "ok", "{doctor}");
    }
    nothing_else_is_weaker(&doctor, is_realtime);
    the_kernel_held_the_worker(step, is_root);
    it_stood_still_while_the_load_was_high(step);
    the_result_is_the_golden_one(step);

    assert_eq!(one(step, "ended"), "0", "SIGTERM ends the agent in order");
    assert_eq!([one(step, "worker.left"), one(step, "group.left")], ["no", "no"]);
    let last = parse(one(step, "last_state"));
    assert_eq!((&last["body"]["online"], &last["body"]["cause"]), (&json!(false), &json!("shutdown")), "{last}");
    let bad = step.saw("log").into_iter().filter(|line| line.contains(" ERROR ") || line.contains("cgroup"));
    // Who made the unit says what weight it has; here nobody has.
    let bad: Vec<&str> = bad.filter(|line| !line.contains("cpu.idle above")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

fn the_kernel_held_the_worker(step: &Step, is_root: bool) {
    let uid = if is_root { "60900" } else { "1000" };
    let worker = ["worker.uid", "worker.seccomp", "worker.no_new_privs", "worker.capabilities", "worker.policy"];
    let found = worker.map(|name| one(step, name));
    assert_eq!(found, [uid, FILTERED, "1", "0000000000000000", SCHED_IDLE], "{}", step.output);
    assert_eq!([one(step, "sentinel.policy"), one(step, "sentinel.priority")], [SCHED_FIFO, "20"]);
    assert!(one(step, "agent.locked_kb").parse::<u64>().is_ok_and(|locked| locked > 1000), "mlockall");
    // A group beside its workers', not in it: what is in there runs only when nothing else does.
    assert!(one(step, "agent.group").ends_with(".ctl"), "{}", one(step, "agent.group"));
    assert!(one(step, "worker.group").ends_with("/0"), "{}", one(step, "worker.group"));
    assert_eq!([one(step, "group.cpu.idle"), one(step, "group.above")], ["1", "1"]);
    assert_eq!([one(step, "group.memory.swap.max"), one(step, "group.memory.oom.group")], ["0", "1"]);
    assert_eq!([one(step, "group.cpuset.cpus"), one(step, "group.cgroup.freeze")], ["2", "0"]);
    let limits = ["group.memory.high", "group.memory.max", "group.pids.max"].map(|name| one(step, name).parse::<u64>());
    let [Ok(high), Ok(max), Ok(pids)] = limits else { panic!("limits: {}", step.output) };
    assert!(high < max && max < 1 << 30 && pids < 100, "{high} {max} {pids}");
}

fn it_stood_still_while_the_load_was_high(step: &Step) {
    assert_eq!(one(step, "accepted"), "0");
    assert_eq!((one(step, "yielded.state"), one(step, "yielded.ran_ns")), ("T", "0"), "stopped, and it stays stopped");
    let job = parse(one(step, "while_yielded"));
    assert_eq!(
        (&job["status"], &job["reason"], &job["yields"]),
        (&json!("SUSPENDED"), &json!("yield"), &json!(1)),
        "{job}"
    );
    let ledger = parse(one(step, "yields"));
    assert_eq!((&ledger["metrics"]["yields"], &ledger["yield_class"]), (&json!(1), &json!("fifo 20")), "{ledger}");
    assert_eq!(ledger["memory_locked"], true, "{ledger}");
    let cause = &ledger["metrics"]["worst"]["cause"];
    let expected = json!({"metric": "RRU.PrbTotDl", "reason": "above", "source": "du", "threshold": 40, "value": 90});
    assert_eq!(*cause, expected, "{ledger}");
    let events: Vec<Value> = step.saw("event").into_iter().map(|line| parse(line)["body"].clone()).collect();
    let told: Vec<_> =
        events.iter().map(|event| (event["event"].as_str().unwrap_or_default(), &event["jobs"])).collect();
    assert_eq!(told, [("yield", &json!(["night-7"])), ("resume", &json!(["night-7"]))], "{events:#?}");
}

fn the_result_is_the_golden_one(step: &Step) {
    let after = parse(one(step, "after"));
    assert_eq!((&after["status"], &after["attempt"]), (&json!("SUCCEEDED"), &json!(1)), "{after}");
    assert_eq!(one(step, "same_worker"), "yes", "it went on where it was");
    let result = parse(one(step, "result"));
    assert_eq!(result["parameters"]["sandbox"], "full", "{result}");
    let items = result["items"].as_array().unwrap_or_else(|| panic!("a batch has items: {result}"));
    assert_eq!(items.len(), 2 * GOLDEN.len());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/file-type/golden");
    for (item, name) in items.iter().zip(GOLDEN.iter().cycle()) {
        let golden = fs::read_to_string(folder.join(format!("{name}.json"))).expect("a golden case can be read");
        let golden = parse(&golden);
        let data = |response: &Value, output: &str| {
            let outputs = response["outputs"].as_array().unwrap_or_else(|| panic!("{response}"));
            outputs.iter().find(|found| found["name"] == output).map(|found| found["data"].clone())
        };
        assert_eq!(data(item, "labels"), data(&golden, "labels"), "{name}: {item}");
        let scores = |response| {
            let scores = data(response, "scores").unwrap_or_default();
            let scores: Option<Vec<f64>> = scores.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
            scores.unwrap_or_else(|| panic!("{response}"))
        };
        for (found, wanted) in scores(item).into_iter().zip(scores(&golden)) {
            assert!((found - wanted).abs() <= TOLERANCE * wanted, "{name}: {found}, not {wanted}");
        }
    }
}
