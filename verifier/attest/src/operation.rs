//! Operations: what the ordered log of the orchestrators orders.
//!
//! An operation is bound to one group and names its author. Its identity leaves the signature out, so that a second
//! signature by the same author does not make a second operation, and the nonce lets an author ask for one thing twice.
//! What the command means, and whether the author may ask for it, is the control plane's to decide.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest as _, Sha256};

use crate::encoding::{Bounded, bounded_bytes, to_bytes};
use crate::error::{Signer, VerifyError};
use crate::id::{GroupId, Nonce, OperationId};
use crate::key::{PublicKey, SecretKey, Signature};

/// Most bytes of an operation.
pub const OPERATION_LIMIT: usize = 131_072;

/// Most bytes of a command: what the other fields leave.
pub const COMMAND_LIMIT: usize =
    OPERATION_LIMIT - GroupId::LENGTH - PublicKey::LENGTH - Nonce::LENGTH - 4 - Signature::LENGTH;

/// First bytes of what is hashed and signed, zero padded.
const DOMAIN: [u8; 16] = *b"quorate-op-v1\0\0\0";

/// A command with its author's signature.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Operation {
    /// Orchestrator group whose log shall order it.
    pub group: GroupId,
    /// Who asks for it.
    pub author: PublicKey,
    /// Chosen by the author: the same command with another nonce is another operation.
    pub nonce: Nonce,
    /// Encoding of the control plane's command.
    #[borsh(deserialize_with = "bounded_bytes::<COMMAND_LIMIT, _>")]
    pub command: Vec<u8>,
    /// Of `author` over the domain and all fields before.
    pub signature: Signature,
}

impl Bounded for Operation {
    const LIMIT: usize = OPERATION_LIMIT;
}

impl Operation {
    /// A signed operation of the holder of `author`. A command over [`COMMAND_LIMIT`] has an encoding that nobody decodes.
    pub fn new(author: &SecretKey, group: GroupId, nonce: Nonce, command: Vec<u8>) -> Self {
        Self { group, author: author.public(), nonce, command, signature: Signature::NONE }.signed(author)
    }

    /// Signs; the signature in `self` is replaced.
    pub fn signed(mut self, author: &SecretKey) -> Self {
        self.signature = author.sign(&self.signed_bytes());
        self
    }

    /// SHA-256 of the domain and all fields but the signature.
    pub fn id(&self) -> OperationId {
        OperationId::from_bytes(Sha256::digest(self.signed_bytes()).into())
    }

    /// Checks that the operation is for `group` and signed by the author it names.
    pub fn verify(&self, group: &GroupId) -> Result<(), VerifyError> {
        if self.group != *group {
            return Err(VerifyError::WrongCluster { want: *group, got: self.group });
        }
        self.author
            .verify(&self.signed_bytes(), &self.signature)
            .map_err(|error| VerifyError::signature(Signer::Key(self.author), error))
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = to_bytes(&(DOMAIN, self));
        bytes.truncate(bytes.len() - Signature::LENGTH);
        bytes
    }
}
