//! What has the guard to tell that nobody has taken yet? Fixed memory: the latest of everything.

use super::verdict::{Comparison, Figure, News, Verdict};

/// Verdicts that wait; more come hardly before the next wake of the thread that takes them.
const VERDICTS_MAX: usize = 8;

/// Verdicts in their order, and the latest comparison of each figure.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    verdicts: [Option<Verdict>; VERDICTS_MAX],
    compared: [Option<Comparison>; Figure::ALL.len()],
}

impl Outbox {
    /// With all places taken the oldest verdict gives way.
    pub(super) fn rule(&mut self, verdict: Verdict) {
        if self.verdicts.iter().all(Option::is_some) {
            self.take_verdict();
        }
        if let Some(place) = self.verdicts.iter_mut().find(|place| place.is_none()) {
            *place = Some(verdict);
        }
    }

    pub(super) fn compared(&mut self, comparison: Comparison) {
        let place = Figure::ALL.iter().position(|figure| *figure == comparison.figure);
        if let Some(place) = place.and_then(|place| self.compared.get_mut(place)) {
            *place = Some(comparison);
        }
    }

    pub(super) fn take(&mut self) -> Option<News> {
        let verdict = self.take_verdict().map(News::Verdict);
        verdict.or_else(|| self.compared.iter_mut().find_map(Option::take).map(News::Compared))
    }

    fn take_verdict(&mut self) -> Option<Verdict> {
        let first = self.verdicts[0].take();
        self.verdicts.rotate_left(1);
        first
    }
}
