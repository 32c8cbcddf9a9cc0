//! Who else may answer at a broker's TLS port: servers of old versions, of other protocols, and such that mean harm.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream, SupportedProtocolVersion, version};

use crate::common::pki::Identity;

/// Most of anything endless: the other side has hung up long before.
const ENDLESS_BYTES: usize = 64 * 1024 * 1024;

fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port can be bound");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let serve = Arc::new(serve);
    // Lives as long as the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// A server that says fixed bytes, whatever it hears.
pub struct Raw {
    name: &'static str,
    port: u16,
    /// Somebody has taken all of something endless.
    gullible: Arc<AtomicBool>,
}

impl Raw {
    fn saying(name: &'static str, words: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        let port = listen(move |mut stream| {
            let mut heard = [0; 4096];
            // Nothing is said before the client's first word.
            if stream.read(&mut heard).is_ok_and(|bytes| bytes > 0) {
                words(&mut stream);
            }
        });
        Self { name, port, gullible: Arc::default() }
    }

    fn saying_bytes(name: &'static str, bytes: Vec<u8>) -> Self {
        Self::saying(name, move |stream| {
            let _ = stream.write_all(&bytes);
            linger(stream);
        })
    }

    /// Again and again, until the other side hangs up.
    fn repeating(name: &'static str, bytes: Vec<u8>) -> Self {
        let gullible = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&gullible);
        let raw = Self::saying(name, move |stream| {
            let mut said = 0;
            while said < ENDLESS_BYTES && stream.write_all(&bytes).is_ok() {
                said += bytes.len();
            }
            seen.fetch_or(said >= ENDLESS_BYTES, SeqCst);
        });
        Self { gullible, ..raw }
    }

    /// Whether somebody has taken all of something endless.
    pub fn was_endured(&self) -> bool {
        self.gullible.load(SeqCst)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A server of TLS 1.1 as OpenSSL is one: the alert `protocol_version`.
    pub fn tls_1_1_alert() -> Self {
        Self::saying_bytes("TLS 1.1 by alert", vec![21, 3, 2, 0, 2, 2, 70])
    }

    /// A server that answers with a hello of TLS 1.1.
    pub fn tls_1_1_hello() -> Self {
        let mut hello = vec![3, 2];
        hello.extend([7; 32]);
        // No session, TLS_RSA_WITH_AES_128_CBC_SHA, no compression.
        hello.extend([0, 0x00, 0x2f, 0]);
        let mut bytes = vec![22, 3, 2, 0, u8::try_from(hello.len() + 4).expect("short"), 2, 0, 0, 38];
        bytes.extend(hello);
        Self::saying_bytes("TLS 1.1 by hello", bytes)
    }

    /// Hears and never answers.
    pub fn silent() -> Self {
        Self::saying("silent", linger)
    }

    /// No TLS, and nothing else either.
    pub fn garbage() -> Self {
        let bytes = (0..8_192_u32).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3] | 0x80).collect();
        Self::saying_bytes("garbage", bytes)
    }

    /// One handshake message of 16 MiB.
    pub fn endless_handshake() -> Self {
        let mut record = vec![22, 3, 3, 0x40, 0, 2, 0xff, 0xff, 0xff];
        record.resize(5 + 0x4000, 0);
        Self::repeating("endless handshake", record)
    }

    /// Handshake messages that follow one another without end.
    pub fn endless_records() -> Self {
        Self::repeating("endless records", vec![22, 3, 3, 0, 4, 0, 0, 0, 0])
    }

    pub fn endless_change_cipher_spec() -> Self {
        Self::repeating("endless change_cipher_spec", vec![20, 3, 3, 0, 1, 1])
    }

    pub fn endless_warnings() -> Self {
        Self::repeating("endless warnings", vec![21, 3, 3, 0, 2, 1, 90])
    }

    pub fn http() -> Self {
        Self::saying_bytes("http", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec())
    }

    pub fn closing() -> Self {
        Self::saying("closing", |_| {})
    }
}

/// Waits for the other side to hang up.
fn linger(stream: &mut TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut heard = [0; 4096];
    while stream.read(&mut heard).is_ok_and(|bytes| bytes > 0) {}
}

fn server(identity: &Identity, repeat: usize, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
    let cert = CertificateDer::from_pem_file(&identity.cert).expect("the certificate can be read");
    let key = PrivateKeyDer::from_pem_file(&identity.key).expect("the key can be read");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("known versions");
    Arc::new(config.with_no_client_auth().with_single_cert(vec![cert; repeat], key).expect("a pair"))
}

fn handshake(config: &Arc<ServerConfig>, mut stream: TcpStream) {
    let mut connection = ServerConnection::new(Arc::clone(config)).expect("the configuration can work");
    // How it ends is seen at the other side.
    let _ = Stream::new(&mut connection, &mut stream).flush();
    linger(&mut stream);
}

/// A server that speaks TLS 1.2 and nothing else.
pub fn serve_tls_1_2(identity: &Identity) -> u16 {
    let config = server(identity, 1, &[&version::TLS12]);
    listen(move |stream| handshake(&config, stream))
}

/// A server whose chain has so many certificates.
pub fn serve_with_chain(identity: &Identity, certificates: usize) -> u16 {
    let config = server(identity, certificates, &[&version::TLS13]);
    listen(move |stream| handshake(&config, stream))
}

/// Passes a connection on to a port, and cuts it after so many bytes from there: the n-th connection after the n-th
/// count, further ones never.
pub struct Cutter {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Cutter {
    pub fn start(to: u16, cuts: Vec<usize>) -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let port = listen(move |client| {
            let number = counted.fetch_add(1, SeqCst);
            let room = cuts.get(number).copied().unwrap_or(usize::MAX);
            let broker = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).expect("the broker listens");
            pass(client, broker, room);
        });
        Self { port, connections }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

fn pass(client: TcpStream, mut broker: TcpStream, mut room: usize) {
    let (mut from, mut to) = (client.try_clone().expect("a socket"), broker.try_clone().expect("a socket"));
    let up = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut writes, mut buffer) = (&client, [0; 4096]);
    while room > 0 {
        let wanted = buffer.len().min(room);
        let Ok(bytes) = broker.read(&mut buffer[..wanted]) else { break };
        if bytes == 0 || writes.write_all(&buffer[..bytes]).is_err() {
            break;
        }
        room -= bytes;
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = broker.shutdown(Shutdown::Both);
    let _ = up.join();
}
