//! Does inference give way to what a gNB's own metrics say, and does the gNB hear nothing but the subscription?

mod common;

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::batch::{in_a_trough, submit};
use common::controller::Controller;
use common::gnb::{Gnb, Play, SUBSCRIPTION, recording};
use common::node::{Node, Setup, state};
use common::wait_for;
use neap::load::mailbox::Mailbox;
use neap::load::ocudu::{self, Form, Scale, Settings};
use neap::load::{Observation, Observed, Source as _};
use neap::sys::clock;
use neap::units::SourceId;
use serde_json::{Value, json};
use tungstenite::{Bytes, Message, WebSocket};

/// Freshness of the source here.
const FRESHNESS_MS: u64 = 2000;

// ---- the wire ----

fn open(address: std::net::SocketAddr) -> Mailbox {
    let scale = Scale { cores: 1, prbs: std::iter::once((1, 51)).collect(), peak_bits: None };
    ocudu::open(SourceId(0), &Settings { form: Form::Stream, address, scale }).expect("a thread can be started")
}

/// Waits until the source has said something of that kind.
fn wait_for_observation(mailbox: &mut Mailbox, what: &str, is_it: impl Fn(&Observation) -> bool) {
    let mut all = Vec::new();
    let end = clock::now().after(common::PATIENCE);
    while !all.iter().any(&is_it) {
        assert!(clock::now() < end, "{what} did not come: {all:?}");
        mailbox.read(clock::now(), &mut |observation| all.push(observation));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_level(observation: &Observation) -> bool {
    matches!(observation, Ok(reading) if matches!(reading.observed, Observed::Level { .. }))
}

/// Accepts one connection and its protocol.
fn accept(listener: &TcpListener) -> WebSocket<TcpStream> {
    let (stream, _) = listener.accept().expect("it connects");
    stream.set_read_timeout(Some(common::PATIENCE)).expect("a socket has a time limit");
    tungstenite::accept(stream).expect("it speaks the protocol")
}

/// Every frame until the connection ends.
fn frames(socket: &mut WebSocket<TcpStream>) -> Vec<Message> {
    std::iter::from_fn(|| socket.read().ok()).collect()
}

fn hears_the_subscription(socket: &mut WebSocket<TcpStream>) {
    assert_eq!(socket.read().expect("it speaks first"), Message::text(SUBSCRIPTION));
}

#[test]
fn nothing_but_the_subscription_and_pongs_is_ever_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let mut mailbox = open(listener.local_addr().expect("it is bound"));
    let nothing: [Message; 0] = [];

    // Pings are answered, among reports and alone; at a close the connection ends without a word.
    let mut socket = accept(&listener);
    hears_the_subscription(&mut socket);
    for (n, report) in recording("tdd20").into_iter().enumerate() {
        report.into_iter().for_each(|line| socket.send(Message::text(line)).expect("it listens"));
        let payload = Bytes::from(vec![u8::try_from(n).unwrap_or(0); 100]);
        socket.send(Message::Ping(payload.clone())).expect("it listens");
        assert_eq!(socket.read().expect("it answers"), Message::Pong(payload));
    }
    socket.close(None).expect("it listens");
    assert_eq!(frames(&mut socket), nothing);

    // A connection that breaks, and bytes that are no frame.
    let mut socket = accept(&listener);
    hears_the_subscription(&mut socket);
    socket.send(Message::text(r#"{"error":"Remote server is not accepting commands"}"#)).expect("it listens");
    socket.get_mut().write_all(&[0xff; 64]).expect("it listens");
    assert_eq!(frames(&mut socket), nothing);

    // Somebody else's protocol.
    let (mut stream, _) = listener.accept().expect("it connects again");
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nquit").expect("it listens");
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut said).expect("it ends the connection");
    let said = String::from_utf8(said).expect("it is text");
    assert!(said.starts_with("GET / HTTP/1.1\r\n") && said.ends_with("\r\n\r\n"), "{said}");

    // A message that is too long is senseless and ends the connection.
    let mut socket = accept(&listener);
    hears_the_subscription(&mut socket);
    // It may end the connection before it has taken in all.
    let _ = socket.send(Message::text(" ".repeat(1024 * 1024 + 1)));
    wait_for_observation(&mut mailbox, "a senseless message", Result::is_err);
    assert_eq!(frames(&mut socket), nothing);

    // And in the end as well.
    let mut socket = accept(&listener);
    hears_the_subscription(&mut socket);
    for line in recording("fdd10idle").into_iter().chain(recording("fdd10")).flatten() {
        socket.send(Message::text(line)).expect("it listens");
    }
    wait_for_observation(&mut mailbox, "a level", is_level);
    drop(mailbox);
    assert_eq!(frames(&mut socket), nothing);
}

#[test]
fn a_gnb_that_comes_later_is_found_and_one_that_stays_mute_is_left() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("it is bound");
    let mut mailbox = open(free);
    let mut heard = Vec::new();
    std::thread::sleep(Duration::from_millis(300));
    mailbox.read(clock::now(), &mut |observation| heard.push(observation));
    assert_eq!(heard, [], "nobody is there, so nothing is said");

    // One that takes the connection and never answers is given up, and so is the end of the source.
    let listener = TcpListener::bind(free).expect("the port is free");
    let (mute, _) = listener.accept().expect("it connects");
    let mut socket = accept(&listener);
    drop(mute);
    hears_the_subscription(&mut socket);
    recording("fdd10").into_iter().flatten().for_each(|line| socket.send(Message::text(line)).expect("it listens"));
    wait_for_observation(&mut mailbox, "a level", is_level);
}

// ---- the whole node ----

/// One node at a time: a batch beside seven others takes longer than anybody waits.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn setup(gnb: &Gnb) -> Setup {
    let (address, freshness) = (gnb.address(), FRESHNESS_MS);
    Setup::new().with_another_source(&format!(
        "name = \"gnb\"\nkind = \"ocudu\"\naddress = \"{address}\"\ncores = [0]\nfreshness_ms = {freshness}"
    ))
}

fn idle() -> Play {
    Play::Reports(recording("fdd10idle"))
}

fn assert_stopped(node: &Node) {
    let all = || !node.workers().is_empty() && node.workers().iter().all(|pid| state(*pid) == Some('T'));
    wait_for("stopped workers", || node.log(), || all().then_some(()));
    let before = node.worker_cpu();
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!(node.worker_cpu(), before, "a stopped worker used CPU time");
}

/// A job runs, the gNB does something, the job stands; once it is idle again the job goes on. Gives the yield.
fn gives_way(reason: &str, act: impl Fn(Gnb) -> Option<Gnb>) -> Value {
    let _alone = alone();
    let gnb = Gnb::start(idle());
    let address = gnb.address();
    let (node, controller) = in_a_trough(&setup(&gnb));
    submit(&controller, "batch", &json!({}));
    controller.wait_for_state("batch", "IN_PROGRESS");
    let acted = clock::now();
    let gnb = act(gnb);
    let event = cause(&node, &controller, reason);
    eprintln!("{reason}: told after {:?} (freshness {FRESHNESS_MS} ms): {event}", clock::now().since(acted));
    if reason != "late" {
        assert_stopped(&node);
    }
    assert_eq!(event["cause"]["source"], json!("gnb"), "{event}");
    if let Some(gnb) = gnb {
        gnb.play(idle());
        let resumed = || controller.events("resume").iter().any(|resume| resume["jobs"] == json!(["batch"]));
        wait_for("the job to go on", || node.log(), || resumed().then_some(()));
        assert!(gnb.heard().iter().flatten().all(|frame| *frame == Message::text(SUBSCRIPTION)), "{:?}", gnb.heard());
    } else {
        assert!(TcpStream::connect(address).is_err());
    }
    event
}

fn cause(node: &Node, controller: &Controller, reason: &str) -> Value {
    let find = || controller.events("yield").into_iter().find(|event| event["cause"]["reason"] == reason);
    wait_for(&format!("a yield because of {reason}"), || node.log(), find)
}

#[test]
fn a_gnb_that_gets_busy_stops_the_job_and_lets_it_go_on_when_it_is_idle() {
    let event = gives_way("above", |gnb| {
        gnb.play(Play::Reports(recording("fdd20")));
        Some(gnb)
    });
    let cause = &event["cause"];
    // The reports have 57.1, 54.5 and 57.8 % of the one core.
    assert!(cause["value"].as_f64().is_some_and(|value| (0.54..=0.58).contains(&value)), "{event}");
    assert_eq!((&cause["metric"], &cause["threshold"]), (&json!("cpu"), &json!(0.4)), "{event}");
    assert_eq!(event["jobs"], json!(["batch"]));
}

#[test]
fn a_stream_that_stalls_stops_the_job() {
    gives_way("stale", |gnb| {
        gnb.play(Play::Silence);
        Some(gnb)
    });
}

#[test]
fn a_gnb_that_ends_stops_the_job() {
    gives_way("stale", |gnb| {
        drop(gnb);
        None
    });
}

#[test]
fn a_late_slot_stops_the_job_at_once_however_low_the_load() {
    gives_way("late", |gnb| {
        let late = r#"{"cells":[{"cell_metrics":{"pci":1,"error_indication_count":1}}]}"#;
        let mut reports = recording("fdd10idle");
        reports.iter_mut().for_each(|report| report.push(late.to_owned()));
        gnb.play(Play::Reports(reports));
        Some(gnb)
    });
}

#[test]
fn a_gnb_that_talks_nonsense_stops_the_job() {
    gives_way("malformed", |gnb| {
        let nonsense = r#"{"executor_metrics":{"name":"slot_ind_exec#0","cpu_load":1e9}}"#;
        gnb.play(Play::Once(vec![nonsense.to_owned()]));
        Some(gnb)
    });
}

#[test]
fn a_gnb_that_hangs_up_again_and_again_starts_nothing() {
    let _alone = alone();
    let gnb = Gnb::start(Play::Hangup);
    let node = Node::start(&setup(&gnb));
    let controller = node.controller();
    node.feeder.low();
    let report = recording("fdd10idle").remove(0);
    for round in 0..4 {
        // Each time another part of a report.
        gnb.play(Play::Once(report.iter().skip(5 * round).take(10).cloned().collect()));
        wait_for("another connection", || node.log(), || (gnb.heard().len() > round).then_some(()));
        std::thread::sleep(Duration::from_millis(300));
        gnb.play(Play::Hangup);
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(node.workers(), Vec::<i32>::new(), "the load was never known");
    }
    assert!(controller.messages().iter().all(|message| message.json["mode"] != json!("trough")));
}
