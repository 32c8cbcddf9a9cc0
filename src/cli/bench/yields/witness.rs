//! Why did it take so long? What the kernel counts about the threads and the machine, read right before and after an
//! event.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use crate::ledger::cause::{self, Verdict};

/// One clock tick of `/proc/stat`: Linux shows 100 a second to user space, whatever it counts in.
const TICK: Duration = Duration::from_millis(10);

/// Fields of `/proc/PID/stat`.
const MAJOR_FAULTS: usize = 12;
const PROCESSOR: usize = 39;

/// Files of the kernel's counters, kept open: a look costs some microseconds between two events.
#[derive(Debug)]
pub(super) struct Witness {
    stopper: Option<File>,
    stopper_stat: Option<File>,
    own: Option<File>,
    faults: Option<File>,
    machine: Option<File>,
}

/// What the counters say at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    stopper_waited: Duration,
    stopper_ran: Duration,
    own_waited: Duration,
    major_faults: u64,
    stolen: Duration,
    interrupts: Duration,
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// The thread that stops was ready to run and had no core.
    pub(super) stopper_waited: Duration,
    /// Its CPU time.
    pub(super) stopper_ran: Duration,
    /// So was the thread that hands the load over.
    pub(super) own_waited: Duration,
    /// Pages of this process that had to be read from disk.
    pub(super) major_faults: u64,
    /// Cores were with the host's other guests.
    pub(super) stolen: Duration,
    /// Cores were in interrupts.
    pub(super) interrupts: Duration,
    /// The thread that hands the load over slept so much longer than it had asked for, without waiting for its core
    /// behind another thread: the core itself stood still.
    pub(super) stalled: Duration,
}

impl Witness {
    /// Opens the counters; `stopper` is the thread that stops, of this process. What cannot be opened is not counted.
    pub(super) fn of(stopper: Option<i32>) -> Self {
        let open = |path: String| File::open(path).ok();
        Self {
            stopper: stopper.and_then(|tid| open(format!("/proc/self/task/{tid}/schedstat"))),
            stopper_stat: stopper.and_then(|tid| open(format!("/proc/self/task/{tid}/stat"))),
            own: open("/proc/thread-self/schedstat".to_owned()),
            faults: open("/proc/self/stat".to_owned()),
            machine: open("/proc/stat".to_owned()),
        }
    }

    /// The core on which the thread that stops ran last.
    pub(super) fn stopper_core(&self) -> Option<usize> {
        let mut buffer = [0; 1024];
        let length = self.stopper_stat.as_ref()?.read_at(&mut buffer, 0).ok()?;
        field(std::str::from_utf8(&buffer[..length]).ok()?, PROCESSOR)
    }

    /// Reads the counters.
    pub(super) fn look(&self) -> Look {
        let mut buffer = [0; 1024];
        let mut read = |file: &Option<File>, figures: fn(&str) -> Look| {
            let length = file.as_ref().and_then(|file| file.read_at(&mut buffer, 0).ok()).unwrap_or(0);
            std::str::from_utf8(&buffer[..length]).map(figures).unwrap_or_default()
        };
        let stopper = read(&self.stopper, thread);
        Look {
            stopper_waited: stopper.stopper_waited,
            stopper_ran: stopper.stopper_ran,
            own_waited: read(&self.own, thread).stopper_waited,
            major_faults: read(&self.faults, |text| Look {
                major_faults: field(text, MAJOR_FAULTS).unwrap_or(0),
                ..Look::default()
            })
            .major_faults,
            ..read(&self.machine, machine)
        }
    }
}

impl Look {
    /// What has happened since `before`; `stalled` as in [`Evidence`].
    pub(super) fn since(self, before: Self, overslept: Duration) -> Evidence {
        let own_waited = self.own_waited.saturating_sub(before.own_waited);
        Evidence {
            stopper_waited: self.stopper_waited.saturating_sub(before.stopper_waited),
            stopper_ran: self.stopper_ran.saturating_sub(before.stopper_ran),
            own_waited,
            major_faults: self.major_faults.saturating_sub(before.major_faults),
            stolen: self.stolen.saturating_sub(before.stolen),
            interrupts: self.interrupts.saturating_sub(before.interrupts),
            stalled: overslept.saturating_sub(own_waited),
        }
    }
}

impl Evidence {
    /// What took so long, by the rules of the ledger: only exact clocks explain, counts are possible causes.
    /// `received` is the time from the event to its receipt, where it is known; `latency` the time to the last
    /// instruction, of which `stopping` came after the last signal.
    pub(super) fn explain(&self, latency: Duration, received: Option<Duration>, stopping: Duration) -> Explanation {
        let parts = cause::Parts {
            detect: received.unwrap_or(self.own_waited),
            stopping,
            total: latency,
            // A worker that runs on uses CPU time.
            cpu_after: stopping,
            displaced: 0,
        };
        let count = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let deltas = cause::Deltas {
            waited: self.stopper_waited,
            ran: self.stopper_ran,
            major_faults: count(self.major_faults),
            ..cause::Deltas::default()
        };
        let ticks = |time: Duration| u64::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
        let host = cause::HostDeltas {
            span: latency,
            tick: TICK,
            steal_ticks: ticks(self.stolen),
            irq_ticks: ticks(self.interrupts),
        };
        let causes = cause::classify(&parts, Some(&deltas), Some(&host));
        let told = causes.iter().filter(|cause| cause.kind != cause::Kind::Unexplained);
        let mut texts: Vec<String> = told
            .map(|cause| match cause.least.as_micros() {
                0 => format!("{}: at most {} µs", cause.kind.words(), cause.most.as_micros()),
                least => format!("{}: {least} µs", cause.kind.words()),
            })
            .collect();
        let mut verdict = causes.verdict();
        if self.stalled >= latency / 4 {
            texts.push(format!("the core of the load stood still for {} µs", self.stalled.as_micros()));
            if verdict == Verdict::Unexplained && self.stalled >= causes.unexplained() {
                verdict = Verdict::Possible;
            }
        }
        Explanation { verdict, causes: texts }
    }
}

/// Why a sample is slow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Explanation {
    /// How well it is explained.
    pub(super) verdict: Verdict,
    /// Each cause as a sentence with its figure.
    pub(super) causes: Vec<String>,
}

/// A `schedstat`: ns on a core, ns waiting on a run queue, time slices.
fn thread(schedstat: &str) -> Look {
    let mut figures = schedstat.split_whitespace().map(|ns| Duration::from_nanos(ns.parse().unwrap_or(0)));
    let stopper_ran = figures.next().unwrap_or_default();
    Look { stopper_ran, stopper_waited: figures.next().unwrap_or_default(), ..Look::default() }
}

/// A field of `/proc/PID/stat` by its number in proc(5), from 3 on; the name before them may contain anything, so it is
/// cut at its last bracket.
fn field<T: std::str::FromStr>(stat: &str, number: usize) -> Option<T> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// First line of `/proc/stat`: `cpu  user nice system idle iowait irq softirq steal …`.
fn machine(stat: &str) -> Look {
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let tick = |index: usize| line.split_whitespace().nth(index).and_then(|field| field.parse::<u32>().ok());
    let time = |index: usize| TICK * tick(index).unwrap_or(0);
    Look { stolen: time(7), interrupts: time(5) + time(6), ..Look::default() }
}

/// Id of this process's thread of that name.
pub(super) fn thread_named(name: &str) -> Option<i32> {
    let tasks = fs::read_dir("/proc/self/task").ok()?.flatten();
    let tids = tasks.filter_map(|task| task.file_name().to_str()?.parse::<i32>().ok());
    let is_it =
        |tid: &i32| fs::read_to_string(format!("/proc/self/task/{tid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    tids.into_iter().find(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(value: u64) -> Duration {
        Duration::from_micros(value)
    }

    #[test]
    fn the_counters_are_where_the_kernel_puts_them() {
        let look = thread("1000 2500 7\n");
        assert_eq!((look.stopper_ran, look.stopper_waited), (Duration::from_nanos(1000), Duration::from_nanos(2500)));
        assert_eq!(field("1 (a b) c) S 1 1 1 0 -1 4194560 100 200 33 44 5 6", MAJOR_FAULTS), Some(33));
        let look = machine("cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 0 0 0 0 0 9 9 9 0 0\n");
        assert_eq!((look.interrupts, look.stolen), (TICK * 13, TICK * 8));
        assert_eq!(
            (thread(""), field::<u64>("x", MAJOR_FAULTS), machine("")),
            (Look::default(), None, Look::default())
        );
    }

    #[test]
    fn only_exact_clocks_explain_and_counts_are_possible_causes() {
        let none = Evidence::default();
        let cases = [
            (none, None, Verdict::Unexplained, 0),
            (Evidence { stopper_waited: us(950), ..none }, None, Verdict::Explained, 1),
            (Evidence { stopper_ran: us(1_150), ..none }, None, Verdict::Explained, 1),
            (Evidence { own_waited: us(950), ..none }, None, Verdict::Explained, 1),
            (none, Some(us(950)), Verdict::Explained, 1),
            (Evidence { major_faults: 1, ..none }, None, Verdict::Possible, 1),
            (Evidence { stolen: TICK, interrupts: TICK, ..none }, None, Verdict::Possible, 2),
            (Evidence { stalled: us(1_000), ..none }, None, Verdict::Possible, 1),
            (Evidence { stalled: us(300), ..none }, None, Verdict::Unexplained, 1),
        ];
        for (evidence, received, verdict, causes) in cases {
            let found = evidence.explain(us(1_000), received, us(20));
            assert_eq!((found.verdict, found.causes.len()), (verdict, causes), "{evidence:?} {found:?}");
        }
    }

    #[test]
    fn time_behind_other_threads_is_no_standstill_of_the_core() {
        let after = Look { own_waited: us(700), ..Look::default() };
        assert_eq!(after.since(Look::default(), us(800)).stalled, us(100));
    }

    #[test]
    fn this_machine_answers() {
        let tid = std::thread::Builder::new().name("neap-witness".to_owned()).spawn(|| thread_named("neap-witness"));
        assert!(tid.unwrap().join().unwrap().is_some());
        let own = i32::try_from(std::process::id()).unwrap();
        let witness = Witness::of(Some(own));
        assert!(witness.stopper.is_some() && witness.machine.is_some() && witness.faults.is_some());
        assert!(witness.stopper_core().is_some());
        let before = witness.look();
        assert_eq!(witness.look().since(before, us(0)).stalled, us(0));
    }
}
