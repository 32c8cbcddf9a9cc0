//! Do the bundled models give what ONNX Runtime gave, from the sample to the result, through a real worker process?
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "how near each case comes is shown with --nocapture")]

#[path = "support/emulation.rs"]
mod emulation;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use neap::model::golden::{GoldenCase, compare};
use neap::model::library::{Entry, Library};
use neap::model::manifest::Interpret;
use neap::sys::signal;
use neap::tensor::Tensor;
use neap::units::Name;
use neap::worker::gate::Gate;
use neap::worker::handle::{self, Event, Handle, Work};
use neap::worker::jail::Policy;
use tokio::sync::mpsc;

/// What a clone of the repository may weigh in models, in bytes.
const ALL_BYTES_MAX: u64 = 15 * 1024 * 1024;
const MEGABYTE: u64 = 1024 * 1024;
/// No model needs this long; a hang ends here. A worker gets only what others leave of a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

fn library() -> Library {
    Library::open(&folder()).unwrap()
}

fn model(name: &str) -> Arc<Entry> {
    library().find(&name.parse::<Name>().unwrap(), None, None).unwrap()
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => bytes_below(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

#[test]
fn every_bundled_model_is_whole() {
    let library = library();
    assert_eq!(library.problems(), []);
    let names: Vec<&str> = library.entries().map(|entry| entry.manifest.name.as_str()).collect();
    assert_eq!(names, ["faces", "file-type", "kpi-anomaly", "objects", "prb-forecast", "speech"]);
    for entry in library.entries() {
        assert_eq!(entry.verify(), Ok(()), "{}", entry.manifest.name);
        assert!(!entry.samples().unwrap().is_empty(), "{} has no samples", entry.manifest.name);
    }
}

#[test]
fn all_models_together_stay_small() {
    let bytes = bytes_below(&folder());
    assert!(bytes <= ALL_BYTES_MAX, "{bytes} bytes in models/, at most {ALL_BYTES_MAX} are allowed");
}

#[test]
fn every_model_has_a_golden_case_of_each_kind_it_serves() {
    for entry in library().entries() {
        let cases = entry.goldens().unwrap();
        let (name, manifest) = (&entry.manifest.name, &entry.manifest);
        let interpreted = cases.iter().any(|case| case.interpret);
        let raw = cases.iter().any(|case| !case.interpret);
        assert!(interpreted || manifest.interpret.is_none(), "{name} has no interpreted golden case");
        // An alarm hands its scores through, so its interpreted case holds the raw values already.
        assert!(raw || matches!(manifest.interpret, Some(Interpret::Alarm(_))), "{name} has no raw golden case");
    }
}

#[test]
fn as_many_labels_as_classes() {
    assert_eq!(model("objects").label_names().len(), 80);
    assert_eq!(model("file-type").label_names().len(), 214);
}

/// A worker process, and this test in the agent's place.
struct Rig {
    handle: Handle,
    events: mpsc::Receiver<Event>,
    token: u64,
}

impl Rig {
    fn start() -> Self {
        let settings = handle::Settings {
            exe: env!("CARGO_BIN_EXE_neap").into(),
            core: None,
            memory_bytes: 256 * MEGABYTE,
            item_memory_bytes_max: 256 * MEGABYTE,
            sandbox: Policy { level: emulation::sandbox_level().parse().unwrap(), ..Policy::default() },
            backoff_first: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
        };
        let (sender, events) = mpsc::channel(16);
        let gate = Gate::new();
        let pids = gate.pids();
        // A worker enters the gate stopped; here nobody needs the core more.
        let on_changed = move || {
            for pid in pids.iter().map(|pid| pid.load(Ordering::SeqCst)).filter(|pid| *pid != 0) {
                signal::continue_process(pid).unwrap();
            }
        };
        let handle = handle::start(0, settings, gate, Arc::new(on_changed), sender);
        Self { handle, events, token: 0 }
    }

    async fn ask(&mut self, model: &Arc<Entry>, inputs: Vec<Tensor>, interpret: bool) -> Vec<Tensor> {
        self.token += 1;
        let work = Work {
            token: self.token,
            item: 0,
            model: Arc::clone(model),
            inputs,
            interpret,
            memory_bytes: 256 * MEGABYTE,
            output_bytes: 16 * MEGABYTE,
        };
        self.handle.run(work).unwrap();
        let answer = async {
            loop {
                match self.events.recv().await.expect("the handle lives") {
                    Event::Ready { .. } | Event::Parked { .. } => {}
                    Event::Done { outcome, .. } => return outcome.unwrap_or_else(|fault| panic!("{fault}")).tensors,
                    Event::Exited { fault, .. } => panic!("the worker ended: {fault:?}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time")
    }

    async fn check(&mut self, model: &Arc<Entry>, case: &GoldenCase) {
        let got = self.ask(model, case.inputs.clone(), case.interpret).await;
        match compare(&case.expected, &got, &case.tolerance) {
            Ok(report) => println!("{} {}: {report:?}", model.manifest.name, case.name),
            Err(mismatch) => panic!("{} {}: {mismatch}", model.manifest.name, case.name),
        }
    }
}

async fn agrees_with_onnx_runtime(name: &str) {
    let model = model(name);
    let mut rig = Rig::start();
    for case in model.goldens().unwrap() {
        rig.check(&model, &case).await;
    }
    rig.handle.stop().await;
}

#[tokio::test]
async fn objects_agree_with_onnx_runtime() {
    agrees_with_onnx_runtime("objects").await;
}

#[tokio::test]
async fn faces_agree_with_onnx_runtime() {
    agrees_with_onnx_runtime("faces").await;
}

#[tokio::test]
async fn file_types_agree_with_onnx_runtime() {
    agrees_with_onnx_runtime("file-type").await;
}

#[tokio::test]
async fn speech_agrees_with_onnx_runtime() {
    agrees_with_onnx_runtime("speech").await;
}

#[tokio::test]
async fn prb_forecasts_agree_with_onnx_runtime() {
    agrees_with_onnx_runtime("prb-forecast").await;
}

#[tokio::test]
async fn kpi_anomalies_agree_with_onnx_runtime() {
    agrees_with_onnx_runtime("kpi-anomaly").await;
}

#[tokio::test]
async fn a_wrong_result_would_be_noticed() {
    let model = model("objects");
    let cases = model.goldens().unwrap();
    let [astronaut, chelsea] = ["golden/astronaut.json", "golden/chelsea.json"]
        .map(|name| cases.iter().find(|case| case.name == name).unwrap());
    let mut rig = Rig::start();
    let got = rig.ask(&model, chelsea.inputs.clone(), true).await;
    assert!(compare(&astronaut.expected, &got, &astronaut.tolerance).is_err());
    rig.handle.stop().await;
}
