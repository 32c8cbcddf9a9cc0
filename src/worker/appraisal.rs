//! What does a model cost, and does it work at all? One worker, started for nothing else, finds out.
//!
//! The worker is started as the agent starts its own, so it runs in the same jail under the same limits. It loads the
//! model as the first item of a job would, for each golden case, and its outputs are compared; then the loaded network is
//! run a few times and measured. A model that cannot be loaded, that breaks a limit or brings its worker down is refused
//! here, instead of in a trough.
//!
//! Time limits are limits of CPU time: a worker at SCHED_IDLE may wait for its core as long as somebody else wants it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::child::{self, Child, Start, Step};
use super::infer;
use super::jail::{self, achieved::Level};
use super::protocol::appraise::{Appraise, Appraised};
use super::protocol::{Done, Failed, FromWorker, Hello, Load, Run, ToWorker};
use super::sealed;
use super::verdict::{self as end, Cause, Circumstances};
use crate::fault::{Code, Fault};
use crate::model::golden::{GoldenCase, compare};
use crate::model::library::Entry;
use crate::model::manifest::Port;
use crate::model::verdict::{Cost, Goldens, Limits, Outcome, Terms, Verdict, WorstNode, manifest_digest, safe_name};
use crate::sys::process::Exit;
use crate::sys::{clock, memory};
use crate::tensor::Tensor;
use crate::units::{ELEMENTS_MAX, FRAME_BYTES_MAX, Instant};

/// Runs of each golden case; fewer when they take long.
const RUNS: u32 = 21;
/// CPU time after which no further run of a case is begun.
const RUNS_CPU: Duration = Duration::from_secs(2);
/// Longest output of a case, in bytes.
const OUTPUT_BYTES_MAX: u64 = FRAME_BYTES_MAX as u64 / 2;
/// How often the CPU time of the worker is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait for one answer of a worker that gets no core.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Longest wait for the first word of a worker.
const HELLO_MAX: Duration = Duration::from_secs(120);
/// Lengths that open dimensions are tried with when a model has no golden case, the smallest first.
const GUESSES: [usize; 3] = [1, 32, 320];

/// Why there is no verdict: nothing was found out about the model itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there, or not the one that the manifest names.
    #[error(transparent)]
    File(Fault),
    /// A worker could not be started, or did not understand.
    #[error("no worker to appraise the model with: {0}")]
    Worker(Fault),
    /// The worker got no core, or was killed by somebody else.
    #[error("the appraisal of model {name} was disturbed: {why}; try again when the machine is less busy")]
    Disturbed {
        /// The model.
        name: String,
        /// How.
        why: String,
    },
    /// It has no golden case, and no input that could be guessed gets through.
    #[error(
        "model {name} has no golden case, and none of the inputs that were tried gets through ({fault}); add a golden case to its model.toml"
    )]
    NoInput {
        /// The model.
        name: String,
        /// What the smallest input came to.
        fault: Fault,
    },
}

/// The circumstances of a verdict that is made by this program, on this machine, now.
pub fn terms(limits: Limits) -> Terms {
    Terms {
        engine: infer::ENGINE.to_owned(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        limits,
    }
}

/// Appraises a model in a worker of its own and returns what came of it. Takes as long as loading it and some twenty runs
/// of each golden case; blocks, and must not be called inside a runtime: there, use [`appraise_async`].
///
/// `exe` is the program itself, `/proc/self/exe` outside tests.
///
/// # Errors
/// [`Error`] when nothing was found out about the model. A model that is no good is no error but a refusal.
pub fn appraise(exe: &Path, limits: &Limits, entry: &Arc<Entry>) -> Result<Verdict, Error> {
    runtime()?.block_on(appraise_async(exe, limits, entry))
}

/// As [`appraise`], on a runtime of one thread: the worker dies with the thread that starts it.
///
/// # Errors
/// As [`appraise`].
pub async fn appraise_async(exe: &Path, limits: &Limits, entry: &Arc<Entry>) -> Result<Verdict, Error> {
    let outcome = match examine(exe, limits, entry).await {
        Ok(cost) => Outcome::Accepted(cost),
        Err(Stop::Refused(fault)) => Outcome::Refused(fault),
        Err(Stop::None(error)) => return Err(error),
    };
    Ok(Verdict {
        digest: entry.manifest.digest,
        manifest: manifest_digest(entry),
        terms: terms(*limits),
        at: clock::wall(),
        outcome,
    })
}

/// Has a worker of its own load the model and run its first golden case, then lets `look` see that worker by its process
/// id, and ends it. `None` when the model is refused, or has no golden case. Blocks as [`appraise`] does.
///
/// # Errors
/// As [`appraise`].
pub fn look_once<T>(
    exe: &Path,
    limits: &Limits,
    entry: &Arc<Entry>,
    look: impl FnOnce(u32) -> T,
) -> Result<Option<T>, Error> {
    let seen = runtime()?.block_on(async {
        let cases = entry.goldens()?;
        let Some(case) = cases.first() else { return Ok(None) };
        let mut session = Session::start(exe, *limits, entry).await?;
        session.run(case).await?;
        Ok::<_, Stop>(Some(look(u32::try_from(session.child.pid()).unwrap_or_default())))
    });
    match seen {
        Ok(seen) => Ok(seen),
        Err(Stop::Refused(_)) => Ok(None),
        Err(Stop::None(error)) => Err(error),
    }
}

/// A runtime of one thread: the worker dies with the thread that starts it.
fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Error::Worker(Fault::new(Code::WorkerStart, format!("cannot start the runtime: {error}"))))
}

/// Why an appraisal ends early.
#[derive(Debug)]
enum Stop {
    /// The model is no good.
    Refused(Fault),
    /// Nothing was found out.
    None(Error),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

async fn examine(exe: &Path, limits: &Limits, entry: &Arc<Entry>) -> Result<Cost, Stop> {
    let cases = entry.goldens()?;
    if !cases.is_empty() {
        return Session::start(exe, *limits, entry).await?.examine(&cases).await;
    }
    let mut first = None;
    for length in GUESSES {
        let Some(case) = guess(entry, length) else { break };
        match Session::start(exe, *limits, entry).await?.examine(std::slice::from_ref(&case)).await {
            // What a guessed input comes to says nothing about the model, unless nothing depends on the guess.
            Err(Stop::Refused(fault)) if entry.manifest.inputs.iter().any(is_open) => _ = first.get_or_insert(fault),
            outcome => return outcome,
        }
    }
    let fault = first.unwrap_or_else(|| Fault::new(Code::InputShape, "its inputs are larger than any may be"));
    Err(Stop::None(Error::NoInput { name: entry.manifest.name.to_string(), fault }))
}

fn is_open(port: &Port) -> bool {
    port.shape.contains(&None)
}

/// Inputs of zeros with every open dimension that long; nothing when that is more than any tensor may be. Expects
/// nothing.
fn guess(entry: &Entry, length: usize) -> Option<GoldenCase> {
    let zeros = |port: &Port| {
        let shape: Vec<usize> = port.shape.iter().map(|dimension| dimension.unwrap_or(length)).collect();
        let count = shape.iter().try_fold(1_usize, |count, length| count.checked_mul(*length))?;
        let bytes = count.checked_mul(port.datatype.element_bytes()?)?;
        let fits = count <= ELEMENTS_MAX && bytes <= FRAME_BYTES_MAX / 2;
        fits.then(|| Tensor::new(&port.name, port.datatype, shape, vec![0; bytes]).ok()).flatten()
    };
    let inputs = entry.manifest.inputs.iter().map(zeros).collect::<Option<Vec<_>>>()?;
    let name = "zeros".to_owned();
    let tolerance = crate::model::manifest::Tolerance { absolute: 0.0, relative: 0.0, overlap_min: 0.0 };
    Some(GoldenCase { name, inputs, interpret: false, expected: Vec::new(), tolerance })
}

// === impl Session ===

/// One worker and the model that it is given.
struct Session<'a> {
    child: Child,
    entry: &'a Entry,
    limits: Limits,
    token: u64,
}

impl<'a> Session<'a> {
    async fn start(exe: &Path, limits: Limits, entry: &'a Arc<Entry>) -> Result<Self, Stop> {
        let Limits { plan_bytes, item_bytes, .. } = limits;
        let address_bytes = child::address_bytes(plan_bytes, item_bytes);
        // As locked in as this machine can do it; whether that is enough for jobs is another question.
        let sandbox = jail::Policy { level: Level::BestEffort, ..jail::Policy::default() };
        let start = Start { exe, slot: 0, core: None, plan_bytes, address_bytes, sandbox, dead_man: None };
        let child = Child::spawn(&start, None).map_err(|error| {
            let text = format!("{} could not be started: {error}; free memory and processes", exe.display());
            Stop::None(Error::Worker(Fault::new(Code::WorkerStart, text)))
        })?;
        let mut session = Self { child, entry, limits, token: 0 };
        let pid = session.child.pid();
        let word = session.answer(Duration::MAX, HELLO_MAX, false).await?;
        let greets = |hello: &Hello| hello.version == env!("CARGO_PKG_VERSION") && i32::try_from(hello.pid) == Ok(pid);
        if !matches!(&word, FromWorker::Hello(hello) if greets(hello)) {
            return Err(nonsense(&format!("a greeting was expected, it said {}", kind(&word))));
        }
        Ok(session)
    }

    async fn examine(mut self, cases: &[GoldenCase]) -> Result<Cost, Stop> {
        let mut sums = Sums::default();
        for case in cases {
            let done = self.run(case).await?;
            sums.load(done.load_cpu);
            sums.golden(case, &done.tensors);
            sums.appraised(self.measure(case).await?);
        }
        let pid = u32::try_from(self.child.pid()).unwrap_or_default();
        let rss_bytes = memory::resident_bytes_max(pid).unwrap_or_default();
        Ok(sums.cost(rss_bytes))
    }

    /// Runs a case as an item of a job; the first one of each shape loads the network. The model is sent each time: the
    /// worker gives the file back once it is read.
    async fn run(&mut self, case: &GoldenCase) -> Result<Done, Stop> {
        self.token += 1;
        let model = self.entry;
        // Reading and hashing a large model takes a while: not on the thread of the runtime.
        let entry = model.clone();
        let copied = tokio::task::spawn_blocking(move || sealed::copy(&entry)).await;
        let file = copied
            .map_err(|error| nonsense(&format!("the copy of its file failed: {error}")))?
            .map_err(|fault| Stop::None(Error::File(fault)))?;
        let digest = model.manifest.digest;
        let load = Load { digest, manifest: model.manifest_text.to_string(), labels: model.labels.to_string() };
        let frame = load.encode().map_err(|error| {
            Fault::new(Code::ModelTooLarge, format!("its model.toml and labels do not fit a frame: {error}"))
        })?;
        self.send(frame, Some(file))?;
        let run = Run {
            token: self.token,
            item: 0,
            digest,
            interpret: case.interpret,
            memory_bytes: self.limits.item_bytes,
            output_bytes: OUTPUT_BYTES_MAX,
            tensors: case.inputs.clone(),
        };
        self.send(run.encode().map_err(|error| too_long(case, &error))?, None)?;
        let answer = self.answer(self.limits.load, WAIT_MAX, true).await?;
        self.check_failed(case, &answer)?;
        if let FromWorker::Done(done) = answer {
            return Ok(done);
        }
        Err(nonsense(&format!("an output was expected, it said {}", kind(&answer))))
    }

    async fn measure(&mut self, case: &GoldenCase) -> Result<Appraised, Stop> {
        self.token += 1;
        let appraise = Appraise {
            token: self.token,
            digest: self.entry.manifest.digest,
            runs: RUNS,
            cpu: RUNS_CPU.min(self.limits.run / 4),
            memory_bytes: self.limits.item_bytes,
            tensors: case.inputs.clone(),
        };
        let frame = ToWorker::Appraise(appraise).encode().map_err(|error| too_long(case, &error))?;
        self.send(frame, None)?;
        let answer = self.answer(self.limits.run, WAIT_MAX, true).await?;
        self.check_failed(case, &answer)?;
        match answer {
            FromWorker::Appraised(appraised) if !appraised.runs.is_empty() => Ok(appraised),
            FromWorker::Hello(_)
            | FromWorker::Done(_)
            | FromWorker::Failed(_)
            | FromWorker::NeedModel(_)
            | FromWorker::Parked(_)
            | FromWorker::Appraised(_) => {
                Err(nonsense(&format!("a measurement was expected, it said {}", kind(&answer))))
            }
        }
    }

    /// Refuses a model whose worker says that it cannot compute the case, and an answer to another question.
    fn check_failed(&self, case: &GoldenCase, answer: &FromWorker) -> Result<(), Stop> {
        let (token, fault) = match answer {
            FromWorker::Done(done) => (done.token, None),
            FromWorker::Appraised(appraised) => (appraised.token, None),
            FromWorker::Failed(Failed { token, fault, .. }) => (*token, Some(fault)),
            FromWorker::Hello(_) | FromWorker::NeedModel(_) | FromWorker::Parked(_) => return Ok(()),
        };
        if token != self.token {
            return Err(nonsense(&format!("{} about another question", kind(answer))));
        }
        fault.map_or(Ok(()), |fault| Err(in_case(case, fault).into()))
    }

    fn send(&mut self, frame: Vec<u8>, file: Option<std::fs::File>) -> Result<(), Stop> {
        self.child.send(Arc::new(frame), file.map(Into::into)).map_err(|error| nonsense(&error.to_string()))
    }

    /// Waits for the next message, within that CPU time of the worker and that time of the clock.
    async fn answer(&mut self, cpu_max: Duration, wait_max: Duration, greeted: bool) -> Result<FromWorker, Stop> {
        let pid = self.child.pid();
        let cpu = || clock::process_cpu(pid).unwrap_or_default();
        let (cpu_before, until) = (cpu(), clock::now().after(wait_max));
        loop {
            // Dropped at each look, which loses nothing.
            match tokio::time::timeout(LOOK, self.child.step()).await {
                Ok(Ok(Step::Message(message))) => return Ok(*message),
                Ok(Ok(Step::Gone)) => return Err(self.ended(greeted).await),
                Ok(Ok(Step::Quiet)) | Err(_) => {}
                Ok(Err(error)) => return Err(nonsense(&error.to_string())),
            }
            self.check_time(cpu().saturating_sub(cpu_before), cpu_max, until)?;
        }
    }

    fn check_time(&self, used: Duration, cpu_max: Duration, until: Instant) -> Result<(), Stop> {
        if used > cpu_max {
            let text = format!(
                "the model was still busy after {} s of CPU time, the limit of an appraisal; use a smaller model or input",
                cpu_max.as_secs_f64()
            );
            return Err(Fault::new(Code::WorkerTimeout, text).into());
        }
        if clock::now() >= until {
            return Err(self.disturbed("its worker was given too little of a core"));
        }
        Ok(())
    }

    fn disturbed(&self, why: &str) -> Stop {
        Stop::None(Error::Disturbed { name: self.entry.manifest.name.to_string(), why: why.to_owned() })
    }

    /// Why the worker has gone, which it has done by itself.
    async fn ended(&mut self, greeted: bool) -> Stop {
        let ended = match self.child.reap().await {
            Ok(ended) => ended,
            Err(error) => return nonsense(&error.to_string()),
        };
        let limits = self.limits;
        let circumstances = Circumstances {
            greeted,
            memory_bytes: Some(limits.item_bytes),
            plan_bytes: limits.plan_bytes,
            last_words: &ended.last_words,
            out_of_memory: false,
        };
        let fault = end::fault(&Cause::Gone, ended.exit, circumstances);
        if ended.exit == Exit::Signal(libc::SIGKILL) {
            // The kernel, short of memory, or an operator: not the model's doing as far as anybody knows.
            return self.disturbed("its worker was killed by somebody else");
        }
        if fault.code == Code::WorkerMemory {
            let text = format!(
                "the model needs more than {} bytes for the loaded network, or more than {} besides while it loads or runs; \
                 raise workers.memory_mib or jobs.memory_mib_max, or use a smaller model or input",
                limits.plan_bytes, limits.item_bytes
            );
            return Fault::new(Code::WorkerMemory, text).into();
        }
        match matches!(fault.code, Code::WorkerCrashed | Code::WorkerSandboxViolation) {
            true => fault.into(),
            false => Stop::None(Error::Worker(fault)),
        }
    }
}

fn nonsense(why: &str) -> Stop {
    Stop::None(Error::Worker(Fault::new(Code::WorkerProtocol, format!("its answer made no sense: {why}"))))
}

fn in_case(case: &GoldenCase, fault: &Fault) -> Fault {
    Fault::new(fault.code, format!("{} (with the input of {})", fault.message, case.name))
}

fn too_long(case: &GoldenCase, error: &super::protocol::BadFrame) -> Stop {
    Fault::new(Code::JobTooLarge, format!("the input of {} does not fit a frame: {error}", case.name)).into()
}

fn kind(message: &FromWorker) -> &'static str {
    match message {
        FromWorker::Hello(_) => "hello",
        FromWorker::Done(_) => "an output",
        FromWorker::Failed(_) => "a fault",
        FromWorker::NeedModel(_) => "that it needs the model",
        FromWorker::Parked(_) => "that it stopped itself",
        FromWorker::Appraised(_) => "a measurement",
    }
}

// === impl Sums ===

/// What the cases came to so far: the case that costs most counts.
#[derive(Debug, Default)]
struct Sums {
    load: Duration,
    preflight: Duration,
    run_p50: Duration,
    run_max: Duration,
    worst_node: WorstNode,
    nodes: u32,
    plan_bytes: u64,
    goldens: Goldens,
}

impl Sums {
    fn load(&mut self, load: Option<Duration>) {
        self.load = self.load.max(load.unwrap_or_default());
    }

    fn golden(&mut self, case: &GoldenCase, outputs: &[Tensor]) {
        if case.expected.is_empty() {
            return;
        }
        self.goldens.of += 1;
        match compare(&case.expected, outputs, &case.tolerance) {
            Ok(_) => self.goldens.passed += 1,
            Err(mismatch) => {
                let text = || Fault::new(Code::ModelRun, format!("{}: {mismatch}", case.name)).message;
                self.goldens.mismatch.get_or_insert_with(text);
            }
        }
    }

    fn appraised(&mut self, mut appraised: Appraised) {
        appraised.runs.sort();
        let runs = &appraised.runs;
        let p50 = runs.get(runs.len() / 2).copied().unwrap_or_default();
        self.run_p50 = self.run_p50.max(p50);
        self.run_max = self.run_max.max(runs.last().copied().unwrap_or_default());
        self.preflight = self.preflight.max(appraised.preflight);
        self.nodes = self.nodes.max(appraised.nodes);
        self.plan_bytes = self.plan_bytes.max(appraised.plan_bytes);
        if appraised.worst > self.worst_node.time {
            let (name, op) = (safe_name(&appraised.worst_name), safe_name(&appraised.worst_op));
            self.worst_node = WorstNode { name, op, time: appraised.worst };
        }
    }

    fn cost(self, rss_bytes: u64) -> Cost {
        let Self { load, preflight, run_p50, run_max, worst_node, nodes, plan_bytes, goldens } = self;
        Cost { load, preflight, run_p50, run_max, worst_node, nodes, plan_bytes, rss_bytes, goldens }
    }
}

#[cfg(test)]
mod tests;
