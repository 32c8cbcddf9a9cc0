//! The beat: does the sentinel give it as long as it is able to, and only when somebody needs it?

use super::*;
use crate::sys::shared::ReadPage;
use crate::worker::cgroup::Cgroups;
use crate::worker::gate::BEAT_EVERY;

#[test]
fn the_sentinel_beats_while_a_worker_may_run_though_nothing_else_happens_and_rests_while_none_may() {
    let (parts, feed) = parts(Waits::Descriptors, policy(1), FOREVER, None);
    let gate = Gate::with(Cgroups::none(), Some(FOREVER)).unwrap();
    let sentinel = start_with(parts, Arc::clone(&gate)).unwrap();
    let worker = Worker::start();
    gate.fill(0, worker.pid());
    sentinel.worker_changed();
    let world = World { gate, sentinel, feed, workers: vec![worker] };
    let page = ReadPage::map(world.gate.dead_man().unwrap().0).unwrap();
    world.begin_trough();
    for _ in 0..5 {
        let (before, end) = (page.load_u32(0), clock::now().after(FOREVER));
        while page.load_u32(0) == before {
            assert!(clock::now() < end, "no beat within a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    world.feed(900);
    world.wait_for_yield();
    assert_eq!(world.gate.next_beat(), None);
    // It still looks for strays once a second: a beat comes with that wake, and with no other.
    std::thread::sleep(BEAT_EVERY);
    let mut beats = 0;
    let (mut last, end) = (page.load_u32(0), clock::now().after(15 * BEAT_EVERY));
    while clock::now() < end {
        std::thread::sleep(Duration::from_millis(5));
        beats += u32::from(std::mem::replace(&mut last, page.load_u32(0)) != last);
    }
    assert!(beats <= 4, "{beats} wakes in 1.5 s, though no worker may run");
}
