//! Messages that a host agent accepts and sends: to clients, to the operator, and to another host during a migration.
//!
//! ```text
//! client   -> host         Call{request}                    -> Answer | Moved | Busy | Refused
//!                          Query{request}                   -> Queried | Moved | Busy | Refused
//!                          Rewind                           -> Done | Moved | Busy | Refused
//! operator -> host         Start | Status | Migrate | ...   -> Progress* , then Report | Status | Done | Refused
//! source   -> destination  Offer                            -> Accepted | Refused      (destination pulls the base state)
//!                          .                                <- Loaded{base}            (base verified and in place)
//!                          Slot | Certified                 <- Replayed{slot}          (following)
//!                          Handover{slot k, Relinquish}     <- Activated | Declined
//! ```

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Generation, Slot, VmId};
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::vm::{
    ActivationCertificate, DecisionCertificate, Refusal, Relinquish, SlotCertificate, SlotStatement, VmSpec,
};
use quorate_transport::wire_enum;
use quorate_verifier::protocol::{
    Done, IMAGE_BYTES_MAX, Propose, Refused, SLOT_INPUT_BYTES_MAX, SLOT_INPUTS_MAX,
};

/// Largest client request or answer, bytes.
pub const CALL_BYTES_MAX: usize = 262_144;
/// Most outputs of one query.
pub const QUERIED_OUTPUTS_MAX: usize = 64;
/// Most earlier statements that a destination is told. A verifier that has slept through more cannot catch up with it.
pub const HISTORY_STATEMENTS_MAX: usize = 2048;
const PROPOSE_BYTES_MAX: usize = SLOT_INPUT_BYTES_MAX + SLOT_INPUTS_MAX * 4 + 4096;

/// One request of a client; the bytes become an input of the guest unchanged.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Call {
    /// The VM that is meant.
    pub vm: VmId,
    /// The encoded, signed request.
    pub request: Vec<u8>,
}

/// A question to a fork of the VM: one input, which leaves no trace in the VM.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Query {
    /// The VM that is meant.
    pub vm: VmId,
    /// The input, at most [`CALL_BYTES_MAX`] bytes.
    pub request: Vec<u8>,
}

/// Takes the VM back to the newest slot of the host's journal, as if the host had been restarted: inputs since then are
/// forgotten. For the one whose inputs the VM takes ([`quorate_attest::vm::InputPolicy::SignedBy`]), who feeds them again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Rewind {
    /// The VM that is meant.
    pub vm: VmId,
}

/// What a fork of the VM emitted. Nobody vouches for it but the host.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Queried {
    /// The outputs in order: at most [`QUERIED_OUTPUTS_MAX`], together at most [`CALL_BYTES_MAX`] bytes.
    pub outputs: Vec<Vec<u8>>,
    /// Inputs that the VM had consumed in the state that was asked.
    pub inputs: u64,
}

/// An output of the VM with the proof that a quorum attested it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Answer {
    /// Generation of the instance that produced it.
    pub generation: Generation,
    /// Slot in which it became visible.
    pub slot: Slot,
    /// Its number among the outputs of that slot.
    pub index: u64,
    /// The bytes the guest sent.
    pub output: Vec<u8>,
    /// Inclusion proof against the slot's output root.
    pub proof: Vec<[u8; 32]>,
    /// Certificate of the slot; absent only under the `Immediate` output policy.
    pub certificate: Option<SlotCertificate>,
}

/// The VM runs elsewhere now.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Moved {
    /// Proof that another host was activated, where this host knows it.
    pub activation: Option<ActivationCertificate>,
}

/// Try again later.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Busy {
    /// Milliseconds to wait.
    pub retry_after_ms: u32,
}

/// Creates a VM on this host.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Start {
    /// What the VM is; its `host` is this host's key.
    pub spec: VmSpec,
    /// The guest ELF.
    pub image: Vec<u8>,
}

/// Asks the source to move its VM.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Migrate {
    /// What the orchestrators decided: which VM moves from this host, where to, and as which generation.
    pub order: DecisionCertificate,
    /// Give up and run on after this long without progress, milliseconds.
    pub timeout_ms: u32,
}

/// Lets a host take up a VM whose host is dead.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Recover {
    /// What the orchestrators decided: that this host may create the generation, and from which slot.
    pub grant: DecisionCertificate,
    /// Certificate of that slot.
    pub certificate: SlotCertificate,
}

/// What a host is doing, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Status {
    /// The VM it holds, if any.
    pub vm: Option<VmId>,
    /// `empty`, `active`, `source`, `destination`, `recovering` or `relinquished`.
    pub role: String,
    /// Generation it runs or ran.
    pub generation: Generation,
    /// Newest slot cut here.
    pub slot: Slot,
    /// Newest certified slot.
    pub certified: Option<Slot>,
    /// 1 while a vCPU of this host may execute the guest as the active instance.
    pub active_instances: u32,
    /// Inputs consumed.
    pub inputs: u64,
    /// Error kinds seen, newest last (bounded).
    pub errors: Vec<Refused>,
    /// How long the newest certified slots took, newest last (bounded).
    pub slot_times: Vec<SlotTimes>,
    /// Why the newest recovery on this host failed, until it is ordered again.
    pub recovery: Option<Refused>,
}

/// How long one slot took, nanoseconds since the guest was stopped for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SlotTimes {
    /// The slot.
    pub slot: Slot,
    /// Until the guest could run on.
    pub pause_ns: u64,
    /// Until its signed statement was on stable storage here.
    pub durable_ns: u64,
    /// Until it had a quorum's certificate.
    pub certified_ns: u64,
}

/// One finished phase of a migration. Times are of the system's monotonic clock, so that phases of two hosts on one
/// machine compare.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Phase {
    /// Name of the phase.
    pub name: String,
    /// Which party spent it: `source` or `destination`.
    pub party: String,
    /// Start, nanoseconds of the monotonic clock.
    pub start_ns: u64,
    /// End, nanoseconds of the monotonic clock.
    pub end_ns: u64,
    /// Bytes moved in it.
    pub bytes: u64,
    /// Votes gathered in it.
    pub votes: u32,
}

/// How far a running migration is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Progress {
    /// Name of the current phase.
    pub phase: String,
    /// Units done.
    pub done: u64,
    /// Units in total; 0 when unknown.
    pub total: u64,
}

/// The end of a migration.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Report {
    /// `activated` or `aborted`.
    pub result: String,
    /// Why it was aborted.
    pub refused: Option<Refused>,
    /// Who refused, where known.
    pub refused_by: Option<String>,
    /// Slot that was handed over.
    pub slot: Slot,
    /// Generation afterwards.
    pub generation: Generation,
    /// All phases of both parties.
    pub phases: Vec<Phase>,
    /// When the source stopped the guest, monotonic nanoseconds.
    pub stopped_ns: u64,
    /// When the guest could run again, monotonic nanoseconds.
    pub running_ns: u64,
    /// Duration of the replay k-1 -> k, nanoseconds.
    pub replay_ns: u64,
    /// Bytes of state moved.
    pub bytes_moved: u64,
    /// Pages moved.
    pub pages_moved: u64,
}

/// Asks for everything an auditor needs about the VM's slots.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Export {
    /// First slot wanted.
    pub from: Slot,
}

/// Certificates and signed heads.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Exported {
    /// Slot certificates in order.
    pub certificates: Vec<SlotCertificate>,
    /// Activation certificates in order.
    pub activations: Vec<ActivationCertificate>,
    /// Cosignature lines over the head of the statement log at the last slot of `certificates`.
    pub cosignatures: Vec<String>,
    /// Whether more slots follow.
    pub more: bool,
}

/// Offers a VM to a destination.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Offer {
    /// What the orchestrators decided: that the VM moves from the source to this destination.
    pub order: DecisionCertificate,
    /// What the VM is.
    pub spec: VmSpec,
    /// The guest ELF.
    pub image: Vec<u8>,
    /// How the source came to run the VM; absent in generation 0.
    pub activation: Option<ActivationCertificate>,
    /// The slot whose state is offered.
    pub base: SlotCertificate,
    /// The input log up to the base.
    pub input_log: Frontier<Sha256Tree>,
    /// The VM's statement log up to and including the base.
    pub statements: Frontier<Sha256Tree>,
    /// Statements before the base, oldest first, as far as verifiers may be behind: at most [`HISTORY_STATEMENTS_MAX`].
    pub history: Vec<SlotStatement>,
    /// Address of the source's bulk listener.
    pub bulk_address: String,
    /// Token of the bulk transfer.
    pub token: [u8; 32],
}

/// Asks what a host is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StatusQuery {}

/// The destination takes the offer and pulls the base state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Accepted {}

/// The base state is in place, each page verified, and on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Loaded {
    /// Its slot.
    pub slot: Slot,
}

/// A slot was replayed and led to its statement's digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Replayed {
    /// The slot.
    pub slot: Slot,
}

/// The source stopped at the slot and gives the VM away.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Handover {
    /// Slot k with the inputs k-1 -> k.
    pub last: Propose,
    /// Certificate of slot k-1.
    pub before: SlotCertificate,
    /// The source's signed word that it will not run the VM after slot k.
    pub relinquish: Relinquish,
    /// When the source stopped the guest, monotonic nanoseconds.
    pub stopped_ns: u64,
}

/// The destination runs the VM.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Activated {
    /// A quorum's votes for the new generation.
    pub certificate: ActivationCertificate,
    /// The destination's part of the report.
    pub report: Report,
}

/// The destination will not activate.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Declined {
    /// Signed refusal: promises never to activate this generation.
    pub refusal: Refusal,
    /// Why.
    pub why: Refused,
    /// The destination's part of the report.
    pub phases: Vec<Phase>,
}

wire_enum! {
    /// Everything a host agent accepts.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum ToHost {
        /// A client's request.
        1 => Call(Call) <= CALL_BYTES_MAX + 64,
        /// An operator creates a VM.
        2 => Start(Start) <= IMAGE_BYTES_MAX + 4096,
        /// An operator asks what the host does.
        3 => Status(StatusQuery) <= 16,
        /// An operator moves the VM.
        4 => Migrate(Migrate) <= DecisionCertificate::LIMIT + 16,
        /// An operator fetches certificates.
        5 => Export(Export) <= 16,
        /// An operator shows this host the grant to take the VM up.
        6 => Recover(Recover) <= DecisionCertificate::LIMIT + SlotCertificate::LIMIT,
        /// A client asks a fork of the VM.
        7 => Query(Query) <= CALL_BYTES_MAX + 64,
        /// The owner of the VM's inputs takes it back.
        8 => Rewind(Rewind) <= 64,
        /// A source offers its VM.
        16 => Offer(Offer) <= IMAGE_BYTES_MAX + 65_536 + HISTORY_STATEMENTS_MAX * SlotStatement::LIMIT,
        /// A source forwards a slot.
        17 => Slot(Propose) <= PROPOSE_BYTES_MAX,
        /// A source gives the VM away.
        19 => Handover(Handover) <= PROPOSE_BYTES_MAX + 32_768,
        /// A source gives up.
        20 => Abort(Refused) <= 4096,
    }
}

wire_enum! {
    /// Everything a host agent answers.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum FromHost {
        /// The output that answers a call.
        1 => Answer(Answer) <= CALL_BYTES_MAX + 32_768,
        /// The VM is elsewhere.
        2 => Moved(Moved) <= 16_384,
        /// Try again later.
        3 => Busy(Busy) <= 16,
        /// What the host does.
        4 => Status(Status) <= 262_144,
        /// How far a migration is.
        5 => Progress(Progress) <= 256,
        /// How a migration ended.
        6 => Report(Report) <= 65_536,
        /// Certificates.
        7 => Exported(Exported) <= 8 << 20,
        /// It is done.
        8 => Done(Done) <= 16,
        /// It is refused.
        9 => Refused(Refused) <= 4096,
        /// What a fork of the VM emitted.
        10 => Queried(Queried) <= CALL_BYTES_MAX + 4 * QUERIED_OUTPUTS_MAX + 16,
        /// The offer is taken.
        16 => Accepted(Accepted) <= 16,
        /// The base state is in place.
        17 => Loaded(Loaded) <= 16,
        /// A slot was replayed.
        18 => Replayed(Replayed) <= 16,
        /// The VM runs here.
        19 => Activated(Activated) <= 131_072,
        /// The VM will not run here.
        20 => Declined(Declined) <= 131_072,
    }
}

#[cfg(test)]
mod tests;
