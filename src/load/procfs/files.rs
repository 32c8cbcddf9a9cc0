//! How is a counter file read? Kept open and read again from its start.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// The file's text, read into `buffer`. What does not fit is cut off: the caller finds its keys near the start.
pub(super) fn read<'a>(file: &File, buffer: &'a mut [u8]) -> Result<&'a str, &'static str> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err("a counter file that vanished"),
        }
    }
    std::str::from_utf8(&buffer[..length]).map_err(|_| "a counter file that is not text")
}

/// Nanoseconds of run time: the first number of a `schedstat` file.
pub(super) fn run_time_ns(file: &File) -> Result<u64, &'static str> {
    let mut buffer = [0; 128];
    let text = read(file, &mut buffer)?;
    let number = text.split_ascii_whitespace().next().ok_or("an empty schedstat file")?;
    number.parse().map_err(|_| "a schedstat file that does not start with a number")
}

/// How far a counter has come since last time, which it remembers; zero the first time.
pub(super) fn advance(last: &mut Option<u64>, value: u64) -> Result<u64, &'static str> {
    let before = last.replace(value).unwrap_or(value);
    value.checked_sub(before).ok_or("a counter that went backwards")
}
