//! How busy the radio is: datagrams, recordings, counters of the kernel, the page in shared memory.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use neap::load::procfs::{self, Group, Pressure, Procfs, Select, What};
use neap::load::push::{self, Line};
use neap::load::recording::{Form, Reader, Writer};
use neap::load::shm::Shm;
use neap::load::trace::Trace;
use neap::load::{Observation, Observed, OwnWorkers, Reading, Source as _};
use neap::sys::alloc;
use neap::units::{Health, Instant, SourceId, Utilization};

use super::{bounded, is_plain};

const SOURCE: SourceId = SourceId(3);
/// Longest sentence about a recording, its path included.
const SENTENCE_BYTES_MAX: usize = 1024;
/// Memory for each byte of a recording: a line of twenty bytes is a reading of eighty, twice while it is checked.
const HELD_PER_BYTE: u64 = 16;
/// Looks at a recording that is played.
const LOOKS: u64 = 50;
/// What stands between the contents that the counter files have one after the other.
const BETWEEN: &[u8] = b"\n--\n";

/// The datagrams of the push format, line by line.
pub fn load_push(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        let before = alloc::used();
        alloc::reset_peak();
        let parsed = push::parse(line);
        assert_eq!(alloc::peak(), before, "the sentinel's thread must not allocate");
        match parsed {
            Ok(parsed) => {
                is_what_json_says(&parsed, line);
                assert!(parsed.readings(SOURCE).next().is_some(), "a line that was read says something");
                parsed.readings(SOURCE).for_each(|reading| is_sane(&Ok(reading)));
                let Line { cell, dl, ul, cpu, late, stamped, gone, health } = parsed;
                let again = push::encode(cell, dl, ul, late, stamped, gone);
                let expected = Line { cell, dl, ul, late, stamped, gone, ..Line::default() };
                let says_something = dl.is_some() || ul.is_some() || late.is_some() || gone;
                assert!(!says_something || push::parse(again.trim_end().as_bytes()) == Ok(expected), "{again}");
                assert!(says_something || cpu.is_some() || health.iter().any(Option::is_some));
            }
            Err(why) => is_plain(why, SENTENCE_BYTES_MAX),
        }
    }
}

/// A general JSON reader finds the same figures, or a level would be overlooked.
fn is_what_json_says(line: &Line, text: &[u8]) {
    let value: serde_json::Value = match serde_json::from_slice(text) {
        Ok(value) => value,
        // Numbers beyond its own range, in members that nobody asked for.
        Err(error) if error.to_string().starts_with("number out of range") => return,
        Err(error) => panic!("{error}: {}", String::from_utf8_lossy(text)),
    };
    let members = value.as_object().expect("a line is an object");
    for (key, found) in [("RRU.PrbTotDl", line.dl), ("RRU.PrbTotUl", line.ul), ("cpu", line.cpu)] {
        let expected = members.get(key).map(|value| value.as_f64().expect("a known key holds a number"));
        assert_eq!(found.map(f64::from), expected, "{key} in {value}");
    }
    assert_eq!(line.gone, members.get("gone").is_some_and(|gone| gone == &serde_json::Value::Bool(true)));
    assert_eq!(line.late.is_some(), members.contains_key("late"));
}

fn is_sane(observation: &Observation) {
    match observation {
        Ok(reading) => {
            assert_eq!(reading.source, SOURCE);
            match reading.observed {
                Observed::Level { level, .. } => assert!(level <= Utilization::FULL),
                Observed::Late { .. } | Observed::Health { .. } | Observed::Gone => {}
            }
        }
        Err(malformed) => {
            assert_eq!(malformed.source, SOURCE);
            is_plain(malformed.why, SENTENCE_BYTES_MAX);
        }
    }
}

/// A recording, played fast and over and over.
pub fn load_trace(bytes: &[u8]) {
    let folder = Folder::new();
    let file = folder.write("trace", bytes);
    let began = Instant::from_nanos(1_000);
    match bounded(bytes.len(), HELD_PER_BYTE, || Trace::open(SOURCE, &file, 10.0, true, began)) {
        Ok(mut trace) => {
            let mut last = began;
            for look in 0..LOOKS {
                let now = began.after(Duration::from_millis(look * look * 97));
                trace.read(now, &mut |observation| {
                    is_sane(&observation);
                    let stamped = observation.ok().and_then(|reading| reading.stamped).expect("a replay is stamped");
                    assert!((last..=now).contains(&stamped), "{stamped:?} is not between {last:?} and {now:?}");
                    last = stamped;
                });
            }
            assert!(trace.next_poll().is_some(), "what repeats has no end");
        }
        Err(problem) => is_plain(&problem.to_string(), SENTENCE_BYTES_MAX),
    }
    streamed(bytes);
}

/// The same recording, read line by line and written in both forms, which must read again as what was written.
fn streamed(bytes: &[u8]) {
    let entries: Vec<_> = Reader::new(bytes, Path::new("trace")).collect();
    for problem in entries.iter().filter_map(|entry| entry.as_ref().err()) {
        is_plain(&problem.to_string(), SENTENCE_BYTES_MAX);
    }
    for form in [Form::Csv, Form::Ndjson] {
        let mut text = Vec::new();
        let mut writer = Writer::new(&mut text, form, u64::MAX).expect("memory takes it");
        for entry in entries.iter().flatten() {
            entry.readings(SOURCE).for_each(|reading| is_sane(&Ok(reading)));
            assert!(writer.entry(entry).expect("memory takes it"), "there is room");
        }
        let written = writer.written();
        let again = Reader::new(&text[..], Path::new("again")).filter(Result::is_ok).count() as u64;
        assert_eq!(again, written, "{}", String::from_utf8_lossy(&text));
    }
}

/// Contents of the kernel's counter files, one after the other: every file has the same.
pub fn load_procfs(bytes: &[u8]) {
    let folder = Folder::new();
    for path in ["proc/7/task/7", "proc/8/task/9", "proc/pressure", "v1", "v2", "sys/fs/cgroup/a.slice/gnb.service"] {
        fs::create_dir_all(folder.0.join(path)).expect("a folder can be made");
    }
    let files = [
        "proc/stat",
        "proc/7/schedstat",
        "proc/7/status",
        "proc/8/comm",
        "proc/8/task/9/comm",
        "proc/8/task/9/schedstat",
        "proc/8/schedstat",
        "proc/8/stat",
        "proc/pressure/cpu",
        "v1/cpuacct.usage",
        "v1/tasks",
        "v2/cpu.stat",
        "v2/cpu.pressure",
        "v2/cgroup.threads",
        "sys/fs/cgroup/a.slice/gnb.service/cpu.stat",
    ];
    let own: OwnWorkers = Arc::new(|pids| {
        pids[0] = 7;
        1
    });
    let now = Cell::new(Instant::from_nanos(5_000_000_000));
    let mut meters: Vec<Procfs> = Vec::new();
    for content in split(bytes, BETWEEN).take(4) {
        files.iter().for_each(|file| drop(folder.write(file, content)));
        if meters.is_empty() {
            let cgroup = |path: &str| What::Cgroup { group: Group::Folder(Path::new("/").join(path)), cores: 2 };
            let threads = |select| What::Threads { select, cores: 2, hottest: true };
            let whats = [
                What::Cores(vec![0, 1]),
                cgroup("v1"),
                cgroup("v2"),
                What::Cgroup { group: Group::Unit("gnb.service".to_owned()), cores: 2 },
                threads(Select::Pids(vec![8])),
                threads(Select::Name("gnb*".to_owned())),
            ];
            let open = |what: &What| {
                let pressure = if matches!(what, What::Cgroup { .. }) { Pressure::Own } else { Pressure::Host };
                let (root, what, period) = (folder.0.clone(), what.clone(), procfs::PERIOD_DEFAULT);
                Procfs::open(SOURCE, &procfs::Settings { root, what, pressure, period }, Arc::clone(&own))
            };
            meters = whats.iter().filter_map(|what| open(what).ok()).collect();
        }
        for meter in &mut meters {
            // A second: health is told no more often.
            now.set(now.get().after(Duration::from_secs(1)));
            meter.observe(&|| now.get(), &mut |observation| {
                is_sane(&observation);
                if let Ok(Reading { observed: Observed::Health { figure: Health::Pressure, value }, .. }) = observation
                {
                    assert!(value <= 1000, "a pressure of {value} permille");
                }
            });
        }
    }
}

/// What the page in shared memory holds, one content of 64 bytes after the other; what is shorter cuts the file.
pub fn load_shm(bytes: &[u8]) {
    let folder = Folder::new();
    let path = folder.0.join("page");
    let mut now = Instant::from_nanos(1_000);
    let open = || Shm::open(SOURCE, &path, 0o600, Duration::from_millis(300), now);
    let mut page = open().expect("an empty page can be made");
    for content in bytes.chunks(64) {
        // In place, as a writer of the RAN does.
        let file = fs::OpenOptions::new().write(true).open(&path).expect("the page is there");
        std::os::unix::fs::FileExt::write_all_at(&file, content, 0).expect("the page can be written");
        if content.len() < 64 {
            file.set_len(content.len() as u64).expect("the page can be cut");
        }
        for _ in 0..3 {
            now = now.after(Duration::from_millis(100));
            page.read(now, &mut |observation| {
                is_sane(&observation);
                if let Ok(reading) = observation {
                    says(content, reading.stamped);
                }
            });
        }
        match Shm::open(SOURCE, &path, 0o600, Duration::from_millis(300), now) {
            Ok(_) => assert!(has_marks(content), "a file that is no page was taken for one"),
            Err(problem) => is_plain(&problem.to_string(), SENTENCE_BYTES_MAX),
        }
    }
}

fn word(page: &[u8], word: usize) -> u32 {
    page.get(4 * word..4 * word + 4).map_or(0, |bytes| u32::from_ne_bytes(bytes.try_into().expect("four bytes")))
}

fn has_marks(page: &[u8]) -> bool {
    page.len() == 64 && word(page, 0) == u32::from_le_bytes(*b"NEAP") && word(page, 1) == 1
}

/// A reading is whole, in range and marked, and it has the stamp that stands in the page.
fn says(page: &[u8], stamped: Option<Instant>) {
    assert!(has_marks(page), "a page without its marks was read");
    assert!(word(page, 2).is_multiple_of(2), "a page in the middle of being written was read");
    assert!(word(page, 6) <= 1000 && word(page, 7) <= 1000 && word(page, 12) <= 1);
    assert_eq!(stamped, Some(Instant::from_nanos(u64::from(word(page, 11)) << 32 | u64::from(word(page, 10)))));
}

pub(super) fn split<'a>(bytes: &'a [u8], between: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest.take()?;
        let end = bytes.windows(between.len()).position(|window| window == between);
        rest = end.map(|end| &bytes[end + between.len()..]);
        Some(&bytes[..end.unwrap_or(bytes.len())])
    })
}

/// A folder in memory that is gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = base.join(format!("neap-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder can be made");
        Self(folder)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("a file can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // One that cannot be removed lies in memory until the next start of the machine.
        let _ = fs::remove_dir_all(&self.0);
    }
}
