//! Carries the application hello over the first QUIC stream.

use std::sync::{MutexGuard, PoisonError};

use quinn::{RecvStream, SendStream};
use quorate_attest::key::PublicKey;
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::close::CloseReason;
use crate::connection::{Connection, connection_error};
use crate::endpoint::Node;
use crate::error::TransportError;
use crate::hello::{Accepter, Channel, Dialler, EXPORTER_LABEL, Hello, HelloMessage, MESSAGES, NonceMemory};
use crate::identity::key_of_spki;
use crate::peers::VIOLATION;
use crate::wire::{HEADER, Header, Wire, encode_frame};

/// The dialling side. On failure the connection is closed with the reason.
pub(crate) async fn dial(node: &Node, quic: quinn::Connection) -> Result<Connection, TransportError> {
    let result = dial_hello(node, &quic).await;
    judge(node, &quic, result)
}

async fn dial_hello(node: &Node, quic: &quinn::Connection) -> Result<Connection, TransportError> {
    let (us, versions) = (&node.us, node.gate.limits.versions);
    let channel = channel(node, quic)?;
    let peer = channel.peer;
    let (dialler, hello) = Dialler::start(us, versions, channel, MESSAGES, fresh_nonce()?);
    let streams = quic.open_bi().await.map_err(|error| lost(node, peer, error))?;
    let mut carrier = Carrier { node, quic, streams };
    carrier.send(&hello.into()).await?;
    let HelloMessage::Answer(answer) = carrier.recv().await? else { return Err(OUT_OF_ORDER) };
    let (session, confirm) = dialler.answered(us, &answer)?;
    carrier.send(&confirm.into()).await?;
    Connection::establish(quic.clone(), node.gate.clone(), session)
}

/// The accepting side: TLS, hello, queue. Failures are counted and told to the peer.
pub(crate) async fn accept(node: &Node, incoming: quinn::Incoming, queue: &mpsc::Sender<Connection>) {
    let limit = node.gate.limits.handshake;
    let from = incoming.remote_address();
    let handshake = async {
        let quic = incoming.await.map_err(|error| connection_error(error, None, limit))?;
        let result = accept_hello(node, &quic).await;
        judge(node, &quic, result)
    };
    let result = timeout(limit, handshake).await.unwrap_or(Err(TransportError::HandshakeTimeout { limit }));
    let result = result.and_then(|connection| {
        queue.try_send(connection).map_err(|error| {
            node.gate.counters.queue_dropped.add("connections");
            let refused = TransportError::QueueFull { queue: "connections" };
            close(&error.into_inner().quic(), &refused);
            refused
        })
    });
    node.gate.counters.handshake.add(result.as_ref().map_or_else(TransportError::kind, |()| "ok"));
    if let Err(error) = result {
        tracing::debug!(%from, error_kind = error.kind(), %error, "handshake failed");
    }
}

async fn accept_hello(node: &Node, quic: &quinn::Connection) -> Result<Connection, TransportError> {
    let (us, versions) = (&node.us, node.gate.limits.versions);
    let channel = channel(node, quic)?;
    let peer = channel.peer;
    let streams = quic.accept_bi().await.map_err(|error| lost(node, peer, error))?;
    let mut carrier = Carrier { node, quic, streams };
    let HelloMessage::Hello(hello) = carrier.recv().await? else { return Err(OUT_OF_ORDER) };
    check_purpose(&hello)?;
    let nonce = fresh_nonce()?;
    let greeted = Accepter::greeted(us, versions, channel, hello, nonce, &mut nonces(node));
    let (accepter, answer) = greeted?;
    carrier.send(&answer.into()).await?;
    let HelloMessage::Confirm(confirm) = carrier.recv().await? else { return Err(OUT_OF_ORDER) };
    let session = accepter.confirmed(us, &confirm)?;
    Connection::establish(quic.clone(), node.gate.clone(), session)
}

const OUT_OF_ORDER: TransportError = TransportError::SessionBindingMismatch { what: "order of the hello" };

fn check_purpose(hello: &Hello) -> Result<(), TransportError> {
    if hello.purpose == MESSAGES {
        return Ok(());
    }
    Err(TransportError::SessionBindingMismatch { what: "purpose" })
}

fn nonces(node: &Node) -> MutexGuard<'_, NonceMemory> {
    node.nonces.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the connection on failure and holds the peer to account.
fn judge(
    node: &Node,
    quic: &quinn::Connection,
    result: Result<Connection, TransportError>,
) -> Result<Connection, TransportError> {
    if let Err(error) = &result {
        close(quic, error);
        if let (true, Some(key)) = (error.is_misbehaviour(), peer_key(quic)) {
            node.gate.strike(&node.gate.peer(&key), error.kind(), VIOLATION);
        }
    }
    result
}

fn close(quic: &quinn::Connection, error: &TransportError) {
    quic.close(error.close_reason().varint(), &[]);
}

fn peer_key(quic: &quinn::Connection) -> Option<PublicKey> {
    let chain = quic.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    key_of_spki(chain.first()?)
}

/// What the hello needs to know of the TLS session.
fn channel(node: &Node, quic: &quinn::Connection) -> Result<Channel, TransportError> {
    let peer = peer_key(quic).ok_or(TransportError::PeerUnknown { key: None })?;
    let expected_role = node.gate.role(&peer)?;
    let mut exporter = [0; 32];
    quic.export_keying_material(&mut exporter, EXPORTER_LABEL, &[])
        .map_err(|_| TransportError::SessionBindingMismatch { what: "exporter" })?;
    Ok(Channel { exporter, peer, expected_role })
}

pub(crate) fn fresh_nonce() -> Result<[u8; 16], TransportError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)
        .map_err(|error| TransportError::Connection(format!("randomness: {error}")))?;
    Ok(nonce)
}

fn lost(node: &Node, peer: PublicKey, error: quinn::ConnectionError) -> TransportError {
    connection_error(error, Some(peer), node.gate.limits.handshake)
}

/// The first stream. Its frames are small and the handshake deadline covers them all, so it needs no limits of its own.
struct Carrier<'a> {
    node: &'a Node,
    quic: &'a quinn::Connection,
    streams: (SendStream, RecvStream),
}

impl Carrier<'_> {
    async fn send(&mut self, message: &HelloMessage) -> Result<(), TransportError> {
        let frame = encode_frame(message)?;
        self.streams.0.write_all(&frame).await.map_err(|error| self.ended(&error))
    }

    async fn recv(&mut self) -> Result<HelloMessage, TransportError> {
        let mut head = [0; HEADER];
        self.read(&mut head).await?;
        let header = Header::decode::<HelloMessage>(head)?;
        let mut body = vec![0; header.length];
        self.read(&mut body).await?;
        HelloMessage::decode_body(header.tag, &body).map_err(TransportError::Decode)
    }

    async fn read(&mut self, bytes: &mut [u8]) -> Result<(), TransportError> {
        self.streams.1.read_exact(bytes).await.map_err(|error| self.ended(&error))
    }

    /// The connection's own reason says more than the stream's.
    fn ended(&self, error: &dyn std::fmt::Display) -> TransportError {
        match self.quic.close_reason() {
            Some(reason) => connection_error(reason, peer_key(self.quic), self.node.gate.limits.handshake),
            None => TransportError::Connection(format!("hello: {error}")),
        }
    }
}

impl Drop for Carrier<'_> {
    fn drop(&mut self) {
        // Frees the peer's one stream. Nothing to do if it has ended already.
        let _ = self.streams.0.finish();
        let _ = self.streams.1.stop(CloseReason::Done.varint());
    }
}
