//! How many system calls does a process make? Counted by the kernel, or by strace; never estimated.
//!
//! * tracefs: an instance of its own, in which the event `raw_syscalls:sys_enter` is switched on for the process's threads
//!   alone; the kernel writes each into a ring of pages, and the entries of the rings are the count. It costs the process
//!   well under a microsecond a call. Only root may, and only where tracefs is mounted.
//! * strace: counts with `-c -f`, and stops the process twice at each call; the count is exact as well.
//!
//! Calls in which a thread waits all the time are counted when they begin, so those that began before are not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::cli::failure::Failure;
use crate::sys::{clock, process};

/// Where tracefs may be mounted.
const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// Between two looks at an interrupt.
const NAP: Duration = Duration::from_millis(20);
/// strace has to attach, and to say what it counted, within this.
const STRACE_MAX: Duration = Duration::from_secs(10);

/// What was counted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Counted {
    /// How many; `None` when nothing here could count them.
    pub(super) calls: Option<u64>,
    /// In how long.
    pub(super) span: Duration,
    /// By what, or why not.
    pub(super) method: String,
}

/// Counts the system calls of all threads of a process for so long. `go_on` ends it early.
pub(super) fn count(
    pid: u32,
    span: Duration,
    mut go_on: impl FnMut() -> Result<(), Failure>,
) -> Result<Counted, Failure> {
    let mut refused = Vec::new();
    match Trace::begin(pid) {
        Ok(trace) => {
            let took = wait(span, &mut go_on)?;
            match trace.count() {
                Ok(calls) => return Ok(Counted { calls: Some(calls), span: took, method: "tracefs".to_owned() }),
                Err(error) => refused.push(format!("tracefs: {error}")),
            }
        }
        Err(error) => refused.push(format!("tracefs: {error}")),
    }
    match Strace::begin(pid) {
        Ok(strace) => {
            let took = wait(span, &mut go_on)?;
            match strace.count() {
                Ok(calls) => return Ok(Counted { calls: Some(calls), span: took, method: "strace".to_owned() }),
                Err(error) => refused.push(format!("strace: {error}")),
            }
        }
        Err(error) => refused.push(format!("strace: {error}")),
    }
    let method = format!("nothing ({}); mount tracefs as root, or install strace", refused.join("; "));
    Ok(Counted { calls: None, span: Duration::ZERO, method })
}

fn wait(span: Duration, go_on: &mut impl FnMut() -> Result<(), Failure>) -> Result<Duration, Failure> {
    let began = clock::now();
    while clock::now().since(began) < span {
        go_on()?;
        std::thread::sleep(NAP);
    }
    Ok(clock::now().since(began))
}

/// An instance of tracefs that counts; removed when dropped.
struct Trace(PathBuf);

impl Trace {
    fn begin(pid: u32) -> io::Result<Self> {
        let mounted = MOUNTS.map(Path::new).into_iter().find(|folder| folder.join("instances").is_dir());
        let Some(root) = mounted else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "not mounted, or not for this user"));
        };
        Self::below(root, pid)
    }

    fn below(root: &Path, pid: u32) -> io::Result<Self> {
        let folder = root.join("instances").join(format!("neap-bench-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let trace = Self(folder);
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
        let threads: Vec<String> = threads.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        trace.write("set_event_pid", &threads.join(" "))?;
        trace.write("events/raw_syscalls/sys_enter/enable", "1")?;
        Ok(trace)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        // The files are there; one that must be made is none of the kernel's.
        let written = fs::OpenOptions::new().write(true).open(self.0.join(file)).and_then(|mut file| {
            use io::Write as _;
            file.write_all(text.as_bytes())
        });
        written.map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))
    }

    fn count(self) -> io::Result<u64> {
        self.write("events/raw_syscalls/sys_enter/enable", "0")?;
        let mut calls = 0;
        for entry in fs::read_dir(self.0.join("per_cpu"))?.flatten() {
            let stats = fs::read_to_string(entry.path().join("stats"))?;
            calls += entries(&stats).ok_or_else(|| io::Error::other("the kernel's statistics cannot be read"))?;
        }
        Ok(calls)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // An instance that is in use by somebody else stays, and counts for nobody.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Entries of one core's ring, those included that others have overwritten.
fn entries(stats: &str) -> Option<u64> {
    let field = |name: &str| stats.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some(field("entries:")? + field("overrun:").unwrap_or(0) + field("dropped events:").unwrap_or(0))
}

/// A strace that counts; killed when dropped.
struct Strace {
    child: Child,
    pid: u32,
}

impl Strace {
    fn begin(pid: u32) -> io::Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-p", &pid.to_string()]);
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut strace = Self { child: process::tie_to_parent(&mut command).spawn()?, pid };
        let until = clock::now().after(STRACE_MAX);
        while !strace.is_attached() {
            if strace.child.try_wait()?.is_some() || clock::now() >= until {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it may not look at the agent here"));
            }
            std::thread::sleep(NAP);
        }
        Ok(strace)
    }

    /// Whether every thread of the process is looked at.
    fn is_attached(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else { return false };
        let is_traced = |entry: fs::DirEntry| {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
        };
        threads.flatten().all(is_traced)
    }

    fn count(mut self) -> io::Result<u64> {
        let _ended_already = kill_process(Pid::from_child(&self.child), Signal::INT);
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            use io::Read as _;
            // It ends by the signal, and with it what it says.
            stderr.read_to_string(&mut said)?;
        }
        self.child.wait()?;
        total(&said).ok_or_else(|| io::Error::other("what it says cannot be read"))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It has ended, or it ends now and lets the agent go.
        let _gone = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// The calls of all kinds in the table that `strace -c` prints: `100.00 0.008679 81 107 3 total`, errors left out when
/// there are none. No table means no call.
fn total(table: &str) -> Option<u64> {
    let Some(line) = table.lines().rev().find(|line| line.trim_end().ends_with(" total")) else {
        return table.contains("detached").then_some(0);
    };
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_strace_are_the_fourth_figure_of_its_last_line() {
        let table = "strace: Process 7 attached\n% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n \
                     60.94    0.005289         352        15           epoll_pwait\n\
                     100.00    0.008679          81       107         3 total\n";
        assert_eq!(total(table), Some(107));
        assert_eq!(total("100.00    0.008679          81       107           total\n"), Some(107));
        assert_eq!(total("strace: Process 7 attached\nstrace: Process 7 detached\n"), Some(0));
        assert_eq!(total("strace: attach: Operation not permitted\n"), None);
    }

    #[test]
    fn entries_of_a_ring_count_also_when_others_took_their_place() {
        let stats = "entries: 18\noverrun: 5\ncommit overrun: 0\nbytes: 1000\noldest event ts:  2.1\ndropped events: 0\n\
                     read events: 0\n";
        assert_eq!(entries(stats), Some(23));
        assert_eq!(entries("nothing"), None);
    }

    #[test]
    fn the_calls_of_a_real_thread_are_counted_where_anything_can() {
        let calls = |quiet: bool| {
            let script = if quiet { "exec sleep 30" } else { "while :; do kill -0 $$; done" };
            let mut child = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
            let counted = count(child.id(), Duration::from_millis(300), || Ok(())).unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            counted
        };
        let (quiet, busy) = (calls(true), calls(false));
        let Some(many) = busy.calls else {
            eprintln!("SKIPPED: {}", busy.method);
            return;
        };
        assert!(many > 100, "{busy:?}");
        assert!(quiet.calls.is_some_and(|few| few < many), "{quiet:?} {busy:?}");
    }
}
