//! Claims about workers that signals do not stop, because somebody continues them all the time.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::worker::cgroup::tests::real;
use crate::worker::cgroup::{Cgroups, Had};

/// Somebody who sends SIGCONT to a process without a pause, until dropped.
struct Stranger(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Stranger {
    fn continues(pid: i32) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let thread = {
            let ends = Arc::clone(&ends);
            std::thread::spawn(move || {
                while !ends.load(SeqCst) {
                    let _gone = signal::continue_process(pid);
                }
            })
        };
        Self(ends, Some(thread))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
        self.1.take().unwrap().join().unwrap();
    }
}

/// A world with one worker in cgroups of its own; `None`, loudly, where it cannot be frozen.
fn freezing_world(name: &str, signal_again: Duration, confirm_kill: Duration) -> Option<World> {
    let cgroups: Cgroups = real::real(name)?;
    if cgroups.floor().had("cgroup.freeze") != Had::Yes {
        eprintln!("SKIPPED: {:?}", cgroups.floor().sentences());
        return None;
    }
    let worker = real::start(&cgroups, Command::new("sh").args(["-c", "while :; do :; done"]));
    // It competes with this test's other threads, which are of normal weight: given a share, it can be watched.
    let (parts, feed) = parts(Waits::Descriptors, policy(1), FOREVER, None);
    let parts = Parts { signal_again, confirm_kill, ..parts };
    Some(world_with(Gate::with(cgroups, None).unwrap(), parts, feed, vec![Worker(worker)]))
}

/// Whether the kernel says that the worker's group is frozen, and its CPU clock stands still.
fn wait_until_frozen(world: &World) {
    let end = clock::now().after(FOREVER);
    while !world.gate.pass().is_frozen(0) {
        assert!(clock::now() < end, "not frozen within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = world.workers[0].cpu();
    std::thread::sleep(Duration::from_millis(100));
    // The kernel says so a moment before it takes the process off the core.
    let used = world.workers[0].cpu() - before;
    assert!(used < Duration::from_millis(1), "a frozen worker used {used:?} of CPU time");
}

#[test]
fn a_worker_whose_stop_is_undone_all_the_time_is_frozen_and_goes_on_in_the_next_trough() {
    let Some(world) = freezing_world("undone", Duration::from_millis(5), FOREVER) else { return };
    let mut frozen = 0;
    for _ in 0..5 {
        world.begin_trough();
        let stranger = Stranger::continues(world.workers[0].pid());
        world.feed(900);
        let record = world.wait_for_yield();
        // By chance a look may meet it between a stop and its undoing; then it is frozen as a stray.
        wait_until_frozen(&world);
        drop(stranger);
        assert!(record.frozen <= record.workers);
        frozen += record.frozen;
    }
    eprintln!("{frozen} of 5 yields were confirmed by freezing, the others by a stop that was undone afterwards");
}

#[test]
fn a_frozen_worker_that_is_given_up_dies() {
    let Some(world) = freezing_world("given-up", Duration::from_millis(5), FOREVER) else { return };
    world.begin_trough();
    let stranger = Stranger::continues(world.workers[0].pid());
    world.feed(900);
    world.wait_for_yield();
    wait_until_frozen(&world);
    drop(stranger);
    signal::kill_process(world.workers[0].pid()).unwrap();
    let end = clock::now().after(FOREVER);
    while signal::poll_stopped(world.workers[0].pid()).unwrap() != Seen::Exited {
        assert!(clock::now() < end, "frozen, it does not die within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}
