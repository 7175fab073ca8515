//! What can go wrong, with the stable identifiers of the threat model.

use quorate_agreement_engine::certificate::CertificateError;
use quorate_attest::error::VerifyError;
use quorate_attest::merkle;

/// An operation that was not taken for ordering.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Over the limit of one operation.
    #[error("operation of {got} bytes is over the limit of {limit}")]
    MessageTooLarge {
        /// Most bytes.
        limit: usize,
        /// Bytes given.
        got: usize,
    },
    /// The node's rules refuse it, so no member would vote for a block with it.
    #[error("operation is malformed")]
    Malformed,
    /// Too many operations wait already.
    #[error("{pending} operations are pending already")]
    QueueFull {
        /// How many wait.
        pending: usize,
    },
    /// The log was shut down or has failed.
    #[error("the log is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
}

impl SubmitError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::MessageTooLarge { .. } => "MessageTooLarge",
            Self::Malformed => "DecodeError",
            Self::QueueFull { .. } => "QueueFull",
            Self::Closed { .. } => "Closed",
        }
    }
}

/// The log cannot do what was asked, or cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The configuration cannot be used.
    #[error("configuration is refused: {reason}")]
    BadConfig {
        /// The rule it breaks.
        reason: String,
    },
    /// Another process uses the folder.
    #[error("folder {folder} is in use by another process")]
    DataDirLocked {
        /// The folder.
        folder: String,
    },
    /// The index belongs to another group.
    #[error("the index belongs to another group or epoch: {reason}")]
    WrongCluster {
        /// What differs.
        reason: String,
    },
    /// The index is damaged. Without the file it is built again from the archive.
    #[error(
        "the index of the log is damaged: {reason}; move {file} away and it is built again from the archive"
    )]
    LogCorrupt {
        /// The file.
        file: String,
        /// What was found.
        reason: String,
    },
    /// The disk failed.
    #[error("storage of the log failed: {reason}")]
    Storage {
        /// What the system said.
        reason: String,
    },
    /// Finalized blocks contradict each other: more than f members are faulty.
    #[error("conflicting certificates: {reason}")]
    Conflict {
        /// The contradiction.
        reason: String,
    },
    /// There is no such entry yet.
    #[error("entry {index} is not in the log, which has {entries}")]
    NoEntry {
        /// The index asked for.
        index: u64,
        /// Entries there are.
        entries: u64,
    },
    /// The certificate is not in the archive yet.
    #[error("no certificate of entry {index} yet")]
    NotCertified {
        /// The index asked for.
        index: u64,
    },
    /// The connection is not one of a member.
    #[error("peer is not a member of the group")]
    NotMember,
    /// The log was shut down or the engine has stopped.
    #[error("the log is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
}

impl LogError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadConfig { .. } => "BadConfig",
            Self::DataDirLocked { .. } => "DataDirLocked",
            Self::WrongCluster { .. } => "WrongCluster",
            Self::LogCorrupt { .. } => "WalCorrupt",
            Self::Storage { .. } => "StorageSyncFailed",
            Self::Conflict { .. } => "ConflictingCertificates",
            Self::NoEntry { .. } => "NoEntry",
            Self::NotCertified { .. } => "QuorumNotReached",
            Self::NotMember => "PeerUnknown",
            Self::Closed { .. } => "Closed",
        }
    }
}

impl From<VerifyError> for LogError {
    fn from(error: VerifyError) -> Self {
        Self::BadConfig { reason: error.to_string() }
    }
}

/// A proof of order that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The bytes do not decode.
    #[error("proof does not decode: {reason}")]
    Decode {
        /// What was wrong.
        reason: String,
    },
    /// The group cannot be used.
    #[error(transparent)]
    Group(#[from] VerifyError),
    /// The proof is of another epoch.
    #[error("proof is of epoch {got}, the group of {want}")]
    WrongEpoch {
        /// Epoch of the group.
        want: u64,
        /// Epoch in the proof.
        got: u64,
    },
    /// The block does not hold this index.
    #[error("the block holds entries {first} to {end}, not {index}")]
    WrongIndex {
        /// Index asked for.
        index: u64,
        /// First index of the block.
        first: u64,
        /// First index after the block.
        end: u64,
    },
    /// The operation is not at this place of the block.
    #[error("inclusion: {0}")]
    Inclusion(merkle::ProofError),
    /// The headers do not form a chain from the block to what is finalized.
    #[error("the headers do not form a chain")]
    BrokenChain,
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl ProofError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decode { .. } | Self::Certificate(CertificateError::Malformed) => "DecodeError",
            Self::Group(error) => error.kind(),
            Self::WrongEpoch { .. } => "WrongEpoch",
            Self::WrongIndex { .. } | Self::Inclusion(_) | Self::BrokenChain => "ProofInvalid",
            Self::Certificate(CertificateError::Quorum { .. }) => "QuorumNotReached",
            Self::Certificate(CertificateError::Signature { .. }) => "BadSignature",
        }
    }
}
