//! How much CPU time did some threads use? `schedstat` of each, which the kernel counts in nanoseconds.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{advance, numbers, sched_stat};
use super::rate::Rate;
use crate::load::{OwnWorkers, Problem};
use crate::units::{Instant, Utilization, WORKERS_MAX};

/// Most threads watched; each keeps a file open.
pub(super) const THREADS_MAX: usize = 512;
/// Most threads of the host whose names are looked at in a search.
const NAMES_MAX: usize = 16 * 1024;
/// Most processes named by id.
const PIDS_MAX: usize = 64;
/// Longest pattern, in characters; names of threads have at most 15.
const PATTERN_CHARS_MAX: usize = 64;
/// Time between two searches for new threads; a search walks through all of `/proc`.
pub(super) const SEARCH_PERIOD: Duration = Duration::from_secs(2);
/// Position of the start time in `/proc/PID/stat`, counted from the field after the name.
const START_TIME_FIELD: usize = 19;

const NONE_FOUND: &str = "no such thread";

/// Which threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// All threads of these processes, as long as they live: the ids of processes that ended may become those of others.
    Pids(Vec<i32>),
    /// All threads of processes with such a name, and single threads with such a name. `*` stands for any characters,
    /// `?` for one; names have at most 15 characters.
    Name(String),
}

impl Select {
    pub(super) fn check(&self) -> Result<(), Problem> {
        match self {
            Self::Pids(pids) if pids.is_empty() || pids.len() > PIDS_MAX || pids.iter().any(|pid| *pid <= 0) => {
                Err(Problem::setting("pids", format_args!("{pids:?}"), "1 to 64 process ids"))
            }
            Self::Name(name) if name.is_empty() || name.chars().count() > PATTERN_CHARS_MAX => {
                Err(Problem::setting("process", format_args!("{name:?}"), "a name of 1 to 64 characters, such as gnb*"))
            }
            Self::Pids(_) | Self::Name(_) => Ok(()),
        }
    }
}

pub(super) struct Threads {
    folder: PathBuf,
    select: Select,
    own_workers: OwnWorkers,
    watched: Vec<Watched>,
    /// When each process that was named by id was started.
    started: Vec<(i32, u64)>,
    /// Whether each thread's own share is of interest.
    hottest: bool,
    search_at: Instant,
    totals: Totals,
}

/// What the threads used and waited since the start, as far as they were watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Time on a core, in nanoseconds.
    pub(super) busy_ns: i128,
    /// Time that they waited for a core, in nanoseconds; `None` where the kernel does not tell it.
    pub(super) delay_ns: Option<u64>,
}

#[derive(Debug)]
struct Watched {
    id: ThreadId,
    schedstat: File,
    last_run: Option<u64>,
    last_delay: Option<u64>,
    total_ns: i128,
    rate: Option<Rate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ThreadId {
    pid: i32,
    tid: i32,
}

impl Threads {
    pub(super) fn new(root: &Path, select: Select, hottest: bool, own_workers: OwnWorkers) -> Self {
        let (folder, watched, started) = (root.join("proc"), Vec::new(), Vec::new());
        let totals = Totals { busy_ns: 0, delay_ns: Some(0) };
        Self { folder, select, own_workers, watched, started, hottest, search_at: Instant::default(), totals }
    }

    /// Looks for new threads when it is time to.
    pub(super) fn search(&mut self, now: Instant) -> Result<(), &'static str> {
        if now >= self.search_at {
            self.search_at = now.after(SEARCH_PERIOD);
            self.refresh()?;
        }
        if self.watched.is_empty() { Err(NONE_FOUND) } else { Ok(()) }
    }

    /// Reads every thread's counters.
    pub(super) fn count(&mut self) -> Result<Totals, &'static str> {
        let mut any_ran = false;
        for thread in &mut self.watched {
            let counted = thread.count().inspect(|counted| any_ran |= counted.has_run);
            match counted {
                Ok(counted) => {
                    self.totals.busy_ns += i128::from(counted.run_ns);
                    let both = self.totals.delay_ns.zip(counted.delay_ns);
                    self.totals.delay_ns = both.map(|(total, delay)| total.saturating_add(delay));
                }
                Err(why) => {
                    // What it ran since the last look is not known, and its successor has to be found.
                    self.search_at = Instant::default();
                    return Err(why);
                }
            }
        }
        // A kernel without scheduler statistics writes zeros for every thread.
        if any_ran { Ok(self.totals) } else { Err("threads that have no run time in schedstat") }
    }

    /// The highest share that one thread used of one core up to `at`, by the last count; `None` unless it is wanted.
    pub(super) fn hottest(&mut self, at: Instant) -> Option<Utilization> {
        self.watched.iter_mut().filter_map(|thread| thread.rate.as_mut()?.level(at, thread.total_ns)).max()
    }

    fn refresh(&mut self) -> Result<(), &'static str> {
        let found = match &self.select {
            Select::Pids(pids) => search_by_pid(&self.folder, pids, &mut self.started)?,
            Select::Name(pattern) => self.search_by_name(pattern)?,
        };
        let watched_before = self.watched.len();
        self.watched.retain(|thread| found.contains(&thread.id));
        if self.watched.len() < watched_before {
            self.search_at = Instant::default();
            return Err("a thread that ended");
        }
        if found.is_empty() {
            return Err(NONE_FOUND);
        }
        if found.len() > THREADS_MAX {
            return Err("more than 512 threads: give the RAN a cgroup");
        }
        let known: HashSet<ThreadId> = self.watched.iter().map(|thread| thread.id).collect();
        for id in found.difference(&known) {
            let path = self.folder.join(format!("{}/task/{}/schedstat", id.pid, id.tid));
            let schedstat = File::open(path).map_err(|_| "a thread whose schedstat cannot be opened")?;
            let rate = self.hottest.then(|| Rate::new(1));
            self.watched.push(Watched { id: *id, schedstat, last_run: None, last_delay: None, total_ns: 0, rate });
        }
        Ok(())
    }

    fn search_by_name(&self, pattern: &str) -> Result<HashSet<ThreadId>, &'static str> {
        let mut own = [0; WORKERS_MAX];
        let own_count = (self.own_workers)(&mut own).min(WORKERS_MAX);
        let mut found = HashSet::new();
        let mut looked_at = 0;
        for pid in numbers(&self.folder).filter(|pid| !own[..own_count].contains(pid)) {
            let process = self.folder.join(pid.to_string());
            let whole = has_name(&process, pattern);
            for tid in numbers(&process.join("task")) {
                looked_at += 1;
                if looked_at > NAMES_MAX {
                    return Err(
                        "more than 16384 threads on this host: give the RAN a cgroup, or name its processes by id",
                    );
                }
                if whole || has_name(&process.join(format!("task/{tid}")), pattern) {
                    found.insert(ThreadId { pid, tid });
                }
                if found.len() > THREADS_MAX {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }
}

/// What a thread did since it was last counted.
#[derive(Clone, Copy, Debug)]
struct Counted {
    run_ns: u64,
    delay_ns: Option<u64>,
    has_run: bool,
}

impl Watched {
    fn count(&mut self) -> Result<Counted, &'static str> {
        let stat = sched_stat(&self.schedstat)?;
        let run_ns = advance(&mut self.last_run, stat.run_ns)?;
        let delay_ns = stat.delay_ns.map(|delay_ns| advance(&mut self.last_delay, delay_ns)).transpose()?;
        self.total_ns += i128::from(run_ns);
        Ok(Counted { run_ns, delay_ns, has_run: stat.run_ns > 0 })
    }
}

/// Threads of those processes. `started` keeps when each was started: an id outlives its process.
fn search_by_pid(
    folder: &Path,
    pids: &[i32],
    started: &mut Vec<(i32, u64)>,
) -> Result<HashSet<ThreadId>, &'static str> {
    let mut found = HashSet::new();
    for pid in pids {
        let process = folder.join(pid.to_string());
        let before = found.len();
        found.extend(numbers(&process.join("task")).map(|tid| ThreadId { pid: *pid, tid }).take(THREADS_MAX + 1));
        if found.len() == before {
            return Err("a process that is not there");
        }
        let Some(time) = start_time(&process) else { continue };
        match started.iter().find(|(known, _)| known == pid) {
            Some((_, before)) if *before != time => return Err("a process id that another process has now"),
            Some(_) => {}
            None => started.push((*pid, time)),
        }
    }
    Ok(found)
}

/// When a process was started, in ticks since the machine was; `None` when it cannot be told.
fn start_time(process: &Path) -> Option<u64> {
    let stat = fs::read(process.join("stat")).ok()?;
    // The name is in parentheses and may have any character.
    let after_name = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&stat[after_name + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(START_TIME_FIELD)?.parse().ok()
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("select", &self.select).field("watched", &self.watched).finish_non_exhaustive()
    }
}

fn has_name(folder: &Path, pattern: &str) -> bool {
    fs::read(folder.join("comm")).is_ok_and(|name| matches(pattern.as_bytes(), name.trim_ascii_end()))
}

/// Whether the whole text fits the pattern. Goes back to the last `*` only, so the effort is bounded by the product of
/// the lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            Some(_) | None => {
                let Some((star_p, star_t)) = star else { return false };
                star = Some((star_p, star_t + 1));
                (p, t) = (star_p + 1, star_t + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters_and_a_question_mark_for_one() {
        for (pattern, text) in
            [("gnb", "gnb"), ("gnb*", "gnb"), ("*_dl#?", "upper_phy_dl#0"), ("*", ""), ("a*b*c", "axbxbc")]
        {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} should fit {text}");
        }
        for (pattern, text) in [("gnb", "gnb1"), ("gnb?", "gnb"), ("", "x"), ("*_dl", "dl"), ("a*b*c", "axbxb")] {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} should not fit {text}");
        }
    }
}
