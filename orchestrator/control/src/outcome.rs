//! What became of an operation. The encoding is part of the replicated result: its digest stands in every receipt.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::VerifyError;
use quorate_attest::encoding::{self, DecodeError, bounded_text};
use quorate_attest::id::{Epoch, Generation, ImageDigest, OperationId, ServiceId, Slot, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::request::status;
use quorate_attest::vm::Decision;

use crate::command::Which;

/// Most bytes of a failure's kind.
pub const KIND_LIMIT: usize = 64;

/// Most bytes of a failure's text.
pub const TEXT_LIMIT: usize = 256;

/// Most bytes of an encoded outcome.
pub const OUTCOME_LIMIT: usize = 1024;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Answer {
    /// The VM is in the registry.
    Created {
        /// The VM.
        vm: VmId,
    },
    /// The VM is no longer in the registry.
    Deleted {
        /// The VM.
        vm: VmId,
    },
    /// Something was decided that orchestrators sign.
    Decided(Decision),
    /// The generation runs.
    Activated {
        /// The VM.
        vm: VmId,
        /// Its generation.
        generation: Generation,
    },
    /// The migration ended and the source runs on.
    Aborted {
        /// The VM.
        vm: VmId,
        /// Operation that had begun the migration.
        migration: OperationId,
    },
    /// The slot is known.
    Recorded {
        /// The VM.
        vm: VmId,
        /// Its newest slot.
        slot: Slot,
    },
    /// The client has this quota.
    Registered {
        /// The client.
        key: PublicKey,
        /// Revision of its quota.
        revision: u64,
    },
    /// The client has no rights any more.
    Revoked {
        /// The client.
        key: PublicKey,
    },
    /// The group is in a new epoch.
    EpochBegun {
        /// The group.
        which: Which,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The service exists.
    ServiceCreated {
        /// The service.
        service: ServiceId,
    },
    /// The request is an entry of the service's log.
    Numbered {
        /// The service.
        service: ServiceId,
        /// Its number.
        number: u64,
    },
    /// The service goes on with another image.
    ServiceUpgraded {
        /// The service.
        service: ServiceId,
        /// The image.
        image: ImageDigest,
        /// First entry that it executes.
        number: u64,
    },
}

/// Why nothing was done. The same on every honest orchestrator.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
#[error("{kind} ({code}): {text}")]
pub struct Failure {
    /// One of [`status`].
    pub code: u16,
    /// Stable identifier.
    #[borsh(deserialize_with = "bounded_text::<KIND_LIMIT, _>")]
    pub kind: String,
    /// For people, at most [`TEXT_LIMIT`] bytes.
    #[borsh(deserialize_with = "bounded_text::<TEXT_LIMIT, _>")]
    pub text: String,
    /// Decision that stands in the way, if one does.
    pub winner: Option<Box<Decision>>,
}

/// What became of an operation.
pub type Outcome = Result<Answer, Failure>;

/// The encoding of an outcome.
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    encoding::to_bytes(outcome)
}

/// Reads what [`encode_outcome`] writes.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, DecodeError> {
    encoding::from_bytes(bytes, OUTCOME_LIMIT)
}

impl Failure {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn new(code: u16, kind: &str, text: impl Into<String>) -> Self {
        let mut text = text.into();
        let mut end = text.len().min(TEXT_LIMIT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self { code, kind: kind.to_owned(), text, winner: None }
    }

    pub(crate) fn conflict(text: impl Into<String>) -> Self {
        Self::new(status::CONFLICT, "Conflict", text)
    }

    pub(crate) fn stale(text: impl Into<String>) -> Self {
        Self::new(status::STALE, "Stale", text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(status::NOT_FOUND, "NotFound", text)
    }

    pub(crate) fn not_authorized(text: impl Into<String>) -> Self {
        Self::new(status::NOT_AUTHORIZED, "NotAuthorized", text)
    }

    pub(crate) fn limit(text: impl Into<String>) -> Self {
        Self::new(status::LIMIT, "QuotaExceeded", text)
    }

    /// The same failure with the decision that stands in the way.
    pub(crate) fn against(mut self, winner: Option<Decision>) -> Self {
        self.winner = winner.map(Box::new);
        self
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        let code = match error {
            VerifyError::BadSignature { .. }
            | VerifyError::SignatureNonCanonical { .. }
            | VerifyError::SignerOutOfOrder { .. }
            | VerifyError::DuplicateSigner { .. }
            | VerifyError::SignerOutOfRange { .. }
            | VerifyError::ProofOfPossessionInvalid { .. }
            | VerifyError::WrongDomain { .. }
            | VerifyError::WrongCluster { .. } => status::BAD_SIGNATURE,
            VerifyError::KeyRoleMismatch { .. } | VerifyError::SignerNotMember { .. } => {
                status::NOT_AUTHORIZED
            }
            VerifyError::WrongEpoch { .. } | VerifyError::EpochUnlinked { .. } => status::WRONG_EPOCH,
            VerifyError::EpochRetired { .. } | VerifyError::FencedGeneration { .. } => status::STALE,
            VerifyError::QuorumNotReached { .. } => status::INCONCLUSIVE,
            VerifyError::MessageTooLarge { .. } => status::TOO_LARGE,
            VerifyError::BadConfig { .. } => status::BAD_CONFIG,
            VerifyError::Decode(DecodeError::MessageTooLarge { .. }) => status::TOO_LARGE,
            VerifyError::Decode(DecodeError::Malformed { .. }) => status::MALFORMED,
            VerifyError::WrongVm { .. }
            | VerifyError::WrongSlot { .. }
            | VerifyError::NonceReused
            | VerifyError::DoubleVote { .. }
            | VerifyError::NoConflict { .. }
            | VerifyError::Inconsistent { .. } => status::CONFLICT,
        };
        // What a decoder says may change with the compiler; an outcome may not.
        let text = match &error {
            VerifyError::Decode(DecodeError::Malformed { .. }) => "bytes do not decode".to_owned(),
            other => other.to_string(),
        };
        Self::new(code, error.kind(), text)
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        VerifyError::Decode(error).into()
    }
}
