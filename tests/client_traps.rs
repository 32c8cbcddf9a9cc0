//! Does any known fault of the MQTT client library reach the node?
//!
//! rumqttc 0.25.1 has seventeen that were found by reading or breaking it. Each has a test, here or where the part is:
//!
//! | fault | held by |
//! |---|---|
//! | R1 accepted publishes are dropped when the session is lost | [`r1_a_lost_session_loses_no_publish`] |
//! | R2 a packet-id collision outlives its connection | [`r2_a_collision_ends_with_its_connection`], script "packet-id collision" |
//! | R3 no token tells which publish was acknowledged | [`r3_each_answer_reaches_its_own_message`]; `tests/link.rs` `the_library_reports_publishes_in_the_order_they_were_given` |
//! | R4 a full request channel stops the reader | [`r4_floods_in_both_directions_do_not_stop_each_other`] |
//! | R5 the incoming limit is 10 KiB and not announced | [`r5_the_packet_limit_is_announced_and_is_ours`] |
//! | R6 a packet above the broker's limit is tried for ever | [`r6_a_message_above_the_brokers_limit_is_refused_and_never_sent`] |
//! | R7 keep-alive does not cover a stalled write | `tests/hostile_broker.rs`, scripts "stops reading" and "answers nothing" |
//! | R8 what is sent again is not marked, and its order is lost | [`r8_what_is_sent_again_is_the_same_and_in_its_order`] |
//! | R9 a topic alias gives an empty topic | [`r9_no_topic_alias_is_offered`], scripts "topic alias" and "unknown topic alias" |
//! | R10 a refused QoS 2 publish leaks a slot | [`r10_qos_2_is_not_asked_for`], script "QoS 2" |
//! | R11 a server keep-alive of 0 makes a storm of pings | `tests/link.rs` `a_broker_without_keep_alive_is_not_pinged_without_a_pause`, script "server keep-alive 0" |
//! | R12 the default window takes 14 MB | [`r12_a_link_takes_little_memory`] |
//! | R13 SUBSCRIBE shares the packet ids of publishes | [`r13_one_subscribe_is_answered_before_the_first_publish`] |
//! | R14 refusals of publishes are only logged | [`r14_a_refused_publish_is_told_and_is_not_delivered`]; `tests/link.rs` `a_denied_topic_is_refused_with_its_reason_and_the_connection_lives` |
//! | R15 its TLS feature brings crates with known holes | [`r15_no_tls_comes_with_the_client_library`] |
//! | R16 a disconnect waits behind everything, and then it connects again | [`r16_a_link_that_was_shut_down_says_so_and_does_not_come_back`] |
//! | R17 polling with short time limits cuts off a connection being made | [`r17_a_slow_broker_is_waited_for`] |

#![allow(missing_docs)]

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/owner.rs"]
mod owner;
#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub)]
mod random;

use std::collections::BTreeMap;
use std::time::Duration;

use hostile::Hostile;
use hostile::manners::{Manners, PubAcks, SubAcks};
use neap::link::Publish;
use neap::sys::memory;
use neap::units::PACKET_BYTES_MAX;
use owner::{DOWN, Owner, UP, message, settings};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PubAckReason;

const PATIENCE: Duration = Duration::from_secs(60);

fn body(number: u64) -> Vec<u8> {
    format!("m{number:04}").into_bytes()
}

fn outbox(count: u64) -> BTreeMap<u64, Publish> {
    (0..count).map(|number| (number, message(UP, body(number)))).collect()
}

fn owner(broker: &Hostile, count: u64) -> Owner {
    Owner::start(settings(broker.port()), outbox(count))
}

/// Takes a few publishes, answers none and is gone.
fn forgetful() -> Manners {
    Manners { pubacks: PubAcks::None, closes_after: Some(12), ..Manners::good() }
}

#[tokio::test]
async fn r1_a_lost_session_loses_no_publish() {
    let broker = Hostile::start(vec![forgetful(), forgetful()]);
    let mut owner = owner(&broker, 40);
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    let world = broker.world();
    assert_eq!(world.connections, 3);
    assert!((0..40).all(|number| world.acknowledged.contains_key(&body(number))), "{}", owner.told());
}

#[tokio::test]
async fn r2_a_collision_ends_with_its_connection() {
    let broker = Hostile::start(vec![Manners { pubacks: PubAcks::NotTheFirst, ..Manners::good() }]);
    let mut owner = owner(&broker, 60);
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    assert_eq!((owner.ups, owner.downs.len()), (2, 1), "{}", owner.told());
}

#[tokio::test]
async fn r3_each_answer_reaches_its_own_message() {
    let broker = Hostile::start(vec![Manners { pubacks: PubAcks::Reversed, ..Manners::good() }]);
    let mut owner = owner(&broker, 64);
    // The first group of eight is answered as a whole: what is delivered then must be what was answered.
    owner.until(PATIENCE, |owner| owner.delivered.len() >= 8).await.unwrap();
    let answered: Vec<u64> = owner.delivered.iter().copied().collect();
    let acknowledged = broker.world().acknowledged.clone();
    assert!(answered.iter().all(|number| acknowledged.contains_key(&body(*number))), "{answered:?}");
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    assert_eq!(owner.downs.len(), 0, "{}", owner.told());
}

#[tokio::test]
async fn r4_floods_in_both_directions_do_not_stop_each_other() {
    let broker = Hostile::start(Vec::new());
    (0..500).for_each(|number| broker.send(&format!("{DOWN}/{number}"), b"order"));
    let mut owner = owner(&broker, 1500);
    owner.until(PATIENCE, |owner| owner.outbox.is_empty() && broker.world().inbound.is_empty()).await.unwrap();
    assert_eq!((owner.received.len(), owner.downs.len()), (500, 0), "{}", owner.told());
}

#[tokio::test]
async fn r5_the_packet_limit_is_announced_and_is_ours() {
    let broker = Hostile::start(Vec::new());
    broker.send(DOWN, &vec![b'x'; 1024 * 1024]);
    let mut owner = owner(&broker, 0);
    owner.until(PATIENCE, |owner| owner.received.len() == 1).await.unwrap();
    assert_eq!(broker.world().announced_bytes_max, Some(u32::try_from(PACKET_BYTES_MAX).unwrap()));
    assert_eq!((owner.received[0].body.len(), owner.downs.len()), (1024 * 1024, 0));
}

#[tokio::test]
async fn r6_a_message_above_the_brokers_limit_is_refused_and_never_sent() {
    let broker = Hostile::start(vec![Manners::offering(|offer| offer.max_packet_size = Some(1000))]);
    let mut outbox = outbox(3);
    outbox.insert(9, message(UP, vec![b'x'; 5000]));
    let mut owner = Owner::start(settings(broker.port()), outbox);
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    assert!(owner.refused[&9].contains("1000"), "{:?}", owner.refused);
    assert_eq!((owner.refused.len(), owner.delivered.len(), broker.world().connections), (1, 3, 1));
    assert!(broker.world().published.iter().all(|(_, body)| body.len() < 1000));
}

#[tokio::test]
async fn r8_what_is_sent_again_is_the_same_and_in_its_order() {
    let broker = Hostile::start(vec![forgetful(), forgetful()]);
    let mut owner = owner(&broker, 40);
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    let world = broker.world();
    // Each connection begins with the oldest.
    let bodies: Vec<&Vec<u8>> = world.published.iter().map(|(_, body)| body).collect();
    let begins: Vec<usize> = (0..bodies.len()).filter(|at| *bodies[*at] == body(0)).collect();
    assert_eq!(begins.len(), 3, "{} publishes", bodies.len());
    for (from, to) in begins.iter().zip(begins.iter().skip(1).chain([&bodies.len()])) {
        assert!(bodies[*from..*to].windows(2).all(|pair| pair[0] < pair[1]), "{bodies:?}");
    }
}

#[tokio::test]
async fn r9_no_topic_alias_is_offered() {
    let broker = Hostile::start(Vec::new());
    let mut owner = owner(&broker, 1);
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    assert!(matches!(broker.world().announced_alias_max, None | Some(0)));
}

#[tokio::test]
async fn r10_qos_2_is_not_asked_for() {
    let broker = Hostile::start(Vec::new());
    let mut owner = owner(&broker, 1);
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    let world = broker.world();
    let filters: Vec<_> = world.subscribed.iter().flat_map(|subscribe| &subscribe.filters).collect();
    assert!(!filters.is_empty() && filters.iter().all(|filter| filter.qos != QoS::ExactlyOnce), "{filters:?}");
}

#[tokio::test]
async fn r12_a_link_takes_little_memory() {
    const LINKS: u64 = 30;
    let resident = || memory::resident_bytes(std::process::id()).expect("the kernel tells what is resident");
    let broker = Hostile::start(Vec::new());
    let before = resident();
    let mut owners: Vec<Owner> = (0..LINKS).map(|_| owner(&broker, 1)).collect();
    for owner in &mut owners {
        owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    }
    // The default window would take 14 MB each; tests beside this one take some too.
    let grown = resident().saturating_sub(before);
    assert!(grown < LINKS * 2 * 1024 * 1024, "{grown} bytes for {LINKS} links");
}

#[tokio::test]
async fn r13_one_subscribe_is_answered_before_the_first_publish() {
    let silent = Manners { subacks: SubAcks::None, leaves_after: Some(Duration::from_millis(500)), ..Manners::good() };
    let broker = Hostile::start(vec![silent]);
    let mut owner = owner(&broker, 5);
    owner.until(PATIENCE, |owner| owner.downs.len() == 1).await.unwrap();
    {
        let world = broker.world();
        assert_eq!((world.published.len(), world.subscribed.len()), (0, 1));
    }
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    assert_eq!(broker.world().subscribed.len(), 2);
}

#[tokio::test]
async fn r14_a_refused_publish_is_told_and_is_not_delivered() {
    let refusing = Manners { pubacks: PubAcks::Refused(PubAckReason::NotAuthorized), ..Manners::good() };
    let broker = Hostile::start(vec![refusing]);
    let mut owner = owner(&broker, 40);
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    assert_eq!((owner.refused.len(), owner.delivered.len(), owner.downs.len()), (40, 0, 0), "{}", owner.told());
    assert!(owner.refused.values().all(|why| why.contains("NotAuthorized (135)")), "{:?}", owner.refused);
}

#[test]
fn r15_no_tls_comes_with_the_client_library() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let packages: Vec<&str> = lock.split("[[package]]").collect();
    let has = |name: &str, version: &str| {
        let name = format!("name = \"{name}\"\n");
        packages.iter().any(|package| package.contains(&name) && package.contains(&format!("version = \"{version}")))
    };
    assert!(has("rumqttc", "0.25.1"), "the faults are those of this version; look at them again");
    assert!(!has("rustls-webpki", "0.102"), "RUSTSEC-2026-0049, -0098, -0099, -0104");
    assert!(!has("rustls-pemfile", ""), "RUSTSEC-2025-0134");
}

#[tokio::test]
async fn r16_a_link_that_was_shut_down_says_so_and_does_not_come_back() {
    let broker = Hostile::start(Vec::new());
    let mut owner = owner(&broker, 5);
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    owner.shut_down().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let world = broker.world();
    assert_eq!((world.disconnects, world.connections), (1, 1));
}

#[tokio::test]
async fn r17_a_slow_broker_is_waited_for() {
    let slow = Manners { greets_after: Duration::from_secs(4), ..Manners::good() };
    let broker = Hostile::start(vec![slow]);
    let mut owner = owner(&broker, 5);
    owner.until(PATIENCE, |owner| owner.outbox.is_empty()).await.unwrap();
    assert_eq!((broker.world().connections, owner.downs.len()), (1, 0), "{}", owner.told());
}
