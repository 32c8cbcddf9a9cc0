//! How much did workers compute while the radio was busy? Read from their own CPU clocks, not from the agent's word.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::sys::clock;
use crate::units::{Instant, WORKERS_MAX};

/// CPU time used later than this after the load rose is not explained by a yield.
pub(in crate::cli) const LATE_AFTER: Duration = Duration::from_millis(100);

/// What the meter has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Usage {
    /// CPU time of all workers since the meter was started.
    pub(in crate::cli) cpu: Duration,
    /// Share of it that fell between a rise of the load and its fall.
    pub(in crate::cli) while_busy: Duration,
    /// Share of that later than [`LATE_AFTER`] after the rise.
    pub(in crate::cli) while_busy_late: Duration,
    /// Largest share of one busy period.
    pub(in crate::cli) while_busy_max: Duration,
    /// Share of all that fell into troughs.
    pub(in crate::cli) while_idle: Duration,
    /// Busy periods measured.
    pub(in crate::cli) busy_periods: u32,
    /// Workers that ended while busy: what they used after their last reading is unknown.
    pub(in crate::cli) ended_while_busy: u32,
}

/// Adds up what worker processes use. Pure: readings are passed in.
#[derive(Debug, Default)]
pub(in crate::cli) struct Meter {
    last: BTreeMap<i32, Duration>,
    started: bool,
    busy: Option<Busy>,
    /// CPU time at the begin of the trough in progress.
    idle: Option<Duration>,
    usage: Usage,
}

/// A busy period in progress.
#[derive(Clone, Copy, Debug)]
struct Busy {
    since: Instant,
    cpu_at_rise: Duration,
    cpu_when_late: Option<Duration>,
}

impl Meter {
    /// Takes one reading of every live worker's CPU clock. The first only sets the starting point; a worker never seen
    /// before counts from its birth.
    pub(in crate::cli) fn read(&mut self, readings: &[(i32, Duration)]) {
        for &(pid, cpu) in readings {
            let before = self.last.get(&pid).copied().unwrap_or_default();
            // A clock that went back belongs to a new process of the same number.
            let grown = if cpu < before { cpu } else { cpu - before };
            if self.started {
                self.usage.cpu += grown;
            }
        }
        let ended = self.last.keys().filter(|pid| !readings.iter().any(|(live, _)| live == *pid)).count();
        if self.busy.is_some() {
            self.usage.ended_while_busy += u32::try_from(ended).unwrap_or(u32::MAX);
        }
        self.last = readings.iter().copied().collect();
        self.started = true;
    }

    /// The load is about to rise: call right after a reading.
    pub(in crate::cli) fn rises(&mut self, now: Instant) {
        let busy = Busy { since: now, cpu_at_rise: self.usage.cpu, cpu_when_late: None };
        self.busy.get_or_insert(busy);
    }

    /// When the next reading is due to tell early from late use, if one is.
    pub(in crate::cli) fn late_at(&self) -> Option<Instant> {
        let busy = self.busy.filter(|busy| busy.cpu_when_late.is_none())?;
        Some(busy.since.after(LATE_AFTER))
    }

    /// From here on use is late: call right after a reading.
    pub(in crate::cli) fn late(&mut self) {
        if let Some(busy) = &mut self.busy {
            busy.cpu_when_late.get_or_insert(self.usage.cpu);
        }
    }

    /// The load is about to fall: call right after a reading.
    pub(in crate::cli) fn falls(&mut self) {
        let Some(busy) = self.busy.take() else { return };
        let used = self.usage.cpu.saturating_sub(busy.cpu_at_rise);
        self.usage.while_busy += used;
        self.usage.while_busy_max = self.usage.while_busy_max.max(used);
        self.usage.while_busy_late +=
            busy.cpu_when_late.map_or(Duration::ZERO, |late| self.usage.cpu.saturating_sub(late));
        self.usage.busy_periods += 1;
    }

    /// A trough is about to begin: call right after a reading.
    pub(in crate::cli) fn trough_begins(&mut self) {
        self.idle.get_or_insert(self.usage.cpu);
    }

    /// A trough is about to end: call right after a reading.
    pub(in crate::cli) fn trough_ends(&mut self) {
        if let Some(at_begin) = self.idle.take() {
            self.usage.while_idle += self.usage.cpu.saturating_sub(at_begin);
        }
    }

    /// What was seen so far; an unfinished busy period or trough is not in it.
    pub(in crate::cli) const fn usage(&self) -> Usage {
        self.usage
    }
}

/// Reads the CPU clocks of these processes; those that have ended are left out.
pub(in crate::cli) fn cpu_of(pids: &[i32]) -> Vec<(i32, Duration)> {
    pids.iter().filter_map(|&pid| Some((pid, clock::process_cpu(pid).ok()?))).collect()
}

/// How long these processes of one thread have waited for a core that others had; those that have ended, or of which the
/// kernel does not tell, are left out.
pub(in crate::cli) fn waits_of(pids: &[i32]) -> Vec<(i32, Duration)> {
    let schedstat = |pid: i32| fs::read_to_string(format!("/proc/{pid}/schedstat")).ok();
    pids.iter().filter_map(|&pid| Some((pid, field(&schedstat(pid)?, 1)?))).collect()
}

/// CPU time used by the threads of a process that have this name; zero when there is none or the kernel does not tell.
pub(in crate::cli) fn thread_cpu(pid: u32, name: &str) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let named =
        tasks.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name));
    named.map(|task| task.path().join("schedstat")).filter_map(|path| field(&fs::read_to_string(path).ok()?, 0)).sum()
}

/// A field of a `schedstat`: time on a core, then time spent waiting for one, in nanoseconds.
fn field(schedstat: &str, index: usize) -> Option<Duration> {
    Some(Duration::from_nanos(schedstat.split_whitespace().nth(index)?.parse().ok()?))
}

/// The processes started by process `parent`, at most [`WORKERS_MAX`]: the agent starts nothing but workers.
pub(in crate::cli) fn children(parent: u32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    let found: Result<Vec<String>, _> = lists.collect();
    let mut pids: Vec<i32> = match found {
        Ok(lists) => lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect(),
        // A kernel without CONFIG_PROC_CHILDREN, or a thread that ended meanwhile.
        Err(_) => children_by_parent(parent),
    };
    pids.sort_unstable();
    pids.truncate(WORKERS_MAX);
    pids
}

/// The same by asking every process for its parent.
fn children_by_parent(parent: u32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Field 4 of `/proc/PID/stat`; the name before it may contain anything, so it is cut at its last bracket.
fn parent_of(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn only_growth_between_rise_and_fall_counts_as_while_busy() {
        let mut meter = Meter::default();
        meter.read(&[(1, ms(100)), (2, ms(50))]);
        meter.read(&[(1, ms(140)), (2, ms(60))]);
        meter.rises(at(0));
        meter.read(&[(1, ms(142)), (2, ms(61))]);
        meter.falls();
        meter.read(&[(1, ms(202)), (2, ms(61))]);

        let usage = meter.usage();
        assert_eq!(usage.cpu, ms(40 + 10 + 3 + 60));
        assert_eq!((usage.while_busy, usage.while_busy_late), (ms(3), ms(0)));
        assert_eq!((usage.while_busy_max, usage.busy_periods), (ms(3), 1));
    }

    #[test]
    fn only_growth_between_the_begin_and_the_end_of_a_trough_counts_as_harvest() {
        let mut meter = Meter::default();
        meter.read(&[(1, ms(100))]);
        meter.read(&[(1, ms(110))]);
        meter.trough_begins();
        meter.read(&[(1, ms(150)), (2, ms(7))]);
        meter.trough_ends();
        meter.read(&[(1, ms(170)), (2, ms(9))]);
        meter.trough_ends();

        assert_eq!(meter.usage().while_idle, ms(47));
        assert_eq!(meter.usage().cpu, ms(79));
    }

    #[test]
    fn what_a_named_thread_and_a_process_use_is_read_from_the_kernel() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let spinning = std::thread::Builder::new().name("neap-test-spin".to_owned()).spawn(move || {
            let until = clock::now().after(ms(20));
            while clock::now() < until {}
            let _ended = stopped.recv();
        });
        let own = std::process::id();
        let deadline = clock::now().after(Duration::from_secs(20));
        while thread_cpu(own, "neap-test-spin") < ms(1) && clock::now() < deadline {
            std::thread::yield_now();
        }
        assert!(thread_cpu(own, "neap-test-spin") >= ms(1));
        assert_eq!(thread_cpu(own, "no-such-thread"), Duration::ZERO);
        assert_eq!(waits_of(&[i32::try_from(own).unwrap(), i32::MAX]).len(), 1);
        drop(stop);
        spinning.unwrap().join().unwrap();
    }

    #[test]
    fn growth_long_after_the_rise_is_told_apart() {
        let mut meter = Meter::default();
        meter.read(&[(1, ms(0))]);
        meter.rises(at(1000));
        assert_eq!(meter.late_at(), Some(at(1100)));
        meter.read(&[(1, ms(5))]);
        meter.late();
        assert_eq!(meter.late_at(), None);
        meter.read(&[(1, ms(12))]);
        meter.falls();

        assert_eq!(meter.usage().while_busy, ms(12));
        assert_eq!(meter.usage().while_busy_late, ms(7));
    }

    #[test]
    fn a_worker_born_while_busy_counts_from_its_birth_and_one_that_ended_is_reported() {
        let mut meter = Meter::default();
        meter.read(&[(1, ms(500))]);
        meter.rises(at(0));
        meter.read(&[(2, ms(9))]);
        meter.falls();

        assert_eq!(meter.usage().while_busy, ms(9));
        assert_eq!(meter.usage().ended_while_busy, 1);
    }

    #[test]
    fn a_number_given_to_a_new_process_never_counts_backwards() {
        let mut meter = Meter::default();
        meter.read(&[(1, ms(500))]);
        meter.read(&[(1, ms(4))]);

        assert_eq!(meter.usage().cpu, ms(4));
    }

    #[test]
    fn children_of_a_process_are_found_both_ways() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own = std::process::id();

        let both = [children(own).contains(&pid), children_by_parent(own).contains(&pid)];
        let cpu = cpu_of(&[pid]);
        child.kill().unwrap();
        child.wait().unwrap();

        assert_eq!(both, [true, true]);
        assert_eq!(cpu.len(), 1);
        assert!(cpu_of(&[pid]).is_empty());
    }
}
