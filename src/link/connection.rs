//! What does one connection owe, and when is it to be given up? Pure: the client in [`super::mqtt`] tells what it hears
//! and does what it is told.
//!
//! A connection opens (CONNACK, SUBACK), is up, and closes. It keeps the window, matches answers to messages, lets each
//! received message be acknowledged once, and dies with everything it still holds: the owner's outbox is the only truth.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::backoff::Cause;
use super::fit;
use super::inflight::{Inflight, Unacknowledged};
use super::{AckToken, Event, Publish, Qos, Received, packet_bytes};
use crate::units::WallTime;

#[cfg(test)]
mod tests;

/// QoS 1 publishes on their way at once.
pub(super) const WINDOW_MAX: u16 = 64;
/// Received messages that the owner has not acknowledged; announced to the broker. Twice what one commit takes, so that
/// the next ones arrive while the disk is waited for.
pub(super) const RECEIVE_MAX: u16 = 128;
/// The same in bytes: from there on nothing is heard, so one packet more is the most that is held.
const UNACKNOWLEDGED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How many we bear: Mosquitto 2.0.11 sends up to 30 where it was allowed 16, rumqttd 100 whatever it was allowed.
pub(super) const UNACKNOWLEDGED_MAX: usize = 256;
/// Acknowledgements that the client has not sent yet; more wait. It reads ten packets for each that it sends.
pub(super) const ACKS_MAX: usize = 128;
/// QoS 0 publishes that the client has not sent yet; more are dropped, as QoS 0 allows.
pub(super) const TELEMETRY_MAX: usize = 32;
/// Publishes that wait for the window.
const WAITING_MAX: usize = 256;
/// Events that wait for the owner.
pub(super) const EVENTS_MAX: usize = 4096;
/// Time for the last words to be acknowledged.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Time for DISCONNECT to leave.
const GOODBYE: Duration = Duration::from_millis(500);
/// Bytes of received messages that wait for the owner, above which the broker is not heard: one largest packet, or
/// many small ones.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// What a connection needs to know of the settings.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// Counts connections.
    pub(super) epoch: u64,
    /// Silence of three of these ends the connection.
    pub(super) keep_alive: Duration,
    /// Our packet limit.
    pub(super) packet_bytes_max: usize,
    /// Topic filters, in the order they are subscribed.
    pub(super) filters: Vec<String>,
}

/// What the client hears from the broker, or reports of what it sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Heard {
    /// CONNACK.
    Connected { session_present: bool, receive_max: Option<u16>, packet_bytes_max: Option<usize>, qos_max: Option<u8> },
    /// SUBACK: for each filter, why it was refused, if it was.
    Subscribed(Vec<Option<String>>),
    /// A message, with its packet id when it is QoS 1.
    Message { message: Publish, packet: Option<u16> },
    /// PUBACK, with the reason when it is a refusal.
    Answered { packet: u16, refusal: Option<String> },
    /// A QoS 1 publish was sent under this id.
    Published(u16),
    /// A QoS 1 publish is held back until this id is free.
    HeldBack(u16),
    /// A QoS 0 publish was sent.
    TelemetrySent,
    /// An acknowledgement was sent.
    AckSent,
    /// DISCONNECT was sent.
    Disconnected,
    /// Something else was sent.
    Sent,
    /// Anything else that the broker may say, such as the answer to a ping.
    Alive,
    /// Something that it may not.
    Nonsense(&'static str),
}

/// What the client is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    Subscribe,
    Publish(Publish),
    Acknowledge(u16),
    Disconnect,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) why: String,
}

impl Failure {
    pub(super) fn lost(why: impl ToString) -> Self {
        Self { cause: Cause::Lost, why: why.to_string() }
    }

    pub(super) fn auth(why: impl ToString) -> Self {
        Self { cause: Cause::Auth, why: why.to_string() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until SUBACK.
    Opening,
    Up,
    /// Last words were given; they have until this moment.
    Closing(Instant),
    /// DISCONNECT was requested; it has until this moment to leave.
    Leaving(Instant),
    /// Another connection follows: what is on its way has until this moment to arrive.
    MakingWay(Instant),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    terms: Terms,
    phase: Phase,
    /// CONNACK has come; a second one is nonsense.
    greeted: bool,
    session_present: bool,
    up_since: Option<Instant>,
    window: usize,
    packet_bytes_max: usize,
    waiting: VecDeque<(Publish, Option<u64>)>,
    inflight: Inflight,
    telemetry: usize,
    unacknowledged: Unacknowledged,
    /// Acknowledgements that wait for the client; each belongs to another packet id, so there are never too many.
    acks_waiting: VecDeque<u16>,
    /// Acknowledgements that the client has not sent yet.
    acks: usize,
    /// The broker last said anything.
    heard: Instant,
    /// The broker last answered a publish, or was given the first of several.
    answered: Instant,
    /// A refusal that nobody waits for is logged once a connection.
    refusal_logged: bool,
    requests: VecDeque<Request>,
    events: VecDeque<Event>,
    /// Size of the messages among the events.
    event_bytes: usize,
}

impl Connection {
    /// A connection that is being opened; `events` are those that the owner has not been told yet.
    pub(super) fn new(terms: Terms, events: VecDeque<Event>, now: Instant) -> Self {
        Self {
            phase: Phase::Opening,
            greeted: false,
            session_present: false,
            up_since: None,
            window: WINDOW_MAX.into(),
            packet_bytes_max: terms.packet_bytes_max,
            waiting: VecDeque::new(),
            inflight: Inflight::default(),
            telemetry: 0,
            unacknowledged: Unacknowledged::default(),
            acks_waiting: VecDeque::new(),
            acks: 0,
            heard: now,
            answered: now,
            refusal_logged: false,
            requests: VecDeque::new(),
            event_bytes: events.iter().map(bytes_of).sum(),
            events,
            terms,
        }
    }

    /// The next thing to do.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// Whether the owner has something to be told.
    pub(super) fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next thing to tell the owner.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.event_bytes -= bytes_of(&event);
        Some(event)
    }

    /// What the owner has not been told yet.
    pub(super) fn into_events(self) -> VecDeque<Event> {
        self.events
    }

    /// How long it has been up.
    pub(super) fn up_for(&self, now: Instant) -> Duration {
        self.up_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// Whether the owner's next command can be taken: what follows from it has a place.
    pub(super) fn takes_commands(&self) -> bool {
        match self.phase {
            Phase::Opening | Phase::Up => self.waiting.len() < WAITING_MAX && self.events.len() < EVENTS_MAX,
            Phase::Closing(_) | Phase::Leaving(_) | Phase::MakingWay(_) => false,
        }
    }

    /// Whether the broker may be heard: one that sends more than it was allowed, or more bytes than the owner takes,
    /// waits until the owner has caught up. Not while commands are left lying, because only the broker's answers make
    /// room for them.
    pub(super) fn listens(&self) -> bool {
        let (unacknowledged, bytes) = (self.unacknowledged.len(), self.unacknowledged.bytes());
        let is_allowed = unacknowledged <= RECEIVE_MAX.into() && bytes <= UNACKNOWLEDGED_BYTES_MAX;
        let has_room = is_allowed && self.event_bytes <= EVENT_BYTES_MAX;
        has_room || !self.takes_commands()
    }

    /// When to call [`Connection::on_timeout`].
    pub(super) fn next_timeout(&self) -> Instant {
        let patience = 3 * self.terms.keep_alive;
        match self.phase {
            Phase::Closing(until) | Phase::Leaving(until) | Phase::MakingWay(until) => until,
            Phase::Up if self.inflight.is_empty() => self.heard + patience,
            Phase::Opening | Phase::Up => self.answered.min(self.heard) + patience,
        }
    }

    /// Nothing happened for too long: `Ok` when the end was wanted.
    pub(super) fn on_timeout(&self) -> Result<(), Failure> {
        self.on_end(Failure::lost("connected, but the broker has not answered for three keep-alives"))
    }

    /// The client lost the broker: `Ok` when the end was wanted.
    pub(super) fn on_end(&self, failure: Failure) -> Result<(), Failure> {
        match self.phase {
            Phase::Closing(_) | Phase::Leaving(_) | Phase::MakingWay(_) => Ok(()),
            Phase::Opening | Phase::Up => Err(failure),
        }
    }

    /// Whether it is over, as wanted.
    pub(super) fn is_done(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Closing(until) | Phase::Leaving(until) | Phase::MakingWay(until) => until <= now,
            Phase::Opening | Phase::Up => false,
        }
    }

    /// Whether another connection is to follow at once.
    pub(super) fn makes_way(&self) -> bool {
        matches!(self.phase, Phase::MakingWay(_))
    }

    // ---- what the owner asks ----

    /// Publish. Before up and after shutdown it is dropped: the owner offers it again after the next up.
    pub(super) fn publish(&mut self, message: Publish, token: Option<u64>, now: Instant) {
        if self.phase != Phase::Up {
            return;
        }
        if let Some(why) = fit::unfit(&message, self.packet_bytes_max) {
            self.refuse(token, why);
            return;
        }
        match message.qos {
            Qos::AtMostOnce if self.telemetry < TELEMETRY_MAX => {
                self.telemetry += 1;
                self.requests.push_back(Request::Publish(message));
            }
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.waiting.push_back((message, token)),
        }
        self.pump(now);
    }

    /// Acknowledge a received message: once, in its turn, and only one of this connection.
    pub(super) fn acknowledge(&mut self, token: AckToken) {
        if token.epoch == self.terms.epoch {
            self.acks_waiting.extend(self.unacknowledged.done(token.packet));
            self.pump_acks();
        }
    }

    fn pump_acks(&mut self) {
        while self.acks < ACKS_MAX
            && let Some(packet) = self.acks_waiting.pop_front()
        {
            self.acks += 1;
            self.requests.push_back(Request::Acknowledge(packet));
        }
    }

    /// Send what waits and the last words, disconnect, be done.
    pub(super) fn shut_down(&mut self, last_words: Option<Publish>, now: Instant) {
        match self.phase {
            Phase::Closing(_) | Phase::Leaving(_) | Phase::MakingWay(_) => {}
            // Nobody has heard of this connection yet.
            Phase::Opening => self.phase = Phase::Leaving(now),
            Phase::Up => {
                self.phase = Phase::Closing(now + LAST_WORDS);
                self.waiting.extend(last_words.map(|message| (message, None)));
                self.pump(now);
            }
        }
    }

    /// Send what waits, and end for another connection. There is no goodbye: the session goes on, and so does the
    /// Will, should there be no other connection after all.
    pub(super) fn make_way(&mut self, now: Instant) {
        match self.phase {
            Phase::Closing(_) | Phase::Leaving(_) | Phase::MakingWay(_) => {}
            Phase::Opening => self.phase = Phase::MakingWay(now),
            Phase::Up => {
                self.phase = Phase::MakingWay(now + LAST_WORDS);
                self.pump(now);
            }
        }
    }

    // ---- what the client hears ----

    /// Takes in what the client heard.
    pub(super) fn on_heard(&mut self, heard: Heard, now: Instant, wall: WallTime) -> Result<(), Failure> {
        match heard {
            Heard::Published(packet) => return self.inflight.published(packet).map_err(Failure::lost),
            Heard::HeldBack(packet) => return self.inflight.stash(packet).map_err(Failure::lost),
            Heard::TelemetrySent => self.telemetry = self.telemetry.saturating_sub(1),
            Heard::AckSent => {
                self.acks = self.acks.saturating_sub(1);
                self.pump_acks();
            }
            Heard::Disconnected => {
                // The library also says so when it gives up by itself.
                self.on_end(Failure::lost("the broker breaks the protocol"))?;
                self.phase = Phase::Leaving(now);
            }
            Heard::Connected { session_present, receive_max, packet_bytes_max, qos_max } => {
                self.heard = now;
                if std::mem::replace(&mut self.greeted, true) {
                    return Err(Failure::lost("the broker sent CONNACK twice"));
                }
                if qos_max == Some(0) {
                    return Err(Failure::lost("the broker allows QoS 0 only; results need QoS 1"));
                }
                if receive_max == Some(0) || packet_bytes_max == Some(0) {
                    return Err(Failure::lost("the broker allows 0 messages in flight or packets of 0 bytes"));
                }
                self.session_present = session_present;
                // One below the broker's limit: at its limit the client would hold back acknowledgements too.
                self.window = receive_max.map_or(WINDOW_MAX, |max| max.saturating_sub(1).clamp(1, WINDOW_MAX)).into();
                self.packet_bytes_max = packet_bytes_max.unwrap_or(usize::MAX).min(self.terms.packet_bytes_max);
                if self.terms.filters.is_empty() {
                    self.come_up(now);
                } else {
                    self.requests.push_back(Request::Subscribe);
                }
            }
            Heard::Subscribed(refusals) => {
                self.heard = now;
                self.check_subscriptions(&refusals)?;
                self.come_up(now);
            }
            Heard::Message { message, packet } => {
                self.heard = now;
                return self.receive(message, packet, wall);
            }
            Heard::Answered { packet, refusal } => {
                (self.heard, self.answered) = (now, now);
                let token = self.inflight.acknowledged(packet).map_err(Failure::lost)?;
                match refusal {
                    None => self.events.extend(token.map(|token| Event::Delivered { token })),
                    Some(why) => self.refuse(token, why),
                }
                self.pump(now);
            }
            Heard::Sent => {}
            Heard::Alive => self.heard = now,
            Heard::Nonsense(why) => return Err(Failure::lost(why)),
        }
        Ok(())
    }

    fn check_subscriptions(&self, refusals: &[Option<String>]) -> Result<(), Failure> {
        if refusals.len() != self.terms.filters.len() {
            return Err(Failure::lost("the broker did not answer every subscription"));
        }
        let mut answers = self.terms.filters.iter().zip(refusals);
        match answers.find_map(|(filter, refusal)| Some((filter, refusal.as_ref()?))) {
            Some((filter, why)) => {
                Err(Failure::auth(format!("the broker refuses the subscription to {filter}: {why}; check its ACL")))
            }
            None => Ok(()),
        }
    }

    fn come_up(&mut self, now: Instant) {
        if self.phase != Phase::Opening {
            return;
        }
        self.phase = Phase::Up;
        self.up_since = Some(now);
        self.events.push_back(Event::Up {
            epoch: self.terms.epoch,
            session_present: self.session_present,
            packet_bytes_max: self.packet_bytes_max,
        });
    }

    fn receive(&mut self, message: Publish, packet: Option<u16>, wall: WallTime) -> Result<(), Failure> {
        let ack = match packet {
            None if self.events.len() > EVENTS_MAX / 2 || self.event_bytes > EVENT_BYTES_MAX => return Ok(()),
            None => None,
            Some(packet) if self.unacknowledged.received(packet, packet_bytes(&message), UNACKNOWLEDGED_MAX) => {
                Some(AckToken { epoch: self.terms.epoch, packet })
            }
            Some(_) => return Err(Failure::lost("the broker sends far more at once than it was allowed")),
        };
        let event = Event::Received(Received { message, at: wall, ack });
        self.event_bytes += bytes_of(&event);
        self.events.push_back(event);
        Ok(())
    }

    fn refuse(&mut self, token: Option<u64>, why: String) {
        if let Some(token) = token {
            self.events.push_back(Event::Refused { token, why });
        } else if !self.refusal_logged {
            self.refusal_logged = true;
            tracing::warn!(why, "a message was refused; further refusals on this connection are not logged");
        }
    }

    /// Sends what the window allows; when closing and nothing is left, says goodbye.
    fn pump(&mut self, now: Instant) {
        while self.inflight.len() < self.window
            && let Some((message, token)) = self.waiting.pop_front()
        {
            if self.inflight.is_empty() {
                self.answered = now;
            }
            self.inflight.enqueue(token);
            self.requests.push_back(Request::Publish(message));
        }
        match self.phase {
            Phase::Closing(_) if self.inflight.is_empty() && self.waiting.is_empty() => {
                self.phase = Phase::Leaving(now + GOODBYE);
                self.requests.push_back(Request::Disconnect);
            }
            Phase::MakingWay(_) if self.inflight.is_empty() && self.waiting.is_empty() => {
                self.phase = Phase::MakingWay(now);
            }
            Phase::Opening | Phase::Up | Phase::Closing(_) | Phase::Leaving(_) | Phase::MakingWay(_) => {}
        }
    }
}

/// What a received message takes in memory, about.
fn bytes_of(event: &Event) -> usize {
    match event {
        Event::Received(received) => fit::packet_bytes(&received.message),
        Event::Up { .. } | Event::Down { .. } | Event::Delivered { .. } | Event::Refused { .. } | Event::Closed => 0,
    }
}
