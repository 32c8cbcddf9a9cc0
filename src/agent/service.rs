//! What does the service manager hear? `sd_notify(3)`: ready, reloading, stopping, a status line, and the watchdog.
//!
//! Without `NOTIFY_SOCKET` nobody listens and nothing is sent. The environment is only read, never changed: that would
//! not be safe in a process with threads, and workers start with an empty one anyway. Nothing here waits: a service
//! manager that does not read loses messages, not the agent its time.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

use super::pulse::{Moves, Pulse, Word};
use crate::telemetry::LogLimit;
use crate::units::Instant;

/// The status line is looked at this often.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Longest status line, in bytes: people read it in one line of `systemctl status`.
const STATUS_BYTES_MAX: usize = 300;

/// The service manager, if there is one.
#[derive(Debug)]
pub(super) struct Service {
    address: Option<SocketAddr>,
    pulse: Option<Pulse>,
    status: String,
    status_due: Instant,
}

impl Service {
    /// The one that this process was started by, as its environment says.
    pub(super) fn of_environment(now: Instant) -> Self {
        let address = env::var_os("NOTIFY_SOCKET").and_then(|socket| match address(&socket) {
            Ok(address) => Some(address),
            Err(error) => {
                tracing::warn!(?socket, %error, "NOTIFY_SOCKET is no socket's address: nobody is told");
                None
            }
        });
        let limit = sd_notify::watchdog_enabled().filter(|limit| address.is_some() && !limit.is_zero());
        let pulse = limit.map(|limit| Pulse::new(now, limit));
        Self { address, pulse, status: String::new(), status_due: now }
    }

    /// Every part is made and the store's jobs are known.
    pub(super) fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// The configuration is being read again; [`Service::ready`] ends it.
    pub(super) fn reloading(&self, now: Instant) {
        let microseconds = i128::from(now.as_nanos() / 1_000);
        self.send(&[NotifyState::Reloading, NotifyState::MonotonicUsec(microseconds)]);
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Whether a beat of the watchdog is due: the sentinel is to be asked for a pass.
    pub(super) fn wants_moves(&self, now: Instant) -> bool {
        self.pulse.as_ref().is_some_and(|pulse| pulse.is_due(now))
    }

    /// One turn of the control loop: the watchdog's beat, if it is due and all have moved, and the status line, if it
    /// has changed.
    pub(super) fn on_turn(&mut self, now: Instant, moves: Moves, status: impl FnOnce() -> String) {
        match self.pulse.as_mut().and_then(|pulse| pulse.on_turn(now, moves)) {
            Some(Word::Beat) => self.send(&[NotifyState::Watchdog]),
            Some(Word::Withhold { link, sentinel }) => {
                tracing::error!(link, sentinel, "no beat for the watchdog: what is marked true has not moved");
            }
            None => {}
        }
        if self.address.is_none() || self.status_due > now {
            return;
        }
        self.status_due = now.after(STATUS_EVERY);
        let status = one_line(&status());
        if status != self.status {
            self.send(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// When the next turn is wanted, as time from now.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        // A beat that is overdue is looked for at the usual pace.
        self.pulse.as_ref().map(|pulse| pulse.due_in(now)).filter(|due| !due.is_zero())
    }

    fn send(&self, words: &[NotifyState<'_>]) {
        let Some(address) = &self.address else { return };
        let text: String = words.iter().map(|word| format!("{word}\n")).collect();
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to_addr(text.as_bytes(), address)
        });
        static UNSENT: LogLimit = LogLimit::new(5, 60);
        if let Err(error) = sent
            && let Some(suppressed) = UNSENT.admit(crate::sys::clock::now())
        {
            tracing::warn!(%error, suppressed, "the service manager cannot be told");
        }
    }
}

/// `/run/…`, or `@…` for a name without a file.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::Error::other("neither an absolute path nor @name")),
    }
}

/// Without line breaks, which would begin another message, and short.
fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text[..text.floor_char_boundary(STATUS_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// A service manager that listens, and a service that tells it.
    fn listened(watchdog: Option<Duration>) -> (UnixDatagram, tempfile::TempDir, Service) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let pulse = watchdog.map(|limit| Pulse::new(at(0), limit));
        let address = Some(address(path.as_os_str()).unwrap());
        (manager, folder, Service { address, pulse, status: String::new(), status_due: at(0) })
    }

    fn heard(manager: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 2_000];
        std::iter::from_fn(|| {
            manager.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
        })
        .collect()
    }

    #[test]
    fn a_status_is_told_when_it_changes_and_once_a_second_at_most() {
        let (manager, _folder, mut service) = listened(None);
        for ms in 0..3_000 {
            service
                .on_turn(at(ms), Moves::default(), || if ms < 2_000 { "idle".to_owned() } else { format!("{ms}\n…") });
        }
        assert_eq!(heard(&manager), ["STATUS=idle\n", "STATUS=2000 …\n"]);
    }

    #[test]
    fn beats_come_while_all_move_and_stop_when_one_stands() {
        let (manager, _folder, mut service) = listened(Some(Duration::from_secs(3)));
        let mut sentinel = 0;
        for ms in (0..6_000).step_by(100) {
            sentinel += u64::from(ms < 3_000);
            service.on_turn(at(ms), Moves { link: ms, sentinel }, String::new);
        }
        assert_eq!(heard(&manager), ["WATCHDOG=1\n"; 3], "at 1 s, 2 s, and at 3 s for what moved until then");
        assert!(service.wants_moves(at(6_000)));
    }

    #[test]
    fn a_manager_that_does_not_read_costs_no_time() {
        let (_manager, _folder, service) = listened(None);
        for _ in 0..5_000 {
            service.ready();
        }
    }

    #[test]
    fn a_reload_names_its_moment() {
        let (manager, _folder, service) = listened(None);
        service.reloading(at(7));
        assert_eq!(heard(&manager), ["RELOADING=1\nMONOTONIC_USEC=7000\n"]);
    }

    #[test]
    fn names_without_a_file_are_addresses_and_relative_paths_are_not() {
        assert!(address(OsStr::new("@neap-test")).unwrap().as_abstract_name().is_some());
        assert!(address(OsStr::new("run/notify")).is_err());
        assert!(address(OsStr::new("")).is_err());
    }
}
