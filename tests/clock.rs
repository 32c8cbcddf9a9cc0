//! Does a lying wall clock cost a job? The real agent under libfaketime, which moves its wall clock and no other.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::batch::picture;
use common::controller::{Controller, media_job, read_json};
use common::emulation::not_under_emulation;
use common::node::{Broker, Node, Setup, models};
use neap::sys::clock;
use serde_json::{Value, json};
use tempfile::TempDir;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// Where the agent under test reads how far its wall clock is off.
struct Hand {
    folder: TempDir,
}

impl Hand {
    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// The agent's wall clock is from now on so many seconds off.
    fn set(&self, offset_s: i64) {
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, format!("{offset_s:+}")).expect("a file can be written");
        fs::rename(fresh, self.file()).expect("a file can be renamed");
    }

    /// The agent's wall clock says about this year.
    fn set_year(&self, year: i64) {
        let now_s = clock::wall().as_millis() / 1000;
        self.set((year - 1970) * YEAR + (year - 1970) / 4 * 24 * HOUR - now_s + 60);
    }
}

/// A node whose agent's wall clock can be moved; `None`, said loudly, without libfaketime.
fn node(setup: &Setup) -> Option<(Node, Hand)> {
    if not_under_emulation("libfaketime is loaded into programs of the machine's own architecture only") {
        return None;
    }
    let libraries = ["x86_64-linux-gnu", "aarch64-linux-gnu", "arm-linux-gnueabihf"]
        .map(|triple| format!("/usr/lib/{triple}/faketime/libfaketime.so.1"));
    let Some(library) = libraries.iter().find(|library| Path::new(library).exists()) else {
        eprintln!("\n!!! SKIPPED: libfaketime is not installed, the wall clock of an agent cannot be moved !!!\n");
        return None;
    };
    let hand = Hand { folder: tempfile::tempdir().expect("a folder can be made") };
    hand.set(0);
    let within = [
        "env".to_owned(),
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", hand.file().display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        "NO_FAKE_STAT=1".to_owned(),
    ];
    Some((Node::prepare_on(setup, Broker::start(), &within), hand))
}

fn small(more: &Value) -> Value {
    let mut job =
        json!({"model": "kpi-anomaly", "input": read_json(models().join("kpi-anomaly/samples/healthy.json"))});
    for (key, value) in more.as_object().into_iter().flatten() {
        job[key] = value.clone();
    }
    job
}

/// A deadline that is half an hour away by the true clock.
fn soon() -> Value {
    json!({"deadline": clock::wall().after(Duration::from_secs(1800)).to_string()})
}

/// Waits until the node says that its clock is in doubt, or that it is not.
fn wait_for_doubt(controller: &Controller, doubt: bool) -> Value {
    controller.wait(&format!("clock in doubt: {doubt}"), |messages| {
        let last =
            messages.iter().rev().find(|message| message.topic == "up/state" && message.json["online"] == true)?;
        let degraded = last.json["degraded"].as_array().cloned().unwrap_or_default();
        let found = degraded.iter().any(|why| why.as_str().is_some_and(|why| why.starts_with("clock")));
        (found == doubt).then(|| last.json.clone())
    })
}

/// The job ended well, after one attempt and with one result.
fn assert_done_once(controller: &Controller, id: &str) {
    let last = controller.wait_for_state(id, "SUCCEEDED");
    assert_eq!(last["attempt"], 1, "{id}: {last}");
    controller.wait_for_result(id);
    assert_eq!(controller.results(id).0, 1, "{id} has one result");
}

#[test]
fn jumps_of_an_hour_and_of_a_century_cost_no_job_and_are_told() {
    let Some((mut node, hand)) = node(&Setup::new()) else { return };
    node.start_agent();
    let controller = node.controller();
    wait_for_doubt(&controller, false);
    node.feeder.high();
    controller.wait_for_mode("busy");
    controller.submit("waits", &small(&soon()));
    controller.submit("plain", &small(&json!({})));
    for id in ["waits", "plain"] {
        controller.wait_for_state(id, "QUEUED");
    }
    hand.set(HOUR);
    let told = wait_for_doubt(&controller, true);
    let why = told["degraded"][0].as_str().unwrap_or_default();
    assert!(why.contains("jumped forward by 60 min") || why.contains("jumped forward by 59 min"), "{why}");

    // A batch is under way while the clock goes wild, and yields as ever.
    node.feeder.low();
    controller.publish(media_job("batch", "objects", "image", &vec![picture(); 6], &soon()));
    let mut ids = vec!["waits".to_owned(), "plain".to_owned(), "batch".to_owned()];
    let moves: [(&str, &dyn Fn()); 4] = [
        ("back", &|| hand.set(-HOUR)),
        ("1970", &|| hand.set_year(1970)),
        ("2038", &|| hand.set_year(2038)),
        ("2100", &|| hand.set_year(2100)),
    ];
    for (name, jump) in moves {
        jump();
        for (kind, more) in [("plain", json!({})), ("deadline", soon())] {
            let id = format!("{name}-{kind}");
            controller.submit(&id, &small(&more));
            ids.push(id);
        }
        node.feeder.high();
        controller.wait_for_mode("busy");
        node.feeder.low();
        controller.wait_for_mode("trough");
    }
    ids.iter().for_each(|id| assert_done_once(&controller, id));

    let after_s = |seconds| clock::wall().after(Duration::from_secs(seconds)).to_string();
    controller.submit("held", &small(&json!({"not_before": after_s(1)})));
    controller.submit("late", &small(&json!({"not_before": after_s(1), "deadline": after_s(3)})));
    std::thread::sleep(Duration::from_secs(4));
    for id in ["held", "late"] {
        assert_eq!(controller.ask("describe", &json!({"job": id}))["job"]["status"], "QUEUED", "{id}: nothing is due");
    }
    hand.set(0);
    wait_for_doubt(&controller, false);
    assert_done_once(&controller, "held");
    controller.wait_for_state("late", "TIMED_OUT");
    let alarms = controller.events("alarm");
    let clock = |words: &str| {
        let found = |alarm: &&Value| {
            alarm["code"] == "clock.doubt" && alarm["message"].as_str().is_some_and(|text| text.contains(words))
        };
        alarms.iter().filter(found).count()
    };
    assert_eq!((clock("jumped"), clock("over")), (1, 1), "{alarms:?}");
    assert!(node.agent_ended().is_none());
}

#[test]
fn a_restart_in_a_wrong_year_neither_loses_nor_repeats_a_job() {
    let Some((mut node, hand)) = node(&Setup::new()) else { return };
    node.start_agent();
    let controller = node.controller();
    wait_for_doubt(&controller, false);
    node.feeder.low();
    controller.submit("done", &small(&soon()));
    assert_done_once(&controller, "done");
    node.feeder.high();
    controller.wait_for_mode("busy");
    let mut waiting = Vec::new();
    for year in [1970, 2038, 2100] {
        let id = format!("of-{year}");
        controller.submit(&id, &small(&soon()));
        controller.wait_for_state(&id, "QUEUED");
        waiting.push(id);
        node.kill_agent();
        hand.set_year(year);
        node.start_agent();
        controller.wait(&format!("doubt of {year}"), |messages| {
            let last = messages.iter().rev().find(|message| message.topic == "up/state")?;
            last.json["degraded"].to_string().contains(&format!("clock says {year}")).then_some(())
        });
    }
    // A late copy of a job that has ended is known, whatever the year.
    controller.submit("done", &small(&soon()));
    node.feeder.low();
    waiting.iter().for_each(|id| assert_done_once(&controller, id));
    assert_eq!(controller.results("done").0, 1);
    assert_eq!(controller.ask("describe", &json!({"job": "done"}))["job"]["attempt"], 1);

    let (code, _) = node.terminate_agent();
    assert_eq!(code, Some(0), "{}", node.log());
    hand.set(0);
    node.start_agent();
    controller.submit("after", &small(&soon()));
    assert_done_once(&controller, "after");
    wait_for_doubt(&controller, false);
}

#[test]
fn an_agent_whose_machine_has_been_up_for_a_day_more_than_its_clock_says_works() {
    let shift = ["unshare", "-T", "--monotonic", "100000", "--boottime", "100000"];
    if !Command::new(shift[0]).args(&shift[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("\n!!! SKIPPED: time namespaces are not permitted here !!!\n");
        return;
    }
    let within = shift.map(str::to_owned);
    let mut node = Node::prepare_on(&Setup::new(), Broker::start(), &within);
    node.start_agent();
    let controller = node.controller();
    // Without a stamp: that of this process would be a day old there.
    wait_for_doubt(&controller, false);
    node.feeder.raw(b"{\"cell\":1,\"RRU.PrbTotDl\":5}\n");
    controller.submit("a", &small(&soon()));
    assert_done_once(&controller, "a");
    wait_for_doubt(&controller, false);
}
