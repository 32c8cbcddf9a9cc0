//! How does a record look on disk? Tables, keys and the encoding of each value.
//!
//! The serde structs here are private to the store: the types of the domain can change without touching old files, and
//! a change of the layout is seen here and nowhere else.

use std::time::Duration;

use redb::TableDefinition;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::seal::Sealed;
use super::{Message, Payload};
use crate::fault::{Code, Fault};
use crate::jobs::job::{Job, Limits, ModelRef, State, reason};
use crate::units::WallTime;

pub(super) const JOBS: Sealed<&str> = TableDefinition::new("jobs");
pub(super) const PAYLOADS: Sealed<&str> = TableDefinition::new("payloads");
pub(super) const ITEMS: Sealed<(&str, u32)> = TableDefinition::new("items");
pub(super) const RESULTS: Sealed<&str> = TableDefinition::new("results");
pub(super) const OUTBOX: Sealed<u64> = TableDefinition::new("outbox");

/// A value that does not read back, with the reason.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreadable(String);

impl Unreadable {
    pub(super) fn new(what: &str, why: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {why}"))
    }
}

#[derive(Serialize, Deserialize)]
struct JobRecord {
    body: String,
    model: String,
    model_version: Option<u32>,
    model_digest: Option<String>,
    priority: u8,
    deadline_ms: Option<i64>,
    not_before_ms: Option<i64>,
    limit_wall_ns: u64,
    limit_memory_bytes: u64,
    limit_attempts: u32,
    limit_output_bytes: u64,
    traceparent: Option<String>,
    items: u32,
    received_ms: i64,
    state: String,
    version: u64,
    attempt: u32,
    failures: u32,
    crashes: u32,
    /// Absent in records of earlier versions.
    #[serde(default)]
    interruptions: u32,
    done: u32,
    yields: u32,
    suspended_ns: u64,
    ran_ns: u64,
    cpu_ns: u64,
    reason: String,
    fault_code: Option<String>,
    fault_text: Option<String>,
    changed_ms: i64,
    #[serde(default)]
    acknowledged: bool,
}

#[derive(Serialize, Deserialize)]
struct PayloadHead {
    content_type: Option<String>,
    header_bytes: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct MessageHead {
    topic: String,
    expiry_s: Option<u32>,
    properties: Vec<(String, String)>,
    queued_ms: i64,
    droppable: bool,
}

/// The value of a job in the `jobs` table; its id is the key.
pub(super) fn encode_job(job: &Job) -> Vec<u8> {
    json(&JobRecord {
        body: job.body.to_string(),
        model: job.model.name.to_string(),
        model_version: job.model.version,
        model_digest: job.model.digest.map(|digest| digest.to_string()),
        priority: job.priority,
        deadline_ms: job.deadline.map(WallTime::as_millis),
        not_before_ms: job.not_before.map(WallTime::as_millis),
        limit_wall_ns: nanos(job.limits.wall),
        limit_memory_bytes: job.limits.memory_bytes,
        limit_attempts: job.limits.attempts,
        limit_output_bytes: job.limits.output_bytes,
        traceparent: job.traceparent.clone(),
        items: job.items,
        received_ms: job.received.as_millis(),
        state: job.state.as_str().to_owned(),
        version: job.version,
        attempt: job.attempt,
        failures: job.failures,
        crashes: job.crashes,
        interruptions: job.interruptions,
        done: job.done,
        yields: job.yields,
        suspended_ns: nanos(job.suspended),
        ran_ns: nanos(job.ran),
        cpu_ns: nanos(job.cpu),
        reason: job.reason.to_owned(),
        fault_code: job.fault.as_ref().map(|fault| fault.code.as_str().to_owned()),
        fault_text: job.fault.as_ref().map(|fault| fault.message.clone()),
        changed_ms: job.changed.as_millis(),
        acknowledged: job.acknowledged,
    })
}

pub(super) fn decode_job(id: &str, bytes: &[u8]) -> Result<Job, Unreadable> {
    let what = format!("job {id:?}");
    let record: JobRecord = from_json(&what, bytes)?;
    let state = State::parse(&record.state).ok_or_else(|| Unreadable::new(&what, "unknown state"))?;
    let fault = match (record.fault_code, record.fault_text) {
        (Some(code), Some(text)) => {
            let code = Code::parse(&code).ok_or_else(|| Unreadable::new(&what, "unknown fault code"))?;
            Some(Fault::new(code, text))
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(Unreadable::new(&what, "half a fault")),
    };
    Ok(Job {
        id: parsed(&what, id)?,
        body: parsed(&what, &record.body)?,
        model: ModelRef {
            name: parsed(&what, &record.model)?,
            version: record.model_version,
            digest: record.model_digest.map(|digest| parsed(&what, &digest)).transpose()?,
        },
        priority: record.priority,
        deadline: record.deadline_ms.map(WallTime::from_millis),
        not_before: record.not_before_ms.map(WallTime::from_millis),
        limits: Limits {
            wall: Duration::from_nanos(record.limit_wall_ns),
            memory_bytes: record.limit_memory_bytes,
            attempts: record.limit_attempts,
            output_bytes: record.limit_output_bytes,
        },
        traceparent: record.traceparent,
        items: record.items,
        received: WallTime::from_millis(record.received_ms),
        state,
        version: record.version,
        attempt: record.attempt,
        failures: record.failures,
        crashes: record.crashes,
        interruptions: record.interruptions,
        done: record.done,
        yields: record.yields,
        suspended: Duration::from_nanos(record.suspended_ns),
        ran: Duration::from_nanos(record.ran_ns),
        cpu: Duration::from_nanos(record.cpu_ns),
        reason: reason::parse(&record.reason),
        fault,
        changed: WallTime::from_millis(record.changed_ms),
        acknowledged: record.acknowledged,
    })
}

/// The value of a payload in the `payloads` table.
pub(super) fn encode_payload(payload: &Payload) -> Vec<u8> {
    let header_bytes = payload.header_bytes.map(|bytes| bytes as u64);
    framed(&PayloadHead { content_type: payload.content_type.clone(), header_bytes }, &payload.body)
}

pub(super) fn decode_payload(bytes: &[u8]) -> Result<Payload, Unreadable> {
    let (head, body): (PayloadHead, _) = unframed("payload", bytes)?;
    let header_bytes = head.header_bytes.map(usize::try_from).transpose();
    let header_bytes = header_bytes.map_err(|err| Unreadable::new("payload", err))?;
    Ok(Payload { body: body.to_vec(), content_type: head.content_type, header_bytes })
}

/// The value of a message in the `outbox` table. `droppable` ones give way when the outbox is full.
pub(super) fn encode_message(message: &Message, droppable: bool) -> Vec<u8> {
    let head = MessageHead {
        topic: message.topic.clone(),
        expiry_s: message.expiry_s,
        properties: message.properties.clone(),
        queued_ms: message.queued.as_millis(),
        droppable,
    };
    framed(&head, &message.body)
}

pub(super) fn decode_message(bytes: &[u8]) -> Result<(Message, bool), Unreadable> {
    let (head, body): (MessageHead, _) = unframed("message", bytes)?;
    let message = Message {
        topic: head.topic,
        body: body.to_vec(),
        expiry_s: head.expiry_s,
        properties: head.properties,
        queued: WallTime::from_millis(head.queued_ms),
    };
    Ok((message, head.droppable))
}

/// Whether a message of the `outbox` table gives way when the outbox is full; nothing else of it is decoded.
pub(super) fn is_droppable(bytes: &[u8]) -> Result<bool, Unreadable> {
    #[derive(Deserialize)]
    struct Head {
        droppable: bool,
    }
    let (head, _): (Head, _) = unframed("message", bytes)?;
    Ok(head.droppable)
}

/// Head as JSON, before it its length as four little-endian bytes, after it the body as it is: no escaping, no copy of
/// megabytes through a text format.
fn framed(head: &impl Serialize, body: &[u8]) -> Vec<u8> {
    let head = json(head);
    let head_bytes = u32::try_from(head.len()).expect("heads are built from fields that fit an MQTT packet");
    let mut bytes = Vec::with_capacity(4 + head.len() + body.len());
    bytes.extend_from_slice(&head_bytes.to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(body);
    bytes
}

fn unframed<'a, T: DeserializeOwned>(what: &str, bytes: &'a [u8]) -> Result<(T, &'a [u8]), Unreadable> {
    let short = || Unreadable::new(what, "shorter than its head");
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|err| Unreadable::new(what, err))?;
    let (head, body) = rest.split_at_checked(length).ok_or_else(short)?;
    Ok((from_json(what, head)?, body))
}

fn json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record)
        .expect("records have string keys and no serializer of their own, so writing to memory works")
}

fn from_json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(bytes).map_err(|err| Unreadable::new(what, err))
}

fn parsed<T: std::str::FromStr<Err = crate::units::BadName>>(what: &str, text: &str) -> Result<T, Unreadable> {
    text.parse().map_err(|err| Unreadable::new(what, err))
}

/// Nanoseconds in 64 bits: 584 years, more than any sum of running times.
fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::store::tests::{full_job, message};

    #[test]
    fn every_field_of_a_job_reads_back() {
        let job = full_job("job-1");
        assert_eq!(decode_job("job-1", &encode_job(&job)).unwrap(), job);
    }

    #[test]
    fn bodies_are_kept_byte_for_byte() {
        let body: Vec<u8> = (0..=255).collect();
        let payload = Payload { body: body.clone(), content_type: Some("a/b".into()), header_bytes: Some(12) };
        assert_eq!(decode_payload(&encode_payload(&payload)).unwrap(), payload);
        let message = Message { body, ..message("t") };
        assert_eq!(decode_message(&encode_message(&message, true)).unwrap(), (message, true));
    }

    #[test]
    fn a_field_of_a_later_version_does_not_make_a_record_unreadable() {
        let job = full_job("job-1");
        let text = String::from_utf8(encode_job(&job)).unwrap();
        let later = text.replacen('{', r#"{"colour":"blue","#, 1);
        assert_eq!(decode_job("job-1", later.as_bytes()).unwrap(), job);
    }

    #[test]
    fn a_job_of_a_version_that_did_not_count_interruptions_has_none() {
        let text = String::from_utf8(encode_job(&full_job("job-1"))).unwrap();
        let earlier = text.replace("\"interruptions\":4,", "");
        assert_ne!(earlier, text);
        let job = decode_job("job-1", earlier.as_bytes()).unwrap();
        assert_eq!(job, Job { interruptions: 0, ..full_job("job-1") });
    }

    #[test]
    fn what_makes_no_sense_is_unreadable_and_named() {
        let text = String::from_utf8(encode_job(&full_job("job-1"))).unwrap();
        for (old, new) in [("SUSPENDED", "RESTING"), ("worker.crashed", "worker.tired"), ("sha256:", "md5:")] {
            let bytes = text.replace(old, new).into_bytes();
            assert!(decode_job("job-1", &bytes).unwrap_err().to_string().contains("job-1"), "{old}");
        }
        assert!(decode_job("not/an/id", text.as_bytes()).is_err());
        let frame = encode_payload(&Payload { body: vec![1], content_type: None, header_bytes: None });
        for length in 0..frame.len() - 1 {
            assert!(decode_payload(&frame[..length]).is_err(), "cut at {length}");
        }
    }
}
