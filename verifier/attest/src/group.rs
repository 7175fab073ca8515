//! A group: which nodes may vote, how many of them may be Byzantine, and who else has a role.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest as _, Sha256};

use crate::encoding::{self, Bounded, bounded_list, is_name, to_bytes};
use crate::error::VerifyError;
use crate::id::{ConfigDigest, Epoch, GroupId, VmId};
use crate::key::PublicKey;
use crate::note::{KeyType, VerifierKey};
use crate::quorum::QuorumRule;
use crate::statement::{Expected, Kind};

/// SHA-256, the only hash of version 1. It is fixed here and never taken from a proof.
pub const HASH_SHA256: u8 = 1;

/// Most members: a certificate carries at most 64 signatures.
pub const MEMBERS_LIMIT: usize = 64;

/// Most operators, and most hosts.
pub const ROLES_LIMIT: usize = 1024;

/// A node that votes. Its three keys differ, because each signs texts the others must not be able to produce.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Member {
    /// Name, unique in the group.
    #[borsh(deserialize_with = "encoding::name")]
    pub name: String,
    /// Signs attestations and other votes.
    pub vote_key: PublicKey,
    /// Signs C2SP cosignatures.
    pub cosigner_key: PublicKey,
    /// Authenticates connections.
    pub transport_key: PublicKey,
}

/// A host agent: runs VMs, trusted with nothing.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Host {
    /// Name, unique in the group.
    #[borsh(deserialize_with = "encoding::name")]
    pub name: String,
    /// Signs proposals and relinquishments and authenticates connections.
    pub key: PublicKey,
}

/// The configuration of a group in one epoch. Valid only after [`Self::validate`]; [`Self::decode`] includes that.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct GroupConfig {
    /// Name for people.
    #[borsh(deserialize_with = "encoding::name")]
    pub name: String,
    /// [`HASH_SHA256`].
    pub hash_algorithm: u8,
    /// Membership version.
    pub epoch: Epoch,
    /// Identity of the group; none in epoch 0, whose configuration is the genesis.
    pub genesis: Option<GroupId>,
    /// Most Byzantine members.
    pub f: u64,
    /// Voters; a verifier's index is its place here.
    #[borsh(deserialize_with = "bounded_list::<MEMBERS_LIMIT, _, _>")]
    pub members: Vec<Member>,
    /// Who may order a recovery.
    #[borsh(deserialize_with = "bounded_list::<ROLES_LIMIT, _, _>")]
    pub operators: Vec<PublicKey>,
    /// Who may run VMs.
    #[borsh(deserialize_with = "bounded_list::<ROLES_LIMIT, _, _>")]
    pub hosts: Vec<Host>,
}

impl Bounded for GroupConfig {
    const LIMIT: usize = 256 + MEMBERS_LIMIT * (68 + 96) + ROLES_LIMIT * 32 + ROLES_LIMIT * (68 + 32);
}

impl GroupConfig {
    /// SHA-256 of the genesis configuration: the group's name in every statement of every epoch.
    pub fn id(&self) -> GroupId {
        match self.genesis {
            Some(genesis) => genesis,
            None => GroupId::from_bytes(self.digest().to_bytes()),
        }
    }

    /// SHA-256 of the encoding of this configuration.
    pub fn digest(&self) -> ConfigDigest {
        ConfigDigest::from_bytes(Sha256::digest(to_bytes(self)).into())
    }

    /// Reads and validates a configuration.
    pub fn decode(bytes: &[u8]) -> Result<Self, VerifyError> {
        let config = Self::decoded(bytes)?;
        config.validate()?;
        Ok(config)
    }

    /// The quorum rule of the group's size and fault budget.
    pub fn rule(&self) -> Result<QuorumRule, VerifyError> {
        Ok(QuorumRule::new(self.members.len() as u64, self.f)?)
    }

    /// Checks a quorum that a configuration file states next to this group.
    pub fn check_stated_quorum(&self, stated: u64) -> Result<(), VerifyError> {
        Ok(self.rule()?.check_stated(stated)?)
    }

    /// Checks everything that decoding a single field cannot: hash, genesis, size, names and, above
    /// all, that no key occurs twice.
    /// A key under two indices would vote twice; a key in two roles would sign in one what counts in the other.
    pub fn validate(&self) -> Result<(), VerifyError> {
        self.rule()?;
        if self.hash_algorithm != HASH_SHA256 {
            return Err(bad(format!("hash algorithm {} is unknown", self.hash_algorithm)));
        }
        match (self.epoch, self.genesis) {
            (Epoch::ZERO, Some(_)) => return Err(bad("epoch 0 is the genesis and names none")),
            (Epoch::ZERO, None) | (_, Some(_)) => {}
            (epoch, None) => return Err(bad(format!("epoch {epoch} does not name its genesis"))),
        }
        let sizes = [
            ("members", self.members.len(), MEMBERS_LIMIT),
            ("operators", self.operators.len(), ROLES_LIMIT),
            ("hosts", self.hosts.len(), ROLES_LIMIT),
        ];
        for (what, got, limit) in sizes {
            if got > limit {
                return Err(VerifyError::MessageTooLarge { what, limit, got });
            }
        }
        self.validate_names()?;
        self.validate_keys()
    }

    fn validate_names(&self) -> Result<(), VerifyError> {
        if !is_name(&self.name, 64) {
            return Err(bad(format!("group name {:?} is not 1 to 64 of a-z 0-9 -", self.name)));
        }
        let names = self.members.iter().map(|member| &member.name);
        let mut seen = BTreeSet::new();
        for name in names.chain(self.hosts.iter().map(|host| &host.name)) {
            if !is_name(name, 64) {
                return Err(bad(format!("name {name:?} is not 1 to 64 of a-z 0-9 -")));
            }
            if !seen.insert(name) {
                return Err(bad(format!("name {name} occurs twice")));
            }
        }
        Ok(())
    }

    fn validate_keys(&self) -> Result<(), VerifyError> {
        let mut votes = BTreeSet::new();
        for (index, member) in self.members.iter().enumerate() {
            if !votes.insert(member.vote_key) {
                return Err(VerifyError::DuplicateSigner { verifier: index as u16 });
            }
        }
        let mut seen = votes;
        for (role, key) in self.roles().filter(|(role, _)| *role != "vote") {
            if !seen.insert(key) {
                return Err(VerifyError::KeyRoleMismatch { role, got: key });
            }
        }
        Ok(())
    }

    /// Every key with its role.
    pub fn roles(&self) -> impl Iterator<Item = (&'static str, PublicKey)> + '_ {
        let of_member = |member: &Member| {
            [
                ("vote", member.vote_key),
                ("cosigner", member.cosigner_key),
                ("transport", member.transport_key),
            ]
        };
        self.members
            .iter()
            .flat_map(of_member)
            .chain(self.operators.iter().map(|key| ("operator", *key)))
            .chain(self.hosts.iter().map(|host| ("host", host.key)))
    }

    /// Vote keys in index order.
    pub fn vote_keys(&self) -> Vec<PublicKey> {
        self.members.iter().map(|member| member.vote_key).collect()
    }

    /// The member with this index.
    pub fn member(&self, verifier: u16) -> Result<&Member, VerifyError> {
        let members = self.members.len();
        self.members.get(usize::from(verifier)).ok_or(VerifyError::SignerOutOfRange { verifier, members })
    }

    /// The C2SP key under which that member cosigns: named `group name/member name`.
    pub fn cosigner(&self, verifier: u16) -> Result<VerifierKey, VerifyError> {
        let member = self.member(verifier)?;
        let name = format!("{}/{}", self.name, member.name);
        VerifierKey::new(&name, KeyType::Cosignature, member.cosigner_key)
            .map_err(|error| bad(error.to_string()))
    }

    /// Index of the member that votes with `key`.
    pub fn index_of(&self, key: &PublicKey) -> Result<u16, VerifyError> {
        let found = self.members.iter().position(|member| member.vote_key == *key);
        found.map(|index| index as u16).ok_or(VerifyError::SignerNotMember { key: *key })
    }

    /// Whether `key` may order a recovery.
    pub fn is_operator(&self, key: &PublicKey) -> bool {
        self.operators.contains(key)
    }

    /// Whether `key` may run VMs.
    pub fn is_host(&self, key: &PublicKey) -> bool {
        self.hosts.iter().any(|host| host.key == *key)
    }

    /// What a member of this group expects of a statement about `instance`.
    pub fn expected(&self, instance: VmId, kind: Kind) -> Expected {
        Expected { group: self.id(), epoch: self.epoch, instance, kind }
    }
}

fn bad(reason: impl ToString) -> VerifyError {
    VerifyError::BadConfig { reason: reason.to_string() }
}
