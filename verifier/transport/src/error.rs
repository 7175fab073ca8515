//! What can go wrong between two nodes, with the stable identifiers of the threat model.

use std::time::Duration;

use quorate_attest::encoding::DecodeError;
use quorate_attest::key::PublicKey;

use crate::close::CloseReason;
use crate::directory::Role;

/// A refusal or failure of the transport.
///
/// [`TransportError::kind`] gives the identifier that appears in logs, metrics and JSON output.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The peer's key is in no membership we know, or is not the key that was asked for.
    #[error("peer {} is not the expected or a known node", display(.key))]
    PeerUnknown {
        /// The key, where the handshake came far enough to show one.
        key: Option<PublicKey>,
    },
    /// The peer's key was revoked.
    #[error("peer {} is revoked", display(.key))]
    PeerRevoked {
        /// The key, where the handshake came far enough to show one.
        key: Option<PublicKey>,
    },
    /// The peer, or we at the peer, are blocked for a time after misbehaviour.
    #[error("peer {} is blocked", display(.key))]
    PeerBlocked {
        /// The key, where the handshake came far enough to show one.
        key: Option<PublicKey>,
    },
    /// A known key claims another role than the directory gives it.
    #[error("key has role {expected:?}, the peer claims {claimed:?}")]
    KeyRoleMismatch {
        /// Role in our directory.
        expected: Role,
        /// Role the peer claimed.
        claimed: Role,
    },
    /// The TLS handshake and application hello took longer than allowed.
    #[error("handshake not complete after {limit:?}")]
    HandshakeTimeout {
        /// The deadline.
        limit: Duration,
    },
    /// A connection attempt was refused before any cryptography: too many are pending.
    #[error("connection attempt refused: {pending} are pending")]
    IncomingRefused {
        /// Pending attempts at the time, 0 if the peer refused us and did not tell.
        pending: usize,
    },
    /// The hello's signature does not cover this TLS session (relayed or replayed hello), or a bulk
    /// connection does not belong to the migration it claims.
    #[error("session binding mismatch: {what}")]
    SessionBindingMismatch {
        /// Which binding failed.
        what: &'static str,
    },
    /// A bulk connection for a purpose that is not awaited from this key, or not any more. An honest peer may be early
    /// or late, so this does not count as misbehaviour.
    #[error("bulk connection refused: {what}")]
    PurposeRefused {
        /// Why.
        what: &'static str,
    },
    /// A hello carried a nonce that was seen before.
    #[error("hello nonce was used before")]
    NonceReused,
    /// No protocol version in common.
    #[error("peer offers protocol versions up to {got}, we need at least {min}")]
    VersionUnsupported {
        /// Lowest version we speak.
        min: u16,
        /// Highest version the peer offers.
        got: u16,
    },
    /// A message began and did not proceed at the minimum rate, in either direction.
    #[error("stream stalled: {done} of {total} bytes after {limit:?}")]
    StreamStalled {
        /// Bytes that got through.
        done: usize,
        /// Bytes of the whole frame.
        total: usize,
        /// The deadline for the frame.
        limit: Duration,
    },
    /// A length prefix (or a message of our own) exceeds the limit of its tag; nothing was allocated.
    #[error("message of tag {tag} has {got} bytes, limit {limit}")]
    MessageTooLarge {
        /// The frame's tag.
        tag: u8,
        /// The limit.
        limit: usize,
        /// Announced length.
        got: usize,
    },
    /// A tag no message of the expected protocol has.
    #[error("unknown message tag {tag}")]
    UnknownTag {
        /// The tag.
        tag: u8,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame after {done} bytes")]
    Truncated {
        /// Bytes of the frame that arrived.
        done: usize,
    },
    /// A body that is not the canonical encoding of a message.
    #[error("malformed message: {0}")]
    Decode(DecodeError),
    /// The peer allows no further streams and freed none in time.
    #[error("no stream available within {limit:?}")]
    StreamLimit {
        /// How long we waited.
        limit: Duration,
    },
    /// A bounded queue was full and the newest entry was dropped.
    #[error("queue {queue} is full")]
    QueueFull {
        /// Name of the queue, as in the metric label.
        queue: &'static str,
    },
    /// The peer did not answer in time although the connection lives, or went silent altogether.
    #[error("peer sent nothing for {limit:?}")]
    PeerTimeout {
        /// How long we waited.
        limit: Duration,
    },
    /// The peer closed the connection or refused the stream for a stated reason.
    #[error("closed by the peer: {reason}")]
    ClosedByPeer {
        /// The peer's reason.
        reason: CloseReason,
    },
    /// The connection or endpoint was closed on this side.
    #[error("closed on this side: {reason}")]
    Closed {
        /// Our reason.
        reason: CloseReason,
    },
    /// Any other failure of QUIC or TLS.
    #[error("connection failed: {0}")]
    Connection(String),
    /// The operating system refused a socket operation.
    #[error("socket: {kind} ({what})")]
    Io {
        /// Kind of the system's error.
        kind: std::io::ErrorKind,
        /// What we were doing, and the system's text.
        what: String,
    },
}

fn display(key: &Option<PublicKey>) -> String {
    key.as_ref().map_or_else(|| "(no key)".to_owned(), PublicKey::to_string)
}

impl TransportError {
    /// The stable identifier: same text in logs, metrics and JSON output.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::PeerUnknown { .. } => "PeerUnknown",
            Self::PeerRevoked { .. } => "PeerRevoked",
            Self::PeerBlocked { .. } => "PeerBlocked",
            Self::KeyRoleMismatch { .. } => "KeyRoleMismatch",
            Self::HandshakeTimeout { .. } => "HandshakeTimeout",
            Self::IncomingRefused { .. } => "IncomingRefused",
            Self::SessionBindingMismatch { .. } | Self::PurposeRefused { .. } => "SessionBindingMismatch",
            Self::NonceReused => "NonceReused",
            Self::VersionUnsupported { .. } => "VersionUnsupported",
            Self::StreamStalled { .. } => "StreamStalled",
            Self::MessageTooLarge { .. } => "MessageTooLarge",
            Self::UnknownTag { .. } | Self::Truncated { .. } | Self::Decode(_) => "DecodeError",
            Self::StreamLimit { .. } => "StreamLimit",
            Self::QueueFull { .. } => "QueueFull",
            Self::PeerTimeout { .. } => "PeerTimeout",
            Self::ClosedByPeer { reason } => reason.kind(),
            Self::Closed { .. } => "Closed",
            Self::Connection(_) => "ConnectionFailed",
            Self::Io { .. } => "SocketError",
        }
    }

    /// Whether this is proof of a peer that does not follow the protocol, as opposed to a slow, full or
    /// failing one. Such errors count towards blocking the peer.
    pub fn is_misbehaviour(&self) -> bool {
        matches!(
            self,
            Self::KeyRoleMismatch { .. }
                | Self::SessionBindingMismatch { .. }
                | Self::NonceReused
                | Self::MessageTooLarge { .. }
                | Self::UnknownTag { .. }
                | Self::Decode(_)
        )
    }

    /// Whether we refused a message, as opposed to a connection or stream that ended.
    pub(crate) fn is_about_a_message(&self) -> bool {
        matches!(
            self,
            Self::StreamStalled { .. }
                | Self::MessageTooLarge { .. }
                | Self::UnknownTag { .. }
                | Self::Truncated { .. }
                | Self::Decode(_)
        )
    }

    /// Reason to tell the peer when we close because of this error.
    pub(crate) fn close_reason(&self) -> CloseReason {
        CloseReason::from_kind(self.kind())
    }

    pub(crate) fn io(what: &str, error: &std::io::Error) -> Self {
        Self::Io { kind: error.kind(), what: format!("{what}: {error}") }
    }
}

impl From<TransportError> for std::io::Error {
    fn from(error: TransportError) -> Self {
        use std::io::ErrorKind;
        let kind = match &error {
            TransportError::StreamStalled { .. }
            | TransportError::PeerTimeout { .. }
            | TransportError::HandshakeTimeout { .. } => ErrorKind::TimedOut,
            TransportError::Io { kind, .. } => *kind,
            TransportError::ClosedByPeer { .. } | TransportError::Closed { .. } => {
                ErrorKind::ConnectionAborted
            }
            _ => ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
