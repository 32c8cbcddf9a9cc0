//! What may a controller's report about the load do here? Judged when it comes: its form, its age, and how many there are.
//!
//! Reports are not signed orders: they can make the node busier and nothing else, so whoever may publish to this node
//! gains nothing by a false one that withholding its jobs would not give. For the same reason a report that makes no
//! sense is left out and counted, and is no reason to stop.

use std::time::Duration;

use super::core::{Act, Core};
use super::desk::Now;
use crate::link::messages::{LoadPlan, PlannedUsage};
use crate::link::{AckToken, Publish};
use crate::load::Metric;
use crate::load::mqtt::Said;
use crate::telemetry::LogLimit;
use crate::units::{CellId, Instant, Utilization, WallTime};

/// How far ahead of this node's clock a report may be: two machines, each with a clock of its own.
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// Mean time between two reports, at least.
const GAP: Duration = Duration::from_millis(100);
/// How many may follow one another at once.
const BURST: u32 = 50;

/// One report that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// When it was measured, on this node's clock.
    pub(super) at: Instant,
    /// The same by the wall clock; never later than now.
    pub(super) wall: WallTime,
    /// What it says, cell by cell.
    pub(super) cells: Vec<(CellId, Said)>,
}

/// Judge of the reports.
#[derive(Debug, Default)]
pub(super) struct Planning {
    /// Age at which a report is no longer believed; `None`: no source takes any.
    max_age: Option<Duration>,
    /// By when all reports so far would have come at the mean pace.
    paid_until: Instant,
    /// Reports that counted, and those that did not.
    pub(super) heard: u64,
    pub(super) left_out: u64,
}

impl Planning {
    /// No report heard yet.
    pub(super) fn new(max_age: Option<Duration>) -> Self {
        Self { max_age, ..Self::default() }
    }

    /// Judges one report.
    ///
    /// # Errors
    /// Why it does not count, with value, limit and remedy.
    fn judge(&mut self, now: Now, message: &Publish) -> Result<Heard, String> {
        let judged = self.judged(now, message);
        match &judged {
            Ok(_) => self.heard += 1,
            Err(_) => self.left_out += 1,
        }
        judged
    }

    fn judged(&mut self, now: Now, message: &Publish) -> Result<Heard, String> {
        let Some(max_age) = self.max_age else {
            return Err(
                "no [[load]] of kind \"mqtt\" is configured: add one, or send no reports to this node".to_owned()
            );
        };
        if message.retain {
            return Err("it arrived retained: it would come again at every connect; publish it without".to_owned());
        }
        if self.paid_until.since(now.mono) > GAP * BURST {
            return Err(format!("more than {BURST} at once, or one in {} ms: send fewer", GAP.as_millis()));
        }
        self.paid_until = self.paid_until.max(now.mono).after(GAP);
        let plan = LoadPlan::parse(&message.body).map_err(|fault| fault.message)?;
        let age = now.wall.since(plan.at);
        let ahead = plan.at.since(now.wall);
        if ahead > AHEAD_MAX {
            let limit = AHEAD_MAX.as_secs();
            return Err(format!(
                "it is of {}, {} s ahead of this node's clock (at most {limit}): set the clocks",
                plan.at,
                ahead.as_secs()
            ));
        }
        if age >= max_age {
            return Err(format!("it is of {}, {} s old (max_age_s is {})", plan.at, age.as_secs(), max_age.as_secs()));
        }
        // A node that has just been started may be younger than the report: then it is as old as the clock allows.
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let at = Instant::from_nanos(now.mono.as_nanos().saturating_sub(age));
        let said = |usage: PlannedUsage| match usage {
            PlannedUsage::Gone => Said::Gone,
            PlannedUsage::Prb { dl, ul } => {
                let (metric, percent) = if ul > dl { (Metric::PrbTotUl, ul) } else { (Metric::PrbTotDl, dl) };
                Said::Level(metric, percent.and_then(Utilization::from_percent).unwrap_or(Utilization::FULL))
            }
        };
        let wall = plan.at.min(now.wall);
        Ok(Heard { at, wall, cells: plan.cells.iter().map(|cell| (cell.cell, said(cell.usage))).collect() })
    }
}

impl Core {
    /// A controller has reported the load.
    pub(super) fn hear_plan(&mut self, now: Now, message: &Publish, ack: Option<AckToken>) {
        match self.planning.judge(now, message) {
            Ok(heard) => {
                self.outlooks.hear_report(now, heard.wall, &heard.cells);
                self.acts.push_back(Act::Plan(heard));
            }
            Err(why) => {
                static LEFT_OUT: LogLimit = LogLimit::new(5, 60);
                if let Some(suppressed) = LEFT_OUT.admit(now.mono) {
                    let count = self.planning.left_out;
                    tracing::warn!(why, count, suppressed, "a controller's load report does not count");
                }
            }
        }
        self.acknowledge(ack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::messages::PlannedCell;

    const MAX_AGE: Duration = Duration::from_secs(900);
    /// This node was started half an hour before.
    const UPTIME_S: u64 = 1800;

    fn now(later_ms: u64) -> Now {
        let wall = WallTime::from_millis(1_764_000_000_000).after(Duration::from_millis(later_ms));
        Now { mono: Instant::from_nanos(UPTIME_S * 1_000_000_000 + later_ms * 1_000_000), wall, due: wall }
    }

    fn report(at: WallTime, dl: Option<u8>, ul: Option<u8>) -> Publish {
        let cells = vec![PlannedCell { cell: CellId(1), usage: PlannedUsage::Prb { dl, ul } }];
        Publish::plain("down/load", LoadPlan { at, cells }.render())
    }

    fn judge() -> Planning {
        Planning::new(Some(MAX_AGE))
    }

    fn ago(seconds: i64) -> WallTime {
        WallTime::from_millis(now(0).wall.as_millis() - seconds * 1000)
    }

    #[test]
    fn a_report_keeps_its_age_and_the_higher_direction_counts() {
        let level = |percent| Utilization::from_percent(percent).unwrap();
        let heard = judge().judge(now(0), &report(ago(600), Some(12), Some(71))).unwrap();
        assert_eq!(heard.at, Instant::from_nanos((UPTIME_S - 600) * 1_000_000_000));
        assert_eq!(heard.cells, [(CellId(1), Said::Level(Metric::PrbTotUl, level(71)))]);
        for (dl, ul, metric, percent) in [
            (Some(5), None, Metric::PrbTotDl, 5),
            (None, Some(6), Metric::PrbTotUl, 6),
            (Some(7), Some(7), Metric::PrbTotDl, 7),
        ] {
            let heard = judge().judge(now(0), &report(ago(0), dl, ul)).unwrap();
            assert_eq!(heard.cells, [(CellId(1), Said::Level(metric, level(percent)))]);
        }
    }

    #[test]
    fn what_is_too_old_or_from_the_future_does_not_count() {
        let mut judge = judge();
        for (seconds, counts) in [(899, true), (900, false), (100_000, false), (0, true), (-5, true), (-6, false)] {
            assert_eq!(judge.judge(now(0), &report(ago(seconds), Some(1), None)).is_ok(), counts, "{seconds} s");
        }
        assert_eq!((judge.heard, judge.left_out), (3, 3));
        let ahead = judge.judge(now(0), &report(ago(-3), Some(1), None)).unwrap();
        assert_eq!(ahead.at, now(0).mono, "a clock that is ahead gives no longer life");
        let why = judge.judge(now(0), &report(ago(901), Some(1), None)).unwrap_err();
        assert!(why.contains("901 s old") && why.contains("max_age_s is 900"), "{why}");
    }

    #[test]
    fn a_report_older_than_the_machine_s_uptime_is_heard_from_its_beginning() {
        let young = Now { mono: Instant::from_nanos(60_000_000_000), ..now(0) };
        assert_eq!(judge().judge(young, &report(ago(300), Some(1), None)).unwrap().at, Instant::default());
    }

    #[test]
    fn a_flood_is_cut_to_its_pace() {
        let mut judge = judge();
        let count = |judge: &mut Planning, ms| {
            (0..200).filter(|_| judge.judge(now(ms), &report(now(ms).wall, Some(1), None)).is_ok()).count()
        };
        assert_eq!(count(&mut judge, 0), 51);
        assert_eq!(count(&mut judge, 1000), 10);
        assert_eq!(count(&mut judge, 3_600_000), 51);
        let why = {
            count(&mut judge, 3_600_001);
            judge.judge(now(3_600_001), &report(now(0).wall, Some(1), None)).unwrap_err()
        };
        assert!(why.contains("more than 50"), "{why}");
    }

    #[test]
    fn without_such_a_source_and_with_a_retained_report_nothing_counts() {
        let good = report(ago(0), Some(1), None);
        let why = Planning::default().judge(now(0), &good).unwrap_err();
        assert!(why.contains("kind \"mqtt\""), "{why}");
        let why = judge().judge(now(0), &Publish { retain: true, ..good }).unwrap_err();
        assert!(why.contains("retained"), "{why}");
        assert!(judge().judge(now(0), &Publish::plain("t", b"nonsense".to_vec())).is_err());
    }
}
