//! What does a node say of its harm guard? In `up/event` and `up/metrics`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::time;
use crate::units::WallTime;

/// A verdict of the harm guard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardEvent {
    /// What it came to: `harm calm suspected cleared unheard silent heard`.
    pub ruling: String,
    /// Most workers that might run before.
    pub from: u32,
    /// Most workers that may run from now on.
    pub to: u32,
    /// The same as a sentence: `budget 2 → 1, enqueue p99 +38 % while running`.
    pub text: String,
    /// What it rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<GuardComparison>,
    /// When.
    #[serde(with = "time::required")]
    pub at: WallTime,
}

/// One figure while inference ran and while it did not, at like load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardComparison {
    /// Name of the figure, with its unit: `late enqueue_us slot_us run_queue_us pressure_permille`.
    pub figure: String,
    /// Which quantile of the windows is compared, 0 to 1; 0 for late slots, which are counted in moments an hour.
    pub quantile: f64,
    /// Its value while inference ran.
    pub running: u32,
    /// Its value while it did not.
    pub stopped: u32,
    /// How much higher the first is, 1 = twice as high.
    pub change_ratio: f64,
    /// Workers that ran.
    pub workers: u32,
    /// Windows in which inference ran; late slots: seconds.
    pub running_windows: u32,
    /// Windows in which it did not; late slots: seconds.
    pub stopped_windows: u32,
}

/// Where the guard stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardState {
    /// Most workers that may run; nothing when the guard has said nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<u32>,
    /// Verdicts since the start by what they came to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<String, u64>,
    /// The latest comparison of each figure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compared: Vec<GuardComparison>,
    /// The latest verdict about harm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<GuardEvent>,
}

#[cfg(test)]
mod tests {
    use crate::link::messages::NodeEvent;

    #[test]
    fn a_verdict_reads_as_the_protocol_writes_it() {
        let text = r#"{"event":"guard","ruling":"harm","from":2,"to":1,"text":"budget 2 → 1, enqueue p99 +38 % while running","compared":{"figure":"enqueue_us","quantile":0.99,"running":552,"stopped":400,"change_ratio":0.38,"workers":2,"running_windows":128,"stopped_windows":110},"at":"2026-11-22T01:14:02.005Z"}"#;
        let event = NodeEvent::parse(text.as_bytes()).unwrap();
        let NodeEvent::Guard(verdict) = &event else { panic!("{event:?}") };
        assert_eq!((verdict.ruling.as_str(), verdict.from, verdict.to), ("harm", 2, 1));
        assert_eq!(String::from_utf8(event.render()).unwrap(), text);
    }

    #[test]
    fn a_verdict_without_a_comparison_survives() {
        let text = r#"{"event":"guard","ruling":"unheard","from":2,"to":2,"text":"no health figures","at":"2026-11-22T01:14:02.005Z"}"#;
        let event = NodeEvent::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(event.render()).unwrap(), text);
    }
}
