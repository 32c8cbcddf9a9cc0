//! What came of the events? Counts and times of one way of stopping, and what is known of its slowest samples. Pure.

use std::time::Duration;

use super::super::latency::Latencies;
use super::super::page::{LastInstruction, Phase};
use super::witness::{Evidence, Explanation};
use crate::ledger::cause::Verdict;
use crate::sentinel::YieldRecord;
use crate::units::Instant;

/// Samples above this are explained one by one.
pub(super) const SLOW: Duration = Duration::from_micros(500);
/// Slow samples that are kept; further ones are counted.
const SLOW_KEPT_MAX: usize = 100;

/// One event, from its beginning to the end of what it caused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    /// Since the bench began.
    pub(super) at: Duration,
    /// The load is about to be handed over.
    pub(super) event: Instant,
    /// It was handed over.
    pub(super) handed: Instant,
    /// What is known of the workers' last instruction.
    pub(super) last: LastInstruction,
    /// What the workers did when they were stopped; the first one's.
    pub(super) phase: Phase,
    /// Whether the thread that stops was on a worker's core afterwards; `None` when that is not told.
    pub(super) same_core: Option<bool>,
    /// What happened on the machine meanwhile.
    pub(super) evidence: Evidence,
    /// The sentinel's own record, where one stopped.
    pub(super) record: Option<YieldRecord>,
}

/// A sample above [`SLOW`].
#[derive(Clone, Debug)]
pub(super) struct Slow {
    /// Since the bench began.
    pub(super) at: Duration,
    /// The sample.
    pub(super) latency: Duration,
    /// Where the time went, as far as it is known.
    pub(super) parts: String,
    /// Why.
    pub(super) why: Explanation,
}

/// All events of one way of stopping.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Event to last instruction.
    pub(super) times: Latencies,
    /// Of those, upper bounds: the worker went from stamping to computing before it stopped.
    pub(super) bounds: u64,
    /// Not counted: the worker computed all the while.
    pub(super) unseen: u64,
    /// Not counted: the worker did not have its core.
    pub(super) displaced: u64,
    /// Not counted: somebody stopped the worker before the event.
    pub(super) early: u64,
    /// Event to confirmed stop by the sentinel's record, of workers that stamped.
    pub(super) confirmed_stamping: Latencies,
    /// The same of workers that computed.
    pub(super) confirmed_computing: Latencies,
    /// Samples above [`SLOW`], the first so many.
    pub(super) slow: Vec<Slow>,
    /// Of them all, how many there were.
    pub(super) slow_count: u64,
    /// How many of them exact clocks explain.
    pub(super) explained: u64,
    /// How many of them nothing that was counted explains.
    pub(super) unexplained: u64,
    /// The part of the times in which the thread that stops was on a worker's core when it had stopped it: there it
    /// displaces the worker by waking up.
    pub(super) same_core: Latencies,
    /// The part in which it was elsewhere.
    pub(super) other_core: Latencies,
    /// Turns that brought nothing.
    pub(super) void_turns: u32,
    /// Why there are no figures.
    pub(super) missing: Option<String>,
}

impl Tally {
    /// Takes an event in; says whether it counts.
    pub(super) fn take(&mut self, event: &Event) -> bool {
        if let Some(record) = event.record {
            let confirmed = record.confirmed.since(event.event);
            match event.phase {
                Phase::Stamp => self.confirmed_stamping.record(confirmed),
                Phase::Model | Phase::Starting => self.confirmed_computing.record(confirmed),
            }
        }
        let (last, bound) = match event.last {
            LastInstruction::At(last) => (last, false),
            LastInstruction::NotAfter(last) => (last, true),
            LastInstruction::Unseen => {
                self.unseen += 1;
                return false;
            }
            LastInstruction::Before => {
                self.displaced += 1;
                return false;
            }
        };
        let latency = last.since(event.event);
        self.times.record(latency);
        self.bounds += u64::from(bound);
        match event.same_core {
            Some(true) => self.same_core.record(latency),
            Some(false) => self.other_core.record(latency),
            None => {}
        }
        if latency > SLOW {
            self.take_slow(event, latency, bound);
        }
        true
    }

    fn take_slow(&mut self, event: &Event, latency: Duration, bound: bool) {
        let received = event.record.map(|record| record.received.since(event.event));
        let signalled = event.record.map_or(Duration::ZERO, |record| record.signalled.since(event.event));
        let mut why = event.evidence.explain(latency, received, latency.saturating_sub(signalled));
        if bound {
            why.causes.push("an upper bound: the worker began to compute before it stopped".to_owned());
        }
        self.slow_count += 1;
        self.explained += u64::from(why.verdict == Verdict::Explained);
        self.unexplained += u64::from(why.verdict == Verdict::Unexplained);
        if self.slow.len() < SLOW_KEPT_MAX {
            self.slow.push(Slow { at: event.at, latency, parts: parts(event, latency), why });
        }
    }
}

/// Where the time between event and last instruction went.
fn parts(event: &Event, latency: Duration) -> String {
    let us = |from: Instant, to: Instant| to.since(from).as_micros();
    let begin = event.event;
    let handed = format!("handed over after {} µs", us(begin, event.handed));
    let Some(record) = event.record else { return handed };
    format!(
        "{handed}, received after {}, decided after {}, signalled after {}, last instruction after {} µs",
        us(begin, record.received),
        us(begin, record.decided),
        us(begin, record.signalled),
        latency.as_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(us: u64) -> Instant {
        Instant::from_nanos(us * 1000)
    }

    fn event(last: LastInstruction, evidence: Evidence) -> Event {
        Event {
            at: Duration::from_secs(1),
            event: at(1_000),
            handed: at(1_003),
            last,
            phase: Phase::Stamp,
            same_core: Some(true),
            evidence,
            record: None,
        }
    }

    #[test]
    fn what_was_not_seen_is_not_counted_but_told() {
        let mut tally = Tally::default();
        let quiet = Evidence::default();
        assert!(tally.take(&event(LastInstruction::At(at(1_025)), quiet)));
        assert!(!tally.take(&event(LastInstruction::Unseen, quiet)));
        assert!(!tally.take(&event(LastInstruction::Before, quiet)));
        assert_eq!((tally.times.count(), tally.unseen, tally.displaced, tally.bounds), (1, 1, 1, 0));
        assert_eq!((tally.times.quantile_ns(1.0), tally.slow_count), (25_000, 0));
        assert_eq!((tally.same_core.count(), tally.other_core.count()), (1, 0));
    }

    #[test]
    fn a_slow_sample_is_explained_or_said_not_to_be() {
        let mut tally = Tally::default();
        let waited = Evidence { stopper_waited: Duration::from_micros(600), ..Evidence::default() };
        tally.take(&event(LastInstruction::At(at(1_700)), waited));
        tally.take(&event(LastInstruction::At(at(1_700)), Evidence::default()));
        tally.take(&event(LastInstruction::NotAfter(at(3_000)), Evidence::default()));
        assert_eq!((tally.slow_count, tally.explained, tally.unexplained, tally.bounds), (3, 1, 2, 1));
        assert!(tally.slow[0].why.causes[0].contains("600 µs"), "{:?}", tally.slow[0]);
        assert!(tally.slow[0].parts.contains("handed over after 3 µs"), "{:?}", tally.slow[0]);
        assert_eq!(tally.slow[1].why.causes, Vec::<String>::new());
    }

    #[test]
    fn the_memory_for_slow_samples_is_limited() {
        let mut tally = Tally::default();
        for _ in 0..SLOW_KEPT_MAX + 5 {
            tally.take(&event(LastInstruction::At(at(2_000)), Evidence::default()));
        }
        assert_eq!((tally.slow.len(), tally.slow_count), (SLOW_KEPT_MAX, SLOW_KEPT_MAX as u64 + 5));
    }
}
