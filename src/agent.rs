//! How do the parts become a daemon? Builds them, joins them with bounded channels, orders the shutdown.
//!
//! One thread runs this loop: it holds the network, the keys and the state, and never parses a model. Workers are forked
//! from it, so they die with it. The sentinel thread stops them without asking anybody here; this loop only hears of it.
//!
//! In reading order: [`parts`] makes everything from the configuration; this file is the loop; [`hear`] is what each
//! event does; [`desk`] decides about jobs and [`bench`](mod@bench) keeps their places; [`keeper`] writes the store; [`outbox`] and
//! [`courier`] lead to the link; [`reports`], [`yields`] and [`telemetry`] word and pace what is published; [`status`]
//! shows it on this machine; [`commands`] answers controllers; [`pressure`] and [`memory`] see to it that workers give
//! memory back; [`ending`] reloads and stops; [`floor`] holds the workers whatever happens to this loop.

mod bench;
mod commands;
mod courier;
mod crashes;
mod desk;
mod ending;
pub mod floor;
mod hear;
mod history;
mod keeper;
mod memory;
mod outbox;
mod parts;
mod pressure;
mod pulse;
mod reports;
mod service;
mod status;
mod telemetry;
mod wall;
mod yields;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use self::courier::Courier;
use self::desk::{Desk, Effect, Now};
use self::keeper::{Answer, Keeper, Request};
use self::outbox::Outbox;
use crate::config::{self, Settings};
use crate::fault::{Code, Fault};
use crate::jobs::store::{self, Batch};
use crate::link::mqtt;
use crate::model::library::LibraryError;
use crate::sentinel::{self, Sentinel};
use crate::sys::watched::Watched;
use crate::units::{Instant, WallTime};
use crate::worker::cgroup;
use crate::worker::gate::Gate;
use crate::worker::handle::{self, Handle};
use crate::{link, sys};

/// The loop looks around at least this often.
const TURN_MAX: Duration = Duration::from_secs(1);

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
/// The one exception is what the store catches itself while it looks at a damaged file.
fn die_whole() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !store::panic_is_contained() {
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
    desk: Desk,
    keeper: Keeper,
    outbox: Outbox,
    courier: Courier,
    sentinel: Sentinel,
    gate: Arc<Gate>,
    handles: Vec<Handle>,
    pressure: pressure::Watcher,
    relief: pressure::Relief,
    telemetry: telemetry::Telemetry,
    status: status::Status,
    since: WallTime,
    /// Command replies that wait for the store.
    replies: BTreeMap<u64, commands::Waiting>,
    reply_count: u64,
    hold_until: Option<Instant>,
    connected: bool,
}

/// Both clocks, read once for whatever is decided now.
fn now() -> Now {
    Now { mono: sys::clock::now(), wall: sys::clock::wall() }
}

impl Agent {
    async fn live(mut self, mut mouths: Mouths) -> Result<(), Error> {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), node = self.settings.node.topics.source(), "agent started");
        let outcome = loop {
            if let Err(error) = self.turn() {
                break Err(error);
            }
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
                () = self.pressure.triggered() => self.hear_pressure(now()),
                Some(event) = mouths.workers.recv() => self.hear_worker(now(), event),
                Some(answer) = mouths.store.recv() => {
                    if let Err(error) = self.hear_store(answer) {
                        break Err(error);
                    }
                }
                event = mouths.link.recv() => match event {
                    Some(event) => self.hear_link(event),
                    None => pending().await,
                },
                Some(asked) = mouths.status.recv() => self.show(asked),
                () = self.courier.room() => self.courier.flush(),
                _ = mouths.hangup.recv() => self.read_settings_again(),
                () = tokio::time::sleep(self.next_turn()) => {}
            }
        };
        if let Err(error) = &outcome {
            tracing::error!(%error, "stopping");
        }
        self.end(mouths).await;
        outcome
    }

    /// What is due now, and the effects of whatever was heard.
    fn turn(&mut self) -> Result<(), Error> {
        let now = now();
        self.end_hold_if_due(now.mono);
        self.look_at_memory_if_due(now);
        self.desk.tick(now);
        if self.desk.reports.closed().is_none() {
            self.telemetry.watch_host(now);
        }
        self.perform()?;
        self.move_outbox()?;
        if self.connected {
            let counts = self.desk.counts();
            let due = self.telemetry.due(now, &self.desk.reports, counts, &self.courier, &self.sentinel);
            for message in due {
                self.courier.publish(message);
            }
        }
        Ok(())
    }

    fn next_turn(&self) -> Duration {
        let now = now();
        let telemetry = if self.connected { self.telemetry.next(now) } else { None };
        let hold = self.hold_until.map(|until| until.since(now.mono));
        self.desk.next_tick(now).into_iter().chain(telemetry).chain(hold).min().unwrap_or(TURN_MAX).min(TURN_MAX)
    }

    fn perform(&mut self) -> Result<(), Error> {
        while let Some(effect) = self.desk.next_effect() {
            match effect {
                Effect::Ask(request) => self.ask(request)?,
                Effect::Work { slot, work } => {
                    if self.handles[slot].run(work).is_err() {
                        // The desk never hands over more than the handle takes; if it did, the attempt's limit ends it.
                        tracing::error!(slot, "worker takes no work");
                    }
                }
                Effect::Kill { slot, why, token } => {
                    if self.handles[slot].kill(why, Some(token)).is_err() {
                        tracing::error!(slot, "worker takes no orders");
                    }
                }
                Effect::Empty { slot, why } => {
                    if self.handles[slot].kill(why, None).is_err() {
                        tracing::error!(slot, "worker takes no orders");
                    }
                }
                Effect::Token { slot, token } => self.gate.set_job(slot, token),
                Effect::Ack(ack) => self.courier.ack(ack),
                Effect::Publish(message) => self.courier.publish(message),
                Effect::Outbox => self.outbox.stored(),
            }
        }
        Ok(())
    }

    /// Deletes what arrived, then reads what may be offered: in this order, or it would be offered twice.
    fn move_outbox(&mut self) -> Result<(), Error> {
        let settled = self.outbox.take_settled();
        if !settled.is_empty() {
            self.desk.report(Batch { delivered: settled, ..Batch::default() }, None);
            self.perform()?;
        }
        if let Some((after, max)) = self.outbox.wants() {
            self.ask(Request::Outbox { after, max })?;
        }
        Ok(())
    }

    fn ask(&mut self, request: Request) -> Result<(), Error> {
        if self.keeper.ask(request) {
            return Ok(());
        }
        let text = "the store has not answered a thousand requests; the disk under the state directory has stalled";
        Err(Error::Store(Fault::new(Code::StateIo, text)))
    }
}
