//! How does an operator show the figures to others? One HTML file without anything from elsewhere: text, tables,
//! drawings, light and dark. Pure.

use std::fmt::Write as _;

use super::chart::{self, Series, escape};
use super::machine::Facts;

/// A report, from its title to the machine's facts.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Report {
    title: String,
    body: String,
}

/// A table; the first column is left-aligned, the others are figures.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Table {
    /// Titles of the columns.
    pub(in crate::cli) head: Vec<String>,
    /// Rows of as many cells.
    pub(in crate::cli) rows: Vec<Row>,
}

/// One row of a table.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Row {
    /// Its cells.
    pub(in crate::cli) cells: Vec<String>,
    /// Whether it is ours: marked as in the drawings.
    pub(in crate::cli) ours: bool,
}

/// How a sentence is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Verdict {
    /// As promised.
    Kept,
    /// Not as promised.
    Missed,
    /// Neither.
    Plain,
}

impl Report {
    /// An empty report. `lead` says in one or two sentences what was asked.
    pub(in crate::cli) fn new(title: &str, lead: &str) -> Self {
        let body = format!("<h1>{}</h1>\n<p class=\"lead\">{}</p>\n", escape(title), escape(lead));
        Self { title: title.to_owned(), body }
    }

    /// A heading.
    pub(in crate::cli) fn heading(&mut self, text: &str) {
        self.push(&format!("<h2>{}</h2>\n", escape(text)));
    }

    /// A paragraph.
    pub(in crate::cli) fn paragraph(&mut self, text: &str) {
        self.push(&format!("<p>{}</p>\n", escape(text)));
    }

    /// A list of sentences with their verdicts.
    pub(in crate::cli) fn verdicts(&mut self, sentences: &[(Verdict, String)]) {
        self.push("<ul class=\"verdicts\">\n");
        for (verdict, sentence) in sentences {
            let class = match verdict {
                Verdict::Kept => "kept",
                Verdict::Missed => "missed",
                Verdict::Plain => "plain",
            };
            self.push(&format!("<li class=\"{class}\">{}</li>\n", escape(sentence)));
        }
        self.push("</ul>\n");
    }

    /// A table of figures.
    pub(in crate::cli) fn table(&mut self, table: &Table) {
        self.table_of("figures", table);
    }

    /// A table of sentences: its cells wrap.
    pub(in crate::cli) fn prose(&mut self, table: &Table) {
        self.table_of("prose", table);
    }

    fn table_of(&mut self, class: &str, table: &Table) {
        let mut html = format!("<div class=\"scroll\"><table class=\"{class}\">\n<thead><tr>");
        // Writing to a string cannot fail.
        table.head.iter().for_each(|cell| _ = write!(html, "<th>{}</th>", escape(cell)));
        html.push_str("</tr></thead>\n<tbody>\n");
        for row in &table.rows {
            html.push_str(if row.ours { "<tr class=\"ours\">" } else { "<tr>" });
            row.cells.iter().for_each(|cell| _ = write!(html, "<td>{}</td>", escape(cell)));
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody></table></div>\n");
        self.push(&html);
    }

    /// Histograms on one logarithmic axis, with a sentence below.
    pub(in crate::cli) fn histograms(&mut self, label: &str, series: &[Series<'_>], caption: &str) {
        let svg = chart::histograms(label, series);
        self.push(&format!("<figure>\n{svg}<figcaption>{}</figcaption>\n</figure>\n", escape(caption)));
    }

    /// A drawing as SVG text, with a sentence below.
    pub(in crate::cli) fn drawing(&mut self, svg: &str, caption: &str) {
        self.push(&format!("<figure>\n{svg}<figcaption>{}</figcaption>\n</figure>\n", escape(caption)));
    }

    /// What the figures were taken on.
    pub(in crate::cli) fn machine(&mut self, facts: &Facts) {
        self.heading("Machine and run");
        let mut html = "<dl>\n".to_owned();
        for (name, value) in &facts.rows {
            let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        html.push_str("</dl>\n");
        self.push(&html);
    }

    /// The whole page.
    pub(in crate::cli) fn render(&self) -> String {
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\"/>\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
             <body>\n<main>\n{}</main>\n</body>\n</html>\n",
            escape(&self.title),
            self.body
        )
    }

    fn push(&mut self, html: &str) {
        self.body.push_str(html);
    }
}

const STYLE: &str = include_str!("report.css");

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::latency::Latencies;
    use super::super::machine::Machine;
    use super::*;

    fn full(text: &str) -> String {
        let mut times = Latencies::default();
        (1..200).for_each(|us| times.record(Duration::from_micros(us)));
        let mut report = Report::new(text, text);
        report.heading(text);
        report.paragraph(text);
        let sentence = |verdict| (verdict, text.to_owned());
        report.verdicts(&[sentence(Verdict::Kept), sentence(Verdict::Missed), sentence(Verdict::Plain)]);
        let cells = vec![text.to_owned(), "2".to_owned()];
        let rows = [true, false].map(|ours| Row { cells: cells.clone(), ours }).to_vec();
        report.table(&Table { head: cells.clone(), rows });
        report.histograms(text, &[Series { name: text.to_owned(), ours: true, times: &times }], text);
        report.machine(&Machine::begin().end(vec![("text", text.to_owned())]));
        report.render()
    }

    /// Every tag closed in order, every attribute quoted, every `&` a known entity: what XML asks for, and no browser
    /// stumbles over.
    fn assert_well_formed(html: &str) {
        let body = html.strip_prefix("<!DOCTYPE html>\n").expect("a document type");
        let mut open: Vec<String> = Vec::new();
        for (index, part) in body.split('<').enumerate().skip(1) {
            let (tag, text) = part.split_once('>').unwrap_or_else(|| panic!("part {index} has no end: {part}"));
            assert!(open.last().is_some_and(|tag| tag == "style") || !text.contains('>'), "a stray > in {text}");
            for entity in text.split('&').skip(1) {
                let known = ["amp;", "lt;", "gt;", "quot;", "#39;"];
                assert!(known.iter().any(|known| entity.starts_with(known)), "an & alone in {text}");
            }
            let quotes = tag.matches('"').count();
            assert!(quotes.is_multiple_of(2) && tag.matches("=\"").count() * 2 == quotes, "quotes in <{tag}>");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "closes in order, at part {index}");
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().unwrap().to_owned());
            }
        }
        assert_eq!(open, Vec::<String>::new(), "everything is closed");
    }

    #[test]
    fn the_report_is_well_formed_whatever_the_text() {
        for text in ["plain", "<script>alert('x')</script>", "a & b \"c\" > d </td></svg>", "&amp;\u{0}\u{7f}ü"] {
            assert_well_formed(&full(text));
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_nothing_runs() {
        let html = full("<script src=\"http://x\"></script>");
        for foreign in ["<script", "<link", "src=\"", "href=", "url(", "@import", "<iframe", "<img"] {
            assert!(!html.contains(foreign), "{foreign} in {html}");
        }
    }

    #[test]
    fn light_and_dark_are_both_served() {
        assert!(STYLE.contains("prefers-color-scheme: dark") && STYLE.contains("color-scheme: light dark"));
    }
}
