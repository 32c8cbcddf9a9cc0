//! Which thresholds hold, which would be better, and why? `up/event` (`tuning`), and `GET /tuning` of the status socket.

use serde::{Deserialize, Serialize};

use super::{BadMessage, parse, render, time};
use crate::units::WallTime;

const WHAT: &str = "state of the tuning";

/// Thresholds were changed, or a change is suggested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TuningChange {
    /// Whether it is in force; otherwise it is a suggestion.
    pub in_force: bool,
    /// What and why, in one sentence.
    pub text: String,
    /// When.
    #[serde(with = "time::required")]
    pub at: WallTime,
}

/// Figures that tuning sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TuningFigures {
    /// `governor.busy_above`, in percent.
    pub busy_above: f64,
    /// `governor.idle_below`, in percent.
    pub idle_below: f64,
    /// `governor.settle_s`.
    pub settle_s: f64,
}

/// All that is known of the tuning of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TuningState {
    /// `off suggest auto`.
    pub mode: String,
    /// As the operator has set them.
    pub configured: TuningFigures,
    /// As they are in force.
    pub in_force: TuningFigures,
    /// Evictions a day that are wanted at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_evictions_per_day: Option<u32>,
    /// Days of load that are remembered.
    pub days: f64,
    /// Evictions a day that the figures in force would have had over those days; nothing before the first look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evictions_per_day: Option<f64>,
    /// Share of those days that would have been troughs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub harvest_ratio: Option<f64>,
    /// What would be better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggested: Option<TuningChange>,
    /// The last changes, the newest last.
    pub changes: Vec<TuningChange>,
}

impl TuningState {
    /// The page.
    pub fn render(&self) -> Vec<u8> {
        render(self)
    }

    /// Reads a page.
    ///
    /// # Errors
    /// When it is not the state of a tuning.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        parse(WHAT, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::messages::NodeEvent;

    #[test]
    fn a_state_and_a_change_survive() {
        let change = TuningChange { in_force: true, text: "settle".to_owned(), at: WallTime::from_millis(5) };
        let event = NodeEvent::Tuning(change.clone());
        assert_eq!(NodeEvent::parse(&event.render()).unwrap(), event);
        let figures = TuningFigures { busy_above: 40.0, idle_below: 12.5, settle_s: 30.0 };
        let state = TuningState { in_force: figures, suggested: Some(change), ..TuningState::default() };
        assert_eq!(TuningState::parse(&state.render()).unwrap(), state);
        assert!(TuningState::parse(b"{}").is_err());
    }
}
