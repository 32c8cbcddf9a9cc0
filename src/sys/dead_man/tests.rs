//! A process of its own for each claim: the handler is for a whole process, and some of them have to die.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::sys::clock;

/// Nothing here takes that long.
const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_millis(200);
const ROLE: &str = "NEAP_TEST_ROLE";

fn at(ms: u64) -> u32 {
    millis(Instant::from_nanos(ms * 1_000_000))
}

#[test]
fn a_beat_is_stale_when_it_is_older_than_the_limit_also_when_the_count_starts_over() {
    let over = 1_u64 << 32;
    assert!(!is_stale(at(1000), at(1500), 500) && is_stale(at(1000), at(1501), 500));
    assert!(!is_stale(at(over - 100), at(over + 400), 500) && is_stale(at(over - 100), at(over + 401), 500));
    assert!(is_stale(0, at(86_400_000), 500), "never given");
}

/// Runs a test of this file again in a process that computes until it is killed. It prints `ready` when it begins.
fn computing(test: &str, wrap: &str) -> (Child, impl FnMut() -> String) {
    let exe = std::env::current_exe().unwrap();
    let line = format!("{} --exact --nocapture sys::dead_man::tests::{test} {wrap}", exe.display());
    let mut command = Command::new("sh");
    command.args(["-c", &line]).env(ROLE, test).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let next = move || lines.by_ref().map(Result::unwrap).find(|line| line.contains("said: ")).unwrap_or_default();
    (child, next)
}

fn is_inside(test: &str) -> bool {
    std::env::var_os(ROLE).is_some_and(|role| role == test)
}

fn say(text: &str) {
    std::io::Write::write_all(&mut std::io::stdout(), format!("\nsaid: {text}\n").as_bytes()).unwrap();
}

/// Computes for so long by the CPU clock of this process.
fn compute(time: Duration) {
    let begin = clock::own_cpu();
    while clock::own_cpu() - begin < time {}
}

#[test]
fn a_process_whose_guard_is_silent_parks_and_goes_on_with_the_beat() {
    const NAME: &str = "a_process_whose_guard_is_silent_parks_and_goes_on_with_the_beat";
    if !is_inside(NAME) {
        let (mut child, mut next) = computing(NAME, "");
        let lines = [next(), next(), next()];
        assert!(child.wait().unwrap().success(), "{lines:?}");
        return;
    }
    let beat = std::sync::Arc::new(Beat::new().unwrap());
    beat.give(clock::now());
    let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
    arm(beat.fd(), Duration::from_secs(3600), parent).unwrap();
    assert!(arm(beat.fd(), LIMIT, parent).is_err(), "once is for good");
    compute(EVERY * 4);
    assert_eq!(parked(), Parked::default(), "a fresh beat lets it compute");
    say("computed");

    // An hour and more ago: stale from now on, until the other thread beats again.
    beat.page.u32(BEAT).store(millis(clock::now()).wrapping_sub(4_000_000), Release);
    let silence = Duration::from_millis(400);
    // A guard that met the signal would park itself and never beat. It meets it when the 50 ms are full while it looks,
    // which an emulator, where a look costs much, lets happen in one of ten runs.
    signal::block_profile_signal().unwrap();
    let guard = std::thread::spawn({
        let beat = std::sync::Arc::clone(&beat);
        move || {
            while parked().times == 0 {
                std::thread::sleep(NAP);
            }
            std::thread::sleep(silence);
            beat.give(clock::now());
        }
    });
    signal::unblock_all().unwrap();
    let (before, begin) = (clock::own_cpu(), clock::now());
    while parked().times == 0 {
        assert!(clock::now().since(begin) < PATIENCE, "it never parked");
    }
    guard.join().unwrap();
    let (used, passed) = (clock::own_cpu() - before, clock::now().since(begin));
    say("parked");
    assert!(passed >= silence && used < silence, "{used:?} of CPU in {passed:?}");
    assert_eq!(parked().times, 1);
    assert!(parked().time >= NAP && parked().time <= passed, "{:?}", parked());
    compute(EVERY * 4);
    assert_eq!(parked().times, 1, "it goes on");
    say("went on");
}

#[test]
fn a_parked_process_whose_parent_is_gone_ends() {
    const NAME: &str = "a_parked_process_whose_parent_is_gone_ends";
    if !is_inside(NAME) {
        // The shell is the parent, and does not ask the kernel to take the child along.
        let (mut shell, mut next) = computing(NAME, "& wait");
        let line = next();
        let pid = line.rsplit(' ').next().unwrap().to_owned();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(')')?.1.trim_start().chars().next()
        };
        assert!(matches!(state(), Some('R' | 'S')), "{line}: {:?}", state());
        shell.kill().unwrap();
        shell.wait().unwrap();
        let end = clock::now().after(PATIENCE);
        while !matches!(state(), None | Some('Z' | 'X')) {
            assert!(clock::now() < end, "an orphan lives on");
            std::thread::sleep(NAP);
        }
        return;
    }
    let beat = Beat::new().unwrap();
    let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
    arm(beat.fd(), LIMIT, parent).unwrap();
    say(&std::process::id().to_string());
    compute(PATIENCE);
}
