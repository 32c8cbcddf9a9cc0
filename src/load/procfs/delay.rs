//! For how long did the threads of a cgroup wait for a core? The run-queue delay of each, added up.
//!
//! Threads come and go: one that is new counts from the next look on, one that ended no longer. Nothing of this is an
//! error, for the cgroup's own CPU time says what the load is.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::files::{advance, sched_stat};
use super::group::{self, Finder, Group};

/// Adds up the delays of a cgroup's threads.
#[derive(Debug)]
pub(super) struct Delays {
    root: PathBuf,
    finder: Finder,
    /// Ascending.
    threads: Vec<Thread>,
    total_ns: u64,
}

#[derive(Debug)]
struct Thread {
    tid: i32,
    schedstat: File,
    last: Option<u64>,
}

impl Delays {
    pub(super) fn new(root: &Path, group: &Group) -> Self {
        Self { root: root.to_owned(), finder: Finder::new(root, group), threads: Vec::new(), total_ns: 0 }
    }

    /// Time waited since the start, in nanoseconds, as far as it was watched.
    pub(super) fn read_ns(&mut self) -> Result<u64, &'static str> {
        self.refresh()?;
        let mut any_ran = false;
        for thread in &mut self.threads {
            // One that ended since the list was made.
            let Ok(stat) = sched_stat(&thread.schedstat) else { continue };
            any_ran |= stat.run_ns > 0;
            let delay_ns = stat.delay_ns.ok_or("threads that have no run-queue delay in schedstat")?;
            self.total_ns = self.total_ns.saturating_add(advance(&mut thread.last, delay_ns)?);
        }
        // A kernel without scheduler statistics writes zeros for every thread.
        if any_ran { Ok(self.total_ns) } else { Err("threads that have no run time in schedstat") }
    }

    /// Opens what is new and forgets what ended.
    fn refresh(&mut self) -> Result<(), &'static str> {
        let folder = self.finder.folder()?;
        let tids = group::threads(&folder).inspect_err(|_| self.threads.clear())?;
        if tids.is_empty() {
            self.threads.clear();
            return Err("a cgroup without threads");
        }
        self.threads.retain(|thread| tids.binary_search(&thread.tid).is_ok() && sched_stat(&thread.schedstat).is_ok());
        for tid in tids {
            let Err(place) = self.threads.binary_search_by_key(&tid, |thread| thread.tid) else { continue };
            // Threads that are not the first of their process have a folder as well, which no list shows.
            if let Ok(schedstat) = File::open(self.root.join(format!("proc/{tid}/schedstat"))) {
                self.threads.insert(place, Thread { tid, schedstat, last: None });
            }
        }
        Ok(())
    }
}
