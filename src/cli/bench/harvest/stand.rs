//! What is there to be measured? The real agent, a broker, a controller that always has work, somebody who plays load.

use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

use super::Places;
use crate::cli::bench::crew::Model;
use crate::cli::failure::{Class, Failure};
use crate::cli::stage::node::{self, Agent, Changes, Ended, Folder, Pace};
use crate::cli::stage::player::{Emulator, Orders, Played, Subject, Told};
use crate::cli::stage::{asker, measure};
use crate::config::Settings;
use crate::governor::Policy;
use crate::link::reconcile::ROUND_EVERY;
use crate::model::library::Library;
use crate::sim::controller::{self, Assortment, News, Phase, Tally};
use crate::sim::day::{Compressed, Day};
use crate::sys::{clock, memory, sched};

/// Name of the sentinel's thread.
const SENTINEL: &str = "neap-sentinel";
/// The agent has to be online within this.
const READY_MAX: Duration = Duration::from_secs(20);
/// Its first jobs have to be done within this: workers start and load their model meanwhile.
const WARM_MAX: Duration = Duration::from_secs(120);
/// Before the agent's memory is read: what it does when it comes online is over then.
const REST: Duration = Duration::from_secs(1);
/// Jobs that each worker ends before anything is measured: the first tells what a batch costs.
const WARM_JOBS: u64 = 2;
/// Jobs kept open, besides two for each worker.
const JOBS_AHEAD: usize = 2;
/// No worker is killed for standing still while the others have their round.
const EVICT_AFTER: Duration = Duration::from_secs(86_400);
/// How often things are looked after.
const LOOK: Duration = Duration::from_millis(20);

/// What the stand is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// What the jobs are about.
    pub(super) model: &'a Model,
    /// Where things run.
    pub(super) places: &'a Places,
    /// Seed of the jobs' order.
    pub(super) seed: u64,
    /// Broker to use instead of one of its own.
    pub(super) broker: Option<&'a str>,
    /// How many times as fast time runs.
    pub(super) speed: u32,
}

/// Everything that runs. Ends when dropped.
pub(super) struct Stand {
    settings: Settings,
    socket: PathBuf,
    rig: Option<usize>,
    agent: Agent,
    controller: asker::Asker,
    phase: watch::Sender<Phase>,
    heard: Arc<Heard>,
    orders: Arc<Orders>,
    /// Removed last.
    _folder: Folder,
}

/// What the controller has heard of so far.
#[derive(Debug, Default)]
struct Heard {
    online: AtomicBool,
    ended: AtomicU64,
    interrupted: AtomicBool,
}

impl Stand {
    /// Starts everything and waits until the node is online.
    pub(super) fn start(wanted: &Wanted<'_>) -> Result<Self, Failure> {
        let library =
            Library::open(&wanted.model.folder).map_err(|error| Failure::new(Class::Io, error.to_string()))?;
        let assortment = Assortment::read(&library, wanted.seed).only_batches_of(&wanted.model.name);
        if assortment.models() == 0 {
            let text = format!("model {} has no samples to send; choose another with --model", wanted.model.name);
            return Err(Failure::new(Class::Data, text));
        }
        let failed = |error: io::Error| Failure::io("cannot make the bench's folder, socket or threads", &error);
        let folder = Folder::new("bench").map_err(failed)?;
        let changes = Changes {
            broker: broker(wanted.broker, wanted.places.rig)?,
            socket: folder.join("load.sock"),
            state_dir: folder.join("state"),
            models: std::path::absolute(&wanted.model.folder).map_err(failed)?,
            // Of its own, in case the broker is not.
            name: Some(format!("bench-{}", std::process::id())),
            workers: u8::try_from(wanted.places.harvest.len()).ok(),
            cores: wanted.places.harvest.clone(),
            evict_after: Some(EVICT_AFTER),
            governor: Pace::Shipped(wanted.speed.into()),
        };
        let wrong = |why: String| Failure::new(Class::Software, format!("the bench's configuration is wrong: {why}"));
        let text = node::configuration(&changes).map_err(wrong)?;
        let file = folder.join("node.toml");
        fs::write(&file, &text).map_err(failed)?;
        let settings = Settings::read(&file).map_err(|error| wrong(error.to_string()))?;
        let (phase, phases) = watch::channel(Phase::Wait);
        let (heard, orders) = (Arc::<Heard>::default(), Arc::<Orders>::default());
        let controller = ask(&settings, assortment, phases, wanted.places.rig, &heard, &orders).map_err(failed)?;
        let agent = Agent::start(&file, folder.join("agent.log")).map_err(failed)?;
        let (socket, rig) = (changes.socket, wanted.places.rig);
        let mut stand = Self { settings, socket, rig, agent, controller, phase, heard, orders, _folder: folder };
        stand.wait_for("online", READY_MAX, |heard| heard.online.load(Ordering::Relaxed))?;
        Ok(stand)
    }

    /// Has the workers started and their first jobs done, on an idle radio.
    pub(super) fn warm_up(&mut self) -> Result<(), Failure> {
        self.phase.send_replace(Phase::Submit);
        let jobs = WARM_JOBS * u64::from(self.settings.policy.workers);
        let length = Compressed { length: WARM_MAX * 2 };
        let emulator = Emulator {
            day: Day::new(0),
            length,
            part: Duration::ZERO..length.length,
            busy_above: self.settings.policy.busy_above,
            idle_below: self.settings.policy.idle_below,
            subject: Subject::ChildrenOf(self.agent.id()),
            beside: None,
            told: Told::Day,
        };
        // Cut short before it begins, the day is an idle radio.
        let idle = Arc::new(Orders::default());
        idle.idle();
        let (socket, orders) = (self.socket.clone(), Arc::clone(&idle));
        let playing = thread::spawn(move || emulator.play(&socket, &orders, &|_, _| {}));
        let warm =
            self.wait_for("done with its first jobs", WARM_MAX, |heard| heard.ended.load(Ordering::Relaxed) >= jobs);
        idle.stop();
        // What matters is whether the jobs were done.
        let _played = playing.join();
        warm
    }

    /// Plays load to the agent, off the measured cores.
    pub(super) fn play(&mut self, emulator: Emulator) -> Result<Played, Failure> {
        let (socket, orders, rig) = (self.socket.clone(), Arc::clone(&self.orders), self.rig);
        let playing = thread::Builder::new().name("player".to_owned()).spawn(move || {
            keep_to(rig);
            emulator.play(&socket, &orders, &|_, _| {})
        });
        let failed = |error: io::Error| Failure::io("cannot play load to the agent", &error);
        let played = playing.map_err(failed)?.join();
        self.check()?;
        let defect = || Failure::new(Class::Software, "the thread that plays the load has ended");
        played.map_err(|_| defect())?.map_err(failed)
    }

    /// Ends everything in order, and gives what became of the jobs. What is still open is none of this bench's figures.
    pub(super) fn end(mut self) -> Result<Tally, Failure> {
        self.phase.send_replace(Phase::Leave);
        let tally = self.controller.join();
        match self.agent.stop() {
            Ended::Well(_) => {}
            Ended::Badly(status) => return Err(died(&self.agent, &format!("ended with {status}"))),
            Ended::Killed => return Err(died(&self.agent, "had to be killed")),
        }
        let tally =
            tally.map_err(|_| Failure::new(Class::Software, "the bench's controller has ended unexpectedly"))?;
        let tally = tally.map_err(|error| Failure::new(Class::Unavailable, error.to_string()))?;
        let Tally { failed, rejected, contradictions, .. } = &tally;
        if failed + rejected + contradictions > 0 {
            let text = format!(
                "{failed} jobs failed, {rejected} were rejected and {contradictions} messages made no sense, so the \
                 figures mean nothing; try another model with --model"
            );
            return Err(Failure::new(Class::Software, text));
        }
        Ok(tally)
    }

    /// The governor's figures.
    pub(super) const fn policy(&self) -> &Policy {
        &self.settings.policy
    }

    /// Process id of the agent.
    pub(super) fn agent_id(&self) -> u32 {
        self.agent.id()
    }

    /// The same, as clocks want it.
    pub(super) fn agent_pid(&self) -> i32 {
        i32::try_from(self.agent.id()).unwrap_or(0)
    }

    /// Resident memory of the agent that has just come online and has nothing to do.
    pub(super) fn agent_rss_at_rest(&self) -> u64 {
        thread::sleep(REST);
        self.agent_rss()
    }

    /// Resident memory of the agent, in bytes.
    pub(super) fn agent_rss(&self) -> u64 {
        memory::resident_bytes(self.agent.id()).unwrap_or(0)
    }

    /// CPU time of its sentinel.
    pub(super) fn sentinel_cpu(&self) -> Duration {
        measure::thread_cpu(self.agent.id(), SENTINEL)
    }

    fn wait_for(&mut self, what: &str, most: Duration, is_there: impl Fn(&Heard) -> bool) -> Result<(), Failure> {
        let until = clock::now().after(most);
        while !is_there(&self.heard) {
            self.check()?;
            if clock::now() >= until {
                return Err(died(&self.agent, &format!("was not {what} within {} s", most.as_secs())));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Fails when the agent has ended or somebody pressed Ctrl-C.
    fn check(&mut self) -> Result<(), Failure> {
        if self.heard.interrupted.load(Ordering::Relaxed) {
            return Err(Failure::new(Class::TemporaryFailure, "interrupted: there are no figures of half a bench"));
        }
        match self.agent.ended() {
            Some(status) => Err(died(&self.agent, &format!("ended ({status})"))),
            None => Ok(()),
        }
    }
}

fn died(agent: &Agent, what: &str) -> Failure {
    Failure::new(Class::Software, format!("the agent {what}; the end of its log:\n{}", agent.log_tail()))
}

/// Starts a controller that keeps large batches open.
fn ask(
    settings: &Settings,
    assortment: Assortment,
    phases: watch::Receiver<Phase>,
    rig: Option<usize>,
    heard: &Arc<Heard>,
    orders: &Arc<Orders>,
) -> io::Result<asker::Asker> {
    let plan = controller::Plan {
        host: settings.mqtt.host.clone(),
        port: settings.mqtt.port,
        topics: settings.node.topics.clone(),
        assortment,
        open_max: JOBS_AHEAD + 2 * usize::from(settings.policy.workers),
        ask_every: ROUND_EVERY,
    };
    let (news, heard, orders) = (Arc::clone(heard), Arc::clone(heard), Arc::clone(orders));
    let tell = move |said| match said {
        News::State { .. } => news.online.store(true, Ordering::Relaxed),
        News::Ended { .. } => _ = news.ended.fetch_add(1, Ordering::Relaxed),
        News::Link { .. } | News::Submitted { .. } | News::Progress { .. } | News::Yield(_) | News::Note(_) => {}
    };
    let interrupted = move || {
        heard.interrupted.store(true, Ordering::Relaxed);
        orders.stop();
    };
    asker::start(plan, phases, rig, tell, interrupted)
}

/// Keeps this thread, and what it starts, to that core. Where that is refused it runs anywhere, and costs the measured
/// cores a little.
fn keep_to(core: Option<usize>) {
    if let Some(core) = core {
        let _anywhere = sched::pin_self(core);
    }
}

/// The broker that was asked for, or one inside this process.
fn broker(named: Option<&str>, rig: Option<usize>) -> Result<SocketAddr, Failure> {
    let Some(named) = named else { return own_broker(rig) };
    let wrong = |why: String| {
        Failure::new(Class::Usage, format!("--broker {named:?} {why}; give HOST:PORT of a broker on this machine"))
    };
    let mut addresses = named.to_socket_addrs().map_err(|error| wrong(format!("is no address ({error})")))?;
    let address = addresses.find(|address| address.ip().is_loopback());
    address.ok_or_else(|| wrong("is not on this machine".to_owned()))
}

#[cfg(feature = "demo")]
fn own_broker(rig: Option<usize>) -> Result<SocketAddr, Failure> {
    // Its threads keep to the core of the thread that starts it.
    let starting = thread::spawn(move || {
        keep_to(rig);
        crate::sim::broker::Broker::start()
    });
    let started = starting.join().map_err(|_| Failure::new(Class::Software, "the broker's thread has ended"))?;
    let broker = started.map_err(|error| Failure::new(Class::Unavailable, error.to_string()))?;
    Ok(broker.address())
}

#[cfg(not(feature = "demo"))]
fn own_broker(_rig: Option<usize>) -> Result<SocketAddr, Failure> {
    let text = "this build has no broker of its own; start one on this machine and name it with --broker HOST:PORT, \
                or build with --features demo";
    Err(Failure::new(Class::Usage, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_elsewhere_or_nowhere_is_refused_with_what_would_be_right() {
        for named in ["192.0.2.1:1883", "nonsense", "127.0.0.1"] {
            let failure = broker(Some(named), None).unwrap_err();
            assert_eq!(failure.class, Class::Usage);
            assert!(failure.text.contains(named) && failure.text.contains("HOST:PORT"), "{failure:?}");
        }
        assert_eq!(broker(Some("127.0.0.1:1883"), None).unwrap().port(), 1883);
    }
}
