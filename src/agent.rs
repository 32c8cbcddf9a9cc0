//! How do the parts become a daemon? Builds them, joins them with bounded channels, orders the shutdown.
//!
//! One thread runs this loop: it holds the network, the keys and the state, and never parses a model. Workers are forked
//! from it, so they die with it. The sentinel thread stops them without asking anybody here; this loop only hears of it.
//!
//! In reading order: [`parts`] makes everything from the configuration; this file is the loop, a shell around
//! [`core`](mod@core), where all logic is. There [`hear`] is what each event does; [`desk`] decides about jobs and
//! [`bench`](mod@bench) keeps their places; [`outbox`] and [`courier`] lead to the link; [`reports`], [`yields`] and
//! [`telemetry`] word and pace what is published; [`probe`] tries what the broker allows; [`commands`] answers
//! controllers, after [`trust`] has judged whether they count; [`planning`] judges their load reports; [`outlook`] tells
//! of the hours to come; [`memory`] has workers give memory back; [`privacy`] tells
//! who can read along. Around it [`keeper`] writes the store; [`pressure`] looks at the memory; [`status`] shows
//! everything on this machine; [`tuning`] moves thresholds; [`ending`] reloads and stops; [`floor`] holds the workers whatever happens to this loop.

pub(crate) mod appraised;
mod bench;
mod clocks;
mod commands;
mod core;
mod courier;
mod crashes;
mod desk;
mod ending;
pub mod floor;
mod guard;
mod hear;
mod history;
mod keeper;
mod memory;
mod models;
mod outbox;
mod outlook;
mod parts;
mod planning;
mod pressure;
mod privacy;
mod probe;
mod pulse;
mod reports;
mod safeguards;
mod service;
#[cfg(test)]
mod simulation;
mod snapshot;
mod status;
mod telemetry;
mod thrift;
pub mod trust;
mod tuning;
mod wall;
mod yields;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use self::clocks::Clocks;
use self::core::{Act, Core};
use self::desk::Now;
use self::history::History;
use self::keeper::{Answer, Keeper, Request};
use self::outlook::{Keepsake, PmFiles};
use self::privacy::Privacy;
use self::pulse::Moves;
use self::service::Service;
use self::thrift::Thrift;
use crate::config::{self, Settings};
use crate::fault::Fault;
use crate::jobs::store;
use crate::link::heartbeat::Heartbeat;
use crate::link::mqtt;
use crate::model::library::LibraryError;
use crate::sentinel::{self, Sentinel};
use crate::sys::watched::Watched;
use crate::worker::cgroup;
use crate::worker::gate::Gate;
use crate::worker::handle::{self, Handle};
use crate::{link, sys};

/// The loop looks around at least this often.
const TURN_MAX: Duration = Duration::from_secs(1);
/// Most answers, or messages, that are heard in one turn besides the first: together they become one commit. Few enough
/// that the sentinel and the workers are heard in between.
const AT_ONCE_MAX: usize = 64;

/// Why the agent could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The durable store.
    #[error(transparent)]
    Store(#[from] Fault),
    /// The models folder.
    #[error(transparent)]
    Models(#[from] LibraryError),
    /// The sentinel thread or one of its load sources.
    #[error(transparent)]
    Sentinel(#[from] sentinel::Error),
    /// The workers' cgroups, where they are required.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The cores that are left to the RAN.
    #[error("workers.reserved = [{reserved}] cannot be kept: {why}; reserve fewer cores, or give the agent more")]
    Cores {
        /// Cores that nothing of ours may use.
        reserved: String,
        /// What is in the way.
        why: String,
    },
    /// The broker's settings.
    #[error(transparent)]
    Link(#[from] mqtt::BadSettings),
    /// The broker's password.
    #[error(transparent)]
    Password(#[from] config::PasswordError),
    /// Anything the operating system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The refusal.
        source: std::io::Error,
    },
}

/// Reads the configuration again, for SIGHUP.
pub type Reload = Box<dyn FnMut() -> Result<Settings, config::Error>>;

/// Runs the agent on this thread until SIGTERM or SIGINT.
///
/// # Errors
/// When a part cannot be started, or the store can no longer keep promises.
pub fn run(settings: Settings, reload: Reload) -> Result<(), Error> {
    die_whole();
    sys::alloc::be_thrifty();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { what: "cannot start the runtime", source })?;
    runtime.block_on(async {
        let (agent, mouths) = Agent::build(settings, reload)?;
        agent.live(mouths).await
    })
}

/// A half-dead agent with a running worker is the worst state: any panic ends the process, and with it the workers.
/// The exceptions are what is caught where it happens: the store over a damaged file, the libraries over a broker.
fn die_whole() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !store::panic_is_contained() && !mqtt::panic_is_contained() {
            report(panic);
            std::process::abort();
        }
    }));
}

/// Where events come from.
struct Mouths {
    link: mpsc::Receiver<link::Event>,
    workers: mpsc::Receiver<handle::Event>,
    store: mpsc::Receiver<Answer>,
    status: mpsc::Receiver<status::Asked>,
    sentinel: Watched,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

struct Agent {
    settings: Settings,
    reload: Reload,
    core: Core,
    keeper: Keeper,
    link: mpsc::Sender<link::Command>,
    sentinel: Sentinel,
    gate: Arc<Gate>,
    handles: Vec<Handle>,
    pressure: pressure::Watcher,
    status: status::Status,
    clocks: Clocks,
    history: History,
    service: Service,
    heartbeat: Heartbeat,
    privacy: Privacy,
    keepsake: Keepsake,
    pm: Option<PmFiles>,
    thrift: Thrift,
}

impl Agent {
    async fn live(mut self, mut mouths: Mouths) -> Result<(), Error> {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), node = self.settings.node.topics.source(), "agent started");
        self.service.ready();
        let now = self.clocks.now();
        self.begin_tuning(now);
        let outcome = loop {
            if let Err(error) = self.turn() {
                break Err(error);
            }
            let pause = self.next_turn();
            tokio::select! {
                biased;
                _ = mouths.terminate.recv() => break Ok(()),
                _ = mouths.interrupt.recv() => break Ok(()),
                ready = mouths.sentinel.readable() => {
                    if let Ok(mut ready) = ready {
                        self.sentinel.clear_report_fd();
                        ready.clear_ready();
                    }
                    self.hear_sentinel();
                }
                () = self.pressure.triggered() => {
                    let shortage = self.pressure.by_trigger();
                    self.core.hear_memory(self.clocks.now(), Some(shortage));
                }
                Some(event) = mouths.workers.recv() => self.core.hear_worker(self.clocks.now(), event),
                Some(answer) = mouths.store.recv() => {
                    let waiting = std::iter::from_fn(|| mouths.store.try_recv().ok()).take(AT_ONCE_MAX);
                    let mut answers = std::iter::once(answer).chain(waiting);
                    if let Err(fault) = answers.try_for_each(|answer| self.hear_store(answer)) {
                        break Err(fault.into());
                    }
                }
                event = mouths.link.recv() => match event {
                    Some(event) => {
                        // What a new connection has shown belongs into what it is told first.
                        self.look_at_privacy();
                        self.core.hear_link(self.clocks.now(), event);
                        let waiting = std::iter::from_fn(|| mouths.link.try_recv().ok()).take(AT_ONCE_MAX);
                        waiting.for_each(|event| self.core.hear_link(self.clocks.now(), event));
                    }
                    None => pending().await,
                },
                Some(asked) = mouths.status.recv() => self.show(asked),
                () = room(&self.link, self.core.courier.is_waiting()) => self.core.courier.flush(),
                _ = mouths.hangup.recv() => self.read_settings_again(),
                () = tokio::time::sleep(pause) => {}
            }
        };
        if let Err(error) = &outcome {
            tracing::error!(%error, "stopping");
        }
        self.end(mouths, outcome.is_ok()).await;
        outcome
    }

    /// What is due now, and what follows from whatever was heard.
    fn turn(&mut self) -> Result<(), Error> {
        self.look_at_privacy();
        let now = self.clocks.now();
        self.look_at_safeguards(now);
        if self.core.watches_memory() && self.pressure.is_due(now.mono) {
            let shortage = self.pressure.look(now.mono);
            self.core.hear_memory(now, shortage);
        }
        self.core.telemetry.overflowed(self.sentinel.overflowed());
        for answer in self.keeper.look(now.mono) {
            self.hear_store(answer)?;
        }
        self.tune(now);
        if let Some(pm) = &mut self.pm {
            pm.look(now, &mut self.core.outlooks);
        }
        self.core.turn(now);
        self.keepsake.look(now.mono, &self.core.outlooks);
        self.let_go(now);
        self.perform()
    }

    /// Of memory, when it is time.
    fn let_go(&mut self, now: Now) {
        let a_worker_lives = self.gate.pids().iter().any(|pid| pid.load(SeqCst) != 0);
        if self.thrift.take_due(now.mono, a_worker_lives)
            && !sentinel::shed_again(&self.settings.policy, self.sentinel.memory_locked())
        {
            tracing::warn!("a part of the memory could not be locked again; give the unit LimitMEMLOCK=infinity");
        }
    }

    /// Who can read along, and whether the certificates are good.
    fn look_at_privacy(&mut self) {
        let now = self.clocks.now();
        if let Some(view) = self.privacy.look(now) {
            self.core.see_privacy(now, view);
        }
    }

    /// Clock, crashes, and the service manager's watchdog.
    fn look_at_safeguards(&mut self, now: Now) {
        if let Some((news, why)) = self.clocks.take_news() {
            self.core.hear_clock(now, news, why);
        }
        if self.history.is_safe_mode() {
            if self.history.leave_if_calm() {
                self.core.set_safe_mode(now, None);
            } else if !self.core.is_safe_mode() {
                // A controller has said so.
                self.history.leave();
            }
        }
        if self.service.wants_moves(now.mono) {
            self.sentinel.ask_for_a_pass();
        }
        let moves = Moves { link: self.heartbeat.count(), sentinel: self.sentinel.passes() };
        self.service.on_turn(now.mono, moves, || self.core.status_line());
    }

    fn next_turn(&mut self) -> Duration {
        let now = self.clocks.now();
        self.core.next_turn(now).into_iter().chain(self.service.next(now.mono)).min().unwrap_or(TURN_MAX).min(TURN_MAX)
    }

    /// Takes every report that waits; the queue is bounded, and the sentinel fills it far slower than this empties it.
    fn hear_sentinel(&mut self) {
        while let Some(report) = self.sentinel.reports().pop() {
            self.core.hear_sentinel(self.clocks.now(), report);
        }
    }

    /// What a store knows of the clock comes before everything else that it brings: its jobs have deadlines.
    fn hear_store(&mut self, answer: Answer) -> Result<(), Fault> {
        if let Answer::Opened(found) = &answer {
            self.clocks.recall(found.wall_high);
        }
        self.core.hear_store(self.clocks.now(), answer)
    }

    fn perform(&mut self) -> Result<(), Error> {
        while let Some(act) = self.core.next_act() {
            match act {
                Act::Store(request) => self.ask(request)?,
                Act::Work { slot, work } => {
                    if self.handles[slot].run(work).is_err() {
                        // The desk never hands over more than the handle takes; if it did, the attempt's limit ends it.
                        tracing::error!(slot, "worker takes no work");
                    }
                }
                Act::Kill { slot, why, token } => {
                    if self.handles[slot].kill(why, token).is_err() {
                        tracing::error!(slot, "worker takes no orders");
                    }
                }
                Act::Token { slot, token } => self.gate.set_job(slot, token),
                Act::MayStart { slot, may_start } => self.handles[slot].set_may_start(may_start),
                Act::Order(order) => self.sentinel.order(order),
                Act::Plan(heard) => {
                    if let Some(inbox) = self.sentinel.inbox() {
                        heard.cells.iter().for_each(|(cell, said)| inbox.post(heard.at, *cell, *said));
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks the store; what it answers at once follows in the same round.
    fn ask(&mut self, request: Request) -> Result<(), Error> {
        if let Some(answer) = self.keeper.ask(request) {
            self.hear_store(answer)?;
            self.core.settle();
        }
        Ok(())
    }
}

/// Resolves when the link has room again; never while nothing waits.
async fn room(link: &mpsc::Sender<link::Command>, is_waiting: bool) {
    // A closed channel ends with the link's `Closed` event, which the loop hears of elsewhere.
    if !is_waiting || link.reserve().await.is_err() {
        pending::<()>().await;
    }
}
