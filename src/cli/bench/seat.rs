//! What does a bench's worker do? It runs a real model with the real engine for ever: `neap bench-worker`.
//!
//! It is a worker in everything that matters to the figures: its own process, the same jail, the same scheduling class,
//! one thread, one core, the same preparation, engine and interpretation. Only nobody sends it work: it runs the model's
//! own golden inputs, one after the other, and tells through a shared page what it does.

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::page::Page;
use crate::cli::failure::Failure;
use crate::fault::{Code, Fault};
use crate::model::library::Entry;
use crate::sys::{alloc, clock, process, sched};
use crate::tensor::Tensor;
use crate::units::{MODEL_BYTES_MAX, Name};
use crate::worker::engine::Pinned;
use crate::worker::jail::achieved::Level;
use crate::worker::plans::{Key, Plans};
use crate::worker::{guard, infer, interpret, jail, prepare};

/// Memory for plans, in bytes.
const PLAN_BYTES: u64 = 8 * MODEL_BYTES_MAX;
/// Address space, in bytes.
const ADDRESS_BYTES: u64 = 2 * PLAN_BYTES;
/// Shortest time in the model before stamping begins: changes of phase are rare compared with events.
const MODEL_MIN: Duration = Duration::from_millis(100);
/// How much longer than in the model the worker stamps: three events of four meet a stamping worker.
const STAMP_PARTS: u32 = 3;
/// Two stamps further apart than this were not made in a row: the worker stood still between them.
const GAP: Duration = Duration::from_micros(20);

/// How the scheduler treats a bench's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Class {
    /// As every worker of Neap: SCHED_IDLE, nice 19.
    Idle,
    /// As any process: SCHED_OTHER, nice 0.
    Nice0,
    /// SCHED_OTHER, nice 19.
    Nice19,
    /// As a worker in everything but the sandbox: what that costs is the difference.
    Unconfined,
}

impl Class {
    /// As on the command line.
    pub(in crate::cli) const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Nice0 => "nice0",
            Self::Nice19 => "nice19",
            Self::Unconfined => "unconfined",
        }
    }
}

/// Arguments of `neap bench-worker`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Process id of the bench.
    #[arg(long)]
    parent: i32,
    /// The one core to run on.
    #[arg(long)]
    core: Option<usize>,
    /// How the scheduler is to treat it.
    #[arg(long, value_enum)]
    class: Class,
    /// Whether it stamps.
    #[arg(long)]
    stamps: bool,
    /// Folder of the models.
    #[arg(long)]
    models: PathBuf,
    /// The model to run.
    #[arg(long)]
    model: Name,
}

/// Serves until it is killed.
pub(in crate::cli) fn run(args: &Args) -> ExitCode {
    match serve(args) {
        Ok(never) => match never {},
        Err(failure) => failure.report(),
    }
}

fn serve(args: &Args) -> Result<std::convert::Infallible, Failure> {
    let failed = |what: &str| {
        let what = format!("bench worker: cannot {what} (it is started by neap bench only)");
        move |error: io::Error| Failure::io(&what, &error)
    };
    // The page is where a worker of the agent has its socket: the jail closes everything else.
    let page = Page::map(io::stdin().as_fd()).map_err(failed("map its page"))?;
    let entry = super::find(&args.models, &args.model)?;
    let onnx = entry.open().and_then(|mut file| read(&mut file)).map_err(failed("read its model"))?;
    let items = entry.goldens()?.into_iter().map(|case| case.inputs).collect();
    enter(args).map_err(failed("bind its life to the bench's"))?;
    guard::install();
    let mut seat = Seat { plans: Plans::new(infer::engine(), PLAN_BYTES, alloc::used), entry: &entry, onnx, items };
    // Loads the plans: what is measured is inference.
    (0..seat.items.len()).try_for_each(|turn| seat.infer(turn))?;
    let mut turn = 0;
    loop {
        page.begin_model();
        let mut spent = Duration::ZERO;
        while spent < MODEL_MIN {
            let before = clock::own_cpu();
            seat.infer(turn)?;
            turn += 1;
            let cpu = clock::own_cpu().saturating_sub(before);
            page.count(u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX));
            spent += cpu;
        }
        if args.stamps {
            stamp(&page, spent * STAMP_PARTS);
        }
    }
}

fn read(file: &mut std::fs::File) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut onnx = Vec::new();
    file.take(MODEL_BYTES_MAX).read_to_end(&mut onnx)?;
    Ok(onnx)
}

/// Gives up what a worker gives up. The two nice classes are what a worker is compared with, so they have none of its
/// manners; the unconfined one has these, but no sandbox. It runs nothing but its own model's golden inputs.
fn enter(args: &Args) -> io::Result<()> {
    let nice = match args.class {
        Class::Idle => {
            let policy = jail::Policy { level: Level::BestEffort, ..jail::Policy::default() };
            let settings = jail::Settings {
                parent: args.parent,
                core: args.core,
                address_bytes: ADDRESS_BYTES,
                policy,
                manners: true,
            };
            for refused in jail::enter(&settings, infer::warm_up)?.notes {
                eprintln!("neap bench worker: {refused}");
            }
            return Ok(());
        }
        Class::Nice0 => 0,
        Class::Nice19 => 19,
        Class::Unconfined => {
            sched::idle_self()?;
            19
        }
    };
    process::die_with_parent(args.parent)?;
    args.core.map_or(Ok(()), sched::pin_self)?;
    sched::nice_self(nice)
}

/// Writes the time into the page until `span` of the worker's own time has passed; time in which it stood still is not
/// its own.
fn stamp(page: &Page, span: Duration) {
    let mut last = clock::now();
    let mut spent = Duration::ZERO;
    page.begin_stamps(last);
    while spent < span {
        let now = clock::now();
        page.stamp(now);
        let gap = now.since(last);
        if gap < GAP {
            spent += gap;
        }
        last = now;
    }
}

/// The model, as a worker of the agent holds it.
struct Seat<'entry> {
    plans: Plans,
    entry: &'entry Entry,
    onnx: Vec<u8>,
    items: Vec<Vec<Tensor>>,
}

impl Seat<'_> {
    /// One item from request to result.
    fn infer(&mut self, turn: usize) -> Result<(), Fault> {
        let manifest = &self.entry.manifest;
        let items = self.items.len();
        let item = turn.checked_rem(items).and_then(|index| self.items.get(index)).cloned();
        let item = item.ok_or_else(|| Fault::new(Code::InputCount, "the model has no golden input to run"))?;
        let (inputs, geometry) = prepare::inputs(manifest, item)?;
        let key = Key { digest: manifest.digest, inputs: Pinned::of(&inputs), outputs: manifest.outputs.clone() };
        if !self.plans.touch(&key) {
            self.plans.load(key.clone(), self.onnx.clone())?;
        }
        let outputs = self.plans.run(&key, inputs)?;
        let labels: Vec<&str> = self.entry.labels.lines().collect();
        std::hint::black_box(interpret::interpret(manifest, &labels, geometry.as_ref(), outputs)?);
        Ok(())
    }
}
