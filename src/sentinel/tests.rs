//! The yield path with real processes: does the worker's own CPU clock stand still?
//!
//! Workers are shells that compute without end; load comes from a socket pair.

mod apart;
mod budget;
mod frozen;
mod page;
mod silence;
mod slow;

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::governor::Mode;
use crate::governor::guard;
use crate::load::fusion::Trust;
use crate::load::shm::Shm;
use crate::load::{Malformed, Observation, Observed, Reading};
use crate::sys::signal::{self, Seen};
use crate::sys::{clock, process, sched};

/// No assertion depends on a shorter time.
const FOREVER: Duration = Duration::from_secs(60);

// ---- the world ----

/// A worker that computes until it is killed, killed with the test.
struct Worker(Child);

impl Worker {
    fn start() -> Self {
        let mut command = Command::new("sh");
        Self(process::tie_to_parent(command.args(["-c", "while :; do :; done"])).spawn().unwrap())
    }

    /// On one core, of the idle class as a real worker, or normal as the RAN.
    fn start_on(core: usize, idle: bool) -> Self {
        // Both are inherited. Not tied: the thread that spawns it is gone at once.
        let spawn = move || {
            sched::pin_self(core).unwrap();
            if idle {
                sched::idle_self().unwrap();
            }
            Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
        };
        std::thread::spawn(spawn).join().unwrap()
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn cpu(&self) -> Duration {
        clock::process_cpu(self.pid()).unwrap()
    }

    /// Whether it is stopped and uses no CPU time for a while. With a signal to stop pending it may have to wait for a
    /// core before it is, without executing anything.
    fn stands_still(&self) -> bool {
        let end = clock::now().after(FOREVER);
        while signal::poll_stopped(self.pid()).unwrap() != Seen::Stopped {
            assert!(clock::now() < end, "it is not stopped within a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
        // A stop is seen a moment before the kernel takes the process off the core and brings its clock up to date.
        std::thread::sleep(Duration::from_millis(20));
        let before = self.cpu();
        std::thread::sleep(Duration::from_millis(100));
        self.cpu() - before < Duration::from_millis(1)
    }

    fn wait_until_it_computes(&self) {
        let (before, end) = (self.cpu(), clock::now().after(FOREVER));
        while self.cpu() < before + Duration::from_millis(10) {
            assert!(clock::now() < end, "the worker does not go on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Load by datagram: permille, u16; 9999 makes no sense; 5555 panics.
struct Fake(UnixDatagram);

impl Source for Fake {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn next_poll(&self) -> Option<Instant> {
        None
    }

    fn read(&mut self, _: Instant, sink: &mut dyn FnMut(Observation)) {
        let mut message = [0; 10];
        while self.0.recv(&mut message).is_ok() {
            let [low, high, stamp @ ..] = message;
            let permille = u16::from_le_bytes([low, high]);
            assert_ne!(permille, 5555, "the test asked for a panic");
            let source = SourceId(0);
            sink(Utilization::from_permille(permille).ok_or(Malformed { source, why: "too high" }).map(|level| {
                Reading {
                    source,
                    cell: CellId(7),
                    stamped: Some(Instant::from_nanos(u64::from_le_bytes(stamp))),
                    observed: Observed::Level { metric: Metric::PrbTotDl, level, late: None },
                }
            }));
        }
    }
}

/// How the thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// At all descriptors.
    Descriptors,
    /// At the doorbell of a page; the load that the tests feed comes by way of the companion.
    Doorbell,
}

struct World {
    gate: Arc<Gate>,
    sentinel: Sentinel,
    feed: UnixDatagram,
    workers: Vec<Worker>,
}

fn policy(workers: u8) -> Policy {
    Policy {
        workers,
        busy_above: Utilization::from_permille(400).unwrap(),
        idle_below: Utilization::from_permille(150).unwrap(),
        settle: Duration::from_millis(2),
        settle_max: Duration::from_millis(2),
        flap_window: Duration::ZERO,
        raise_every: Duration::ZERO,
    }
}

/// A sentinel's parts with one source that speaks, and the end that feeds it.
fn parts(waits: Waits, policy: Policy, freshness: Duration, priority: Option<u8>) -> (Parts, UnixDatagram) {
    let (feed, socket) = UnixDatagram::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(Fake(socket))];
    let mut trust = vec![Trust { freshness, required: true, planning: false }];
    if waits == Waits::Doorbell {
        let page = tempfile::tempdir().unwrap().keep().join("load.shm");
        sources.push(Box::new(Shm::open(SourceId(1), &page, 0o600, FOREVER, clock::now()).unwrap()));
        std::fs::remove_dir_all(page.parent().unwrap()).unwrap();
        trust.push(Trust { freshness: FOREVER, required: false, planning: false });
    }
    let parts = Parts {
        policy,
        guard: guard::Settings::default(),
        sources,
        fusion: Fusion::new(&trust),
        grace: FOREVER,
        priority,
        signal_again: FOREVER,
        confirm_kill: FOREVER,
    };
    (parts, feed)
}

/// A sentinel with these parts and workers; nothing was fed.
fn world_of(parts: Parts, feed: UnixDatagram, workers: Vec<Worker>) -> World {
    world_with(Gate::new(), parts, feed, workers)
}

/// The same with a gate of the caller's.
fn world_with(gate: Arc<Gate>, parts: Parts, feed: UnixDatagram, workers: Vec<Worker>) -> World {
    let sentinel = start_with(parts, Arc::clone(&gate)).unwrap();
    for (slot, worker) in workers.iter().enumerate() {
        gate.fill(slot, worker.pid());
        gate.set_job(slot, 100 + slot as u64);
        sentinel.worker_changed();
    }
    World { gate, sentinel, feed, workers }
}

fn world(waits: Waits, workers: u8, freshness: Duration, priority: Option<u8>) -> World {
    let (parts, feed) = parts(waits, policy(workers), freshness, priority);
    world_of(parts, feed, (0..workers).map(|_| Worker::start()).collect())
}

impl World {
    fn feed(&self, permille: u16) {
        self.feed_stamped(permille, clock::now());
    }

    fn feed_stamped(&self, permille: u16, at: Instant) {
        let mut message = [0; 10];
        message[..2].copy_from_slice(&permille.to_le_bytes());
        message[2..].copy_from_slice(&at.as_nanos().to_le_bytes());
        self.feed.send(&message).unwrap();
    }

    /// Takes reports until one is the wanted one.
    fn wait_for<T>(&self, what: &str, mut wanted: impl FnMut(Report) -> Option<T>) -> T {
        let end = clock::now().after(FOREVER);
        loop {
            self.sentinel.clear_report_fd();
            while let Some(report) = self.sentinel.reports().pop() {
                if let Some(found) = wanted(report) {
                    return found;
                }
            }
            assert!(clock::now() < end, "no {what} within a minute");
            let second = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
            poll(&mut [PollFd::new(&self.sentinel.report_fd(), PollFlags::IN)], Some(&second)).unwrap();
        }
    }

    fn wait_for_mode(&self, mode: Mode) -> Decision {
        self.wait_for(mode.as_str(), |report| match report {
            Report::Mode { decision, .. } if decision.mode == mode => Some(decision),
            Report::Mode { .. } | Report::Yield(_) | Report::Resumed { .. } => None,
            Report::Load { .. } | Report::Guard(_) | Report::Killed { .. } => None,
        })
    }

    fn wait_for_yield(&self) -> YieldRecord {
        self.wait_for("yield", |report| match report {
            Report::Yield(record) => Some(record),
            Report::Mode { .. }
            | Report::Resumed { .. }
            | Report::Load { .. }
            | Report::Guard(_)
            | Report::Killed { .. } => None,
        })
    }

    fn begin_trough(&self) {
        self.feed(60);
        self.wait_for_mode(Mode::Trough);
        self.workers.iter().for_each(Worker::wait_until_it_computes);
    }
}

// ---- claims ----

/// Each claim holds for both ways to wait.
macro_rules! claims {
    ($($claim:ident,)*) => {
        mod at_the_descriptors {
            $(#[test] fn $claim() { super::$claim(super::Waits::Descriptors); })*
        }
        mod at_the_doorbell {
            $(#[test] fn $claim() { super::$claim(super::Waits::Doorbell); })*
        }
    };
}

claims! {
    load_above_the_limit_stops_the_worker_and_low_load_lets_it_go_on,
    a_peak_between_two_low_readings_is_a_peak,
    a_source_that_falls_silent_stops_the_worker,
    a_senseless_message_stops_the_worker,
    an_order_to_hold_stops_the_worker_until_released,
    fewer_workers_by_policy_stop_the_last_ones,
    a_worker_that_comes_in_a_trough_runs_and_one_that_comes_while_busy_does_not,
    a_worker_that_a_stranger_continues_is_stopped_again_even_if_nobody_says_so,
    a_worker_that_ends_while_it_is_stopped_ends_the_stop,
    a_worker_that_gets_no_core_is_displaced_and_not_killed,
    the_end_of_the_sentinel_is_the_end_of_the_run,
    reports_that_nobody_takes_are_counted_and_hold_up_nothing,
    the_class_is_what_was_permitted,
}

fn load_above_the_limit_stops_the_worker_and_low_load_lets_it_go_on(waits: Waits) {
    let world = world(waits, 1, FOREVER, None);
    assert!(world.workers[0].stands_still(), "nothing runs before the load is known");
    world.begin_trough();

    world.feed(710);
    let record = world.wait_for_yield();
    assert!(world.workers[0].stands_still());
    let [limit, level] = [400, 710].map(|value| Utilization::from_permille(value).unwrap());
    assert_eq!(record.reason, Reason::Above { source: SourceId(0), level, limit });
    assert_eq!((record.metric, record.cell), (Metric::PrbTotDl, CellId(7)));
    assert_eq!((record.level, record.threshold), (level, limit));
    assert_eq!((record.workers, record.jobs[0], record.jobs[1]), (1, 100, 0));
    let moments = [record.stamped.unwrap(), record.received, record.decided, record.signalled, record.confirmed];
    assert!(moments.is_sorted(), "{moments:?}");
    assert_eq!(record.detect() + record.decide() + record.stop(), record.total());
    assert!(record.cpu_after <= record.stop(), "one worker cannot compute longer than it took to stop: {record:?}");

    world.feed(60);
    let jobs = world.wait_for("resume", |report| match report {
        Report::Resumed { workers, jobs, .. } => Some((workers, jobs[0])),
        Report::Mode { .. } | Report::Yield(_) | Report::Load { .. } | Report::Guard(_) | Report::Killed { .. } => None,
    });
    assert_eq!(jobs, (1, 100));
    world.workers[0].wait_until_it_computes();
}

fn a_peak_between_two_low_readings_is_a_peak(waits: Waits) {
    let world = world(waits, 1, FOREVER, None);
    world.begin_trough();
    // Written in one go: the sentinel may well read all of them in one wake.
    [60, 1000, 60].into_iter().for_each(|permille| world.feed(permille));
    assert_eq!(world.wait_for_yield().level, Utilization::FULL);
}

fn a_source_that_falls_silent_stops_the_worker(waits: Waits) {
    let world = world(waits, 1, Duration::from_millis(300), None);
    world.feed(60);
    world.wait_for_mode(Mode::Trough);
    let record = world.wait_for_yield();
    assert_eq!((record.reason, record.stamped), (Reason::Stale(SourceId(0)), None));
    assert_eq!(world.sentinel.shared.reports.len(), 0, "the yield is the last that happens");
    assert!(world.workers[0].stands_still());
}

fn a_senseless_message_stops_the_worker(waits: Waits) {
    let world = world(waits, 1, FOREVER, None);
    world.begin_trough();
    world.feed(9999);
    let record = world.wait_for_yield();
    assert_eq!((record.reason, record.level), (Reason::Malformed(SourceId(0)), Utilization::FULL));
    assert!(world.workers[0].stands_still());
}

fn an_order_to_hold_stops_the_worker_until_released(waits: Waits) {
    let world = world(waits, 1, FOREVER, None);
    world.begin_trough();
    world.sentinel.order(Order::Hold);
    assert_eq!(world.wait_for_yield().reason, Reason::Held);
    world.feed(10);
    assert!(world.workers[0].stands_still());
    world.sentinel.order(Order::Release);
    world.wait_for_mode(Mode::Trough);
    world.workers[0].wait_until_it_computes();
}

fn fewer_workers_by_policy_stop_the_last_ones(waits: Waits) {
    let world = world(waits, 2, FOREVER, None);
    world.begin_trough();
    world.sentinel.set_policy(policy(1)).unwrap();
    let record = world.wait_for_yield();
    assert_eq!((record.workers, record.jobs[0], record.jobs[1]), (1, 0, 101));
    assert!(world.workers[1].stands_still());
    world.workers[0].wait_until_it_computes();
    assert!(world.sentinel.set_policy(policy(0)).is_err());
}

fn a_worker_that_comes_in_a_trough_runs_and_one_that_comes_while_busy_does_not(waits: Waits) {
    let mut world = world(waits, 1, FOREVER, None);
    world.begin_trough();
    world.gate.clear(0);
    world.workers[0] = Worker::start();
    world.gate.fill(0, world.workers[0].pid());
    world.sentinel.worker_changed();
    world.workers[0].wait_until_it_computes();

    world.feed(500);
    world.wait_for_yield();
    world.gate.clear(0);
    world.workers[0] = Worker::start();
    world.gate.fill(0, world.workers[0].pid());
    (world.sentinel.worker_changed_fn())();
    assert!(world.workers[0].stands_still());
}

/// Here the kernel's signal does not come: in a test runner not every thread blocks it.
fn a_worker_that_a_stranger_continues_is_stopped_again_even_if_nobody_says_so(waits: Waits) {
    let world = world(waits, 1, FOREVER, None);
    signal::continue_process(world.workers[0].pid()).unwrap();
    assert!(world.workers[0].stands_still());
}

fn a_worker_that_ends_while_it_is_stopped_ends_the_stop(waits: Waits) {
    let world = world(waits, 2, FOREVER, None);
    world.begin_trough();
    // Killed, not reaped: the table still names it.
    signal::kill_process(world.workers[1].pid()).unwrap();
    world.feed(500);
    assert_eq!(world.wait_for_yield().workers, 2);
}

fn a_worker_that_gets_no_core_is_displaced_and_not_killed(waits: Waits) {
    let core = *sched::cores().last().unwrap();
    let (parts, feed) = parts(waits, policy(1), FOREVER, None);
    let parts = Parts { confirm_kill: Duration::from_millis(100), ..parts };
    let world = world_of(parts, feed, vec![Worker::start_on(core, true)]);
    for attempt in 0.. {
        world.begin_trough();
        let ran = Worker::start_on(core, false);
        ran.wait_until_it_computes();
        std::thread::sleep(Duration::from_millis(50));
        world.feed(500);
        let record = world.wait_for("yield", |report| match report {
            Report::Yield(record) => Some(record),
            Report::Killed { .. } => panic!("it was killed, though it did not run"),
            Report::Mode { .. } | Report::Resumed { .. } | Report::Load { .. } | Report::Guard(_) => None,
        });
        assert!(world.workers[0].stands_still());
        if record.displaced == 1 {
            assert!(record.cpu_after <= record.stop(), "{record:?}");
            break;
        }
        assert!(attempt < 20, "the idle worker had the core each time");
        drop(ran);
        world.feed(60);
    }
}

#[test]
fn without_a_source_the_node_is_blind_and_nothing_runs() {
    let (parts, feed) = parts(Waits::Descriptors, policy(1), FOREVER, None);
    let parts = Parts { sources: Vec::new(), fusion: Fusion::new(&[]), grace: Duration::ZERO, ..parts };
    let world = world_of(parts, feed, vec![Worker::start()]);
    assert_eq!(world.wait_for_mode(Mode::Blind).reason, Reason::NoSource);
    assert!(world.workers[0].stands_still());
}

fn the_end_of_the_sentinel_is_the_end_of_the_run(waits: Waits) {
    let world = world(waits, 1, FOREVER, None);
    world.begin_trough();
    let World { sentinel, workers, .. } = world;
    sentinel.stop();
    assert!(workers[0].stands_still());
}

fn reports_that_nobody_takes_are_counted_and_hold_up_nothing(waits: Waits) {
    let world = world(waits, 1, FOREVER, None);
    world.begin_trough();
    for _ in 0..REPORTS_MAX {
        world.sentinel.order(Order::Hold);
        world.sentinel.order(Order::Release);
        std::thread::sleep(Duration::from_micros(200));
        world.feed(500);
        world.feed(9999);
    }
    let end = clock::now().after(FOREVER);
    while world.sentinel.overflowed() == 0 {
        world.feed(60);
        world.sentinel.order(Order::Hold);
        std::thread::sleep(Duration::from_millis(3));
        world.sentinel.order(Order::Release);
        assert!(clock::now() < end, "no overflow within a minute");
    }
    assert_eq!(world.sentinel.reports().len(), REPORTS_MAX);
    world.sentinel.order(Order::Hold);
    let deadline = clock::now().after(FOREVER);
    while signal::poll_stopped(world.workers[0].pid()).unwrap() != Seen::Stopped {
        assert!(clock::now() < deadline, "a full queue held up the stop");
    }
}

fn the_class_is_what_was_permitted(waits: Waits) {
    let with_priority = world(waits, 1, FOREVER, Some(5));
    assert!(matches!(with_priority.sentinel.class(), YieldClass::Fifo(5) | YieldClass::ShortSlice | YieldClass::Other));
    let without = world(waits, 1, FOREVER, None);
    assert!(matches!(without.sentinel.class(), YieldClass::ShortSlice | YieldClass::Other));
}

#[test]
fn more_sources_than_the_tables_hold_are_refused() {
    let listen = load::Kind::PushUdp { listen: "127.0.0.1:0".parse().unwrap() };
    let source =
        load::SourceSettings { name: "du".into(), freshness: FOREVER, required: true, kind: listen, record: None };
    let settings = Settings {
        policy: policy(1),
        guard: guard::Settings::default(),
        load: load::Settings { sources: vec![source; SOURCES_MAX + 1] },
        priority: None,
        signal_again: FOREVER,
        confirm_kill: FOREVER,
    };
    let error = start(settings, Gate::new()).unwrap_err();
    assert_eq!(error.to_string(), "9 load sources are configured, but at most 8 are possible");
}

#[test]
fn the_load_sources_are_told_the_workers_of_the_moment() {
    let gate = Gate::new();
    let own_workers = own_workers(&gate);
    let mut pids = [0; WORKERS_MAX];
    assert_eq!(own_workers(&mut pids), 0);
    let worker = Worker::start();
    gate.fill(3, worker.pid());
    assert_eq!((own_workers(&mut pids), pids[0]), (1, worker.pid()));
    gate.clear(3);
    assert_eq!(own_workers(&mut pids), 0);
}
