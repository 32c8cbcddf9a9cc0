//! How is a replay shown to others? One HTML file without anything from elsewhere. Pure.

use std::time::Duration;

use super::plots;
use super::table;
use crate::cli::bench::report::{Report, Row, Table, Verdict};
use crate::sim::replay::Outcome;

/// The whole page.
pub(super) fn render(run: &super::Run, outcomes: &[Outcome]) -> String {
    let lead = format!(
        "{} of load, replayed for {} with the real governor and queue: {} nodes, {} readings.",
        run.traces.join(", "),
        outcomes.iter().map(|outcome| outcome.setup.name.clone()).collect::<Vec<_>>().join(", "),
        run.nodes,
        run.readings
    );
    let mut report = Report::new("Neap replay", &lead);
    report.verdicts(&verdicts(outcomes));
    report.heading("Figures");
    let (head, rows) = table::rows(run, outcomes);
    let row = |cells: &Vec<String>| Row { cells: cells.clone(), ours: false };
    report.table(&Table { head, rows: rows.iter().map(row).collect() });
    if let Some(from) = plots::day_shown(outcomes) {
        report.heading("A day of one node");
        let begins = run.time_of_day(from);
        let caption = "The load as it was heard, held until the next sample. Shaded: the governor granted core time. \
                       Triangles: yields. Dashed: busy_above and idle_below. Grey: the load was not known. It is the \
                       day with the most yields of the first node's first week.";
        report.drawing(&plots::day(outcomes, from, begins), caption);
    }
    report.heading("Harvest by hour of the day");
    let caption = "Bars: share of the hour's core time that was granted, over all days and nodes. Lines: the share in \
                   which the load was below busy_above, which is what a plain threshold there would take.";
    report.drawing(&plots::by_hour(outcomes), caption);
    report.heading("What the gap and the settle time buy");
    let caption = "Grey line: every plain threshold from 1 to 100 % on the same load. Points: the configurations. \
                   Further right is more work done, further down is less disturbance.";
    report.drawing(&plots::trade(outcomes), caption);
    if let Some(errors) = plots::errors(outcomes) {
        report.heading("Forecast error by horizon");
        let caption = "Mean absolute error in percent of load, over all nodes and days. Dashed: persistence, which says \
                       that all stays as it is.";
        report.drawing(&errors, caption);
    }
    report.heading("Time by mode");
    report.drawing(&plots::modes(outcomes), "Share of the time, over all nodes and days.");
    report.heading("What the figures mean");
    let rows = table::MEANINGS.map(|(name, text)| Row { cells: vec![name.to_owned(), text.to_owned()], ours: false });
    report.prose(&Table { head: vec!["figure".to_owned(), "meaning".to_owned()], rows: rows.to_vec() });
    report.render()
}

/// What was promised, for each configuration.
fn verdicts(outcomes: &[Outcome]) -> Vec<(Verdict, String)> {
    let verdict = |kept| if kept { Verdict::Kept } else { Verdict::Missed };
    let mut all = Vec::new();
    for outcome in outcomes {
        let (name, totals) = (&outcome.setup.name, &outcome.totals);
        let overlap = totals.overlap;
        let text = format!("{name}: {} s with a budget while the last reading was busy", overlap.as_secs());
        all.push((verdict(overlap == Duration::ZERO), text));
        let Some(rival) = totals.curve.rival(totals.harvest()) else { continue };
        let (ours, theirs) = (totals.a_day(totals.runs.yields), totals.a_day(rival.yields));
        let text = format!(
            "{name}: {ours:.1} yields a day; a plain threshold at {} % has {theirs:.1} for {:.1} points more harvest",
            rival.threshold,
            (rival.harvest - totals.harvest()) * 100.0
        );
        all.push((verdict(ours * 5.0 <= theirs), text));
    }
    all
}
