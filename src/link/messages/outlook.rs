//! How much core time will be free? `up/outlook`: the node's forecast, with how good it has been of late; retained.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BadMessage, parse, render, time};
use crate::units::WallTime;
use crate::units::outlook::{Free, Outlook, SPANS_MAX};

const WHAT: &str = "outlook";
/// Longest span that is understood, in seconds.
const SPAN_S_MAX: u64 = 24 * 60 * 60;
/// Most core time that a span can have, in seconds: it is far beyond what any machine has.
const CORE_S_MAX: u64 = SPAN_S_MAX * 1024;
/// Most horizons.
const ERRORS_MAX: usize = 16;

/// Free core time of the next hours.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    /// The run of the agent that says so.
    pub session: String,
    /// Workers that the core time is counted for.
    pub workers: u32,
    /// Core time by span, in whole seconds.
    pub outlook: Outlook,
    /// Days that it is learned from; with fewer than three it knows little.
    pub days: u32,
    /// How good the forecast of the load has been of late, by horizon.
    pub errors: Vec<ForecastError>,
    /// When it was made.
    pub at: WallTime,
}

/// How good the forecast of the load has been at one horizon.
#[derive(Clone, Debug, PartialEq)]
pub struct ForecastError {
    /// How far ahead.
    pub horizon: Duration,
    /// Which method is used: `persistence seasonal ewma profile`.
    pub method: String,
    /// Mean absolute error of what was used, in permille of the load; nothing until there is any.
    pub error_permille: Option<f64>,
    /// That error for each of persistence, which says that nothing changes; below 1 is better.
    pub persistence_ratio: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    session: String,
    workers: u32,
    #[serde(with = "time::required")]
    from: WallTime,
    span_s: u64,
    p10_s: Vec<u64>,
    p50_s: Vec<u64>,
    p90_s: Vec<u64>,
    days: u32,
    errors: Vec<ErrorWire>,
    #[serde(with = "time::required")]
    at: WallTime,
}

#[derive(Serialize, Deserialize)]
struct ErrorWire {
    horizon_s: u64,
    method: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_permille: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    persistence_ratio: Option<f64>,
}

impl Capacity {
    /// The body.
    pub fn render(&self) -> Vec<u8> {
        let seconds =
            |pick: fn(&Free) -> Duration| self.outlook.spans().iter().map(|free| pick(free).as_secs()).collect();
        render(&Wire {
            session: self.session.clone(),
            workers: self.workers,
            from: self.outlook.from(),
            span_s: self.outlook.span().as_secs(),
            p10_s: seconds(|free| free.p10),
            p50_s: seconds(|free| free.p50),
            p90_s: seconds(|free| free.p90),
            days: self.days,
            errors: self.errors.iter().map(ForecastError::to_wire).collect(),
            at: self.at,
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is not an outlook: too many spans, lists of different lengths, quantiles that cross.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        let wire: Wire = parse(WHAT, body)?;
        let bad = |why: String| Err(BadMessage::new(WHAT, why));
        let spans = wire.p10_s.len();
        if spans > SPANS_MAX || wire.errors.len() > ERRORS_MAX {
            return bad(format!(
                "{spans} spans and {} errors, at most {SPANS_MAX} and {ERRORS_MAX}",
                wire.errors.len()
            ));
        }
        if [wire.p50_s.len(), wire.p90_s.len()] != [spans, spans] {
            return bad(format!("p10_s, p50_s and p90_s differ in length: {spans} is that of the first"));
        }
        if !(1..=SPAN_S_MAX).contains(&wire.span_s) {
            return bad(format!("span_s is {}, not 1 to {SPAN_S_MAX}", wire.span_s));
        }
        let mut free = Vec::with_capacity(spans);
        for ((p10, p50), p90) in wire.p10_s.into_iter().zip(wire.p50_s).zip(wire.p90_s) {
            if p10 > p50 || p50 > p90 || p90 > CORE_S_MAX {
                return bad(format!("a span has p10 {p10}, p50 {p50}, p90 {p90} s, which must ascend to {CORE_S_MAX}"));
            }
            let [p10, p50, p90] = [p10, p50, p90].map(Duration::from_secs);
            free.push(Free { p10, p50, p90 });
        }
        Ok(Self {
            session: wire.session,
            workers: wire.workers,
            outlook: Outlook::new(wire.from, Duration::from_secs(wire.span_s), free),
            days: wire.days,
            errors: wire.errors.into_iter().map(ForecastError::from_wire).collect(),
            at: wire.at,
        })
    }
}

impl ForecastError {
    fn to_wire(&self) -> ErrorWire {
        // Nobody reads more than three digits after the point.
        let short = |figure: f64| (figure * 1000.0).round() / 1000.0;
        ErrorWire {
            horizon_s: self.horizon.as_secs(),
            method: self.method.clone(),
            error_permille: self.error_permille.map(short),
            persistence_ratio: self.persistence_ratio.map(short),
        }
    }

    fn from_wire(wire: ErrorWire) -> Self {
        Self {
            horizon: Duration::from_secs(wire.horizon_s),
            method: wire.method,
            error_permille: wire.error_permille,
            persistence_ratio: wire.persistence_ratio,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capacity(spans: usize) -> Capacity {
        let seconds = Duration::from_secs;
        let free = Free { p10: seconds(86_397), p50: seconds(86_398), p90: seconds(86_399) };
        let error = ForecastError {
            horizon: seconds(1_800),
            method: "persistence".to_owned(),
            error_permille: Some(12.346),
            persistence_ratio: Some(0.75),
        };
        Capacity {
            session: "0190b6f2-0000-7000-8000-000000000000".to_owned(),
            workers: 16,
            outlook: Outlook::new(WallTime::from_millis(1_767_571_200_000), seconds(900), vec![free; spans]),
            days: 21,
            errors: vec![error; 6],
            at: WallTime::from_millis(1_767_571_234_567),
        }
    }

    #[test]
    fn what_is_rendered_is_parsed_back() {
        for spans in [0, 1, 48, SPANS_MAX] {
            let capacity = capacity(spans);
            assert_eq!(Capacity::parse(&capacity.render()).unwrap(), capacity);
        }
    }

    #[test]
    fn the_largest_outlook_passes_a_broker_with_the_smallest_packets() {
        assert!(capacity(SPANS_MAX).render().len() < 6 * 1024);
    }

    #[test]
    fn figures_that_cannot_be_are_refused() {
        let good = String::from_utf8(capacity(1).render()).unwrap();
        for (from, to) in [
            ("\"p10_s\":[86397]", "\"p10_s\":[86399]"),
            ("\"p50_s\":[86398]", "\"p50_s\":[]"),
            ("\"p90_s\":[86399]", "\"p90_s\":[18446744073709551615]"),
            ("\"p10_s\":[86397]", "\"p10_s\":[-1]"),
            ("\"span_s\":900", "\"span_s\":0"),
            ("\"span_s\":900", "\"span_s\":86401"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            assert!(Capacity::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Capacity::parse(&bytes);
        }
    }
}
