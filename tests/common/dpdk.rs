//! DPDK applications under a test's control: one that says whatever it is told, and the real `dpdk-testpmd`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use neap::sys::{clock, process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, recv,
    send, socket_with,
};
use tempfile::TempDir;

use super::wait_for;

// === An application that is played ===

/// How it behaves when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Say(Vec<u8>),
    /// Nothing at all.
    Hang,
    Close,
}

/// A reply in JSON.
pub fn say(text: impl Into<String>) -> Reply {
    Reply::Say(text.into().into_bytes())
}

/// The greeting of a process.
pub fn greeting(pid: u32) -> Reply {
    say(format!(r#"{{"version":"DPDK 24.11.4","pid":{pid},"max_output_len":16384}}"#))
}

/// The reply about lcores: number, cycles in all, cycles with work.
pub fn usage(lcores: &[(u32, u64, u64)]) -> Reply {
    let list = |of: fn(&(u32, u64, u64)) -> u64| {
        lcores.iter().map(|lcore| of(lcore).to_string()).collect::<Vec<_>>().join(",")
    };
    let (ids, total, busy) = (list(|l| u64::from(l.0)), list(|l| l.1), list(|l| l.2));
    say(format!(r#"{{"/eal/lcore/usage":{{"lcore_ids":[{ids}],"total_cycles":[{total}],"busy_cycles":[{busy}]}}}}"#))
}

/// Gives the reply to a question; the empty question is a new connection.
pub type Script = Box<dyn FnMut(&str) -> Reply + Send>;

/// A telemetry socket. One connection at a time; it ends with this value.
pub struct App {
    pub socket: PathBuf,
    script: Arc<Mutex<Script>>,
    leave: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl App {
    /// Listens there.
    pub fn start(socket: &Path, script: impl FnMut(&str) -> Reply + Send + 'static) -> Self {
        let _ = fs::remove_file(socket);
        let listener = seqpacket();
        bind(&listener, &SocketAddrUnix::new(socket).expect("a short path")).expect("the socket can be bound");
        listen(&listener, 1).expect("a bound socket can listen");
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let leave = Arc::new(AtomicBool::new(false));
        let (of_thread, leaves) = (Arc::clone(&script), Arc::clone(&leave));
        let thread = std::thread::spawn(move || serve(&listener, &of_thread, &leaves));
        Self { socket: socket.to_owned(), script, leave, thread: Some(thread) }
    }

    /// Behaves otherwise from now on, on the connections that are there as well.
    pub fn behave(&self, script: impl FnMut(&str) -> Reply + Send + 'static) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn seqpacket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket can be made")
}

fn serve(listener: &OwnedFd, script: &Mutex<Script>, leave: &AtomicBool) {
    let replies = |question: &str| (script.lock().unwrap_or_else(PoisonError::into_inner))(question);
    while !leave.load(Ordering::SeqCst) {
        if !readable(listener) {
            continue;
        }
        let Ok(peer) = accept_with(listener, SocketFlags::CLOEXEC) else { continue };
        let mut buffer = [0; 1024];
        let mut reply = replies("");
        loop {
            match reply {
                Reply::Say(bytes) => drop(send(&peer, &bytes, SendFlags::NOSIGNAL)),
                Reply::Hang => {}
                Reply::Close => break,
            }
            while !readable(&peer) && !leave.load(Ordering::SeqCst) {}
            if leave.load(Ordering::SeqCst) {
                break;
            }
            match recv(&peer, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(_) => break,
                Ok((length, _)) => reply = replies(&String::from_utf8_lossy(&buffer[..length])),
            }
        }
    }
}

fn readable(fd: &OwnedFd) -> bool {
    let timeout = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).is_ok_and(|count| count == 1)
}

/// Lcores that poll in real time, with a hand on their load.
#[derive(Clone, Debug, Default)]
pub struct Lcores(Arc<Figures>);

#[derive(Debug, Default)]
struct Figures {
    permille: AtomicU64,
    missed: AtomicU64,
    /// Busy cycles of lcore 2 so far, and until when they are counted.
    counted: Mutex<(u64, u64)>,
}

impl Lcores {
    pub fn set_permille(&self, permille: u64) {
        self.0.permille.store(permille, Ordering::SeqCst);
    }

    pub fn miss(&self, frames: u64) {
        self.0.missed.fetch_add(frames, Ordering::SeqCst);
    }

    /// What such an application replies: lcore 1 is always idle, lcore 2 as told, one port.
    pub fn script(&self) -> impl FnMut(&str) -> Reply + Send + 'static {
        let figures = Arc::clone(&self.0);
        move |question| match question {
            "" => greeting(4711),
            "/eal/lcore/usage" => {
                let total = clock::now().as_nanos();
                let mut counted = figures.counted.lock().unwrap_or_else(PoisonError::into_inner);
                let (busy, until) = *counted;
                let more = (total - until.max(1)) * figures.permille.load(Ordering::SeqCst) / 1000;
                *counted = (if until == 0 { 0 } else { busy + more }, total);
                usage(&[(1, total, 0), (2, total, counted.0)])
            }
            "/ethdev/list" => say(r#"{"/ethdev/list":[0]}"#),
            "/ethdev/xstats,0" => {
                let missed = figures.missed.load(Ordering::SeqCst);
                say(format!(r#"{{"/ethdev/xstats":{{"rx_good_packets":7,"rx_missed_errors":{missed}}}}}"#))
            }
            other => say(format!(r#"{{"{}":null}}"#, other.split(',').next().unwrap_or_default())),
        }
    }
}

// === The real one ===

/// One at a time: each polls with a whole core.
static ONE: Mutex<()> = Mutex::new(());

/// A running `dpdk-testpmd` in interactive mode, with two ports: 0 always has frames, 1 never. Killed when dropped.
pub struct Testpmd {
    child: Child,
    stdin: ChildStdin,
    folder: TempDir,
    _one: MutexGuard<'static, ()>,
}

/// Debian's own, if it is installed.
pub fn installed() -> Option<PathBuf> {
    found(&[PathBuf::from("/usr/bin/dpdk-testpmd")], "apt-get install dpdk-dev")
}

/// One of DPDK 23.03 or later.
pub fn with_usage() -> Option<PathBuf> {
    let named = std::env::var_os("NEAP_DPDK_TESTPMD").map(PathBuf::from);
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dpdk/testpmd");
    found(&named.into_iter().chain([fetched]).collect::<Vec<_>>(), "run .ci/dpdk, or name one in NEAP_DPDK_TESTPMD")
}

fn found(places: &[PathBuf], remedy: &str) -> Option<PathBuf> {
    let found = places.iter().find(|place| place.is_file()).cloned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let missing = match &found {
        None => format!("no dpdk-testpmd at {places:?}: {remedy}"),
        Some(_) if cores < 2 => "dpdk-testpmd needs two cores".to_owned(),
        Some(_) => return found,
    };
    assert!(found.is_some() || std::env::var("CI").as_deref() != Ok("true"), "{missing}");
    eprintln!("\n!!! SKIPPED: {missing} !!!\n");
    None
}

impl Testpmd {
    /// Starts it, and waits for its socket. `more` are arguments after `--`.
    pub fn start(program: &Path, more: &[&str]) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let log = File::create(folder.path().join("log")).expect("a log can be made");
        let mut command = Command::new(program);
        command
            .args(["-l", "0,1", "--no-huge", "--no-pci", "-m", "64", "--file-prefix", "neap"])
            .args(["--vdev=net_null0", "--vdev=net_null1,no-rx=1", "--", "-i", "--total-num-mbufs=2048"])
            .args(more)
            .env("RUNTIME_DIRECTORY", folder.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a descriptor can be doubled"))
            .stderr(log);
        let mut child = process::tie_to_parent(&mut command).spawn().expect("dpdk-testpmd can be started");
        let stdin = child.stdin.take().expect("its input is piped");
        let testpmd = Self { child, stdin, folder, _one: one };
        wait_for("the prompt of testpmd", || testpmd.log(), || testpmd.log().contains("testpmd> ").then_some(()));
        testpmd
    }

    /// Its telemetry socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("dpdk/neap/dpdk_telemetry.v2")
    }

    /// Types a line.
    pub fn order(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("testpmd reads");
    }

    /// Forwards from that port on: 0 is all traffic, 1 none.
    pub fn forward(&mut self, port: u8) {
        self.order(&format!("set portlist {port}"));
        self.order("start");
    }

    /// What it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- testpmd ----\n{}", self.log());
        }
    }
}
