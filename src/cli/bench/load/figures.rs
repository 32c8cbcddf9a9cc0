//! What do the figures say, and what is to be reached?

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::parser::Parsed;
use super::ways::WAYS;
use crate::cli::bench::class_words;
use crate::cli::bench::latency::{Figures as Quantiles, Latencies, show_us};
use crate::cli::bench::machine::Facts;
use crate::cli::failure::Failure;
use crate::cli::out::{Out, Tone};
use crate::sentinel::YieldClass;

/// What Neap may add to the bare read, at the 99th percentile, in µs.
const ADDED_US_MAX: f64 = 100.0;
/// Least throughput of the parser, in MB/s.
const MEGABYTES_PER_S_MIN: f64 = 200.0;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Scheduling class of the threads.
    pub(super) class: Option<YieldClass>,
    /// Whether the process's memory was locked, as the agent's is.
    pub(super) memory_locked: bool,
    ways: BTreeMap<&'static str, Pair>,
    parsed: Vec<Parsed>,
}

/// Times of one way in.
#[derive(Debug, Default)]
struct Pair {
    bare: Latencies,
    decided: Latencies,
}

impl Pair {
    /// Bare, decided, and what is between them at p50, p99 and p99.9.
    fn figures(&self) -> Option<(Quantiles, Quantiles, [f64; 3])> {
        let (bare, ours) = (self.bare.figures()?, self.decided.figures()?);
        let added = [ours.p50_us - bare.p50_us, ours.p99_us - bare.p99_us, ours.p999_us - bare.p999_us];
        Some((bare, ours, added))
    }
}

impl Figures {
    /// One bare read of that way.
    pub(super) fn bare(&mut self, key: &'static str, time: std::time::Duration) {
        self.ways.entry(key).or_default().bare.record(time);
    }

    /// One decision of that way.
    pub(super) fn decided(&mut self, key: &'static str, time: std::time::Duration) {
        self.ways.entry(key).or_default().decided.record(time);
    }

    /// One round of the parser.
    pub(super) fn parsed(&mut self, round: Parsed) {
        self.parsed.push(round);
    }

    /// The best round: MB/s and million samples a second.
    fn throughput(&self) -> (f64, f64) {
        let rate = |round: &Parsed| {
            let (bytes, samples) = (count(round.bytes), count(round.samples));
            let us = round.took.as_secs_f64() * 1e6;
            if us > 0.0 { (bytes / us, samples / us) } else { (0.0, 0.0) }
        };
        self.parsed.iter().map(rate).fold((0.0, 0.0), |best, rate| if rate.0 > best.0 { rate } else { best })
    }

    /// Bytes allocated in the worst round.
    fn allocated(&self) -> u64 {
        self.parsed.iter().map(|round| round.allocated).max().unwrap_or(0)
    }

    /// For `--json`.
    pub(super) fn json(&self, facts: &Facts) -> Value {
        let (megabytes, samples) = self.throughput();
        let mut ways = serde_json::Map::new();
        for (key, pair) in &self.ways {
            let Some((bare, ours, [p50, p99, p999])) = pair.figures() else { continue };
            let added = json!({"p50_us": round(p50), "p99_us": round(p99), "p999_us": round(p999)});
            let way = json!({
                "events": pair.decided.count(),
                "bare_reads": pair.bare.count(),
                "decision": ours.json(),
                "bare": bare.json(),
                "added": added,
                "reached": p99 <= ADDED_US_MAX,
            });
            ways.insert((*key).to_owned(), way);
        }
        json!({
            "ways": ways,
            "parser": {
                "mb_per_s": round(megabytes),
                "samples_per_s": (samples * 1e6).round(),
                "allocated_bytes": self.allocated(),
                "rounds": self.parsed.len(),
                "reached": megabytes >= MEGABYTES_PER_S_MIN && self.allocated() == 0,
            },
            "yield_class": class_words(self.class),
            "memory_locked": self.memory_locked,
            "machine": facts.json(),
        })
    }

    /// For people: what was measured, what is to be reached, whether it is.
    pub(super) fn tell(&self, out: &Out) -> Result<(), Failure> {
        let verdict = |kept: bool| match kept {
            true => out.paint(Tone::Good, "reached"),
            false => out.paint(Tone::Bad, "missed"),
        };
        let quantiles = |q: &Quantiles| [q.p50_us, q.p99_us, q.p999_us].map(show_us).join(" / ");
        let mut rows = Vec::new();
        for way in &WAYS {
            let Some((pair, (bare, ours, [_, p99, _]))) =
                self.ways.get(way.key).and_then(|pair| Some((pair, pair.figures()?)))
            else {
                continue;
            };
            rows.push(vec![
                way.name.to_owned(),
                pair.decided.count().to_string(),
                quantiles(&bare),
                quantiles(&ours),
                format!("{p99:.1} µs"),
                verdict(p99 <= ADDED_US_MAX),
            ]);
        }
        let bare = "bare read p50 / p99 / p99.9";
        out.table(&["", "events", bare, "decision p50 / p99 / p99.9", "added at p99", "≤ 100 µs"], &rows)?;
        let (megabytes, samples) = self.throughput();
        let allocated = self.allocated();
        let kept = verdict(megabytes >= MEGABYTES_PER_S_MIN && allocated == 0);
        out.line(&format!(
            "\nPush lines: {megabytes:.0} MB/s, {samples:.2} million samples a second on one thread, {allocated} bytes \
             allocated (≥ 200 MB/s, 0 bytes: {kept})",
        ))?;
        let locked = if self.memory_locked { "memory locked" } else { "memory not locked" };
        out.line(&format!("Threads: {}; {locked}.", class_words(self.class)))
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn count(value: u64) -> f64 {
    value as f64
}

/// To a tenth.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::bench::machine::Machine;

    #[test]
    fn what_is_added_is_the_difference_of_the_same_percentiles() {
        let mut figures = Figures::default();
        for us in 1..=1000 {
            figures.bare("shm", Duration::from_micros(us));
            figures.decided("shm", Duration::from_micros(us + 40));
            figures.bare("push-udp", Duration::from_micros(us));
            figures.decided("push-udp", Duration::from_micros(us * 2));
        }
        let facts = Machine::begin().end(Vec::new());
        let json = figures.json(&facts);
        let added = |way: &str, key: &str| json["ways"][way]["added"][key].as_f64().unwrap();
        assert!((added("shm", "p50_us") - 40.0).abs() < 2.0 && (added("shm", "p99_us") - 40.0).abs() < 2.0, "{json}");
        assert_eq!(
            (&json["ways"]["shm"]["reached"], &json["ways"]["push-udp"]["reached"]),
            (&true.into(), &false.into())
        );
        assert_eq!(json["ways"]["shm"]["events"], 1000);
        assert_eq!(json["parser"]["reached"], false, "nothing parsed is not fast");
    }

    #[test]
    fn the_fastest_round_counts_and_any_allocation_does() {
        let round = |ms: u64, allocated| Parsed {
            bytes: 300_000_000,
            samples: 3_000_000,
            took: Duration::from_millis(ms),
            allocated,
        };
        let mut figures = Figures::default();
        figures.parsed(round(2000, 0));
        figures.parsed(round(1000, 0));
        let facts = Machine::begin().end(Vec::new());
        assert_eq!(figures.json(&facts)["parser"]["mb_per_s"], 300.0);
        assert_eq!(figures.json(&facts)["parser"]["reached"], true);
        figures.parsed(round(3000, 48));
        assert_eq!(figures.json(&facts)["parser"]["reached"], false);
    }
}
