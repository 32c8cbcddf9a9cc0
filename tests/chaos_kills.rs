//! Does the work survive an agent that is killed again and again while jobs keep coming?
//!
//! A hundred kills and two thousand jobs; with `NEAP_CHAOS=full` a thousand kills and ten thousand jobs. The moments
//! come from `NEAP_SEED`.

mod common;

use std::time::Duration;

use common::batch::picture;
use common::controller::{Controller, media_job, message, read_json};
use common::ledger::Ledger;
use common::node::{BASE, Broker, Node, Setup, models, workers_of};
use common::random::{Random, full};
use common::wait_for;
use neap::link::Publish;
use neap::sys::clock;
use serde_json::{Value, json};

/// Items of a batch of numbers, and of pictures.
const NUMBERS: usize = 5;
const PICTURES: usize = 3;
/// Jobs that are sent and have not ended, at most: there is always work, and a restart does not wait for a mountain.
const OPEN_MAX: usize = 60;
/// An agent lives shorter than this.
const LIFE_MAX: Duration = Duration::from_millis(1_500);
/// When for so long no job ends any more, it is lost. On a machine that has other work inference gets next to nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is sent, and from where.
struct Source {
    random: Random,
    single: Value,
    batch: Value,
    picture: Vec<u8>,
}

impl Source {
    fn new(random: Random) -> Self {
        let input = read_json(models().join("kpi-anomaly/samples/healthy.json"));
        Self {
            random,
            single: json!({"model": "kpi-anomaly", "input": input, "limits": {"attempts": 1}}),
            batch: json!({"model": "kpi-anomaly", "items": vec![input; NUMBERS], "limits": {"attempts": 1}}),
            picture: picture(),
        }
    }

    /// A single input mostly, a batch now and then, pictures seldom: these take long enough to be killed in the middle.
    fn job(&mut self, id: &str) -> Publish {
        let topic = format!("{BASE}/down/job/{id}");
        match self.random.below(40) {
            0 => media_job(id, "objects", "image", &vec![self.picture.clone(); PICTURES], &json!({})),
            1..8 => message(&topic, self.batch.to_string().into_bytes()),
            _ => message(&topic, self.single.to_string().into_bytes()),
        }
    }
}

/// Items that a result must have: 0 is a single one.
fn items(result: &Value) -> usize {
    match (&result["outputs"], &result["items"]) {
        (Value::Array(_), Value::Null) => 0,
        (Value::Null, Value::Array(items)) => items.len(),
        _ => panic!("neither one result nor many: {result}"),
    }
}

#[test]
fn jobs_survive_an_agent_that_is_killed_again_and_again() {
    let (kills, jobs) = if full() { (1_000, 10_000) } else { (100, 2_000) };
    let mut random = Random::of_run();
    let mut source = Source::new(Random::new(random.number()));
    // So many ends in so little time are what safe mode is for; here the work is to go on.
    let setup = Setup::new().with("governor", "settle_s", 0.05).with("safe_mode", "crashes", 0);
    let mut node = Node::prepare(&setup);
    if matches!(node.broker, Broker::Embedded(_)) {
        eprintln!("\n!!! SKIPPED: the embedded broker does not keep what is sent while the agent is away !!!\n");
        return;
    }
    let controller = node.controller();
    make_session(&mut node, &controller);
    let begun = clock::now();
    let (mut ledger, mut agents, mut sent) = (Ledger::default(), Vec::new(), 0);
    for _ in 0..kills {
        node.start_agent();
        agents.push(node.agent_pid());
        // The fault's moment, not a wait: from "still starting" to "in the middle of a job".
        let end = clock::now().after(random.span(LIFE_MAX));
        while clock::now() < end {
            ledger.read(&controller);
            while sent < jobs && sent - ledger.ended() < OPEN_MAX {
                controller.post(source.job(&format!("job-{sent}")));
                sent += 1;
            }
            std::thread::sleep(end.since(clock::now()).min(Duration::from_millis(20)));
        }
        node.kill_agent();
    }
    let killing = clock::now().since(begun);
    let meanwhile = ledger.ended();
    node.start_agent();
    agents.push(node.agent_pid());
    while sent < jobs {
        ledger.wait_for_ends(&controller, (sent + 1).saturating_sub(OPEN_MAX), PATIENCE);
        controller.post(source.job(&format!("job-{sent}")));
        sent += 1;
    }
    ledger.wait_for_ends(&controller, jobs, PATIENCE);
    // Whatever is still to be repeated comes before the answer.
    controller.ask("ping", &json!({}));
    ledger.read(&controller);
    judge(&ledger, kills, jobs);
    eprintln!("{kills} kills took {killing:?}, with {meanwhile} jobs ended; all after {:?}", clock::now().since(begun));

    let last = agents.pop().expect("agents were started");
    let gone = || agents.iter().all(|agent| workers_of(*agent).is_empty()).then_some(());
    wait_for("the end of all workers of killed agents", || node.log(), gone);
    let one = || (workers_of(last).len() == 1).then_some(());
    wait_for("the one worker of the last agent", || node.log(), one);
    let (code, took) = node.terminate_agent();
    assert_eq!(code, Some(0), "{took:?}");
}

/// The first connection makes the session: from then on the broker keeps what is sent while the agent is away.
fn make_session(node: &mut Node, controller: &Controller) {
    node.feeder.low();
    node.start_agent();
    controller.wait("the node's first word", |messages| {
        messages.iter().find(|message| message.json["online"] == true).map(drop)
    });
    node.kill_agent();
}

/// The promises. That versions rise and repeats are the same byte for byte, the ledger has seen to.
fn judge(ledger: &Ledger, kills: usize, jobs: usize) {
    assert_eq!(ledger.jobs().count(), jobs, "as many jobs are told of as were sent");
    let (mut again, mut interrupted, mut statuses_repeated, mut results_repeated) = (0, 0, 0, 0);
    for (id, told) in ledger.jobs() {
        let end = told.end.as_ref().unwrap_or_else(|| panic!("job {id} has no end: {told:?}"));
        assert_eq!(end["status"], "SUCCEEDED", "job {id}: {end}");
        let result: Value = serde_json::from_slice(told.result().expect("a result came")).expect("a result is JSON");
        assert!([0, NUMBERS, PICTURES].contains(&items(&result)), "{result}");
        let attempt = end["attempt"].as_u64().expect("a status has its attempt");
        assert_eq!(result["parameters"]["attempt"], attempt, "job {id}: {end}");
        again += usize::try_from(attempt).expect("few attempts") - 1;
        interrupted += usize::from(attempt > 1);
        statuses_repeated += told.repeats;
        results_repeated += told.results - 1;
    }
    eprintln!(
        "{jobs} jobs: 0 lost, 0 with two results; {interrupted} were interrupted, {again} attempts more than jobs; \
         {statuses_repeated} statuses and {results_repeated} results told again, the same byte for byte"
    );
    assert!(again <= kills, "a kill interrupts one job at most, for there is one worker");
    assert!(again > 0, "no kill met a job: the test shows nothing");
}
