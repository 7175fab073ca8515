//! What shows an answer to be right, to anybody who knows the groups and the service, without the network.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::VerifyError;
use quorate_attest::encoding::{Bounded, DecodeError, bounded_bytes};
use quorate_attest::group::GroupConfig;
use quorate_attest::id::ServiceId;
use quorate_attest::merkle::ProofError;
use quorate_attest::operation::{OPERATION_LIMIT, Operation};
use quorate_attest::receipt::{LOG_INSTANCE, ReceiptCertificate};
use quorate_attest::request::{BODY_LIMIT, Reply, Request};
use quorate_attest::service::{Answer, Query, ServiceReceiptCertificate};
use quorate_attest::statement::Kind;
use quorate_control::{Answer as Outcome, Command, OUTCOME_LIMIT, decode_outcome};
use sha2::{Digest as _, Sha256};

/// Whom a client believes, and about which service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The group that orders.
    pub orchestrators: GroupConfig,
    /// The service's replicas.
    pub replicas: GroupConfig,
    /// The service.
    pub service: ServiceId,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Claim {
    /// A request was ordered and executed.
    Reply {
        /// The encoded operation that carries the request.
        #[borsh(deserialize_with = "bounded_bytes::<OPERATION_LIMIT, _>")]
        operation: Vec<u8>,
        /// That a quorum of orchestrators ordered it.
        order: ReceiptCertificate,
        /// The encoded outcome that `order` names: the entry's number.
        #[borsh(deserialize_with = "bounded_bytes::<OUTCOME_LIMIT, _>")]
        outcome: Vec<u8>,
        /// The encoded reply that the replicas' receipt names.
        #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
        reply: Vec<u8>,
    },
    /// The state has or has not certain entries.
    State {
        /// The question.
        query: Query,
        /// The answer with its proof.
        answer: Answer,
    },
}

/// An answer with everything that shows it to be right.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AnswerProof {
    /// First bytes of the file, [`AnswerProof::MAGIC`].
    pub magic: [u8; 16],
    /// What `f + 1` replicas agree on.
    pub receipt: ServiceReceiptCertificate,
    /// What is answered.
    pub claim: Claim,
}

impl Bounded for AnswerProof {
    // A range of 256 entries with their paths fits into one output of a guest.
    const LIMIT: usize = 1 << 20;
}

/// Why an answer is not shown to be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    /// A certificate, or what it is about.
    #[error(transparent)]
    Certificate(#[from] VerifyError),
    /// A proof against the state.
    #[error(transparent)]
    State(#[from] ProofError),
    /// Bytes inside.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The parts belong to different answers.
    #[error("the parts of the proof do not belong together: {reason}")]
    Mixed {
        /// What differs.
        reason: &'static str,
    },
}

impl ProofFault {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Certificate(error) => error.kind(),
            Self::State(error) => error.kind(),
            Self::Decode(error) => error.kind(),
            Self::Mixed { .. } => "Inconsistent",
        }
    }
}

fn mixed(reason: &'static str) -> ProofFault {
    ProofFault::Mixed { reason }
}

impl AnswerProof {
    /// First bytes of every encoded proof.
    pub const MAGIC: [u8; 16] = *b"quorate-answer-1";

    /// Puts a proof together; nothing is checked.
    pub fn new(receipt: ServiceReceiptCertificate, claim: Claim) -> Self {
        Self { magic: Self::MAGIC, receipt, claim }
    }

    /// Place in the service's log of the newest entry that the answer takes into account.
    pub fn number(&self) -> u64 {
        self.receipt.receipt.number
    }

    /// Checks everything: signatures, counts, scope, and that the parts belong together.
    ///
    /// # Errors
    /// The first rule that failed.
    pub fn verify(&self, trust: &Trust) -> Result<(), ProofFault> {
        if self.magic != Self::MAGIC {
            return Err(mixed("not a proof of version 1"));
        }
        let expected = trust.replicas.expected(trust.service.instance(), Kind::SERVICE_RECEIPT);
        self.receipt.verify(&trust.replicas, &expected)?;
        let receipt = &self.receipt.receipt;
        match &self.claim {
            Claim::State { query, answer } => Ok(answer.verify(query, &receipt.state)?),
            Claim::Reply { operation, order, outcome, reply } => {
                let ordered = trust.orchestrators.expected(LOG_INSTANCE, Kind::RECEIPT);
                order.verify(&trust.orchestrators, &ordered)?;
                let operation = Operation::decoded(operation)?;
                operation.verify(&trust.orchestrators.id())?;
                let entry = (order.receipt.index, order.receipt.operation);
                if entry != (receipt.log_index, receipt.operation) || operation.id() != receipt.operation {
                    return Err(mixed("another operation was ordered"));
                }
                if Sha256::digest(outcome)[..] != order.receipt.result {
                    return Err(mixed("the outcome is not the one that was ordered"));
                }
                match decode_outcome(outcome)? {
                    Ok(Outcome::Numbered { service, number })
                        if (service, number) == (trust.service, receipt.number) => {}
                    _ => return Err(mixed("the operation was given another number")),
                }
                check_reply(trust.service, &operation, receipt.result, reply)
            }
        }
    }

    /// The reply, where a request was executed.
    ///
    /// # Errors
    /// It does not decode.
    pub fn reply(&self) -> Result<Option<Reply>, DecodeError> {
        match &self.claim {
            Claim::Reply { reply, .. } => Reply::decoded(reply).map(Some),
            Claim::State { .. } => Ok(None),
        }
    }
}

/// Checks that `reply` is the one that a receipt names and that it answers the request inside the operation.
fn check_reply(
    service: ServiceId,
    operation: &Operation,
    result: [u8; 32],
    reply: &[u8],
) -> Result<(), ProofFault> {
    if Sha256::digest(reply)[..] != result {
        return Err(mixed("the reply is not the one in the receipt"));
    }
    let Command::CallService { service: called, request } = Command::decoded(&operation.command)? else {
        return Err(mixed("the operation calls no service"));
    };
    if called != service {
        return Err(mixed("the operation calls another service"));
    }
    match (Request::decoded(&request), Reply::decoded(reply)?) {
        (Ok(request), reply) if !reply.answers(&request) => Err(mixed("the reply is to another request")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
