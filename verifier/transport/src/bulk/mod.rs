//! Memory pages in bulk: TLS 1.3 over one TCP connection, for blocking threads.
//!
//! QUIC in user space is bound by the processor; for gigabytes of pages TCP costs a quarter of the time per byte. Keys,
//! directory, blocking and application hello are those of the message transport, with AES-128-GCM. The hello
//! carries a [`Purpose`], 32 bytes the control plane chose for one migration, so a connection belongs to exactly one:
//!
//! ```text
//! source                                         destination
//!   │                                              │ listener.announce(source key, purpose)
//!   │ bulk.connect(addr, destination key, purpose)
//!   │ TCP, TLS 1.3 with both raw keys ──────────▶  │ both keys known, not revoked, not blocked
//!   │ Hello, Answer, Confirm as for messages ───▶  │ purpose expected, and from this key?
//!   │ ◀─────────────────────────────────  Verdict  │ the expectation is used up
//!   │ pages ────────────────────────────────────▶  │ expected.accept(within)
//! ```
//!
//! [`BulkStream`] is `Read + Write`; [`std::io::Read::read_exact`] and [`std::io::Write::write_all`] have the deadline of
//! a frame of that length ([`crate::Limits::min_rate`]), so a dribbling peer is cut. It blocks, so async code uses it from
//! a thread of its own.
//!
//! # Not promised
//!
//! * No framing and no checks of content: the migration protocol verifies every page against the page root.
//! * Both sides must not write much at once without reading: neither would make progress until the deadline.

mod hello;
mod listener;
mod stream;

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use quorate_attest::key::{PublicKey, SecretKey};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection};

use crate::counters::Counters;
use crate::directory::{Directory, Role};
use crate::error::TransportError;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::peers::Gate;
use crate::tls;

#[cfg(feature = "fuzzing")]
pub(crate) use hello::FromAccepter;
pub use listener::{BulkListener, Expected};
pub use stream::{BulkHandle, BulkStream};

/// What a bulk connection is for: a value both ends have from the control plane, used once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Purpose([u8; 32]);

impl Purpose {
    /// A purpose of bytes, which must not all be zero: that is the purpose of message connections.
    ///
    /// # Errors
    /// `SessionBindingMismatch` for zeros.
    pub fn new(bytes: [u8; 32]) -> Result<Self, TransportError> {
        if bytes == crate::hello::MESSAGES {
            return Err(TransportError::PurposeRefused { what: "zero is for messages" });
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Purpose({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

/// A node's side of the bulk transport. Cheap to clone. [`crate::Endpoint::bulk`] gives one that shares the blocked
/// peers and counters of the endpoint.
#[derive(Debug, Clone)]
pub struct Bulk {
    pub(crate) us: Identity,
    pub(crate) gate: Arc<Gate>,
}

impl Bulk {
    /// For a node without a message endpoint. Our role is what the directory says of our own key.
    pub fn new(identity: &SecretKey, directory: Arc<dyn Directory>, limits: Limits) -> Self {
        let role = directory.role(&identity.public()).unwrap_or(Role::Client);
        Self { us: Identity::new(identity, role), gate: Gate::new(directory, limits) }
    }

    pub(crate) fn shared(us: Identity, gate: Arc<Gate>) -> Self {
        Self { us, gate }
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.gate.counters
    }

    /// Binds a listener and starts its thread.
    ///
    /// # Errors
    /// `SocketError` if the address cannot be bound.
    pub fn listen(&self, addr: SocketAddr) -> Result<BulkListener, TransportError> {
        BulkListener::bind(self.clone(), addr)
    }

    /// Connects to the node that holds the key `expected`, for one purpose. Blocks for at most
    /// [`Limits::handshake`].
    ///
    /// # Errors
    /// `PeerUnknown` if the node has another key or does not know ours, `SessionBindingMismatch` if it does not expect
    /// us for this purpose, `PeerRevoked`, `PeerBlocked`, `HandshakeTimeout`, `SocketError`.
    pub fn connect(
        &self,
        addr: SocketAddr,
        expected: &PublicKey,
        purpose: Purpose,
    ) -> Result<BulkStream, TransportError> {
        let result = self.dial(addr, *expected, purpose);
        self.gate.counters.handshake.add(result.as_ref().map_or_else(TransportError::kind, |_| "ok"));
        result
    }

    fn dial(
        &self,
        addr: SocketAddr,
        expected: PublicKey,
        purpose: Purpose,
    ) -> Result<BulkStream, TransportError> {
        self.gate.role(&expected)?;
        let limit = self.gate.limits.handshake;
        let deadline = Instant::now() + limit;
        let config = tls::client(&self.us, Arc::clone(&self.gate), expected, tls::ALPN_BULK)?;
        let name = ServerName::IpAddress(addr.ip().into());
        let session = ClientConnection::new(Arc::new(config), name).map_err(tls_error)?;
        let socket = TcpStream::connect_timeout(&addr, limit).map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => TransportError::HandshakeTimeout { limit },
            _ => TransportError::io(&format!("connect {addr}"), &error),
        })?;
        let mut stream = BulkStream::open(Connection::Client(session), socket, &self.gate.limits, deadline)?;
        let session = hello::dial(self, &mut stream, purpose)?;
        stream.established(session);
        Ok(stream)
    }
}

/// Our error for a TLS failure. A refused key is named by the alert it causes, whichever side refused.
fn tls_error(error: rustls::Error) -> TransportError {
    let alert = match &error {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        rustls::Error::InvalidCertificate(reason) => Some(reason.clone().into()),
        rustls::Error::NoApplicationProtocol => Some(rustls::AlertDescription::NoApplicationProtocol),
        _ => None,
    };
    let named = alert.and_then(|alert| tls::error_of_alert(alert, None));
    named.unwrap_or_else(|| TransportError::Connection(format!("TLS: {error}")))
}
