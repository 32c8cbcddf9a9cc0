//! How is a figure written for Prometheus? The text format 0.0.4, one family after the other. Pure.
//!
//! Of our own, because all figures here are snapshots of plain structs: the `prometheus-client` crate wants them as
//! live atomics in a registry, with a macro for every label set, for what are sixty lines here.

use std::fmt::Write as _;
use std::time::Duration;

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only rises, until the agent starts again.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts below bounds.
    Histogram,
    /// Quantiles.
    Summary,
}

/// A text being written.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// A label set: names are ours, values may be anybody's.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// Begins a family; its samples follow.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) -> &mut Self {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        };
        // Writing to a string never fails.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    /// One sample with a whole number.
    pub(super) fn count(&mut self, name: &str, labels: Labels<'_>, value: u64) -> &mut Self {
        self.sample(name, labels, &value.to_string())
    }

    /// One sample with a time in seconds.
    pub(super) fn seconds(&mut self, name: &str, labels: Labels<'_>, value: Duration) -> &mut Self {
        self.sample(name, labels, &value.as_secs_f64().to_string())
    }

    /// One sample that is true or false.
    pub(super) fn flag(&mut self, name: &str, labels: Labels<'_>, value: bool) -> &mut Self {
        self.count(name, labels, u64::from(value))
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: &str) -> &mut Self {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            self.0.extend(text.chars().flat_map(escaped));
            self.0.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
        self
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// A character of a label's value.
fn escaped(c: char) -> impl Iterator<Item = char> {
    let pair = match c {
        '\\' => [Some('\\'), Some('\\')],
        '"' => [Some('\\'), Some('"')],
        '\n' => [Some('\\'), Some('n')],
        c => [Some(c), None],
    };
    pair.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_reads_as_the_format_wants_it() {
        let mut text = Exposition::default();
        text.family("neap_x_seconds", Kind::Gauge, "How long.").seconds(
            "neap_x_seconds",
            &[("source", "du"), ("part", "a\"b\\c\nd")],
            Duration::from_micros(1_500),
        );
        text.family("neap_up", Kind::Gauge, "Whether.").flag("neap_up", &[], true);
        assert_eq!(
            text.finish(),
            "# HELP neap_x_seconds How long.\n# TYPE neap_x_seconds gauge\n\
             neap_x_seconds{source=\"du\",part=\"a\\\"b\\\\c\\nd\"} 0.0015\n\
             # HELP neap_up Whether.\n# TYPE neap_up gauge\nneap_up 1\n"
        );
    }
}
