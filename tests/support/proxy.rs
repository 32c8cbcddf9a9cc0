//! A TCP proxy that treats what passes badly: late, byte by byte, cut off in the middle, or in one direction only.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc as queue};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::common::random::Random;

/// Chunks that are on their way in one direction; more are not read.
const CHUNKS_MAX: usize = 4096;
const CHUNK_BYTES_MAX: usize = 4096;

/// What becomes of a connection after so many bytes of one direction, below the number given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends for both sides, wherever in a packet that is.
    Cut { below: u64 },
    /// That direction ends, and what its sender says from then on is lost. The other direction goes on.
    HalfClose { below: u64 },
}

/// How connections are treated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Treatment {
    /// How much later everything arrives, in each direction.
    pub delay: Duration,
    /// Each byte is sent by itself.
    pub trickles: bool,
    pub fault: Option<Fault>,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub connections: usize,
    pub cuts: usize,
    pub half_closes: usize,
    /// Bytes that were sent by themselves.
    pub trickled: usize,
}

struct Shared {
    to: SocketAddr,
    treatment: Mutex<Treatment>,
    counts: Mutex<Counts>,
    changed: Notify,
    leave: Notify,
}

/// The proxy, on a thread of its own.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy to that port of this machine. How much passes before a fault, and in which direction, is by chance.
    pub fn start(to: u16, random: Random) -> Self {
        let shared = Arc::new(Shared {
            to: (Ipv4Addr::LOCALHOST, to).into(),
            treatment: Mutex::default(),
            counts: Mutex::default(),
            changed: Notify::new(),
            leave: Notify::new(),
        });
        let of_thread = Arc::clone(&shared);
        let (sender, started) = mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port can be bound");
                let address = listener.local_addr().expect("a bound socket has an address");
                sender.send(address.port()).expect("somebody waits for it");
                serve(&listener, &of_thread, random).await;
            });
        });
        Self { port: started.recv().expect("the proxy starts"), shared, thread: Some(thread) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on every connection is treated like that; those that are open are cut off.
    pub fn treat(&self, treatment: Treatment) {
        *lock(&self.shared.treatment) = treatment;
        self.shared.changed.notify_one();
    }

    pub fn counts(&self) -> Counts {
        *lock(&self.shared.counts)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.leave.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: &TcpListener, shared: &Arc<Shared>, mut random: Random) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.leave.notified() => return,
            // Dropping them ends them.
            () = shared.changed.notified() => connections = JoinSet::new(),
            accepted = listener.accept() => {
                let Ok((agent, _)) = accepted else { continue };
                lock(&shared.counts).connections += 1;
                let treatment = *lock(&shared.treatment);
                let upwards = random.below(2) == 0;
                let below = match treatment.fault {
                    Some(Fault::Cut { below } | Fault::HalfClose { below }) => below,
                    None => 1,
                };
                let bytes = usize::try_from(random.below(below)).expect("a small number");
                connections.spawn(carry(agent, Arc::clone(shared), treatment, upwards, bytes));
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// One connection until both directions have ended, or it is cut.
async fn carry(agent: TcpStream, shared: Arc<Shared>, treatment: Treatment, upwards: bool, bytes: usize) {
    // A broker that is away looks like one that closes.
    let Ok(broker) = TcpStream::connect(shared.to).await else { return };
    for stream in [&agent, &broker] {
        stream.set_nodelay(true).expect("a socket takes its options");
    }
    let ((from_agent, to_agent), (from_broker, to_broker)) = (agent.into_split(), broker.into_split());
    let mut lanes = JoinSet::new();
    for (reader, writer, is_up) in [(from_agent, to_broker, true), (from_broker, to_agent, false)] {
        let fault = treatment.fault.filter(|_| is_up == upwards).map(|fault| (fault, bytes));
        lanes.spawn(lane(reader, writer, Arc::clone(&shared), treatment, fault));
    }
    while let Some(Ok(is_cut)) = lanes.join_next().await {
        if is_cut {
            lock(&shared.counts).cuts += 1;
            return;
        }
    }
}

/// One direction, until its sender or its receiver is gone; whether the connection is to be cut.
async fn lane(
    reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    shared: Arc<Shared>,
    treatment: Treatment,
    fault: Option<(Fault, usize)>,
) -> bool {
    let (sender, mut chunks) = queue::channel(CHUNKS_MAX);
    // It ends with this function.
    let mut reading = JoinSet::new();
    reading.spawn(read(reader, treatment.delay, sender));
    let mut left = fault.map_or(usize::MAX, |(_, bytes)| bytes);
    while let Some((at, mut chunk)) = chunks.recv().await {
        sleep_until(at).await;
        chunk.truncate(left);
        left -= chunk.len();
        if write(&mut writer, &chunk, treatment.trickles, &shared).await.is_none() {
            return false;
        }
        match fault {
            Some((Fault::Cut { .. }, _)) if left == 0 => return true,
            Some((Fault::HalfClose { .. }, _)) if left == 0 => {
                lock(&shared.counts).half_closes += 1;
                break;
            }
            Some((Fault::Cut { .. } | Fault::HalfClose { .. }, _)) | None => {}
        }
    }
    // The receiver may be gone.
    let _ = writer.shutdown().await;
    while chunks.recv().await.is_some() {}
    false
}

/// Every chunk with the moment at which it arrives.
async fn read(mut reader: OwnedReadHalf, delay: Duration, sender: queue::Sender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    while let Ok(count @ 1..) = reader.read(&mut buffer).await {
        if sender.send((Instant::now() + delay, buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn write(writer: &mut OwnedWriteHalf, chunk: &[u8], trickles: bool, shared: &Shared) -> Option<()> {
    if !trickles {
        return writer.write_all(chunk).await.ok();
    }
    for byte in chunk {
        writer.write_all(&[*byte]).await.ok()?;
        lock(&shared.counts).trickled += 1;
        tokio::task::yield_now().await;
    }
    Some(())
}
