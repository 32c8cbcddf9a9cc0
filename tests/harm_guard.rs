//! Does a node notice that its inference harms the radio, and does everybody see what it does about it?
//!
//! The real agent with two workers; the radio is a feeder that looks at the workers' processes and says how it fares.

mod common;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use common::batch::submit;
use common::controller::Controller;
use common::node::{Node, Setup, children, cpu, state};
use common::wait_for;
use neap::load::push::Line;
use neap::sys::clock;
use neap::units::{CellId, Health};
use serde_json::{Value, json};

/// How often the radio says how it fares: several times in each window.
const SAID_EVERY: Duration = Duration::from_millis(40);
/// So often it speaks in a window.
const LOOKS_PER_WINDOW: u32 = 5;
/// Its longest wait for a task without us, in µs, give or take a tenth.
const ALONE_US: u32 = 400;
/// A worker that has computed for so long since the radio looked last harms it: more than it takes to be stopped.
const COMPUTED_MIN: Duration = Duration::from_millis(1);
/// For so long the radio is heard before there is work.
const IDLE: Duration = Duration::from_secs(6);
/// Longest wait for a budget of none, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(180);
/// Jobs that keep two workers at work for longer than anything here takes.
const JOBS: usize = 20;

/// Two workers, and a guard in a hurry.
fn setup() -> Setup {
    Setup::new()
        .with("workers", "count", 2)
        .with("guard", "window_s", 0.2)
        .with("guard", "control_every_s", 2)
        .with("guard", "calm_s", 600)
        .with("guard", "pause_max_s", 600)
}

/// Whether a worker computes, or would if it got a core: any of its threads, for the first one only waits.
fn computes(pid: &i32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let states = stats.filter_map(|stat| stat.rsplit_once(')')?.1.trim_start().chars().next());
    states.into_iter().any(|state| matches!(state, 'R' | 'D'))
}

/// How long each worker computes, by the kernel's clocks, looked at again and again.
///
/// Not whether it is ready to compute: on a busy machine a worker gets no core for long, and harms nobody meanwhile.
#[derive(Default)]
struct Progress(BTreeMap<i32, Duration>);

impl Progress {
    /// What each worker has computed since the look before; nothing of those that are new.
    fn look(&mut self, workers: &[i32]) -> Vec<Duration> {
        let before = std::mem::take(&mut self.0);
        self.0 = workers.iter().filter_map(|pid| Some((*pid, cpu(*pid)?))).collect();
        self.0.iter().map(|(pid, now)| now.saturating_sub(*before.get(pid).unwrap_or(now))).collect()
    }
}

/// Spans of a window's length in which no look found all workers stopped, and those in which one computed.
#[derive(Default)]
struct Seen {
    open: AtomicU64,
    computed: AtomicU64,
}

impl Seen {
    /// A machine that is busy with other things gave the workers so little that there was hardly any harm to find.
    fn too_little_was_computed(&self) -> bool {
        self.computed.load(SeqCst) * 4 < self.open.load(SeqCst) * 3
    }
}

/// The radio's account of its own health.
struct Radio {
    leave: Arc<AtomicBool>,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

impl Radio {
    /// Each worker that has computed makes the wait longer by `harm` of what it is alone.
    fn start(node: &Node, harm: f64) -> Self {
        let leave = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Seen::default());
        let (of_thread, counts) = (Arc::clone(&leave), Arc::clone(&seen));
        let agent = u32::try_from(node.agent_pid()).expect("a process id");
        let path: PathBuf = node.folder.path().join("load.sock");
        let thread = std::thread::spawn(move || {
            let socket = UnixDatagram::unbound().expect("a socket can be made");
            let mut progress = Progress::default();
            let mut count = 0_u32;
            let (mut is_open, mut has_computed) = (true, false);
            while !of_thread.load(SeqCst) {
                let workers = children(agent);
                let computed = progress.look(&workers);
                let working = computed.into_iter().filter(|time| *time >= COMPUTED_MIN).count();
                count += 1;
                is_open &= workers.iter().any(|pid| state(*pid) != Some('T'));
                has_computed |= working > 0;
                if count.is_multiple_of(LOOKS_PER_WINDOW) {
                    counts.open.fetch_add(u64::from(is_open), SeqCst);
                    counts.computed.fetch_add(u64::from(is_open && has_computed), SeqCst);
                    (is_open, has_computed) = (true, false);
                }
                let noise = f64::from(count * 37 % 21) - 10.0;
                let wait = f64::from(ALONE_US) * (1.0 + noise / 100.0) * (1.0 + harm * working as f64);
                let mut line = Line { cell: CellId(1), ..Line::default() };
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive time")]
                let wait = wait as u32;
                line.health[Health::EnqueueDelay as usize] = Some(wait);
                // The agent may not listen yet.
                let _ = socket.send_to(line.encode().as_bytes(), &path);
                std::thread::sleep(SAID_EVERY);
            }
        });
        Self { leave, seen, thread: Some(thread) }
    }
}

impl Drop for Radio {
    fn drop(&mut self) {
        self.leave.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// A node in a trough whose two workers are at work, beside a radio to which each does that harm.
fn at_work(harm: f64) -> (Node, Controller, Radio) {
    let node = Node::start(&setup());
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    // Workers that are being started compute as well, and without a job that is not inference.
    node.wait_for_workers(2);
    let mut calm = 0;
    wait_for(
        "two workers that wait for work",
        || node.log(),
        || {
            calm = if node.workers().iter().any(computes) { 0 } else { calm + 1 };
            (calm >= 100).then_some(())
        },
    );
    let radio = Radio::start(&node, harm);
    // What the radio says before anything runs is what the rest is compared with.
    std::thread::sleep(IDLE);
    (0..JOBS).for_each(|job| submit(&controller, &format!("job-{job}"), &json!({})));
    // Not until an item is done: on a machine that is busy with other things that takes its time.
    wait_for(
        "two workers at work",
        || node.log(),
        || (node.workers().iter().filter(|pid| computes(pid)).count() == 2).then_some(()),
    );
    (node, controller, radio)
}

fn harm_events(controller: &Controller) -> Vec<Value> {
    controller.events("guard").into_iter().filter(|event| event["ruling"] == "harm").collect()
}

fn get(node: &Node, page: &str) -> String {
    let mut stream = UnixStream::connect(node.folder.path().join("status.sock")).expect("the agent listens");
    stream.write_all(format!("GET {page} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("it reads");
    let mut answer = String::new();
    let _end = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn inference_that_harms_the_radio_loses_its_workers_and_everybody_sees_why() {
    let (node, controller, radio) = at_work(1.0);
    // Until now there was nothing to compute.
    radio.seen.open.store(0, SeqCst);
    radio.seen.computed.store(0, SeqCst);
    let end = clock::now().after(PATIENCE);
    let harm = loop {
        let harm = harm_events(&controller);
        if harm.last().is_some_and(|event| event["to"] == 0) {
            break harm;
        }
        let told = || format!("{}\n{:#?}\n{}", node.log(), controller.events("guard"), get(&node, "/metrics"));
        if clock::now() >= end && radio.seen.too_little_was_computed() {
            let Seen { open, computed } = &*radio.seen;
            eprintln!(
                "\n!!! SKIPPED: the machine is busy, the workers computed in {computed:?} of {open:?} windows only !!!\n"
            );
            return;
        }
        assert!(clock::now() < end, "no budget of none within {PATIENCE:?}\n{}", told());
        std::thread::sleep(Duration::from_millis(20));
    };

    // Halved, from what was seen to harm: from 2 to 1 to 0, or at once to 0 when one alone was seen first.
    let steps: Vec<(u64, u64)> =
        harm.iter().map(|e| (e["from"].as_u64().unwrap(), e["to"].as_u64().unwrap())).collect();
    assert!(steps == [(2, 1), (1, 0)] || steps == [(2, 0)], "{harm:#?}");
    for event in &harm {
        let compared = &event["compared"];
        let [running, stopped] = ["running", "stopped"].map(|side| compared[side].as_u64().unwrap());
        assert_eq!(compared["figure"], "enqueue_us", "{event}");
        assert!((350..=450).contains(&stopped), "alone the radio waits about 400 µs: {event}");
        assert!(running > stopped * 13 / 10 && compared["change_ratio"].as_f64() > Some(0.3), "{event}");
        assert!(compared["stopped_windows"].as_u64() >= Some(6), "{event}");
        let text = event["text"].as_str().unwrap();
        let (from, to) = (&event["from"], &event["to"]);
        assert!(text.starts_with(&format!("budget {from} → {to}, enqueue p")), "{text}");
        assert!(text.ends_with(" % while running"), "{text}");
        assert!(node.log().contains(&format!("guard: {text}")), "{text} is not in the log");
    }

    let told = controller.wait_for_mode("busy");
    assert_eq!(told["reason"], "the radio fares worse while inference runs (enqueue_us)", "{told}");
    let workers = node.workers();
    let stopped = || workers.iter().all(|pid| state(*pid) == Some('T'));
    wait_for("stopped workers", || node.log(), || stopped().then_some(()));
    let before = node.worker_cpu();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(node.worker_cpu(), before, "with a budget of none nobody computes");

    let page = get(&node, "/metrics");
    assert!(page.contains("\nneap_guard_ceiling 0\n"), "{page}");
    let verdicts = format!("neap_guard_verdicts_total{{ruling=\"harm\",figure=\"enqueue_us\"}} {}", harm.len());
    assert!(page.contains(&verdicts), "{page}");
    assert!(page.contains("neap_guard_figure{figure=\"enqueue_us\",side=\"running\""), "{page}");
    let shown = node.cli(&["yields"]).output().expect("the command runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("guard: at most 0 workers"), "{shown}");
    assert!(controller.events("yield").iter().any(|event| event["cause"]["reason"] == "guarded"));
}

#[test]
fn a_radio_that_fares_alike_with_and_without_inference_costs_no_worker() {
    let (node, controller, _radio) = at_work(0.0);
    let end = clock::now().after(Duration::from_secs(12));
    while clock::now() < end {
        assert_eq!(harm_events(&controller), Vec::<Value>::new(), "{}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(get(&node, "/metrics").contains("\nneap_guard_ceiling 2\n"));
    let heard = controller.events("guard").iter().any(|event| event["ruling"] == "heard");
    assert!(heard, "that it hears the radio is told: {:#?}", controller.events("guard"));
}
