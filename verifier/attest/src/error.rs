//! Why a signed thing is refused. One enum for all of them, so that a check reads the same wherever it stands.

use alloc::string::String;

use crate::encoding::DecodeError;
use crate::id::{Epoch, Generation, GroupId, Slot, StatementDigest, VmId};
use crate::key::{PublicKey, SignatureError};
use crate::quorum::QuorumError;
use crate::statement::Kind;

/// A statement, vote, certificate or request that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Signed as another kind of statement.
    #[error("statement is of kind {got}, expected {want}")]
    WrongDomain {
        /// Kind expected.
        want: Kind,
        /// Kind found.
        got: Kind,
    },
    /// Signed for another group.
    #[error("statement belongs to group {got}, expected {want}")]
    WrongCluster {
        /// Group expected.
        want: GroupId,
        /// Group found.
        got: GroupId,
    },
    /// Signed in another epoch.
    #[error("statement belongs to epoch {got}, expected {want}")]
    WrongEpoch {
        /// Epoch expected.
        want: Epoch,
        /// Epoch found.
        got: Epoch,
    },
    /// An epoch that was left: good for history, not for anything new.
    #[error("epoch {epoch} is retired, the current one is {current}")]
    EpochRetired {
        /// Epoch found.
        epoch: Epoch,
        /// Epoch whose members may sign now.
        current: Epoch,
    },
    /// A configuration or certificate of an epoch that no unbroken chain from the genesis leads to.
    #[error("epoch {got} is not linked to epoch {current}: {reason}")]
    EpochUnlinked {
        /// Newest epoch of the chain.
        current: Epoch,
        /// Epoch found.
        got: Epoch,
        /// What is missing.
        reason: &'static str,
    },
    /// About another VM.
    #[error("statement is about VM {got}, expected {want}")]
    WrongVm {
        /// VM expected.
        want: VmId,
        /// VM found.
        got: VmId,
    },
    /// Names another slot or another statement than the one it must continue.
    #[error("statement names slot {got} ({got_digest}), expected {want} ({want_digest})")]
    WrongSlot {
        /// Slot expected.
        want: Slot,
        /// Statement expected there.
        want_digest: StatementDigest,
        /// Slot found.
        got: Slot,
        /// Statement found there.
        got_digest: StatementDigest,
    },
    /// A generation that is not the one that may act now.
    #[error("generation {got} is fenced, expected {have}")]
    FencedGeneration {
        /// Generation expected.
        have: Generation,
        /// Generation found.
        got: Generation,
    },
    /// A key that may not act in this role.
    #[error("key {got} may not act as {role}")]
    KeyRoleMismatch {
        /// Role it claims.
        role: &'static str,
        /// The key.
        got: PublicKey,
    },
    /// A proof of possession that is not of this key for this role.
    #[error("proof of possession of key {key} as {role} is invalid")]
    ProofOfPossessionInvalid {
        /// Role it was to be registered for.
        role: &'static str,
        /// The key.
        key: PublicKey,
    },
    /// An answer to another question.
    #[error("answer carries another nonce than the question")]
    NonceReused,
    /// A signature list that does not ascend strictly.
    #[error("signature of verifier {verifier} is listed after that of a higher index")]
    SignerOutOfOrder {
        /// Index that is out of order.
        verifier: u16,
    },
    /// One signer counted twice, by index or by key.
    #[error("verifier {verifier} is counted twice")]
    DuplicateSigner {
        /// The second occurrence.
        verifier: u16,
    },
    /// An index that no member of the group has.
    #[error("verifier index {verifier} is not below {members}")]
    SignerOutOfRange {
        /// The index.
        verifier: u16,
        /// Members of the group.
        members: usize,
    },
    /// A key that is not in the group.
    #[error("key {key} is not a member")]
    SignerNotMember {
        /// The key.
        key: PublicKey,
    },
    /// A signature that does not verify.
    #[error("signature of {signer} does not verify")]
    BadSignature {
        /// Whose it claims to be.
        signer: Signer,
    },
    /// A signature that is malformed, whatever it signs.
    #[error("signature of {signer} is not canonical")]
    SignatureNonCanonical {
        /// Whose it claims to be.
        signer: Signer,
    },
    /// Fewer valid votes than a quorum.
    #[error("{got} of {need} votes")]
    QuorumNotReached {
        /// Votes needed.
        need: u64,
        /// Votes found.
        got: u64,
    },
    /// A valid vote for another statement of a slot that the same verifier has voted on.
    #[error("verifier {verifier} voted twice for slot {slot}")]
    DoubleVote {
        /// The verifier.
        verifier: u16,
        /// The slot.
        slot: Slot,
    },
    /// Two statements that do not contradict each other are no evidence.
    #[error("the statements do not conflict: {reason}")]
    NoConflict {
        /// Why not.
        reason: &'static str,
    },
    /// A list, text or body over its limit.
    #[error("{what} has {got} elements, the limit is {limit}")]
    MessageTooLarge {
        /// What is too large.
        what: &'static str,
        /// Most elements allowed.
        limit: usize,
        /// Elements found.
        got: usize,
    },
    /// Parts of one message that contradict each other.
    #[error("message contradicts itself: {reason}")]
    Inconsistent {
        /// The contradiction.
        reason: &'static str,
    },
    /// A group or VM specification that cannot be used.
    #[error("configuration is refused: {reason}")]
    BadConfig {
        /// The rule it breaks.
        reason: String,
    },
    /// Bytes inside the message do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl VerifyError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::WrongDomain { .. } => "WrongDomain",
            Self::WrongCluster { .. } => "WrongCluster",
            Self::WrongEpoch { .. } => "WrongEpoch",
            Self::EpochRetired { .. } => "EpochRetired",
            Self::EpochUnlinked { .. } => "EpochUnlinked",
            Self::WrongVm { .. } => "WrongVm",
            Self::WrongSlot { .. } => "WrongSlot",
            Self::FencedGeneration { .. } => "FencedGeneration",
            Self::KeyRoleMismatch { .. } => "KeyRoleMismatch",
            Self::ProofOfPossessionInvalid { .. } => "ProofOfPossessionInvalid",
            Self::NonceReused => "NonceReused",
            Self::SignerOutOfOrder { .. } => "SignerOutOfOrder",
            Self::DuplicateSigner { .. } => "DuplicateSigner",
            Self::SignerOutOfRange { .. } => "SignerOutOfRange",
            Self::SignerNotMember { .. } => "SignerNotMember",
            Self::BadSignature { .. } => "BadSignature",
            Self::SignatureNonCanonical { .. } => "SignatureNonCanonical",
            Self::QuorumNotReached { .. } => "QuorumNotReached",
            Self::DoubleVote { .. } => "DoubleVote",
            Self::NoConflict { .. } => "NoConflict",
            Self::MessageTooLarge { .. } => "MessageTooLarge",
            Self::Inconsistent { .. } => "Inconsistent",
            Self::BadConfig { .. } => "BadConfig",
            Self::Decode(error) => error.kind(),
        }
    }

    pub(crate) fn signature(signer: Signer, error: SignatureError) -> Self {
        match error {
            SignatureError::Bad => Self::BadSignature { signer },
            SignatureError::NonCanonical => Self::SignatureNonCanonical { signer },
        }
    }
}

impl From<QuorumError> for VerifyError {
    fn from(error: QuorumError) -> Self {
        Self::BadConfig { reason: alloc::format!("{error}") }
    }
}

/// Whose signature a [`VerifyError`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// A member of the group, by index.
    Verifier(u16),
    /// The holder of a key: host, operator or client.
    Key(PublicKey),
}

impl core::fmt::Display for Signer {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Verifier(index) => write!(out, "verifier {index}"),
            Self::Key(key) => write!(out, "key {key}"),
        }
    }
}
