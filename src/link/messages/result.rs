//! Result of a job, `up/job/{id}/result`: an Open Inference Protocol v2 response, one per item, or an error.
//!
//! The journal keeps each finished item as the JSON object it will be in the result, so a result is put together
//! from its items without reading them again.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BadMessage, ErrorBody, millis, parse, render, render_error};
use crate::fault::Fault;
use crate::link::tensors::{Inline, Side, TensorJson, decode};
use crate::tensor::Tensor;
use crate::units::{Digest, JobId, Name};

/// What a result says besides its outputs.
#[derive(Clone, Copy, Debug)]
pub struct ResultHead<'a> {
    /// The job.
    pub id: &'a JobId,
    /// Model that ran.
    pub model: &'a Name,
    /// Its version.
    pub version: u32,
    /// Digest of its file.
    pub digest: &'a Digest,
    /// Starts of the job, the last one included.
    pub attempt: u32,
    /// Time it ran, stops excluded.
    pub wall: Duration,
    /// CPU time it used.
    pub cpu: Duration,
    /// Times it was stopped for the RAN.
    pub yields: u32,
    /// Time it stood stopped.
    pub suspended: Duration,
    /// Strength of the sandbox that it ran in: `full`, `partial` or `none`.
    pub sandbox: &'a str,
}

/// What a controller reads on a result topic.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The job ran.
    Done(ResultBody),
    /// It did not, or every item failed.
    Error(ErrorBody),
}

/// A result as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultBody {
    /// The job.
    pub id: String,
    /// Model that ran.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Digest of its file.
    pub model_digest: String,
    /// Outputs or fault of each item, in order; one when the job had a single input.
    pub items: Vec<Result<Vec<Tensor>, ErrorBody>>,
    /// Whether the job was submitted as `items`.
    pub batch: bool,
    /// Starts of the job, the last one included.
    pub attempt: u32,
    /// Time it ran, stops excluded.
    pub wall: Duration,
    /// CPU time it used.
    pub cpu: Duration,
    /// Times it was stopped for the RAN.
    pub yields: u32,
    /// Time it stood stopped.
    pub suspended: Duration,
    /// Strength of the sandbox that it ran in: `full`, `partial` or `none`; empty when the node does not say.
    pub sandbox: String,
}

/// The journal's form of one finished item: `{"outputs":[…]}`.
pub fn render_item(outputs: &[Tensor]) -> Vec<u8> {
    render(&ItemOut { outputs: outputs.iter().map(Inline).collect() })
}

/// The journal's form of one item that failed: `{"error":{…}}`.
pub fn render_item_error(fault: &Fault) -> Vec<u8> {
    render_error(fault)
}

/// Whether a journalled item is one that failed.
pub fn is_item_error(item: &[u8]) -> bool {
    item.starts_with(br#"{"error":"#)
}

/// The result of a job whose items are done: `batch` as in [`super::Submit::batch`], items as [`render_item`] and
/// [`render_item_error`] gave them.
pub fn render_result(head: &ResultHead<'_>, items: &[Vec<u8>], batch: bool) -> Vec<u8> {
    let front = render(&FrontOut {
        id: head.id.as_str(),
        model_name: head.model.as_str(),
        model_version: head.version.to_string(),
    });
    let back = render(&BackOut {
        parameters: Parameters {
            attempt: head.attempt,
            wall_ms: millis(head.wall),
            cpu_ms: millis(head.cpu),
            yields: head.yields,
            suspended_ms: millis(head.suspended),
            model_digest: head.digest.to_string(),
            sandbox: Cow::Borrowed(head.sandbox),
        },
    });
    let mut body =
        Vec::with_capacity(front.len() + back.len() + items.iter().map(|item| item.len() + 1).sum::<usize>() + 16);
    body.push(b'{');
    body.extend_from_slice(members(&front));
    match items {
        [item] if !batch => {
            body.push(b',');
            body.extend_from_slice(members(item));
        }
        _ => {
            body.extend_from_slice(br#","items":["#);
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(item);
            }
            body.push(b']');
        }
    }
    body.push(b',');
    body.extend_from_slice(members(&back));
    body.push(b'}');
    body
}

/// What stands between the braces of an object.
fn members(object: &[u8]) -> &[u8] {
    object.get(1..object.len().saturating_sub(1)).unwrap_or_default()
}

#[derive(Serialize)]
struct ItemOut<'a> {
    outputs: Vec<Inline<'a>>,
}

#[derive(Serialize)]
struct FrontOut<'a> {
    id: &'a str,
    model_name: &'a str,
    model_version: String,
}

#[derive(Serialize)]
struct BackOut<'a> {
    parameters: Parameters<'a>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Parameters<'a> {
    attempt: u32,
    wall_ms: u64,
    cpu_ms: u64,
    yields: u32,
    suspended_ms: u64,
    model_digest: String,
    #[serde(borrow)]
    sandbox: Cow<'a, str>,
}

#[derive(Deserialize)]
struct ResultWire<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    model_name: Cow<'a, str>,
    #[serde(borrow, default)]
    model_version: Cow<'a, str>,
    #[serde(borrow)]
    outputs: Option<Vec<TensorJson<'a>>>,
    #[serde(borrow)]
    items: Option<Vec<ItemWire<'a>>>,
    error: Option<ErrorBody>,
    #[serde(borrow, default)]
    parameters: Parameters<'a>,
}

#[derive(Deserialize)]
struct ItemWire<'a> {
    #[serde(borrow)]
    outputs: Option<Vec<TensorJson<'a>>>,
    error: Option<ErrorBody>,
}

/// Reads what a result topic carried.
///
/// # Errors
/// When it is neither a result nor an error.
pub fn parse_result(body: &[u8]) -> Result<Outcome, BadMessage> {
    const WHAT: &str = "result";
    let wire: ResultWire<'_> = parse(WHAT, body)?;
    let batch = wire.items.is_some();
    let items = match (wire.outputs, wire.items, wire.error) {
        (None, None, Some(error)) => return Ok(Outcome::Error(error)),
        (Some(outputs), None, None) => vec![Ok(read_outputs(&outputs)?)],
        (None, Some(items), None) => items
            .into_iter()
            .map(|item| match (item.outputs, item.error) {
                (Some(outputs), None) => Ok(Ok(read_outputs(&outputs)?)),
                (None, Some(error)) => Ok(Err(error)),
                _ => Err(BadMessage::new(WHAT, "an item needs either outputs or error")),
            })
            .collect::<Result<_, BadMessage>>()?,
        _ => return Err(BadMessage::new(WHAT, "exactly one of outputs, items and error is needed")),
    };
    let parameters = wire.parameters;
    Ok(Outcome::Done(ResultBody {
        id: wire.id.into_owned(),
        model: wire.model_name.into_owned(),
        version: wire.model_version.into_owned(),
        model_digest: parameters.model_digest,
        items,
        batch,
        attempt: parameters.attempt,
        wall: Duration::from_millis(parameters.wall_ms),
        cpu: Duration::from_millis(parameters.cpu_ms),
        yields: parameters.yields,
        suspended: Duration::from_millis(parameters.suspended_ms),
        sandbox: parameters.sandbox.into_owned(),
    }))
}

fn read_outputs(outputs: &[TensorJson<'_>]) -> Result<Vec<Tensor>, BadMessage> {
    outputs
        .iter()
        .map(|tensor| decode(tensor, &mut [].as_slice(), Side::Response))
        .collect::<Result<_, Fault>>()
        .map_err(|fault| BadMessage::new("result", fault.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Code;

    fn rendered(items: &[Vec<u8>], batch: bool) -> String {
        let head = ResultHead {
            id: &"j1".parse().unwrap(),
            model: &"m".parse().unwrap(),
            version: 2,
            digest: &Digest([0xab; 32]),
            attempt: 1,
            wall: Duration::from_millis(20),
            cpu: Duration::from_micros(15_900),
            yields: 3,
            suspended: Duration::from_secs(1),
            sandbox: "partial",
        };
        String::from_utf8(render_result(&head, items, batch)).unwrap()
    }

    fn outputs() -> Vec<Tensor> {
        vec![Tensor::f32s("y", vec![1, 2], &[0.5, 1.0]).unwrap(), Tensor::strings("label", &["cat"])]
    }

    #[test]
    fn a_single_result_is_an_oip_response() {
        let digest = "ab".repeat(32);
        assert_eq!(
            rendered(&[render_item(&outputs())], false),
            format!(
                r#"{{"id":"j1","model_name":"m","model_version":"2","outputs":[{{"name":"y","shape":[1,2],"datatype":"FP32","data":[0.5,1.0]}},{{"name":"label","shape":[1],"datatype":"BYTES","data":["cat"]}}],"parameters":{{"attempt":1,"wall_ms":20,"cpu_ms":15,"yields":3,"suspended_ms":1000,"model_digest":"sha256:{digest}","sandbox":"partial"}}}}"#
            )
        );
    }

    #[test]
    fn results_are_read_back() {
        let fault = Fault::new(Code::InputDecode, "not a JPEG");
        let items = [render_item(&outputs()), render_item_error(&fault)];
        let Outcome::Done(result) = parse_result(rendered(&items, true).as_bytes()).unwrap() else { panic!("error") };
        assert_eq!(result.items, [Ok(outputs()), Err(ErrorBody::from(&fault))]);
        assert!(result.batch && result.yields == 3 && result.suspended == Duration::from_secs(1));
        assert_eq!(result.sandbox, "partial");

        let Outcome::Done(single) = parse_result(rendered(&items[..1], false).as_bytes()).unwrap() else { panic!() };
        assert_eq!((single.items, single.batch), (vec![Ok(outputs())], false));
        let Outcome::Done(batch_of_one) = parse_result(rendered(&items[..1], true).as_bytes()).unwrap() else {
            panic!()
        };
        assert!(batch_of_one.batch);
        assert_eq!(parse_result(&render_error(&fault)).unwrap(), Outcome::Error(ErrorBody::from(&fault)));
    }

    #[test]
    fn failed_items_are_told_from_finished_ones() {
        assert!(is_item_error(&render_item_error(&Fault::new(Code::ModelRun, "x"))));
        assert!(!is_item_error(&render_item(&outputs())));
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"outputs":[],"error":{"code":"a","message":"b","retryable":false}}"#,
            r#"{"items":[{}]}"#,
        ] {
            assert!(parse_result(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
