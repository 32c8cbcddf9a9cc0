//! Is it inference? How a suspicion arises, what proves it, and what is told of the figures meanwhile.

use std::time::Duration;

use super::compare::Sides;
use super::evidence::{Band, Entry, Side, Sorted};
use super::late::Late;
use super::settings::CONTROL_WINDOWS;
use super::{Comparison, Figure, Guard, Ruling};
use crate::units::{Health, Instant, Utilization};

/// Fewest windows of each side for a suspicion.
const SUSPECT_RUNNING_MIN: usize = 8;
const SUSPECT_STOPPED_MIN: usize = 4;
/// With fewer stopped windows than this a single bad one may hide the harm, so that more are asked for.
const SUSPECT_STOPPED_SURE: usize = 12;
/// Running windows older than so many windows raise no suspicion any more.
const SUSPECT_WINDOWS: u32 = 40;
/// Stopped windows older than so many windows are too old to compare with: half an hour of the standard ones.
const STOPPED_WINDOWS: u32 = 1800;
/// Fewest windows of each side for a verdict, and fewest stops that the stopped ones must come from.
const JUDGE_RUNNING_MIN: usize = 12;
const JUDGE_STOPPED_MIN: usize = 6;
const JUDGE_STOPS_MIN: usize = 3;
/// How sure a suspicion and a verdict must be: squares of standard deviations, times 100. 2.5 and 3.1 of them.
const SUSPECT_SCORE: i64 = 625;
const JUDGE_SCORE: i64 = 961;
/// After so many deliberate stops without proof the suspicion is dropped.
const CONTROLS_MAX: u32 = 10;
/// A suspicion that found no end in so many times `control_every` is dropped as well.
const SUSPICION_MAX: u32 = 60;
/// Windows between two tellings of how a figure compares.
const COMPARED_EVERY_WINDOWS: u32 = 10;

/// A figure is worse while inference runs; is it inference?
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    pub(super) figure: Health,
    pub(super) since: Instant,
    /// Workers that ran in the windows that raised it.
    pub(super) workers: u8,
    /// Deliberate stops since.
    pub(super) controls: u32,
}

impl Guard {
    /// Looks at the evidence after another window in which inference ran.
    pub(super) fn look(&mut self, now: Instant, band: Band, workers: u8) {
        let is_known = match self.suspicion {
            Some(suspicion) => {
                self.judge(now, band, suspicion);
                true
            }
            None => self.suspect(now, band, workers),
        };
        let wanted = self.suspicion.is_some() || !is_known;
        if wanted && self.ceiling > 0 && self.busy > 0 && now >= self.control_at {
            self.control = Some(now.after(self.settings.window * CONTROL_WINDOWS));
            self.control_at = now.after(self.settings.control_every);
            self.begin_window(now);
            if let Some(suspicion) = &mut self.suspicion {
                suspicion.controls += 1;
            }
        }
    }

    /// Are the latest windows worse than what is known without inference? Tells whether there is anything to compare
    /// with.
    fn suspect(&mut self, now: Instant, band: Band, workers: u8) -> bool {
        let recent = self.settings.window * SUSPECT_WINDOWS;
        let mut is_known = true;
        for figure in Health::ALL {
            let latest = |entry: &&Entry| entry.workers == workers && now.since(entry.at) <= recent;
            let running = Sorted::of(self.evidence.each(figure, band, Side::Running).filter(latest));
            if running.values().len() < SUSPECT_RUNNING_MIN {
                continue;
            }
            // At another load when there is no better: the deliberate stops will show what it is worth.
            let young = |entry: &&Entry| now.since(entry.at) <= self.settings.window * STOPPED_WINDOWS;
            let known = |band| self.evidence.each(figure, band, Side::Stopped).filter(young);
            let Some(near) = band.nearest().find(|band| known(*band).count() >= SUSPECT_STOPPED_MIN) else {
                is_known = false;
                continue;
            };
            let stopped = Sorted::of(known(near));
            let sides = Sides { running: running.values(), stopped: stopped.values() };
            if self.is_worse(figure, sides, SUSPECT_SCORE) {
                let comparison = compared(figure, now, band, workers, sides);
                self.suspicion = Some(Suspicion { figure, since: now, workers, controls: 0 });
                self.rule(now, Ruling::Suspected, self.ceiling, Some(comparison));
                return true;
            }
            is_known &= !self.is_hidden(figure, sides);
        }
        is_known
    }

    /// Is it inference? By windows from after the suspicion only, in which running and standing alternated.
    fn judge(&mut self, now: Instant, band: Band, suspicion: Suspicion) {
        let Suspicion { figure, since, workers, controls } = suspicion;
        let fresh = |entry: &&Entry| entry.at > since && entry.workers >= workers;
        let running = Sorted::of(self.evidence.each(figure, band, Side::Running).filter(fresh));
        let fresh = |entry: &&Entry| entry.at > since;
        let stopped = Sorted::of(self.evidence.each(figure, band, Side::Stopped).filter(fresh));
        let stops = stops(self.evidence.each(figure, band, Side::Stopped).filter(fresh));
        let sides = Sides { running: running.values(), stopped: stopped.values() };
        let comparison = compared(figure, now, band, workers, sides);
        let is_enough = running.values().len() >= JUDGE_RUNNING_MIN
            && stopped.values().len() >= JUDGE_STOPPED_MIN
            && stops >= JUDGE_STOPS_MIN;
        if is_enough && self.is_worse(figure, sides, JUDGE_SCORE) {
            return self.lower(now, comparison);
        }
        let is_innocent = is_enough && sides.score(self.settings.tolerance(figure)) <= 0;
        let is_over = now.since(since) > self.settings.control_every * SUSPICION_MAX;
        if is_innocent || controls >= CONTROLS_MAX || is_over {
            self.suspicion = None;
            self.evidence.forget_before(figure, since);
            self.rule(now, Ruling::Cleared, self.ceiling, Some(comparison));
        }
    }

    /// Worse than tolerated, so surely, and in the figure that is told.
    fn is_worse(&self, figure: Health, sides: Sides<'_>, score: i64) -> bool {
        let tolerance = self.settings.tolerance(figure);
        let (_, running, stopped) = sides.quantile();
        u64::from(running) > tolerance.of(stopped) && sides.score(tolerance) >= score
    }

    /// Whether all that speaks against a suspicion is the worst of a few stopped windows.
    fn is_hidden(&self, figure: Health, sides: Sides<'_>) -> bool {
        let others = sides.stopped.split_last().map_or(sides.stopped, |(_worst, others)| others);
        sides.stopped.len() < SUSPECT_STOPPED_SURE
            && self.is_worse(figure, Sides { stopped: others, ..sides }, SUSPECT_SCORE)
    }

    pub(super) fn tell_comparisons(&mut self, now: Instant, band: Band, workers: u8) {
        if now.since(self.compared_at) < self.settings.window * COMPARED_EVERY_WINDOWS {
            return;
        }
        self.compared_at = now;
        for figure in Health::ALL {
            let alike = |entry: &&Entry| entry.workers == workers;
            let running = Sorted::of(self.evidence.each(figure, band, Side::Running).filter(alike));
            let stopped = Sorted::of(self.evidence.each(figure, band, Side::Stopped));
            let sides = Sides { running: running.values(), stopped: stopped.values() };
            if running.values().len() >= SUSPECT_RUNNING_MIN && stopped.values().len() >= SUSPECT_STOPPED_MIN {
                self.outbox.compared(compared(figure, now, band, workers, sides));
            }
        }
        if self.late.running.moments + self.late.stopped.moments > 0 {
            self.outbox.compared(self.compare_late(now));
        }
    }

    pub(super) fn compare_late(&self, now: Instant) -> Comparison {
        let Late { running, stopped, workers } = self.late;
        let seconds = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
        Comparison {
            figure: Figure::Late,
            at: now,
            load_from: Utilization::IDLE,
            load_below: Utilization::FULL,
            workers,
            quantile_permille: 0,
            running: running.hourly(),
            stopped: stopped.hourly(),
            running_windows: seconds(running.time),
            stopped_windows: seconds(stopped.time),
        }
    }
}

fn compared(figure: Health, at: Instant, band: Band, workers: u8, sides: Sides<'_>) -> Comparison {
    let (load_from, load_below) = band.ends();
    let (quantile_permille, running, stopped) = sides.quantile();
    let count = |values: &[u32]| u32::try_from(values.len()).unwrap_or(u32::MAX);
    Comparison {
        figure: Figure::Health(figure),
        at,
        load_from,
        load_below,
        workers,
        quantile_permille,
        running,
        stopped,
        running_windows: count(sides.running),
        stopped_windows: count(sides.stopped),
    }
}

/// How many stops the windows come from; [`JUDGE_STOPS_MIN`] stands for more as well.
fn stops<'a>(entries: impl Iterator<Item = &'a Entry>) -> usize {
    let mut seen = [None; JUDGE_STOPS_MIN];
    for entry in entries {
        let known = seen.contains(&Some(entry.span));
        if let Some(place) = seen.iter_mut().find(|place| place.is_none()).filter(|_| !known) {
            *place = Some(entry.span);
        }
    }
    seen.iter().flatten().count()
}
