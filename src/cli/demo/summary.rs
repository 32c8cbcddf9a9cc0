//! What came out? The figures of a run, as JSON for machines and as a few lines for people.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::stage::player::Played;
use crate::sim::controller::Tally;

/// Samples listed in the summary for people.
const SIGHTS_MAX: usize = 24;

/// One finished run.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    /// Seed of the day.
    pub(super) seed: u64,
    /// How long the day was to take.
    pub(super) day: Duration,
    /// Worker processes.
    pub(super) workers: u8,
    /// What became of the jobs.
    pub(super) tally: Tally,
    /// What was played and measured.
    pub(super) played: Played,
    /// How long the agent took to end after SIGTERM; `None` when it had to be killed or had died before.
    pub(super) stopped_in: Option<Duration>,
    /// Whether the day was cut short by hand.
    pub(super) interrupted: bool,
}

/// Nearest-rank percentiles of yield latency, in microseconds; all 0 without yields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Latency {
    fn of(yields_us: &[u64]) -> Self {
        let mut sorted = yields_us.to_vec();
        sorted.sort_unstable();
        // The smallest value that at least so many permille of all are not above.
        let rank = |permille: usize| {
            let index = (sorted.len() * permille).div_ceil(1000).saturating_sub(1);
            sorted.get(index).copied().unwrap_or(0)
        };
        Self { p50: rank(500), p99: rank(990), p999: rank(999), max: rank(1000) }
    }
}

impl Summary {
    /// Whether everything that was submitted ended well.
    pub(super) fn is_clean(&self) -> bool {
        let Tally { lost, unfinished, failed, rejected, timed_out, contradictions, .. } = &self.tally;
        [lost, unfinished, failed, rejected, timed_out, contradictions].iter().all(|count| **count == 0)
            && self.stopped_in.is_some()
            && (self.tally.succeeded > 0 || self.interrupted)
    }

    /// The keys promised by the manual, and a few more.
    pub(super) fn json(&self) -> Value {
        let Self { tally, played, .. } = self;
        let latency = Latency::of(&tally.yields_us);
        let mut seen = serde_json::Map::new();
        for ((model, title), what) in &tally.sights {
            let of_model = seen.entry(model).or_insert_with(|| json!({}));
            of_model[title.as_str()] = json!(what);
        }
        json!({
            "jobs_submitted": tally.submitted,
            "jobs_succeeded": tally.succeeded,
            "jobs_failed": tally.failed,
            "jobs_rejected": tally.rejected,
            "jobs_canceled": tally.canceled,
            "jobs_timed_out": tally.timed_out,
            "items_done": tally.items_done,
            "items_failed": tally.items_failed,
            "unfinished": tally.unfinished,
            "lost": tally.lost,
            "contradictions": tally.contradictions,
            "yields": tally.yields_us.len(),
            "yield_latency_us": {
                "p50": latency.p50, "p99": latency.p99, "p999": latency.p999, "max": latency.max,
            },
            "trough_seconds": seconds(played.trough),
            "busy_seconds": seconds(played.busy),
            "inference_cpu_seconds": seconds(played.usage.cpu),
            "trough_used_ratio": thousandths(self.trough_used()),
            "ran_while_busy_us": micros_of(played.usage.while_busy),
            "ran_while_busy_late_us": micros_of(played.usage.while_busy_late),
            "ran_while_busy_max_us": micros_of(played.usage.while_busy_max),
            "busy_periods": played.usage.busy_periods,
            "workers_ended_while_busy": played.usage.ended_while_busy,
            "datagrams_sent": played.sent,
            "datagrams_refused": played.refused,
            "stop_ms": self.stopped_in.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            "workers": self.workers,
            "day_seconds": seconds(self.day),
            "seed": self.seed,
            "interrupted": self.interrupted,
            "seen": seen,
        })
    }

    /// The same for people.
    pub(super) fn text(&self) -> String {
        let Self { tally, played, .. } = self;
        let mut text = String::new();
        let mut line = |name: &str, what: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<12}{what}");
        };
        line("", String::new());
        for (at, ((model, title), what)) in tally.sights.iter().take(SIGHTS_MAX).enumerate() {
            line(if at == 0 { "seen" } else { "" }, format!("{model:<16} {title:<28} {what}"));
        }
        if tally.sights.len() > SIGHTS_MAX {
            line("", format!("and {} more; --json has all", tally.sights.len() - SIGHTS_MAX));
        }
        line("", String::new());
        line("jobs", jobs(tally));
        line("yields", self.yields());
        line("troughs", self.troughs());
        line(
            "while busy",
            format!(
                "workers used {} in {} busy periods ({} s), by their own CPU clocks; {} after the first 100 ms",
                micros(micros_of(played.usage.while_busy)),
                played.usage.busy_periods,
                seconds(played.busy),
                micros(micros_of(played.usage.while_busy_late)),
            ),
        );
        if tally.unfinished > 0 {
            line("unfinished", format!("{}  <-- accepted, and not ended within the time there was", tally.unfinished));
        }
        line("lost", format!("{}{}", tally.lost, if tally.lost == 0 { "" } else { "  <-- this must never happen" }));
        text
    }

    fn yields(&self) -> String {
        let latency = Latency::of(&self.tally.yields_us);
        let count = self.tally.yields_us.len();
        if count == 0 {
            return "none".to_owned();
        }
        format!(
            "{count}, load rose → workers stopped: p50 {}, p99 {}, max {}",
            micros(latency.p50),
            micros(latency.p99),
            micros(latency.max)
        )
    }

    fn troughs(&self) -> String {
        format!(
            "{} s of load below the limit; inference used {} CPU seconds, {:.0} % of what {} could",
            seconds(self.played.trough),
            seconds(self.played.usage.cpu),
            self.trough_used() * 100.0,
            if self.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", self.workers) },
        )
    }

    /// CPU time of inference as a share of all workers' time in troughs.
    fn trough_used(&self) -> f64 {
        let could = self.played.trough.as_secs_f64() * f64::from(self.workers);
        if could > 0.0 { self.played.usage.cpu.as_secs_f64() / could } else { 0.0 }
    }
}

fn jobs(tally: &Tally) -> String {
    let mut text = format!("{} submitted, {} succeeded", tally.submitted, tally.succeeded);
    let others = [
        (tally.failed, "failed"),
        (tally.rejected, "rejected"),
        (tally.canceled, "canceled"),
        (tally.timed_out, "timed out"),
        (tally.contradictions, "contradictory messages"),
    ];
    for (count, what) in others.into_iter().filter(|(count, what)| *count > 0 || *what == "failed") {
        let _ = write!(text, ", {count} {what}");
    }
    let _ = write!(text, "; {} items done", tally.items_done);
    if tally.items_failed > 0 {
        let _ = write!(text, ", {} items failed", tally.items_failed);
    }
    text
}

/// Microseconds as people read them.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        1_000_000.. => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

fn micros_of(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Seconds with three decimals.
fn seconds(span: Duration) -> f64 {
    thousandths(span.as_secs_f64())
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let tally =
            Tally { submitted: 3, succeeded: 3, items_done: 5, yields_us: vec![40, 60, 50], ..Tally::default() };
        let mut played = Played { trough: Duration::from_secs(10), ..Played::default() };
        played.usage.cpu = Duration::from_secs(8);
        let stopped_in = Some(Duration::from_millis(90));
        Summary { workers: 1, tally, played, stopped_in, ..Summary::default() }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(Latency::of(&hundred), Latency { p50: 50, p99: 99, p999: 100, max: 100 });
        assert_eq!(Latency::of(&[7]), Latency { p50: 7, p99: 7, p999: 7, max: 7 });
        assert_eq!(Latency::of(&[]), Latency::default());
    }

    #[test]
    fn the_json_summary_has_every_promised_key() {
        let json = summary().json();
        let keys = [
            "jobs_submitted",
            "jobs_succeeded",
            "jobs_failed",
            "items_done",
            "yields",
            "trough_seconds",
            "inference_cpu_seconds",
            "lost",
            "ran_while_busy_us",
        ];
        for key in keys {
            assert!(json[key].is_number(), "{key} is missing in {json}");
        }
        for key in ["p50", "p99", "p999", "max"] {
            assert!(json["yield_latency_us"][key].is_u64(), "{key} is missing in {json}");
        }
        assert_eq!(json["trough_used_ratio"], 0.8);
    }

    #[test]
    fn a_run_is_clean_only_when_nothing_was_lost_or_failed() {
        assert!(summary().is_clean());
        let spoil: [fn(&mut Summary); 6] = [
            |s| s.tally.unfinished = 1,
            |s| s.tally.lost = 1,
            |s| s.tally.failed = 1,
            |s| s.tally.rejected = 1,
            |s| s.tally.succeeded = 0,
            |s| s.stopped_in = None,
        ];
        for change in spoil {
            let mut spoiled = summary();
            change(&mut spoiled);
            assert!(!spoiled.is_clean(), "{:?}", spoiled.tally);
        }
    }

    #[test]
    fn people_read_latencies_in_the_unit_that_fits() {
        assert_eq!([micros(41), micros(1_250), micros(2_340_000)], ["41 µs", "1.2 ms", "2.3 s"]);
        assert!(summary().text().contains("3 submitted, 3 succeeded, 0 failed; 5 items done"));
    }
}
