//! The newest slot of a VM: what a verifier answers when asked.
//!
//! A pair of certified slots is no proof of being the newest: every older pair is certified too. So who needs the head
//! asks a quorum of verifiers with a fresh nonce; two quorums share an honest member, which tells the newest.
//!
//! For the public the statements of a VM form an RFC 6962 log of the origin [`log_origin`], whose head is a C2SP
//! checkpoint that the verifiers cosign.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use super::activation::Activation;
use super::slot::{Attestation, Proposal, SlotStatement};
use crate::checkpoint::Checkpoint;
use crate::encoding::{Bounded, to_bytes};
use crate::epoch::GroupChain;
use crate::error::{Signer, VerifyError};
use crate::group::GroupConfig;
use crate::id::{Epoch, Generation, GroupId, Nonce, VmId};
use crate::key::{SecretKey, Signature};
use crate::merkle::Digest;
use crate::note::NoteError;
use crate::statement::{Expected, Kind, Statement};

/// Origin of a VM's statement log: `quorate.vm/` and the VM's id in hexadecimal.
pub fn log_origin(vm: &VmId) -> String {
    format!("quorate.vm/{vm}")
}

/// Leaf data of a VM's statement log: slot `k` is the leaf with index `k`.
pub fn statement_leaf(statement: &SlotStatement) -> Vec<u8> {
    statement.encode(Kind::SLOT_REPLAYED)
}

/// Head of a VM's statement log with `size` slots, to be signed with [`crate::cosignature::cosign`].
pub fn head_checkpoint(vm: &VmId, size: u64, root: Digest) -> Result<Checkpoint, NoteError> {
    Checkpoint::new(&log_origin(vm), size, root)
}

/// One verifier's signed answer about one VM.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct HeadAnswer {
    /// The VM.
    pub vm: VmId,
    /// Of the question.
    pub nonce: Nonce,
    /// Index of who answers.
    pub verifier: u16,
    /// The newest slot this verifier has attested, as its host proposed it.
    pub proposal: Option<Proposal>,
    /// This verifier's attestation of that slot.
    pub attestation: Option<Attestation>,
    /// Newest generation this verifier has voted for.
    pub generation: Generation,
    /// Its vote for that generation, from generation 1 on.
    pub vote: Option<Activation>,
    /// Signature of that vote.
    pub vote_signature: Option<Signature>,
    /// Over all fields before under [`Kind::HEAD`].
    pub signature: Signature,
}

impl Bounded for HeadAnswer {
    const LIMIT: usize =
        32 + 16 + 2 + 1 + Proposal::LIMIT + 1 + Attestation::LIMIT + 8 + 1 + Activation::LIMIT + 1 + 64 + 64;
}

impl HeadAnswer {
    /// Signs as a member of the group; the signature in `self` is replaced.
    pub fn signed(mut self, group: GroupId, epoch: Epoch, verifier: &SecretKey) -> Self {
        self.signature = self.to_statement(group, epoch).sign(verifier);
        self
    }

    /// What is signed: `seq` is the generation, the body is every field before the signature.
    pub fn to_statement(&self, group: GroupId, epoch: Epoch) -> Statement {
        let mut body: Vec<u8> = to_bytes(self);
        body.truncate(body.len() - Signature::LENGTH);
        Statement { kind: Kind::HEAD, group, epoch, instance: self.vm, seq: self.generation.get(), body }
    }

    /// Checks that this answers the question `nonce` about `expected.instance`, the signature, and that everything
    /// inside is signed, about that VM, and by that verifier. For who knows one epoch of the group only.
    pub fn verify(&self, group: &GroupConfig, expected: &Expected, nonce: &Nonce) -> Result<(), VerifyError> {
        self.verify_answer(group, expected, nonce)?;
        if let Some(proposal) = &self.proposal {
            proposal.statement.check(expected)?;
        }
        if let Some(vote) = &self.vote {
            expected.check_scope(vote.group, vote.epoch, vote.vm)?;
        }
        self.verify_slot(group, group)?;
        self.verify_vote(group)
    }

    /// Like [`Self::verify`] for an answer of the current epoch, whose slot and vote may be older.
    pub fn verify_fresh(&self, chain: &GroupChain, vm: VmId, nonce: &Nonce) -> Result<(), VerifyError> {
        self.verify_answer(chain, &chain.expected(vm, Kind::HEAD), nonce)?;
        let mut members = chain.current();
        if let Some(SlotStatement { group, epoch, vm: got, .. }) =
            self.proposal.as_ref().map(|p| &p.statement)
        {
            members = chain.past(*group, *epoch)?;
            members.expected(vm, Kind::PROPOSAL).check_scope(*group, *epoch, *got)?;
        }
        if let Some(vote) = &self.vote {
            let voters = chain.past(vote.group, vote.epoch)?;
            voters.expected(vm, Kind::ACTIVATE).check_scope(vote.group, vote.epoch, vote.vm)?;
        }
        self.verify_slot(chain, members)?;
        self.verify_vote(chain)
    }

    fn verify_answer(
        &self,
        group: &GroupConfig,
        expected: &Expected,
        nonce: &Nonce,
    ) -> Result<(), VerifyError> {
        expected.check(&self.to_statement(expected.group, expected.epoch))?;
        if expected.epoch != group.epoch {
            return Err(VerifyError::WrongEpoch { want: expected.epoch, got: group.epoch });
        }
        if self.nonce != *nonce {
            return Err(VerifyError::NonceReused);
        }
        let key = group.member(self.verifier)?.vote_key;
        key.verify(&self.to_statement(expected.group, expected.epoch).encode(), &self.signature)
            .map_err(|error| VerifyError::signature(Signer::Verifier(self.verifier), error))
    }

    /// `members` are those of the slot's epoch. A member keeps its name from epoch to epoch, whatever becomes of its keys.
    fn verify_slot(&self, group: &GroupConfig, members: &GroupConfig) -> Result<(), VerifyError> {
        match (&self.proposal, &self.attestation) {
            (None, None) => Ok(()),
            (Some(proposal), Some(attestation)) => {
                proposal.verify()?;
                if members.member(attestation.verifier)?.name != group.member(self.verifier)?.name {
                    return Err(VerifyError::Inconsistent { reason: "attestation of another verifier" });
                }
                attestation.verify(members, &proposal.statement)
            }
            _ => Err(VerifyError::Inconsistent { reason: "a proposal and its attestation belong together" }),
        }
    }

    /// The vote is signed with the key of who answers, also where it was given in an earlier epoch.
    fn verify_vote(&self, group: &GroupConfig) -> Result<(), VerifyError> {
        match (&self.vote, &self.vote_signature) {
            (None, None) if self.generation == Generation::ZERO => Ok(()),
            (None, None) => Err(VerifyError::Inconsistent { reason: "a later generation needs its vote" }),
            (Some(vote), Some(signature)) => {
                if vote.generation != self.generation {
                    return Err(VerifyError::Inconsistent { reason: "vote for another generation" });
                }
                vote.verify_vote(group, self.verifier, signature)
            }
            _ => Err(VerifyError::Inconsistent { reason: "a vote and its signature belong together" }),
        }
    }
}
