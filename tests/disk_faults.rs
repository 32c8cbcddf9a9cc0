//! Does the agent outlive a disk that refuses? Real faults under a real agent: nothing accepted is lost, nothing new is
//! promised, everybody is told, and it ends when the fault ends.

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::batch::picture;
use common::controller::{Controller, media_job, read_json};
use common::disk::{Tmpfs, Tracer, WRITES, can_trace};
use common::ledger::Ledger;
use common::node::{Node, Setup, models};
use common::wait_for;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

/// A job of some milliseconds.
fn small() -> Value {
    json!({"model": "kpi-anomaly", "input": read_json(models().join("kpi-anomaly/samples/healthy.json"))})
}

fn setup() -> Setup {
    Setup::new()
}

/// Where the store of a node lies.
fn state_dir(node: &Node) -> PathBuf {
    node.folder.path().join("state")
}

// ---- what is told ----

/// The reasons why the node is degraded by its disk, as it said last.
fn disk_trouble(state: &Value) -> Option<String> {
    let causes = state["degraded"].as_array().into_iter().flatten().filter_map(Value::as_str);
    causes.filter(|cause| cause.starts_with("disk: ")).map(str::to_owned).next()
}

fn last_state(controller: &Controller) -> Option<Value> {
    controller.messages().iter().rev().find(|message| message.topic == "up/state").map(|last| last.json.clone())
}

fn wait_for_trouble(controller: &Controller, node: &Node) -> String {
    let told = || last_state(controller).as_ref().and_then(disk_trouble);
    wait_for("state degraded", || format!("{}\n{}", controller.told(), node.log()), told)
}

fn wait_for_no_trouble(controller: &Controller, node: &Node) {
    let told = || last_state(controller).filter(|state| disk_trouble(state).is_none()).map(drop);
    wait_for("the end of state degraded", || format!("{}\n{}", controller.told(), node.log()), told);
}

/// The gauge of the status socket.
fn gauge(node: &Node) -> Option<String> {
    let mut stream = UnixStream::connect(node.folder.path().join("status.sock")).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.lines().find(|line| line.starts_with("neap_degraded") && line.contains("\"disk\"")).map(str::to_owned)
}

fn alarms(controller: &Controller) -> Vec<String> {
    let alarms = controller.events("alarm");
    let of_disk = alarms.iter().filter(|alarm| alarm["code"] == "node.degraded");
    of_disk.filter_map(|alarm| alarm["message"].as_str().map(str::to_owned)).collect()
}

/// Sends jobs until one is refused; gives their ids.
fn refused(controller: &Controller, media: bool) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let id = format!("during-{}", ids.len());
        match media {
            true => controller.publish(media_job(&id, "objects", "image", &vec![picture(); 24], &json!({}))),
            false => controller.submit(&id, &small()),
        }
        let topic = format!("up/job/{id}");
        ids.push(id);
        let status = controller.wait("a status", |messages| {
            messages.iter().find(|message| message.topic == topic).map(|message| message.json.clone())
        });
        if status["status"] == "REJECTED" {
            assert_eq!(status["error"]["code"], "state.io", "{status}");
            assert_eq!(status["error"]["retryable"], true, "{status}");
            return ids;
        }
        assert!(ids.len() < 40, "nothing is refused:\n{}", controller.told());
    }
}

// ---- the trial ----

/// What every fault that comes and goes has to show. One job is at work when it begins, one waits.
fn is_outlived(node: &mut Node, controller: &Controller, media: bool, begin: impl FnOnce(&Node) -> Box<dyn FnOnce()>) {
    let pid = node.agent_pid();
    node.feeder.low();
    controller.wait_for_mode("trough");
    controller.submit("before", &small());
    controller.wait_for_state("before", "SUCCEEDED");
    controller.publish(media_job("running", "objects", "image", &vec![picture(); 12], &json!({})));
    controller.wait_for_items("running", 1);
    controller.submit("waiting", &small());
    controller.wait_for_state("waiting", "QUEUED");

    let end = begin(node);
    let during = refused(controller, media);
    let why = wait_for_trouble(controller, node);
    eprintln!("{why}");
    let shown = || gauge(node).filter(|line| line.ends_with(" 1")).map(drop);
    wait_for("neap_degraded at the status socket", || node.log(), shown);
    let told = || alarms(controller).iter().any(|alarm| alarm.starts_with("disk: ")).then_some(());
    wait_for("the event", || controller.told(), told);
    // It hears and answers, and says why the job does not run.
    let described = controller.ask("describe", &json!({"job": "waiting"}))["job"].clone();
    assert_eq!(described["status"], "QUEUED", "{described}");
    // More work than the broker leaves unacknowledged: all of it is told, nothing is held up.
    for n in 0..40 {
        controller.submit(&format!("more-{n}"), &small());
    }
    for n in 0..40 {
        let result = controller.wait_for_result(&format!("more-{n}"));
        assert_eq!(result["error"]["code"], "state.io", "{result}");
    }
    assert!(node.agent_ended().is_none(), "{}", node.log());

    end();
    wait_for_no_trouble(controller, node);
    controller.wait_for_state("running", "SUCCEEDED");
    controller.wait_for_state("waiting", "SUCCEEDED");
    controller.submit("after", &small());
    controller.wait_for_state("after", "SUCCEEDED");
    assert_eq!(node.agent_pid(), pid);
    assert!(node.agent_ended().is_none(), "{}", node.log());
    let over = || alarms(controller).iter().any(|alarm| alarm == "disk: over").then_some(());
    wait_for("the event of its end", || controller.told(), over);
    let statuses = controller.statuses("running");
    assert!(statuses.iter().all(|status| status["attempt"].as_u64() <= Some(1)), "it went on: {statuses:?}");

    let accepted = ["before", "running", "waiting", "after"];
    are_consistent(controller, &accepted, &during);
    are_durable(node, controller, &accepted, &during);
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

/// Everything accepted has succeeded and has one result, and what was refused has nothing else.
fn are_consistent(controller: &Controller, accepted: &[&str], during: &[String]) {
    let mut ledger = Ledger::default();
    ledger.wait_for_ends(controller, accepted.len() + during.len() + 40, Duration::from_secs(60));
    for id in accepted {
        let told = ledger.job(id).unwrap_or_else(|| panic!("{id} was never told of"));
        assert_eq!(told.end.as_ref().map(|end| &end["status"]), Some(&json!("SUCCEEDED")), "{id}: {told:?}");
    }
    for id in during.iter().map(String::as_str).chain((0..40).map(|n| &*format!("more-{n}").leak())) {
        let told = ledger.job(id).unwrap_or_else(|| panic!("{id} was never told of"));
        let ended = told.end.as_ref().map(|end| end["status"].clone());
        assert!(ended == Some(json!("REJECTED")) || ended == Some(json!("SUCCEEDED")), "{id}: {told:?}");
    }
}

/// A kill at once, and the next agent knows all of it: the ends, and nothing of what was refused.
fn are_durable(node: &mut Node, controller: &Controller, accepted: &[&str], during: &[String]) {
    node.kill_agent();
    node.start_agent();
    for id in accepted {
        let job = controller.ask("describe", &json!({"job": id}))["job"].clone();
        assert_eq!(job["status"], "SUCCEEDED", "{id}: {job}");
    }
    let last = during.last().expect("one was refused");
    let reply = controller.ask("describe", &json!({"job": last}));
    assert_eq!(reply["error"]["code"], "job.unknown", "{last}: {reply}");
    assert_eq!(node.terminate_agent().0, Some(0));
}

// ---- faults of the kernel's answers ----

fn an_answer_is_outlived(rules: &'static [&'static str]) {
    if !can_trace() {
        return;
    }
    let mut node = Node::start(&setup());
    let controller = node.controller();
    is_outlived(&mut node, &controller, false, |node| {
        let tracer = Tracer::attach(node, WRITES, rules, None);
        Box::new(move || drop(tracer))
    });
}

#[test]
fn no_space_on_every_write_is_outlived() {
    an_answer_is_outlived(&["inject=pwrite64,ftruncate:error=ENOSPC"]);
}

#[test]
fn an_io_error_on_every_write_is_outlived() {
    an_answer_is_outlived(&["inject=pwrite64:error=EIO"]);
}

#[test]
fn an_io_error_on_every_sync_is_outlived_and_the_file_is_replaced_before_it_is_trusted() {
    an_answer_is_outlived(&["inject=fdatasync,fsync:error=EIO"]);
}

#[test]
fn writes_that_write_nothing_are_outlived() {
    an_answer_is_outlived(&["inject=pwrite64:retval=0"]);
}

#[test]
fn a_file_system_that_turned_read_only_is_outlived() {
    an_answer_is_outlived(&["inject=pwrite64,ftruncate,fdatasync,fsync,rename,linkat:error=EROFS"]);
}

#[test]
fn a_single_failed_sync_is_outlived_by_a_copy_of_the_file() {
    if !can_trace() {
        return;
    }
    let node = Node::start(&setup());
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let file = state_dir(&node).join("jobs.redb");
    let inode = |file: &PathBuf| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(file).expect("the store"));
    let before = inode(&file);
    let tracer = Tracer::attach(&node, WRITES, &["inject=fdatasync:error=EIO:when=1"], None);
    controller.submit("a", &small());
    let end = controller.wait("the end of the job", |messages| {
        let of = |message: &&common::controller::Message| message.topic == "up/job/a";
        let ended = |status: &Value| status["status"] == "SUCCEEDED" || status["status"] == "REJECTED";
        messages.iter().filter(of).find(|message| ended(&message.json)).map(|message| message.json.clone())
    });
    drop(tracer);
    assert_ne!(inode(&file), before, "a file whose sync failed is never trusted again: {end}");
    wait_for_no_trouble(&controller, &node);
    controller.submit("b", &small());
    controller.wait_for_state("b", "SUCCEEDED");
}

#[test]
fn a_slow_disk_is_waited_for_and_one_that_does_not_answer_is_told() {
    if !can_trace() {
        return;
    }
    let mut node = Node::start(&setup());
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let slow = Tracer::attach(&node, WRITES, &["inject=fdatasync:delay_enter=300000"], None);
    for n in 0..5 {
        controller.submit(&format!("slow-{n}"), &small());
    }
    (0..5).for_each(|n| drop(controller.wait_for_state(&format!("slow-{n}"), "SUCCEEDED")));
    drop(slow);
    assert!(last_state(&controller).as_ref().and_then(disk_trouble).is_none(), "slow is not refused");

    let stalled = Tracer::attach(&node, WRITES, &["inject=fdatasync:delay_enter=13000000:when=1"], None);
    controller.submit("undecided", &small());
    let why = wait_for_trouble(&controller, &node);
    assert!(why.contains("has not answered for 10 s"), "{why}");
    controller.submit("refused", &small());
    assert_eq!(controller.wait_for_result("refused")["error"]["code"], "state.io");
    wait_for_no_trouble(&controller, &node);
    drop(stalled);
    controller.wait_for_state("undecided", "SUCCEEDED");
    controller.submit("after", &small());
    controller.wait_for_state("after", "SUCCEEDED");
    assert!(node.agent_ended().is_none(), "{}", node.log());
}

// ---- real limits ----

#[test]
fn a_limit_of_file_sizes_is_outlived_without_anybody_ignoring_its_signal() {
    let mut node = Node::start(&setup());
    let controller = node.controller();
    is_outlived(&mut node, &controller, false, |node| {
        let pid = Pid::from_raw(node.agent_pid());
        let limit = move |bytes: Option<u64>| {
            let limit = Rlimit { current: bytes, maximum: None };
            prlimit(pid, Resource::Fsize, limit).expect("a child can be limited");
        };
        limit(Some(4096));
        Box::new(move || limit(None))
    });
}

#[test]
fn a_full_file_system_is_outlived() {
    let mut node = Node::prepare(&setup());
    let Some(disk) = Tmpfs::mount(&state_dir(&node), "size=24m") else { return };
    node.start_agent();
    let controller = node.controller();
    let disk = Arc::new(disk);
    is_outlived(&mut node, &controller, true, |_| {
        disk.fill();
        let disk = Arc::clone(&disk);
        Box::new(move || disk.free())
    });
}

// ---- a start on a disk that refuses ----

/// The agent starts where its store cannot be opened: it says so and refuses, and opens it when it can.
fn a_start_is_survived(node: &mut Node, controller: &Controller, known: &[&str], end: impl FnOnce()) {
    node.feeder.low();
    node.start_agent();
    let pid = node.agent_pid();
    let why = wait_for_trouble(controller, node);
    eprintln!("{why}");
    controller.submit("too-early", &small());
    let result = controller.wait_for_result("too-early");
    assert_eq!((&result["error"]["code"], &result["error"]["retryable"]), (&json!("state.io"), &json!(true)));
    end();
    wait_for_no_trouble(controller, node);
    for id in known {
        controller.wait_for_state(id, "SUCCEEDED");
        assert_eq!(controller.wait_for_result(id)["parameters"]["attempt"], 1, "{id}");
        assert_eq!(controller.results(id).0, 1, "{id}");
    }
    controller.submit("in-time", &small());
    controller.wait_for_state("in-time", "SUCCEEDED");
    assert!(node.agent_pid() == pid && node.agent_ended().is_none(), "{}", node.log());
    assert_eq!(node.terminate_agent().0, Some(0));
}

#[test]
fn an_agent_whose_state_directory_cannot_be_made_starts_and_opens_it_when_it_can() {
    let mut node = Node::prepare(&setup());
    let state = state_dir(&node);
    std::fs::write(&state, "a file where the directory should be").expect("a file can be made");
    let controller = node.controller();
    a_start_is_survived(&mut node, &controller, &[], || std::fs::remove_file(&state).expect("it can be removed"));
}

#[test]
fn an_agent_without_inodes_or_without_space_starts_and_opens_its_store_when_there_are_some() {
    for (options, full) in [("size=24m,nr_inodes=12", false), ("size=4m", true)] {
        let mut node = Node::prepare(&setup());
        let Some(disk) = Tmpfs::mount(&state_dir(&node), options) else { return };
        if full {
            disk.fill()
        } else {
            disk.use_up_inodes()
        }
        let controller = node.controller();
        a_start_is_survived(&mut node, &controller, &[], || disk.free());
    }
}

#[test]
fn an_agent_on_a_read_only_file_system_starts_and_adopts_its_jobs_when_it_is_writable_again() {
    let mut node = Node::prepare(&setup());
    let Some(disk) = Tmpfs::mount(&state_dir(&node), "size=24m") else { return };
    node.start_agent();
    let controller = node.controller();
    node.feeder.high();
    controller.wait_for_mode("busy");
    for id in ["known-0", "known-1"] {
        controller.submit(id, &small());
        controller.wait_for_state(id, "QUEUED");
    }
    node.kill_agent();
    disk.set_read_only(true);
    a_start_is_survived(&mut node, &controller, &["known-0", "known-1"], || disk.set_read_only(false));
}

// ---- damage under a running agent ----

/// Jobs that wait in the damaged file.
const WAITING: usize = 48;

/// One byte of every `nth` page in the middle half of the store is turned over, behind the agent's back.
fn damage(node: &Node, nth: usize) -> usize {
    const PAGE_BYTES: u64 = 4096;
    let path = state_dir(node).join("jobs.redb");
    let file = std::fs::File::options().read(true).write(true).open(&path).expect("the store is there");
    let pages = file.metadata().expect("it has a length").len() / PAGE_BYTES;
    let damaged: Vec<u64> = (pages / 4..pages * 3 / 4).step_by(nth).collect();
    for page in &damaged {
        let at = page * PAGE_BYTES + 1234;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("it can be read");
        file.write_all_at(&[byte[0] ^ 0x10], at).expect("it can be written");
    }
    damaged.len()
}

/// The end of every job, when all have one: how many succeeded, and how many were told as lost.
fn ends(controller: &Controller, ledger: &mut Ledger, count: usize) -> (usize, usize) {
    ledger.wait_for_ends(controller, count, Duration::from_secs(240));
    let of = |status: &str| {
        let ends = ledger.jobs().filter_map(|(id, told)| Some((id, told, told.end.as_ref()?)));
        ends.filter(|(_, _, end)| end["status"] == status)
            .map(|(id, told, _)| (id.to_owned(), told))
            .collect::<Vec<_>>()
    };
    let (succeeded, failed) = (of("SUCCEEDED"), of("FAILED"));
    for (id, told) in &failed {
        let error = &told.end.as_ref().expect("it has ended")["error"];
        assert_eq!(error["code"], "state.corrupt", "{id}: {told:?}");
    }
    assert_eq!(succeeded.len() + failed.len(), count, "every job has one of two ends");
    (succeeded.len(), failed.len())
}

#[test]
fn damage_that_is_found_while_the_agent_runs_costs_the_damaged_jobs_and_no_other() {
    let mut node = Node::start(&setup());
    let controller = node.controller();
    node.feeder.high();
    controller.wait_for_mode("busy");
    let pid = node.agent_pid();
    let names: Vec<String> = (0..WAITING).map(|n| format!("waiting-{n}")).collect();
    for id in &names {
        // Far more in all than any cache of the agent holds.
        controller.publish(media_job(id, "objects", "image", &vec![picture(); 2], &json!({})));
    }
    names.iter().for_each(|id| drop(controller.wait_for_state(id, "QUEUED")));
    let damaged = damage(&node, 200);
    node.feeder.low();

    let mut ledger = Ledger::default();
    let (succeeded, lost) = ends(&controller, &mut ledger, WAITING);
    eprintln!("{damaged} pages damaged: {succeeded} jobs succeeded, {lost} were lost and told");
    assert!(node.agent_pid() == pid && node.agent_ended().is_none(), "{}", node.log());
    assert!(lost > 0 && succeeded > lost, "{succeeded} {lost}");
    assert!(state_dir(&node).join("jobs.redb.corrupt-1").exists(), "{}", node.log());
    let told = || controller.events("alarm").into_iter().find(|alarm| alarm["code"] == "state.corrupt");
    let alarm = wait_for("the alarm", || controller.told(), told);
    assert!(alarm["message"].as_str().is_some_and(|text| text.contains("jobs.redb.corrupt-1")), "{alarm}");
    wait_for_no_trouble(&controller, &node);

    controller.submit("after", &small());
    controller.wait_for_state("after", "SUCCEEDED");
    node.kill_agent();
    node.start_agent();
    ledger.read(&controller);
    for id in &names {
        let told = ledger.job(id).and_then(|told| told.end.as_ref()).map(|end| end["status"].clone());
        let job = controller.ask("describe", &json!({"job": id}))["job"].clone();
        assert_eq!(Some(&job["status"]), told.as_ref(), "{id}: {job}");
    }
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
