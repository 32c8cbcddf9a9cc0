//! Is the node still as good as it was measured to be? The promises that are ratios, with generous bounds.
//!
//! The benches measure; this catches a regression of kind, not of noise: a yield path that polls, a stop that does not
//! come, a worker that idles half of its time. Each bound says why noise cannot break it, on a build without
//! optimisation and a machine that is busy with other things, and what does.

#[path = "support/emulation.rs"]
mod emulation;

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// One bench at a time: each measures the machine.
static MACHINE: Mutex<()> = Mutex::new(());

/// What sysexits calls a service that is not available: here, too few cores.
const UNAVAILABLE: i32 = 69;

/// Runs a bench and gives its figures; `None`, with loud words, where the machine cannot carry it.
fn bench(args: &[&str]) -> Option<Value> {
    if emulation::not_under_emulation("what takes how long there is the emulator's time") {
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.arg("bench").args(args).arg("--json").stdin(Stdio::null());
    let output = command.output().expect("the binary can be started");
    let words = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(UNAVAILABLE) {
        eprintln!("SKIPPED neap bench {}: this machine cannot carry it: {words}", args.join(" "));
        return None;
    }
    assert!(output.status.success(), "neap bench {} ended with {}: {words}", args.join(" "), output.status);
    let figures = serde_json::from_slice(&output.stdout).expect("one JSON object on standard output");
    eprintln!("neap bench {}: {figures}", args.join(" "));
    Some(figures)
}

/// The figure at that place, such as `/push/p50_us`.
fn figure(figures: &Value, place: &str) -> f64 {
    let found = figures.pointer(place).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("there is no number at {place} in {figures}"))
}

#[test]
fn inference_is_gone_as_soon_as_the_kernel_allows_times_a_small_number() {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(figures) = bench(&["yield", "--events", "300"]) else { return };
    let at = |place: &str| figure(&figures, place);
    let floor = at("/floor/p50_us");
    // Both are medians of the same run, in turns, so a loaded machine slows both. Measured: 0.7 optimised and about 2
    // in this build. A thread that polled once a millisecond would be at 500 µs, 10 times a floor of 50 µs.
    let shm = at("/shm/p50_us");
    assert!(shm <= 5.0 * floor, "shm yields in {shm} µs, the bare floor in {floor} µs");
    // A datagram costs a wake by epoll, a read and a parse on top.
    let push = at("/push/p50_us");
    assert!(push <= 8.0 * floor, "push yields in {push} µs, the bare floor in {floor} µs");
    // Looking once a second takes half a second on average. If it were not 20 times as long, Neap took 25 ms.
    if figures["poll_stop"].is_null() {
        eprintln!("SKIPPED: a script that looks once a second could not be measured on this machine: {figures}");
        return;
    }
    let poll = at("/poll_stop/p50_us");
    assert!(poll >= 20.0 * push, "push yields in {push} µs, a script that looks once a second in {poll} µs");
}

#[test]
fn most_of_the_troughs_becomes_inference_and_the_agent_is_cheap_and_small() {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(figures) = bench(&["harvest", "--seconds", "12"]) else { return };
    let at = |place: &str| figure(&figures, place);
    // What other processes took is left out of both sides: with it, a machine on which something else runs in one round
    // of two shows anything. A worker that waits for its next item half of the time, or a start that takes as long again
    // as the trough, is below.
    let harvest = at("/harvest_ratio_undisturbed");
    assert!(harvest >= 0.5, "harvested {harvest} of what an unmanaged process gets");
    assert!(harvest <= 1.5, "harvested {harvest} times what an unmanaged process gets: not only in troughs?");
    // CPU time, so no waiting counts. Measured in hundredths although the day passes 600 times as fast. An agent that
    // spins takes all of a core.
    let (agent, sentinel) = (at("/agent_cpu_ratio"), at("/sentinel_cpu_ratio"));
    assert!(agent <= 0.2, "the agent takes {agent} of a core, its sentinel {sentinel}");
    // The agent parses no model; one that loads one, or keeps every job in memory, is far above. The code of this build
    // without optimisation is several times as large as what a node installs, and it is locked in memory.
    let rss = at("/agent_rss_bytes");
    assert!(rss <= 40.0 * 1024.0 * 1024.0, "the agent has {rss} bytes in memory");
}

#[test]
fn the_radio_misses_hardly_more_deadlines_beside_neap_than_alone() {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    // Without its word of missed deadlines: on a busy machine there are always some, and each would end a trough.
    let Some(figures) = bench(&["interference", "--seconds", "12", "--no-late", "--model", "kpi-anomaly"]) else {
        return;
    };
    let rounds = |method: &str| -> Vec<f64> {
        let place = format!("/missed_by_round/{method}");
        let rounds = figures.pointer(&place).and_then(Value::as_array);
        rounds.expect("an array of rounds").iter().filter_map(Value::as_f64).collect()
    };
    let (alone, beside, slots) = (rounds("none"), rounds("neap"), figure(&figures, "/slots"));
    // What else runs on the machine misses slots too, hundreds in one round and none in the next. So the best round
    // beside Neap is compared with the worst alone, times three, and one slot in fifty. A sentinel that spins, or
    // workers that are neither stopped nor of the idle class, spoil every round, and far more slots of it.
    let best = beside.iter().copied().fold(f64::INFINITY, f64::min);
    let worst = alone.iter().copied().fold(0.0, f64::max);
    assert!(
        best <= 3.0 * worst + 0.02 * slots,
        "of {slots} slots in a round, missed beside Neap {beside:?}, alone {alone:?}"
    );
    // Keeping out of the way is no art for those who do nothing.
    let [inferences, could] =
        ["neap", "sched_idle"].map(|method| figure(&figures, &format!("/total/inferences/{method}")));
    if could >= 100.0 {
        assert!(inferences > 0.0, "no inference beside the radio, where SCHED_IDLE alone did {could}");
    } else {
        eprintln!("SKIPPED: whether Neap gets anything done; this machine left SCHED_IDLE {could} inferences");
    }
}
