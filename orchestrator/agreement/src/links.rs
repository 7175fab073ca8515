//! Connections with the other members: one QUIC stream a channel in each direction, bounded queues, a share for each member.
//!
//! Of each pair the member with the lower transport key dials. Frames that do not fit are dropped and counted, newest first;
//! the engine repeats what matters. A member that breaks the protocol, or keeps sending over its rate, is blocked by the
//! endpoint for its block period.

mod frame;
mod peer;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quorate_agreement_engine::committee::EngineKey;
use quorate_agreement_engine::network::{Carrier, Channel, Inbox};
use quorate_attest::key::PublicKey;
use quorate_transport::{Connection, Endpoint};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::LogError;
pub(crate) use frame::Frame;
use peer::Peer;

/// Streams a member may have open: one a channel, and some that are just ending.
const STREAMS: usize = 2 * Channel::ALL.len();

/// A member as the links need it.
pub(crate) struct Member {
    pub(crate) key: EngineKey,
    pub(crate) transport: PublicKey,
    pub(crate) address: SocketAddr,
}

/// What an epoch's engine calls the holders of transport keys.
pub(crate) type Names = BTreeMap<PublicKey, EngineKey>;

struct Epoch {
    inboxes: HashMap<Channel, Inbox>,
    names: Names,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) dropped_out: AtomicU64,
    pub(crate) dropped_in: AtomicU64,
    pub(crate) blocks: AtomicU64,
}

/// All connections of a log.
pub(crate) struct Links {
    endpoint: Arc<Endpoint>,
    reconnect: (Duration, Duration),
    peers: RwLock<BTreeMap<PublicKey, Arc<Peer>>>,
    keys: RwLock<HashMap<EngineKey, Arc<Peer>>>,
    epochs: RwLock<HashMap<u64, Epoch>>,
    pub(crate) counters: Counters,
    serial: AtomicU64,
    closed: watch::Sender<bool>,
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Links {
    pub(crate) fn new(endpoint: Arc<Endpoint>, reconnect: (Duration, Duration)) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            reconnect,
            peers: RwLock::default(),
            keys: RwLock::default(),
            epochs: RwLock::default(),
            counters: Counters::default(),
            serial: AtomicU64::new(0),
            closed: watch::Sender::new(false),
        })
    }

    /// Takes members on and dials those that are ours to dial. Members known already only get a new address.
    pub(crate) fn add(self: &Arc<Self>, members: Vec<Member>) {
        for member in members {
            if member.transport == *self.endpoint.public() {
                continue;
            }
            if let Some(known) = read(&self.peers).get(&member.transport) {
                known.move_to(member.address);
                write(&self.keys).insert(member.key, Arc::clone(known));
                continue;
            }
            let dials = self.endpoint.public() < &member.transport;
            let peer = Arc::new(Peer::new(member.transport, member.address));
            write(&self.peers).insert(member.transport, Arc::clone(&peer));
            write(&self.keys).insert(member.key, Arc::clone(&peer));
            if dials {
                tokio::spawn(Arc::clone(self).dial(peer));
            }
        }
    }

    /// Where frames of an epoch go, and what its engine calls those who send them.
    pub(crate) fn open(&self, epoch: u64, inboxes: HashMap<Channel, Inbox>, names: Names) {
        write(&self.epochs).insert(epoch, Epoch { inboxes, names });
    }

    /// Drops frames of an epoch from now on.
    pub(crate) fn shut(&self, epoch: u64) {
        write(&self.epochs).remove(&epoch);
    }

    /// Members with a connection.
    pub(crate) fn connected(&self) -> usize {
        read(&self.peers).values().filter(|peer| peer.is_connected()).count()
    }

    /// Members that the endpoint blocks at present.
    pub(crate) fn blocked(&self) -> usize {
        read(&self.peers).keys().filter(|key| self.endpoint.is_blocked(key)).count()
    }

    /// Takes a connection that a member dialled.
    pub(crate) fn attach(self: &Arc<Self>, connection: Connection) -> Result<(), LogError> {
        let peer = read(&self.peers).get(connection.peer()).cloned().ok_or(LogError::NotMember)?;
        tokio::spawn(Arc::clone(self).serve(peer, connection));
        Ok(())
    }

    /// Ends all connections and tasks.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
        write(&self.epochs).clear();
    }

    async fn dial(self: Arc<Self>, peer: Arc<Peer>) {
        let (shortest, longest) = self.reconnect;
        let mut pause = shortest;
        let mut closed = self.closed.subscribe();
        while !*closed.borrow_and_update() {
            let dialled = tokio::select! {
                dialled = self.endpoint.connect(peer.address(), &peer.transport) => dialled,
                _ = closed.changed() => return,
            };
            match dialled {
                Ok(connection) => {
                    pause = shortest;
                    Arc::clone(&self).serve(Arc::clone(&peer), connection).await;
                }
                Err(error) => {
                    tracing::debug!(peer = %peer.transport, error_kind = error.kind(), %error, "member not reached");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(longest),
                _ = closed.changed() => return,
            }
        }
    }

    /// Carries frames over a connection until it ends.
    async fn serve(self: Arc<Self>, peer: Arc<Peer>, connection: Connection) {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut writers = peer.connect(serial, &connection);
        let mut readers = JoinSet::new();
        let mut closed = self.closed.subscribe();
        tracing::debug!(peer = %peer.transport, "member connected");
        while !*closed.borrow_and_update() {
            tokio::select! {
                exchange = connection.accept() => {
                    let Ok(exchange) = exchange else { break };
                    if readers.len() == STREAMS {
                        self.endpoint.block(&peer.transport, "StreamLimit");
                        break;
                    }
                    readers.spawn(Arc::clone(&self).read(Arc::clone(&peer), exchange));
                }
                // A stream that failed leaves its channel silent; a new connection mends that.
                Some(_) = readers.join_next() => {}
                Some(_) = writers.join_next() => break,
                _ = closed.changed() => {}
            }
        }
        peer.disconnect(serial);
        connection.close();
        tracing::debug!(peer = %peer.transport, "member disconnected");
    }

    async fn read(self: Arc<Self>, peer: Arc<Peer>, mut exchange: quorate_transport::Exchange) {
        exchange.set_patience(Duration::from_secs(24 * 3600));
        // An error ends the stream; the transport has counted it against the member.
        while let Ok(Some(frame)) = exchange.recv::<Frame>().await {
            if !peer.is_within_rate(frame.channel, frame.bytes.len()) {
                self.counters.dropped_in.fetch_add(1, Ordering::Relaxed);
                if peer.floods() {
                    self.block_peer(&peer);
                    return;
                }
                continue;
            }
            let (inbox, name) = {
                // Epochs begin and end at different times at different members.
                let epochs = read(&self.epochs);
                let Some(epoch) = epochs.get(&frame.epoch) else { continue };
                let found = (epoch.inboxes.get(&frame.channel), epoch.names.get(&peer.transport));
                let (Some(inbox), Some(name)) = found else { continue };
                (inbox.clone(), name.clone())
            };
            let delivered = peer.admit(frame.channel, name, frame.bytes);
            if delivered.is_none_or(|delivered| inbox.try_send(delivered).is_err()) {
                self.counters.dropped_in.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Links {
    fn block_peer(&self, peer: &Peer) {
        self.counters.blocks.fetch_add(1, Ordering::Relaxed);
        self.endpoint.block(&peer.transport, "ProtocolViolation");
    }
}

impl Carrier for Links {
    fn send(&self, to: &EngineKey, epoch: u64, channel: Channel, bytes: Bytes) -> bool {
        let Some(peer) = read(&self.keys).get(to).cloned() else { return false };
        if !peer.is_connected() {
            return false;
        }
        let sent = peer.send(Frame { channel, epoch, bytes });
        if !sent {
            self.counters.dropped_out.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    fn block(&self, member: &EngineKey) {
        if let Some(peer) = read(&self.keys).get(member).cloned() {
            self.block_peer(&peer);
        }
    }
}
