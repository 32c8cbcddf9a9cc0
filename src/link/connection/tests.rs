//! Does a connection keep its promises whatever the broker does?

use proptest::prelude::*;

use super::*;

const KEEP_ALIVE: Duration = Duration::from_secs(10);
const WALL: WallTime = WallTime::from_millis(7);

#[expect(clippy::disallowed_methods, reason = "an Instant has no other origin; the tests only add to it")]
fn origin() -> Instant {
    Instant::now()
}

fn terms() -> Terms {
    Terms { epoch: 3, keep_alive: KEEP_ALIVE, packet_bytes_max: 1000, filters: vec!["a/#".to_owned()] }
}

fn message(qos: Qos, body: usize) -> Publish {
    Publish { qos, ..Publish::plain("a/b", vec![0; body]) }
}

fn connack() -> Heard {
    Heard::Connected { session_present: true, receive_max: None, packet_bytes_max: None, qos_max: None }
}

struct World {
    connection: Connection,
    now: Instant,
}

impl World {
    fn opening() -> Self {
        let now = origin();
        Self { connection: Connection::new(terms(), VecDeque::new(), now), now }
    }

    fn up_with(connack: Heard) -> Self {
        let mut world = Self::opening();
        world.hear(connack).unwrap();
        assert_eq!(world.requests(), [Request::Subscribe]);
        assert_eq!(world.events(), [], "not up before SUBACK");
        world.hear(Heard::Subscribed(vec![None])).unwrap();
        assert!(matches!(world.events().as_slice(), [Event::Up { epoch: 3, session_present: true, .. }]));
        world
    }

    fn up() -> Self {
        Self::up_with(connack())
    }

    fn hear(&mut self, heard: Heard) -> Result<(), Failure> {
        self.connection.on_heard(heard, self.now, WALL)
    }

    fn publish(&mut self, token: u64) {
        self.connection.publish(message(Qos::AtLeastOnce, 1), Some(token), self.now);
    }

    fn requests(&mut self) -> Vec<Request> {
        std::iter::from_fn(|| self.connection.next_request()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.connection.next_event()).collect()
    }
}

#[test]
fn the_window_holds_so_many_and_an_answer_opens_it() {
    let mut world = World::up();
    (0..u64::from(WINDOW_MAX) + 20).for_each(|token| world.publish(token));
    assert_eq!(world.requests().len(), usize::from(WINDOW_MAX));
    (1..=WINDOW_MAX).for_each(|packet| world.hear(Heard::Published(packet)).unwrap());
    world.hear(Heard::Answered { packet: 2, refusal: None }).unwrap();
    assert_eq!(world.events(), [Event::Delivered { token: 1 }]);
    assert_eq!(world.requests().len(), 1);
}

#[test]
fn a_small_receive_maximum_makes_a_small_window() {
    for (receive_max, window) in [(1, 1), (2, 1), (5, 4), (17, 16), (65_535, usize::from(WINDOW_MAX))] {
        let mut world = World::up_with(Heard::Connected {
            session_present: true,
            receive_max: Some(receive_max),
            packet_bytes_max: None,
            qos_max: None,
        });
        (0..100).for_each(|token| world.publish(token));
        assert_eq!(world.requests().len(), window, "receive maximum {receive_max}");
    }
}

#[test]
fn what_is_too_large_is_refused_and_the_rest_goes_on() {
    let mut world = World::up();
    world.connection.publish(message(Qos::AtLeastOnce, 2000), Some(1), world.now);
    world.publish(2);
    assert_eq!(world.requests().len(), 1);
    let events = world.events();
    let [Event::Refused { token: 1, why }] = events.as_slice() else { panic!("{events:?}") };
    assert!(why.contains("1000"), "{why}");
}

#[test]
fn the_brokers_smaller_packet_limit_counts() {
    let mut world = World::opening();
    world
        .hear(Heard::Connected {
            session_present: false,
            receive_max: None,
            packet_bytes_max: Some(100),
            qos_max: None,
        })
        .unwrap();
    world.hear(Heard::Subscribed(vec![None])).unwrap();
    assert_eq!(world.events(), [Event::Up { epoch: 3, session_present: false, packet_bytes_max: 100 }]);
    world.connection.publish(message(Qos::AtLeastOnce, 100), Some(1), world.now);
    assert!(matches!(world.events().as_slice(), [Event::Refused { token: 1, .. }]));
}

#[test]
fn wildcards_and_overlong_strings_are_refused() {
    let mut world = World::up();
    for (token, topic) in ["", "a/#", "a/+/b", "a\0", &"x".repeat(65_536)].into_iter().enumerate() {
        let crooked = Publish { topic: topic.to_owned(), ..message(Qos::AtLeastOnce, 1) };
        world.connection.publish(crooked, Some(token as u64), world.now);
    }
    assert_eq!(world.events().iter().filter(|event| matches!(event, Event::Refused { .. })).count(), 5);
    assert_eq!(world.requests(), []);
}

#[test]
fn a_refusal_reaches_its_token() {
    let mut world = World::up();
    world.publish(9);
    world.hear(Heard::Published(1)).unwrap();
    world.hear(Heard::Answered { packet: 1, refusal: Some("NotAuthorized (135)".to_owned()) }).unwrap();
    assert_eq!(world.events(), [Event::Refused { token: 9, why: "NotAuthorized (135)".to_owned() }]);
}

#[test]
fn a_refused_subscription_ends_the_connection_as_an_authorisation_fault() {
    let mut world = World::opening();
    world.hear(connack()).unwrap();
    let failure = world.hear(Heard::Subscribed(vec![Some("NotAuthorized".to_owned())])).unwrap_err();
    assert_eq!(failure.cause, Cause::Auth);
    assert!(failure.why.contains("a/#") && failure.why.contains("ACL"), "{}", failure.why);
    let mut world = World::opening();
    assert!(world.hear(Heard::Subscribed(vec![])).is_err());
}

#[test]
fn a_message_is_acknowledged_once_and_on_its_own_connection_only() {
    let mut world = World::up();
    world.hear(Heard::Message { message: message(Qos::AtLeastOnce, 1), packet: Some(5) }).unwrap();
    let ack = AckToken { epoch: 3, packet: 5 };
    assert!(matches!(world.events().as_slice(), [Event::Received(Received { ack: Some(token), .. })] if *token == ack));
    world.connection.acknowledge(AckToken { epoch: 2, ..ack });
    world.connection.acknowledge(AckToken { packet: 6, ..ack });
    assert_eq!(world.requests(), []);
    world.connection.acknowledge(ack);
    world.connection.acknowledge(ack);
    assert_eq!(world.requests(), [Request::Acknowledge(5)]);
}

#[test]
fn a_broker_that_ignores_every_receive_maximum_is_left() {
    let mut world = World::up();
    let arrives = |packet| Heard::Message { message: message(Qos::AtLeastOnce, 1), packet: Some(packet) };
    let borne = u16::try_from(UNACKNOWLEDGED_MAX).unwrap();
    (1..=borne).for_each(|packet| world.hear(arrives(packet)).unwrap());
    assert!(world.hear(arrives(borne + 1)).is_err());
}

#[test]
fn a_broker_that_sends_too_much_is_not_heard_until_the_owner_has_caught_up() {
    let mut world = World::up();
    let arrives = |packet| Heard::Message { message: message(Qos::AtLeastOnce, 1), packet: Some(packet) };
    let done = |packet| AckToken { epoch: terms().epoch, packet };
    (1..=RECEIVE_MAX).for_each(|packet| world.hear(arrives(packet)).unwrap());
    assert!(world.connection.listens(), "what was allowed is heard");
    world.hear(arrives(RECEIVE_MAX + 1)).unwrap();
    assert!(!world.connection.listens());
    world.connection.acknowledge(done(1));
    assert!(world.connection.listens());
}

#[test]
fn a_few_large_messages_are_as_many_as_many_small_ones() {
    let mut world = World::up();
    let large = |packet| Heard::Message {
        message: Publish { body: vec![0; UNACKNOWLEDGED_BYTES_MAX / 3], ..message(Qos::AtLeastOnce, 1) },
        packet: Some(packet),
    };
    let mut packets = 1..=3;
    packets.by_ref().for_each(|packet| world.hear(large(packet)).unwrap());
    while world.connection.next_event().is_some() {}
    assert!(!world.connection.listens(), "the owner has taken them and has not acknowledged them");
    world.connection.acknowledge(AckToken { epoch: terms().epoch, packet: 1 });
    assert!(world.connection.listens());
}

#[test]
fn acknowledgements_wait_for_the_client_and_keep_their_order() {
    let mut world = World::up();
    let count = u16::try_from(ACKS_MAX).unwrap() + 3;
    for packet in 1..=count {
        world.hear(Heard::Message { message: message(Qos::AtLeastOnce, 1), packet: Some(packet) }).unwrap();
        world.connection.acknowledge(AckToken { epoch: terms().epoch, packet });
    }
    let mut sent = world.requests();
    assert_eq!(sent.len(), ACKS_MAX);
    for _ in 0..3 {
        world.hear(Heard::AckSent).unwrap();
        sent.extend(world.requests());
    }
    assert_eq!(sent, (1..=count).map(Request::Acknowledge).collect::<Vec<_>>());
}

#[test]
fn telemetry_is_dropped_rather_than_queued() {
    let mut world = World::up();
    for _ in 0..100 {
        world.connection.publish(message(Qos::AtMostOnce, 1), None, world.now);
    }
    assert_eq!(world.requests().len(), TELEMETRY_MAX);
    world.hear(Heard::TelemetrySent).unwrap();
    world.connection.publish(message(Qos::AtMostOnce, 1), None, world.now);
    assert_eq!(world.requests().len(), 1);
}

#[test]
fn nothing_is_published_before_up() {
    let mut world = World::opening();
    world.publish(1);
    assert_eq!((world.requests(), world.events()), (vec![], vec![]));
}

#[test]
fn three_silent_keep_alives_end_a_connection() {
    let mut world = World::up();
    assert_eq!(world.connection.next_timeout(), world.now + 3 * KEEP_ALIVE);
    world.now += KEEP_ALIVE;
    world.hear(Heard::Alive).unwrap();
    assert_eq!(world.connection.next_timeout(), world.now + 3 * KEEP_ALIVE);
    assert!(world.connection.on_timeout().is_err());
}

#[test]
fn pings_do_not_hide_that_nothing_is_accepted() {
    let mut world = World::up();
    let start = world.now;
    world.publish(1);
    for _ in 0..3 {
        world.now += KEEP_ALIVE;
        world.hear(Heard::Alive).unwrap();
    }
    assert_eq!(world.connection.next_timeout(), start + 3 * KEEP_ALIVE);
}

#[test]
fn the_time_to_answer_starts_with_the_message_not_with_the_connection() {
    let mut world = World::up();
    world.now += 10 * KEEP_ALIVE;
    world.hear(Heard::Alive).unwrap();
    world.publish(1);
    assert_eq!(world.connection.next_timeout(), world.now + 3 * KEEP_ALIVE);
}

#[test]
fn the_last_words_go_after_everything_else_and_before_disconnect() {
    let mut world = World::up();
    world.publish(1);
    let last = Publish { topic: "death".to_owned(), ..message(Qos::AtLeastOnce, 0) };
    world.connection.shut_down(Some(last.clone()), world.now);
    assert_eq!(world.requests().last(), Some(&Request::Publish(last)));
    assert!(!world.connection.takes_commands());
    for packet in [1, 2] {
        world.hear(Heard::Published(packet)).unwrap();
        world.hear(Heard::Answered { packet, refusal: None }).unwrap();
    }
    assert_eq!(world.requests(), [Request::Disconnect]);
    assert!(!world.connection.is_done(world.now));
    world.hear(Heard::Disconnected).unwrap();
    assert!(world.connection.is_done(world.now));
}

#[test]
fn unheard_last_words_cut_the_connection_so_that_the_will_speaks() {
    let mut world = World::up();
    world.connection.shut_down(Some(message(Qos::AtLeastOnce, 0)), world.now);
    world.requests();
    assert_eq!(world.connection.next_timeout(), world.now + LAST_WORDS);
    world.now += LAST_WORDS;
    assert!(world.connection.is_done(world.now));
    assert_eq!(world.requests(), [], "no DISCONNECT: it would silence the Will");
    assert_eq!(world.connection.on_timeout(), Ok(()));
}

#[test]
fn a_library_that_gives_up_by_itself_is_a_failure_not_an_end() {
    let mut world = World::up();
    assert!(world.hear(Heard::Disconnected).is_err());
}

#[test]
fn a_broker_without_qos_1_is_left() {
    let mut world = World::opening();
    let heard =
        Heard::Connected { session_present: false, receive_max: None, packet_bytes_max: None, qos_max: Some(0) };
    assert!(world.hear(heard).unwrap_err().why.contains("QoS 0"));
}

#[test]
fn an_owner_that_does_not_listen_is_not_listened_to() {
    let mut world = World::up();
    for token in 0..WAITING_MAX as u64 + u64::from(WINDOW_MAX) {
        assert!(world.connection.takes_commands(), "{token}");
        world.publish(token);
    }
    assert!(!world.connection.takes_commands());
}

#[test]
fn a_second_connack_and_limits_of_zero_are_nonsense() {
    assert!(World::up().hear(connack()).unwrap_err().why.contains("twice"));
    for (receive_max, packet_bytes_max) in [(Some(0), None), (None, Some(0))] {
        let heard = Heard::Connected { session_present: false, receive_max, packet_bytes_max, qos_max: None };
        assert!(World::opening().hear(heard).is_err(), "{receive_max:?}, {packet_bytes_max:?}");
    }
}

#[test]
fn large_messages_wait_with_the_broker_until_the_owner_has_taken_those_before() {
    let mut world = World::up();
    let arrives = |packet| Heard::Message { message: message(Qos::AtLeastOnce, EVENT_BYTES_MAX / 2), packet };
    world.hear(arrives(Some(1))).unwrap();
    assert!(world.connection.listens());
    world.hear(arrives(Some(2))).unwrap();
    assert!(!world.connection.listens());
    world.hear(arrives(None)).unwrap();
    assert_eq!(world.connection.events.len(), 2, "QoS 0 is dropped then");
    assert!(world.connection.next_event().is_some());
    assert!(world.connection.listens());
    world.events();
    assert_eq!(world.connection.event_bytes, 0);
}

fn any_heard() -> impl Strategy<Value = Heard> {
    let packet = 0_u16..20;
    prop_oneof![
        (any::<bool>(), prop::option::of(0_u16..20), prop::option::of(0_usize..200), prop::option::of(0_u8..2))
            .prop_map(|(session_present, receive_max, packet_bytes_max, qos_max)| Heard::Connected {
                session_present,
                receive_max,
                packet_bytes_max,
                qos_max
            }),
        prop::collection::vec(prop::option::of(Just("no".to_owned())), 0..3).prop_map(Heard::Subscribed),
        prop::option::of(packet.clone())
            .prop_map(|packet| Heard::Message { message: message(Qos::AtLeastOnce, 1), packet }),
        (packet.clone(), prop::option::of(Just("no".to_owned())))
            .prop_map(|(packet, refusal)| Heard::Answered { packet, refusal }),
        packet.clone().prop_map(Heard::Published),
        packet.prop_map(Heard::HeldBack),
        Just(Heard::TelemetrySent),
        Just(Heard::Disconnected),
        Just(Heard::Alive),
    ]
}

proptest! {
    #[test]
    fn a_hostile_broker_neither_panics_nor_fills_the_channel(steps in prop::collection::vec((any_heard(), 0_u8..4), 0..100)) {
        let mut world = World::up();
        let (mut publishes, mut answers) = (0_usize, 0_usize);
        for (heard, act) in steps {
            answers += usize::from(matches!(heard, Heard::Answered { .. }));
            if world.hear(heard).is_err() {
                break;
            }
            match act {
                0 => world.publish(1),
                1 => world.connection.publish(message(Qos::AtMostOnce, 1), None, world.now),
                2 => (0..20).for_each(|packet| world.connection.acknowledge(AckToken { epoch: 3, packet })),
                _ => world.now += Duration::from_millis(1),
            }
            let is_ours = |request: &Request| matches!(request, Request::Publish(message) if message.qos == Qos::AtLeastOnce);
            publishes += world.requests().iter().filter(|request| is_ours(request)).count();
            prop_assert!(publishes <= answers + usize::from(WINDOW_MAX));
        }
    }
}
