//! An entry of the log as it is read once: decoded, its signature checked, its identity known.

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{GroupId, OperationId};
use quorate_attest::operation::Operation;
use sha2::{Digest as _, Sha256};

use crate::outcome::Failure;

/// First bytes of what identifies bytes that are no operation, zero padded.
const DOMAIN: [u8; 16] = *b"quorate-bytes-v1";

/// Bytes of an entry, read.
#[derive(Debug, Clone)]
pub struct Submission {
    id: OperationId,
    operation: Result<Operation, Failure>,
}

impl Submission {
    /// Reads bytes that are to be an operation for `group`. Costs one verification of a signature.
    ///
    /// The identity is that of the operation only if the signature holds. Otherwise it is a hash of all bytes: a copy with
    /// a spoilt signature must not take the place of the operation in a log that drops what it has seen.
    pub fn read(bytes: &[u8], group: &GroupId) -> Self {
        let checked = Operation::decoded(bytes).map_err(Failure::from).and_then(|operation| {
            operation.verify(group)?;
            Ok(operation)
        });
        let id = match &checked {
            Ok(operation) => operation.id(),
            Err(_) => {
                let hash = Sha256::new().chain_update(DOMAIN).chain_update(bytes);
                OperationId::from_bytes(hash.finalize().into())
            }
        };
        Self { id, operation: checked }
    }

    /// Identity by which a log drops repetitions.
    pub fn id(&self) -> OperationId {
        self.id
    }

    /// The operation, or why the bytes are none.
    pub fn operation(&self) -> Result<&Operation, &Failure> {
        self.operation.as_ref()
    }
}
