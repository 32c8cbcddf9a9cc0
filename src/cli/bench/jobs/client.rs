//! Who publishes and counts? One client on the project's own link.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::rig::{self, Rig};
use crate::cli::bench::go_on;
use crate::cli::failure::{Class, Failure};
use crate::cli::session;
use crate::jobs::job::State;
use crate::link::messages::{self, Status};
use crate::link::topics::{Topics, Up};
use crate::link::{AckToken, Command, Event, Publish, Qos, mqtt};
use crate::sys::clock;
use crate::sys::signal::Interrupt;
use crate::units::JobId;

/// Where plain messages go round.
const ECHO: &str = "neap-bench/echo";
/// How often an interrupt is looked for while nothing arrives, and how often nothing may arrive.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS_MAX: u32 = 200;
/// Longest goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// A connection that is up, and a node that is online.
pub(super) struct Client<'a> {
    topics: Topics,
    interrupt: &'a Interrupt,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    acks: VecDeque<AckToken>,
}

impl<'a> Client<'a> {
    /// Connects, and waits until the node has said that it is online.
    pub(super) async fn connect(rig: &Rig, interrupt: &'a Interrupt) -> Result<Self, Failure> {
        let topics = rig.topics();
        let mut settings = mqtt::Settings::new(rig.broker().ip().to_string(), rig.broker().port(), "neap-bench");
        let jobs = format!("{}/up/job/+", base(&topics));
        settings.subscriptions =
            [ECHO.to_owned(), jobs, topics.state()].map(|filter| (filter, Qos::AtLeastOnce)).to_vec();
        let (commands, events) =
            mqtt::start(settings, clock::wall).map_err(|error| Failure::new(Class::Software, error.to_string()))?;
        let mut client = Self { topics, interrupt, commands, events, acks: VecDeque::new() };
        let state = client.topics.state();
        while client.next().await?.topic != state {}
        Ok(client)
    }

    /// Publishes so many plain messages to itself, `window` of them on their way at once; how long that took.
    pub(super) async fn echo(&mut self, count: u32, window: u32) -> Result<Duration, Failure> {
        let body = rig::SUBMIT.as_bytes();
        let (mut sent, mut back) = (0, 0);
        let began = clock::now();
        while back < count {
            let may_send = sent < count && sent - back < window;
            let message = may_send.then(|| session::message(ECHO.to_owned(), body.to_vec(), 60));
            match self.step(message).await? {
                Step::Sent => sent += 1,
                Step::Heard(message) => back += u32::from(message.topic == ECHO),
                Step::Acknowledged => {}
            }
        }
        Ok(clock::now().since(began))
    }

    /// Submits so many jobs, `window` of them not accepted yet; how long it took until all were.
    pub(super) async fn submit(&mut self, count: u32, window: u32) -> Result<Duration, Failure> {
        let mut open: BTreeSet<JobId> = BTreeSet::new();
        let (mut sent, mut accepted) = (0, 0);
        let mut next = job();
        let began = clock::now();
        while accepted < count {
            let may_send = sent < count && sent - accepted < window;
            let message = may_send.then(|| submit(&self.topics, &next));
            match self.step(message).await? {
                Step::Sent => {
                    open.insert(std::mem::replace(&mut next, job()));
                    sent += 1;
                }
                Step::Heard(message) => {
                    if let Some((_, Up::Job(id))) = self.topics.parse_up(&message.topic)
                        && open.remove(&id)
                    {
                        check(&id, &message.body)?;
                        accepted += 1;
                    }
                }
                Step::Acknowledged => {}
            }
        }
        Ok(clock::now().since(began))
    }

    /// One step: an acknowledgement, a message on its way, or one that arrived.
    async fn step(&mut self, message: Option<Publish>) -> Result<Step, Failure> {
        for _ in 0..LOOKS_MAX {
            tokio::select! {
                biased;
                // What arrives first: it makes room.
                event = self.events.recv() => match event {
                    Some(event) => if let Some(message) = hear(event, &mut self.acks)? { return Ok(Step::Heard(message)) },
                    None => return Err(Failure::new(Class::Software, "the MQTT client ended by itself")),
                },
                permit = self.commands.reserve(), if message.is_some() || !self.acks.is_empty() => {
                    let Ok(permit) = permit else { continue };
                    if let Some(ack) = self.acks.pop_front() {
                        permit.send(Command::Ack(ack));
                        return Ok(Step::Acknowledged);
                    }
                    if let Some(message) = message {
                        permit.send(Command::Publish { message, token: None });
                        return Ok(Step::Sent);
                    }
                }
                () = tokio::time::sleep(LOOK) => go_on(self.interrupt)?,
            }
        }
        let text = format!(
            "nothing has arrived for {} s; see whether broker and agent still run",
            (LOOK * LOOKS_MAX).as_secs()
        );
        Err(Failure::new(Class::Unavailable, text))
    }

    async fn next(&mut self) -> Result<Publish, Failure> {
        loop {
            if let Step::Heard(message) = self.step(None).await? {
                return Ok(message);
            }
        }
    }

    /// Says goodbye to the broker.
    pub(super) async fn close(mut self) {
        if self.commands.send(Command::Shutdown { last_words: None }).await.is_ok() {
            let closed = async { while !matches!(self.events.recv().await, Some(Event::Closed) | None) {} };
            let _ = timeout(GOODBYE, closed).await;
        }
    }
}

enum Step {
    Acknowledged,
    Sent,
    Heard(Publish),
}

/// Takes in what the link tells: a message, and the acknowledgement that it is owed.
fn hear(event: Event, acks: &mut VecDeque<AckToken>) -> Result<Option<Publish>, Failure> {
    match event {
        Event::Received(received) => {
            acks.extend(received.ack);
            Ok(Some(received.message))
        }
        Event::Down { why, .. } => {
            Err(Failure::new(Class::Unavailable, format!("the bench lost its own broker: {why}")))
        }
        Event::Refused { why, .. } => Err(Failure::new(Class::Software, why)),
        Event::Up { .. } | Event::Delivered { .. } | Event::Closed => Ok(None),
    }
}

fn base(topics: &Topics) -> String {
    let state = topics.state();
    state.strip_suffix("/up/state").unwrap_or(&state).to_owned()
}

fn job() -> JobId {
    messages::new_id().parse().expect("a UUID is a job id")
}

fn submit(topics: &Topics, id: &JobId) -> Publish {
    Publish {
        content_type: Some(messages::JSON.to_owned()),
        ..session::message(topics.submit(id), rig::SUBMIT.as_bytes().to_vec(), 3600)
    }
}

/// A job that was refused, or that runs, makes the figures worthless.
fn check(id: &JobId, body: &[u8]) -> Result<(), Failure> {
    let status = Status::parse(body).map_err(|error| Failure::new(Class::Software, error.to_string()))?;
    if status.status == State::Queued {
        return Ok(());
    }
    let why = status.error.map_or(status.reason, |error| error.message);
    Err(Failure::new(Class::Software, format!("job {id} is {}: {why}", status.status.as_str())))
}
