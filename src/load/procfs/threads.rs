//! How much CPU time did some threads use? `schedstat` of each, which the kernel counts in nanoseconds.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{advance, run_time_ns};
use crate::load::{OwnWorkers, Problem};
use crate::units::{Instant, WORKERS_MAX};

/// Most threads watched; each keeps a file open.
const THREADS_MAX: usize = 512;
/// Most processes named by id.
const PIDS_MAX: usize = 64;
/// Longest pattern, in characters; names of threads have at most 15.
const PATTERN_CHARS_MAX: usize = 64;
/// Time between two searches for new threads; a search walks through all of `/proc`.
const SEARCH_PERIOD: Duration = Duration::from_secs(2);

const NONE_FOUND: &str = "no such thread";

/// Which threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// All threads of these processes.
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
                Err(Problem::setting("threads", format_args!("{name:?}"), "a name of 1 to 64 characters, such as gnb*"))
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
    search_at: Instant,
    total_ns: i128,
}

#[derive(Debug)]
struct Watched {
    id: ThreadId,
    schedstat: File,
    last: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ThreadId {
    pid: i32,
    tid: i32,
}

impl Threads {
    pub(super) fn new(root: &Path, select: Select, own_workers: OwnWorkers) -> Self {
        let (folder, watched) = (root.join("proc"), Vec::new());
        Self { folder, select, own_workers, watched, search_at: Instant::default(), total_ns: 0 }
    }

    /// CPU time of the threads since the start, as far as they were watched.
    pub(super) fn busy_ns(&mut self, now: Instant) -> Result<i128, &'static str> {
        if now >= self.search_at {
            self.search_at = now.after(SEARCH_PERIOD);
            self.search()?;
        }
        if self.watched.is_empty() {
            return Err(NONE_FOUND);
        }
        let mut any_ran = false;
        for thread in &mut self.watched {
            let counted = run_time_ns(&thread.schedstat).and_then(|ns| {
                any_ran |= ns > 0;
                advance(&mut thread.last, ns)
            });
            match counted {
                Ok(advanced_ns) => self.total_ns += i128::from(advanced_ns),
                Err(why) => {
                    // What it ran since the last look is not known, and its successor has to be found.
                    self.search_at = now;
                    return Err(why);
                }
            }
        }
        // A kernel without scheduler statistics writes zeros for every thread.
        if any_ran { Ok(self.total_ns) } else { Err("threads that have no run time in schedstat") }
    }

    fn search(&mut self) -> Result<(), &'static str> {
        let found = match &self.select {
            Select::Pids(pids) => self.search_by_pid(pids)?,
            Select::Name(pattern) => self.search_by_name(pattern),
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
            self.watched.push(Watched { id: *id, schedstat, last: None });
        }
        Ok(())
    }

    fn search_by_pid(&self, pids: &[i32]) -> Result<HashSet<ThreadId>, &'static str> {
        let mut found = HashSet::new();
        for pid in pids {
            let before = found.len();
            found.extend(numbers(&self.folder.join(format!("{pid}/task"))).map(|tid| ThreadId { pid: *pid, tid }));
            if found.len() == before {
                return Err("a process that is not there");
            }
        }
        Ok(found)
    }

    fn search_by_name(&self, pattern: &str) -> HashSet<ThreadId> {
        let mut own = [0; WORKERS_MAX];
        let own_count = (self.own_workers)(&mut own).min(WORKERS_MAX);
        let mut found = HashSet::new();
        for pid in numbers(&self.folder).filter(|pid| !own[..own_count].contains(pid)) {
            let process = self.folder.join(pid.to_string());
            let whole = has_name(&process, pattern);
            for tid in numbers(&process.join("task")) {
                if whole || has_name(&process.join(format!("task/{tid}")), pattern) {
                    found.insert(ThreadId { pid, tid });
                }
                if found.len() > THREADS_MAX {
                    return found;
                }
            }
        }
        found
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("select", &self.select).field("watched", &self.watched).finish_non_exhaustive()
    }
}

/// Entries of a folder whose names are numbers; none when it is not there.
fn numbers(folder: &Path) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
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
