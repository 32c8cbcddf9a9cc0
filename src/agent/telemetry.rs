//! When is what told without being asked? State, load and counters, each with its own pace.
//!
//! State is retained and matters: it follows every change, but never more often than twice a second. Load and counters
//! are by exception and by the clock, and may be lost.

use std::time::Duration;

use super::courier::Courier;
use super::desk::{Desk, Now};
use super::guard::GuardBook;
use crate::ledger::Ledger;
use crate::ledger::cause::{Causes, HostDeltas, SLOW};
use crate::link::Publish;
use crate::load::fusion::{Fused, FusedLoad};
use crate::sentinel::YieldRecord;
use crate::sys::usage::{HostUsage, TICK};
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
/// Time between two readings of what the host counts.
const HOST_EVERY: Duration = Duration::from_secs(1);

/// What the counters message tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    /// Yields since the start.
    pub yields: Ledger,
    /// Workers that did not stop in time and were killed.
    pub killed: u64,
    /// Messages that the broker refused.
    pub refused: u64,
    /// Telemetry dropped here, because the link was slow or the outbox full.
    pub dropped: u64,
    /// Sentinel reports dropped because the loop was slow.
    pub overflowed: u64,
    /// How often workers stopped themselves because the sentinel was silent.
    pub parked: u64,
    /// What the harm guard has said.
    pub guard: GuardBook,
}

/// Paces of everything told unasked.
#[derive(Debug)]
pub(super) struct Telemetry {
    state_due: bool,
    /// The next state is the first of a connection.
    birth_due: bool,
    state_at: Option<Instant>,
    counts: (usize, usize),
    load: Option<Utilization>,
    load_told: Option<(Instant, Utilization)>,
    metrics_at: Option<Instant>,
    counters: Counters,
    /// Messages that gave way in the outbox.
    gave_way: u64,
    read_host: fn() -> Option<HostUsage>,
    host: Option<(Instant, HostUsage)>,
}

impl Telemetry {
    /// Nothing told yet; what the host counts is read by that function.
    pub(super) fn new(read_host: fn() -> Option<HostUsage>) -> Self {
        Self {
            state_due: false,
            state_at: None,
            birth_due: false,
            counts: (0, 0),
            load: None,
            load_told: None,
            metrics_at: None,
            counters: Counters::default(),
            gave_way: 0,
            read_host,
            host: None,
        }
    }

    /// Connected: the next state is a birth, which lists the open jobs.
    pub(super) fn born(&mut self) {
        (self.birth_due, self.state_due) = (true, true);
    }

    /// Mode, counts or connection changed: the state is told again.
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

    /// Workers may run from now on, or still: what the host counts is noted once a second, to be compared with when a
    /// yield is slow.
    pub(super) fn watch_host(&mut self, now: Now) {
        if self.host.is_none_or(|(at, _)| now.mono.since(at) >= HOST_EVERY) {
            self.host = (self.read_host)().map(|usage| (now.mono, usage));
        }
    }

    /// A yield was confirmed. Gives what delayed it, when it was slow.
    pub(super) fn yielded(&mut self, now: Now, record: &YieldRecord) -> Option<Causes> {
        let host = self.host.filter(|_| record.total() >= SLOW).and_then(|(at, then)| {
            let seen = (self.read_host)()?;
            Some(HostDeltas {
                span: now.mono.since(at),
                tick: TICK,
                steal_ticks: seen.steal_ticks.saturating_sub(then.steal_ticks),
                irq_ticks: seen.irq_ticks.saturating_sub(then.irq_ticks),
            })
        });
        self.counters.yields.record(record, now.wall, host.as_ref())
    }

    /// A worker did not stop in time and was killed.
    pub(super) fn killed(&mut self) {
        self.counters.killed += 1;
    }

    /// What the harm guard has said.
    pub(super) fn guard(&mut self) -> &mut GuardBook {
        &mut self.counters.guard
    }

    /// Everything counted so far, up to date.
    pub(super) fn counters(&mut self, courier: &Courier) -> &Counters {
        self.counters.dropped = courier.dropped() + self.gave_way;
        &self.counters
    }

    /// So many messages have given way in a full outbox since the start.
    pub(super) fn gave_way(&mut self, messages: u64) {
        self.gave_way = messages;
    }

    /// The sentinel has dropped so many reports since its start.
    pub(super) fn overflowed(&mut self, reports: u64) {
        self.counters.overflowed = reports;
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
    pub(super) fn due(&mut self, now: Now, desk: &Desk, courier: &Courier) -> Vec<Publish> {
        let (reports, counts) = (&desk.reports, desk.counts());
        let mut messages = Vec::new();
        let passed = |since: Option<Instant>, span| since.is_none_or(|since| now.mono.since(since) >= span);
        if counts != self.counts {
            self.counts = counts;
            self.state_due = true;
        }
        if self.state_due && passed(self.state_at, STATE_GAP) {
            self.state_due = false;
            self.state_at = Some(now.mono);
            let open = std::mem::take(&mut self.birth_due).then(|| desk.open_jobs());
            messages.push(reports.state(counts, desk.unacknowledged(), open, now.wall));
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
            messages.push(reports.metrics(self.counters(courier), now.wall));
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
