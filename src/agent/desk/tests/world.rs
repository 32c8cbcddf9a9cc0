//! A desk with a library of one model, a store that answers when it is told to, and both clocks in hand.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use sha2::Digest as _;
use tempfile::TempDir;

use super::super::*;
use crate::agent::keeper::Fetched;
use crate::fault::Fault;
use crate::governor::Policy;
use crate::jobs::feasible::DelayTerms;
use crate::jobs::job::Limits;
use crate::jobs::store::{Message, Payload};
use crate::link::messages::Info;
use crate::link::topics::Topics;
use crate::tensor::Tensor;
use crate::units::{Digest, Utilization};
use crate::worker::handle::{Event as WorkerEvent, Output};
use crate::worker::jail::achieved::Achieved;

pub(super) const S: Duration = Duration::from_secs(1);

/// A desk, what it asked for, and a store with a memory.
pub(super) struct World {
    pub(super) desk: Desk,
    pub(super) now: Now,
    /// Effects in order, less those that the store has taken.
    pub(super) seen: Vec<Seen>,
    /// Commits that were not answered yet.
    pub(super) open: VecDeque<(u64, Batch)>,
    pub(super) fetches: VecDeque<(JobId, usize)>,
    pub(super) jobs: BTreeMap<JobId, Job>,
    pub(super) payloads: BTreeMap<JobId, Payload>,
    pub(super) items: BTreeMap<JobId, Vec<Vec<u8>>>,
    pub(super) messages: Vec<Message>,
    pub(super) packets: u16,
    pub(super) _models: TempDir,
}

/// An effect, as far as tests look at it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    /// Slot, token, item.
    Work(usize, u64, u32),
    Kill(usize, Code, u64),
    Empty(usize, Code),
    Ack(u16),
    Told(String, Value),
}

pub(super) fn id(text: &str) -> JobId {
    text.parse().unwrap()
}

pub(super) fn library() -> (TempDir, Arc<Library>) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("m");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("m.onnx"), b"a network").unwrap();
    let manifest = format!(
        "name = \"m\"\nversion = 1\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\ndigest = \"{}\"\n\
         inputs = [{{ name = \"x\", datatype = \"FP32\", shape = [1] }}]\n\
         outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [1] }}]\n",
        Digest(sha2::Sha256::digest(b"a network").into())
    );
    fs::write(folder.join("model.toml"), manifest).unwrap();
    let library = Library::open(root.path()).unwrap();
    assert_eq!(library.problems(), []);
    (root, Arc::new(library))
}

pub(super) fn settings() -> Settings {
    let limits = Limits { wall: 10 * S, memory_bytes: 1 << 20, attempts: 3, output_bytes: 1 << 16 };
    let maxima = Limits { wall: 100 * S, memory_bytes: 1 << 30, attempts: 10, output_bytes: 1 << 20 };
    Settings {
        capacity: Capacity { jobs_max: 100, open_max: 10 },
        limits: LimitPolicy { defaults: limits, maxima, body_bytes_max: PACKET_BYTES_MAX },
        evict_after: 5 * S,
        retention: 3600 * S,
        admission: AdmissionTerms {
            refuse: true,
            delay: DelayTerms { stretch_above: 60 * S, wait_max: 12 * 3600 * S },
        },
    }
}

pub(super) fn reports() -> Reports {
    let topics = Topics::new("neap", "north".parse().unwrap(), "n".parse().unwrap()).unwrap();
    let policy = Policy {
        workers: 1,
        busy_above: Utilization::FULL,
        idle_below: Utilization::FULL,
        settle: S,
        settle_max: S,
        flap_window: S,
        raise_every: Duration::ZERO,
    };
    Reports::new(topics, Info::default(), vec!["push".to_owned()], &policy, WallTime::from_millis(0))
}

pub(super) fn submit(more: &Value) -> Value {
    let input = json!({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]});
    let mut body = json!({"model": "m"});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    match body["items"].as_u64() {
        Some(count) => body["items"] = json!(vec![input; usize::try_from(count).unwrap()]),
        None => body["input"] = input,
    }
    body
}

pub(super) fn message(body: &Value) -> Publish {
    let mut message = reports::publish(Message {
        topic: String::new(),
        body: body.to_string().into_bytes(),
        expiry_s: None,
        properties: Vec::new(),
        queued: WallTime::from_millis(0),
    });
    message.content_type = None;
    message
}

pub(super) fn output() -> Output {
    let ms = Duration::from_millis;
    let tensors = vec![Tensor::f32s("y", vec![1], &[2.0]).unwrap()];
    Output { tensors, cpu: ms(7), wall: ms(9), load_cpu: None, peak_bytes: 1 }
}

impl World {
    /// Workers that are ready, and a budget for all of them.
    pub(super) fn new(workers: usize) -> Self {
        let mut world = Self::with(workers, Vec::new());
        world.budget(u8::try_from(workers).unwrap());
        (0..workers).for_each(|slot| world.ready(slot));
        world
    }

    pub(super) fn with(workers: usize, jobs: Vec<Job>) -> Self {
        let (models, library) = library();
        let now = Now::sure(Instant::from_nanos(1_000_000_000_000), WallTime::from_millis(1_800_000_000_000));
        let desk = Desk::new(now, settings(), library, reports(), workers, jobs);
        Self {
            desk,
            now,
            seen: Vec::new(),
            open: VecDeque::new(),
            fetches: VecDeque::new(),
            jobs: BTreeMap::new(),
            payloads: BTreeMap::new(),
            items: BTreeMap::new(),
            messages: Vec::new(),
            packets: 0,
            _models: models,
        }
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.now = Now::sure(self.now.mono.after(span), self.now.wall.after(span));
    }

    /// Takes the effects; the store does nothing yet.
    pub(super) fn take(&mut self) {
        while let Some(effect) = self.desk.next_effect() {
            match effect {
                Effect::Ask(Ask::Commit { ticket, batch }) => self.open.push_back((ticket, *batch)),
                Effect::Ask(Ask::Fetch { id, slot }) => self.fetches.push_back((id, slot)),
                Effect::Ask(other) => panic!("{other:?}"),
                Effect::Work { slot, work } => self.seen.push(Seen::Work(slot, work.token, work.item)),
                Effect::Kill { slot, why, token } => self.seen.push(Seen::Kill(slot, why, token)),
                Effect::Empty { slot, why } => self.seen.push(Seen::Empty(slot, why)),
                Effect::Ack(ack) => self.seen.push(Seen::Ack(ack.packet)),
                Effect::Publish(message) => {
                    self.seen.push(Seen::Told(message.topic, serde_json::from_slice(&message.body).unwrap()));
                }
                Effect::Tell { messages, ack } => {
                    let told =
                        |message: Publish| Seen::Told(message.topic, serde_json::from_slice(&message.body).unwrap());
                    self.seen.extend(messages.into_iter().map(told));
                    self.seen.extend(ack.map(|ack| Seen::Ack(ack.packet)));
                }
                Effect::Token { .. } | Effect::Outbox => {}
            }
        }
    }

    /// The store makes the oldest commit durable.
    pub(super) fn commit(&mut self) {
        let (ticket, batch) = self.open.pop_front().expect("a commit");
        self.jobs.extend(batch.jobs.into_iter().map(|job| (job.id.clone(), job)));
        for id in &batch.acknowledged {
            self.jobs.get_mut(id).expect("it has ended").acknowledged = true;
        }
        self.payloads.extend(batch.payloads);
        for (id, item, body) in batch.items {
            let items = self.items.entry(id).or_default();
            assert_eq!(items.len(), item as usize, "items are journalled in order");
            items.push(body);
        }
        self.messages.extend(batch.messages);
        self.messages.extend(batch.droppable);
        self.desk.committed(self.now, ticket, Ok(())).unwrap();
    }

    /// Lets the store answer everything, and the desk do what is due, until nothing moves.
    pub(super) fn settle(&mut self) {
        loop {
            self.desk.tick(self.now);
            self.take();
            if !self.open.is_empty() {
                self.commit();
            } else if let Some((id, slot)) = self.fetches.pop_front() {
                let fetched = Fetched {
                    payload: self.payloads[&id].clone(),
                    items: self.items.get(&id).cloned().unwrap_or_default(),
                };
                self.desk.fetched(self.now, slot, &id, Ok(fetched));
            } else {
                return;
            }
        }
    }

    pub(super) fn submit(&mut self, name: &str, more: &Value) {
        self.packets += 1;
        let ack = AckToken { epoch: 1, packet: self.packets };
        self.desk.submit(self.now, id(name), message(&submit(more)), Some(ack));
    }

    pub(super) fn ready(&mut self, slot: usize) {
        self.desk.worker(self.now, WorkerEvent::Ready { slot, pid: 1, jail: Vec::new(), sandbox: Achieved::default() });
    }

    pub(super) fn budget(&mut self, budget: u8) {
        self.desk.set_budget(self.now, self.now.mono, budget);
        self.take();
    }

    pub(super) fn answer(&mut self, slot: usize, token: u64, item: u32, outcome: Result<Output, Fault>) {
        self.desk.worker(self.now, WorkerEvent::Done { slot, token, item, outcome });
        self.settle();
    }

    pub(super) fn exited(&mut self, slot: usize, token: Option<u64>, code: Code) {
        let fault = Some(Fault::new(code, "as the test says"));
        self.desk.worker(self.now, WorkerEvent::Exited { slot, token, fault, retry_in: Duration::ZERO });
        self.settle();
    }

    /// The job as the desk knows it; once it has ended, with what only the store keeps of it.
    pub(super) fn job(&self, name: &str) -> Job {
        let known = self.desk.job(&id(name)).unwrap().into_owned();
        let stored = self.jobs.get(&known.id).filter(|job| known.is_terminal() && job.version == known.version);
        stored.cloned().unwrap_or(known)
    }

    pub(super) fn state(&self, name: &str) -> (State, u32, u32) {
        let job = self.job(name);
        (job.state, job.attempt, job.done)
    }

    pub(super) fn code(&self, name: &str) -> Option<Code> {
        self.job(name).fault.as_ref().map(|fault| fault.code)
    }

    /// What was handed over, killed, acknowledged or told since the last call.
    pub(super) fn news(&mut self) -> Vec<Seen> {
        self.take();
        std::mem::take(&mut self.seen)
    }

    pub(super) fn result(&self, name: &str) -> Value {
        let topic = format!("/job/{name}/result");
        let results: Vec<&Message> = self.messages.iter().filter(|message| message.topic.ends_with(&topic)).collect();
        assert_eq!(results.len(), 1, "one result for {name}");
        serde_json::from_slice(&results[0].body).unwrap()
    }
}
