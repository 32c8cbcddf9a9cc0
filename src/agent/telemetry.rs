//! When is what told without being asked? State, load and counters, each with its own pace.
//!
//! State is retained and matters: it follows every change, but never more often than twice a second. Load and counters
//! are by exception and by the clock, and may be lost.

use std::time::Duration;

use super::courier::Courier;
use super::desk::Now;
use super::reports::Reports;
use crate::link::Publish;
use crate::load::fusion::{Fused, FusedLoad};
use crate::sentinel::{Sentinel, YieldRecord};
use crate::telemetry::YieldHistogram;
use crate::units::{Instant, Utilization};

/// Shortest time between two states.
const STATE_GAP: Duration = Duration::from_millis(500);
/// Shortest time between two load samples, and the longest without one.
const LOAD_GAP: Duration = Duration::from_secs(1);
const LOAD_SILENCE_MAX: Duration = Duration::from_secs(10);
/// A change of load worth a message, in permille.
const LOAD_STEP_PERMILLE: u16 = 50;
/// Time between two sets of counters.
const METRICS_EVERY: Duration = Duration::from_secs(10);

/// What the counters message tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    /// Yields since the start, and their latency.
    pub yields: YieldHistogram,
    /// CPU time that workers used between the decision to stop and the confirmed stop.
    pub cpu_after_stop: Duration,
    /// Messages that the broker refused.
    pub refused: u64,
    /// Telemetry dropped here.
    pub dropped: u64,
    /// Sentinel reports dropped because the loop was slow.
    pub overflowed: u64,
    /// How often workers stopped themselves because the sentinel was silent.
    pub parked: u64,
}

/// Paces of everything told unasked.
#[derive(Debug, Default)]
pub(super) struct Telemetry {
    state_due: bool,
    state_at: Option<Instant>,
    counts: (usize, usize),
    load: Option<Utilization>,
    load_told: Option<(Instant, Utilization)>,
    metrics_at: Option<Instant>,
    counters: Counters,
}

impl Telemetry {
    /// Mode, session or connection changed: the state is told again.
    pub(super) fn state_changed(&mut self) {
        self.state_due = true;
    }

    /// The load that decides.
    pub(super) fn loaded(&mut self, fused: &Fused) {
        self.load = match fused.load {
            FusedLoad::Level(_, level) => Some(level),
            FusedLoad::Late(_) | FusedLoad::Malformed(_) | FusedLoad::Stale(_) | FusedLoad::Unheard => None,
        };
    }

    /// A yield was confirmed.
    pub(super) fn yielded(&mut self, record: &YieldRecord) {
        self.counters.yields.record(record.total());
        self.counters.cpu_after_stop += record.cpu_after;
    }

    /// Workers stopped themselves so often.
    pub(super) fn parked(&mut self, times: u32) {
        self.counters.parked += u64::from(times);
    }

    /// The broker refused a message.
    pub(super) fn refused(&mut self) {
        self.counters.refused += 1;
    }

    /// What is to be published now.
    pub(super) fn due(
        &mut self,
        now: Now,
        reports: &Reports,
        counts: (usize, usize),
        courier: &Courier,
        sentinel: &Sentinel,
    ) -> Vec<Publish> {
        let mut messages = Vec::new();
        let passed = |since: Option<Instant>, span| since.is_none_or(|since| now.mono.since(since) >= span);
        if counts != self.counts {
            self.counts = counts;
            self.state_due = true;
        }
        if self.state_due && passed(self.state_at, STATE_GAP) {
            self.state_due = false;
            self.state_at = Some(now.mono);
            messages.push(reports.state(counts, now.wall));
        }
        if let Some(level) = self.load {
            let changed =
                self.load_told.is_none_or(|(_, told)| told.permille().abs_diff(level.permille()) >= LOAD_STEP_PERMILLE);
            let told_at = self.load_told.map(|(at, _)| at);
            if (changed && passed(told_at, LOAD_GAP)) || passed(told_at, LOAD_SILENCE_MAX) {
                self.load_told = Some((now.mono, level));
                messages.extend(reports.load(now.wall));
            }
        }
        if passed(self.metrics_at, METRICS_EVERY) {
            self.metrics_at = Some(now.mono);
            self.counters.dropped = courier.dropped();
            self.counters.overflowed = sentinel.overflowed();
            messages.push(reports.metrics(&self.counters, now.wall));
        }
        messages
    }

    /// When [`Telemetry::due`] has something at the latest, as time from now.
    pub(super) fn next(&self, now: Now) -> Option<Duration> {
        let state = self.state_due.then(|| self.state_at.map_or(now.mono, |at| at.after(STATE_GAP)));
        let metrics = self.metrics_at.map(|at| at.after(METRICS_EVERY));
        state.into_iter().chain(metrics).min().map(|at| at.since(now.mono))
    }
}
