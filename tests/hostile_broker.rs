//! Does the link keep its word whatever a broker does to it, and is it back within a minute?
//!
//! Each script is a broker that treats its first connections badly and serves the next one well. The real link has an
//! outbox to deliver and messages to receive. However the bad connections went, in the end every message is delivered
//! and acknowledged by the broker, everything that the broker had is received and acknowledged once, and the link ends
//! when it is asked to.

#![allow(missing_docs)]

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/owner.rs"]
mod owner;
#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub)]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use hostile::Hostile;
use hostile::manners::{Manners, PubAcks, SubAcks, aliased, connack, encoded, puback, publish};
use neap::link::backoff::Cause;
use neap::link::mqtt::Settings;
use owner::{DOWN, KEEP_ALIVE, Owner, UP, message, settings};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, DisconnectReasonCode, Packet, PingResp, PubAckReason, PubRec, SubscribeReasonCode,
};
use tokio::task::JoinSet;

/// Within this a link recovers from anything.
const RECOVERY: Duration = Duration::from_secs(60);
/// Messages for the client.
const INBOUND: usize = 20;
/// Packet ids that the library has: twice the window of the link.
const LIBRARY_WINDOW: u16 = 128;
/// More than there are packet ids, so that they are used again.
const OUTBOUND: usize = 160;

/// One broker.
struct Script {
    name: &'static str,
    manners: Vec<Manners>,
    outbound: usize,
    body_bytes: usize,
    /// How many connections end.
    downs: RangeInclusive<usize>,
    /// What the reasons of the ends say; each must occur.
    says: Vec<&'static str>,
    /// How many messages are refused for good.
    refused: usize,
    change: fn(&mut Settings),
}

fn script(name: &'static str, manners: Vec<Manners>) -> Script {
    let downs = manners.len()..=manners.len();
    let change = |_: &mut Settings| {};
    Script { name, manners, outbound: OUTBOUND, body_bytes: 100, downs, says: Vec::new(), refused: 0, change }
}

impl Script {
    /// The bad manners are borne: no connection ends.
    fn borne(self) -> Self {
        Self { downs: 0..=0, ..self }
    }

    fn saying(self, says: &[&'static str]) -> Self {
        Self { says: says.to_vec(), ..self }
    }

    async fn play(self) -> Result<(), String> {
        let Self { name, manners, outbound, body_bytes, downs, says, refused, change } = self;
        let broker = Hostile::start(manners);
        let body = |number: u64| {
            let mut body = format!("{name} {number} ").into_bytes();
            body.resize(body_bytes.max(body.len()), b'.');
            body
        };
        let outbox: BTreeMap<u64, _> = (0..outbound as u64).map(|number| (number, message(UP, body(number)))).collect();
        (0..INBOUND).for_each(|number| broker.send(&format!("{DOWN}/{number}"), b"order"));
        let mut settings = settings(broker.port());
        change(&mut settings);
        let mut owner = Owner::start(settings, outbox);
        let done = |owner: &Owner| {
            let world = broker.world();
            owner.outbox.is_empty() && broker_is_done(&world) && owner.is_up
        };
        let mut outcome = owner.until(RECOVERY, done).await;
        outcome = outcome.and(owner.shut_down().await);
        let check = || -> Result<(), String> {
            outcome?;
            let world = broker.world();
            let unacknowledged =
                owner.delivered.iter().filter(|token| !world.acknowledged.contains_key(&body(**token)));
            let lost: Vec<&u64> = unacknowledged.collect();
            expect(lost.is_empty(), || format!("said to be delivered, and never acknowledged: {lost:?}"))?;
            let topics: BTreeSet<&str> = owner.received.iter().map(|message| message.topic.as_str()).collect();
            let orders = (0..INBOUND).filter(|number| !topics.contains(format!("{DOWN}/{number}").as_str())).count();
            expect(orders == 0, || format!("{orders} orders were not received"))?;
            expect(world.stray_acks == 0, || format!("{} acknowledgements of nothing", world.stray_acks))?;
            expect(world.nonsense.is_empty(), || format!("it was sent {:?}", world.nonsense))?;
            expect(world.packet_max <= LIBRARY_WINDOW, || {
                format!("packet id {} of a window of {LIBRARY_WINDOW}", world.packet_max)
            })?;
            expect(owner.refused.len() == refused, || format!("refused: {:?}", owner.refused))?;
            expect(downs.contains(&owner.downs.len()), || format!("{downs:?} ends were expected"))?;
            for words in says {
                let said = owner.downs.iter().any(|(_, why)| why.contains(words));
                expect(said, || format!("no reason says {words:?}"))?;
            }
            Ok(())
        };
        check().map_err(|error| format!("{name}: {error}; {}", owner.told()))
    }
}

fn broker_is_done(world: &hostile::World) -> bool {
    world.inbound.is_empty() && world.has_shown_all()
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn with(change: impl FnOnce(&mut Manners)) -> Vec<Manners> {
    let mut manners = Manners::good();
    change(&mut manners);
    vec![manners]
}

/// Answers that do not come, come twice, or belong to nothing.
fn acknowledgements() -> Vec<Script> {
    vec![
        script("packet-id collision", with(|bad| bad.pubacks = PubAcks::NotTheFirst)),
        Script { outbound: 500, ..script("packet ids wrap", Vec::new()) },
        script("unsolicited PUBACK", vec![Manners::saying(&[puback(9)])]).saying(&["packet id 9"]),
        script("PUBACK twice", with(|bad| bad.pubacks = PubAcks::Twice)),
        script("PUBACK for an unknown id", with(|bad| bad.pubacks = PubAcks::Unknown(60_000))),
        script("PUBACK for id 0", with(|bad| bad.pubacks = PubAcks::Unknown(0))),
        // Whole groups of eight.
        Script { outbound: 64, ..script("PUBACKs in reverse", with(|bad| bad.pubacks = PubAcks::Reversed)).borne() },
        script("no PUBACK, but pings are answered", with(|bad| bad.pubacks = PubAcks::None))
            .saying(&["not answered for three keep-alives"]),
        Script {
            refused: OUTBOUND,
            ..script("every publish refused", with(|bad| bad.pubacks = PubAcks::Refused(PubAckReason::QuotaExceeded)))
                .borne()
        },
        script("PUBREC for a QoS 1 publish", vec![Manners::saying(&[Packet::PubRec(PubRec::new(1, None))])]),
    ]
}

/// CONNACK and SUBACK.
fn openings() -> Vec<Script> {
    let refused = [ConnectReturnCode::NotAuthorized, ConnectReturnCode::Banned, ConnectReturnCode::ServerBusy];
    vec![
        script("SUBACK with too few codes", with(|bad| bad.subacks = SubAcks::Codes(vec![granted()])))
            .saying(&["did not answer every subscription"]),
        script(
            "SUBACK with a failing code",
            with(|bad| bad.subacks = SubAcks::Codes(vec![granted(), SubscribeReasonCode::NotAuthorized])),
        )
        .saying(&["t/state: NotAuthorized", "check its ACL"]),
        script("no SUBACK", with(|bad| bad.subacks = SubAcks::None)).saying(&["three keep-alives"]),
        script("no CONNACK", with(|bad| bad.connack = None)),
        script("session_present without a session", vec![Manners::greeting(connack(true))]).borne(),
        script("CONNECT refused", refused.map(Manners::refusing).to_vec()).saying(&[
            "NotAuthorized",
            "Banned",
            "ServerBusy",
        ]),
        script("closed after CONNECT", with(|bad| (bad.connack, bad.closes_after) = (None, Some(1)))),
        script("closed after CONNACK", with(|bad| bad.closes_after = Some(1))),
        script("CONNACK twice", vec![Manners::saying(&[Packet::ConnAck(connack(false))])]).saying(&["twice"]),
        script("CONNACK of MQTT 3.1.1", with(|bad| (bad.connack, bad.after_connack) = (None, vec![0x20, 2, 0, 0]))),
        script("AUTH", with(|bad| bad.after_connack = vec![0xf0, 2, 0x18, 0])),
        script("SUBACK before SUBSCRIBE", with(|bad| bad.after_connack = vec![0x90, 5, 0, 1, 0, 1, 1])).borne(),
        script("Maximum QoS 0", vec![Manners::offering(|offer| offer.max_qos = Some(0))]).saying(&["QoS 0"]),
    ]
}

const fn granted() -> SubscribeReasonCode {
    SubscribeReasonCode::Success(QoS::AtLeastOnce)
}

/// Limits and sizes.
fn limits() -> Vec<Script> {
    let small: fn(&mut Settings) = |settings| settings.packet_bytes_max = 20_000;
    let large = publish(DOWN, &[b'x'; 100_000], QoS::AtLeastOnce, 7);
    vec![
        Script {
            change: small,
            ..script("an inbound packet above our limit", vec![Manners::saying(&[Packet::Publish(large)])])
        },
        // A PUBLISH of 100 MB is announced, and never comes.
        script("an inbound packet of 100 MB", with(|bad| bad.after_suback = vec![0x30, 0x80, 0xc2, 0xd7, 0x2f, 0])),
        Script {
            refused: OUTBOUND,
            body_bytes: 5000,
            ..script(
                "every message above the broker's limit",
                vec![Manners::offering(|o| o.max_packet_size = Some(2000))],
            )
            .borne()
        },
        script("SUBSCRIBE above the broker's limit", vec![Manners::offering(|o| o.max_packet_size = Some(10))]),
        script("packets of 0 bytes", vec![Manners::offering(|o| o.max_packet_size = Some(0))]),
        script(
            "Receive Maximum lowered to 1 on reconnect",
            vec![
                Manners { closes_after: Some(12), pubacks: PubAcks::None, ..Manners::good() },
                Manners::offering(|offer| offer.receive_max = Some(1)),
            ],
        )
        .ending(1),
        script("Receive Maximum 0", vec![Manners::offering(|offer| offer.receive_max = Some(0))]),
        script("server keep-alive 0", vec![Manners::offering(|offer| offer.server_keep_alive = Some(0))]).borne(),
        script("server keep-alive 1 s", vec![Manners::offering(|offer| offer.server_keep_alive = Some(1))]).borne(),
    ]
}

impl Script {
    /// So many connections end.
    fn ending(self, downs: usize) -> Self {
        Self { downs: downs..=downs, ..self }
    }
}

/// What comes in.
fn messages() -> Vec<Script> {
    let qos2 = Packet::Publish(publish(DOWN, b"twice acknowledged", QoS::ExactlyOnce, 7));
    let nameless = Packet::Publish(publish("", b"no topic, no alias", QoS::AtLeastOnce, 7));
    let mut half = encoded(&[Packet::Publish(publish(DOWN, &[b'x'; 200], QoS::AtLeastOnce, 7))]);
    half.truncate(60);
    half.extend([0xff; 400]);
    let flood: Vec<Packet> =
        (1000..1300).map(|id| Packet::Publish(publish("t/state", b"flood", QoS::AtLeastOnce, id))).collect();
    vec![
        script("topic alias", vec![Manners::saying(&[aliased(DOWN, 1, 7)])]).saying(&["topic alias"]),
        script("unknown topic alias", vec![Manners::saying(&[aliased("", 1, 7)])]),
        script("a message without a topic", vec![Manners::saying(&[nameless])]).saying(&["readable topic"]),
        script("QoS 2", vec![Manners::saying(&[qos2])]).saying(&["QoS 2"]),
        script("garbage in the middle of a packet", with(|bad| bad.after_publish = half)),
        script("one byte at a time", with(|bad| bad.trickles = true)).borne(),
        script("dup and retain flags", with(|bad| bad.flags = true)).borne(),
        script("every message twice with one id", with(|bad| bad.repeats = true)).borne(),
        script(
            "unacknowledged messages again on each connection",
            (2..8).map(|packets| Manners { closes_after: Some(packets), ..Manners::good() }).collect(),
        ),
        script(
            "PINGRESP flood",
            with(|bad| (bad.flood, bad.flood_count) = (encoded(&vec![Packet::PingResp(PingResp); 100]), 300)),
        )
        .borne(),
        Script { downs: 0..=1, ..script("QoS 1 flood", with(|bad| bad.after_suback = encoded(&flood))) }.straying(),
    ]
}

impl Script {
    /// Its messages are none that the broker remembers.
    fn straying(mut self) -> Self {
        self.manners.iter_mut().for_each(|manners| manners.repeats = true);
        self
    }
}

/// Ends and silences.
fn ends() -> Vec<Script> {
    use DisconnectReasonCode as Reason;
    let reasons = [
        Reason::UnspecifiedError,
        Reason::MalformedPacket,
        Reason::ProtocolError,
        Reason::ImplementationSpecificError,
        Reason::NotAuthorized,
        Reason::ServerBusy,
        Reason::ServerShuttingDown,
        Reason::KeepAliveTimeout,
        Reason::SessionTakenOver,
        Reason::TopicFilterInvalid,
        Reason::TopicNameInvalid,
        Reason::ReceiveMaximumExceeded,
        Reason::TopicAliasInvalid,
        Reason::PacketTooLarge,
        Reason::MessageRateTooHigh,
        Reason::QuotaExceeded,
        Reason::AdministrativeAction,
        Reason::PayloadFormatInvalid,
        Reason::RetainNotSupported,
        Reason::QoSNotSupported,
        Reason::UseAnotherServer,
        Reason::ServerMoved,
    ];
    let says = ["taken over", "ServerShuttingDown", "NotAuthorized", "MessageRateTooHigh", "ServerMoved"];
    vec![
        script("DISCONNECT", reasons.map(Manners::disconnecting).to_vec()).saying(&says),
        script("DISCONNECT without a reason", with(|bad| bad.after_suback = vec![0xe0, 0])),
        script("answers nothing", with(|bad| (bad.pubacks, bad.pongs, bad.delivers) = (PubAcks::None, false, false))),
        // CONNECT, SUBSCRIBE, and a little of what follows; what is in flight does not fit the sockets.
        Script {
            body_bytes: 1024 * 1024,
            outbound: 20,
            ..script("stops reading", with(|bad| bad.deaf_after = Some(3)))
        },
    ]
}

#[tokio::test]
async fn the_link_recovers_from_every_broker_and_loses_nothing() {
    let scripts = [acknowledgements(), openings(), limits(), messages(), ends()];
    let mut playing = JoinSet::new();
    for script in scripts.into_iter().flatten() {
        playing.spawn(script.play());
    }
    let count = playing.len();
    assert!(count >= 20, "{count} scripts");
    let outcomes = playing.join_all().await;
    let failed: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {count} scripts:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test]
async fn a_broker_with_a_longer_keep_alive_is_still_asked_whether_it_lives() {
    let patient = || Manners::offering(|offer| offer.server_keep_alive = Some(65_535));
    let broker = Hostile::start(vec![patient(), Manners { pongs: false, ..patient() }]);
    let mut owner = Owner::start(settings(broker.port()), BTreeMap::new());
    // Nothing is said in between: without pings the silence would end the connection.
    let pinged = |_: &Owner| broker.world().pings >= 4;
    owner.until(RECOVERY, pinged).await.unwrap();
    assert!(owner.downs.is_empty(), "{}", owner.told());
    broker.send(DOWN, b"close");
    owner.shut_down().await.unwrap();

    let mut deaf = Owner::start(settings(broker.port()), BTreeMap::new());
    deaf.until(RECOVERY, |owner| owner.downs.len() == 1 && owner.ups == 2).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_stands_still_is_left_within_three_keep_alives() {
    let deaf = Manners { deaf_after: Some(2), ..Manners::good() };
    let broker = Hostile::start(vec![deaf]);
    let outbox = BTreeMap::from([(1, message(UP, b"result".to_vec()))]);
    let mut owner = Owner::start(settings(broker.port()), outbox);
    owner.until(RECOVERY, |owner| owner.ups == 1).await.unwrap();
    let start = tokio::time::Instant::now();
    owner.until(RECOVERY, |owner| owner.downs.len() == 1).await.unwrap();
    // Three keep-alives and what a busy machine adds.
    assert!(start.elapsed() <= 3 * KEEP_ALIVE + Duration::from_secs(10), "{:?}", start.elapsed());
    owner.until(RECOVERY, |owner| owner.outbox.is_empty()).await.unwrap();
}

#[tokio::test]
async fn the_cause_of_each_end_is_told() {
    let taken = Manners::disconnecting(DisconnectReasonCode::SessionTakenOver);
    let denied = Manners::refusing(ConnectReturnCode::BadUserNamePassword);
    let broker = Hostile::start(vec![taken, denied, Manners { closes_after: Some(1), ..Manners::good() }]);
    let mut owner = Owner::start(settings(broker.port()), BTreeMap::new());
    owner.until(RECOVERY, |owner| owner.is_up && owner.downs.len() == 3).await.unwrap();
    let causes: Vec<Cause> = owner.downs.iter().map(|(cause, _)| *cause).collect();
    assert_eq!(causes, [Cause::TakenOver, Cause::Auth, Cause::Lost], "{}", owner.told());
}
