//! The members of an epoch as the engine knows them.

use bytes::Bytes;
use commonware_codec::DecodeExt;
use commonware_consensus::simplex::scheme::ed25519;
use commonware_cryptography::ed25519::{PrivateKey, PublicKey as Key};
use commonware_utils::TryCollect;
use commonware_utils::ordered::Set;

/// The signature scheme: single Ed25519 signatures, so every vote can be attributed.
pub type Scheme = ed25519::Scheme;

/// A member's vote key.
pub type EngineKey = Key;

/// First bytes of the namespace of every vote.
const NAMESPACE: &[u8] = b"quorate-agreement";

/// The members of one epoch.
///
/// Members vote with their vote keys, which also sign statements. A vote of the engine is a signature over the length
/// of its namespace, the namespace and the vote; the namespace has 57 to 67 bytes. Everything else a vote key signs begins
/// with the letter `q`, which would be a length of 113. So neither can be taken for the other.
#[derive(Debug, Clone)]
pub struct Committee {
    /// The epoch.
    pub epoch: u64,
    /// SHA-256 of the configuration.
    pub config: [u8; 32],
    namespace: Vec<u8>,
    participants: Set<EngineKey>,
    keys: Vec<EngineKey>,
}

impl Committee {
    /// The members of an epoch of a group, by their vote keys.
    ///
    /// # Errors
    /// If a key is not a point of the curve or occurs twice.
    pub fn new(
        group: &[u8; 32],
        epoch: u64,
        config: [u8; 32],
        keys: &[[u8; 32]],
    ) -> Result<Self, BadCommittee> {
        let namespace = [NAMESPACE, group, &epoch.to_le_bytes()].concat();
        let keys: Option<Vec<_>> = keys.iter().map(engine_key).collect();
        let keys = keys.ok_or(BadCommittee::Key)?;
        if keys.is_empty() {
            return Err(BadCommittee::Empty);
        }
        let participants = keys.iter().cloned().try_collect().map_err(|_| BadCommittee::Twice)?;
        Ok(Self { epoch, config, namespace, participants, keys })
    }

    /// The engine's set of members.
    pub fn participants(&self) -> &Set<EngineKey> {
        &self.participants
    }

    /// Members' keys in the order of the configuration.
    pub fn keys(&self) -> &[EngineKey] {
        &self.keys
    }

    /// Index of a key in the configuration.
    pub fn index_of(&self, key: &EngineKey) -> Option<u16> {
        self.keys.iter().position(|member| member == key).map(|index| index as u16)
    }

    /// Checks signatures of this epoch.
    pub fn verifier(&self) -> Scheme {
        Scheme::verifier(&self.namespace, self.participants.clone())
    }

    /// Namespace of the votes that finalize.
    pub fn finalize_namespace(&self) -> Vec<u8> {
        use commonware_consensus::simplex::scheme::Namespace;
        Namespace::new(&self.namespace).finalize
    }

    /// Signs as the member with this key; `None` if there is none.
    pub fn signer(&self, seed: &[u8; 32]) -> Option<Scheme> {
        let key = PrivateKey::decode(Bytes::copy_from_slice(seed)).ok()?;
        Scheme::signer(&self.namespace, self.participants.clone(), key)
    }
}

/// The engine's form of a key.
fn engine_key(key: &[u8; 32]) -> Option<EngineKey> {
    EngineKey::decode(Bytes::copy_from_slice(key)).ok()
}

/// Keys that make no committee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCommittee {
    /// Nobody.
    #[error("a group without members")]
    Empty,
    /// The engine does not take a key.
    #[error("a vote key is not accepted by the engine")]
    Key,
    /// A key would vote twice.
    #[error("a vote key occurs twice")]
    Twice,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_no_vote_can_be_taken_for_a_statement() {
        use commonware_consensus::simplex::scheme::Namespace;
        let base = [NAMESPACE, &[0; 32], &[0; 8]].concat();
        let namespaces = Namespace::new(&base);
        for namespace in [namespaces.notarize, namespaces.nullify, namespaces.finalize, namespaces.seed] {
            assert!(namespace.len() < usize::from(b'q'), "first byte of what is signed is this length");
        }
    }
}
