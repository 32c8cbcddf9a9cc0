//! What does the sentinel ask of the kernel between its wake and the signals, and what besides? Looked at with strace.

#[path = "support/emulation.rs"]
mod emulation;
#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "support/giving_way.rs"]
mod giving_way;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use giving_way::{FOREVER, GivingWay, Told, Way};
use neap::sys::clock;

const YIELDS: usize = 20;

/// How the sentinel sleeps; the name of `epoll_wait` differs between machines.
const SLEEPS: [&str; 4] = ["epoll_wait", "epoll_pwait", "futex", "restart_syscall"];
/// After the signals: the workers' CPU clocks and states, SIGCHLD taken up, the agent told, the timer set, the companion
/// asked to listen again; and before it sleeps, the baseline of what the kernel counts around slow yields.
const AFTERWARDS: [&str; 12] = [
    "kill",
    "clock_gettime",
    "waitid",
    "read",
    "write",
    "timerfd_settime",
    "epoll_ctl",
    "open",
    "openat",
    "pread64",
    "getrusage",
    "close",
];

/// Kernel's id of this process's thread of that name.
fn thread(name: &str) -> Option<i32> {
    let tasks = fs::read_dir("/proc/self/task").expect("there is a /proc");
    let found = tasks
        .map(|task| task.expect("it can be listed").path())
        .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name))?;
    found.file_name()?.to_str()?.parse().ok()
}

/// Names of the system calls of the sentinel over some yields, in order; `None` where that cannot be seen.
fn system_calls(way: Way) -> Option<Vec<String>> {
    if emulation::not_under_emulation("strace sees the emulator's system calls, not the program's") {
        return None;
    }
    // The thread is found by its name: there must be one of them.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut node = GivingWay::start(way, Some(5));
    let tid = thread("neap-sentinel").expect("it runs");
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("strace.log");
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-p", &tid.to_string(), "-o"]).arg(&log).stderr(Stdio::piped());
    let mut strace = match strace.spawn() {
        Ok(strace) => strace,
        Err(error) => {
            eprintln!("SKIPPED: strace cannot be run here ({error}), so nobody has looked at the system calls");
            return None;
        }
    };
    let status = format!("/proc/self/task/{tid}/status");
    let traced = || fs::read_to_string(&status).is_ok_and(|status| !status.contains("TracerPid:\t0\n"));
    let end = clock::now().after(FOREVER);
    while !traced() {
        if strace.try_wait().expect("it is a child of ours").is_some() || clock::now() > end {
            eprintln!("SKIPPED: strace may not attach here, so nobody has looked at the system calls");
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..YIELDS {
        node.tell(Told::Low);
        node.wait_for_trough();
        node.tell(Told::High);
        assert_eq!(node.wait_for_yield().workers, 1);
    }
    let pid = rustix::process::Pid::from_child(&strace);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it still runs");
    strace.wait().expect("it ends");
    let log = fs::read_to_string(&log).expect("strace has written its log");
    let name = |line: &str| Some(line.split_once('(')?.0.to_owned());
    Some(log.lines().filter_map(name).collect())
}

fn assert_path(way: Way, heard_by: &[&str]) {
    let Some(calls) = system_calls(way) else { return };
    let mut counts = BTreeMap::new();
    calls.iter().for_each(|call| *counts.entry(call.as_str()).or_insert(0) += 1);
    eprintln!("{way:?}, {YIELDS} yields: {counts:?}");

    let signals: Vec<usize> = (0..calls.len()).filter(|at| calls[*at] == "tgkill").collect();
    assert_eq!(signals.len(), YIELDS, "one thread, one signal: {counts:?}");
    for at in signals {
        let before = calls[..at].iter().rev().take_while(|call| !SLEEPS.contains(&call.as_str()));
        let before: Vec<&str> = before.map(String::as_str).collect();
        assert!(before.iter().all(|call| heard_by.contains(call)), "between wake and signal: {before:?}");
        assert_eq!(calls.get(at + 1).map(String::as_str), Some("kill"), "the process right after its thread");
    }
    let known =
        |call: &str| call == "tgkill" || [&SLEEPS[..], heard_by, &AFTERWARDS].iter().any(|calls| calls.contains(&call));
    let strange: Vec<&&str> = counts.keys().filter(|call| !known(call)).collect();
    assert!(strange.is_empty(), "neither on the way nor known to come after it: {strange:?}");
}

#[test]
fn between_a_datagram_and_the_signal_it_is_read_and_nothing_else() {
    assert_path(Way::Push, &["recvfrom"]);
}

#[test]
fn between_a_ring_and_the_signal_there_is_nothing() {
    assert_path(Way::Page, &[]);
}

#[test]
fn what_the_companion_hears_costs_the_sentinel_no_more_than_reading_it() {
    assert_path(Way::PushBesidePage, &["recvfrom"]);
}
