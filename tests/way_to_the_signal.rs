//! How long does it take from a load that rises to the signal that stops the worker, beside the bare minimum?
//!
//! The minimum is a thread that sleeps at a futex and sends one signal when it wakes, measured in the same run. The
//! figures are for reading (`NEAP_YIELDS=2000 cargo test --release --test way_to_the_signal -- --nocapture`), the
//! assertion is only that each signal is sent and named in the ledger: what a machine does besides is not ours.

#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "support/giving_way.rs"]
mod giving_way;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use giving_way::{FOREVER, GivingWay, Way, Worker};
use neap::sys::{clock, futex, sched, shared::SharedPage, signal};
use neap::telemetry::YieldHistogram;
use neap::units::Instant;

/// Between a start of the worker and the load that rises.
const PAUSE: Duration = Duration::from_millis(3);
const PRIORITY: u8 = 5;
/// Yields of one way in a turn.
const ROUND: u64 = 20;

fn yields() -> u64 {
    std::env::var("NEAP_YIELDS").ok().and_then(|count| count.parse().ok()).unwrap_or(20)
}

fn line(way: &str, histogram: &YieldHistogram) -> String {
    let (p50, p99, max) = (histogram.p50(), histogram.p99(), histogram.max());
    format!("{way:>14}: p50 {p50} µs, p99 {p99} µs, max {max} µs of {}", histogram.count())
}

/// Futex-wake → tgkill → kill, and nothing else.
fn bare(yields: u64, histogram: &mut YieldHistogram) {
    let worker = Worker::start();
    let pid = worker.pid();
    let (page, _fd) = SharedPage::create("neap-test").expect("a page");
    let page = Arc::new(page);
    let signalled = Arc::new(AtomicU64::new(0));
    let stopper = {
        let (page, signalled) = (Arc::clone(&page), Arc::clone(&signalled));
        move || {
            if sched::fifo_self(PRIORITY).is_err() {
                // As the sentinel does.
                let _as_it_is = sched::short_slice_self(100);
            }
            for seen in 0..yields {
                let seen = u32::try_from(seen).expect("not so many");
                while page.u32(0).load(SeqCst) == seen {
                    futex::wait(page.u32(0), seen, None).expect("a mapped page");
                }
                signal::stop_thread(pid, pid).expect("it lives");
                signal::stop_process(pid).expect("it lives");
                signalled.store(clock::now().as_nanos(), SeqCst);
            }
        }
    };
    let stopper = thread::spawn(stopper);
    for _ in 0..yields {
        thread::sleep(PAUSE);
        signalled.store(0, SeqCst);
        let begin = clock::now();
        page.u32(0).fetch_add(1, SeqCst);
        futex::wake(page.u32(0), 1);
        let end = begin.after(FOREVER);
        let sent = loop {
            match signalled.load(SeqCst) {
                0 => assert!(clock::now() < end, "no signal within a minute"),
                sent => break Instant::from_nanos(sent),
            }
            thread::yield_now();
        };
        histogram.record(sent.since(begin));
        signal::continue_process(pid).expect("it lives");
    }
    stopper.join().expect("it did not panic");
}

/// The whole way, and its parts: stamp to receipt, to decision, to the last signal.
fn by(way: Way, yields: u64, histograms: &mut [YieldHistogram; 4]) {
    let mut node = GivingWay::start(way, Some(PRIORITY));
    for _ in 0..yields {
        node.feed(3);
        node.wait_for_trough();
        thread::sleep(PAUSE);
        node.feed(90);
        let record = node.wait_for_yield();
        let stamped = record.stamped.expect("it was stamped");
        assert!(stamped <= record.received && record.received <= record.decided, "{record:?}");
        assert!(record.decided <= record.signalled && record.signalled <= record.confirmed, "{record:?}");
        let send = record.signalled.since(record.decided);
        let parts = [record.signalled.since(stamped), record.detect(), record.decide(), send];
        histograms.iter_mut().zip(parts).for_each(|(histogram, part)| histogram.record(part));
    }
}

#[test]
fn every_way_leads_to_a_signal_and_its_moment_is_in_the_ledger() {
    let rounds = yields().div_ceil(ROUND);
    let ways = [Way::Page, Way::Push, Way::Udp, Way::PushBesidePage];
    let mut floor = YieldHistogram::new();
    let mut histograms = ways.map(|_| std::array::from_fn(|_| YieldHistogram::new()));
    // By turns: what else the machine does meanwhile falls on all of them.
    for _ in 0..rounds {
        bare(ROUND, &mut floor);
        ways.iter().zip(&mut histograms).for_each(|(way, histograms)| by(*way, ROUND, histograms));
    }
    let mut lines = vec![line("bare futex", &floor)];
    for (way, [whole, parts @ ..]) in ways.iter().zip(&histograms) {
        assert_eq!(whole.count(), rounds * ROUND);
        let parts = parts.each_ref().map(|part| part.p50().to_string()).join(" + ");
        lines.push(format!("{}; p50 to receipt + decision + signal: {parts}", line(&format!("{way:?}"), whole)));
    }
    eprintln!("load that rises → last signal sent\n{}", lines.join("\n"));
}
