//! Does the node speak with its broker in private, and do its certificates change without anybody noticing?

#![allow(missing_docs)]

mod common;
#[path = "support/owner.rs"]
mod owner;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::batch::picture;
use common::controller::{Controller, media_job};
use common::mosquitto::{Mosquitto, Options, Tls};
use common::node::{Broker, Node, Setup};
use common::pki::{Identity, Pki, Valid};
use common::wait_for;
use neap::link::mqtt::Settings;
use neap::link::tls;
use neap::sys::clock;
use owner::{Owner, UP, message, settings};
use serde_json::{Value, json};
use tempfile::TempDir;

/// An operator's certificates and a broker that wants one of every client.
struct Scene {
    _folder: TempDir,
    pki: Pki,
    node: Identity,
    controller: Identity,
    broker: Option<Mosquitto>,
}

/// `None`, loudly, without Mosquitto.
fn scene(valid: Valid) -> Option<Scene> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let pki = Pki::new(folder.path(), "operator");
    let server = pki.localhost();
    let (node, controller) = (pki.client("node", "node-1", valid), pki.client("ctl", "controller", Valid::NOW));
    let tls = Tls { ca: &pki.ca_file(), server: &server, wants_client: true };
    let broker = Some(Mosquitto::start(Options { tls: Some(tls), ..Options::default() })?);
    Some(Scene { _folder: folder, pki, node, controller, broker })
}

impl Scene {
    fn setup(&self) -> Setup {
        let port = self.broker.as_ref().expect("it is here until the node takes it").tls_port();
        let path = |path: &Path| path.display().to_string();
        Setup::new()
            .with("mqtt", "host", "localhost")
            .with("mqtt", "port", i64::from(port))
            .with("mqtt", "ca_file", path(&self.pki.ca_file()))
            .with("mqtt", "cert_file", path(&self.node.cert))
            .with("mqtt", "key_file", path(&self.node.key))
    }

    /// A node whose agent runs, over TLS; the controller of the test is on the broker's plain port.
    fn start(&mut self) -> (Node, Controller) {
        let setup = self.setup();
        let broker = Broker::Mosquitto(self.broker.take().expect("one node is started"));
        let mut node = Node::prepare_on(&setup, broker, &[]);
        node.start_agent();
        let controller = node.controller();
        node.feeder.low();
        controller.wait_for_mode("trough");
        (node, controller)
    }

    fn link(&self, identity: &Identity) -> Settings {
        let port = self.broker.as_ref().expect("it is here").tls_port();
        let identity = Some(tls::IdentityFiles { cert_file: identity.cert.clone(), key_file: identity.key.clone() });
        let ca_file = self.pki.ca_file();
        let tls = tls::Settings { ca_file, identity, server_name: None, least: tls::Least::Tls13 };
        let settings = Settings { tls: Some(tls), ..settings(port) };
        // The clock of these settings says 1970: what the owner believes is what counts.
        settings.certificates.set_wall(clock::wall(), true);
        settings
    }
}

fn ran(command: &mut Command) -> Output {
    command.output().expect("neap can be started")
}

fn log_of(node: &Node) -> String {
    match &node.broker {
        Broker::Mosquitto(mosquitto) => mosquitto.log(),
        Broker::Embedded(_) => unreachable!("the scene is one of Mosquitto"),
    }
}

/// How often the node's agent has connected, as the broker counts.
fn connects(node: &Node) -> usize {
    log_of(node).matches("as neap-test-node-1").count()
}

fn metrics(node: &Node) -> String {
    let mut stream = UnixStream::connect(node.folder.path().join("status.sock")).expect("the agent listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("the agent reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the agent answers");
    answer
}

fn info(controller: &Controller, look: impl Fn(&Value) -> bool) -> Value {
    controller.wait("an inventory as wanted", |messages| {
        messages.iter().rev().find(|one| one.topic == "up/info" && look(&one.json)).map(|one| one.json.clone())
    })
}

#[test]
fn a_job_goes_out_and_its_result_comes_back_over_tls_with_certificates_on_both_sides() {
    let Some(mut scene) = scene(Valid::NOW) else { return };
    let (node, controller) = scene.start();
    let inventory = info(&controller, |info| info["transport"] == "tls1.3");
    assert!(inventory["certificate"]["cert_expires"].is_string(), "{inventory}");
    let submit = ["submit", "--model", "objects", "--input", "models/objects/samples/chelsea.jpg", "--wait"];
    // With what the node has, from its configuration, and with the controller's own.
    let with_config = ran(node.cli(&submit).current_dir(env!("CARGO_MANIFEST_DIR")));
    let port = match &node.broker {
        Broker::Mosquitto(mosquitto) => mosquitto.tls_port(),
        Broker::Embedded(_) => unreachable!("the scene is one of Mosquitto"),
    };
    let with_flags = ran(Command::new(env!("CARGO_BIN_EXE_neap"))
        .args(submit)
        .args(["--broker", &format!("localhost:{port}"), "--node", "test/node-1"])
        .arg("--ca")
        .arg(scene.pki.ca_file())
        .arg("--cert")
        .arg(&scene.controller.cert)
        .arg("--key")
        .arg(&scene.controller.key)
        .current_dir(env!("CARGO_MANIFEST_DIR")));
    for output in [with_config, with_flags] {
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains("cat"), "{out}\n{error}\n{}", node.log());
    }
    let page = metrics(&node);
    assert!(page.contains("neap_transport{kind=\"tls1.3\"} 1"), "{page}");
    for whose in ["node", "authority", "broker"] {
        assert!(page.contains(&format!("neap_cert_expiry_seconds{{whose=\"{whose}\"")), "no {whose}: {page}");
    }
    assert!(!node.log().contains("PRIVATE"), "no key is logged");
}

#[tokio::test]
async fn two_thousand_messages_pass_the_bridge_each_once() {
    let Some(scene) = scene(Valid::NOW) else { return };
    let outbox: BTreeMap<u64, _> =
        (0..2_000).map(|number| (number, message(UP, format!("{number} {}", "x".repeat(200)).into_bytes()))).collect();
    let mut link = scene.link(&scene.controller);
    link.subscriptions.push((UP.to_owned(), neap::link::Qos::AtLeastOnce));
    let mut owner = Owner::start(link, outbox);
    let all = |owner: &Owner| owner.outbox.is_empty() && owner.received.len() >= 2_000;
    owner.until(Duration::from_secs(60), all).await.unwrap_or_else(|why| panic!("{why}: {}", owner.told()));
    assert_eq!((owner.delivered.len(), owner.received.len(), owner.ups), (2_000, 2_000, 1), "{:?}", owner.downs);
    owner.shut_down().await.expect("it ends");
    let log = scene.broker.as_ref().expect("it is here").log();
    assert!(!log.contains("unexpected eof"), "the goodbye of TLS is said");
    assert!(log.contains("Received DISCONNECT from node"), "and that of MQTT before it:\n{log}");
}

/// Jobs of one item each, submitted one after the other until told to stop.
fn keep_submitting(controller: &Controller, from: usize, count: usize) {
    for number in from..from + count {
        controller.publish(media_job(&format!("job-{number}"), "objects", "image", &[picture()], &json!({})));
    }
}

#[test]
fn renewed_certificates_are_taken_while_jobs_run_and_none_is_lost() {
    let Some(mut scene) = scene(Valid::days(20)) else { return };
    let (mut node, controller) = scene.start();
    let first = info(&controller, |info| info["transport"] == "tls1.3");
    let days = |info: &Value| info["certificate"]["cert_expires"].as_str().expect("it is told").to_owned();
    assert_eq!(first["certificate"]["whose"], "node");
    assert_eq!(connects(&node), 1);
    keep_submitting(&controller, 0, 8);
    // On SIGHUP, at once.
    scene.node.replace_by(&scene.pki.client("second", "node-1", Valid::days(25)));
    node.hangup();
    let second = info(&controller, |info| days(info) > days(&first));
    keep_submitting(&controller, 8, 8);
    // Without a word, when the files are looked at.
    scene.node.replace_by(&scene.pki.client("third", "node-1", Valid::days(28)));
    info(&controller, |info| days(info) > days(&second));
    keep_submitting(&controller, 16, 8);
    for number in 0..24 {
        let id = format!("job-{number}");
        controller.wait_for_result(&id);
        assert_eq!(controller.results(&id).0, 1, "{id}");
    }
    wait_for("three connections", || node.log(), || (connects(&node) == 3).then_some(()));
    assert!(
        !controller.messages().iter().any(|one| one.topic == "up/state" && one.json["online"] == false),
        "no death"
    );
    assert_eq!(node.terminate_agent().0, Some(0));
}

#[test]
fn new_files_that_are_no_good_leave_the_old_ones_in_force_and_raise_an_alarm() {
    let Some(mut scene) = scene(Valid::NOW) else { return };
    let (node, controller) = scene.start();
    let good = Identity { cert: scene.node.cert.with_extension("good"), key: scene.node.key.with_extension("kept") };
    fs::copy(&scene.node.cert, &good.cert).expect("a file can be copied");
    fs::copy(&scene.node.key, &good.key).expect("a file can be copied");
    // A certificate whose key was forgotten.
    fs::copy(scene.pki.client("other", "node-1", Valid::NOW).cert, &scene.node.cert).expect("a file can be copied");
    node.hangup();
    let alarm = alarm(&controller, "tls.reload_refused");
    assert!(alarm.contains("tls.key_mismatch"), "{alarm}");
    controller.wait("the state that says so", |messages| {
        let last = messages.iter().rev().find(|one| one.topic == "up/state")?;
        let degraded = last.json["degraded"].to_string();
        (last.json["online"] == true && degraded.contains("not taken")).then_some(())
    });
    assert_eq!(connects(&node), 1, "nothing was cut");
    scene.node.replace_by(&good);
    node.hangup();
    controller.wait("the state that is well again", |messages| {
        let last = messages.iter().rev().find(|one| one.topic == "up/state")?;
        last.json["degraded"].is_null().then_some(())
    });
}

/// The sentence of the first alarm of that code.
fn alarm(controller: &Controller, code: &str) -> String {
    controller.wait(code, |messages| {
        let alarms = messages.iter().filter(|one| one.topic == "up/event" && one.json["event"] == "alarm");
        let found = alarms.map(|one| &one.json).find(|alarm| alarm["code"] == code)?;
        found["message"].as_str().map(str::to_owned)
    })
}

#[test]
fn a_certificate_that_ends_soon_is_told_everywhere() {
    let Some(mut scene) = scene(Valid::days(6)) else { return };
    let (node, controller) = scene.start();
    let told = alarm(&controller, "tls.cert_expiring");
    assert!(told.contains("the node's own certificate (node-1) expires in 6 days"), "{told}");
    info(&controller, |info| info["certificate"]["whose"] == "node" && info["certificate"]["name"] == "node-1");
    let state = controller.wait_for_mode("trough");
    assert!(state["degraded"].to_string().contains("certificate: the node's own"), "{state}");
    assert!(node.log().contains("expires in 6 days"), "{}", node.log());
    assert!(metrics(&node).contains("neap_degraded{cause=\"certificate\"} 1"));
    let check = ran(&mut node.cli(&["check"]));
    assert!(String::from_utf8_lossy(&check.stdout).contains("expires in 6 days"), "{check:?}");
    assert!(check.status.success());
    let alarms = controller.events("alarm");
    assert_eq!(alarms.iter().filter(|alarm| alarm["code"] == "tls.cert_expiring").count(), 1, "{alarms:?}");
}

/// `neap check` of a configuration with these lines below `[mqtt]`.
fn check(folder: &Path, lines: &str) -> (Option<i32>, String) {
    let config = folder.join("neap.toml");
    let text = format!("[node]\nsite = \"test\"\nname = \"node-1\"\n[mqtt]\nhost = \"broker.example\"\n{lines}");
    fs::write(&config, text).expect("a file can be written");
    let output = ran(Command::new(env!("CARGO_BIN_EXE_neap")).arg("check").arg(&config));
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (output.status.code(), said)
}

#[test]
fn check_reads_every_file_and_tells_all_that_is_wrong_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let pki = Pki::new(folder.path(), "operator");
    let (good, other) = (pki.client("node", "node-1", Valid::NOW), pki.client("other", "node-2", Valid::NOT_YET));
    let ca = pki.ca_file();
    let lines =
        |ca: &Path, of: &Identity| format!("ca_file = {ca:?}\ncert_file = {:?}\nkey_file = {:?}\n", of.cert, of.key);
    let (code, said) = check(folder.path(), &lines(&ca, &good));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("transport: tls") && said.contains(":8883") && !said.contains("tls."), "{said}");
    let (_, said) = check(folder.path(), &lines(&ca, &good.with_key_of(&other)));
    assert!(said.contains("tls.key_mismatch"), "{said}");
    let (_, said) = check(folder.path(), &lines(&ca, &other));
    assert!(said.contains("is this node's clock right?") && said.contains("is of \"node-2\""), "{said}");
    // Three things at once: no authority, no certificate, a key for everybody.
    fs::set_permissions(&good.key, fs::Permissions::from_mode(0o644)).expect("a mode can be set");
    let bad = Identity { cert: good.key.clone(), key: good.key.clone() };
    let (_, said) = check(folder.path(), &lines(Path::new("/nowhere/ca.crt"), &bad));
    for words in ["/nowhere/ca.crt", "no certificate in it", "tls.key_permissions", "chmod 600"] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    assert!(!said.contains("BEGIN PRIVATE KEY-----\nM"), "nothing of the key is shown");
    let (code, said) = check(folder.path(), "cert_file = \"/a\"\ntls_min = \"1.1\"\nallow_insecure = true\n");
    assert_eq!(code, Some(78));
    for words in ["mqtt.cert_file", "needs the other half", "ca_file", "mqtt.tls_min", "\"1.3\", \"1.2\""] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
}

#[test]
fn clear_text_to_another_machine_shows_in_every_status() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (_, said) = check(folder.path(), "allow_insecure = true\n");
    assert!(said.contains("transport: plain-insecure") && said.contains("travels in plaintext"), "{said}");
    // TEST-NET-1: nobody answers there, which changes nothing about what would be said.
    let setup = Setup::new().with("mqtt", "host", "192.0.2.1").with("mqtt", "allow_insecure", true);
    let node = Node::start(&setup);
    wait_for("the log", || node.log(), || node.log().contains("what=\"insecure\"").then_some(()));
    assert!(node.log().contains("allow_insecure: everybody on the way"), "{}", node.log());
    wait_for("the status socket", || node.log(), || node.folder.path().join("status.sock").exists().then_some(()));
    let page = metrics(&node);
    assert!(page.contains("neap_degraded{cause=\"insecure\"} 1"), "{page}");
    assert!(page.contains("neap_transport{kind=\"plain-insecure\"} 1"), "{page}");
}
