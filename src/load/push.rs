//! What does the RAN tell us itself? The vendor-neutral way in: JSON lines in datagrams.
//!
//! A Unix datagram socket, guarded by file permissions, or UDP on a loopback address. Format: [`parse`]. Several lines
//! may share a datagram of at most [`DATAGRAM_BYTES_MAX`]; each bad line is one `Malformed`, the good ones beside it
//! count, but do not heal it.

mod json;
mod line;

use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use line::{Line, encode, parse};

use super::{Malformed, Observation, Problem, READ_MAX, Source};
use crate::units::{Instant, SourceId};

/// Largest datagram, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 4096;
/// Permission bits of the socket unless configured: the RAN's group may write.
pub const SOCKET_MODE_DEFAULT: u32 = 0o660;
/// How long a socket is looked at again before it counts as a live agent's: one that was killed still holds it while the
/// kernel closes its files, and so does a child that it had just forked, until that has become the worker's program.
const PREDECESSOR_MAX: Duration = Duration::from_secs(2);
/// How long between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest socket path, in bytes: `sun_path` less its end mark.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Receives load from the RAN.
#[derive(Debug)]
pub struct Push {
    id: SourceId,
    socket: Socket,
    /// One byte more than allowed shows that a datagram was cut off.
    buffer: Box<[u8; DATAGRAM_BYTES_MAX + 1]>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram, #[expect(dead_code, reason = "removes the socket's file when dropped")] SocketFile),
    Udp(UdpSocket),
}

/// The file of a socket that we bound.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Checks the settings of a Unix socket.
pub(super) fn check_socket(path: &Path, mode: u32) -> Result<(), Problem> {
    if !path.is_absolute() || path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let limit = "an absolute path of at most 107 bytes";
        return Err(Problem::setting("socket", path.display(), limit));
    }
    if mode & !0o777 != 0 || mode & 0o200 == 0 {
        let limit = "permission bits that let at least the owner write, such as 0660";
        return Err(Problem::setting("mode", format_args!("{mode:#05o}"), limit));
    }
    Ok(())
}

/// Checks the settings of a UDP socket.
pub(super) fn check_listen(listen: SocketAddr) -> Result<(), Problem> {
    if !listen.ip().is_loopback() {
        let limit = "a loopback address such as 127.0.0.1:7100 (anybody could report low load from outside); \
                     to bring load from another host, run a relay here";
        return Err(Problem::setting("listen", listen, limit));
    }
    Ok(())
}

impl Push {
    /// Binds a Unix datagram socket. The file that a dead agent left behind is replaced, a live agent's is not; to tell
    /// one from the other may take two seconds.
    pub fn unix(id: SourceId, path: &Path, mode: u32) -> Result<Self, Problem> {
        check_socket(path, mode)?;
        remove_stale(path)?;
        let remedy = "make its directory and let the agent's user write there";
        let failed = |error| Problem::io("bind the load socket", path, error, remedy);
        let socket = UnixDatagram::bind(path).map_err(failed)?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let file = SocketFile { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self::new(id, Socket::Unix(socket, file)))
    }

    /// Binds a UDP socket on a loopback address.
    pub fn udp(id: SourceId, listen: SocketAddr) -> Result<Self, Problem> {
        check_listen(listen)?;
        let failed = |error| Problem::Io {
            attempt: "listen for load on UDP",
            place: listen.to_string(),
            error,
            remedy: "choose a free port, or stop the process that has it",
        };
        let socket = UdpSocket::bind(listen).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self::new(id, Socket::Udp(socket)))
    }

    fn new(id: SourceId, socket: Socket) -> Self {
        Self { id, socket, buffer: Box::new([0; DATAGRAM_BYTES_MAX + 1]) }
    }

    /// Where it listens, when that is UDP: tells the port that was asked for as 0.
    pub fn udp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Unix(..) => None,
            Socket::Udp(socket) => socket.local_addr().ok(),
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        match &self.socket {
            Socket::Unix(socket, _) => socket.recv(&mut self.buffer[..]),
            Socket::Udp(socket) => socket.recv(&mut self.buffer[..]),
        }
    }
}

impl Source for Push {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.socket {
            Socket::Unix(socket, _) => Some(socket.as_fd()),
            Socket::Udp(socket) => Some(socket.as_fd()),
        }
    }

    fn next_poll(&self) -> Option<Instant> {
        None
    }

    fn read(&mut self, _now: Instant, sink: &mut dyn FnMut(Observation)) {
        let mut observations = 0;
        // The outer limit is for calls that a signal interrupts.
        for _ in 0..READ_MAX {
            match self.receive() {
                Ok(length) => observations += datagram(self.id, &self.buffer[..length], sink),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return sink(Err(Malformed { source: self.id, why: "the socket cannot be read" })),
            }
            if observations >= READ_MAX {
                return;
            }
        }
    }
}

/// Hands over what a datagram says; returns how many observations that were.
pub(crate) fn datagram(source: SourceId, bytes: &[u8], sink: &mut dyn FnMut(Observation)) -> usize {
    if bytes.len() > DATAGRAM_BYTES_MAX {
        sink(Err(Malformed { source, why: "a datagram above 4096 bytes" }));
        return 1;
    }
    let mut observations = 0;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        match parse(line) {
            Ok(line) => line.readings(source).for_each(|reading| {
                sink(Ok(reading));
                observations += 1;
            }),
            Err(why) => {
                sink(Err(Malformed { source, why }));
                observations += 1;
            }
        }
    }
    if observations == 0 {
        sink(Err(Malformed { source, why: "an empty datagram" }));
        observations = 1;
    }
    observations
}

/// Removes a socket file that nobody listens at, or soon nobody.
fn remove_stale(path: &Path) -> Result<(), Problem> {
    for _ in 0..PREDECESSOR_MAX.as_millis() / LOOK_EVERY.as_millis() {
        match remove_unused(path) {
            Err(Problem::SocketInUse { .. }) => thread::sleep(LOOK_EVERY),
            told => return told,
        }
    }
    remove_unused(path)
}

/// Removes a socket file that nobody listens at now.
fn remove_unused(path: &Path) -> Result<(), Problem> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Problem::io("look at", path, error, "let the agent's user read its directory")),
        Ok(metadata) => metadata,
    };
    if !metadata.file_type().is_socket() {
        return Err(Problem::NotASocket { path: path.to_owned() });
    }
    let probe = UnixDatagram::unbound().and_then(|probe| probe.connect(path));
    match probe {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| Problem::io("replace the old load socket", path, error, "remove it by hand")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Connected, or a live socket of another type or another user.
        Ok(()) | Err(_) => Err(Problem::SocketInUse { path: path.to_owned() }),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have replaced the file: only ours is removed.
        let ours = |m: &fs::Metadata| m.dev() == self.device && m.ino() == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| ours(&metadata)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
