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
        let mut node = GivingWay::start(way, Some(5));
        let mut before = (0, 0);
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
            assert_eq!(node.wait_for_yield().workers, 1);
            node.sentinel.order(Order::Release);
        }
        let after = (alloc::used(), alloc::peak());
        assert_eq!(after, before, "bytes in use and most in use, by {way:?}");
    }
}
