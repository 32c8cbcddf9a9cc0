//! Does a failure that the RAN logs stop inference at once, and does the following survive what is done to logs?

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::batch::{in_a_trough, submit};
use common::node::{Setup, state};
use common::wait_for;
use neap::load::fusion::{FusedLoad, Fusion, Trust};
use neap::load::log::{BYTES_PER_SECOND_MAX, Follow, PATTERN_DEFAULT, Search, Settings};
use neap::load::{Kind, Observed, Reading, Source, SourceSettings, open};
use neap::sys::clock;
use neap::units::{CellId, Instant, SourceId};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde_json::json;

/// For a writer that does not wait for a reader.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
/// As srsRAN writes it.
const FAILURE: &str =
    "2024-01-08T10:29:38.478536 [FAPI    ] [W] [   281.8] Real-time failure in FAPI: Received late UL_TTI.request\n";
const CALM: &str = "2024-01-08T10:29:38.478536 [SCHED   ] [I] [   281.8] Slot decisions pci=1 t=5us\n";

fn source(path: &Path) -> Box<dyn Source> {
    let kind = Kind::Log(Settings { path: path.to_owned(), pattern: PATTERN_DEFAULT.to_owned() });
    let freshness = Duration::from_secs(1);
    let settings = SourceSettings { name: "log".to_owned(), freshness, required: false, kind, record: None };
    open(&settings, SourceId(0), clock::now(), Arc::new(|_| 0)).unwrap()
}

/// Counts heard so far.
#[derive(Default)]
struct Heard(Vec<u64>);

impl Heard {
    fn listen(&mut self, source: &mut dyn Source) {
        source.read(clock::now(), &mut |observation| {
            let Ok(Reading { cell: CellId(0), stamped: Some(_), observed: Observed::Late { count }, .. }) = observation
            else {
                panic!("{observation:?}")
            };
            self.0.push(count);
        });
    }

    fn until(&mut self, source: &mut dyn Source, count: u64) {
        wait_for(&format!("failure {count}"), String::new, || {
            self.listen(source);
            (self.0.last() == Some(&count)).then_some(())
        });
    }
}

fn append(path: &Path, text: impl AsRef<[u8]>) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_ref()).unwrap();
}

fn make_pipe(path: &Path, mode: &str) {
    assert!(Command::new("mkfifo").args(["-m", mode]).arg(path).status().unwrap().success());
}

#[test]
fn only_failures_after_the_start_count_and_each_line_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gnb.log");
    append(&path, FAILURE.repeat(3));
    let (mut source, mut heard) = (source(&path), Heard::default());
    heard.until(&mut *source, 0);
    append(&path, CALM);
    append(&path, FAILURE);
    heard.until(&mut *source, 1);
    // In pieces, in garbage, and twice in one line that never ends.
    append(&path, b"\xff\0\x1b[2J Real-time fai");
    std::thread::sleep(Duration::from_millis(50));
    append(&path, "lure");
    heard.until(&mut *source, 2);
    append(&path, format!("{} Real-time failure", "x".repeat(300_000)));
    append(&path, format!("\n{FAILURE}"));
    heard.until(&mut *source, 3);
    assert_eq!(heard.0[0], 0, "the base comes first");
}

#[test]
fn a_log_that_is_rotated_cut_away_or_late_is_followed_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gnb.log");
    let (mut source, mut heard) = (source(&path), Heard::default());
    heard.until(&mut *source, 0);
    // It comes: all of it is new.
    append(&path, FAILURE);
    heard.until(&mut *source, 1);
    // Renamed; the RAN still writes to the old one, and then makes a new one.
    let mut old = OpenOptions::new().append(true).open(&path).unwrap();
    fs::rename(&path, folder.path().join("gnb.log.1")).unwrap();
    old.write_all(FAILURE.as_bytes()).unwrap();
    heard.until(&mut *source, 2);
    append(&path, FAILURE);
    heard.until(&mut *source, 3);
    // Cut in its place (copytruncate).
    append(&path, CALM.repeat(100));
    File::create(&path).unwrap();
    wait_for("the cut", String::new, || {
        heard.listen(&mut *source);
        (fs::metadata(&path).unwrap().len() == 0).then_some(())
    });
    std::thread::sleep(Duration::from_millis(1500));
    append(&path, FAILURE);
    heard.until(&mut *source, 4);
    // Replaced by a link to another file, of which nothing but the path tells.
    let other = folder.path().join("other.log");
    append(&other, CALM);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&other, &path).unwrap();
    append(&other, FAILURE);
    heard.until(&mut *source, 5);
}

#[test]
fn a_pipe_may_lose_its_writers_and_costs_nothing_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gnb.pipe");
    make_pipe(&path, "0600");
    let (mut source, mut heard) = (source(&path), Heard::default());
    writers_come_and_go(&path, &mut *source, &mut heard);
}

#[test]
fn a_pipe_that_may_only_be_read_is_opened_anew_before_the_old_end_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gnb.pipe");
    make_pipe(&path, "0400");
    // Neither root nor the owner may write to it without this capability; the thread that follows inherits the lack.
    let path_there = path.clone();
    let unprivileged = std::thread::spawn(move || {
        let mut held = capabilities(None).unwrap();
        held.effective.remove(CapabilitySet::DAC_OVERRIDE);
        set_capabilities(None, held).unwrap();
        assert!(OpenOptions::new().read(true).write(true).open(&path_there).is_err(), "it can be written to");
        source(&path_there)
    });
    let mut source = unprivileged.join().unwrap();
    let mut heard = Heard::default();
    if OpenOptions::new().write(true).custom_flags(NONBLOCK).open(&path).is_err_and(|e| e.raw_os_error() == Some(13)) {
        eprintln!("\n!!! SKIPPED: only root can write to a pipe that the source cannot write to !!!\n");
        return;
    }
    heard.until(&mut *source, 0);
    writers_come_and_go(&path, &mut *source, &mut heard);
}

/// A writer that does not wait finds a reader at any moment, and without one no loop spins on the end of the pipe.
fn writers_come_and_go(path: &Path, source: &mut dyn Source, heard: &mut Heard) {
    heard.until(source, 0);
    for count in 1..=50 {
        let mut writer = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(path).unwrap();
        writer.write_all(format!("{CALM}{FAILURE}").as_bytes()).unwrap();
        drop(writer);
        heard.until(source, count);
    }
    let before = follower_cpu();
    std::thread::sleep(Duration::from_secs(1));
    let used = follower_cpu() - before;
    // The other tests of this file follow logs as well, but none of them for long.
    assert!(used < Duration::from_millis(700), "{used:?} of CPU time in a second without a writer");
}

/// CPU time of the threads here that follow logs.
fn follower_cpu() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
    let follows =
        tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == "neap-log"));
    let spent = follows.filter_map(|task| fs::read_to_string(task.join("schedstat")).ok());
    Duration::from_nanos(spent.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum())
}

#[test]
fn a_line_wakes_the_follower_and_does_not_wait_for_its_next_look() {
    let folder = tempfile::tempdir().unwrap();
    let (file, pipe) = (folder.path().join("gnb.log"), folder.path().join("gnb.pipe"));
    append(&file, CALM);
    make_pipe(&pipe, "0600");
    for path in [file, pipe] {
        let mut source = source(&path);
        Heard::default().until(&mut *source, 0);
        let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
        let mut waits: Vec<Duration> = Vec::new();
        for _ in 0..101 {
            let mut read = None;
            let written = clock::now();
            writer.write_all(FAILURE.as_bytes()).unwrap();
            wait_for("the failure", String::new, || {
                source.read(clock::now(), &mut |observation| read = observation.unwrap().stamped);
                read
            });
            waits.push(read.unwrap().since(written));
        }
        waits.sort_unstable();
        let (median, p99) = (waits[50], waits[99]);
        eprintln!("written → read, {}: p50 {median:?}, p99 {p99:?}", path.display());
        // A look at the path comes once a second; a busy machine is far below half of that most of the time.
        assert!(median < Duration::from_millis(500), "{median:?}");
    }
}

#[test]
fn what_is_no_log_gives_nothing_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [folder.path(), &socket, Path::new("/dev/zero"), Path::new("/nowhere/at/all.log")] {
        let (mut source, mut heard) = (source(path), Heard::default());
        heard.until(&mut *source, 0);
        std::thread::sleep(Duration::from_millis(150));
        heard.listen(&mut *source);
        assert_eq!(heard.0, [0], "{}", path.display());
    }
}

#[test]
fn a_log_alone_never_lets_anything_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gnb.log");
    append(&path, CALM);
    let mut source = source(&path);
    let mut fusion = Fusion::new(&[Trust { freshness: Duration::from_secs(1), required: false, planning: false }]);
    let mut heard = 0;
    wait_for("readings", String::new, || {
        append(&path, FAILURE);
        source.read(clock::now(), &mut |observation| {
            heard += 1;
            fusion.on_observation(clock::now(), observation);
        });
        let load = fusion.current(clock::now()).load;
        assert!(matches!(load, FusedLoad::Unheard | FusedLoad::Late(_)), "{load:?}");
        (heard > 3).then_some(())
    });
}

#[test]
fn a_flood_is_not_searched_to_its_end_but_means_busy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gnb.log");
    append(&path, CALM);
    let mut counts = Vec::new();
    let mut follow = Follow::new(&path, Search::new(PATTERN_DEFAULT.as_bytes()));
    let look = |follow: &mut Follow, counts: &mut Vec<u64>| {
        // A flood comes in steps; each ends soon, so that the thread can be ended.
        while !follow.look(&mut |_: Instant, count| counts.push(count)) {}
    };
    look(&mut follow, &mut counts);
    let lines = CALM.repeat(usize::try_from(BYTES_PER_SECOND_MAX).unwrap() / CALM.len() / 2);
    for _ in 0..5 {
        append(&path, &lines);
    }
    let began = clock::now();
    look(&mut follow, &mut counts);
    let took = clock::now().since(began);
    // A second is a new limit, should the machine be so slow.
    assert!(counts.len() >= 2 && counts.len() as u64 <= 2 + took.as_secs(), "{counts:?} in {took:?}");
    // After the flood it is searched as before.
    std::thread::sleep(Duration::from_millis(1100));
    let before = *counts.last().unwrap();
    append(&path, FAILURE);
    look(&mut follow, &mut counts);
    assert_eq!(counts.last(), Some(&(before + 1)));
}

#[test]
fn a_failure_in_the_log_stops_a_job_at_once_however_low_the_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gnb.log");
    append(&path, FAILURE);
    let log = format!("name = \"gnb\"\nkind = \"log\"\npath = \"{}\"", path.display());
    // A settle time that is long enough to be watched: the load itself stays low.
    let setup = Setup::new().with("governor", "settle_s", 4).with("governor", "settle_max_s", 8);
    let (node, controller) = in_a_trough(&setup.with_another_source(&log));
    for id in ["batch", "second", "third"] {
        submit(&controller, id, &json!({}));
    }
    controller.wait_for_state("batch", "IN_PROGRESS");
    let written = clock::now();
    append(&path, FAILURE);
    let late = || controller.events("yield").into_iter().find(|event| event["cause"]["reason"] == "late");
    let event = wait_for("a yield for the failure", || node.log(), late);
    eprintln!("{:?} after the line was written we hear of the yield: {event}", clock::now().since(written));
    assert_eq!(event["cause"]["source"], "gnb", "{event}");
    let stopped = || !node.workers().is_empty() && node.workers().iter().all(|pid| state(*pid) == Some('T'));
    wait_for("stopped workers", || node.log(), || stopped().then_some(()));
    // Its loss is told, and the load of the other source still counts.
    fs::remove_file(&path).unwrap();
    wait_for("the word of the loss", || node.log(), || node.log().contains("the RAN's log is gone").then_some(()));
    let runs = || node.workers().iter().any(|pid| state(*pid) != Some('T'));
    wait_for("workers that run", || node.log(), || runs().then_some(()));
}

#[test]
fn a_log_that_is_required_is_refused_with_the_reason() {
    let kind = Kind::Log(Settings { path: "/var/log/gnb.log".into(), pattern: PATTERN_DEFAULT.to_owned() });
    let freshness = Duration::from_secs(1);
    let settings = SourceSettings { name: "log".to_owned(), freshness, required: true, kind, record: None };
    let refused = settings.check().unwrap_err().to_string();
    assert!(refused.contains("required true is not allowed") && refused.contains("gives no level"), "{refused}");
}
