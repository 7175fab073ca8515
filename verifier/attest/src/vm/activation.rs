//! Who runs a VM: giving it up, taking it over, and refusing it.
//!
//! A generation is the fencing number of the active instance. It rises only by an [`ActivationCertificate`], and that
//! needs a cause: the old host's [`Relinquish`], or, when the old host is gone, an operator's [`Recovery`].

use alloc::string::String;
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::certificate::{SIGNATURES_LIMIT, Votes, verify_signatures};
use crate::encoding::{Bounded, bounded_list, bounded_text, to_bytes};
use crate::error::VerifyError;
use crate::group::GroupConfig;
use crate::id::{Epoch, Generation, GroupId, Nonce, Slot, StatementDigest, VmId};
use crate::key::{PublicKey, SecretKey, Signature};
use crate::statement::{Expected, Kind, Statement};

/// Most bytes of a refusal's reason.
pub const REASON_LIMIT: usize = 256;

/// The active host's word that it stops after a slot and that only `successor` may go on.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Relinquish {
    /// The VM.
    pub vm: VmId,
    /// Group that will activate the successor.
    pub group: GroupId,
    /// Epoch of that group.
    pub epoch: Epoch,
    /// Generation that ends.
    pub generation: Generation,
    /// Its last slot.
    pub slot: Slot,
    /// Digest of that slot's statement.
    pub statement: StatementDigest,
    /// Host of the next generation.
    pub successor: PublicKey,
    /// Of the host of `generation` under [`Kind::RELINQUISH`].
    pub signature: Signature,
}

impl Bounded for Relinquish {
    const LIMIT: usize = 32 + 32 + 8 + 8 + 8 + 32 + 32 + 64;
}

impl Relinquish {
    /// Signs; the signature in `self` is replaced.
    pub fn signed(mut self, host: &SecretKey) -> Self {
        self.signature = self.to_statement().sign(host);
        self
    }

    /// What is signed: `seq` is the slot.
    pub fn to_statement(&self) -> Statement {
        Statement {
            kind: Kind::RELINQUISH,
            group: self.group,
            epoch: self.epoch,
            instance: self.vm,
            seq: self.slot.get(),
            body: to_bytes(&(self.generation, self.statement, self.successor)),
        }
    }

    /// Checks scope and the signature of `host`, who the caller knows to run `generation`.
    pub fn verify(&self, expected: &Expected, host: &PublicKey) -> Result<(), VerifyError> {
        expected.check_scope(self.group, self.epoch, self.vm)?;
        self.to_statement().verify(host, &self.signature)
    }
}

/// An operator's order to go on at another host without the old one's word.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Recovery {
    /// The VM.
    pub vm: VmId,
    /// Group that will activate the new host.
    pub group: GroupId,
    /// Epoch of that group.
    pub epoch: Epoch,
    /// Generation to create.
    pub generation: Generation,
    /// Slot to go on from.
    pub slot: Slot,
    /// Digest of that slot's statement.
    pub statement: StatementDigest,
    /// Host of the new generation.
    pub host: PublicKey,
    /// Who orders it.
    pub operator: PublicKey,
    /// Of `operator` under [`Kind::RECOVERY`].
    pub signature: Signature,
}

impl Bounded for Recovery {
    const LIMIT: usize = 32 + 32 + 8 + 8 + 8 + 32 + 32 + 32 + 64;
}

impl Recovery {
    /// Signs; the signature in `self` is replaced.
    pub fn signed(mut self, operator: &SecretKey) -> Self {
        self.signature = self.to_statement().sign(operator);
        self
    }

    /// What is signed: `seq` is the generation to create.
    pub fn to_statement(&self) -> Statement {
        Statement {
            kind: Kind::RECOVERY,
            group: self.group,
            epoch: self.epoch,
            instance: self.vm,
            seq: self.generation.get(),
            body: to_bytes(&(self.slot, self.statement, self.host, self.operator)),
        }
    }

    /// Checks scope, that `operator` is one of the group, and its signature.
    pub fn verify(&self, group: &GroupConfig, expected: &Expected) -> Result<(), VerifyError> {
        expected.check_scope(self.group, self.epoch, self.vm)?;
        if !group.is_operator(&self.operator) {
            return Err(VerifyError::KeyRoleMismatch { role: "operator", got: self.operator });
        }
        self.to_statement().verify(&self.operator, &self.signature)
    }
}

/// Why a generation may begin.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Cause {
    /// The old host gave the VM up.
    Relinquish(Relinquish),
    /// An operator ordered it.
    Recovery(Recovery),
}

impl Bounded for Cause {
    const LIMIT: usize = 1 + Recovery::LIMIT;
}

impl Cause {
    /// Digest of the statement that was signed.
    pub fn digest(&self) -> StatementDigest {
        match self {
            Self::Relinquish(relinquish) => relinquish.to_statement().digest(),
            Self::Recovery(recovery) => recovery.to_statement().digest(),
        }
    }

    /// The VM.
    pub fn vm(&self) -> VmId {
        match self {
            Self::Relinquish(relinquish) => relinquish.vm,
            Self::Recovery(recovery) => recovery.vm,
        }
    }

    /// Generation that may begin; none after the last number.
    pub fn generation(&self) -> Option<Generation> {
        match self {
            Self::Relinquish(relinquish) => relinquish.generation.next(),
            Self::Recovery(recovery) => Some(recovery.generation),
        }
    }

    /// Slot to go on from and the digest of its statement.
    pub fn slot(&self) -> (Slot, StatementDigest) {
        match self {
            Self::Relinquish(relinquish) => (relinquish.slot, relinquish.statement),
            Self::Recovery(recovery) => (recovery.slot, recovery.statement),
        }
    }

    /// Host of the new generation.
    pub fn host(&self) -> PublicKey {
        match self {
            Self::Relinquish(relinquish) => relinquish.successor,
            Self::Recovery(recovery) => recovery.host,
        }
    }

    /// Checks scope and signature. `previous_host` runs the generation before; only a relinquishment needs it.
    pub fn verify(
        &self,
        group: &GroupConfig,
        expected: &Expected,
        previous_host: &PublicKey,
    ) -> Result<(), VerifyError> {
        match self {
            Self::Relinquish(relinquish) => relinquish.verify(expected, previous_host),
            Self::Recovery(recovery) => recovery.verify(group, expected),
        }
    }
}

/// A new generation, as verifiers vote for it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Activation {
    /// Group that votes.
    pub group: GroupId,
    /// Epoch of that group.
    pub epoch: Epoch,
    /// The VM.
    pub vm: VmId,
    /// Generation that begins.
    pub generation: Generation,
    /// Slot it goes on from.
    pub slot: Slot,
    /// Digest of that slot's statement.
    pub statement: StatementDigest,
    /// Host that runs it.
    pub host: PublicKey,
    /// Chosen by that host: a second copy would need a second certificate.
    pub instance: Nonce,
    /// Digest of the cause's statement.
    pub cause: StatementDigest,
}

impl Bounded for Activation {
    const LIMIT: usize = 32 + 8 + 32 + 8 + 8 + 32 + 32 + 16 + 32;
}

impl Activation {
    /// The activation that `cause` permits; none when generations are exhausted.
    pub fn of(cause: &Cause, group: GroupId, epoch: Epoch, instance: Nonce) -> Option<Self> {
        let (slot, statement) = cause.slot();
        let (vm, host, generation) = (cause.vm(), cause.host(), cause.generation()?);
        Some(Self { group, epoch, vm, generation, slot, statement, host, instance, cause: cause.digest() })
    }

    /// What is signed: `seq` is the generation.
    pub fn to_statement(&self) -> Statement {
        Statement {
            kind: Kind::ACTIVATE,
            group: self.group,
            epoch: self.epoch,
            instance: self.vm,
            seq: self.generation.get(),
            body: to_bytes(&(self.slot, self.statement, self.host, self.instance, self.cause)),
        }
    }

    /// Digest of what is signed.
    pub fn digest(&self) -> StatementDigest {
        self.to_statement().digest()
    }

    /// A verifier's vote.
    pub fn sign(&self, verifier: &SecretKey) -> Signature {
        self.to_statement().sign(verifier)
    }

    /// Checks the vote of a member.
    pub fn verify_vote(
        &self,
        group: &GroupConfig,
        verifier: u16,
        signature: &Signature,
    ) -> Result<(), VerifyError> {
        let key = group.member(verifier)?.vote_key;
        let signer = crate::error::Signer::Verifier(verifier);
        key.verify(&self.to_statement().encode(), signature)
            .map_err(|error| VerifyError::signature(signer, error))
    }

    /// Checks that this is what `cause` permits, field by field.
    pub fn check_cause(&self, cause: &Cause) -> Result<(), VerifyError> {
        let generation = cause.generation().unwrap_or(Generation::ZERO);
        if self.generation != generation || generation == Generation::ZERO {
            return Err(VerifyError::FencedGeneration { have: generation, got: self.generation });
        }
        let (slot, statement) = cause.slot();
        if (self.slot, self.statement) != (slot, statement) {
            return Err(VerifyError::WrongSlot {
                want: slot,
                want_digest: statement,
                got: self.slot,
                got_digest: self.statement,
            });
        }
        if self.host != cause.host() {
            return Err(VerifyError::KeyRoleMismatch { role: "successor", got: self.host });
        }
        if self.cause != cause.digest() {
            return Err(VerifyError::Inconsistent { reason: "activation names another cause" });
        }
        Ok(())
    }
}

/// An activation with a quorum of votes: the permission to run the VM's next generation.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ActivationCertificate {
    /// What is permitted.
    pub activation: Activation,
    /// Why.
    pub cause: Cause,
    /// Index and vote, strictly ascending by index.
    #[borsh(deserialize_with = "bounded_list::<SIGNATURES_LIMIT, _, _>")]
    pub attestations: Vec<(u16, Signature)>,
}

impl Bounded for ActivationCertificate {
    const LIMIT: usize = Activation::LIMIT + Cause::LIMIT + 4 + SIGNATURES_LIMIT * 66;
}

impl ActivationCertificate {
    /// Checks scope, cause, every vote and the count. `expected.kind` must be [`Kind::ACTIVATE`].
    ///
    /// `previous_host` is the host of the generation before. Who does not know it passes `None` and relies on the
    /// quorum, whose honest members have checked the relinquishment before they voted.
    pub fn verify(
        &self,
        group: &GroupConfig,
        expected: &Expected,
        previous_host: Option<&PublicKey>,
    ) -> Result<(), VerifyError> {
        let activation = self.activation.to_statement();
        expected.check(&activation)?;
        if expected.epoch != group.epoch {
            return Err(VerifyError::WrongEpoch { want: expected.epoch, got: group.epoch });
        }
        self.activation.check_cause(&self.cause)?;
        match (&self.cause, previous_host) {
            (Cause::Relinquish(relinquish), Some(host)) => relinquish.verify(expected, host)?,
            (Cause::Relinquish(relinquish), None) => {
                expected.check_scope(relinquish.group, relinquish.epoch, relinquish.vm)?;
            }
            (Cause::Recovery(recovery), _) => recovery.verify(group, expected)?,
        }
        verify_signatures(group, &activation.encode(), &self.attestations)
    }
}

/// Collects votes for one activation until they are a certificate.
#[derive(Debug, Clone)]
pub struct ActivationTally {
    activation: Activation,
    cause: Cause,
    message: Vec<u8>,
    votes: Votes,
}

impl ActivationTally {
    /// Starts counting for an activation that its cause permits.
    pub fn new(group: &GroupConfig, activation: Activation, cause: Cause) -> Result<Self, VerifyError> {
        let statement = activation.to_statement();
        group.expect(cause.vm(), Kind::ACTIVATE).check(&statement)?;
        activation.check_cause(&cause)?;
        Ok(Self { activation, cause, message: statement.encode(), votes: Votes::new(group)? })
    }

    /// Verifies and adds one vote; answers whether a quorum is reached. A refused one changes nothing.
    pub fn add(&mut self, verifier: u16, signature: Signature) -> Result<bool, VerifyError> {
        self.votes.add(verifier, &self.message, signature)?;
        Ok(self.votes.check_quorum().is_ok())
    }

    /// Votes so far and votes needed.
    pub fn progress(&self) -> (u64, u64) {
        self.votes.progress()
    }

    /// The certificate; [`VerifyError::QuorumNotReached`] before there are enough votes.
    pub fn certificate(&self) -> Result<ActivationCertificate, VerifyError> {
        self.votes.check_quorum()?;
        Ok(ActivationCertificate {
            activation: self.activation.clone(),
            cause: self.cause.clone(),
            attestations: self.votes.iter().collect(),
        })
    }
}

/// A destination's signed word that it will not run a VM, with a reason that others can check.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Refusal {
    /// Group concerned.
    pub group: GroupId,
    /// Epoch of that group.
    pub epoch: Epoch,
    /// The VM.
    pub vm: VmId,
    /// Generation it was to run.
    pub generation: Generation,
    /// Slot it was to go on from.
    pub slot: Slot,
    /// Who refuses.
    pub host: PublicKey,
    /// Error kind and detail, at most [`REASON_LIMIT`] bytes.
    #[borsh(deserialize_with = "bounded_text::<REASON_LIMIT, _>")]
    pub reason: String,
    /// Of `host` under [`Kind::REFUSAL`].
    pub signature: Signature,
}

impl Bounded for Refusal {
    const LIMIT: usize = 32 + 8 + 32 + 8 + 8 + 32 + 4 + REASON_LIMIT + 64;
}

impl Refusal {
    /// Signs; the signature in `self` is replaced and a longer reason is cut.
    pub fn signed(mut self, host: &SecretKey) -> Self {
        let mut end = self.reason.len().min(REASON_LIMIT);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        self.reason.truncate(end);
        self.signature = self.to_statement().sign(host);
        self
    }

    /// What is signed: `seq` is the generation.
    pub fn to_statement(&self) -> Statement {
        Statement {
            kind: Kind::REFUSAL,
            group: self.group,
            epoch: self.epoch,
            instance: self.vm,
            seq: self.generation.get(),
            body: to_bytes(&(self.slot, self.host, &self.reason)),
        }
    }

    /// Checks scope and signature.
    pub fn verify(&self, expected: &Expected) -> Result<(), VerifyError> {
        expected.check_scope(self.group, self.epoch, self.vm)?;
        self.to_statement().verify(&self.host, &self.signature)
    }
}
