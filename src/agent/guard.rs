//! What becomes of the guard's findings? They are logged, counted, published, and shown on the status page.

use std::collections::BTreeMap;

use super::core::Core;
use super::desk::Now;
use super::reports::Reports;
use crate::governor::guard::{Comparison, Figure, News, Ruling, Verdict};
use crate::jobs::store::{Batch, Message};
use crate::link::messages::{GuardComparison, GuardEvent, GuardState};
use crate::telemetry::LogLimit;
use crate::units::WallTime;

/// What the guard has said so far.
#[derive(Clone, Debug, Default)]
pub(super) struct GuardBook {
    /// Most workers that may run, once the guard has said so.
    pub(super) ceiling: Option<u8>,
    /// The latest comparison of each figure.
    pub(super) compared: BTreeMap<Figure, Comparison>,
    /// Verdicts by what they came to and the figure they rest on.
    pub(super) verdicts: BTreeMap<(Ruling, Option<Figure>), u64>,
    /// Whether figures of health are heard, as far as is known.
    pub(super) hears: Option<Ruling>,
    /// The latest verdict that changed something.
    pub(super) last: Option<(WallTime, Verdict)>,
}

impl GuardBook {
    fn enter(&mut self, at: WallTime, news: News) {
        match news {
            News::Compared(comparison) => {
                self.compared.insert(comparison.figure, comparison);
            }
            News::Verdict(verdict) => {
                self.ceiling = Some(verdict.to);
                let figure = verdict.comparison.map(|comparison| comparison.figure);
                *self.verdicts.entry((verdict.ruling, figure)).or_default() += 1;
                match verdict.ruling {
                    Ruling::Harm | Ruling::Calm | Ruling::Suspected | Ruling::Cleared => {
                        self.last = Some((at, verdict));
                        self.compared.extend(verdict.comparison.map(|comparison| (comparison.figure, comparison)));
                    }
                    Ruling::Unheard | Ruling::Silent | Ruling::Heard => self.hears = Some(verdict.ruling),
                }
            }
        }
    }

    /// For the counters message.
    pub(super) fn state(&self) -> Option<GuardState> {
        let ceiling = self.ceiling.map(u32::from);
        let compared: Vec<_> = self.compared.values().map(comparison).collect();
        let verdicts = self.verdicts.iter().fold(BTreeMap::new(), |mut all, ((ruling, _), count)| {
            *all.entry(ruling.as_str().to_owned()).or_default() += count;
            all
        });
        let is_anything = ceiling.is_some() || !compared.is_empty();
        is_anything.then(|| GuardState {
            ceiling,
            verdicts,
            compared,
            last: self.last.map(|(at, verdict)| event(&verdict, at)),
        })
    }
}

impl Core {
    /// The guard has something to tell.
    pub(super) fn hear_guard(&mut self, now: Now, news: News) {
        self.telemetry.guard().enter(now.wall, news);
        let News::Verdict(verdict) = news else { return };
        static RULED: LogLimit = LogLimit::new(20, 60);
        if let Some(suppressed) = RULED.admit(now.mono) {
            match verdict.ruling {
                Ruling::Harm => tracing::warn!(suppressed, "guard: {verdict}"),
                Ruling::Calm | Ruling::Suspected | Ruling::Cleared => tracing::info!(suppressed, "guard: {verdict}"),
                Ruling::Unheard | Ruling::Silent | Ruling::Heard => tracing::info!(suppressed, "guard: {verdict}"),
            }
        }
        let message = self.desk.reports.guarded(&verdict, now.wall);
        self.desk.report(Batch { droppable: vec![message], ..Batch::default() }, None);
        self.telemetry.state_changed();
    }
}

impl Reports {
    /// A verdict of the guard.
    fn guarded(&self, verdict: &Verdict, at: WallTime) -> Message {
        self.guard_message(&event(verdict, at), at)
    }
}

fn event(verdict: &Verdict, at: WallTime) -> GuardEvent {
    GuardEvent {
        ruling: verdict.ruling.as_str().to_owned(),
        from: u32::from(verdict.from),
        to: u32::from(verdict.to),
        text: verdict.to_string(),
        compared: verdict.comparison.as_ref().map(comparison),
        at,
    }
}

fn comparison(comparison: &Comparison) -> GuardComparison {
    let Comparison { running, stopped, running_windows, stopped_windows, workers, .. } = *comparison;
    GuardComparison {
        figure: comparison.figure.as_str().to_owned(),
        quantile: f64::from(comparison.quantile_permille) / 1000.0,
        running,
        stopped,
        change_ratio: f64::from(comparison.change_permille()) / 1000.0,
        workers: u32::from(workers),
        running_windows,
        stopped_windows,
    }
}
