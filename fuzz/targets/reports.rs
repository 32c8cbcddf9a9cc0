//! What a node says, as a controller and the command line read it: results, states, replies, events, counters.

use std::fmt::Debug;

use neap::link::messages::{
    BadMessage, Capacity, ErrorBody, Info, LoadSample, Metrics, NodeEvent, NodeState, Outcome, Reply, ResultBody,
    ResultHead, Status, Yields, parse_result, render_item, render_result,
};
use neap::tensor::Tensor;
use neap::units::{Digest, FAULT_TEXT_BYTES_MAX, JobId, Name};

use super::{bounded, fits, is_plain};

/// Memory that a body may take while it is read, for each of its bytes: `{}` in a list may be a struct of many fields.
const HELD_PER_BYTE: u64 = 64;
/// What stands before the reason: "ledger of yields cannot be read: " is the longest.
const PREFACE_BYTES: usize = 40;

/// The same bytes as the body of every message that a node sends.
pub fn reports(bytes: &[u8]) {
    survives(bytes, Status::parse, Status::render);
    survives(bytes, Reply::parse, Reply::render);
    survives(bytes, NodeState::parse, NodeState::render);
    survives(bytes, Info::parse, Info::render);
    survives(bytes, NodeEvent::parse, NodeEvent::render);
    survives(bytes, LoadSample::parse, LoadSample::render);
    survives(bytes, Metrics::parse, Metrics::render);
    survives(bytes, Capacity::parse, Capacity::render);
    survives(bytes, Yields::parse, Yields::render);
    match bounded(bytes.len(), HELD_PER_BYTE, || parse_result(bytes)) {
        Ok(Outcome::Done(body)) => result_survives(&body),
        Ok(Outcome::Error(_)) => {}
        Err(error) => is_plain_error(&error),
    }
}

fn is_plain_error(error: &BadMessage) {
    is_plain(&error.to_string(), FAULT_TEXT_BYTES_MAX + PREFACE_BYTES);
}

/// Claims that what is read is the same after it was written and read again.
fn survives<T: Debug + PartialEq>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, BadMessage>,
    render: impl Fn(&T) -> Vec<u8>,
) {
    match bounded(bytes.len(), HELD_PER_BYTE, || parse(bytes)) {
        Ok(message) => {
            let body = render(&message);
            let again = parse(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)));
            assert_eq!(again, message);
        }
        Err(error) => is_plain_error(&error),
    }
}

/// The same of a result, as far as a node could have written it.
fn result_survives(body: &ResultBody) {
    body.items.iter().flatten().flatten().for_each(fits);
    let (Ok(id), Ok(model), Ok(version), Ok(digest)) = (
        body.id.parse::<JobId>(),
        body.model.parse::<Name>(),
        body.version.parse::<u32>(),
        body.model_digest.parse::<Digest>(),
    ) else {
        return;
    };
    let item = |item: &Result<Vec<Tensor>, ErrorBody>| match item {
        Ok(outputs) => render_item(outputs),
        Err(error) => serde_json::to_vec(&serde_json::json!({ "error": error })).expect("a fault is plain JSON"),
    };
    let items: Vec<Vec<u8>> = body.items.iter().map(item).collect();
    let head = ResultHead {
        id: &id,
        model: &model,
        version,
        digest: &digest,
        attempt: body.attempt,
        wall: body.wall,
        cpu: body.cpu,
        yields: body.yields,
        suspended: body.suspended,
        sandbox: &body.sandbox,
    };
    let written = render_result(&head, &items, body.batch);
    let normal = ResultBody { version: version.to_string(), model_digest: digest.to_string(), ..body.clone() };
    match parse_result(&written) {
        Ok(again) => assert_eq!(again, Outcome::Done(normal)),
        Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&written)),
    }
}
