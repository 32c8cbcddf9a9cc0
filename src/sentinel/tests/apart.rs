//! Claims that need a process of their own: one in which every thread blocks SIGCHLD, as in the agent, or one that has
//! to die. Each test runs itself again in such a process.

use std::process::{Output, Stdio};

use super::*;
use crate::ledger::distribution::Distribution;

const INSIDE: &str = "NEAP_TEST_INSIDE";

/// Runs one test of this file again, as a process whose every thread blocks SIGCHLD. `None` inside of it.
fn in_own_process(test: &str) -> Option<Output> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("sentinel::tests::apart::{test}")]).env(INSIDE, "1");
    Some(signal::start_with_child_signal_blocked(command.stdin(Stdio::null())).output().unwrap())
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_worker_that_a_stranger_continues_is_stopped_again_at_once() {
    if let Some(output) = in_own_process("a_worker_that_a_stranger_continues_is_stopped_again_at_once") {
        assert!(output.status.success(), "{}", text(&output));
        return;
    }
    for waits in [Waits::Descriptors, Waits::Doorbell] {
        let world = world(waits, 1, FOREVER, None);
        world.begin_trough();
        world.feed(500);
        world.wait_for_yield();
        let pid = world.workers[0].pid();
        for _ in 0..20 {
            signal::continue_process(pid).unwrap();
            let end = clock::now().after(FOREVER);
            while signal::poll_stopped(pid).unwrap() != Seen::Stopped {
                assert!(clock::now() < end, "it went on for a minute");
            }
        }
        assert!(world.workers[0].stands_still());
    }
}

#[test]
fn a_panic_stops_the_worker_and_aborts_the_process() {
    if let Some(output) = in_own_process("a_panic_stops_the_worker_and_aborts_the_process") {
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(output.status.signal(), Some(6), "{}", text(&output));
        let said = text(&output);
        let pid: i32 = said.split("worker ").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        let stopped = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("State:\tT");
        let end = clock::now().after(FOREVER);
        while !stopped() && clock::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let stopped = stopped();
        signal::kill_process(pid).unwrap();
        assert!(stopped);
        return;
    }
    let mut world = world(Waits::Descriptors, 1, FOREVER, None);
    world.gate.clear(0);
    // Not tied to this process: it has to be stopped, not dead, when this process is gone.
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]).stdout(Stdio::null()).stderr(Stdio::null());
    world.workers[0] = Worker(command.spawn().unwrap());
    world.gate.fill(0, world.workers[0].pid());
    world.sentinel.worker_changed();
    world.begin_trough();
    let said = format!("worker {} \n", world.workers[0].pid());
    std::io::Write::write_all(&mut std::io::stdout(), said.as_bytes()).unwrap();
    world.feed(5555);
    std::thread::sleep(FOREVER);
}

/// How long yields take on this machine: `NEAP_YIELDS=500 cargo test --lib -- --nocapture how_long_yields_take`.
/// Asserts only that each is confirmed; the figures are for reading.
#[test]
fn how_long_yields_take() {
    if let Some(output) = in_own_process("how_long_yields_take") {
        assert!(output.status.success(), "{}", text(&output));
        text(&output).lines().filter(|line| line.starts_with("class")).for_each(|line| eprintln!("{line}"));
        return;
    }
    let yields = std::env::var("NEAP_YIELDS").ok().and_then(|count| count.parse().ok()).unwrap_or(20);
    let each = [(Waits::Descriptors, Some(5), 1), (Waits::Descriptors, Some(5), 2), (Waits::Descriptors, None, 1)];
    for (waits, priority, workers) in each.into_iter().chain([(Waits::Doorbell, Some(5), 1)]) {
        let world = world(waits, workers, FOREVER, priority);
        let mut total = Distribution::default();
        let (mut stop, mut cpu) = (Distribution::default(), Distribution::default());
        for _ in 0..yields {
            world.feed(60);
            world.wait_for_mode(Mode::Trough);
            std::thread::sleep(Duration::from_millis(5));
            world.feed(900);
            let record = world.wait_for_yield();
            total.record(record.total());
            stop.record(record.stop());
            cpu.record(record.cpu_after);
        }
        assert_eq!(total.count(), yields);
        let line = |name: &str, distribution: &Distribution| {
            let figures = distribution.figures();
            format!("{name} p50 {} p99 {} max {}", figures.p50_us, figures.p99_us, figures.max_us)
        };
        let lines = [line("total", &total), line("stop", &stop), line("cpu_after", &cpu)].join(", ");
        let class = world.sentinel.class();
        eprintln!("class {class:?}, at {waits:?}, {workers} worker(s), {yields} yields, us: {lines}");
    }
}
