//! Is everything delivered once over a stream that is late, in crumbs, cut off anywhere, or half closed?
//!
//! A proxy stands between agent and broker while jobs stream. In the end every job has one result at its first
//! attempt. How many bytes pass before a fault comes from `NEAP_SEED`; with `NEAP_CHAOS=full` ten times as many faults.

#![allow(missing_docs)]

mod common;
#[path = "support/proxy.rs"]
mod proxy;

use std::time::Duration;

use common::controller::{Controller, message, read_json};
use common::ledger::Ledger;
use common::mosquitto::{Mosquitto, Options};
use common::node::{BASE, Broker, Node, Setup, models};
use common::random::{Random, full};
use neap::sys::clock;
use proxy::{Counts, Fault, Proxy, Treatment};
use serde_json::{Value, json};

/// Jobs that are sent and have not ended, at most.
const OPEN_MAX: usize = 30;
/// Time of a treatment without faults.
const SPAN: Duration = Duration::from_secs(4);
/// Faults of a kind.
const CUTS: usize = 24;
const HALF_CLOSES: usize = 8;
/// Bytes that pass before a fault: from within CONNECT to some dozen messages.
const BYTES: u64 = 12_000;
const DELAY: Duration = Duration::from_millis(200);
/// When for so long no job ends any more, or no fault comes, it is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stream of jobs.
struct Stream {
    controller: Controller,
    ledger: Ledger,
    body: Vec<u8>,
    sent: usize,
}

impl Stream {
    /// Lets jobs stream until it is enough.
    fn flow(&mut self, node: &Node, what: &str, mut is_enough: impl FnMut() -> bool) {
        let (begun, first) = (clock::now(), self.sent);
        while !is_enough() {
            assert!(clock::now().since(begun) < PATIENCE, "{what} is not over after {PATIENCE:?}\n{}", node.log());
            self.ledger.read(&self.controller);
            while self.sent - self.ledger.ended() < OPEN_MAX {
                let topic = format!("{BASE}/down/job/job-{}", self.sent);
                self.controller.post(message(&topic, self.body.clone()));
                self.sent += 1;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{what}: {} jobs in {:?}", self.sent - first, clock::now().since(begun));
    }

    fn flow_for_a_while(&mut self, node: &Node, what: &str) {
        let begun = clock::now();
        self.flow(node, what, || clock::now().since(begun) >= SPAN);
    }
}

#[test]
fn a_stream_that_is_late_or_crumbled_or_cut_anywhere_costs_nothing_but_time() {
    let Some(mosquitto) = Mosquitto::start(Options::default()) else { return };
    let proxy = Proxy::start(mosquitto.port(), Random::of_run());
    let setup = Setup::new().with("mqtt", "port", i64::from(proxy.port())).with("mqtt", "reconnect_max_s", 0.5);
    let mut node = Node::prepare_on(&setup, Broker::Mosquitto(mosquitto), &[]);
    let input = read_json(models().join("kpi-anomaly/samples/healthy.json"));
    let body = json!({"model": "kpi-anomaly", "input": input, "limits": {"attempts": 1}}).to_string().into_bytes();
    let mut jobs = Stream { controller: node.controller(), ledger: Ledger::default(), body, sent: 0 };
    node.start_agent();
    node.feeder.low();
    jobs.controller.wait_for_mode("trough");
    let agent = node.agent_pid();
    let times = if full() { 10 } else { 1 };

    proxy.treat(Treatment { delay: DELAY, ..Treatment::default() });
    jobs.flow_for_a_while(&node, "late");
    let asked = clock::now();
    jobs.controller.ask("ping", &json!({}));
    assert!(clock::now().since(asked) >= 2 * DELAY, "there and back through the delay");

    proxy.treat(Treatment { trickles: true, ..Treatment::default() });
    jobs.flow_for_a_while(&node, "byte by byte");
    assert!(proxy.counts().trickled > 10_000, "{:?}", proxy.counts());

    proxy.treat(Treatment { fault: Some(Fault::HalfClose { below: BYTES }), ..Treatment::default() });
    jobs.flow(&node, "half closed", || proxy.counts().half_closes >= HALF_CLOSES * times);
    proxy.treat(Treatment { fault: Some(Fault::Cut { below: BYTES }), ..Treatment::default() });
    jobs.flow(&node, "cut", || proxy.counts().cuts >= CUTS * times);
    // And with everything else at once.
    let fault = Some(Fault::Cut { below: BYTES });
    proxy.treat(Treatment { delay: DELAY / 10, trickles: true, fault });
    let before = proxy.counts().cuts;
    jobs.flow(&node, "late, byte by byte and cut", || proxy.counts().cuts >= before + CUTS * times / 3);

    proxy.treat(Treatment::default());
    jobs.ledger.wait_for_ends(&jobs.controller, jobs.sent, PATIENCE);
    // Whatever is still to be repeated comes before the answer.
    jobs.controller.ask("ping", &json!({}));
    jobs.ledger.read(&jobs.controller);
    assert_eq!(jobs.ledger.jobs().count(), jobs.sent);
    let mut repeated = 0;
    for (id, told) in jobs.ledger.jobs() {
        let end = told.end.as_ref().unwrap_or_else(|| panic!("job {id} has no end: {told:?}"));
        assert_eq!((&end["status"], &end["attempt"]), (&json!("SUCCEEDED"), &json!(1)), "job {id}: {end}");
        let result: Value = serde_json::from_slice(told.result().expect("a result came")).expect("a result is JSON");
        assert!(result["outputs"].is_array(), "job {id}: {result}");
        repeated += told.results - 1 + told.repeats;
    }
    assert!(node.agent_ended().is_none() && node.agent_pid() == agent, "the same agent all the time");
    let Counts { connections, cuts, half_closes, trickled } = proxy.counts();
    eprintln!(
        "{} jobs over {connections} connections, {cuts} cut, {half_closes} half closed, {trickled} bytes by themselves; \
         {repeated} messages told again",
        jobs.sent
    );
}
