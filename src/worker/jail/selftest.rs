//! Does the sandbox hold? Has workers that are locked in try what they must not, each thing in a process of its own.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::net::{SendFlags, send};

use super::Policy;
use super::achieved::Achieved;
use crate::fault::Code;
use crate::sys::forbidden::{self, FORBIDDEN};
use crate::sys::process;
use crate::sys::process::Exit;
use crate::units::FRAME_BYTES_MAX;
use crate::worker::guard;
use crate::worker::protocol::{Frames, FromWorker};

/// Longest wait for one process.
const PATIENCE: Duration = Duration::from_secs(20);
/// Address space of a process that tries.
const ADDRESS_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// What a process says that was not hindered.
const ALLOWED: &[u8] = b"allowed";
/// What one says that was hindered and lives; the number follows.
const DENIED: &str = "errno ";

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Denied by this error number.
    Refused(i32),
    /// The process was killed for it: `SIGSYS`.
    Killed,
    /// Not denied, or nobody knows.
    Allowed(String),
}

impl Outcome {
    /// Whether the sandbox held. Only errors that speak of permission count: others come from beyond it.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Killed | Self::Refused(libc::EPERM | libc::EACCES) => true,
            Self::Refused(_) | Self::Allowed(_) => false,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Killed => f.write_str("denied: SIGSYS"),
            Self::Refused(libc::EPERM) => f.write_str("denied: EPERM"),
            Self::Refused(libc::EACCES) => f.write_str("denied: EACCES"),
            Self::Refused(number) => write!(f, "ALLOWED: {}", io::Error::from_raw_os_error(*number)),
            Self::Allowed(how) => write!(f, "ALLOWED: {how}"),
        }
    }
}

/// One attempt and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was tried.
    pub name: &'static str,
    /// Whether after a panic that was caught.
    pub after_panic: bool,
    /// How it ended.
    pub outcome: Outcome,
}

/// Has everything tried that is forbidden, before and after a panic. Blocks for some milliseconds each.
///
/// # Errors
/// When processes cannot be started.
pub fn run(exe: &Path, policy: Policy) -> io::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for after_panic in [false, true] {
        for (name, _) in FORBIDDEN {
            findings.push(Finding { name, after_panic, outcome: try_one(exe, policy, name, after_panic)? });
        }
    }
    Ok(findings)
}

/// Has one thing tried.
///
/// # Errors
/// When no process can be started.
pub fn try_one(exe: &Path, policy: Policy, name: &str, after_panic: bool) -> io::Result<Outcome> {
    let (mut child, mut socket) = spawn(exe, policy, Some((name, after_panic)))?;
    let mut said = Vec::new();
    // A process that was killed says nothing; one that hangs is killed below.
    let _cut = socket.by_ref().take(64).read_to_end(&mut said);
    // Does nothing to one that has ended.
    child.kill()?;
    let exit = process::reap(i32::try_from(child.id()).map_err(io::Error::other)?)?;
    let text = String::from_utf8_lossy(&said);
    let number = text.strip_prefix(DENIED).and_then(|number| number.parse().ok());
    Ok(match (exit, number) {
        (Exit::Signal(libc::SIGSYS), _) => Outcome::Killed,
        (_, Some(number)) => Outcome::Refused(number),
        (_, None) => Outcome::Allowed(format!("{exit:?}, it said {text:?}")),
    })
}

/// What a worker's sandbox comes to on this machine, by starting one. Disturbs nobody.
///
/// # Errors
/// One sentence when no worker could be started or it said nothing.
pub fn probe(exe: &Path, policy: Policy) -> Result<Achieved, String> {
    let policy = Policy { level: super::Level::BestEffort, ..policy };
    let failed = |error: io::Error| format!("no worker could be started to see what the sandbox comes to: {error}");
    let (mut child, mut socket) = spawn(exe, policy, None).map_err(failed)?;
    let outcome = greeting(&mut socket).map_err(failed);
    child.kill().map_err(failed)?;
    child.wait().map_err(failed)?;
    outcome
}

fn greeting(socket: &mut UnixStream) -> io::Result<Achieved> {
    let mut frames = Frames::default();
    let mut bytes = [0; 4096];
    let mut total = 0;
    loop {
        if let Some(frame) = frames.next_frame().map_err(io::Error::other)? {
            let FromWorker::Hello(hello) = FromWorker::decode(frame).map_err(io::Error::other)? else {
                return Err(io::Error::other("it did not say hello"));
            };
            return Ok(hello.sandbox);
        }
        let read = socket.read(&mut bytes)?;
        total += read;
        if read == 0 || total > FRAME_BYTES_MAX {
            return Err(io::Error::other("it ended before it said hello"));
        }
        frames.extend(&bytes[..read]);
    }
}

fn spawn(exe: &Path, policy: Policy, attempt: Option<(&str, bool)>) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    let mut command = Command::new(exe);
    command.args(["worker", "--slot", "0", "--plan-bytes", "0", "--awake", "yes"]);
    command.args(["--parent", &std::process::id().to_string(), "--address-bytes", &ADDRESS_BYTES.to_string()]);
    command.args(["--sandbox", policy.level.as_str(), "--user", &policy.user.to_string()]);
    if !policy.network {
        command.args(["--shared-network", "yes"]);
    }
    if let Some((name, after_panic)) = attempt {
        command.args(["--attempt", name]);
        if after_panic {
            command.args(["--after-panic", "yes"]);
        }
    }
    command.env_clear().env("RUST_BACKTRACE", "0").current_dir("/");
    // Nobody reads what it says of a panic. /dev/null, where that could go, is not everywhere.
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
    process::tie_to_parent(&mut command);
    Ok((command.spawn()?, ours))
}

/// The other side: makes an attempt in this process, which is locked in, and tells how it went.
pub fn act(name: &str, after_panic: bool) -> ExitCode {
    guard::install();
    if after_panic {
        let divisor = std::hint::black_box(0);
        let caught = guard::catch(Code::ModelRun, "the self-test's panic", || Ok(1 / divisor));
        if caught.is_ok() {
            return ExitCode::FAILURE;
        }
    }
    let Some(outcome) = forbidden::attempt(name) else { return ExitCode::from(crate::worker::serve::EXIT_USAGE) };
    let said = match outcome {
        Ok(()) => ALLOWED.to_vec(),
        Err(error) => format!("{DENIED}{}", error.raw_os_error().unwrap_or(0)).into_bytes(),
    };
    match send(io::stdin().as_fd(), &said, SendFlags::NOSIGNAL) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
