//! One UDP socket that dials and accepts authenticated connections.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use quorate_attest::key::{PublicKey, SecretKey};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use crate::admission::{Admission, Verdict};
use crate::bulk::Bulk;
use crate::close::CloseReason;
use crate::connection::{Connection, connection_error};
use crate::counters::Counters;
use crate::directory::{Directory, Role};
use crate::error::TransportError;
use crate::handshake;
use crate::hello::NonceMemory;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::peers::Gate;
use crate::tls;

/// Attempts quinn keeps before we have judged them, and bytes kept for each and for all.
const UNJUDGED: usize = 256;
const UNJUDGED_BYTES: u64 = 16 * 1024;
const UNJUDGED_BYTES_TOTAL: u64 = 1 << 20;
/// Unread bytes a peer may send before the hello is done.
const HELLO_WINDOW: u32 = 4096;
/// Name in the QUIC handshake. It is never sent and never checked: keys are what counts.
const SERVER_NAME: &str = "quorate";

/// What handshakes of one endpoint need.
pub(crate) struct Node {
    pub(crate) us: Identity,
    pub(crate) gate: Arc<Gate>,
    pub(crate) admission: Admission,
    pub(crate) nonces: std::sync::Mutex<NonceMemory>,
}

/// A node's socket for messages. Cheap to clone; all clones are the same endpoint. When the last is dropped, nothing is
/// accepted any more, and connections stay until they are dropped too; [`Endpoint::close`] ends everything.
#[derive(Clone)]
pub struct Endpoint {
    quic: quinn::Endpoint,
    node: Arc<Node>,
    accepted: Arc<Mutex<mpsc::Receiver<Connection>>>,
    transport: Arc<TransportConfig>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("us", &self.node.us).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Binds a socket. Our role is what the directory says of our own key, and [`Role::Client`] if it says nothing.
    ///
    /// Must be called inside a tokio runtime; the endpoint's tasks run on it.
    ///
    /// # Errors
    /// `SocketError` if the address cannot be bound.
    pub fn bind(
        addr: SocketAddr,
        identity: &SecretKey,
        directory: Arc<dyn Directory>,
        limits: Limits,
    ) -> Result<Self, TransportError> {
        let role = directory.role(&identity.public()).unwrap_or(Role::Client);
        Self::bind_as(addr, identity, role, directory, limits)
    }

    /// As [`Endpoint::bind`] with a stated role. Peers refuse a role that differs from their directory's.
    ///
    /// # Errors
    /// As [`Endpoint::bind`].
    pub fn bind_as(
        addr: SocketAddr,
        identity: &SecretKey,
        role: Role,
        directory: Arc<dyn Directory>,
        limits: Limits,
    ) -> Result<Self, TransportError> {
        let us = Identity::new(identity, role);
        let transport = Arc::new(transport_config(&limits));
        let admission = Admission::new(&limits);
        let queue = limits.connection_queue.max(1);
        let gate = Gate::new(directory, limits);
        let server = server_config(&us, Arc::clone(&gate), Arc::clone(&transport))?;
        let quic = quinn::Endpoint::server(server, addr)
            .map_err(|error| TransportError::io(&format!("bind {addr}"), &error))?;
        let node = Arc::new(Node { us, gate, admission, nonces: std::sync::Mutex::default() });
        let (established, accepted) = mpsc::channel(queue);
        tokio::spawn(accept_all(quic.clone(), Arc::clone(&node), established));
        Ok(Self { quic, node, accepted: Arc::new(Mutex::new(accepted)), transport })
    }

    /// The bound address.
    ///
    /// # Errors
    /// `SocketError` if the system does not tell.
    pub fn local_addr(&self) -> Result<SocketAddr, TransportError> {
        self.quic.local_addr().map_err(|error| TransportError::io("local address", &error))
    }

    /// Our own key.
    pub fn public(&self) -> &PublicKey {
        self.node.us.public()
    }

    /// Connects to the node that holds the key `expected`, which must be in the directory.
    ///
    /// # Errors
    /// `PeerUnknown` if the node has another key or does not know ours, `PeerRevoked`, `PeerBlocked`,
    /// `KeyRoleMismatch`, `HandshakeTimeout`, `IncomingRefused`, `VersionUnsupported`, `SessionBindingMismatch`,
    /// `NonceReused`, `QueueFull`.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        expected: &PublicKey,
    ) -> Result<Connection, TransportError> {
        let result = self.dial(addr, *expected).await;
        self.node.gate.counters.handshake.add(result.as_ref().map_or_else(TransportError::kind, |_| "ok"));
        result
    }

    async fn dial(&self, addr: SocketAddr, expected: PublicKey) -> Result<Connection, TransportError> {
        let gate = &self.node.gate;
        gate.role(&expected)?;
        let limit = gate.limits.handshake;
        let handshake = async {
            let quic = self.dial_tls(addr, expected).await?;
            handshake::dial(&self.node, quic).await
        };
        timeout(limit, handshake).await.unwrap_or(Err(TransportError::HandshakeTimeout { limit }))
    }

    /// The TLS part of a connection, before the hello.
    pub(crate) async fn dial_tls(
        &self,
        addr: SocketAddr,
        expected: PublicKey,
    ) -> Result<quinn::Connection, TransportError> {
        let connecting = self.dial_with(self.client_config(expected)?, addr)?;
        let limit = self.node.gate.limits.handshake;
        connecting.await.map_err(|error| connection_error(error, Some(expected), limit))
    }

    pub(crate) fn dial_with(
        &self,
        config: ClientConfig,
        addr: SocketAddr,
    ) -> Result<quinn::Connecting, TransportError> {
        let connecting = self.quic.connect_with(config, addr, SERVER_NAME);
        connecting.map_err(|error| TransportError::Connection(error.to_string()))
    }

    fn client_config(&self, expected: PublicKey) -> Result<ClientConfig, TransportError> {
        let gate = Arc::clone(&self.node.gate);
        let tls = tls::client(&self.node.us, gate, expected, tls::ALPN_MESSAGES)?;
        let crypto = QuicClientConfig::try_from(tls).map_err(setup)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::clone(&self.transport));
        Ok(config)
    }

    /// The next connection that passed handshake and hello; `None` once the endpoint is closed. May be called from
    /// several tasks.
    pub async fn accept(&self) -> Option<Connection> {
        self.accepted.lock().await.recv().await
    }

    /// Closes all connections with a key, for example one that left the membership.
    pub fn disconnect(&self, key: &PublicKey) {
        self.node.gate.disconnect(key, CloseReason::PeerUnknown);
    }

    /// Blocks a peer for the block period because of something only the caller could judge; `kind` is the error kind
    /// that is counted. Its connections are closed and new ones refused in the TLS handshake.
    pub fn block(&self, key: &PublicKey, kind: &str) {
        let gate = &self.node.gate;
        gate.block(&gate.peer(key), kind);
    }

    /// Whether a key is blocked at present.
    pub fn is_blocked(&self, key: &PublicKey) -> bool {
        self.node.gate.is_blocked(key)
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.node.gate.counters
    }

    /// Handshakes in progress on the accepting side.
    pub fn pending_handshakes(&self) -> usize {
        self.node.admission.pending()
    }

    /// The bulk side of this node: same key, same blocked peers, same counters.
    pub fn bulk(&self) -> Bulk {
        Bulk::shared(self.node.us.clone(), Arc::clone(&self.node.gate))
    }

    /// Closes all connections, accepts no more and waits for the peers to be told (at most a second).
    pub async fn close(&self) {
        self.quic.close(CloseReason::Done.varint(), &[]);
        // A peer that does not acknowledge the close learns of it by its idle timeout.
        let _ = timeout(Duration::from_secs(1), self.quic.wait_idle()).await;
    }
}

fn setup(error: impl fmt::Display) -> TransportError {
    TransportError::Connection(format!("QUIC configuration: {error}"))
}

fn server_config(
    us: &Identity,
    gate: Arc<Gate>,
    transport: Arc<TransportConfig>,
) -> Result<ServerConfig, TransportError> {
    let tls = tls::server(us, gate, tls::ALPN_MESSAGES)?;
    let crypto = QuicServerConfig::try_from(tls).map_err(setup)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(transport)
        .migration(false)
        .max_incoming(UNJUDGED)
        .incoming_buffer_size(UNJUDGED_BYTES)
        .incoming_buffer_size_total(UNJUDGED_BYTES_TOTAL);
    Ok(config)
}

fn transport_config(limits: &Limits) -> TransportConfig {
    let mut config = TransportConfig::default();
    // Until the hello is done a peer may have its one stream and few bytes; then the limits rise.
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(limits.stream_window))
        .receive_window(VarInt::from_u32(HELLO_WINDOW))
        .send_window(u64::from(limits.bytes_in_flight))
        .keep_alive_interval(Some(limits.idle / 3))
        .max_idle_timeout(IdleTimeout::try_from(limits.idle).ok());
    config
}

/// Judges every attempt and gives each admitted one a task, until the endpoint closes.
async fn accept_all(quic: quinn::Endpoint, node: Arc<Node>, established: mpsc::Sender<Connection>) {
    loop {
        let next = tokio::select! {
            next = quic.accept() => next,
            () = established.closed() => None,
        };
        let Some(incoming) = next else { break };
        let validated = incoming.remote_address_validated();
        let counters = &node.gate.counters;
        match node.admission.judge(incoming.remote_address(), validated) {
            Verdict::Admit(ticket) => {
                let (node, established) = (Arc::clone(&node), established.clone());
                tokio::spawn(async move {
                    handshake::accept(&node, incoming, &established).await;
                    drop(ticket);
                });
            }
            Verdict::Retry => {
                Counters::add(&counters.incoming_retried);
                // Fails only for an attempt that has proved its address, which is never told to retry.
                let _ = incoming.retry();
            }
            Verdict::Refuse(pending) => {
                Counters::add(&counters.incoming_refused);
                tracing::debug!(pending, "connection attempt refused");
                incoming.refuse();
            }
        }
    }
    quic.set_server_config(None);
}
