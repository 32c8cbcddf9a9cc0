//! A gNB that plays recorded metrics to whoever subscribes on its WebSocket, and remembers every frame that it hears.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tungstenite::{Error, Message, WebSocket};

/// Pause between two reports. A real one makes a second; ours has less patience.
pub const PERIOD: Duration = Duration::from_millis(150);
/// The only words that a gNB may hear.
pub const SUBSCRIPTION: &str = r#"{"cmd":"metrics_subscribe"}"#;

/// What it does.
#[derive(Clone, Debug)]
pub enum Play {
    /// These reports, over and over.
    Reports(Vec<Vec<String>>),
    /// These lines once, then nothing.
    Once(Vec<String>),
    /// Nothing: the connection stays.
    Silence,
    /// Ends every connection.
    Hangup,
}

/// Reports of a recording: each begins with its first executor.
pub fn recording(name: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/ocudu/{name}.ndjson"));
    let text = std::fs::read_to_string(path).expect("the recording is there");
    let mut reports: Vec<Vec<String>> = Vec::new();
    for line in text.lines() {
        if line.contains("slot_ind_exec#0") {
            reports.push(Vec::new());
        }
        if let Some(report) = reports.last_mut() {
            report.push(line.to_owned());
        }
    }
    // The last one of the recordings ends in the middle of what follows it.
    reports.pop();
    reports
}

#[derive(Debug)]
struct Shared {
    play: Mutex<(u64, Play)>,
    heard: Mutex<Vec<Vec<Message>>>,
    ended: Mutex<bool>,
}

/// The gNB. Its port is closed when it is dropped.
pub struct Gnb {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Gnb {
    /// One that plays that to each connection, one at a time.
    pub fn start(play: Play) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let address = listener.local_addr().expect("it is bound");
        let shared =
            Arc::new(Shared { play: Mutex::new((0, play)), heard: Mutex::default(), ended: Mutex::new(false) });
        let its = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !its.has_ended() {
                match listener.accept() {
                    Ok((stream, _)) => serve(stream, &its),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on plays that.
    pub fn play(&self, play: Play) {
        let mut current = lock(&self.shared.play);
        *current = (current.0 + 1, play);
    }

    /// Every frame of each connection, so far.
    pub fn heard(&self) -> Vec<Vec<Message>> {
        lock(&self.shared.heard).clone()
    }
}

impl Drop for Gnb {
    fn drop(&mut self) {
        *lock(&self.shared.ended) = true;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the gNB failed");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn has_ended(&self) -> bool {
        *lock(&self.ended)
    }
}

/// One connection, to its end.
fn serve(stream: TcpStream, shared: &Shared) {
    stream.set_nonblocking(false).expect("a socket can block");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket has a time limit");
    let Ok(mut socket) = tungstenite::accept(stream) else { return };
    let place = {
        let mut heard = lock(&shared.heard);
        heard.push(Vec::new());
        heard.len() - 1
    };
    let mut next = 0;
    let mut played = None;
    while !shared.has_ended() {
        if !listen(&mut socket, shared, place) {
            return;
        }
        let is_subscribed = lock(&shared.heard)[place].contains(&Message::text(SUBSCRIPTION));
        let (turn, play) = lock(&shared.play).clone();
        let lines = match play {
            Play::Hangup => return,
            _ if !is_subscribed => Vec::new(),
            Play::Silence => Vec::new(),
            Play::Reports(reports) => {
                next += 1;
                reports[next % reports.len()].clone()
            }
            Play::Once(lines) if played != Some(turn) => {
                played = Some(turn);
                lines
            }
            Play::Once(_) => Vec::new(),
        };
        for line in lines {
            if socket.send(Message::text(line)).is_err() {
                return;
            }
        }
        std::thread::sleep(PERIOD);
    }
}

/// Takes in what has come; whether the connection is still there.
fn listen(socket: &mut WebSocket<TcpStream>, shared: &Shared, place: usize) -> bool {
    socket.get_ref().set_nonblocking(true).expect("a socket can be non-blocking");
    let is_there = loop {
        match socket.read() {
            Ok(message) => lock(&shared.heard)[place].push(message),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break true,
            Err(_) => break false,
        }
    };
    socket.get_ref().set_nonblocking(false).expect("a socket can block");
    is_there
}
