//! What becomes of the work when the broker acknowledges nothing for so long that the store is full?
//!
//! The broker hands over jobs and never acknowledges what the node says of them. Results pile up to the quota; then
//! new jobs are refused, and in the end so many that their refusals give way. When the broker keeps to MQTT again,
//! every accepted job's one result arrives, and what gave way is counted.

#![allow(missing_docs)]

mod common;
#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/prometheus.rs"]
mod prometheus;
use common::random;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::controller::read_json;
use common::node::{BASE, Node, Setup, models};
use hostile::alone::Broker;
use hostile::manners::{Manners, PubAcks};
use neap::sys::clock;
use serde_json::{Value, json};

/// The smallest quota that can be configured.
const SPOOL_MIB: i64 = 1;
/// Jobs that come while the store is full: two messages of refusal each, more than the outbox takes.
const REFUSED: usize = 15_000;
/// Messages that the broker has ready for the node at once.
const READY: usize = 200;
/// How long one connection to the bad broker lasts.
const BAD: Duration = Duration::from_secs(2);
/// When for so long nothing changes that must, it never will.
const PATIENCE: Duration = Duration::from_secs(120);

fn look<T>(what: &str, node: &Node, mut look: impl FnMut() -> Option<T>) -> T {
    let end = clock::now().after(PATIENCE);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(clock::now() < end, "within {PATIENCE:?} this did not come: {what}\n{}", node.log());
        // Looking holds up the broker.
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// A number of the agent's own page.
fn gauge(node: &Node, name: &str, labels: &[(&str, &str)]) -> usize {
    let mut stream = UnixStream::connect(node.folder.path().join("status.sock")).expect("the agent listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("the agent reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the agent answers");
    let (_, page) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let value = prometheus::read(page).expect("a page is well-formed").value(name, labels);
    format!("{}", value.unwrap_or_else(|| panic!("no {name} in\n{page}"))).parse().expect("a count is whole")
}

fn open_jobs(node: &Node) -> usize {
    ["running", "queued"].iter().map(|state| gauge(node, "neap_jobs", &[("state", state)])).sum()
}

/// Offers jobs with these numbers, never many at once, and waits until the node has taken the last.
fn send(broker: &Broker, node: &Node, numbers: std::ops::Range<usize>, body: &[u8]) {
    for number in numbers {
        if number % READY == 0 {
            look("room for more jobs", node, || (broker.hostile.world().inbound.len() < READY).then_some(()));
        }
        broker.hostile.send(&format!("{BASE}/down/job/job-{number}"), body);
    }
    look("the acknowledgement of all jobs", node, || broker.hostile.world().inbound.is_empty().then_some(()));
}

/// What was told of the jobs.
#[derive(Debug, Default)]
struct Told {
    read: usize,
    /// Last status.
    statuses: BTreeMap<String, Value>,
    results: BTreeMap<String, BTreeSet<Vec<u8>>>,
    /// The last of `up/state` and of `up/metrics`.
    state: Value,
    metrics: Value,
}

impl Told {
    fn read(&mut self, broker: &Broker) {
        let world = broker.hostile.world();
        for (topic, body) in &world.published[self.read..] {
            let Some(topic) = topic.strip_prefix(BASE) else { continue };
            let json: Value = serde_json::from_slice(body).unwrap_or_default();
            if topic == "/up/metrics" {
                self.metrics = json;
            } else if topic == "/up/state" {
                self.state = json;
            } else if let Some(job) = topic.strip_prefix("/up/job/") {
                match job.strip_suffix("/result") {
                    Some(job) => drop(self.results.entry(job.to_owned()).or_default().insert(body.clone())),
                    None => drop(self.statuses.insert(job.to_owned(), json)),
                }
            }
        }
        self.read = world.published.len();
    }

    fn with(&self, status: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.statuses.iter().filter(move |(_, told)| told["status"] == status)
    }
}

#[test]
fn a_full_store_refuses_jobs_and_keeps_every_result_until_the_broker_takes_them() {
    let bad = Manners { pubacks: PubAcks::None, leaves_after: Some(BAD), ..Manners::good() };
    let broker = Broker::start(vec![bad; 500]);
    let setup = Setup::new().with("jobs", "spool_mib", SPOOL_MIB).with("mqtt", "reconnect_max_s", 0.5);
    let node = Node::start(&setup.with("mqtt", "port", i64::from(broker.hostile.port())));
    let pid = node.agent_pid();
    node.feeder.low();
    let input = read_json(models().join("kpi-anomaly/samples/healthy.json"));
    let body = json!({"model": "kpi-anomaly", "input": input}).to_string().into_bytes();
    let begun = clock::now();

    // Results pile up.
    let mut sent = 0;
    while !node.log().contains("spool.full") {
        assert!(sent < 10_000, "the store takes everything:\n{}", node.log());
        send(&broker, &node, sent..sent + READY, &body);
        sent += READY;
        look("the end of what was accepted", &node, || (open_jobs(&node) == 0).then_some(()));
    }
    assert_eq!(gauge(&node, "neap_telemetry_dropped_total", &[]), 0, "there was room for every refusal");
    let piled = clock::now().since(begun);
    // Refusals pile up as well, until they give way.
    send(&broker, &node, sent..sent + REFUSED, &body);
    sent += REFUSED;
    let dropped = gauge(&node, "neap_telemetry_dropped_total", &[]);
    let full = clock::now().since(begun);
    assert!(dropped > 0, "the outbox takes everything");
    assert_eq!(open_jobs(&node), 0);
    assert!(!broker.hostile.world().has_shown_all(), "the broker was bad all the time");
    assert_eq!(broker.hostile.world().acknowledged, BTreeMap::new());
    // What was said so far was said to nobody.
    broker.hostile.world().published.clear();

    broker.hostile.next(Vec::new());
    let mut told = Told::default();
    // The state is told at the connect, and counts the results that nobody has acknowledged: all accepted jobs.
    let accepted = look("the node's state", &node, || {
        told.read(&broker);
        told.state["unacknowledged"].as_u64()
    });
    let accepted = usize::try_from(accepted).expect("few jobs");
    look("every accepted job's end and result", &node, || {
        told.read(&broker);
        let ended: Vec<_> = told.with("SUCCEEDED").map(|(job, _)| job).collect();
        (ended.len() == accepted && ended.iter().all(|job| told.results.contains_key(*job))).then_some(())
    });

    // The controller has the results: as soon as the refusals have left the store too, new jobs are taken. Their
    // messages come last.
    let done: Vec<String> = told.with("SUCCEEDED").map(|(job, _)| job.clone()).collect();
    done.iter().for_each(|job| broker.hostile.send(&format!("{BASE}/down/job/{job}/ack"), b""));
    look("the acknowledgement of all acks", &node, || broker.hostile.world().inbound.is_empty().then_some(()));
    let last = |number: usize| format!("job-{number}");
    broker.hostile.send(&format!("{BASE}/down/job/{}", last(sent)), &body);
    look("the result of a new job", &node, || {
        told.read(&broker);
        let status = told.statuses.get(&last(sent))?["status"].clone();
        if status == "REJECTED" {
            sent += 1;
            broker.hostile.send(&format!("{BASE}/down/job/{}", last(sent)), &body);
        }
        (status == "SUCCEEDED" && told.results.contains_key(&last(sent))).then_some(())
    });
    look("the counters, and the last acknowledgement", &node, || {
        told.read(&broker);
        let taken = |body| broker.hostile.world().acknowledged.contains_key(body);
        let all_taken = told.results[&last(sent)].iter().all(taken);
        (all_taken && told.metrics["telemetry_dropped"].as_u64()? >= dropped as u64).then_some(())
    });
    let owed = judge(&told, &broker, (sent, accepted, dropped));
    assert_eq!(node.agent_pid(), pid);
    eprintln!(
        "{sent} jobs: full after {piled:?}, {accepted} accepted, and as many results; {full:?} until {dropped} messages of \
         {owed} of refusals had given way; all told after {:?}; {} connections",
        clock::now().since(begun),
        broker.hostile.world().connections
    );
}

/// Of the jobs that were sent some were accepted, and of messages some were dropped; returns how many were owed for the
/// jobs that were refused.
fn judge(told: &Told, broker: &Broker, (sent, accepted, dropped): (usize, usize, usize)) -> usize {
    for (job, _) in told.with("SUCCEEDED") {
        // A submit that was refused and handed over again by the next connection is a new one.
        let is_result =
            |body: &&Vec<u8>| serde_json::from_slice::<Value>(body).expect("a result is JSON").get("error").is_none();
        let results: Vec<&Vec<u8>> = told.results[job].iter().filter(is_result).collect();
        assert_eq!(results.len(), 1, "{job} has not one result");
        assert!(broker.hostile.world().acknowledged.contains_key(results[0]), "{job}");
    }
    for (job, status) in told.with("REJECTED") {
        assert_eq!(status["reason"], "spool.full", "{job}: {status}");
    }
    let refusals = told.with("REJECTED").count();
    let results_of_refusals = told.with("REJECTED").filter(|(job, _)| told.results.contains_key(*job)).count();
    let owed = 2 * (sent - accepted);
    assert_eq!(told.statuses.len(), accepted + refusals + 1, "a job is refused, or it ends well");
    assert!(refusals > 0 && refusals + results_of_refusals + dropped >= owed, "what is missing is counted");
    owed
}
