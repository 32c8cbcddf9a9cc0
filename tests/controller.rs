//! Can a controller do its work with nothing but an MQTT client? Real agent, real broker, PROTOCOL section by section.

mod common;

use std::fs;
use std::time::Duration;

use common::batch::in_a_trough;
use common::clients::{Subscriber, installed, publish};
use common::controller::{Controller, media_job, message, read_json};
use common::node::{BASE, Node, Setup, models};
use common::told::told;
use neap::link::{Publish, Qos};
use neap::sys::clock;
use serde_json::{Value, json};

/// A node with a load that lets nothing run, and a controller.
fn busy(setup: &Setup) -> (Node, Controller) {
    let node = Node::start(setup);
    let controller = node.controller();
    node.feeder.high();
    controller.wait_for_mode("busy");
    (node, controller)
}

/// A submit of a sample of this repository, interpreted as its golden result is.
fn sample(model: &str, sample: &str) -> Value {
    let mut input = read_json(models().join(model).join("samples").join(sample));
    input["parameters"] = json!({"interpret": true});
    json!({"model": model, "input": input})
}

/// So many copies of a picture.
fn pictures(count: usize) -> Vec<Vec<u8>> {
    vec![fs::read(models().join("objects/samples/chelsea.jpg")).expect("the sample is there"); count]
}

/// Compares outputs value by value: texts exactly, numbers within a thousandth of the largest.
fn assert_golden(result: &Value, model: &str, golden: &str) {
    let expected = read_json(models().join(model).join("golden").join(golden));
    let outputs = |body: &Value| body["outputs"].as_array().cloned().unwrap_or_default();
    assert!(!outputs(&expected).is_empty());
    for wanted in outputs(&expected) {
        let found = outputs(result).into_iter().find(|output| output["name"] == wanted["name"]);
        let found = found.unwrap_or_else(|| panic!("no output {} in {result}", wanted["name"]));
        assert_eq!((&found["datatype"], &found["shape"]), (&wanted["datatype"], &wanted["shape"]), "{result}");
        let values = |output: &Value| output["data"].as_array().cloned().unwrap_or_default();
        let (found, wanted) = (values(&found), values(&wanted));
        assert_eq!(found.len(), wanted.len(), "{result}");
        let scale = wanted.iter().filter_map(Value::as_f64).fold(0.0, |max: f64, value| max.max(value.abs()));
        for (found, wanted) in found.iter().zip(&wanted) {
            match (found.as_f64(), wanted.as_f64()) {
                (Some(found), Some(wanted)) => assert!((found - wanted).abs() <= scale / 1000.0, "{found} {wanted}"),
                _ => assert_eq!(found, wanted),
            }
        }
    }
}

fn states(statuses: &[Value]) -> Vec<&str> {
    let mut states: Vec<&str> = statuses.iter().filter_map(|status| status["status"].as_str()).collect();
    states.dedup();
    states
}

// ---- nothing but mosquitto's own clients ----

#[test]
fn mosquitto_pub_submits_and_mosquitto_sub_reads_states_and_the_golden_result() {
    if !installed() {
        return;
    }
    let node = Node::start(&Setup::new());
    let port = node.broker.port();
    let subscriber = Subscriber::start(port, &[&format!("{BASE}/up/#")]);
    subscriber.wait_for("up/state", |message| message.json["online"] == true);
    node.feeder.low();

    for (model, name) in [("kpi-anomaly", "bad-radio.json"), ("prb-forecast", "morning-rise.json")] {
        publish(port, &format!("down/job/{model}"), &["-m", &sample(model, name).to_string()]);
        let result = subscriber.wait_for(&format!("up/job/{model}/result"), |_| true);
        assert_eq!((&result["id"], &result["model_name"]), (&json!(model), &json!(model)));
        assert_eq!((&result["parameters"]["attempt"], &result["parameters"]["yields"]), (&json!(1), &json!(0)));
        assert_golden(&result, model, name);

        let topic = format!("up/job/{model}");
        subscriber.wait_for(&topic, |message| message.json["status"] == "SUCCEEDED");
        let heard = subscriber.messages();
        let statuses: Vec<Value> =
            heard.iter().filter(|message| message.topic == topic).map(|message| message.json.clone()).collect();
        assert_eq!(states(&statuses), ["QUEUED", "IN_PROGRESS", "SUCCEEDED"]);
        let versions: Vec<u64> = statuses.iter().filter_map(|status| status["version"].as_u64()).collect();
        assert!(versions.is_sorted_by(|earlier, later| earlier < later), "{versions:?}");
        let last = &statuses[statuses.len() - 1];
        assert_eq!((&last["progress"], &last["attempt"]), (&json!({"done": 1, "total": 1}), &json!(1)));
        assert!(heard.iter().all(|message| !message.topic.starts_with("up/job") || !message.retain));
    }
}

#[test]
fn a_late_subscriber_reads_retained_state_and_inventory() {
    if !installed() {
        return;
    }
    let (node, _controller) = in_a_trough(&Setup::new());
    let subscriber = Subscriber::start(node.broker.port(), &[&format!("{BASE}/up/#")]);

    let state = subscriber.wait_for("up/state", |message| message.retain && message.json["mode"] == "trough");
    assert_eq!((&state["online"], &state["running"], &state["queued"]), (&json!(true), &json!(0), &json!(0)));
    assert!(state["reason"].as_str().is_some_and(|reason| reason.contains("RRU.PrbTotDl 5")), "{state}");
    let info = subscriber.wait_for("up/info", |message| message.retain);
    let names: Vec<&str> =
        info["models"].as_array().into_iter().flatten().filter_map(|model| model["name"].as_str()).collect();
    assert!(names.contains(&"kpi-anomaly") && names.contains(&"objects"), "{info}");
    assert!(info["models"].as_array().is_some_and(|models| {
        models.iter().all(|model| model["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")))
    }));
}

#[test]
fn mosquitto_pub_asks_and_the_reply_comes_to_its_response_topic_with_its_correlation_data() {
    if !installed() {
        return;
    }
    let (node, controller) = busy(&Setup::new());
    let port = node.broker.port();
    controller.submit("waiting", &sample("kpi-anomaly", "healthy.json"));
    controller.wait_for_state("waiting", "QUEUED");
    let replies = "neap/v1/test/replies/mine";
    let subscriber = Subscriber::start(port, &[replies, &format!("{BASE}/up/state")]);
    subscriber.wait_for("up/state", |_| true);
    let ask = |command: &str, mark: &str| {
        let properties = ["-D", "publish", "response-topic", replies, "-D", "publish", "correlation-data", mark];
        publish(port, &format!("down/cmd/{command}"), &[&["-m", "{}"][..], &properties].concat());
        subscriber.wait_for(replies, |message| message.correlation.as_deref() == Some(mark.as_bytes()))
    };

    assert_eq!(ask("ping", "one")["pong"]["version"], env!("CARGO_PKG_VERSION"));
    let jobs = ask("jobs", "two");
    assert_eq!((&jobs["jobs"][0]["id"], &jobs["jobs"][0]["status"]), (&json!("waiting"), &json!("QUEUED")), "{jobs}");
    assert!(jobs["jobs"][0]["waiting"].as_str().is_some_and(|why| why.contains("busy")), "{jobs}");
    assert_eq!(ask("reboot", "three")["error"]["code"], "job.unsupported");
}

// ---- jobs ----

#[test]
fn a_batch_gives_its_items_in_order_and_an_item_at_fault_has_its_own_error() {
    let (_node, controller) = in_a_trough(&Setup::new());
    let camera = fs::read(models().join("objects/samples/camera.jpg")).expect("the sample is there");
    let files = [pictures(1).remove(0), b"this is no picture".to_vec(), camera];
    controller.submit_media("batch", "objects", "image", &files);

    let result = controller.wait_for_result("batch");
    let items = result["items"].as_array().expect("a batch has items");
    let seen = |item: &Value| {
        let labels = item["outputs"].as_array()?.iter().find(|output| output["name"] == "labels")?;
        labels["data"][0].as_str().map(str::to_owned)
    };
    assert_eq!((items.len(), seen(&items[0]).as_deref(), seen(&items[2]).as_deref()), (3, Some("cat"), Some("person")));
    assert_eq!(items[1]["error"]["code"], "input.decode", "{result}");
    let last = controller.wait_for_state("batch", "SUCCEEDED");
    assert_eq!(last["progress"], json!({"done": 3, "total": 3}));
}

#[test]
fn a_queued_job_is_canceled_and_never_runs() {
    let (node, controller) = busy(&Setup::new());
    controller.submit("queued", &sample("kpi-anomaly", "healthy.json"));
    controller.wait_for_state("queued", "QUEUED");
    controller.cancel("queued");

    let status = controller.wait_for_state("queued", "CANCELED");
    assert_eq!((&status["attempt"], &status["error"]["code"]), (&json!(0), &json!("job.canceled")), "{status}");
    assert_eq!(controller.wait_for_result("queued")["error"]["code"], "job.canceled");
    node.feeder.low();
    controller.submit("next", &sample("kpi-anomaly", "healthy.json"));
    controller.wait_for_state("next", "SUCCEEDED");
    assert_eq!(states(&controller.statuses("queued")), ["QUEUED", "CANCELED"]);
}

#[test]
fn a_running_job_is_canceled_at_once_and_its_worker_serves_the_next() {
    let (node, controller) = in_a_trough(&Setup::new());
    controller.submit_media("running", "objects", "image", &pictures(100));
    controller.wait_for_state("running", "IN_PROGRESS");
    // The worker has its next item already, and the next job waits for it.
    controller.submit("next", &sample("kpi-anomaly", "healthy.json"));
    controller.wait_for_items("running", 1);
    let asked = clock::now();
    controller.cancel("running");

    let status = controller.wait_for_state("running", "CANCELED");
    eprintln!("canceled after {:?}, {}", clock::now().since(asked), status["progress"]);
    assert_eq!(controller.wait_for_result("running")["error"]["code"], "job.canceled");
    assert!(status["progress"]["done"].as_u64() < Some(100), "{status}");
    controller.wait_for_state("next", "SUCCEEDED");
    assert_eq!(controller.results("running"), (1, 1));
    node.wait_for_workers(1);
}

#[test]
fn a_suspended_job_is_canceled_too() {
    let (node, controller) = in_a_trough(&Setup::new());
    controller.submit_media("standing", "objects", "image", &pictures(100));
    controller.wait_for_state("standing", "IN_PROGRESS");
    node.feeder.high();
    controller.wait_for_state("standing", "SUSPENDED");
    controller.cancel("standing");
    let status = controller.wait_for_state("standing", "CANCELED");
    assert_eq!(status["yields"], 1);
    assert_eq!(controller.results("standing"), (1, 1));
}

#[test]
fn a_deadline_that_passes_while_the_radio_is_busy_ends_the_job() {
    let (_node, controller) = busy(&Setup::new());
    let mut job = sample("kpi-anomaly", "healthy.json");
    let deadline = clock::wall().after(Duration::from_secs(2));
    job["deadline"] = json!(deadline.to_string());
    controller.submit("late", &job);

    controller.wait_for_state("late", "QUEUED");
    let status = controller.wait_for_state("late", "TIMED_OUT");
    assert_eq!((&status["attempt"], &status["error"]["code"]), (&json!(0), &json!("job.expired")), "{status}");
    assert!(status["at"].as_str() >= Some(deadline.to_string().as_str()), "{status}");
    assert_eq!(controller.wait_for_result("late")["error"]["code"], "job.expired");
}

#[test]
fn a_deadline_ends_a_suspended_job_as_well() {
    let (node, controller) = in_a_trough(&Setup::new());
    let deadline = clock::wall().after(Duration::from_secs(10));
    let more = json!({"deadline": deadline.to_string()});
    controller.publish(media_job("late", "objects", "image", &pictures(100), &more));
    controller.wait_for_state("late", "IN_PROGRESS");
    node.feeder.high();
    controller.wait_for_state("late", "SUSPENDED");
    let status = controller.wait_for_state("late", "TIMED_OUT");
    assert_eq!((&status["attempt"], &status["error"]["code"]), (&json!(1), &json!("job.expired")), "{status}");
    controller.wait_for_result("late");
    assert_eq!(controller.results("late"), (1, 1));
}

#[test]
fn the_same_submit_again_tells_the_status_again_and_computes_nothing() {
    let (_node, controller) = in_a_trough(&Setup::new());
    let job = sample("kpi-anomaly", "healthy.json");
    controller.submit("twice", &job);
    let first = controller.wait_for_state("twice", "SUCCEEDED");
    let told = |messages: &[common::controller::Message]| {
        messages.iter().filter(|message| message.topic == "up/job/twice" && message.json == first).count()
    };
    controller.submit("twice", &job);
    controller.wait("the same status again", |messages| (told(messages) == 2).then_some(()));
    // Whatever the repeat caused comes before the reply to a later command.
    controller.ask("ping", &json!({}));
    assert_eq!(controller.results("twice"), (1, 1));
}

#[test]
fn another_body_under_a_known_id_is_a_conflict_and_changes_nothing() {
    let (_node, controller) = in_a_trough(&Setup::new());
    controller.submit("taken", &sample("kpi-anomaly", "healthy.json"));
    controller.wait_for_state("taken", "SUCCEEDED");
    let before = controller.statuses("taken");
    controller.submit("taken", &sample("kpi-anomaly", "bad-radio.json"));

    let alarm = controller.wait("an alarm", |messages| {
        messages.iter().find(|message| message.topic == "up/event" && message.json["event"] == "alarm").cloned()
    });
    assert_eq!(alarm.json["code"], "job.id_conflict");
    assert!(alarm.json["message"].as_str().is_some_and(|text| text.contains("taken")), "{}", alarm.json);
    assert!(alarm.properties.contains(&("subject".to_owned(), "taken".to_owned())), "{:?}", alarm.properties);
    assert_eq!(controller.statuses("taken"), before);
    assert_eq!(controller.results("taken"), (1, 1));
}

#[test]
fn higher_priority_goes_first_and_among_equals_the_earlier_deadline() {
    let (node, controller) = busy(&Setup::new());
    let in_minutes = |minutes: u64| json!(clock::wall().after(Duration::from_secs(60 * minutes)).to_string());
    let jobs = [
        ("low", 1, None),
        ("usual", 5, None),
        ("usual-soon", 5, Some(20)),
        ("usual-sooner", 5, Some(10)),
        ("high", 9, Some(60)),
    ];
    for (id, priority, deadline) in jobs {
        let mut job = sample("kpi-anomaly", "healthy.json");
        job["priority"] = json!(priority);
        if let Some(minutes) = deadline {
            job["deadline"] = in_minutes(minutes);
        }
        controller.submit(id, &job);
    }
    jobs.iter().for_each(|(id, ..)| drop(controller.wait_for_state(id, "QUEUED")));
    node.feeder.low();
    jobs.iter().for_each(|(id, ..)| drop(controller.wait_for_state(id, "SUCCEEDED")));

    let order: Vec<String> = controller
        .messages()
        .iter()
        .filter(|message| message.json["status"] == "IN_PROGRESS" && message.json["reason"] == "started")
        .map(|message| message.topic.trim_start_matches("up/job/").to_owned())
        .collect();
    assert_eq!(order, ["high", "usual-sooner", "usual-soon", "usual", "low"]);
}

#[test]
fn a_job_waits_for_its_not_before() {
    let (_node, controller) = in_a_trough(&Setup::new());
    let mut job = sample("kpi-anomaly", "healthy.json");
    let not_before = clock::wall().after(Duration::from_secs(2)).to_string();
    job["not_before"] = json!(not_before);
    controller.submit("early", &job);
    controller.submit("now", &sample("kpi-anomaly", "healthy.json"));
    controller.wait_for_state("now", "SUCCEEDED");
    let started = controller.wait_for_state("early", "IN_PROGRESS");
    assert!(started["at"].as_str() >= Some(not_before.as_str()), "{started}");
    controller.wait_for_state("early", "SUCCEEDED");
}

#[test]
fn a_result_can_be_asked_for_until_the_controller_has_acknowledged_it() {
    let (_node, controller) = in_a_trough(&Setup::new());
    controller.submit("kept", &sample("kpi-anomaly", "healthy.json"));
    let result = controller.wait_for_result("kept");
    controller.wait_for_state("kept", "SUCCEEDED");
    assert_eq!(controller.ask("result", &json!({"job": "kept"}))["result"], result);
    controller.send("down/job/kept/ack", "");
    let gone = controller.ask("result", &json!({"job": "kept"}));
    assert_eq!(gone["error"]["code"], "job.unknown", "{gone}");
    assert_eq!(controller.ask("result", &json!({"job": "other"}))["error"]["code"], "job.unknown");
    // The id stays known against repeats.
    assert_eq!(controller.ask("describe", &json!({"job": "kept"}))["job"]["status"], "SUCCEEDED");
}

#[test]
fn drained_the_node_takes_no_jobs_and_resumed_it_does() {
    let (_node, controller) = in_a_trough(&Setup::new());
    controller.ask("drain", &json!({}));
    controller.wait_for_mode("draining");
    controller.submit("refused", &sample("kpi-anomaly", "healthy.json"));
    let status = controller.wait_for_state("refused", "REJECTED");
    assert_eq!(status["error"]["code"], "node.draining", "{status}");
    controller.ask("resume", &json!({}));
    controller.wait_for_mode("trough");
    controller.submit("taken", &sample("kpi-anomaly", "healthy.json"));
    controller.wait_for_state("taken", "SUCCEEDED");
}

#[test]
fn the_site_holds_all_its_nodes_by_one_retained_message() {
    let (_node, controller) = in_a_trough(&Setup::new());
    let hold = |body: &str| Publish {
        retain: true,
        qos: Qos::AtLeastOnce,
        ..message("neap/v1/test/fleet/down/hold", body.as_bytes().to_vec())
    };
    controller.publish(hold("{}"));
    controller.wait_for_mode("held");
    controller.submit("held", &sample("kpi-anomaly", "healthy.json"));
    controller.wait_for_state("held", "QUEUED");
    controller.publish(hold(""));
    controller.wait_for_state("held", "SUCCEEDED");
}

// ---- people ----

#[test]
fn a_person_submits_lists_and_reads_from_the_command_line() {
    let (node, controller) = in_a_trough(&Setup::new());
    let picture = models().join("objects/samples/chelsea.jpg").display().to_string();
    let run = |arguments: &[&str]| told(&mut node.cli(arguments));
    let submit = ["submit", "--model", "objects", "--input", &picture, "--id", "cat", "--wait"];

    let (code, stdout, stderr) = run(&submit);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("cat"), "{stdout}");
    let (code, stdout, stderr) = run(&["jobs", "--json"]);
    let job: Value = serde_json::from_str(stdout.lines().next().unwrap_or_default()).expect("a line of JSON");
    assert_eq!((code, &job["id"], &job["status"]), (Some(0), &json!("cat"), &json!("SUCCEEDED")), "{stderr}");
    let (code, stdout, _) = run(&["result", "cat", "--json"]);
    let result: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, result), (Some(0), controller.wait_for_result("cat")));
    let (code, _, stderr) = run(&["result", "dog"]);
    assert!(code == Some(65) && stderr.contains("job.unknown"), "{code:?} {stderr}");
    let (code, stdout, stderr) = run(&["cancel", "cat"]);
    assert_eq!(code, Some(0), "a job that has ended is told again: {stdout}{stderr}");
}
