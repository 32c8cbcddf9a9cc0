//! A web server for one test: serves a folder over https, and does what the test wants to go wrong.

#![allow(dead_code, missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::pki::Identity;

/// What the server says to one request.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    body: Vec<u8>,
    tag: String,
    location: Option<String>,
    has_length: bool,
    /// So many bytes of the body, then the connection ends or nothing comes for a while.
    cut: Option<usize>,
    pause: Option<Duration>,
}

impl Answer {
    fn of(path: &Path) -> Self {
        let (status, body) = fs::read(path).map_or((404, Vec::new()), |body| (200, body));
        let answer =
            Self { status, body, tag: "\"v1\"".into(), location: None, has_length: true, cut: None, pause: None };
        if status == 200 { answer } else { Self { tag: String::new(), ..answer } }
    }

    pub fn body(self, body: Vec<u8>) -> Self {
        Self { status: 200, body, ..self }
    }

    pub fn tag(self, tag: &str) -> Self {
        Self { tag: tag.to_owned(), ..self }
    }

    pub fn redirect(self, to: &str) -> Self {
        Self { status: 302, location: Some(to.to_owned()), body: Vec::new(), ..self }
    }

    /// The end of the connection is the end of the body.
    pub fn without_length(self) -> Self {
        Self { has_length: false, ..self }
    }

    pub fn cut_after(self, bytes: usize) -> Self {
        Self { cut: Some(bytes), ..self }
    }

    /// Nothing at all comes for so long.
    pub fn stall(self, pause: Duration) -> Self {
        Self { cut: None, pause: Some(pause), ..self }
    }

    /// Nothing more comes for so long.
    pub fn stall_after(self, bytes: usize, pause: Duration) -> Self {
        Self { cut: Some(bytes), pause: Some(pause), ..self }
    }
}

type Change = dyn Fn(&str, usize, Answer) -> Answer + Send + Sync;
/// Ranges that were asked for, by path, in order.
type Requests = Arc<Mutex<BTreeMap<String, Vec<Option<String>>>>>;

/// A server until it is dropped; its threads end with the test.
pub struct Server {
    port: u16,
    requests: Requests,
}

impl Server {
    /// Serves a folder below `at`; `change` gets each path, which time it is asked for (from 1), and the honest answer.
    pub fn start(
        identity: &Identity,
        folder: &Path,
        at: &str,
        change: impl Fn(&str, usize, Answer) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let chain = CertificateDer::pem_file_iter(&identity.cert).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Requests::default();
        let site = Arc::new(Site {
            config: Arc::new(config),
            folder: folder.to_owned(),
            at: at.to_owned(),
            change: Box::new(change),
            requests: Arc::clone(&requests),
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = Arc::clone(&site);
                // A client that goes away is what many tests want.
                std::thread::spawn(move || site.serve(stream));
            }
        });
        Self { port, requests }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The ranges asked for of a path, in order; `None`: the whole.
    pub fn ranges(&self, path: &str) -> Vec<Option<String>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned().unwrap_or_default()
    }

    pub fn asked(&self, path: &str) -> usize {
        self.ranges(path).len()
    }
}

struct Site {
    config: Arc<ServerConfig>,
    folder: PathBuf,
    at: String,
    change: Box<Change>,
    requests: Requests,
}

impl Site {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let connection = ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        let mut stream = BufReader::new(StreamOwned::new(connection, stream));
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut fields = BTreeMap::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                fields.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let time = {
            let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            let asked = requests.entry(path.clone()).or_default();
            asked.push(fields.get("range").cloned());
            asked.len()
        };
        let honest = Answer::of(&self.folder.join(path.strip_prefix(&self.at).unwrap_or("?")));
        let answer = (self.change)(&path, time, honest);
        let stream = stream.get_mut();
        self.answer(stream, &fields, &answer)?;
        stream.conn.send_close_notify();
        stream.flush()
    }

    fn answer(
        &self,
        stream: &mut StreamOwned<ServerConnection, TcpStream>,
        fields: &BTreeMap<String, String>,
        answer: &Answer,
    ) -> io::Result<()> {
        if let (None, Some(pause)) = (answer.cut, answer.pause) {
            std::thread::sleep(pause);
        }
        let wanted =
            fields.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let continues = fields.get("if-range") == Some(&answer.tag) && answer.status == 200;
        let start = wanted.filter(|start: &usize| continues && *start < answer.body.len());
        let body = &answer.body[start.unwrap_or(0)..];
        let status = if start.is_some() { 206 } else { answer.status };
        write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\n")?;
        if answer.has_length {
            write!(stream, "Content-Length: {}\r\n", body.len())?;
        }
        if !answer.tag.is_empty() {
            write!(stream, "ETag: {}\r\n", answer.tag)?;
        }
        if let Some(start) = start {
            let whole = answer.body.len();
            write!(stream, "Content-Range: bytes {start}-{}/{whole}\r\n", whole - 1)?;
        }
        if let Some(to) = &answer.location {
            write!(stream, "Location: {to}\r\n")?;
        }
        stream.write_all(b"\r\n")?;
        let sent = answer.cut.unwrap_or(body.len()).min(body.len());
        stream.write_all(&body[..sent])?;
        stream.flush()?;
        if let (Some(_), Some(pause)) = (answer.cut, answer.pause) {
            std::thread::sleep(pause);
        }
        if sent < body.len() {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        }
        Ok(())
    }
}
