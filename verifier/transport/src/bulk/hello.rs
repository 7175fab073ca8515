//! Carries the application hello over a fresh bulk stream.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::key::PublicKey;

use crate::bulk::{Bulk, BulkStream, Purpose};
use crate::close::CloseReason;
use crate::error::TransportError;
use crate::handshake::fresh_nonce;
use crate::hello::{
    Accepter, Answer, Channel, Confirm, Dialler, EXPORTER_LABEL, Hello, HelloMessage, NonceMemory, Session,
};
use crate::limits::Versions;
use crate::tls::ALPN_BULK;
use crate::wire::{HEADER, Header, Wire, encode_frame};
use crate::wire_enum;

/// The accepter's last word: a [`CloseReason`] code, 0 for welcome.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Verdict {
    pub(crate) code: u64,
}

wire_enum! {
    /// Messages from the accepter of a bulk connection.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum FromAccepter {
        /// As in the message transport.
        2 => Answer(Answer) <= 256,
        /// The end of the hello.
        4 => Verdict(Verdict) <= 8,
    }
}

/// The dialling side.
pub(super) fn dial(
    bulk: &Bulk,
    stream: &mut BulkStream,
    purpose: Purpose,
) -> Result<Session, TransportError> {
    let versions = bulk.gate.limits.versions;
    let channel = channel(bulk, stream)?;
    let nonce = fresh_nonce()?;
    let (dialler, hello) = Dialler::start(&bulk.us, versions, channel, *purpose.as_bytes(), nonce);
    send(stream, &HelloMessage::from(hello))?;
    let answer = match recv(stream)? {
        FromAccepter::Answer(answer) => answer,
        FromAccepter::Verdict(verdict) => return Err(refused(&verdict)),
    };
    let (session, confirm) = dialler.answered(&bulk.us, &answer)?;
    send(stream, &HelloMessage::from(confirm))?;
    match recv(stream)? {
        FromAccepter::Verdict(Verdict { code: 0 }) => Ok(session),
        FromAccepter::Verdict(verdict) => Err(refused(&verdict)),
        FromAccepter::Answer(_) => Err(OUT_OF_ORDER),
    }
}

const OUT_OF_ORDER: TransportError = TransportError::SessionBindingMismatch { what: "order of the hello" };

fn refused(verdict: &Verdict) -> TransportError {
    TransportError::ClosedByPeer { reason: CloseReason::from_code(verdict.code) }
}

/// The accepting side. `expected` says whether a key may connect for a purpose; it is asked before we sign anything.
pub(super) fn accept(
    bulk: &Bulk,
    stream: &mut BulkStream,
    nonces: &std::sync::Mutex<NonceMemory>,
    expected: impl Fn(&PublicKey, &[u8; 32]) -> Result<(), TransportError>,
) -> Result<Session, TransportError> {
    let versions = bulk.gate.limits.versions;
    let channel = channel(bulk, stream)?;
    let HelloMessage::Hello(hello) = recv(stream)? else { return Err(OUT_OF_ORDER) };
    expected(&channel.peer, &hello.purpose)?;
    let (accepter, answer) = greet(bulk, versions, channel, hello, nonces)?;
    send(stream, &FromAccepter::from(answer))?;
    let HelloMessage::Confirm(Confirm { signature }) = recv(stream)? else { return Err(OUT_OF_ORDER) };
    accepter.confirmed(&bulk.us, &Confirm { signature })
}

fn greet(
    bulk: &Bulk,
    versions: Versions,
    channel: Channel,
    hello: Hello,
    nonces: &std::sync::Mutex<NonceMemory>,
) -> Result<(Accepter, Answer), TransportError> {
    let nonce = fresh_nonce()?;
    let mut seen = nonces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Accepter::greeted(&bulk.us, versions, channel, hello, nonce, &mut seen)
}

/// Ends the hello on the accepting side, either way.
pub(super) fn conclude(stream: &mut BulkStream, code: u64) -> Result<(), TransportError> {
    send(stream, &FromAccepter::from(Verdict { code }))
}

/// What the hello needs to know of the TLS session.
fn channel(bulk: &Bulk, stream: &BulkStream) -> Result<Channel, TransportError> {
    let versions = bulk.gate.limits.versions;
    if stream.tls().alpn_protocol() != Some(ALPN_BULK) {
        return Err(TransportError::VersionUnsupported { min: versions.lowest, got: 0 });
    }
    let peer = stream.peer_key().ok_or(TransportError::PeerUnknown { key: None })?;
    let expected_role = bulk.gate.role(&peer)?;
    let exporter = stream
        .tls()
        .export_keying_material([0; 32], EXPORTER_LABEL, Some(&[]))
        .map_err(|_| TransportError::SessionBindingMismatch { what: "exporter" })?;
    Ok(Channel { exporter, peer, expected_role })
}

fn send<W: Wire>(stream: &mut BulkStream, message: &W) -> Result<(), TransportError> {
    stream.transmit(&encode_frame(message)?)
}

fn recv<W: Wire>(stream: &mut BulkStream) -> Result<W, TransportError> {
    let mut head = [0; HEADER];
    stream.receive(&mut head)?;
    let header = Header::decode::<W>(head)?;
    let mut body = vec![0; header.length];
    stream.receive(&mut body)?;
    W::decode_body(header.tag, &body).map_err(TransportError::Decode)
}
