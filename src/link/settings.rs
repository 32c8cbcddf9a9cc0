//! To which broker, as whom, and with which limits?

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::backoff::Backoff;
use super::heartbeat::Heartbeat;
use super::tls::bridge::Way;
use super::tls::certificates::Certificates;
use super::tls::{self, Keeper};
use super::{Publish, Qos};
use crate::fault::Fault;
use crate::sys::credential;
use crate::units::{PACKET_BYTES_MAX, WallTime};

/// Usual port of a broker without TLS.
pub const PLAIN_PORT: u16 = 1883;
/// Usual port of a broker with TLS.
pub const TLS_PORT: u16 = 8883;
/// Shortest and longest keep-alive: the client library refuses less than 5 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
/// Most subscriptions: they share the packet ids of publishes.
const SUBSCRIPTIONS_MAX: usize = 8;
/// Longest client id, in bytes.
const CLIENT_ID_BYTES_MAX: usize = 128;
/// Smallest packet limit that still carries every message but results.
const PACKET_BYTES_MIN: usize = 16 * 1024;
/// Largest password file, in bytes.
const PASSWORD_BYTES_MAX: u64 = 4096;
/// Longest path of a Unix socket, in bytes (`sun_path`, with its final zero).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How to reach the broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Name or address of the broker, or the absolute path of its Unix socket.
    pub host: String,
    /// TCP port; not used with a Unix socket.
    pub port: u16,
    /// How the way there is kept private; `None`: it is not.
    pub tls: Option<tls::Settings>,
    /// What is known of the certificates, for whoever keeps a clone of it.
    pub certificates: Certificates,
    /// Whether to talk in clear text to a host that is not this one.
    pub allow_insecure: bool,
    /// Client id; two clients with one id throw each other out.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// File with the password, readable by its owner only; read again at every connection.
    pub password_file: Option<PathBuf>,
    /// Longest silence before a ping, 5 s to 1 h.
    pub keep_alive: Duration,
    /// How long the broker keeps the session, and what is queued in it, after a disconnect; zero starts clean.
    pub session_expiry: Duration,
    /// Subscribed at every connection, at most eight.
    pub subscriptions: Vec<(String, Qos)>,
    /// What the broker publishes when this client is gone without a word.
    pub will: Option<Publish>,
    /// How long the broker waits before it does, in seconds.
    pub will_delay_s: u32,
    /// Largest packet in either direction, in bytes; announced to the broker.
    pub packet_bytes_max: usize,
    /// How long to wait before the next try.
    pub backoff: Backoff,
    /// Counts the turns of the link's task, for whoever keeps a clone of it.
    pub heartbeat: Heartbeat,
}

/// Who can read along on the way to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Nobody.
    Tls,
    /// Only who may look into this host.
    PlainLocal,
    /// Everybody on the way.
    PlainInsecure,
}

impl Transport {
    /// As it is written in messages and metrics, where the version of TLS is not known.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::PlainLocal => "plain-local",
            Self::PlainInsecure => "plain-insecure",
        }
    }
}

/// Settings that cannot work, and what would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    /// Clear text would leave the host.
    #[error(
        "broker {0:?} is not on this host: jobs and results would travel in clear text; give the file of its authority's \
         certificate (ca_file, --ca) to speak TLS, or set allow_insecure = true"
    )]
    Insecure(String),
    /// TLS leads to a host, not into a file.
    #[error(
        "broker {0:?} is a Unix socket, and a certificate file is given: TLS is for brokers with a name or address"
    )]
    TlsSocket(String),
    /// Files that TLS needs are not there or no good: all that is wrong with them.
    #[error("{}", .0.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"))]
    Tls(Vec<Fault>),
    /// Empty, or a path that is too long.
    #[error(
        "broker host {0:?} is not allowed: a name, an address, or an absolute socket path of at most {SOCKET_PATH_BYTES_MAX} bytes"
    )]
    Host(String),
    /// Port zero.
    #[error("broker port 0 is not allowed: 1 to 65535, usually 1883")]
    Port,
    /// Empty, too long or not printable.
    #[error("client id {0:?} is not allowed: 1 to {CLIENT_ID_BYTES_MAX} printable characters")]
    ClientId(String),
    /// Too short or too long.
    #[error("keep-alive of {0:?} is not allowed: {min:?} to {max:?}", min = KEEP_ALIVE.0, max = KEEP_ALIVE.1)]
    KeepAlive(Duration),
    /// A password needs a name.
    #[error("a password file is set without a user name; set both or none")]
    PasswordWithoutUser,
    /// Too small or too large.
    #[error("packet limit of {0} bytes is not allowed: {PACKET_BYTES_MIN} to {PACKET_BYTES_MAX}")]
    PacketBytes(usize),
    /// Too many.
    #[error("{0} subscriptions are not allowed: at most {SUBSCRIPTIONS_MAX}")]
    Subscriptions(usize),
    /// Times that do not rise.
    #[error("back-off from {0:?} to {1:?} is not allowed: first must be 100 ms or more and not above max")]
    Backoff(Duration, Duration),
}

impl Settings {
    /// A client without session, subscriptions and Will, with the usual times and limits.
    pub fn new(host: impl Into<String>, port: u16, client_id: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port,
            tls: None,
            certificates: Certificates::default(),
            allow_insecure: false,
            client_id: client_id.into(),
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(30),
            session_expiry: Duration::ZERO,
            subscriptions: Vec::new(),
            will: None,
            will_delay_s: 0,
            packet_bytes_max: PACKET_BYTES_MAX,
            backoff: Backoff::STANDARD,
            heartbeat: Heartbeat::default(),
        }
    }

    /// Checks everything that can be checked without a network.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn check(&self) -> Result<(), BadSettings> {
        let socket = self.is_socket();
        if self.host.is_empty() || (socket && self.host.len() > SOCKET_PATH_BYTES_MAX) {
            return Err(BadSettings::Host(self.host.clone()));
        }
        if !socket && self.port == 0 {
            return Err(BadSettings::Port);
        }
        match self.transport() {
            Transport::Tls if socket => return Err(BadSettings::TlsSocket(self.host.clone())),
            Transport::PlainInsecure if !self.allow_insecure => return Err(BadSettings::Insecure(self.host.clone())),
            Transport::Tls | Transport::PlainLocal | Transport::PlainInsecure => {}
        }
        let id = &self.client_id;
        if id.is_empty() || id.len() > CLIENT_ID_BYTES_MAX || id.chars().any(char::is_control) {
            return Err(BadSettings::ClientId(id.clone()));
        }
        if !(KEEP_ALIVE.0..=KEEP_ALIVE.1).contains(&self.keep_alive) {
            return Err(BadSettings::KeepAlive(self.keep_alive));
        }
        if self.password_file.is_some() && self.username.is_none() {
            return Err(BadSettings::PasswordWithoutUser);
        }
        if !(PACKET_BYTES_MIN..=PACKET_BYTES_MAX).contains(&self.packet_bytes_max) {
            return Err(BadSettings::PacketBytes(self.packet_bytes_max));
        }
        if self.subscriptions.len() > SUBSCRIPTIONS_MAX {
            return Err(BadSettings::Subscriptions(self.subscriptions.len()));
        }
        if self.backoff.first < Duration::from_millis(100) || self.backoff.first > self.backoff.max {
            return Err(BadSettings::Backoff(self.backoff.first, self.backoff.max));
        }
        Ok(())
    }

    /// Who can read along.
    pub fn transport(&self) -> Transport {
        match &self.tls {
            Some(_) => Transport::Tls,
            None if self.is_local() => Transport::PlainLocal,
            None => Transport::PlainInsecure,
        }
    }

    /// Reads the certificates; `None` without TLS.
    pub(super) fn keeper(&self) -> Result<Option<Keeper>, BadSettings> {
        let Some(tls) = self.tls.clone() else { return Ok(None) };
        Keeper::new(tls, &self.host, self.certificates.clone()).map(Some).map_err(BadSettings::Tls)
    }

    /// Where a bridge leads that is secured with what is in force now.
    pub(super) fn way(&self, keeper: &Keeper, wall: WallClock) -> Way {
        Way {
            host: self.host.clone(),
            port: self.port,
            broker: self.broker(),
            keep_alive: self.keep_alive,
            material: keeper.material(),
            shared: self.certificates.clone(),
            wall,
        }
    }

    /// Whether `host` is the path of a Unix socket.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// The broker, for people.
    pub fn broker(&self) -> String {
        if self.is_socket() { self.host.clone() } else { format!("{}:{}", self.address(), self.port) }
    }

    /// The password, from a file that nobody else can read; empty without one.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub(super) fn password(&self) -> Result<String, String> {
        let Some(path) = &self.password_file else { return Ok(String::new()) };
        let bad = |why: String| format!("password file {}: {why}", path.display());
        let metadata = fs::metadata(path).map_err(|error| bad(error.to_string()))?;
        let mode = metadata.permissions().mode() & 0o777;
        if credential::bits_for_others(path, mode) != 0 {
            return Err(bad(format!("mode {mode:03o} lets others read it; chmod 600 it")));
        }
        if metadata.len() > PASSWORD_BYTES_MAX {
            return Err(bad(format!("{} bytes exceed {PASSWORD_BYTES_MAX}", metadata.len())));
        }
        let text = fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The host as it stands before `:port`: IPv6 in brackets.
    pub(super) fn address(&self) -> String {
        if self.host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{}]", self.host) } else { self.host.clone() }
    }

    fn is_local(&self) -> bool {
        self.is_socket()
            || self.host == "localhost"
            || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

/// Reads the wall clock; given by the shell, which owns the clock.
pub type WallClock = fn() -> WallTime;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_is_spoken_to_in_clear_text() {
        for host in ["127.0.0.1", "127.8.9.1", "::1", "localhost", "/run/mosquitto.sock"] {
            assert_eq!(Settings::new(host, 1883, "n").check(), Ok(()), "{host}");
        }
        for host in ["192.0.2.1", "broker.example", "0.0.0.0", "::", "localhost.example", "127.0.0.1.example"] {
            let mut settings = Settings::new(host, 1883, "n");
            let error = settings.check().unwrap_err();
            assert!(error.to_string().contains("allow_insecure"), "{error}");
            settings.allow_insecure = true;
            assert_eq!(settings.check(), Ok(()), "{host}");
        }
    }

    #[test]
    fn each_bad_setting_is_named() {
        type Change = fn(&mut Settings);
        let cases: [(Change, &str); 10] = [
            (|s| s.host = String::new(), "broker host \"\""),
            (|s| s.host = format!("/{}", "x".repeat(107)), "107 bytes"),
            (|s| s.port = 0, "port 0"),
            (|s| s.client_id = String::new(), "client id \"\""),
            (|s| s.client_id = "a\nb".to_owned(), "printable"),
            (|s| s.keep_alive = Duration::from_secs(4), "4s is not allowed: 5s to 3600s"),
            (|s| s.password_file = Some(PathBuf::from("/p")), "user name"),
            (|s| s.packet_bytes_max = 100, "100 bytes is not allowed: 16384"),
            (|s| s.subscriptions = vec![("a".to_owned(), Qos::AtMostOnce); 9], "9 subscriptions"),
            (|s| s.backoff.first = Duration::ZERO, "0ns to 60s"),
        ];
        for (change, words) in cases {
            let mut settings = Settings::new("localhost", 1883, "n");
            change(&mut settings);
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(words), "{words:?} is not in: {error}");
        }
    }

    #[test]
    fn an_ipv6_broker_is_written_in_brackets() {
        assert_eq!(Settings::new("::1", 1883, "n").broker(), "[::1]:1883");
        assert_eq!(Settings::new("/run/m.sock", 0, "n").broker(), "/run/m.sock");
    }
}
