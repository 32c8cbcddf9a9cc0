//! Do nodes come back after an outage, neither all at once nor too often meanwhile?
//!
//! A hundred real links and a Mosquitto that is killed; then listeners that count who knocks. With `NEAP_CHAOS=full`
//! at the usual times of the back-off: waits of up to a minute, and an outage of five.

#![allow(missing_docs)]

mod common;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use common::mosquitto::{Mosquitto, Options};
use common::node::{Node, Setup};
use common::random::full;
use neap::link::backoff::{Cause, Delays};
use neap::link::{Event, mqtt};
use neap::sys::clock;
use neap::units::Instant;

/// Links to one broker.
const LINKS: usize = 100;
/// Parts of the longest wait in which returns are counted, and how many times the mean one of them may have. By the
/// schedule one in a hundred thousand rounds has 36 of a hundred in one part; the mean is 12.
const PARTS: u32 = 8;
const PEAK: usize = 3;
/// All links are back then, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What stood still so long has bunched returns that were spread: such a round is not judged.
const STALL: Duration = Duration::from_millis(300);
const ROUNDS: usize = 3;

// === Many links ===

/// What the links did, by the clock of their one thread.
#[derive(Debug)]
struct Fleet {
    /// For each link, when it last came up; `None` while it is down.
    up: Vec<Option<Instant>>,
    /// Longest time for which that thread stood still.
    stall: Duration,
}

/// Links on a thread of their own.
struct Links {
    fleet: Arc<Mutex<Fleet>>,
    leave: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Links {
    fn start(port: u16, backoff: mqtt::Backoff) -> Self {
        let fleet = Arc::new(Mutex::new(Fleet { up: vec![None; LINKS], stall: Duration::ZERO }));
        let leave = Arc::new(AtomicBool::new(false));
        let (of_thread, leaves) = (Arc::clone(&fleet), Arc::clone(&leave));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for link in 0..LINKS {
                    let settings =
                        mqtt::Settings { backoff, ..mqtt::Settings::new("127.0.0.1", port, format!("link-{link}")) };
                    tokio::spawn(follow(settings, link, Arc::clone(&of_thread)));
                }
                let mut last = clock::now();
                while !leaves.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    let now = clock::now();
                    let mut fleet = lock(&of_thread);
                    fleet.stall = fleet.stall.max(now.since(last));
                    last = now;
                }
            });
        });
        Self { fleet, leave, thread: Some(thread) }
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        lock(&self.fleet)
    }

    /// Waits until so many links are up.
    fn wait_for(&self, count: usize) {
        let end = clock::now().after(PATIENCE);
        loop {
            let up = self.fleet().up.iter().flatten().count();
            if up == count {
                return;
            }
            assert!(clock::now() < end, "{up} links are up after {PATIENCE:?}, not {count}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(fleet: &Mutex<Fleet>) -> MutexGuard<'_, Fleet> {
    fleet.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(settings: mqtt::Settings, link: usize, fleet: Arc<Mutex<Fleet>>) {
    let (_commands, mut events) = mqtt::start(settings, clock::wall).expect("good settings");
    while let Some(event) = events.recv().await {
        match event {
            Event::Up { .. } => lock(&fleet).up[link] = Some(clock::now()),
            Event::Down { .. } => lock(&fleet).up[link] = None,
            Event::Received(_) | Event::Delivered { .. } | Event::Refused { .. } | Event::Closed => {}
        }
    }
}

/// In each part of the longest wait, how many came back; `None` when the machine stood still meanwhile.
fn returns(broker: &mut Mosquitto, links: &Links, outage: Duration, part: Duration) -> Option<Vec<usize>> {
    links.fleet().stall = Duration::ZERO;
    broker.kill();
    let end = clock::now().after(outage);
    links.wait_for(0);
    std::thread::sleep(end.since(clock::now()));
    let started = clock::now();
    broker.restart();
    let restarted = clock::now();
    links.wait_for(LINKS);
    let fleet = links.fleet();
    let mut parts: Vec<usize> = Vec::new();
    for up in fleet.up.iter().flatten() {
        let at = usize::try_from(up.since(started).as_nanos() / part.as_nanos()).expect("a small number");
        parts.resize(parts.len().max(at + 1), 0);
        parts[at] += 1;
    }
    let stall = fleet.stall.max(restarted.since(started));
    eprintln!("{outage:?} away; back in parts of {part:?}: {parts:?}; the machine stood still for {stall:?} at most");
    (stall < STALL).then_some(parts)
}

#[test]
fn a_hundred_nodes_come_back_after_a_killed_broker_and_not_in_step() {
    let (max, outage) = if full() { (60, 60) } else { (8, 6) };
    let (max, outage) = (Duration::from_secs(max), Duration::from_secs(outage));
    let Some(mut broker) = Mosquitto::start(Options::default()) else { return };
    let links = Links::start(broker.port(), mqtt::Backoff::STANDARD.up_to(max));
    links.wait_for(LINKS);
    for _ in 0..ROUNDS {
        let Some(parts) = returns(&mut broker, &links, outage, max / PARTS) else { continue };
        // The mean is over the longest wait: over the time that they took, all in one moment would be no peak.
        let peak = parts.iter().max().copied().unwrap_or(0);
        assert!(peak * PARTS as usize <= PEAK * LINKS, "a peak of {peak}: {parts:?}");
        return;
    }
    eprintln!("\n!!! NOT JUDGED how they were spread: the machine stood still in each of {ROUNDS} rounds !!!\n");
}

// === Attempts ===

/// A listener that counts who connects.
struct Door {
    port: u16,
    knocks: Arc<AtomicUsize>,
}

impl Door {
    /// It does that with each connection.
    fn open(mut treat: impl FnMut(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port can be bound");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let knocks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&knocks);
        // It goes with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::Relaxed);
                treat(stream);
            }
        });
        Self { port, knocks }
    }

    /// Connections but the first, with whose end the outage began.
    fn tries(&self) -> usize {
        self.knocks.load(Ordering::Relaxed).saturating_sub(1)
    }
}

/// Tries within `span` after the loss of the broker, by the schedule alone, when chance always has it so.
fn scheduled(span: Duration, chance: u64, each: Duration) -> usize {
    let mut delays = Delays::new(mqtt::Backoff::STANDARD);
    let (mut at, mut tries) = (Duration::ZERO, 0);
    loop {
        at += delays.next(Cause::Lost, Duration::ZERO, chance);
        if at > span {
            return tries;
        }
        at += each;
        tries += 1;
    }
}

#[test]
fn a_node_without_a_broker_tries_as_often_as_its_schedule_allows() {
    let span = Duration::from_secs(if full() { 300 } else { 40 });
    let closes = Door::open(drop);
    let mut kept = Vec::new();
    let is_silent = Door::open(move |stream| kept.push(stream));
    let begun = clock::now();
    // Two real agents, with the times that they have without being told.
    let nodes = [&closes, &is_silent].map(|door| Node::start(&Setup::new().with("mqtt", "port", i64::from(door.port))));
    std::thread::sleep(span);
    let tries = [closes.tries(), is_silent.tries()];
    // A little longer than any agent has been without a broker, never shorter.
    let lasted = clock::now().since(begun);
    let most = scheduled(lasted, 0, Duration::ZERO);
    // On a slow machine every try comes later.
    let least = scheduled(span / 2, u64::MAX, Duration::ZERO);
    assert!(!full() || most <= 10, "{most} tries are allowed in {lasted:?}");
    eprintln!("{tries:?} tries in {lasted:?}, when the door closes at once and when it is silent; {most} are allowed");
    assert!(tries.iter().all(|tries| *tries <= most), "{tries:?} tries, {most} are allowed");
    assert!(tries[0] >= least, "{tries:?} tries, the schedule has {least} at least in half of the time");
    assert!(tries[1] >= 1, "a silent broker is given up and tried again");
    drop(nodes);
}
