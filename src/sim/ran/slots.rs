//! Which slot is due, was it kept, and which were lost? The grid of slots and its account.
//!
//! Pure: every moment is passed in.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::units::Instant;

/// Longest time told apart, in ns; longer ones count as this.
const NANOS_MAX: u64 = 60_000_000_000;

/// Slots of equal length, numbered from 0 at `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// When slot 0 begins.
    pub start: Instant,
    /// Length of a slot; not zero.
    pub slot: Duration,
    /// Time from the begin of a slot within which its work must be done.
    pub deadline: Duration,
    /// A thread rests at least so long between two slots: slots that begin sooner are skipped.
    pub rest: Duration,
}

impl Grid {
    /// When slot `number` begins.
    pub fn begin(&self, number: u64) -> Instant {
        let nanos = self.slot.as_nanos().saturating_mul(u128::from(number));
        self.start.after(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// The first slot after `number` that a thread that is ready at `now` can begin with a rest before it.
    pub fn next(&self, number: u64, now: Instant) -> u64 {
        let elapsed = now.after(self.rest).since(self.start).as_nanos();
        let due = elapsed.div_ceil(self.slot.as_nanos().max(1));
        u64::try_from(due).unwrap_or(u64::MAX).max(number.saturating_add(1))
    }
}

/// What became of the slots of one or more threads.
#[derive(Clone, Debug)]
pub struct Account {
    /// Slots that were due: worked or skipped.
    pub slots: u64,
    /// Slots whose work was not done by their deadline, the skipped among them.
    pub missed: u64,
    /// Slots that were never begun, because the one before took too long.
    pub skipped: u64,
    /// Slots whose work was given up, because it took many times as long as the slot.
    pub given_up: u64,
    /// Begin of the slot to the end of its work, in ns.
    time: Histogram<u64>,
    /// Begin of the slot to the thread's first instruction in it, in ns.
    wake: Histogram<u64>,
    time_max: u64,
    wake_max: u64,
}

/// Percentiles of an account, in µs; zero when it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The longest, exact.
    pub max_us: f64,
}

impl Default for Account {
    fn default() -> Self {
        let empty = || {
            let histogram = Histogram::new_with_bounds(1, NANOS_MAX, 3);
            histogram.expect("bounds 1 to 60 000 000 000 with 3 digits are valid")
        };
        let (time, wake) = (empty(), empty());
        Self { slots: 0, missed: 0, skipped: 0, given_up: 0, time, wake, time_max: 0, wake_max: 0 }
    }
}

impl Account {
    /// A slot was worked; gives whether its deadline was missed. Allocates nothing.
    pub fn worked(&mut self, grid: &Grid, number: u64, woke: Instant, done: Instant) -> bool {
        let begin = grid.begin(number);
        let nanos = |moment: Instant| u64::try_from(moment.since(begin).as_nanos()).unwrap_or(u64::MAX);
        let is_missed = done.since(begin) > grid.deadline;
        self.slots += 1;
        self.missed += u64::from(is_missed);
        self.time.saturating_record(nanos(done));
        self.wake.saturating_record(nanos(woke));
        self.time_max = self.time_max.max(nanos(done));
        self.wake_max = self.wake_max.max(nanos(woke));
        is_missed
    }

    /// So many slots went by without work: each is a missed one.
    pub fn skipped(&mut self, count: u64) {
        self.slots += count;
        self.missed += count;
        self.skipped += count;
    }

    /// Takes another account in.
    pub fn add(&mut self, other: &Self) {
        self.slots += other.slots;
        self.missed += other.missed;
        self.skipped += other.skipped;
        self.given_up += other.given_up;
        // Both have the same bounds, so everything fits.
        let _fits = self.time.add(&other.time).and_then(|()| self.wake.add(&other.wake));
        self.time_max = self.time_max.max(other.time_max);
        self.wake_max = self.wake_max.max(other.wake_max);
    }

    /// Begin of a slot to the end of its work; skipped slots have none.
    pub fn time(&self) -> Times {
        times(&self.time, self.time_max)
    }

    /// Begin of a slot to the first instruction in it.
    pub fn wake(&self) -> Times {
        times(&self.wake, self.wake_max)
    }

    /// Slot times by value, in µs, with how many there were: for a picture of the distribution.
    pub fn time_counts(&self) -> Vec<(f64, u64)> {
        self.time.iter_recorded().map(|at| (micros(at.value_iterated_to()), at.count_at_value())).collect()
    }
}

fn times(histogram: &Histogram<u64>, max: u64) -> Times {
    let quantile = |quantile| micros(histogram.value_at_quantile(quantile).min(max));
    Times { p50_us: quantile(0.5), p99_us: quantile(0.99), p999_us: quantile(0.999), max_us: micros(max) }
}

fn micros(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn grid() -> Grid {
        Grid { start: Instant::from_nanos(5_000_000), slot: ms(1), deadline: ms(1), rest: ms(1) / 20 }
    }

    fn at(us: u64) -> Instant {
        grid().start.after(Duration::from_micros(us))
    }

    #[test]
    fn slots_begin_on_the_grid() {
        assert_eq!([0, 1, 1000].map(|number| grid().begin(number)), [at(0), at(1000), at(1_000_000)]);
    }

    #[test]
    fn work_within_the_slot_leads_to_the_next_one() {
        assert_eq!([0, 500, 950].map(|us| grid().next(0, at(us))), [1, 1, 1]);
    }

    #[test]
    fn a_thread_that_overruns_rests_and_skips_what_began_meanwhile() {
        assert_eq!([951, 1000, 1500, 1950, 1951, 7300].map(|us| grid().next(0, at(us))), [2, 2, 2, 2, 3, 8]);
    }

    #[test]
    fn the_next_slot_is_never_an_earlier_one() {
        assert_eq!(grid().next(40, at(0)), 41);
        assert_eq!(grid().next(u64::MAX, at(0)), u64::MAX);
    }

    #[test]
    fn a_slot_is_kept_up_to_its_deadline_and_missed_after_it() {
        let mut account = Account::default();
        assert!(!account.worked(&grid(), 3, at(3010), at(4000)));
        assert!(account.worked(&grid(), 4, at(4010), at(5001)));
        assert_eq!((account.slots, account.missed, account.skipped), (2, 1, 0));
    }

    #[test]
    fn a_skipped_slot_is_a_missed_one() {
        let mut account = Account::default();
        account.worked(&grid(), 0, at(0), at(10));
        account.skipped(7);
        assert_eq!((account.slots, account.missed, account.skipped), (8, 7, 7));
    }

    #[test]
    fn times_are_percentiles_in_microseconds_and_the_longest_is_exact() {
        let mut account = Account::default();
        assert_eq!(account.time(), Times::default());
        for number in 0..1000 {
            account.worked(&grid(), number, at(number * 1000 + 7), at(number * 1000 + number + 1));
        }
        let time = account.time();
        assert!((time.p50_us - 500.0).abs() < 1.0 && (time.p99_us - 990.0).abs() < 1.0, "{time:?}");
        assert!((time.p999_us - 999.0).abs() < 1.0, "{time:?}");
        assert_eq!((time.max_us, account.wake().max_us), (1000.0, 7.0));
        let counted: u64 = account.time_counts().into_iter().map(|(_, count)| count).sum();
        assert_eq!(counted, 1000);
    }

    #[test]
    fn accounts_of_threads_add_up() {
        let (mut one, mut other) = (Account::default(), Account::default());
        one.worked(&grid(), 0, at(5), at(100));
        other.worked(&grid(), 0, at(6), at(2000));
        other.skipped(1);
        one.add(&other);
        assert_eq!((one.slots, one.missed, one.skipped), (3, 2, 1));
        assert_eq!((one.time().max_us, one.wake().max_us), (2000.0, 6.0));
    }
}
