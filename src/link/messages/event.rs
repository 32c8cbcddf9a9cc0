//! What happened on a node: `up/event` (yields, resumes, alarms) and `up/load` (load samples).

use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::guard::GuardEvent;
use super::yields::CauseReport;
use super::{BadMessage, parse, render, time};
use crate::units::{Utilization, WallTime};

/// One event of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeEvent {
    /// Inference gave way to the RAN.
    Yield(YieldEvent),
    /// Inference went on.
    Resume {
        /// Workers that run again.
        workers: u32,
        /// Jobs that go on.
        jobs: Vec<String>,
        /// When.
        at: WallTime,
    },
    /// Something needs an operator.
    Alarm {
        /// Stable code.
        code: String,
        /// Value, limit, remedy.
        message: String,
        /// When.
        at: WallTime,
    },
    /// The harm guard has come to a verdict.
    Guard(GuardEvent),
}

/// One yield, from the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct YieldEvent {
    /// Load source that asked for it.
    pub source: String,
    /// Why, in one word: `above late malformed stale held draining`.
    pub reason: String,
    /// Published name of the figure, e.g. `RRU.PrbTotDl`.
    pub metric: String,
    /// Its level; nothing when the load was unknown.
    pub value: Option<Utilization>,
    /// The limit it reached; nothing when the load was unknown.
    pub threshold: Option<Utilization>,
    /// Sample's stamp to its receipt, in microseconds.
    pub detect_us: u64,
    /// Receipt to decision.
    pub decide_us: u64,
    /// Decision to the last worker's confirmed stop.
    pub stop_us: u64,
    /// All of it.
    pub total_us: u64,
    /// Workers stopped.
    pub workers: u32,
    /// Those of them that did not have to be stopped, because they got no core any more.
    pub displaced: u32,
    /// Those of them whose cgroup was frozen, because they still ran some time after their signals.
    pub frozen: u32,
    /// CPU time that the workers used between decision and confirmed stop; nothing when an older node does not say.
    pub cpu_after_us: Option<u64>,
    /// What delayed it, when it was slow.
    pub causes: Vec<CauseReport>,
    /// Which share of it certainly has a cause, in permille; when it was slow.
    pub explained_permille: Option<u16>,
    /// Jobs suspended.
    pub jobs: Vec<String>,
    /// When.
    pub at: WallTime,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Wire {
    Yield(YieldWire),
    Resume {
        workers: u32,
        jobs: Vec<String>,
        #[serde(with = "time::required")]
        at: WallTime,
    },
    Alarm {
        code: String,
        message: String,
        #[serde(with = "time::required")]
        at: WallTime,
    },
    Guard(GuardEvent),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct YieldWire {
    cause: CauseWire,
    detect_us: u64,
    decide_us: u64,
    stop_us: u64,
    total_us: u64,
    workers: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    displaced: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    frozen: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu_after_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    causes: Vec<CauseReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    explained_ratio: Option<f64>,
    jobs: Vec<String>,
    #[serde(with = "time::required")]
    at: WallTime,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct CauseWire {
    source: String,
    #[serde(default)]
    reason: String,
    metric: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<Number>,
}

impl NodeEvent {
    /// The body.
    pub fn render(&self) -> Vec<u8> {
        render(&match self.clone() {
            Self::Yield(event) => Wire::Yield(event.into_wire()),
            Self::Resume { workers, jobs, at } => Wire::Resume { workers, jobs, at },
            Self::Alarm { code, message, at } => Wire::Alarm { code, message, at },
            Self::Guard(event) => Wire::Guard(event),
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is none of the events known to this version.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        Ok(match parse("event", body)? {
            Wire::Yield(wire) => Self::Yield(YieldEvent::from_wire("event", wire)?),
            Wire::Resume { workers, jobs, at } => Self::Resume { workers, jobs, at },
            Wire::Alarm { code, message, at } => Self::Alarm { code, message, at },
            Wire::Guard(event) => Self::Guard(event),
        })
    }
}

impl YieldEvent {
    pub(super) fn into_wire(self) -> YieldWire {
        YieldWire {
            cause: CauseWire {
                value: self.value.map(|level| level_number(&self.metric, level)),
                threshold: self.threshold.map(|level| level_number(&self.metric, level)),
                source: self.source,
                reason: self.reason,
                metric: self.metric,
            },
            detect_us: self.detect_us,
            decide_us: self.decide_us,
            stop_us: self.stop_us,
            total_us: self.total_us,
            workers: self.workers,
            displaced: self.displaced,
            frozen: self.frozen,
            cpu_after_us: self.cpu_after_us,
            causes: self.causes,
            explained_ratio: self.explained_permille.map(|permille| f64::from(permille) / 1000.0),
            jobs: self.jobs,
            at: self.at,
        }
    }

    pub(super) fn from_wire(what: &'static str, wire: YieldWire) -> Result<Self, BadMessage> {
        let level = |number: Option<Number>| number.map(|n| level_of(what, &wire.cause.metric, &n)).transpose();
        Ok(Self {
            value: level(wire.cause.value)?,
            threshold: level(wire.cause.threshold)?,
            source: wire.cause.source,
            reason: wire.cause.reason,
            metric: wire.cause.metric,
            detect_us: wire.detect_us,
            decide_us: wire.decide_us,
            stop_us: wire.stop_us,
            total_us: wire.total_us,
            workers: wire.workers,
            displaced: wire.displaced,
            frozen: wire.frozen,
            cpu_after_us: wire.cpu_after_us,
            causes: wire.causes,
            explained_permille: wire.explained_ratio.map(permille),
            jobs: wire.jobs,
            at: wire.at,
        })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0 to 1000; NaN becomes 0")]
fn permille(ratio: f64) -> u16 {
    (ratio.clamp(0.0, 1.0) * 1000.0).round() as u16
}

/// One sample of the load that decides, `up/load`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadSample {
    /// Source that gave it.
    pub source: String,
    /// Cell; 0 is the host.
    pub cell: u64,
    /// Published name of the figure.
    pub metric: String,
    /// Its level; nothing when the load is unknown, which means busy.
    pub value: Option<Utilization>,
    /// When.
    pub at: WallTime,
}

#[derive(Serialize, Deserialize)]
struct LoadWire {
    source: String,
    cell: u64,
    metric: String,
    value: Option<Number>,
    #[serde(with = "time::required")]
    at: WallTime,
}

impl LoadSample {
    /// The body.
    pub fn render(&self) -> Vec<u8> {
        render(&LoadWire {
            source: self.source.clone(),
            cell: self.cell,
            metric: self.metric.clone(),
            value: self.value.map(|level| level_number(&self.metric, level)),
            at: self.at,
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is not a load sample.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        let wire: LoadWire = parse("load", body)?;
        Ok(Self {
            value: wire.value.map(|number| level_of("load", &wire.metric, &number)).transpose()?,
            source: wire.source,
            cell: wire.cell,
            metric: wire.metric,
            at: wire.at,
        })
    }
}

/// Percent under a 3GPP name, a ratio of 0 to 1 under any other.
fn scale(metric: &str) -> f64 {
    if metric.starts_with("RRU.") { 10.0 } else { 1000.0 }
}

fn level_number(metric: &str, level: Utilization) -> Number {
    let value = f64::from(level.permille()) / scale(metric);
    match level.permille().checked_div(10).filter(|percent| f64::from(*percent) == value) {
        Some(percent) => Number::from(percent),
        None => Number::from_f64(value).unwrap_or_else(|| Number::from(level.permille())),
    }
}

fn level_of(what: &'static str, metric: &str, number: &Number) -> Result<Utilization, BadMessage> {
    let permille = number.as_f64().unwrap_or(f64::NAN) * scale(metric);
    // The range check also refuses NaN.
    if !(0.0..=1000.0).contains(&permille) {
        return Err(BadMessage::new(what, format!("{metric} {number} is out of range")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000 was checked above")]
    let permille = permille.round() as u16;
    Ok(Utilization::from_permille(permille).unwrap_or(Utilization::FULL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yield_reads_as_the_protocol_writes_it() {
        let text = r#"{"event":"yield","cause":{"source":"push","reason":"above","metric":"RRU.PrbTotDl","value":71,"threshold":40},"detect_us":18,"decide_us":2,"stop_us":31,"total_us":51,"workers":1,"jobs":["01JD"],"at":"2026-11-22T01:14:02.005Z"}"#;
        let event = NodeEvent::parse(text.as_bytes()).unwrap();
        let NodeEvent::Yield(yielded) = &event else { panic!("{event:?}") };
        assert_eq!(yielded.value, Utilization::from_percent(71));
        assert_eq!(String::from_utf8(event.render()).unwrap(), text);
        let without_reason = text.replace(r#""reason":"above","#, "");
        assert!(NodeEvent::parse(without_reason.as_bytes()).is_ok());
    }

    #[test]
    fn a_slow_yield_tells_its_causes_and_survives() {
        let text = r#"{"event":"yield","cause":{"source":"push","reason":"above","metric":"RRU.PrbTotDl","value":71,"threshold":40},"detect_us":18,"decide_us":2,"stop_us":731,"total_us":751,"workers":2,"displaced":1,"cpu_after_us":12,"causes":[{"cause":"waited_for_core","least_us":700,"most_us":700},{"cause":"unexplained","least_us":51,"most_us":51}],"explained_ratio":0.932,"jobs":[],"at":"2026-11-22T01:14:02.005Z"}"#;
        let event = NodeEvent::parse(text.as_bytes()).unwrap();
        let NodeEvent::Yield(yielded) = &event else { panic!("{event:?}") };
        assert_eq!((yielded.displaced, yielded.explained_permille, yielded.causes.len()), (1, Some(932), 2));
        assert_eq!(String::from_utf8(event.render()).unwrap(), text);
    }

    #[test]
    fn resumes_and_alarms_survive() {
        let at = WallTime::from_millis(5);
        let resume = NodeEvent::Resume { workers: 2, jobs: vec!["a".to_owned()], at };
        assert_eq!(NodeEvent::parse(&resume.render()).unwrap(), resume);
        let alarm = NodeEvent::Alarm { code: "mqtt.taken_over".to_owned(), message: "…".to_owned(), at };
        assert_eq!(NodeEvent::parse(&alarm.render()).unwrap(), alarm);
    }

    #[test]
    fn every_level_survives_under_either_kind_of_name() {
        for metric in ["RRU.PrbTotDl", "cpu"] {
            for permille in 0..=1000 {
                let value = Utilization::from_permille(permille);
                let sample = LoadSample {
                    source: "push".to_owned(),
                    cell: 1,
                    metric: metric.to_owned(),
                    value,
                    at: WallTime::from_millis(1),
                };
                assert_eq!(LoadSample::parse(&sample.render()).unwrap(), sample);
            }
        }
        let text = r#"{"source":"p","cell":1,"metric":"RRU.PrbTotDl","value":101,"at":"2026-11-22T01:14:02.005Z"}"#;
        assert!(LoadSample::parse(text.as_bytes()).unwrap_err().to_string().contains("101"));
    }

    #[test]
    fn an_unknown_load_has_no_value() {
        let sample = LoadSample {
            source: "push".to_owned(),
            cell: 0,
            metric: "cpu".to_owned(),
            value: None,
            at: WallTime::from_millis(1),
        };
        assert!(String::from_utf8(sample.render()).unwrap().contains(r#""value":null"#));
        assert_eq!(LoadSample::parse(&sample.render()).unwrap(), sample);
    }
}
