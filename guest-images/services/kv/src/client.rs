//! The client's half: requests that carry a sequence, and what an output means to the one who asked.

use alloc::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Nonce, VmId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Call, Reply, Request, status};
use quorate_attest::vm::VmSpec;

use crate::operation::{Answer, Operation, Refusal};

/// Input 0 of the VM with this specification.
pub fn genesis(spec: &VmSpec) -> Vec<u8> {
    spec.encoded()
}

/// A client of one VM: its key and how many requests it has made.
pub struct Client {
    key: SecretKey,
    vm: VmId,
    sequence: u64,
}

impl Client {
    /// A client whose next request has the sequence number after `last_sequence` (0 for a key never used before).
    pub fn new(key: SecretKey, vm: VmId, last_sequence: u64) -> Self {
        Self { key, vm, sequence: last_sequence }
    }

    /// The last sequence number used; whoever stores it durably can continue after a restart.
    pub fn last_sequence(&self) -> u64 {
        self.sequence
    }

    /// Signs the next request. Its input is [`Bounded::encoded`]; send the same bytes again if no answer comes.
    pub fn request(&mut self, operation: &Operation, nonce: Nonce) -> Request {
        self.sequence += 1;
        let call =
            Call { op: operation.op(), sequence: self.sequence, nonce, epoch: 0, body: operation.body() };
        Request::sign(&self.key, self.vm, call)
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The output belongs to another input.
    #[error("the output answers another request")]
    OtherRequest,
    /// The service refused the input before it looked at the operation.
    #[error("the input was refused with status {status}")]
    Refused {
        /// One of [`status`].
        status: u16,
    },
    /// The operation failed.
    #[error("the operation failed with status {status}")]
    Failed {
        /// One of [`status`].
        status: u16,
    },
    /// The output is nothing this service emits.
    #[error("the output does not decode")]
    Undecodable,
}

impl AnswerError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OtherRequest => "NonceReused",
            Self::Refused { .. } => "RequestRefused",
            Self::Failed { .. } => "OperationFailed",
            Self::Undecodable => "DecodeError",
        }
    }
}

/// What `output` says to the client that made `request`.
///
/// # Errors
///
/// If the output belongs to another request, or says that this one failed.
pub fn answer(request: &Request, output: &[u8]) -> Result<Answer, AnswerError> {
    if let Ok(refusal) = Refusal::decoded(output) {
        return match refusal.input == Refusal::digest(&request.encoded()) {
            true => Err(AnswerError::Refused { status: refusal.status }),
            false => Err(AnswerError::OtherRequest),
        };
    }
    let reply = Reply::decoded(output).map_err(|_| AnswerError::Undecodable)?;
    if !reply.answers(request) {
        return Err(AnswerError::OtherRequest);
    }
    match reply.status {
        status::OK => Answer::decode(request.op, &reply.body).map_err(|_| AnswerError::Undecodable),
        status => Err(AnswerError::Failed { status }),
    }
}
