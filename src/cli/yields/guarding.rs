//! What does the harm guard say? A few lines for a terminal. Pure; 80 columns.

use crate::cli::out::{Out, Tone, clean};
use crate::link::messages::{GuardComparison, GuardState};

/// Comparisons that are shown; there are five figures.
const COMPARED_MAX: usize = 5;
/// Widest line.
const COLUMNS: usize = 79;

/// The ceiling, the latest verdict, and how each figure compares.
pub(super) fn lines(out: &Out, state: &GuardState) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(ceiling) = state.ceiling {
        let count = |word| state.verdicts.get(word).copied().unwrap_or(0);
        let lowered = count("harm");
        let line = format!("guard: at most {ceiling} workers; lowered {lowered} times, raised {} times", count("calm"));
        lines.push(if lowered > 0 { out.paint(Tone::Warn, &line) } else { line });
    }
    if let Some(last) = &state.last {
        lines.push(clean(&format!("guard: {}, {}", last.text, last.at), COLUMNS));
    }
    lines.extend(state.compared.iter().take(COMPARED_MAX).map(comparison));
    lines
}

fn comparison(compared: &GuardComparison) -> String {
    let GuardComparison { figure, quantile, running, stopped, change_ratio, .. } = compared;
    let quantile = if *quantile > 0.0 { format!(" p{:.0}", quantile * 100.0) } else { " an hour".to_owned() };
    let change = (change_ratio * 100.0).clamp(-1e5, 1e5);
    let line = format!(
        "guard: {figure}{quantile} {running} while running, {stopped} while not: {change:+.0} % (windows {}, {})",
        compared.running_windows, compared.stopped_windows
    );
    clean(&line, COLUMNS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::messages::GuardEvent;
    use crate::units::WallTime;

    #[test]
    fn the_guard_fits_80_columns_and_tells_ceiling_verdict_and_figures() {
        let compared = GuardComparison {
            figure: "pressure_permille".to_owned(),
            quantile: 0.99,
            running: 1000,
            stopped: 12,
            change_ratio: 82.333,
            workers: 2,
            running_windows: 128,
            stopped_windows: 128,
        };
        let last = GuardEvent {
            ruling: "harm".to_owned(),
            from: 2,
            to: 1,
            text: "budget 2 → 1, enqueue p99 +38 % while running".to_owned(),
            compared: Some(compared.clone()),
            at: WallTime::default(),
        };
        let state = GuardState {
            ceiling: Some(1),
            verdicts: [("harm".to_owned(), 3)].into(),
            compared: vec![compared],
            last: Some(last),
        };
        let shown = lines(&Out::stdout(), &state);
        assert!(shown.iter().all(|line| line.chars().count() <= 80), "{shown:#?}");
        let text = shown.join("\n");
        for part in
            ["at most 1 workers", "lowered 3 times", "budget 2 → 1, enqueue p99 +38 % while running", "p99 1000"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
