//! How is a gNB listened to that would obey every word? By one word, the subscription, and silence after it.
//!
//! The remote-control port takes commands, `quit` among them. So one text frame is sent after connecting, pings are
//! answered, and nothing else is ever written: not even the answer to a close, the connection just ends.
//! Every step has a time limit, a message a size limit. What ends a connection is told, and after a rest, which grows
//! while connections fail, it is tried again. Meanwhile nothing is posted: the source goes stale, which means busy.
//!
//! The only file that names tungstenite.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket, client};

use super::Notes;
use super::document::{MESSAGE_BYTES_MAX, TOO_LONG};
use super::report::Reports;
use crate::load::mailbox::Poster;
use crate::sys::clock;
use crate::units::Instant;

/// The only words that a gNB hears from us.
pub(super) const SUBSCRIPTION: &str = r#"{"cmd":"metrics_subscribe"}"#;

/// Limit of the connect, and of what follows until the protocol is agreed. On loopback both take microseconds.
const CONNECT_MAX: Duration = Duration::from_millis(500);
const HANDSHAKE_MAX: Duration = Duration::from_secs(2);
/// Silence after which a connection counts as dead. A gNB reports once a second.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Rest before the next attempt: doubled after each that did not last, up to the longest.
const REST_MIN: Duration = Duration::from_millis(200);
const REST_MAX: Duration = Duration::from_secs(10);
/// A connection that lived for so long was a good one.
const LASTING: Duration = Duration::from_secs(10);
/// Frames a second, pings included; a large DU sends a few hundred.
const FRAMES_MAX: u32 = 20_000;

/// Listens until the mailbox is gone.
pub(super) fn run(poster: &Poster, address: SocketAddr, mut reports: Reports) {
    let mut notes = Notes::new(address);
    let mut rest = REST_MIN;
    while !poster.is_over() {
        let began = clock::now();
        let why = session(poster, address, &mut reports, &mut notes);
        let now = clock::now();
        let Some(why) = why else { return };
        notes.complain(now, &why);
        rest = if now.since(began) >= LASTING { REST_MIN } else { rest };
        poster.rest(rest);
        rest = (rest * 2).min(REST_MAX);
    }
}

/// One connection, to its end: why it ended, or `None` when the mailbox is gone.
fn session(poster: &Poster, address: SocketAddr, reports: &mut Reports, notes: &mut Notes) -> Option<String> {
    let mut socket = match connect(poster, address) {
        Ok(socket) => socket?,
        Err(why) => return Some(why),
    };
    // Written at once: the socket is new and its buffer empty.
    if let Err(error) = socket.send(Message::text(SUBSCRIPTION)) {
        return Some(format!("the subscription could not be sent: {error}"));
    }
    notes.on_begin(clock::now());
    let mut frames = Frames::default();
    while !poster.is_over() {
        match socket.read() {
            Ok(Message::Text(text)) => notes.on_message(clock::now(), text.as_bytes(), reports, poster),
            Ok(Message::Binary(bytes)) => notes.on_message(clock::now(), &bytes, reports, poster),
            // The answer to a ping leaves with the next read. Frames as such are never handed out.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            Ok(Message::Close(_)) => return Some("it closed the connection".to_owned()),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                match wait(poster, socket.get_ref(), PollFlags::IN, SILENCE_MAX) {
                    Woken::Ready => {}
                    Woken::TimeIsOver => return Some(format!("silence for {} s", SILENCE_MAX.as_secs())),
                    Woken::Over => return None,
                }
                continue;
            }
            Err(Error::Capacity(_)) => {
                poster.post(reports.senseless(TOO_LONG));
                return Some(TOO_LONG.to_owned());
            }
            Err(error) => return Some(error.to_string()),
        }
        if frames.are_too_many(clock::now()) {
            poster.post(reports.senseless("a flood of frames"));
            return Some(format!("more than {FRAMES_MAX} frames in a second"));
        }
    }
    None
}

/// Connects and agrees on the protocol; `None` when the mailbox is gone.
fn connect(poster: &Poster, address: SocketAddr) -> Result<Option<WebSocket<TcpStream>>, String> {
    let failed = |error: std::io::Error| format!("no connection to its remote-control port: {error}");
    let stream = TcpStream::connect_timeout(&address, CONNECT_MAX).map_err(failed)?;
    stream.set_nonblocking(true).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(16 * 1024)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let until = clock::now().after(HANDSHAKE_MAX);
    let mut attempt = client::client_with_config(format!("ws://{address}/"), stream, Some(config));
    loop {
        let midway = match attempt {
            Ok((socket, _)) => return Ok(Some(socket)),
            Err(HandshakeError::Failure(error)) => {
                return Err(format!("no WebSocket on its remote-control port: {error}"));
            }
            Err(HandshakeError::Interrupted(midway)) => midway,
        };
        let left = until.since(clock::now());
        match wait(poster, midway.get_ref().get_ref(), PollFlags::IN, left) {
            Woken::Ready => attempt = midway.handshake(),
            Woken::TimeIsOver => return Err("no answer to the WebSocket handshake within 2 s".to_owned()),
            Woken::Over => return Ok(None),
        }
    }
}

/// What ended a wait.
enum Woken {
    Ready,
    TimeIsOver,
    /// The mailbox is gone.
    Over,
}

/// Sleeps until the stream is ready, the span is over, or the mailbox is gone.
fn wait(poster: &Poster, stream: &TcpStream, ready: PollFlags, span: Duration) -> Woken {
    let until = clock::now().after(span);
    loop {
        let left = until.since(clock::now());
        if poster.is_over() {
            return Woken::Over;
        }
        if left.is_zero() {
            return Woken::TimeIsOver;
        }
        let leave = poster.leave_fd();
        let mut polled =
            [PollFd::from_borrowed_fd(stream.as_fd(), ready), PollFd::from_borrowed_fd(leave, PollFlags::IN)];
        // An interrupted or refused wait is looked at again, until the time is over.
        let _ = poll(&mut polled, Timespec::try_from(left).ok().as_ref());
        if !polled[0].revents().is_empty() {
            return Woken::Ready;
        }
    }
}

/// Frames of the running second.
#[derive(Default)]
struct Frames {
    began: Option<Instant>,
    count: u32,
}

impl Frames {
    fn are_too_many(&mut self, now: Instant) -> bool {
        let began = *self.began.get_or_insert(now);
        if now.since(began) >= Duration::from_secs(1) {
            *self = Self { began: Some(now), count: 0 };
        }
        self.count += 1;
        self.count > FRAMES_MAX
    }
}
