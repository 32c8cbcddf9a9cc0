//! How much CPU time did a cgroup use? `cpu.stat` of version 2, `cpuacct.usage` of version 1.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::files::{advance, read};
use super::group::{Group, NO_UNIT};
use super::threads::SEARCH_PERIOD;
use crate::units::Instant;

#[derive(Debug)]
pub(super) struct Cgroup {
    root: PathBuf,
    group: Group,
    search_at: Instant,
    file: Option<Counter>,
    total_ns: i128,
}

#[derive(Debug)]
struct Counter {
    file: File,
    unit: Unit,
    last: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Unit {
    /// A line `usage_usec N` among others.
    UsageUsec,
    /// Nothing but nanoseconds.
    Nanos,
}

impl Cgroup {
    pub(super) fn new(root: &Path, group: &Group) -> Self {
        let (root, group) = (root.to_owned(), group.clone());
        Self { root, group, search_at: Instant::default(), file: None, total_ns: 0 }
    }

    /// Opens the counter unless it is open. A unit is looked for now and then only.
    pub(super) fn search(&mut self, now: Instant) -> Result<(), &'static str> {
        if self.file.is_some() {
            return Ok(());
        }
        if matches!(self.group, Group::Unit(_)) {
            if now < self.search_at {
                return Err(NO_UNIT);
            }
            self.search_at = now.after(SEARCH_PERIOD);
        }
        self.file = Some(open(&self.group.folder(&self.root)?)?);
        self.search_at = Instant::default();
        Ok(())
    }

    /// CPU time since the start, as far as it was watched.
    pub(super) fn busy_ns(&mut self) -> Result<i128, &'static str> {
        let mut counter = self.file.take().ok_or("the cgroup has no CPU time to read")?;
        let value = counter.read()?;
        self.total_ns += i128::from(advance(&mut counter.last, value)?);
        // Only a good file is kept: after an error the next look opens it anew.
        self.file = Some(counter);
        Ok(self.total_ns)
    }
}

fn open(folder: &Path) -> Result<Counter, &'static str> {
    // Version 1 has a cpu.stat as well, without the usage.
    for (name, unit) in [("cpu.stat", Unit::UsageUsec), ("cpuacct.usage", Unit::Nanos)] {
        let Ok(file) = File::open(folder.join(name)) else { continue };
        let counter = Counter { file, unit, last: None };
        if counter.read().is_ok() {
            return Ok(counter);
        }
    }
    Err("the cgroup has no CPU time to read")
}

impl Counter {
    fn read(&self) -> Result<u64, &'static str> {
        let mut buffer = [0; 4096];
        let text = read(&self.file, &mut buffer)?;
        let (number, scale) = match self.unit {
            Unit::UsageUsec => (text.lines().find_map(|line| line.strip_prefix("usage_usec ")), 1000),
            Unit::Nanos => (Some(text), 1),
        };
        let number: u64 = number.and_then(|n| n.trim().parse().ok()).ok_or("a CPU time that is not a number")?;
        number.checked_mul(scale).ok_or("a CPU time above 64 bits")
    }
}
