//! What came out of the bench, for machines and for people.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::inside::Round;
use super::starts::Started;
use crate::cli::bench::latency::Latencies;
use crate::cli::bench::machine::Facts;
use crate::cli::bench::report::{Report, Row, Table, Verdict};
use crate::cli::failure::Failure;
use crate::cli::out::{Out, Tone};
use crate::fault::Fault;
use crate::model::verdict::Cost;

/// What is to be reached: µs, ms, and the two ratios.
const SANDBOX_US_MAX: f64 = 1_000.0;
const READY_MS_MAX: f64 = 20.0;
const PREFLIGHT_MAX: f64 = 0.05;
const THROUGHPUT_MIN: f64 = 0.99;

/// All that is measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    ready: Latencies,
    sandbox: Latencies,
    models: BTreeMap<String, Vec<Cost>>,
    refused: BTreeMap<String, String>,
    /// Rounds in which both workers ran.
    pub(super) rounds: Vec<Round>,
    /// The model of the rounds.
    pub(super) model: String,
}

/// One line: what, figure, what is to be reached, whether it is.
struct Line {
    what: String,
    figure: String,
    reach: &'static str,
    kept: Option<bool>,
}

impl Figures {
    /// One start.
    pub(super) fn started(&mut self, started: Started) {
        self.ready.record(started.ready);
        self.sandbox.record(started.sandbox);
    }

    /// One appraisal.
    pub(super) fn appraised(&mut self, model: &str, cost: Cost) {
        self.models.entry(model.to_owned()).or_default().push(cost);
    }

    /// One appraisal that ended in a refusal.
    pub(super) fn refused(&mut self, model: &str, fault: &Fault) {
        self.refused.insert(model.to_owned(), fault.to_string());
    }

    fn sandbox_us(&self) -> f64 {
        self.sandbox.figures().map_or(0.0, |figures| figures.p50_us)
    }

    fn ready_ms(&self) -> (f64, f64) {
        self.ready.figures().map_or((0.0, 0.0), |figures| (figures.p50_us / 1e3, figures.p99_us / 1e3))
    }

    /// Of the model where it is largest: its name, and the median of its appraisals.
    fn preflight(&self) -> (&str, f64) {
        let ratio = |cost: &Cost| match cost.load.is_zero() {
            true => 0.0,
            false => cost.preflight.as_secs_f64() / cost.load.as_secs_f64(),
        };
        let of = |costs: &Vec<Cost>| median(costs.iter().map(ratio).collect());
        let ratios = self.models.iter().map(|(name, costs)| (name.as_str(), of(costs)));
        ratios.max_by(|one, other| one.1.total_cmp(&other.1)).unwrap_or(("none", 0.0))
    }

    fn throughput(&self) -> f64 {
        median(self.rounds.iter().map(Round::ratio).collect())
    }

    fn kept(&self) -> [bool; 4] {
        [
            self.sandbox_us() <= SANDBOX_US_MAX,
            self.ready_ms().0 <= READY_MS_MAX,
            self.preflight().1 <= PREFLIGHT_MAX,
            self.throughput() >= THROUGHPUT_MIN,
        ]
    }

    /// For `--json`.
    pub(super) fn json(&self, facts: &Facts) -> Value {
        let [sandbox, ready, preflight, throughput] = self.kept();
        let us = |costs: &[Cost], of: fn(&Cost) -> Duration| round(median_time(costs, of).as_secs_f64() * 1e6, 10.0);
        let model = |costs: &Vec<Cost>| {
            json!({
                "load_ms": round(us(costs, |cost| cost.load) / 1e3, 1000.0),
                "preflight_us": us(costs, |cost| cost.preflight),
                "run_us_p50": us(costs, |cost| cost.run_p50),
                "worst_node_us": us(costs, |cost| cost.worst_node.time),
                "rss_bytes": costs.iter().map(|cost| cost.rss_bytes).max(),
            })
        };
        json!({
            "sandbox_us_p50": round(self.sandbox_us(), 10.0),
            "ready_ms_p50": round(self.ready_ms().0, 1000.0),
            "ready_ms_p99": round(self.ready_ms().1, 1000.0),
            "preflight_ratio": round(self.preflight().1, 1e5),
            "preflight_ratio_of": self.preflight().0,
            "sandbox_throughput_ratio": round(self.throughput(), 1e4),
            "models": self.models.iter().map(|(name, costs)| (name.clone(), model(costs))).collect::<serde_json::Map<_, _>>(),
            "refused": self.refused,
            "starts": self.ready.count(),
            "rounds": self.rounds.len(),
            "reached": {
                "sandbox": sandbox, "ready": ready, "preflight": preflight, "sandbox_throughput": throughput,
            },
            "machine": facts.json(),
        })
    }

    fn lines(&self) -> Vec<Line> {
        let [sandbox, ready, preflight, throughput] = self.kept();
        let (p50, p99) = self.ready_ms();
        let (model, ratio) = self.preflight();
        let line = |what: &str, figure, reach, kept| Line { what: what.to_owned(), figure, reach, kept: Some(kept) };
        vec![
            line("sandbox, set up", format!("p50 {:.0} µs", self.sandbox_us()), "≤ 1000 µs", sandbox),
            line("start to ready", format!("p50 {p50:.1} ms, p99 {p99:.1} ms"), "≤ 20 ms", ready),
            line(&format!("pre-flight of a load ({model})"), format!("{:.2} %", ratio * 100.0), "≤ 5 %", preflight),
            line(
                &format!("throughput in the sandbox ({})", self.model),
                format!("{:.3} of outside", self.throughput()),
                "≥ 0.99",
                throughput,
            ),
        ]
    }

    fn models(&self) -> Vec<Vec<String>> {
        let show =
            |costs: &[Cost], of: fn(&Cost) -> Duration| format!("{:.2} ms", median_time(costs, of).as_secs_f64() * 1e3);
        let row = |(name, costs): (&String, &Vec<Cost>)| {
            let rss = costs.iter().map(|cost| cost.rss_bytes).max().unwrap_or_default();
            let worst = costs.first().map_or_else(String::new, |cost| cost.worst_node.op.clone());
            vec![
                name.clone(),
                show(costs, |cost| cost.load),
                show(costs, |cost| cost.preflight),
                show(costs, |cost| cost.run_p50),
                format!("{} {worst}", show(costs, |cost| cost.worst_node.time)),
                format!("{} MB", rss / 1_000_000),
            ]
        };
        self.models.iter().map(row).collect()
    }

    /// For people: what was measured, what is to be reached, whether it is.
    pub(super) fn tell(&self, out: &Out) -> Result<(), Failure> {
        let verdict = |kept| match kept {
            Some(true) => out.paint(Tone::Good, "reached"),
            Some(false) => out.paint(Tone::Bad, "missed"),
            None => String::new(),
        };
        let rows: Vec<Vec<String>> = self
            .lines()
            .into_iter()
            .map(|line| vec![line.what, line.figure, line.reach.to_owned(), verdict(line.kept)])
            .collect();
        out.table(&["", "measured", "to be reached", ""], &rows)?;
        out.line("")?;
        out.table(&HEAD, &self.models())?;
        for (name, why) in &self.refused {
            out.line(&format!("{name}: {} {why}", out.paint(Tone::Bad, "refused")))?;
        }
        Ok(())
    }

    /// For `--report`.
    pub(super) fn report(&self, facts: &Facts) -> Report {
        let mut report = Report::new(
            "What a worker costs beside its inference",
            "Its start, its sandbox, the look at a model before it is loaded; and what each model costs on one core.",
        );
        let verdict = |line: &Line| match line.kept {
            Some(true) => Verdict::Kept,
            Some(false) => Verdict::Missed,
            None => Verdict::Plain,
        };
        let sentence = |line: &Line| format!("{}: {} (to be reached: {})", line.what, line.figure, line.reach);
        report.verdicts(&self.lines().iter().map(|line| (verdict(line), sentence(line))).collect::<Vec<_>>());
        report.heading("Models");
        report.paragraph(
            "CPU times of one core, medians over the appraisals; the memory of the worker's process at its peak.",
        );
        let rows = self.models().into_iter().map(|cells| Row { cells, ours: false }).collect();
        report.table(&Table { head: HEAD.map(str::to_owned).to_vec(), rows });
        report.machine(facts);
        report
    }
}

const HEAD: [&str; 6] = ["MODEL", "LOAD", "PRE-FLIGHT", "RUN", "WORST NODE", "MEMORY"];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn median_time(costs: &[Cost], of: fn(&Cost) -> Duration) -> Duration {
    let mut times: Vec<Duration> = costs.iter().map(of).collect();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// To as many parts of one.
fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::machine::Machine;
    use crate::model::verdict::{Goldens, WorstNode};

    const MS: Duration = Duration::from_millis(1);

    fn cost(load: Duration, preflight: Duration) -> Cost {
        Cost {
            load,
            preflight,
            run_p50: 2 * MS,
            run_max: 3 * MS,
            worst_node: WorstNode { name: "n".into(), op: "Conv".into(), time: MS },
            nodes: 1,
            plan_bytes: 1,
            rss_bytes: 30_000_000,
            goldens: Goldens::default(),
        }
    }

    #[test]
    fn medians_are_told_and_the_model_with_the_largest_preflight_counts() {
        let mut figures = Figures::default();
        for ready in [10, 12, 40] {
            figures.started(Started { ready: ready * MS, sandbox: ready * MS / 20 });
        }
        figures.appraised("large", cost(100 * MS, MS));
        for preflight in [MS, 5 * MS, MS] {
            figures.appraised("small", cost(10 * MS, preflight));
        }
        figures.rounds = [99, 100, 50].map(|outside_ns| Round { inside_ns: 100, outside_ns }).to_vec();
        let json = figures.json(&Machine::begin().end(Vec::new()));
        assert_eq!((&json["preflight_ratio"], &json["preflight_ratio_of"]), (&json!(0.1), &json!("small")));
        assert_eq!(json["sandbox_throughput_ratio"], json!(0.99));
        assert!((11.9..12.1).contains(&json["ready_ms_p50"].as_f64().unwrap()), "{json}");
        assert_eq!(json["models"]["small"]["load_ms"], json!(10.0));
        assert_eq!(
            json["reached"],
            json!({"sandbox": true, "ready": true, "preflight": false, "sandbox_throughput": true})
        );
        let page = figures.report(&Machine::begin().end(Vec::new())).render();
        assert!(page.contains("pre-flight of a load (small)") && page.contains("30 MB"));
    }

    #[test]
    fn nothing_measured_is_no_division_by_nothing() {
        let json = Figures::default().json(&Machine::begin().end(Vec::new()));
        assert_eq!((&json["preflight_ratio"], &json["sandbox_throughput_ratio"]), (&json!(0.0), &json!(0.0)));
    }
}
