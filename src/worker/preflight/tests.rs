//! Does every rule refuse what it is for, by its code and its words, and nothing that is good?

#[path = "../../../tests/support/bad_models.rs"]
mod bad_models;

use std::collections::BTreeSet;
use std::path::Path;

use self::bad_models::{BadModel, Seen, mutations};
use super::*;
use crate::model::library::Library;
use crate::tensor::DataType;
use crate::worker::infer;
use crate::worker::infer::tests::onnx;
use crate::worker::infer::tests::onnx::{FLOAT, Graph, INT64, Message, floats, ints, node, relu, tensor, value, with};

fn pinned(name: &str, shape: &[usize]) -> Pinned {
    Pinned { name: name.to_owned(), datatype: DataType::Fp32, shape: shape.to_vec() }
}

fn port(name: &str) -> Port {
    Port { name: name.to_owned(), datatype: DataType::Fp32, shape: vec![None], default: None }
}

fn judge(file: &[u8]) -> Result<Cleared, Fault> {
    infer::preflight(file, &[pinned("x", &[1])], &[port("y")])
}

type Bundled = (String, Vec<u8>, Vec<Pinned>, Vec<Port>);

/// The bundled models: name, file, what a request pins, what is declared.
fn bundled() -> Vec<Bundled> {
    let library = Library::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models")).unwrap();
    let entries = library.entries().map(|entry| {
        let manifest = &entry.manifest;
        let inputs = manifest.inputs.iter().map(|port| Pinned {
            name: port.name.clone(),
            datatype: port.datatype,
            // 32 fits every open dimension of these.
            shape: port.shape.iter().map(|length| length.unwrap_or(32)).collect(),
        });
        let file = std::fs::read(entry.folder.join(manifest.file.as_str())).unwrap();
        (manifest.name.to_string(), file, inputs.collect(), manifest.outputs.clone())
    });
    entries.collect()
}

#[test]
fn every_bad_model_that_can_be_told_from_its_file_is_refused_by_its_code_and_reason() {
    let mut wrong = Vec::new();
    for BadModel { name, file, code, says, seen } in bad_models::corpus() {
        match (judge(&file), seen) {
            (Err(fault), Seen::Before) if fault.code.as_str() == code && fault.message.contains(says) => {}
            (Ok(_), Seen::Later) => {}
            (Ok(_), Seen::Before) => wrong.push(format!("{name}: passed, expected {code}")),
            (Err(fault), Seen::Before) => wrong.push(format!("{name}: expected {code} with {says:?}, got {fault}")),
            (Err(fault), Seen::Later) => wrong.push(format!("{name}: should pass, got {fault}")),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_corpus_is_large_and_no_two_of_it_are_the_same() {
    let corpus = bad_models::corpus();
    assert!(corpus.len() >= 150, "{}", corpus.len());
    let names: BTreeSet<_> = corpus.iter().map(|bad| bad.name).collect();
    let files: BTreeSet<_> = corpus.iter().map(|bad| &bad.file).collect();
    assert_eq!((names.len(), files.len()), (corpus.len(), corpus.len()));
    assert!(corpus.iter().all(|bad| Code::parse(bad.code).is_some()));
}

#[test]
fn every_sentence_is_short_and_without_control_characters() {
    for bad in bad_models::corpus() {
        if let Err(fault) = judge(&bad.file) {
            assert!(fault.message.len() <= 1024 && !fault.message.chars().any(char::is_control), "{}", bad.name);
        }
    }
}

#[test]
fn the_bundled_models_pass_without_remarks() {
    for (name, file, inputs, outputs) in bundled() {
        let cleared = infer::preflight(&file, &inputs, &outputs).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(cleared.remarks, [], "{name}");
        let graph = cleared.model.graph.unwrap();
        let left: Vec<_> = graph.output.iter().map(|output| output.name.clone()).collect();
        assert_eq!(left, outputs.iter().map(|port| port.name.clone()).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn random_changes_of_the_bundled_models_never_panic_it() {
    let mut state = 20_261_122_u64;
    let mut random = move || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut refused = 0;
    for (name, file, inputs, outputs) in bundled() {
        let rounds = if file.len() > 100_000 { 20 } else { 500 };
        for _ in 0..rounds {
            let changed = mutations::mutate(&file, &mut random);
            if let Err(fault) = infer::preflight(&changed, &inputs, &outputs) {
                assert!(fault.code.as_str().starts_with("model."), "{name}: {fault}");
                refused += 1;
            }
        }
    }
    assert!(refused > 300, "only {refused} changes were noticed: do they hit the graph at all?");
}

#[test]
fn nothing_of_the_exporters_hints_reaches_the_engine() {
    let mut graph = relu();
    graph.inputs = vec![value("x", FLOAT, &[0])];
    let with_hint = graph.message().message(13, value("y", FLOAT, &[7]));
    let file = Message::default().int(1, 8).message(7, with_hint).message(8, Message::default().int(2, 13));
    let graph = judge(&file.into_bytes()).unwrap().model.graph.unwrap();
    assert!(graph.value_info.is_empty());
    let dims = ports::dims(&graph.input[0]).unwrap();
    assert!(dims.iter().all(|dim| dim.value.is_none()));
}

#[test]
fn nodes_may_stand_in_any_order_as_long_as_they_run_in_no_circle() {
    let nodes = vec![node("Relu", &["a"], &["y"]), node("Neg", &["x"], &["a"])];
    assert!(judge(&Graph { nodes, ..relu() }.file()).is_ok());
}

#[test]
fn an_input_may_have_a_default_and_inner_graphs_may_use_what_is_around_them() {
    let branch = |out: &str| Graph {
        nodes: vec![node("Add", &["x", "w"], &[out])],
        outputs: vec![value(out, FLOAT, &[0])],
        ..Graph::default()
    };
    let branching = node("If", &["c"], &["y"]);
    let branching = with(branching, onnx::inner("then_branch", branch("a")));
    let branching = with(branching, onnx::inner("else_branch", branch("b")));
    let graph = Graph {
        nodes: vec![branching],
        constants: vec![tensor("c", 9, &[], &[1]), tensor("w", FLOAT, &[1], &floats(&[1.0]))],
        inputs: vec![value("x", FLOAT, &[0]), value("w", FLOAT, &[1])],
        ..relu()
    };
    assert!(judge(&graph.file()).is_ok());
}

#[test]
fn versions_at_their_limits_are_served_and_foreign_imports_are_no_harm() {
    for set in [7, 13, 23] {
        for format in [3, 13] {
            let file = relu().file_of(format, &[("ai.onnx", set), ("com.example", 77)]).into_bytes();
            assert!(judge(&file).is_ok(), "set {set}, format {format}");
        }
    }
}

#[test]
fn quantised_activations_are_remarked_and_quantised_weights_are_not() {
    let scale = || tensor("s", FLOAT, &[], &floats(&[0.1]));
    let of = |input: &str| {
        let nodes = vec![
            node("QuantizeLinear", &[input, "s"], &["q"]),
            node("DequantizeLinear", &["q", "s"], &["d"]),
            node("Add", &["x", "d"], &["y"]),
        ];
        let constants = vec![scale(), tensor("w", FLOAT, &[1], &floats(&[1.0]))];
        judge(&Graph { nodes, constants, ..relu() }.file()).unwrap().remarks
    };
    assert_eq!(of("x"), [Remark::QuantisedActivations]);
    assert_eq!(of("w"), []);
    assert!(Remark::QuantisedActivations.to_string().contains("golden"));
}

#[test]
fn shapes_are_followed_through_what_is_simple() {
    // A gather of element 5 is right after a tile of ten, and wrong after one of five.
    let file = |repeats: i64| {
        let nodes = vec![
            node("Relu", &["x"], &["r"]),
            node("Tile", &["r", "n"], &["t"]),
            node("Sigmoid", &["t"], &["s"]),
            node("Gather", &["s", "at"], &["y"]),
        ];
        let constants = vec![tensor("n", INT64, &[1], &ints(&[repeats])), tensor("at", INT64, &[1], &ints(&[5]))];
        Graph { nodes, constants, ..relu() }.file()
    };
    assert!(judge(&file(10)).is_ok());
    assert_eq!(judge(&file(5)).unwrap_err().code, Code::ModelAttribute);
}

#[test]
fn a_file_above_the_limit_is_not_even_walked() {
    let file = vec![0; usize::try_from(MODEL_BYTES_MAX).unwrap() + 1];
    let fault = judge(&file).unwrap_err();
    assert_eq!(fault.code, Code::ModelTooLarge);
    assert!(fault.message.contains("268435457 bytes long, at most 268435456"), "{fault}");
}

#[test]
fn the_table_of_operators_holds_only_what_the_engine_has() {
    for set in &operators::SETS {
        for operator in set.operators {
            let graph = Graph { nodes: vec![node(operator, &["x"], &["y"]).bytes(7, set.domain)], ..relu() };
            let sets: &[_] =
                if set.domain == "ai.onnx" { &[("", 13)] } else { &[("", 13), (set.domain, set.versions.0)] };
            let file = graph.file_of(8, sets).into_bytes();
            if let Err(fault) = judge(&file) {
                assert_ne!(fault.code, Code::ModelUnsupportedOp, "{}.{operator}: {fault}", set.domain);
            }
        }
    }
}
