//! To whom does the idle agent talk? A broker on loopback that says yes to everything and delivers nothing.
//!
//! It speaks as much MQTT 5 as an agent without work needs: it lets the agent in, grants its subscriptions, takes what it
//! publishes, and answers its pings. So the bench needs no broker of others, also where none can be had.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest packet that is taken; an idle agent's are a few kilobytes.
const PACKET_BYTES_MAX: usize = 1 << 20;
/// Longest wait for a byte, or for room for one, before the thread looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// A broker; ends when dropped.
#[derive(Debug)]
pub(super) struct Stub {
    address: SocketAddr,
    leave: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    /// Listens on a port of the system's choice.
    ///
    /// # Errors
    /// When there is no loopback, or no thread can be started.
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let leave = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&leave);
        let serve = move || {
            for stream in listener.incoming() {
                if told.load(SeqCst) {
                    return;
                }
                // A connection that breaks is the agent's to make again.
                let _broken = stream.and_then(|stream| converse(stream, &told));
            }
        };
        let thread = std::thread::Builder::new().name("bench-broker".to_owned()).spawn(serve)?;
        Ok(Self { address, leave, thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.leave.store(true, SeqCst);
        // Wakes it where it waits for a connection.
        let woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take()
            && woken.is_ok()
        {
            let _ended = thread.join();
        }
    }
}

/// Answers packets until the agent hangs up or the bench ends.
fn converse(mut stream: TcpStream, leave: &AtomicBool) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while !leave.load(SeqCst) {
        while let Some((first, body, length)) = packet(&bytes)? {
            let Some(answer) = answer(first, body) else { return Ok(()) };
            stream.write_all(&answer)?;
            bytes.drain(..length);
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The first packet of what was received: its first byte, its body, and its whole length; nothing when it is not whole.
fn packet(bytes: &[u8]) -> io::Result<Option<(u8, &[u8], usize)>> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((length, width)) = variable(rest) else {
        let is_bad = rest.len() >= 4;
        return if is_bad { Err(io::ErrorKind::InvalidData.into()) } else { Ok(None) };
    };
    if length > PACKET_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let body = rest.get(width..width + length);
    Ok(body.map(|body| (*first, body, 1 + width + length)))
}

/// A number of one to four bytes, the lowest seven bits first, and how many they are.
fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// What a broker says to a packet; `None`: the connection is over.
fn answer(first: u8, body: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize| Some([*body.get(at)?, *body.get(at + 1)?]);
    match (first >> 4, (first >> 1) & 3) {
        // CONNECT: no session, welcome, no properties.
        (1, _) => Some(vec![0x20, 3, 0, 0, 0]),
        // PUBLISH at QoS 0, and PUBACK.
        (3, 0) | (4, _) => Some(Vec::new()),
        // PUBLISH at QoS 1 is acknowledged; QoS 2 is not spoken here.
        (3, 1) => {
            let topic = usize::from(u16::from_be_bytes(number(0)?));
            let [high, low] = number(2 + topic)?;
            Some(vec![0x40, 2, high, low])
        }
        (8, _) => granted(0x90, body, 1, |options| options & 3),
        (10, _) => granted(0xb0, body, 0, |_| 0),
        (12, _) => Some(vec![0xd0, 0]),
        _ => None,
    }
}

/// The answer to SUBSCRIBE and UNSUBSCRIBE: one code for each filter, of its byte of options where it has one.
fn granted(kind: u8, body: &[u8], options: usize, code: impl Fn(u8) -> u8) -> Option<Vec<u8>> {
    let (number, rest) = body.split_at_checked(2)?;
    let (properties, width) = variable(rest)?;
    let mut filters = rest.get(width + properties..)?;
    let mut codes = Vec::new();
    while !filters.is_empty() {
        let length = usize::from(u16::from_be_bytes([*filters.first()?, *filters.get(1)?]));
        let asked = if options == 1 { *filters.get(2 + length)? } else { 0 };
        codes.push(code(asked));
        filters = filters.get(2 + length + options..)?;
    }
    // No more filters than a length of one byte allows: an agent has a handful.
    let length = u8::try_from(3 + codes.len()).ok().filter(|length| *length < 0x80)?;
    Some([&[kind, length][..], number, &[0], &codes].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_of_an_idle_agent_has_its_answer() {
        assert_eq!(answer(0x10, b"\x00\x04MQTT\x05"), Some(vec![0x20, 3, 0, 0, 0]));
        assert_eq!(answer(0xc0, b""), Some(vec![0xd0, 0]));
        assert_eq!(answer(0x32, b"\x00\x01t\x12\x34\x00payload"), Some(vec![0x40, 2, 0x12, 0x34]));
        assert_eq!(answer(0x30, b"\x00\x01t\x00payload"), Some(vec![]));
        // Two filters, one of QoS 1 and one of QoS 0, after one property of two bytes.
        let subscribe = b"\x00\x07\x02\x0b\x01\x00\x03a/b\x01\x00\x01c\x00";
        assert_eq!(answer(0x82, subscribe), Some(vec![0x90, 5, 0, 7, 0, 1, 0]));
        assert_eq!(answer(0xa2, b"\x00\x08\x00\x00\x01c"), Some(vec![0xb0, 4, 0, 8, 0, 0]));
        assert_eq!(answer(0xe0, b""), None);
        assert_eq!(answer(0x82, b"\x00"), None);
        assert_eq!(answer(0x82, b"\x00\x07\x00\x00\x09a"), None);
    }

    #[test]
    fn a_packet_is_answered_when_it_is_whole_and_no_endless_one_is_waited_for() {
        assert_eq!(packet(b"").unwrap(), None);
        assert_eq!(packet(b"\xc0").unwrap(), None);
        assert_eq!(packet(b"\xc0\x00\xc0").unwrap(), Some((0xc0, &b""[..], 2)));
        assert_eq!(packet(b"\x30\x03ab").unwrap(), None);
        assert_eq!(packet(b"\x30\x81\x00a").unwrap(), Some((0x30, &b"a"[..], 4)));
        assert!(packet(b"\x30\xff\xff\xff\x7f").is_err());
        assert!(packet(b"\x30\xff\xff\xff\xff").is_err());
    }

    #[test]
    fn it_talks_over_a_real_connection_and_ends_when_it_is_dropped() {
        let stub = Stub::start().unwrap();
        let mut stream = TcpStream::connect(stub.address()).unwrap();
        stream.write_all(b"\x10\x02ab\xc0\x00").unwrap();
        let mut said = [0; 7];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(said, [0x20, 3, 0, 0, 0, 0xd0, 0]);
        drop(stub);
        assert_eq!(stream.read(&mut said).unwrap(), 0);
    }
}
