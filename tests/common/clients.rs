//! Mosquitto's own command-line clients: a controller needs nothing else.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

use super::controller::Message;
use super::node::BASE;
use super::wait_for;

/// Whether the clients are installed. With `CI=true` it is a failure when they are not.
pub fn installed() -> bool {
    let found = ["mosquitto_pub", "mosquitto_sub"].iter().all(|name| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
    });
    let missing =
        "mosquitto_pub and mosquitto_sub are not installed: this test needs them (apt-get install mosquitto-clients)";
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "{missing}");
    if !found {
        eprintln!("\n!!! SKIPPED: {missing} !!!\n");
    }
    found
}

/// `mosquitto_pub -V 5 -q 1` with a topic below the node and further arguments; waits for the broker's acknowledgement.
pub fn publish(port: u16, topic: &str, arguments: &[&str]) {
    let output = Command::new("mosquitto_pub")
        .args(["-V", "5", "-q", "1", "-h", "127.0.0.1", "-p", &port.to_string(), "-t", &format!("{BASE}/{topic}")])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("mosquitto_pub can be started");
    assert!(output.status.success(), "mosquitto_pub: {}", String::from_utf8_lossy(&output.stderr));
}

/// A running `mosquitto_sub -V 5`; killed when dropped.
pub struct Subscriber {
    child: Child,
    heard: Arc<Mutex<Vec<Message>>>,
    thread: Option<JoinHandle<()>>,
}

impl Subscriber {
    /// Subscribes to whole topics.
    pub fn start(port: u16, topics: &[&str]) -> Self {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-V", "5", "-q", "1", "-h", "127.0.0.1", "-p", &port.to_string(), "-F", "%j"]);
        for topic in topics {
            command.args(["-t", topic]);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("mosquitto_sub can be started");
        let lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let of_thread = Arc::clone(&heard);
        let thread = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                of_thread.lock().unwrap_or_else(PoisonError::into_inner).push(parse(&line));
            }
        });
        Self { child, heard, thread: Some(thread) }
    }

    /// Everything heard so far.
    pub fn messages(&self) -> Vec<Message> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for something among everything heard.
    pub fn wait<T>(&self, what: &str, look: impl Fn(&[Message]) -> Option<T>) -> T {
        wait_for(what, || format!("{:#?}", self.messages()), || look(&self.messages()))
    }

    /// Waits for the first message of a topic that is as wanted, and gives its body.
    pub fn wait_for(&self, topic: &str, wanted: impl Fn(&Message) -> bool) -> Value {
        self.wait(topic, |messages| {
            messages.iter().find(|message| message.topic == topic && wanted(message)).map(|found| found.json.clone())
        })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One line of `mosquitto_sub -F %j`: the message as JSON, its payload as a string.
fn parse(line: &str) -> Message {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("mosquitto_sub said {line}: {error}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let topic = text(&line["topic"]);
    let user = line["properties"]["user-properties"].as_object().into_iter().flatten();
    Message {
        topic: topic.strip_prefix(BASE).map_or(topic.clone(), |rest| rest.trim_start_matches('/').to_owned()),
        json: serde_json::from_str(&text(&line["payload"])).unwrap_or_default(),
        body: text(&line["payload"]).into_bytes(),
        retain: line["retain"] == 1,
        properties: user.map(|(key, value)| (key.clone(), text(value))).collect(),
        correlation: line["properties"]["correlation-data"].as_str().map(|data| data.as_bytes().to_vec()),
    }
}
