//! How much CPU time did our own workers use on the cores that are watched?
//!
//! In doubt none: what is not subtracted counts as the RAN's. A worker counts only while all cores that it may run on
//! are watched ones, otherwise its time elsewhere would hide that much of the RAN's.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::files::{advance, sched_stat};
use crate::load::OwnWorkers;
use crate::units::WORKERS_MAX;

/// Looks between two checks of a worker's cores: it pins itself soon after its start, and then for good.
const LOOKS_PER_CHECK: u32 = 10;

pub(super) struct Workers {
    folder: PathBuf,
    cores: Vec<usize>,
    own_workers: OwnWorkers,
    known: Vec<Worker>,
    looks: u32,
}

#[derive(Debug)]
struct Worker {
    pid: i32,
    schedstat: File,
    last: Option<u64>,
    inside: bool,
}

impl Workers {
    pub(super) fn new(root: &Path, cores: &[usize], own_workers: OwnWorkers) -> Self {
        let folder = root.join("proc");
        Self { folder, cores: cores.to_vec(), own_workers, known: Vec::with_capacity(WORKERS_MAX), looks: 0 }
    }

    /// CPU time of the workers since the last call.
    pub(super) fn advance_ns(&mut self) -> u64 {
        let mut pids = [0; WORKERS_MAX];
        let count = (self.own_workers)(&mut pids).min(WORKERS_MAX);
        let pids = &pids[..count];
        self.known.retain(|worker| pids.contains(&worker.pid));
        for pid in pids {
            if *pid > 0 && self.known.iter().all(|worker| worker.pid != *pid) {
                self.known.extend(self.open(*pid));
            }
        }
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS_PER_CHECK) {
            for worker in &mut self.known {
                worker.inside = runs_inside(&self.folder, worker.pid, &self.cores);
            }
        }
        let mut total_ns = 0_u64;
        self.known.retain_mut(|worker| {
            let advanced = sched_stat(&worker.schedstat).and_then(|stat| advance(&mut worker.last, stat.run_ns));
            if worker.inside {
                total_ns = total_ns.saturating_add(advanced.unwrap_or(0));
            }
            advanced.is_ok()
        });
        total_ns
    }

    fn open(&self, pid: i32) -> Option<Worker> {
        let schedstat = File::open(self.folder.join(format!("{pid}/schedstat"))).ok()?;
        let inside = runs_inside(&self.folder, pid, &self.cores);
        Some(Worker { pid, schedstat, last: None, inside })
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("cores", &self.cores).field("known", &self.known).finish_non_exhaustive()
    }
}

/// Whether the process may run on none but these cores.
fn runs_inside(folder: &Path, pid: i32, cores: &[usize]) -> bool {
    let Ok(status) = fs::read_to_string(folder.join(format!("{pid}/status"))) else { return false };
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    allowed.is_some_and(|list| list_is_inside(list.trim(), cores))
}

/// A list such as `0-1,4`.
fn list_is_inside(list: &str, cores: &[usize]) -> bool {
    list.split(',').all(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else { return false };
        first <= last && (first..=last).all(|core| cores.contains(&core))
    })
}
