//! Is every crooked submit refused by name, and does every good one survive?

use proptest::prelude::*;

use super::*;
use crate::units::PACKET_BYTES_MAX;

const NOW: WallTime = WallTime::from_millis(1_764_000_000_000);

fn policy() -> LimitPolicy {
    let limits = |scale: u32| Limits {
        wall: Duration::from_secs(60) * scale,
        memory_bytes: 1_000_000 * u64::from(scale),
        attempts: scale,
        output_bytes: 1000 * u64::from(scale),
    };
    LimitPolicy { defaults: limits(1), maxima: limits(3), body_bytes_max: 100_000 }
}

fn json_body(bytes: &[u8]) -> Body<'_> {
    Body { bytes, content_type: Some("application/json"), header_bytes: None }
}

fn submit(text: &str) -> Result<Submit, Fault> {
    parse_submit(&json_body(text.as_bytes()), &policy(), NOW)
}

/// A submit with these fields besides model and input.
fn with(fields: &str) -> Result<Submit, Fault> {
    submit(&format!(
        r#"{{"model":"m",{fields}"input":{{"inputs":[{{"name":"x","shape":[2],"datatype":"FP32","data":[0.1,0.2]}}]}}}}"#
    ))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Fault>, code: Code, words: &[&str]) {
    let fault = outcome.unwrap_err();
    assert_eq!(fault.code, code, "{fault}");
    for word in words {
        assert!(fault.message.contains(word), "{word:?} is not in: {fault}");
    }
}

#[test]
fn the_protocols_example_is_read() {
    let digest = format!("sha256:{}", "98ea".repeat(16));
    let text = format!(
        r#"{{"model":"person-detect","version":1,"digest":"{digest}","priority":5,
        "deadline":"2026-11-22T06:00:00.000Z","not_before":"2026-11-22T01:00:00.000Z",
        "limits":{{"wall_ms":100000,"memory_bytes":1000,"attempts":3,"output_bytes":2000}},
        "input":{{"inputs":[{{"name":"x","shape":[1,2],"datatype":"FP32","data":[0.1,0.2]}}]}}}}"#
    );
    let job = submit(&text).unwrap();
    assert_eq!(job.model.name.as_str(), "person-detect");
    assert_eq!(job.model.digest.unwrap().to_string(), digest);
    assert_eq!(job.limits.wall, Duration::from_secs(100));
    assert_eq!(job.deadline.unwrap().to_string(), "2026-11-22T06:00:00.000Z");
    assert_eq!(job.items[0].inputs[0].to_f32s().unwrap(), [0.1, 0.2]);
    assert!(!job.batch && !job.items[0].interpret);
}

#[test]
fn what_is_not_said_is_the_nodes_default() {
    let job = with("").unwrap();
    assert_eq!(job.limits, policy().defaults);
    assert_eq!((job.priority, job.deadline, job.model.version), (5, None, None));
    let partly = with(r#""limits":{"attempts":2},"#).unwrap();
    assert_eq!(partly.limits, Limits { attempts: 2, ..policy().defaults });
}

#[test]
fn unknown_and_repeated_fields_are_refused_by_name() {
    refused(with(r#""limit":{},"#), Code::JobMalformed, &["`limit`", "`limits`"]);
    refused(with(r#""limits":{"wal_ms":1},"#), Code::JobMalformed, &["wal_ms", "wall_ms"]);
    refused(with(r#""priority":1,"priority":2,"#), Code::JobMalformed, &["duplicate field `priority`"]);
    refused(submit(r#"{"input":{"inputs":[]}}"#), Code::JobMalformed, &["missing field `model`"]);
    let request = r#"{"model":"m","input":{"inputs":[],"priority":1}}"#;
    refused(submit(request), Code::JobMalformed, &["`priority`"]);
}

#[test]
fn exactly_one_kind_of_input_is_needed() {
    refused(submit(r#"{"model":"m"}"#), Code::JobMalformed, &["exactly one of input, items and input_ref"]);
    refused(with(r#""items":[],"#), Code::JobMalformed, &["exactly one"]);
    refused(submit(r#"{"model":"m","input_ref":{"url":"file:a"}}"#), Code::JobUnsupported, &["input_ref", "items"]);
    refused(submit(r#"{"model":"m","items":[]}"#), Code::JobTooLarge, &["0 items", "1 to 10000"]);
    refused(submit(r#"{"model":"m","input":{"inputs":[]}}"#), Code::InputCount, &["0 inputs"]);
}

#[test]
fn limits_above_policy_name_value_and_limit() {
    refused(with(r#""limits":{"wall_ms":180001},"#), Code::JobLimitExceedsPolicy, &["wall_ms", "180001", "180000"]);
    refused(with(r#""limits":{"memory_bytes":3000001},"#), Code::JobLimitExceedsPolicy, &["memory_bytes", "3000000"]);
    refused(with(r#""limits":{"attempts":4},"#), Code::JobLimitExceedsPolicy, &["attempts 4", "maximum 3"]);
    refused(with(r#""limits":{"output_bytes":3001},"#), Code::JobLimitExceedsPolicy, &["output_bytes", "3000"]);
    refused(with(r#""limits":{"wall_ms":0},"#), Code::JobMalformed, &["wall_ms 0"]);
    assert!(with(r#""limits":{"wall_ms":180000,"memory_bytes":3000000,"attempts":3,"output_bytes":3000},"#).is_ok());
}

#[test]
fn times_that_cannot_be_met_are_refused() {
    refused(with(r#""deadline":"2020-01-01T00:00:00.000Z","#), Code::JobExpired, &["2020-01-01", "2025-11-24"]);
    refused(with(r#""deadline":"soon","#), Code::JobMalformed, &["deadline", "soon"]);
    let never = r#""deadline":"2030-01-01T00:00:00.000Z","not_before":"2031-01-01T00:00:00.000Z","#;
    refused(with(never), Code::JobMalformed, &["not_before 2031"]);
}

#[test]
fn names_and_priorities_are_checked() {
    refused(
        submit(r#"{"model":"../x","input":{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}}"#),
        Code::JobMalformed,
        &["../x"],
    );
    refused(with(r#""digest":"sha256:12","#), Code::JobMalformed, &["digest", "64 hexadecimal"]);
    refused(with(r#""priority":10,"#), Code::JobMalformed, &["priority 10"]);
    refused(with(r#""priority":-1,"#), Code::JobMalformed, &["priority -1"]);
    refused(with(r#""version":-1,"#), Code::JobMalformed, &["-1"]);
    let twice = r#"{"model":"m","input":{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]},{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}}"#;
    refused(submit(twice), Code::InputName, &["\"x\"", "twice"]);
}

#[test]
fn a_fault_in_a_batch_names_its_item() {
    let text = r#"{"model":"m","items":[{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[1]}]},{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[300]}]}]}"#;
    refused(submit(text), Code::InputValue, &["item 1", "300"]);
}

#[test]
fn a_large_manifest_is_told_to_go_binary() {
    let padding = " ".repeat(MANIFEST_BYTES_MAX);
    refused(with(&padding), Code::JobTooLarge, &["8192", "send tensors binary", "inference-header-content-length"]);
    // Calling all of it header does not make it a job with binary tensors.
    let text = format!("{{{padding}}}");
    let all_header = Body { header_bytes: Some(text.len()), ..json_body(text.as_bytes()) };
    refused(parse_submit(&all_header, &policy(), NOW), Code::JobTooLarge, &["8192"]);
    let huge = vec![b'x'; 100_001];
    let body = Body { bytes: &huge, content_type: Some(BINARY), header_bytes: Some(2) };
    refused(parse_submit(&body, &policy(), NOW), Code::JobTooLarge, &["100001", "100000"]);
}

#[test]
fn a_crooked_binary_body_is_refused() {
    let media = Draft::new(model(), vec![Request::new(vec![Tensor::bytes("image", &[0xff; 50])])]);
    let rendered = render_submit(&media, true);
    let header: usize = rendered.properties[0].1.parse().unwrap();
    let read = |bytes: &[u8], header_bytes| {
        parse_submit(&Body { bytes, content_type: Some(BINARY), header_bytes }, &policy(), NOW)
    };
    assert!(read(&rendered.body, Some(header)).is_ok());
    refused(read(&rendered.body, None), Code::JobMalformed, &["inference-header-content-length"]);
    refused(read(&rendered.body, Some(rendered.body.len() + 1)), Code::JobMalformed, &["whole body"]);
    refused(read(&rendered.body[..rendered.body.len() - 1], Some(header)), Code::InputLength, &["54", "53"]);
    refused(
        read(&[&rendered.body, b"xy".as_slice()].concat(), Some(header)),
        Code::JobMalformed,
        &["2 bytes are left"],
    );
}

#[test]
fn a_crooked_header_length_is_refused() {
    let mut message = Publish {
        topic: String::new(),
        body: Vec::new(),
        qos: crate::link::Qos::AtLeastOnce,
        retain: false,
        expiry_s: None,
        content_type: None,
        response_topic: None,
        correlation: None,
        properties: vec![(HEADER_LENGTH.to_owned(), "12a".to_owned())],
    };
    refused(Body::of(&message).map(|_| ()), Code::JobMalformed, &["12a"]);
    message.properties[0].1 = "12".to_owned();
    assert_eq!(Body::of(&message).unwrap().header_bytes, Some(12));
}

#[test]
fn media_is_interpreted_unless_the_request_says_otherwise() {
    let text = |parameters: &str| {
        format!(
            r#"{{"model":"m","input":{{{parameters}"inputs":[{{"name":"t","shape":[1],"datatype":"BYTES","data":["hi"]}}]}}}}"#
        )
    };
    assert!(submit(&text("")).unwrap().items[0].interpret);
    assert!(!submit(&text(r#""parameters":{"interpret":false},"#)).unwrap().items[0].interpret);
    assert!(with("").is_ok_and(|job| !job.items[0].interpret));
    refused(submit(&text(r#""parameters":{"interprt":false},"#)), Code::JobMalformed, &["interprt"]);
}

#[test]
fn a_stored_submit_is_read_again_after_its_deadline() {
    let text = r#"{"model":"m","deadline":"2020-01-01T00:00:00.000Z","limits":{"attempts":99},"input":{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}}"#;
    assert_eq!(Draft::parse(&json_body(text.as_bytes()), PACKET_BYTES_MAX).unwrap().items.len(), 1);
}

fn model() -> ModelRef {
    ModelRef { name: "m".parse().unwrap(), version: None, digest: None }
}

fn any_request() -> impl Strategy<Value = Request> {
    let media = prop::collection::vec(any::<u8>(), 0..40).prop_map(|content| Tensor::bytes("image", &content));
    let raw = prop::collection::vec(-1e30_f32..1e30, 1..8)
        .prop_map(|values| Tensor::f32s("x", vec![values.len()], &values).unwrap());
    let outputs = prop::option::of(prop::collection::vec("[a-z]{1,5}", 1..3));
    (prop_oneof![media, raw], any::<bool>(), outputs).prop_map(|(input, interpret, outputs)| Request {
        inputs: vec![input],
        interpret,
        outputs,
    })
}

fn any_draft() -> impl Strategy<Value = Draft> {
    let limits =
        (1_u64..1000, 1_u64..1000, 1_u32..3, 1_u64..1000).prop_map(|(wall, memory, attempts, output)| LimitsDraft {
            wall: Some(Duration::from_millis(wall)),
            memory_bytes: Some(memory),
            attempts: Some(attempts),
            output_bytes: Some(output),
        });
    let items = prop::collection::vec(any_request(), 1..4);
    (items, 0_u8..10, prop::option::of(1_u32..9), prop::option::of(limits), any::<bool>(), prop::option::of(1_i64..99))
        .prop_map(|(items, priority, version, limits, batch, late)| Draft {
            model: ModelRef { version, ..model() },
            priority,
            deadline: late.map(|seconds| NOW.after(Duration::from_secs(seconds.unsigned_abs()))),
            not_before: Some(NOW),
            limits: limits.unwrap_or_default(),
            batch: batch || items.len() > 1,
            items,
        })
}

proptest! {
    #[test]
    fn every_draft_survives_either_form(draft in any_draft(), binary: bool) {
        let rendered = render_submit(&draft, binary);
        let message = Publish {
            topic: "t".to_owned(),
            body: rendered.body,
            qos: crate::link::Qos::AtLeastOnce,
            retain: false,
            expiry_s: None,
            content_type: Some(rendered.content_type),
            response_topic: None,
            correlation: None,
            properties: rendered.properties,
        };
        let body = Body::of(&message).unwrap();
        prop_assert_eq!(&Draft::parse(&body, 100_000).unwrap(), &draft);
        prop_assert!(draft.resolve(&policy(), NOW).is_ok());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), header in prop::option::of(0_usize..300)) {
        let body = Body { bytes: &bytes, content_type: None, header_bytes: header };
        let _ = parse_submit(&body, &policy(), NOW);
    }

    #[test]
    fn a_cut_or_bent_submit_never_panics(draft in any_draft(), at in 0_usize..2000, byte: u8, cut: bool) {
        let rendered = render_submit(&draft, true);
        let header = rendered.properties[0].1.parse().unwrap();
        let mut bytes = rendered.body;
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let body = Body { bytes: &bytes, content_type: Some(BINARY), header_bytes: Some(header) };
        let _ = parse_submit(&body, &policy(), NOW);
    }
}
