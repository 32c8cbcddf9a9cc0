//! How long? Spans of time as people write them: `500ms`, `30s`, `15m`, `2h`, `7d`.

use std::str::FromStr;
use std::time::Duration;

use crate::link::reconcile::ROUND_EVERY_BOUNDS;

/// Longest span on the command line: a year.
const SPAN_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("{text:?} is not a time: a whole number and ms, s, m, h or d, e.g. 500ms or 30s");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| rule())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(rule()),
        };
        let span = number.checked_mul(millis).map(Duration::from_millis).filter(|span| *span <= SPAN_MAX);
        span.map(Self).ok_or_else(|| format!("{text:?} is longer than 366d"))
    }
}

/// A span above zero, for clap.
pub(super) fn positive(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.0.is_zero() { Err("must be above zero".to_owned()) } else { Ok(span) }
}

/// A time between two questions, for clap.
pub(super) fn round(text: &str) -> Result<Span, String> {
    let (shortest, longest) = ROUND_EVERY_BOUNDS;
    let span: Span = text.parse()?;
    let rule = || format!("must be {} ms to {} s", shortest.as_millis(), longest.as_secs());
    if (shortest..=longest).contains(&span.0) { Ok(span) } else { Err(rule()) }
}

/// As [`positive`]; a number without a unit counts as seconds.
pub(super) fn seconds(text: &str) -> Result<Span, String> {
    let bare = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    positive(&if bare { format!("{text}s") } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_a_number_and_a_unit() {
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("15m", 900_000), ("2h", 7_200_000), ("7d", 604_800_000)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in ["", "30", "s", "-1s", "1.5h", "1 s", "99999999999999999999s", "400d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert!(positive("0s").is_err() && round("10ms").is_err() && round("2h").is_err() && round("1s").is_ok());
        assert!(seconds("").is_err());
    }

    #[test]
    fn a_bare_number_is_seconds_where_that_is_asked_for() {
        assert_eq!(seconds("20"), Ok(Span(Duration::from_secs(20))));
        assert_eq!(seconds("20ms"), Ok(Span(Duration::from_millis(20))));
    }
}
