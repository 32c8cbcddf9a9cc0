//! Do our words and the library's agree?

use proptest::prelude::*;

use super::*;

proptest! {
    /// The library's own measure is the reference.
    #[test]
    fn no_packet_is_larger_than_it_was_measured(
        topic in "[a-z/]{1,100}",
        body in prop::collection::vec(any::<u8>(), 0..400),
        expiry_s in prop::option::of(any::<u32>()),
        content_type in prop::option::of("[a-z/]{1,40}"),
        correlation in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        properties in prop::collection::vec(("[a-z]{0,40}", "[a-z]{0,40}"), 0..8),
    ) {
        let response_topic = content_type.clone();
        let message = Publish {
            topic, body, qos: Qos::AtLeastOnce, retain: false, expiry_s, content_type, response_topic, correlation, properties,
        };
        let packed = Packed { pkid: 1, ..Packed::new(message.topic.clone(), QoS::AtLeastOnce, message.body.clone(), Some(super::properties(&message))) };
        let measured = packet_bytes(&message);
        prop_assert!((packed.size()..packed.size() + 20).contains(&measured), "{measured} for {}", packed.size());
    }
}
