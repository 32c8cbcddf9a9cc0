//! Can an operator see how fast the node gives way, and can nobody disturb it by looking?

mod common;
#[path = "support/prometheus.rs"]
mod prometheus;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use common::batch::in_a_trough;
use common::controller::Controller;
use common::node::{Node, Setup, state};
use common::wait_for;
use neap::load::push::encode;
use neap::sys::clock;
use neap::units::CellId;
use serde_json::Value;

/// When a rise of the load that met no running worker is repeated.
const RISE_AGAIN: Duration = Duration::from_secs(3);

fn socket(node: &Node) -> PathBuf {
    node.folder.path().join("status.sock")
}

/// Sends some bytes, and gives what comes back until the end.
fn talk(node: &Node, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket(node)).expect("the agent listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
    // A refusal may come, and the connection end, before everything was taken.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(node: &Node, page: &str) -> String {
    let answer = talk(node, format!("GET {page} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    body.to_owned()
}

fn metrics(node: &Node) -> prometheus::Text {
    let text = get(node, "/metrics");
    prometheus::read(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

/// Makes the node give way so many times, each seen by the controller. A worker that is just being started has not
/// run, so its stop is no yield: then the load falls and rises once more.
fn give_way(node: &Node, controller: &Controller, times: usize) {
    for _ in 0..times {
        let before = controller.events("yield").len();
        let mut risen = None;
        wait_for(
            "the yield's event",
            || node.log(),
            || {
                let now = clock::now();
                match risen {
                    Some(at) if now.since(at) < RISE_AGAIN => {}
                    Some(_) | None => {
                        node.feeder.low();
                        controller.wait_for_mode("trough");
                        let pid = node.wait_for_workers(1)[0];
                        wait_for("a worker that may run", || node.log(), || (state(pid) != Some('T')).then_some(()));
                        node.feeder.high();
                        risen = Some(now);
                    }
                }
                (controller.events("yield").len() > before).then_some(())
            },
        );
    }
}

fn neap(node: &Node, arguments: &[&str]) -> Output {
    node.cli(arguments).env("LC_ALL", "C.UTF-8").output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_pages_the_events_and_the_command_agree_about_the_yields() {
    let (node, controller) = in_a_trough(&Setup::new());
    let early = metrics(&node);
    assert_eq!(early.value("neap_link_connected", &[]), Some(1.0));
    give_way(&node, &controller, 5);
    // A page is kept for a quarter of a second.
    let yields = wait_for(
        "five yields on the page",
        || node.log(),
        || Some(metrics(&node)).filter(|text| text.value("neap_yields_total", &[("reason", "above")]) >= Some(5.0)),
    );
    let events = controller.events("yield");
    let total = |event: &Value| event["total_us"].as_u64().expect("a latency");

    assert_eq!(yields.check_histograms().expect("histograms are right"), 1);
    let source = [("source", "push")];
    assert_eq!(yields.value("neap_yield_total_seconds_count", &source), Some(events.len() as f64));
    let longest = events.iter().map(total).max().expect("events") as f64 / 1e6;
    let told = yields.value("neap_yield_max_seconds", &source).expect("a worst case");
    assert!((longest..longest + 2e-6).contains(&told), "{longest} told as {told}");
    for part in ["detect", "decide", "stop"] {
        let labels = [("source", "push"), ("part", part)];
        let quantile = |quantile| {
            yields.value("neap_yield_part_seconds", &[labels[0], labels[1], ("quantile", quantile)]).expect(quantile)
        };
        assert!(quantile("0.5") <= quantile("0.99") && quantile("0.99") <= quantile("0.999"), "{part}");
        assert_eq!(yields.value("neap_yield_part_seconds_count", &labels), Some(events.len() as f64));
    }
    let cpu: u64 = events.iter().map(|event| event["cpu_after_us"].as_u64().expect("CPU time")).sum();
    let told = yields.value("neap_worker_cpu_after_stop_seconds_total", &[]).expect("CPU time") * 1e6;
    assert!((cpu as f64 - 0.5..=cpu as f64 + events.len() as f64).contains(&told), "{cpu} told as {told}");
    let modes: f64 = yields.samples.iter().filter(|s| s.name == "neap_mode").map(|s| s.value).sum();
    assert_eq!(modes, 1.0, "a node is in one mode");
    let slow = events.iter().filter(|event| total(event) >= 500).count() as f64;
    let told: f64 = yields.samples.iter().filter(|s| s.name == "neap_slow_yields_total").map(|s| s.value).sum();
    assert_eq!(slow, told);
    for (event, slow) in events.iter().map(|event| (event, total(event) >= 500)) {
        assert_eq!(event.get("causes").is_some_and(|causes| causes.as_array().is_some()), slow, "{event}");
    }

    let page: Value = serde_json::from_str(&get(&node, "/yields")).expect("JSON");
    let output = neap(&node, &["yields", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let told: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(told["all"], page["all"]);
    assert_eq!(told["all"]["yields"], events.len());
    assert_eq!(told["metrics"]["worst"]["total_us"], events.iter().map(total).max().expect("events"));
    let spread: u64 = told["spread"].as_array().expect("a list").iter().filter_map(|row| row[1].as_u64()).sum();
    assert_eq!(spread, events.len() as u64);

    let metrics = controller.wait("counters of five yields", |messages| {
        let bodies = messages.iter().rev().filter(|message| message.topic == "up/metrics");
        bodies.map(|message| message.json.clone()).find(|body| body["yields"] == events.len())
    });
    assert_eq!(metrics["sources"], told["metrics"]["sources"]);
}

#[test]
fn the_table_names_the_source_its_parts_and_the_slowest_yield() {
    let (node, controller) = in_a_trough(&Setup::new());
    give_way(&node, &controller, 2);
    wait_for("both yields", || node.log(), || stdout(&neap(&node, &["yields"])).contains("yields since").then_some(()));
    for (arguments, ascii) in [(&["yields"][..], false), (&["yields", "--ascii"], true)] {
        let output = neap(&node, arguments);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
        let text = stdout(&output);
        for part in ["test/node-1", "yield class", "push", "detect", "decide", "stop", "total", "p99.9", "slowest:"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\x1b'), "no colours in a pipe: {text}");
        assert_eq!(text.is_ascii(), ascii, "{text}");
        assert!(text.contains(if ascii { "###" } else { "███" }), "{text}");
    }
    let plain = node.cli(&["yields"]).env("LC_ALL", "C").output().expect("the binary runs");
    assert!(stdout(&plain).is_ascii());
}

#[test]
fn a_yield_whose_sample_was_old_says_so() {
    let (node, controller) = in_a_trough(&Setup::new());
    // From here on the worker has run.
    give_way(&node, &controller, 1);
    let resumes = controller.events("resume").len();
    node.feeder.low();
    wait_for("the resume", || node.log(), || (controller.events("resume").len() > resumes).then_some(()));
    let seen = controller.events("yield").len();
    let old = clock::now();
    std::thread::sleep(Duration::from_millis(300));
    node.feeder.raw(encode(CellId(1), Some(90), None, None, Some(old), false).as_bytes());
    let event = wait_for("the yield's event", || node.log(), || controller.events("yield").into_iter().nth(seen));
    assert!(event["detect_us"].as_u64() >= Some(300_000), "{event}");
    let causes = event["causes"].as_array().expect("a slow yield has causes");
    let late = causes.iter().find(|cause| cause["cause"] == "sample_late").expect("the sample was late");
    let us = |key: &str| late[key].as_u64().expect("an amount");
    assert!(us("least_us") <= us("most_us") && us("most_us") >= 299_000, "{event}");
    let certain: u64 = causes.iter().filter_map(|cause| cause["least_us"].as_u64()).sum();
    assert!(certain <= event["total_us"].as_u64().expect("a latency"), "{event}");
    if std::path::Path::new("/proc/thread-self/schedstat").exists() {
        assert!(us("least_us") > 0, "the sentinel's own part is known: {event}");
    }
    let page = wait_for(
        "the slow yield on the page",
        || node.log(),
        || {
            Some(metrics(&node))
                .filter(|text| text.value("neap_slow_yield_causes_total", &[("cause", "sample_late")]) >= Some(1.0))
        },
    );
    assert!(page.check_histograms().is_ok());
}

#[test]
fn stuck_and_hostile_clients_hold_up_neither_the_yield_nor_one_another_for_long() {
    let (node, controller) = in_a_trough(&Setup::new());
    let mut stuck: Vec<UnixStream> =
        (0..12).map(|_| UnixStream::connect(socket(&node)).expect("the backlog has room")).collect();
    // One sends slowly, the others nothing at all; none reads.
    stuck[0].write_all(b"GET /met").expect("the first bytes are taken");
    give_way(&node, &controller, 2);
    // The stuck ones are cut off after two seconds each, eight at a time: then somebody is answered.
    assert!(get(&node, "/metrics").contains("neap_mode"));
    drop(stuck);

    let long = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 4096], b"\r\n\r\n"].concat();
    let secret = "<script>alert(1)</script>";
    for (request, code) in [
        (b"POST /metrics HTTP/1.1\r\n\r\n".to_vec(), Some("405")),
        (format!("GET /{secret} HTTP/1.1\r\nX: {secret}\r\n\r\n").into_bytes(), Some("404")),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), Some("400")),
        // The answer may be lost when more was sent than is read.
        (long, None),
        (vec![0xff; 100_000], None),
    ] {
        let answer = talk(&node, &request);
        let told = answer.split(' ').nth(1).map(str::to_owned);
        assert!(code.is_none() || told.as_deref() == code, "{answer:?}");
        assert!(!answer.contains("script") && answer.len() < 1024, "{answer:?}");
    }
    let half = UnixStream::connect(socket(&node)).and_then(|mut stream| stream.write_all(b"GET /metrics HTTP/1.1\r\n"));
    assert!(half.is_ok());
    give_way(&node, &controller, 1);
    assert!(metrics(&node).check_histograms().is_ok());
}

#[test]
fn the_socket_is_as_private_as_asked_and_goes_with_the_agent() {
    let mut node = Node::start(&Setup::new().with("status", "mode", 0o600));
    let socket = socket(&node);
    wait_for("the socket", || node.log(), || UnixStream::connect(&socket).is_ok().then_some(()));
    let mode = std::fs::metadata(&socket).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    // What a killed agent leaves behind is replaced.
    node.kill_agent();
    assert!(socket.exists());
    let output = neap(&node, &["yields"]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("neap run") && stderr(&output).contains("--socket"), "{}", stderr(&output));
    node.start_agent();
    wait_for("the socket again", || node.log(), || UnixStream::connect(&socket).is_ok().then_some(()));
    node.terminate_agent();
    assert!(!socket.exists(), "a clean end leaves nothing behind");
}

#[test]
fn an_agent_that_cannot_open_its_socket_or_may_not_works_without() {
    let (node, _controller) = in_a_trough(&Setup::new().with("status", "socket", "/nowhere/status.sock"));
    assert!(node.log().contains("no status socket"), "{}", node.log());
    let (node, _controller) = in_a_trough(&Setup::new().with("status", "enabled", false));
    assert!(!socket(&node).exists());
    let output = neap(&node, &["yields"]);
    assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
    assert!(stderr(&output).contains("enabled = false"), "{}", stderr(&output));
}

#[test]
fn a_port_of_this_machine_shows_the_same_pages() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let (node, _controller) = in_a_trough(&Setup::new().with("status", "listen", free.to_string()));
    let mut stream = TcpStream::connect(free).unwrap_or_else(|error| panic!("{error}\n{}", node.log()));
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let text = prometheus::read(body).unwrap_or_else(|why| panic!("{why}\n{body}"));
    assert_eq!(text.value("neap_mode", &[("mode", "trough")]), Some(1.0));
    assert_eq!(text.value("neap_load_permille", &[("source", "push")]), Some(50.0));
}

#[test]
fn the_reader_of_the_format_refuses_what_prometheus_would() {
    let family = "# HELP a_total x\n# TYPE a_total counter\n";
    for bad in [
        "a_total 1\n".to_owned(),
        format!("{family}a_total 1"),
        format!("{family}a_total\n"),
        format!("{family}a_total{{b=\"c}} 1\n"),
        format!("{family}a_total 1\na_total 2\n"),
        format!("{family}b_total 1\n"),
        format!("{family}{family}"),
        "# HELP a x\n# TYPE a counter\na 1\n".to_owned(),
        "# HELP 1a x\n# TYPE 1a gauge\n1a 1\n".to_owned(),
    ] {
        assert!(prometheus::read(&bad).is_err(), "{bad}");
    }
    let histogram = |last: &str| {
        let text = format!(
            "# HELP h x\n# TYPE h histogram\nh_bucket{{le=\"1\"}} 2\nh_bucket{{le=\"+Inf\"}} {last}\nh_sum 1\nh_count 3\n"
        );
        prometheus::read(&text).expect("well-formed").check_histograms()
    };
    assert_eq!(histogram("3"), Ok(1));
    assert!(histogram("1").is_err() && histogram("4").is_err());
}
