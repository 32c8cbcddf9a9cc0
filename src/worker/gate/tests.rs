//! Claims about the gate, with real processes.

use std::process::{Child, Command};

use super::*;

/// A process that computes until it is killed, killed with the test.
struct Spinner(Child);

impl Spinner {
    fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn slots<const N: usize>(slots: [usize; N]) -> Slots {
    let mut set = Slots::NONE;
    slots.into_iter().for_each(|slot| set.insert(slot));
    set
}

fn wait_for(gate: &Gate, slot: usize, pid: i32, wanted: Seen) {
    let end = clock::now().after(Duration::from_secs(60));
    while gate.pass().look(slot, pid).0 != wanted {
        assert!(clock::now() < end, "not {wanted:?} within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Applies a budget as the sentinel does.
fn apply(gate: &Gate, budget: u8) -> (Stop, Resume) {
    let pass = gate.pass();
    (pass.stop_beyond(budget), pass.resume_below(Slots::NONE))
}

#[test]
fn a_set_of_slots_holds_what_was_put_in() {
    let mut set = slots([0, 3, 15, 16, 99]);
    assert_eq!((set.count(), set.iter().collect::<Vec<_>>()), (3, vec![0, 3, 15]));
    set.remove(3);
    set.remove(99);
    assert!(!set.contains(3) && set.contains(15) && !set.contains(99) && !set.is_empty());
}

#[test]
fn a_worker_enters_stopped_and_runs_only_by_the_sentinel() {
    let gate = Gate::new();
    let worker = Spinner::start();
    gate.fill(0, worker.pid());
    wait_for(&gate, 0, worker.pid(), Seen::Stopped);
    assert!(!gate.may_run(0));

    let (stop, resume) = apply(&gate, 1);
    assert_eq!((stop.slots, resume.slots), (Slots::NONE, Slots::NONE), "its first run is no resume");
    assert!(gate.may_run(0) && !gate.may_run(1));
    wait_for(&gate, 0, worker.pid(), Seen::Running);

    gate.set_job(0, 77);
    let before = clock::now();
    let (stop, _) = apply(&gate, 0);
    assert_eq!((stop.slots, stop.pids[0], stop.jobs[0]), (slots([0]), worker.pid(), 77));
    assert!(stop.cpu_signalled[0].is_some() && before <= stop.signalled && stop.signalled <= stop.read);
    assert_eq!(stop.threads[0], 1);
    wait_for(&gate, 0, worker.pid(), Seen::Stopped);
    assert_eq!(apply(&gate, 0).0.slots, Slots::NONE, "nothing is stopped twice");

    let (_, resume) = apply(&gate, 1);
    assert_eq!((resume.slots, resume.jobs[0]), (slots([0]), 77));
    wait_for(&gate, 0, worker.pid(), Seen::Running);
}

#[test]
fn a_budget_lets_the_first_workers_run_and_stops_the_others() {
    let gate = Gate::new();
    let workers = [Spinner::start(), Spinner::start(), Spinner::start()];
    for (slot, worker) in workers.iter().enumerate() {
        gate.fill(slot, worker.pid());
    }
    apply(&gate, 3);
    let (stop, _) = apply(&gate, 1);
    assert_eq!(stop.slots, slots([1, 2]));
    for slot in [1, 2] {
        wait_for(&gate, slot, workers[slot].pid(), Seen::Stopped);
    }
    assert_eq!(gate.pass().look(0, workers[0].pid()).0, Seen::Running);
}

#[test]
fn a_stop_that_is_not_confirmed_is_not_resumed() {
    let gate = Gate::new();
    let worker = Spinner::start();
    gate.fill(0, worker.pid());
    apply(&gate, 1);
    let pass = gate.pass();
    assert_eq!(pass.stop_beyond(0).slots, slots([0]));
    pass.stop_beyond(1);
    assert_eq!(pass.resume_below(slots([0])).slots, Slots::NONE);
    assert_eq!(pass.resume_below(Slots::NONE).slots, slots([0]));
}

#[test]
fn a_worker_that_a_stranger_continued_is_stopped_again() {
    let gate = Gate::new();
    let worker = Spinner::start();
    gate.fill(0, worker.pid());
    wait_for(&gate, 0, worker.pid(), Seen::Stopped);
    assert_eq!(gate.pass().stop_strays(Slots::NONE), Slots::NONE);
    signal::continue_process(worker.pid()).unwrap();
    assert_eq!(gate.pass().stop_strays(slots([0])), Slots::NONE);
    assert_eq!(gate.pass().stop_strays(Slots::NONE), slots([0]));
    wait_for(&gate, 0, worker.pid(), Seen::Stopped);
}

#[test]
fn a_cleared_slot_is_neither_signalled_nor_named_any_more() {
    let gate = Gate::new();
    let pids = gate.pids();
    let worker = Spinner::start();
    gate.fill(0, worker.pid());
    gate.set_job(0, 5);
    apply(&gate, 1);
    assert_eq!(pids[0].load(SeqCst), worker.pid());
    gate.clear(0);
    assert_eq!(pids[0].load(SeqCst), 0);
    assert_eq!(apply(&gate, 0).0, Stop::default());
    assert_eq!(gate.pass().look(0, worker.pid()), (Seen::Exited, None));
    gate.pass().kill(0, worker.pid());
    assert_eq!(signal::poll_stopped(worker.pid()).unwrap(), Seen::Running);
}

#[test]
fn a_slot_is_not_given_back_while_the_sentinel_uses_it() {
    let gate = Gate::new();
    let worker = Spinner::start();
    gate.fill(0, worker.pid());
    let pass = gate.pass();
    let agent = std::thread::spawn({
        let gate = Arc::clone(&gate);
        move || gate.clear(0)
    });
    std::thread::sleep(Duration::from_millis(20));
    assert!(!agent.is_finished());
    drop(pass);
    agent.join().unwrap();
}

#[test]
fn an_exited_worker_counts_as_stopped_and_a_worker_can_be_killed_while_stopped() {
    let gate = Gate::new();
    let worker = Spinner::start();
    gate.fill(3, worker.pid());
    wait_for(&gate, 3, worker.pid(), Seen::Stopped);
    gate.pass().kill(3, worker.pid());
    wait_for(&gate, 3, worker.pid(), Seen::Exited);
}

#[test]
fn every_thread_of_a_worker_is_known_after_a_refresh() {
    let gate = Gate::new();
    let own = i32::try_from(std::process::id()).unwrap();
    // This process itself stands for a worker with threads: it is read only, never signalled.
    gate.pids[0].store(own, SeqCst);
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv().is_err());
    gate.refresh_threads(0).unwrap();
    let known = gate.slots[0].tids.iter().filter(|tid| tid.load(SeqCst) != 0).count();
    assert!(known >= 2, "{known}");
    drop(stop);
    assert!(thread.join().unwrap());
    assert!(gate.refresh_threads(1).is_ok(), "an empty slot has nothing to refresh");
}

#[test]
fn a_beat_is_due_while_a_worker_may_run_and_is_given_before_it_goes_on() {
    let gate = Gate::with(Cgroups::none(), Some(Duration::from_millis(500))).unwrap();
    let page = crate::sys::shared::ReadPage::map(gate.dead_man().unwrap().0).unwrap();
    let worker = Spinner::start();
    gate.fill(0, worker.pid());
    assert_eq!((gate.next_beat(), page.load_u32(0)), (None, 0), "no worker runs");
    apply(&gate, 1);
    let first = gate.next_beat().expect("one runs");
    assert!(page.load_u32(0) != 0 && first <= clock::now().after(BEAT_EVERY));
    let later = clock::now().after(Duration::from_secs(60));
    gate.beat(later);
    assert_eq!(gate.next_beat(), Some(later.after(BEAT_EVERY)));
    apply(&gate, 0);
    assert_eq!(gate.next_beat(), None, "nobody wakes for a worker that stands");
    apply(&gate, 1);
    gate.clear(0);
    assert_eq!(gate.next_beat(), None, "nor for one that is gone");
    assert!(Gate::new().dead_man().is_none() && Gate::new().next_beat().is_none());
}
