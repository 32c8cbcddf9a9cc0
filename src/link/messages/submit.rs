//! Submit, `down/job/{id}`: what a controller asks for, checked against what this node allows.
//!
//! A [`Draft`] is what the body says; a [`Submit`] is a draft whose gaps are filled with the node's defaults and whose
//! limits and times were checked. Reading a body has two size limits: without binary tensors it is a manifest, with
//! them a packet.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{BINARY, HEADER_LENGTH, millis};
use crate::fault::{Code, Fault};
use crate::jobs::job::{Limits, ModelRef};
use crate::link::tensors::{Side, TensorJson, decode};
use crate::link::{Publish, json};
use crate::tensor::{DataType, Tensor};
use crate::units::{BadName, ITEMS_MAX, MANIFEST_BYTES_MAX, TENSORS_MAX, WallTime};

mod render;
#[cfg(test)]
mod tests;

pub use render::{Rendered, render_submit};

/// Priority of a job that names none.
const PRIORITY_DEFAULT: u8 = 5;
/// Highest priority.
const PRIORITY_MAX: i64 = 9;

/// A submit body and what its MQTT properties say about it.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    /// JSON, followed by binary tensors when `header_bytes` is given.
    pub bytes: &'a [u8],
    /// MQTT content type.
    pub content_type: Option<&'a str>,
    /// Length of the JSON, from the user property `inference-header-content-length`.
    pub header_bytes: Option<usize>,
}

impl<'a> Body<'a> {
    /// The body of a message.
    ///
    /// # Errors
    /// `job.malformed` when the header length is not a number.
    pub fn of(message: &'a Publish) -> Result<Self, Fault> {
        let header = message.properties.iter().find(|(name, _)| name == HEADER_LENGTH).map(|(_, value)| value);
        let header_bytes = header.map(|value| value.parse()).transpose().map_err(|_| {
            let value: String = header.into_iter().flat_map(|value| value.chars()).take(40).collect();
            malformed(format!("user property {HEADER_LENGTH} {value:?} is not a number of bytes"))
        })?;
        Ok(Self { bytes: &message.body, content_type: message.content_type.as_deref(), header_bytes })
    }
}

/// What this node allows a job to use, and what a job gets that does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitPolicy {
    /// For jobs that do not say.
    pub defaults: Limits,
    /// At most.
    pub maxima: Limits,
    /// Largest body with binary tensors.
    pub body_bytes_max: usize,
}

/// One request for inference: the inputs of one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Inputs by name.
    pub inputs: Vec<Tensor>,
    /// Whether outputs are to be interpreted as the model declares (labels, boxes). When the request does not say
    /// (`"parameters":{"interpret":…}`): media in, meaning out; raw tensors in, raw tensors out.
    pub interpret: bool,
    /// Outputs wanted; all otherwise.
    pub outputs: Option<Vec<String>>,
}

impl Request {
    /// A request for all outputs, interpreted when an input is a BYTES tensor.
    pub fn new(inputs: Vec<Tensor>) -> Self {
        let interpret = is_media(&inputs);
        Self { inputs, interpret, outputs: None }
    }
}

/// A job as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Model.
    pub model: ModelRef,
    /// 0 to 9.
    pub priority: u8,
    /// After this the result has no value.
    pub deadline: Option<WallTime>,
    /// Not to be started before.
    pub not_before: Option<WallTime>,
    /// Limits that differ from the node's defaults.
    pub limits: LimitsDraft,
    /// One request per item.
    pub items: Vec<Request>,
    /// Whether they are `items`, answered as items, or a single `input`.
    pub batch: bool,
}

/// Limits as they are asked for; what is not said is the node's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsDraft {
    /// Running time of the whole job, stops excluded.
    pub wall: Option<Duration>,
    /// Memory of the worker beyond what the model needs to be loaded.
    pub memory_bytes: Option<u64>,
    /// Attempts that may end in a fault.
    pub attempts: Option<u32>,
    /// Output of one item.
    pub output_bytes: Option<u64>,
}

/// A job that this node may accept.
#[derive(Clone, Debug, PartialEq)]
pub struct Submit {
    /// Model.
    pub model: ModelRef,
    /// 0 to 9.
    pub priority: u8,
    /// After this the result has no value.
    pub deadline: Option<WallTime>,
    /// Not to be started before.
    pub not_before: Option<WallTime>,
    /// What one attempt may use.
    pub limits: Limits,
    /// One request per item.
    pub items: Vec<Request>,
    /// Whether they came as `items`; [`super::render_result`] wants to know.
    pub batch: bool,
}

/// Reads and checks a submit.
///
/// # Errors
/// `job.*` or `input.*`: value, limit and remedy.
pub fn parse_submit(body: &Body<'_>, policy: &LimitPolicy, now: WallTime) -> Result<Submit, Fault> {
    Draft::parse(body, policy.body_bytes_max)?.resolve(policy, now)
}

/// Reads one Open Inference Protocol v2 request whose tensors stand in the JSON, of any length: a controller turns it
/// into binary tensors before it sends it.
///
/// # Errors
/// `job.malformed` or `input.*`: value, limit and remedy.
pub fn parse_request(text: &[u8]) -> Result<Request, Fault> {
    let wire: RequestWire<'_> = json::object("request", json::text("request", text)?)?;
    request(&wire, &mut [].as_slice())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct SubmitWire<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    version: Option<u32>,
    #[serde(borrow, default)]
    digest: Option<Cow<'a, str>>,
    priority: Option<i64>,
    #[serde(borrow, default)]
    deadline: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    not_before: Option<Cow<'a, str>>,
    limits: Option<LimitsWire>,
    #[serde(borrow, default)]
    input: Option<RequestWire<'a>>,
    #[serde(borrow, default)]
    items: Option<Vec<RequestWire<'a>>>,
    input_ref: Option<IgnoredAny>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct LimitsWire {
    #[serde(skip_serializing_if = "Option::is_none")]
    wall_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_bytes: Option<u64>,
}

/// An Open Inference Protocol v2 request. Its `id` is read and not used: the topic names the job.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct RequestWire<'a> {
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    #[serde(borrow)]
    inputs: Vec<TensorJson<'a>>,
    outputs: Option<Vec<OutputWire>>,
    parameters: Option<RequestParameters>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct OutputWire {
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct RequestParameters {
    interpret: Option<bool>,
}

impl Draft {
    /// A draft with default priority, no times and the node's limits: one request is a single input, several a batch.
    pub fn new(model: ModelRef, items: Vec<Request>) -> Self {
        let batch = items.len() != 1;
        Self {
            model,
            priority: PRIORITY_DEFAULT,
            deadline: None,
            not_before: None,
            limits: LimitsDraft::default(),
            items,
            batch,
        }
    }

    /// Reads a body of at most `body_bytes_max` bytes, or `MANIFEST_BYTES_MAX` when it has no binary tensors.
    ///
    /// # Errors
    /// `job.malformed`, `job.too_large`, `job.unsupported` or `input.*`: value, limit and remedy.
    pub fn parse(body: &Body<'_>, body_bytes_max: usize) -> Result<Self, Fault> {
        let (header, mut binary) = split(body, body_bytes_max)?;
        let wire: SubmitWire<'_> = json::object("job", json::text("job", header)?)?;
        let batch = wire.items.is_some();
        let requests = match (wire.input, wire.items, wire.input_ref) {
            (Some(input), None, None) => vec![input],
            (None, Some(items), None) => items,
            (None, None, Some(_)) => {
                let text = "input_ref is not served by this version; send the data as input or items";
                return Err(Fault::new(Code::JobUnsupported, text));
            }
            (input, items, input_ref) => {
                let given =
                    [("input", input.is_some()), ("items", items.is_some()), ("input_ref", input_ref.is_some())];
                let given: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
                let given = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
                let text = format!("exactly one of input, items and input_ref is needed, {given} is given; keep one");
                return Err(malformed(text));
            }
        };
        if requests.is_empty() || requests.len() > ITEMS_MAX {
            let text = format!("{} items are not allowed; send 1 to {ITEMS_MAX}", requests.len());
            return Err(Fault::new(Code::JobTooLarge, text));
        }
        let items = requests
            .iter()
            .enumerate()
            .map(|(index, wire)| request(wire, &mut binary).map_err(|fault| in_item(&fault, batch.then_some(index))))
            .collect::<Result<Vec<Request>, Fault>>()?;
        if !binary.is_empty() {
            let text =
                format!("{} bytes are left after the last binary tensor; correct binary_data_size", binary.len());
            return Err(malformed(text));
        }
        let bad_name = |error: BadName| malformed(error.to_string());
        let time = |field: &str, text: Option<Cow<'_, str>>| {
            text.map(|text| WallTime::parse(&text)).transpose().map_err(|why| malformed(format!("{field}: {why}")))
        };
        Ok(Self {
            model: ModelRef {
                name: wire.model.parse().map_err(bad_name)?,
                version: wire.version,
                digest: wire.digest.map(|digest| digest.parse()).transpose().map_err(bad_name)?,
            },
            priority: priority(wire.priority)?,
            deadline: time("deadline", wire.deadline)?,
            not_before: time("not_before", wire.not_before)?,
            limits: limits(wire.limits.unwrap_or_default())?,
            items,
            batch,
        })
    }

    /// Fills the gaps with the node's defaults and checks limits and times.
    ///
    /// # Errors
    /// `job.limit_exceeds_policy`, `job.expired`, `job.malformed`.
    pub fn resolve(self, policy: &LimitPolicy, now: WallTime) -> Result<Submit, Fault> {
        let (wanted, defaults, maxima) = (self.limits, policy.defaults, policy.maxima);
        let limits = Limits {
            wall: wanted.wall.unwrap_or(defaults.wall),
            memory_bytes: wanted.memory_bytes.unwrap_or(defaults.memory_bytes),
            attempts: wanted.attempts.unwrap_or(defaults.attempts),
            output_bytes: wanted.output_bytes.unwrap_or(defaults.output_bytes),
        };
        within("limits.wall_ms", millis(limits.wall), millis(maxima.wall))?;
        within("limits.memory_bytes", limits.memory_bytes, maxima.memory_bytes)?;
        within("limits.attempts", limits.attempts.into(), maxima.attempts.into())?;
        within("limits.output_bytes", limits.output_bytes, maxima.output_bytes)?;
        check_times(self.deadline, self.not_before, now)?;
        Ok(Submit {
            model: self.model,
            priority: self.priority,
            deadline: self.deadline,
            not_before: self.not_before,
            limits,
            items: self.items,
            batch: self.batch,
        })
    }
}

/// JSON part and binary part.
fn split<'a>(body: &Body<'a>, body_bytes_max: usize) -> Result<(&'a [u8], &'a [u8]), Fault> {
    let length = body.bytes.len();
    let (header, binary) = match body.header_bytes {
        None if body.content_type == Some(BINARY) => {
            return Err(malformed(format!("content type {BINARY} needs the user property {HEADER_LENGTH}")));
        }
        None => (body.bytes, [].as_slice()),
        Some(header) => body.bytes.split_at_checked(header).ok_or_else(|| {
            malformed(format!("{HEADER_LENGTH} is {header}, but the whole body is {length} bytes; correct it"))
        })?,
    };
    if binary.is_empty() && length > MANIFEST_BYTES_MAX {
        let text = format!(
            "a job of {length} bytes exceeds {MANIFEST_BYTES_MAX}, the limit without binary tensors; send tensors binary: \
             content type {BINARY}, user property {HEADER_LENGTH}, binary_data_size in each tensor"
        );
        return Err(Fault::new(Code::JobTooLarge, text));
    }
    if length > body_bytes_max {
        let text = format!("a job of {length} bytes exceeds this node's {body_bytes_max}; send fewer or smaller items");
        return Err(Fault::new(Code::JobTooLarge, text));
    }
    Ok((header, binary))
}

fn request(wire: &RequestWire<'_>, binary: &mut &[u8]) -> Result<Request, Fault> {
    let count = wire.inputs.len();
    if count == 0 || count > TENSORS_MAX {
        return Err(Fault::new(Code::InputCount, format!("{count} inputs are not allowed; send 1 to {TENSORS_MAX}")));
    }
    let inputs = wire
        .inputs
        .iter()
        .map(|tensor| decode(tensor, binary, Side::Request))
        .collect::<Result<Vec<Tensor>, Fault>>()?;
    let mut names = BTreeSet::new();
    if let Some(twice) = inputs.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
        let name: String = twice.name.chars().take(64).collect();
        return Err(Fault::new(Code::InputName, format!("input {name:?} is given twice; keep one")));
    }
    let outputs =
        wire.outputs.as_ref().map(|outputs| outputs.iter().map(|output| output.name.clone()).collect::<Vec<_>>());
    if let Some(outputs) = outputs.as_ref().filter(|outputs| outputs.is_empty() || outputs.len() > TENSORS_MAX) {
        let text =
            format!("{} outputs are not allowed; name 1 to {TENSORS_MAX}, or leave the field out", outputs.len());
        return Err(malformed(text));
    }
    let interpret = wire.parameters.as_ref().and_then(|parameters| parameters.interpret);
    Ok(Request { interpret: interpret.unwrap_or_else(|| is_media(&inputs)), inputs, outputs })
}

fn is_media(inputs: &[Tensor]) -> bool {
    inputs.iter().any(|tensor| tensor.datatype == DataType::Bytes)
}

fn in_item(fault: &Fault, item: Option<usize>) -> Fault {
    match item {
        Some(index) => Fault::new(fault.code, format!("item {index}: {}", fault.message)),
        None => fault.clone(),
    }
}

fn priority(wanted: Option<i64>) -> Result<u8, Fault> {
    let wanted = wanted.unwrap_or(PRIORITY_DEFAULT.into());
    u8::try_from(wanted)
        .ok()
        .filter(|priority| i64::from(*priority) <= PRIORITY_MAX)
        .ok_or_else(|| malformed(format!("priority {wanted} is not allowed; use 0 (last) to {PRIORITY_MAX} (first)")))
}

fn limits(wire: LimitsWire) -> Result<LimitsDraft, Fault> {
    let zero = |field: &str| malformed(format!("limits.{field} 0 is not allowed; ask for 1 or more, or leave it out"));
    match wire {
        LimitsWire { wall_ms: Some(0), .. } => Err(zero("wall_ms")),
        LimitsWire { memory_bytes: Some(0), .. } => Err(zero("memory_bytes")),
        LimitsWire { attempts: Some(0), .. } => Err(zero("attempts")),
        LimitsWire { output_bytes: Some(0), .. } => Err(zero("output_bytes")),
        LimitsWire { wall_ms, memory_bytes, attempts, output_bytes } => {
            Ok(LimitsDraft { wall: wall_ms.map(Duration::from_millis), memory_bytes, attempts, output_bytes })
        }
    }
}

fn within(field: &str, value: u64, max: u64) -> Result<(), Fault> {
    if value <= max {
        return Ok(());
    }
    let text = format!("{field} {value} exceeds this node's maximum {max}; ask for less");
    Err(Fault::new(Code::JobLimitExceedsPolicy, text))
}

fn check_times(deadline: Option<WallTime>, not_before: Option<WallTime>, now: WallTime) -> Result<(), Fault> {
    let Some(deadline) = deadline else { return Ok(()) };
    if deadline <= now {
        let (deadline, now) = (deadline.to_string(), now.to_string());
        let text = format!("deadline {deadline} has passed, it is {now}; set a later one, or compare the clocks");
        return Err(Fault::new(Code::JobExpired, text));
    }
    match not_before {
        Some(start) if start >= deadline => {
            let (start, deadline) = (start.to_string(), deadline.to_string());
            Err(malformed(format!("not_before {start} is not before deadline {deadline}; it could never run")))
        }
        Some(_) | None => Ok(()),
    }
}

fn malformed(text: impl AsRef<str>) -> Fault {
    Fault::new(Code::JobMalformed, text)
}
