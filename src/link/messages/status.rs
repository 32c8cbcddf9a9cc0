//! Job status, `up/job/{id}`: PROTOCOL sections 2 and 3.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BadMessage, ErrorBody, millis, parse, render, time};
use crate::jobs::job::{Job, State};
use crate::units::WallTime;

/// Where a job stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Its state.
    pub status: State,
    /// Rises with every change; consumers drop versions they have seen.
    pub version: u64,
    /// Starts so far.
    pub attempt: u32,
    /// When it changed.
    pub at: WallTime,
    /// Why it is there: a short code.
    pub reason: String,
    /// Items done and in all.
    pub progress: Progress,
    /// Times it was stopped for the RAN.
    pub yields: u32,
    /// Time it stood stopped.
    pub suspended: Duration,
    /// What went wrong, when something did.
    pub error: Option<ErrorBody>,
}

/// Items of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Finished.
    pub done: u32,
    /// In all.
    pub total: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Wire {
    status: String,
    version: u64,
    attempt: u32,
    #[serde(with = "time::required")]
    at: WallTime,
    reason: String,
    progress: Progress,
    yields: u32,
    suspended_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    error: Option<ErrorBody>,
}

impl Status {
    /// The status of a job as it stands.
    pub fn of(job: &Job) -> Self {
        Self {
            status: job.state,
            version: job.version,
            attempt: job.attempt,
            at: job.changed,
            reason: job.reason.to_owned(),
            progress: Progress { done: job.done, total: job.items },
            yields: job.yields,
            suspended: job.suspended,
            error: job.fault.as_ref().map(ErrorBody::from),
        }
    }

    /// The body.
    pub fn render(&self) -> Vec<u8> {
        render(&self.to_wire())
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is not a status.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        Self::from_wire(parse("status", body)?)
    }

    pub(super) fn to_wire(&self) -> Wire {
        Wire {
            status: self.status.as_str().to_owned(),
            version: self.version,
            attempt: self.attempt,
            at: self.at,
            reason: self.reason.clone(),
            progress: self.progress,
            yields: self.yields,
            suspended_ms: millis(self.suspended),
            error: self.error.clone(),
        }
    }

    pub(super) fn from_wire(wire: Wire) -> Result<Self, BadMessage> {
        let status = State::parse(&wire.status)
            .ok_or_else(|| BadMessage::new("status", format!("state {:?} is unknown", wire.status)))?;
        Ok(Self {
            status,
            version: wire.version,
            attempt: wire.attempt,
            at: wire.at,
            reason: wire.reason,
            progress: wire.progress,
            yields: wire.yields,
            suspended: Duration::from_millis(wire.suspended_ms),
            error: wire.error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_as_the_protocol_writes_it() {
        let text = r#"{"status":"IN_PROGRESS","version":4,"attempt":1,"at":"2026-11-22T01:10:07.311Z","reason":"started","progress":{"done":37,"total":120},"yields":2,"suspended_ms":41230}"#;
        let status = Status::parse(text.as_bytes()).unwrap();
        assert_eq!(status.status, State::InProgress);
        assert_eq!(status.suspended, Duration::from_millis(41_230));
        assert_eq!(String::from_utf8(status.render()).unwrap(), text);
    }

    #[test]
    fn every_state_survives() {
        let text = r#"{"status":"QUEUED","version":1,"attempt":0,"at":"2026-11-22T01:10:07.311Z","reason":"accepted","progress":{"done":0,"total":1},"yields":0,"suspended_ms":0,"a newer field":1}"#;
        let mut status = Status::parse(text.as_bytes()).unwrap();
        for state in State::ALL {
            status.status = state;
            assert_eq!(Status::parse(&status.render()).unwrap(), status);
        }
        assert!(Status::parse(text.replace("QUEUED", "LOST").as_bytes()).is_err());
    }
}
