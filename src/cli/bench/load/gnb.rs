//! How does the bench tell of load as a gNB does? A WebSocket, and one executor's report an event.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use tungstenite::{Message, WebSocket};

use super::ways::{BUSY_PERCENT, Bare, Feed, IDLE_PERCENT, Opened};
use crate::load::{self, ocudu};
use crate::units::Instant;

/// Longest wait for the source to connect and to subscribe.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Reports before the source believes that it knows every executor.
const FIRST_REPORTS: u32 = 3;

/// What the gNB says of an executor.
fn report(percent: u8) -> String {
    format!(r#"{{"executor_metrics":{{"cpu_load":{percent}.0,"name":"slot_ind_exec#0","enqueue_max":40}}}}"#)
}

/// The gNB's end of a stream.
struct Gnb {
    stream: WebSocket<TcpStream>,
    /// Reports that the source still learns from.
    learning: u32,
}

impl Gnb {
    /// Waits until the source has subscribed.
    fn accept(listener: &TcpListener) -> io::Result<Self> {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        stream.set_write_timeout(Some(WAIT_MAX))?;
        let mut stream = tungstenite::accept(stream).map_err(io::Error::other)?;
        stream.read().map_err(io::Error::other)?;
        Ok(Self { stream, learning: FIRST_REPORTS })
    }

    fn say(&mut self, percent: u8) -> io::Result<()> {
        self.stream.send(Message::text(report(percent))).map_err(io::Error::other)
    }
}

impl Feed for Gnb {
    fn calm(&mut self, _: Instant) -> io::Result<()> {
        for _ in 1..std::mem::take(&mut self.learning) {
            self.say(IDLE_PERCENT)?;
        }
        self.say(IDLE_PERCENT)
    }

    fn rise(&mut self, _: Instant) -> io::Result<()> {
        self.say(BUSY_PERCENT)
    }
}

pub(super) fn open(_: &Path) -> io::Result<Opened> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let scale = ocudu::Scale { cores: 1, prbs: Default::default(), peak_bits: None };
    let settings = ocudu::Settings { form: ocudu::Form::Stream, address: listener.local_addr()?, scale };
    let connect = move || Ok(Box::new(Gnb::accept(&listener)?) as Box<dyn Feed>);
    Ok(Opened { kind: load::Kind::Ocudu(settings), connect: Box::new(connect) })
}

/// The same words over TCP alone.
struct Stream(TcpStream);

impl Feed for Stream {
    fn calm(&mut self, _: Instant) -> io::Result<()> {
        self.0.write_all(report(IDLE_PERCENT).as_bytes())
    }

    fn rise(&mut self, _: Instant) -> io::Result<()> {
        self.0.write_all(report(BUSY_PERCENT).as_bytes())
    }
}

pub(super) fn bare(_: &Path) -> io::Result<Bare> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address: SocketAddr = listener.local_addr()?;
    let mut reader = TcpStream::connect(address)?;
    let (feed, _) = listener.accept()?;
    feed.set_nodelay(true)?;
    let mut buffer = [0; 1024];
    let read = move || match reader.read(&mut buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    };
    Ok(Bare { feed: Box::new(Stream(feed)), read: Box::new(read) })
}
