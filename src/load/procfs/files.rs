//! How is a counter file read? Kept open and read again from its start.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// What `schedstat` tells of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SchedStat {
    /// Time on a core, in nanoseconds. Kernels bring it up to date while the thread runs.
    pub(super) run_ns: u64,
    /// Time it waited for a core although it could run, in nanoseconds. Counted once it got one.
    pub(super) delay_ns: Option<u64>,
}

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

/// Run time and run-queue delay of a thread. The delay is `None` where the file ends before it.
pub(super) fn sched_stat(file: &File) -> Result<SchedStat, &'static str> {
    let mut buffer = [0; 128];
    let mut numbers = read(file, &mut buffer)?.split_ascii_whitespace().map(str::parse::<u64>);
    let run_ns = numbers.next().ok_or("an empty schedstat file")?;
    let run_ns = run_ns.map_err(|_| "a schedstat file that does not start with a number")?;
    Ok(SchedStat { run_ns, delay_ns: numbers.next().and_then(Result::ok) })
}

/// How far a counter has come since last time, which it remembers; zero the first time.
pub(super) fn advance(last: &mut Option<u64>, value: u64) -> Result<u64, &'static str> {
    let before = last.replace(value).unwrap_or(value);
    value.checked_sub(before).ok_or("a counter that went backwards")
}

/// An absolute path of the host, below `root`.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Entries of a folder whose names are numbers; none when it is not there.
pub(super) fn numbers(folder: &Path) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
