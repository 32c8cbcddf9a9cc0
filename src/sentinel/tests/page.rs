//! Claims about the page in shared memory as the source that speaks, and about the companion beside it.

use std::fs::OpenOptions;
use std::path::PathBuf;

use super::*;
use crate::load::shm::Writer;

struct PageWorld {
    world: World,
    writer: Writer,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

/// A sentinel with a page that must be fresh, and beside it the fed source, which need not.
fn page_world(freshness: Duration) -> PageWorld {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.shm");
    let (parts, feed) = parts(Waits::Descriptors, policy(1), FOREVER, None);
    let page = Shm::open(SourceId(1), &path, 0o600, freshness, clock::now()).unwrap();
    let trust = |freshness, required| Trust { freshness, required, planning: false };
    let parts = Parts {
        sources: parts.sources.into_iter().chain([Box::new(page) as Box<dyn Source>]).collect(),
        fusion: Fusion::new(&[trust(FOREVER, false), trust(freshness, true)]),
        ..parts
    };
    let world = world_of(parts, feed, vec![Worker::start()]);
    PageWorld { world, writer: Writer::open(&path).unwrap(), path, _folder: folder }
}

impl PageWorld {
    fn write(&mut self, permille: u16, late: u64) {
        let level = Utilization::from_permille(permille).unwrap();
        self.writer.write(CellId(7), level, Utilization::IDLE, late, clock::now());
    }

    fn begin_trough(&mut self) {
        self.write(60, 0);
        self.writer.ring();
        self.world.wait_for_mode(Mode::Trough);
        self.world.workers[0].wait_until_it_computes();
    }
}

/// Rings again and again, with that much rest, until `work` is done or has panicked.
fn while_ringing<T>(writer: &Writer, rest: Duration, work: impl FnOnce() -> T) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(SeqCst) {
                writer.ring();
                std::thread::sleep(rest);
            }
        });
        work()
    })
}

#[test]
fn a_reading_with_a_ring_stops_the_worker_and_low_load_lets_it_go_on() {
    let mut page = page_world(FOREVER);
    for _ in 0..3 {
        page.begin_trough();
        page.write(710, 0);
        page.writer.ring();
        let record = page.world.wait_for_yield();
        assert!(page.world.workers[0].stands_still());
        let [limit, level] = [400, 710].map(|value| Utilization::from_permille(value).unwrap());
        assert_eq!(record.reason, Reason::Above { source: SourceId(1), level, limit });
        assert_eq!((record.metric, record.cell), (Metric::PrbTotDl, CellId(7)));
        let moments = [record.stamped.unwrap(), record.received, record.decided, record.signalled, record.confirmed];
        assert!(moments.is_sorted(), "{moments:?}");
    }
}

#[test]
fn a_writer_that_does_not_ring_is_heard_within_the_freshness() {
    let mut page = page_world(Duration::from_secs(3));
    page.write(60, 0);
    page.world.wait_for_mode(Mode::Trough);
    page.write(900, 0);
    let record = page.world.wait_for_yield();
    let level = Utilization::from_permille(900).unwrap();
    assert_eq!(record.level, level, "by its reading, not because it fell silent: {record:?}");
}

#[test]
fn a_late_slot_in_the_page_stops_the_worker_however_low_the_load() {
    let mut page = page_world(FOREVER);
    page.begin_trough();
    page.write(60, 1);
    page.writer.ring();
    assert_eq!(page.world.wait_for_yield().reason, Reason::Late(SourceId(1)));
}

#[test]
fn a_page_that_falls_silent_stops_the_worker_however_often_it_is_rung() {
    let mut page = page_world(Duration::from_millis(500));
    page.write(60, 0);
    page.writer.ring();
    page.world.wait_for_mode(Mode::Trough);
    let record = while_ringing(&page.writer, Duration::from_millis(1), || page.world.wait_for_yield());
    assert_eq!(record.reason, Reason::Stale(SourceId(1)));
}

#[test]
fn a_page_that_is_truncated_stops_the_worker_and_not_the_sentinel() {
    let mut page = page_world(Duration::from_secs(2));
    page.begin_trough();
    OpenOptions::new().write(true).open(&page.path).unwrap().set_len(0).unwrap();
    let record = page.world.wait_for_yield();
    // Stale only where the machine stands still for a second.
    assert!(matches!(record.reason, Reason::Malformed(SourceId(1)) | Reason::Stale(SourceId(1))), "{record:?}");
    // The handle is still heard, and the end is orderly.
    page.world.sentinel.order(Order::Drain);
    page.world.wait_for_mode(Mode::Draining);
    let World { sentinel, workers, .. } = page.world;
    sentinel.stop();
    assert!(workers[0].stands_still());
}

#[test]
fn datagrams_are_heard_while_somebody_rings_without_end() {
    let mut page = page_world(FOREVER);
    page.begin_trough();
    let record = while_ringing(&page.writer, Duration::ZERO, || {
        page.world.feed(900);
        page.world.wait_for_yield()
    });
    assert_eq!(record.source, SourceId(0));
    assert!(page.world.workers[0].stands_still());
}

/// Each is lost or heard: a lost wake would leave the worker running until the next look, a second later.
#[test]
fn none_of_many_datagrams_is_left_lying() {
    let (parts, feed) = parts(Waits::Doorbell, policy(1), FOREVER, None);
    let world = world_of(parts, feed, vec![Worker::start()]);
    for count in 0..300 {
        world.feed(60);
        world.wait_for_mode(Mode::Trough);
        world.feed(500 + count);
        assert_eq!(world.wait_for_yield().level.permille(), 500 + count);
    }
}
