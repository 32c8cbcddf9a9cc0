//! Does a message fit a packet? What the client library and the broker would only say by ending the connection. Pure.

use super::Publish;

/// Longest string MQTT can carry, in bytes.
const STRING_BYTES_MAX: usize = 65_535;

/// Why a message cannot be sent, if it cannot: value, limit, remedy.
pub(super) fn unfit(message: &Publish, packet_bytes_max: usize) -> Option<String> {
    let strings = [Some(&message.topic), message.content_type.as_ref(), message.response_topic.as_ref()];
    let properties = message.properties.iter().flat_map(|(name, value)| [name, value]);
    if let Some(long) = strings.into_iter().flatten().chain(properties).find(|text| text.len() > STRING_BYTES_MAX) {
        return Some(format!("a topic or property of {} bytes exceeds {STRING_BYTES_MAX}", long.len()));
    }
    if message.topic.is_empty() || message.topic.contains(['+', '#', '\0']) {
        return Some("a topic must not be empty nor hold + # or NUL".to_owned());
    }
    let bytes = packet_bytes(message);
    (bytes > packet_bytes_max).then(|| {
        format!(
            "a packet of {bytes} bytes exceeds the {packet_bytes_max} that broker and node allow; send less at once"
        )
    })
}

/// Size of the PUBLISH packet, or a few bytes more: optional parts are counted as if they were there.
pub fn packet_bytes(message: &Publish) -> usize {
    /// Fixed header, lengths, packet id, payload format, expiry.
    const FRAME: usize = 1 + 4 + 2 + 2 + 4 + 2 + 5;
    /// A property's identifier and the length of its value.
    const TAG: usize = 3;
    let text = |text: &Option<String>| text.as_ref().map_or(0, |text| TAG + text.len());
    let user: usize = message.properties.iter().map(|(name, value)| TAG + 2 + name.len() + value.len()).sum();
    let correlation = message.correlation.as_ref().map_or(0, |data| TAG + data.len());
    FRAME
        + message.topic.len()
        + text(&message.content_type)
        + text(&message.response_topic)
        + correlation
        + user
        + message.body.len()
}
