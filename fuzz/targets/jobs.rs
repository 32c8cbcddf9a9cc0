//! What a controller sends: jobs with and without binary tensors, and commands.

use std::collections::BTreeSet;
use std::time::Duration;

use neap::jobs::job::Limits;
use neap::link::Publish;
use neap::link::messages::{
    BINARY, Body, Command, Draft, HEADER_LENGTH, JOBS_IN_REPLY_MAX, JobsQuery, LimitPolicy, Rendered, Submit,
    parse_command, parse_hold, parse_request, parse_submit, render_submit,
};
use neap::units::{ITEMS_MAX, MANIFEST_BYTES_MAX, PACKET_BYTES_MAX, TENSORS_MAX, WallTime};

use super::{bounded, fits, is_plain_fault};

/// Memory that a body may take while it is read, for each of its bytes: an element of two characters becomes eight
/// bytes, and an empty string in a binary tensor, four bytes, takes sixteen more while it is counted.
const HELD_PER_BYTE: u64 = 32;
/// 2026-11-22, as the corpora see it.
const NOW: WallTime = WallTime::from_millis(1_795_300_000_000);

const POLICY: LimitPolicy = LimitPolicy {
    defaults: Limits { wall: Duration::from_secs(60), memory_bytes: 1 << 28, attempts: 3, output_bytes: 1 << 20 },
    maxima: Limits { wall: Duration::from_secs(3600), memory_bytes: 1 << 30, attempts: 10, output_bytes: 1 << 22 },
    body_bytes_max: PACKET_BYTES_MAX,
};

/// A submit whose tensors stand in the JSON; also read as a request file of the command line.
pub fn job_json(bytes: &[u8]) {
    submit(&Body { bytes, content_type: None, header_bytes: None });
    match bounded(bytes.len(), HELD_PER_BYTE, || parse_request(bytes)) {
        Ok(request) => request.inputs.iter().for_each(fits),
        Err(fault) => is_plain_fault(&fault),
    }
}

/// A submit with binary tensors. First line: the user property that tells the length of the JSON. Then the body.
pub fn job_binary(bytes: &[u8]) {
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (length, rest) = (&bytes[..line], bytes.get(line + 1..).unwrap_or_default());
    let mut message = Publish::plain("t", rest.to_vec());
    message.content_type = Some(BINARY.to_owned());
    message.properties = vec![(HEADER_LENGTH.to_owned(), String::from_utf8_lossy(length).into_owned())];
    match Body::of(&message) {
        Ok(body) => submit(&body),
        Err(fault) => is_plain_fault(&fault),
    }
}

fn submit(body: &Body<'_>) {
    match bounded(body.bytes.len(), HELD_PER_BYTE, || parse_submit(body, &POLICY, NOW)) {
        Ok(submit) => is_allowed(&submit),
        Err(fault) => is_plain_fault(&fault),
    }
    match Draft::parse(body, POLICY.body_bytes_max) {
        Ok(draft) => survives(&draft),
        Err(fault) => is_plain_fault(&fault),
    }
}

fn is_allowed(submit: &Submit) {
    assert!((1..=ITEMS_MAX).contains(&submit.items.len()));
    assert!(submit.priority <= 9);
    assert!(submit.deadline.is_none_or(|deadline| deadline > NOW));
    let (limits, most) = (submit.limits, POLICY.maxima);
    assert!(limits.wall <= most.wall && limits.memory_bytes <= most.memory_bytes);
    assert!(limits.attempts <= most.attempts && limits.output_bytes <= most.output_bytes);
    for item in &submit.items {
        assert!((1..=TENSORS_MAX).contains(&item.inputs.len()));
        item.inputs.iter().for_each(fits);
        let names: BTreeSet<&str> = item.inputs.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names.len(), item.inputs.len(), "a name that is given twice");
    }
}

/// Claims that a draft, written in either form, reads as the same draft.
fn survives(draft: &Draft) {
    for binary in [false, true] {
        let Rendered { body, content_type, properties } = render_submit(draft, binary);
        let header_bytes = properties.iter().find(|(name, _)| name == HEADER_LENGTH).map(|(_, value)| value.parse());
        let header_bytes = header_bytes.transpose().expect("a rendered length is a number");
        // Numbers and escapes may be longer when they are written again: then the limit of a manifest speaks.
        let is_manifest = header_bytes.is_none_or(|header| header == body.len());
        if is_manifest && body.len() > MANIFEST_BYTES_MAX || body.len() > POLICY.body_bytes_max {
            continue;
        }
        let again = Body { bytes: &body, content_type: Some(&content_type), header_bytes };
        match Draft::parse(&again, POLICY.body_bytes_max) {
            Ok(again) => assert_eq!(&again, draft, "binary: {binary}"),
            Err(fault) => panic!("binary: {binary}: {fault}: {}", String::from_utf8_lossy(&body)),
        }
    }
}

/// First line: the name of a command. Then its body, which is also read as a site's hold.
pub fn commands(bytes: &[u8]) {
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (name, body) = (String::from_utf8_lossy(&bytes[..line]), bytes.get(line + 1..).unwrap_or_default());
    match bounded(bytes.len(), HELD_PER_BYTE, || parse_command(&name, body)) {
        Ok(command) => {
            assert_eq!(command.name(), name);
            assert_eq!(parse_command(&name, &command.render()), Ok(command.clone()));
            if let Command::Jobs(JobsQuery { max, .. }) = command {
                assert!((1..=JOBS_IN_REPLY_MAX).contains(&max));
            }
        }
        Err(fault) => is_plain_fault(&fault),
    }
    match parse_hold(body) {
        Ok(Some(Some(span))) => assert!(span <= Duration::from_secs(7 * 24 * 3600)),
        Ok(None) => assert!(body.is_empty()),
        Ok(Some(None)) => {}
        Err(fault) => is_plain_fault(&fault),
    }
}
