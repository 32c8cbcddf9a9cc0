//! What does the forecast learn from a controller's load reports? The highest level of each step, once it is over. Pure.

use super::{Now, Outlooks};
use crate::governor::forecast::STEP;
use crate::load::mqtt::Said;
use crate::units::{CellId, Utilization, WallTime};

/// The step that reports are coming in for: its begin, and the highest level of any cell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reported(Option<(WallTime, Utilization)>);

impl Outlooks {
    /// Takes in a report that counts, measured at that time.
    pub(in crate::agent) fn hear_report(&mut self, now: Now, at: WallTime, cells: &[(CellId, Said)]) {
        let level = |(_, said): &(CellId, Said)| match said {
            Said::Level(_, level) => Some(*level),
            Said::Gone => None,
        };
        let Some(level) = cells.iter().filter_map(level).max().filter(|_| now.is_sure()) else { return };
        let from = begin(at);
        // A clock that was set back: that step is not to come a second time.
        self.reported.0.take_if(|(known, _)| *known > now.wall);
        match &mut self.reported.0 {
            Some((known, highest)) if *known == from => *highest = (*highest).max(level),
            // One that comes late: its step is over.
            Some((known, _)) if *known > from => {
                self.learn(now, from, STEP, level);
            }
            Some(_) | None => {
                self.learn_reported(now);
                self.reported.0 = Some((from, level));
            }
        }
    }

    /// Learns of the step that was reported, when it is over.
    pub(super) fn learn_reported(&mut self, now: Now) {
        if now.is_sure()
            && let Some((from, level)) = self.reported.0.take_if(|(from, _)| from.after(STEP) <= now.wall)
        {
            self.learn(now, from, STEP, level);
        }
    }
}

/// The begin of the step that holds a moment.
fn begin(at: WallTime) -> WallTime {
    let step = i64::try_from(STEP.as_millis()).unwrap_or(i64::MAX);
    WallTime::from_millis(at.as_millis().div_euclid(step).saturating_mul(step))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::outlooks;
    use super::*;
    use crate::load::Metric;
    use crate::units::Instant;

    fn now(seconds: u64) -> Now {
        let passed = Duration::from_secs(seconds);
        Now::sure(Instant::default().after(passed), WallTime::from_millis(1_767_571_200_000).after(passed))
    }

    fn cells(percents: &[u8]) -> Vec<(CellId, Said)> {
        let said = |percent: &u8| Said::Level(Metric::PrbTotDl, Utilization::from_percent(*percent).unwrap());
        percents.iter().map(|percent| (CellId(u64::from(*percent)), said(percent))).collect()
    }

    /// Whether that level would be news for the step that begins there.
    fn is_news(outlooks: &Outlooks, later: u64, from: u64, percent: u8) -> bool {
        let mut forecast = outlooks.forecast.clone().unwrap();
        forecast.on_history(now(later).wall, now(from).wall, STEP, Utilization::from_percent(percent).unwrap())
    }

    #[test]
    fn the_highest_report_of_a_step_is_learned_when_the_step_is_over() {
        let mut outlooks = outlooks();
        for (at, percents) in [(0, &[10, 60][..]), (30, &[70, 5]), (119, &[20])] {
            outlooks.hear_report(now(at), now(at).wall, &cells(percents));
            outlooks.look(now(at));
        }
        assert_eq!(outlooks.snapshot(), None, "the step is not over");
        outlooks.look(now(120));
        assert!(outlooks.snapshot().is_some());
        assert_eq!([69, 70, 71].map(|percent| is_news(&outlooks, 120, 0, percent)), [false, false, true]);
        // The next one ends with a report of the one after it, and one that is late joins its own.
        outlooks.hear_report(now(130), now(130).wall, &cells(&[30]));
        outlooks.hear_report(now(250), now(250).wall, &cells(&[40]));
        assert_eq!([30, 31].map(|percent| is_news(&outlooks, 250, 120, percent)), [false, true]);
        outlooks.hear_report(now(251), now(140).wall, &cells(&[50]));
        assert_eq!([50, 51].map(|percent| is_news(&outlooks, 251, 120, percent)), [false, true]);
        outlooks.hear_report(now(400), now(250).wall, &[(CellId(1), Said::Gone)]);
        outlooks.look(now(400));
        assert_eq!([40, 41].map(|percent| is_news(&outlooks, 400, 240, percent)), [false, true]);
    }

    #[test]
    fn a_doubtful_clock_learns_of_no_report() {
        let mut outlooks = outlooks();
        let doubtful = Now { due: WallTime::from_millis(i64::MIN), ..now(10) };
        outlooks.hear_report(doubtful, now(10).wall, &cells(&[60]));
        outlooks.look(now(500));
        assert_eq!(outlooks.snapshot(), None);
    }
}
