//! Does the node refuse every broker that is not its own, and say why? And is every refusal by a broker told as it is?
//!
//! Twelve ways in which TLS goes wrong, each with the agent and with a command: nothing connects, and the text names the
//! cause. Then brokers below TLS that mean harm.

#![allow(missing_docs)]

mod common;
#[path = "support/owner.rs"]
mod owner;
#[path = "support/tls_servers.rs"]
mod tls_servers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::mosquitto::{Mosquitto, Options, Tls};
use common::pki::{Identity, Pki, Valid};
use common::wait_for;
use neap::link::backoff::Cause;
use neap::link::mqtt::Settings;
use neap::link::tls;
use neap::sys::{clock, process};
use owner::{Owner, UP, message, settings};
use tls_servers::{Cutter, Raw, serve_tls_1_2, serve_with_chain};

/// What a client goes by.
#[derive(Clone, Debug)]
struct Client {
    ca: PathBuf,
    identity: Option<Identity>,
    server_name: Option<&'static str>,
}

/// One way to go wrong.
struct Case {
    name: &'static str,
    port: u16,
    client: Client,
    code: &'static str,
    /// What the sentence must say.
    says: &'static [&'static str],
    /// Exit code of a command.
    exit: i32,
}

/// Everything that the cases need, alive as long as they run.
struct Stage {
    folder: tempfile::TempDir,
    brokers: Vec<Mosquitto>,
    _raw: Vec<Raw>,
    cases: Vec<Case>,
}

fn stage() -> Option<Stage> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let at = folder.path();
    let (pki, stranger) = (Pki::new(at, "operator"), Pki::new(at, "stranger"));
    let names = ["localhost", "127.0.0.1"];
    let ca = pki.ca_file();
    let broker = |server: &Identity| {
        let tls = Tls { ca: &ca, server, wants_client: true };
        Mosquitto::start(Options { tls: Some(tls), ..Options::default() })
    };
    let good = pki.client("node", "node-1", Valid::NOW);
    let client = Client { ca: ca.clone(), identity: Some(good.clone()), server_name: None };
    let with = |identity: Option<Identity>| Client { identity, ..client.clone() };
    let (mut brokers, mut cases) = (Vec::new(), Vec::new());
    let mut case = |name, port, client: Client, code, says, exit| {
        cases.push(Case { name, port, client, code, says, exit });
    };

    let servers: [(_, Identity, _, &[_]); 4] = [
        ("unknown authority", stranger.localhost(), "tls.unknown_ca", &["signed by \"stranger\"", "ca_file"]),
        ("expired broker", pki.server("old", &names, Valid::EXPIRED), "tls.cert_expired", &["valid until", "renew it"]),
        ("early broker", pki.server("early", &names, Valid::NOT_YET), "tls.cert_not_yet_valid", &["clock right?"]),
        (
            "wrong name",
            pki.server("other", &["other.example"], Valid::NOW),
            "tls.wrong_name",
            &["other.example", "localhost"],
        ),
    ];
    for (name, server, code, says) in servers {
        let broker = broker(&server)?;
        case(name, broker.tls_port(), client.clone(), code, says, 69);
        brokers.push(broker);
    }

    let strict = broker(&pki.localhost())?;
    let clients: [(_, _, _, &[_]); 3] = [
        ("no certificate", None, "tls.client_cert_required", &["set cert_file and key_file"]),
        (
            "expired client",
            Some(pki.client("late", "node-1", Valid::EXPIRED)),
            "tls.client_cert_refused",
            &["it has expired"],
        ),
        (
            "client of another authority",
            Some(stranger.client("node", "node-1", Valid::NOW)),
            "tls.client_cert_refused",
            &["stranger"],
        ),
    ];
    for (name, identity, code, says) in clients {
        case(name, strict.tls_port(), with(identity), code, says, 77);
    }
    let mixed = good.with_key_of(&pki.client("other", "node-1", Valid::NOW));
    case("key of another certificate", strict.tls_port(), with(Some(mixed)), "tls.key_mismatch", &["one pair"], 78);
    case("plain broker", strict.port(), client.clone(), "tls.not_tls", &["plain MQTT", "8883"], 69);
    let named = Client { server_name: Some("elsewhere.example"), ..client.clone() };
    case("another name is wanted", strict.tls_port(), named, "tls.wrong_name", &["elsewhere.example"], 69);
    brokers.push(strict);

    let raw = [Raw::tls_1_1_alert(), Raw::tls_1_1_hello(), Raw::silent()];
    case("TLS 1.1 by alert", raw[0].port(), client.clone(), "tls.version", &["TLS 1.3"], 69);
    case("TLS 1.1 by hello", raw[1].port(), client.clone(), "tls.version", &["TLS 1.3"], 69);
    case("stalled handshake", raw[2].port(), client.clone(), "tls.handshake_timeout", &["within 10 s"], 69);
    case("TLS 1.2 only", serve_tls_1_2(&pki.localhost()), client, "tls.version", &["tls_min = \"1.2\""], 69);
    Some(Stage { folder, brokers, _raw: raw.into(), cases })
}

/// An agent that is killed when the test is done with it.
struct Agent(Child, PathBuf);

impl Agent {
    fn start(folder: &Path, case: &Case) -> Self {
        let at = folder.join(case.name.replace(' ', "-"));
        fs::create_dir(&at).expect("a folder can be made");
        let Client { ca, identity, server_name } = &case.client;
        let mut text = format!(
            "[node]\nsite = \"test\"\nname = \"node-1\"\n[mqtt]\nhost = \"localhost\"\nport = {}\nca_file = {ca:?}\n",
            case.port
        );
        if let Some(Identity { cert, key }) = identity {
            text += &format!("cert_file = {cert:?}\nkey_file = {key:?}\n");
        }
        if let Some(name) = server_name {
            text += &format!("server_name = {name:?}\n");
        }
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        text += &format!("[jobs]\nstate_dir = {:?}\n[models]\ndir = {models:?}\n", at.join("state"));
        text += &format!("[status]\nsocket = {:?}\n[cgroup]\nmode = \"off\"\n", at.join("status.sock"));
        fs::write(at.join("neap.toml"), text).expect("a file can be written");
        let log = fs::File::create(at.join("log")).expect("a log can be made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
        command
            .args(["run", "--config"])
            .arg(at.join("neap.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Self(process::tie_to_parent(&mut command).spawn().expect("neap can be started"), at.join("log"))
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.1).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a command against that broker says, and its exit code.
fn command(case: &Case) -> (Option<i32>, String) {
    let Client { ca, identity, server_name } = &case.client;
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.args(["jobs", "--node", "test/node-1", "--broker", &format!("localhost:{}", case.port)]);
    command.arg("--ca").arg(ca);
    if let Some(Identity { cert, key }) = identity {
        command.arg("--cert").arg(cert).arg("--key").arg(key);
    }
    if let Some(name) = server_name {
        command.args(["--server-name", name]);
    }
    let output = command.stdin(Stdio::null()).output().expect("neap can be started");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn judge(folder: &Path, case: &Case) -> Result<(), String> {
    let agent = Agent::start(folder, case);
    let (exit, said) = command(case);
    let names_the_cause = |who: &str, text: &str| {
        let missing = std::iter::once(&case.code).chain(case.says).find(|words| !text.contains(**words));
        missing.map_or(Ok(()), |words| Err(format!("{}: {who} does not say {words:?}:\n{text}", case.name)))
    };
    names_the_cause("the command", &said)?;
    if exit != Some(case.exit) {
        return Err(format!("{}: exit code {exit:?}, not {}:\n{said}", case.name, case.exit));
    }
    // The text format of the log escapes quotes.
    let log = || agent.log().replace("\\\"", "\"");
    wait_for(case.name, log, || agent.log().contains(case.code).then_some(()));
    names_the_cause("the agent", &log())?;
    if agent.log().contains("connected epoch") || agent.log().contains("PRIVATE KEY") {
        return Err(format!("{}: it connected, or told its key:\n{}", case.name, agent.log()));
    }
    Ok(())
}

#[test]
fn twelve_ways_to_go_wrong_connect_nothing_and_each_names_its_cause() {
    let Some(stage) = stage() else { return };
    let folder = stage.folder.path();
    let bad: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = stage.cases.iter().map(|case| scope.spawn(|| judge(folder, case))).collect();
        runs.into_iter().filter_map(|run| run.join().expect("no run panics").err()).collect()
    });
    assert!(bad.is_empty(), "{}", bad.join("\n\n"));
    for broker in &stage.brokers {
        assert!(!broker.log().contains("New client connected"), "somebody connected:\n{}", broker.log());
    }
}

#[test]
fn a_certificate_of_another_node_gets_nothing_of_this_one() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let pki = Pki::new(folder.path(), "operator");
    let server = pki.localhost();
    let acl = "pattern readwrite neap/v1/+/%u/up/#\npattern read neap/v1/+/%u/down/#\n";
    let tls = Tls { ca: &pki.ca_file(), server: &server, wants_client: true };
    let Some(broker) = Mosquitto::start(Options { tls: Some(tls), acl: Some(acl), ..Options::default() }) else {
        return;
    };
    let thief = pki.client("thief", "node-2", Valid::NOW);
    let client = Client { ca: pki.ca_file(), identity: Some(thief), server_name: None };
    let case = Case { name: "wrong common name", port: broker.tls_port(), client, code: "", says: &[], exit: 0 };
    let agent = Agent::start(folder.path(), &case);
    // Before anything is tried, and when it was.
    wait_for("the refusal", || agent.log(), || agent.log().contains("mqtt.acl_probe_failed").then_some(()));
    let log = agent.log().replace("\\\"", "\"");
    assert!(log.contains("the certificate is of \"node-2\", and this node is \"test/node-1\""), "{log}");
    assert!(broker.log().contains("Denied PUBLISH from neap-test-node-1"), "{}", broker.log());
    assert!(!broker.log().contains("Sending PUBLISH to neap-test-node-1"), "nothing of node-1 was handed out");
}

// ---- below TLS ----

/// A link through that port, checked against that authority.
fn link(pki: &Pki, identity: &Identity, port: u16) -> Settings {
    let identity = Some(tls::IdentityFiles { cert_file: identity.cert.clone(), key_file: identity.key.clone() });
    let tls = tls::Settings { ca_file: pki.ca_file(), identity, server_name: None, least: tls::Least::Tls13 };
    let settings = Settings { tls: Some(tls), ..settings(port) };
    settings.certificates.set_wall(clock::wall(), true);
    settings
}

/// Anonymous memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("the kernel tells");
    let pages: Vec<u64> = statm.split(' ').filter_map(|number| number.trim().parse().ok()).collect();
    (pages[1] - pages[2]) * 4096
}

#[tokio::test]
async fn whatever_comes_instead_of_tls_ends_the_connection_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let pki = Pki::new(folder.path(), "operator");
    let client = pki.client("node", "node-1", Valid::NOW);
    let servers = [
        Raw::garbage(),
        Raw::endless_handshake(),
        Raw::endless_records(),
        Raw::endless_change_cipher_spec(),
        Raw::endless_warnings(),
        Raw::http(),
        Raw::closing(),
    ];
    let before = resident_bytes();
    for server in &servers {
        let mut owner = Owner::start(link(&pki, &client, server.port()), BTreeMap::new());
        let twice = |owner: &Owner| owner.downs.len() >= 2;
        let outcome = owner.until(Duration::from_secs(30), twice).await;
        assert!(outcome.is_ok(), "{}: {outcome:?}", server.name());
        assert_eq!((owner.ups, server.was_endured()), (0, false), "{}", server.name());
        assert!(owner.downs.iter().all(|(_, why)| why.contains("tls.")), "{}: {:?}", server.name(), owner.downs);
        owner.shut_down().await.unwrap_or_else(|why| panic!("{}: {why}", server.name()));
    }
    let chain = serve_with_chain(&pki.localhost(), 2_000);
    let mut owner = Owner::start(link(&pki, &client, chain), BTreeMap::new());
    owner.until(Duration::from_secs(30), |owner| owner.downs.len() >= 3).await.expect("it gives up each time");
    assert!(owner.downs[0].1.contains("tls.protocol"), "{:?}", owner.downs);
    owner.shut_down().await.expect("it ends");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "grown by {grown} bytes");
}

#[tokio::test]
async fn a_connection_cut_at_any_moment_is_made_again_and_the_messages_arrive() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let pki = Pki::new(folder.path(), "operator");
    let (server, client) = (pki.localhost(), pki.client("node", "node-1", Valid::NOW));
    let tls = Tls { ca: &pki.ca_file(), server: &server, wants_client: true };
    let Some(broker) = Mosquitto::start(Options { tls: Some(tls), ..Options::default() }) else { return };
    // In the first record, between records, in the certificate, after the handshake, in what MQTT says.
    let cuts: Vec<usize> =
        vec![0, 1, 4, 5, 6, 80, 127, 128, 133, 134, 200, 500, 700, 800, 900, 1_000, 1_100, 1_300, 1_500];
    let cutter = Cutter::start(broker.tls_port(), cuts.clone());
    let outbox = (0..50).map(|number| (number, message(UP, number.to_string().into_bytes()))).collect();
    let mut owner = Owner::start(link(&pki, &client, cutter.port()), outbox);
    let done = |owner: &Owner| owner.outbox.is_empty() && cutter.connections() > cuts.len();
    owner.until(Duration::from_secs(60), done).await.unwrap_or_else(|why| panic!("{why}"));
    assert!(owner.downs.len() >= 10, "{:?}", owner.downs);
    let kinds: Vec<Cause> = owner.downs.iter().map(|(cause, _)| *cause).collect();
    assert!(kinds.iter().all(|cause| *cause == Cause::Lost), "none of it is for an operator: {:?}", owner.downs);
    owner.shut_down().await.expect("it ends");
}
