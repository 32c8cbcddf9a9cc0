//! How do the client's bytes come to the broker? Through a Unix socket without a file, and TLS: one bridge for each
//! connection.
//!
//! The socket has an abstract name with a random part, and takes one connection, of this very process: the kernel says
//! whose it is. Everybody else is sent away. It is there for as long as the connection is being made.

use std::future::pending;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::cause::Scene;
use super::certificates::{Certificates, Whose};
use super::checks::{self, Witness};
use super::dial::dial;
use super::material::Material;
use crate::link::connection::Failure;
use crate::link::contained::contained;
use crate::link::messages::new_id;
use crate::link::settings::WallClock;

/// For everything until both ends are joined: the name, TCP, TLS.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// For the client to come to its end of the bridge, once there is another one.
const JOIN_MAX: Duration = Duration::from_secs(10);
/// For what was sent last, and the goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// For what a broker says before it closes a connection that we can no longer write to.
const LAST_WORD_MAX: Duration = Duration::from_millis(200);
/// What is copied at once, in bytes: the most that one record of TLS holds.
const COPY_BYTES: usize = 16 * 1024;
/// What is not sent yet, in bytes: with what is being copied and the kernel's buffers that is all that is held.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// Where a bridge leads.
#[derive(Debug)]
pub(in crate::link) struct Way {
    /// Name or address of the broker.
    pub(in crate::link) host: String,
    /// Its port.
    pub(in crate::link) port: u16,
    /// The same, for people.
    pub(in crate::link) broker: String,
    /// Silence that is borne.
    pub(in crate::link) keep_alive: Duration,
    /// What it is secured with.
    pub(in crate::link) material: Arc<Material>,
    /// Who is told of it, and whose time counts.
    pub(in crate::link) shared: Certificates,
    /// The machine's clock, when no better one is known.
    pub(in crate::link) wall: WallClock,
}

/// The client's end: what it connects to, whether there is a way, and why it ended.
#[derive(Debug)]
pub(in crate::link) struct Crossing {
    ready: Option<oneshot::Receiver<Result<(), Failure>>>,
    fate: Arc<OnceLock<Failure>>,
}

impl Crossing {
    /// Waits until the broker is reached and has shown who it is.
    ///
    /// # Errors
    /// Why it was not.
    pub(in crate::link) async fn ready(&mut self) -> Result<(), Failure> {
        let Some(ready) = self.ready.take() else { return Ok(()) };
        ready.await.unwrap_or_else(|_| Err(Failure::lost("the task of the TLS connection has ended")))
    }

    /// Why the bridge broke, if it did: known before the client sees its end closed.
    pub(in crate::link) fn fate(&self) -> Option<Failure> {
        self.fate.get().cloned()
    }
}

/// Opens the client's end: its path for the client, what it is told by, and what carries the bytes, to be run as a task.
///
/// # Errors
/// When the system gives no socket.
pub(in crate::link) fn open(way: Way) -> io::Result<(String, Crossing, impl Future<Output = ()> + Send)> {
    // No file: nothing to clean up, and no folder to find that is ours alone. See accept().
    let path = format!("\0neap-{}", new_id());
    let listener = UnixListener::bind(&path)?;
    let (tell, ready) = oneshot::channel();
    let fate = Arc::new(OnceLock::new());
    let crossing = Crossing { ready: Some(ready), fate: Arc::clone(&fate) };
    let carry = async move {
        // What a stranger sends is parsed in here: see the module `contained`.
        if let Err(panic) = contained(way.carry(listener, tell, &fate)).await {
            let _ = fate.set(Failure::lost(format!("the TLS library panicked: {panic}")));
        }
    };
    Ok((path, crossing, carry))
}

impl Way {
    async fn carry(
        &self,
        listener: UnixListener,
        tell: oneshot::Sender<Result<(), Failure>>,
        fate: &OnceLock<Failure>,
    ) {
        let witness = Arc::new(Witness::default());
        let mut tell = tell;
        let joined = tokio::select! {
            // The client was given up.
            () = tell.closed() => return,
            joined = self.connect(&witness) => joined,
        };
        let stream = match joined {
            Ok(stream) => stream,
            Err(failure) => {
                // When nobody waits for it any more the link has logged another reason.
                let _ = tell.send(Err(failure));
                return;
            }
        };
        self.note(&stream, &witness);
        if tell.send(Ok(())).is_err() {
            return;
        }
        let Ok(Ok(client)) = timeout(JOIN_MAX, accept(&listener)).await else { return };
        drop(listener);
        if let Err(error) = exchange(client, stream).await {
            // An end without a goodbye says nothing that the client does not see by itself.
            if error.kind() != io::ErrorKind::UnexpectedEof {
                let _ = fate.set(self.scene(&witness, true, |scene| scene.failure(&error)));
            }
        }
    }

    /// The broker, reached and known, within [`CONNECT_MAX`].
    async fn connect(&self, witness: &Arc<Witness>) -> Result<TlsStream<TcpStream>, Failure> {
        let seconds = CONNECT_MAX.as_secs();
        let deadline = Instant::now() + CONNECT_MAX;
        let broker = &self.broker;
        let dialled = timeout_at(deadline, dial(&self.host, self.port, self.keep_alive)).await;
        let dialled =
            dialled.map_err(|_| Failure::lost(format!("broker {broker} does not answer within {seconds} s")))?;
        let tcp = dialled.map_err(|error| Failure::lost(format!("connection to broker {broker}: {error}")))?;
        let config = checks::config(&self.material, witness, &self.shared, self.wall);
        let config = config.map_err(|error| Failure::auth(format!("TLS cannot be set up: {error}")))?;
        let connecting =
            TlsConnector::from(Arc::new(config)).connect_with(self.material.server_name.clone(), tcp, |connection| {
                connection.set_buffer_limit(Some(UNSENT_BYTES_MAX))
            });
        match timeout_at(deadline, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.scene(witness, false, |scene| scene.failure(&error))),
            Err(_) => Err(self.scene(witness, false, |scene| scene.timed_out(seconds))),
        }
    }

    /// Tells what the connection has shown.
    fn note(&self, stream: &TlsStream<TcpStream>, witness: &Witness) {
        let version = match stream.get_ref().1.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "tls1.2",
            Some(_) | None => "tls1.3",
        };
        let shown = witness.shown();
        self.shared.tell(|known| {
            known.version = Some(version);
            known.certificates.retain(|certificate| certificate.whose != Whose::Broker);
            known.certificates.extend(shown);
        });
    }

    fn scene<T>(&self, witness: &Witness, established: bool, tell: impl FnOnce(&Scene<'_>) -> T) -> T {
        let shown = witness.shown();
        tell(&Scene {
            broker: &self.broker,
            wanted: self.material.server_name.to_str().into_owned(),
            settings: &self.material.settings,
            shown: shown.as_ref(),
            own: self.material.certificates().iter().find(|one| one.whose == Whose::Node),
            asked: witness.was_asked(),
            established,
            now: checks::time(&self.shared, self.wall),
            sure: self.shared.is_sure(),
        })
    }
}

/// The client's connection, and nobody else's: of this process, as the kernel says.
async fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    let us = i32::try_from(std::process::id()).ok();
    loop {
        let (stream, _) = listener.accept().await?;
        if us.is_some() && stream.peer_cred()?.pid() == us {
            return Ok(stream);
        }
    }
}

/// Copies both ways until one end is closed.
///
/// # Errors
/// What the broker's end said when it broke.
async fn exchange(mut client: UnixStream, broker: TlsStream<TcpStream>) -> io::Result<()> {
    let (mut client_reads, mut client_writes) = client.split();
    let (mut broker_reads, mut broker_writes) = split(broker);
    let down = async {
        match pump(&mut broker_reads, &mut client_writes).await {
            Ok(()) => Ok(()),
            Err(Broken::Source(error)) => Err(error),
            // The client is gone, as the other direction will find, which has more to do then.
            Err(Broken::Sink(_)) => pending().await,
        }
    };
    tokio::pin!(down);
    let up = tokio::select! {
        ended = &mut down => return ended,
        up = pump(&mut client_reads, &mut broker_writes) => up,
    };
    match up {
        // The client is done, or was dropped: what it said last is on its way, and the goodbye follows.
        Ok(()) | Err(Broken::Source(_)) => {
            // A broker that does not take it will see the end of the connection.
            let _ = timeout(GOODBYE_MAX, broker_writes.shutdown()).await;
            Ok(())
        }
        // A broker that refuses us may have said why before it closed.
        Err(Broken::Sink(error)) => match timeout(LAST_WORD_MAX, down).await {
            Ok(Err(why)) => Err(why),
            Ok(Ok(())) | Err(_) => Err(error),
        },
    }
}

/// Which end of a copy broke.
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

/// Copies until the source is closed.
async fn pump(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> Result<(), Broken> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let bytes = from.read(&mut buffer).await.map_err(Broken::Source)?;
        if bytes == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..bytes]).await.map_err(Broken::Sink)?;
        to.flush().await.map_err(Broken::Sink)?;
    }
}
