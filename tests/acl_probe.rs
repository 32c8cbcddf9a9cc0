//! Does a node notice what the broker's access list denies it? The real agent, a real Mosquitto, real access lists.
//!
//! Needs Mosquitto; without it each test says so and does nothing, with `CI=true` it fails.

#![allow(missing_docs)]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::mosquitto::{Mosquitto, Options};
use common::node::{Node, Setup};
use common::wait_for;

/// A node at a broker with this access list. The list is about user names, which this broker believes.
fn node_at(broker: &Mosquitto) -> Node {
    let setup = Setup::new().with("mqtt", "port", i64::from(broker.port())).with("mqtt", "username", "test/node-1");
    Node::start(&setup)
}

fn start(acl: &str) -> Option<Mosquitto> {
    Mosquitto::start(Options { acl: Some(acl), ..Options::default() })
}

/// Whether the node says, on its own machine, where no broker is in the way, that the broker keeps it from its best.
fn is_degraded(node: &Node) -> Option<bool> {
    let mut stream = UnixStream::connect(node.folder.path().join("status.sock")).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    let mut lines = page.lines().filter(|line| line.starts_with("neap_degraded"));
    let line = lines.find(|line| line.contains("\"broker\""))?;
    Some(line.ends_with(" 1"))
}

/// Why the node is degraded, once it says so.
fn degraded(node: &Node) -> String {
    wait_for("a degraded node", || node.log(), || is_degraded(node).filter(|degraded| *degraded));
    node.log().lines().filter(|line| line.contains("degraded")).collect()
}

#[test]
fn a_state_that_may_not_be_written_is_told_with_the_line_that_is_missing() {
    let Some(broker) = start("user test/node-1\ntopic read neap/v1/#\ntopic write neap/v1/test/node-1/up/event\n")
    else {
        return;
    };
    let node = node_at(&broker);
    let why = degraded(&node);
    for words in ["mqtt.acl_probe_failed", "neap/v1/test/node-1/up/state", "135", "readwrite neap/v1/test/node-1/up/#"]
    {
        assert!(why.contains(words), "{words:?} is not in: {why}");
    }
}

#[test]
fn a_state_that_may_not_be_read_is_told_and_a_list_that_was_put_right_is_noticed() {
    let Some(broker) = start("user test/node-1\ntopic write neap/v1/#\ntopic read neap/v1/test/node-1/down/#\n") else {
        return;
    };
    let mut node = node_at(&broker);
    let why = degraded(&node);
    for words in ["mqtt.acl_probe_failed", "did not come back within 5 s", "readwrite neap/v1/test/node-1/up/#"] {
        assert!(why.contains(words), "{words:?} is not in: {why}");
    }
    broker.set_acl("user test/node-1\ntopic readwrite neap/v1/#\n");
    // A new connection probes at once; a standing one within a minute.
    node.kill_agent();
    node.start_agent();
    wait_for("an acknowledged state", || node.log(), || node.log().contains("connected").then_some(()));
    // Longer than the echo may take.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(is_degraded(&node), Some(false), "{}", node.log());
}

#[test]
fn the_list_that_is_shipped_lets_a_node_pass() {
    let Some(broker) = start(include_str!("../config/mosquitto.acl")) else { return };
    let node = node_at(&broker);
    wait_for("a connection", || node.log(), || node.log().contains("connected").then_some(()));
    // Longer than the echo may take.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(is_degraded(&node), Some(false), "{}", node.log());
}
