//! Does the whole agent go through hostile brokers and lose no job? The real binary, several bad brokers in a row.

#![allow(missing_docs)]

mod common;
#[path = "support/hostile.rs"]
mod hostile;
use common::random;

use std::collections::{BTreeMap, BTreeSet};

use common::controller::read_json;
use common::node::{BASE, Node, Setup, models};
use common::wait_for;
use hostile::alone::Broker;
use hostile::manners::{Manners, PubAcks, aliased, disconnect, encoded};
use rumqttc::v5::mqttbytes::v5::DisconnectReasonCode;
use serde_json::{Value, json};

#[test]
fn every_accepted_job_gets_its_result_through_a_row_of_hostile_brokers() {
    let ended = disconnect(DisconnectReasonCode::ServerShuttingDown);
    let broker = Broker::start(vec![
        // Hands over the jobs byte by byte, answers a publish that was never sent.
        Manners { trickles: true, pubacks: PubAcks::Unknown(60_000), ..Manners::good() },
        // Everything twice, then a topic alias that was not allowed.
        Manners {
            repeats: true,
            after_publish: encoded(&[aliased(&format!("{BASE}/down/job/x"), 1, 999)]),
            ..Manners::good()
        },
        // An end with a reason, and garbage behind it.
        Manners { after_publish: [ended, vec![0xff; 100]].concat(), ..Manners::good() },
    ]);
    let jobs: Vec<String> = (0..6).map(|number| format!("job-{number}")).collect();
    let input = read_json(models().join("kpi-anomaly/samples/healthy.json"));
    let body = json!({"model": "kpi-anomaly", "input": input}).to_string();
    jobs.iter().for_each(|job| broker.hostile.send(&format!("{BASE}/down/job/{job}"), body.as_bytes()));

    let node = Node::start(&Setup::new().with("mqtt", "port", i64::from(broker.hostile.port())));
    let pid = node.agent_pid();
    node.feeder.low();
    let results = || {
        let world = broker.hostile.world();
        let mut results: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for (topic, body) in &world.published {
            let job = topic.strip_prefix(BASE).and_then(|rest| rest.strip_prefix("/up/job/")?.strip_suffix("/result"));
            if let Some(job) = job.filter(|_| world.acknowledged.contains_key(body)) {
                results.entry(job.to_owned()).or_default().insert(body.clone());
            }
        }
        (world.has_shown_all() && world.inbound.is_empty() && jobs.iter().all(|job| results.contains_key(job)))
            .then_some(results)
    };
    let told = || format!("{:?} connections\n{}", broker.hostile.world().connections, node.log());
    let results = wait_for("a result of every job, acknowledged by the broker", told, results);
    for (job, bodies) in results {
        assert_eq!(bodies.len(), 1, "{job} has different results");
        let result: Value = serde_json::from_slice(bodies.first().expect("there is one")).expect("a result is JSON");
        assert!(result.get("error").is_none(), "{job}: {result}");
    }
    assert_eq!(node.agent_pid(), pid);
    let log = node.log();
    for words in ["topic alias", "ServerShuttingDown"] {
        assert!(log.contains(words), "{words:?} is not in the log:\n{log}");
    }
    assert!(broker.hostile.world().connections >= 4, "{}", told());
}
