//! Does the work survive when agent, worker or broker go away? Kills them, and counts what comes.

mod common;

use std::time::Duration;

use common::batch::{assert_whole, at_work, at_work_on, in_a_trough, picture};
use common::controller::{Controller, media_job, read_json};
use common::emulation::slow_by;
use common::node::{Broker, Node, Setup, cpu, is_alive, models, state, workers_of};
use common::random::Random;
use common::wait_for;
use neap::sys::signal;
use serde_json::{Value, json};

/// A submit of a sample of this repository that takes some milliseconds.
fn small(attempts: u32) -> Value {
    let input = read_json(models().join("kpi-anomaly/samples/healthy.json"));
    json!({"model": "kpi-anomaly", "input": input, "limits": {"attempts": attempts}})
}

// ---- the agent ----

#[test]
fn a_killed_agent_goes_on_from_the_last_finished_item() {
    let (mut node, controller) = at_work(&Setup::new());
    let done = controller.wait_for_items("batch", 2)["progress"]["done"].as_u64();
    node.kill_agent();
    node.start_agent();

    let queued = controller.wait_for_status("batch", "restart", |status| status["reason"] == "restarted");
    assert_eq!((&queued["status"], &queued["attempt"]), (&json!("QUEUED"), &json!(1)), "{queued}");
    assert!(queued["progress"]["done"].as_u64() >= done, "{queued}");
    let again = controller.wait_for_status("batch", "attempt 2", |status| status["attempt"] == 2);
    assert_eq!(again["progress"], queued["progress"]);
    assert_whole(&controller, 2);
}

#[test]
fn an_agent_that_was_killed_is_no_failure_of_its_job() {
    // One attempt may fail: a counted failure would be the end of the job.
    let (mut node, controller) = at_work_on(&Setup::new(), &json!({"limits": {"attempts": 1}}));
    for next in 2..=3 {
        node.kill_agent();
        node.start_agent();
        controller.wait_for_status("batch", "the next attempt", |status| status["attempt"] == next);
    }
    assert_whole(&controller, 3);
}

#[test]
fn an_agent_that_is_told_to_end_does_so_in_order_and_no_failure_is_counted() {
    // One attempt: a counted failure would be the end of the job.
    let (mut node, controller) = at_work_on(&Setup::new(), &json!({"limits": {"attempts": 1}}));
    let (agent, workers) = (node.agent_pid(), node.workers());
    let (code, took) = node.terminate_agent();
    eprintln!("SIGTERM to exit while a batch runs: {took:?}");
    assert_eq!(code, Some(0), "{}", node.log());
    assert!(took < Duration::from_secs(10) * slow_by(), "{took:?}");
    assert!(workers.iter().all(|pid| !is_alive(*pid)) && workers_of(agent).is_empty());
    let last = controller.wait("the last words", |messages| {
        let last = messages.iter().rev().find(|message| message.topic == "up/state")?;
        (last.json["online"] == false).then(|| last.json.clone())
    });
    assert_eq!(last["cause"], "shutdown", "{last}");
    let late = node.controller();
    late.wait("retained last words", |messages| {
        messages.iter().find(|message| message.retain && message.json["cause"] == "shutdown").map(drop)
    });
    let evicted = controller.wait_for_status("batch", "return to the queue", |status| status["reason"] == "evicted");
    assert_eq!(evicted["status"], "QUEUED");

    node.start_agent();
    assert_whole(&controller, 2);
}

#[test]
fn an_agent_ends_in_time_with_a_stopped_worker_and_no_broker() {
    let (mut node, controller) = at_work(&Setup::new());
    node.feeder.high();
    controller.wait_for_state("batch", "SUSPENDED");
    if let Broker::Mosquitto(mosquitto) = &mut node.broker {
        mosquitto.kill();
    }
    let (code, took) = node.terminate_agent();
    eprintln!("SIGTERM to exit without a broker and with a stopped worker: {took:?}");
    assert_eq!(code, Some(0), "{}", node.log());
    assert!(took < Duration::from_secs(10) * slow_by(), "{took:?}");
}

// ---- the worker ----

/// Kills the worker while it computes.
fn kill_worker(node: &Node) {
    let pid = node.wait_for_workers(1)[0];
    let before = cpu(pid).unwrap_or_default();
    let computes = || cpu(pid).filter(|now| *now > before + Duration::from_millis(20)).map(drop);
    wait_for("a worker that computes", || node.log(), computes);
    signal::kill_process(pid).expect("a worker can be killed");
    wait_for("its end", || node.log(), || (!is_alive(pid)).then_some(()));
}

#[test]
fn a_worker_that_is_killed_once_costs_an_attempt_and_nothing_else() {
    let (node, controller) = at_work(&Setup::new());
    kill_worker(&node);
    let retry = controller.wait_for_status("batch", "retry", |status| status["reason"] == "retry");
    assert_eq!((&retry["status"], &retry["error"]["code"]), (&json!("QUEUED"), &json!("worker.crashed")), "{retry}");
    assert_whole(&controller, 2);
}

#[test]
fn a_job_whose_worker_dies_twice_is_failed_and_the_next_job_is_served() {
    let (node, controller) = at_work(&Setup::new());
    kill_worker(&node);
    controller.wait_for_status("batch", "attempt 2", |status| status["attempt"] == 2);
    kill_worker(&node);
    let status = controller.wait_for_state("batch", "FAILED");
    assert_eq!((&status["attempt"], &status["error"]["code"]), (&json!(2), &json!("worker.crashed")), "{status}");
    assert_eq!(controller.wait_for_result("batch")["error"]["code"], "worker.crashed");
    controller.submit("next", &small(1));
    controller.wait_for_state("next", "SUCCEEDED");
}

// ---- the broker ----

/// Kills the broker, does something, and starts it again; `false` when there is only the embedded one, which cannot.
fn without_broker(node: &mut Node, meanwhile: impl FnOnce(&mut Node)) -> bool {
    let Broker::Mosquitto(mosquitto) = &mut node.broker else {
        eprintln!("\n!!! SKIPPED: the embedded broker cannot be restarted !!!\n");
        return false;
    };
    mosquitto.kill();
    meanwhile(node);
    if let Broker::Mosquitto(mosquitto) = &mut node.broker {
        mosquitto.restart();
    }
    true
}

fn states_heard(controller: &Controller) -> usize {
    controller.messages().iter().filter(|message| message.topic == "up/state").count()
}

#[test]
fn a_broker_that_was_gone_during_a_batch_gets_its_result_once() {
    let (mut node, controller) = at_work(&Setup::new());
    // It stands while the broker is away, so that the result is not told before the controller listens again.
    node.feeder.high();
    controller.wait_for_state("batch", "SUSPENDED");
    let before = states_heard(&controller);
    if !without_broker(&mut node, |_| {}) {
        return;
    }
    controller.wait_for_connection(2);
    // A broker without memory has lost what was retained: the node says it again.
    wait_for("the node's return", || node.log(), || (states_heard(&controller) > before).then_some(()));
    node.feeder.low();
    assert_whole(&controller, 1);
}

#[test]
fn a_result_from_a_time_without_broker_survives_the_agent_and_arrives() {
    let (mut node, controller) = at_work(&Setup::new());
    let away = without_broker(&mut node, |node| {
        let pid = node.wait_for_workers(1)[0];
        // Finished when the worker has been asleep for half a second; one that waits for a core is not.
        let mut last = (cpu(pid), 0);
        wait_for(
            "the end of the batch",
            || node.log(),
            || {
                std::thread::sleep(Duration::from_millis(50));
                let now = cpu(pid);
                let idle = now == last.0 && state(pid) == Some('S');
                last = if idle { (now, last.1 + 1) } else { (now, 0) };
                (last.1 >= 10).then_some(())
            },
        );
        node.kill_agent();
    });
    if !away {
        return;
    }
    controller.wait_for_connection(2);
    node.start_agent();
    assert_whole(&controller, 1);
}

// ---- all of it ----

#[test]
fn forty_jobs_survive_twenty_kills_of_the_agent() {
    const KILLS: usize = 20;
    const JOBS: usize = 40;
    let mut random = Random::of_run();
    let mut node = Node::prepare(&Setup::new().with("governor", "settle_s", 0.05).with("jobs", "attempts_max", 100));
    let controller = node.controller();
    node.feeder.low();
    // Its first connection makes the session: from then on the broker keeps what is sent while it is away.
    node.start_agent();
    controller.wait("the node's first word", |messages| {
        messages.iter().find(|message| message.json["online"] == true).map(drop)
    });
    node.kill_agent();
    let attempts = json!({"limits": {"attempts": 100}});
    let (mut agents, mut sent) = (Vec::new(), 0);
    for kill in 1..=KILLS {
        node.start_agent();
        agents.push(node.agent_pid());
        while sent < JOBS * kill / KILLS {
            let id = format!("job-{sent}");
            match sent % 4 {
                3 => controller.publish(media_job(&id, "objects", "image", &vec![picture(); 4], &attempts)),
                _ => controller.submit(&id, &small(100)),
            }
            sent += 1;
        }
        // The fault's moment, not a wait: from "still starting" to "idle again".
        std::thread::sleep(Duration::from_millis(random.below(900)));
        node.kill_agent();
    }
    node.start_agent();
    agents.push(node.agent_pid());
    let ids: Vec<String> = (0..JOBS).map(|job| format!("job-{job}")).collect();
    for id in &ids {
        controller.wait_for_state(id, "SUCCEEDED");
        let result = controller.wait_for_result(id);
        let whole = result["outputs"].is_array() || result["items"].as_array().is_some_and(|items| items.len() == 4);
        assert!(whole, "{result}");
    }
    // Whatever is still to be repeated comes before the answer.
    controller.ask("ping", &json!({}));
    let repeated: usize = ids.iter().map(|id| controller.results(id).1 - 1).sum();
    let attempts: Vec<u64> =
        ids.iter().map(|id| controller.wait_for_result(id)["parameters"]["attempt"].as_u64().unwrap_or(0)).collect();
    eprintln!("{KILLS} kills, {JOBS} jobs: 0 lost, {repeated} results told twice, attempts {attempts:?}");
    assert!(ids.iter().all(|id| controller.results(id).0 == 1), "one result for each job");
    let last = agents.pop().expect("agents were started");
    // A process that was forked a moment ago is not yet a worker by its command line.
    let one = || (workers_of(last).len() == 1).then_some(());
    wait_for("the one worker of the last agent", || node.log(), one);
    assert!(agents.iter().all(|agent| workers_of(*agent).is_empty()), "orphans");
    let (code, took) = node.terminate_agent();
    assert_eq!(code, Some(0), "{took:?}");
}

// ---- SIGHUP ----

#[test]
fn a_reload_brings_the_governor_into_force_and_names_what_waits_for_a_restart() {
    let node = Node::start(&Setup::new());
    let controller = node.controller();
    node.feeder.percent(60);
    controller.wait_for_mode("busy");
    controller.submit("waiting", &small(1));
    controller.wait_for_state("waiting", "QUEUED");

    let setup = Setup::new().with("governor", "busy_above", 80).with("governor", "idle_below", 70);
    node.configure(&setup.with("mqtt", "port", 1).with("jobs", "open_max", 7));
    node.hangup();
    let state = controller.wait_for_mode("trough");
    assert!(state["reason"].as_str().is_some_and(|reason| reason.contains("60 % < 70 %")), "{state}");
    controller.wait_for_state("waiting", "SUCCEEDED");
    let named = || node.log().lines().any(|line| line.contains("restart") && line.contains("mqtt")).then_some(());
    wait_for("the section in the log", || node.log(), named);
}

#[test]
fn a_reload_of_a_wrong_configuration_changes_nothing_and_says_where_it_is_wrong() {
    let (mut node, controller) = in_a_trough(&Setup::new());
    node.configure(&Setup::new().with("governor", "busy_above", 140));
    node.hangup();
    let said =
        || node.log().lines().any(|line| line.contains("busy_above = 140") && line.contains("1 to 100")).then_some(());
    wait_for("the mistake in the log", || node.log(), said);
    assert!(node.agent_ended().is_none());
    node.feeder.percent(50);
    controller.wait_for_mode("busy");
    node.feeder.low();
    controller.submit("after", &small(1));
    controller.wait_for_state("after", "SUCCEEDED");
}
