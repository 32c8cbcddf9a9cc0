//! What do the figures say, and what was promised?

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::bench::latency::Latencies;
use crate::cli::bench::machine::Facts;
use crate::cli::failure::Failure;
use crate::cli::out::{Out, Tone};

/// Accepted jobs a second, as a share of plain messages a second.
const RATIO_MIN: f64 = 0.5;
/// Time from a submit to its status, in bare syncs.
const SYNCS_MAX: f64 = 3.0;
/// From the start of the agent to READY, with ten thousand jobs.
const START_MAX: Duration = Duration::from_millis(50);

/// What was counted, and how long it took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stream {
    count: u32,
    took: Duration,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Messages on their way at once.
    pub(super) window: u32,
    /// Where the state lay.
    pub(super) filesystem: String,
    /// Plain messages.
    pub(super) raw: Stream,
    /// Jobs as fast as they are accepted.
    pub(super) accepted: Stream,
    /// Jobs one at a time.
    pub(super) single: Latencies,
    /// Bare syncs.
    pub(super) syncs: Latencies,
    /// Jobs in the store at the starts.
    pub(super) jobs_in_store: u64,
    /// Times from the start of the agent to READY.
    pub(super) starts: Vec<Duration>,
}

impl Stream {
    /// One more round.
    pub(super) fn add(&mut self, count: u32, took: Duration) {
        self.count += count;
        self.took += took;
    }

    fn per_second(&self) -> f64 {
        if self.took.is_zero() { 0.0 } else { f64::from(self.count) / self.took.as_secs_f64() }
    }
}

impl Figures {
    fn ratio(&self) -> f64 {
        let raw = self.raw.per_second();
        if raw > 0.0 { self.accepted.per_second() / raw } else { 0.0 }
    }

    fn p50_p99(times: &Latencies) -> (f64, f64) {
        times.figures().map_or((0.0, 0.0), |figures| (figures.p50_us, figures.p99_us))
    }

    /// How many bare syncs a job takes that is alone.
    fn syncs_per_job(&self) -> f64 {
        let (job, sync) = (Self::p50_p99(&self.single).0, Self::p50_p99(&self.syncs).0);
        if sync > 0.0 { job / sync } else { 0.0 }
    }

    /// The median start, and the longest.
    fn start(&self) -> (Duration, Duration) {
        let mut starts = self.starts.clone();
        starts.sort_unstable();
        let median = starts.get(starts.len() / 2).copied().unwrap_or_default();
        (median, starts.last().copied().unwrap_or_default())
    }

    fn kept(&self) -> [bool; 3] {
        [self.ratio() >= RATIO_MIN, self.syncs_per_job() <= SYNCS_MAX, self.start().0 <= START_MAX]
    }

    /// For `--json`.
    pub(super) fn json(&self, facts: &Facts) -> Value {
        let (accept_p50, accept_p99) = Self::p50_p99(&self.single);
        let (sync_p50, sync_p99) = Self::p50_p99(&self.syncs);
        let (start, longest) = self.start();
        let [ratio, latency, ready] = self.kept();
        json!({
            "accepted_per_s": round(self.accepted.per_second(), 1.0),
            "raw_qos1_per_s": round(self.raw.per_second(), 1.0),
            "ratio": round(self.ratio(), 1000.0),
            "accept_p50_us": round(accept_p50, 10.0),
            "accept_p99_us": round(accept_p99, 10.0),
            "fdatasync_p50_us": round(sync_p50, 10.0),
            "fdatasync_p99_us": round(sync_p99, 10.0),
            "start_to_ready_ms": round(millis(start), 10.0),
            "start_to_ready_ms_max": round(millis(longest), 10.0),
            "jobs": self.accepted.count,
            "single_jobs": self.single.count(),
            "jobs_in_store": self.jobs_in_store,
            "starts": self.starts.len(),
            "window": self.window,
            "filesystem": self.filesystem,
            "reached": {"ratio": ratio, "accept": latency, "start_to_ready": ready},
            "machine": facts.json(),
        })
    }

    /// For people: what was measured, what is to be reached, whether it is.
    pub(super) fn tell(&self, out: &Out) -> Result<(), Failure> {
        let (accept_p50, accept_p99) = Self::p50_p99(&self.single);
        let (sync_p50, sync_p99) = Self::p50_p99(&self.syncs);
        let (start, longest) = self.start();
        let kept = self.kept().map(|kept| match kept {
            true => out.paint(Tone::Good, "reached"),
            false => out.paint(Tone::Bad, "missed"),
        });
        let [ratio, latency, ready] = kept;
        let row = |what: &str, figure: String, reach: &str, verdict: String| {
            vec![what.to_owned(), figure, reach.to_owned(), verdict]
        };
        let none = String::new;
        let stored = format!("start to READY, {} jobs", self.jobs_in_store);
        let rows = [
            row("plain QoS 1 messages", format!("{:.0} /s", self.raw.per_second()), "", none()),
            row("accepted jobs", format!("{:.0} /s", self.accepted.per_second()), "", none()),
            row("  of the plain messages", format!("{:.2}", self.ratio()), "≥ 0.5", ratio),
            row("4 KiB and fdatasync", format!("p50 {sync_p50:.0} µs, p99 {sync_p99:.0} µs"), "", none()),
            row("one job, to accepted", format!("p50 {accept_p50:.0} µs, p99 {accept_p99:.0} µs"), "", none()),
            row("  in syncs", format!("{:.2}", self.syncs_per_job()), "≤ 3", latency),
            row(&stored, format!("{:.1} ms, longest {:.1} ms", millis(start), millis(longest)), "≤ 50 ms", ready),
        ];
        out.table(&["", "measured", "to be reached", ""], &rows)?;
        out.line(&format!("\nState on {}; {} messages on their way at once.", self.filesystem, self.window))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// To as many parts of one.
fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::machine::Machine;

    fn figures(job_us: u64, start_ms: &[u64]) -> Figures {
        let mut figures = Figures::default();
        figures.raw.add(1000, Duration::from_secs(1));
        figures.raw.add(1000, Duration::from_secs(3));
        figures.accepted.add(600, Duration::from_secs(2));
        figures.single.record(Duration::from_micros(job_us));
        figures.syncs.record(Duration::from_micros(500));
        figures.starts = start_ms.iter().map(|ms| Duration::from_millis(*ms)).collect();
        figures
    }

    #[test]
    fn rates_are_over_all_rounds_and_what_is_missed_is_said() {
        let json = figures(1600, &[10, 60, 70]).json(&Machine::begin().end(Vec::new()));
        assert_eq!((&json["raw_qos1_per_s"], &json["accepted_per_s"]), (&json!(500.0), &json!(300.0)));
        assert_eq!((&json["ratio"], &json["start_to_ready_ms"]), (&json!(0.6), &json!(60.0)));
        assert_eq!(json["reached"], json!({"ratio": true, "accept": false, "start_to_ready": false}));
        assert_eq!(figures(1400, &[50]).kept(), [true, true, true]);
    }

    #[test]
    fn nothing_measured_is_no_division_by_nothing() {
        let json = Figures::default().json(&Machine::begin().end(Vec::new()));
        assert_eq!((&json["ratio"], &json["accept_p50_us"]), (&json!(0.0), &json!(0.0)));
    }
}
