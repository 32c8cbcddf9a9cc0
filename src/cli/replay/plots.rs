//! How is a replay drawn? Four drawings as SVG text, for light and dark pages. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use crate::cli::bench::chart::escape;
use crate::governor::Mode;
use crate::governor::forecast::HORIZONS;
use crate::sim::replay::account::share;
use crate::sim::replay::picture::Stretch;
use crate::sim::replay::{Outcome, account};
use crate::units::Utilization;

/// Size of a drawing, in its own units.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 14.0;
const DAY_S: f64 = 86_400.0;
/// Colours that there are; more configurations take them in turn.
pub(super) const COLOURS: usize = 6;

/// A drawing that grows.
struct Canvas {
    svg: String,
    height: f64,
}

impl Canvas {
    fn new(label: &str, height: f64) -> Self {
        let label = escape(label);
        let svg =
            format!("<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{label}\">\n");
        Self { svg, height }
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.svg, "{element}");
    }

    fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: &str, text: &str) {
        let text = escape(text);
        self.add(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.add(format_args!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
    }

    fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64), title: &str) {
        let title = escape(title);
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\"><title>{title}\
             </title></rect>"
        ));
    }

    /// Horizontal lines with percentages, between `top` and `bottom`.
    fn percents(&mut self, (top, bottom): (f64, f64), parts: u8) {
        for part in 0..=parts {
            let of_whole = f64::from(part) / f64::from(parts);
            let y = bottom - (bottom - top) * of_whole;
            self.line("grid", (LEFT, y), (WIDTH - RIGHT, y));
            self.text("tick", (LEFT - 6.0, y + 4.0), "end", &format!("{:.0} %", of_whole * 100.0));
        }
    }

    /// The names of the configurations in their colours, from `y` on.
    fn legend(&mut self, names: &[&str], y: f64) {
        let mut x = LEFT;
        for (index, name) in names.iter().enumerate() {
            let shown: String = name.chars().take(40).collect();
            self.add(format_args!(
                "<rect class=\"f{}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\"/>",
                index % COLOURS,
                y - 9.0
            ));
            self.text("tick", (x + 15.0, y), "start", &shown);
            x += 30.0 + 6.4 * number(shown.chars().count());
        }
    }

    fn end(mut self) -> String {
        debug_assert!(self.height > 0.0);
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn names(outcomes: &[Outcome]) -> Vec<&str> {
    outcomes.iter().map(|outcome| outcome.setup.name.as_str()).collect()
}

/// The day of the first node on which the first configuration yielded most; `None` without any.
pub(super) fn day_shown(outcomes: &[Outcome]) -> Option<Duration> {
    let picture = &outcomes.first()?.picture;
    let mut best: Option<(usize, Duration)> = None;
    for from in picture.days() {
        let yields = picture.day(from).1.len();
        if best.is_none_or(|(most, _)| yields > most) {
            best = Some((yields, from));
        }
    }
    best.map(|(_, from)| from)
}

/// The load of the first node over a day, once for each configuration: troughs shaded, yields marked.
pub(super) fn day(outcomes: &[Outcome], from: Duration, begins: Duration) -> String {
    const ROW: f64 = 190.0;
    let mut canvas = Canvas::new("Load of one node over a day", ROW * number(outcomes.len()) + 24.0);
    for (row, outcome) in outcomes.iter().enumerate() {
        let (top, bottom) = (ROW * number(row) + 30.0, ROW * number(row + 1) - 6.0);
        let (stretches, yields) = outcome.picture.day(from);
        canvas.text("name", (LEFT, top - 10.0), "start", &format!("{}: {} yields", outcome.setup.name, yields.len()));
        let x = |at: Duration| LEFT + at.saturating_sub(from).as_secs_f64() / DAY_S * (WIDTH - LEFT - RIGHT);
        let y = |level: Utilization| bottom - (bottom - top) * f64::from(level.permille()) / 1000.0;
        for run in stretches.chunk_by(|a, b| a.to == b.from && kind(a) == kind(b)) {
            let (Some(first), Some(last), Some(class)) = (run.first(), run.last(), run.first().and_then(kind)) else {
                continue;
            };
            let title = format!("{class}, {} min", (last.to - first.from).as_secs() / 60);
            canvas.rect(class, (x(first.from), top), (x(last.to) - x(first.from), bottom - top), &title);
        }
        canvas.percents((top, bottom), 4);
        for limit in [outcome.setup.policy.busy_above, outcome.setup.policy.idle_below] {
            canvas.line("limit", (LEFT, y(limit)), (WIDTH - RIGHT, y(limit)));
        }
        canvas.add(format_args!("<path class=\"load\" d=\"{}\"/>", path(&stretches, &x, &y)));
        for at in yields {
            let (x, tip) = (x(at), top + 9.0);
            let (left, right) = (x - 4.0, x + 4.0);
            canvas.add(format_args!(
                "<path class=\"yield\" d=\"M{left:.1} {top:.1} L{right:.1} {top:.1} L{x:.1} {tip:.1} Z\"/>"
            ));
        }
    }
    let bottom = ROW * number(outcomes.len()) + 12.0;
    hours(&mut canvas, bottom, begins);
    canvas.end()
}

/// What a stretch is shaded as.
fn kind(stretch: &Stretch) -> Option<&'static str> {
    match (stretch.level, stretch.budget) {
        (None, _) => Some("unknown"),
        (Some(_), 0) => None,
        (Some(_), _) => Some("trough"),
    }
}

/// The load as steps: a level holds until the next one.
fn path(stretches: &[Stretch], x: &impl Fn(Duration) -> f64, y: &impl Fn(Utilization) -> f64) -> String {
    let mut path = String::new();
    let mut pen = false;
    for stretch in stretches {
        let Some(level) = stretch.level else {
            pen = false;
            continue;
        };
        let (x1, x2, y) = (x(stretch.from), x(stretch.to), y(level));
        let _ = write!(path, "{}{x1:.1} {y:.1}H{x2:.1}", if pen { "L" } else { "M" });
        pen = true;
    }
    path
}

/// Hours below a day that begins at that time of the day.
fn hours(canvas: &mut Canvas, y: f64, begins: Duration) {
    for hour in (0..=24_u32).step_by(3) {
        let x = LEFT + f64::from(hour) / 24.0 * (WIDTH - LEFT - RIGHT);
        let of_day = (begins + Duration::from_secs(3600) * hour).as_secs() % 86_400;
        let text = format!("{:02}:{:02}", of_day / 3600, of_day / 60 % 60);
        canvas.text("tick", (x, y), if hour == 24 { "end" } else { "middle" }, &text);
    }
}

/// Share of each hour's core time that was granted, and could have been.
pub(super) fn by_hour(outcomes: &[Outcome]) -> String {
    let (top, bottom) = (34.0, 230.0);
    let mut canvas = Canvas::new("Harvest by hour of the day", bottom + 26.0);
    canvas.legend(&names(outcomes), 16.0);
    canvas.percents((top, bottom), 4);
    let slot = (WIDTH - LEFT - RIGHT) / number(account::HOURS);
    let bar = (slot - 6.0) / number(outcomes.len().max(1));
    for hour in 0..account::HOURS {
        let x = LEFT + slot * number(hour) + 3.0;
        for (index, outcome) in outcomes.iter().enumerate() {
            let account::Hour { core_time, low, granted } = outcome.totals.hours[hour];
            let (low, granted) = (share(low, core_time), share(granted, core_time));
            let height = (bottom - top) * granted;
            let left = x + bar * number(index);
            let title =
                format!("{hour:02} h, {}: {:.0} % of {:.0} %", outcome.setup.name, granted * 100.0, low * 100.0);
            canvas.rect(&format!("f{}", index % COLOURS), (left, bottom - height), (bar * 0.92, height), &title);
            let y = bottom - (bottom - top) * low;
            canvas.line("low", (left, y), (left + bar * 0.92, y));
        }
        if hour % 3 == 0 {
            canvas.text("tick", (x + slot / 2.0 - 3.0, bottom + 16.0), "middle", &format!("{hour:02}"));
        }
    }
    canvas.end()
}

/// Yields a day against harvest: every plain threshold as a line, each configuration as a point.
pub(super) fn trade(outcomes: &[Outcome]) -> String {
    let (top, bottom) = (34.0, 290.0);
    let mut canvas = Canvas::new("Yields a day against harvest", bottom + 40.0);
    let Some(first) = outcomes.first() else { return canvas.end() };
    let plain = first.totals.curve.thresholds();
    let a_day = |count| first.totals.a_day(count);
    let ours = outcomes.iter().map(|outcome| outcome.totals.a_day(outcome.totals.runs.yields));
    let most = plain.iter().map(|plain| a_day(plain.yields)).chain(ours).fold(1.0, f64::max);
    let most = (most / 5.0).ceil() * 5.0;
    let x = |harvest: f64| LEFT + harvest * (WIDTH - LEFT - RIGHT);
    let y = |yields: f64| bottom - yields / most * (bottom - top);
    canvas.legend(&names(outcomes), 16.0);
    for part in 0..=5_u8 {
        let yields = most * f64::from(part) / 5.0;
        canvas.line("grid", (LEFT, y(yields)), (WIDTH - RIGHT, y(yields)));
        canvas.text("tick", (LEFT - 6.0, y(yields) + 4.0), "end", &format!("{yields:.0}"));
    }
    for part in 0..=10_u8 {
        let harvest = f64::from(part) / 10.0;
        let anchor = if part == 10 { "end" } else { "middle" };
        canvas.text("tick", (x(harvest), bottom + 16.0), anchor, &format!("{:.0} %", harvest * 100.0));
    }
    let points: Vec<String> =
        plain.iter().map(|plain| format!("{:.1} {:.1}", x(plain.harvest), y(a_day(plain.yields)))).collect();
    canvas.add(format_args!("<path class=\"line s5\" d=\"M{}\"/>", points.join("L")));
    for plain in plain.iter().filter(|plain| plain.threshold % 10 == 0 && plain.threshold < 90) {
        let (x, y) = (x(plain.harvest), y(a_day(plain.yields)));
        let title = format!("plain threshold at {} %", plain.threshold);
        canvas.add(format_args!(
            "<circle class=\"f5\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{title}</title></circle>"
        ));
        canvas.text("tick", (x, y - 7.0), "middle", &format!("{} %", plain.threshold));
    }
    for (index, outcome) in outcomes.iter().enumerate() {
        let totals = &outcome.totals;
        let (x, y) = (x(totals.harvest()), y(totals.a_day(totals.runs.yields)));
        let class = format!("dot f{}", index % COLOURS);
        let title = escape(&outcome.setup.name);
        canvas.add(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\"><title>{title}</title></circle>"
        ));
    }
    canvas.text("tick", (WIDTH - RIGHT, bottom + 34.0), "end", "harvest, share of all core time");
    canvas.end()
}

/// Mean error of the forecast by horizon, and that of persistence; `None` when nothing was compared.
pub(super) fn errors(outcomes: &[Outcome]) -> Option<String> {
    let (top, bottom) = (34.0, 230.0);
    let mut canvas = Canvas::new("Forecast error by horizon", bottom + 40.0);
    let ours = |outcome: &Outcome| outcome.totals.errors.map(|errors| errors.mean_percent());
    let first = outcomes.first()?;
    let floor = first.totals.errors.map(|errors| errors.persistence_percent());
    let all = outcomes.iter().flat_map(ours).chain(floor).flatten();
    let most = (all.fold(0.0, f64::max) / 5.0).ceil() * 5.0;
    if most <= 0.0 {
        return None;
    }
    let slot = (WIDTH - LEFT - RIGHT) / number(HORIZONS.len());
    let x = |index: usize| LEFT + slot * (number(index) + 0.5);
    let y = |percent: f64| bottom - percent / most * (bottom - top);
    canvas.legend(&[names(outcomes), vec!["persistence (dashed)"]].concat(), 16.0);
    for part in 0..=5_u8 {
        let percent = most * f64::from(part) / 5.0;
        canvas.line("grid", (LEFT, y(percent)), (WIDTH - RIGHT, y(percent)));
        canvas.text("tick", (LEFT - 6.0, y(percent) + 4.0), "end", &format!("{percent:.0} %"));
    }
    for (index, horizon) in HORIZONS.iter().enumerate() {
        canvas.text("tick", (x(index), bottom + 16.0), "middle", &format!("{} min", horizon.as_secs() / 60));
    }
    let line = |errors: [Option<f64>; HORIZONS.len()]| {
        let known = errors.into_iter().enumerate().filter_map(|(index, error)| Some((index, error?)));
        known.map(|(index, error)| format!("{:.1} {:.1}", x(index), y(error))).collect::<Vec<_>>().join("L")
    };
    canvas.add(format_args!("<path class=\"line limit\" d=\"M{}\"/>", line(floor)));
    for (index, outcome) in outcomes.iter().enumerate() {
        canvas.add(format_args!("<path class=\"line s{}\" d=\"M{}\"/>", index % COLOURS, line(ours(outcome))));
    }
    Some(canvas.end())
}

/// How the time was shared by the modes, one bar a configuration.
pub(super) fn modes(outcomes: &[Outcome]) -> String {
    const ROW: f64 = 34.0;
    const SHOWN: [(Mode, &str); 4] =
        [(Mode::Trough, "f0"), (Mode::Settling, "f1"), (Mode::Busy, "f5"), (Mode::Blind, "f4")];
    let mut canvas = Canvas::new("Time by mode", ROW * number(outcomes.len()) + 34.0);
    let mut x = LEFT;
    for (mode, class) in SHOWN {
        canvas.rect(class, (x, 6.0), (10.0, 10.0), mode.as_str());
        canvas.text("tick", (x + 15.0, 15.0), "start", mode.as_str());
        x += 90.0;
    }
    for (row, outcome) in outcomes.iter().enumerate() {
        let y = 30.0 + ROW * number(row);
        let mut left = LEFT;
        for (mode, class) in SHOWN {
            let part = share(outcome.totals.modes[mode as usize], outcome.totals.time);
            let width = part * (WIDTH - LEFT - RIGHT);
            let title = format!("{}: {} {:.1} %", outcome.setup.name, mode.as_str(), part * 100.0);
            canvas.rect(class, (left, y), (width, 14.0), &title);
            left += width;
        }
        let shown: String = outcome.setup.name.chars().take(60).collect();
        canvas.text("tick", (LEFT, y + 26.0), "start", &shown);
    }
    canvas.end()
}
