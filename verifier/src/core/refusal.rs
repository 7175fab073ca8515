//! Why a request is refused.

use quorate_attest::VerifyError;
use quorate_attest::id::{Generation, Slot};
use quorate_attest::merkle::ProofError;

/// A request that the rules refuse. [`Refusal::kind`] is the stable identifier in answers, logs and counters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A signed thing does not verify, or belongs elsewhere.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A slot that is not above the newest one.
    #[error("slot {got} is stale, the newest is {have}")]
    StaleSlot {
        /// Newest slot.
        have: Slot,
        /// Slot offered.
        got: Slot,
    },
    /// A generation that may not act any more.
    #[error("generation {got} is fenced by generation {have}")]
    FencedGeneration {
        /// Generation that fences it.
        have: Generation,
        /// Generation offered.
        got: Generation,
    },
    /// The host signed two proposals for one slot.
    #[error("host signed two proposals for slot {slot}")]
    EquivocationEvidence {
        /// The slot.
        slot: Slot,
    },
    /// Statement or inputs do not continue the chain.
    #[error("log chain is broken at input {at}: {reason}")]
    LogChainBroken {
        /// First input that may be wrong.
        at: u64,
        /// Which link does not hold.
        reason: &'static str,
    },
    /// Inputs are missing.
    #[error("input log is truncated: want {want}, got {got}")]
    LogTruncated {
        /// Inputs needed.
        want: u64,
        /// Inputs found.
        got: u64,
    },
    /// Inputs that no transition consumes.
    #[error("input log has {n} trailing records")]
    LogTrailingRecords {
        /// How many.
        n: u64,
    },
    /// Nobody the VM accepts vouches for an input, or the counts of the statement claim more than is there.
    #[error("input {at} is not {class}")]
    InputUnauthenticated {
        /// Class it should have.
        class: &'static str,
        /// Its index.
        at: u64,
    },
    /// Another image, machine or processor.
    #[error("platform differs in {field}")]
    PlatformMismatch {
        /// What differs.
        field: &'static str,
    },
    /// The state that was reached is not the state that was stated.
    #[error("{component} differ from the statement")]
    RootMismatch {
        /// First component that differs: memory, cpu, device, outputs or doorbells.
        component: &'static str,
    },
    /// The execution could not follow the inputs.
    #[error("replay failed: {detail}")]
    Replay {
        /// Stable identifier of the failure.
        kind: &'static str,
        /// What happened.
        detail: String,
    },
    /// A page or its proof is wrong.
    #[error("proof of page {page} is invalid: {reason}")]
    ProofInvalid {
        /// The page.
        page: u32,
        /// The rule that failed.
        reason: &'static str,
    },
    /// Nothing that permits a new generation.
    #[error("no activation: {reason}")]
    NoActivationCertificate {
        /// What is missing.
        reason: &'static str,
    },
    /// Another instance has the vote for this generation.
    #[error("generation {generation} is promised to another instance")]
    DuplicateInstance {
        /// The generation.
        generation: Generation,
    },
    /// Two quorums certified different things: more than f members are Byzantine.
    #[error("conflicting certificates for slot {slot} of generation {generation}")]
    ConflictingCertificates {
        /// The slot.
        slot: Slot,
        /// Its generation.
        generation: Generation,
    },
    /// A certificate holds a signature of this verifier that its sign-log does not know.
    #[error("own vote for slot {peers} is unknown to the sign-log, whose newest is {disk:?}")]
    SignStateRolledBack {
        /// Newest slot of the sign-log.
        disk: Option<Slot>,
        /// Slot of the certificate.
        peers: Slot,
    },
    /// The image cannot be admitted.
    #[error("image is refused: {detail}")]
    Image {
        /// Stable identifier.
        kind: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// More than a limit allows.
    #[error("{what} is {got}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// What was found.
        got: u64,
    },
    /// No room for another VM, or for another request.
    #[error("queue {queue} is full")]
    QueueFull {
        /// Which.
        queue: &'static str,
    },
    /// The state could not be pulled.
    #[error("transfer failed: {detail}")]
    Transfer {
        /// Stable identifier of the failure.
        kind: &'static str,
        /// What happened.
        detail: String,
    },
    /// The other side did not answer in time.
    #[error("no answer in phase {phase}")]
    PeerTimeout {
        /// What was awaited.
        phase: &'static str,
    },
    /// A message that belongs nowhere at this point.
    #[error("{message} was not asked for")]
    Unexpected {
        /// The message.
        message: &'static str,
    },
}

impl Refusal {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Verify(error) => error.kind(),
            Self::StaleSlot { .. } => "StaleSlot",
            Self::FencedGeneration { .. } => "FencedGeneration",
            Self::EquivocationEvidence { .. } => "EquivocationEvidence",
            Self::LogChainBroken { .. } => "LogChainBroken",
            Self::LogTruncated { .. } => "LogTruncated",
            Self::LogTrailingRecords { .. } => "LogTrailingRecords",
            Self::InputUnauthenticated { .. } => "InputUnauthenticated",
            Self::PlatformMismatch { .. } => "PlatformMismatch",
            Self::RootMismatch { .. } => "RootMismatch",
            Self::ProofInvalid { .. } => "ProofInvalid",
            Self::NoActivationCertificate { .. } => "NoActivationCertificate",
            Self::DuplicateInstance { .. } => "DuplicateInstance",
            Self::ConflictingCertificates { .. } => "ConflictingCertificates",
            Self::SignStateRolledBack { .. } => "SignStateRolledBack",
            Self::Replay { kind, .. } | Self::Image { kind, .. } | Self::Transfer { kind, .. } => kind,
            Self::TooLarge { .. } => "MessageTooLarge",
            Self::QueueFull { .. } => "QueueFull",
            Self::PeerTimeout { .. } => "PeerTimeout",
            Self::Unexpected { .. } => "DecodeError",
        }
    }

    /// Whether the process must stop signing for good.
    #[must_use]
    pub fn is_safety_stop(&self) -> bool {
        matches!(self, Self::ConflictingCertificates { .. } | Self::SignStateRolledBack { .. })
    }

    pub(super) fn proof(page: u32, error: ProofError) -> Self {
        Self::ProofInvalid { page, reason: error.reason }
    }
}
