//! Is a crash safe at any step towards the disk? Kills the agent at every n-th call that writes its state, for as long
//! as one job lives, and looks what is left.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use common::controller::{Controller, read_json};
use common::disk::{Tracer, can_trace};
use common::ledger::Ledger;
use common::node::{Node, Setup, models, workers_of};
use common::random::{Random, full};
use common::wait_for;
use neap::sys::clock;
use serde_json::{Value, json};

/// Calls that change the state directory and that are tried one by one.
const STEPS: [&str; 4] = ["fdatasync", "fsync", "rename", "ftruncate"];
/// Single writes are many: so many of one life are tried in CI, and every one with `NEAP_CHAOS=full`.
const WRITE: &str = "pwrite64";
const WRITES_TRIED: usize = 20;
/// The same of a start.
const START_WRITES_TRIED: usize = 6;
/// An agent answers a question within this, or is asked again.
const ANSWER_MAX: Duration = Duration::from_millis(500);

fn small() -> Value {
    json!({
        "model": "kpi-anomaly",
        "input": read_json(models().join("kpi-anomaly/samples/healthy.json")),
        "limits": {"attempts": 10},
    })
}

/// No crash here is one of the node's own.
fn setup() -> Setup {
    Setup::new().with("safe_mode", "crashes", 0).with("jobs", "attempts_max", 100).with("governor", "settle_s", 0.05)
}

/// A node whose agent is killed again and again, and everything told of its jobs.
struct Trial {
    node: Node,
    controller: Controller,
    ledger: Ledger,
    jobs: usize,
    kills: usize,
    /// What each job met.
    hits: BTreeMap<String, String>,
}

impl Trial {
    fn new() -> Self {
        let node = Node::prepare(&setup());
        node.feeder.low();
        let controller = node.controller();
        Self { node, controller, ledger: Ledger::default(), jobs: 0, kills: 0, hits: BTreeMap::new() }
    }

    /// One life of a job: submitted, run, its result told and acknowledged. Whether the agent died on the way; it was
    /// started again then.
    fn live(&mut self, what: &str) -> bool {
        let id = format!("job-{}", self.jobs);
        self.jobs += 1;
        let kills = self.kills;
        self.controller.submit(&id, &small());
        let result = format!("up/job/{id}/result");
        self.reach(&format!("result of {id}, {what}"), |controller| {
            controller.read(|messages| messages.iter().any(|message| message.topic == result))
        });
        self.controller.send(&format!("down/job/{id}/ack"), "");
        self.reach(&format!("ack of {id}, {what}"), |controller| {
            let reply = controller.try_ask("describe", &json!({"job": id}), ANSWER_MAX);
            reply.is_some_and(|reply| reply["job"]["result_kept"] == false)
        });
        let hit = self.kills > kills;
        if hit {
            self.hits.insert(id, what.to_owned());
        }
        hit
    }

    /// Waits for something; an agent that dies meanwhile is started again.
    fn reach(&mut self, what: &str, is_there: impl Fn(&Controller) -> bool) {
        let end = clock::now().after(common::PATIENCE);
        while !is_there(&self.controller) {
            self.revive();
            assert!(clock::now() < end, "{what} did not come\n{}\n{}", self.controller.told(), self.node.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.revive();
    }

    /// Starts an agent that was killed again; its worker must be gone with it.
    fn revive(&mut self) {
        if self.node.agent_ended().is_none() {
            return;
        }
        let agent = self.node.agent_pid();
        let status = self.node.wait_for_the_agents_end();
        assert_eq!(status.signal(), Some(9), "{}", self.node.log());
        wait_for("the end of its workers", String::new, || workers_of(agent).is_empty().then_some(()));
        self.kills += 1;
        self.node.start_agent();
    }

    /// Nothing lost, one result for each, one end, and each kill cost one attempt at most.
    fn check(&mut self) {
        self.ledger.wait_for_ends(&self.controller, self.jobs, Duration::from_secs(30));
        for (id, told) in self.ledger.jobs() {
            let end = told.end.as_ref().expect("all have ended");
            let met = self.hits.get(id).map_or("nothing", String::as_str);
            assert_eq!(end["status"], "SUCCEEDED", "{id} met {met}: {told:?}");
            let most = if self.hits.contains_key(id) { 2 } else { 1 };
            assert!(end["attempt"].as_u64() <= Some(most), "{id} met {met}: {end}");
        }
        assert_eq!(self.ledger.jobs().count(), self.jobs, "no job that nobody sent");
    }
}

/// How often each call was made, as strace wrote it down.
fn counts(log: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in log.lines() {
        let name: String = line.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Which of so many writes are tried.
fn sample(random: &mut Random, writes: usize, tried: usize) -> Vec<usize> {
    let all: Vec<usize> = (1..=writes).collect();
    if full() || writes <= tried {
        return all;
    }
    let mut picked: Vec<usize> = (0..tried)
        .map(|part| {
            let (from, to) = (part * writes / tried, (part + 1) * writes / tried);
            from + 1 + usize::try_from(random.below((to - from).max(1) as u64)).unwrap_or(0)
        })
        .collect();
    picked.dedup();
    picked
}

fn all_calls() -> String {
    STEPS.iter().chain([&WRITE]).copied().collect::<Vec<_>>().join(",")
}

#[test]
fn a_kill_at_any_step_of_a_jobs_life_loses_nothing_and_repeats_nothing() {
    if !can_trace() {
        return;
    }
    let mut random = Random::of_run();
    let mut trial = Trial::new();
    trial.node.start_agent();
    trial.controller.wait_for_mode("trough");
    let log = trial.node.folder.path().join("strace.log");
    let tracer = Tracer::attach(&trial.node, &all_calls(), &[], Some(&log));
    assert!(!trial.live("nothing"));
    drop(tracer);
    let counts = counts(&fs::read_to_string(&log).expect("strace has written"));
    assert!(
        counts.get("fdatasync").is_some_and(|count| *count >= 3),
        "submit, result and ack are made durable: {counts:?}"
    );

    let mut points: Vec<(&str, usize)> = Vec::new();
    for step in STEPS {
        points.extend((1..=counts.get(step).copied().unwrap_or(0)).map(|n| (step, n)));
    }
    let writes = sample(&mut random, counts.get(WRITE).copied().unwrap_or(0), WRITES_TRIED);
    points.extend(writes.into_iter().map(|n| (WRITE, n)));
    let mut hits = 0;
    for (call, n) in &points {
        let rule = format!("inject={call}:signal=KILL:when={n}");
        let tracer = Tracer::attach(&trial.node, call, &[&rule], None);
        hits += usize::from(trial.live(&format!("a kill at {call} {n}")));
        drop(tracer);
        // It may have died after its last answer.
        trial.revive();
    }
    trial.check();
    eprintln!(
        "{} calls in one life: {counts:?}; {} tried, {hits} met, {} kills",
        counts.values().sum::<usize>(),
        points.len(),
        trial.kills
    );
    // A life differs from the next by a commit or two, for these are joined as they come.
    assert!(hits * 2 > points.len(), "{hits} of {} points were met", points.len());
    let (code, _) = trial.node.terminate_agent();
    assert_eq!(code, Some(0));
}

/// Kills the agent while it starts, at a call of its first thread, which opens the store.
fn start_killed_at(trial: &mut Trial, call: &str, n: usize) -> bool {
    let words = ["strace", "-D", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e"].map(str::to_owned);
    let rule = format!("inject={call}:signal=KILL:when={n}");
    trial.node.start_agent_under(&words.into_iter().chain([rule]).collect::<Vec<_>>());
    let topic = "up/state";
    let before = trial.controller.read(|messages| messages.iter().filter(|message| message.topic == topic).count());
    let mut ended = false;
    wait_for("a start, or a kill", String::new, || {
        ended = trial.node.agent_ended().is_some();
        let states = trial.controller.read(|messages| messages.iter().filter(|message| message.topic == topic).count());
        (ended || states > before).then_some(())
    });
    if ended {
        let status = trial.node.wait_for_the_agents_end();
        assert_eq!(status.signal(), Some(9), "{}", trial.node.log());
        trial.kills += 1;
    } else {
        trial.node.kill_agent();
    }
    ended
}

#[test]
fn a_kill_at_any_step_of_a_start_loses_nothing() {
    if !can_trace() {
        return;
    }
    let mut random = Random::of_run();
    let mut trial = Trial::new();
    let state = trial.node.folder.path().join("state");
    for (round, is_first) in [("a first start", true), ("a later start", false)] {
        let start = |trial: &mut Trial, call: &str, n: usize| {
            // Nothing was promised yet: each first start finds nothing.
            if is_first && state.exists() {
                fs::remove_dir_all(&state).expect("the folder can be removed");
            }
            start_killed_at(trial, call, n)
        };
        let mut met = BTreeMap::new();
        for step in STEPS {
            met.insert(step, (1..40).take_while(|n| start(&mut trial, step, *n)).count());
        }
        for n in sample(&mut random, 24, START_WRITES_TRIED) {
            *met.entry(WRITE).or_default() += usize::from(start(&mut trial, WRITE, n));
        }
        eprintln!("{round}: kills at {met:?}");
        assert!(met["fdatasync"] > 0 && (!is_first || met["rename"] > 0), "{met:?}");
        trial.node.start_agent();
        trial.live(round);
        trial.node.kill_agent();
    }
    trial.node.start_agent();
    trial.live("nothing");
    trial.check();
    assert!(trial.kills > 4, "{} kills", trial.kills);
    assert!(
        !fs::read_dir(trial.node.folder.path().join("state"))
            .expect("it is there")
            .flatten()
            .any(|entry| { entry.file_name().to_string_lossy().contains("corrupt") })
    );
    assert_eq!(trial.node.terminate_agent().0, Some(0));
}
