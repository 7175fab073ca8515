//! The statement: what every vote, certificate and piece of evidence signs.
//!
//! A statement names group, epoch, instance and kind, all of them under the signature, so that a signature given in one
//! place is worth nothing in another. Its encoding starts with a fixed magic text that carries the major version.

use alloc::vec::Vec;
use core::fmt;

use borsh::io::{Read, Write};
use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest as _, Sha256};

use crate::encoding::{Bounded, DecodeError, bounded_bytes, invalid, to_bytes};
use crate::error::{Signer, VerifyError};
use crate::id::{Epoch, GroupId, StatementDigest, VmId};
use crate::key::{PublicKey, SecretKey, Signature};

/// First bytes of every statement, zero padded.
pub const MAGIC: [u8; 16] = *b"quorate-stmt-v1\0";

/// Most bytes of a body.
pub const BODY_LIMIT: usize = 65_536;

/// What a statement is about; the high byte is the number of the system: 0 for groups and the log,
/// 8 for migration. A kind is never reused: a
/// changed body is a new kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Kind(pub u16);

impl Kind {
    /// Offline root keys vouch for the first configuration of a group.
    pub const GENESIS: Self = Self(0x0001);
    /// Members of two consecutive epochs agree on the later configuration.
    pub const EPOCH_LINK: Self = Self(0x0002);
    /// An orchestrator has applied an entry of the ordered log.
    pub const RECEIPT: Self = Self(0x0010);
    /// A replica of an ordered service has executed a request.
    pub const SERVICE_RECEIPT: Self = Self(0x0011);
    /// A verifier has re-executed the transition into a slot.
    pub const SLOT_REPLAYED: Self = Self(0x0801);
    /// A verifier has checked the chain and challenged pages of a slot only; same body as [`Self::SLOT_REPLAYED`].
    pub const SLOT_SAMPLED: Self = Self(0x0802);
    /// A host proposes a slot; same body as [`Self::SLOT_REPLAYED`].
    pub const PROPOSAL: Self = Self(0x0803);
    /// A host gives up a VM after a slot.
    pub const RELINQUISH: Self = Self(0x0804);
    /// A verifier votes for a new generation.
    pub const ACTIVATE: Self = Self(0x0805);
    // 0x0806 was an operator's own order for a new generation, before the log ordered them.
    /// A verifier tells the newest slot it knows.
    pub const HEAD: Self = Self(0x0807);
    /// A destination host refuses to run a VM.
    pub const REFUSAL: Self = Self(0x0808);
    /// Reserved for certified outputs.
    pub const OUTPUT: Self = Self(0x0809);
    /// An orchestrator tells what the ordered log decided about a VM.
    pub const DECISION: Self = Self(0x080a);
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "0x{:04x}", self.0)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Kind({self})")
    }
}

/// What is signed. The magic is part of the encoding, not of the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it is about.
    pub kind: Kind,
    /// Group it is made in.
    pub group: GroupId,
    /// Membership version of the group.
    pub epoch: Epoch,
    /// VM or service instance it is about.
    pub instance: VmId,
    /// Meaning by kind: slot or generation for system 8.
    pub seq: u64,
    /// Encoding of the kind's own type, at most [`BODY_LIMIT`] bytes.
    pub body: Vec<u8>,
}

impl Statement {
    /// The bytes that are signed. A body over the limit has an encoding that nobody decodes.
    pub fn encode(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// Reads what [`Self::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decoded(bytes)
    }

    /// SHA-256 of the encoding: the statement's name in other statements.
    pub fn digest(&self) -> StatementDigest {
        StatementDigest::from_bytes(Sha256::digest(self.encode()).into())
    }

    /// Signs the whole encoding.
    pub fn sign(&self, key: &SecretKey) -> Signature {
        key.sign(&self.encode())
    }

    /// Checks a signature of `key` over the whole encoding.
    pub fn verify(&self, key: &PublicKey, signature: &Signature) -> Result<(), VerifyError> {
        key.verify(&self.encode(), signature)
            .map_err(|error| VerifyError::signature(Signer::Key(*key), error))
    }
}

impl BorshSerialize for Statement {
    fn serialize<W: Write>(&self, writer: &mut W) -> borsh::io::Result<()> {
        writer.write_all(&MAGIC)?;
        (self.kind, self.group, self.epoch, self.instance, self.seq).serialize(writer)?;
        self.body.serialize(writer)
    }
}

impl BorshDeserialize for Statement {
    fn deserialize_reader<R: Read>(reader: &mut R) -> borsh::io::Result<Self> {
        if <[u8; 16]>::deserialize_reader(reader)? != MAGIC {
            return Err(invalid("not a statement of version 1"));
        }
        let (kind, group, epoch, instance, seq) = BorshDeserialize::deserialize_reader(reader)?;
        let body = bounded_bytes::<BODY_LIMIT, R>(reader)?;
        Ok(Self { kind, group, epoch, instance, seq, body })
    }
}

impl Bounded for Statement {
    const LIMIT: usize = 16 + 2 + 32 + 8 + 32 + 8 + 4 + BODY_LIMIT;
}

/// What a verifier of a statement knows beforehand. Nothing of it may be taken from the message under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Group it trusts.
    pub group: GroupId,
    /// Epoch whose members may sign.
    pub epoch: Epoch,
    /// VM or service instance in question.
    pub instance: VmId,
    /// Kind in question.
    pub kind: Kind,
}

impl Expected {
    /// Compares all four fields.
    pub fn check(&self, statement: &Statement) -> Result<(), VerifyError> {
        if statement.kind != self.kind {
            return Err(VerifyError::WrongDomain { want: self.kind, got: statement.kind });
        }
        self.check_scope(statement.group, statement.epoch, statement.instance)
    }

    /// Compares all but the kind.
    pub fn check_scope(&self, group: GroupId, epoch: Epoch, instance: VmId) -> Result<(), VerifyError> {
        if group != self.group {
            return Err(VerifyError::WrongCluster { want: self.group, got: group });
        }
        if epoch != self.epoch {
            return Err(VerifyError::WrongEpoch { want: self.epoch, got: epoch });
        }
        if instance != self.instance {
            return Err(VerifyError::WrongVm { want: self.instance, got: instance });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{from_hex, to_hex};
    use alloc::string::{String, ToString};
    use alloc::vec;

    pub(super) fn vector(name: &str) -> Statement {
        let body = to_bytes(&(1000u32, String::from(name), 1u64, 0u8));
        Statement {
            kind: Kind(0x0201),
            group: GroupId::from_bytes([0x11; 32]),
            epoch: Epoch(1),
            instance: VmId::from_bytes([0x22; 32]),
            seq: 7,
            body,
        }
    }

    #[test]
    fn test_statement_vector_of_the_specification() {
        let alice = vector("alice");
        assert_eq!(to_hex(&alice.body), "e803000005000000616c696365010000000000000000");
        assert_eq!(alice.encode().len(), 124);
        assert_eq!(
            alice.digest().to_string(),
            "ea7617bc0c8544e6ec5a5de230ed65bb89b49622f2a90bdf41e6d618c4418dc0"
        );
        assert_eq!(
            vector("bob").digest().to_string(),
            "95030116d136bb70f431f4b28861252f59b7b91ab3807cbf018f2c6d323680c3"
        );
        let later = Statement { epoch: Epoch(2), ..alice };
        assert_eq!(
            later.digest().to_string(),
            "e52df8356e68e5d005d58b0af010e135c5130efdabb8e162da738423ec6f95c7"
        );
    }

    #[test]
    fn test_signature_vector_of_the_specification() {
        let seed =
            from_hex("seed", "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let key = SecretKey::from_seed(seed);
        let signature = vector("alice").sign(&key);
        assert_eq!(
            signature.to_string(),
            "8c54fbe66665c4334e660a05bdacff0d4a6e1054561e82cb85f8b0884925c734fec5d8385af2ba5c178945b8e2e3cdcae6420df2c73ee1bddc280adf0eab5704"
        );
        assert_eq!(vector("alice").verify(&key.public(), &signature), Ok(()));
        let error = vector("bob").verify(&key.public(), &signature).unwrap_err();
        assert_eq!(error.kind(), "BadSignature");
    }

    #[test]
    fn test_each_changed_field_changes_what_is_signed_and_is_refused_by_name() {
        let original = vector("alice");
        let expected = Expected {
            group: original.group,
            epoch: original.epoch,
            instance: original.instance,
            kind: original.kind,
        };
        let key = SecretKey::from_seed([1; 32]);
        let signature = original.sign(&key);
        let changed = [
            (Statement { group: GroupId::from_bytes([0x12; 32]), ..original.clone() }, Some("WrongCluster")),
            (Statement { epoch: Epoch(2), ..original.clone() }, Some("WrongEpoch")),
            (Statement { instance: VmId::from_bytes([0x23; 32]), ..original.clone() }, Some("WrongVm")),
            (Statement { kind: Kind(0x0202), ..original.clone() }, Some("WrongDomain")),
            (Statement { seq: 8, ..original.clone() }, None),
            (Statement { body: vec![0], ..original.clone() }, None),
        ];
        assert_eq!(expected.check(&original), Ok(()));
        for (statement, kind) in changed {
            assert_eq!(expected.check(&statement).err().map(|error| error.kind()), kind);
            let error = statement.verify(&key.public(), &signature).unwrap_err();
            assert_eq!(error.kind(), "BadSignature", "{statement:?}");
        }
    }

    #[test]
    fn test_other_magic_truncation_and_oversize_do_not_decode() {
        let bytes = vector("alice").encode();
        assert_eq!(Statement::decode(&bytes), Ok(vector("alice")));
        for length in 0..bytes.len() {
            assert_eq!(Statement::decode(&bytes[..length]).unwrap_err().kind(), "DecodeError", "{length}");
        }
        let mut other_version = bytes.clone();
        other_version[14] = b'2';
        assert_eq!(Statement::decode(&other_version).unwrap_err().kind(), "DecodeError");
        let full = Statement { body: vec![7; BODY_LIMIT], ..vector("alice") };
        assert_eq!(Statement::decode(&full.encode()), Ok(full));
        let over = Statement { body: vec![7; BODY_LIMIT + 1], ..vector("alice") };
        assert_eq!(Statement::decode(&over.encode()).unwrap_err().kind(), "MessageTooLarge");
    }
}
