//! Is everything delivered once after the network was bad, whatever way it was bad?
//!
//! Agent and broker stand in two network namespaces with a cable between them. A fault comes while a batch runs; jobs
//! are sent before, during and after it, and the radio becomes busy in its midst. In the end every job has one result
//! at its first attempt, for the network is no reason to compute anything again.

mod common;

use std::time::Duration;

use common::batch::{picture, submit};
use common::controller::{Controller, media_job, message, read_json};
use common::ledger::Ledger;
use common::netns::Net;
use common::node::{BASE, Node, Setup, cpu, models, state};
use common::random::full;
use common::wait_for;
use neap::sys::clock;
use serde_json::{Value, json};

/// How long a fault lasts; long enough for the longest of them to be noticed by a missing answer.
const FAULT: Duration = Duration::from_secs(8);
const FAULT_FULL: Duration = Duration::from_secs(60);
/// Jobs of each of the three times.
const JOBS: usize = 10;
/// A try comes soon after a fault: how long nodes wait for one is what the tests of the back-off are about.
const RECONNECT_MAX_S: f64 = 2.0;
/// After a fault what waits has to get through.
const AFTER: Duration = Duration::from_secs(120);

fn small() -> Value {
    let input = read_json(models().join("kpi-anomaly/samples/healthy.json"));
    json!({"model": "kpi-anomaly", "input": input, "limits": {"attempts": 1}})
}

/// Offers some jobs to the broker, which hands them over when it can.
fn send(controller: &Controller, when: &str) {
    let body = small().to_string().into_bytes();
    for job in 0..JOBS {
        controller.post(message(&format!("{BASE}/down/job/{when}-{job}"), body.clone()));
    }
}

/// The agent goes on whatever the network does: it gives way to the radio, and afterwards its worker computes again.
fn yields_go_on(node: &Node) {
    let worker = node.wait_for_workers(1)[0];
    node.feeder.high();
    let stopped = || (state(worker) == Some('T')).then_some(());
    wait_for("a worker that gives way during the fault", || node.log(), stopped);
    let before = cpu(worker);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(cpu(worker), before, "it computes nothing while the radio is busy");
    node.feeder.low();
    let computes = || (cpu(worker) > before.map(|before| before + Duration::from_millis(20))).then_some(());
    wait_for("a worker that computes during the fault", || node.log(), computes);
}

/// A fault comes and goes while work is under way.
fn survives(name: &str, begin: impl Fn(&Net, &Node), end: impl Fn(&Net)) {
    let Some(net) = Net::create() else { return };
    let setup = Setup::new().with("mqtt", "reconnect_max_s", RECONNECT_MAX_S);
    let Some(mut node) = net.node(&setup, "") else { return };
    let controller = node.controller();
    node.start_agent();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let agent = node.agent_pid();
    // The first jobs, and then a batch that is under way when the fault comes and for some time after.
    send(&controller, "before");
    submit(&controller, "batch", &json!({"limits": {"attempts": 1}}));
    controller.wait_for_items("batch", 1);

    begin(&net, &node);
    let begun = clock::now();
    send(&controller, "during");
    yields_go_on(&node);
    let fault = if full() { FAULT_FULL } else { FAULT };
    std::thread::sleep(begun.after(fault).since(clock::now()));
    let meanwhile = ended(&controller);
    end(&net);
    let healed = clock::now();
    send(&controller, "after");
    controller.publish(media_job("last", "objects", "image", &[picture()], &json!({})));

    let all = 3 * JOBS + 2;
    let mut ledger = Ledger::default();
    ledger.wait_for_ends(&controller, all, AFTER);
    let took = clock::now().since(healed);
    // Whatever is still to be repeated comes before the answer.
    controller.ask("ping", &json!({}));
    ledger.read(&controller);
    assert_eq!(ledger.jobs().count(), all);
    let mut repeated = 0;
    for (id, told) in ledger.jobs() {
        let end = told.end.as_ref().unwrap_or_else(|| panic!("job {id} has no end: {told:?}"));
        assert_eq!((&end["status"], &end["attempt"]), (&json!("SUCCEEDED"), &json!(1)), "job {id}: {end}");
        repeated += told.results - 1 + told.repeats;
    }
    assert!(node.agent_ended().is_none() && node.agent_pid() == agent, "the same agent all the time");
    eprintln!(
        "{name}: {all} jobs, {meanwhile} ended as far as was told at the end of a fault of {fault:?}, all {took:?} after \
         it; {repeated} messages told again; {} connections",
        connections(&node)
    );
}

/// Jobs of which an end was told.
fn ended(controller: &Controller) -> usize {
    let mut ledger = Ledger::default();
    ledger.read(controller);
    ledger.ended()
}

/// How often the agent came up, by its log.
fn connections(node: &Node) -> usize {
    node.log().lines().filter(|line| line.contains("connected epoch=")).count()
}

#[test]
fn a_network_that_swallows_everything_costs_nothing_but_time() {
    survives("blackhole", |net, _| net.blackhole(), Net::heal);
}

#[test]
fn a_network_that_resets_every_connection_costs_nothing_but_time() {
    survives("reset", |net, _| net.reset(), Net::heal);
}

#[test]
fn a_network_that_loses_three_packets_of_ten_costs_nothing_but_time() {
    survives("30 % loss", |net, _| net.lossy(30), Net::heal);
}

#[test]
fn a_cable_that_is_pulled_out_costs_nothing_but_time() {
    survives("cable out", |net, _| net.unplug(), Net::heal);
}

#[test]
fn a_link_of_64_kbit_per_second_carries_it_all() {
    // It stays slow: everything has to come through it.
    survives("64 kbit/s", |net, _| net.slow(), |_| {});
}

#[test]
fn a_connection_that_is_dead_and_does_not_know_it_is_given_up_and_replaced() {
    // It never comes back: only a new connection helps.
    survives("half-open", Net::half_open, |_| {});
}
