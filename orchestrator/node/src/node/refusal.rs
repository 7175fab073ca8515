//! Why a request is refused, for the wire and for HTTP alike.

use quorate_attest::encoding::DecodeError;
use quorate_attest::error::VerifyError;
use quorate_control::Failure;
use quorate_transport::TransportError;

use super::waiters::QueueFull;
use crate::store::StoreError;

/// A request that gets no other answer than why.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is malformed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The operation is for another group, or its author did not sign it.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Its author may not ask for this now.
    #[error(transparent)]
    Control(#[from] Failure),
    /// No room.
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
    /// There is no such entry, VM or migration.
    #[error("the log of {size} entries has no proof for index {index}")]
    NotFound {
        /// Entry asked for.
        index: u64,
        /// Entries executed here.
        size: u64,
    },
    /// The configuration has no section `services`.
    #[error("no services run beside this orchestrator")]
    NoServices,
    /// There is no such service, or no replica of it here.
    #[error("no such service has a replica here")]
    UnknownService,
    /// The replica contradicts others.
    #[error("{detail}")]
    ServiceStopped {
        /// What is known about it.
        detail: String,
    },
    /// The guest gives no answer.
    #[error(transparent)]
    Guest(crate::services::guest::GuestError),
    /// The guest refuses a question.
    #[error("the guest answered status {status}")]
    Query {
        /// One of [`quorate_attest::request::status`].
        status: u16,
    },
    /// The reply is older than those that are kept.
    #[error("the reply of entry {number} is not kept any more")]
    ReplyForgotten {
        /// Number of the entry.
        number: u64,
    },
    /// The answer would be too long.
    #[error("an answer of {got} bytes is over the limit of {limit}")]
    TooLarge {
        /// Most bytes.
        limit: usize,
        /// Bytes it would have.
        got: usize,
    },
    /// The file of the log.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The ordered log takes nothing now.
    #[error("the ordered log takes nothing: {0}")]
    Log(String),
}

impl Refusal {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Decode(error) => error.kind(),
            Self::Verify(error) => error.kind(),
            Self::Control(failure) => failure.kind(),
            Self::QueueFull(_) => "QueueFull",
            Self::NotFound { .. } | Self::NoServices | Self::UnknownService | Self::ReplyForgotten { .. } => {
                "NotFound"
            }
            Self::ServiceStopped { .. } => "ServiceStopped",
            Self::Guest(_) => "Busy",
            Self::Query { .. } => "RequestRefused",
            Self::TooLarge { .. } => "MessageTooLarge",
            Self::Store(error) => error.kind(),
            Self::Transport(error) => error.kind(),
            Self::Log(_) => "QuorumUnreachable",
        }
    }
}
