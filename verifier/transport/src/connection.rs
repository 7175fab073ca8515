//! An authenticated connection: accepts and opens exchanges.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionError, RecvStream, SendStream, TransportErrorCode};
use quorate_attest::key::PublicKey;
use rustls::AlertDescription;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use crate::close::CloseReason;
use crate::directory::Role;
use crate::error::TransportError;
use crate::exchange::Exchange;
use crate::hello::Session;
use crate::peers::{Gate, OVERFLOW, Peer};
use crate::tls;

type Streams = (SendStream, RecvStream);

/// State that a connection's handles and exchanges share.
pub(crate) struct Link {
    pub(crate) quic: quinn::Connection,
    pub(crate) gate: Arc<Gate>,
    pub(crate) peer: Arc<Peer>,
    session: Session,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.quic.close(CloseReason::Done.varint(), &[]);
        self.gate.leave(&self.peer, &self.quic);
    }
}

impl Link {
    pub(crate) fn error(&self, error: ConnectionError) -> TransportError {
        connection_error(error, Some(self.session.peer), self.gate.limits.idle)
    }

    /// The peer's role.
    pub(crate) fn role(&self) -> Role {
        self.session.role
    }

    /// Why the connection ended.
    fn reason(&self) -> TransportError {
        self.error(self.quic.close_reason().unwrap_or(ConnectionError::LocallyClosed))
    }
}

/// An authenticated connection with one peer. Clones are handles of the same connection; it closes when the last
/// handle and the last of its exchanges are dropped.
#[derive(Clone)]
pub struct Connection {
    link: Arc<Link>,
    incoming: Arc<Mutex<mpsc::Receiver<Streams>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("session", &self.link.session).finish_non_exhaustive()
    }
}

impl Connection {
    /// Registers a connection whose hello succeeded and starts taking the peer's streams.
    pub(crate) fn establish(
        quic: quinn::Connection,
        gate: Arc<Gate>,
        session: Session,
    ) -> Result<Self, TransportError> {
        let peer = gate.peer(&session.peer);
        gate.join(&peer, &quic)?;
        quic.set_receive_window(peer.bytes.into());
        quic.set_max_concurrent_bi_streams(gate.limits.max_streams.into());
        let (queue, incoming) = mpsc::channel(gate.limits.stream_queue.max(1));
        tokio::spawn(take_streams(quic.clone(), Arc::clone(&gate), Arc::clone(&peer), queue));
        let link = Arc::new(Link { quic, gate, peer, session });
        Ok(Self { link, incoming: Arc::new(Mutex::new(incoming)) })
    }

    /// The peer's key, proved in the TLS handshake and again in the hello.
    pub fn peer(&self) -> &PublicKey {
        &self.link.session.peer
    }

    /// The peer's role, in which directory and peer agree.
    pub fn role(&self) -> Role {
        self.link.session.role
    }

    /// The protocol version both sides signed.
    pub fn version(&self) -> u16 {
        self.link.session.version
    }

    /// The peer's address as of now.
    pub fn remote_address(&self) -> SocketAddr {
        self.link.quic.remote_address()
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.link.quic.rtt()
    }

    /// Opens an exchange. The peer learns of it with the first message sent.
    ///
    /// # Errors
    /// `StreamLimit` if the peer allows no further stream within the patience; the error of a closed connection.
    pub async fn open(&self) -> Result<Exchange, TransportError> {
        let limit = self.link.gate.limits.patience;
        let opened = timeout(limit, self.link.quic.open_bi()).await;
        let streams = opened.map_err(|_| TransportError::StreamLimit { limit })?;
        let streams = streams.map_err(|error| self.link.error(error))?;
        Ok(Exchange::new(Arc::clone(&self.link), streams))
    }

    /// The next exchange the peer opened. May be called from several tasks; each exchange goes to one of them.
    ///
    /// # Errors
    /// Once the connection has ended: why.
    pub async fn accept(&self) -> Result<Exchange, TransportError> {
        let next = self.incoming.lock().await.recv().await;
        let streams = next.ok_or_else(|| self.link.reason())?;
        Ok(Exchange::new(Arc::clone(&self.link), streams))
    }

    /// Waits until the connection has ended and says why.
    pub async fn closed(&self) -> TransportError {
        self.link.error(self.link.quic.closed().await)
    }

    #[cfg(test)]
    pub(crate) fn available_budget(&self) -> usize {
        self.link.peer.budget.available_permits()
    }

    pub(crate) fn quic(&self) -> quinn::Connection {
        self.link.quic.clone()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.link.quic.close_reason().is_some()
    }

    /// Ends the connection and everything on it at once; bytes under way are lost. Wakes all who wait on it.
    pub fn close(&self) {
        self.link.quic.close(CloseReason::Done.varint(), &[]);
    }
}

/// Moves the peer's streams into the bounded queue until the connection ends. The newest stream beyond a full queue is
/// refused, so a flood never delays streams that came before it.
async fn take_streams(
    quic: quinn::Connection,
    gate: Arc<Gate>,
    peer: Arc<Peer>,
    queue: mpsc::Sender<Streams>,
) {
    while let Ok(streams) = quic.accept_bi().await {
        // Closed means that only exchanges of the connection are left and nobody will accept another.
        let Err(TrySendError::Full(streams) | TrySendError::Closed(streams)) = queue.try_send(streams) else {
            continue;
        };
        let (mut send, mut recv) = streams;
        // The stream may be gone already; then there is nothing to refuse.
        let _ = send.reset(CloseReason::QueueFull.varint());
        let _ = recv.stop(CloseReason::QueueFull.varint());
        gate.counters.queue_dropped.add("exchanges");
        gate.strike(&peer, "QueueFull", OVERFLOW);
    }
    gate.leave(&peer, &quic);
}

/// Our error for the end of a QUIC connection.
pub(crate) fn connection_error(
    error: ConnectionError,
    key: Option<PublicKey>,
    idle: Duration,
) -> TransportError {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            TransportError::ClosedByPeer { reason: CloseReason::from_code(close.error_code.into_inner()) }
        }
        ConnectionError::ConnectionClosed(close) => of_code(close.error_code, key)
            .unwrap_or_else(|| TransportError::Connection(format!("closed by the peer: {close}"))),
        ConnectionError::TransportError(local) => {
            of_code(local.code, key).unwrap_or_else(|| TransportError::Connection(local.to_string()))
        }
        ConnectionError::TimedOut | ConnectionError::Reset => TransportError::PeerTimeout { limit: idle },
        ConnectionError::LocallyClosed => TransportError::Closed { reason: CloseReason::Done },
        other => TransportError::Connection(other.to_string()),
    }
}

fn of_code(code: TransportErrorCode, key: Option<PublicKey>) -> Option<TransportError> {
    if code == TransportErrorCode::CONNECTION_REFUSED {
        return Some(TransportError::IncomingRefused { pending: 0 });
    }
    // CRYPTO_ERROR is 0x0100 plus the TLS alert (RFC 9000, 20.1).
    let alert = u8::try_from(u64::from(code).checked_sub(0x100)?).ok()?;
    tls::error_of_alert(AlertDescription::from(alert), key)
}
