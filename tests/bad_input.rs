//! What does a clumsy or hostile stranger get for an answer? One agent meets all of it, and serves on.
//!
//! Every refusal is a code of the protocol and a sentence with the value, the limit or what there is, and the remedy;
//! status and result say the same.

mod common;

use std::os::unix::net::UnixDatagram;

use common::controller::{Controller, message};
use common::node::{BASE, Broker, Node, Setup, models};
use common::wait_for;
use neap::link::Publish;
use serde_json::{Value, json};

// ---- submits ----

/// What a stranger sends, and what the answer must say.
struct Case {
    name: &'static str,
    code: &'static str,
    /// Each of them stands in the sentence.
    says: &'static [&'static str],
    message: Publish,
    /// Taken, and failed only when it ran.
    runs: bool,
}

fn case(name: &'static str, code: &'static str, says: &'static [&'static str], body: impl Into<Vec<u8>>) -> Case {
    Case { name, code, says, message: message(&format!("{BASE}/down/job/{name}"), body.into()), runs: false }
}

/// JSON with its tensors behind it. `header` is what the sender claims to be the length of the JSON.
fn binary(
    name: &'static str,
    code: &'static str,
    says: &'static [&'static str],
    job: &Value,
    tensors: &[u8],
    header: Option<&str>,
) -> Case {
    let mut body = job.to_string().into_bytes();
    let length = header.map_or_else(|| body.len().to_string(), str::to_owned);
    body.extend_from_slice(tensors);
    let mut case = case(name, code, says, body);
    case.message.content_type = Some("application/octet-stream".to_owned());
    case.message.properties = vec![("inference-header-content-length".to_owned(), length)];
    case
}

/// A medium that is none, or none that can be read: found out in the worker.
fn medium(name: &'static str, model: &str, input: &str, bytes: &[u8], says: &'static [&'static str]) -> Case {
    let parameters = json!({"binary_data_size": bytes.len() + 4});
    let tensor = json!({"name": input, "shape": [1], "datatype": "BYTES", "parameters": parameters});
    let element = [&u32::try_from(bytes.len()).expect("a small file").to_le_bytes(), bytes].concat();
    let job = json!({"model": model, "input": {"inputs": [tensor]}});
    Case { runs: true, ..binary(name, "input.decode", says, &job, &element, None) }
}

/// A job that is right, with other or further members; null takes one away.
fn job(changes: &Value) -> Value {
    let mut job = json!({"model": "kpi-anomaly", "input": kpi(&json!({}))});
    change(&mut job, changes);
    job
}

/// Its input, with other or further members of the tensor.
fn kpi(changes: &Value) -> Value {
    let mut tensor = json!({"name": "kpi", "shape": [1, 16], "datatype": "FP32", "data": vec![0.5; 16]});
    change(&mut tensor, changes);
    json!({"inputs": [tensor]})
}

fn change(object: &mut Value, changes: &Value) {
    let members = object.as_object_mut().expect("an object");
    for (key, value) in changes.as_object().expect("an object") {
        drop(if value.is_null() { members.remove(key) } else { members.insert(key.clone(), value.clone()) });
    }
}

fn malformed_bodies() -> Vec<Case> {
    const CODE: &str = "job.malformed";
    let deep = format!("{{\"model\":\"kpi-anomaly\",\"input\":{}", "[".repeat(4000));
    let twice = format!("{{\"model\":\"other\",{}", &job(&json!({})).to_string()[1..]);
    let with = |changes: &Value| job(changes).to_string();
    vec![
        case("not-json", CODE, &["'h'", "JSON object"], "hello {"),
        case("empty", CODE, &["empty", "send JSON"], ""),
        case("an-array", CODE, &["'['", "JSON object"], "[]"),
        case("byte-order-mark", CODE, &["JSON object"], "\u{feff}{}"),
        case("not-utf-8", CODE, &["byte 10", "UTF-8"], b"{\"model\":\"\xff\xfe\"}".to_vec()),
        case("cut-short", CODE, &["line 1 column 16"], "{\"model\":\"kpi-an"),
        case("deep", CODE, &["16 levels", "byte 46"], deep),
        case("twice", CODE, &["duplicate field `model`"], twice),
        case("unknown-field", CODE, &["`piority`", "`priority`"], with(&json!({"piority": 9}))),
        case("unknown-limit", CODE, &["limits", "`wal_ms`", "`wall_ms`"], with(&json!({"limits": {"wal_ms": 1}}))),
        case("no-model", CODE, &["`model`"], with(&json!({"model": null}))),
        case("model-is-a-path", CODE, &["\"../etc/passwd\"", "a-z 0-9 -"], with(&json!({"model": "../etc/passwd"}))),
        case("digest-is-none", CODE, &["\"sha256:00\"", "64"], with(&json!({"digest": "sha256:00"}))),
        case("priority-10", CODE, &["10", "0 (last) to 9 (first)"], with(&json!({"priority": 10}))),
        case("priority-minus-1", CODE, &["-1", "0 (last) to 9 (first)"], with(&json!({"priority": -1}))),
        case("priority-1.5", CODE, &["priority", "`1.5`", "integer"], with(&json!({"priority": 1.5}))),
        case("deadline-tomorrow", CODE, &["deadline", "\"tomorrow\"", "Z"], with(&json!({"deadline": "tomorrow"}))),
        case("deadline-a-number", CODE, &["deadline", "`1700000000`"], with(&json!({"deadline": 1_700_000_000}))),
        case("limit-0", CODE, &["limits.attempts 0", "1 or more"], with(&json!({"limits": {"attempts": 0}}))),
        case("limit-below-0", CODE, &["limits.wall_ms", "`-1`"], with(&json!({"limits": {"wall_ms": -1}}))),
        case("both", CODE, &["input and items"], with(&json!({"items": [kpi(&json!({}))]}))),
        case("neither", CODE, &["exactly one of input", "none"], with(&json!({"input": null}))),
        case("no-data", CODE, &["\"kpi\"", "binary_data_size"], with(&json!({"input": kpi(&json!({"data": null}))}))),
    ]
}

fn refused_values() -> Vec<Case> {
    let with = |changes: &Value| job(changes).to_string();
    let digest = format!("sha256:{}", "0".repeat(64));
    let not_before = json!({"not_before": "2091-01-01T00:00:00.000Z", "deadline": "2090-01-01T00:00:00.000Z"});
    let by_reference = json!({"input": null, "input_ref": {"url": "file:frames/"}});
    let outputs = json!({"inputs": kpi(&json!({}))["inputs"], "outputs": [{"name": "boxes"}]});
    let mut retained = case("retained", "job.retained", &["retained", "without retain"], with(&json!({})));
    retained.message.retain = true;
    vec![
        retained,
        case("long", "job.too_large", &["8192", "binary_data_size"], format!("{}{:9216}", with(&json!({})), "")),
        case("model-unknown", "model.unknown", &["nope", "kpi-anomaly"], with(&json!({"model": "nope"}))),
        case("version-unknown", "model.unknown", &["version 7", "installed: 1"], with(&json!({"version": 7}))),
        case("other-digest", "model.hash_mismatch", &["sha256:0000"], with(&json!({"digest": digest}))),
        case("late", "job.expired", &["2001", "clocks"], with(&json!({"deadline": "2001-01-01T00:00:00.000Z"}))),
        case("never", "job.malformed", &["2091", "2090"], with(&not_before)),
        case(
            "limit-wall",
            "job.limit_exceeds_policy",
            &["limits.wall_ms 3600001", "3600000", "ask for less"],
            with(&json!({"limits": {"wall_ms": 3_600_001}})),
        ),
        case(
            "limit-memory",
            "job.limit_exceeds_policy",
            &["limits.memory_bytes 1099511627776", "536870912"],
            with(&json!({"limits": {"memory_bytes": 1_u64 << 40}})),
        ),
        case("by-reference", "job.unsupported", &["input_ref", "input or items"], with(&by_reference)),
        case("no-items", "job.too_large", &["0 items", "1 to 10000"], with(&json!({"input": null, "items": []}))),
        case("no-inputs", "input.count", &["0 inputs", "1 to 64"], with(&json!({"input": {"inputs": []}}))),
        case("no-such-output", "output.name", &["\"boxes\"", "score"], with(&json!({"input": outputs}))),
    ]
}

fn bad_tensors() -> Vec<Case> {
    let with = |changes: &Value| job(&json!({"input": kpi(changes)})).to_string();
    let data = |last: Value| json!({"data": ([vec![json!(1); 15], vec![last]].concat())});
    let nan = with(&data(json!(12345))).replace("12345", "NaN");
    let too_large = with(&data(json!(12345))).replace("12345", "1e39");
    let twice = json!({"inputs": [kpi(&json!({}))["inputs"][0], kpi(&json!({}))["inputs"][0]]});
    let of_speech = json!({"name": "h", "shape": [1, 1, 128], "datatype": "FP32", "data": vec![0; 128]});
    vec![
        case(
            "input-missing",
            "input.count",
            &["\"input\"", "[-1,576]"],
            json!({"model": "speech", "input": {"inputs": [of_speech]}}).to_string(),
        ),
        case("input-unknown", "input.name", &["\"bogus\"", "\"kpi\" FP32 [-1,16]"], with(&json!({"name": "bogus"}))),
        case("input-twice", "input.name", &["\"kpi\"", "twice"], job(&json!({"input": twice})).to_string()),
        case(
            "datatype",
            "input.datatype",
            &["INT64", "FP32"],
            with(&json!({"datatype": "INT64", "data": vec![1; 16]})),
        ),
        case("datatype-none", "input.datatype", &["\"FLOAT\"", "FP32"], with(&json!({"datatype": "FLOAT"}))),
        case("shape", "input.shape", &["[1, 15]", "[-1,16]"], with(&json!({"shape": [1, 15], "data": vec![1; 15]}))),
        case("rank", "input.shape", &["[16]", "[-1,16]"], with(&json!({"shape": [16]}))),
        case("rank-9", "input.shape", &["9 dimensions", "at most 8"], with(&json!({"shape": vec![1; 9]}))),
        case("dimension", "input.shape", &["-1", "0 or more"], with(&json!({"shape": [-1, 16]}))),
        case("huge", "input.shape", &["16777216"], with(&json!({"shape": [1_u64 << 40, 1_u64 << 40]}))),
        case("short", "input.length", &["16 elements", "15"], with(&json!({"data": vec![1; 15]}))),
        case("too-long", "input.length", &["16 elements", "more"], with(&json!({"data": vec![1; 17]}))),
        case("nested", "input.shape", &["8", "16"], with(&json!({"data": [vec![1; 8], vec![1; 8]]}))),
        case("nan", "input.value", &["NaN", "finite"], nan),
        case("out-of-range", "input.value", &["1e39", "FP32", "finite"], too_large),
        case("null", "input.value", &["null", "finite"], with(&data(Value::Null))),
        case("text", "input.value", &["\"7\"", "FP32"], with(&data(json!("7")))),
        case("byte-256", "input.value", &["256", "0 to 255"], {
            with(&json!({"datatype": "UINT8", "data": ([vec![1; 15], vec![256]].concat())}))
        }),
    ]
}

fn bad_binaries() -> Vec<Case> {
    let of =
        |bytes: usize| job(&json!({"input": kpi(&json!({"data": null, "parameters": {"binary_data_size": bytes}}))}));
    let (floats, nans) = ([0; 64], f32::NAN.to_le_bytes().repeat(16));
    let item = &of(64)["input"];
    let many = json!({"model": "kpi-anomaly", "items": vec![item; 10_001]});
    let mut no_header =
        binary("no-header", "job.malformed", &["inference-header-content-length"], &of(64), &floats, None);
    no_header.message.properties.clear();
    vec![
        no_header,
        binary("too-few-bytes", "input.length", &["64 bytes", "60"], &of(60), &floats[..60], None),
        binary("size-beyond", "input.length", &["65", "64 bytes are left"], &of(65), &floats, None),
        binary("bytes-left", "job.malformed", &["1 bytes are left"], &of(64), &[0; 65], None),
        binary("header-beyond", "job.malformed", &["99999", "correct it"], &of(64), &floats, Some("99999")),
        binary("header-a-word", "job.malformed", &["\"many\"", "number"], &of(64), &floats, Some("many")),
        binary("header-short", "job.malformed", &["column 20"], &of(64), &floats, Some("20")),
        binary("nan-bytes", "input.value", &["element 0", "NaN", "finite"], &of(64), &nans, None),
        binary("many-items", "job.too_large", &["10001 items", "1 to 10000"], &many, &[0; 64], None),
    ]
}

fn bad_media() -> Vec<Case> {
    let read = |path: &str| std::fs::read(models().join(path)).expect("the sample is there");
    let jpeg = read("faces/samples/astronaut.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0] || pair == [0xff, 0xc2]).expect("a JPEG");
    let mut huge = jpeg.clone();
    huge[frame + 5..frame + 9].fill(0xff);
    let cut = jpeg.len() / 3;
    let wav = read("speech/samples/two-sentences.wav");
    let mut one = medium("one-byte", "faces", "image", &jpeg, &["60 bytes", "limits.output_bytes allows 1"]);
    one.code = "output.too_large";
    let body = String::from_utf8_lossy(&one.message.body).find("\"model\"").expect("a job");
    one.message.body.splice(body..body, b"\"limits\":{\"output_bytes\":1},".iter().copied());
    let header: usize = one.message.properties[0].1.parse().expect("a number");
    one.message.properties[0].1 = (header + 28).to_string();
    vec![
        one,
        medium("no-jpeg", "faces", "image", b"hello", &["5 bytes", "JPEG or PNG", "8192"]),
        medium("no-bytes", "faces", "image", b"", &["0 bytes", "JPEG or PNG"]),
        medium("a-gif", "faces", "image", b"GIF89a\x01\x00\x01\x00", &["Gif", "JPEG or PNG"]),
        medium("cut-jpeg", "faces", "image", &jpeg[..cut], &["end mark", "send the whole file"]),
        medium("cut-head", "faces", "image", &jpeg[..100], &["100 bytes", "JPEG or PNG"]),
        medium("huge-jpeg", "faces", "image", &huge, &["limit", "8192"]),
        medium("no-wav", "speech", "audio", b"hello", &["WAV"]),
        medium("cut-wav", "speech", "audio", &wav[..5001], &["WAV"]),
        medium("no-channels", "speech", "audio", &[&wav[..22], &[0, 0], &wav[24..]].concat(), &["0 channels"]),
        medium("no-content", "file-type", "content", b"", &["0 bytes", "at least 8"]),
    ]
}

/// Status and result must agree, name the code, and say what is needed.
fn assert_answer(controller: &Controller, case: &Case) {
    let Case { name, code, says, runs, .. } = case;
    let result = controller.wait_for_result(name);
    let error = &result["error"];
    assert_eq!(&error["code"], code, "{name}: {result}");
    assert_eq!(error["retryable"], false, "{name}: {result}");
    let sentence = error["message"].as_str().unwrap_or_default();
    says.iter().for_each(|part| assert!(sentence.contains(part), "{name}: {part:?} is not in: {sentence}"));
    assert!(!sentence.contains("struct ") && !sentence.chars().any(char::is_control), "{name}: {sentence}");
    let end = if *runs { "FAILED" } else { "REJECTED" };
    let status = controller.wait_for_state(name, end);
    assert_eq!((&status["error"]["code"], &status["error"]["message"]), (&error["code"], &error["message"]), "{name}");
    let (different, all) = controller.results(name);
    assert_eq!((different, all), (1, 1), "{name}");
}

// ---- everything else that can be sent ----

/// Alarms told since a stranger's message, for messages that no job's status can answer.
fn assert_alarm(controller: &Controller, topic: &str, body: &str, code: &str, says: &str) {
    controller.send(topic, body);
    wait_for(
        &format!("alarm {code} for {topic}"),
        || controller.told(),
        || {
            let alarms = controller.events("alarm");
            alarms.iter().any(|alarm| alarm["code"] == code && told(alarm).contains(says)).then_some(())
        },
    );
}

fn told(alarm: &Value) -> &str {
    alarm["message"].as_str().unwrap_or_default()
}

fn bad_topics_and_orders(controller: &Controller) {
    assert_alarm(controller, "down/job/a b", &job(&json!({})).to_string(), "job.malformed", "\"a b\"");
    let long = "x".repeat(65);
    assert_alarm(controller, &format!("down/job/{long}"), "{}", "job.malformed", &long);
    assert_alarm(controller, "down/job/nobodys/cancel", "", "job.unknown", "nobodys");
    assert_alarm(controller, "down/job/nothing/ack", "", "job.unknown", "nothing");
    for topic in ["down/", "down/foo", "down/cmd/a/b", "down/job/a/b", "down/job//cancel", "down/job/x/cancel/y"] {
        controller.send(topic, "{}");
    }
}

fn retained_order(controller: &Controller) {
    let stale = Publish { retain: true, ..message(&format!("{BASE}/down/job/stale/cancel"), b"now".to_vec()) };
    controller.publish(stale);
    controller.wait("alarm job.retained", |messages| {
        messages
            .iter()
            .find(|message| message.json["code"] == "job.retained" && told(&message.json).contains("stale"))
            .map(drop)
    });
}

fn bad_commands(controller: &Controller) {
    for (command, body, code, says) in [
        ("reboot", json!({}), "job.unsupported", "ping, describe"),
        ("ping", json!({"loud": true}), "job.malformed", "`loud`"),
        ("ping", json!("x".repeat(5000)), "job.too_large", "4096"),
        ("jobs", json!({"max": -1}), "job.malformed", "`-1`"),
        ("jobs", json!({"max": 1_000_000}), "job.malformed", "1 to 1000"),
        ("jobs", json!([]), "job.malformed", "JSON object"),
        ("describe", json!({"job": "a/b"}), "job.malformed", "\"a/b\""),
        ("result", json!({"job": "nobodys"}), "job.unknown", "nobodys"),
        ("hold", json!({"seconds": 1}), "job.malformed", "`for_ms`"),
    ] {
        let reply = controller.ask(command, &body);
        assert_eq!(reply["error"]["code"], code, "{command} {body}: {reply}");
        assert!(reply["error"]["message"].as_str().is_some_and(|text| text.contains(says)), "{command}: {reply}");
    }
    // Answers go to controllers only: not to other roots, nor to a node that would take them for orders.
    for response in ["evil/topic", "neap/v2/x", "neap/v1/a/b/down/cmd/drain", &format!("{BASE}/up/state")] {
        let ping = message(&format!("{BASE}/down/cmd/ping"), b"{}".to_vec());
        controller.publish(Publish { response_topic: Some(response.to_owned()), ..ping });
    }
    assert!(controller.ask("ping", &json!({}))["pong"]["version"].is_string(), "commands are served in their order");
    assert!(
        !controller.messages().iter().any(|message| message.topic == "up/state" && message.json.get("pong").is_some())
    );
}

#[test]
fn every_bad_input_gets_its_code_and_sentence_and_the_agent_serves_on() {
    let node = Node::start(&Setup::new());
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let (agent, workers) = (node.agent_pid(), node.wait_for_workers(1));

    let groups = [malformed_bodies(), refused_values(), bad_tensors(), bad_binaries(), bad_media()];
    // A broker that does not show the flag delivers what was retained as if it were not.
    let shows_retain = node.broker.shows_retain();
    let cases: Vec<Case> = groups.into_iter().flatten().filter(|case| shows_retain || !case.message.retain).collect();
    for case in &cases {
        controller.post(case.message.clone());
    }
    cases.iter().for_each(|case| assert_answer(&controller, case));
    bad_topics_and_orders(&controller);
    if shows_retain {
        retained_order(&controller);
    }
    bad_commands(&controller);

    controller.submit("good", &job(&json!({})));
    let result = controller.wait_for_result("good");
    assert_eq!(result["outputs"][0]["name"], "score", "{result}");
    assert_eq!(node.agent_pid(), agent);
    assert_eq!(node.workers(), workers, "no bad input costs a worker:\n{}", node.log());
    let refusals = node.log().lines().filter(|line| line.contains("refused") || line.contains("means nothing")).count();
    assert!(refusals <= 60, "{refusals} lines for {} strangers:\n{}", cases.len(), node.log());
}

#[test]
fn garbage_on_the_load_socket_means_busy_and_fills_no_log() {
    let node = Node::start(&Setup::new());
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let before = node.log().len();
    let garbage: [&[u8]; 5] =
        [b"garbage", b"{\"cell\":1}", &[0xff; 4096], b"{\"cell\":1,\"RRU.PrbTotDl\":999}", &[b'\n'; 4000]];
    // The source itself goes silent: what remains is the garbage.
    node.feeder.silent();
    let (socket, to) = (UnixDatagram::unbound().expect("a socket"), node.folder.path().join("load.sock"));
    for datagram in garbage.iter().cycle().take(2000) {
        socket.send_to(datagram, &to).expect("the agent takes datagrams faster than they come");
    }
    controller.wait_for_mode("busy");
    node.feeder.low();
    controller.wait_for_mode("trough");
    let grown = node.log().len() - before;
    assert!(grown < 20_000, "{grown} bytes:\n{}", node.log());
}

#[test]
fn a_thousand_jobs_that_came_while_the_agent_was_away_are_taken_at_once() {
    const JOBS: usize = 1000;
    let mut node = Node::start(&Setup::new());
    if let Broker::Embedded(_) = node.broker {
        eprintln!("\n!!! SKIPPED: the embedded broker keeps no backlog; install Mosquitto !!!\n");
        return;
    }
    let controller = node.controller();
    node.feeder.high();
    controller.wait_for_mode("busy");
    node.kill_agent();
    let body = job(&json!({})).to_string();
    for at in 0..JOBS {
        controller.post(message(&format!("{BASE}/down/job/burst-{at}"), body.clone().into_bytes()));
    }
    controller.send("down/job/burst-last", body);
    node.start_agent();
    let queued = |messages: &[common::controller::Message]| {
        let taken = messages
            .iter()
            .filter(|message| message.topic.starts_with("up/job/burst-") && message.json["status"] == "QUEUED");
        taken.map(|message| message.topic.clone()).collect::<std::collections::BTreeSet<_>>().len()
    };
    // One more would be refused: jobs.open_max is a thousand.
    controller.wait("a thousand accepted jobs", |messages| (queued(messages) == JOBS).then_some(()));
    controller.wait("the refusal of one", |messages| {
        messages.iter().find(|message| message.json["error"]["code"] == "queue.full").map(drop)
    });
    assert!(!node.log().contains("not connected"), "{}", node.log());
}
