//! How do the parts become a daemon? Builds them, joins them with bounded channels, orders the shutdown.
//!
//! One thread runs this loop: it holds the network, the keys and the state, and never parses a model. Workers are forked
//! from it, so they die with it. The sentinel thread stops them without asking anybody here; this loop only hears of it.

mod bench;
mod commands;
mod courier;
mod desk;
mod keeper;
mod outbox;
mod reports;
mod telemetry;

use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::courier::Courier;
pub use self::desk::Settings as JobSettings;
use self::desk::{Desk, Effect, Now};
use self::keeper::{Answer, Keeper, Request};
use self::outbox::Outbox;
use self::reports::Reports;
use crate::fault::Fault;
use crate::governor::Order;
use crate::jobs::store::{self, Batch, Store};
use crate::link::topics::{Down, Topics};
use crate::link::{self, Received, mqtt};
use crate::model::library::Library;
use crate::sentinel::{self, Report, Sentinel};
use crate::sys;
use crate::worker::gate::Gate;
use crate::worker::handle::{self, Handle};

/// Worker events that may wait for the loop.
const WORKER_EVENTS_MAX: usize = 64;
/// Sentinel reports taken in one turn.
const REPORTS_PER_TURN: usize = 64;
/// The loop looks around at least this often.
const TURN_MAX: Duration = Duration::from_secs(1);
/// From SIGTERM to the last words: time for the outbox to be delivered.
const FLUSH_MAX: Duration = Duration::from_millis(700);
/// From the last words to the end of the link.
const GOODBYE_MAX: Duration = Duration::from_millis(900);

/// Everything a node is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Topic root, site and node.
    pub topics: Topics,
    /// Broker.
    pub link: mqtt::Settings,
    /// Load sources, governor, sentinel thread.
    pub sentinel: sentinel::Settings,
    /// One per harvest core.
    pub workers: Vec<handle::Settings>,
    /// Job handling.
    pub jobs: JobSettings,
    /// Where the durable state lives.
    pub state_dir: PathBuf,
    /// How much of it there may be.
    pub quota: store::Quota,
    /// Folder of models.
    pub models_dir: PathBuf,
}

/// Why the agent could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The durable store.
    #[error(transparent)]
    Store(#[from] Fault),
    /// The models folder.
    #[error("models folder {path}: {why}")]
    Models {
        /// Folder.
        path: PathBuf,
        /// Reason.
        why: String,
    },
    /// The sentinel thread or one of its load sources.
    #[error(transparent)]
    Sentinel(#[from] sentinel::Error),
    /// Anything the operating system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The refusal.
        source: std::io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Reads the configuration again, for SIGHUP; the error is text for the log.
pub type Reload = Box<dyn FnMut() -> Result<Settings, String>>;

/// Runs the agent on this thread until SIGTERM or SIGINT.
///
/// # Errors
/// When a part cannot be started, or the store can no longer keep promises.
pub fn run(settings: Settings, reload: Reload) -> Result<(), Error> {
    die_whole();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("cannot start the runtime"))?;
    runtime.block_on(async {
        let (agent, mouths) = Agent::build(settings, reload)?;
        agent.live(mouths).await
    })
}

/// A half-dead agent with a running worker is the worst state: any panic ends the process, and with it the workers.
fn die_whole() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Where events come from.
struct Mouths {
    link: mpsc::Receiver<link::Event>,
    workers: mpsc::Receiver<handle::Event>,
    store: mpsc::UnboundedReceiver<Answer>,
    reports: AsyncFd<std::os::fd::OwnedFd>,
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
    telemetry: telemetry::Telemetry,
    /// Command replies that wait for the store.
    replies: BTreeMap<u64, commands::Reply>,
    reply_count: u64,
    connected: bool,
}

fn now() -> Now {
    Now { mono: sys::clock::now(), wall: sys::clock::wall() }
}

impl Agent {
    fn build(settings: Settings, reload: Reload) -> Result<(Self, Mouths), Error> {
        let library = open_library(&settings)?;
        let (store, jobs) = Store::open(&settings.state_dir, settings.quota)?;
        if let Some(quarantined) = store.quarantined() {
            tracing::error!(path = %quarantined.path.display(), fault = %quarantined.fault, "old state set aside, starting empty");
        }
        let gate = Gate::new();
        let sentinel = sentinel::start(settings.sentinel.clone(), Arc::clone(&gate))?;
        let reports = Reports::new(&settings, &library, sentinel.class(), sys::clock::wall());
        let mut link = settings.link.clone();
        link.subscriptions = settings.topics.node_subscriptions();
        link.will = Some(reports.will());
        let (commands, link) = mqtt::start(link);
        let (keeper, answers) = Keeper::start(store).map_err(system("cannot start the store's thread"))?;
        let (worker_events, workers) = mpsc::channel(WORKER_EVENTS_MAX);
        let doorbell = sentinel.doorbell();
        let handles = settings
            .workers
            .iter()
            .enumerate()
            .map(|(slot, worker)| {
                let ring = doorbell.clone();
                handle::start(slot, worker.clone(), Arc::clone(&gate), ring, worker_events.clone())
            })
            .collect();
        let desk = Desk::new(now(), settings.jobs.clone(), library, reports, settings.workers.len(), jobs);
        let fd = sentinel.report_fd().try_clone_to_owned().map_err(system("cannot watch the sentinel"))?;
        let mouths = Mouths {
            link,
            workers,
            store: answers,
            reports: AsyncFd::new(fd).map_err(system("cannot watch the sentinel"))?,
            terminate: signal(SignalKind::terminate()).map_err(system("cannot hear SIGTERM"))?,
            interrupt: signal(SignalKind::interrupt()).map_err(system("cannot hear SIGINT"))?,
            hangup: signal(SignalKind::hangup()).map_err(system("cannot hear SIGHUP"))?,
        };
        let agent = Self {
            settings,
            reload,
            desk,
            keeper,
            outbox: Outbox::default(),
            courier: Courier::new(commands),
            sentinel,
            gate,
            handles,
            telemetry: telemetry::Telemetry::default(),
            replies: BTreeMap::new(),
            reply_count: 0,
            connected: false,
        };
        Ok((agent, mouths))
    }

    async fn live(mut self, mut mouths: Mouths) -> Result<(), Error> {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), source = self.settings.topics.source(), "agent started");
        let outcome = loop {
            if let Err(error) = self.turn() {
                break Err(error);
            }
            tokio::select! {
                biased;
                _ = mouths.terminate.recv() => break Ok(()),
                _ = mouths.interrupt.recv() => break Ok(()),
                ready = mouths.reports.readable() => {
                    if let Ok(mut ready) = ready {
                        self.sentinel.hear();
                        ready.clear_ready();
                    }
                    self.hear_sentinel();
                }
                Some(event) = mouths.workers.recv() => self.desk.worker(now(), event),
                Some(answer) = mouths.store.recv() => {
                    if let Err(error) = self.hear_store(answer) {
                        break Err(error);
                    }
                }
                event = mouths.link.recv() => match event {
                    Some(event) => self.hear_link(event),
                    None => pending().await,
                },
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
        self.desk.tick(now);
        self.perform()?;
        let settled = self.outbox.take_settled();
        if !settled.is_empty() {
            self.desk.report(Batch { delivered: settled, ..Batch::default() }, None);
            self.perform()?;
        }
        if let Some((after, max)) = self.outbox.wants() {
            self.ask(Request::Outbox { after, max })?;
        }
        if self.connected {
            let counts = self.desk.counts();
            for message in self.telemetry.due(now, &mut self.desk.reports, counts, &self.courier, &self.sentinel) {
                self.courier.publish(message);
            }
        }
        Ok(())
    }

    fn next_turn(&self) -> Duration {
        let now = now();
        let telemetry = self.connected.then(|| self.telemetry.next(now)).flatten();
        self.desk.next_tick(now).into_iter().chain(telemetry).min().unwrap_or(TURN_MAX).min(TURN_MAX)
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
                Effect::Kill { slot, why } => self.handles[slot].kill(why),
                Effect::Token { slot, token } => self.gate.set_job(slot, token),
                Effect::Ack(ack) => self.courier.ack(ack),
                Effect::Publish(message) => self.courier.publish(message),
                Effect::Outbox => self.outbox.stored(),
            }
        }
        Ok(())
    }

    fn ask(&mut self, request: Request) -> Result<(), Error> {
        if self.keeper.ask(request) {
            return Ok(());
        }
        let text = "the store has not answered a thousand requests; the disk under the state directory has stalled";
        Err(Error::Store(Fault::new(crate::fault::Code::StateIo, text)))
    }

    // ---- what is heard ----

    fn hear_sentinel(&mut self) {
        for _ in 0..REPORTS_PER_TURN {
            let Some(report) = self.sentinel.reports().pop() else { return };
            let now = now();
            match report {
                Report::Mode { at, decision } => {
                    self.desk.set_budget(decision.budget);
                    self.desk.reports.set_decision(at, decision);
                    self.telemetry.state_changed();
                }
                Report::Yield(record) => {
                    let touched = self.desk.yielded(now, record.confirmed, &record.jobs);
                    self.telemetry.yielded(&record);
                    let message = self.desk.reports.yielded(&record, &touched, now.wall);
                    self.desk.report(Batch { messages: vec![message], ..Batch::default() }, None);
                }
                Report::Resumed { at, jobs, .. } => self.desk.resumed(now, at, &jobs),
                Report::Load { fused, .. } => {
                    self.desk.reports.set_load(&fused);
                    self.telemetry.loaded(&fused);
                }
                Report::Killed { slot, .. } => {
                    tracing::error!(slot, "worker did not stop in time and was killed");
                }
            }
        }
        // More wait: the doorbell is answered, so ring it again for the next turn.
        self.sentinel.ring_reports();
    }

    fn hear_store(&mut self, answer: Answer) -> Result<(), Error> {
        match answer {
            Answer::Committed { ticket, outcome } => self.desk.committed(now(), ticket, outcome)?,
            Answer::Fetched { id, slot, outcome } => self.desk.fetched(now(), slot, &id, outcome),
            Answer::Outbox { messages } => {
                for (seq, message) in self.outbox.read(messages) {
                    self.courier.offer(seq, message.into());
                }
            }
            Answer::Result { reply, body } => {
                if let Some(reply) = self.replies.remove(&reply) {
                    self.courier.publish(reply.with_result(body));
                }
            }
            Answer::Broken(fault) => return Err(Error::Store(fault)),
        }
        Ok(())
    }

    fn hear_link(&mut self, event: link::Event) {
        match event {
            link::Event::Up { epoch, session_present, packet_bytes_max } => {
                tracing::info!(epoch, session_present, packet_bytes_max, "connected");
                self.connected = true;
                self.outbox.up();
                self.courier.publish(self.desk.reports.info(now().wall));
                self.telemetry.state_changed();
            }
            link::Event::Down { why, retry_in_ms } => {
                tracing::warn!(why, retry_in_ms, "not connected");
                self.connected = false;
                self.outbox.down();
                self.courier.down();
            }
            link::Event::Delivered { token } => self.outbox.settle(token),
            link::Event::Refused { token, why } => self.refused(token, &why),
            link::Event::Received(received) => self.hear_message(received),
            link::Event::Closed => self.connected = false,
        }
    }

    fn refused(&mut self, token: u64, why: &str) {
        // The result stays in the store and answers to the result command; the message itself can never be sent.
        tracing::error!(message = token, why, "the broker refuses this message; it is taken out of the outbox");
        self.telemetry.refused();
        self.outbox.settle(token);
    }

    fn hear_message(&mut self, received: Received) {
        let now = now();
        let Received { message, ack, .. } = received;
        match self.settings.topics.parse_down(&message.topic) {
            Some(Down::Submit(id)) => self.desk.submit(now, id, message, ack),
            Some(Down::Cancel(id)) => self.desk.cancel(now, &id, ack),
            Some(Down::Ack(id)) => self.desk.forget(now, &id, ack),
            Some(Down::Command(name)) => self.obey(now, &name, &message, ack),
            Some(Down::FleetHold) => self.fleet_hold(&message, ack),
            Some(Down::OwnState) => {
                if self.desk.reports.is_stale_death(&message.body) {
                    self.telemetry.state_changed();
                }
                self.acknowledge(ack);
            }
            None => {
                tracing::warn!(topic = ?message.topic, "message on a topic that means nothing here");
                self.acknowledge(ack);
            }
        }
    }

    fn acknowledge(&mut self, ack: Option<link::AckToken>) {
        if let Some(ack) = ack {
            self.courier.ack(ack);
        }
    }

    // ---- reload and end ----

    fn read_settings_again(&mut self) {
        let fresh = match (self.reload)() {
            Ok(fresh) => fresh,
            Err(why) => {
                tracing::error!(why, "configuration not reloaded, the old one stays in force");
                return;
            }
        };
        match open_library(&fresh) {
            Ok(library) => {
                self.desk.reports.set_library(&library);
                self.desk.set_library(library);
            }
            Err(error) => tracing::error!(%error, "models not reloaded"),
        }
        self.sentinel.set_policy(fresh.sentinel.policy.clone());
        self.desk.reports.set_policy(&fresh.sentinel.policy);
        self.desk.set_settings(fresh.jobs.clone());
        let kept = needs_restart(&self.settings, &fresh);
        if !kept.is_empty() {
            tracing::warn!(sections = kept.join(", "), "changed, but only a restart brings it into force");
        }
        tracing::info!("configuration reloaded: governor, jobs, models");
        self.settings.sentinel.policy = fresh.sentinel.policy;
        self.settings.jobs = fresh.jobs;
        self.settings.models_dir = fresh.models_dir;
        if self.connected {
            self.courier.publish(self.desk.reports.info(now().wall));
        }
    }

    /// Refuse jobs, stop workers, give running jobs back, flush, last words: all within two seconds.
    async fn end(mut self, mut mouths: Mouths) {
        let began = now().mono;
        tracing::info!("stopping");
        self.sentinel.order(Order::Drain);
        self.desk.give_back(now());
        if let Err(error) = self.perform() {
            tracing::error!(%error, "while stopping");
        }
        for handle in self.handles.drain(..) {
            handle.stop().await;
        }
        let flushed = tokio::time::timeout(FLUSH_MAX, self.flush(&mut mouths)).await;
        if flushed.is_err() && self.connected {
            tracing::warn!("messages left in the outbox; they are sent after the next start");
        }
        self.courier.shut_down(self.desk.reports.death("shutdown"));
        let closed = tokio::time::timeout(GOODBYE_MAX, async {
            loop {
                tokio::select! {
                    event = mouths.link.recv() => if matches!(event, None | Some(link::Event::Closed)) { return },
                    () = self.courier.room() => self.courier.flush(),
                }
            }
        });
        if closed.await.is_err() {
            tracing::warn!("the broker did not take the goodbye in time");
        }
        self.keeper.stop();
        self.sentinel.stop();
        tracing::info!(ms = now().mono.since(began).as_millis(), "stopped");
    }

    /// Everything committed, and, while connected, everything delivered.
    async fn flush(&mut self, mouths: &mut Mouths) {
        let committed = |desk: &Desk| desk.nothing_pending();
        while !(committed(&self.desk) && (!self.connected || self.outbox.is_idle())) {
            if self.perform().is_err() {
                return;
            }
            if let Some((after, max)) = self.outbox.wants()
                && self.ask(Request::Outbox { after, max }).is_err()
            {
                return;
            }
            tokio::select! {
                Some(answer) = mouths.store.recv() => if self.hear_store(answer).is_err() { return },
                Some(event) = mouths.link.recv() => self.hear_link(event),
                () = self.courier.room() => self.courier.flush(),
            }
            let settled = self.outbox.take_settled();
            if !settled.is_empty() {
                self.desk.report(Batch { delivered: settled, ..Batch::default() }, None);
            }
        }
    }
}

fn open_library(settings: &Settings) -> Result<Arc<Library>, Error> {
    let path = &settings.models_dir;
    let library = Library::open(path).map_err(|why| Error::Models { path: path.clone(), why: why.to_string() })?;
    for problem in library.problems() {
        tracing::error!(%problem, "model left out");
    }
    Ok(Arc::new(library))
}

/// Sections that a reload cannot bring into force.
fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let differs = |name, same: bool| (!same).then_some(name);
    [
        differs("node", old.topics == new.topics),
        differs("mqtt", old.link == new.link),
        differs("load", old.sentinel.load == new.sentinel.load),
        differs("sentinel", old.sentinel.priority == new.sentinel.priority),
        differs("workers", old.workers == new.workers),
        differs("jobs.state_dir", old.state_dir == new.state_dir),
        differs("jobs.spool", old.quota == new.quota),
    ]
    .into_iter()
    .flatten()
    .collect()
}

