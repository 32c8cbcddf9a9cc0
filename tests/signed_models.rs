//! Does a node take only the models that a publisher of its key ring signed, as the OpenSSF tool signs them?
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "support/shelf.rs"]
mod shelf;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::emulation::is_emulated;
use common::node::{Node, Setup};
use neap::model::floors::Floors;
use neap::model::library::Library;
use neap::model::signed::{self, Standing, Terms};
use neap::sys::clock;
use neap::trust::bundle::{SIGNATURE_FILE, Statement};
use neap::trust::keyring::KeyRing;
use neap::units::WallTime;
use serde_json::{Value, json};
use shelf::{Shelf, copy, entry, fixtures, new_key, public, ring, said, sign, sign_payload};

fn refused(shelf: &Shelf, code: &str, words: &str) {
    let (right, detail) = shelf.verdict();
    assert!(!right && detail.starts_with(&format!("{code}: ")) && detail.contains(words), "{code} {words:?}: {detail}");
}

fn a_good_one() -> Shelf {
    let shelf = Shelf::with(Some("p256.sig"));
    assert!(shelf.verdict().0, "{:?}", shelf.verdict());
    shelf
}

fn ago(span: Duration) -> WallTime {
    let millis = i64::try_from(span.as_millis()).unwrap();
    WallTime::from_millis(clock::wall().as_millis() - millis)
}

#[test]
fn what_the_tool_signed_is_good() {
    for (signature, publisher) in [("p256.sig", "acme"), ("p384.sig", "other")] {
        let shelf = Shelf::with(Some(signature));
        let (right, detail) = shelf.verdict();
        assert!(right && detail.contains(&format!("signature good, by {publisher}")), "{detail}");
        let listed = said(&shelf.run("list", &[]));
        assert!(listed.contains(&format!("good, {publisher}")), "{listed}");
    }
}

#[test]
fn what_the_tool_can_do_besides_is_refused_with_the_reason() {
    for (signature, code, words) in [
        ("certificate.sig", "model.bad_signature", "certificate"),
        ("shards.sig", "model.bad_signature", "shards"),
        ("blake3.sig", "model.bad_signature", "blake3"),
        ("with-links.sig", "model.bad_signature", "without links"),
        ("p521.sig", "model.unknown_key", "no publisher's on this node"),
        ("without-golden.sig", "model.files_differ", "not signed: \"golden/bad-radio.json\""),
    ] {
        refused(&Shelf::with(Some(signature)), code, words);
    }
}

#[test]
fn a_model_without_a_signature_is_refused() {
    refused(&Shelf::with(None), "model.unsigned", "model.sig is not there");
}

#[test]
fn any_change_of_the_files_is_refused() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 10] = [
        ("changed: \"1/model.onnx\"", |model| {
            // The digest of the manifest must not be what notices it: it is changed along.
            let path = model.join("golden/healthy.json");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text + " ").unwrap();
        }),
        ("changed: \"model.toml\"", |model| {
            let path = model.join("model.toml");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace("above = 2.5", "above = 9.5")).unwrap();
        }),
        ("not signed: \"golden/more.json\"", |model| fs::write(model.join("golden/more.json"), "{}").unwrap()),
        ("not signed: \".hidden\"", |model| fs::write(model.join(".hidden"), "").unwrap()),
        ("missing: \"samples/healthy.json\"", |model| {
            let text = fs::read_to_string(model.join("model.toml")).unwrap();
            assert!(text.contains("samples/healthy.json"));
            fs::remove_file(model.join("samples/healthy.json")).unwrap();
        }),
        ("not signed: \"samples/other.json\"", |model| {
            fs::rename(model.join("samples/healthy.json"), model.join("samples/other.json")).unwrap();
        }),
        ("symbolic link", |model| {
            fs::rename(model.join("samples/healthy.json"), model.parent().unwrap().join("away.json")).unwrap();
            symlink("../../away.json", model.join("samples/healthy.json")).unwrap();
        }),
        ("symbolic link", |model| {
            fs::rename(model.join("samples"), model.parent().unwrap().join(".samples")).unwrap();
            symlink("../.samples", model.join("samples")).unwrap();
        }),
        ("hard link", |model| {
            fs::hard_link(model.join("samples/healthy.json"), model.parent().unwrap().join("second.json")).unwrap();
        }),
        ("neither file nor folder", |model| {
            let made = Command::new("mkfifo").arg(model.join("samples/pipe")).status().unwrap();
            assert!(made.success());
        }),
    ];
    for (words, change) in changes {
        let shelf = a_good_one();
        change(&shelf.model());
        let words = if words.contains("model.onnx") { "changed: \"golden/healthy.json\"" } else { words };
        refused(&shelf, "model.files_differ", words);
    }
}

#[test]
fn another_network_under_the_old_signature_is_refused() {
    let shelf = a_good_one();
    fs::write(shelf.model().join("1/model.onnx"), b"another network").unwrap();
    // The manifest's digest is the first that says so, the signature would be the next.
    refused(&shelf, "model.hash_mismatch", "1/model.onnx");
    let library = Library::open(&shelf.models()).unwrap();
    let (ring, floors) = (ring(), Floors::default());
    let terms = Terms { publishers: &ring, floors: &floors, now: clock::wall() };
    let fault = signed::judge(library.entries().next().unwrap(), terms).unwrap_err();
    assert_eq!(fault.code.as_str(), "model.files_differ", "{fault}");
}

#[test]
fn a_signature_that_was_damaged_is_refused() {
    let bundle = fs::read_to_string(fixtures().join("p256.sig")).unwrap();
    let mut other: Value = serde_json::from_str(&bundle).unwrap();
    let sig = other["dsseEnvelope"]["signatures"][0]["sig"].as_str().unwrap().to_owned();
    other["dsseEnvelope"]["signatures"][0]["sig"] = sig.replacen('A', "B", 1).into();
    for (text, words) in [
        (bundle[..bundle.len() / 2].to_owned(), "no Sigstore bundle"),
        (String::new(), "no Sigstore bundle"),
        ("x".repeat(2 * 1024 * 1024), "bytes are too many"),
        (other.to_string(), "does not verify"),
    ] {
        let shelf = Shelf::with(None);
        fs::write(shelf.model().join(SIGNATURE_FILE), text).unwrap();
        refused(&shelf, "model.bad_signature", words);
    }
    let shelf = Shelf::with(None);
    symlink(fixtures().join("p256.sig"), shelf.model().join(SIGNATURE_FILE)).unwrap();
    refused(&shelf, "model.bad_signature", "sign the model again");
}

#[test]
fn a_statement_that_is_signed_but_wrong_is_refused() {
    let key = new_key();
    let mut trusting = KeyRing::default();
    trusting.add(entry(key.public().clone(), "acme")).unwrap();
    let refused_when = |words: &str, change: &dyn Fn(&mut Value)| {
        let shelf = Shelf::with(None);
        shelf.use_ring(&trusting);
        let files = signed::files(&shelf.model()).unwrap();
        let statement = Statement { name: "kpi-anomaly".to_owned(), files };
        let mut value: Value = serde_json::from_slice(&statement.render()).unwrap();
        sign_payload(&shelf.model(), &key, value.to_string().as_bytes());
        assert!(shelf.verdict().0, "{:?}", shelf.verdict());
        change(&mut value);
        sign_payload(&shelf.model(), &key, value.to_string().as_bytes());
        refused(&shelf, "model.bad_signature", words);
    };
    refused_when("slsa.dev", &|value| value["predicateType"] = "https://slsa.dev/provenance/v1".into());
    refused_when("digest over all files", &|value| value["subject"][0]["digest"]["sha256"] = "ab".repeat(32).into());
    refused_when("no path of a file", &|value| {
        value["predicate"]["resources"][0]["name"] = "../../etc/passwd".into();
    });
    refused_when("twice", &|value| {
        let resources = value["predicate"]["resources"].as_array_mut().unwrap();
        resources[1] = resources[0].clone();
    });
    refused_when("md5", &|value| value["predicate"]["resources"][0]["algorithm"] = "md5".into());
    refused_when("0 subjects", &|value| value["subject"] = json!([]));
}

#[test]
fn keys_that_do_not_count_are_told_apart() {
    let only = |change: &dyn Fn(&mut neap::trust::keyring::Entry)| {
        let mut ring = KeyRing::default();
        let mut known = entry(public("p256.pub.pem"), "acme");
        change(&mut known);
        ring.add(known).unwrap();
        ring
    };
    let shelf = a_good_one();
    shelf.use_ring(&KeyRing::default());
    refused(&shelf, "model.unknown_key", "known: none");
    shelf.use_ring(&only(&|entry| entry.key = public("p384.pub.pem")));
    refused(&shelf, "model.unknown_key", "known: acme");
    shelf.use_ring(&only(&|entry| entry.role = neap::trust::key::Role::Controller));
    refused(&shelf, "model.unknown_key", "known: none");
    shelf.use_ring(&only(&|entry| entry.not_after = Some(ago(Duration::from_secs(60)))));
    refused(&shelf, "model.key_expired", "counted until");
    shelf.use_ring(&only(&|entry| entry.models = vec!["prb-*".to_owned()]));
    refused(&shelf, "model.key_scope", "counts for prb-*");
    let mut revoked = ring();
    revoked.revoke(public("p256.pub.pem").id(), ago(Duration::from_secs(5)), "stolen").unwrap();
    shelf.use_ring(&revoked);
    refused(&shelf, "model.key_revoked", "stolen");
    shelf.use_ring(&ring());
    assert!(shelf.verdict().0);
}

#[test]
fn a_model_whose_time_has_passed_is_refused() {
    let key = new_key();
    let mut ring = KeyRing::default();
    ring.add(entry(key.public().clone(), "acme")).unwrap();
    let with_end = |end: &str| {
        let shelf = Shelf::with(None);
        shelf.use_ring(&ring);
        let path = shelf.model().join("model.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("expires = \"{end}\"\n{text}")).unwrap();
        sign(&shelf.model(), &key);
        shelf
    };
    refused(&with_end("2026-01-01T00:00:00Z"), "model.expired", "2026-01-01");
    assert!(with_end("2126-01-01T00:00:00+02:00").verdict().0);
}

#[test]
fn a_version_below_the_floor_is_refused_whatever_folder_it_comes_in() {
    let shelf = a_good_one();
    Floors::update(&shelf.path("state"), |floors| floors.decide(&"kpi-anomaly".parse().unwrap(), 2)).unwrap();
    refused(&shelf, "model.version_rollback", "below 2");
    fs::write(shelf.path("state").join("model-floors.json"), "nonsense").unwrap();
    let output = shelf.run("verify", &[]);
    assert!(!output.status.success() && said(&output).contains("state.corrupt"), "{}", said(&output));
}

#[test]
fn a_node_that_only_warns_takes_it_and_says_so() {
    let shelf = Shelf::with(None);
    let (ring, floors) = (ring(), Floors::default());
    let terms = Terms { publishers: &ring, floors: &floors, now: clock::wall() };
    let open = |is_required| {
        Library::open_judged(&shelf.models(), |entry| signed::stand(entry, Some(terms), is_required)).unwrap()
    };
    let warned = open(false);
    let standing = warned.entries().next().unwrap().standing.clone();
    assert!(matches!(standing, Standing::Doubtful(fault) if fault.code.as_str() == "model.unsigned"));
    let strict = open(true);
    assert_eq!((strict.entries().count(), strict.refused().len(), strict.problems().len()), (0, 1, 0));
    let fault = strict.find(&"kpi-anomaly".parse().unwrap(), None, None).unwrap_err();
    assert_eq!(fault.code.as_str(), "model.unsigned", "a job is told why, not that there is no such model");
}

#[test]
fn what_neap_signs_is_good_for_neap_and_for_the_tool() {
    let shelf = Shelf::with(None);
    let key = shelf.path("publisher.key");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_neap")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    };
    let (key_path, model) = (key.display().to_string(), shelf.model().display().to_string());
    run(&["key", "new", "--role", "publisher", "--owner", "me", "--out", &key_path]);
    run(&["models", "sign", &model, "--key", &key_path]);
    let public_path = format!("{key_path}.pub");
    let public = neap::trust::key::PublicKey::from_pem(&fs::read_to_string(&public_path).unwrap()).unwrap();
    let mut ring = KeyRing::default();
    ring.add(entry(public, "me")).unwrap();
    shelf.use_ring(&ring);
    assert!(shelf.verdict().0, "{:?}", shelf.verdict());
    // A key that others may read does not sign.
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_neap")).args(["models", "sign", &model, "--key", &key_path]).output();
    let output = output.unwrap();
    assert_eq!((output.status.code(), said(&output).contains("chmod 600")), (Some(77), true), "{}", said(&output));
    let tool = std::env::var("NEAP_MODEL_SIGNING").unwrap_or_else(|_| "model_signing".to_owned());
    let signature = shelf.model().join(SIGNATURE_FILE).display().to_string();
    let arguments = ["verify", "key", "--public_key", &public_path, "--signature", &signature, &model];
    let skip = |why: &str| {
        eprintln!("\n!!! SKIPPED: the tool model_signing is not here ({why}); see tests/data/signing/make.sh !!!\n");
    };
    match Command::new(&tool).args(arguments).output() {
        // Under qemu-user a program that does not exist is started all the same, and ends with 127.
        Ok(output) if is_emulated() && output.status.code() == Some(127) => skip("not found"),
        Ok(output) => assert!(output.status.success(), "the tool: {}", said(&output)),
        Err(error) => skip(&error.to_string()),
    }
}

#[test]
fn git_files_beside_a_model_are_left_out_as_the_tool_does_and_a_copy_is_as_good() {
    let shelf = a_good_one();
    fs::write(shelf.model().join(".gitignore"), "x").unwrap();
    fs::create_dir(shelf.model().join(".git")).unwrap();
    fs::write(shelf.model().join(".git/config"), "x").unwrap();
    assert!(shelf.verdict().0, "{:?}", shelf.verdict());
    let other = Shelf::empty();
    copy(&shelf.model(), &other.models().join("under-another-name"));
    assert!(other.verdict().0, "{:?}", other.verdict());
}

// ---- the agent ----

/// What the node tells of its models, once it is so: names and versions offered, and the codes of those refused.
fn wait_for_models(node: &Node, offered: &[u64], refused: &[&str]) {
    let controller = node.controller();
    let is_told = |info: &Value| {
        let of = |list: &str| info[list].as_array().cloned().unwrap_or_default();
        let mut versions: Vec<u64> = of("models").iter().filter_map(|model| model["version"].as_u64()).collect();
        let codes: Vec<String> =
            of("models_refused").iter().map(|one| one["code"].as_str().unwrap().to_owned()).collect();
        versions.sort_unstable();
        versions == offered && codes == refused
    };
    let told = |messages: &[common::controller::Message]| {
        messages.iter().any(|message| message.topic.ends_with("up/info") && is_told(&message.json)).then_some(())
    };
    controller.wait(&format!("an info with models {offered:?}, refused {refused:?}\n{}", node.log()), told);
}

#[test]
fn an_agent_offers_what_is_signed_and_tells_why_it_refuses_the_rest() {
    let shelf = a_good_one();
    copy(&shelf.source(2, None), &shelf.models().join("newer"));
    let path = |name: &str| shelf.path(name).display().to_string();
    let setup = Setup::new().with("models", "dir", path("models")).with("trust", "keys", path("keys.json"));
    let node = Node::start(&setup.with("jobs", "state_dir", path("state")));
    wait_for_models(&node, &[1], &["model.unsigned"]);
    // Signed by somebody the ring knows: the higher version is offered, and makes the floor for the older one.
    let key = new_key();
    let mut wider = ring();
    wider.add(entry(key.public().clone(), "me")).unwrap();
    shelf.use_ring(&wider);
    sign(&shelf.models().join("newer"), &key);
    node.hangup();
    wait_for_models(&node, &[2], &["model.version_rollback"]);
    // The floor outlives the models folder.
    fs::remove_dir_all(shelf.models().join("newer")).unwrap();
    node.hangup();
    wait_for_models(&node, &[], &["model.version_rollback"]);
    fs::write(shelf.model().join("samples/more.json"), "{}").unwrap();
    node.hangup();
    wait_for_models(&node, &[], &["model.files_differ"]);
}

#[test]
fn the_key_that_neap_makes_for_a_publisher_signs_models_and_fits_the_ring() {
    let shelf = Shelf::with(None);
    let names = ["publisher.key", "publisher.key.pub", "own.json", "models"].map(|name| shelf.path(name));
    let neap = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_neap")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let [key, public, ring, models] = names.each_ref().map(|path| path.to_str().unwrap());
    neap(&["key", "new", "--role", "publisher", "--owner", "models-team", "--out", key]);
    assert_eq!(neap(&["key", "show", key]).split(' ').next(), neap(&["key", "show", public]).split(' ').next());
    neap(&["models", "sign", shelf.model().to_str().unwrap(), "--key", key]);
    neap(&["key", "ring", "add", "--ring", ring, public]);
    let verified = neap(&["models", "verify", "--dir", models, "--ring", ring, "--json"]);
    assert!(verified.contains("models-team"), "{verified}");
}
