//! How does the ledger look on a terminal? A table by source, a histogram, the worst case in words. Pure; 80 columns.

use super::guarding;
use crate::cli::out::{Out, Tone, clean};
use crate::ledger::cause::Kind;
use crate::ledger::distribution::BOUNDS_US;
use crate::link::messages::{CauseReport, Latencies, Latency, YieldEvent, Yields};

/// Longest bar, in columns.
const BAR_COLUMNS: usize = 48;
/// Longest name of a source that is shown, in characters.
const NAME_CHARS_MAX: usize = 16;
/// Longest text of the node that is shown, in characters.
const TEXT_CHARS_MAX: usize = 60;

/// Which characters the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Glyphs {
    /// Block elements and micro signs.
    Blocks,
    /// ASCII only.
    Ascii,
}

/// The whole picture, line by line.
pub(super) fn draw(out: &Out, yields: &Yields, glyphs: Glyphs) -> Vec<String> {
    let lines = lines(out, yields, glyphs);
    match glyphs {
        Glyphs::Blocks => lines,
        // Names are the node's, and what was cut off ends in an ellipsis.
        Glyphs::Ascii => lines.iter().map(|line| line.replace(|c: char| !c.is_ascii(), "~")).collect(),
    }
}

fn lines(out: &Out, yields: &Yields, glyphs: Glyphs) -> Vec<String> {
    let mut lines = headline(out, yields);
    lines.extend(yields.metrics.guard.iter().flat_map(|state| guarding::lines(out, state)));
    if yields.all.yields == 0 {
        lines.push("no yield yet: no worker has had to stop since the agent started".to_owned());
        return lines;
    }
    lines.push(String::new());
    lines.extend(table(out, yields, glyphs));
    lines.push(String::new());
    lines.push(out.paint(Tone::Dim, "from the load sample to the confirmed stop: yields by latency"));
    lines.extend(histogram(&yields.spread, glyphs));
    if let Some(worst) = &yields.metrics.worst {
        lines.push(String::new());
        lines.extend(worst_case(out, worst, glyphs));
    }
    lines
}

fn headline(out: &Out, yields: &Yields) -> Vec<String> {
    let [node, version, class] =
        [&yields.node, &yields.version, &yields.yield_class].map(|text| clean(text, TEXT_CHARS_MAX));
    let locked = if yields.memory_locked { "memory locked" } else { "memory not locked" };
    let tone = if class.starts_with("fifo") && yields.memory_locked { Tone::Good } else { Tone::Warn };
    // The node knows seven words.
    let reasons = yields.metrics.reasons.iter().take(7);
    let reasons: Vec<String> = reasons.map(|(reason, count)| format!("{count} {}", clean(reason, 9))).collect();
    let (count, slow) = (yields.all.yields, yields.metrics.slow);
    let mut lines = vec![
        out.paint(Tone::Strong, &format!("{node}, neap {version}")),
        format!("yield class {}, {locked}", out.paint(tone, &class)),
        format!("{count} {} since {}", if count == 1 { "yield" } else { "yields" }, yields.since.to_string()),
    ];
    if !reasons.is_empty() {
        lines.push(clean(&reasons.join(", "), 79));
    }
    if slow.all() > 0 {
        lines.push(format!(
            "{} above 500 us: {} explained, {} possibly, {} not",
            slow.all(),
            slow.explained,
            slow.possible,
            slow.unexplained
        ));
    }
    lines
}

fn table(out: &Out, yields: &Yields, glyphs: Glyphs) -> Vec<String> {
    let accounts: Vec<&Latencies> = match &yields.metrics.sources[..] {
        [only] => vec![only],
        several => several.iter().chain([&yields.all]).collect(),
    };
    let names = accounts.iter().map(|account| clean(&account.source, NAME_CHARS_MAX).chars().count());
    let width = names.max().unwrap_or(0).max("source".len());
    let columns = ["p50", "p99", "p99.9", "max"].map(|title| format!("{title:>9}")).concat();
    let mut lines = vec![out.paint(Tone::Dim, &format!("{:width$}  {:>9}  part  {columns}", "source", "yields"))];
    for account in accounts {
        let name = clean(&account.source, NAME_CHARS_MAX);
        let first = format!("{name:width$}  {:>9}", account.yields);
        let rest = " ".repeat(width + 11);
        let parts = [
            ("detect", &account.detect, false),
            ("decide", &account.decide, false),
            ("stop", &account.stop, false),
            ("total", &account.total, true),
        ];
        for (index, (part, latency, strong)) in parts.into_iter().enumerate() {
            let line = format!("{}  {part:6}{}", if index == 0 { &first } else { &rest }, figures(latency, glyphs));
            lines.push(if strong { out.paint(Tone::Strong, &line) } else { line });
        }
    }
    lines
}

fn figures(latency: &Latency, glyphs: Glyphs) -> String {
    let all = [latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us];
    all.map(|us| format!("{:>9}", time(us, glyphs))).concat()
}

/// One row for each bound from the first to the last that has something.
fn histogram(spread: &[(Option<u64>, u64)], glyphs: Glyphs) -> Vec<String> {
    let count = |bound: Option<u64>| spread.iter().filter(|(at, _)| *at == bound).map(|(_, count)| count).sum::<u64>();
    let rows: Vec<(Option<u64>, u64)> =
        BOUNDS_US.into_iter().map(Some).chain([None]).map(|bound| (bound, count(bound))).collect();
    let used = |row: &(Option<u64>, u64)| row.1 > 0;
    let (Some(first), Some(last)) = (rows.iter().position(used), rows.iter().rposition(used)) else {
        return Vec::new();
    };
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let row = |(bound, count): &(Option<u64>, u64)| {
        let label = match (bound, glyphs) {
            (Some(us), Glyphs::Blocks) => format!("≤ {}", time(*us, glyphs)),
            (Some(us), Glyphs::Ascii) => format!("<= {}", time(*us, glyphs)),
            (None, _) => format!("> {}", time(BOUNDS_US[BOUNDS_US.len() - 1], glyphs)),
        };
        format!("{label:>11} {} {count}", bar(*count, most, glyphs)).trim_end().to_owned()
    };
    rows[first..=last].iter().map(row).collect()
}

/// A bar in proportion; whatever is not nothing can be seen.
fn bar(count: u64, most: u64, glyphs: Glyphs) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let steps = match glyphs {
        Glyphs::Blocks => 8,
        Glyphs::Ascii => 1,
    };
    let full = u128::try_from(BAR_COLUMNS * steps).unwrap_or(0);
    let length = usize::try_from((u128::from(count) * full).div_ceil(u128::from(most.max(1)))).unwrap_or(0);
    match glyphs {
        Glyphs::Blocks => format!("{}{}", "█".repeat(length / steps), EIGHTHS[length % steps]),
        Glyphs::Ascii => "#".repeat(length),
    }
}

fn worst_case(out: &Out, worst: &YieldEvent, glyphs: Glyphs) -> Vec<String> {
    let why = match (worst.value, worst.threshold) {
        (Some(value), Some(limit)) => format!("{} {value}, limit {limit}", clean(&worst.metric, 24)),
        (_, _) => clean(&worst.reason, NAME_CHARS_MAX),
    };
    let time = |us| time(us, glyphs);
    let mut lines = vec![
        format!(
            "{} {} at {}",
            out.paint(Tone::Dim, "slowest:"),
            out.paint(Tone::Strong, &time(worst.total_us)),
            worst.at.to_string()
        ),
        format!("  {} ({why})", clean(&worst.source, NAME_CHARS_MAX)),
        format!("  detect {}, decide {}, stop {}", time(worst.detect_us), time(worst.decide_us), time(worst.stop_us)),
        format!(
            "  {}{}",
            workers(worst),
            worst.cpu_after_us.map(|us| format!("; they ran {} after the decision", time(us))).unwrap_or_default()
        ),
    ];
    lines.extend(worst.causes.iter().take(Kind::ALL.len()).map(|cause| in_words(cause, glyphs)));
    lines.extend(worst.explained_permille.map(|permille| {
        let tone = if permille >= 800 { Tone::Good } else { Tone::Warn };
        out.paint(tone, &format!("  {}.{} % of it is explained", permille / 10, permille % 10))
    }));
    lines
}

fn workers(worst: &YieldEvent) -> String {
    let workers = if worst.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", worst.workers) };
    match worst.displaced {
        0 => workers,
        displaced => format!("{workers}, {displaced} of them displaced"),
    }
}

fn in_words(cause: &CauseReport, glyphs: Glyphs) -> String {
    let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == cause.cause);
    let words = known.map_or_else(|| clean(&cause.cause, NAME_CHARS_MAX), |kind| kind.words().to_owned());
    let (least, most) = (time(cause.least_us, glyphs), time(cause.most_us, glyphs));
    match (cause.least_us, cause.most_us) {
        (0, _) => format!("  up to {most}: {words}"),
        (low, high) if low == high => format!("  {least}: {words}"),
        (_, _) => format!("  {least} to {most}: {words}"),
    }
}

/// A latency in at most seven characters up to a thousand seconds.
fn time(us: u64, glyphs: Glyphs) -> String {
    let micro = match glyphs {
        Glyphs::Blocks => "µs",
        Glyphs::Ascii => "us",
    };
    match us {
        0..10_000 => format!("{us} {micro}"),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{}.{} s", us / 1_000_000, us / 100_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::messages::{Metrics, SlowYields};
    use crate::units::{Utilization, WallTime};

    fn latencies(source: &str, yields: u64, max_us: u64) -> Latencies {
        let latency = |max_us| Latency { p50_us: 27, p99_us: 90, p999_us: max_us, max_us };
        let (detect, decide, stop, total) = (latency(40), latency(3), latency(max_us), latency(max_us));
        Latencies { source: source.to_owned(), yields, detect, decide, stop, total }
    }

    fn cause(kind: Kind, least_us: u64, most_us: u64) -> CauseReport {
        CauseReport { cause: kind.as_str().to_owned(), least_us, most_us }
    }

    fn yields() -> Yields {
        let worst = YieldEvent {
            source: "a-source-with-a-very-long-name-that-an-operator-chose-one-day".to_owned(),
            reason: "above".to_owned(),
            metric: "RRU.PrbTotDl".to_owned(),
            value: Utilization::from_percent(71),
            threshold: Utilization::from_percent(40),
            detect_us: 18,
            decide_us: 2,
            stop_us: 1_731,
            total_us: 1_751,
            workers: 2,
            displaced: 1,
            frozen: 0,
            cpu_after_us: Some(12),
            causes: vec![
                cause(Kind::WaitedForCore, 1_600, 1_600),
                cause(Kind::SentinelRan, 8_888, 9_999),
                cause(Kind::Steal, 0, 151),
                cause(Kind::Unexplained, 131, 131),
            ],
            explained_permille: Some(925),
            jobs: Vec::new(),
            at: WallTime::from_millis(1_764_000_000_123),
        };
        let metrics = Metrics {
            session: "s".to_owned(),
            yields: 1_000_000,
            yield_p50_us: 27,
            yield_p99_us: 90,
            yield_p999_us: 900,
            yield_max_us: 1_751,
            cpu_after_stop_us: 70,
            displaced: 1,
            frozen: 0,
            reasons: ["above", "late", "held"].map(|word| (word.to_owned(), 333_333)).into(),
            slow: SlowYields { explained: 2, possible: 1, unexplained: 0 },
            sources: vec![latencies(&worst.source, 999_999, 1_751), latencies("order", 1, 20_000_000)],
            worst: Some(worst),
            messages_refused: 0,
            telemetry_dropped: 0,
            reports_overflowed: 0,
            workers_parked: 0,
            guard: None,
            at: WallTime::default(),
        };
        Yields {
            node: "north/cell-17".to_owned(),
            version: "0.1.0".to_owned(),
            since: WallTime::from_millis(1_764_000_000_000),
            yield_class: "fifo 20".to_owned(),
            memory_locked: true,
            all: latencies("all", 1_000_000, 20_000_000),
            spread: vec![(Some(50), 999_000), (Some(200), 1_000), (Some(2_000), 3), (None, 1)],
            metrics,
        }
    }

    #[test]
    fn the_picture_fits_80_columns_in_either_alphabet() {
        for glyphs in [Glyphs::Blocks, Glyphs::Ascii] {
            let lines = draw(&Out::stdout(), &yields(), glyphs);
            for line in &lines {
                assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
                assert!(glyphs == Glyphs::Blocks || line.is_ascii(), "{line}");
            }
            let text = lines.join("\n");
            for part in ["fifo 20, memory locked", "1 possibly", "detect", "the hypervisor took cores away", "92.5 %"] {
                assert!(text.contains(part), "{part} is missing in\n{text}");
            }
        }
    }

    #[test]
    fn whatever_is_not_nothing_has_a_bar_and_gaps_are_rows_without() {
        let rows = histogram(&[(Some(50), 999_000), (Some(200), 1)], Glyphs::Ascii);
        assert_eq!(rows[0], format!("   <= 50 us {} 999000", "#".repeat(BAR_COLUMNS)));
        assert_eq!(rows[1..], ["  <= 100 us  0", "  <= 200 us # 1"]);
        assert_eq!(histogram(&[(None, 2)], Glyphs::Ascii), [format!("   > 10.0 s {} 2", "#".repeat(BAR_COLUMNS))]);
        assert!(histogram(&[], Glyphs::Ascii).is_empty());
    }

    #[test]
    fn what_only_may_have_been_is_told_so() {
        assert_eq!(
            in_words(&cause(Kind::Steal, 0, 900), Glyphs::Ascii),
            "  up to 900 us: the hypervisor took cores away"
        );
        let strange = CauseReport { cause: "\x1b[2Jx".to_owned(), least_us: 5, most_us: 5 };
        assert_eq!(in_words(&strange, Glyphs::Ascii), "  5 us:  [2Jx");
    }

    #[test]
    fn a_node_that_never_yielded_says_so() {
        let none = Yields { all: Latencies::default(), spread: Vec::new(), ..yields() };
        assert!(draw(&Out::stdout(), &none, Glyphs::Ascii).join("\n").ends_with("since the agent started"));
    }
}
