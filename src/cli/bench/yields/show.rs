//! What came out, for a machine, for a person, for others? Pure, but for the printing.

use serde_json::{Map, Value, json};

use super::super::chart::Series;
use super::super::class_words;
use super::super::crew::Model;
use super::super::latency::{Figures, Latencies, micros as micros_of, show_us};
use super::super::machine::Facts;
use super::super::report::{Report, Row, Table, Verdict};
use super::method::Method;
use super::tally::{SLOW, Slow, Tally};
use super::today::Beside;
use crate::cli::failure::Failure;
use crate::cli::out::{Out, Tone};
use crate::sentinel::YieldClass;

/// What p50, p99 and p99.9 over the floor are to stay below, by method.
const REACH: [(Method, f64); 2] = [(Method::Shm, 1.3), (Method::Push, 2.0)];
/// What no sample of Neap is to exceed on a quiet machine, in µs.
const MAX_REACH_US: f64 = 1_000.0;
/// Fewest events from which a p99.9 is more than a maximum.
const JUDGED_EVENTS_MIN: u64 = 10_000;
/// Methods with thousands of events, of which more is known.
const QUICK: [Method; 5] = [Method::Floor, Method::Shm, Method::Push, Method::Udp, Method::CgroupFreeze];
/// Slow samples shown in the report, of each method.
const SLOW_SHOWN_MAX: usize = 20;

/// All figures of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Events asked for.
    pub(super) events: u64,
    /// Class of the sentinel's thread.
    pub(super) class: Option<YieldClass>,
    /// Class of the floor's.
    pub(super) floor_class: Option<YieldClass>,
    /// What is known besides of the worker that is only nice.
    pub(super) beside: Beside,
    tallies: [Tally; Method::ALL.len()],
    model: String,
    worker_cores: Vec<usize>,
    event_core: usize,
    memory_locked: bool,
    /// CPU time of the last inference before the events, in ns.
    pub(super) inference_ns: u64,
}

/// p50, p99 and p99.9 of a method over those of the floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio {
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Ratio {
    fn of(figures: Figures, floor: Figures) -> Self {
        let over = |ours: f64, floor: f64| if floor > 0.0 { ours / floor } else { f64::INFINITY };
        Self {
            p50: over(figures.p50_us, floor.p50_us),
            p99: over(figures.p99_us, floor.p99_us),
            p999: over(figures.p999_us, floor.p999_us),
        }
    }

    fn worst(self) -> f64 {
        self.p50.max(self.p99).max(self.p999)
    }
}

impl Outcome {
    /// Nothing measured yet.
    pub(super) fn new(
        events: u64,
        model: &Model,
        worker_cores: Vec<usize>,
        event_core: usize,
        memory_locked: bool,
    ) -> Self {
        Self {
            events,
            class: None,
            floor_class: None,
            beside: Beside::default(),
            tallies: std::array::from_fn(|_| Tally::default()),
            model: model.name.to_string(),
            worker_cores,
            event_core,
            memory_locked,
            inference_ns: 0,
        }
    }

    /// What came of the method's events.
    pub(super) fn tally(&self, method: Method) -> &Tally {
        &self.tallies[method as usize]
    }

    /// The same, to be added to.
    pub(super) fn tally_mut(&mut self, method: Method) -> &mut Tally {
        &mut self.tallies[method as usize]
    }

    fn ratio(&self, method: Method) -> Option<Ratio> {
        let figures = |method| self.tally(method).times.figures();
        Some(Ratio::of(figures(method)?, figures(Method::Floor)?))
    }

    /// What the bench knows of its surroundings.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let cores: Vec<String> = self.worker_cores.iter().map(ToString::to_string).collect();
        let inference_us = micros_of(self.inference_ns);
        vec![
            ("yield class", class_words(self.class)),
            ("class of the floor", class_words(self.floor_class)),
            ("memory locked", if self.memory_locked { "yes" } else { "no: not permitted" }.to_owned()),
            ("model", format!("{}, {} a run", self.model, show_us(inference_us))),
            ("workers on core", cores.join(", ")),
            ("load comes from core", self.event_core.to_string()),
            ("sentinel, floor, freezer and poller on core", "any, as in the agent".to_owned()),
        ]
    }

    // ---- for a machine ----

    /// The JSON object.
    pub(super) fn json(&self, facts: &Facts) -> Value {
        let mut object = Map::new();
        let quick = [Method::Floor, Method::Shm, Method::Push, Method::Udp];
        let counts = quick.map(|method| self.tally(method)).into_iter().filter(|tally| tally.times.count() > 0);
        object.insert("n".to_owned(), json!(counts.map(|tally| tally.times.count()).min().unwrap_or(0)));
        let mut ratios = Map::new();
        let mut slow = Vec::new();
        for method in Method::ALL {
            let tally = self.tally(method);
            object.insert(method.key().to_owned(), self.method_json(method));
            if method.is_ours() {
                let ratio =
                    self.ratio(method).map(|ratio| json!({"p50": ratio.p50, "p99": ratio.p99, "p999": ratio.p999}));
                ratios.insert(method.key().to_owned(), ratio.unwrap_or(Value::Null));
            }
            slow.extend(tally.slow.iter().map(|sample| slow_json(method, sample)));
        }
        object.insert("ratio_to_floor".to_owned(), Value::Object(ratios));
        object.insert("slow".to_owned(), Value::Array(slow));
        object.insert("machine".to_owned(), facts.json());
        Value::Object(object)
    }

    /// The figures of one method; `null` when there are none.
    fn method_json(&self, method: Method) -> Value {
        let tally = self.tally(method);
        let Some(figures) = tally.times.figures() else { return Value::Null };
        let mut object = figures.json();
        object["n"] = json!(tally.times.count());
        object["unseen"] = json!(tally.unseen);
        object["displaced"] = json!(tally.displaced);
        object["bounds"] = json!(tally.bounds);
        object["stopper_on_worker_core"] = json!(tally.same_core.figures().map(|figures| figures.json()));
        object["stopper_elsewhere"] = json!(tally.other_core.figures().map(|figures| figures.json()));
        object["slow"] = json!({
            "n": tally.slow_count, "explained": tally.explained,
            "possible": tally.slow_count - tally.explained - tally.unexplained, "unexplained": tally.unexplained,
        });
        if method.is_ours() {
            let confirmed = |times: &Latencies| times.figures().map(|figures| figures.json());
            object["confirmed"] = json!({
                "stamping": confirmed(&tally.confirmed_stamping), "computing": confirmed(&tally.confirmed_computing),
            });
        }
        if method == Method::Nice19 {
            object["share_of_core"] = json!(self.share_kept());
            object["load_got_core"] = json!(self.beside.first.figures().map(|figures| figures.json()));
        }
        object
    }

    /// Share of its core that a nice worker kept while the core was busy, on average.
    fn share_kept(&self) -> Option<f64> {
        let shares = &self.beside.shares;
        let count = u32::try_from(shares.len()).ok().filter(|count| *count > 0)?;
        Some(shares.iter().sum::<f64>() / f64::from(count))
    }

    // ---- for a person ----

    /// A table and a few sentences.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn print(&self, out: &Out, facts: &Facts) -> Result<(), Failure> {
        let table = self.table();
        let head: Vec<&str> = table.head.iter().map(String::as_str).collect();
        let rows: Vec<Vec<String>> = table.rows.into_iter().map(|row| row.cells).collect();
        out.table(&head, &rows)?;
        out.line("")?;
        for (verdict, sentence) in self.verdicts() {
            let mark = match verdict {
                Verdict::Kept => out.paint(Tone::Good, "kept    "),
                Verdict::Missed => out.paint(Tone::Bad, "missed  "),
                Verdict::Plain => String::new(),
            };
            out.line(&format!("{mark}{sentence}"))?;
        }
        out.line("")?;
        for (name, value) in &facts.rows {
            out.line(&out.paint(Tone::Dim, &format!("{name}: {value}")))?;
        }
        Ok(())
    }

    fn table(&self) -> Table {
        let head =
            ["method", "n", "p50", "p99", "p99.9", "max", "p50 ÷ floor", "p99 ÷ floor", "p99.9 ÷ floor", "unseen"];
        let row = |method: Method| {
            let tally = self.tally(method);
            let mut cells = vec![method.name().to_owned(), tally.times.count().to_string()];
            match tally.times.figures() {
                Some(figures) => {
                    let all = [figures.p50_us, figures.p99_us, figures.p999_us, figures.max_us];
                    cells.extend(all.map(show_us));
                }
                None => cells.extend(std::iter::repeat_n("–".to_owned(), 4)),
            }
            match self.ratio(method).filter(|_| method != Method::Floor) {
                Some(ratio) => cells.extend([ratio.p50, ratio.p99, ratio.p999].map(show_ratio)),
                None => cells.extend(std::iter::repeat_n("–".to_owned(), 3)),
            }
            cells.push(tally.unseen.to_string());
            Row { cells, ours: method.is_ours() }
        };
        Table { head: head.map(str::to_owned).to_vec(), rows: Method::ALL.map(row).to_vec() }
    }

    /// What was promised and what became of it.
    pub(super) fn verdicts(&self) -> Vec<(Verdict, String)> {
        let mut all = Vec::new();
        for (method, reach) in REACH {
            if let Some(ratio) = self.ratio(method) {
                let [p50, p99, p999] = [ratio.p50, ratio.p99, ratio.p999].map(show_ratio);
                let text = format!(
                    "{}: p50, p99 and p99.9 are {p50}, {p99} and {p999} times the floor; promised: {reach} at most",
                    method.name()
                );
                all.push(self.judged(method, ratio.worst() <= reach, text));
            }
        }
        for method in Method::ALL.into_iter().filter(|method| method.is_ours()) {
            if let Some(figures) = self.tally(method).times.figures() {
                let text = format!(
                    "{}: the longest took {}; promised on a quiet machine: below 1 ms, and whatever takes more than {} µs \
                     has a recorded cause. {}",
                    method.name(),
                    show_us(figures.max_us),
                    SLOW.as_micros(),
                    self.slow_sentence(method)
                );
                let kept = figures.max_us < MAX_REACH_US && self.tally(method).unexplained == 0;
                all.push(self.judged(method, kept, text));
            }
        }
        all.extend(Method::ALL.into_iter().filter_map(|method| Some((Verdict::Plain, self.computing(method)?))));
        if let (Some(share), Some(first)) = (self.share_kept(), self.beside.first.figures()) {
            let text = format!(
                "nice 19 alone: the worker kept {:.1} % of its core while that was busy; the load got the core after {} \
                 (p50), {} (max)",
                share * 100.0,
                show_us(first.p50_us),
                show_us(first.max_us)
            );
            all.push((Verdict::Plain, text));
        }
        let missing = Method::ALL.into_iter().filter_map(|method| Some((method, self.tally(method).missing.as_ref()?)));
        all.extend(missing.map(|(method, why)| (Verdict::Plain, format!("{}: not measured: {why}", method.name()))));
        all
    }

    /// A verdict, unless there were too few events for one.
    fn judged(&self, method: Method, kept: bool, text: String) -> (Verdict, String) {
        if self.tally(method).times.count() < JUDGED_EVENTS_MIN {
            return (Verdict::Plain, format!("{text} (too few events to judge: at least {JUDGED_EVENTS_MIN})"));
        }
        (if kept { Verdict::Kept } else { Verdict::Missed }, text)
    }

    fn slow_sentence(&self, method: Method) -> String {
        let Tally { slow_count, explained, unexplained, .. } = self.tally(method);
        match slow_count {
            0 => "None did".to_owned(),
            count => format!(
                "{count} did: {explained} explained by the kernel's clocks, {} with a possible cause, {unexplained} without",
                count - explained - unexplained
            ),
        }
    }

    /// Whether workers that computed were confirmed as soon as those that stamped.
    fn computing(&self, method: Method) -> Option<String> {
        let tally = self.tally(method);
        let (stamping, computing) = (tally.confirmed_stamping.figures()?, tally.confirmed_computing.figures()?);
        Some(format!(
            "{}: confirmed stopped, by the sentinel's own record, after {} (p50), {} (p99) when the worker stamped and \
             after {} (p50), {} (p99) when it computed",
            method.name(),
            show_us(stamping.p50_us),
            show_us(stamping.p99_us),
            show_us(computing.p50_us),
            show_us(computing.p99_us),
        ))
    }

    // ---- for others ----

    /// The HTML report.
    pub(super) fn report(&self, facts: &Facts) -> Report {
        let lead = "From the moment right before load is handed over to the last instruction that any inference worker \
                    executed. All methods were measured in turns in one run, on the same workers and cores.";
        let mut report = Report::new("How soon is inference gone when the load rises?", lead);
        report.verdicts(&self.verdicts());
        report.heading("Yield latency");
        report.table(&self.table());
        let series: Vec<Series<'_>> = Method::ALL
            .into_iter()
            .filter(|method| self.tally(*method).times.count() > 0)
            .map(|method| Series {
                name: method.name().to_owned(),
                ours: method.is_ours(),
                times: &self.tally(method).times,
            })
            .collect();
        let caption = "Time on a logarithmic axis; the height of a column is the logarithm of its number of events, so \
                       that a single slow one is seen. The marks below each row are p50, p99, p99.9 and the maximum.";
        report.histograms("Histograms of the yield latency by method", &series, caption);
        report.heading("What was compared");
        let rows = Method::ALL.map(|method| Row {
            cells: vec![method.name().to_owned(), method.meaning().to_owned()],
            ours: method.is_ours(),
        });
        report.prose(&Table { head: vec!["method".to_owned(), "what was done".to_owned()], rows: rows.to_vec() });
        self.explain(&mut report);
        self.report_places(&mut report);
        self.report_slow(&mut report);
        report.machine(facts);
        report
    }

    fn explain(&self, report: &mut Report) {
        report.heading("How the last instruction is known");
        report.paragraph(
            "Each worker has one thread. It spends a quarter of its time on inferences of a real model and three quarters \
             on a loop that does nothing but write the time into a page that it shares with the bench. When an event \
             meets the loop, the last stamp is the last instruction, to within one turn of the loop (about 30 ns). When \
             the worker went from the loop to the model between event and stop, the moment at which it was seen stopped \
             counts, an upper bound. When it computed all the while nobody knows its last instruction: the event is \
             unseen, it is repeated and not counted. An event for which the worker did not have its core is repeated as \
             well: there was nothing to stop.",
        );
        report.paragraph(
            "Whether a computing worker stops as soon as a stamping one is told by the sentinel's own records of the \
             confirmed stop, for both kinds of events, above. Confirmation comes later than the last instruction: it \
             includes the kernel's work of stopping and the notice to the parent.",
        );
        let head = ["method", "counted", "of those upper bounds", "unseen, repeated", "without core, repeated"];
        let row = |method: Method| {
            let tally = self.tally(method);
            let counts = [tally.times.count(), tally.bounds, tally.unseen, tally.displaced];
            let cells = std::iter::once(method.name().to_owned()).chain(counts.map(|count| count.to_string()));
            Row { cells: cells.collect(), ours: method.is_ours() }
        };
        report.table(&Table { head: head.map(str::to_owned).to_vec(), rows: Method::ALL.map(row).to_vec() });
    }

    fn report_places(&self, report: &mut Report) {
        report.heading("Where the stopping thread ran");
        report.paragraph(
            "It is bound nowhere. When the kernel wakes it on a worker's core, the worker is displaced by that very wake \
             and executes nothing more before its stop; from elsewhere the stop has to travel to the worker's core. Which \
             of both happens is the kernel's choice, so methods are compared fairly within a column only.",
        );
        let head = ["method", "on a worker's core", "p50", "p99", "elsewhere", "p50", "p99"];
        let cells = |times: &Latencies| match times.figures() {
            Some(figures) => [times.count().to_string(), show_us(figures.p50_us), show_us(figures.p99_us)],
            None => ["0".to_owned(), "–".to_owned(), "–".to_owned()],
        };
        let row = |method: Method| {
            let tally = self.tally(method);
            let places = cells(&tally.same_core).into_iter().chain(cells(&tally.other_core));
            Row { cells: std::iter::once(method.name().to_owned()).chain(places).collect(), ours: method.is_ours() }
        };
        report.table(&Table { head: head.map(str::to_owned).to_vec(), rows: QUICK.map(row).to_vec() });
    }

    fn report_slow(&self, report: &mut Report) {
        report.heading("Samples above 500 µs");
        let mut rows = Vec::new();
        for method in QUICK {
            for sample in self.tally(method).slow.iter().take(SLOW_SHOWN_MAX) {
                let causes = sample.why.causes.join("; ");
                let cells = vec![
                    method.name().to_owned(),
                    format!("{:.1} s", sample.at.as_secs_f64()),
                    show_us(micros(sample)),
                    sample.why.verdict.as_str().to_owned(),
                    if causes.is_empty() { "–".to_owned() } else { causes },
                    sample.parts.clone(),
                ];
                rows.push(Row { cells, ours: method.is_ours() });
            }
        }
        if rows.is_empty() {
            report.paragraph("There was none.");
            return;
        }
        report.paragraph(&format!(
            "Explained: the kernel's exact clocks account for at least four fifths. Possible: something was counted that \
             can have cost the rest. At most {SLOW_SHOWN_MAX} of each method are shown; --json has more."
        ));
        let head = ["method", "at", "latency", "verdict", "causes", "where the time went"];
        report.prose(&Table { head: head.map(str::to_owned).to_vec(), rows });
    }
}

fn micros(sample: &Slow) -> f64 {
    sample.latency.as_secs_f64() * 1e6
}

fn slow_json(method: Method, sample: &Slow) -> Value {
    json!({
        "method": method.key(), "at_s": sample.at.as_secs_f64(), "latency_us": micros(sample),
        "verdict": sample.why.verdict.as_str(), "causes": sample.why.causes, "parts": sample.parts,
    })
}

/// A ratio with three digits, or none worth having.
fn show_ratio(ratio: f64) -> String {
    if ratio < 99.95 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::machine::Machine;
    use super::*;

    /// Floor 10 µs, push `push_us`, so many events each; the others were not measured.
    fn outcome(events: u64, push_us: u64) -> Outcome {
        let model = Model { folder: "/m".into(), name: "m".parse().unwrap() };
        let mut outcome = Outcome::new(events, &model, vec![1], 0, true);
        for _ in 0..events {
            outcome.tally_mut(Method::Floor).times.record(Duration::from_micros(10));
            outcome.tally_mut(Method::Push).times.record(Duration::from_micros(push_us));
        }
        outcome.tally_mut(Method::CgroupFreeze).missing = Some("no <cgroup> here".to_owned());
        outcome
    }

    fn push_verdict(outcome: &Outcome) -> Verdict {
        outcome.verdicts().into_iter().find(|(_, text)| text.contains("times the floor")).unwrap().0
    }

    #[test]
    fn a_promise_is_kept_or_missed_and_not_judged_by_few_events() {
        assert_eq!(push_verdict(&outcome(10_000, 20)), Verdict::Kept);
        assert_eq!(push_verdict(&outcome(10_000, 21)), Verdict::Missed);
        assert_eq!(push_verdict(&outcome(9_999, 21)), Verdict::Plain);
    }

    #[test]
    fn the_object_has_every_key_and_null_for_what_was_not_measured() {
        let facts = Machine::begin().end(Vec::new());
        let json = outcome(100, 15).json(&facts);
        for method in Method::ALL {
            assert!(json.get(method.key()).is_some(), "{}: {json}", method.key());
        }
        assert_eq!((json["n"].as_u64(), json["cgroup_freeze"].is_null()), (Some(100), true));
        assert!((json["ratio_to_floor"]["push"]["p50"].as_f64().unwrap() - 1.5).abs() < 0.01, "{json}");
        assert!(json["ratio_to_floor"]["shm"].is_null() && json["ratio_to_floor"].get("udp").is_some(), "{json}");
    }

    #[test]
    fn the_report_tells_what_is_missing_and_escapes_the_reason() {
        let html = outcome(100, 15).report(&Machine::begin().end(Vec::new())).render();
        assert!(html.contains("not measured: no &lt;cgroup&gt; here"), "{html}");
        assert!(html.contains("<svg") && html.contains("n = 100"));
    }
}
