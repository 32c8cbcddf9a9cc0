//! What came of a replay, for a person and for a machine? Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::Run;
use crate::governor::Mode;
use crate::governor::forecast::HORIZONS;
use crate::sim::replay::Outcome;
use crate::sim::replay::account::{Hour, Totals, share};
use crate::sim::replay::foresee::Errors;
use crate::sim::replay::work::Outcomes;

/// What each figure is, for the help and the page.
pub(super) const MEANINGS: [(&str, &str); 11] = [
    (
        "harvest",
        "core time that the governor granted, as a share of all core time (workers x time from a node's first to its last reading)",
    ),
    ("harvest of low load", "the same as a share of the core time in which the load was known and below busy_above"),
    ("yields a day", "times the budget went from some workers to none, for each day of a node"),
    (
        "evictions a day",
        "yields after which it stayed none for longer than evict_after_s, so that stopped work is given up",
    ),
    (
        "busy overlap",
        "time with a budget while the last reading was at or above busy_above or had gone stale; zero by construction",
    ),
    (
        "unseen",
        "time a day with a budget while the load, drawn as straight lines between readings, was at or above busy_above: what rare samples hide",
    ),
    ("plain threshold", "one limit: stop at or above it, start below it, both at once"),
    ("rival", "the plain threshold with the fewest yields among those that harvest as much, and at most 4 points more"),
    (
        "forecast error",
        "mean absolute error of the forecast, in percent of load, of the two minutes that begin so far ahead; below 1 of persistence is better than saying that all stays as it is",
    ),
    ("deadlines", "jobs done in time, missed, refused when they came, and still open at the end"),
    ("core time used", "share of the granted core time in which a worker had a job"),
];

/// Names of the modes that share the time of a replay.
const MODES: [Mode; 4] = [Mode::Trough, Mode::Settling, Mode::Busy, Mode::Blind];

/// The head and rows of the table: one column a configuration.
pub(super) fn rows(run: &Run, outcomes: &[Outcome]) -> (Vec<String>, Vec<Vec<String>>) {
    let mut head = vec![String::new()];
    head.extend(outcomes.iter().map(|outcome| outcome.setup.name.clone()));
    let mut rows = Vec::new();
    let mut row = |name: &str, cell: &dyn Fn(&Outcome) -> String| {
        let cells = outcomes.iter().map(cell);
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect::<Vec<String>>());
    };
    row("busy_above / idle_below", &|o| format!("{} / {}", o.setup.policy.busy_above, o.setup.policy.idle_below));
    row("settle", &|o| format!("{} to {}", span(o.setup.policy.settle), span(o.setup.policy.settle_max)));
    row("freshness", &|o| span(o.setup.freshness));
    row("harvest", &|o| percent(o.totals.harvest()));
    row("harvest of low load", &|o| percent(o.totals.harvest_of_low()));
    row("yields a day", &|o| format!("{:.2}", o.totals.a_day(o.totals.runs.yields)));
    row("evictions a day", &|o| format!("{:.2}", o.totals.a_day(o.totals.runs.evictions)));
    row("busy overlap", &|o| span(o.totals.overlap));
    row("unseen, a day", &|o| format!("{:.1} s", unseen_s(&o.totals)));
    row("longest trough", &|o| span(o.totals.runs.longest));
    row("plain threshold at busy_above: harvest", &|o| percent(o.totals.plain_harvest()));
    row("plain: yields a day", &|o| format!("{:.2}", o.totals.a_day(o.totals.plain.yields)));
    row("plain: evictions a day", &|o| format!("{:.2}", o.totals.a_day(o.totals.plain.evictions)));
    row("rival: plain threshold at", &|o| rival(&o.totals, |rival, _| format!("{} %", rival.threshold)));
    row("rival: harvest", &|o| rival(&o.totals, |rival, _| percent(rival.harvest)));
    row("rival: yields a day", &|o| rival(&o.totals, |rival, totals| format!("{:.2}", totals.a_day(rival.yields))));
    row("yields against the rival's", &|o| {
        rival(&o.totals, |rival, totals| format!("{:.2}", ratio(totals.runs.yields, rival.yields)))
    });
    for mode in MODES {
        row(mode.as_str(), &|o| percent(share(o.totals.modes[mode as usize], o.totals.time)));
    }
    for (index, horizon) in HORIZONS.into_iter().enumerate() {
        if outcomes.iter().any(|outcome| outcome.totals.errors[index].count > 0) {
            row(&format!("forecast error, {} min", horizon.as_secs() / 60), &|o| error(&o.totals.errors[index]));
        }
    }
    if !run.streams.is_empty() {
        let jobs = |text: fn(&Outcomes) -> u64| move |o: &Outcome| text(&o.totals.jobs.all()).to_string();
        row("jobs", &jobs(|all| all.came));
        row("jobs: deadline met", &jobs(|all| all.met));
        row("jobs: missed", &jobs(|all| all.missed));
        row("jobs: refused", &jobs(|all| all.refused));
        row("jobs: open at the end", &jobs(|all| all.open));
        row("jobs: attempts evicted", &jobs(|all| all.evicted));
        row("core time used", &|o| percent(share(o.totals.jobs.used, o.totals.granted)));
        row("core time lost to evictions", &|o| percent(share(o.totals.jobs.lost, o.totals.granted)));
    }
    (head, rows)
}

/// Everything, for a machine. All but `run` is the same whenever it is replayed.
pub(super) fn json(run: &Run, outcomes: &[Outcome]) -> Value {
    let seconds = run.took.as_secs_f64();
    let node_days = outcomes.first().map_or(0.0, |outcome| outcome.totals.time.as_secs_f64() / 86_400.0);
    let a_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
    json!({
        "traces": run.traces,
        "nodes": run.nodes,
        "readings": run.readings,
        "node_days": node_days,
        "fused": run.fused,
        "configs": outcomes.iter().map(|outcome| config(run, outcome)).collect::<Vec<_>>(),
        "run": {
            "seconds": seconds,
            "node_days_per_second": a_second(node_days),
            "days_of_100_cells_per_second": a_second(node_days / 100.0),
            "readings_per_second": a_second(real(run.readings)),
        },
    })
}

fn config(run: &Run, outcome: &Outcome) -> Value {
    let (setup, totals) = (&outcome.setup, &outcome.totals);
    let policy = &setup.policy;
    let level = |level: crate::units::Utilization| f64::from(level.permille()) / 10.0;
    let rival = totals.curve.rival(totals.harvest()).map(|rival| {
        json!({
            "threshold_percent": rival.threshold,
            "harvest_percent": rival.harvest * 100.0,
            "yields_per_day": totals.a_day(rival.yields),
            "yields_ratio": ratio(totals.runs.yields, rival.yields),
            "points": (rival.harvest - totals.harvest()) * 100.0,
        })
    });
    let modes: serde_json::Map<String, Value> = Mode::ALL
        .into_iter()
        .map(|mode| (mode.as_str().to_owned(), json!(share(totals.modes[mode as usize], totals.time) * 100.0)))
        .collect();
    let hour = |hour: &Hour| share(hour.granted, hour.core_time) * 100.0;
    json!({
        "name": setup.name,
        "busy_above_percent": level(policy.busy_above),
        "idle_below_percent": level(policy.idle_below),
        "settle_s": policy.settle.as_secs_f64(),
        "settle_max_s": policy.settle_max.as_secs_f64(),
        "flap_window_s": policy.flap_window.as_secs_f64(),
        "workers": policy.workers,
        "freshness_s": setup.freshness.as_secs_f64(),
        "evict_after_s": setup.evict_after.as_secs_f64(),
        "harvest_percent": totals.harvest() * 100.0,
        "harvest_of_low_percent": totals.harvest_of_low() * 100.0,
        "core_hours_granted": totals.granted.as_secs_f64() / 3600.0,
        "yields": totals.runs.yields,
        "yields_per_day": totals.a_day(totals.runs.yields),
        "evictions": totals.runs.evictions,
        "evictions_per_day": totals.a_day(totals.runs.evictions),
        "busy_overlap_s": totals.overlap.as_secs_f64(),
        "unseen_busy_s_per_day": unseen_s(totals),
        "longest_trough_s": totals.runs.longest.as_secs_f64(),
        "modes_percent": modes,
        "harvest_by_hour_percent": totals.hours.iter().map(hour).collect::<Vec<_>>(),
        "plain": {
            "threshold_percent": level(policy.busy_above),
            "harvest_percent": totals.plain_harvest() * 100.0,
            "yields_per_day": totals.a_day(totals.plain.yields),
            "evictions_per_day": totals.a_day(totals.plain.evictions),
            "longest_trough_s": totals.plain.longest.as_secs_f64(),
        },
        "rival": rival,
        "forecast": HORIZONS.iter().zip(&totals.errors).map(|(horizon, errors)| json!({
            "horizon_s": horizon.as_secs(),
            "count": errors.count,
            "mae_percent": errors.mean_percent(),
            "persistence_mae_percent": errors.persistence_percent(),
            "against_persistence": errors.against_persistence(),
        })).collect::<Vec<_>>(),
        "jobs": jobs(run, totals),
    })
}

fn jobs(run: &Run, totals: &Totals) -> Value {
    let counts = |o: &Outcomes| json!({"came": o.came, "met": o.met, "missed": o.missed, "refused": o.refused, "open": o.open, "evicted": o.evicted});
    let streams = run.streams.iter().zip(&totals.jobs.streams).map(|(stream, outcomes)| {
        let mut value = counts(outcomes);
        value["model"] = json!(stream.model.as_str());
        value["items"] = json!(stream.items);
        value
    });
    let streams: Vec<Value> = streams.collect();
    json!({
        "all": counts(&totals.jobs.all()),
        "streams": streams,
        "used_percent": share(totals.jobs.used, totals.granted) * 100.0,
        "lost_percent": share(totals.jobs.lost, totals.granted) * 100.0,
    })
}

fn rival(totals: &Totals, text: impl Fn(crate::sim::replay::plain::Plain, &Totals) -> String) -> String {
    totals.curve.rival(totals.harvest()).map_or_else(|| "-".to_owned(), |rival| text(rival, totals))
}

/// The mean error in percent of load, and for each of persistence.
fn error(errors: &Errors) -> String {
    match (errors.mean_percent(), errors.against_persistence()) {
        (Some(mean), Some(ratio)) => format!("{mean:.1} %, {ratio:.2} of persistence"),
        (Some(mean), None) => format!("{mean:.1} %"),
        (None, _) => "-".to_owned(),
    }
}

fn unseen_s(totals: &Totals) -> f64 {
    let days = totals.time.as_secs_f64() / 86_400.0;
    if days > 0.0 { totals.unseen.as_secs_f64() / days } else { 0.0 }
}

/// One count over another; 0 of nothing.
fn ratio(ours: u64, theirs: u64) -> f64 {
    if theirs == 0 { 0.0 } else { real(ours) / real(theirs) }
}

/// A count as a number.
fn real(count: u64) -> f64 {
    Duration::from_nanos(count).as_secs_f64() * 1e9
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A time as a person reads it.
fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..60.0 => format!("{} s", (seconds * 1000.0).round() / 1000.0),
        60.0..7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}
