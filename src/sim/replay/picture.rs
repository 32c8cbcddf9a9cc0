//! What happened on one node, moment by moment? Enough of it to be drawn.

use std::time::Duration;

use super::account::Span;
use crate::units::{Instant, Utilization};

/// Days that are kept, from the first one.
pub const DAYS_MAX: usize = 7;
/// Most spans that are kept: 2-minute samples and what happens between them, for all these days.
const SPANS_MAX: usize = 40_000;

/// One stretch of the load, as it was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Begin, since the recording's zero.
    pub from: Duration,
    /// End.
    pub to: Duration,
    /// `None`: not known.
    pub level: Option<Utilization>,
    /// Workers that might run.
    pub budget: u8,
}

/// What happened on one node.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    stretches: Vec<Stretch>,
    yields: Vec<Duration>,
}

impl Picture {
    pub(super) fn add(&mut self, span: &Span) {
        let since = |at: Instant| at.since(Instant::default());
        let (from, to) = (since(span.from), since(span.to));
        if to <= from || self.stretches.len() >= SPANS_MAX || to.saturating_sub(self.begin()) > Self::span_max() {
            return;
        }
        let next = Stretch { from, to, level: span.level, budget: span.budget };
        match self.stretches.last_mut() {
            Some(last) if last.to == from && last.level == next.level && last.budget == next.budget => last.to = to,
            Some(_) | None => self.stretches.push(next),
        }
    }

    pub(super) fn add_yield(&mut self, at: Instant) {
        let at = at.since(Instant::default());
        if self.stretches.last().is_some_and(|last| last.to >= at) {
            self.yields.push(at);
        }
    }

    fn begin(&self) -> Duration {
        self.stretches.first().map_or(Duration::ZERO, |first| first.from)
    }

    const fn span_max() -> Duration {
        Duration::from_secs(86_400 * DAYS_MAX as u64)
    }

    /// The kept days, each from its begin; days follow one another from the first reading.
    pub fn days(&self) -> impl Iterator<Item = Duration> {
        let (begin, end) = (self.begin(), self.stretches.last().map_or(Duration::ZERO, |last| last.to));
        let day = Duration::from_secs(86_400);
        (0..7).map(move |index| begin + day * index).take_while(move |from| *from < end)
    }

    /// The day from that moment: its stretches, cut to it, and the moments of its yields.
    pub fn day(&self, from: Duration) -> (Vec<Stretch>, Vec<Duration>) {
        let until = from + Duration::from_secs(86_400);
        let cut = |stretch: &Stretch| {
            let cut = Stretch { from: stretch.from.max(from), to: stretch.to.min(until), ..*stretch };
            (cut.from < cut.to).then_some(cut)
        };
        let yields = self.yields.iter().copied().filter(|at| (from..until).contains(at)).collect();
        (self.stretches.iter().filter_map(cut).collect(), yields)
    }
}
