//! Does the yield path, from a reading to the confirmed stop and the report of it, touch the heap? One test in a process
//! of its own, so that nothing else allocates meanwhile.

#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "support/giving_way.rs"]
mod giving_way;

use giving_way::{GivingWay, Told, Way};
use neap::governor::Order;
use neap::sys::alloc;

const YIELDS: u64 = 50;

#[test]
fn the_path_from_a_reading_to_the_confirmed_stop_allocates_nothing() {
    for way in [Way::Push, Way::Page, Way::PushBesidePage] {
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
        assert_eq!(after, before, "bytes in use and most in use, by {way:?}");
        if std::path::Path::new("/proc/thread-self/schedstat").exists() {
            assert!(looked_into >= YIELDS / 3, "only {looked_into} slow yields were looked into, by {way:?}");
        } else {
            eprintln!("SKIPPED: what is counted around slow yields, this kernel has no schedstat");
        }
    }
}
