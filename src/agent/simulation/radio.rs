//! How busy is the radio, and what does the sentinel make of it? The real governor before fake samples.
//!
//! Its decisions hold for the workers at once; the agent hears of them later, as from the sentinel's queue.

use std::collections::VecDeque;
use std::time::Duration;

use super::scenario::{MS, S, between, chance};
use crate::governor::{Decision, Governor, Load, Order, Policy, Sample};
use crate::load::Metric;
use crate::load::fusion::{Fused, FusedLoad};
use crate::sentinel::{REPORTS_MAX, Report, YieldRecord};
use crate::sim::day::Random;
use crate::units::{CellId, Instant, SourceId, Utilization, WORKERS_MAX};

const SOURCE: SourceId = SourceId(0);
/// Time between two load reports.
const LOAD_EVERY: Duration = Duration::from_secs(2);

/// Load, governor, and what the agent has not heard yet.
#[derive(Debug)]
pub(super) struct Radio {
    random: Random,
    policy: Policy,
    sample_every: Duration,
    /// Readings of which so many in a thousand are bad.
    bad: u64,
    governor: Governor,
    is_busy: bool,
    /// When the load next goes up or down.
    turns_at: Instant,
    samples_at: Instant,
    told_load: Instant,
    pub(super) storm_until: Instant,
    pub(super) silent_until: Instant,
    reports: VecDeque<(Instant, Report)>,
    /// Tokens of the jobs by slot.
    tokens: [u64; WORKERS_MAX],
    /// A stop that is not told yet.
    pub(super) overflowed: u64,
}

impl Radio {
    pub(super) fn new(random: Random, policy: &Policy, sample_every: Duration, bad: u64) -> Self {
        Self {
            random,
            policy: policy.clone(),
            sample_every,
            bad,
            governor: Governor::new(policy.clone()).expect("the scenario's policy can work"),
            is_busy: true,
            turns_at: Instant::default(),
            samples_at: Instant::default(),
            told_load: Instant::default(),
            storm_until: Instant::default(),
            silent_until: Instant::default(),
            reports: VecDeque::new(),
            tokens: [0; WORKERS_MAX],
            overflowed: 0,
        }
    }

    /// A new agent has a new sentinel.
    pub(super) fn restart(&mut self, now: Instant) {
        self.governor = Governor::new(self.policy.clone()).expect("the scenario's policy can work");
        self.reports.clear();
        self.tokens = [0; WORKERS_MAX];
        self.overflowed = 0;
        let decision = self.governor.decision();
        self.report(now, Report::Mode { at: now, decision });
    }

    /// Faults stop; the load goes up and down all the same.
    pub(super) fn calm(&mut self, now: Instant) {
        (self.storm_until, self.silent_until, self.bad) = (now, now, 0);
    }

    /// So many workers may run.
    pub(super) fn budget(&self) -> u8 {
        self.governor.decision().budget
    }

    pub(super) fn set_token(&mut self, slot: usize, token: u64) {
        self.tokens[slot] = token;
    }

    pub(super) fn works_at(&self) -> Instant {
        let sentinel = self.governor.next_timeout().unwrap_or(self.samples_at);
        self.turns_at.min(self.samples_at).min(sentinel)
    }

    /// Does what is due.
    pub(super) fn work(&mut self, now: Instant, busy_workers: u8) {
        if self.turns_at <= now {
            self.is_busy = !self.is_busy;
            let (least, most) = match (now < self.storm_until, self.is_busy) {
                (true, _) => (20 * MS, 400 * MS),
                (false, true) => (200 * MS, 5 * S),
                (false, false) => (2 * S, 15 * S),
            };
            self.turns_at = now.after(between(&mut self.random, least, most));
            // A rise is heard of at once, as through a doorbell.
            self.samples_at = now;
        }
        let before = self.budget();
        let decision = if self.samples_at <= now {
            self.samples_at = now.after(self.sample_every);
            self.sample(now)
        } else {
            self.governor.on_timeout(now)
        };
        self.decided(now, before, decision, busy_workers);
    }

    pub(super) fn order(&mut self, now: Instant, order: Order, busy_workers: u8) {
        let before = self.budget();
        let decision = self.governor.on_order(now, order);
        self.decided(now, before, decision, busy_workers);
    }

    fn sample(&mut self, now: Instant) -> Option<Decision> {
        if now < self.silent_until {
            return self.governor.on_timeout(now);
        }
        let permille = if self.is_busy { 400 + self.random.below(600) } else { self.random.below(250) };
        let level = u16::try_from(permille).ok().and_then(Utilization::from_permille).unwrap_or(Utilization::FULL);
        let bad = chance(&mut self.random, self.bad);
        let (load, fused) = match (bad, self.random.below(3)) {
            (false, _) => (Load::Level(SOURCE, level), FusedLoad::Level(SOURCE, level)),
            (true, 0) => (Load::Malformed(SOURCE), FusedLoad::Malformed(SOURCE)),
            (true, 1) => (Load::Late(SOURCE), FusedLoad::Late(SOURCE)),
            (true, _) => (Load::Stale(SOURCE), FusedLoad::Stale(SOURCE)),
        };
        let fresh_until = now.after(self.sample_every * 5 / 2);
        if now.since(self.told_load) >= LOAD_EVERY {
            self.told_load = now;
            let (changes_at, metric) = (fresh_until, Metric::PrbTotDl);
            let fused =
                Fused { load: fused, fresh_until, changes_at, stamped: None, received: now, metric, cell: CellId(1) };
            self.report(now, Report::Load { at: now, fused });
        }
        self.governor.on_sample(now, Sample { load, fresh_until })
    }

    fn decided(&mut self, now: Instant, before: u8, decision: Option<Decision>, busy_workers: u8) {
        let Some(decision) = decision else { return };
        self.report(now, Report::Mode { at: now, decision });
        if decision.budget < before && busy_workers > 0 {
            let record = self.record(now, decision, busy_workers);
            self.report(now, Report::Yield(record));
        } else if decision.budget > before && busy_workers > 0 {
            self.report(now, Report::Resumed { at: now, workers: busy_workers, jobs: self.tokens });
        }
    }

    fn record(&mut self, now: Instant, decision: Decision, workers: u8) -> YieldRecord {
        let confirmed = now.after(between(&mut self.random, MS / 50, 2 * MS));
        YieldRecord {
            source: SOURCE,
            reason: decision.reason,
            metric: Metric::PrbTotDl,
            cell: CellId(1),
            level: Utilization::FULL,
            threshold: self.policy.busy_above,
            stamped: None,
            received: now,
            decided: now,
            signalled: now,
            confirmed,
            workers,
            displaced: 0,
            frozen: 0,
            jobs: self.tokens,
            cpu_after: Duration::ZERO,
            around: None,
        }
    }

    fn report(&mut self, now: Instant, report: Report) {
        if self.reports.len() >= REPORTS_MAX {
            self.overflowed += 1;
            return;
        }
        let slow = chance(&mut self.random, 30);
        let delay = between(&mut self.random, MS / 50, if slow { 700 * MS } else { 3 * MS });
        let last = self.reports.back().map_or(now, |(at, _)| *at);
        self.reports.push_back((now.after(delay).max(last), report));
    }

    pub(super) fn reports_at(&self) -> Option<Instant> {
        self.reports.front().map(|(at, _)| *at)
    }

    /// The next report whose time has come.
    pub(super) fn take_report(&mut self, now: Instant) -> Option<Report> {
        let is_due = self.reports.front().is_some_and(|(at, _)| *at <= now);
        if is_due { self.reports.pop_front().map(|(_, report)| report) } else { None }
    }
}
