//! Is anything lost when the broker forgets everything it has acknowledged?
//!
//! A real Mosquitto without persistence is killed again and again while jobs stream through it; a controller finds out
//! from the node what is missing. Twenty kills, with `NEAP_CHAOS=full` a hundred; the moments come from `NEAP_SEED`.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::controller::{Controller, message, read_json};
use common::ledger::Ledger;
use common::mosquitto::{Mosquitto, Options};
use common::node::{BASE, Broker, Node, Setup, models};
use common::random::{Random, full};
use common::wait_for;
use neap::link::Publish;
use neap::sys::clock;
use serde_json::{Value, json};

/// Time between two rounds of the controller.
const ROUND: Duration = Duration::from_millis(500);
/// The node is back at the broker after this at the latest.
const RECONNECT: Duration = Duration::from_millis(500);
/// What a busy machine may add to a recovery.
const SLACK: Duration = Duration::from_secs(15);
/// Jobs that are sent and have not ended, at most.
const OPEN_MAX: usize = 30;

/// A node on a Mosquitto that keeps nothing; `None` where there is none.
fn prepare(options: Options<'_>) -> Option<Node> {
    let broker = Mosquitto::start(options)?;
    let setup = Setup::new().with("mqtt", "reconnect_max_s", RECONNECT.as_secs_f64());
    Some(Node::prepare_on(&setup, Broker::Mosquitto(broker), &[]))
}

fn start(options: Options<'_>) -> Option<Node> {
    let mut node = prepare(options)?;
    node.start_agent();
    Some(node)
}

fn mosquitto(node: &mut Node) -> &mut Mosquitto {
    match &mut node.broker {
        Broker::Mosquitto(mosquitto) => mosquitto,
        Broker::Embedded(_) => panic!("this node was made with a Mosquitto"),
    }
}

/// SIGKILL, and a new one on the same port that knows nothing.
fn wipe(node: &mut Node, away: Duration) {
    let broker = mosquitto(node);
    broker.kill();
    std::thread::sleep(away);
    broker.restart();
}

fn job() -> Value {
    json!({"model": "kpi-anomaly", "input": read_json(models().join("kpi-anomaly/samples/healthy.json"))})
}

// ---- a controller that reconciles ----

/// What the controller knows.
#[derive(Default)]
struct Book {
    ledger: Ledger,
    sent: BTreeMap<String, Publish>,
    /// Results that came as replies.
    fetched: BTreeMap<String, Value>,
    /// Jobs that a list showed as ended.
    ended: BTreeSet<String>,
    resubmitted: usize,
    rounds: usize,
}

impl Book {
    fn has_ended(&self, id: &str) -> bool {
        self.ended.contains(id) || self.ledger.job(id).is_some_and(|told| told.end.is_some())
    }

    fn has_result(&self, id: &str) -> bool {
        self.fetched.contains_key(id) || self.ledger.job(id).is_some_and(|told| told.results > 0)
    }

    fn unsettled(&self) -> BTreeSet<String> {
        self.sent.keys().filter(|id| !(self.has_ended(id) && self.has_result(id))).cloned().collect()
    }

    fn send(&mut self, controller: &Controller) {
        let id = format!("job-{:05}", self.sent.len());
        let publish = message(&format!("{BASE}/down/job/{id}"), job().to_string().into_bytes());
        controller.post(publish.clone());
        self.sent.insert(id, publish);
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the node what it knows, page by page, and does what follows: fetches results, submits again what it does not
/// know. Ends early when there is no answer.
fn round(controller: &Controller, book: &Mutex<Book>) -> Option<()> {
    let open = {
        let mut book = lock(book);
        book.ledger.read(controller);
        book.unsettled()
    };
    let mut listed = BTreeMap::new();
    let mut after = String::new();
    loop {
        let query = json!({"max": 20, "after": after, "open": true, "unacknowledged": true});
        let reply = controller.try_ask("jobs", &query, ROUND)?;
        for job in reply["jobs"].as_array().into_iter().flatten() {
            after = job["id"].as_str().expect("a job has an id").to_owned();
            listed.insert(after.clone(), job.clone());
        }
        if reply["more"] == false {
            break;
        }
    }
    for id in open {
        match listed.get(&id) {
            None => {
                let mut book = lock(book);
                controller.post(book.sent[&id].clone());
                book.resubmitted += 1;
            }
            Some(job) if job["result_kept"] == true => {
                let result = controller.try_ask("result", &json!({"job": id}), ROUND)?["result"].clone();
                assert!(result.is_object(), "{job}");
                let mut book = lock(book);
                book.ended.insert(id.clone());
                book.fetched.insert(id, result);
            }
            Some(_) => {}
        }
    }
    lock(book).rounds += 1;
    Some(())
}

/// One round after another until it is told to stop.
fn reconcile(controller: &Controller, book: &Mutex<Book>, stop: &AtomicBool) {
    let mut connections = 0;
    let mut due = clock::now();
    while !stop.load(Ordering::Relaxed) {
        let connected = controller.connections();
        if connected > connections || clock::now() >= due {
            connections = connected;
            due = clock::now().after(ROUND);
            round(controller, book);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Keeps jobs coming for that long.
fn stream(controller: &Controller, book: &Mutex<Book>, span: Duration) {
    let end = clock::now().after(span);
    while clock::now() < end {
        let mut book = lock(book);
        book.ledger.read(controller);
        if book.unsettled().len() < OPEN_MAX {
            book.send(controller);
        }
        drop(book);
        std::thread::sleep(Duration::from_millis(5));
    }
}

// ---- the broker is killed ----

#[test]
fn nothing_is_lost_when_the_broker_is_killed_and_forgets_again_and_again() {
    let kills = if full() { 100 } else { 20 };
    let mut random = Random::of_run();
    let Some(mut node) = start(Options::default()) else { return };
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let (book, stop) = (Mutex::new(Book::default()), AtomicBool::new(false));
    let mut recoveries = Vec::new();
    std::thread::scope(|scope| {
        let stopped = Stopped(&stop);
        scope.spawn(|| reconcile(&controller, &book, &stop));
        for kill in 0..kills {
            stream(&controller, &book, random.span(Duration::from_millis(800)));
            wipe(&mut node, random.span(Duration::from_millis(300)));
            // Every second kill comes while the one before is not recovered from.
            if kill % 2 == 0 && kill + 1 < kills {
                continue;
            }
            let back = clock::now();
            let before = lock(&book).unsettled();
            let settled = || {
                let mut book = lock(&book);
                book.ledger.read(&controller);
                book.unsettled().is_disjoint(&before).then_some(())
            };
            wait_for(&format!("everything sent before kill {kill}"), || controller.told(), settled);
            recoveries.push(clock::now().since(back));
        }
        drop(stopped);
    });
    judge(&controller, &mut lock(&book), kills, &recoveries);
}

/// Ends the other thread also when this one fails.
struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The promises. That versions rise and repeats are the same byte for byte, the ledger has seen to.
fn judge(controller: &Controller, book: &mut Book, kills: usize, recoveries: &[Duration]) {
    book.ledger.read(controller);
    assert_eq!(book.unsettled(), BTreeSet::new(), "every job has ended, and its result is here");
    let (mut repeats, mut by_reply) = (0, 0);
    for id in book.sent.keys() {
        let told = book.ledger.job(id);
        let heard = told.and_then(|told| told.result()).map(|body| serde_json::from_slice(body).expect("JSON"));
        let fetched = book.fetched.get(id);
        if let (Some(heard), Some(fetched)) = (&heard, fetched) {
            assert_eq!(heard, fetched, "one result, on whatever way it came");
        }
        by_reply += usize::from(heard.is_none());
        let result: &Value = heard.as_ref().or(fetched).expect("every job has a result");
        assert_eq!((&result["id"], &result["parameters"]["attempt"]), (&json!(id), &json!(1)), "it ran once: {result}");
        assert!(result["outputs"].is_array(), "{result}");
        repeats += told.map_or(0, |told| told.repeats + told.results.saturating_sub(1));
    }
    let strangers: Vec<&str> = book.ledger.jobs().map(|(id, _)| id).filter(|id| !book.sent.contains_key(*id)).collect();
    assert_eq!(strangers, Vec::<&str>::new(), "nothing is told of jobs that nobody sent");
    assert!(book.resubmitted + by_reply > 0, "the kills cost nothing: this test shows nothing");
    let longest = recoveries.iter().max().copied().unwrap_or_default();
    eprintln!(
        "{} jobs, {kills} brokers killed: 0 lost, 0 run twice; {} submitted again, {by_reply} results fetched from the \
         node, {repeats} messages repeated; recovered after at most {longest:?} ({} rounds of {ROUND:?})",
        book.sent.len(),
        book.resubmitted,
        book.rounds
    );
    assert!(longest <= 2 * ROUND + RECONNECT + SLACK, "{recoveries:?}");
}

// ---- the command line ----

fn submit_and_wait(node: &Node, id: &str, more: &[&str]) -> Child {
    let body = node.folder.path().join("job.json");
    std::fs::write(&body, job().to_string()).expect("a file can be written");
    let path = body.display().to_string();
    let arguments = ["submit", &path, "--id", id, "--wait", "--json", "--ask-every", "300ms", "--timeout", "50s"];
    let mut command: Command = node.cli(&[&arguments[..], more].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

/// The result that it printed, and what it said on the way.
fn ended(child: Child) -> (Value, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().expect("a child can be waited for");
    let words = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(0), "{words}");
    (serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {words}")), words)
}

#[test]
fn a_person_who_waits_gets_the_result_although_the_broker_forgot_it_and_only_then_is_it_acknowledged() {
    let Some(mut node) = start(Options::default()) else { return };
    let controller = node.controller();
    node.feeder.high();
    controller.wait_for_mode("busy");
    let waiting = submit_and_wait(&node, "waiting", &["--forget"]);
    controller.wait_for_state("waiting", "QUEUED");

    wipe(&mut node, Duration::ZERO);
    controller.wait_for_connection(2);
    node.feeder.low();
    let (result, words) = ended(waiting);
    assert_eq!((&result["id"], &result["parameters"]["attempt"]), (&json!("waiting"), &json!(1)), "{result}");
    assert!(words.contains("connection lost"), "{words}");
    let forgotten = || {
        let job = controller.try_ask("describe", &json!({"job": "waiting"}), ROUND)?["job"].clone();
        (job["result_kept"] == false).then_some(job)
    };
    let job = wait_for("the node to forget the result", || node.log(), forgotten);
    assert_eq!((&job["status"], &job["attempt"]), (&json!("SUCCEEDED"), &json!(1)));
}

#[test]
fn a_job_that_its_node_never_got_is_sent_again_by_who_waits_for_it() {
    let Some(mut node) = prepare(Options::default()) else { return };
    let waiting = submit_and_wait(&node, "lost", &[]);
    let sent = || {
        let log = mosquitto(&mut node).log();
        log.lines().any(|line| line.contains("Received PUBLISH") && line.contains("down/job/lost")).then_some(())
    };
    wait_for("the submit at the broker", String::new, sent);
    wipe(&mut node, Duration::from_millis(100));
    node.feeder.low();
    node.start_agent();
    let (result, words) = ended(waiting);
    assert_eq!((&result["id"], &result["parameters"]["attempt"]), (&json!("lost"), &json!(1)), "{result}");
    assert!(words.contains("does not know the job: submitted again"), "{words}");
}

#[test]
fn who_asks_for_a_result_may_wait_for_it_and_gets_no_other_jobs() {
    let Some(node) = start(Options::default()) else { return };
    let controller = node.controller();
    node.feeder.high();
    controller.wait_for_mode("busy");
    controller.submit("later", &job());
    controller.wait_for_state("later", "QUEUED");
    let mut command = node.cli(&["result", "later", "--wait", "--json", "--ask-every", "300ms", "--timeout", "50s"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    node.feeder.low();
    assert_eq!(ended(child).0, controller.wait_for_result("later"));

    // The id is another job's: what came of that one is nobody's result here.
    let same = submit_and_wait(&node, "later", &[]);
    assert_eq!(ended(same).0["id"], "later", "the same body is the same job");
    let body = node.folder.path().join("other.json");
    let mut another = job();
    another["priority"] = json!(9);
    std::fs::write(&body, another.to_string()).expect("a file can be written");
    let path = body.display().to_string();
    let output = node.cli(&["submit", &path, "--id", "later", "--wait"]).output().expect("the binary runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(65) && words.contains("job.id_conflict"), "{words}");
}

// ---- what a controller asks ----

#[test]
fn a_controller_pages_through_everything_once_and_in_order() {
    let Some(mut node) = start(Options::default()) else { return };
    let controller = node.controller();
    node.feeder.high();
    let birth = controller.wait("a birth", |messages| {
        let mut births = messages.iter().filter(|message| message.json["open_jobs"].is_object());
        births.next().map(|message| message.json.clone())
    });
    assert_eq!(birth["open_jobs"], json!({"total": 0, "jobs": []}));
    controller.wait_for_mode("busy");
    let ids: Vec<String> = (0..7).map(|number| format!("job-{number}")).collect();
    ids.iter().rev().for_each(|id| controller.submit(id, &job()));
    ids.iter().for_each(|id| drop(controller.wait_for_state(id, "QUEUED")));
    for id in ["job-1", "job-2"] {
        controller.cancel(id);
        controller.wait_for_result(id);
    }
    controller.send("down/job/job-2/ack", "");

    let pages = |more: Value| {
        let (mut found, mut sizes, mut after) = (Vec::new(), Vec::new(), String::new());
        loop {
            let mut query = json!({"max": 3, "after": after});
            more.as_object().into_iter().flatten().for_each(|(key, value)| query[key] = value.clone());
            let reply = controller.ask("jobs", &query);
            let page = reply["jobs"].as_array().unwrap_or_else(|| panic!("{reply}")).clone();
            sizes.push(page.len());
            found.extend(page.iter().map(|job| job["id"].as_str().expect("an id").to_owned()));
            if reply["more"] == false {
                return (found, sizes);
            }
            after.clone_from(found.last().expect("more comes behind something"));
        }
    };
    assert_eq!(pages(json!({})), (ids.clone(), vec![3, 3, 1]));
    let without = |gone: &[&str]| ids.iter().filter(|id| !gone.contains(&id.as_str())).cloned().collect::<Vec<_>>();
    assert_eq!(pages(json!({"open": true})).0, without(&["job-1", "job-2"]));
    assert_eq!(pages(json!({"unacknowledged": true})).0, ["job-1"]);
    assert_eq!(pages(json!({"open": true, "unacknowledged": true})).0, without(&["job-2"]));
    assert_eq!(pages(json!({"open": false})).0, ["job-1", "job-2"]);
    let told = controller.ask("jobs", &json!({"max": 2}));
    assert_eq!((told["jobs"].as_array().map(Vec::len), &told["more"]), (Some(2), &json!(true)), "{told}");

    // Who comes after the birth sees counts; a new birth lists what is open.
    let state = controller.ask("describe", &json!({}))["node"]["state"].clone();
    assert_eq!((&state["queued"], &state["unacknowledged"], &state["open_jobs"]), (&json!(5), &json!(1), &Value::Null));
    wipe(&mut node, Duration::ZERO);
    let birth = controller.wait("another birth", |messages| {
        let mut births = messages.iter().filter(|message| message.json["open_jobs"]["total"] == 5);
        births.next_back().map(|message| message.json.clone())
    });
    let listed: Vec<&str> =
        birth["open_jobs"]["jobs"].as_array().into_iter().flatten().filter_map(|job| job["id"].as_str()).collect();
    assert_eq!(listed, without(&["job-1", "job-2"]));
    assert_eq!((&birth["open_jobs"]["jobs"][0]["status"], &birth["unacknowledged"]), (&json!("QUEUED"), &json!(1)));

    let all = node.cli(&["jobs", "--max", "0", "--json"]).output().expect("the binary runs");
    let lines = String::from_utf8_lossy(&all.stdout).lines().count();
    assert_eq!(lines, 7, "{}", String::from_utf8_lossy(&all.stderr));
    let some = node.cli(&["jobs", "--unacknowledged", "--json"]).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&some.stdout).into_owned();
    assert!(text.lines().count() == 1 && text.contains(r#""id":"job-1""#), "{text}");
}

#[test]
fn replies_fit_what_the_broker_takes_or_say_that_they_do_not() {
    let limit = 20_000;
    let Some(mut node) = start(Options { packet_bytes_max: Some(limit), ..Options::default() }) else { return };
    let controller = node.controller();
    node.feeder.high();
    controller.wait_for_mode("busy");
    let ids: Vec<String> = (0..90).map(|number| format!("job-{number:02}")).collect();
    ids.iter().for_each(|id| _ = controller.post(message(&format!("{BASE}/down/job/{id}"), job().to_string().into())));
    controller.wait_for_state("job-89", "QUEUED");
    let first = controller.ask("jobs", &json!({"after": ""}));
    let count = first["jobs"].as_array().map_or(0, Vec::len);
    assert!(first["more"] == true && (10..90).contains(&count), "{count}");
    let all = node.cli(&["jobs", "--max", "0", "--json"]).output().expect("the binary runs");
    assert_eq!(String::from_utf8_lossy(&all.stdout).lines().count(), 90, "{}", String::from_utf8_lossy(&all.stderr));

    // Sixty files as the network itself sees them: far more than a packet.
    let input = json!({"name": "content", "shape": [1], "datatype": "BYTES", "data": ["hello, tide"]});
    let item = json!({"inputs": [input], "parameters": {"interpret": false}});
    controller.submit("large", &json!({"model": "file-type", "priority": 9, "items": vec![item; 60]}));
    node.feeder.low();
    controller.wait_for_state("large", "SUCCEEDED");
    let reply = controller.ask("result", &json!({"job": "large"}));
    assert_eq!(reply["error"]["code"], "output.too_large", "{reply}");
    let words = reply["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(words.contains("20000") && words.contains("max_packet_size"), "{words}");
    let output = node.cli(&["result", "large"]).output().expect("the binary runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("max_packet_size"), "{output:?}");
    assert!(node.agent_ended().is_none(), "{}", node.log());
}

#[test]
fn a_submit_that_the_broker_hands_over_again_after_the_ack_and_a_restart_runs_nothing() {
    let Some(mut node) = start(Options::default()) else { return };
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    controller.submit("old", &job());
    controller.wait_for_result("old");
    controller.send("down/job/old/ack", "");
    let first = controller.wait_for_state("old", "SUCCEEDED");
    let told = |count: usize| {
        controller.wait("the status again", |messages| {
            // More often after a kill: what had arrived may not have been deleted yet.
            let same = messages.iter().filter(|message| message.topic == "up/job/old" && message.json == first);
            (same.count() >= count).then_some(())
        });
        controller.ask("ping", &json!({}));
        assert_eq!(controller.results("old"), (1, 1), "nothing is told or run again");
        let gone = controller.ask("result", &json!({"job": "old"}));
        assert_eq!(gone["error"]["code"], "job.unknown", "{gone}");
    };
    controller.submit("old", &job());
    told(2);
    node.kill_agent();
    node.start_agent();
    controller.submit("old", &job());
    told(3);
}

// ---- orders ----

#[test]
fn an_operator_pings_holds_releases_drains_and_resumes_from_the_command_line() {
    let Some(node) = start(Options::default()) else { return };
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let order = |arguments: &[&str]| {
        let output = node.cli(&[&["order"], arguments, &["--json"]].concat()).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("one line of JSON")
    };
    let pong = order(&["ping"]);
    assert_eq!((&pong["node"], &pong["version"]), (&json!("test/node-1"), &json!(env!("CARGO_PKG_VERSION"))), "{pong}");
    assert!(pong["round_trip_ms"].as_f64().is_some_and(|ms| ms > 0.0) && pong["mode"] == "trough", "{pong}");
    for (arguments, mode) in [
        (&["hold", "--for", "1h"][..], "held"),
        (&["release"], "trough"),
        (&["hold"], "held"),
        (&["drain"], "draining"),
        (&["resume"], "trough"),
        (&["hold", "--for", "2s"], "held"),
    ] {
        assert_eq!(order(arguments)["done"], true, "{arguments:?}");
        controller.wait_for_mode(mode);
    }
    controller.wait_for_mode("trough");
}
