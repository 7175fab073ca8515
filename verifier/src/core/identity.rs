//! Who this verifier is, and what it holds of its group.

use quorate_attest::epoch::GroupChain;
use quorate_attest::id::{GroupId, PlatformClass, VmId};
use quorate_attest::key::{PublicKey, SecretKey, Signature};
use quorate_attest::statement::{Expected, Kind};
use quorate_attest::vm::{Activation, Attestation, HeadAnswer, Mode, SlotStatement};

/// The signing keys of this verifier. Every signature of a node is made by one of these methods.
#[derive(Debug)]
pub struct Signer {
    index: u16,
    cosigner_name: String,
    vote: SecretKey,
    cosigner: SecretKey,
}

impl Signer {
    /// Member `index` of the group; `cosigner_name` is the C2SP name of its cosigner key.
    #[must_use]
    pub fn new(index: u16, cosigner_name: String, vote: SecretKey, cosigner: SecretKey) -> Self {
        Self { index, cosigner_name, vote, cosigner }
    }

    /// Index in the group.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// C2SP name of the cosigner key.
    #[must_use]
    pub fn cosigner_name(&self) -> &str {
        &self.cosigner_name
    }

    /// Public key of the votes.
    #[must_use]
    pub fn vote_key(&self) -> PublicKey {
        self.vote.public()
    }

    /// Attests a slot. Whether it may be attested is the caller's to know.
    #[must_use]
    pub fn attest(&self, statement: &SlotStatement, mode: Mode) -> Attestation {
        Attestation::sign(statement, self.index, mode, &self.vote)
    }

    /// Votes for a generation.
    #[must_use]
    pub fn vote(&self, activation: &Activation) -> Signature {
        activation.sign(&self.vote)
    }

    /// Signs an answer about the head.
    #[must_use]
    pub fn head(&self, answer: HeadAnswer, context: &Context) -> HeadAnswer {
        answer.signed(context.group_id, context.group.epoch, &self.vote)
    }

    pub(super) fn cosigner(&self) -> &SecretKey {
        &self.cosigner
    }
}

/// What does not change while a node runs.
#[derive(Debug)]
pub struct Context {
    /// The group in all its epochs; this verifier signs in the current one.
    pub group: GroupChain,
    /// Its id.
    pub group_id: GroupId,
    /// The orchestrators in all their epochs, who grant generations.
    pub orchestrators: GroupChain,
    /// This verifier's keys.
    pub signer: Signer,
    /// How slots are attested.
    pub mode: Mode,
    /// Pages asked for about one slot in SAMPLED mode.
    pub sample_pages: usize,
    /// Class of this machine.
    pub platform: PlatformClass,
    /// Largest memory of a VM, bytes.
    pub memory_bytes_max: u64,
}

impl Context {
    /// What a new statement of this group about `vm` must say.
    #[must_use]
    pub fn expected(&self, vm: VmId, kind: Kind) -> Expected {
        Expected { group: self.group_id, epoch: self.group.epoch, instance: vm, kind }
    }
}
