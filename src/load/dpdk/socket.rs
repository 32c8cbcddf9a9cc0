//! How are questions put to a DPDK application? Over a `SOCK_SEQPACKET` socket, each with a moment by which it must be
//! answered.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
};

use super::replies::{self, Info, MESSAGE_BYTES_MAX};
use super::{Settings, neighbour};
use crate::units::Instant;

/// Highest suffix that is tried.
pub(super) const SUFFIX_MAX: u8 = 9;

const SILENT: &str = "the application does not answer in time";
const CLOSED: &str = "the application has closed the telemetry connection";

/// A connection to an application that has said who it is.
#[derive(Debug)]
pub(super) struct Connection {
    path: PathBuf,
    socket: OwnedFd,
    info: Info,
    buffer: Box<[u8]>,
}

/// Connects to the socket, or to the one among its neighbours that belongs to the process.
pub(super) fn find(
    settings: &Settings,
    until: Instant,
    clock: &dyn Fn() -> Instant,
) -> Result<Connection, &'static str> {
    let Some(name) = &settings.process else { return Connection::open(&settings.socket, until, clock) };
    for suffix in 0..=SUFFIX_MAX {
        let path = neighbour(&settings.socket, suffix);
        // Who listens is known before it has said anything: a stranger that is silent costs nothing.
        let Ok(socket) = connected(&path) else { continue };
        if process_name(&socket).is_some_and(|found| found == *name) {
            return Connection::greeted(&path, socket, until, clock);
        }
    }
    Err("no telemetry socket belongs to the process of the configuration")
}

/// Name of the process that listens, by the kernel's word.
pub(super) fn process_name(socket: &OwnedFd) -> Option<String> {
    let pid = socket_peercred(socket).ok()?.pid;
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok()?;
    Some(name.trim_end_matches('\n').to_owned())
}

/// A socket that is connected; never waits.
pub(super) fn connected(path: &Path) -> Result<OwnedFd, &'static str> {
    let address = SocketAddrUnix::new(path).map_err(|_| "the path is too long for a socket")?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|_| "no socket can be made: raise the limit of open files")?;
    match connect(&socket, &address) {
        Ok(()) => Ok(socket),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Err("no DPDK application listens at the telemetry socket"),
        Err(Errno::ACCESS | Errno::PERM) => Err("the agent's user may not use the telemetry socket"),
        Err(Errno::AGAIN) => Err("the application does not take connections"),
        Err(_) => Err("the telemetry socket cannot be connected to"),
    }
}

impl Connection {
    /// Connects, and hears who the application is.
    pub(super) fn open(path: &Path, until: Instant, clock: &dyn Fn() -> Instant) -> Result<Self, &'static str> {
        Self::greeted(path, connected(path)?, until, clock)
    }

    fn greeted(
        path: &Path,
        socket: OwnedFd,
        until: Instant,
        clock: &dyn Fn() -> Instant,
    ) -> Result<Self, &'static str> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX].into_boxed_slice();
        let info = replies::info(receive(&socket, &mut buffer, until, clock)?)?;
        Ok(Self { path: path.to_owned(), socket, info, buffer })
    }

    /// Puts a question and gives the reply. After an error the connection is of no use.
    pub(super) fn ask(
        &mut self,
        question: &str,
        until: Instant,
        clock: &dyn Fn() -> Instant,
    ) -> Result<&[u8], &'static str> {
        loop {
            match send(&self.socket, question.as_bytes(), SendFlags::NOSIGNAL) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait(&self.socket, PollFlags::OUT, until, clock)?,
                Err(_) => return Err(CLOSED),
            }
        }
        receive(&self.socket, &mut self.buffer, until, clock)
    }

    /// Who it is.
    pub(super) fn info(&self) -> &Info {
        &self.info
    }

    /// Which of the neighbours it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn receive<'a>(
    socket: &OwnedFd,
    buffer: &'a mut [u8],
    until: Instant,
    clock: &dyn Fn() -> Instant,
) -> Result<&'a [u8], &'static str> {
    loop {
        match recv(socket, &mut *buffer, RecvFlags::TRUNC) {
            Ok((0, _)) => return Err(CLOSED),
            Ok((_, length)) if length > buffer.len() => return Err("a reply above 64 KiB"),
            Ok((length, _)) => return Ok(&buffer[..length]),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(socket, PollFlags::IN, until, clock)?,
            Err(_) => return Err(CLOSED),
        }
    }
}

fn wait(socket: &OwnedFd, what: PollFlags, until: Instant, clock: &dyn Fn() -> Instant) -> Result<(), &'static str> {
    let left = until.since(clock());
    if left.is_zero() {
        return Err(SILENT);
    }
    let timeout = Timespec::try_from(left).map_err(|_| SILENT)?;
    match poll(&mut [PollFd::new(socket, what)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(_) => Err(CLOSED),
    }
}
