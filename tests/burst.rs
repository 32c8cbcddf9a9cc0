//! How much memory does the agent use when ten thousand jobs wait and ten thousand messages come at once?
//!
//! The radio is busy all the time, so nothing runs and everything stays. Every message has its answer. With
//! `NEAP_CHAOS=full` a million messages follow, and memory must not grow with them.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use common::controller::{Controller, message, read_json};
use common::emulation::not_under_emulation;
use common::mosquitto::{Mosquitto, Options};
use common::node::{BASE, Broker, Node, Setup, models};
use common::random::{Random, full};
use neap::sys::clock;
use serde_json::json;

/// Jobs that wait, and messages of the burst.
const JOBS: usize = 10_000;
const BURST: usize = 10_000;
/// Messages of the long run, in rounds: what the controller remembers is no part of the measurement.
const SOAK: usize = 1_000_000;
const ROUND: usize = 20_000;
/// The promise: resident memory of the agent, and how much more it may be after the long run.
const RSS_KIB_MAX: u64 = 32 * 1024;
/// What of it the agent may hold besides the pages of its program.
const OWN_KIB_MAX: u64 = 20 * 1024;
const GROWTH_KIB_MAX: u64 = 1024;
/// When for so long no answer comes, it is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Memory of a process as the kernel counts it, in KiB.
#[derive(Clone, Copy, Debug)]
struct Memory {
    now: u64,
    /// The highest ever.
    most: u64,
    /// Of `now`, what is not pages of the program and its libraries.
    own: u64,
}

impl Memory {
    fn of(pid: i32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
        let line = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells it");
            line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().expect("a number of kB")
        };
        Self { now: line("VmRSS"), most: line("VmHWM"), own: line("RssAnon") }
    }

    /// Holds the promise. The code of a development build is several times as long as what a node installs, and grows
    /// with every line; there only what the agent holds itself is judged.
    fn assert_small(self, when: &str) {
        let (used, limit) = if cfg!(debug_assertions) { (self.own, OWN_KIB_MAX) } else { (self.most, RSS_KIB_MAX) };
        assert!(used <= limit, "{when} the agent used {used} KiB, at most {limit}: {self:?}");
    }
}

/// What the sender of a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// A status of the job.
    Status,
    /// An alarm, for there is no job to have a status.
    Alarm,
}

/// Messages in the order they are sent, and how many answers of each kind they must have.
struct Burst {
    random: Random,
    single: String,
    expected: BTreeMap<Answer, usize>,
    /// By the ids of the messages.
    heard: BTreeMap<String, Answer>,
    read: usize,
}

impl Burst {
    fn new() -> Self {
        let input = read_json(models().join("kpi-anomaly/samples/healthy.json"));
        let single = json!({"model": "kpi-anomaly", "input": input}).to_string();
        Self { random: Random::of_run(), single, expected: BTreeMap::new(), heard: BTreeMap::new(), read: 0 }
    }

    fn send(&mut self, controller: &Controller, topic: &str, body: &str, answer: Answer) {
        *self.expected.entry(answer).or_default() += 1;
        controller.post(message(&format!("{BASE}/down/{topic}"), body.as_bytes().to_vec()));
    }

    /// A good submit of a new job.
    fn submit(&mut self, controller: &Controller, id: &str) {
        let body = self.single.clone();
        self.send(controller, &format!("job/{id}"), &body, Answer::Status);
    }

    /// Anything: known again, of another body, unreadable, of an unknown model, with a bad id, or an order for no job.
    fn nuisance(&mut self, controller: &Controller, number: usize) {
        let known = format!("job/waiting-{}", self.random.below(JOBS as u64));
        let single = self.single.clone();
        match self.random.below(6) {
            0 => self.send(controller, &known, &single, Answer::Status),
            1 => self.send(controller, &known, &format!("{single} "), Answer::Alarm),
            2 => self.send(controller, &format!("job/bad-{number}"), "{\"model\":", Answer::Status),
            3 => {
                let unknown = single.replace("kpi-anomaly", "no-such-model");
                self.send(controller, &format!("job/unknown-{number}"), &unknown, Answer::Status);
            }
            4 => self.send(controller, &format!("job/not an id {number}"), &single, Answer::Alarm),
            _ => self.send(controller, &format!("job/nobody-{number}/cancel"), "", Answer::Alarm),
        }
    }

    /// Waits until every message sent has its answer, and no more; gives the agent's memory then.
    fn wait(&mut self, controller: &Controller, node: &Node) -> Memory {
        let mut since = clock::now();
        loop {
            let before = self.heard.len();
            self.read(controller);
            let mut answers = BTreeMap::new();
            self.heard.values().for_each(|answer| *answers.entry(*answer).or_default() += 1);
            if answers == self.expected {
                return Memory::of(node.agent_pid());
            }
            let now = clock::now();
            since = if self.heard.len() > before { now } else { since };
            let told = || controller.told();
            assert!(now.since(since) < PATIENCE, "answers: {answers:?}, expected {:?}\n{}", self.expected, told());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Takes in what was heard since the last time; what is told again after a lost connection has the same id.
    fn read(&mut self, controller: &Controller) {
        let Self { heard, read, .. } = self;
        *read = controller.read(|messages| {
            for message in &messages[*read..] {
                let id = || message.event_id().expect("every report has an id").to_owned();
                if message.topic.starts_with("up/job/") && !message.topic.ends_with("/result") {
                    heard.insert(id(), Answer::Status);
                } else if message.topic == "up/event" && message.json["event"] == "alarm" {
                    heard.insert(id(), Answer::Alarm);
                }
            }
            messages.len()
        });
    }
}

/// A busy node with room for all, and its controller.
fn busy() -> Option<(Node, Controller)> {
    if not_under_emulation("what is resident there is the emulator's") {
        return None;
    }
    let mosquitto = Mosquitto::start(Options { more: "max_queued_messages 0\n", ..Options::default() })?;
    let setup =
        Setup::new().with("jobs", "open_max", i64::try_from(2 * JOBS).unwrap_or(i64::MAX)).with("log", "level", "warn");
    let mut node = Node::prepare_on(&setup, Broker::Mosquitto(mosquitto), &[]);
    node.start_agent();
    let controller = node.controller();
    node.feeder.high();
    controller.wait_for_mode("busy");
    Some((node, controller))
}

#[test]
fn ten_thousand_jobs_and_a_burst_of_messages_fit_in_32_mib() {
    let Some((mut node, controller)) = busy() else { return };
    let idle = Memory::of(node.agent_pid());

    let begun = clock::now();
    let mut burst = Burst::new();
    for job in 0..JOBS {
        burst.submit(&controller, &format!("waiting-{job}"));
    }
    let waiting = burst.wait(&controller, &node);
    let accepted = clock::now().since(begun);

    let begun = clock::now();
    for number in 0..BURST {
        match number % 4 {
            0 => burst.submit(&controller, &format!("new-{number}")),
            _ => burst.nuisance(&controller, number),
        }
    }
    let after = burst.wait(&controller, &node);
    eprintln!(
        "{JOBS} jobs in {accepted:?}, {BURST} messages in {:?}; resident KiB (now, most, own): idle {}, {}, {}; \
         with the jobs {}, {}, {}; after the burst {}, {}, {}",
        clock::now().since(begun),
        idle.now,
        idle.most,
        idle.own,
        waiting.now,
        waiting.most,
        waiting.own,
        after.now,
        after.most,
        after.own
    );
    after.assert_small("after the burst");

    let open = JOBS + BURST / 4;
    controller.wait("a state with all jobs", |messages| {
        let last = messages.iter().rev().find(|message| message.topic == "up/state")?;
        (last.json["queued"] == open).then_some(())
    });
    assert!(controller.events("alarm").iter().all(|alarm| alarm["code"] != "node.degraded"));
    // It lives, and works as before.
    node.feeder.low();
    controller.wait("some jobs that succeed", |messages| {
        (messages.iter().filter(|message| message.json["status"] == "SUCCEEDED").count() >= 20).then_some(())
    });
    assert_restart(&mut node, &controller);
    drop(controller);
    if full() {
        node.feeder.high();
        soak(&node);
    }
}

/// The agent comes back with all these jobs in as little memory.
fn assert_restart(node: &mut Node, controller: &Controller) {
    node.feeder.high();
    node.kill_agent();
    node.start_agent();
    let pong = controller.ask("ping", &json!({}));
    let memory = Memory::of(node.agent_pid());
    eprintln!("started again: {memory:?}; {pong}");
    memory.assert_small("at a start with many jobs");
}

/// A million messages more: memory does not grow with them.
fn soak(node: &Node) {
    let mut warm: Option<Memory> = None;
    let begun = clock::now();
    for round in 0..SOAK / ROUND {
        let controller = node.controller();
        let mut burst = Burst::new();
        (0..ROUND).for_each(|number| burst.nuisance(&controller, number));
        let memory = burst.wait(&controller, node);
        // Two rounds of warm-up.
        if round == 1 {
            warm = Some(memory);
        }
        eprintln!("{} messages after {:?}: {memory:?}", (round + 1) * ROUND, clock::now().since(begun));
        if let Some(warm) = warm {
            let growth = memory.own.saturating_sub(warm.own);
            assert!(growth <= GROWTH_KIB_MAX, "{growth} KiB more than after warm-up, at most {GROWTH_KIB_MAX}");
        }
        memory.assert_small("in the long run");
    }
}

#[test]
fn memory_is_read_as_the_kernel_tells_it() {
    let pid = i32::try_from(std::process::id()).expect("a process id is an i32");
    let Memory { now, most, own } = Memory::of(pid);
    assert!(0 < own && own <= now && now <= most, "{own} {now} {most}");
}
