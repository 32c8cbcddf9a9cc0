//! Does anything that must stay secret, or that could steer a terminal, reach a log, a page or a terminal?
//!
//! A real agent at the loudest level does real work with secrets everywhere, among hostile messages; all that it and the
//! commands have said is searched. Needs Mosquitto; without it each test says so and does nothing, with `CI=true` it
//! fails.

#![allow(missing_docs)]

mod common;

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use common::clients;
use common::mosquitto::{Mosquitto, Options, Tls};
use common::node::{BASE, Node, Setup};
use common::pki::{Pki, Valid};
use common::wait_for;
use tempfile::TempDir;

const PASSWORD: &str = "pass-0f9d2c-word";
/// Travels as a tensor, and must not be repeated by anything but the result.
const INPUT: &str = "input-5e1b77-payload";
/// Text that would clear a screen, forge a line, turn the direction of writing, and end a string.
const HOSTILE: &str = "x\u{1b}[2J\u{9b}31m\nforged-line\u{202e}\u{7}\0end";
/// What must never be in a log or on a terminal as it is.
const STEERING: [char; 6] = ['\u{1b}', '\u{9b}', '\u{202e}', '\u{7}', '\0', '\r'];

/// A node, and the lines of its private key.
struct Place {
    node: Node,
    key: Vec<String>,
    _pki: TempDir,
}

/// A node with a certificate and a password at a real broker, at that level and in that format.
fn node(level: &str, format: &str) -> Option<Place> {
    if !clients::installed() {
        return None;
    }
    let pki = tempfile::tempdir().expect("a folder can be made");
    let operator = Pki::new(pki.path(), "operator");
    let (server, client) = (operator.localhost(), operator.client("node", "test/node-1", Valid::NOW));
    let tls = Tls { ca: &operator.ca_file(), server: &server, wants_client: true };
    let broker = Mosquitto::start(Options { tls: Some(tls), ..Options::default() })?;
    let path = |path: &Path| path.display().to_string();
    let setup = Setup::new()
        .with("mqtt", "host", "localhost")
        .with("mqtt", "port", i64::from(broker.tls_port()))
        .with("mqtt", "ca_file", path(&operator.ca_file()))
        .with("mqtt", "cert_file", path(&client.cert))
        .with("mqtt", "key_file", path(&client.key))
        .with("mqtt", "username", "test/node-1")
        .with("log", "level", level)
        .with("log", "format", format);
    let mut node = Node::prepare_on(&setup, common::node::Broker::Mosquitto(broker), &[]);
    let file = node.folder.path().join("password");
    fs::write(&file, PASSWORD).expect("a file can be written");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("its mode can be set");
    node.configure(&setup.with("mqtt", "password_file", file.display().to_string()));
    node.start_agent();
    wait_for("a connection", || node.log(), || node.log().contains("connected").then_some(()));
    let key = fs::read_to_string(&client.key).expect("the key is there");
    let key = key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned).collect();
    Some(Place { node, key, _pki: pki })
}

fn page(node: &Node, path: &str) -> String {
    let Ok(mut stream) = UnixStream::connect(node.folder.path().join("status.sock")) else { return String::new() };
    let asked = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    asked.expect("a page can be asked for");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a page can be read");
    text
}

/// Everything that a command says.
fn said(node: &Node, arguments: &[&str]) -> String {
    let output = node.cli(arguments).output().expect("the command can be started");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn has_no_secret(what: &str, text: &str) {
    let encoded = |secret: &str| base64::engine::general_purpose::STANDARD.encode(secret);
    for secret in [PASSWORD.to_owned(), encoded(PASSWORD), INPUT.to_owned(), encoded(INPUT)] {
        assert!(!text.contains(&secret), "{secret:?} is in {what}:\n{text}");
    }
}

fn steers_nothing(what: &str, text: &str) {
    for steering in STEERING {
        let line = text.lines().find(|line| line.contains(steering));
        assert_eq!(line, None, "{steering:?} is in {what}");
    }
    let forged = text.lines().find(|line| line.starts_with("forged-line"));
    assert_eq!(forged, None, "a line of its own in {what}");
}

#[test]
fn no_secret_is_in_what_agent_and_commands_say_at_the_loudest_level() {
    let Some(Place { mut node, key, _pki }) = node("trace", "text") else { return };
    assert!(key.len() > 1 && key.iter().map(String::len).sum::<usize>() > 100, "{} lines of a key", key.len());
    node.feeder.low();
    let events =
        clients::Subscriber::start(node.broker.port(), &[&format!("{BASE}/up/event"), &format!("{BASE}/up/state")]);
    let input = format!(r#"{{"inputs":[{{"name":"{INPUT}","shape":[1],"datatype":"BYTES","data":["{INPUT}"]}}]}}"#);
    for (id, model) in [("one", "objects"), ("two", "no-such-model"), ("three", "file-type")] {
        let body = format!(r#"{{"model":"{model}","input":{input}}}"#);
        clients::publish(node.broker.port(), &format!("down/job/{id}"), &["-m", &body]);
    }
    let refused = || node.log().contains("refused").then_some(());
    wait_for("a refused job", || node.log(), refused);
    let told: String =
        [&["jobs"][..], &["jobs", "--json"], &["check"]].iter().map(|arguments| said(&node, arguments)).collect();
    let pages = ["/metrics", "/yields", "/tuning"].map(|path| page(&node, path)).concat();
    let config = neap::config::Settings::read(&node.config()).expect("the configuration is right");
    node.hangup();
    let (code, _) = node.terminate_agent();
    assert_eq!(code, Some(0), "{}", node.log());
    assert!(node.log().lines().count() > 10, "the agent has said something: {}", node.log());
    let heard: String =
        events.messages().iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect();
    has_no_secret("the settings' Debug", &format!("{config:?} {config:#?}"));
    has_no_secret("the pages", &pages);
    has_no_secret("state and events", &heard);
    for (what, text) in [("the log", node.log()), ("the commands", told)] {
        // The name of an input is no secret by itself: this one is, because no model has it.
        let text = text.replace(&format!("no input {INPUT:?}"), "");
        assert!(!text.contains(PASSWORD), "the password is in {what}:\n{text}");
        assert!(!key.iter().any(|line| text.contains(line)), "the private key is in {what}:\n{text}");
        assert!(!text.contains(&format!("[\"{INPUT}\"]")), "tensor data is in {what}:\n{text}");
    }
}

#[test]
fn nothing_that_a_peer_says_steers_a_terminal_or_forges_a_line() {
    for format in ["text", "json"] {
        let Some(Place { node, _pki, .. }) = node("trace", format) else { return };
        let body = |model: &str| serde_json::json!({"model": model, "input": {"inputs": []}}).to_string();
        for (id, text) in [("a", body(HOSTILE)), ("b", format!("{{\"{HOSTILE}")), ("c", HOSTILE.to_owned())] {
            let text = text.replace('\0', "");
            clients::publish(node.broker.port(), &format!("down/job/{id}"), &["-m", &text]);
        }
        let topic = format!("down/job/{}", "x\u{202e}y");
        clients::publish(node.broker.port(), &topic, &["-m", "{}"]);
        // Mosquitto ends a connection whose properties or topics hold control characters; turning text it passes on.
        let more = ["-D", "publish", "user-property", "traceparent", "x\u{202e}y", "-m", "{}"];
        clients::publish(node.broker.port(), "down/cmd/ping", &more);
        wait_for("a refused job", || node.log(), || node.log().contains("refused").then_some(()));
        std::thread::sleep(Duration::from_millis(500));
        steers_nothing("the log", &node.log());
        for arguments in [&["jobs"][..], &["jobs", "--json"], &["result", "a"], &["result", "a", "--json"]] {
            steers_nothing(&format!("neap {}", arguments.join(" ")), &said(&node, arguments));
        }
    }
}

#[test]
fn a_flood_of_bad_messages_of_every_kind_leaves_few_lines() {
    let Some(Place { node, _pki, .. }) = node("info", "text") else { return };
    let before = node.log().lines().count();
    let port = node.broker.port();
    // A hundred of each kind: one line of input is one message.
    let lines: String = (0..100).map(|number| format!("not json {number}\n")).collect();
    let kinds =
        ["down/job/bad", "down/job/bad/cancel", "down/job/b%d", "down/cmd/ping", "down/cmd/nothing", "down/else"];
    let topics =
        kinds.map(|kind| format!("{BASE}/{kind}")).into_iter().chain(["neap/v1/test/fleet/down/hold".to_owned()]);
    for topic in topics {
        let mut child = std::process::Command::new("mosquitto_pub")
            .args(["-V", "5", "-q", "1", "-h", "127.0.0.1", "-p", &port.to_string(), "-t", &topic, "-l"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("mosquitto_pub can be started");
        child.stdin.take().expect("its input is piped").write_all(lines.as_bytes()).expect("it reads");
        assert!(child.wait().expect("it ends").success());
    }
    // The last one is answered when all before it have been.
    clients::publish(port, "down/job/last", &["-m", "{}"]);
    std::thread::sleep(Duration::from_secs(2));
    let written = node.log().lines().count() - before;
    assert!((1..=80).contains(&written), "{written} lines of {} bad messages:\n{}", kinds.len() * 100, node.log());
}
