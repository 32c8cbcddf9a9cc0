//! How is a moment written in what is signed? RFC 3339, as everywhere in the protocol.

use crate::units::WallTime;

/// Reads a moment.
///
/// # Errors
/// A sentence with an example.
pub fn parse(text: &str) -> Result<WallTime, String> {
    match text.parse::<jiff::Timestamp>() {
        Ok(timestamp) if text.len() <= 64 && !text.contains('[') => {
            Ok(WallTime::from_millis(timestamp.as_millisecond()))
        }
        Ok(_) | Err(_) => {
            let shown: String = text.chars().take(40).collect();
            Err(format!("{shown:?} is not a time; write it as 2026-11-22T06:00:00.000Z"))
        }
    }
}
