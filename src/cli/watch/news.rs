//! What does a message of a node mean for a person? Pure.

use serde_json::Value;

use crate::cli::out::clean;
use crate::jobs::job::State;
use crate::link::messages::{LoadSample, NodeEvent, NodeState, Outcome, Status, parse_result};
use crate::link::topics::Up;

/// Longest text of a node that is shown, in characters.
const TEXT_CHARS_MAX: usize = 160;

/// One message, in words.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    /// The node changed: its mode and why; worth a line, and stays.
    Node {
        /// `trough`, `busy`, … or `offline`.
        mode: String,
        /// Why, and how many jobs.
        words: String,
    },
    /// The load: stays, but is not worth a line of its own.
    Load(String),
    /// Something happened.
    Happened {
        /// In words.
        words: String,
        /// How it is to be taken.
        weight: Weight,
    },
    /// For machines only.
    Nothing,
}

/// How news is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    Plain,
    Good,
    Warn,
    Bad,
}

impl News {
    /// Reads a message; one that cannot be read is bad news of its own.
    pub(super) fn read(up: &Up, body: &[u8]) -> Self {
        let read = match up {
            Up::State => NodeState::parse(body).map(|state| Self::state(&state)),
            Up::Job(id) => Status::parse(body).map(|status| Self::status(id.as_str(), &status)),
            Up::Result(id) => parse_result(body).map(|outcome| Self::outcome(id.as_str(), &outcome)),
            Up::Event => NodeEvent::parse(body).map(|event| Self::event(&event)),
            Up::Load => LoadSample::parse(body).map(|sample| Self::load(&sample)),
            Up::Info | Up::Metrics => Ok(Self::Nothing),
        };
        read.unwrap_or_else(|error| Self::happened(Weight::Bad, &error.to_string()))
    }

    fn happened(weight: Weight, words: &str) -> Self {
        Self::Happened { words: clean(words, TEXT_CHARS_MAX), weight }
    }

    fn state(state: &NodeState) -> Self {
        let (mode, words) = match state {
            NodeState::Online { mode, reason, running, queued, degraded, .. } => {
                let ill = degraded.iter().map(|cause| format!("; degraded: {cause}")).collect::<String>();
                (mode.as_str(), format!("{reason}; {running} running, {queued} queued{ill}"))
            }
            NodeState::Offline { cause, .. } => ("offline", cause.clone()),
        };
        Self::Node { mode: clean(mode, 20), words: clean(&words, TEXT_CHARS_MAX) }
    }

    fn status(id: &str, status: &Status) -> Self {
        let weight = match status.status {
            State::Queued | State::InProgress => Weight::Plain,
            State::Succeeded => Weight::Good,
            State::Suspended | State::Canceled => Weight::Warn,
            State::Failed | State::TimedOut | State::Rejected => Weight::Bad,
        };
        let why = match &status.error {
            Some(error) => format!("{}: {}", error.code, error.message),
            None => status.reason.clone(),
        };
        let progress = format!("{}/{}", status.progress.done, status.progress.total);
        Self::happened(weight, &format!("job {id} {} {progress} ({why})", status.status.as_str()))
    }

    fn outcome(id: &str, outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done(result) => {
                let words =
                    format!("result of {id}: {} v{}, {} items", result.model, result.version, result.items.len());
                Self::happened(Weight::Good, &words)
            }
            Outcome::Error(error) => {
                Self::happened(Weight::Bad, &format!("result of {id}: {}: {}", error.code, error.message))
            }
        }
    }

    fn event(event: &NodeEvent) -> Self {
        match event {
            NodeEvent::Yield(event) => {
                let level = match (event.value, event.threshold) {
                    (Some(value), Some(threshold)) => format!("{} {value}, limit {threshold}", event.metric),
                    (_, _) => event.reason.clone(),
                };
                let latency =
                    format!("{} us ({} + {} + {})", event.total_us, event.detect_us, event.decide_us, event.stop_us);
                Self::happened(Weight::Warn, &format!("yield in {latency}: {} {level}", event.source))
            }
            NodeEvent::Resume { workers, jobs, .. } => {
                Self::happened(Weight::Good, &format!("{workers} workers run again, {} jobs go on", jobs.len()))
            }
            NodeEvent::Guard(event) => {
                let weight = match event.ruling.as_str() {
                    "harm" => Weight::Bad,
                    "suspected" | "silent" => Weight::Warn,
                    _ => Weight::Plain,
                };
                Self::happened(weight, &format!("guard: {}", event.text))
            }
            NodeEvent::Alarm { code, message, .. } => Self::happened(Weight::Bad, &format!("alarm {code}: {message}")),
        }
    }

    fn load(sample: &LoadSample) -> Self {
        let words = match sample.value {
            Some(level) => format!("{} {level}", sample.metric),
            None => "load unknown".to_owned(),
        };
        Self::Load(clean(&words, 40))
    }
}

/// What sort of message came on that topic.
pub(super) const fn kind(up: &Up) -> &'static str {
    match up {
        Up::State => "state",
        Up::Info => "info",
        Up::Job(_) => "job",
        Up::Result(_) => "result",
        Up::Event => "event",
        Up::Load => "load",
        Up::Metrics => "metrics",
    }
}

/// Which job a message is about.
pub(super) fn job(up: &Up) -> Option<&str> {
    match up {
        Up::Job(id) | Up::Result(id) => Some(id.as_str()),
        Up::State | Up::Info | Up::Event | Up::Load | Up::Metrics => None,
    }
}

/// The body as JSON; as text when it is none.
pub(super) fn body(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yield_is_told_with_its_cause_and_its_latency() {
        let body = br#"{"event":"yield","cause":{"source":"push","metric":"RRU.PrbTotDl","value":71,"threshold":40},
            "detect_us":18,"decide_us":2,"stop_us":31,"total_us":51,"workers":1,"jobs":["a"],"at":"2026-11-22T01:14:02.005Z"}"#;
        let News::Happened { words, weight } = News::read(&Up::Event, body) else { panic!("not an event") };
        assert_eq!(words, "yield in 51 us (18 + 2 + 31): push RRU.PrbTotDl 71 %, limit 40 %");
        assert_eq!(weight, Weight::Warn);
    }

    #[test]
    fn a_nodes_state_says_mode_reason_and_jobs() {
        let state = NodeState::Online {
            session: "s".to_owned(),
            since: crate::units::WallTime::default(),
            mode: "trough".to_owned(),
            reason: "RRU.PrbTotDl 6 < 15 for 30 s".to_owned(),
            running: 1,
            queued: 3,
            unacknowledged: 2,
            open_jobs: None,
            version: "0.1.0".to_owned(),
            degraded: vec!["clock: it jumped".to_owned()],
        };
        let expected = News::Node {
            mode: "trough".to_owned(),
            words: "RRU.PrbTotDl 6 < 15 for 30 s; 1 running, 3 queued; degraded: clock: it jumped".to_owned(),
        };
        assert_eq!(News::read(&Up::State, &state.render()), expected);
    }

    #[test]
    fn what_cannot_be_read_is_told_and_cannot_steer_the_terminal() {
        let News::Happened { words, weight: Weight::Bad } = News::read(&Up::State, b"\x1b[2J") else {
            panic!("no bad news")
        };
        assert!(!words.contains('\x1b'), "{words:?}");
        assert_eq!(body(b"not json"), Value::from("not json"));
    }
}
