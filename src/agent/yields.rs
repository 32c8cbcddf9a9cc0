//! How is the ledger told? Its figures and causes in the words of the messages, and on the pages of the status
//! socket.

use std::time::Duration;

use super::Agent;
use super::reports::Reports;
use super::status::{self, Asked, Page, Scene};
use super::telemetry::Counters;
use crate::governor::Reason;
use crate::ledger::cause::{Causes, Verdict};
use crate::ledger::distribution::{BOUNDS_US, Distribution};
use crate::ledger::{Account, Ledger, Origin, Why};
use crate::link::messages::{CauseReport, Latencies, Latency, Metrics, SlowYields, YieldEvent, Yields};
use crate::sentinel::YieldRecord;
use crate::sys::{clock, memory};
use crate::units::WallTime;

/// What orders are called where sources have their names.
pub(super) const ORDER: &str = "order";

/// Whole microseconds.
pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl Reports {
    /// One yield in words; of its jobs the caller knows the names.
    pub(super) fn yield_event(
        &self,
        record: &YieldRecord,
        causes: Option<&Causes>,
        jobs: Vec<String>,
        at: WallTime,
    ) -> YieldEvent {
        let known = matches!(record.reason, Reason::Above { .. });
        let report = |cause: crate::ledger::cause::Cause| CauseReport {
            cause: cause.kind.as_str().to_owned(),
            least_us: micros(cause.least),
            most_us: micros(cause.most),
        };
        YieldEvent {
            source: self.source(record.source).to_owned(),
            reason: Why::of(&record.reason).as_str().to_owned(),
            metric: record.metric.as_str().to_owned(),
            value: known.then_some(record.level),
            threshold: known.then_some(record.threshold),
            detect_us: micros(record.detect()),
            decide_us: micros(record.decide()),
            stop_us: micros(record.stop()),
            total_us: micros(record.total()),
            workers: u32::from(record.workers),
            displaced: u32::from(record.displaced),
            frozen: u32::from(record.frozen),
            cpu_after_us: Some(micros(record.cpu_after)),
            causes: causes.map(|causes| causes.iter().map(report).collect()).unwrap_or_default(),
            explained_permille: causes.map(Causes::explained_permille),
            jobs,
            at,
        }
    }

    /// What a source is called, or `order`.
    pub(super) fn origin(&self, origin: Origin) -> &str {
        match origin {
            Origin::Source(source) => self.source(source),
            Origin::Order => ORDER,
        }
    }

    /// Counters since the start.
    pub(super) fn metrics_body(&self, counters: &Counters, at: WallTime) -> Metrics {
        let ledger = &counters.yields;
        let total = ledger.all().total.figures();
        let slow = |wanted| ledger.verdicts().find(|(verdict, _)| *verdict == wanted).map_or(0, |(_, count)| count);
        let came = ledger.reasons().filter(|(_, count)| *count > 0);
        Metrics {
            session: self.session().to_owned(),
            yields: ledger.all().total.count(),
            yield_p50_us: total.p50_us,
            yield_p99_us: total.p99_us,
            yield_p999_us: total.p999_us,
            yield_max_us: total.max_us,
            cpu_after_stop_us: micros(ledger.cpu_after()),
            displaced: ledger.displaced(),
            frozen: ledger.frozen(),
            reasons: came.map(|(why, count)| (why.as_str().to_owned(), count)).collect(),
            slow: SlowYields {
                explained: slow(Verdict::Explained),
                possible: slow(Verdict::Possible),
                unexplained: slow(Verdict::Unexplained),
            },
            sources: ledger.origins().map(|(origin, account)| latencies(self.origin(origin), account)).collect(),
            worst: ledger
                .worst()
                .map(|worst| self.yield_event(&worst.record, worst.causes.as_ref(), Vec::new(), worst.at)),
            messages_refused: counters.refused,
            telemetry_dropped: counters.dropped,
            reports_overflowed: counters.overflowed,
            workers_parked: counters.parked,
            guard: counters.guard.state(),
            at,
        }
    }

    /// The whole ledger, for `neap yields`.
    pub(super) fn yields(&self, counters: &Counters, since: WallTime, at: WallTime) -> Yields {
        let info = self.node_info();
        Yields {
            node: self.node(),
            version: info.version,
            since,
            yield_class: info.yield_class,
            memory_locked: info.memory_locked,
            all: latencies("all", counters.yields.all()),
            spread: spread(&counters.yields),
            metrics: self.metrics_body(counters, at),
        }
    }
}

impl Agent {
    /// Shows a page to whoever asks on this machine; one made a moment ago is good enough.
    pub(super) fn show(&mut self, asked: Asked) {
        let now = self.clocks.now();
        let text = match self.status.kept(asked.page, now.mono) {
            Some(kept) => kept,
            None => {
                let text = self.page(asked.page, now.wall);
                self.status.keep(asked.page, now.mono, text)
            }
        };
        // Whoever asked may have gone.
        let _ = asked.reply.send(text);
    }

    fn page(&mut self, page: Page, at: WallTime) -> String {
        self.core.telemetry.overflowed(self.sentinel.overflowed());
        let jobs = self.core.desk.counts();
        let (connected, since) = (self.core.is_connected(), self.core.since());
        let counters = self.core.telemetry.counters(&self.core.courier);
        let reports = &self.core.desk.reports;
        match page {
            Page::Metrics => status::metrics(&Scene {
                reports,
                counters,
                jobs,
                workers: self.settings.workers.count,
                connected,
                certificates: self.privacy.certificates().cloned().collect(),
                since,
                cpu: clock::own_cpu(),
                resident_bytes: memory::resident_bytes(std::process::id()),
            }),
            Page::Yields => String::from_utf8(reports.yields(counters, since, at).render()).unwrap_or_default(),
        }
    }
}

fn latencies(source: &str, account: &Account) -> Latencies {
    let Account { detect, decide, stop, total } = account;
    Latencies {
        source: source.to_owned(),
        yields: total.count(),
        detect: latency(detect),
        decide: latency(decide),
        stop: latency(stop),
        total: latency(total),
    }
}

fn latency(distribution: &Distribution) -> Latency {
    let figures = distribution.figures();
    Latency { p50_us: figures.p50_us, p99_us: figures.p99_us, p999_us: figures.p999_us, max_us: figures.max_us }
}

fn spread(ledger: &Ledger) -> Vec<(Option<u64>, u64)> {
    let bounds = BOUNDS_US.into_iter().map(Some).chain([None]);
    bounds.zip(*ledger.all().total.spread()).filter(|(_, count)| *count > 0).collect()
}
