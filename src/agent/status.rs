//! Who may look at the agent from the same machine? Two pages over a Unix socket, and over a loopback port if wanted.
//!
//! A client can cost the agent little: at most [`CONNECTIONS_MAX`] at once, one short request each, two seconds for all
//! of it, and few new ones a second. Pages are made by the agent's loop and kept for a moment, so that many clients cost
//! as much as one. Nothing that a client sends changes anything, or comes back.

mod exposition;
mod http;
mod page;

use std::fs;
use std::io;
use std::net::{self, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

pub(super) use http::Page;
pub(super) use page::{Scene, metrics};

use crate::config;
use crate::units::Instant;
use http::{REQUEST_BYTES_MAX, Refusal};

/// Clients that are served at once; others wait.
const CONNECTIONS_MAX: usize = 8;
/// For a request and its answer together.
const EXCHANGE_MAX: Duration = Duration::from_secs(2);
/// Rest after each connection taken: at most 100 a second from each socket.
const ACCEPT_GAP: Duration = Duration::from_millis(10);
/// Rest after the system refused a connection, for lack of descriptors or memory.
const ACCEPT_FAILED_GAP: Duration = Duration::from_secs(1);
/// How long a page is good for.
const PAGE_AGE_MAX: Duration = Duration::from_millis(250);

/// A client wants a page.
#[derive(Debug)]
pub(super) struct Asked {
    /// Which.
    pub(super) page: Page,
    /// Where it goes.
    pub(super) reply: oneshot::Sender<Arc<str>>,
}

/// The sockets; as long as it lives, the agent can be looked at.
#[derive(Debug, Default)]
pub(super) struct Status {
    _file: Option<SocketFile>,
    /// The pages made last, and when.
    kept: [Option<(Instant, Arc<str>)>; Page::ALL.len()],
}

impl Status {
    /// Opens what is configured and serves it on tasks of the current runtime. A socket that cannot be opened is a
    /// line in the log: the agent works without.
    pub(super) fn open(settings: &config::Status) -> (Self, mpsc::Receiver<Asked>) {
        let (asks, asked) = mpsc::channel(CONNECTIONS_MAX);
        let mut status = Self::default();
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        if settings.enabled {
            let path = settings.socket.as_path();
            match bind_unix(path, settings.mode) {
                Ok((listener, file)) => {
                    status._file = Some(file);
                    tokio::spawn(serve_unix(listener, asks.clone(), Arc::clone(&permits)));
                }
                Err(error) => {
                    let remedy = "make its folder and let the agent's user write there, or set [status] socket";
                    tracing::warn!(socket = %path.display(), %error, remedy, "no status socket");
                }
            }
        }
        if let Some(listen) = settings.listen.filter(|_| settings.enabled) {
            match bind_tcp(listen) {
                Ok(listener) => {
                    tokio::spawn(serve_tcp(listener, asks, permits));
                }
                Err(error) => {
                    let remedy = "choose another port for [status] listen, or stop the process that has it";
                    tracing::warn!(%listen, %error, remedy, "no status port");
                }
            }
        }
        (status, asked)
    }

    /// The page as it was made last, if that is not too long ago.
    pub(super) fn kept(&self, page: Page, now: Instant) -> Option<Arc<str>> {
        let (at, text) = self.kept[page as usize].as_ref()?;
        (now.since(*at) < PAGE_AGE_MAX).then(|| Arc::clone(text))
    }

    /// Keeps a page that was made now.
    pub(super) fn keep(&mut self, page: Page, now: Instant, text: String) -> Arc<str> {
        let text: Arc<str> = text.into();
        self.kept[page as usize] = Some((now, Arc::clone(&text)));
        text
    }
}

// === sockets ===

/// The socket's file, removed with the agent unless a successor has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: &fs::Metadata| found.dev() == self.device && found.ino() == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(|found| is_ours(&found)) {
            // What is left behind is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Replaces the file that a dead agent left behind; never a live one's, and nothing that is no socket.
fn bind_unix(path: &Path, mode: u32) -> io::Result<(tokio::net::UnixListener, SocketFile)> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let is_dead =
        || unix::UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if is_socket && is_dead() {
        fs::remove_file(path)?;
    }
    let listener = unix::UnixListener::bind(path)?;
    let found = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok((tokio::net::UnixListener::from_std(listener)?, file))
}

fn bind_tcp(listen: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let listener = net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

async fn serve_unix(listener: tokio::net::UnixListener, asks: mpsc::Sender<Asked>, permits: Arc<Semaphore>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => admit(stream, &asks, &permits).await,
            Err(_) => sleep(ACCEPT_FAILED_GAP).await,
        }
    }
}

async fn serve_tcp(listener: tokio::net::TcpListener, asks: mpsc::Sender<Asked>, permits: Arc<Semaphore>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => admit(stream, &asks, &permits).await,
            Err(_) => sleep(ACCEPT_FAILED_GAP).await,
        }
    }
}

/// Serves a client on a task of its own, when fewer than the limit are being served.
async fn admit<S>(stream: S, asks: &mpsc::Sender<Asked>, permits: &Arc<Semaphore>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The semaphore is never closed.
    let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
    let asks = asks.clone();
    tokio::spawn(async move {
        // Whether a client got its answer is the client's business.
        let _ = timeout(EXCHANGE_MAX, exchange(stream, &asks)).await;
        drop(permit);
    });
    sleep(ACCEPT_GAP).await;
}

/// One request and its answer.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, asks: &mpsc::Sender<Asked>) -> io::Result<()> {
    let mut request = [0; REQUEST_BYTES_MAX];
    let mut filled = 0;
    let wanted = loop {
        let bytes = stream.read(&mut request[filled..]).await?;
        if bytes == 0 {
            return Ok(());
        }
        filled += bytes;
        if let Some(wanted) = http::read(&request[..filled]) {
            break wanted;
        }
    };
    match ask(wanted, asks).await {
        Ok((page, body)) => {
            stream.write_all(&http::page_head(page, body.len())).await?;
            stream.write_all(body.as_bytes()).await?;
        }
        Err(refusal) => stream.write_all(&refusal.answer()).await?,
    }
    stream.shutdown().await
}

async fn ask(wanted: Result<Page, Refusal>, asks: &mpsc::Sender<Asked>) -> Result<(Page, Arc<str>), Refusal> {
    let page = wanted?;
    let (reply, answer) = oneshot::channel();
    asks.send(Asked { page, reply }).await.map_err(|_| Refusal::Unavailable)?;
    let body = answer.await.map_err(|_| Refusal::Unavailable)?;
    Ok((page, body))
}
