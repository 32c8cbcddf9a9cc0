//! Does an appraisal find out what a model costs, and refuse one that would bring a worker down? Real workers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "the costs are shown with --nocapture")]

#[allow(dead_code, reason = "shared with tests that need more of it")]
#[path = "support/onnx.rs"]
mod onnx;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use neap::fault::{Code, Fault};
use neap::model::library::{Entry, Library};
use neap::model::manifest;
use neap::model::verdict::{Limits, Outcome, Verdict};
use neap::units::Digest;
use neap::worker::appraisal::{self, Error};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use self::onnx::{FLOAT, Graph, INT64, floats, integers, ints, node, tensor, value, with};

const MEGABYTE: u64 = 1024 * 1024;

/// Enough for every good model here, and soon reached by the bad ones.
fn limits() -> Limits {
    Limits {
        plan_bytes: 64 * MEGABYTE,
        item_bytes: 64 * MEGABYTE,
        load: Duration::from_secs(30),
        run: Duration::from_secs(30),
    }
}

fn appraise(limits: &Limits, entry: &Arc<Entry>) -> Result<Verdict, Error> {
    appraisal::appraise(Path::new(env!("CARGO_BIN_EXE_neap")), limits, entry)
}

fn refusal(limits: &Limits, entry: &Arc<Entry>) -> Fault {
    match appraise(limits, entry).unwrap().outcome {
        Outcome::Refused(fault) => fault,
        Outcome::Accepted(cost) => panic!("accepted: {cost:?}"),
    }
}

/// A model of these bytes, with inputs `x` and outputs `y` of that shape.
fn model(file: &[u8], shape: &str) -> (TempDir, Arc<Entry>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("m.onnx"), file).unwrap();
    let digest = Digest(Sha256::digest(file).into());
    let text = format!(
        "name = \"test\"\nversion = 1\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\n\
         digest = \"{digest}\"\ninputs = [{{ name = \"x\", datatype = \"FP32\", shape = {shape} }}]\n\
         outputs = [{{ name = \"y\", datatype = \"FP32\", shape = {shape} }}]\n"
    );
    let manifest = manifest::parse(&text).unwrap();
    let entry = Entry {
        manifest,
        manifest_text: text.into(),
        labels: "".into(),
        folder: folder.path().canonicalize().unwrap(),
        standing: Default::default(),
    };
    (folder, Arc::new(entry))
}

/// `y = op(x)`, with that shape; 0 is open.
fn single(op: &str, shape: &[u64]) -> Graph {
    Graph {
        nodes: vec![node(op, &["x"], &["y"])],
        constants: vec![],
        inputs: vec![value("x", FLOAT, shape)],
        outputs: vec![value("y", FLOAT, shape)],
    }
}

#[test]
fn bundled_models_are_accepted_with_their_costs_and_agree_with_their_golden_cases() {
    let library = Library::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models")).unwrap();
    for entry in library.entries() {
        let name = &entry.manifest.name;
        let verdict = appraise(&Limits::default(), entry).unwrap();
        assert_eq!(verdict.stale(entry, &appraisal::terms(Limits::default())), None, "{name}");
        assert_eq!(Verdict::parse(&verdict.render()).unwrap().digest, entry.manifest.digest);
        let Outcome::Accepted(cost) = verdict.outcome else { panic!("{name}: {:?}", verdict.outcome) };
        let us = |span: Duration| span.as_micros();
        println!(
            "{name:14} load {:7} us, preflight {:5} us, run {:7}..{:7} us, worst {} {} {:6} us, {} nodes, plan {} KiB, \
             rss {} KiB, goldens {}/{}",
            us(cost.load),
            us(cost.preflight),
            us(cost.run_p50),
            us(cost.run_max),
            cost.worst_node.name,
            cost.worst_node.op,
            us(cost.worst_node.time),
            cost.nodes,
            cost.plan_bytes >> 10,
            cost.rss_bytes >> 10,
            cost.goldens.passed,
            cost.goldens.of,
        );
        assert!(cost.goldens.of > 0 && cost.goldens.all_passed(), "{name}: {:?}", cost.goldens);
        assert!(cost.load > cost.preflight && cost.run_max >= cost.run_p50, "{name}: {cost:?}");
        assert!(cost.run_p50 > Duration::ZERO && cost.worst_node.time > Duration::ZERO, "{name}: {cost:?}");
        assert!(
            !cost.worst_node.name.is_empty() && !cost.worst_node.op.is_empty() && cost.nodes > 0,
            "{name}: {cost:?}"
        );
        assert!(cost.plan_bytes > 0 && cost.rss_bytes > MEGABYTE, "{name}: {cost:?}");
    }
}

#[test]
fn a_model_without_golden_cases_is_tried_with_zeros() {
    let (_folder, open) = model(&single("Relu", &[0, 0]).file(), "[-1, -1]");
    let Outcome::Accepted(cost) = appraise(&limits(), &open).unwrap().outcome else { panic!("refused") };
    assert_eq!((cost.goldens.of, cost.goldens.all_passed()), (0, true));
}

#[test]
fn an_open_model_that_no_guess_fits_has_no_verdict() {
    // Wants at least 1000 columns.
    let mut graph = single("Gather", &[0]);
    graph.nodes = vec![node("Gather", &["x", "at"], &["y"])];
    graph.constants = vec![tensor("at", INT64, &[1], &ints(&[999]))];
    let (_folder, entry) = model(&graph.file(), "[-1]");
    let error = appraise(&limits(), &entry).unwrap_err();
    assert!(matches!(error, Error::NoInput { .. }) && error.to_string().contains("add a golden case"), "{error}");
}

#[test]
fn what_is_no_model_is_refused_by_its_code() {
    let (_folder, entry) = model(b"not a model", "[1]");
    assert_eq!(refusal(&limits(), &entry).code, Code::ModelParse);
    let (_folder, entry) = model(&single("Conjure", &[1]).file(), "[1]");
    assert_eq!(refusal(&limits(), &entry).code, Code::ModelUnsupportedOp);
    let (_folder, entry) = model(&single("Relu", &[3]).file(), "[2]");
    assert_eq!(refusal(&limits(), &entry).code, Code::ModelShape);
}

#[test]
fn a_model_that_takes_too_much_memory_is_refused_with_the_limits() {
    let padded = with(node("Conv", &["x", "w"], &["y"]), integers("pads", &[1 << 12; 4]));
    let graph = Graph {
        nodes: vec![padded],
        constants: vec![tensor("w", FLOAT, &[1, 1, 1, 1], &floats(&[1.0]))],
        inputs: vec![value("x", FLOAT, &[1, 1, 1, 1])],
        outputs: vec![value("y", FLOAT, &[1, 1, 0, 0])],
    };
    let file = graph.file();
    let (folder, entry) = model(&file, "[1, 1, 1, 1]");
    // Its output is larger than its input.
    let text = entry.manifest_text.replace(
        "outputs = [{ name = \"y\", datatype = \"FP32\", shape = [1, 1, 1, 1]",
        "outputs = [{ name = \"y\", datatype = \"FP32\", shape = [1, 1, -1, -1]",
    );
    let manifest = manifest::parse(&text).unwrap();
    let entry = Arc::new(Entry { manifest, manifest_text: text.into(), ..Entry::clone(&entry) });
    let fault = refusal(&limits(), &entry);
    assert_eq!(fault.code, Code::WorkerMemory, "{fault}");
    assert!(fault.message.contains("workers.memory_mib"), "{fault}");
    drop(folder);
}

#[test]
fn a_model_that_takes_too_long_is_refused_by_its_cpu_time() {
    let name = |at: usize| if at == 400 { "y".to_owned() } else { format!("p{at}") };
    let mut nodes = vec![node("MatMul", &["x", "x"], &[&name(1)])];
    nodes.extend((1..400).map(|at| node("MatMul", &["x", &name(at)], &[&name(at + 1)])));
    let square = |name| value(name, FLOAT, &[1000, 1000]);
    let graph = Graph { nodes, constants: vec![], inputs: vec![square("x")], outputs: vec![square("y")] };
    let (_folder, entry) = model(&graph.file(), "[1000, 1000]");
    let limits = Limits { load: Duration::from_millis(500), ..limits() };
    let fault = refusal(&limits, &entry);
    assert_eq!(fault.code, Code::WorkerTimeout, "{fault}");
    assert!(fault.message.contains("0.5 s of CPU time"), "{fault}");
}

#[test]
fn a_file_that_is_not_the_one_of_the_manifest_gets_no_verdict_at_all() {
    let (_folder, entry) = model(&single("Relu", &[1]).file(), "[1]");
    std::fs::write(entry.onnx_path(), b"swapped").unwrap();
    match appraise(&limits(), &entry) {
        Err(Error::File(fault)) => assert_eq!(fault.code, Code::ModelHashMismatch),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_that_is_no_worker_is_named_as_such() {
    let (_folder, entry) = model(&single("Relu", &[1]).file(), "[1]");
    for exe in ["/bin/true", "/no/such/program"] {
        match appraisal::appraise(Path::new(exe), &limits(), &entry) {
            Err(Error::Worker(fault)) => assert_eq!(fault.code, Code::WorkerStart, "{exe}: {fault}"),
            other => panic!("{exe}: {other:?}"),
        }
    }
}
