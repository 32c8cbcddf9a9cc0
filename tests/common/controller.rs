//! A controller under a test's control: an MQTT client on a thread of its own that remembers everything it hears.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use neap::link::messages::new_id;
use neap::link::{Command, Event, Publish, Qos, Received, mqtt};
use neap::sys::clock;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::node::BASE;
use super::wait_for;

/// One message of the node.
#[derive(Clone, Debug)]
pub struct Message {
    /// Topic below [`BASE`], such as `up/state`; the whole topic when it is elsewhere.
    pub topic: String,
    /// Body; null when it is not JSON.
    pub json: Value,
    /// Body as it came.
    pub body: Vec<u8>,
    /// Kept by the broker, from before we subscribed.
    pub retain: bool,
    /// MQTT user properties.
    pub properties: Vec<(String, String)>,
    /// MQTT 5 correlation data.
    pub correlation: Option<Vec<u8>>,
}

impl Message {
    /// The CloudEvents id.
    pub fn event_id(&self) -> Option<&str> {
        self.properties.iter().find(|(key, _)| key == "id").map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct Heard {
    messages: Vec<Message>,
    /// How often the connection came up.
    ups: usize,
    is_up: bool,
    /// Tokens that the broker has not acknowledged.
    open: BTreeSet<u64>,
    next_token: u64,
}

/// The controller. What it publishes is offered to the broker until it is acknowledged.
pub struct Controller {
    heard: Arc<Mutex<Heard>>,
    orders: Option<UnboundedSender<(u64, Publish)>>,
    thread: Option<JoinHandle<()>>,
    replies: String,
}

impl Controller {
    /// Connects and subscribes to everything that any node says, and to its own replies.
    pub fn connect(port: u16) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (orders, received) = mpsc::unbounded_channel();
        let id = format!("test-{}", new_id());
        let replies = format!("neap/v1/test/replies/{id}");
        let settings = mqtt::Settings {
            keep_alive: Duration::from_secs(5),
            session_expiry: Duration::from_secs(300),
            subscriptions: vec![("neap/v1/+/+/up/#".to_owned(), Qos::AtLeastOnce), (replies.clone(), Qos::AtLeastOnce)],
            backoff: mqtt::Backoff {
                first: Duration::from_millis(100),
                max: Duration::from_millis(500),
                ..mqtt::Backoff::STANDARD
            },
            ..mqtt::Settings::new("127.0.0.1", port, id)
        };
        let of_thread = Arc::clone(&heard);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(live(settings, &of_thread, received));
        });
        let controller = Self { heard, orders: Some(orders), thread: Some(thread), replies };
        controller.wait_for_connection(1);
        controller
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is connected for the `n`th time.
    pub fn wait_for_connection(&self, n: usize) {
        wait_for(&format!("connection {n} of the controller"), String::new, || {
            let heard = self.heard();
            (heard.is_up && heard.ups >= n).then_some(())
        });
    }

    /// How often it was connected.
    pub fn connections(&self) -> usize {
        self.heard().ups
    }

    // ---- out ----

    /// Offers a message to the broker, now or when it is back.
    pub fn post(&self, message: Publish) -> u64 {
        let token = {
            let mut heard = self.heard();
            heard.next_token += 1;
            let token = heard.next_token;
            heard.open.insert(token);
            token
        };
        self.orders.as_ref().expect("open until dropped").send((token, message)).expect("the thread lives");
        token
    }

    /// Publishes, and waits until the broker has it.
    pub fn publish(&self, message: Publish) {
        let token = self.post(message);
        wait_for("the broker's acknowledgement", String::new, || (!self.heard().open.contains(&token)).then_some(()));
    }

    /// Publishes bytes below [`BASE`].
    pub fn send(&self, topic: &str, body: impl Into<Vec<u8>>) {
        self.publish(message(&format!("{BASE}/{topic}"), body.into()));
    }

    /// Submits a job.
    pub fn submit(&self, id: &str, body: &Value) {
        self.send(&format!("down/job/{id}"), body.to_string());
    }

    /// Submits items that carry media, as binary tensors.
    pub fn submit_media(&self, id: &str, model: &str, input: &str, files: &[Vec<u8>]) {
        self.publish(media_job(id, model, input, files, &json!({})));
    }

    /// Takes a job back.
    pub fn cancel(&self, id: &str) {
        self.send(&format!("down/job/{id}/cancel"), "");
    }

    /// Asks the node, and waits for its reply.
    pub fn ask(&self, command: &str, body: &Value) -> Value {
        let (order, correlation) = self.order(command, body);
        self.publish(order);
        self.wait(&format!("reply to {command}"), |messages| reply(messages, &correlation))
    }

    /// Asks the node, and gives up after that time: broker, connection or node may be away.
    pub fn try_ask(&self, command: &str, body: &Value, wait: Duration) -> Option<Value> {
        let (order, correlation) = self.order(command, body);
        let before = self.read(<[Message]>::len);
        self.post(order);
        let end = clock::now().after(wait);
        loop {
            let reply = self.read(|messages| reply(&messages[before..], &correlation));
            if reply.is_some() || clock::now() >= end {
                return reply;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn order(&self, command: &str, body: &Value) -> (Publish, Vec<u8>) {
        let correlation = new_id().into_bytes();
        let order = Publish {
            response_topic: Some(self.replies.clone()),
            correlation: Some(correlation.clone()),
            ..message(&format!("{BASE}/down/cmd/{command}"), body.to_string().into_bytes())
        };
        (order, correlation)
    }

    // ---- in ----

    /// Everything heard so far.
    pub fn messages(&self) -> Vec<Message> {
        self.heard().messages.clone()
    }

    /// Looks at everything heard so far.
    pub fn read<T>(&self, look: impl FnOnce(&[Message]) -> T) -> T {
        look(&self.heard().messages)
    }

    /// Waits for something among everything heard.
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut(&[Message]) -> Option<T>) -> T {
        wait_for(what, || self.told(), || look(&self.heard().messages))
    }

    /// Waits for a status of a job.
    pub fn wait_for_status(&self, id: &str, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        let topic = format!("up/job/{id}");
        self.wait(&format!("{what} of job {id}"), |messages| {
            messages
                .iter()
                .find(|message| message.topic == topic && look(&message.json))
                .map(|found| found.json.clone())
        })
    }

    /// Waits until a job has been in that state; fails at once when it ended otherwise.
    pub fn wait_for_state(&self, id: &str, state: &str) -> Value {
        let topic = format!("up/job/{id}");
        self.wait_for_status(id, state, |status| {
            let found = status["status"] == state;
            let ended =
                ["SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED"].iter().any(|end| status["status"] == *end);
            assert!(found || !ended, "{topic} never was {state}: {status}");
            found
        })
    }

    /// Waits until a job has finished so many items, by asking: progress is told once a second only.
    pub fn wait_for_items(&self, id: &str, count: u64) -> Value {
        wait_for(
            &format!("{count} items of job {id}"),
            || self.told(),
            || {
                let status = self.ask("describe", &json!({"job": id}))["job"].clone();
                // A reply comes within milliseconds: asking on and on would keep the agent busy.
                std::thread::sleep(Duration::from_millis(30));
                (status["progress"]["done"].as_u64() >= Some(count)).then_some(status)
            },
        )
    }

    /// Waits for a result and gives its body.
    pub fn wait_for_result(&self, id: &str) -> Value {
        let topic = format!("up/job/{id}/result");
        self.wait(&format!("result of job {id}"), |messages| {
            messages.iter().find(|message| message.topic == topic).map(|message| message.json.clone())
        })
    }

    /// Waits until the node is in that mode, from now on.
    pub fn wait_for_mode(&self, mode: &str) -> Value {
        self.wait(&format!("mode {mode}"), |messages| {
            let last = messages.iter().rev().find(|message| message.topic == "up/state")?;
            (last.json["mode"] == mode).then(|| last.json.clone())
        })
    }

    /// Statuses of a job in the order of their versions; a status that was told twice counts once.
    pub fn statuses(&self, id: &str) -> Vec<Value> {
        let topic = format!("up/job/{id}");
        let heard = self.heard();
        let mut by_version = BTreeMap::new();
        for message in heard.messages.iter().filter(|message| message.topic == topic) {
            by_version.insert(message.json["version"].as_u64().expect("a status has a version"), message.json.clone());
        }
        by_version.into_values().collect()
    }

    /// Results of a job: how many different ones, by their CloudEvents id, and how many messages.
    pub fn results(&self, id: &str) -> (usize, usize) {
        let topic = format!("up/job/{id}/result");
        let heard = self.heard();
        let all: Vec<&Message> = heard.messages.iter().filter(|message| message.topic == topic).collect();
        let different: BTreeSet<Option<&str>> = all.iter().map(|message| message.event_id()).collect();
        (different.len(), all.len())
    }

    /// Events of the node of that kind: `yield`, `resume`, `alarm`.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let heard = self.heard();
        let events =
            heard.messages.iter().filter(|message| message.topic == "up/event" && message.json["event"] == kind);
        events.map(|message| message.json.clone()).collect()
    }

    /// The last things heard, for a test that fails.
    pub fn told(&self) -> String {
        let heard = self.heard();
        let lines = heard.messages.iter().filter(|message| !message.topic.ends_with("/metrics"));
        let lines: Vec<String> = lines
            .map(|message| {
                let mut body = message.json.to_string();
                body.truncate(body.floor_char_boundary(300));
                format!("{} {body}", message.topic)
            })
            .collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn reply(messages: &[Message], correlation: &[u8]) -> Option<Value> {
    let reply = messages.iter().find(|message| message.correlation.as_deref() == Some(correlation))?;
    Some(reply.json.clone())
}

/// A message with the usual delivery.
pub fn message(topic: &str, body: Vec<u8>) -> Publish {
    Publish::plain(topic, body)
}

/// A job of one item for each file, as binary tensors behind the JSON: byte for byte what Triton takes. `more` are
/// further members of the job.
pub fn media_job(id: &str, model: &str, input: &str, files: &[Vec<u8>], more: &Value) -> Publish {
    let item = |file: &Vec<u8>| {
        // A BYTES tensor is a sequence of elements, each with its length before it.
        let parameters = json!({"binary_data_size": file.len() + 4});
        json!({"inputs": [{"name": input, "shape": [1], "datatype": "BYTES", "parameters": parameters}]})
    };
    let items: Vec<Value> = files.iter().map(item).collect();
    let mut job = json!({"model": model, "items": items});
    for (key, value) in more.as_object().into_iter().flatten() {
        job[key] = value.clone();
    }
    let mut body = job.to_string().into_bytes();
    let header = body.len();
    for file in files {
        body.extend_from_slice(&u32::try_from(file.len()).expect("a small file").to_le_bytes());
        body.extend_from_slice(file);
    }
    Publish {
        content_type: Some("application/octet-stream".to_owned()),
        properties: vec![("inference-header-content-length".to_owned(), header.to_string())],
        ..message(&format!("{BASE}/down/job/{id}"), body)
    }
}

/// A JSON file of this repository.
pub fn read_json(path: impl AsRef<Path>) -> Value {
    let path = path.as_ref();
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The thread: hears everything, and offers what is not acknowledged after every connect.
async fn live(settings: mqtt::Settings, heard: &Mutex<Heard>, mut orders: UnboundedReceiver<(u64, Publish)>) {
    let lock = || heard.lock().unwrap_or_else(PoisonError::into_inner);
    let (commands, mut events) = mqtt::start(settings, clock::wall).expect("good settings");
    let mut outgoing: BTreeMap<u64, Publish> = BTreeMap::new();
    let mut unoffered: BTreeSet<u64> = BTreeSet::new();
    let mut acks = Vec::new();
    let mut retry = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            event = events.recv() => match event.expect("the link lives until it is told") {
                Event::Up { .. } => {
                    unoffered = outgoing.keys().copied().collect();
                    acks.clear();
                    let mut heard = lock();
                    heard.is_up = true;
                    heard.ups += 1;
                }
                Event::Down { .. } | Event::Closed => lock().is_up = false,
                Event::Received(Received { message, ack, .. }) => {
                    acks.extend(ack);
                    lock().messages.push(hear(message));
                }
                Event::Delivered { token } => {
                    outgoing.remove(&token);
                    lock().open.remove(&token);
                }
                Event::Refused { token, why } => panic!("the broker refused message {token}: {why}"),
            },
            order = orders.recv() => match order {
                Some((token, message)) => {
                    outgoing.insert(token, message);
                    unoffered.insert(token);
                }
                None => break,
            },
            _ = retry.tick() => {}
        }
        acks.retain(|ack| commands.try_send(Command::Ack(*ack)).is_err());
        while lock().is_up
            && let Some(token) = unoffered.first().copied()
            && let Ok(room) = commands.try_reserve()
        {
            unoffered.remove(&token);
            // Delivered meanwhile, perhaps.
            if let Some(message) = outgoing.get(&token) {
                room.send(Command::Publish { message: message.clone(), token: Some(token) });
            }
        }
    }
    // Without a goodbye: the test is over.
}

fn hear(message: Publish) -> Message {
    let Publish { topic, body, retain, properties, correlation, .. } = message;
    let topic = topic.strip_prefix(BASE).map_or(topic.clone(), |rest| rest.trim_start_matches('/').to_owned());
    Message { topic, json: serde_json::from_slice(&body).unwrap_or_default(), body, retain, properties, correlation }
}
