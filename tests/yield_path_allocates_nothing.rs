//! Does the yield path, from a datagram to the confirmed stop and the report of it, touch the heap? One test in a
//! process of its own, so that nothing else allocates meanwhile.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::Duration;

use neap::governor::{Mode, Order, Policy};
use neap::load::{self, push};
use neap::sentinel::{self, Report, Sentinel};
use neap::sys::{alloc, clock};
use neap::units::{CellId, Utilization};
use neap::worker::cgroup::Cgroups;
use neap::worker::gate::Gate;

const YIELDS: u64 = 50;
const FOREVER: Duration = Duration::from_secs(60);

/// A worker that computes until it is killed, killed with the test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _killed = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Takes reports until one is the wanted one; allocates nothing.
fn wait_for(sentinel: &Sentinel, wanted: impl Fn(&Report) -> bool) {
    let end = clock::now().after(FOREVER);
    while !sentinel.reports().pop().is_some_and(|report| wanted(&report)) {
        assert!(clock::now() < end, "no such report within a minute");
        std::thread::yield_now();
    }
}

#[test]
fn the_path_from_a_datagram_to_the_confirmed_stop_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, recording) = (folder.path().join("load.sock"), folder.path().join("du.ndjson"));
    let percent = |value| Utilization::from_percent(value).unwrap();
    let settings = sentinel::Settings {
        policy: Policy {
            workers: 1,
            busy_above: percent(40),
            idle_below: percent(15),
            settle: Duration::from_millis(1),
            settle_max: Duration::from_millis(1),
            flap_window: Duration::ZERO,
            raise_every: Duration::ZERO,
        },
        load: load::Settings {
            sources: vec![load::SourceSettings {
                name: "du".into(),
                freshness: FOREVER,
                required: true,
                kind: load::Kind::Push { socket: socket.clone(), mode: 0o600 },
                // What is recorded leaves the path through a queue, and its file is written without allocation as well.
                record: Some(load::recorder::Settings { file: recording.clone(), bytes_max: 1 << 20 }),
            }],
        },
        priority: Some(5),
        signal_again: Duration::from_millis(50),
        confirm_kill: FOREVER,
    };
    let gate = Gate::with(Cgroups::none(), Some(FOREVER)).unwrap();
    let sentinel = sentinel::start(settings, gate.clone()).unwrap();
    let worker = Worker(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap());
    gate.fill(0, i32::try_from(worker.0.id()).unwrap());
    sentinel.worker_changed();
    let feed = UnixDatagram::unbound().unwrap();
    feed.connect(&socket).unwrap();
    // Its stamp is old when it is sent: slow yields are looked into, and that must not allocate either.
    let old = Some(clock::now());
    let [low, high] =
        [(3, None), (90, old)].map(|(percent, stamp)| push::encode(CellId(1), Some(percent), None, None, stamp, false));

    let mut before = (0, 0);
    let looked_into = std::cell::Cell::new(0);
    for count in 0..=YIELDS {
        // The first round is the warm-up: the process's first use of this and that.
        if count == 1 {
            alloc::reset_peak();
            before = (alloc::used(), alloc::peak());
        }
        feed.send(low.as_bytes()).unwrap();
        wait_for(&sentinel, |report| matches!(report, Report::Mode { decision, .. } if decision.mode == Mode::Trough));
        match count % 3 {
            0 => assert_eq!(feed.send(b"nonsense").unwrap(), 8),
            1 => assert_eq!(feed.send(high.as_bytes()).unwrap(), high.len()),
            _ => sentinel.order(Order::Hold),
        }
        let is_stop = |report: &Report| matches!(report, Report::Yield(record) if record.workers == 1);
        wait_for(&sentinel, |report| {
            if let Report::Yield(record) = report {
                looked_into.set(looked_into.get() + u64::from(record.around.is_some()));
            }
            is_stop(report)
        });
        sentinel.order(Order::Release);
    }
    let after = (alloc::used(), alloc::peak());
    assert_eq!(after, before, "bytes in use and most in use");
    if std::path::Path::new("/proc/thread-self/schedstat").exists() {
        assert!(looked_into.get() >= YIELDS / 3, "only {} slow yields were looked into", looked_into.get());
    } else {
        eprintln!("SKIPPED: what is counted around slow yields, this kernel has no schedstat");
    }
    drop(sentinel);
}
