//! How do messages reach the broker and come back? MQTT 5 through rumqttc, the only file that names it.
//!
//! Two tasks. One owns a rumqttc event loop and does nothing but poll it, under a time limit, for the life of one
//! connection; at the first error it and everything in it is dropped. The other joins the owner's channels to a
//! `Connection`, which decides (`link/connection.rs`), and waits between connections. Nothing undelivered survives a
//! connection here; the owner's outbox offers it again.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, LastWillProperties, Packet, PubAck,
    PubAckReason, Publish as Packed, PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event as Step, EventLoop, MqttOptions, Request as Ask, StateError};
use rumqttc::{NetworkOptions, Outgoing, Transport};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

pub use super::backoff::Backoff;
use super::backoff::{Cause, Delays};
use super::connection::{
    ACKS_MAX, Connection, EVENTS_MAX, Failure, Heard, RECEIVE_MAX, Request, TELEMETRY_MAX, Terms, WINDOW_MAX,
};
use super::contained::contained;
pub use super::contained::panic_is_contained;
use super::fit::packet_bytes;
use super::messages::JSON;
pub use super::settings::{BadSettings, Settings, WallClock};
use super::tls::bridge::{self, Crossing};
use super::tls::{Keeper, renewed};
use super::{Command, Ends, Event, Publish, Qos};

#[cfg(test)]
mod tests;
mod words;

use words::{heard, payload_format, properties, qos};

/// Commands that wait for the link, and events that wait for the owner.
const CHANNEL_MAX: usize = 64;
/// The library's own window: larger than ours, because at its limit it would hold back acknowledgements too.
const LIBRARY_WINDOW: u16 = 2 * WINDOW_MAX;
/// The library's request channel: never full, because everything that enters it is counted by the connection.
const REQUESTS_MAX: usize = 512;
/// KiB of messages that were read and wait for the other task; a larger one passes alone.
const READ_KIB_MAX: u32 = 1024;
/// Time for the library's loop to say why it ended.
const GOODBYE: Duration = Duration::from_millis(500);
/// Time to connect, until CONNACK.
const CONNECT_SECONDS: u64 = 10;

const _: () = assert!(
    REQUESTS_MAX > WINDOW_MAX as usize + ACKS_MAX + TELEMETRY_MAX + 2,
    "publishes, acknowledgements, telemetry, SUBSCRIBE and DISCONNECT fit the request channel together"
);

/// Starts the link on the current tokio runtime.
///
/// It ends after [`Command::Shutdown`], or when either channel is dropped.
///
/// # Errors
/// Settings that cannot work; see [`Settings::check`].
pub fn start(settings: Settings, wall: WallClock) -> Result<Ends, BadSettings> {
    settings.check()?;
    let tls = settings.keeper()?;
    let (command_sender, commands) = mpsc::channel(CHANNEL_MAX);
    let (events, event_receiver) = mpsc::channel(CHANNEL_MAX);
    let delays = Delays::new(settings.backoff);
    let link = Link { settings, tls, wall, commands, events, pending: VecDeque::new(), delays, epoch: 0 };
    tokio::spawn(link.run());
    Ok((command_sender, event_receiver))
}

struct Link {
    settings: Settings,
    tls: Option<Keeper>,
    wall: WallClock,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    pending: VecDeque<Event>,
    delays: Delays,
    epoch: u64,
}

impl Link {
    async fn run(mut self) {
        loop {
            self.epoch += 1;
            let (failure, up_for) = match self.connection().await {
                Ok(End::Asked) => break,
                Ok(End::Renewed) => {
                    tracing::info!("new certificates: the connection is made again with them");
                    let why = "the connection is made again with new certificates".to_owned();
                    self.pending.push_back(Event::Down { why, cause: Cause::Lost, retry_in_ms: 0 });
                    continue;
                }
                Err(ended) => ended,
            };
            let wait = self.delays.next(failure.cause, up_for, RandomState::new().build_hasher().finish());
            let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(why = failure.why, retry_in_ms, "not connected to the broker");
            self.pending.push_back(Event::Down { why: failure.why, cause: failure.cause, retry_in_ms });
            if self.rest(Instant::now() + wait).await.is_none() {
                break;
            }
        }
        self.pending.push_back(Event::Closed);
        for event in self.pending {
            if self.events.send(event).await.is_err() {
                // The owner is gone already; nobody is left to be told.
                break;
            }
        }
    }

    /// Waits while not connected; `None` when asked to end. Publishes and acknowledgements are dropped: they belong
    /// to the connection that ended.
    async fn rest(&mut self, until: Instant) -> Option<()> {
        loop {
            tokio::select! {
                permit = self.events.reserve(), if !self.pending.is_empty() => {
                    let (permit, event) = (permit.ok()?, self.pending.pop_front()?);
                    permit.send(event);
                }
                command = self.commands.recv() => match command? {
                    Command::Publish { .. } | Command::Ack(_) => {}
                    Command::Shutdown { .. } => return None,
                },
                () = self.events.closed() => return None,
                // An owner that does not listen gets no new connection.
                () = sleep_until(until), if self.pending.len() < EVENTS_MAX => return Some(()),
                // They may be what was wrong.
                () = renewed(&mut self.tls) => return Some(()),
                () = self.settings.heartbeat.beat() => {}
            }
        }
    }

    /// One connection from its start to its end: `Ok` when that was wanted, else why, and how long it was up.
    async fn connection(&mut self) -> Result<End, (Failure, Duration)> {
        let terms = Terms {
            epoch: self.epoch,
            keep_alive: self.settings.keep_alive,
            packet_bytes_max: self.settings.packet_bytes_max,
            filters: self.settings.subscriptions.iter().map(|(filter, _)| filter.clone()).collect(),
        };
        let events = std::mem::take(&mut self.pending);
        let mut connection = Connection::new(terms, events, Instant::now().into_std());
        let outcome = self.drive(&mut connection).await;
        let up_for = connection.up_for(Instant::now().into_std());
        let end = if connection.makes_way() { End::Renewed } else { End::Asked };
        self.pending = connection.into_events();
        outcome.map(|()| end).map_err(|failure| (failure, up_for))
    }

    async fn drive(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        let (client, mut polled, tasks) = open(&self.settings, self.tls.as_ref(), self.wall)?;
        let outcome = self.converse(connection, &client, &mut polled).await;
        tasks.end().await;
        outcome
    }

    async fn converse(
        &mut self,
        connection: &mut Connection,
        client: &AsyncClient,
        polled: &mut mpsc::Receiver<Polled>,
    ) -> Result<(), Failure> {
        loop {
            tokio::select! {
                permit = self.events.reserve(), if connection.has_event() => match permit {
                    Ok(permit) => {
                        if let Some(event) = connection.next_event() {
                            permit.send(event);
                        }
                    }
                    Err(_) => return Ok(()),
                },
                heard = polled.recv(), if connection.listens() => match heard {
                    Some(Polled::Heard(heard, _room)) => {
                        connection.on_heard(*heard, Instant::now().into_std(), (self.wall)())?;
                    }
                    Some(Polled::Ended(failure)) => return connection.on_end(failure),
                    None => return connection.on_end(Failure::lost("the client task has ended")),
                },
                command = self.commands.recv(), if connection.takes_commands() => {
                    let now = Instant::now().into_std();
                    match command {
                        Some(Command::Publish { message, token }) => connection.publish(message, token, now),
                        Some(Command::Ack(token)) => connection.acknowledge(token),
                        Some(Command::Shutdown { last_words }) => connection.shut_down(last_words, now),
                        None => connection.shut_down(None, now),
                    }
                }
                () = sleep_until(Instant::from_std(connection.next_timeout())) => return connection.on_timeout(),
                () = renewed(&mut self.tls) => connection.make_way(Instant::now().into_std()),
                () = self.settings.heartbeat.beat() => {}
            }
            while let Some(request) = connection.next_request() {
                if !self.act(client, request) {
                    return self.hear_out(connection, polled).await;
                }
            }
            if connection.is_done(Instant::now().into_std()) {
                return Ok(());
            }
        }
    }

    /// The library takes no more requests: its loop has ended. What it had still heard, and why it ended, is on its way.
    async fn hear_out(&self, connection: &mut Connection, polled: &mut mpsc::Receiver<Polled>) -> Result<(), Failure> {
        loop {
            match timeout(GOODBYE, polled.recv()).await {
                Ok(Some(Polled::Heard(heard, _room))) => {
                    connection.on_heard(*heard, Instant::now().into_std(), (self.wall)())?;
                }
                Ok(Some(Polled::Ended(failure))) => return connection.on_end(failure),
                Ok(None) | Err(_) => return connection.on_end(Failure::lost("the client takes no more requests")),
            }
        }
    }

    /// Whether the library takes the request.
    fn act(&self, client: &AsyncClient, request: Request) -> bool {
        let taken = match request {
            Request::Subscribe => {
                client.try_subscribe_many(self.settings.subscriptions.iter().map(|(path, wanted)| {
                    Filter {
                        path: path.clone(),
                        qos: qos(*wanted),
                        nolocal: false,
                        // A command published with the retain flag must be seen as such to be refused.
                        preserve_retain: true,
                        retain_forward_rule: RetainForwardRule::OnEverySubscribe,
                    }
                }))
            }
            Request::Publish(message) => {
                let properties = properties(&message);
                let Publish { topic, body, retain, qos: level, .. } = message;
                client.try_publish_with_properties(topic, qos(level), retain, body, properties)
            }
            Request::Acknowledge(packet) => {
                client.try_ack(&Packed { qos: QoS::AtLeastOnce, pkid: packet, ..Packed::default() })
            }
            Request::Disconnect => client.try_disconnect(),
        };
        taken.is_ok()
    }
}

// ---- the task that polls ----

enum Polled {
    /// With the room that it takes until it is heard.
    Heard(Box<Heard>, OwnedSemaphorePermit),
    Ended(Failure),
}

/// How a connection ended that was not lost.
enum End {
    /// As asked.
    Asked,
    /// For the next one, with new certificates.
    Renewed,
}

/// The tasks of a connection, which ends with them.
#[derive(Default)]
struct Tasks {
    poller: JoinSet<()>,
    /// Carries the client's bytes, where there is TLS.
    bridge: JoinSet<()>,
}

impl Tasks {
    /// Ends the client, and waits a moment for what it said last to leave.
    async fn end(mut self) {
        self.poller.shutdown().await;
        let _ = timeout(GOODBYE, self.bridge.join_next()).await;
    }
}

fn open(
    settings: &Settings,
    tls: Option<&Keeper>,
    wall: WallClock,
) -> Result<(AsyncClient, mpsc::Receiver<Polled>, Tasks), Failure> {
    let mut tasks = Tasks::default();
    let no_socket = |error| Failure::lost(format!("no socket for the TLS connection: {error}"));
    let bridge = tls.map(|tls| bridge::open(settings.way(tls, wall))).transpose().map_err(no_socket)?;
    let (path, crossing) = match bridge {
        Some((path, crossing, carry)) => {
            tasks.bridge.spawn(carry);
            (Some(path), Some(crossing))
        }
        None => (settings.is_socket().then(|| settings.host.clone()), None),
    };
    let (client, event_loop) = AsyncClient::new(options(settings, path)?, REQUESTS_MAX);
    let (sender, polled) = mpsc::channel(CHANNEL_MAX);
    tasks.poller.spawn(poll(event_loop, settings.clone(), crossing, sender));
    Ok((client, polled, tasks))
}

async fn poll(
    mut event_loop: EventLoop,
    settings: Settings,
    mut crossing: Option<Crossing>,
    sender: mpsc::Sender<Polled>,
) {
    if let Some(crossing) = &mut crossing
        && let Err(failure) = crossing.ready().await
    {
        // When nobody listens any more the connection was given up already.
        let _ = sender.send(Polled::Ended(failure)).await;
        return;
    }
    let room = Arc::new(Semaphore::new(READ_KIB_MAX as usize));
    let own = settings.keep_alive;
    let mut pinged = false;
    let failure = loop {
        // A broker that wants a longer keep-alive still has to show us that it lives: we ping at our own pace.
        let pings = event_loop.options.keep_alive() > own;
        // A write to a peer that stopped reading blocks the whole loop, keep-alive included.
        let limit = if pings { own } else { 2 * own };
        let step = match timeout(limit, contained(event_loop.poll())).await {
            Ok(Ok(Ok(step))) => step,
            Ok(Ok(Err(error))) => break failure(&error, &settings, crossing.as_ref().and_then(Crossing::fate)),
            Ok(Err(panic)) => break Failure::lost(format!("the MQTT library panicked: {panic}")),
            Err(_) if pings && !pinged => {
                pinged = true;
                event_loop.pending.push_back(Ask::PingReq);
                continue;
            }
            Err(_) => break Failure::lost("the connection stands still for two keep-alives"),
        };
        pinged = false;
        if event_loop.options.keep_alive().is_zero() {
            // The broker switched keep-alive off; the library would then ping without a pause.
            event_loop.options.set_keep_alive(own);
        }
        if hand_over(step, &room, &sender).await.is_none() {
            return;
        }
    };
    // Answers that were read together with the error are still answers.
    for step in event_loop.state.events.drain(..).filter(|step| matches!(step, Step::Incoming(Packet::PubAck(_)))) {
        if hand_over(step, &room, &sender).await.is_none() {
            return;
        }
    }
    // When nobody listens any more the connection was given up already.
    let _ = sender.send(Polled::Ended(failure)).await;
}

/// `None` when nobody listens any more.
async fn hand_over(step: Step, room: &Arc<Semaphore>, sender: &mpsc::Sender<Polled>) -> Option<()> {
    let heard = heard(step);
    let bytes = if let Heard::Message { message, .. } = &heard { packet_bytes(message) } else { 0 };
    let kibibytes = u32::try_from(bytes / 1024).map_or(READ_KIB_MAX, |needed| needed.min(READ_KIB_MAX));
    let permit = Arc::clone(room).acquire_many_owned(kibibytes).await.ok()?;
    sender.send(Polled::Heard(Box::new(heard), permit)).await.ok()
}

/// Why the library gave up; `fate`: why what is below it did.
fn failure(error: &ConnectionError, settings: &Settings, fate: Option<Failure>) -> Failure {
    let broker = settings.broker();
    if let ConnectionError::ConnectionRefused(code) = error {
        let auth = matches!(
            code,
            ConnectReturnCode::NotAuthorized
                | ConnectReturnCode::BadUserNamePassword
                | ConnectReturnCode::Banned
                | ConnectReturnCode::BadAuthenticationMethod
                | ConnectReturnCode::ClientIdentifierNotValid
                | ConnectReturnCode::BadClientId
        );
        let why = format!("broker {broker} refuses client {:?}: {code:?}", settings.client_id);
        return if auth { Failure::auth(why) } else { Failure::lost(why) };
    }
    if let ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) = error {
        if *reason_code == DisconnectReasonCode::SessionTakenOver {
            let id = &settings.client_id;
            let why = format!("session taken over: another client uses client id {id:?}; give each node its own");
            return Failure { cause: Cause::TakenOver, why };
        }
        let said = reason_string.as_deref().map(|said| format!(", {said:?}")).unwrap_or_default();
        let why = format!("broker {broker} ended the connection: {reason_code:?}{said}");
        let auth = *reason_code == DisconnectReasonCode::NotAuthorized;
        return if auth { Failure::auth(why) } else { Failure::lost(why) };
    }
    if let Some(fate) = fate {
        return fate;
    }
    if let ConnectionError::Timeout(_) = error {
        return Failure::lost(format!("broker {broker} does not answer within {CONNECT_SECONDS} s"));
    }
    if let ConnectionError::MqttState(StateError::ConnectionAborted) = error {
        // Mosquitto 2.0 says nothing else when it throws a client out for another of the same id.
        let id = &settings.client_id;
        let why = format!(
            "broker {broker} closed the connection; if this repeats, see whether client id {id:?} is used twice"
        );
        return Failure::lost(why);
    }
    Failure::lost(format!("connection to broker {broker}: {error}"))
}

/// With the path of a Unix socket where it leads to one.
fn options(settings: &Settings, path: Option<String>) -> Result<MqttOptions, Failure> {
    let mut options = match path {
        Some(path) => {
            let mut options = MqttOptions::new(&settings.client_id, path, 0);
            options.set_transport(Transport::unix());
            options
        }
        None => MqttOptions::new(&settings.client_id, settings.address(), settings.port),
    };
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let seconds = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
    options
        .set_network_options(network)
        .set_connection_timeout(CONNECT_SECONDS)
        .set_keep_alive(settings.keep_alive)
        .set_clean_start(settings.session_expiry.is_zero())
        .set_session_expiry_interval(Some(seconds(settings.session_expiry)))
        .set_max_packet_size(Some(u32::try_from(settings.packet_bytes_max).unwrap_or(u32::MAX)))
        .set_receive_maximum(Some(RECEIVE_MAX))
        .set_manual_acks(true)
        .set_outgoing_inflight_upper_limit(LIBRARY_WINDOW);
    if let Some(user) = &settings.username {
        options.set_credentials(user, settings.password().map_err(Failure::auth)?);
    }
    if let Some(will) = &settings.will {
        let properties = LastWillProperties {
            delay_interval: Some(settings.will_delay_s),
            payload_format_indicator: payload_format(will),
            message_expiry_interval: will.expiry_s,
            content_type: will.content_type.clone(),
            response_topic: None,
            correlation_data: None,
            user_properties: will.properties.clone(),
        };
        options.set_last_will(LastWill::new(
            &will.topic,
            will.body.clone(),
            qos(will.qos),
            will.retain,
            Some(properties),
        ));
    }
    Ok(options)
}
