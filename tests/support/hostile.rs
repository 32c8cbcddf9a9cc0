//! A broker that misbehaves as it is told, on the client library's own codec.
//!
//! Each connection takes the next of the given [`Manners`]; when they are used up, every further one is served well.
//! What a well-mannered broker promises is kept in [`World`]: which messages it acknowledged, and which of its own were
//! acknowledged to it, in whatever connection.

#![allow(dead_code, missing_docs, unreachable_pub)]

#[path = "alone.rs"]
pub mod alone;
#[path = "manners.rs"]
pub mod manners;
#[path = "mutation.rs"]
pub mod mutation;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Disconnect, DisconnectReasonCode, Packet, PingResp, PubAck, Publish, SubAck, Subscribe, SubscribeReasonCode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use manners::{Manners, PubAcks, SubAcks, encoded, puback, publish};
use mutation::Mutator;

/// Longest packet that it reads.
const PACKET_BYTES_MAX: u32 = 8 * 1024 * 1024;
/// Its own messages on their way at once.
const WINDOW: usize = 16;

/// What a broker knows, whatever its connections did.
#[derive(Debug, Default)]
pub struct World {
    manners: VecDeque<Manners>,
    /// Connections so far.
    pub connections: usize,
    /// CONNECT packets read so far.
    pub connects: usize,
    /// Bodies that were answered with a success, and how often they came.
    pub acknowledged: BTreeMap<Vec<u8>, usize>,
    /// Everything that was published: topic and body, in order.
    pub published: Vec<(String, Vec<u8>)>,
    /// The highest packet id of a publish.
    pub packet_max: u16,
    /// Messages for the client that it has not acknowledged, by number.
    pub inbound: BTreeMap<u64, (String, Vec<u8>)>,
    next_inbound: u64,
    /// PUBACKs for packets that the connection had not sent, or that were acknowledged before.
    pub stray_acks: usize,
    /// Packets of a kind that no client of ours sends.
    pub nonsense: Vec<String>,
    /// DISCONNECTs so far.
    pub disconnects: usize,
    /// PINGREQs so far.
    pub pings: usize,
    /// Largest packet in CONNECT.
    pub announced_bytes_max: Option<u32>,
    pub announced_alias_max: Option<u16>,
    pub subscribed: Vec<Subscribe>,
}

impl World {
    /// Whether every given manner was met by a connection.
    pub fn has_shown_all(&self) -> bool {
        self.manners.is_empty()
    }
}

/// The broker. It ends when it is dropped.
pub struct Hostile {
    address: SocketAddr,
    world: Arc<Mutex<World>>,
    server: JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Hostile {
    /// A broker on a free loopback port of the current tokio runtime.
    pub fn start(manners: Vec<Manners>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be made");
        // Small, so that a client notices soon that nobody reads.
        socket.set_recv_buffer_size(16 * 1024).expect("a socket's buffer can be set");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a loopback port can be bound");
        let address = socket.local_addr().expect("a bound socket has an address");
        let listener = socket.listen(1024).expect("a bound socket can listen");
        let world = Arc::new(Mutex::new(World { manners: manners.into(), ..World::default() }));
        let of_server = Arc::clone(&world);
        let server = tokio::spawn(async move {
            let mut peers = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let manners = {
                    let mut world = lock(&of_server);
                    world.connections += 1;
                    world.manners.pop_front().unwrap_or_else(Manners::good)
                };
                let peer = Peer::new(stream, manners, Arc::clone(&of_server));
                peers.spawn(async move {
                    // The client may be gone at any time.
                    let _ = peer.serve().await;
                });
                while peers.try_join_next().is_some() {}
            }
        });
        Self { address, world, server }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// How further connections are treated, before they are served well.
    pub fn next(&self, manners: Vec<Manners>) {
        self.world().manners = manners.into();
    }

    /// A message for the client, kept until it is acknowledged.
    pub fn send(&self, topic: &str, body: &[u8]) {
        let mut world = self.world();
        let number = world.next_inbound;
        world.next_inbound += 1;
        world.inbound.insert(number, (topic.to_owned(), body.to_vec()));
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection.
struct Peer {
    stream: TcpStream,
    read: BytesMut,
    manners: Manners,
    world: Arc<Mutex<World>>,
    packets: usize,
    publishes: usize,
    /// Own messages on their way: packet id and number.
    flying: BTreeMap<u16, u64>,
    last_packet: u16,
    subscribed: bool,
    held_back: Vec<u16>,
    mutator: Option<Mutator>,
}

impl Peer {
    fn new(stream: TcpStream, manners: Manners, world: Arc<Mutex<World>>) -> Self {
        stream.set_nodelay(true).expect("a socket takes its options");
        Self {
            stream,
            read: BytesMut::new(),
            mutator: manners.mutates.map(Mutator::new),
            manners,
            world,
            packets: 0,
            publishes: 0,
            flying: BTreeMap::new(),
            last_packet: 0,
            subscribed: false,
            held_back: Vec::new(),
        }
    }

    /// Until the client is gone, or the manners say so.
    async fn serve(mut self) -> Option<()> {
        let since = Instant::now();
        loop {
            if self.manners.leaves_after.is_some_and(|span| since.elapsed() >= span) {
                return None;
            }
            if self.manners.closes_after.is_some_and(|packets| self.packets >= packets) {
                return None;
            }
            if self.manners.deaf_after.is_some_and(|packets| self.packets >= packets) {
                // Holds the socket: to the client it looks like a peer whose answers are slow.
                sleep(Duration::from_secs(600)).await;
                return None;
            }
            // Its own new messages are looked for while the client is silent.
            match timeout(Duration::from_millis(20), self.next_packet()).await {
                Ok(packet) => self.hear(packet?).await?,
                Err(_) => self.deliver().await?,
            }
        }
    }

    async fn next_packet(&mut self) -> Option<Packet> {
        loop {
            // The library writes this, and its own decoder does not read it.
            if self.read.starts_with(&[0xe0, 0]) {
                return Some(Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)));
            }
            if let Ok(packet) = Packet::read(&mut self.read, Some(PACKET_BYTES_MAX)) {
                self.packets += 1;
                return Some(packet);
            }
            if self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn hear(&mut self, packet: Packet) -> Option<()> {
        match &packet {
            Packet::Connect(connect, ..) => {
                {
                    let mut world = lock(&self.world);
                    world.connects += 1;
                    let properties = connect.properties.as_ref();
                    world.announced_bytes_max = properties.and_then(|properties| properties.max_packet_size);
                    world.announced_alias_max = properties.and_then(|properties| properties.topic_alias_max);
                }
                sleep(self.manners.greets_after).await;
                if let Some(connack) = self.manners.connack.clone() {
                    self.send(&[Packet::ConnAck(connack)]).await?;
                }
                self.raw(&self.manners.after_connack.clone()).await?;
            }
            Packet::Subscribe(subscribe) => self.subscribe(subscribe.clone()).await?,
            Packet::Publish(publish) => self.published(publish).await?,
            Packet::PubAck(puback) => {
                if let Some(number) = self.flying.remove(&puback.pkid) {
                    lock(&self.world).inbound.remove(&number);
                } else if !self.manners.repeats {
                    lock(&self.world).stray_acks += 1;
                }
                self.deliver().await?;
            }
            Packet::PingReq(_) => {
                lock(&self.world).pings += 1;
                if self.manners.pongs {
                    self.send(&[Packet::PingResp(PingResp)]).await?;
                }
            }
            Packet::Disconnect(_) => {
                lock(&self.world).disconnects += 1;
                return None;
            }
            Packet::Auth(_)
            | Packet::ConnAck(_)
            | Packet::PingResp(_)
            | Packet::SubAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::Unsubscribe(_)
            | Packet::UnsubAck(_) => lock(&self.world).nonsense.push(format!("{packet:?}")),
        }
        Some(())
    }

    async fn subscribe(&mut self, subscribe: Subscribe) -> Option<()> {
        let granted = subscribe.filters.iter().map(|_| SubscribeReasonCode::Success(QoS::AtLeastOnce)).collect();
        let pkid = subscribe.pkid;
        lock(&self.world).subscribed.push(subscribe);
        let return_codes = match self.manners.subacks.clone() {
            SubAcks::Good => granted,
            SubAcks::None => return Some(()),
            SubAcks::Codes(codes) => codes,
        };
        self.send(&[Packet::SubAck(SubAck { pkid, return_codes, properties: None })]).await?;
        self.subscribed = true;
        self.raw(&self.manners.after_suback.clone()).await?;
        for _ in 0..self.manners.flood_count {
            self.raw(&self.manners.flood.clone()).await?;
        }
        self.deliver().await
    }

    async fn published(&mut self, publish: &Publish) -> Option<()> {
        self.publishes += 1;
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let body = publish.payload.to_vec();
        {
            let mut world = lock(&self.world);
            world.published.push((topic, body.clone()));
            world.packet_max = world.packet_max.max(publish.pkid);
        }
        if publish.qos == QoS::AtMostOnce {
            return Some(());
        }
        let packet = publish.pkid;
        let answers: Vec<u16> = match self.manners.pubacks {
            PubAcks::Good => vec![packet],
            PubAcks::None => Vec::new(),
            PubAcks::NotTheFirst if self.publishes == 1 => Vec::new(),
            PubAcks::NotTheFirst => vec![packet],
            PubAcks::Twice => vec![packet, packet],
            PubAcks::Unknown(other) => vec![other],
            PubAcks::Reversed => {
                self.held_back.push(packet);
                let is_whole = self.held_back.len() == 8;
                if is_whole { self.held_back.drain(..).rev().collect() } else { Vec::new() }
            }
            PubAcks::Refused(reason) => {
                let refusal = PubAck { reason, ..PubAck::new(packet, None) };
                self.send(&[Packet::PubAck(refusal)]).await?;
                Vec::new()
            }
        };
        // What is answered later counts as answered: nobody else asks for these.
        let counts = matches!(self.manners.pubacks, PubAcks::Reversed | PubAcks::Good | PubAcks::Twice)
            || (self.manners.pubacks == PubAcks::NotTheFirst && self.publishes > 1);
        if counts {
            *lock(&self.world).acknowledged.entry(body).or_default() += 1;
        }
        self.send(&answers.into_iter().map(puback).collect::<Vec<_>>()).await?;
        if self.publishes == 1 {
            self.raw(&self.manners.after_publish.clone()).await?;
        }
        Some(())
    }

    /// Sends what waits for the client, as far as the window goes.
    async fn deliver(&mut self) -> Option<()> {
        if !self.subscribed || !self.manners.delivers {
            return Some(());
        }
        let window = if self.manners.repeats { usize::MAX } else { WINDOW };
        let waiting: Vec<(u64, (String, Vec<u8>))> = {
            let world = lock(&self.world);
            let flying: BTreeSet<u64> = self.flying.values().copied().collect();
            let room = window.saturating_sub(flying.len());
            let open = world.inbound.iter().filter(|(number, _)| !flying.contains(number));
            open.take(room).map(|(number, message)| (*number, message.clone())).collect()
        };
        for (number, (topic, body)) in waiting {
            self.last_packet += 1;
            let packet = self.last_packet;
            self.flying.insert(packet, number);
            let mut message = publish(&topic, &body, QoS::AtLeastOnce, packet);
            message.dup = self.manners.flags;
            message.retain = self.manners.flags;
            let times = if self.manners.repeats { 2 } else { 1 };
            for _ in 0..times {
                self.send(&[Packet::Publish(message.clone())]).await?;
            }
        }
        Some(())
    }

    async fn send(&mut self, packets: &[Packet]) -> Option<()> {
        self.raw(&encoded(packets)).await
    }

    async fn raw(&mut self, bytes: &[u8]) -> Option<()> {
        let mutated = self.mutator.as_mut().map(|mutator| mutator.mutate(bytes));
        let bytes = mutated.as_deref().unwrap_or(bytes);
        if self.manners.trickles {
            for byte in bytes {
                self.stream.write_all(&[*byte]).await.ok()?;
                tokio::task::yield_now().await;
            }
            return Some(());
        }
        self.stream.write_all(bytes).await.ok()
    }
}
