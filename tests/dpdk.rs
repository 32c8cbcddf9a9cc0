//! Does a DPDK application's own account of its lcores count, and nothing that is less than that?
//!
//! Against an application that is played, for everything that can go wrong, and against the real `dpdk-testpmd`: that of
//! Debian 12, which lacks the endpoint, and a later one (`.ci/dpdk` fetches it), which has it.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::batch::{in_a_trough, submit};
use common::controller::Controller;
use common::dpdk::{self, App, Lcores, Reply, Testpmd, greeting, say, usage};
use common::node::{Node, Setup, state};
use common::wait_for;
use neap::load::dpdk::{Dpdk, Settings, inquire};
use neap::load::fusion::{FusedLoad, Fusion, Trust};
use neap::load::{Kind, Metric, Observation, Observed, SourceSettings, open};
use neap::sys::clock;
use neap::units::SourceId;
use serde_json::{Value, json};

fn settings(socket: &Path) -> Settings {
    Settings {
        socket: socket.to_owned(),
        process: None,
        lcores: Vec::new(),
        ports: Vec::new(),
        parked_idle: false,
        period: Duration::from_millis(50),
    }
}

fn source(socket: &Path) -> Dpdk {
    Dpdk::new(SourceId(0), settings(socket))
}

/// The next look, after a pause in which cycles can pass.
fn look(source: &mut Dpdk) -> Option<Observation> {
    std::thread::sleep(Duration::from_millis(20));
    source.observe(&clock::now)
}

fn level(observation: &Observation) -> (u16, Option<u64>) {
    let reading = observation.unwrap_or_else(|malformed| panic!("{}", malformed.why));
    let Observed::Level { metric: Metric::Lcore, level, late } = reading.observed else { panic!("{reading:?}") };
    assert!(reading.stamped.is_some_and(|stamped| stamped <= clock::now()));
    (level.permille(), late)
}

/// Looks until there is something else than silence.
fn said(source: &mut Dpdk) -> Observation {
    wait_for("an observation", String::new, || look(source))
}

#[test]
fn the_busiest_lcore_is_the_level_and_missed_frames_are_late_slots() {
    let folder = tempfile::tempdir().unwrap();
    let lcores = Lcores::default();
    let app = App::start(&folder.path().join("v2"), lcores.script());
    let mut source = source(&app.socket);
    assert_eq!(look(&mut source), None, "the first look has nothing to compare with");
    assert_eq!(level(&look(&mut source).unwrap()), (0, Some(0)));
    lcores.set_permille(700);
    lcores.miss(3);
    let _mixed = look(&mut source);
    let (permille, late) = level(&look(&mut source).unwrap());
    assert!((700..=701).contains(&permille) && late == Some(3), "{permille} {late:?}");

    // Only the idle one of the two, and only the frames of a port that is named.
    let chosen = Settings { lcores: vec![1], ports: vec![0], ..settings(&app.socket) };
    drop(source);
    let mut source = Dpdk::new(SourceId(0), chosen);
    assert_eq!((look(&mut source), level(&look(&mut source).unwrap())), (None, (0, Some(3))));
}

#[test]
fn whatever_is_not_a_good_reply_means_busy_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = |cycles: u64| usage(&[(1, cycles, 0), (2, cycles, 0)]);
    let app = App::start(&folder.path().join("v2"), |_: &str| Reply::Close);
    let deep = "[".repeat(5_000);
    let huge = format!(r#"{{"/eal/lcore/usage":"{}"}}"#, "x".repeat(70_000));
    let list = |body: &str| say(format!(r#"{{"/eal/lcore/usage":{body}}}"#));
    let cases: Vec<(Reply, &str)> = vec![
        (say(r#"{"/eal/lcore/usage":null}"#), "DPDK 23.03"),
        (usage(&[]), "usage callback"),
        (say("garbage"), "not the JSON"),
        (Reply::Say(vec![0xff, 0, 1]), "not the JSON"),
        (say(deep), "not the JSON"),
        (say(huge), "above 64 KiB"),
        (say(r#"{"/ethdev/list":null}"#), "another question"),
        (say(r#"{"/eal/lcore/usage":null,"x":null}"#), "not the JSON"),
        (list(r#"{"lcore_ids":[1,2],"total_cycles":[9],"busy_cycles":[0,0]}"#), "different lengths"),
        (list(r#"{"lcore_ids":[1],"total_cycles":[-9],"busy_cycles":[0]}"#), "not the JSON"),
        (list(r#"{"lcore_ids":[1],"total_cycles":[1e3],"busy_cycles":[0]}"#), "not the JSON"),
        (list(r#"{"lcore_ids":[1],"total_cycles":[18446744073709551616],"busy_cycles":[0]}"#), "not the JSON"),
        (usage(&[(2, 900, 0), (1, 900, 0)]), "out of order"),
        (usage(&[(1, 900, 0), (1, 900, 0)]), "more than once"),
        (usage(&[(1, 2_000_000, 0)]), "other lcores"),
        (usage(&[(1, 2_000_000, 0), (2, 2_000_000, 0), (3, 2_000_000, 0)]), "other lcores"),
        (usage(&[(1, 2_000_000, 0), (2, 999_999, 0)]), "backwards"),
        (usage(&[(1, 1_000_000, 0), (2, 2_000_000, 0)]), "stand still"),
        (usage(&[(1, u64::MAX, 0), (2, 2_000_000, 0)]), "than any clock"),
        (Reply::Close, "closed"),
        (Reply::Hang, "in time"),
    ];
    for (bad, word) in cases {
        let mut asked = 0;
        let (shown, said_bad) = (format!("{bad:?}"), bad);
        let lcores = Lcores::default();
        let mut other = lcores.script();
        app.behave(move |question: &str| {
            if question != "/eal/lcore/usage" {
                return other(question);
            }
            asked += 1;
            if asked == 1 { good(1_000_000) } else { said_bad.clone() }
        });
        let mut source = source(&app.socket);
        assert_eq!(look(&mut source), None, "{shown}");
        let malformed = said(&mut source).expect_err(&shown);
        assert!(malformed.why.contains(word), "{:.100}: {}", shown, malformed.why);
    }
}

#[test]
fn a_bad_greeting_or_a_bad_port_means_busy() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(&folder.path().join("v2"), |_: &str| Reply::Close);
    let cases: Vec<(&str, Reply, &str)> = vec![
        ("", Reply::Close, "closed"),
        ("", Reply::Hang, "in time"),
        ("", say("{}"), "greeting"),
        ("", say(r#"{"version":"DPDK","pid":0,"max_output_len":16384}"#), "process id"),
        ("", say(r#"{"version":"DPDK","pid":1,"max_output_len":999999}"#), "64 KiB"),
        ("/ethdev/list", Reply::Hang, "in time"),
        ("/ethdev/list", say(r#"{"/ethdev/list":[-1]}"#), "not the JSON"),
        ("/ethdev/list", say(format!(r#"{{"/ethdev/list":[{}0]}}"#, "0,".repeat(64))), "above 64 ports"),
        ("/ethdev/xstats,0", say(r#"{"/ethdev/xstats":null}"#), "rx_missed_errors"),
        ("/ethdev/xstats,0", say(r#"{"/ethdev/xstats":{"rx_errors":0}}"#), "rx_missed_errors"),
        ("/ethdev/xstats,0", say(r#"{"/ethdev/xstats":{"rx_missed_errors":-1}}"#), "not the JSON"),
        ("/ethdev/xstats,0", Reply::Close, "closed"),
    ];
    for (at, bad, word) in cases {
        let shown = format!("{at} {bad:?}");
        let lcores = Lcores::default();
        let mut other = lcores.script();
        app.behave(move |question: &str| if question == at { bad.clone() } else { other(question) });
        let malformed = said(&mut source(&app.socket)).expect_err(&shown);
        assert!(malformed.why.contains(word), "{:.100}: {}", shown, malformed.why);
    }
    let nobody = said(&mut source(&folder.path().join("nobody"))).unwrap_err();
    assert!(nobody.why.contains("no DPDK application listens"), "{}", nobody.why);
}

#[test]
fn an_application_that_comes_and_goes_never_gives_a_level() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(&folder.path().join("v2"), |_: &str| Reply::Close);
    // Each connection is good for one look, and each time the counters promise an idle RAN.
    let (lcores, mut looks) = (Lcores::default(), 0);
    let mut other = lcores.script();
    app.behave(move |question: &str| {
        looks += u32::from(question == "/eal/lcore/usage");
        if question == "/eal/lcore/usage" && looks % 2 == 0 { Reply::Close } else { other(question) }
    });
    let mut fusion = Fusion::new(&[Trust { freshness: Duration::from_secs(5), required: true, planning: false }]);
    let mut source = source(&app.socket);
    let mut malformed = 0;
    let end = clock::now().after(Duration::from_secs(4));
    while clock::now() < end {
        if let Some(observation) = look(&mut source) {
            malformed += u32::from(observation.is_err());
            fusion.on_observation(clock::now(), observation);
        }
        let fused = fusion.current(clock::now()).load;
        assert!(!matches!(fused, FusedLoad::Level(..)), "{fused:?}");
    }
    assert!(malformed >= 2, "it came and went: {malformed}");
}

#[test]
fn after_a_restart_nothing_counts_before_two_looks_at_the_new_process() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("v2");
    let busy = |pid: u32, base: u64| {
        let mut cycles = base;
        move |question: &str| match question {
            "" => greeting(pid),
            "/eal/lcore/usage" => {
                cycles += 1_000_000;
                usage(&[(1, cycles, cycles / 2)])
            }
            _ => say(r#"{"/ethdev/list":null}"#),
        }
    };
    let app = App::start(&socket, busy(1, 0));
    let mut source = source(&socket);
    assert_eq!((look(&mut source), level(&look(&mut source).unwrap())), (None, (500, None)));
    drop(app);
    // The new process has counted further than the old one: compared with that it would be idle.
    let _app = App::start(&socket, busy(2, 900_000_000));
    let malformed = said(&mut source).unwrap_err();
    assert!(malformed.why.contains("closed"), "{}", malformed.why);
    assert_eq!(level(&said(&mut source)), (500, None));
}

#[test]
fn an_lcore_that_is_parked_is_idle_only_by_the_operators_word() {
    let folder = tempfile::tempdir().unwrap();
    let parked = |question: &str| match question {
        "" => greeting(1),
        "/eal/lcore/usage" => usage(&[(1, 77, 70)]),
        _ => say(r#"{"/ethdev/list":[]}"#),
    };
    let app = App::start(&folder.path().join("v2"), parked);
    let mut strict = source(&app.socket);
    assert_eq!(look(&mut strict), None);
    assert!(look(&mut strict).unwrap().unwrap_err().why.contains("parked_idle"));
    drop(strict);
    let mut trusting = Dpdk::new(SourceId(0), Settings { parked_idle: true, ..settings(&app.socket) });
    assert_eq!((look(&mut trusting), level(&look(&mut trusting).unwrap())), (None, (0, Some(0))));
}

#[test]
fn the_socket_of_the_process_is_found_among_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("v2");
    let ours = std::fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
    let lcores = Lcores::default();
    let _app = App::start(&folder.path().join("v2:2"), lcores.script());
    // One that has died, and one that is of nobody here.
    drop(App::start(&first, |_: &str| Reply::Hang));
    let found = Settings { process: Some(ours), ..settings(&first) };
    let mut source = Dpdk::new(SourceId(0), found.clone());
    assert_eq!((look(&mut source), level(&said(&mut source))), (None, (0, Some(0))));
    drop(source);
    let told = inquire(&found).unwrap();
    assert!(told.contains("v2:2: DPDK 24.11.4") && told.contains("lcores [1, 2]"), "{told}");

    let mut stranger = Dpdk::new(SourceId(0), Settings { process: Some("nobody".to_owned()), ..settings(&first) });
    assert!(said(&mut stranger).unwrap_err().why.contains("belongs to the process"));
    let told = inquire(&settings(&first)).unwrap_err();
    assert!(told.contains("no DPDK application listens") && told.contains("v2:2 ("), "{told}");
}

#[test]
fn a_silent_application_does_not_hold_up_the_end_of_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(&folder.path().join("v2"), |_: &str| Reply::Hang);
    let kind = Kind::Dpdk(settings(&app.socket));
    let freshness = Duration::from_secs(1);
    let settings = SourceSettings { name: "l1".to_owned(), freshness, required: true, kind, record: None };
    let mut source = open(&settings, SourceId(0), clock::now(), Arc::new(|_| 0)).unwrap();
    let mut whys = Vec::new();
    wait_for("a word", String::new, || {
        source.read(clock::now(), &mut |observation| whys.push(observation.unwrap_err().why));
        (!whys.is_empty()).then_some(())
    });
    let asked = clock::now();
    drop(source);
    assert!(clock::now().since(asked) < Duration::from_secs(30));
}

// ---- with the real agent ----

fn in_config(socket: &Path, period_ms: u32) -> String {
    let socket = socket.display();
    format!("name = \"l1\"\nkind = \"dpdk\"\nsocket = \"{socket}\"\nfreshness_ms = 2000\nperiod_ms = {period_ms}")
}

/// A node in a trough with more work than the test lasts. Whether the work gets on is not looked at: on a busy machine
/// it does not, and that is as it should be.
fn in_progress(setup: &Setup) -> (Node, Controller) {
    let (node, controller) = in_a_trough(setup);
    for id in ["batch", "second", "third", "fourth"] {
        submit(&controller, id, &json!({}));
    }
    controller.wait_for_state("batch", "IN_PROGRESS");
    (node, controller)
}

fn yields(controller: &Controller, reason: &str) -> Vec<Value> {
    controller.events("yield").into_iter().filter(|event| event["cause"]["reason"] == reason).collect()
}

/// Waits for the nth yield for that reason, and for its workers to stand.
fn gives_way(node: &Node, controller: &Controller, reason: &str, nth: usize) -> Value {
    let what = format!("yield {nth} because of {reason}");
    let event = wait_for(&what, || node.log(), || yields(controller, reason).get(nth - 1).cloned());
    let stopped = || !node.workers().is_empty() && node.workers().iter().all(|pid| state(*pid) == Some('T'));
    wait_for("stopped workers", || node.log(), || stopped().then_some(()));
    eprintln!("yield because of {reason}: {event}");
    assert_eq!(event["cause"]["source"], "l1", "{event}");
    event
}

fn goes_on(node: &Node) {
    let runs = || node.workers().iter().any(|pid| state(*pid) != Some('T'));
    wait_for("workers that run", || node.log(), || runs().then_some(()));
}

#[test]
fn busy_lcores_missed_frames_and_the_loss_of_the_application_stop_a_job_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let lcores = Lcores::default();
    let app = App::start(&folder.path().join("v2"), lcores.script());
    let (node, controller) = in_progress(&Setup::new().with_another_source(&in_config(&app.socket, 50)));

    lcores.set_permille(900);
    let above = gives_way(&node, &controller, "above", 1);
    assert_eq!(above["cause"]["metric"], "lcore", "{above}");
    lcores.set_permille(0);
    goes_on(&node);

    lcores.miss(1);
    gives_way(&node, &controller, "late", 1);
    goes_on(&node);

    // It hangs midway in a reply; then it is gone altogether.
    let first = yields(&controller, "malformed").len() + 1;
    app.behave(|_: &str| Reply::Hang);
    gives_way(&node, &controller, "malformed", first);
    app.behave(lcores.script());
    goes_on(&node);
    let second = yields(&controller, "malformed").len() + 1;
    drop(app);
    gives_way(&node, &controller, "malformed", second);
    let word = "DPDK telemetry gives no load, which means busy: the application does not answer in time";
    assert!(node.log().contains(word), "{}", node.log());
}

// ---- the real testpmd ----

#[test]
fn a_dpdk_without_the_endpoint_is_told_plainly() {
    let Some(program) = dpdk::installed() else { return };
    let testpmd = Testpmd::start(&program, &[]);
    let told = inquire(&settings(&testpmd.socket())).unwrap_err();
    if !told.contains("DPDK 22.") {
        eprintln!("\n!!! SKIPPED: {program:?} is not of DPDK 22, which lacks the endpoint: {told} !!!\n");
        return;
    }
    assert!(told.contains("needs DPDK 23.03 or later"), "{told}");
    let why = said(&mut source(&testpmd.socket())).unwrap_err().why;
    assert!(why.contains("needs DPDK 23.03 or later"), "{why}");
}

#[test]
fn an_application_without_a_usage_callback_is_told_plainly() {
    let Some(program) = dpdk::with_usage() else { return };
    let testpmd = Testpmd::start(&program, &[]);
    let told = inquire(&settings(&testpmd.socket())).unwrap_err();
    assert!(told.contains("must register a usage callback"), "{told}");
    assert!(said(&mut source(&testpmd.socket())).unwrap_err().why.contains("--record-core-cycles"));
}

#[test]
fn the_load_of_testpmd_rises_with_traffic_and_falls_without() {
    let Some(program) = dpdk::with_usage() else { return };
    let mut testpmd = Testpmd::start(&program, &["--record-core-cycles"]);
    let mut source = source(&testpmd.socket());
    let until = |source: &mut Dpdk, what: &str, wanted: &dyn Fn(u16) -> bool| {
        wait_for(what, String::new, || {
            let observation = look(source)?;
            let permille = observation.is_ok().then(|| level(&observation).0).filter(|permille| wanted(*permille))?;
            eprintln!("{what}: {permille} permille");
            Some(permille)
        })
    };
    // Not started: its lcores wait, and their cycles stand still.
    assert!(said(&mut source).unwrap_err().why.contains("stand still"));
    testpmd.forward(1);
    until(&mut source, "polling without a frame", &|permille| permille == 0);
    testpmd.order("stop");
    testpmd.forward(0);
    until(&mut source, "polling with frames", &|permille| permille > 800);
    testpmd.order("stop");
    wait_for("parked lcores", String::new, || look(&mut source)?.err().filter(|bad| bad.why.contains("stand still")));
    drop(source);
    let mut trusting = Dpdk::new(SourceId(0), Settings { parked_idle: true, ..settings(&testpmd.socket()) });
    until(&mut trusting, "parked, by the operator's word", &|permille| permille == 0);
    let told = inquire(&settings(&testpmd.socket())).unwrap();
    assert!(told.contains("lcores [1] tell their usage, 0 missed frames"), "{told}");
}

#[test]
fn traffic_through_testpmd_stops_a_job_and_its_end_lets_it_go_on() {
    let Some(program) = dpdk::with_usage() else { return };
    let mut testpmd = Testpmd::start(&program, &["--record-core-cycles"]);
    testpmd.forward(1);
    let (node, controller) = in_progress(&Setup::new().with_another_source(&in_config(&testpmd.socket(), 200)));
    testpmd.order("stop");
    testpmd.forward(0);
    // Between `stop` and `start` its cycles stand still: that stops the workers, and the traffic keeps them stopped.
    let told = controller.wait("load of the lcore", |messages| {
        let of_lcore = |json: &Value| json["metric"] == "lcore" && json["value"].as_f64() >= Some(0.8);
        let loads = messages.iter().filter(|message| message.topic == "up/load").map(|message| &message.json);
        loads.rev().find(|json| of_lcore(json)).cloned()
    });
    eprintln!("traffic through testpmd: {told}");
    let stopped = || !node.workers().is_empty() && node.workers().iter().all(|pid| state(*pid) == Some('T'));
    wait_for("stopped workers", || node.log(), || stopped().then_some(()));
    let cpu = node.worker_cpu();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(node.worker_cpu(), cpu, "a stopped worker used CPU time while the lcore was busy");
    testpmd.order("stop");
    testpmd.forward(1);
    goes_on(&node);
}
