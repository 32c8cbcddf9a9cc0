//! How much memory does a known job take? The agent's promise of 32 MiB holds with a table that is full.
//!
//! The test is alone in its binary, because it measures its process.

#[path = "support/emulation.rs"]
mod emulation;

use std::fs;
use std::time::Duration;

use neap::jobs::job::{Event, Job, Limits, ModelRef, Spec};
use neap::jobs::table::Table;
use neap::sys::alloc;
use neap::units::{Digest, JOBS_MAX, WallTime};

/// Jobs that wait at once in the promise.
const OPEN: usize = 10_000;
/// What is left for jobs when the agent without any has what it needs, in bytes: see [`JOBS_MAX`].
const JOBS_BYTES_MAX: u64 = 20 * 1024 * 1024;
/// Most that an ended job may take, with its share of the tree and of what the allocator rounds up.
const ENDED_BYTES_MAX: u64 = 300;

fn job(number: usize) -> Job {
    let spec = Spec {
        // As long as what controllers call their jobs: a UUID.
        id: format!("{number:08x}-5cf3-4e0c-9a43-0123456789ab").parse().expect("an id"),
        body: Digest([1; 32]),
        model: ModelRef { name: "kpi-anomaly".parse().expect("a name"), version: None, digest: None },
        priority: 4,
        deadline: Some(WallTime::from_millis(1_800_000_000_000)),
        not_before: None,
        limits: Limits { wall: Duration::from_secs(1), memory_bytes: 1, attempts: 3, output_bytes: 1 },
        traceparent: None,
        items: 1,
    };
    Job::new(spec, WallTime::from_millis(1_790_000_000_000))
}

/// Memory of this process that is not pages of the program.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a process can see itself");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells it");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number of kB") * 1024
}

#[test]
fn a_full_table_fits_the_promise_of_the_agents_memory() {
    if emulation::not_under_emulation("what is resident there is the emulator's") {
        return;
    }
    alloc::be_thrifty();
    // A stride that is prime to the count: ids come in no order, as random ones do.
    let number = |n: usize| (n * 7_919) % JOBS_MAX;
    let mut table = Table::default();
    let (empty, counted) = (resident_bytes(), alloc::used());
    for n in 0..JOBS_MAX - OPEN {
        let job = job(number(n));
        let id = job.id.clone();
        table.insert(job);
        let (cpu, ran) = (Duration::from_millis(1), Duration::from_millis(1));
        for event in [Event::Start, Event::ItemDone { cpu, ran }, Event::Succeed] {
            let at = WallTime::from_millis(1_790_000_001_000);
            table.apply(&id, event, at).expect("it is known").expect("it may");
        }
    }
    let ended = resident_bytes() - empty;
    let ended_counted = alloc::used() - counted;
    for n in JOBS_MAX - OPEN..JOBS_MAX {
        table.insert(job(number(n)));
    }
    let all = resident_bytes() - empty;
    assert_eq!((table.len(), table.open()), (JOBS_MAX, OPEN));
    let each = |bytes: u64, count: usize| bytes / count as u64;
    let (per_ended, per_open) = (each(ended, JOBS_MAX - OPEN), each(all - ended, OPEN));
    eprintln!(
        "{JOBS_MAX} jobs: {} KiB; an ended one {per_ended} bytes ({} allocated), an open one {per_open} bytes",
        all / 1024,
        each(ended_counted, JOBS_MAX - OPEN),
    );
    assert!(per_ended <= ENDED_BYTES_MAX, "{per_ended} bytes for each ended job");
    assert!(all <= JOBS_BYTES_MAX, "{all} bytes for {JOBS_MAX} jobs, {OPEN} of them open");
}
