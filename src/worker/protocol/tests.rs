//! Frames come back as they were sent, and nothing else is accepted.

use proptest::collection::vec;
use proptest::prelude::*;

use super::appraise::RUNS_MAX;
use super::*;
use crate::fault::Code;
use crate::tensor::DataType;
use crate::worker::jail::achieved::{Given, Level, Outcome, Step};

fn digests() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn kinds() -> impl Strategy<Value = u8> {
    let kinds = &[LOAD, RUN, FORGET, APPRAISE, HELLO, DONE, FAILED, NEED_MODEL, PARKED, APPRAISED];
    proptest::sample::select(&kinds[..])
}

fn spans() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_nanos)
}

fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    let numbers = (".{0,20}", 0_usize..12, vec(0_usize..4, 0..4)).prop_flat_map(|(name, kind, shape)| {
        let datatype = DataType::ALL[kind];
        let bytes = shape.iter().product::<usize>() * datatype.element_bytes().unwrap();
        vec(any::<u8>(), bytes).prop_map(move |data| Tensor {
            name: name.clone(),
            datatype,
            shape: shape.clone(),
            data,
        })
    });
    let strings =
        (".{0,20}", vec(vec(any::<u8>(), 0..30), 0..5)).prop_map(|(name, elements)| Tensor::strings(name, &elements));
    vec(prop_oneof![numbers, strings], 0..5)
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    prop_oneof![
        (digests(), ".{0,200}", ".{0,200}").prop_map(|(digest, manifest, labels)| ToWorker::Load(Load {
            digest,
            manifest,
            labels
        })),
        (any::<(u64, u32, bool, u64, u64)>(), digests(), tensors()).prop_map(|(numbers, digest, tensors)| {
            let (token, item, interpret, memory_bytes, output_bytes) = numbers;
            ToWorker::Run(Run { token, item, digest, interpret, memory_bytes, output_bytes, tensors })
        }),
        digests().prop_map(ToWorker::Forget),
        (any::<(u64, u32, u64)>(), digests(), spans(), tensors()).prop_map(|(numbers, digest, cpu, tensors)| {
            let (token, runs, memory_bytes) = numbers;
            ToWorker::Appraise(Appraise { token, digest, runs, cpu, memory_bytes, tensors })
        }),
    ]
}

fn sandboxes() -> impl Strategy<Value = Achieved> {
    use proptest::sample::select;
    let outcome = (select(&Step::ALL[..]), select(&Given::ALL[..]), ".{0,60}");
    let outcome = outcome.prop_map(|(step, given, detail)| Outcome { step, given, detail });
    let outcomes = vec(outcome, 0..Step::ALL.len());
    let numbers = any::<(u8, u32)>();
    (select(&Level::ALL[..]), numbers, spans(), spans(), outcomes).prop_map(
        |(level, (landlock_abi, uid), set_up, warm_up, outcomes)| Achieved {
            level,
            outcomes,
            landlock_abi,
            uid,
            set_up,
            warm_up,
        },
    )
}

fn from_worker() -> impl Strategy<Value = FromWorker> {
    let codes = proptest::sample::select(Code::ALL);
    prop_oneof![
        (".{0,20}", any::<u32>(), vec(".{0,60}", 0..4), sandboxes())
            .prop_map(|(version, pid, notes, sandbox)| FromWorker::Hello(Hello { version, pid, notes, sandbox })),
        (any::<(u64, u32, u64)>(), spans(), spans(), proptest::option::of(spans()), tensors()).prop_map(
            |((token, item, peak_bytes), cpu, wall, load_cpu, tensors)| {
                FromWorker::Done(Done { token, item, cpu, wall, load_cpu, peak_bytes, tensors })
            }
        ),
        (any::<(u64, u32)>(), codes, ".{0,100}").prop_map(|((token, item), code, message)| {
            FromWorker::Failed(Failed { token, item, fault: Fault::new(code, message) })
        }),
        (any::<(u64, u32)>(), digests()).prop_map(|((token, item), digest)| FromWorker::NeedModel(NeedModel {
            token,
            item,
            digest
        })),
        (any::<u32>(), spans()).prop_map(|(times, time)| FromWorker::Parked(Parked { times, time })),
        (any::<(u64, u64, u32)>(), spans(), ".{0,60}", ".{0,60}", spans(), vec(spans(), 0..RUNS_MAX)).prop_map(
            |((token, plan_bytes, nodes), preflight, worst_name, worst_op, worst, runs)| {
                let appraised = Appraised { token, preflight, plan_bytes, nodes, worst_name, worst_op, worst, runs };
                FromWorker::Appraised(appraised)
            }
        ),
    ]
}

proptest! {
    #[test]
    fn what_the_agent_says_arrives(message in to_worker()) {
        let frame = message.encode().unwrap();
        prop_assert_eq!(ToWorker::decode(&frame[PREFIX_BYTES..]).unwrap(), message);
    }

    #[test]
    fn what_the_worker_says_arrives(message in from_worker()) {
        let frame = message.encode().unwrap();
        prop_assert_eq!(FromWorker::decode(&frame[PREFIX_BYTES..]).unwrap(), message);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), kind in kinds()) {
        let mut frame = vec![kind];
        frame.extend_from_slice(&bytes);
        let _ = ToWorker::decode(&frame);
        let _ = FromWorker::decode(&frame);
        let _ = ToWorker::decode(&bytes);
        let _ = FromWorker::decode(&bytes);
    }

    #[test]
    fn a_damaged_frame_never_panics(message in from_worker(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut frame = message.encode().unwrap();
        let at = PREFIX_BYTES + at.index(frame.len() - PREFIX_BYTES);
        frame[at] ^= 1 << bit;
        let _ = FromWorker::decode(&frame[PREFIX_BYTES..]);
    }

    #[test]
    fn a_cut_frame_is_refused(message in from_worker(), at in any::<prop::sample::Index>()) {
        let frame = message.encode().unwrap();
        let body = &frame[PREFIX_BYTES..];
        prop_assert!(FromWorker::decode(&body[..at.index(body.len())]).is_err());
    }

    #[test]
    fn frames_survive_any_cutting_of_the_stream(messages in vec(to_worker(), 1..6), piece in 1_usize..50) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| message.encode().unwrap()).collect();
        let mut frames = Frames::default();
        let mut seen = Vec::new();
        for piece in stream.chunks(piece) {
            frames.extend(piece);
            while let Some(frame) = frames.next_frame().unwrap() {
                seen.push(ToWorker::decode(frame).unwrap());
            }
            frames.shrink();
        }
        prop_assert_eq!(seen, messages);
    }
}

#[test]
fn bytes_behind_the_body_are_refused() {
    let mut frame = ToWorker::Forget(Digest([7; 32])).encode().unwrap();
    frame.push(0);
    assert_eq!(ToWorker::decode(&frame[PREFIX_BYTES..]), Err(BadFrame::Long { bytes: 1 }));
}

#[test]
fn a_direction_does_not_accept_the_other_directions_kinds() {
    let hello = FromWorker::Hello(Hello { version: "1".into(), pid: 1, notes: vec![], sandbox: Achieved::default() })
        .encode()
        .unwrap();
    assert_eq!(ToWorker::decode(&hello[PREFIX_BYTES..]), Err(BadFrame::Kind { kind: HELLO }));
    assert_eq!(FromWorker::decode(&[]), Err(BadFrame::Kind { kind: 0 }));
}

#[test]
fn an_announced_length_above_the_limit_is_refused_before_it_is_read() {
    let mut frames = Frames::default();
    frames.extend(&u32::MAX.to_le_bytes());
    assert_eq!(frames.next_frame(), Err(BadFrame::TooLong { bytes: u64::from(u32::MAX) }));
}

#[test]
fn a_message_above_the_limit_is_not_encoded() {
    let tensors = vec![Tensor::bytes("x", &vec![0; FRAME_BYTES_MAX])];
    let run =
        Run { token: 1, item: 0, digest: Digest([0; 32]), interpret: false, memory_bytes: 0, output_bytes: 0, tensors };
    assert!(matches!(run.encode(), Err(BadFrame::TooLong { .. })));
}

#[test]
fn counts_are_checked_before_anything_is_allocated() {
    // DONE with 4 billion tensors, DONE with a tensor of 2^60 elements.
    let mut frame = vec![DONE];
    frame.extend_from_slice(&[0; 8 + 4 + 8 + 8 + 1 + 8]);
    let mut tensors = frame.clone();
    tensors.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(FromWorker::decode(&tensors), Err(BadFrame::Field { field: "tensors", .. })));

    let mut writer = Writer { bytes: frame };
    writer.length(1);
    writer.text("x");
    writer.text("FP32");
    writer.length(1);
    writer.u64(1 << 60);
    writer.blob(&[0; 4]);
    assert!(matches!(FromWorker::decode(&writer.bytes), Err(BadFrame::Field { field: "tensor", .. })));
}

#[test]
fn a_swarm_of_empty_strings_is_refused() {
    let swarm = Tensor::strings("x", &vec![""; STRINGS_MAX + 1]);
    let done = Done {
        token: 1,
        item: 0,
        cpu: Duration::ZERO,
        wall: Duration::ZERO,
        load_cpu: None,
        peak_bytes: 0,
        tensors: vec![swarm],
    };
    let frame = FromWorker::Done(done).encode().unwrap();
    assert!(matches!(FromWorker::decode(&frame[PREFIX_BYTES..]), Err(BadFrame::Field { field: "data", .. })));
}

#[test]
fn an_unknown_code_is_refused() {
    let mut writer = Writer::new(FAILED);
    writer.u64(1);
    writer.u32(1);
    writer.text("model.haunted");
    writer.text("boo");
    assert!(matches!(FromWorker::decode(&writer.bytes[PREFIX_BYTES..]), Err(BadFrame::Field { field: "code", .. })));
}

#[test]
fn notes_above_their_limits_are_cut_by_the_writer() {
    let notes = vec!["ä".repeat(NOTE_BYTES_MAX); NOTES_MAX + 5];
    let hello = FromWorker::Hello(Hello { version: "1".into(), pid: 1, notes, sandbox: Achieved::default() });
    let frame = hello.encode().unwrap();
    let FromWorker::Hello(read) = FromWorker::decode(&frame[PREFIX_BYTES..]).unwrap() else { panic!("not a hello") };
    assert_eq!((read.notes.len(), read.notes[0].len()), (NOTES_MAX, NOTE_BYTES_MAX));
}

#[test]
fn an_appraisal_of_too_many_runs_is_cut_by_the_writer_and_refused_by_the_reader() {
    let appraised = Appraised {
        token: 1,
        preflight: Duration::ZERO,
        plan_bytes: 0,
        nodes: 0,
        worst_name: "n".repeat(2 * NOTE_BYTES_MAX),
        worst_op: String::new(),
        worst: Duration::ZERO,
        runs: vec![Duration::ZERO; RUNS_MAX + 3],
    };
    let mut frame = FromWorker::Appraised(appraised).encode().unwrap();
    let FromWorker::Appraised(read) = FromWorker::decode(&frame[PREFIX_BYTES..]).unwrap() else { panic!("another") };
    assert_eq!((read.runs.len(), read.worst_name.len()), (RUNS_MAX, NOTE_BYTES_MAX));
    let count = frame.len() - RUNS_MAX * 8 - 4;
    frame[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let refused = FromWorker::decode(&frame[PREFIX_BYTES..]);
    assert!(matches!(refused, Err(BadFrame::Field { field: "runs", .. })), "{refused:?}");
}
