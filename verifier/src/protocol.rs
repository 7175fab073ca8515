//! Messages between hosts and a verifier.
//!
//! A host opens one exchange (a bidirectional stream) for each question. All messages are canonical borsh inside the
//! frames of [`quorate_transport`]; the limit beside each variant is checked before anything is allocated.
//!
//! ```text
//! host                                   verifier
//!  | Register{spec, image}                  |   once a VM
//!  |--------------------------------------->| Done | Refused
//!  | Propose{proposal k, inputs k-1..k}     |
//!  |--------------------------------------->| REPLAYED: executes        SAMPLED: draws pages
//!  |        Challenge{pages}                |
//!  |<---------------------------------------|                           (SAMPLED only)
//!  | Pages{page, proof}*                    |
//!  |--------------------------------------->|
//!  |        Attested | Behind | NeedState | NeedActivation | NeedRegistration | Refused
//!  |<---------------------------------------|
//!  | StateOffer{certificate b, chain, bulk} |   answers NeedState; a REPLAYED verifier pulls the state (bulk connection)
//!  |--------------------------------------->| Done | Refused
//!  | HeadQuery{vm, nonce}                   | Head
//!  | Activate{activation, grant, cert k}    | Voted | Refused
//!  | Activated{activation certificate}      | Done | Refused
//!  | SlotRequest{vm, slot}                  | Slot | Behind | Refused     (operators and hosts)
//!  | StateRequest{grant, slot}              | State, StatePart* | Behind | Refused      (the host that the grant names)
//! ```
//!
//! The last two serve [recovery](crate::core::handout): the host is dead, and another one takes up what verifiers signed.

#[cfg(test)]
mod tests;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Generation, Nonce, Slot, VmId};
use quorate_attest::key::Signature;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::vm::{
    Activation, ActivationCertificate, Attestation, DecisionCertificate, HeadAnswer, Proposal, Relinquish,
    SlotCertificate, SlotStatement, VmSpec,
};
use quorate_transport::wire_enum;

use crate::core::RECENT_STATEMENTS;

/// Largest guest image that travels, bytes.
pub const IMAGE_BYTES_MAX: usize = 16 << 20;
/// Largest sum of the inputs of one slot, bytes. A host ends a slot before it grows past this.
pub const SLOT_INPUT_BYTES_MAX: usize = 8 << 20;
/// Most inputs in one slot.
pub const SLOT_INPUTS_MAX: usize = 8192;
/// Most doorbells in one slot. A host ends a slot before its guest rings more.
pub const SLOT_DOORBELLS_MAX: u64 = 1 << 20;
/// Most statements in one catch-up chain.
pub const CHAIN_STATEMENTS_MAX: usize = 16_384;
/// Most pages a SAMPLED verifier asks for about one slot.
pub const CHALLENGE_PAGES_MAX: usize = 64;
/// Largest part of a state that travels in one message, bytes.
pub const STATE_PART_BYTES_MAX: usize = 1 << 20;
const PROPOSE_BYTES_MAX: usize = SLOT_INPUT_BYTES_MAX + SLOT_INPUTS_MAX * 4 + 4096;
const ACTIVATION_BYTES_MAX: usize = 16_384;

/// Introduces a VM: anyone can check that `spec` hashes to the VM's id and `image` to the digest in `spec`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Register {
    /// What the VM is.
    pub spec: VmSpec,
    /// The guest ELF.
    pub image: Vec<u8>,
}

/// Asks for an attestation of one slot.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Propose {
    /// The slot, signed by the host of its generation.
    pub proposal: Proposal,
    /// The inputs consumed in the transition that ends in this slot, in order.
    pub inputs: Vec<Vec<u8>>,
}

/// One page with its inclusion proof against the proposed page root.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ProvenPage {
    /// Page number.
    pub index: u32,
    /// 4,096 bytes.
    pub bytes: Vec<u8>,
    /// Sibling digests, leaf to root (RFC 9162, 2.1.3).
    pub proof: Vec<[u8; 32]>,
}

/// Answer to a [`Challenge`].
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Pages {
    /// The pages in the order they were asked for.
    pub pages: Vec<ProvenPage>,
}

/// Offers the complete state of a certified slot to a verifier that cannot follow by replay alone.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StateOffer {
    /// The VM.
    pub vm: VmId,
    /// The slot offered; absent when the verifier itself signed exactly this slot last.
    pub certificate: Option<SlotCertificate>,
    /// Statements from the one after the verifier's head up to the offered slot, linked by their digests.
    pub chain: Vec<SlotStatement>,
    /// The input log up to the offered slot.
    pub input_log: Frontier<Sha256Tree>,
    /// Where the state can be pulled: address of the host's bulk listener.
    pub bulk_address: String,
    /// Names the transfer: purpose of the bulk connection that the verifier opens.
    pub token: [u8; 32],
}

/// Asks for the newest slot a verifier signed.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct HeadQuery {
    /// The VM.
    pub vm: VmId,
    /// Fresh random value that the answer repeats.
    pub nonce: Nonce,
}

/// Asks for a vote to raise the generation.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Activate {
    /// What is to be signed.
    pub activation: Activation,
    /// The orchestrators' word that this host may create the generation.
    pub grant: DecisionCertificate,
    /// The source's `Relinquish`, where there is one. It fences the source even if the vote is refused.
    pub relinquish: Option<Relinquish>,
    /// Certificate of the slot that the new generation starts from.
    pub certificate: SlotCertificate,
}

/// Asks for a slot that the verifier signed, so that it can be shown to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SlotRequest {
    /// The VM.
    pub vm: VmId,
    /// The slot.
    pub slot: Slot,
}

/// Asks for the state of the slot that a generation may be created from.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StateRequest {
    /// The orchestrators' word that the asking host may create the generation.
    pub grant: DecisionCertificate,
    /// The granted slot.
    pub slot: Slot,
}

wire_enum! {
    /// Everything a host may send to a verifier.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum ToVerifier {
        /// Introduces a VM.
        1 => Register(Register) <= IMAGE_BYTES_MAX + 4096,
        /// Asks for an attestation.
        2 => Propose(Propose) <= PROPOSE_BYTES_MAX,
        /// Answers a challenge.
        3 => Pages(Pages) <= CHALLENGE_PAGES_MAX * 5120 + 16,
        /// Offers a certified state.
        4 => StateOffer(StateOffer) <= CHAIN_STATEMENTS_MAX * 1024,
        /// Asks for the newest slot.
        5 => HeadQuery(HeadQuery) <= 64,
        /// Asks for a vote.
        6 => Activate(Activate) <= 16384,
        /// Announces a generation.
        7 => Activated(ActivationCertificate) <= ACTIVATION_BYTES_MAX,
        /// Asks for a signed slot with its inputs.
        8 => SlotRequest(SlotRequest) <= 64,
        /// Asks for a state.
        9 => StateRequest(StateRequest) <= 16384,
    }
}

/// A verifier's attestation of one slot.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Attested {
    /// The slot.
    pub slot: Slot,
    /// Index, mode and signature.
    pub attestation: Attestation,
    /// C2SP cosignature line over the head of the VM's statement log, with the verifier's own clock inside.
    pub cosignature: String,
}

/// Pages that a SAMPLED verifier wants to see.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Challenge {
    /// Page numbers, strictly ascending.
    pub pages: Vec<u32>,
}

/// The verifier has not seen the slots before the proposed one.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Behind {
    /// The slot it can take next.
    pub next: Slot,
}

/// A vote for an activation.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Voted {
    /// Generation voted for.
    pub generation: Generation,
    /// Index of the verifier in the group.
    pub verifier: u16,
    /// Signature over the activation.
    pub signature: Signature,
}

/// The slots up to the proposed one can only be adopted with a certificate and, to replay, with the state itself.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct NeedState {
    /// First slot that is missing: an offered chain begins here. One slot above the one whose state is missing.
    pub next: Slot,
}

/// The proposal belongs to a generation that has not begun here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct NeedActivation {}

/// The VM is unknown here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct NeedRegistration {}

/// A message without content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Empty {}

/// A slot that the verifier signed. Everything in it proves itself, except for `follows`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignedSlot {
    /// What the host proposed.
    pub proposal: Proposal,
    /// What this verifier answered.
    pub attestation: Attestation,
    /// The inputs of the transition; absent when the verifier was restarted since.
    pub inputs: Option<Vec<Vec<u8>>>,
    /// How the verifier's present generation began; absent in generation 0.
    pub activation: Option<ActivationCertificate>,
    /// Whether the verifier could replay the slot after its newest one.
    pub follows: bool,
}

/// What is known about a state whose bytes follow in [`StatePart`]s, in the format of [`quorate_vmm::state_stream`].
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StateHead {
    /// The VM and its image.
    pub register: Register,
    /// The slot.
    pub statement: SlotStatement,
    /// Its certificate, where the verifier has seen one.
    pub certificate: Option<SlotCertificate>,
    /// The input log up to the slot.
    pub input_log: Frontier<Sha256Tree>,
    /// The VM's statement log up to and including the slot.
    pub statements: Frontier<Sha256Tree>,
    /// Statements directly before the slot, oldest first: at most [`RECENT_STATEMENTS`].
    pub history: Vec<SlotStatement>,
    /// How the present generation began; absent in generation 0.
    pub activation: Option<ActivationCertificate>,
}

/// The next bytes of a state.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StatePart {
    /// At most [`STATE_PART_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// Nothing more to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Done {}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Refused {
    /// Stable error kind of the threat model.
    pub kind: String,
    /// What was found, for people.
    pub detail: String,
}

wire_enum! {
    /// Everything a verifier may answer.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum FromVerifier {
        /// The slot is signed.
        1 => Attested(Attested) <= 4096,
        /// Asks for pages; the exchange goes on.
        2 => Challenge(Challenge) <= CHALLENGE_PAGES_MAX * 4 + 16,
        /// An earlier slot is needed first.
        3 => Behind(Behind) <= 16,
        /// A state or chain is needed first.
        4 => NeedState(NeedState) <= 16,
        /// The activation is needed first.
        5 => NeedActivation(NeedActivation) <= 16,
        /// The registration is needed first.
        6 => NeedRegistration(NeedRegistration) <= 16,
        /// The newest slot.
        7 => Head(HeadAnswer) <= 16384,
        /// The generation has this vote.
        8 => Voted(Voted) <= 256,
        /// It is done.
        9 => Done(Done) <= 16,
        /// It is refused.
        10 => Refused(Refused) <= 4096,
        /// A signed slot.
        11 => Slot(SignedSlot) <= PROPOSE_BYTES_MAX + ACTIVATION_BYTES_MAX + 4096,
        /// A state follows.
        12 => State(StateHead) <= IMAGE_BYTES_MAX + 65_536 + RECENT_STATEMENTS * SlotStatement::LIMIT,
        /// Bytes of a state.
        13 => StatePart(StatePart) <= STATE_PART_BYTES_MAX + 4,
    }
}
