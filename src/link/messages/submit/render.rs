//! The writing side of a submit.

use serde::Serialize;

use super::{Draft, LimitsDraft, LimitsWire, OutputWire, Request, RequestParameters, is_media};
use crate::link::messages::{BINARY, HEADER_LENGTH, JSON, millis, render};
use crate::link::tensors::{Detached, Inline};

/// A rendered submit, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Body.
    pub body: Vec<u8>,
    /// MQTT content type.
    pub content_type: String,
    /// MQTT user properties.
    pub properties: Vec<(String, String)>,
}

/// The body of a submit. With `binary`, tensor data follows the JSON; without, it stands in the JSON, and a job above
/// `MANIFEST_BYTES_MAX` will be refused: media is sent binary.
pub fn render_submit(draft: &Draft, binary: bool) -> Rendered {
    let single = (!draft.batch && draft.items.len() == 1).then(|| draft.items.first()).flatten();
    let header = render(&SubmitOut {
        model: draft.model.name.as_str(),
        version: draft.model.version,
        digest: draft.model.digest.map(|digest| digest.to_string()),
        priority: draft.priority,
        deadline: draft.deadline.map(|at| at.to_string()),
        not_before: draft.not_before.map(|at| at.to_string()),
        limits: (draft.limits != LimitsDraft::default()).then(|| LimitsWire {
            wall_ms: draft.limits.wall.map(millis),
            memory_bytes: draft.limits.memory_bytes,
            attempts: draft.limits.attempts,
            output_bytes: draft.limits.output_bytes,
        }),
        input: single.map(|request| RequestOut::new(request, binary)),
        items: single.is_none().then(|| draft.items.iter().map(|request| RequestOut::new(request, binary)).collect()),
    });
    if !binary {
        return Rendered { body: header, content_type: JSON.to_owned(), properties: Vec::new() };
    }
    let properties = vec![(HEADER_LENGTH.to_owned(), header.len().to_string())];
    let mut body = header;
    for tensor in draft.items.iter().flat_map(|request| &request.inputs) {
        body.extend_from_slice(&tensor.data);
    }
    Rendered { body, content_type: BINARY.to_owned(), properties }
}

#[derive(Serialize)]
struct SubmitOut<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    priority: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsWire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<RequestOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<RequestOut<'a>>>,
}

#[derive(Serialize)]
struct RequestOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<RequestParameters>,
    inputs: Vec<TensorOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<OutputWire>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TensorOut<'a> {
    Inline(Inline<'a>),
    Detached(Detached<'a>),
}

impl<'a> RequestOut<'a> {
    fn new(request: &'a Request, binary: bool) -> Self {
        let tensor =
            |tensor| if binary { TensorOut::Detached(Detached(tensor)) } else { TensorOut::Inline(Inline(tensor)) };
        // Said only where it differs from what the node would do by itself.
        let interpret = (request.interpret != is_media(&request.inputs)).then_some(request.interpret);
        Self {
            parameters: interpret.map(|interpret| RequestParameters { interpret: Some(interpret) }),
            inputs: request.inputs.iter().map(tensor).collect(),
            outputs: request
                .outputs
                .as_ref()
                .map(|names| names.iter().map(|name| OutputWire { name: name.clone() }).collect()),
        }
    }
}
