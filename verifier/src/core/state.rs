//! What a verifier knows durably about one VM, and the records that change it.
//!
//! The state changes by [`VmState::apply`] only, live and after a restart alike, so what is read back from the sign-log is
//! what was in memory when its last record was written.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::id::{Generation, Slot, StatementDigest};
use quorate_attest::key::PublicKey;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::vm::{
    Activation, ActivationCertificate, Attestation, Proposal, SlotCertificate, SlotStatement, VmSpec,
};

use super::chain::Chain;

/// Certificates kept to notice a second one for the same slot.
pub const CERTIFICATES_KEPT: usize = 8;
/// Most votes for generations that have not begun.
pub const VOTES_MAX: usize = 64;

/// The newest slot that this verifier signed, with everything it answered.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Signed {
    /// What the host proposed.
    pub proposal: Proposal,
    /// What was answered.
    pub attestation: Attestation,
    /// Cosignature that went with it; empty if there was none.
    pub cosignature: String,
}

impl Signed {
    /// The statement.
    #[must_use]
    pub fn statement(&self) -> &SlotStatement {
        &self.proposal.statement
    }

    /// Place of the signature. A verifier signs in strictly ascending order of places, so it signs each at most once.
    #[must_use]
    pub fn place(&self) -> (Generation, Slot) {
        (self.statement().body.generation, self.statement().slot)
    }
}

/// The slot that a generation starts from.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Start {
    /// The slot.
    pub slot: Slot,
    /// Its statement.
    pub statement: StatementDigest,
}

/// No slot above `slot` is signed in `generation` or any generation before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Fence {
    /// Last generation it holds for.
    pub generation: Generation,
    /// Last slot that may be signed.
    pub slot: Slot,
}

/// One change of a VM's state.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Record {
    /// The VM exists.
    Registered {
        /// What it is.
        spec: VmSpec,
    },
    /// A slot is signed.
    Signed {
        /// Question and answer.
        signed: Box<Signed>,
        /// Inputs up to the slot.
        input_log: Frontier<Sha256Tree>,
    },
    /// The chain was continued, or exchanged, by one that a quorum certified.
    Adopted {
        /// The chain.
        chain: Chain,
        /// Why.
        certificate: Box<SlotCertificate>,
        /// The chain leaves out a statement that this verifier signed.
        abandons: bool,
    },
    /// The host of a generation gave it up.
    Fenced {
        /// What may still be signed.
        fence: Fence,
    },
    /// A vote for a generation.
    Voted {
        /// What was voted for.
        activation: Activation,
        /// Certificate of the slot it starts from.
        certificate: Box<SlotCertificate>,
    },
    /// A generation began.
    Activated {
        /// Why.
        certificate: Box<ActivationCertificate>,
    },
    /// Proof of more than f Byzantine members was seen: nothing is signed any more.
    Stopped {
        /// Stable identifier of the reason.
        kind: String,
    },
    /// The whole state; replaces what came before.
    Snapshot {
        /// The state.
        state: Box<VmState>,
    },
}

/// Durable state of one VM.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VmState {
    /// What the VM is.
    pub spec: VmSpec,
    /// Current generation.
    pub generation: Generation,
    /// Its host.
    pub host: PublicKey,
    /// Slot it started from; none for generation 0.
    pub start: Option<Start>,
    /// Why it began; none for generation 0.
    pub activation: Option<ActivationCertificate>,
    /// Newest signature.
    pub signed: Option<Signed>,
    /// The chain of slots.
    pub chain: Chain,
    /// A cosigned part of the chain was abandoned: the log of statements may not be cosigned any more.
    pub forked: bool,
    /// Votes for generations, oldest first.
    pub votes: Vec<Activation>,
    /// Fences of generations that were given up.
    pub fences: Vec<Fence>,
    /// Newest certificates seen.
    pub certificates: Vec<SlotCertificate>,
    /// Why nothing is signed any more.
    pub stopped: Option<String>,
}

impl VmState {
    /// The state of a VM that has just been registered.
    #[must_use]
    pub fn new(spec: VmSpec) -> Self {
        Self {
            generation: Generation::ZERO,
            host: spec.host,
            spec,
            start: None,
            activation: None,
            signed: None,
            chain: Chain::new(),
            forked: false,
            votes: Vec::new(),
            fences: Vec::new(),
            certificates: Vec::new(),
            stopped: None,
        }
    }

    /// Reads the state of a VM back from its records. `None` when the first does not create it.
    #[must_use]
    pub fn restore<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<Self> {
        let mut state = None;
        records.into_iter().for_each(|record| Self::apply_to(&mut state, record));
        state
    }

    /// Applies a record to a VM that may not exist yet.
    pub fn apply_to(state: &mut Option<Self>, record: &Record) {
        match (state.as_mut(), record) {
            (None, Record::Registered { spec }) => *state = Some(Self::new(spec.clone())),
            (_, Record::Snapshot { state: whole }) => *state = Some((**whole).clone()),
            (Some(known), record) => known.apply(record),
            (None, _) => {}
        }
    }

    /// Applies one record.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Registered { .. } => {}
            Record::Signed { signed, input_log } => {
                self.chain.push(signed.statement().clone(), input_log.clone());
                self.signed = Some((**signed).clone());
            }
            Record::Adopted { chain, certificate, abandons } => {
                self.forked |= abandons;
                self.chain = chain.clone();
                self.keep_certificate(certificate);
            }
            Record::Fenced { fence } => self.fences.push(*fence),
            Record::Voted { activation, certificate } => {
                // A second vote for a generation says the first one again in a later epoch.
                let current = self.generation;
                self.votes
                    .retain(|vote| vote.generation >= current && vote.generation != activation.generation);
                self.votes.push(activation.clone());
                self.keep_certificate(certificate);
            }
            Record::Activated { certificate } => self.begin(certificate),
            Record::Stopped { kind } => self.stopped = Some(kind.clone()),
            Record::Snapshot { state } => *self = (**state).clone(),
        }
    }

    fn begin(&mut self, certificate: &ActivationCertificate) {
        let activation = &certificate.activation;
        self.chain.step_back_to(activation.slot, &activation.statement);
        // The log of statements was cosigned with each signature; what has been left out must not be replaced in it.
        self.forked |=
            self.signed.as_ref().is_some_and(|signed| signed.statement().slot >= self.chain.next());
        self.generation = activation.generation;
        self.host = activation.host;
        self.start = Some(Start { slot: activation.slot, statement: activation.statement });
        self.activation = Some(certificate.clone());
        self.fences.retain(|fence| fence.generation >= activation.generation);
    }

    fn keep_certificate(&mut self, certificate: &SlotCertificate) {
        if self.certificates.iter().any(|kept| kept.statement == certificate.statement) {
            return;
        }
        if self.certificates.len() == CERTIFICATES_KEPT {
            self.certificates.remove(0);
        }
        self.certificates.push(certificate.clone());
    }

    /// The generation that forbids signing `slot` in `generation`, if any: one that a vote or a relinquishment prepared.
    #[must_use]
    pub fn fenced_by(&self, generation: Generation, slot: Slot) -> Option<Generation> {
        let voted = self.votes.iter().filter(|vote| vote.generation > generation && slot > vote.slot);
        let given_up = self.fences.iter().filter(|fence| fence.generation >= generation && slot > fence.slot);
        voted
            .map(|vote| vote.generation)
            .chain(given_up.map(|fence| fence.generation.next().unwrap_or(fence.generation)))
            .max()
    }

    /// The newest vote.
    #[must_use]
    pub fn newest_vote(&self) -> Option<&Activation> {
        self.votes.iter().max_by_key(|vote| vote.generation)
    }
}
