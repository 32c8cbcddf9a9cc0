//! Does the link keep its word against a real broker?
//!
//! Needs Mosquitto; without it each test says so and does nothing, with `CI=true` it fails.

#![allow(missing_docs)]
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use common::emulation::slow_by;
use common::mosquitto::{Mosquitto, Options};
use neap::link::inflight::Inflight;
use neap::link::mqtt::{self, Settings};
use neap::link::{AckToken, Command, Event, Publish, Qos, Received};
use neap::units::WallTime;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Long enough for a loaded machine; nothing is measured with it.
const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "127.0.0.1";

struct Client {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
}

impl Client {
    fn start(settings: Settings) -> Self {
        let (commands, events) = mqtt::start(settings, || WallTime::from_millis(1)).unwrap();
        Self { commands, events }
    }

    async fn up(settings: Settings) -> Self {
        let mut client = Self::start(settings);
        client.wait_up().await;
        client
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE * slow_by(), self.events.recv()).await.expect("an event in time").expect("a link that lives")
    }

    async fn wait_up(&mut self) -> Event {
        loop {
            match self.event().await {
                Event::Down { .. } => {}
                up @ Event::Up { .. } => return up,
                other => panic!("{other:?}"),
            }
        }
    }

    async fn wait_down(&mut self) -> (String, u64) {
        match self.event().await {
            Event::Down { why, retry_in_ms, .. } => (why, retry_in_ms),
            other => panic!("{other:?}"),
        }
    }

    async fn received(&mut self) -> Received {
        match self.event().await {
            Event::Received(received) => received,
            other => panic!("{other:?}"),
        }
    }

    async fn send(&self, command: Command) {
        timeout(PATIENCE * slow_by(), self.commands.send(command))
            .await
            .expect("room in time")
            .expect("a link that lives");
    }

    async fn publish(&self, message: Publish, token: Option<u64>) {
        self.send(Command::Publish { message, token }).await;
    }

    async fn ack(&self, received: &Received) {
        self.send(Command::Ack(received.ack.expect("a QoS 1 message"))).await;
    }

    async fn shut_down(mut self, last_words: Option<Publish>) {
        self.send(Command::Shutdown { last_words }).await;
        while self.event().await != Event::Closed {}
        assert_eq!(timeout(PATIENCE * slow_by(), self.events.recv()).await.expect("an end in time"), None);
    }
}

fn settings(broker: &Mosquitto, client_id: &str) -> Settings {
    Settings::new(HOST, broker.port(), client_id)
}

fn subscriber(broker: &Mosquitto, client_id: &str, filter: &str) -> Settings {
    Settings { subscriptions: vec![(filter.to_owned(), Qos::AtLeastOnce)], ..settings(broker, client_id) }
}

fn message(topic: &str, body: &[u8]) -> Publish {
    Publish::plain(topic, body.to_vec())
}

#[tokio::test]
async fn a_message_arrives_whole_and_its_delivery_is_told() {
    let Some(broker) = Mosquitto::start(Options::default()) else { return };
    let mut receiver = Client::up(subscriber(&broker, "receiver", "t/#")).await;
    let mut sender = Client::up(settings(&broker, "sender")).await;
    let whole = Publish {
        expiry_s: Some(600),
        content_type: Some("application/json".to_owned()),
        response_topic: Some("t/reply".to_owned()),
        correlation: Some(vec![0, 255, 7]),
        properties: vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "ü".to_owned())],
        ..message("t/x", b"{}")
    };
    sender.publish(whole.clone(), Some(42)).await;
    assert_eq!(sender.event().await, Event::Delivered { token: 42 });
    let received = receiver.received().await;
    assert_eq!(received.message, whole);
    assert_eq!(received.at, WallTime::from_millis(1));
    receiver.ack(&received).await;

    sender.publish(Publish { qos: Qos::AtMostOnce, ..message("t/y", b"telemetry") }, None).await;
    let telemetry = receiver.received().await;
    assert_eq!((telemetry.message.body.as_slice(), telemetry.ack), (b"telemetry".as_slice(), None));
}

#[tokio::test]
async fn a_retained_command_is_seen_as_such() {
    let Some(broker) = Mosquitto::start(Options::default()) else { return };
    let mut receiver = Client::up(subscriber(&broker, "receiver", "t/#")).await;
    let sender = Client::up(settings(&broker, "sender")).await;
    sender.publish(Publish { retain: true, ..message("t/x", b"run me at every connect") }, Some(1)).await;
    assert!(receiver.received().await.message.retain, "although it was published while we were subscribed");
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_and_what_was_does_not() {
    let Some(broker) = Mosquitto::start(Options::default()) else { return };
    let durable = || Settings { session_expiry: Duration::from_secs(60), ..subscriber(&broker, "node", "t/#") };
    let sender = Client::up(settings(&broker, "sender")).await;

    let mut first = Client::up(durable()).await;
    sender.publish(message("t/x", b"a"), None).await;
    let stale = first.received().await;
    first.shut_down(None).await;

    let mut second = Client::start(durable());
    let (mut up, mut again) = (None, None);
    while up.is_none() || again.is_none() {
        match second.event().await {
            event @ Event::Up { .. } => up = Some(event),
            Event::Received(received) => again = Some(received),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(up, Some(Event::Up { session_present: true, .. })), "{up:?}");
    let again = again.unwrap();
    assert_eq!(again.message, stale.message);
    second.ack(&again).await;
    second.shut_down(None).await;

    let mut third = Client::up(durable()).await;
    sender.publish(message("t/x", b"b"), None).await;
    assert_eq!(third.received().await.message.body, b"b", "the acknowledged one did not come again");
}

#[tokio::test]
async fn an_acknowledgement_of_another_connection_is_dropped() {
    let Some(broker) = Mosquitto::start(Options::default()) else { return };
    let mut receiver = Client::up(subscriber(&broker, "receiver", "t/#")).await;
    let mut sender = Client::up(settings(&broker, "sender")).await;
    for packet in 0..5 {
        receiver.send(Command::Ack(AckToken { epoch: 0, packet })).await;
        receiver.send(Command::Ack(AckToken { epoch: 1, packet })).await;
    }
    sender.publish(message("t/x", b"a"), Some(1)).await;
    assert_eq!(sender.event().await, Event::Delivered { token: 1 });
    assert_eq!(receiver.received().await.message.body, b"a", "the broker was not told nonsense");
}

#[tokio::test]
async fn nothing_is_lost_when_the_broker_is_killed() {
    let Some(mut broker) = Mosquitto::start(Options::default()) else { return };
    let mut receiver = Client::up(subscriber(&broker, "receiver", "t/#")).await;
    let mut sender = Client::up(settings(&broker, "sender")).await;
    sender.publish(message("t/x", b"before"), Some(1)).await;
    assert_eq!(sender.event().await, Event::Delivered { token: 1 });
    let before = receiver.received().await;
    receiver.ack(&before).await;

    broker.kill();
    let (why, _) = sender.wait_down().await;
    assert!(why.contains(&broker.port().to_string()), "{why}");
    receiver.wait_down().await;
    // Offered while down: dropped, and offered again after Up, as an outbox does.
    sender.publish(message("t/x", b"after"), Some(2)).await;
    broker.restart();
    assert!(matches!(receiver.wait_up().await, Event::Up { epoch: 2.., session_present: false, .. }));
    sender.wait_up().await;
    sender.publish(message("t/x", b"after"), Some(2)).await;
    assert_eq!(sender.event().await, Event::Delivered { token: 2 });
    assert_eq!(receiver.received().await.message.body, b"after");
}

#[tokio::test]
async fn a_denied_topic_is_refused_with_its_reason_and_the_connection_lives() {
    let acl = "topic write good/#\ntopic read good/#\n";
    let Some(broker) = Mosquitto::start(Options { acl: Some(acl), ..Options::default() }) else { return };
    let mut client = Client::up(settings(&broker, "node")).await;
    client.publish(message("bad/x", b"a"), Some(1)).await;
    let Event::Refused { token: 1, why } = client.event().await else { panic!("not refused") };
    assert!(why.contains("NotAuthorized (135)") && why.contains("ACL"), "{why}");
    client.publish(message("good/x", b"a"), Some(2)).await;
    assert_eq!(client.event().await, Event::Delivered { token: 2 });
}

#[tokio::test]
async fn an_oversize_message_is_refused_and_the_connection_lives() {
    let options = Options { packet_bytes_max: Some(20_000), ..Options::default() };
    let Some(broker) = Mosquitto::start(options) else { return };
    let mut client = Client::start(settings(&broker, "node"));
    assert!(matches!(client.wait_up().await, Event::Up { epoch: 1, packet_bytes_max: 20_000, .. }));
    client.publish(message("t/x", &[b'x'; 20_000]), Some(1)).await;
    let Event::Refused { token: 1, why } = client.event().await else { panic!("not refused") };
    assert!(why.contains("20000"), "{why}");
    client.publish(message("t/x", &[b'x'; 19_900]), Some(2)).await;
    assert_eq!(client.event().await, Event::Delivered { token: 2 });
}

#[tokio::test]
async fn a_message_above_our_own_limit_stays_with_the_broker() {
    let Some(broker) = Mosquitto::start(Options::default()) else { return };
    let small = Settings { packet_bytes_max: 16_384, ..subscriber(&broker, "receiver", "t/#") };
    let mut receiver = Client::up(small).await;
    let mut sender = Client::up(settings(&broker, "sender")).await;
    sender.publish(message("t/x", &vec![b'x'; 100_000]), Some(1)).await;
    sender.publish(message("t/x", b"small"), Some(2)).await;
    assert_eq!(receiver.received().await.message.body, b"small");
    assert_eq!(sender.event().await, Event::Delivered { token: 1 });
}

#[test]
fn the_will_speaks_when_a_client_is_gone_without_a_word_and_only_then() {
    let Some(broker) = Mosquitto::start(Options::default()) else { return };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = || Settings { will: Some(message("t/state", b"lost")), ..settings(&broker, "node") };
    let world = runtime();
    let mut watcher = world.block_on(Client::up(subscriber(&broker, "watcher", "t/#")));

    let killed = runtime();
    let client = killed.block_on(Client::up(node()));
    drop(killed);
    assert_eq!(world.block_on(watcher.received()).message.body, b"lost");
    drop(client);

    world.block_on(async {
        let client = Client::up(node()).await;
        client.shut_down(Some(message("t/state", b"shutdown"))).await;
        assert_eq!(watcher.received().await.message.body, b"shutdown");
        let sender = Client::up(settings(&broker, "sender")).await;
        sender.publish(message("t/state", b"later"), None).await;
        assert_eq!(watcher.received().await.message.body, b"later", "no Will after a clean end");
    });
}

#[tokio::test]
async fn a_client_thrown_out_by_its_own_id_is_told_where_to_look() {
    let Some(broker) = Mosquitto::start(Options::default()) else { return };
    let mut first = Client::up(settings(&broker, "node")).await;
    let _second = Client::up(settings(&broker, "node")).await;
    let (why, _) = first.wait_down().await;
    assert!(why.contains("client id \"node\""), "{why}");
}

#[tokio::test]
async fn two_thousand_messages_pass_the_window_each_once() {
    const COUNT: usize = 2000;
    let Some(broker) = Mosquitto::start(Options::default()) else { return };
    let mut receiver = Client::up(subscriber(&broker, "receiver", "t/#")).await;
    let mut sender = Client::up(settings(&broker, "sender")).await;
    let receive = async {
        let mut bodies = BTreeSet::new();
        while bodies.len() < COUNT {
            let received = receiver.received().await;
            receiver.ack(&received).await;
            assert!(bodies.insert(received.message.body), "received twice");
        }
    };
    let commands = sender.commands.clone();
    let send = async {
        for token in 0..COUNT as u64 {
            let message = message("t/x", token.to_string().as_bytes());
            commands.send(Command::Publish { message, token: Some(token) }).await.unwrap();
        }
    };
    let deliver = async {
        let mut tokens = BTreeSet::new();
        while tokens.len() < COUNT {
            match sender.event().await {
                Event::Delivered { token } => assert!(tokens.insert(token), "{token} delivered twice"),
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::join!(receive, send, deliver);
}

#[tokio::test]
async fn a_unix_socket_is_a_broker_too() {
    let Some(broker) = Mosquitto::start(Options { socket: true, ..Options::default() }) else { return };
    let path = broker.socket().to_str().unwrap().to_owned();
    let mut client = Client::up(Settings::new(path, 0, "node")).await;
    client.publish(message("t/x", b"a"), Some(1)).await;
    assert_eq!(client.event().await, Event::Delivered { token: 1 });
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_told_and_tried_again() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let mut client = Client::start(Settings::new(HOST, port, "node"));
    for _ in 0..2 {
        let (why, retry_in_ms) = client.wait_down().await;
        assert!(why.contains(&port.to_string()) && retry_in_ms <= 4000, "{why}, {retry_in_ms}");
    }
    client.shut_down(Some(message("t/x", b"nobody hears it"))).await;
}

/// A peer that answers whatever it is sent first with `reply`, and hands over what it hears after that.
fn scripted(reply: &'static [u8]) -> (u16, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heard) = std::sync::mpsc::sync_channel(1000);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 1000];
            // The client may go at any time.
            let Ok(1..) = stream.read(&mut buffer) else { continue };
            let Ok(()) = stream.write_all(reply) else { continue };
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        }
    });
    (port, heard)
}

#[tokio::test]
async fn a_peer_that_speaks_no_mqtt_is_told() {
    let (port, _) = scripted(&[0xff; 64]);
    let mut client = Client::start(Settings::new(HOST, port, "node"));
    client.wait_down().await;
    client.shut_down(None).await;
}

#[tokio::test]
async fn a_session_taken_over_waits_a_minute_and_ends_at_once_when_asked() {
    // CONNACK, then DISCONNECT with reason 0x8e.
    let (port, _) = scripted(&[0x20, 3, 0, 0, 0, 0xe0, 2, 0x8e, 0]);
    let mut client = Client::up(Settings::new(HOST, port, "node")).await;
    let (why, retry_in_ms) = client.wait_down().await;
    assert!(why.contains("taken over") && why.contains("\"node\""), "{why}");
    assert!(retry_in_ms >= 60_000, "{retry_in_ms}");
    client.shut_down(None).await;
}

#[tokio::test]
async fn a_client_that_is_not_authorised_waits_half_a_minute() {
    let (port, _) = scripted(&[0x20, 3, 0, 0x87, 0]);
    let mut client = Client::start(Settings::new(HOST, port, "node"));
    let (why, retry_in_ms) = client.wait_down().await;
    assert!(why.contains("NotAuthorized") && why.contains("\"node\""), "{why}");
    assert!(retry_in_ms >= 30_000, "{retry_in_ms}");
}

#[tokio::test]
async fn a_broker_without_keep_alive_is_not_pinged_without_a_pause() {
    // CONNACK with a server keep-alive of 0.
    let (port, heard) = scripted(&[0x20, 6, 0, 0, 3, 0x13, 0, 0]);
    let _client = Client::up(Settings::new(HOST, port, "node")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let bytes: usize = heard.try_iter().map(|bytes| bytes.len()).sum();
    assert!(bytes <= 2 * 2, "{bytes} bytes of pings in 300 ms");
}

#[tokio::test]
async fn a_password_that_others_can_read_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let settings =
        Settings { username: Some("node".to_owned()), password_file: Some(file), ..Settings::new(HOST, 1, "node") };
    let mut client = Client::start(settings);
    let (why, retry_in_ms) = client.wait_down().await;
    assert!(why.contains("644") && why.contains("chmod 600") && !why.contains("secret"), "{why}");
    assert!(retry_in_ms >= 30_000, "{retry_in_ms}");
}

mod order {
    //! The real library against the assumption that [`Inflight`] is built on.

    use rumqttc::Outgoing;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, PubAck, Publish};
    use rumqttc::v5::{Event, MqttState, Request};

    use super::*;

    /// Plays the library's events into the tracker; returns what was answered.
    fn listen(state: &mut MqttState, inflight: &mut Inflight, sent: &mut BTreeMap<u16, u64>, outgoing: Option<Packet>) {
        if let Some(Packet::Publish(publish)) = outgoing {
            sent.insert(publish.pkid, String::from_utf8(publish.payload.to_vec()).unwrap().parse().unwrap());
        }
        while let Some(event) = state.events.pop_front() {
            match event {
                Event::Outgoing(Outgoing::Publish(packet)) => inflight.published(packet).unwrap(),
                Event::Outgoing(Outgoing::AwaitAck(packet)) => inflight.stash(packet).unwrap(),
                _ => {}
            }
        }
    }

    proptest! {
        #[test]
        fn the_library_reports_publishes_in_the_order_they_were_given(
            ids in 2_u16..6,
            steps in prop::collection::vec((any::<bool>(), any::<u8>()), 0..200),
        ) {
            let mut state = MqttState::new(ids, true);
            let (mut inflight, mut sent, mut next) = (Inflight::default(), BTreeMap::new(), 0_u64);
            for (publish, pick) in steps {
                // The event loop takes no request at the library's limit, nor while one is held back.
                if publish && state.collision.is_none() && state.inflight() < ids {
                    inflight.enqueue(Some(next));
                    let publish = Publish::new("t", QoS::AtLeastOnce, next.to_string(), None);
                    let outgoing = state.handle_outgoing_packet(Request::Publish(publish)).unwrap();
                    listen(&mut state, &mut inflight, &mut sent, outgoing);
                    next += 1;
                } else if let Some(packet) = sent.keys().nth(usize::from(pick) % sent.len().max(1)).copied() {
                    let token = sent.remove(&packet).unwrap();
                    prop_assert_eq!(inflight.acknowledged(packet), Ok(Some(token)));
                    let outgoing = state.handle_incoming_packet(Packet::PubAck(PubAck::new(packet, None))).unwrap();
                    listen(&mut state, &mut inflight, &mut sent, outgoing);
                }
            }
        }
    }
}
