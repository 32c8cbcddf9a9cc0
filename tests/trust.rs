//! Does a node carry out what its controllers have signed, and nothing else? Real agent, real broker.

mod common;
#[path = "support/shelf.rs"]
mod shelf;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::controller::{Controller, message, read_json};
use common::node::{BASE, NAME, Node, SITE, Setup, models};
use neap::link::Publish;
use neap::sys::clock;
use neap::trust::dsse::Envelope;
use neap::trust::key::{PrivateKey, PublicKey, Role, SEED_BYTES};
use neap::trust::keyring::{Entry, KeyRing};
use neap::trust::order::{self, CANCEL, FLEET_HOLD, Message, PAYLOAD_TYPE, PROPERTY, SUBMIT, Signing};
use neap::units::WallTime;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; SEED_BYTES])
}

fn before(span: Duration) -> WallTime {
    WallTime::from_millis(clock::wall().as_millis() - i64::try_from(span.as_millis()).expect("a short span"))
}

/// A folder with the one model that these jobs name, signed: a node that wants orders signed wants models signed as well.
/// With the publisher's public key.
fn signed_models(folder: &Path) -> (PathBuf, PublicKey) {
    let model = folder.join("models/prb-forecast");
    shelf::copy(&models().join("prb-forecast"), &model);
    let publisher = shelf::new_key();
    shelf::sign(&model, &publisher);
    (folder.join("models"), publisher.public().clone())
}

/// Key 1 may do everything; each other one lacks something. The last one signs models.
fn ring(publisher: PublicKey) -> KeyRing {
    let all = || vec!["*".to_owned()];
    let entry = |seed: u8| Entry {
        key: key(seed).public(),
        role: Role::Controller,
        owner: "ctl-a".parse().expect("a name"),
        not_before: None,
        not_after: None,
        nodes: all(),
        models: all(),
    };
    let mut ring = KeyRing::default();
    for entry in [
        entry(1),
        entry(2),
        Entry { not_after: Some(before(MINUTE)), ..entry(3) },
        Entry { not_before: Some(clock::wall().after(60 * MINUTE)), ..entry(4) },
        Entry { role: Role::Publisher, ..entry(5) },
        Entry { nodes: vec!["test/node-2".to_owned()], ..entry(6) },
        Entry { models: vec!["objects".to_owned()], ..entry(7) },
        shelf::entry(publisher, "models-team"),
    ] {
        ring.add(entry).expect("the ring has room");
    }
    ring.revoke(key(2).public().id(), clock::wall(), "stolen").expect("it is there");
    ring
}

/// A node that wants signatures, in a trough.
fn node(mode: &str) -> (Node, Controller) {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let keys = folder.join("keys.json");
    let (models, publisher) = signed_models(&folder);
    fs::write(&keys, ring(publisher).render()).expect("the ring can be written");
    let setup = Setup::new().with("trust", "keys", keys.display().to_string()).with("trust", "mode", mode);
    let setup = setup.with("models", "dir", models.display().to_string());
    let node = Node::start(&setup);
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    (node, controller)
}

/// A small job for that model.
fn job(id: &str) -> Publish {
    let input = read_json(models().join("prb-forecast/samples/morning-rise.json"));
    let body = json!({"model": "prb-forecast", "input": input}).to_string().into_bytes();
    message(&format!("{BASE}/down/job/{id}"), body)
}

fn with(mut message: Publish, envelope: impl Into<String>) -> Publish {
    message.properties.push((PROPERTY.to_owned(), envelope.into()));
    message
}

fn signing(seq: u64) -> Signing {
    let issued = clock::wall();
    let issuer = "ctl-a".parse().expect("a name");
    Signing { issuer, seq, issued, not_before: None, expires: issued.after(10 * MINUTE) }
}

fn given<'a>(order: &'a str, id: &'a str, message: &'a Publish) -> Message<'a> {
    Message {
        site: SITE,
        node: if order == FLEET_HOLD { "*" } else { NAME },
        order,
        id,
        body: &message.body,
        content_type: message.content_type.as_deref(),
        header: None,
        reply: message.response_topic.as_deref(),
    }
}

/// The order, signed as it should be.
fn signed(order: &str, id: &str, message: Publish, seq: u64) -> Publish {
    let envelope = order::sign(&given(order, id, &message), &signing(seq), &key(1));
    with(message, envelope)
}

fn command(name: &str) -> Publish {
    message(&format!("{BASE}/down/cmd/{name}"), b"{}".to_vec())
}

/// The envelope with something of it exchanged.
fn edited(envelope: &str, edit: impl FnOnce(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(envelope).expect("an envelope is JSON");
    edit(&mut value);
    value.to_string()
}

fn wait_for_alarm(controller: &Controller, code: &str) {
    let found = || controller.events("alarm").into_iter().find(|alarm| alarm["code"] == code);
    common::wait_for(code, || controller.told(), found);
}

/// A submit that nobody should believe, with the code that says why.
type Forgery = (&'static str, fn(&Publish, &str) -> String);

/// The envelope of a job of that id, with these claims and that key.
fn envelope(job: &Publish, id: &str, seed: u8, change: impl FnOnce(&mut Signing)) -> String {
    let mut signing = signing(1);
    change(&mut signing);
    order::sign(&given(SUBMIT, id, job), &signing, &key(seed))
}

fn good(job: &Publish, id: &str) -> String {
    envelope(job, id, 1, |_| {})
}

fn other(job: &Publish, id: &str, change: impl FnOnce(&mut Message<'_>)) -> String {
    let mut message = given(SUBMIT, id, job);
    change(&mut message);
    order::sign(&message, &signing(1), &key(1))
}

const FORGERIES: &[Forgery] = &[
    ("trust.too_large", |_, _| format!("{{{}", " ".repeat(9_000))),
    ("trust.envelope", |_, _| "trust me".to_owned()),
    ("trust.payload_type", |_, _| Envelope::sign("application/json", b"{}".to_vec(), &key(1)).render()),
    ("trust.no_signature", |job, id| edited(&good(job, id), |all| all["signatures"] = json!([]))),
    ("trust.too_many_signatures", |job, id| {
        edited(&good(job, id), |all| all["signatures"] = json!(vec![all["signatures"][0].clone(); 3]))
    }),
    ("trust.unknown_key", |job, id| envelope(job, id, 9, |_| {})),
    ("trust.key_revoked", |job, id| envelope(job, id, 2, |_| {})),
    ("trust.key_expired", |job, id| envelope(job, id, 3, |_| {})),
    ("trust.key_not_yet_valid", |job, id| envelope(job, id, 4, |_| {})),
    ("trust.key_role", |job, id| envelope(job, id, 5, |_| {})),
    ("trust.key_scope", |job, id| envelope(job, id, 6, |_| {})),
    ("trust.model_not_allowed", |job, id| envelope(job, id, 7, |_| {})),
    ("trust.bad_signature", |job, id| {
        let own = key(1).public().id().to_string();
        edited(&envelope(job, id, 9, |_| {}), |all| all["signatures"][0]["keyid"] = json!(own))
    }),
    ("trust.weak_signature", |job, id| edited(&good(job, id), |all| all["signatures"][0]["sig"] = json!("AAAA"))),
    ("trust.payload", |_, _| Envelope::sign(PAYLOAD_TYPE, b"[]".to_vec(), &key(1)).render()),
    ("trust.version", |_, _| Envelope::sign(PAYLOAD_TYPE, b"{\"v\":9}".to_vec(), &key(1)).render()),
    ("trust.issuer", |job, id| envelope(job, id, 1, |signing| signing.issuer = "ctl-b".parse().expect("a name"))),
    ("trust.wrong_site", |job, id| other(job, id, |message| message.site = "elsewhere")),
    ("trust.wrong_node", |job, id| other(job, id, |message| message.node = "node-2")),
    ("trust.wrong_order", |job, id| other(job, id, |message| message.order = CANCEL)),
    ("trust.wrong_id", |job, id| other(job, id, |message| message.id = "another")),
    ("trust.expired", |job, id| {
        envelope(job, id, 1, |signing| {
            signing.issued = before(2 * MINUTE);
            signing.expires = before(MINUTE);
        })
    }),
    ("trust.not_yet_valid", |job, id| {
        envelope(job, id, 1, |signing| signing.not_before = Some(clock::wall().after(5 * MINUTE)))
    }),
    ("trust.from_future", |job, id| {
        envelope(job, id, 1, |signing| {
            signing.issued = clock::wall().after(5 * MINUTE);
            signing.expires = clock::wall().after(9 * MINUTE);
        })
    }),
    ("trust.lifetime", |job, id| {
        envelope(job, id, 1, |signing| signing.expires = clock::wall().after(8 * 24 * 60 * MINUTE))
    }),
    ("trust.body_mismatch", |job, id| other(job, id, |message| message.body = b"{}")),
    ("trust.form_mismatch", |job, id| other(job, id, |message| message.content_type = Some("text/plain"))),
    ("trust.reply_mismatch", |job, id| other(job, id, |message| message.reply = Some("neap/v1/x"))),
    ("trust.sequence_too_old", |job, id| envelope(job, id, 1, |signing| signing.issued = before(5 * MINUTE))),
];

#[test]
fn of_every_forged_expired_replayed_or_misaddressed_order_none_is_carried_out_and_each_is_told_apart() {
    let (_node, controller) = node("require");
    let mut jobs: Vec<(String, &str, Publish)> = FORGERIES
        .iter()
        .map(|(code, forge)| {
            let id = code.replace("trust.", "forged-");
            let job = job(&id);
            let envelope = forge(&job, &id);
            (id, *code, with(job, envelope))
        })
        .collect();
    jobs.push(("forged-unsigned".to_owned(), "trust.unsigned", job("forged-unsigned")));
    let twice = job("forged-twice");
    let envelope = good(&twice, "forged-twice");
    jobs.push(("forged-twice".to_owned(), "trust.ambiguous", with(with(twice, envelope.clone()), envelope)));
    for (_, _, job) in &jobs {
        controller.publish(job.clone());
    }
    for (id, code, _) in &jobs {
        let last = controller.wait_for_state(id, "REJECTED");
        assert_eq!(last["error"]["code"], *code, "{last}");
    }
    // One that is right shows that the node would have run them by now.
    controller.publish(signed(SUBMIT, "right", job("right"), 2));
    controller.wait_for_state("right", "SUCCEEDED");
    for (id, _, _) in &jobs {
        let states = controller.statuses(id);
        assert!(states.iter().all(|status| status["status"] == "REJECTED"), "{id}: {states:?}");
    }

    let mut codes: BTreeSet<&str> = jobs.iter().map(|(_, code, _)| *code).collect();
    assert_eq!(codes.len(), jobs.len(), "each has its own code");
    controller.publish(signed("drain", "", command("drain"), 5));
    controller.publish(signed("resume", "", command("resume"), 6));
    controller.publish(signed("drain", "", command("drain"), 5));
    wait_for_alarm(&controller, "trust.replayed");
    codes.insert("trust.replayed");
    assert!(codes.len() >= 25, "{codes:?}");
    controller.publish(signed(SUBMIT, "after", job("after"), 7));
    controller.wait_for_state("after", "SUCCEEDED");
}

#[test]
fn a_broker_can_neither_cancel_nor_hold_nor_empty_a_node() {
    let (node, controller) = node("require");
    node.feeder.high();
    controller.wait_for_mode("busy");
    controller.publish(signed(SUBMIT, "j1", job("j1"), 1));
    controller.wait_for_state("j1", "QUEUED");
    controller.cancel("j1");
    wait_for_alarm(&controller, "trust.unsigned");
    // Signed, but for another job.
    let cancel = message(&format!("{BASE}/down/job/j1/cancel"), Vec::new());
    let moved = order::sign(&given(CANCEL, "j2", &cancel), &signing(2), &key(1));
    controller.publish(with(cancel.clone(), moved));
    wait_for_alarm(&controller, "trust.wrong_id");
    let hold = message(&format!("neap/v1/{SITE}/fleet/down/hold"), b"{}".to_vec());
    let wrong = order::sign(&Message { node: NAME, ..given(FLEET_HOLD, "", &hold) }, &signing(3), &key(1));
    controller.publish(with(hold.clone(), wrong));
    wait_for_alarm(&controller, "trust.wrong_node");
    let refused = controller.ask("drain", &json!({}));
    assert_eq!(refused["error"]["code"], "trust.unsigned", "{refused}");
    // A submit in the name of a job that lives does not end it.
    controller.publish(message(&format!("{BASE}/down/job/j1"), b"{}".to_vec()));

    node.feeder.low();
    controller.wait_for_state("j1", "SUCCEEDED");
    assert!(controller.statuses("j1").iter().all(|status| status["status"] != "REJECTED"));

    controller.publish(signed(FLEET_HOLD, "", hold, 9));
    controller.wait_for_mode("held");
}

#[test]
fn an_order_counts_once_whatever_becomes_of_the_node() {
    let (mut node, controller) = node("require");
    let right = signed(SUBMIT, "once", job("once"), 1);
    controller.publish(right.clone());
    controller.wait_for_state("once", "SUCCEEDED");
    let (drain, resume) = (signed("drain", "", command("drain"), 5), signed("resume", "", command("resume"), 6));
    controller.publish(drain.clone());
    controller.publish(resume);
    controller.publish(signed(SUBMIT, "witness", job("witness"), 7));
    controller.wait_for_state("witness", "SUCCEEDED");

    node.kill_agent();
    node.start_agent();
    controller.publish(drain);
    wait_for_alarm(&controller, "trust.replayed");
    controller.publish(right.clone());
    controller.publish(signed(SUBMIT, "later", job("later"), 8));
    controller.wait_for_state("later", "SUCCEEDED");
    let ran = controller.statuses("once").iter().filter(|status| status["status"] == "IN_PROGRESS").count();
    assert_eq!(ran, 1, "a known job is told of, not run again");

    // A node that has lost its memory does not believe what was signed before.
    node.kill_agent();
    fs::remove_dir_all(node.folder.path().join("state")).expect("the state can be removed");
    node.start_agent();
    // Another one, that has not heard how it went before.
    let controller = node.controller();
    controller.wait_for_mode("trough");
    controller.publish(right);
    let last = controller.wait_for_state("once", "REJECTED");
    assert_eq!(last["error"]["code"], "trust.sequence_too_old", "{last}");
}

#[test]
fn a_warning_mode_takes_what_nobody_signed_and_refuses_what_is_forged() {
    let (node, controller) = node("warn");
    controller.publish(job("plain"));
    controller.wait_for_state("plain", "SUCCEEDED");
    let forged = job("forged");
    let envelope = envelope(&forged, "forged", 9, |_| {});
    controller.publish(with(forged, envelope));
    assert_eq!(controller.wait_for_state("forged", "REJECTED")["error"]["code"], "trust.unknown_key");
    assert!(node.log().contains("carried out unsigned"), "{}", node.log());
    let told = controller.wait("the inventory", |messages| {
        messages.iter().find(|message| message.topic == "up/info").map(|message| message.json["trust"].clone())
    });
    assert_eq!(told, "warn");
}

fn neap(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_neap")).args(arguments).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn done(arguments: &[&str]) -> String {
    let (success, told, wrong) = neap(arguments);
    assert!(success, "{arguments:?}: {wrong}");
    told
}

#[test]
fn a_person_makes_a_key_a_ring_and_signed_orders_and_revokes_the_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (private, public, keys) = (path("ctl.key"), path("ctl.key.pub"), path("keys.json"));
    done(&["key", "new", "--role", "controller", "--owner", "ctl-a", "--out", &private]);
    let (success, _, wrong) = neap(&["key", "new", "--role", "controller", "--owner", "x", "--out", &private]);
    assert!(!success && wrong.contains("never written over"), "{wrong}");
    let shown = done(&["key", "show", "--json", &private]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert!(!shown.to_string().contains("PRIVATE"), "{shown}");
    let id = shown["id"].as_str().expect("an id").to_owned();
    done(&["key", "ring", "add", "--ring", &keys, &public, "--nodes", "test/*"]);

    let (models, publisher) = signed_models(folder.path());
    let publisher_file = path("publisher.pub");
    fs::write(&publisher_file, format!("owner: models-team\nrole: publisher\n{}", publisher.to_pem()))
        .expect("written");
    done(&["key", "ring", "add", "--ring", &keys, &publisher_file]);
    let setup = Setup::new().with("trust", "keys", keys.clone()).with("models", "dir", models.display().to_string());
    let node = Node::start(&setup);
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let job_file = path("job.json");
    fs::write(&job_file, &job("x").body).expect("a file can be written");
    let run = |arguments: &[&str]| node.cli(arguments).output().expect("the binary runs");
    let unsigned = run(&["submit", "--wait", "--id", "u1", &job_file]);
    assert!(!unsigned.status.success(), "it is not signed");
    let signed = run(&["submit", "--wait", "--id", "s1", "--sign-with", &private, &job_file]);
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    for order in ["ping", "drain", "resume"] {
        let ordered = run(&["order", order, "--sign-with", &private]);
        assert!(ordered.status.success(), "{order}: {}", String::from_utf8_lossy(&ordered.stderr));
    }

    let topic = format!("{BASE}/down/job/s2");
    let envelope = done(&["sign", "--key", &private, "--topic", &topic, &job_file]);
    controller.publish(with(job("s2"), envelope.trim()));
    controller.wait_for_state("s2", "SUCCEEDED");

    done(&["key", "ring", "revoke", "--ring", &keys, &id, "--why", "laptop lost"]);
    node.hangup();
    common::wait_for("the new ring", || node.log(), || node.log().contains("seq=3").then_some(()));
    let refused = run(&["order", "drain", "--sign-with", &private]);
    let wrong = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && wrong.contains("trust.key_revoked"), "{wrong}");
    let listed = done(&["key", "ring", "list", "--ring", &keys]);
    assert!(listed.contains(&id) && listed.contains("revoked"), "{listed}");
}
