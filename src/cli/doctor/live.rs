//! What can only a try tell? Landlock, the clock, the disk under the state, the groups of the workers, the broker.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::verdicts::{Finding, Verdict};
use crate::agent::floor;
use crate::config::Settings;
use crate::sys::{clock, kernel};
use crate::worker::cgroup::Had;
use crate::worker::infer;
use crate::worker::jail::achieved::Step;

/// Longest wait for the broker's port.
const BROKER_WAIT: Duration = Duration::from_secs(5);
/// How often the disk is asked to sync.
const SYNCS: u32 = 5;
/// A sync that takes longer makes every accepted job wait for it.
const SYNC_GOOD: Duration = Duration::from_millis(20);
/// Free space below which the state hardly fits.
const FREE_MIN_MIB: u64 = 128;
/// First ABI of Landlock that denies TCP, and the first that denies signals.
const LANDLOCK_TCP: u32 = 4;
const LANDLOCK_SCOPE: u32 = 6;

/// What the machine answers.
pub(super) fn machine() -> Vec<Finding> {
    vec![descriptors(), landlock(kernel::landlock_abi()), synchronised(clock::is_synchronised()), kernels()]
}

/// What models reach a worker in, and what tells the agent of its end.
fn descriptors() -> Finding {
    let item = "sealed memory, pidfd";
    let memory = memfd_create("neap-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let sealed = memory.and_then(|file| fcntl_add_seals(&file, SealFlags::SEAL));
    let found = match (sealed, pidfd_open(getpid(), PidfdFlags::empty())) {
        (Ok(()), Ok(_)) => return Finding::ok(item, "available"),
        (Err(error), _) => format!("memfd_create: {error}"),
        (Ok(()), Err(error)) => format!("pidfd_open: {error}"),
    };
    let meaning = "no worker can be started: models are handed over in sealed memory, its end is told by a pidfd";
    let remedy = "a kernel of 5.4 or later; in a container, a seccomp profile that allows both calls";
    Finding::lesser(item, Verdict::Missing, found, meaning, remedy)
}

fn landlock(abi: Option<u32>) -> Finding {
    let item = "Landlock";
    match abi {
        Some(abi) if abi >= LANDLOCK_SCOPE => Finding::ok(item, format!("ABI {abi}")),
        Some(abi) => Finding::lesser(
            item,
            Verdict::Weaker,
            format!("ABI {abi}: {}", if abi >= LANDLOCK_TCP { "no signal scope" } else { "files only" }),
            "files are closed to a worker; signals, and below ABI 4 the network, are closed by seccomp alone",
            "a kernel of 6.12 or later has ABI 6",
        ),
        None => Finding::lesser(
            item,
            Verdict::Missing,
            "not in this kernel, or not switched on",
            "files are closed to a worker by seccomp and by user only: [sandbox] \"required\" refuses every job",
            format!("{}; or [sandbox] level = \"best-effort\"", Step::Landlock.remedy()),
        ),
    }
}

fn synchronised(is_synchronised: bool) -> Finding {
    if is_synchronised {
        return Finding::ok("clock", "synchronised");
    }
    let meaning = "deadlines and certificates are judged by a clock that nobody has set";
    let remedy = "chrony, systemd-timesyncd or ptp4l; in a container the host's service may be hidden";
    Finding::lesser("clock", Verdict::Weaker, "not synchronised", meaning, remedy)
}

/// What inference is computed with here. A worker that is bound to a core of another sort chooses by that core.
fn kernels() -> Finding {
    let item = "inference kernels";
    let kernels = infer::kernels();
    match kernels.products.iter().find(|(product, _)| *product == "f32") {
        Some((_, kernel)) if !kernel.starts_with("generic") => Finding::ok(item, kernels.to_string()),
        Some(_) | None => Finding::lesser(
            item,
            Verdict::Weaker,
            kernels.to_string(),
            "no vector unit is made use of: inference takes several times as long",
            "a processor with NEON, or with AVX2 and FMA; in a virtual machine the host's processor model",
        ),
    }
}

/// What this node's configuration needs.
pub(super) fn node(settings: &Settings) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for item in floor::look(settings).items() {
        findings.push(match item.had {
            Had::Yes => Finding::ok(item.name, item.text.clone()),
            Had::Nearly | Had::No => {
                let meaning = "the kernel would not hold the workers with this, should the agent fail";
                Finding::lesser(item.name, Verdict::Weaker, item.had.as_str(), meaning, item.text.clone())
            }
        });
    }
    findings.extend(disk(Path::new(&settings.jobs.state_dir)));
    findings.push(models(Path::new(&settings.models_dir)));
    findings
}

fn disk(folder: &Path) -> Vec<Finding> {
    let free = match rustix::fs::statvfs(folder) {
        Ok(space) => space.f_bavail.saturating_mul(space.f_frsize) / (1024 * 1024),
        Err(error) => {
            let meaning = "no job can be accepted: it could not be kept";
            let found = format!("{}: {error}", folder.display());
            let remedy = "make the folder, for the agent's user alone (StateDirectory=neap in the unit does)";
            return vec![Finding::lesser("state folder", Verdict::Missing, found, meaning, remedy)];
        }
    };
    let found = format!("{free} MiB free in {}", folder.display());
    let meaning = "the node soon refuses jobs with spool.full";
    let space = match free >= FREE_MIN_MIB {
        true => Finding::ok("state folder", found),
        false => Finding::lesser("state folder", Verdict::Weaker, found, meaning, "free space, or a smaller spool_mib"),
    };
    vec![space, sync(folder)]
}

/// How long the disk takes to keep four kilobytes.
fn sync(folder: &Path) -> Finding {
    let item = "sync time";
    let path = folder.join(format!(".neap-doctor-{}", std::process::id()));
    let timed = || -> std::io::Result<Duration> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let mut slowest = Duration::ZERO;
        for _ in 0..SYNCS {
            let begin = clock::now();
            file.write_all(&[0; 4096])?;
            file.sync_data()?;
            slowest = slowest.max(clock::now().since(begin));
        }
        Ok(slowest)
    };
    let took = timed();
    // Not there when it could not be made.
    let _ = fs::remove_file(&path);
    match took {
        Ok(took) if took <= SYNC_GOOD => Finding::ok(item, format!("{} ms at most of {SYNCS}", took.as_millis())),
        Ok(took) => Finding::lesser(
            item,
            Verdict::Weaker,
            format!("{} ms at most of {SYNCS}", took.as_millis()),
            "every accepted job waits for one sync",
            "a faster disk for the state folder; flash with power-loss protection",
        ),
        Err(error) => Finding::lesser(
            item,
            Verdict::Missing,
            error.to_string(),
            "no job can be accepted: it could not be kept",
            format!("let the agent's user write in {}", folder.display()),
        ),
    }
}

fn models(folder: &Path) -> Finding {
    let count = fs::read_dir(folder).map(|entries| entries.flatten().filter(|entry| entry.path().is_dir()).count());
    match count {
        Ok(count @ 1..) => Finding::ok("models", format!("{count} in {}", folder.display())),
        Ok(0) | Err(_) => Finding::lesser(
            "models",
            Verdict::Missing,
            format!("none in {}", folder.display()),
            "every job is refused with model.unknown",
            "install models there; neap models list --dir shows what is found",
        ),
    }
}

/// Whether the broker's port can be reached.
pub(super) fn broker(host: &str, port: u16) -> Finding {
    let item = "broker";
    let reached = if host.starts_with('/') {
        std::os::unix::net::UnixStream::connect(host).map(|_| host.to_owned())
    } else {
        (host, port).to_socket_addrs().and_then(|addresses| {
            let mut last = std::io::Error::other("the name has no address");
            for address in addresses.take(4) {
                match TcpStream::connect_timeout(&address, BROKER_WAIT) {
                    Ok(_) => return Ok(address.to_string()),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    };
    match reached {
        Ok(place) => Finding::ok(item, format!("{place} answers")),
        Err(error) => Finding::lesser(
            item,
            Verdict::Missing,
            format!("{host}:{port}: {error}"),
            "the node keeps its jobs and hears of no new one",
            "start the broker, open the way to it, or correct [mqtt] host and port",
        ),
    }
}
