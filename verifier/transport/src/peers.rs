//! What an endpoint knows about each peer key: its role, its connections, its misbehaviour.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use quorate_attest::key::PublicKey;
use tokio::sync::Semaphore;

use crate::close::CloseReason;
use crate::counters::Counters;
use crate::directory::{Directory, Role};
use crate::error::TransportError;
use crate::limits::Limits;

/// Points for one proven violation of the protocol.
pub(crate) const VIOLATION: u32 = 64;
/// Points for one stream or connection beyond a full queue.
pub(crate) const OVERFLOW: u32 = 1;
/// Blocked keys remembered. Only keys that passed the directory get here.
const BLOCKED_MAX: usize = 65_536;

/// A peer key with at least one connection or a record of misbehaviour.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    /// Most bytes in flight.
    pub(crate) bytes: u32,
    /// Bytes of message bodies being assembled, over all connections.
    pub(crate) budget: Arc<Semaphore>,
    state: Mutex<PeerState>,
}

#[derive(Debug, Default)]
struct PeerState {
    connections: Vec<quinn::Connection>,
    points: u32,
    since: Option<Instant>,
    blocked_until: Option<Instant>,
}

impl PeerState {
    fn is_blocked(&self, now: Instant) -> bool {
        self.blocked_until.is_some_and(|until| now < until)
    }
}

impl Peer {
    fn lock(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asked at every step whether a key may go on. Shared by the message and bulk transports of a node.
pub(crate) struct Gate {
    directory: Arc<dyn Directory>,
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<Counters>,
    peers: Mutex<BTreeMap<PublicKey, Arc<Peer>>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("peers", &self.peers().len()).finish_non_exhaustive()
    }
}

impl Gate {
    pub(crate) fn new(directory: Arc<dyn Directory>, limits: Limits) -> Arc<Self> {
        let (counters, peers) = (Arc::default(), Mutex::default());
        Arc::new(Self { directory, limits, counters, peers })
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The role of a key that may connect now.
    pub(crate) fn role(&self, key: &PublicKey) -> Result<Role, TransportError> {
        if self.directory.is_revoked(key) {
            return Err(TransportError::PeerRevoked { key: Some(*key) });
        }
        let role = self.directory.role(key).ok_or(TransportError::PeerUnknown { key: Some(*key) })?;
        if self.is_blocked(key) {
            return Err(TransportError::PeerBlocked { key: Some(*key) });
        }
        Ok(role)
    }

    /// Whether a key is blocked now.
    pub(crate) fn is_blocked(&self, key: &PublicKey) -> bool {
        self.peers().get(key).is_some_and(|peer| peer.lock().is_blocked(Instant::now()))
    }

    /// The record of a key, new if need be.
    pub(crate) fn peer(&self, key: &PublicKey) -> Arc<Peer> {
        let mut peers = self.peers();
        if peers.len() > 2 * self.limits.max_connections {
            self.forget(&mut peers);
        }
        let fresh = || {
            let bytes = self.limits.bytes_of(self.directory.role(key).unwrap_or(Role::Client));
            let budget = Arc::new(Semaphore::new(bytes as usize));
            Arc::new(Peer { key: *key, bytes, budget, state: Mutex::default() })
        };
        Arc::clone(peers.entry(*key).or_insert_with(fresh))
    }

    /// Drops records that say nothing any more.
    fn forget(&self, peers: &mut BTreeMap<PublicKey, Arc<Peer>>) {
        let now = Instant::now();
        let crowded = peers.len() > BLOCKED_MAX;
        peers.retain(|_, peer| {
            let state = peer.lock();
            let counting = state.since.is_some_and(|since| now < since + self.limits.strike_window);
            !state.connections.is_empty() || (!crowded && (counting || state.is_blocked(now)))
        });
    }

    /// Registers an established connection.
    ///
    /// # Errors
    /// `PeerBlocked`; `QueueFull` if the endpoint or the peer has too many connections.
    pub(crate) fn join(&self, peer: &Peer, connection: &quinn::Connection) -> Result<(), TransportError> {
        let total: usize = self.peers().values().map(|peer| peer.lock().connections.len()).sum();
        let mut state = peer.lock();
        if state.is_blocked(Instant::now()) {
            return Err(TransportError::PeerBlocked { key: Some(peer.key) });
        }
        let limits = &self.limits;
        if total >= limits.max_connections || state.connections.len() >= limits.max_connections_per_peer {
            self.counters.queue_dropped.add("connections");
            return Err(TransportError::QueueFull { queue: "connections" });
        }
        state.connections.push(connection.clone());
        Ok(())
    }

    /// Forgets a connection that has ended.
    pub(crate) fn leave(&self, peer: &Peer, connection: &quinn::Connection) {
        let id = connection.stable_id();
        peer.lock().connections.retain(|other| other.stable_id() != id);
    }

    /// Counts misbehaviour; at the limit the peer is blocked and all its connections are closed.
    pub(crate) fn strike(&self, peer: &Peer, kind: &str, points: u32) {
        let now = Instant::now();
        let over = {
            let mut state = peer.lock();
            if state.since.is_none_or(|since| now >= since + self.limits.strike_window) {
                (state.since, state.points) = (Some(now), 0);
            }
            state.points = state.points.saturating_add(points);
            state.points >= self.limits.strikes && !state.is_blocked(now)
        };
        if over {
            self.block(peer, kind);
        }
    }

    /// Blocks a peer for the block period.
    pub(crate) fn block(&self, peer: &Peer, kind: &str) {
        self.counters.peer_blocked.add(kind);
        tracing::warn!(peer = %peer.key, error_kind = kind, "peer blocked");
        let connections = {
            let mut state = peer.lock();
            state.blocked_until = Some(Instant::now() + self.limits.block_period);
            state.points = 0;
            std::mem::take(&mut state.connections)
        };
        close(&connections, CloseReason::PeerBlocked);
    }

    /// Closes all connections of a key.
    pub(crate) fn disconnect(&self, key: &PublicKey, reason: CloseReason) {
        let connections = self.peers().get(key).map(|peer| std::mem::take(&mut peer.lock().connections));
        close(&connections.unwrap_or_default(), reason);
    }
}

fn close(connections: &[quinn::Connection], reason: CloseReason) {
    for connection in connections {
        connection.close(reason.varint(), &[]);
    }
}
