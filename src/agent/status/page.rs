//! What is told to Prometheus? What an operator of many nodes would want to be woken for, and what explains it. Pure.

use std::time::Duration;

use super::exposition::{Exposition, Kind};
use crate::agent::reports::{Impairment, Reports};
use crate::agent::telemetry::Counters;
use crate::governor::Mode;
use crate::governor::guard::Figure;
use crate::ledger::Ledger;
use crate::ledger::distribution::Distribution;
use crate::link::tls::certificates::Certificate;
use crate::load::fusion::FusedLoad;
use crate::units::WallTime;

/// Bounds of the histogram, in µs, and as they are written. Some of the ledger's, so the counts are exact.
const BUCKETS: [(u64, &str); 12] = [
    (20, "0.00002"),
    (50, "0.00005"),
    (100, "0.0001"),
    (200, "0.0002"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_000, "0.002"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (1_000_000, "1"),
];

/// Quantiles of the parts, in permille, and as they are written.
const QUANTILES: [(u16, &str); 3] = [(500, "0.5"), (990, "0.99"), (999, "0.999")];

/// What is known of the node at the moment, besides its ledger.
pub(in crate::agent) struct Scene<'a> {
    /// Mode, load, names.
    pub(in crate::agent) reports: &'a Reports,
    /// The ledger and the counters.
    pub(in crate::agent) counters: &'a Counters,
    /// Jobs in progress, and waiting.
    pub(in crate::agent) jobs: (usize, usize),
    /// Worker processes configured.
    pub(in crate::agent) workers: u8,
    /// Whether the broker is reached.
    pub(in crate::agent) connected: bool,
    /// Those that the link goes by.
    pub(in crate::agent) certificates: Vec<Certificate>,
    /// When the agent started.
    pub(in crate::agent) since: WallTime,
    /// CPU time of the agent.
    pub(in crate::agent) cpu: Duration,
    /// Resident memory of the agent, where it is known.
    pub(in crate::agent) resident_bytes: Option<u64>,
}

/// The page.
pub(in crate::agent) fn metrics(scene: &Scene<'_>) -> String {
    let mut text = Exposition::default();
    node(&mut text, scene);
    load_and_jobs(&mut text, scene);
    latencies(&mut text, scene);
    yields(&mut text, &scene.counters.yields);
    guard(&mut text, scene);
    losses(&mut text, scene);
    text.finish()
}

fn node(text: &mut Exposition, scene: &Scene<'_>) {
    let info = scene.reports.node_info();
    text.family("neap_build_info", Kind::Gauge, "Version of the agent; always 1.");
    text.flag("neap_build_info", &[("version", &info.version)], true);
    text.family("neap_start_time_seconds", Kind::Gauge, "When the agent started, Unix time.");
    let since = Duration::from_millis(u64::try_from(scene.since.as_millis()).unwrap_or(0));
    text.seconds("neap_start_time_seconds", &[], since);
    text.family("neap_mode", Kind::Gauge, "1 for the mode that the node is in.");
    let decision = scene.reports.decision();
    for mode in Mode::ALL {
        text.flag("neap_mode", &[("mode", mode.as_str())], mode == decision.mode);
    }
    text.family("neap_degraded", Kind::Gauge, "1 for each cause that keeps the node from its best.");
    for cause in Impairment::ALL {
        text.flag("neap_degraded", &[("cause", cause.as_str())], scene.reports.impaired(cause).is_some());
    }
    text.family("neap_yield_class", Kind::Gauge, "How fast a yield can be, by the sentinel's scheduling; always 1.");
    text.flag("neap_yield_class", &[("class", &info.yield_class)], true);
    text.family("neap_memory_locked", Kind::Gauge, "Whether the agent's memory is locked.");
    text.flag("neap_memory_locked", &[], info.memory_locked);
    text.family("neap_link_connected", Kind::Gauge, "Whether the broker is reached.");
    text.flag("neap_link_connected", &[], scene.connected);
    text.family("neap_transport", Kind::Gauge, "How private the way to the broker is; always 1.");
    text.flag("neap_transport", &[("kind", &info.transport)], true);
    if !scene.certificates.is_empty() {
        text.family(
            "neap_cert_expiry_seconds",
            Kind::Gauge,
            "Until when a certificate of the link is valid, Unix time.",
        );
        for one in &scene.certificates {
            let until = Duration::from_millis(u64::try_from(one.not_after.as_millis()).unwrap_or(0));
            let labels = [("whose", one.whose.as_str()), ("name", one.name.as_str())];
            text.seconds("neap_cert_expiry_seconds", &labels, until);
        }
    }
    text.family("process_cpu_seconds_total", Kind::Counter, "CPU time of the agent, without its workers.");
    text.seconds("process_cpu_seconds_total", &[], scene.cpu);
    if let Some(bytes) = scene.resident_bytes {
        text.family("process_resident_memory_bytes", Kind::Gauge, "Resident memory of the agent.");
        text.count("process_resident_memory_bytes", &[], bytes);
    }
}

fn load_and_jobs(text: &mut Exposition, scene: &Scene<'_>) {
    let decision = scene.reports.decision();
    let level = scene.reports.fused().and_then(|fused| match fused.load {
        FusedLoad::Level(source, level) => Some((source, fused.metric, level)),
        FusedLoad::Late(_) | FusedLoad::Malformed(_) | FusedLoad::Stale(_) | FusedLoad::Unheard => None,
    });
    text.family("neap_load_known", Kind::Gauge, "Whether there is a load to believe; without one the node is busy.");
    text.flag("neap_load_known", &[], level.is_some());
    if let Some((source, metric, level)) = level {
        text.family("neap_load_permille", Kind::Gauge, "The load that decides, 0 to 1000.");
        let labels = [("source", scene.reports.source(source)), ("metric", metric.as_str())];
        text.count("neap_load_permille", &labels, u64::from(level.permille()));
    }
    text.family("neap_workers", Kind::Gauge, "Worker processes: configured, and allowed to run now.");
    text.count("neap_workers", &[("state", "configured")], u64::from(scene.workers));
    text.count("neap_workers", &[("state", "allowed")], u64::from(decision.budget));
    text.family("neap_jobs", Kind::Gauge, "Jobs in progress (suspended ones included), and waiting.");
    let (running, queued) = scene.jobs;
    for (state, count) in [("running", running), ("queued", queued)] {
        text.count("neap_jobs", &[("state", state)], count as u64);
    }
}

fn latencies(text: &mut Exposition, scene: &Scene<'_>) {
    let ledger = &scene.counters.yields;
    let accounts: Vec<_> = ledger.origins().map(|(origin, account)| (scene.reports.origin(origin), account)).collect();
    if accounts.is_empty() {
        return;
    }
    let name = "neap_yield_total_seconds";
    text.family(name, Kind::Histogram, "From the sample's stamp to the confirmed stop of every worker.");
    for (source, account) in &accounts {
        for (bound_us, le) in BUCKETS {
            let within = account.total.count_within(bound_us);
            text.count("neap_yield_total_seconds_bucket", &[("source", source), ("le", le)], within);
        }
        let count = account.total.count();
        text.count("neap_yield_total_seconds_bucket", &[("source", source), ("le", "+Inf")], count);
        text.seconds("neap_yield_total_seconds_sum", &[("source", source)], account.total.sum());
        text.count("neap_yield_total_seconds_count", &[("source", source)], count);
    }
    text.family("neap_yield_max_seconds", Kind::Gauge, "The slowest yield since the start.");
    for (source, account) in &accounts {
        text.seconds("neap_yield_max_seconds", &[("source", source)], account.total.max());
    }
    let name = "neap_yield_part_seconds";
    text.family(name, Kind::Summary, "Parts of the yield latency since the start: detect, decide, stop.");
    for (source, account) in &accounts {
        for (part, distribution) in [("detect", &account.detect), ("decide", &account.decide), ("stop", &account.stop)]
        {
            summary(text, &[("source", source), ("part", part)], distribution);
        }
    }
}

fn summary(text: &mut Exposition, labels: &[(&str, &str); 2], distribution: &Distribution) {
    for (permille, quantile) in QUANTILES {
        let value = Duration::from_micros(distribution.permille_us(permille));
        text.seconds("neap_yield_part_seconds", &[labels[0], labels[1], ("quantile", quantile)], value);
    }
    text.seconds("neap_yield_part_seconds_sum", labels, distribution.sum());
    text.count("neap_yield_part_seconds_count", labels, distribution.count());
}

fn yields(text: &mut Exposition, ledger: &Ledger) {
    text.family("neap_yields_total", Kind::Counter, "Yields of at least one worker, by reason.");
    for (why, count) in ledger.reasons() {
        text.count("neap_yields_total", &[("reason", why.as_str())], count);
    }
    let name = "neap_slow_yields_total";
    text.family(name, Kind::Counter, "Yields above 500 us, by how well they are explained.");
    for (verdict, count) in ledger.verdicts() {
        text.count(name, &[("verdict", verdict.as_str())], count);
    }
    let name = "neap_slow_yield_causes_total";
    text.family(name, Kind::Counter, "Yields above 500 us that had this cause; one may have several.");
    for (kind, count) in ledger.kinds() {
        text.count(name, &[("cause", kind.as_str())], count);
    }
    let name = "neap_worker_cpu_after_stop_seconds_total";
    text.family(name, Kind::Counter, "CPU time of workers between the decision to stop and the confirmed stop.");
    text.seconds(name, &[], ledger.cpu_after());
    let name = "neap_workers_displaced_total";
    text.family(name, Kind::Counter, "Stops of workers that got no core any more and needed none.");
    text.count(name, &[], ledger.displaced());
    let name = "neap_workers_frozen_total";
    text.family(
        name,
        Kind::Counter,
        "Stops of workers that were frozen because their signals were undone or came too late.",
    );
    text.count(name, &[], ledger.frozen());
}

fn guard(text: &mut Exposition, scene: &Scene<'_>) {
    let book = &scene.counters.guard;
    text.family("neap_guard_ceiling", Kind::Gauge, "Most workers that the harm guard lets run.");
    let ceiling = book.ceiling.unwrap_or(scene.workers).min(scene.workers);
    text.count("neap_guard_ceiling", &[], u64::from(ceiling));
    let name = "neap_guard_verdicts_total";
    text.family(name, Kind::Counter, "Verdicts of the harm guard, by what they came to and the figure they rest on.");
    for ((ruling, figure), count) in &book.verdicts {
        let labels = [("ruling", ruling.as_str()), ("figure", figure.map_or("none", Figure::as_str))];
        text.count(name, &labels, *count);
    }
    if book.compared.is_empty() {
        return;
    }
    let name = "neap_guard_figure";
    text.family(name, Kind::Gauge, "How the RAN fared while inference ran and while it did not, at like load.");
    for comparison in book.compared.values() {
        let quantile = (f64::from(comparison.quantile_permille) / 1000.0).to_string();
        for (side, value) in [("running", comparison.running), ("stopped", comparison.stopped)] {
            let labels = [("figure", comparison.figure.as_str()), ("side", side), ("quantile", quantile.as_str())];
            text.count(name, &labels, u64::from(value));
        }
    }
}

fn losses(text: &mut Exposition, scene: &Scene<'_>) {
    let Counters { yields: _, killed, refused, dropped, overflowed, parked, guard: _ } = scene.counters;
    for (name, help, count) in [
        ("neap_workers_killed_total", "Workers that did not stop in time and were killed.", killed),
        ("neap_messages_refused_total", "Messages that the broker refused.", refused),
        ("neap_telemetry_dropped_total", "Telemetry dropped because the link was slow or the outbox full.", dropped),
        ("neap_sentinel_reports_dropped_total", "Reports of the sentinel that the agent was too slow for.", overflowed),
        ("neap_workers_parked_total", "Times that a worker stood still because the sentinel was silent.", parked),
    ] {
        text.family(name, Kind::Counter, help);
        text.count(name, &[], *count);
    }
}
