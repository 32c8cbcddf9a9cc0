//! What does all this do? One command that shows it: a broker, a base station's day, the real agent, real jobs.
//!
//! `neap demo` starts an embedded MQTT broker, writes a configuration into a private folder, starts the agent as a
//! child process, plays a day to its `push` source and submits jobs with the installed models. While the day is
//! played, the workers' CPU clocks are read from outside: what they used while the radio was busy is measured, not
//! taken on the agent's word.

mod scene;
mod screen;
mod summary;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;
use std::{fs, io};

use tokio::sync::watch;

use crate::config::Settings;
use crate::link::reconcile::ROUND_EVERY;
use crate::model::library::Library;
use crate::sim::broker::{self, Broker};
use crate::sim::controller::{self, Assortment, News, Phase};
use crate::sim::day::{Compressed, Day, Lively, SAMPLES};
use crate::sys::clock;
use crate::units::{Utilization, WORKERS_MAX};

use super::stage::node::{self, Agent, Changes, Ended, Folder, Pace};
use super::stage::player::{Emulator, Orders, Subject, Told};
use super::stage::{asker, measure};
use screen::{Screen, Stream};
use summary::Summary;

/// Events on their way to the screen; what does not fit is not shown.
const EVENTS_MAX: usize = 4096;
/// How often the main thread looks after things when nothing happens.
const LOOK: Duration = Duration::from_millis(40);
/// The agent and its workers have to be there within this.
const READY_MAX: Duration = Duration::from_secs(20);
/// Once the agent is online, the workers get this long to appear.
const WORKERS_MAX_WAIT: Duration = Duration::from_secs(3);
/// New jobs are submitted in so many hundredths of the day.
const SUBMIT_HUNDREDTHS: u32 = 88;
/// After the day the open jobs get this long to end, on an idle radio.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// Troughs that end in a yield, in each third of the day.
const YIELDS_IN_A_THIRD: usize = 2;
/// sysexits: what was needed is not there.
const EX_UNAVAILABLE: u8 = 69;

/// Arguments of `neap demo`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  neap demo\n  neap demo --seconds 20 --seed 7\n  neap demo --json > summary.json")]
pub struct Args {
    /// Seconds in which the day passes
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=3600))]
    seconds: u32,
    /// Which day is played: the same seed gives the same day
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Print the summary as one JSON object on standard output, progress on standard error
    #[arg(long)]
    json: bool,
    /// Worker processes, at most one for each core [default: 2, or 1 on a single core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=WORKERS_MAX as i64))]
    workers: Option<u8>,
    /// Folder of the models [default: that of the sources, beside the program, or /usr/share/neap/models]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
}

/// What happens while the demo runs.
#[derive(Debug)]
enum Event {
    /// A sample of the day began; [`SAMPLES`] after its end.
    Load { index: usize, load: Utilization },
    /// Between controller and node.
    News(News),
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no folder with models was found in {0}; name one with --models DIR")]
    NoModels(String),
    #[error("the models in {} have nothing to submit: no media under samples/ and no golden inputs; name another folder with --models DIR", .0.display())]
    NoSamples(PathBuf),
    #[error(transparent)]
    Library(#[from] crate::model::library::LibraryError),
    #[error(transparent)]
    Broker(#[from] broker::Error),
    #[error(transparent)]
    Controller(#[from] controller::Error),
    #[error("the demo's configuration is wrong: {0}")]
    Configuration(String),
    #[error("the demo's folder, sockets or threads cannot be made: {0}; is the folder for temporary files writable?")]
    Io(#[from] io::Error),
    #[error("the agent {what}; the end of its log:\n{log}")]
    Agent { what: String, log: String },
    #[error(
        "the agent ended in the middle of the day ({status}), and with it every open job; the end of its log:\n{log}"
    )]
    Died { status: ExitStatus, log: String },
    #[error("{0} of the demo ended unexpectedly")]
    Thread(&'static str),
}

impl Error {
    /// 1 when the day had begun, as for anything lost; 69 when there was no day.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Died { .. } | Self::Thread(_) => ExitCode::FAILURE,
            Self::NoModels(_)
            | Self::NoSamples(_)
            | Self::Library(_)
            | Self::Broker(_)
            | Self::Controller(_)
            | Self::Configuration(_)
            | Self::Io(_)
            | Self::Agent { .. } => ExitCode::from(EX_UNAVAILABLE),
        }
    }
}

/// Runs the demo; exit code 0 when nothing was lost and nothing failed, 1 otherwise, 69 when it could not start.
pub fn run(arguments: &Args) -> ExitCode {
    let progress = if arguments.json { Stream::Error } else { Stream::Out };
    let summary = match Demo::prepare(arguments, progress).and_then(Demo::run) {
        Ok(summary) => summary,
        Err(error) => {
            Stream::Error.line(&format!("neap demo: {error}"));
            return error.exit_code();
        }
    };
    if arguments.json {
        Stream::Out.line(&summary.json().to_string());
    } else {
        Stream::Out.line(summary.text().trim_end());
    }
    if summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Everything that runs.
struct Demo {
    summary: Summary,
    emulator: Emulator,
    socket: PathBuf,
    orders: Arc<Orders>,
    screen: Screen,
    agent: Agent,
    controller: asker::Asker,
    phase: watch::Sender<Phase>,
    sender: SyncSender<Event>,
    events: Receiver<Event>,
    /// Removed last.
    _folder: Folder,
}

impl Demo {
    fn prepare(arguments: &Args, progress: Stream) -> Result<Self, Error> {
        let day_length = Duration::from_secs(u64::from(arguments.seconds));
        let (models, assortment) = read_models(arguments)?;
        let folder = Folder::new("demo")?;
        let changes = Changes {
            broker: Broker::start()?.address(),
            socket: folder.join("load.sock"),
            state_dir: folder.join("state"),
            models,
            name: None,
            workers: Some(arguments.workers.unwrap_or_else(default_workers)),
            cores: Vec::new(),
            evict_after: None,
            governor: Pace::Lab(day_length),
        };
        let text = node::configuration(&changes).map_err(Error::Configuration)?;
        let file = folder.join("node.toml");
        fs::write(&file, &text)?;
        let settings = Settings::read(&file).map_err(|error| Error::Configuration(error.to_string()))?;
        let (sender, events) = sync_channel(EVENTS_MAX);
        let (phase, phases) = watch::channel(Phase::Wait);
        let controller = start_controller(&settings, assortment, phases, sender.clone())?;
        let agent = Agent::start(&file, folder.join("agent.log"))?;
        let policy = &settings.policy;
        let summary = Summary { seed: arguments.seed, day: day_length, workers: policy.workers, ..Summary::default() };
        Ok(Self {
            emulator: emulator(&settings, arguments.seed, day_length, agent.id()),
            summary,
            socket: changes.socket,
            orders: Arc::default(),
            screen: Screen::open(progress, policy.busy_above, policy.idle_below, clock::now()),
            agent,
            controller,
            phase,
            sender,
            events,
            _folder: folder,
        })
    }

    fn run(mut self) -> Result<Summary, Error> {
        self.wait_until_ready()?;
        let (emulator, socket, orders, sender) =
            (self.emulator.clone(), self.socket.clone(), Arc::clone(&self.orders), self.sender.clone());
        let playing = thread::Builder::new().name("emulator".to_owned()).spawn(move || {
            // A full screen queue only costs the picture, never the figures.
            let show = |index, load| _ = sender.try_send(Event::Load { index, load });
            emulator.play(&socket, &orders, &show)
        })?;
        let died = self.watch_the_day();
        self.orders.stop();
        self.screen.close(clock::now());
        let tally = self.controller.join().map_err(|_| Error::Thread("the controller"))??;
        let played = playing.join().map_err(|_| Error::Thread("the load emulator"))??;
        if let Some(status) = died {
            return Err(Error::Died { status, log: self.agent.log_tail() });
        }
        let stopped_in = match self.agent.stop() {
            Ended::Well(span) => Some(span),
            Ended::Badly(status) => {
                self.screen.say(&format!("the agent ended with {status}; its log:\n{}", self.agent.log_tail()));
                None
            }
            Ended::Killed => {
                self.screen.say(&format!("the agent had to be killed; its log:\n{}", self.agent.log_tail()));
                None
            }
        };
        Ok(Summary { tally, played, stopped_in, ..self.summary })
    }

    /// Waits until the node is online and its workers are there: from then on everything can be measured.
    fn wait_until_ready(&mut self) -> Result<(), Error> {
        let started = clock::now();
        let mut online = None;
        loop {
            let now = clock::now();
            if let Ok(event) = self.events.recv_timeout(LOOK) {
                if let Event::News(News::State { .. }) = event {
                    online.get_or_insert(now);
                }
                if let Event::Interrupted = event {
                    return Err(Error::Agent {
                        what: "was interrupted while it started".to_owned(),
                        log: self.agent.log_tail(),
                    });
                }
                self.screen.show(&event, now);
            }
            let workers = measure::children(self.agent.id()).len();
            let expected = usize::from(self.summary.workers);
            if online.is_some_and(|online| workers >= expected || now >= online.after(WORKERS_MAX_WAIT)) {
                return Ok(());
            }
            let what = match self.agent.ended() {
                Some(status) => format!("ended while it started ({status})"),
                None if now >= started.after(READY_MAX) => {
                    format!("was not online within {} s", READY_MAX.as_secs())
                }
                None => continue,
            };
            return Err(Error::Agent { what, log: self.agent.log_tail() });
        }
    }

    /// Shows the day until every job has ended; says how the agent died if it did.
    fn watch_the_day(&mut self) -> Option<ExitStatus> {
        let started = clock::now();
        let mut finish_at = started.after(self.summary.day * SUBMIT_HUNDREDTHS / 100);
        let mut leave_at = started.after(self.summary.day).after(DRAIN_MAX);
        self.phase.send_replace(Phase::Submit);
        while !self.controller.is_finished() {
            let now = clock::now();
            if let Ok(event) = self.events.recv_timeout(LOOK) {
                if let Event::Interrupted = event {
                    // A second Ctrl-C does not wait for the open jobs.
                    leave_at = if self.summary.interrupted { now } else { now.after(DRAIN_MAX) };
                    finish_at = now;
                    self.summary.interrupted = true;
                    self.orders.idle();
                }
                self.screen.show(&event, now);
            }
            self.screen.draw(now, false);
            if now >= leave_at {
                self.phase.send_replace(Phase::Leave);
            } else if now >= finish_at {
                self.phase.send_if_modified(|phase| std::mem::replace(phase, Phase::Finish) != Phase::Finish);
            }
            if let Some(status) = self.agent.ended() {
                self.phase.send_replace(Phase::Leave);
                return Some(status);
            }
        }
        None
    }
}

/// The folder of models, and what can be submitted from it.
fn read_models(arguments: &Args) -> Result<(PathBuf, Assortment), Error> {
    let folders = match &arguments.models {
        Some(folder) => vec![std::path::absolute(folder)?],
        None => super::models::folders(),
    };
    let named = || folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
    let folder = folders.iter().find(|folder| folder.is_dir()).ok_or_else(|| Error::NoModels(named()))?;
    let library = Library::open(folder)?;
    let assortment = Assortment::read(&library, arguments.seed);
    if assortment.models() == 0 {
        return Err(Error::NoSamples(Path::to_path_buf(folder)));
    }
    Ok((Path::to_path_buf(folder), assortment))
}

/// Two workers show more than one, but never more than there are cores.
fn default_workers() -> u8 {
    thread::available_parallelism().map_or(1, |cores| if cores.get() > 1 { 2 } else { 1 })
}

/// The emulator of a day that is worth watching by this node's limits.
fn emulator(settings: &Settings, seed: u64, length: Duration, agent: u32) -> Emulator {
    let policy = &settings.policy;
    let sample = length.as_nanos().max(1) / SAMPLES as u128;
    let settle = usize::try_from(policy.settle.as_nanos().div_ceil(sample.max(1))).unwrap_or(SAMPLES);
    let lively = Lively {
        busy_above: policy.busy_above,
        idle_below: policy.idle_below,
        trough_samples: settle + 1,
        window_yields: YIELDS_IN_A_THIRD,
        window_samples: SAMPLES / 3,
    };
    Emulator {
        day: Day::lively(seed, &lively),
        length: Compressed { length },
        part: Duration::ZERO..length,
        busy_above: policy.busy_above,
        idle_below: policy.idle_below,
        subject: Subject::ChildrenOf(agent),
        beside: None,
        told: Told::Day,
    }
}

/// Starts the controller; it also listens for Ctrl-C.
fn start_controller(
    settings: &Settings,
    assortment: Assortment,
    phases: watch::Receiver<Phase>,
    sender: SyncSender<Event>,
) -> Result<asker::Asker, Error> {
    let plan = controller::Plan {
        host: settings.mqtt.host.clone(),
        port: settings.mqtt.port,
        topics: settings.node.topics.clone(),
        assortment,
        open_max: 2 + 2 * usize::from(settings.policy.workers),
        ask_every: ROUND_EVERY,
    };
    let interrupts = sender.clone();
    // A full queue only costs the picture, never the figures.
    let tell = move |news| _ = sender.try_send(Event::News(news));
    let interrupted = move || _ = interrupts.try_send(Event::Interrupted);
    Ok(asker::start(plan, phases, None, tell, interrupted)?)
}
