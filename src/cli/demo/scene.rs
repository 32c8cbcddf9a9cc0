//! What is there to see right now? Folds everything that happens into a picture of the day; pure.

use std::collections::VecDeque;

use crate::link::messages::YieldEvent;
use crate::sim::controller::News;
use crate::sim::day::{SAMPLES, time_of_day};
use crate::units::Utilization;

/// Rows of the load curve; each stands for 20 % of load.
pub(super) const CURVE_ROWS: usize = 5;
/// Yields, and results, that stay in sight.
pub(super) const RECENT: usize = 3;
/// Jobs with a bar of their own.
pub(super) const BARS: usize = 5;

/// Blocks of one eighth to eight eighths of a row.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One job in sight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) status: String,
    pub(super) done: u32,
    pub(super) total: u32,
}

/// What is in sight.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    busy_above: Utilization,
    idle_below: Utilization,
    colour: bool,
    /// Load of every sample so far, and whether inference could run then.
    past: Vec<(Utilization, bool)>,
    load: Utilization,
    is_cut: bool,
    mode: String,
    reason: String,
    pub(super) bars: Vec<Bar>,
    jobs_done: u64,
    items_done: u64,
    yields: VecDeque<String>,
    results: VecDeque<String>,
}

impl Scene {
    pub(super) fn new(busy_above: Utilization, idle_below: Utilization, colour: bool) -> Self {
        Self {
            busy_above,
            idle_below,
            colour,
            past: Vec::with_capacity(SAMPLES),
            load: Utilization::IDLE,
            is_cut: false,
            mode: "starting".to_owned(),
            reason: String::new(),
            bars: Vec::new(),
            jobs_done: 0,
            items_done: 0,
            yields: VecDeque::new(),
            results: VecDeque::new(),
        }
    }

    /// Time of the day that is being played, as `hh:mm`.
    pub(super) fn clock(&self) -> String {
        match self.past.len() {
            SAMPLES.. => "24:00".to_owned(),
            played => {
                let (hour, minute) = time_of_day(played.saturating_sub(1));
                format!("{hour:02}:{minute:02}")
            }
        }
    }

    /// A sample of the day began; what was missed in between is filled up.
    pub(super) fn load(&mut self, index: usize, load: Utilization) {
        self.load = load;
        if self.is_cut {
            return;
        }
        let runs = self.mode == "trough";
        while self.past.len() <= index.min(SAMPLES - 1) {
            self.past.push((load, runs));
        }
    }

    /// The rest of the day is left out: the curve ends here.
    pub(super) fn cut_short(&mut self) {
        self.is_cut = true;
    }

    /// Something happened between controller and node.
    pub(super) fn news(&mut self, news: &News) {
        match news {
            News::State { mode, reason } => {
                mode.clone_into(&mut self.mode);
                reason.clone_into(&mut self.reason);
                if let Some(last) = self.past.last_mut() {
                    last.1 |= self.mode == "trough";
                }
            }
            News::Submitted { id, title, items } => self.bars.push(Bar {
                id: id.to_string(),
                title: title.clone(),
                status: "SENT".to_owned(),
                done: 0,
                total: *items,
            }),
            News::Progress { id, state, done } => {
                if let Some(bar) = self.bars.iter_mut().find(|bar| bar.id == id.as_str()) {
                    state.as_str().clone_into(&mut bar.status);
                    bar.done = *done;
                }
            }
            News::Ended { id, state, sights } => {
                self.bars.retain(|bar| bar.id != id.as_str());
                self.jobs_done += 1;
                self.items_done += u64::try_from(sights.len()).unwrap_or(u64::MAX);
                let line = sights.first().map_or_else(|| format!("{id}: {}", state.as_str()), ToString::to_string);
                remember(&mut self.results, line);
            }
            News::Yield(yielded) => {
                // The state that says so follows a moment later.
                "busy".clone_into(&mut self.mode);
                let line = format!("{}  {}", self.clock(), describe_yield(yielded));
                remember(&mut self.yields, line);
            }
            News::Link { .. } | News::Note(_) => {}
        }
    }

    /// Every line above the bars, at most `width` columns wide.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{} {}   load {:>4}   {}",
                self.paint(BOLD, "Neap demo"),
                self.clock(),
                self.load.to_string(),
                self.paint(self.load_colour(self.load), &self.mode)
            ),
            self.paint(DIM, &self.reason.chars().take(width).collect::<String>()),
        ];
        let columns = width.saturating_sub(8).clamp(20, 120);
        lines.extend((0..CURVE_ROWS).rev().map(|row| self.curve_row(row, columns)));
        lines.push(self.inference_row(columns));
        lines.push(format!("   0h{:>half$}{:>rest$}", "12h", "24h", half = columns / 2, rest = columns - columns / 2));
        let padded = |recent: &VecDeque<String>| {
            (0..RECENT).map(|at| recent.get(at).cloned().unwrap_or_default()).collect::<Vec<_>>()
        };
        lines.extend(padded(&self.yields).into_iter().map(|line| self.paint(RED, &cut(&line, width))));
        lines.extend(padded(&self.results).into_iter().map(|line| cut(&line, width)));
        lines.push(format!("{} jobs done, {} items", self.jobs_done, self.items_done));
        // A terminal library may leave out an empty line, and the picture would jump.
        lines.into_iter().map(|line| if line.is_empty() { " ".to_owned() } else { line }).collect()
    }

    /// One row of the load curve: blocks, with the two limits drawn where they lie.
    fn curve_row(&self, row: usize, columns: usize) -> String {
        let per_row = 1000 / CURVE_ROWS;
        let floor = row * per_row;
        let holds = |limit: Utilization| (floor..floor + per_row).contains(&usize::from(limit.permille()));
        let (mark, label) = match (holds(self.busy_above), holds(self.idle_below)) {
            (true, _) => ('╌', format!("{:>4} ", self.busy_above.permille() / 10)),
            (false, true) => ('╌', format!("{:>4} ", self.idle_below.permille() / 10)),
            (false, false) => (' ', "     ".to_owned()),
        };
        let mut line = label;
        // Neighbours of one colour are painted together: the terminal gets a tenth of the bytes.
        let mut run = (None, String::new());
        for column in 0..columns {
            let (colour, symbol) = self.block(self.column(column, columns), row, mark);
            if colour != run.0 {
                line.push_str(&self.paint_run(&run));
                run = (colour, String::new());
            }
            run.1.push(symbol);
        }
        line.push_str(&self.paint_run(&run));
        line
    }

    /// The symbol of one column in one row, and its colour; `mark` where there is nothing.
    fn block(&self, column: Option<(Utilization, bool)>, row: usize, mark: char) -> (Option<&'static str>, char) {
        let Some((load, _)) = column else { return (None, mark) };
        let per_row = 1000 / CURVE_ROWS;
        let eighths = usize::from(load.permille()).saturating_sub(row * per_row) * 8 / per_row;
        // The lowest row always shows something: an idle cell is not an unknown one.
        match eighths.clamp(usize::from(row == 0), 8) {
            0 => (None, mark),
            eighths => (Some(self.load_colour(load)), EIGHTHS[eighths]),
        }
    }

    fn paint_run(&self, (colour, text): &(Option<&'static str>, String)) -> String {
        colour.map_or_else(|| text.clone(), |colour| self.paint(colour, text))
    }

    /// Where inference was allowed to run.
    fn inference_row(&self, columns: usize) -> String {
        let marks = (0..columns).map(|column| match self.column(column, columns) {
            Some((_, true)) => '━',
            Some((_, false)) | None => ' ',
        });
        format!(" run {}", self.paint(CYAN, &marks.collect::<String>()))
    }

    /// Highest load of the samples of one column, and whether inference could run in any of them.
    fn column(&self, column: usize, columns: usize) -> Option<(Utilization, bool)> {
        let samples = column * SAMPLES / columns..(column + 1) * SAMPLES / columns;
        let shown = self.past.get(samples.start..samples.end.min(self.past.len()))?;
        let load = shown.iter().map(|(load, _)| *load).max()?;
        Some((load, shown.iter().any(|(_, runs)| *runs)))
    }

    fn load_colour(&self, load: Utilization) -> &'static str {
        if load >= self.busy_above {
            RED
        } else if load < self.idle_below {
            GREEN
        } else {
            YELLOW
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

fn remember(lines: &mut VecDeque<String>, line: String) {
    if lines.len() == RECENT {
        lines.pop_front();
    }
    lines.push_back(line);
}

/// The line's first `width` characters.
pub(super) fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

/// A yield in one line.
pub(super) fn describe_yield(event: &YieldEvent) -> String {
    let YieldEvent { source, reason, metric, value, threshold, total_us, workers, .. } = event;
    let workers = if *workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
    let cause = match (value, threshold) {
        (Some(value), Some(threshold)) => format!("{metric} {value} ≥ {threshold}"),
        (_, _) => format!("{source} {reason}"),
    };
    format!("yield {}  {workers} stopped  {cause}", super::summary::micros(*total_us))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::WallTime;

    fn percent(percent: u8) -> Utilization {
        Utilization::from_percent(percent).unwrap()
    }

    fn yielded(total_us: u64) -> YieldEvent {
        YieldEvent {
            source: "push".to_owned(),
            reason: "above".to_owned(),
            metric: "RRU.PrbTotDl".to_owned(),
            value: Some(percent(71)),
            threshold: Some(percent(40)),
            detect_us: 0,
            decide_us: 0,
            stop_us: total_us,
            total_us,
            workers: 2,
            displaced: 0,
            frozen: 0,
            cpu_after_us: None,
            causes: Vec::new(),
            explained_permille: None,
            jobs: Vec::new(),
            at: WallTime::default(),
        }
    }

    fn scene() -> Scene {
        Scene::new(percent(40), percent(25), false)
    }

    #[test]
    fn the_curve_shows_the_past_and_both_limits_ahead() {
        let mut scene = scene();
        for index in 0..SAMPLES / 2 {
            scene.load(index, percent(if index % 100 < 50 { 10 } else { 90 }));
        }
        let lines = scene.lines(88);
        let curve = &lines[2..2 + CURVE_ROWS];
        assert!(curve[0].contains('▄') && curve[4].contains('█'), "{curve:#?}");
        assert!(curve[2].starts_with("  40 ") && curve[2].ends_with('╌'), "{curve:#?}");
        assert!(curve[3].starts_with("  25 ") && curve[3].ends_with('╌'), "{curve:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 88), "{lines:#?}");
        assert_eq!(scene.clock(), "11:58");
    }

    #[test]
    fn where_inference_ran_is_marked_below_the_curve() {
        let mut scene = scene();
        scene.load(0, percent(5));
        let state = |mode: &str| News::State { mode: mode.to_owned(), reason: String::new() };
        scene.news(&state("trough"));
        scene.load(300, percent(5));
        scene.news(&state("busy"));
        scene.load(500, percent(80));
        let run = scene.lines(88)[2 + CURVE_ROWS].clone();
        let marks = run.chars().filter(|mark| *mark == '━').count();
        assert!((30..40).contains(&marks), "{run}");
    }

    #[test]
    fn a_day_that_is_cut_short_ends_where_it_was() {
        let mut scene = scene();
        scene.load(300, percent(60));
        scene.cut_short();
        scene.load(SAMPLES, percent(0));
        assert_eq!(scene.clock(), "10:00");
        assert!(scene.lines(80)[0].contains("load  0 %"), "{}", scene.lines(80)[0]);
    }

    #[test]
    fn a_yield_names_its_latency_and_its_cause() {
        assert_eq!(describe_yield(&yielded(41)), "yield 41 µs  2 workers stopped  RRU.PrbTotDl 71 % ≥ 40 %");
        let stale = YieldEvent { value: None, reason: "stale".to_owned(), workers: 1, ..yielded(1_200) };
        assert_eq!(describe_yield(&stale), "yield 1.2 ms  1 worker stopped  push stale");
    }

    #[test]
    fn the_number_of_lines_never_changes() {
        let mut scene = scene();
        let before = scene.lines(80).len();
        for index in 0..20 {
            scene.news(&News::Note(format!("note {index}")));
            scene.news(&News::Yield(yielded(index)));
            scene.load(SAMPLES, percent(0));
        }
        assert_eq!(scene.lines(80).len(), before);
        assert_eq!(scene.clock(), "24:00");
    }
}
