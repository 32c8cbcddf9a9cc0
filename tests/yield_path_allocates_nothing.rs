//! Does the yield path, from a reading to the confirmed stop and the report of it, touch the heap? One test in a process
//! of its own, so that nothing else allocates meanwhile.

#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "support/giving_way.rs"]
mod giving_way;

use std::time::Duration;

use giving_way::{GivingWay, Told, Way};
use neap::governor::Order;
use neap::sys::{alloc, clock};

const YIELDS: u64 = 50;

/// By then the test harness says of a test that it has been running for over a minute, for which it allocates itself
/// (676 bytes on 64-bit machines), once. Emulated, the last way is under way at that time.
const HARNESS_SPEAKS: Duration = Duration::from_secs(61);

#[test]
fn the_path_from_a_reading_to_the_confirmed_stop_allocates_nothing() {
    let begin = clock::now();
    for way in [Way::Push, Way::Page, Way::PushBesidePage] {
        let is_undisturbed = clock::now().since(begin) >= HARNESS_SPEAKS;
        let (mut before, mut after) = yield_again_and_again(way);
        if after != before && !is_undisturbed && clock::now().since(begin) >= Duration::from_secs(60) {
            std::thread::sleep(HARNESS_SPEAKS.saturating_sub(clock::now().since(begin)));
            (before, after) = yield_again_and_again(way);
        }
        assert_eq!(after, before, "bytes in use and most in use, by {way:?}");
    }
}

/// Bytes in use and most in use: after the first yield, and after the last.
fn yield_again_and_again(way: Way) -> ((u64, u64), (u64, u64)) {
    // What is recorded leaves the path through a queue, and its file is written without allocation as well.
    let mut node = GivingWay::start_recorded(way, Some(5));
    let (mut before, mut looked_into) = ((0, 0), 0);
    for count in 0..=YIELDS {
        // The first round is the warm-up: the process's first use of this and that.
        if count == 1 {
            alloc::reset_peak();
            before = (alloc::used(), alloc::peak());
        }
        node.tell(Told::Low);
        node.wait_for_trough();
        match count % 3 {
            0 => node.tell(Told::Nonsense),
            1 => node.tell(Told::High),
            _ => node.sentinel.order(Order::Hold),
        }
        let record = node.wait_for_yield();
        assert_eq!(record.workers, 1);
        looked_into += u64::from(record.around.is_some());
        node.sentinel.order(Order::Release);
    }
    let after = (alloc::used(), alloc::peak());
    if std::path::Path::new("/proc/thread-self/schedstat").exists() {
        assert!(looked_into >= YIELDS / 3, "only {looked_into} slow yields were looked into, by {way:?}");
    } else {
        eprintln!("SKIPPED: what is counted around slow yields, this kernel has no schedstat");
    }
    (before, after)
}
