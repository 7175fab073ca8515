//! What the ordered log decided about a VM, signed by the orchestrators that applied it.
//!
//! Verifiers and hosts do not follow the log. They know the orchestrators' group and check a decision offline: with a
//! quorum of signatures at least one honest orchestrator has seen it in the log, and honest ones see one log only. Two
//! decisions about one generation of one VM can therefore not both have a quorum.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::certificate::{Certifiable, SIGNATURES_LIMIT, TallyOf, verify_signatures};
use crate::encoding::{Bounded, bounded_list, to_bytes};
use crate::error::{Signer, VerifyError};
use crate::group::GroupConfig;
use crate::id::{Epoch, Generation, GroupId, OperationId, Slot, StatementDigest, VmId};
use crate::key::{PublicKey, SecretKey, Signature};
use crate::statement::{Expected, Kind, Statement};

/// What may happen next.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Action {
    /// The VM may be prepared to move; the source runs on until it relinquishes.
    Migrate {
        /// Host that runs the VM.
        source: PublicKey,
        /// Host that may receive its state.
        destination: PublicKey,
    },
    /// `host` alone may create the generation, from this slot.
    Grant {
        /// Slot to go on from.
        slot: Slot,
        /// Digest of that slot's statement.
        statement: StatementDigest,
        /// Host of the new generation.
        host: PublicKey,
    },
}

impl Bounded for Action {
    const LIMIT: usize = 1 + 8 + 32 + 32;
}

/// An entry of the log that decided about a generation of a VM.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Decision {
    /// Orchestrator group.
    pub group: GroupId,
    /// Epoch of that group.
    pub epoch: Epoch,
    /// The VM.
    pub vm: VmId,
    /// Generation that the action is about: the one to be created.
    pub generation: Generation,
    /// Operation that led to it.
    pub operation: OperationId,
    /// Place of that operation in the log.
    pub index: u64,
    /// What was decided.
    pub action: Action,
}

impl Bounded for Decision {
    const LIMIT: usize = 32 + 8 + 32 + 8 + 32 + 8 + Action::LIMIT;
}

impl Decision {
    /// What is signed: `seq` is the generation.
    pub fn to_statement(&self) -> Statement {
        Statement {
            kind: Kind::DECISION,
            group: self.group,
            epoch: self.epoch,
            instance: self.vm,
            seq: self.generation.get(),
            body: to_bytes(&(self.operation, self.index, &self.action)),
        }
    }

    /// Digest of what is signed.
    pub fn digest(&self) -> StatementDigest {
        self.to_statement().digest()
    }

    /// An orchestrator's signature.
    pub fn sign(&self, orchestrator: &SecretKey) -> Signature {
        self.to_statement().sign(orchestrator)
    }

    /// Checks the signature of a member of the orchestrators' group.
    pub fn verify_vote(
        &self,
        group: &GroupConfig,
        orchestrator: u16,
        signature: &Signature,
    ) -> Result<(), VerifyError> {
        let key = group.member(orchestrator)?.vote_key;
        key.verify(&self.to_statement().encode(), signature)
            .map_err(|error| VerifyError::signature(Signer::Verifier(orchestrator), error))
    }

    /// Checks that this grants exactly the right to create `generation` on `host` from that slot.
    pub fn check_grant(
        &self,
        generation: Generation,
        slot: Slot,
        statement: StatementDigest,
        host: &PublicKey,
    ) -> Result<(), VerifyError> {
        self.check_generation(generation)?;
        let Action::Grant { slot: want, statement: want_digest, host: granted } = &self.action else {
            return Err(VerifyError::Inconsistent { reason: "decision grants no generation" });
        };
        if (slot, statement) != (*want, *want_digest) {
            let (want, want_digest) = (*want, *want_digest);
            return Err(VerifyError::WrongSlot { want, want_digest, got: slot, got_digest: statement });
        }
        if host != granted {
            return Err(VerifyError::KeyRoleMismatch { role: "granted host", got: *host });
        }
        Ok(())
    }

    /// Checks that this lets the VM move from `source` to `destination` as `generation`.
    pub fn check_migrate(
        &self,
        generation: Generation,
        source: &PublicKey,
        destination: &PublicKey,
    ) -> Result<(), VerifyError> {
        self.check_generation(generation)?;
        let Action::Migrate { source: from, destination: to } = &self.action else {
            return Err(VerifyError::Inconsistent { reason: "decision orders no migration" });
        };
        if source != from {
            return Err(VerifyError::KeyRoleMismatch { role: "source", got: *source });
        }
        if destination != to {
            return Err(VerifyError::KeyRoleMismatch { role: "destination", got: *destination });
        }
        Ok(())
    }

    /// Generation 0 runs from the start, so that no decision creates it.
    fn check_generation(&self, generation: Generation) -> Result<(), VerifyError> {
        if self.generation != generation || generation == Generation::ZERO {
            return Err(VerifyError::FencedGeneration { have: self.generation, got: generation });
        }
        Ok(())
    }
}

/// A decision with the signatures of a quorum of orchestrators.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct DecisionCertificate {
    /// What was decided.
    pub decision: Decision,
    /// Index in the orchestrators' group and signature, strictly ascending by index.
    #[borsh(deserialize_with = "bounded_list::<SIGNATURES_LIMIT, _, _>")]
    pub signatures: Vec<(u16, Signature)>,
}

impl Bounded for DecisionCertificate {
    const LIMIT: usize = Decision::LIMIT + 4 + SIGNATURES_LIMIT * 66;
}

impl DecisionCertificate {
    /// Checks scope, every signature and the count. `orchestrators` is the configuration of the expected group in the
    /// expected epoch; `expected.kind` must be [`Kind::DECISION`].
    pub fn verify(&self, orchestrators: &GroupConfig, expected: &Expected) -> Result<(), VerifyError> {
        let statement = self.decision.to_statement();
        expected.check(&statement)?;
        if expected.epoch != orchestrators.epoch {
            return Err(VerifyError::WrongEpoch { want: expected.epoch, got: orchestrators.epoch });
        }
        verify_signatures(orchestrators, &statement.encode(), &self.signatures)
    }
}

/// Collects signatures on one decision.
pub type DecisionTally = TallyOf<Decision>;

impl Certifiable for Decision {
    type Certificate = DecisionCertificate;

    fn to_statement(&self) -> Statement {
        self.to_statement()
    }

    fn check_scope(&self, orchestrators: &GroupConfig) -> Result<(), VerifyError> {
        orchestrators.expected(self.vm, Kind::DECISION).check(&self.to_statement())
    }

    fn certified(self, signatures: Vec<(u16, Signature)>) -> DecisionCertificate {
        DecisionCertificate { decision: self, signatures }
    }
}
