//! What does one inference take? Runs a model so many times in this very process: `neap bench inferences`.
//!
//! For whoever counts from outside, by `perf stat` or by a plugin of qemu: the figures of 2 N runs less those of N are
//! those of N inferences, without start, loading and first use. No sandbox, no class of the scheduler: what is counted is
//! the engine's work alone, or with `--whole` that of an item from the medium to the result.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::json;

use crate::cli::failure::{Class, Failure};
use crate::cli::models;
use crate::cli::out::Out;
use crate::fault::{Code, Fault};
use crate::model::golden::GoldenCase;
use crate::model::library::Entry;
use crate::sys::{alloc, clock};
use crate::tensor::Tensor;
use crate::units::{MODEL_BYTES_MAX, Name};
use crate::worker::engine::Pinned;
use crate::worker::jail::achieved::Level;
use crate::worker::plans::{Key, Plans};
use crate::worker::{infer, interpret, jail, prepare};

/// Memory for the plan, in bytes.
const PLAN_BYTES: u64 = 8 * MODEL_BYTES_MAX;

/// Arguments of `neap bench inferences`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap bench inferences --model speech --count 100
  perf stat -e instructions:u neap bench inferences --model objects --count 20
  neap bench inferences --model faces --count 5 --whole --json

The difference between a run with --count 20 and one with --count 10, counted from outside, is ten inferences. Without
--whole the input is prepared once, and only the network runs so many times. cpu_ms is this thread's CPU time for all runs,
loading left out; on an emulated processor it says nothing. No worker is started: the network runs in this process, on the
model's own golden input, outside the sandbox unless --confined asks for it; then what is told comes on standard error, the one place that a worker
may write to.")]
pub(in crate::cli) struct Args {
    /// Model to run
    #[arg(long, value_name = "NAME", default_value = "objects")]
    model: Name,
    /// Golden case whose input is run [default: the model's first]
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
    /// Folder of the models [default: that of the sources, beside the program, or /usr/share/neap/models]
    #[arg(long, value_name = "FOLDER")]
    models: Option<std::path::PathBuf>,
    /// How many times, after the first that comes with loading
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    count: u32,
    /// Also prepare the input and interpret the result each time, as for a job
    #[arg(long)]
    whole: bool,
    /// Lock this process in first, as a worker does, as far as the machine lets it; tells on standard error
    #[arg(long)]
    confined: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let folder = models::folder_of(args.models.as_ref())?;
    let entry = super::find(&folder, &args.model)?;
    let case = find_case(&entry, args.case.as_deref())?;
    let mut onnx = Vec::new();
    let read = entry.open().and_then(|file| file.take(MODEL_BYTES_MAX).read_to_end(&mut onnx));
    read.map_err(|error| Failure::io("cannot read the model", &error))?;
    if args.confined {
        lock_in().map_err(|error| Failure::io("cannot enter the sandbox", &error))?;
    }
    let mut bench = Bench { entry: &entry, plans: Plans::new(infer::engine(), PLAN_BYTES, alloc::used) };
    let first = bench.prepare(&case)?;
    let key = bench.load(&first, onnx)?;
    let begun = clock::own_cpu();
    for _ in 0..args.count {
        if args.whole { bench.whole(&key, &case)? } else { bench.network(&key, first.clone())? }
    }
    let cpu_ms = clock::own_cpu().saturating_sub(begun).as_secs_f64() * 1e3;
    let (kernels, model, count) = (infer::kernels(), entry.manifest.name.as_str(), args.count);
    let line = if args.json {
        let value = json!({
            "model": model, "version": entry.manifest.version, "case": case.name, "count": count, "whole": args.whole,
            "cpu_ms": cpu_ms, "engine": infer::ENGINE, "processor": kernels.processor, "kind": kernels.kind,
            "kernels": kernels.products.into_iter().collect::<BTreeMap<_, _>>(),
        });
        value.to_string()
    } else {
        let what = if args.whole { "items" } else { "inferences" };
        format!("{count} {what} of {model}, case {}: {cpu_ms:.3} ms of CPU time; {kernels}", case.name)
    };
    if args.confined {
        // The one file that who is locked in may write to.
        eprintln!("{line}");
        return Ok(());
    }
    Out::stdout().line(&line)
}

/// Enters the sandbox of a worker, but keeps its place in the scheduler.
fn lock_in() -> std::io::Result<()> {
    let policy = jail::Policy { level: Level::BestEffort, ..jail::Policy::default() };
    let parent = std::os::unix::process::parent_id().cast_signed();
    let settings = jail::Settings { parent, core: None, address_bytes: 2 * PLAN_BYTES, policy, manners: false };
    for refused in jail::enter(&settings, infer::warm_up)?.notes {
        eprintln!("neap bench inferences: {refused}");
    }
    Ok(())
}

/// The golden case of that name, or the first.
fn find_case(entry: &Entry, wanted: Option<&str>) -> Result<GoldenCase, Failure> {
    let cases = entry.goldens()?;
    let all = cases.iter().map(|case| case.name.clone()).collect::<Vec<_>>().join(", ");
    let found = cases.into_iter().find(|case| wanted.is_none_or(|wanted| wanted == case.name));
    let name = &entry.manifest.name;
    found.ok_or_else(|| Failure::new(Class::Data, format!("model {name} has no such golden case: there are [{all}]")))
}

struct Bench<'entry> {
    entry: &'entry Entry,
    plans: Plans,
}

impl Bench<'_> {
    fn prepare(&self, case: &GoldenCase) -> Result<Vec<Tensor>, Fault> {
        Ok(prepare::inputs(&self.entry.manifest, case.inputs.clone())?.0)
    }

    /// Loads the plan and runs it once: what only the first run does is no part of any figure.
    fn load(&mut self, inputs: &[Tensor], onnx: Vec<u8>) -> Result<Key, Fault> {
        let manifest = &self.entry.manifest;
        let key = Key { digest: manifest.digest, inputs: Pinned::of(inputs), outputs: manifest.outputs.clone() };
        self.plans.load(key.clone(), onnx)?;
        self.network(&key, inputs.to_vec())?;
        Ok(key)
    }

    fn network(&mut self, key: &Key, inputs: Vec<Tensor>) -> Result<(), Fault> {
        std::hint::black_box(self.plans.run(key, inputs)?);
        Ok(())
    }

    fn whole(&mut self, key: &Key, case: &GoldenCase) -> Result<(), Fault> {
        let manifest = &self.entry.manifest;
        let (inputs, geometry) = prepare::inputs(manifest, case.inputs.clone())?;
        if Pinned::of(&inputs) != key.inputs {
            return Err(Fault::new(Code::InputShape, "the same input was prepared into another shape"));
        }
        let outputs = self.plans.run(key, inputs)?;
        let labels: Vec<&str> = self.entry.labels.lines().collect();
        std::hint::black_box(interpret::interpret(manifest, &labels, geometry.as_ref(), outputs)?);
        Ok(())
    }
}
