//! How is the outcome told? As JSON, as a table for people, and as an HTML report.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::chart::Series;
use super::super::class_words;
use super::super::crew::Model;
use super::super::latency::{Latencies, show_us};
use super::super::machine::Facts;
use super::super::report::{Report, Row, Table, Verdict};
use super::Rota;
use super::judge::{self, INFERENCES, MISSED, Method, P99, P999, Rounds};
use super::stage::Yields;
use crate::cli::failure::Failure;
use crate::cli::out::{Out, Tone};
use crate::sim::ran::Settings;

/// The RAN as it was prepared.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// What it was told to be.
    pub(super) settings: Settings,
    /// Whether it got SCHED_FIFO.
    pub(super) is_fifo: bool,
    /// Time of a unit of work on each core, in ns.
    pub(super) units: Vec<(usize, f64)>,
}

/// Everything that was found.
#[derive(Clone, Debug)]
pub(super) struct Findings {
    /// Figures of each round.
    pub(super) rounds: Rounds,
    /// Slot times of all rounds, in the order of [`Method::ALL`].
    pub(super) times: [Latencies; 4],
    /// What it was found on.
    pub(super) facts: Facts,
}

const LEAD: &str = "An emulated RAN works in slots with a deadline, on the same cores as inference. How many deadlines \
     does it miss, and how long do its slots take, beside nothing, beside Neap, and beside the same inference without it?";

/// What the bench knows besides the machine.
pub(super) fn facts(prepared: &Prepared, rota: Rota, model: &Model, yields: &Yields) -> Vec<(&'static str, String)> {
    let Prepared { settings, is_fifo, units } = prepared;
    let units = units.iter().map(|(core, ns)| format!("core {core} ({ns:.0} ns a unit)")).collect::<Vec<_>>();
    let ran = format!(
        "{} work as {}, slots of {:?}; 100 % load is {} of a slot on {}",
        settings.work.as_str(),
        if *is_fifo { "SCHED_FIFO" } else { "SCHED_OTHER" },
        settings.slot,
        settings.peak,
        units.join(", ")
    );
    let latencies = yields.latencies.figures().map_or_else(
        || "none".to_owned(),
        |figures| {
            let [p50, p99, max] = [figures.p50_us, figures.p99_us, figures.max_us].map(show_us);
            format!("{} (load's stamp to confirmed stop: p50 {p50}, p99 {p99}, max {max})", yields.latencies.count())
        },
    );
    vec![
        ("RAN", ran),
        ("rounds", format!("{} of {} methods for {:?} each", rota.rounds, Method::ALL.len(), rota.span)),
        ("model", model.name.as_str().to_owned()),
        ("sentinel", class_words(yields.class)),
        ("yields", latencies),
    ]
}

impl Findings {
    /// One object; medians over rounds, and the sums in `total`.
    pub(super) fn json(&self) -> Value {
        let by_method = |figure: &dyn Fn(Method) -> Value| {
            Value::Object(
                Method::ALL.map(|method| (method.key().to_owned(), figure(method))).into_iter().collect::<Map<_, _>>(),
            )
        };
        let median = |figure| by_method(&|method| json!(self.rounds.median(method, figure)));
        let sentences: Vec<String> = judge::sentences(&self.rounds).into_iter().map(|(_, text)| text).collect();
        json!({
            "slots": self.rounds.slots(),
            "missed": median(MISSED),
            "slot_p99_us": median(P99),
            "slot_p999_us": median(P999),
            "inferences": median(INFERENCES),
            "rounds": self.rounds.count(),
            "total": {
                "slots": by_method(&|method| json!(self.rounds.total(method).0)),
                "missed": by_method(&|method| json!(self.rounds.total(method).1)),
                "missed_ratio_to_none": by_method(&|method| json!(self.rounds.ratio(method, Method::None))),
                "inferences": by_method(&|method| {
                    json!(self.rounds.of(method).map(|sample| sample.inferences).sum::<u64>())
                }),
            },
            "missed_by_round": by_method(&|method| {
                json!(self.rounds.of(method).map(|sample| sample.missed).collect::<Vec<_>>())
            }),
            "findings": sentences,
            "machine": self.facts.json(),
        })
    }

    /// For people.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn print(&self, out: &Out) -> Result<(), Failure> {
        let rows: Vec<Vec<String>> = Method::ALL.into_iter().map(|method| self.row(method)).collect();
        out.table(&HEAD, &rows)?;
        out.line("")?;
        for (verdict, sentence) in judge::sentences(&self.rounds) {
            let tone = match verdict {
                Verdict::Kept => Tone::Good,
                Verdict::Missed => Tone::Bad,
                Verdict::Plain => Tone::Strong,
            };
            out.line(&out.paint(tone, &sentence))?;
        }
        out.line("")?;
        for (name, value) in &self.facts.rows {
            out.line(&out.paint(Tone::Dim, &format!("{name}: {value}")))?;
        }
        Ok(())
    }

    /// The page.
    pub(super) fn report(&self, prepared: &Prepared) -> Report {
        let mut report = Report::new("What the radio feels", LEAD);
        report.verdicts(&judge::sentences(&self.rounds));
        report.heading("Figures");
        let rows = Method::ALL.map(|method| Row { cells: self.row(method), ours: method == Method::Neap });
        report.table(&Table { head: HEAD.map(str::to_owned).to_vec(), rows: rows.to_vec() });
        report.paragraph(
            "Medians over the rounds; \"in all\" has the sums. In each round every method met the same load, and their \
             order rotated. A difference is called clear when chance alone would show it in one run of twenty (Student's \
             t-test over the rounds).",
        );
        report.heading("Slot times");
        let series: Vec<Series<'_>> = Method::ALL
            .into_iter()
            .zip(&self.times)
            .map(|(method, times)| Series { name: method.title().to_owned(), ours: method == Method::Neap, times })
            .collect();
        let deadline = show_us(prepared.settings.deadline.max(Duration::from_nanos(1)).as_secs_f64() * 1e6);
        let caption = format!(
            "From the begin of a slot to the end of its work, all rounds; both axes are logarithmic. The deadline is \
             {deadline}. Slots that could not begin count as missed and have no time."
        );
        report.histograms("slot times", &series, &caption);
        report.machine(&self.facts);
        report
    }

    fn row(&self, method: Method) -> Vec<String> {
        let median = |figure| self.rounds.median(method, figure);
        let (slots, missed) = self.rounds.total(method);
        let share = if slots > 0 { 100.0 * judge::float(missed) / judge::float(slots) } else { 0.0 };
        vec![
            method.title().to_owned(),
            format!("{} of {}", median(MISSED), self.rounds.slots()),
            format!("{missed} ({share:.2} %)"),
            show_us(median(P99)),
            show_us(median(P999)),
            median(INFERENCES).to_string(),
        ]
    }
}

const HEAD: [&str; 6] = ["beside", "missed a round", "missed in all", "p99 slot", "p99.9 slot", "inferences"];

#[cfg(test)]
mod tests {
    use super::super::super::machine::Machine;
    use super::super::judge::Sample;
    use super::*;

    fn findings() -> Findings {
        let mut rounds = Rounds::default();
        for round in 0..3 {
            let sample = |m: u64| Sample {
                slots: 500,
                missed: m * 10 + round,
                p99_us: 700.0,
                p999_us: 900.0,
                inferences: m * 7,
            };
            rounds.push(&Method::ALL.into_iter().zip((0..).map(sample)).collect::<Vec<_>>());
        }
        let mut times = Method::ALL.map(|_| Latencies::default());
        times.iter_mut().for_each(|times| times.record(Duration::from_micros(700)));
        Findings { rounds, times, facts: Machine::begin().end(Vec::new()) }
    }

    #[test]
    fn the_json_has_the_promised_keys_for_each_method() {
        let json = findings().json();
        assert_eq!(json["slots"], 500);
        for key in ["missed", "slot_p99_us", "slot_p999_us", "inferences"] {
            let found: Vec<&str> = json[key].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(found, ["neap", "nice0", "none", "sched_idle"], "{key}");
            assert!(json[key].as_object().unwrap().values().all(Value::is_number), "{key}");
        }
        assert_eq!((&json["missed"]["nice0"], &json["total"]["missed"]["nice0"]), (&json!(31.0), &json!(93)));
    }

    #[test]
    fn the_report_tells_the_findings_and_the_deadline_and_draws_each_method() {
        let settings = Settings {
            cores: vec![0],
            slot: Duration::from_millis(1),
            deadline: Duration::from_millis(1),
            peak: crate::units::Utilization::FULL,
            work: crate::sim::ran::work::Kind::Cache,
            cache_bytes: None,
            stream_bytes: 0,
            priority: None,
        };
        let prepared = Prepared { settings, is_fifo: false, units: vec![(0, 1234.5)] };
        let findings = findings();
        let html = findings.report(&prepared).render();
        assert!(html.contains("The deadline is 1.00 ms"), "{html}");
        for method in Method::ALL {
            assert!(html.contains(&format!(">{}</text>", method.title())), "{method:?}");
        }
        for (_, sentence) in judge::sentences(&findings.rounds) {
            assert!(html.contains(&sentence), "{sentence}");
        }
    }
}
