//! What does the kernel say of a process? Its memory by kind, and how often its threads slept.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::out::clean;

/// Longest name of a thread that is shown; the kernel's own limit is 15.
const NAME_CHARS_MAX: usize = 15;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// All that is in RAM.
    pub(super) rss: u64,
    /// Most that ever was.
    pub(super) rss_max: u64,
    /// Of no file: heap, stacks, tables, and relocated constants.
    pub(super) anonymous: u64,
    /// Of files: program and libraries, from the page cache.
    pub(super) file: u64,
    /// Of shared memory.
    pub(super) shared_memory: u64,
    /// With shared pages divided among those who share them; `None` when the kernel does not tell us.
    pub(super) pss: Option<u64>,
    /// Threads.
    pub(super) threads: u64,
}

impl Memory {
    /// Of a process; `None` when it has gone.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // Of a process of another user only the sums of the other file are told.
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        Self::parse(&status, &rollup)
    }

    fn parse(status: &str, rollup: &str) -> Option<Self> {
        let bytes = |name| Some(field(status, name)? * 1024);
        let exact = |name| field(rollup, name).map(|kibibytes| kibibytes * 1024);
        // The sums of `status` lag: threads or cores keep up to some hundred pages each to themselves. The other file walks
        // the tables, but does not tell shared memory apart from files.
        let (rss, anonymous) = match (exact("Rss:"), exact("Anonymous:")) {
            (Some(rss), Some(anonymous)) => (rss, anonymous),
            _ => (bytes("VmRSS:")?, bytes("RssAnon:")?),
        };
        let not_its_own = rss.saturating_sub(anonymous);
        let shared_memory = bytes("RssShmem:")?.min(not_its_own);
        Some(Self {
            rss,
            rss_max: bytes("VmHWM:")?.max(rss),
            anonymous,
            file: not_its_own - shared_memory,
            shared_memory,
            pss: exact("Pss:"),
            threads: field(status, "Threads:")?,
        })
    }

    /// For `--json`.
    pub(super) fn json(&self) -> Value {
        json!({
            "rss_bytes": self.rss,
            "rss_bytes_max": self.rss_max,
            "pss_bytes": self.pss,
            "anonymous_bytes": self.anonymous,
            "file_bytes": self.file,
            "shared_memory_bytes": self.shared_memory,
            "threads": self.threads,
        })
    }
}

/// The number after a name at the begin of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// How often each thread of a process went to sleep, by thread id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wakes(BTreeMap<u32, (String, u64)>);

impl Wakes {
    /// Since the threads' start; `None` when the process has gone.
    pub(super) fn read(pid: u32) -> Option<Self> {
        Self::below(Path::new("/proc"), pid)
    }

    fn below(proc: &Path, pid: u32) -> Option<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(proc.join(pid.to_string()).join("task")).ok()?.flatten() {
            let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may end meanwhile.
            let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
            let name = status.lines().find_map(|line| line.strip_prefix("Name:")).unwrap_or_default().trim();
            let count = field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            threads.insert(tid, (clean(name, NAME_CHARS_MAX), count));
        }
        Some(Self(threads))
    }

    /// Between an earlier look and this one.
    pub(super) fn since(&self, before: &Self) -> Self {
        let earlier = |tid: &u32| before.0.get(tid).map_or(0, |(_, count)| *count);
        let thread =
            |(tid, (name, count)): (&u32, &(String, u64))| (*tid, (name.clone(), count.saturating_sub(earlier(tid))));
        Self(self.0.iter().map(thread).collect())
    }

    /// Of all threads.
    pub(super) fn total(&self) -> u64 {
        self.0.values().map(|(_, count)| count).sum()
    }

    /// Name and count of each thread, the busiest first.
    pub(super) fn threads(&self) -> Vec<(&str, u64)> {
        let mut threads: Vec<_> = self.0.values().map(|(name, count)| (name.as_str(), *count)).collect();
        threads.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        threads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tneap\nVmHWM:\t   17584 kB\nVmRSS:\t   14276 kB\nRssAnon:\t    2744 kB\nRssFile:\t   11528 kB\n\
                          RssShmem:\t       4 kB\nThreads:\t4\nvoluntary_ctxt_switches:\t66\n\
                          nonvoluntary_ctxt_switches:\t7\n";

    #[test]
    fn memory_is_told_by_kind_and_the_kinds_add_up() {
        let rollup = "556f-7ffd ---p 0 00:00 0 [rollup]\nRss:   14276 kB\nPss:   12930 kB\nPss_Anon:  2744 kB\n";
        let memory = Memory::parse(STATUS, rollup).unwrap();
        assert_eq!((memory.rss, memory.pss, memory.threads), (14_276 * 1024, Some(12_930 * 1024), 4));
        assert_eq!(memory.rss, memory.anonymous + memory.file + memory.shared_memory);
        assert_eq!(Memory::parse(STATUS, "").unwrap().pss, None);
        // What lags is put right by what does not.
        let rollup = "Rss:    9000 kB\nPss:    8000 kB\nAnonymous:   2500 kB\n";
        let memory = Memory::parse(STATUS, rollup).unwrap();
        assert_eq!((memory.rss, memory.anonymous, memory.shared_memory), (9_000 * 1024, 2_500 * 1024, 4 * 1024));
        assert_eq!(memory.rss, memory.anonymous + memory.file + memory.shared_memory);
        // A process that has ended has a status without memory.
        assert_eq!(Memory::parse("Name:\tneap\nThreads:\t1\n", ""), None);
    }

    #[test]
    fn wakes_are_those_between_two_looks_of_each_thread() {
        let folder = tempfile::tempdir().unwrap();
        let thread = |tid: u32, name: &str, count: u64| {
            let path = folder.path().join("7/task").join(tid.to_string());
            fs::create_dir_all(&path).unwrap();
            let text = format!("Name:\t{name}\nvoluntary_ctxt_switches:\t{count}\nnonvoluntary_ctxt_switches:\t99\n");
            fs::write(path.join("status"), text).unwrap();
        };
        thread(7, "neap", 10);
        thread(8, "neap-sentinel", 5);
        let before = Wakes::below(folder.path(), 7).unwrap();
        thread(7, "neap", 12);
        thread(8, "neap-sentinel", 9);
        thread(9, "new", 1);
        let wakes = Wakes::below(folder.path(), 7).unwrap().since(&before);
        assert_eq!(wakes.total(), 7);
        assert_eq!(wakes.threads(), [("neap-sentinel", 4), ("neap", 2), ("new", 1)]);
        assert_eq!(Wakes::below(folder.path(), 8), None);
    }
}
