//! Where does a demo or a test find an MQTT broker? In the process itself: rumqttd on a free loopback port.
//!
//! MQTT 5 only, no TLS, no passwords, nothing on disk: everything it knows ends with the process. It has no stop:
//! its threads live until the process ends, so one process starts few of them.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rumqttd::{Config, ConnectionSettings, RouterConfig, ServerSettings};

use crate::units::PACKET_BYTES_MAX;

/// Most clients at once.
const CONNECTIONS_MAX: usize = 16;
/// Most unacknowledged messages towards one client.
const INFLIGHT_MAX: usize = 100;
/// A topic filter's messages are kept in so many segments …
const SEGMENTS_MAX: usize = 4;
/// … of so many bytes each, in memory; the oldest segment goes when all are full.
const SEGMENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A client has this long to send its CONNECT.
const CONNECT_TIMEOUT_MS: u16 = 5_000;
/// Ports tried before giving up: between choosing a free one and listening on it another process may take it.
const PORT_TRIES: usize = 5;
/// How often a new broker is asked whether it answers, and how long one answer may take.
const PROBES: usize = 100;
const PROBE_PAUSE: Duration = Duration::from_millis(20);
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// CONNECT of MQTT 5 without a client id, clean start, keep alive 5 s, no properties.
const CONNECT: [u8; 15] = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 0x02, 0, 5, 0, 0, 0];
/// DISCONNECT, normal.
const DISCONNECT: [u8; 2] = [0xe0, 0];

/// Why no broker could be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No port, or no thread.
    #[error("the embedded broker found no free loopback port or could not start its threads")]
    Io(#[from] io::Error),
    /// Started, but no answer.
    #[error("the embedded broker did not answer on {0} within {1:?}; is the machine overloaded?")]
    Silent(SocketAddr, Duration),
}

/// A broker that answers; it lives as long as the process.
#[derive(Clone, Copy, Debug)]
pub struct Broker {
    address: SocketAddr,
}

impl Broker {
    /// Starts a broker on a free loopback port and waits until it answers.
    ///
    /// # Errors
    /// When no port is free, no thread can be started, or the broker does not answer within 2 s.
    pub fn start() -> Result<Self, Error> {
        let mut address = free_address()?;
        for _ in 0..PORT_TRIES {
            let mut broker = rumqttd::Broker::new(config(address));
            // `start` returns only when its listener has failed.
            let listener = thread::Builder::new().name("broker".to_owned()).spawn(move || broker.start().is_ok())?;
            for _ in 0..PROBES {
                // An answer counts only while our own listener lives: otherwise a stranger has the port.
                if answers(address) && !listener.is_finished() {
                    return Ok(Self { address });
                }
                if listener.is_finished() {
                    break;
                }
                thread::sleep(PROBE_PAUSE);
            }
            if !listener.is_finished() {
                break;
            }
            address = free_address()?;
        }
        Err(Error::Silent(address, PROBE_PAUSE * u32::try_from(PROBES).unwrap_or(u32::MAX)))
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A loopback address that was free a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Whether an MQTT 5 broker accepts a client there.
fn answers(address: SocketAddr) -> bool {
    connect(address).is_ok_and(|answer| answer[0] == 0x20 && answer[3] == 0)
}

/// Connects, and gives the first bytes of the answer: type, remaining length, session present, reason code.
fn connect(address: SocketAddr) -> io::Result<[u8; 4]> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(&CONNECT)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    stream.write_all(&DISCONNECT)?;
    Ok(answer)
}

/// One MQTT 5 listener, everything bounded.
fn config(address: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: CONNECT_TIMEOUT_MS,
        max_payload_size: PACKET_BYTES_MAX,
        max_inflight_count: INFLIGHT_MAX,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let listener = ServerSettings {
        name: "broker-v5".to_owned(),
        listen: address,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    Config {
        id: 0,
        router: RouterConfig {
            max_connections: CONNECTIONS_MAX,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES_MAX,
            max_segment_count: SEGMENTS_MAX,
            ..RouterConfig::default()
        },
        v5: Some(HashMap::from([("1".to_owned(), listener)])),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_broker_answers_mqtt_5_clients_on_loopback() {
        let broker = Broker::start().unwrap();

        let answer = connect(broker.address()).unwrap();

        assert!(broker.address().ip().is_loopback());
        assert_eq!(answer[0], 0x20, "CONNACK");
        assert_eq!(answer[3], 0, "accepted");
    }

    #[test]
    fn two_brokers_in_one_process_keep_to_themselves() {
        let [first, second] = [Broker::start().unwrap(), Broker::start().unwrap()];

        assert_ne!(first.address(), second.address());
        assert!(answers(first.address()) && answers(second.address()));
    }
}
