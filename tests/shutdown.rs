//! How long does the agent take to end? SIGTERM again and again, at random moments of a batch.
//!
//! `NEAP_CHAOS=full` does it 200 times instead of 20.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::batch::submit;
use common::emulation::slow_by;
use common::node::{Broker, Node, Setup, cpu, is_alive, state};
use common::random::{Random, full};
use common::wait_for;
use neap::sys::clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// No noise of a busy machine reaches it; what is usual is printed.
const END_MAX: Duration = Duration::from_secs(5);

/// Least, median and most.
fn spread(mut spans: Vec<Duration>) -> String {
    spans.sort_unstable();
    format!("min {:?}, median {:?}, max {:?}", spans[0], spans[spans.len() / 2], spans[spans.len() - 1])
}

/// The first thing that the start shows is the socket for load; what it makes after that may not be left behind either.
#[test]
fn it_ends_in_order_when_it_is_asked_while_it_starts() {
    let mut node = Node::prepare(&Setup::new());
    for turn in 0..10 {
        node.start_agent();
        let places = ["load.sock", "status.sock"].map(|name| node.folder.path().join(name));
        let asked = clock::now();
        // Without a pause between two looks: what is looked for lasts milliseconds.
        while !places[0].exists() {
            assert!(clock::now().since(asked) < END_MAX * slow_by() * 6, "turn {turn}: no socket\n{}", node.log());
        }
        assert_eq!(node.terminate_agent().0, Some(0), "turn {turn}:\n{}", node.log());
        assert!(places.iter().all(|place| !place.exists()), "turn {turn}: {places:?}");
    }
}

#[test]
fn it_ends_in_order_at_whatever_moment_it_is_asked() {
    let loops = if full() { 200 } else { 20 };
    let mut random = Random::of_run();
    let mut node = Node::prepare(&Setup::new());
    let controller = node.controller();
    node.feeder.low();
    let (mut stops, mut ends) = (Vec::new(), Vec::new());
    for turn in 0..loops {
        node.start_agent();
        controller.wait_for_mode("trough");
        submit(&controller, &format!("batch-{turn}"), &json!({}));
        let worker = node.wait_for_workers(1)[0];
        let before = cpu(worker).unwrap_or_default();
        let computes = || cpu(worker).filter(|now| *now > before + Duration::from_millis(20)).map(drop);
        wait_for("a worker that computes", || node.log(), computes);
        std::thread::sleep(Duration::from_millis(random.below(100)));

        let agent = Pid::from_raw(node.agent_pid()).expect("a process id is not 0");
        let asked = clock::now();
        kill_process(agent, Signal::TERM).expect("a child can be signalled");
        let stands = || matches!(state(worker), None | Some('T' | 't' | 'Z' | 'X')).then(clock::now);
        let stopped = wait_for("the worker's stop", || node.log(), stands);
        let ended = wait_for("the end of the agent", String::new, || node.agent_ended());
        let took = clock::now().since(asked);
        assert_eq!(ended.code(), Some(0), "turn {turn}:\n{}", node.log());
        assert!(took <= END_MAX * slow_by(), "turn {turn}: {took:?}\n{}", node.log());
        assert!(!is_alive(worker), "turn {turn}: an orphan");
        node.forget_agent();
        controller.wait(&format!("goodbye {turn}"), |messages| {
            let goodbyes = messages.iter().filter(|message| message.json["cause"] == "shutdown");
            let sessions: BTreeSet<&str> = goodbyes.filter_map(|message| message.json["session"].as_str()).collect();
            (sessions.len() > turn).then_some(())
        });
        stops.push(stopped.since(asked));
        ends.push(took);
    }
    eprintln!("{loops} ends: worker stopped {}; agent gone {}", spread(stops), spread(ends));
}

#[test]
fn a_second_word_ends_it_without_waiting_for_a_broker_that_hangs() {
    let mut node = Node::prepare(&Setup::new());
    let controller = node.controller();
    node.feeder.low();
    node.start_agent();
    controller.wait_for_mode("trough");
    let Broker::Mosquitto(mosquitto) = &node.broker else {
        eprintln!("\n!!! SKIPPED: the embedded broker cannot be made to hang !!!\n");
        return;
    };
    let broker = Pid::from_raw(mosquitto.pid()).expect("a process id is not 0");
    kill_process(broker, Signal::STOP).expect("a child can be signalled");
    let agent = Pid::from_raw(node.agent_pid()).expect("a process id is not 0");
    let asked = clock::now();
    kill_process(agent, Signal::TERM).expect("a child can be signalled");
    std::thread::sleep(Duration::from_millis(50));
    kill_process(agent, Signal::TERM).expect("a child can be signalled");
    let ended = wait_for("the end of the agent", String::new, || node.agent_ended());
    let took = clock::now().since(asked);
    kill_process(broker, Signal::CONT).expect("a child can be signalled");
    eprintln!("a second SIGTERM, 50 ms after the first, with a broker that hangs: gone after {took:?}");
    assert_eq!(ended.code(), Some(0), "{}", node.log());
    assert!(took <= END_MAX * slow_by(), "{took:?}");
    node.forget_agent();
}
