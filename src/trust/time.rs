//! How is a moment written in what is signed? RFC 3339, as everywhere in the protocol.

use crate::units::WallTime;

/// First millisecond that RFC 3339, with its four-digit years, can write.
const FIRST: WallTime = WallTime::from_millis(-62_167_219_200_000);

/// Reads a moment.
///
/// # Errors
/// A sentence with an example.
pub fn parse(text: &str) -> Result<WallTime, String> {
    let parsed = text.parse::<jiff::Timestamp>().map(|timestamp| WallTime::from_millis(timestamp.as_millisecond()));
    // More is understood than RFC 3339 has: names of zones, and years of six digits, which could not be written again.
    match parsed {
        Ok(at) if text.len() <= 64 && !text.contains('[') && !text.starts_with(['+', '-']) && at >= FIRST => Ok(at),
        Ok(_) | Err(_) => {
            let shown: String = text.chars().take(40).collect();
            Err(format!("{shown:?} is not a time; write it as 2026-11-22T06:00:00.000Z"))
        }
    }
}
