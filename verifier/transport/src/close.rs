//! Why a connection or stream ended, as a code both sides understand.

use std::fmt;

use quinn::VarInt;

macro_rules! close_reasons {
    ($($(#[$meta:meta])* $code:literal => $variant:ident $kind:literal,)*) => {
        /// Application code of a QUIC close, reset or stop.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum CloseReason {
            $($(#[$meta])* $variant,)*
            /// A code this version does not know.
            Other(u64),
        }

        impl CloseReason {
            /// The code on the wire.
            pub fn code(self) -> u64 {
                match self {
                    $(Self::$variant => $code,)*
                    Self::Other(code) => code,
                }
            }

            /// The reason of a code.
            pub fn from_code(code: u64) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    other => Self::Other(other),
                }
            }

            /// The stable identifier of the error the closing side saw.
            pub fn kind(self) -> &'static str {
                match self {
                    $(Self::$variant => $kind,)*
                    Self::Other(_) => "ConnectionFailed",
                }
            }

            /// The reason that announces an error of this kind; [`CloseReason::Failed`] for kinds that have none.
            pub fn from_kind(kind: &str) -> Self {
                match kind {
                    $($kind => Self::$variant,)*
                    _ => Self::Failed,
                }
            }
        }
    };
}

close_reasons! {
    /// Orderly end.
    0 => Done "Closed",
    /// The key is not in the membership.
    1 => PeerUnknown "PeerUnknown",
    /// The key was revoked.
    2 => PeerRevoked "PeerRevoked",
    /// The peer misbehaved before and is blocked for a time.
    3 => PeerBlocked "PeerBlocked",
    /// Right key, wrong role.
    4 => KeyRoleMismatch "KeyRoleMismatch",
    /// The handshake or hello took too long.
    5 => HandshakeTimeout "HandshakeTimeout",
    /// The hello does not belong to this session.
    6 => SessionBindingMismatch "SessionBindingMismatch",
    /// The hello's nonce is not fresh.
    7 => NonceReused "NonceReused",
    /// No common version.
    8 => VersionUnsupported "VersionUnsupported",
    /// A frame stayed below the minimum rate.
    9 => StreamStalled "StreamStalled",
    /// A frame exceeded its limit.
    10 => MessageTooLarge "MessageTooLarge",
    /// A frame did not decode.
    11 => DecodeError "DecodeError",
    /// A bounded queue was full.
    12 => QueueFull "QueueFull",
    /// Nothing arrived in time.
    13 => PeerTimeout "PeerTimeout",
    /// Too many streams.
    14 => StreamLimit "StreamLimit",
    /// Too many pending connection attempts.
    15 => IncomingRefused "IncomingRefused",
    /// An internal failure of the closing side.
    16 => Failed "ConnectionFailed",
}

impl CloseReason {
    pub(crate) fn varint(self) -> VarInt {
        VarInt::from_u64(self.code()).unwrap_or(VarInt::MAX)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(code) => write!(f, "code {code}"),
            known => f.write_str(known.kind()),
        }
    }
}
