//! Which stops are not yet confirmed, when is it time to look again, and when to kill?
//!
//! Pure: the sentinel thread looks at the workers and says what it saw.

use std::time::Duration;

use super::YieldRecord;
use crate::units::{Instant, WORKERS_MAX};
use crate::worker::gate::{Slots, Stop};

/// First look by timer after a stop, in case its signal does not come; each further one takes twice as long.
const LOOK_FIRST: Duration = Duration::from_millis(1);
/// Longest time between two looks.
const LOOK_LAST: Duration = Duration::from_millis(10);
/// A worker whose CPU clock stands still for so long is not running: two ticks of the slowest kernel (100 Hz), which
/// brings the clock of a running process up to date at every tick.
const STILL: Duration = Duration::from_millis(20);

/// Stops that are under way. Each has a worker that no other has, so there are at most `WORKERS_MAX`.
///
/// A stop ends for each worker in one of five ways: it is seen stopped; it has ended; it is *displaced*; it is seen
/// frozen, which is tried when it still runs after a while; it is killed because it still runs when it is overdue. Displaced means that the RAN (or whoever) has the core already: a worker
/// of the idle class can then wait seconds for the instant that it takes to stop (10 to 80 µs of the kernel's work, which
/// its CPU clock shows when it comes). It needs no core and gets no core,
/// its CPU clock stands still, and with the stop pending it can execute no instruction any more. So it is confirmed at
/// the first moment at which its clock had the value at which it stands.
#[derive(Debug)]
pub(crate) struct Stops {
    open: [Option<Open>; WORKERS_MAX],
    repeat_after: Duration,
    kill_after: Duration,
    look_at: Instant,
    look_gap: Duration,
}

#[derive(Debug)]
struct Open {
    record: YieldRecord,
    stop: Stop,
    waiting: Slots,
    /// Those whose signals were sent a second time.
    repeated: Slots,
    still: [Still; WORKERS_MAX],
}

/// A reading of a CPU clock, and the first moment at which it was read.
#[derive(Clone, Copy, Debug, Default)]
struct Still {
    cpu: Option<Duration>,
    since: Instant,
}

/// What to do with a worker that was seen not stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send the signals again, and have it frozen: somebody may have continued it before it took the first. Both,
    /// because the signals cost nothing and work without cgroups, and freezing works against whoever continues it, but
    /// waits for a lock of the whole machine.
    Repeat,
    /// Confirm it as displaced.
    Leave,
    /// Kill it, then confirm it.
    Kill,
}

/// How a stop ended for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Stopped, or ended, by itself.
    Stopped,
    /// Kept off its core, with the stop pending.
    Displaced,
    /// Frozen, because signals did not stop it.
    Frozen,
    /// Killed.
    Killed,
}

impl Stops {
    /// Nothing under way. A worker that still runs `repeat_after` the signals gets them once more; one that still runs
    /// `kill_after` is overdue.
    pub(crate) fn new(repeat_after: Duration, kill_after: Duration) -> Self {
        let open = std::array::from_fn(|_| None);
        Self { open, repeat_after, kill_after, look_at: Instant::default(), look_gap: LOOK_FIRST }
    }

    /// Signals were sent. `record` carries everything but the end; a stop that met nobody is none.
    pub(crate) fn begin(&mut self, record: YieldRecord, stop: Stop) {
        if stop.slots.is_empty() {
            return;
        }
        self.look_gap = LOOK_FIRST;
        self.look_at = record.signalled.after(LOOK_FIRST);
        let still = stop.cpu_signalled.map(|cpu| Still { cpu, since: stop.read });
        let record = YieldRecord { workers: stop.slots.count(), jobs: stop.jobs, ..record };
        if let Some(free) = self.open.iter_mut().find(|open| open.is_none()) {
            *free = Some(Open { record, stop, waiting: stop.slots, repeated: Slots::NONE, still });
        }
    }

    /// Whether every stop is confirmed.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.iter().all(Option::is_none)
    }

    /// Slots to look at, and the process that was stopped in each.
    pub(crate) fn waiting(&self) -> (Slots, [i32; WORKERS_MAX]) {
        let (mut slots, mut pids) = (Slots::NONE, [0; WORKERS_MAX]);
        for open in self.open.iter().flatten() {
            for slot in open.waiting.iter() {
                slots.insert(slot);
                pids[slot] = open.stop.pids[slot];
            }
        }
        (slots, pids)
    }

    /// The worker of `slot` was seen not stopped, having used `cpu` in its life. Tells what to do, if anything.
    pub(crate) fn on_running(&mut self, slot: usize, now: Instant, cpu: Option<Duration>) -> Option<Step> {
        let (repeat_after, kill_after) = (self.repeat_after, self.kill_after);
        let open = self.open.iter_mut().flatten().find(|open| open.waiting.contains(slot))?;
        let still = &mut open.still[slot];
        if cpu.is_none() || cpu != still.cpu {
            *still = Still { cpu, since: now };
        }
        if now.since(still.since) >= STILL {
            return Some(Step::Leave);
        }
        if now >= open.record.signalled.after(kill_after) {
            return Some(Step::Kill);
        }
        if now >= open.record.signalled.after(repeat_after) && !open.repeated.contains(slot) {
            open.repeated.insert(slot);
            return Some(Step::Repeat);
        }
        None
    }

    /// The stop has ended for the worker of `slot`, which has used `cpu` in its life. Gives the record when it was the
    /// last worker of its stop.
    pub(crate) fn confirm(
        &mut self,
        slot: usize,
        now: Instant,
        end: End,
        cpu: Option<Duration>,
    ) -> Option<YieldRecord> {
        let place = self.open.iter_mut().find(|open| open.as_ref().is_some_and(|open| open.waiting.contains(slot)))?;
        let open = place.as_mut()?;
        open.waiting.remove(slot);
        let at = match end {
            End::Displaced => open.still[slot].since,
            End::Stopped | End::Frozen | End::Killed => now,
        };
        let record = &mut open.record;
        record.confirmed = record.confirmed.max(at);
        record.displaced += u8::from(end == End::Displaced);
        record.frozen += u8::from(end == End::Frozen);
        // No thread can have used more than the time that passed. That is what counts when nothing better is known: no
        // reading, or one that lags, as it must if the worker stopped without having run since the signals.
        let threads = u32::from(open.stop.threads[slot].max(1));
        let most = at.since(record.decided) * threads;
        let signalled = open.stop.cpu_signalled[slot];
        let current = cpu.filter(|cpu| end == End::Displaced || Some(*cpu) > signalled);
        // The clock is first read after the signals, so that no reading comes before them. At the decision it stood no
        // lower than that less all the time since, which is what is taken: the difference may be too large by the
        // microseconds of the signals, never too small. That the reading may lag by a tick makes it larger as well.
        let unread = open.stop.read.since(record.decided) * threads;
        let used = signalled.zip(current).map_or(most, |(reading, after)| (after + unread).saturating_sub(reading));
        record.cpu_after += used.min(most);
        if !open.waiting.is_empty() {
            return None;
        }
        place.take().map(|open| open.record)
    }

    /// When to look at the latest; `None` when nothing is under way.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        (!self.is_empty()).then_some(self.look_at)
    }

    /// The sentinel has looked: the next look by timer is later.
    pub(crate) fn on_look(&mut self, now: Instant) {
        if now >= self.look_at {
            self.look_gap = self.look_gap.saturating_mul(2).min(LOOK_LAST);
            self.look_at = now.after(self.look_gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::governor::Reason;
    use crate::load::Metric;
    use crate::units::{CellId, SourceId, Utilization};

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    const fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn record(signalled: Instant) -> YieldRecord {
        YieldRecord {
            source: SourceId(0),
            reason: Reason::Held,
            metric: Metric::Unknown,
            cell: CellId(0),
            level: Utilization::FULL,
            threshold: Utilization::FULL,
            stamped: None,
            received: signalled,
            decided: signalled,
            signalled,
            confirmed: signalled,
            workers: 0,
            displaced: 0,
            frozen: 0,
            jobs: [0; WORKERS_MAX],
            cpu_after: Duration::ZERO,
            around: None,
        }
    }

    fn stop<const N: usize>(slots: [usize; N]) -> Stop {
        let mut stop = Stop::default();
        for slot in slots {
            stop.slots.insert(slot);
            stop.pids[slot] = 100 + i32::try_from(slot).unwrap();
            stop.jobs[slot] = 200 + slot as u64;
            stop.threads[slot] = 1;
            stop.cpu_signalled[slot] = Some(ms(1000));
        }
        stop
    }

    fn stops<const N: usize>(signalled_ms: u64, slots: [usize; N]) -> Stops {
        let mut stops = Stops::new(ms(50), ms(500));
        stops.begin(record(at(signalled_ms)), Stop { read: at(signalled_ms), ..stop(slots) });
        stops
    }

    #[test]
    fn a_stop_is_told_when_its_last_worker_is_confirmed() {
        let mut stops = stops(10, [0, 2]);
        let (slots, pids) = stops.waiting();
        assert_eq!((slots.iter().collect::<Vec<_>>(), pids[2]), (vec![0, 2], 102));
        assert_eq!(stops.confirm(1, at(11), End::Stopped, None), None);
        assert_eq!(stops.confirm(2, at(14), End::Stopped, Some(ms(1003))), None);
        let record = stops.confirm(0, at(13), End::Stopped, Some(ms(1001))).unwrap();
        assert_eq!((record.workers, record.displaced), (2, 0));
        assert_eq!((record.confirmed, record.cpu_after), (at(14), ms(4)));
        assert_eq!((record.jobs[0], record.jobs[1], record.jobs[2]), (200, 0, 202));
        assert!(stops.is_empty() && stops.next_look().is_none());
        assert_eq!(stops.confirm(0, at(14), End::Stopped, None), None);
    }

    #[test]
    fn cpu_time_is_never_more_than_the_time_that_passed_nor_less_when_it_cannot_be_read() {
        let confirmed = |cpu| stops(10, [0]).confirm(0, at(12), End::Stopped, cpu).unwrap().cpu_after;
        assert_eq!(confirmed(Some(ms(1001))), ms(1));
        assert_eq!(confirmed(Some(ms(1009))), ms(2), "the reading before lagged by a tick");
        assert_eq!(confirmed(Some(ms(1000))), ms(2), "the reading after lags: to stop, it had to run");
        assert_eq!(confirmed(None), ms(2));
    }

    #[test]
    fn a_clock_that_is_first_read_after_the_signals_hides_nothing() {
        let used = |read, after| {
            let mut stops = Stops::new(ms(50), ms(500));
            let decided = YieldRecord { signalled: at(13), ..record(at(10)) };
            stops.begin(decided, Stop { read: at(read), ..stop([0]) });
            stops.confirm(0, at(20), End::Stopped, Some(ms(after))).unwrap().cpu_after
        };
        // Read 1000 ms at 14: at the decision, at 10, it stood at 996 ms or higher.
        assert_eq!(used(14, 1001), ms(5));
        assert_eq!(used(14, 1006), ms(10), "never more than the time that passed");
    }

    #[test]
    fn a_stop_that_met_nobody_is_none() {
        assert!(stops(10, []).is_empty());
    }

    #[test]
    fn two_stops_are_confirmed_apart() {
        let mut stops = stops(10, [1]);
        stops.begin(record(at(11)), stop([0]));
        assert_eq!(stops.confirm(0, at(12), End::Stopped, None).unwrap().signalled, at(11));
        assert_eq!(stops.confirm(1, at(13), End::Stopped, None).unwrap().signalled, at(10));
    }

    #[test]
    fn as_many_stops_as_workers_find_a_place() {
        let mut stops = Stops::new(ms(50), ms(500));
        (0..WORKERS_MAX).for_each(|slot| stops.begin(record(at(10)), stop([slot])));
        assert_eq!(usize::from(stops.waiting().0.count()), WORKERS_MAX);
    }

    #[test]
    fn looks_come_after_1_2_4_8_10_10_ms() {
        let mut stops = stops(0, [0]);
        let mut looks = Vec::new();
        for _ in 0..7 {
            let look = stops.next_look().unwrap();
            looks.push(look.as_nanos() / 1_000_000);
            stops.on_look(look);
        }
        assert_eq!(looks, [1, 3, 7, 15, 25, 35, 45]);
    }

    #[test]
    fn a_look_by_signal_does_not_put_off_the_look_by_timer() {
        let mut stops = stops(0, [0]);
        stops.on_look(Instant::from_nanos(5000));
        assert_eq!(stops.next_look(), Some(at(1)));
    }

    #[test]
    fn a_worker_whose_clock_stands_still_is_displaced_since_it_began_to() {
        let mut stops = stops(10, [0, 1]);
        assert_eq!(stops.on_running(0, at(11), Some(ms(1000))), None);
        assert_eq!(stops.on_running(1, at(11), Some(ms(1001))), None);
        assert_eq!(stops.on_running(0, at(29), Some(ms(1000))), None);
        assert_eq!(stops.on_running(0, at(30), Some(ms(1000))), Some(Step::Leave));
        assert_eq!(stops.confirm(0, at(30), End::Displaced, Some(ms(1000))), None);
        assert_eq!(stops.on_running(1, at(30), Some(ms(1001))), None);
        assert_eq!(stops.on_running(1, at(31), Some(ms(1001))), Some(Step::Leave));
        let record = stops.confirm(1, at(31), End::Displaced, Some(ms(1001))).unwrap();
        assert_eq!((record.confirmed, record.displaced, record.cpu_after), (at(11), 2, ms(1)));
    }

    #[test]
    fn a_worker_that_still_runs_gets_its_signals_once_more_and_is_killed_when_overdue() {
        let mut stops = stops(10, [0, 1]);
        assert_eq!(stops.confirm(1, at(11), End::Stopped, None), None);
        for now in 11..510 {
            let repeat = (now == 60).then_some(Step::Repeat);
            assert_eq!(stops.on_running(0, at(now), Some(ms(1000 + now))), repeat, "at {now} ms");
        }
        assert_eq!(stops.on_running(0, at(510), Some(ms(1510))), Some(Step::Kill));
        assert!(stops.confirm(0, at(510), End::Killed, None).is_some(), "a killed worker ends the stop");
    }

    #[test]
    fn a_worker_that_had_to_be_frozen_is_told() {
        let mut stops = stops(10, [0, 1]);
        assert_eq!(stops.on_running(0, at(60), Some(ms(1040))), Some(Step::Repeat));
        assert_eq!(stops.confirm(1, at(60), End::Stopped, None), None);
        let record = stops.confirm(0, at(62), End::Frozen, Some(ms(1041))).unwrap();
        assert_eq!((record.workers, record.frozen, record.displaced), (2, 1, 0));
        assert_eq!(record.confirmed, at(62));
    }

    #[test]
    fn a_worker_whose_clock_cannot_be_read_is_not_taken_for_displaced() {
        let mut stops = stops(10, [0]);
        assert_eq!(stops.on_running(0, at(59), None), None);
        assert_eq!(stops.on_running(0, at(100), None), Some(Step::Repeat));
        assert_eq!(stops.on_running(0, at(200), None), None);
        assert_eq!(stops.on_running(0, at(510), None), Some(Step::Kill));
    }
}
