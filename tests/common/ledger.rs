//! What was told of many jobs, and whether it is consistent: nothing lost, nothing twice, no version going back.

use std::collections::BTreeMap;
use std::time::Duration;

use neap::sys::clock;
use serde_json::{Value, json};

use super::controller::{Controller, Message};

/// Everything told of one job.
#[derive(Debug, Default)]
pub struct Told {
    /// Statuses by version.
    pub statuses: BTreeMap<u64, Vec<u8>>,
    /// Body and CloudEvents id of its result.
    result: Option<(Vec<u8>, String)>,
    /// Messages that brought the result.
    pub results: usize,
    /// Messages that repeated a status.
    pub repeats: usize,
    /// The last status, when it is terminal.
    pub end: Option<Value>,
}

impl Told {
    /// The result's body.
    pub fn result(&self) -> Option<&[u8]> {
        self.result.as_ref().map(|(body, _)| body.as_slice())
    }

    fn status(&mut self, message: &Message) {
        let (topic, body) = (&message.topic, &message.json);
        let version = body["version"].as_u64().unwrap_or_else(|| panic!("a status of {topic} without version: {body}"));
        if let Some(known) = self.statuses.get(&version) {
            assert_eq!(*known, message.body, "version {version} of {topic} is told in two ways: {body}");
            self.repeats += 1;
            return;
        }
        let last = self.statuses.last_key_value().map_or(0, |(last, _)| *last);
        assert!(version > last, "{topic} goes back from version {last} to a new {version}: {body}");
        assert!(self.end.is_none(), "{topic} goes on after its end: {body}");
        self.statuses.insert(version, message.body.clone());
        let ends = ["SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED"];
        if ends.iter().any(|end| body["status"] == *end) {
            self.end = Some(body.clone());
        }
    }

    fn result_came(&mut self, message: &Message) {
        let id = message.event_id().unwrap_or_default().to_owned();
        let came = (message.body.clone(), id);
        let first = self.result.get_or_insert_with(|| came.clone());
        assert!(*first == came, "{} has two results: {}", message.topic, message.json);
        self.results += 1;
    }
}

/// Everything told of all jobs.
#[derive(Debug, Default)]
pub struct Ledger {
    jobs: BTreeMap<String, Told>,
    read: usize,
}

impl Ledger {
    /// Takes in what the controller has heard since the last time; fails when it contradicts what was told before.
    pub fn read(&mut self, controller: &Controller) {
        let (new, read): (Vec<Message>, usize) = controller.read(|messages| {
            let new = messages[self.read..].iter().filter(|message| message.topic.starts_with("up/job/"));
            (new.cloned().collect(), messages.len())
        });
        self.read = read;
        new.iter().for_each(|message| self.take(message));
    }

    fn take(&mut self, message: &Message) {
        let Some(rest) = message.topic.strip_prefix("up/job/") else { return };
        match rest.strip_suffix("/result") {
            Some(id) => self.jobs.entry(id.to_owned()).or_default().result_came(message),
            None => self.jobs.entry(rest.to_owned()).or_default().status(message),
        }
    }

    /// What was told of that job.
    pub fn job(&self, id: &str) -> Option<&Told> {
        self.jobs.get(id)
    }

    /// Jobs that have ended and whose result is here.
    pub fn ended(&self) -> usize {
        self.jobs.values().filter(|told| told.end.is_some() && told.results > 0).count()
    }

    /// All jobs.
    pub fn jobs(&self) -> impl Iterator<Item = (&str, &Told)> {
        self.jobs.iter().map(|(id, told)| (id.as_str(), told))
    }

    /// Waits until so many jobs have ended; fails when for `patience` none more has.
    pub fn wait_for_ends(&mut self, controller: &Controller, count: usize, patience: Duration) {
        let (mut last, mut since) = (self.ended(), clock::now());
        loop {
            self.read(controller);
            let ended = self.ended();
            if ended >= count {
                return;
            }
            let now = clock::now();
            (last, since) = if ended > last { (ended, now) } else { (last, since) };
            if now.since(since) >= patience {
                panic!(
                    "{ended} of {count} jobs have ended, none more for {patience:?}; open are such as\n{}\n\n{}",
                    self.open(controller),
                    controller.told()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Some jobs that have not ended: what was told of them, and what the node says when it is asked.
    fn open(&self, controller: &Controller) -> String {
        let open = self.jobs().filter(|(_, told)| told.end.is_none() || told.results == 0).take(8);
        let lines = open.map(|(id, told)| {
            let statuses: Vec<_> = told.statuses.values().map(|status| String::from_utf8_lossy(status)).collect();
            let asked = controller.ask("describe", &json!({"job": id}));
            format!("{id}: {} results, {}\n  described: {asked}", told.results, statuses.join("\n  "))
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}
