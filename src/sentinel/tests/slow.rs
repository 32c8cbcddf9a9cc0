//! Claims about what is known of a slow yield.

use super::*;
use crate::ledger::cause;

/// The clocks are the kernel's, and the sample is as old as it says: a late sample is told from a late sentinel.
#[test]
fn a_slow_yield_knows_whether_the_sample_or_the_sentinel_was_late() {
    look_into_a_slow_yield(Waits::Descriptors);
    look_into_a_slow_yield(Waits::Doorbell);
}

fn look_into_a_slow_yield(waits: Waits) {
    let world = world(waits, 1, FOREVER, None);
    world.begin_trough();
    let late = Duration::from_secs(2);
    let old = clock::now();
    std::thread::sleep(late);
    world.feed_stamped(710, old);
    let record = world.wait_for_yield();
    let Some(around) = record.around else {
        let known = std::path::Path::new("/proc/thread-self/schedstat").exists();
        assert!(!known, "nothing was counted around {record:?}");
        eprintln!("SKIPPED: this kernel has no /proc/thread-self/schedstat");
        return;
    };
    assert!(around.waited < record.total() && around.ran < record.total(), "{around:?}");
    let causes = cause::classify(&crate::ledger::parts(&record), Some(&around), None);
    let sample = causes.iter().find(|cause| cause.kind == cause::Kind::SampleLate).expect("a late sample");
    let own = around.waited + around.ran + Duration::from_millis(1);
    assert!(sample.least + own >= late, "{causes:?}");
    assert_eq!(causes.verdict(), cause::Verdict::Explained, "{causes:?} {around:?}");
}
