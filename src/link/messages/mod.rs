//! What do the messages say? Bodies of PROTOCOL sections 2 and 3, one file per family, rendered and parsed.
//!
//! Pure. Wire structs (serde) stay inside these files; what goes in and out is in the words of the rest of the program.

mod command;
mod event;
mod guard;
mod metrics;
mod node;
mod outlook;
mod plan;
mod reply;
mod result;
mod status;
mod submit;
mod time;
mod tuning;
mod yields;

use serde::{Deserialize, Serialize};

pub use command::{Command, JOBS_IN_REPLY_MAX, JobsQuery, Listing, parse_command, parse_hold};
pub use event::{LoadSample, NodeEvent, YieldEvent};
pub use guard::{GuardComparison, GuardEvent, GuardState};
pub use metrics::Metrics;
pub use node::{Info, InfoCertificate, InfoLimits, InfoModel, InfoRefused, NodeState, OpenJob, OpenJobs};
pub use outlook::{Capacity, ForecastError};
pub use plan::{LoadPlan, PLAN_BYTES_MAX, PlannedCell, PlannedUsage};
pub use reply::{JobSummary, JobsPage, Pong, Reply};
pub use result::{
    Outcome, ResultBody, ResultHead, is_item_error, parse_result, render_item, render_item_error, render_result,
};
pub use status::{Progress, Status};
pub use submit::{
    Body, Draft, LimitPolicy, LimitsDraft, Rendered, Request, Submit, parse_request, parse_submit, render_submit,
};
pub use tuning::{TuningChange, TuningFigures, TuningState};
pub use yields::{CauseReport, Latencies, Latency, SlowYields, Yields};

use crate::fault::Fault;
use crate::units::WallTime;

/// Content type of JSON bodies.
pub const JSON: &str = "application/json";
/// Content type of JSON followed by binary tensors.
pub const BINARY: &str = "application/octet-stream";
/// User property that says where the JSON ends and the binary tensors begin.
pub const HEADER_LENGTH: &str = "inference-header-content-length";

/// A body that is not what its topic promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read: {why}")]
pub struct BadMessage {
    what: &'static str,
    why: String,
}

impl BadMessage {
    fn new(what: &'static str, why: impl ToString) -> Self {
        Self { what, why: why.to_string() }
    }
}

/// A fault as it is written in messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Stable code; a newer node may use one that this version does not know.
    pub code: String,
    /// Value, limit, remedy.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

impl From<&Fault> for ErrorBody {
    fn from(fault: &Fault) -> Self {
        Self { code: fault.code.as_str().to_owned(), message: fault.message.clone(), retryable: fault.code.retryable() }
    }
}

/// The error body of PROTOCOL section 2: `{"error":{"code","message","retryable"}}`.
pub fn render_error(fault: &Fault) -> Vec<u8> {
    render(&Wrapped { error: ErrorBody::from(fault) })
}

#[derive(Serialize, Deserialize)]
struct Wrapped {
    error: ErrorBody,
}

/// A new id, rising with time: UUIDv7.
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// CloudEvents 1.0 attributes of one message, as MQTT user properties, and the trace context when there is one.
///
/// `source` is [`super::topics::Topics::source`]; `type_` reads like `neap.job.status`; `subject` is the job id or empty.
pub fn envelope(
    type_: &str,
    subject: &str,
    source: &str,
    id: &str,
    time: WallTime,
    traceparent: Option<&str>,
) -> Vec<(String, String)> {
    let time = time.to_string();
    let mut properties = vec![("specversion", "1.0"), ("id", id), ("source", source), ("type", type_), ("time", &time)];
    if !subject.is_empty() {
        properties.push(("subject", subject));
    }
    if let Some(traceparent) = traceparent {
        properties.push(("traceparent", traceparent));
    }
    properties.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The W3C trace context among user properties, when it is well-formed: `00-<32 hex>-<16 hex>-<2 hex>`.
pub fn traceparent(properties: &[(String, String)]) -> Option<&str> {
    let (_, value) = properties.iter().find(|(name, _)| name == "traceparent")?;
    let mut parts = value.split('-');
    let well_formed = [2, 32, 16, 2].iter().all(|length| {
        parts.next().is_some_and(|part| part.len() == *length && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    (well_formed && parts.next().is_none()).then_some(value)
}

/// The JSON of a wire struct.
fn render(wire: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(wire).expect("wire structs hold string keys and numbers only, written to memory")
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<T, BadMessage> {
    let text = super::json::text(what, body).map_err(|fault| BadMessage::new(what, fault.message))?;
    super::json::parse(what, text).map_err(|fault| BadMessage::new(what, fault.message))
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Code;

    #[test]
    fn an_envelope_is_cloudevents_in_binary_mode() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let properties = envelope(
            "neap.job.status",
            "j1",
            "neap/v1/lab/n",
            "i1",
            WallTime::from_millis(1_764_000_000_123),
            Some(trace),
        );
        let text: Vec<String> = properties.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text.join(" "),
            format!(
                "specversion=1.0 id=i1 source=neap/v1/lab/n type=neap.job.status time=2025-11-24T16:00:00.123Z \
                 subject=j1 traceparent={trace}"
            )
        );
        assert_eq!(traceparent(&properties), Some(trace));
    }

    #[test]
    fn a_crooked_trace_context_is_dropped() {
        for bad in
            ["", "00-xx-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x", "\u{1}"]
        {
            assert_eq!(traceparent(&[("traceparent".to_owned(), bad.to_owned())]), None, "{bad}");
        }
    }

    #[test]
    fn an_error_reads_as_the_protocol_writes_it() {
        let fault = Fault::new(Code::ModelUnknown, "no model \"x\"");
        assert_eq!(
            String::from_utf8(render_error(&fault)).unwrap(),
            r#"{"error":{"code":"model.unknown","message":"no model \"x\"","retryable":false}}"#
        );
    }

    #[test]
    fn ids_rise() {
        let (first, second) = (new_id(), new_id());
        assert!(first < second, "{first} {second}");
        assert!(first.parse::<crate::units::JobId>().is_ok());
    }
}
