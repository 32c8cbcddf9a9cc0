//! Runs golden inputs through one real worker, as a job would.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cli::failure::{Class, Failure};
use crate::cli::span::Span;
use crate::fault::{Code, Fault};
use crate::model::golden::{GoldenCase, compare};
use crate::model::library::Entry;
use crate::sys::signal;
use crate::units::{FRAME_BYTES_MAX, MODEL_BYTES_MAX};
use crate::worker::gate::Gate;
use crate::worker::handle::{self, Event, Handle, Output, Work};
use crate::worker::jail::{self, achieved::Level};

/// Memory for one model and one item, in bytes.
const MEMORY_BYTES: u64 = 8 * MODEL_BYTES_MAX;
/// Longest time for one case when nothing else was said; a worker yields to everything else on the machine.
pub(super) const CASE_MAX: Span = Span(Duration::from_secs(120));
/// Longest wait for the end of a worker that was killed: dying, too, takes a little of its core.
const END_MAX: Duration = Duration::from_secs(30);
/// Longest output of a golden case, in bytes.
const OUTPUT_BYTES_MAX: u64 = FRAME_BYTES_MAX as u64 / 2;
const EVENTS_MAX: usize = 16;

/// One worker for all models, replaced when it does not answer: each model is judged alone.
pub(super) struct Bench {
    // The handle ends before the runtime that its task lives on.
    handle: Handle,
    events: mpsc::Receiver<Event>,
    runtime: Runtime,
    /// Longest time for one case.
    case_max: Duration,
    token: u64,
}

impl Bench {
    /// Starts the worker. There is no sentinel here: somebody asked for the test, so the worker runs whatever the load.
    pub(super) fn new(Span(case_max): Span) -> Result<Self, Failure> {
        let failed =
            |error: std::io::Error| Failure::new(Class::Software, format!("cannot start the runtime: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let gate = Gate::new();
        let pids = gate.pids();
        // A worker enters the gate stopped.
        let let_run = move || {
            for pid in pids.iter().map(|pid| pid.load(Ordering::SeqCst)).filter(|pid| *pid != 0) {
                // One that has just ended is started again by its handle.
                let _ = signal::continue_process(pid);
            }
        };
        let settings = handle::Settings {
            exe: PathBuf::from("/proc/self/exe"),
            core: None,
            memory_bytes: MEMORY_BYTES,
            item_memory_bytes_max: MEMORY_BYTES,
            sandbox: jail::Policy { level: Level::BestEffort, ..jail::Policy::default() },
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
        };
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let handle = {
            let _inside = runtime.enter();
            handle::start(0, settings, gate, Arc::new(let_run), sender)
        };
        Ok(Self { handle, events, runtime, case_max, token: 0 })
    }

    /// Runs every golden case of a model; says how many agree, or where the first does not.
    pub(super) fn test(&mut self, entry: &Arc<Entry>) -> Result<String, String> {
        entry.verify().map_err(|fault| fault.to_string())?;
        let cases = entry.goldens().map_err(|fault| fault.to_string())?;
        if cases.is_empty() {
            return Err("has no golden case: add one to model.toml".to_owned());
        }
        let count = cases.len();
        let mut compared = 0;
        for case in cases {
            let (name, expected, tolerance) = (case.name.clone(), case.expected.clone(), case.tolerance);
            let output = self.run(entry, case).map_err(|fault| format!("{name}: {fault}"))?;
            let report = compare(&expected, &output.tensors, &tolerance).map_err(|error| format!("{name}: {error}"))?;
            compared += report.compared;
        }
        Ok(format!("{count} golden cases agree in {compared} values"))
    }

    fn run(&mut self, entry: &Arc<Entry>, case: GoldenCase) -> Result<Output, Fault> {
        self.token += 1;
        let work = Work {
            token: self.token,
            item: 0,
            model: Arc::clone(entry),
            inputs: case.inputs,
            interpret: case.interpret,
            memory_bytes: MEMORY_BYTES,
            output_bytes: OUTPUT_BYTES_MAX,
        };
        self.handle.run(work).map_err(|busy| Fault::new(Code::WorkerStart, busy.to_string()))?;
        if let Some(outcome) = self.answer(self.case_max) {
            return outcome;
        }
        // The next case must not wait behind this one, nor pay for its end.
        if self.handle.kill(Code::WorkerTimeout, Some(self.token)).is_ok() {
            let _ended = self.answer(END_MAX);
        }
        Err(Fault::new(
            Code::WorkerTimeout,
            format!("no answer within {} s; neap models test --timeout gives it more", self.case_max.as_secs_f64()),
        ))
    }

    /// What became of the case that was handed over last; `None` when nothing did within that time.
    fn answer(&mut self, patience: Duration) -> Option<Result<Output, Fault>> {
        let answer = async {
            loop {
                match self.events.recv().await {
                    Some(Event::Done { token, outcome, .. }) if token == self.token => return outcome,
                    Some(Event::Exited { token: Some(token), fault, .. }) if token == self.token => {
                        let unknown = || Fault::new(Code::WorkerCrashed, "the worker ended without saying why");
                        return Err(fault.unwrap_or_else(unknown));
                    }
                    Some(Event::Ready { .. } | Event::Done { .. } | Event::Parked { .. } | Event::Exited { .. }) => {}
                    None => return Err(Fault::new(Code::WorkerStart, "the worker's task ended")),
                }
            }
        };
        self.runtime.block_on(async { timeout(patience, answer).await }).ok()
    }
}
