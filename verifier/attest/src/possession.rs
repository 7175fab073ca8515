//! Proof of possession: who registers a key shows that it holds the private half, for one role in one group.
//!
//! Without it a member could register the key of another, and later point at that one's signatures as its own. A proof
//! names group, role and member, so it is worth nothing for another of them.

use alloc::string::String;
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::encoding::{self, Bounded, to_bytes};
use crate::error::VerifyError;
use crate::key::{PublicKey, SecretKey, Signature};

/// First bytes of what is signed, zero padded.
const DOMAIN: [u8; 16] = *b"quorate-pop-v1\0\0";

/// What a key is registered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub enum Role {
    /// Votes of a member.
    Vote,
    /// Cosignatures of a member.
    Cosigner,
    /// Connections of a member.
    Transport,
    /// Orders to the log.
    Operator,
    /// Proposals and connections of a host.
    Host,
}

impl Role {
    /// Word for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::Cosigner => "cosigner",
            Self::Transport => "transport",
            Self::Operator => "operator",
            Self::Host => "host",
        }
    }
}

/// A key, what it is for, and the proof that its holder wants that.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Possession {
    /// Name of the group.
    #[borsh(deserialize_with = "encoding::name")]
    pub group: String,
    /// Name of the member, operator or host.
    #[borsh(deserialize_with = "encoding::name")]
    pub member: String,
    /// Role of the key.
    pub role: Role,
    /// The key.
    pub key: PublicKey,
    /// Of `key` over the domain and all fields before.
    pub signature: Signature,
}

impl Bounded for Possession {
    const LIMIT: usize = 68 + 68 + 1 + 32 + 64;
}

impl Possession {
    /// Proves possession of `key` for one role of one member.
    pub fn prove(group: &str, member: &str, role: Role, key: &SecretKey) -> Self {
        let (group, member) = (String::from(group), String::from(member));
        let mut proof = Self { group, member, role, key: key.public(), signature: Signature::NONE };
        proof.signature = key.sign(&proof.signed_bytes());
        proof
    }

    /// Checks that this registers `key` for exactly that role.
    pub fn verify(&self, group: &str, member: &str, role: Role, key: &PublicKey) -> Result<(), VerifyError> {
        if self.key != *key || self.role != role {
            return Err(VerifyError::KeyRoleMismatch { role: role.name(), got: self.key });
        }
        let named = self.group == group && self.member == member;
        if !named || key.verify(&self.signed_bytes(), &self.signature).is_err() {
            return Err(VerifyError::ProofOfPossessionInvalid { role: role.name(), key: *key });
        }
        Ok(())
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = to_bytes(&(DOMAIN, self));
        bytes.truncate(bytes.len() - Signature::LENGTH);
        bytes
    }
}
