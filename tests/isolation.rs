//! Can one node reach another through the broker? The access list and the listeners that are shipped, a real Mosquitto
//! with mutual TLS, and clients that try.
//!
//! Every attempt is real and is answered by silence: the controller and the victim hear nothing of it, although both
//! hear what is sent to them right before and after. Needs Mosquitto and its clients; without them each test says so
//! and does nothing, with `CI=true` it fails.

#![allow(missing_docs)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use common::clients;
use common::mosquitto::{Mosquitto, Options};
use common::pki::{Identity, Pki, Valid};
use common::wait_for;
use neap::config::Settings;
use tempfile::TempDir;

/// The node that is attacked, and a node of the same name at another site.
const VICTIM: &str = "north/cell-17";
const NAMESAKE: &str = "south/cell-17";
/// The node that attacks.
const INTRUDER: &str = "north/cell-18";
const CONTROLLER: &str = "controller";
/// How long something that must not come is waited for, after everything else has come.
const SILENCE: Duration = Duration::from_millis(300);

// === The field ===

/// A broker as config/mosquitto.conf has it for other machines: one authority and one listener for nodes, one of each
/// for controllers.
struct Field {
    broker: Mosquitto,
    nodes: (u16, Pki),
    controllers: (u16, Pki),
    _folder: TempDir,
}

impl Field {
    fn start() -> Option<Self> {
        if !clients::installed() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (nodes, controllers) = (Pki::new(folder.path(), "nodes"), Pki::new(folder.path(), "controllers"));
        let server = nodes.localhost();
        let ports = [free_port(), free_port()];
        let listener = |port: u16, clients: &Pki, more: &str| {
            format!(
                "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\ntls_version tlsv1.3\n\
                 require_certificate true\nuse_identity_as_username true\n{more}\n",
                clients.ca_file().display(),
                server.cert.display(),
                server.key.display(),
            )
        };
        let more = listener(ports[0], &nodes, "use_username_as_clientid true") + &listener(ports[1], &controllers, "");
        let acl = Some(include_str!("../config/mosquitto.acl"));
        let broker = Mosquitto::start(Options { acl, more: &more, ..Options::default() })?;
        for port in ports {
            // Its first listener is open before it has read these certificates.
            let open = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
            wait_for("an open listener", || broker.log(), open);
        }
        Some(Self { broker, nodes: (ports[0], nodes), controllers: (ports[1], controllers), _folder: folder })
    }

    /// Port and certificate of somebody at the listener that is theirs. Every call makes another certificate.
    fn seat(&self, who: &str) -> (u16, Identity) {
        let (port, pki) = if who.starts_with(CONTROLLER) { &self.controllers } else { &self.nodes };
        let file: String = who.bytes().map(|byte| format!("{byte:02x}")).collect();
        (*port, pki.client(&file, who, Valid::NOW))
    }

    fn client(&self, program: &str, (port, identity): &(u16, Identity)) -> Command {
        let mut command = Command::new(program);
        command.args(["-V", "5", "-q", "1", "-h", "127.0.0.1", "-p", &port.to_string()]);
        command.arg("--cafile").arg(self.nodes.1.ca_file()).arg("--cert").arg(&identity.cert);
        command.arg("--key").arg(&identity.key).stdin(Stdio::null());
        command
    }

    /// Publishes, and waits for the broker's word; not for a good one.
    fn publish(&self, who: &str, topic: &str, body: &str, more: &[&str]) -> Output {
        let mut command = self.client("mosquitto_pub", &self.seat(who));
        command.args(["-t", topic, "-m", body]).args(more).output().expect("mosquitto_pub can be started")
    }

    /// Somebody who listens, once the broker has taken the subscriptions.
    fn listen(&self, who: &str, filters: &[&str]) -> Ear {
        let (ear, subscribed) = self.try_to_listen(who, filters, &[]);
        assert!(subscribed, "{who} is not let in:\n{}", self.broker.log());
        ear
    }

    fn try_to_listen(&self, who: &str, filters: &[&str], more: &[&str]) -> (Ear, bool) {
        // Controllers choose their client id; a node's is its user name, whatever it asks for.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let chosen = format!("{who}-{}", NEXT.fetch_add(1, Relaxed));
        let is_controller = who.starts_with(CONTROLLER);
        let answered = format!("Sending SUBACK to {}\n", if is_controller { &chosen } else { who });
        let answers = || self.broker.log().matches(&answered).count();
        let before = answers();
        let mut command = self.client("mosquitto_sub", &self.seat(who));
        for filter in filters {
            command.args(["-t", filter]);
        }
        if is_controller {
            command.args(["-i", &chosen]);
        }
        let ear = Ear::start(command.args(more));
        let outcome = || (answers() > before).then_some(true).or_else(|| ear.has_ended().then_some(false));
        let subscribed = wait_for("an answer of the broker", || self.broker.log(), outcome);
        (ear, subscribed)
    }

    /// Sends a message and waits until somebody hears it: whatever was sent before has been delivered.
    fn hears(&self, ear: &Ear, from: &str, topic: &str, body: &str) {
        self.publish(from, topic, body, &[]);
        let line = format!("{topic} {body}");
        wait_for(&line, || format!("{:?}\n{}", ear.heard(), self.broker.log()), || ear.has(&line).then_some(()));
    }
}

/// A port below those that the kernel gives to outgoing connections, of which there are many here.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let candidates = std::iter::repeat_with(|| std::process::id().wrapping_mul(61) + NEXT.fetch_add(1, Relaxed));
    let mut ports = candidates.take(1000).map(|number| 20_000 + u16::try_from(number % 10_000).expect("below 10,000"));
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.find(is_free).expect("one of a thousand ports is free")
}

/// A running `mosquitto_sub`; killed without a word when dropped, so that its Will is published.
struct Ear {
    child: Mutex<Child>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Ear {
    fn start(command: &mut Command) -> Self {
        command.args(["-F", "%t %p"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("mosquitto_sub can be started");
        let output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let place = Arc::clone(&lines);
        // Ends with the child.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                place.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { child: Mutex::new(child), lines }
    }

    fn heard(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has(&self, line: &str) -> bool {
        self.heard().iter().any(|heard| heard == line)
    }

    fn has_ended(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.try_wait().expect("a child can be asked").is_some()
    }

    /// Nothing with this word has come, and nothing comes.
    fn is_silent_about(&self, word: &str) {
        sleep(SILENCE);
        let heard = self.heard();
        assert!(!heard.iter().any(|line| line.contains(word)), "{word:?} was heard: {heard:#?}");
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn topic(node: &str, rest: &str) -> String {
    format!("neap/v1/{node}/{rest}")
}

/// The intruder listens to these filters; nothing of what the victim says and hears comes to it.
fn overhears_nothing(who: &str, filters: &[&str]) {
    let Some(field) = Field::start() else { return };
    let controller = field.listen(CONTROLLER, &["neap/v1/+/+/up/#"]);
    let victim = field.listen(VICTIM, &[&topic(VICTIM, "down/#")]);
    let own = topic(who, "down/#");
    let intruder = field.listen(who, &[filters, &[own.as_str()]].concat());
    field.hears(&victim, CONTROLLER, &topic(VICTIM, "down/job/1"), "the-order");
    field.hears(&controller, VICTIM, &topic(VICTIM, "up/job/1/result"), "the-result");
    field.hears(&controller, VICTIM, &topic(VICTIM, "up/reply/ctl"), "the-reply");
    field.publish(VICTIM, &topic(VICTIM, "up/state"), "the-state", &["-r"]);
    // It does hear what is its own.
    field.hears(&intruder, CONTROLLER, &topic(who, "down/job/2"), "its-own");
    intruder.is_silent_about("the-");
    // What the broker has kept is not for it either.
    let later = field.listen(who, filters);
    later.is_silent_about("the-");
    assert!(controller.has(&format!("{} the-state", topic(VICTIM, "up/state"))), "{:?}", controller.heard());
}

// === Reading ===

#[test]
fn a_node_cannot_read_another_by_its_name() {
    overhears_nothing(INTRUDER, &["neap/v1/north/cell-17/up/#", "neap/v1/north/cell-17/down/#"]);
}

#[test]
fn a_node_cannot_read_others_by_a_wildcard_of_one_level() {
    overhears_nothing(INTRUDER, &["neap/v1/north/+/up/#", "neap/v1/+/+/down/job/+", "+/+/+/+/up/state"]);
}

#[test]
fn a_node_cannot_read_others_by_the_wildcard_of_all_levels() {
    overhears_nothing(INTRUDER, &["#", "neap/#"]);
}

#[test]
fn a_node_cannot_read_others_as_a_member_of_a_group() {
    overhears_nothing(INTRUDER, &["$share/thieves/neap/v1/north/cell-17/down/#", "$share/thieves/neap/v1/+/+/up/#"]);
}

#[test]
fn a_node_cannot_read_its_namesake_at_another_site() {
    overhears_nothing(NAMESAKE, &["neap/v1/north/cell-17/up/#", "neap/v1/+/cell-17/down/#"]);
}

#[test]
fn a_node_cannot_read_the_replies_that_controllers_get() {
    overhears_nothing(INTRUDER, &["neap/v1/north/cell-17/up/reply/#", "neap/v1/+/+/up/reply/+", "neap/v1/+/ctl/#"]);
}

#[test]
fn a_node_learns_nothing_of_the_broker_itself() {
    let Some(field) = Field::start() else { return };
    let intruder = field.listen(INTRUDER, &["$SYS/#", &topic(INTRUDER, "down/#")]);
    field.hears(&intruder, CONTROLLER, &topic(INTRUDER, "down/job/1"), "its-own");
    intruder.is_silent_about("$SYS/");
}

// === Writing ===

/// What the intruder publishes there reaches neither the victim, nor a controller, nor somebody who comes later.
fn reaches_nobody(who: &str, topics: &[&str]) {
    let Some(field) = Field::start() else { return };
    let controller = field.listen(CONTROLLER, &["neap/v1/+/+/up/#"]);
    let filters = [topic(VICTIM, "down/#"), topic(VICTIM, "up/#"), "neap/v1/north/fleet/down/#".to_owned()];
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    let victim = field.listen(VICTIM, &filters);
    for target in topics {
        for more in [&[][..], &["-r"]] {
            let output = field.publish(who, target, "forged", more);
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(told.contains("Not authorized"), "{target}: the broker's answer is no denial: {told}");
        }
    }
    // The same words in its own place arrive.
    field.hears(&controller, who, &topic(who, "up/event"), "its-own");
    field.hears(&victim, CONTROLLER, &topic(VICTIM, "down/job/1"), "the-order");
    victim.is_silent_about("forged");
    controller.is_silent_about("forged");
    field.listen(VICTIM, &filters).is_silent_about("forged");
}

#[test]
fn a_node_cannot_give_orders_to_another() {
    let orders = ["neap/v1/north/cell-17/down/job/9", "neap/v1/north/cell-17/down/job/9/cancel"];
    reaches_nobody(INTRUDER, &[&orders[..], &["neap/v1/north/cell-17/down/cmd/drain"]].concat());
}

#[test]
fn a_node_cannot_speak_for_another() {
    let words = ["neap/v1/north/cell-17/up/state", "neap/v1/north/cell-17/up/job/1/result"];
    reaches_nobody(INTRUDER, &[&words[..], &["neap/v1/north/cell-17/up/reply/ctl"]].concat());
    reaches_nobody(NAMESAKE, &words);
}

#[test]
fn a_node_cannot_hold_the_fleet() {
    reaches_nobody(INTRUDER, &["neap/v1/north/fleet/down/hold", "neap/v1/south/fleet/down/hold"]);
}

#[test]
fn a_node_cannot_leave_poison_for_itself() {
    // Its own orders come from controllers only: what it left there would run at its next start.
    let Some(field) = Field::start() else { return };
    let down = topic(VICTIM, "down/#");
    for order in ["down/job/9", "down/cmd/resume"] {
        let output = field.publish(VICTIM, &topic(VICTIM, order), "poison", &["-r"]);
        assert!(String::from_utf8_lossy(&output.stderr).contains("Not authorized"), "{output:?}");
    }
    let victim = field.listen(VICTIM, &[&down]);
    // A controller's is kept, and comes: the agent itself refuses what was kept (job.retained).
    field.publish(CONTROLLER, &topic(VICTIM, "down/job/8"), "kept", &["-r"]);
    field.hears(&victim, CONTROLLER, &topic(VICTIM, "down/job/1"), "the-order");
    victim.is_silent_about("poison");
    let again = field.listen(VICTIM, &[&down]);
    let kept = || again.has(&format!("{} kept", topic(VICTIM, "down/job/8"))).then_some(());
    wait_for("what the controller left", || format!("{:?}", again.heard()), kept);
    again.is_silent_about("poison");
}

#[test]
fn the_hold_of_a_controller_reaches_every_node_of_the_site() {
    let Some(field) = Field::start() else { return };
    for node in [VICTIM, INTRUDER] {
        let ear = field.listen(node, &["neap/v1/north/fleet/down/#"]);
        field.hears(&ear, CONTROLLER, "neap/v1/north/fleet/down/hold", node);
    }
}

#[test]
fn a_controller_cannot_speak_as_a_node_nor_hear_orders() {
    let Some(field) = Field::start() else { return };
    let ear = field.listen(CONTROLLER, &["neap/v1/+/+/up/#", "neap/v1/+/+/down/#", "$SYS/#", "#"]);
    let victim = field.listen(VICTIM, &[&topic(VICTIM, "down/#"), &topic(VICTIM, "up/#")]);
    field.publish(CONTROLLER, &topic(VICTIM, "up/state"), "forged", &["-r"]);
    field.hears(&victim, CONTROLLER, &topic(VICTIM, "down/job/1"), "the-order");
    field.hears(&ear, VICTIM, &topic(VICTIM, "up/event"), "the-event");
    victim.is_silent_about("forged");
    for word in ["forged", "the-order", "$SYS/"] {
        ear.is_silent_about(word);
    }
}

// === Somebody else's session, somebody else's death ===

#[test]
fn a_node_cannot_take_the_session_of_another() {
    let Some(field) = Field::start() else { return };
    let filter = topic(VICTIM, "down/#");
    let persistent = ["-c", "-x", "600", "-i", VICTIM];
    let (victim, subscribed) = field.try_to_listen(VICTIM, &[&filter], &persistent);
    assert!(subscribed, "{}", field.broker.log());
    let taken = format!("Client {VICTIM} already connected");
    let (intruder, _) = field.try_to_listen(INTRUDER, &[&topic(INTRUDER, "down/#")], &["-c", "-i", VICTIM]);
    field.hears(&victim, CONTROLLER, &topic(VICTIM, "down/job/1"), "the-order");
    intruder.is_silent_about("the-order");
    assert!(!field.broker.log().contains(&taken), "{}", field.broker.log());
    // Where controllers come in, a node's certificate is worth nothing, so there is no way round.
    let (_, identity) = field.seat(INTRUDER);
    let door = (field.controllers.0, identity);
    let output = field.client("mosquitto_pub", &door).args(["-i", VICTIM, "-t", "x", "-m", "x"]).output();
    assert!(!output.expect("mosquitto_pub can be started").status.success(), "{}", field.broker.log());
    assert!(!victim.has_ended() && !field.broker.log().contains(&taken), "{}", field.broker.log());
    // The node itself may come back, and the broker says so in these words.
    let (_again, subscribed) = field.try_to_listen(VICTIM, &[&filter], &persistent);
    assert!(subscribed && field.broker.log().contains(&taken), "{}", field.broker.log());
}

#[test]
fn a_node_cannot_announce_the_death_of_another() {
    let Some(field) = Field::start() else { return };
    let controller = field.listen(CONTROLLER, &["neap/v1/+/+/up/#"]);
    let own = topic(INTRUDER, "down/#");
    for (about, word) in [(VICTIM, "forged-death"), (INTRUDER, "own-death")] {
        let will = topic(about, "up/state");
        let arguments = ["--will-topic", &will, "--will-payload", word, "--will-qos", "1", "--will-retain"];
        let (ear, _) = field.try_to_listen(INTRUDER, &[&own], &arguments);
        drop(ear);
    }
    let heard = || controller.has(&format!("{} own-death", topic(INTRUDER, "up/state"))).then_some(());
    wait_for("the Will of a node about itself", || format!("{:?}", controller.heard()), heard);
    controller.is_silent_about("forged-death");
    field.listen(CONTROLLER, &["neap/v1/+/+/up/#"]).is_silent_about("forged-death");
}

// === Names ===

#[test]
fn a_name_with_a_separator_or_a_wildcard_is_refused_by_the_configuration() {
    let parse = |site: &str, name: &str| {
        let text = format!("[node]\nsite = \"{site}\"\nname = \"{name}\"\n[mqtt]\nhost = \"127.0.0.1\"\n");
        Settings::parse("neap.toml", &text).err().map(|error| error.to_string())
    };
    assert_eq!(parse("north", "cell-17"), None);
    for bad in ["+", "#", "a/b", "%u", "%c", "$share", "a b", "", "A", "a\\u0000", "a\\u001b", "up", "down", "fleet"] {
        let refused = parse("north", bad).unwrap_or_else(|| panic!("node {bad:?} is accepted"));
        assert!(refused.contains("node.name"), "{refused}");
    }
    for bad in ["+", "#", "a/b", "%u", "", "a\\u0000"] {
        assert!(parse(bad, "cell-17").is_some_and(|refused| refused.contains("node.site")), "site {bad:?}");
    }
}

#[test]
fn a_certificate_for_a_crooked_name_opens_nothing() {
    let Some(field) = Field::start() else { return };
    let controller = field.listen(CONTROLLER, &["neap/v1/+/+/up/#"]);
    let victim = field.listen(VICTIM, &[&topic(VICTIM, "down/#")]);
    let names =
        ["north/+", "+/cell-17", "+/+", "#", "north/#", "%u", "north/%u", "%c", "north", "cell-17", "north/", "/"];
    let wanted = ["neap/v1/north/cell-17/up/#", "neap/v1/north/cell-17/down/#", "neap/v1/+/+/up/#", "#"];
    let ears: Vec<(Ear, bool)> = names.iter().map(|name| field.try_to_listen(name, &wanted, &[])).collect();
    for name in names {
        field.publish(name, &topic(VICTIM, "down/job/9"), "forged", &["-r"]);
        field.publish(name, &topic(VICTIM, "up/state"), "forged", &["-r"]);
    }
    field.hears(&victim, CONTROLLER, &topic(VICTIM, "down/job/1"), "the-order");
    field.hears(&controller, VICTIM, &topic(VICTIM, "up/event"), "the-event");
    sleep(SILENCE);
    for (name, (ear, _)) in names.iter().zip(&ears) {
        let heard = ear.heard();
        assert!(!heard.iter().any(|line| line.contains("the-")), "{name} hears: {heard:#?}");
    }
    for ear in [&victim, &controller] {
        assert!(!ear.heard().iter().any(|line| line.contains("forged")), "{:#?}", ear.heard());
    }
}
