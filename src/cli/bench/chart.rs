//! How are times drawn? Histograms on a logarithmic axis, one row a method, as SVG text. Pure.
//!
//! Both axes are logarithmic: one event among twenty thousand must be seen, because the tail is what hurts.

use std::fmt::Write as _;

use super::latency::{Latencies, micros, show_us};

/// Columns a decade.
const BINS_PER_DECADE: u32 = 24;
/// Size of the drawing, in its own units.
const WIDTH: f64 = 960.0;
/// Left of the columns: names and figures.
const LEFT: f64 = 132.0;
const RIGHT: f64 = 16.0;
const ROW: f64 = 78.0;
/// Height of the highest column.
const COLUMN: f64 = 56.0;
const AXIS: f64 = 34.0;

/// One row of a drawing.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Series<'a> {
    /// What it is.
    pub(in crate::cli) name: String,
    /// Whether it is ours: drawn in the colour that stands out.
    pub(in crate::cli) ours: bool,
    /// The times.
    pub(in crate::cli) times: &'a Latencies,
}

/// Powers of ten, in ns, between which all times lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decades {
    first: u32,
    last: u32,
}

impl Decades {
    fn around(series: &[Series<'_>]) -> Option<Self> {
        let seen = || series.iter().filter(|series| series.times.count() > 0);
        let low = seen().map(|series| series.times.quantile_ns(0.0)).min()?.max(1);
        let high = seen().map(|series| series.times.quantile_ns(1.0)).max()?.max(1);
        let (first, last) = (low.ilog10(), high.ilog10() + 1);
        Some(Self { first, last: last.max(first + 2) })
    }

    fn bins(self) -> u32 {
        (self.last - self.first) * BINS_PER_DECADE
    }

    /// Edge number `index` of the columns, in ns.
    fn edge_ns(self, index: u32) -> u64 {
        let power = f64::from(self.first) + f64::from(index) / f64::from(BINS_PER_DECADE);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 10^12 and positive")]
        let ns = 10_f64.powf(power).round() as u64;
        ns
    }

    /// Place of a time on the axis.
    fn x(self, ns: u64) -> f64 {
        let power = (micros(ns.max(1)).log10() + 3.0).clamp(f64::from(self.first), f64::from(self.last));
        LEFT + (power - f64::from(self.first)) / f64::from(self.last - self.first) * (WIDTH - LEFT - RIGHT)
    }
}

/// Draws the rows above one another on one axis. Nothing to draw gives a sentence instead.
pub(in crate::cli) fn histograms(label: &str, series: &[Series<'_>]) -> String {
    let Some(decades) = Decades::around(series) else { return "<p>Nothing was measured.</p>".to_owned() };
    let bottom = ROW * f64::from(u32::try_from(series.len()).unwrap_or(u32::MAX)) + 14.0;
    let height = bottom + AXIS;
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(label)
    );
    axis(&mut svg, decades, bottom);
    for (row, series) in (0_u32..).zip(series) {
        draw_row(&mut svg, decades, series, ROW * f64::from(row + 1));
    }
    svg.push_str("</svg>\n");
    svg
}

fn axis(svg: &mut String, decades: Decades, bottom: f64) {
    for power in decades.first..=decades.last {
        let ns = 10_u64.saturating_pow(power);
        let x = decades.x(ns);
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "<line class=\"grid\" x1=\"{x:.1}\" y1=\"14\" x2=\"{x:.1}\" y2=\"{bottom}\"/>");
        let anchor = if power == decades.last { "end" } else { "middle" };
        let y = bottom + 18.0;
        let _ = writeln!(
            svg,
            "<text class=\"tick\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>",
            decade_name(ns)
        );
        if power == decades.last {
            break;
        }
        for part in 2..10 {
            let x = decades.x(ns.saturating_mul(part));
            let (from, to) = (bottom - 3.0, bottom + 3.0);
            let _ = writeln!(svg, "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{from}\" x2=\"{x:.1}\" y2=\"{to}\"/>");
        }
    }
}

/// A power of ten with its unit.
fn decade_name(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        1_000_000_000.. => format!("{} s", ns / 1_000_000_000),
    }
}

fn draw_row(svg: &mut String, decades: Decades, series: &Series<'_>, base: f64) {
    let class = if series.ours { "row ours" } else { "row" };
    let count = series.times.count();
    let _ = writeln!(svg, "<g class=\"{class}\">");
    let _ = writeln!(svg, "<line class=\"base\" x1=\"{LEFT}\" y1=\"{base}\" x2=\"{}\" y2=\"{base}\"/>", WIDTH - RIGHT);
    let (title, below) = (base - 30.0, base - 14.0);
    let _ = writeln!(svg, "<text class=\"name\" x=\"0\" y=\"{title}\">{}</text>", escape(&series.name));
    let _ = writeln!(svg, "<text class=\"tick\" x=\"0\" y=\"{below}\">n = {count}</text>");
    let edges: Vec<u64> = (0..=decades.bins()).map(|index| decades.edge_ns(index)).collect();
    let counts = series.times.counts(&edges);
    let most = counts.iter().copied().max().unwrap_or(0);
    for (span, &count) in edges.windows(2).zip(&counts).filter(|(_, count)| **count > 0) {
        let (x, next) = (decades.x(span[0]), decades.x(span[1]));
        let height = column(count, most);
        let (width, top) = ((next - x - 0.6).max(0.6), base - height);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"><title>{} to {}: {count}\
             </title></rect>",
            show_us(micros(span[0])),
            show_us(micros(span[1])),
        );
    }
    if count > 0 {
        marks(svg, decades, series.times, base);
    }
    svg.push_str("</g>\n");
}

/// Height of a column: one event is seen, the highest column is full.
fn column(count: u64, most: u64) -> f64 {
    let log = |count: u64| micros(count.saturating_mul(1000)).ln_1p();
    (log(count) / log(most.max(1)) * COLUMN).max(2.0)
}

/// Where the percentiles lie.
fn marks(svg: &mut String, decades: Decades, times: &Latencies, base: f64) {
    let (tip, top) = (base + 7.0, base - COLUMN - 2.0);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        let ns = times.quantile_ns(share);
        let x = decades.x(ns);
        let (left, right) = (x - 3.5, x + 3.5);
        let _ = writeln!(
            svg,
            "<g class=\"mark\"><line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{base}\"/><path d=\"M{x:.1} {base} \
             L{left:.1} {tip} L{right:.1} {tip} Z\"/><title>{name} {}</title></g>",
            show_us(micros(ns))
        );
    }
}

/// Text made safe for HTML and SVG, between tags and in quoted attributes; control characters become spaces.
pub(in crate::cli) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn times(us: &[u64]) -> Latencies {
        let mut times = Latencies::default();
        us.iter().for_each(|us| times.record(Duration::from_micros(*us)));
        times
    }

    fn series<'a>(name: &str, times: &'a Latencies) -> Series<'a> {
        Series { name: name.to_owned(), ours: true, times }
    }

    #[test]
    fn every_time_is_drawn_once() {
        let times = times(&[3, 30, 31, 300, 3_000_000]);
        let svg = histograms("latency", &[series("push", &times)]);
        let drawn: u64 = svg
            .split("<title>")
            .filter_map(|part| part.split_once("</title></rect>")?.0.rsplit_once(": ")?.1.parse::<u64>().ok())
            .sum();
        assert_eq!(drawn, 5, "{svg}");
        assert_eq!(svg.matches("<rect").count(), 4, "30 and 31 µs share a column: {svg}");
        assert_eq!(svg.matches("class=\"mark\"").count(), 4);
    }

    #[test]
    fn the_axis_covers_all_rows_in_whole_decades() {
        let (fast, slow, none) = (times(&[4, 20]), times(&[1_400_000]), times(&[]));
        let rows = [series("a", &fast), series("b", &slow), series("c", &none)];
        assert_eq!(Decades::around(&rows), Some(Decades { first: 3, last: 10 }));
        let svg = histograms("x", &rows);
        for tick in [">1 µs<", ">10 µs<", ">100 ms<", ">10 s<"] {
            assert!(svg.contains(tick), "{tick} {svg}");
        }
        assert_eq!(Decades::around(&[series("c", &none)]), None);
        assert!(histograms("x", &[series("c", &none)]).contains("Nothing"));
    }

    #[test]
    fn later_lies_further_right_and_rarer_is_lower_but_seen() {
        let decades = Decades { first: 3, last: 7 };
        let xs: Vec<f64> = [1_000, 1_500, 40_000, 10_000_000].iter().map(|ns| decades.x(*ns)).collect();
        assert!(xs.windows(2).all(|pair| pair[0] < pair[1]), "{xs:?}");
        assert!((xs[0] - LEFT).abs() < 1e-9 && (xs[3] - (WIDTH - RIGHT)).abs() < 1e-9);
        assert!(column(1, 20_000) >= 2.0 && column(1, 20_000) < column(50, 20_000));
        assert!((column(20_000, 20_000) - COLUMN).abs() < 1e-9);
    }

    #[test]
    fn foreign_text_cannot_leave_its_place() {
        assert_eq!(escape("a<b>&\"c'\n\u{1b}"), "a&lt;b&gt;&amp;&quot;c&#39;  ");
        let times = times(&[3]);
        let svg = histograms("\"><script>", &[series("<script>", &times)]);
        assert!(!svg.contains("<script>"), "{svg}");
    }
}
