//! What does a worker process do all day? It waits for a frame, computes, answers; it ends when the agent does.
//!
//! `neap worker` is started by the agent only. It owns no time and no policy: limits come with every item, time limits are
//! the agent's, and a cancelled item is a killed worker.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, RawFd};
use std::process::ExitCode;
use std::time::Duration;

use super::channel::{Channel, ChannelError};
use super::engine::Pinned;
use super::jail::achieved::Level;
use super::plans::{Key, Plans};
use super::prepare::Geometry;
use super::protocol::appraise::Appraise;
use super::protocol::{BadFrame, Done, Failed, FromWorker, Hello, Load, NeedModel, Parked, Run, ToWorker, data_bytes};
use super::{guard, infer, interpret, jail, prepare, sealed, survey};
use crate::fault::{Code, Fault};
use crate::model::manifest::{self, Manifest};
use crate::sys::{alloc, clock, dead_man, fds};
use crate::tensor::Tensor;
use crate::units::{Digest, MODEL_BYTES_MAX};

/// Exit code for arguments that make no sense (sysexits `EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;
/// Exit code when the jail cannot be entered (sysexits `EX_OSERR`).
pub const EXIT_JAIL: u8 = 71;
/// Exit code when the sandbox that is required cannot be had (sysexits `EX_CONFIG`).
pub const EXIT_SANDBOX: u8 = 78;
/// Exit code when the agent sends nonsense or the socket fails (sysexits `EX_PROTOCOL`).
pub const EXIT_PROTOCOL: u8 = 76;
/// Most models that a worker knows; the one unused for longest is dropped, and asked for again if needed.
pub const MODELS_HELD_MAX: usize = 16;

/// Runs a worker until the agent closes the socket. `arguments` are those behind `neap worker`:
/// `--slot N --parent PID --plan-bytes N --address-bytes N [--sandbox LEVEL] [--user N] [--core N] [--shared-network yes]
/// [--dead-man-fd N --dead-man-ms N]`; for the self-test of the sandbox `[--awake yes] [--attempt NAME [--after-panic yes]]`.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::parse(arguments) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("neap worker: {why}; the agent starts workers by itself, run `neap run` instead");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    // First: the jail closes the page's descriptor, and the page stays mapped.
    if let Err(error) = arguments.arm_dead_man() {
        eprintln!("neap worker {}: cannot tie itself to the sentinel's beat: {error}", arguments.slot);
        return ExitCode::from(EXIT_JAIL);
    }
    let entered = match jail::enter(&arguments.jail, infer::warm_up) {
        Ok(entered) => entered,
        Err(error) => {
            eprintln!("neap worker {}: cannot bind its life to the agent's: {error}", arguments.slot);
            return ExitCode::from(EXIT_JAIL);
        }
    };
    if arguments.jail.policy.level == Level::Required
        && let Some(why) = entered.achieved.unavailable()
    {
        eprintln!("{why}");
        return ExitCode::from(EXIT_SANDBOX);
    }
    if let Some((name, after_panic)) = &arguments.attempt {
        return jail::selftest::act(name, *after_panic);
    }
    guard::install();
    match Server::new(&arguments).serve(entered) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("neap worker {}: {error}", arguments.slot);
            ExitCode::from(EXIT_PROTOCOL)
        }
    }
}

// === impl Arguments ===

/// What the agent tells a worker when it starts it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Arguments {
    slot: usize,
    plan_bytes: u64,
    jail: jail::Settings,
    /// Inherited descriptor of the beat's page, and how old the beat may become.
    dead_man: Option<(RawFd, Duration)>,
    /// What the self-test wants tried, and whether after a panic.
    attempt: Option<(String, bool)>,
}

impl Arguments {
    fn arm_dead_man(&self) -> io::Result<()> {
        let Some((fd, limit)) = self.dead_man else { return Ok(()) };
        let page = fds::take_inherited(fd)?;
        dead_man::arm(page.as_fd(), limit, self.jail.parent)
    }

    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let name = name.into_string().map_err(|name| format!("{} is not text", name.display()))?;
            let value = arguments.next().and_then(|value| value.into_string().ok());
            values.insert(name.clone(), value.ok_or_else(|| format!("{name} needs a value"))?);
        }
        let mut take = |name: &str| values.remove(name);
        let parsed = Self {
            slot: required("--slot", take("--slot"))?,
            plan_bytes: required("--plan-bytes", take("--plan-bytes"))?,
            jail: jail::Settings {
                parent: required("--parent", take("--parent"))?,
                core: take("--core").map(|core| required("--core", Some(core))).transpose()?,
                address_bytes: required("--address-bytes", take("--address-bytes"))?,
                policy: jail::Policy {
                    level: level(take("--sandbox"))?,
                    user: take("--user").map_or(Ok(jail::USER), |user| required("--user", Some(user)))?,
                    network: take("--shared-network").is_none(),
                },
                manners: take("--awake").is_none(),
            },
            attempt: take("--attempt").map(|name| (name, take("--after-panic").is_some())),
            dead_man: match (take("--dead-man-fd"), take("--dead-man-ms")) {
                (None, None) => None,
                (fd, ms) => {
                    let ms = Duration::from_millis(required("--dead-man-ms", ms)?);
                    Some((required("--dead-man-fd", fd)?, ms))
                }
            },
        };
        match values.keys().next() {
            Some(name) => Err(format!("{name} is unknown")),
            None => Ok(parsed),
        }
    }
}

fn required<T: std::str::FromStr>(name: &str, value: Option<String>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{name} is missing"))?;
    value.parse().map_err(|_| format!("{name} {value:?} is not a number in range"))
}

fn level(value: Option<String>) -> Result<Level, String> {
    let Some(value) = value else { return Ok(Level::Required) };
    let level: Level = value.parse()?;
    let refused = || format!("this build does not know --sandbox {}", level.as_str());
    level.is_available().then_some(level).ok_or_else(refused)
}

// === impl Server ===

/// The state of a worker: what it has been given and what it has made of it.
struct Server {
    models: BTreeMap<Digest, Model>,
    plans: Plans,
    /// Counts requests, to know which model was used last.
    turn: u64,
    /// What the agent knows of how often this process has stopped itself.
    parked: dead_man::Parked,
}

/// A model as the agent handed it over.
struct Model {
    /// Its file, or why it cannot be used; said when an item asks for it.
    source: Result<Source, Fault>,
    labels: String,
    used: u64,
}

struct Source {
    manifest: Manifest,
    /// Until its bytes are read: it lies in memory, and a plan needs it no more.
    file: Option<File>,
}

impl Server {
    fn new(arguments: &Arguments) -> Self {
        let plans = Plans::new(infer::engine(), arguments.plan_bytes, alloc::used);
        Self { models: BTreeMap::new(), plans, turn: 0, parked: dead_man::Parked::default() }
    }

    fn serve(mut self, entered: jail::Entered) -> Result<(), ChannelError> {
        let stdin = io::stdin();
        let mut channel = Channel::new(stdin.as_fd());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let jail::Entered { achieved: sandbox, notes } = entered;
        channel.send(&FromWorker::Hello(Hello { version, pid: std::process::id(), notes, sandbox }))?;
        while let Some(message) = channel.receive()? {
            match message {
                ToWorker::Load(load) => {
                    let file = channel.take_file();
                    self.load(load, file);
                }
                ToWorker::Run(run) => {
                    let (token, item) = (run.token, run.item);
                    let answer = self.run(run);
                    if let Some(parked) = self.newly_parked() {
                        channel.send(&FromWorker::Parked(parked))?;
                    }
                    match channel.send(&answer) {
                        Err(ChannelError::Frame(error @ BadFrame::TooLong { .. })) => {
                            let text = format!("the output does not fit a frame: {error}; ask for fewer outputs");
                            let fault = Fault::new(Code::OutputTooLarge, text);
                            channel.send(&FromWorker::Failed(Failed { token, item, fault }))?;
                        }
                        sent => sent?,
                    }
                }
                ToWorker::Forget(digest) => {
                    self.models.remove(&digest);
                    self.plans.forget(digest);
                }
                ToWorker::Appraise(appraise) => channel.send(&self.appraise(appraise))?,
            }
        }
        Ok(())
    }

    /// What the agent does not know yet of how often this process has stopped itself.
    fn newly_parked(&mut self) -> Option<Parked> {
        let now = dead_man::parked();
        let before = std::mem::replace(&mut self.parked, now);
        let new = Parked { times: now.times.wrapping_sub(before.times), time: now.time.saturating_sub(before.time) };
        (new.times > 0).then_some(new)
    }

    fn load(&mut self, load: Load, file: Option<File>) {
        let missing = || Fault::new(Code::ModelParse, "the model's file did not arrive; send the job again");
        let wrong = |error: manifest::ManifestError| Fault::new(Code::ModelParse, format!("model.toml: {error}"));
        let source = file.ok_or_else(missing).and_then(|file| {
            sealed::check(&file)?;
            let manifest = manifest::parse(&load.manifest).map_err(wrong)?;
            Ok(Source { manifest, file: Some(file) })
        });
        // One file at a time: those of models whose items never got as far as loading would pile up in memory.
        self.models.values_mut().flat_map(|held| &mut held.source).for_each(|source| source.file = None);
        self.models.insert(load.digest, Model { source, labels: load.labels, used: self.turn });
        if self.models.len() > MODELS_HELD_MAX {
            let oldest =
                self.models.iter().filter(|(digest, _)| **digest != load.digest).min_by_key(|(_, held)| held.used);
            if let Some(digest) = oldest.map(|(digest, _)| *digest) {
                self.models.remove(&digest);
            }
        }
    }

    fn run(&mut self, run: Run) -> FromWorker {
        self.turn += 1;
        let (token, item, digest) = (run.token, run.item, run.digest);
        let Some(model) = self.models.get_mut(&digest) else {
            return FromWorker::NeedModel(NeedModel { token, item, digest });
        };
        model.used = self.turn;
        let started = (clock::now(), clock::own_cpu());
        alloc::reset_peak();
        let outcome = compute(&mut self.plans, model, run);
        alloc::set_limit(alloc::UNLIMITED);
        match outcome {
            Ok(Computed { tensors, load_cpu }) => FromWorker::Done(Done {
                token,
                item,
                cpu: clock::own_cpu().saturating_sub(started.1).saturating_sub(load_cpu.unwrap_or_default()),
                wall: clock::now().since(started.0),
                load_cpu,
                peak_bytes: alloc::peak(),
                tensors,
            }),
            Err(Stop::NoFile) => FromWorker::NeedModel(NeedModel { token, item, digest }),
            Err(Stop::Fault(fault)) => FromWorker::Failed(Failed { token, item, fault }),
        }
    }

    /// Measures a model that an item with the same inputs has loaded.
    fn appraise(&mut self, appraise: Appraise) -> FromWorker {
        let Appraise { token, digest, runs, cpu, memory_bytes, tensors } = appraise;
        let Some(model) = self.models.get(&digest) else {
            return FromWorker::NeedModel(NeedModel { token, item: 0, digest });
        };
        alloc::set_limit(alloc::used().saturating_add(memory_bytes));
        let outcome = model.source.as_ref().map_err(Fault::clone).and_then(|source| {
            let key = |inputs: &[Tensor]| key(digest, &source.manifest, inputs);
            let (inputs, _) = prepared(&source.manifest, tensors)?;
            let runs = (usize::try_from(runs).unwrap_or(usize::MAX), cpu);
            survey::measure(&mut self.plans, &key(&inputs), &inputs, token, runs)
        });
        alloc::set_limit(alloc::UNLIMITED);
        match outcome {
            Ok(appraised) => FromWorker::Appraised(appraised),
            Err(fault) => FromWorker::Failed(Failed { token, item: 0, fault }),
        }
    }
}

/// Which plan a request needs.
fn key(digest: Digest, manifest: &Manifest, inputs: &[Tensor]) -> Key {
    Key { digest, inputs: Pinned::of(inputs), outputs: manifest.outputs.clone() }
}

/// What the network takes, out of what a request brings.
fn prepared(manifest: &Manifest, tensors: Vec<Tensor>) -> Result<(Vec<Tensor>, Option<Geometry>), Fault> {
    guard::catch(Code::InputDecode, "the medium cannot be decoded", || prepare::inputs(manifest, tensors))
}

/// Why an item is not computed.
enum Stop {
    /// It cannot be.
    Fault(Fault),
    /// The model has to be loaded, and its file was given back.
    NoFile,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

struct Computed {
    tensors: Vec<Tensor>,
    load_cpu: Option<Duration>,
}

/// Request to answer: check, prepare, load if needed, run, interpret. Memory is limited at every step.
fn compute(plans: &mut Plans, model: &mut Model, run: Run) -> Result<Computed, Stop> {
    let source = model.source.as_mut().map_err(|fault| fault.clone())?;
    let manifest = &source.manifest;
    alloc::set_limit(alloc::used().saturating_add(run.memory_bytes));
    let (inputs, geometry) = prepared(manifest, run.tensors)?;
    let key = key(run.digest, manifest, &inputs);
    let mut load_cpu = None;
    if !plans.touch(&key) {
        let file = source.file.take().ok_or(Stop::NoFile)?;
        let before = clock::own_cpu();
        let others = plans.bytes();
        let limit = alloc::used().saturating_sub(others).saturating_add(plans.budget_bytes());
        alloc::set_limit(limit.saturating_add(run.memory_bytes));
        let onnx = read(file)?;
        plans.make_room(onnx.len() as u64);
        let loaded = plans.load(key.clone(), onnx);
        // What loading took and freed again is several times the plan.
        alloc::trim();
        loaded?;
        load_cpu = Some(clock::own_cpu().saturating_sub(before));
        alloc::set_limit(alloc::used().saturating_add(run.memory_bytes));
    }
    let mut tensors = plans.run(&key, inputs)?;
    if run.interpret {
        let labels: Vec<&str> = model.labels.lines().collect();
        tensors = guard::catch(Code::ModelRun, "the outputs cannot be interpreted", || {
            interpret::interpret(manifest, &labels, geometry.as_ref(), tensors)
        })?;
    }
    let bytes = data_bytes(&tensors);
    if bytes > run.output_bytes {
        let text = format!(
            "the output is {bytes} bytes long, limits.output_bytes allows {}; raise it or ask for the interpreted output",
            run.output_bytes
        );
        return Err(Fault::new(Code::OutputTooLarge, text).into());
    }
    Ok(Computed { tensors, load_cpu })
}

/// The bytes of a model's file; they are what its digest says, because the agent has hashed them and nobody can have
/// changed them since. The file is given back.
fn read(mut file: File) -> Result<Vec<u8>, Fault> {
    let failed = |error: io::Error| Fault::new(Code::ModelParse, format!("the model's file cannot be read: {error}"));
    // Its length is where its end is. `File::metadata` would ask by a system call that takes paths as well, and fstat is
    // that same call on machines of 32 bits: a worker may make neither.
    let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    if bytes > MODEL_BYTES_MAX {
        let text = format!(
            "the model's file is {bytes} bytes long, at most {MODEL_BYTES_MAX} are allowed; store its weights as \
             integers or half floats"
        );
        return Err(Fault::new(Code::ModelTooLarge, text));
    }
    let mut onnx = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    // Of a bare file the standard library would ask for the length once more, by that call.
    file.take(bytes).read_to_end(&mut onnx).map_err(failed)?;
    Ok(onnx)
}

#[cfg(test)]
mod tests;
