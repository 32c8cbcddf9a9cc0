//! Does a page ever have to be fetched in the middle of a yield? The kernel counts the faults of the sentinel's thread.
//! One test in a process of its own.

#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "support/giving_way.rs"]
mod giving_way;

use std::fs;
use std::path::{Path, PathBuf};

use giving_way::{GivingWay, Told, Way, policy};
use neap::sentinel;

/// Rounds, in each of which the process lets go of its memory, and yields in a round.
const ROUNDS: usize = 5;
const YIELDS: usize = 20;

/// Minor and major faults of a thread so far: the tenth and twelfth field of its `stat`.
fn faults(thread: &Path) -> (u64, u64) {
    let stat = fs::read_to_string(thread.join("stat")).expect("the thread lives");
    let (_, after_name) = stat.rsplit_once(')').expect("a name in parentheses");
    let fields: Vec<u64> = after_name.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    // The state is the third field and was skipped, so the fourth is the first here.
    (fields[10 - 4], fields[12 - 4])
}

fn sentinels_thread() -> PathBuf {
    let tasks = fs::read_dir("/proc/self/task").expect("there is a /proc").map(|task| task.expect("listed").path());
    let is_it =
        |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == "neap-sentinel");
    tasks.into_iter().find(is_it).expect("it runs")
}

#[test]
fn no_page_is_fetched_in_the_middle_of_a_yield_also_after_memory_was_let_go() {
    let mut node = GivingWay::start(Way::Push, Some(5));
    let thread = sentinels_thread();
    let locked = node.sentinel.memory_locked();
    // The worker was forked after the sentinel had started: what both then share is copied, or found unshared, once.
    node.tell(Told::Low);
    node.wait_for_trough();
    node.tell(Told::High);
    node.wait_for_yield();
    let (mut with_faults, mut firsts_with_faults) = (Vec::new(), 0);
    let major_before = faults(&thread).1;
    // Readings are of one kind, stamped, as those of a source are: the low ones bring its code back.
    for round in 0..ROUNDS {
        // The worker stands still now: nobody has to be stopped while pages are missing.
        assert!(sentinel::shed_again(&policy(), locked), "locked again");
        for number in 0..YIELDS {
            node.feed(3);
            node.wait_for_trough();
            let before = faults(&thread);
            node.feed(90);
            assert_eq!(node.wait_for_yield().workers, 1);
            let after = faults(&thread);
            if after != before {
                with_faults.push((round, number, after.0 - before.0));
                firsts_with_faults += usize::from(number == 0);
            }
        }
    }
    eprintln!("yields with faults (round, number, faults) of {}: {with_faults:?}; locked: {locked}", ROUNDS * YIELDS);
    // The kernel moves pages now and then to make room for large ones: such a fault is nobody's doing.
    assert!(with_faults.len() <= ROUNDS * YIELDS / 20, "{with_faults:?}");
    assert!(firsts_with_faults <= 1, "the first yield after memory was let go: {with_faults:?}");
    assert_eq!(faults(&thread).1, major_before, "pages that were read from a disk");
}
