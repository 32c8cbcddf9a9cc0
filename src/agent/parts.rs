//! What is the agent made of? Every part, made from the configuration and joined to the others.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::clocks::Clocks;
use super::core::{Core, Terms};
use super::crashes;
use super::desk::{self, Desk};
use super::history::History;
use super::keeper::{Found, Keeper};
use super::models::{self, open_library};
use super::outlook::{Keepsake, Outlooks, PmFiles};
use super::pressure::{self, Watcher};
use super::privacy::Privacy;
use super::reports::{Impairment, Reports};
use super::service::Service;
use super::status::Status;
use super::thrift::Thrift;
use super::trust::Trust;
use super::{Agent, Error, Mouths, Reload, floor};
use crate::config::{self, Settings};
use crate::fault::{Code, Fault};
use crate::governor::forecast::{self, Forecast};
use crate::jobs::queue::Capacity;
use crate::jobs::store::{Opened, Opener, Quota};
use crate::link::messages::{Info, InfoLimits, LimitPolicy};
use crate::link::{Publish, mqtt};
use crate::load::host::{Host, HostFacts};
use crate::model::library::Library;
use crate::sentinel::{self, Sentinel};
use crate::sys;
use crate::sys::usage::HostUsage;
use crate::sys::watched::Watched;
use crate::units::{ITEMS_MAX, JOBS_MAX, MANIFEST_BYTES_MAX, PACKET_BYTES_MAX};
use crate::worker::cgroup::{Cgroups, Floor};
use crate::worker::gate::Gate;
use crate::worker::{handle, jail};

/// Worker events that may wait for the loop.
const WORKER_EVENTS_MAX: usize = 64;
/// Messages that may wait for a broker before droppable ones give way: the answers to a burst of ten thousand messages,
/// twice over.
const OUTBOX_MESSAGES_MAX: usize = 30_000;
/// The Will is published this long after the connection was lost, so that a short outage is not a death.
const WILL_DELAY_S: u32 = 30;
/// How long another holder of the state directory is waited for, and how often it is looked at.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_LOOK: Duration = Duration::from_millis(20);
/// Wait before a worker that ended is started again: first and longest.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(10);

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// SIGTERM, SIGINT and SIGHUP, from now on.
fn hear_signals() -> Result<[Signal; 3], Error> {
    Ok([
        signal(SignalKind::terminate()).map_err(system("cannot hear SIGTERM"))?,
        signal(SignalKind::interrupt()).map_err(system("cannot hear SIGINT"))?,
        signal(SignalKind::hangup()).map_err(system("cannot hear SIGHUP"))?,
    ])
}

impl Agent {
    /// Makes every part. The sentinel is the first that can act and the workers are the last, so that no worker ever
    /// exists that nobody could stop.
    pub(super) fn build(settings: Settings, reload: Reload) -> Result<(Self, Mouths), Error> {
        // Before anything that an end would leave behind: until they are heard, these signals end the process at once.
        let [terminate, interrupt, hangup] = hear_signals()?;
        // Before anything that could crash.
        let mut history = History::begin(&settings.jobs.state_dir, crash_terms(&settings));
        let opener = opener(&settings);
        let (store, Found { jobs, wall_high, marks, damage }) = match open_store(&opener)?.map(Found::part) {
            Ok((store, found)) => (Ok(store), found),
            Err(fault) => (Err(fault), Found::default()),
        };
        let trust = Trust::open(&settings.trust, &settings.node.topics, &marks)?;
        let disk = store.as_ref().err().map(|fault| fault.message.clone());
        let mut clocks = Clocks::start();
        clocks.recall(wall_high);
        let now = clocks.now();
        let library = open_library(&settings, &trust, &settings.jobs.state_dir, now.wall)?;
        let (keeper, answers) = Keeper::start(opener, store).map_err(system("cannot start the store's thread"))?;

        // After the store: whoever holds its lock is the only agent of that name.
        let cgroups = Cgroups::open(&floor::cgroup_settings(&settings))?;
        let floor = floor::told(&settings, cgroups.floor().clone());
        floor::log(&floor);
        // Whatever only the start needs comes before the sentinel, which lets it go and locks the rest.
        let host = Host::new(&settings.jobs.state_dir).read();
        let gate =
            Gate::with(cgroups, Some(settings.sentinel.dead_man)).map_err(system("cannot make the sentinel's beat"))?;
        let sentinel = sentinel::start(sentinel_settings(&settings), Arc::clone(&gate))?;
        let sources = settings.load.sources.iter().map(|source| source.name.clone()).collect();
        let info = inventory(&settings, host, &library, &sentinel, &floor);
        let reports = Reports::new(settings.node.topics.clone(), info, sources, &settings.policy, now.wall);

        let told = link_settings(&settings, reports.will(now.wall))?;
        let (heartbeat, privacy) = (told.heartbeat.clone(), Privacy::of(&told));
        let (commands, link) = mqtt::start(told, sys::clock::wall)?;
        let (handles, workers) = start_handles(&settings, &sentinel, &gate);
        let places = usize::from(settings.workers.count);
        let mut desk = Desk::new(now, job_settings(&settings), library, reports, places, jobs);
        desk.set_trust(trust);
        desk.tell_of_damage(now, &damage);
        let bell = sentinel.report_fd().try_clone_to_owned().map_err(system("cannot watch the sentinel"))?;
        let (status, asked) = Status::open(&settings.status);
        let mouths = Mouths {
            link,
            workers,
            store: answers,
            status: asked,
            sentinel: Watched::new(bell).map_err(system("cannot watch the sentinel"))?,
            terminate,
            interrupt,
            hangup,
        };
        let mut core = Core::new(now, terms(&settings), desk, commands.clone(), HostUsage::read);
        core.set_safe_mode(now, history.safe_mode());
        core.impair(now, Impairment::Disk, disk);
        let (keepsake, pm) = remember(now, &settings, &mut core);
        // From here on an end without a word is a crash.
        history.begun();
        let agent = Self {
            pressure: Watcher::new(memory_settings(&settings)),
            settings,
            reload,
            core,
            keeper,
            link: commands,
            sentinel,
            gate,
            handles,
            status,
            clocks,
            history,
            service: Service::of_environment(now.mono),
            heartbeat,
            privacy,
            keepsake,
            pm,
            thrift: Thrift::new(now.mono),
        };
        Ok((agent, mouths))
    }
}

/// What the core knows of the configuration.
fn terms(settings: &Settings) -> Terms {
    Terms {
        topics: settings.node.topics.clone(),
        dead_man: settings.sentinel.dead_man,
        memory_calm: settings.memory.calm,
        plan_age_max: settings.load.sources.iter().find(|source| source.kind.is_planning()).map(|it| it.freshness),
    }
}

/// Gives the core its forecast, when one is wanted, with what an earlier run has learned, and has PM files read for it.
fn remember(now: desk::Now, settings: &Settings, core: &mut Core) -> (Keepsake, Option<PmFiles>) {
    core.outlooks = outlooks(settings);
    let keepsake = Keepsake::open(now.mono, &settings.jobs.state_dir, &mut core.outlooks);
    let folder = settings.forecast.pm_dir.as_deref().filter(|_| core.outlooks.is_enabled());
    let pm = folder.and_then(|folder| {
        let none = |error| tracing::error!(%error, "no thread to read PM files: the forecast does without them");
        PmFiles::start(folder).map_err(none).ok()
    });
    (keepsake, pm)
}

fn outlooks(settings: &Settings) -> Outlooks {
    let config::Forecast { enabled, horizon, span, pm_dir: _ } = settings.forecast;
    let forecast = forecast::Settings { policy: settings.policy.clone(), horizon, span };
    match Forecast::new(forecast) {
        Ok(forecast) if enabled => Outlooks::new(forecast),
        // The policy was checked with the configuration.
        Ok(_) | Err(_) => Outlooks::default(),
    }
}

/// What opens the store.
fn opener(settings: &Settings) -> Opener {
    let quota = Quota { bytes: settings.jobs.spool_bytes, messages: OUTBOX_MESSAGES_MAX };
    Opener::new(&settings.jobs.state_dir, quota)
}

/// When the agent's crashes are too many.
fn crash_terms(settings: &Settings) -> crashes::Terms {
    let config::SafeMode { crashes, window, calm } = settings.safe_mode;
    crashes::Terms { crashes: usize::from(crashes), window, calm }
}

/// One handle for each worker, and what they tell.
fn start_handles(
    settings: &Settings,
    sentinel: &Sentinel,
    gate: &Arc<Gate>,
) -> (Vec<handle::Handle>, mpsc::Receiver<handle::Event>) {
    let (told, workers) = mpsc::channel(WORKER_EVENTS_MAX);
    let start = |slot| {
        let (worker, changed) = (worker_settings(settings, slot), sentinel.worker_changed_fn());
        let handle = handle::start(slot, worker, Arc::clone(gate), changed, told.clone());
        // Not before the first trough.
        handle.set_may_start(false);
        handle
    };
    ((0..usize::from(settings.workers.count)).map(start).collect(), workers)
}

/// Opens the store, with some patience for its lock: an agent that was killed may still wait for its last write. The
/// inner error is a disk that refuses, which the agent outlives.
fn open_store(opener: &Opener) -> Result<Result<Opened, Fault>, Fault> {
    let until = sys::clock::now().after(LOCK_PATIENCE);
    loop {
        match opener.open() {
            Err(fault) if fault.code == Code::StateLocked && sys::clock::now() < until => {
                std::thread::sleep(LOCK_LOOK);
            }
            Err(fault) if fault.code == Code::StateLocked => return Err(fault),
            outcome => return Ok(outcome),
        }
    }
}

/// How jobs are handled.
pub(super) fn job_settings(settings: &Settings) -> desk::Settings {
    let jobs = &settings.jobs;
    desk::Settings {
        capacity: Capacity { jobs_max: JOBS_MAX, open_max: jobs.open_max },
        limits: LimitPolicy { defaults: jobs.limits, maxima: jobs.limits_max, body_bytes_max: PACKET_BYTES_MAX },
        evict_after: settings.workers.evict_after,
        retention: jobs.retention,
        admission: desk::AdmissionTerms { refuse: jobs.refuse_infeasible, delay: jobs.delay },
    }
}

fn sentinel_settings(settings: &Settings) -> sentinel::Settings {
    sentinel::Settings {
        policy: settings.policy.clone(),
        guard: settings.guard.clone(),
        load: settings.load.clone(),
        priority: settings.sentinel.priority,
        signal_again: settings.sentinel.signal_again,
        confirm_kill: settings.sentinel.confirm_kill,
    }
}

fn memory_settings(settings: &Settings) -> pressure::Settings {
    let config::Memory { proc, stall_above, available_min_bytes, calm } = settings.memory.clone();
    pressure::Settings { proc, stall_above, available_min_bytes, calm }
}

fn link_settings(settings: &Settings, will: Publish) -> Result<mqtt::Settings, Error> {
    let mqtt = &settings.mqtt;
    let topics = &settings.node.topics;
    // A password that cannot be used is an error now, not at the hundredth connect.
    mqtt.password()?;
    Ok(mqtt::Settings {
        tls: mqtt.tls.clone(),
        allow_insecure: mqtt.allow_insecure,
        username: mqtt.username.clone(),
        password_file: mqtt.password_file.clone(),
        keep_alive: mqtt.keep_alive,
        session_expiry: mqtt.session_expiry,
        backoff: mqtt::Backoff::STANDARD.up_to(mqtt.reconnect_max),
        subscriptions: topics.node_subscriptions(),
        will: Some(will),
        will_delay_s: WILL_DELAY_S,
        ..mqtt::Settings::new(&mqtt.host, mqtt.port, format!("neap-{}-{}", topics.site(), topics.node()))
    })
}

fn worker_settings(settings: &Settings, slot: usize) -> handle::Settings {
    handle::Settings {
        exe: PathBuf::from("/proc/self/exe"),
        core: settings.workers.cores.get(slot).copied(),
        memory_bytes: settings.workers.memory_bytes,
        item_memory_bytes_max: settings.jobs.limits_max.memory_bytes,
        sandbox: settings.sandbox,
        backoff_first: RESTART_FIRST,
        backoff_max: RESTART_MAX,
    }
}

/// What the sandbox of a worker comes to here: in one word, then item by item. Starts a worker to see.
fn sandbox(policy: jail::Policy) -> String {
    match jail::selftest::probe(Path::new("/proc/self/exe"), policy) {
        Ok(found) => {
            if let Some(why) = found.unavailable().filter(|_| policy.level == jail::Level::Required) {
                tracing::error!("no worker will serve on this machine: {why}");
            }
            let items: Vec<String> = found.items().iter().map(ToString::to_string).collect();
            format!("{}; {}", found.strength().as_str(), items.join("; "))
        }
        Err(why) => {
            tracing::error!("{why}");
            format!("unknown: {why}")
        }
    }
}

fn inventory(settings: &Settings, host: HostFacts, library: &Library, sentinel: &Sentinel, floor: &Floor) -> Info {
    let maxima = settings.jobs.limits_max;
    Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: host.machine,
        kernel: host.kernel,
        cores: u32::try_from(host.cores).unwrap_or(u32::MAX),
        memory_bytes: host.memory_bytes,
        workers: u32::from(settings.workers.count),
        yield_class: sentinel.class().to_string(),
        memory_locked: sentinel.memory_locked(),
        sandbox: sandbox(settings.sandbox),
        trust: settings.trust.mode.to_string(),
        floor: floor.sentences(),
        // The link tells, and with TLS the connection.
        transport: String::new(),
        certificate: None,
        sources: settings.load.sources.iter().map(|source| source.name.clone()).collect(),
        models: models::offered(library, settings.worst_node_max),
        models_refused: models::refused(library),
        limits: InfoLimits {
            wall_ms: u64::try_from(maxima.wall.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: maxima.memory_bytes,
            attempts: maxima.attempts,
            output_bytes: maxima.output_bytes,
            items: u32::try_from(ITEMS_MAX).unwrap_or(u32::MAX),
            manifest_bytes: MANIFEST_BYTES_MAX as u64,
            packet_bytes: PACKET_BYTES_MAX as u64,
        },
    }
}
