//! Who asks for inference? A small controller that submits real jobs and holds the node to its promises.
//!
//! [`assortment`] is what it can ask for, [`book`] what it knows of every job, [`seen`] results in words,
//! [`inquiry`] how it finds out what a broker forgot, and [`desk`] its side of the protocol; all of that is pure.
//! [`run`] joins the desk to a real link.

pub mod assortment;
pub mod book;
pub mod desk;
pub mod inquiry;
pub mod seen;
#[cfg(all(test, feature = "demo"))]
mod tests;

pub use assortment::Assortment;
pub use book::{Sight, Tally};

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::jobs::job::State;
use crate::link::messages::YieldEvent;
use crate::link::topics::Topics;
use crate::link::{Command, Event, Qos, mqtt};
use crate::sys::{clock, random};
use crate::units::JobId;
use desk::Desk;

/// Name under which the controller connects; its node's name follows.
const CLIENT_ID: &str = "neap-controller";
/// Longest silence before a ping.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long the broker keeps reports for a controller that is away.
const SESSION_EXPIRY: Duration = Duration::from_secs(60);
/// Shortest time between two submits.
const SUBMIT_PAUSE: Duration = Duration::from_millis(20);
/// After the last job has ended, reports that are under way still arrive for so long.
const TAIL: Duration = Duration::from_millis(400);
/// The link gets this long to disconnect.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// What the controller has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Listen.
    Wait,
    /// Keep jobs open.
    Submit,
    /// Submit no more, and end when every job has ended.
    Finish,
    /// End now.
    Leave,
}

/// What happens, for whoever watches.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// The link went up or down.
    Link {
        /// Up.
        up: bool,
        /// Why it is down.
        why: String,
    },
    /// The node's mode.
    State {
        /// As published.
        mode: String,
        /// Why, for people.
        reason: String,
    },
    /// A job was sent.
    Submitted {
        /// Which.
        id: JobId,
        /// Model and sample.
        title: String,
        /// Its items.
        items: u32,
    },
    /// A job moved on.
    Progress {
        /// Which.
        id: JobId,
        /// Where it stands.
        state: State,
        /// Items finished.
        done: u32,
    },
    /// A job ended, and its result is there.
    Ended {
        /// Which.
        id: JobId,
        /// How.
        state: State,
        /// What was seen in each item.
        sights: Vec<Sight>,
    },
    /// Inference gave way.
    Yield(YieldEvent),
    /// Anything else worth a line.
    Note(String),
}

/// Whom the controller talks to, and what about.
#[derive(Debug)]
pub struct Plan {
    /// Broker.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Topics of the node.
    pub topics: Topics,
    /// What can be submitted.
    pub assortment: Assortment,
    /// Jobs kept open.
    pub open_max: usize,
    /// How often the node is asked what it knows of them.
    pub ask_every: Duration,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The link refuses to start.
    #[error(transparent)]
    Settings(#[from] mqtt::BadSettings),
    /// The link ended by itself.
    #[error("the controller's link has ended")]
    LinkEnded,
}

/// Runs a controller until its phase says otherwise, and gives the figures.
///
/// # Errors
/// When the link cannot be started, or ends by itself.
pub async fn run(plan: Plan, mut phases: watch::Receiver<Phase>, tell: impl Fn(News)) -> Result<Tally, Error> {
    let (commands, mut events) = mqtt::start(settings(&plan), clock::wall)?;
    let replies = replies(&plan);
    let mut desk = Desk::new(plan.topics, plan.assortment, plan.open_max, replies, plan.ask_every);
    let mut tick = interval(SUBMIT_PAUSE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let may_submit = tokio::select! {
            event = events.recv() => {
                desk.on_event(event.ok_or(Error::LinkEnded)?);
                false
            }
            _ = tick.tick() => true,
            // Whoever gave the phases is gone: so is the reason to go on.
            changed = phases.changed() => {
                if changed.is_err() {
                    break;
                }
                false
            }
        };
        let phase = *phases.borrow();
        if may_submit && phase == Phase::Submit {
            desk.submit(clock::wall());
        }
        desk.ask(clock::now(), random());
        desk.send(&mut |command| commands.try_send(command).is_ok());
        desk.news().for_each(&tell);
        if phase == Phase::Leave || (phase == Phase::Finish && desk.open() == 0) {
            break;
        }
    }
    listen_on(&mut desk, &commands, &mut events, &tell).await;
    close(&commands, &mut events).await;
    Ok(desk.tally())
}

/// Takes in what is still under way: the last yields, the acknowledgements of the last messages.
async fn listen_on(
    desk: &mut Desk,
    commands: &mpsc::Sender<Command>,
    events: &mut mpsc::Receiver<Event>,
    tell: &impl Fn(News),
) {
    let end = sleep(TAIL);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return,
            event = events.recv() => match event {
                Some(event) => desk.on_event(event),
                None => return,
            },
        }
        desk.send(&mut |command| commands.try_send(command).is_ok());
        desk.news().for_each(tell);
    }
}

/// Disconnects in order, or not at all when that takes too long.
async fn close(commands: &mpsc::Sender<Command>, events: &mut mpsc::Receiver<Event>) {
    let goodbye = async {
        let _ = commands.send(Command::Shutdown { last_words: None }).await;
        while !matches!(events.recv().await, Some(Event::Closed) | None) {}
    };
    // What is still unacknowledged then concerns nobody any more.
    let _ = timeout(CLOSE_MAX, goodbye).await;
}

/// A client of its own that hears everything the node says.
fn settings(plan: &Plan) -> mqtt::Settings {
    mqtt::Settings {
        keep_alive: KEEP_ALIVE,
        // Reports that arrive while the controller reconnects wait for it.
        session_expiry: SESSION_EXPIRY,
        subscriptions: vec![(plan.topics.up_filter(), Qos::AtLeastOnce), (replies(plan), Qos::AtLeastOnce)],
        ..mqtt::Settings::new(plan.host.clone(), plan.port, client_id(plan))
    }
}

fn client_id(plan: &Plan) -> String {
    format!("{CLIENT_ID}-{}", plan.topics.node())
}

/// Where the node's replies go.
fn replies(plan: &Plan) -> String {
    plan.topics.reply(&client_id(plan))
}
