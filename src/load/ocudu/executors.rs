//! How much do the executors of the gNB work, taken together? Pure.
//!
//! A report has one object an executor. The sum is only told when the report is whole, for a sum that lacks an executor
//! is too low. The rules:
//!
//! 1. A report ends when an executor is named for the second time, or when [`REPORT_GAP`] passed without another.
//! 2. The set of executors is learned: all that were ever named. Nothing is told before one report had all that were
//!    known at its begin, so neither the report in whose middle a subscription begins nor the next one counts.
//! 3. A report that lacks a known executor tells nothing. The level before it goes stale, which means busy.
//! 4. After [`SHORT_REPORTS_MAX`] such reports in a row the missing ones are forgotten: a gNB that was started anew
//!    with fewer cells is believed after as long.
//! 5. Of a whole report the sum is told with its last executor, and again should another follow.
//! 6. An executor whose load is not told makes its report tell nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::document::Executor;
use crate::units::Instant;

/// Executors of one gNB.
pub const EXECUTORS_MAX: usize = 512;
/// A pause that ends a report. A gNB writes all of a report within two milliseconds, and one a second.
pub const REPORT_GAP: Duration = Duration::from_millis(50);
/// Reports that lack the same executors before these are forgotten.
pub const SHORT_REPORTS_MAX: u32 = 10;

/// The executors, and the report that is being read.
#[derive(Debug, Default)]
pub struct Executors {
    /// In which report each was last named.
    known: BTreeMap<String, u64>,
    report: Report,
    /// Whether a report had all that were known at its begin.
    learned: bool,
    /// Reports in a row that lacked one.
    short: u32,
}

#[derive(Debug, Default)]
struct Report {
    number: u64,
    last: Option<(Instant, Option<u64>)>,
    /// Known at its begin, of them not named yet.
    awaited: usize,
    was_empty: bool,
    percent: f64,
    load_missing: bool,
}

impl Executors {
    /// Takes in one executor; gives the sum in percent of a core once the report is whole. The error says why the
    /// stream makes no sense.
    pub fn on_executor(
        &mut self,
        now: Instant,
        clock_ms: Option<u64>,
        executor: &Executor,
    ) -> Result<Option<f64>, &'static str> {
        let again = self.known.get(&executor.name) == Some(&self.report.number);
        if again || self.report.last.is_none_or(|last| is_apart(last, (now, clock_ms))) {
            self.begin_report();
        }
        self.report.last = Some((now, clock_ms));
        if let Some(number) = self.known.get_mut(&executor.name) {
            *number = self.report.number;
            self.report.awaited = self.report.awaited.saturating_sub(1);
        } else if self.known.len() < EXECUTORS_MAX {
            self.known.insert(executor.name.clone(), self.report.number);
        } else {
            return Err("more than 512 executors");
        }
        match executor.cpu_load {
            Some(percent) => self.report.percent += percent,
            None => self.report.load_missing = true,
        }
        let whole = self.learned && self.report.awaited == 0 && !self.report.load_missing;
        Ok(whole.then_some(self.report.percent))
    }

    fn begin_report(&mut self) {
        let ended = &self.report;
        if ended.last.is_some() {
            if ended.awaited == 0 {
                self.short = 0;
                self.learned |= !ended.was_empty;
            } else {
                self.short += 1;
            }
        }
        let number = ended.number + 1;
        if self.short >= SHORT_REPORTS_MAX {
            self.known.retain(|_, named| number - *named <= u64::from(SHORT_REPORTS_MAX));
            self.short = 0;
        }
        let awaited = self.known.len();
        self.report = Report { number, awaited, was_empty: awaited == 0, ..Report::default() };
    }
}

/// Whether two objects are of different reports, by our clock or by the gNB's.
fn is_apart(last: (Instant, Option<u64>), next: (Instant, Option<u64>)) -> bool {
    let gap_ms = u64::try_from(REPORT_GAP.as_millis()).unwrap_or(u64::MAX);
    let by_their_clock = match (last.1, next.1) {
        (Some(last), Some(next)) => last.abs_diff(next) >= gap_ms,
        (None, _) | (_, None) => false,
    };
    by_their_clock || next.0.since(last.0) >= REPORT_GAP
}
