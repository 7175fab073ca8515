//! Who runs a VM: giving it up, taking it over, and refusing it.
//!
//! A generation is the fencing number of the active instance. It rises only by an [`ActivationCertificate`], and that
//! needs a grant of the ordered log: a [`DecisionCertificate`] that names generation, slot and host. The log grants after
//! the old host's [`Relinquish`], or on an operator's order when the old host is gone.

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
use crate::vm::decision::{Action, Decision, DecisionCertificate};

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
    /// Digest of the statement of the [`Decision`] that granted it.
    pub cause: StatementDigest,
}

impl Bounded for Activation {
    const LIMIT: usize = 32 + 8 + 32 + 8 + 8 + 32 + 32 + 16 + 32;
}

impl Activation {
    /// The activation that `grant` permits to a verifiers' group; none if the decision grants no generation.
    pub fn of(grant: &Decision, group: GroupId, epoch: Epoch, instance: Nonce) -> Option<Self> {
        let Action::Grant { slot, statement, host } = grant.action else { return None };
        let (vm, generation, cause) = (grant.vm, grant.generation, grant.digest());
        Some(Self { group, epoch, vm, generation, slot, statement, host, instance, cause })
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

    /// Whether `other` begins the same generation with the same instance from the same slot. A group that changes its members
    /// between the first vote and the last says so again in the new epoch; that makes no second instance of it.
    pub fn is_same_instance(&self, other: &Self) -> bool {
        let named = |it: &Self| (it.group, it.vm, it.generation, it.slot, it.statement, it.host, it.instance);
        named(self) == named(other)
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

    /// Checks that this is what `grant` permits, field by field.
    pub fn check_grant(&self, grant: &Decision) -> Result<(), VerifyError> {
        if self.vm != grant.vm {
            return Err(VerifyError::WrongVm { want: grant.vm, got: self.vm });
        }
        grant.check_grant(self.generation, self.slot, self.statement, &self.host)?;
        if self.cause != grant.digest() {
            return Err(VerifyError::Inconsistent { reason: "activation names another decision" });
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
    pub grant: DecisionCertificate,
    /// Index and vote, strictly ascending by index.
    #[borsh(deserialize_with = "bounded_list::<SIGNATURES_LIMIT, _, _>")]
    pub attestations: Vec<(u16, Signature)>,
}

impl Bounded for ActivationCertificate {
    const LIMIT: usize = Activation::LIMIT + DecisionCertificate::LIMIT + 4 + SIGNATURES_LIMIT * 66;
}

impl ActivationCertificate {
    /// Checks scope, grant, every vote and the count. `expected.kind` must be [`Kind::ACTIVATE`].
    ///
    /// `orchestrators` is the configuration of their group in the epoch of the grant. Who does not hold it passes `None`
    /// and relies on the quorum, whose honest members have checked the grant before they voted.
    pub fn verify(
        &self,
        group: &GroupConfig,
        expected: &Expected,
        orchestrators: Option<&GroupConfig>,
    ) -> Result<(), VerifyError> {
        let activation = self.activation.to_statement();
        expected.check(&activation)?;
        if expected.epoch != group.epoch {
            return Err(VerifyError::WrongEpoch { want: expected.epoch, got: group.epoch });
        }
        self.activation.check_grant(&self.grant.decision)?;
        if let Some(orchestrators) = orchestrators {
            self.grant.verify(orchestrators, &orchestrators.expected(expected.instance, Kind::DECISION))?;
        }
        verify_signatures(group, &activation.encode(), &self.attestations)
    }
}

/// Collects votes for one activation until they are a certificate.
#[derive(Debug, Clone)]
pub struct ActivationTally {
    activation: Activation,
    grant: DecisionCertificate,
    message: Vec<u8>,
    votes: Votes,
}

impl ActivationTally {
    /// Starts counting for an activation that its grant permits. The caller has checked the grant's signatures.
    pub fn new(
        group: &GroupConfig,
        activation: Activation,
        grant: DecisionCertificate,
    ) -> Result<Self, VerifyError> {
        let statement = activation.to_statement();
        group.expected(grant.decision.vm, Kind::ACTIVATE).check(&statement)?;
        activation.check_grant(&grant.decision)?;
        Ok(Self { activation, grant, message: statement.encode(), votes: Votes::new(group)? })
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
            grant: self.grant.clone(),
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
