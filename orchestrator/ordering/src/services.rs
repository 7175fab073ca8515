//! Questions to the replicas of an ordered service, and what they answer.
//!
//! The orchestrators' receipt for `CallService` proves a request's place. What came of it is told here, by each replica for itself: `f + 1`
//! equal receipts are the answer ([`quorate_attest::service::ServiceReceiptTally`]). Nothing is checked here.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, bounded_bytes, bounded_list, bounded_text};
use quorate_attest::id::{ImageDigest, OperationId, ServiceId};
use quorate_attest::key::Signature;
use quorate_attest::merkle::{Digest, PROOF_LIMIT};
use quorate_attest::receipt::LogLeaf;
use quorate_attest::request::{BODY_LIMIT, MESSAGE_LIMIT};
use quorate_attest::service::{Answer, Query, ServiceReceipt, ServiceSpec};

use crate::protocol::{CosignedHead, Refused};

/// Most bytes of an encoded [`AskService`].
pub const SERVICE_QUESTION_BYTES_MAX: usize = 16_384;
/// Most bytes of an encoded [`ServiceAnswer`]: a message of a guest, and the receipt beside it.
pub const SERVICE_ANSWER_BYTES_MAX: usize = MESSAGE_LIMIT + 4096;
/// Most heads in one answer.
pub const SERVICE_HEADS_MAX: usize = 256;
/// Most bytes of a service's name.
pub const SERVICE_NAME_BYTES_MAX: usize = 64;

/// Most receipts in one [`StopEvidence`].
const THEIRS_MAX: usize = 64;

/// Asks a replica about one service.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AskService {
    /// The service.
    pub service: ServiceId,
    /// What about it.
    pub question: ServiceQuestion,
}

/// Asks for a service by its name. The answer is [`ServiceAnswer::Info`].
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServiceNamed {
    /// The name.
    #[borsh(deserialize_with = "bounded_text::<SERVICE_NAME_BYTES_MAX, _>")]
    pub name: String,
}

/// A question to a replica.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum ServiceQuestion {
    /// What it is and how it is.
    Info,
    /// How many of its entries are ordered and executed.
    Head,
    /// What came of the request that an operation ordered. Waits for its execution as long as an order may take.
    Result {
        /// The `CallService` operation.
        operation: OperationId,
    },
    /// What came of the entry with this number. Waits as [`ServiceQuestion::Result`] does.
    At {
        /// The number.
        number: u64,
    },
    /// A question about its state, answered on a fork.
    Query {
        /// The question.
        query: Query,
        /// Entries that must have been executed before.
        at_least: u64,
    },
    /// A proof that an entry is in the service's log.
    Prove {
        /// Number of the entry.
        number: u64,
        /// Size of the log that the proof leads to; 0 for the newest that this replica cosigned.
        size: u64,
    },
    /// Heads of the service's log that this replica cosigned.
    Heads,
    /// A proof that the log of `to` entries extends that of `from` entries. Answered from the tree, at once.
    Consistency {
        /// Entries of the older log.
        from: u64,
        /// Entries of the newer log, at least as many; refused `NotFound` when they are not executed here.
        to: u64,
    },
}

/// What a replica answers about a service.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum ServiceAnswer {
    /// What the service is.
    Info(ServiceInfo),
    /// How far it is.
    Head(ServiceHead),
    /// What came of an entry.
    Executed(ExecutedEntry),
    /// The answer of a fork.
    Answered(AnsweredQuery),
    /// The proof.
    Proved(ServiceProof),
    /// Cosigned heads, ascending by size.
    Heads(#[borsh(deserialize_with = "bounded_list::<SERVICE_HEADS_MAX, _, _>")] Vec<CosignedHead>),
    /// RFC 6962 consistency path.
    Consistent(#[borsh(deserialize_with = "bounded_list::<PROOF_LIMIT, _, _>")] Vec<Digest>),
}

/// What a service is and how this replica of it is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServiceInfo {
    /// The service.
    pub service: ServiceId,
    /// As it was created.
    pub spec: ServiceSpec,
    /// Image that executes the next entry.
    pub image: ImageDigest,
    /// Entry of the orchestrators' log that created it.
    pub created: u64,
    /// Numbers given out, that of the creation included.
    pub ordered: u64,
    /// Entries executed here.
    pub executed: u64,
    /// Index of this replica in the service's group.
    pub replica: u16,
    /// Why it does not serve, if it does not.
    pub stopped: Option<Refused>,
}

/// How far a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServiceHead {
    /// Numbers given out, as far as this orchestrator has executed the log.
    pub ordered: u64,
    /// Entries executed here.
    pub executed: u64,
    /// Index of this replica in the service's group.
    pub replica: u16,
}

/// A replica's word about one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignedReceipt {
    /// Index of the replica in the service's group.
    pub replica: u16,
    /// What it says.
    pub receipt: ServiceReceipt,
    /// Its signature.
    pub signature: Signature,
}

/// Why a replica stopped: what it says about an entry, and what others say.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StopEvidence {
    /// What this replica signed, or executed without a signature.
    pub ours: SignedReceipt,
    /// What this replica's guest answered when it executed the entry again, if that is why it stopped.
    pub again: Option<ServiceReceipt>,
    /// What `f + 1` others signed.
    #[borsh(deserialize_with = "bounded_list::<THEIRS_MAX, _, _>")]
    pub theirs: Vec<SignedReceipt>,
}

impl Bounded for StopEvidence {
    const LIMIT: usize = (THEIRS_MAX + 2) * (ServiceReceipt::LIMIT + 72);
}

/// What came of one entry.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ExecutedEntry {
    /// Index of the replica in the service's group.
    pub replica: u16,
    /// What it says about the entry.
    pub receipt: ServiceReceipt,
    /// Its signature.
    pub signature: Signature,
    /// The encoded reply, of which the receipt has the digest.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub reply: Vec<u8>,
}

/// The answer of a fork with the receipt of the state that it stood at.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AnsweredQuery {
    /// The newest entry that the fork had executed: its receipt names the state of the answer's proof.
    pub newest: SignedReceipt,
    /// The answer.
    pub answer: Answer,
}

/// A proof that an entry is in a service's log.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServiceProof {
    /// The entry's leaf.
    pub leaf: LogLeaf,
    /// RFC 6962 inclusion path to the root at `size`.
    #[borsh(deserialize_with = "bounded_list::<PROOF_LIMIT, _, _>")]
    pub path: Vec<Digest>,
    /// Size of the log.
    pub size: u64,
    /// Root of the log at that size.
    pub root: Digest,
}

impl ExecutedEntry {
    /// The receipt without the reply.
    #[must_use]
    pub fn signed(&self) -> SignedReceipt {
        SignedReceipt { replica: self.replica, receipt: self.receipt, signature: self.signature }
    }
}

#[cfg(test)]
mod tests;
