//! The rules of a verifier, one state machine a VM, without clock, randomness, files, sockets or threads.
//!
//! # Data flow
//!
//! ```text
//!              Input::Message (from a host)            Effect::Persist  ┐ always before
//!  shell ────▶ Input::Replayed / StateLoaded ─▶ VmCore ─▶ Effect::Send  ┘ the answer
//!              Input::Drawn / Abandoned                Effect::Boot, Replay, Unload, Pull, Draw
//! ```
//!
//! The shell performs the effects of one step in their order and reports what `Replay`, `Pull` and `Draw` found with
//! the next input. It feeds one request of a VM at a time, from its message to its last effect.
//!
//! # Why a slot is signed once
//!
//! A signature has a place, (generation, slot). [`VmCore`] signs in strictly ascending order of places and a place is
//! compared with the newest one *before* the record of the new one is made; the record is durable before the answer
//! leaves. Asked again for the newest place and the same statement, it repeats the stored answer, byte by byte.
//!
//! # Why an activation takes nothing back
//!
//! A verifier votes for a generation that starts at slot k only if it has signed no slot above k in the present
//! generation, and after the vote it signs none there. Votes and certificates are quorums, which share an honest
//! member; so if k+1 had been certified, the votes could not have come together.
//!
//! # Epochs of the group
//!
//! A new signature is of the current epoch only; asked again for the newest place, the stored answer is repeated whatever
//! its epoch is. What a request rests on (a certificate, a relinquishment, a grant) is checked with the members of its own
//! epoch. Along a chain epochs never go back, and a certificate of an earlier epoch counts only for slots below those that
//! this verifier knows in a later one: members that have left cannot continue a VM.
//!
//! # Not promised
//!
//! At most f of the group are Byzantine: with more, two certificates can exist. The core notices that only when it is
//! shown both, and then stops signing. Inputs that nobody vouches for are counted, not judged.

mod activate;
mod adopt;
mod chain;
pub mod handout;
mod head;
mod identity;
mod kept;
mod propose;
mod refusal;
mod registration;
mod sample;
mod state;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::model;
mod transition;

use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::VerifyError;
use quorate_attest::id::{OutputRoot, Slot, StatementDigest, VmId};
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{
    ActivationCertificate, ConflictingCertificates, Equivocation, SlotCertificate, SlotStatement,
};
pub use quorate_vmm::Measurement;
use quorate_vmm::Position;

pub use chain::{Chain, RECENT_STATEMENTS};
pub use identity::{Context, Signer};
pub use refusal::Refusal;
pub use registration::{Registration, register};
pub use state::{CERTIFICATES_KEPT, Fence, Record, Signed, Start, VOTES_MAX, VmState};
pub use transition::{check_inputs, check_link, compare, measurement_of};

use crate::protocol::{Behind, Done, FromVerifier, NeedState, Refused, ToVerifier};
use adopt::Adoption;
use kept::KeptSlots;
use propose::Candidate;

/// What a machine measured at the end of a transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Memory, registers, devices and position.
    pub measurement: Measurement,
    /// Root over the outputs of the transition.
    pub output_root: OutputRoot,
    /// Number of outputs of the transition.
    pub output_count: u64,
}

/// What the shell tells the core.
#[derive(Clone, Debug)]
pub enum Input {
    /// A request, or the pages of a challenge.
    Message(Box<ToVerifier>),
    /// Page numbers drawn at random, strictly ascending.
    Drawn(Vec<u32>),
    /// Where a replay ended.
    Replayed(Result<Observed, Refusal>),
    /// Whether the state was pulled and found to be the one asked for.
    StateLoaded(Result<(), Refusal>),
    /// The host went away before it sent the pages of a challenge.
    Abandoned,
}

/// A state to be pulled from a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Bulk listener of the host.
    pub address: String,
    /// Names the transfer there.
    pub token: [u8; 32],
    /// What must arrive.
    pub expected: Measurement,
    /// Inputs up to that state.
    pub input_log: Frontier<Sha256Tree>,
}

/// Evidence worth keeping: it convinces anyone who has the group configuration.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Evidence {
    /// A host proposed two statements for one slot.
    Equivocation(Box<Equivocation>),
    /// Two quorums certified two statements for one slot.
    ConflictingCertificates(Box<ConflictingCertificates>),
    /// Two quorums began one generation in two ways.
    ConflictingActivations(Box<(ActivationCertificate, ActivationCertificate)>),
}

/// What the shell must do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a record durable. Nothing that follows may happen before.
    Persist(Box<Record>),
    /// Answer the request.
    Send(Box<FromVerifier>),
    /// Start the machine from its image.
    Boot,
    /// Execute a transition and report with [`Input::Replayed`].
    Replay {
        /// What the guest receives.
        inputs: Arc<Vec<Vec<u8>>>,
        /// Where to stop.
        until: Position,
    },
    /// Throw the machine away: it has left the chain.
    Unload,
    /// Fetch a state and report with [`Input::StateLoaded`].
    Pull(Box<Pull>),
    /// Draw page numbers and report with [`Input::Drawn`].
    Draw {
        /// Pages there are.
        page_count: u64,
        /// Pages wanted.
        count: usize,
    },
    /// Keep evidence.
    StoreEvidence(Box<Evidence>),
    /// End the process: it must not sign any more.
    Stop(Refusal),
}

/// What a request waits for.
#[derive(Debug)]
enum Pending {
    Nothing,
    Replay(Box<Candidate>),
    Draw(Box<Candidate>),
    Pages { candidate: Box<Candidate>, asked: Vec<u32> },
    Pull(Box<Adoption>),
}

/// The state machine of one registered VM.
#[derive(Debug)]
pub struct VmCore {
    context: Arc<Context>,
    vm: VmId,
    genesis: Measurement,
    state: VmState,
    /// Statement whose state the shell's machine is in.
    machine: Option<StatementDigest>,
    /// Newest slots signed since the start, with their inputs.
    kept: KeptSlots,
    pending: Pending,
}

impl VmCore {
    /// A VM with its state as far as it is known durably. `genesis` is what its image measures before it runs.
    #[must_use]
    pub fn new(context: Arc<Context>, state: VmState, genesis: Measurement) -> Self {
        let vm = state.spec.id();
        Self {
            context,
            vm,
            genesis,
            state,
            machine: None,
            kept: KeptSlots::default(),
            pending: Pending::Nothing,
        }
    }

    /// The VM.
    #[must_use]
    pub fn vm(&self) -> VmId {
        self.vm
    }

    /// The durable state.
    #[must_use]
    pub fn state(&self) -> &VmState {
        &self.state
    }

    /// Takes one input. `now` is the clock in seconds since 1970; it goes into cosignatures and decides nothing.
    pub fn step(&mut self, now: u64, input: Input) -> Vec<Effect> {
        let pending = std::mem::replace(&mut self.pending, Pending::Nothing);
        let result = match (pending, input) {
            (pending, Input::Message(message)) => self.message(now, pending, *message),
            (Pending::Draw(candidate), Input::Drawn(pages)) => Ok(self.challenge(candidate, pages)),
            (Pending::Replay(candidate), Input::Replayed(result)) => self.replayed(now, *candidate, result),
            (Pending::Pull(adoption), Input::StateLoaded(result)) => self.loaded(*adoption, result),
            (Pending::Nothing, Input::Abandoned) => Ok(Vec::new()),
            (_, Input::Abandoned) => Err(Refusal::PeerTimeout { phase: "challenge" }),
            // The shell's answers to effects that nobody waits for any more.
            (_, Input::Drawn(_) | Input::Replayed(_) | Input::StateLoaded(_)) => {
                self.machine = None;
                Ok(vec![Effect::Unload])
            }
        };
        result.unwrap_or_else(|refusal| self.refuse(refusal))
    }

    fn message(&mut self, now: u64, pending: Pending, message: ToVerifier) -> Result<Vec<Effect>, Refusal> {
        match (pending, message) {
            (_, ToVerifier::Propose(propose)) => self.propose(now, propose),
            (_, ToVerifier::StateOffer(offer)) => self.offered(offer),
            (_, ToVerifier::Activate(activate)) => Ok(self.activate(&activate)),
            (_, ToVerifier::Activated(certificate)) => self.activated(&certificate),
            (_, ToVerifier::HeadQuery(query)) => Ok(vec![self.head(query.nonce)]),
            (_, ToVerifier::Register(_)) => Ok(vec![done()]),
            (_, ToVerifier::SlotRequest(request)) => self.slot_requested(request.slot),
            // Needs to know who asks: see [`VmCore::hand_out`].
            (_, ToVerifier::StateRequest(_)) => Err(Refusal::Unexpected { message: "StateRequest" }),
            (Pending::Pages { candidate, asked }, ToVerifier::Pages(pages)) => {
                self.proven(now, *candidate, &asked, &pages)
            }
            (_, ToVerifier::Pages(_)) => Err(Refusal::Unexpected { message: "Pages" }),
        }
    }

    /// Applies a record and answers the effect that makes it durable.
    fn record(&mut self, record: Record) -> Effect {
        self.state.apply(&record);
        Effect::Persist(Box::new(record))
    }

    fn refuse(&mut self, refusal: Refusal) -> Vec<Effect> {
        if !refusal.is_safety_stop() {
            return vec![refused(&refusal)];
        }
        let stopped = self.record(Record::Stopped { kind: refusal.kind().to_owned() });
        vec![stopped, refused(&refusal), Effect::Stop(refusal)]
    }

    /// Refuses everything that needs a signature once conflicting certificates were seen.
    fn check_not_stopped(&self) -> Result<(), Refusal> {
        match (&self.state.stopped, self.state.certificates.last()) {
            (None, _) => Ok(()),
            (Some(_), newest) => Err(Refusal::ConflictingCertificates {
                slot: newest.map_or(Slot::ZERO, |certificate| certificate.statement.slot),
                generation: self.state.generation,
            }),
        }
    }

    /// Verifies a certificate and compares it with what else is known about its slot.
    ///
    /// The outer error is a refusal; the inner one carries the evidence that ends the process.
    fn check_certificate(&self, certificate: &SlotCertificate) -> Result<(), CertificateError> {
        let statement = &certificate.statement;
        let members = self.context.group.past(statement.group, statement.epoch).map_err(Refusal::from)?;
        certificate.verify(members, &members.expected(self.vm, Kind::SLOT_SAMPLED)).map_err(Refusal::from)?;
        self.check_epoch_ended(statement)?;
        let place = (statement.body.generation, statement.slot);
        let other = self.state.certificates.iter().find(|kept| {
            (kept.statement.body.generation, kept.statement.slot) == place && kept.statement != *statement
        });
        if let Some(other) = other {
            let pair = ConflictingCertificates { first: other.clone(), second: certificate.clone() };
            return Err(CertificateError::Conflict(Box::new(pair)));
        }
        self.check_own_vote(certificate)?;
        Ok(())
    }

    /// Refuses a slot of an epoch that had ended there: this verifier knows that slot, or one below, in a later epoch.
    fn check_epoch_ended(&self, statement: &SlotStatement) -> Result<(), Refusal> {
        let certified = self.state.certificates.iter().map(|certificate| &certificate.statement);
        let known = self.state.chain.recent().iter().chain(certified);
        let later = known.filter(|known| known.slot <= statement.slot && known.epoch > statement.epoch);
        match later.map(|known| known.epoch).max() {
            Some(current) => Err(VerifyError::EpochRetired { epoch: statement.epoch, current }.into()),
            None => Ok(()),
        }
    }

    /// A signature of ours above everything in the sign-log means that the sign-log is an old copy, or not the only one.
    fn check_own_vote(&self, certificate: &SlotCertificate) -> Result<(), Refusal> {
        let own = self.context.signer.index();
        let statement = &certificate.statement;
        let signed = self.state.signed.as_ref().map(Signed::place);
        let voted = certificate.attestations.iter().any(|attestation| attestation.verifier == own);
        if voted && signed.is_none_or(|place| place < (statement.body.generation, statement.slot)) {
            return Err(Refusal::SignStateRolledBack {
                disk: signed.map(|(_, slot)| slot),
                peers: statement.slot,
            });
        }
        Ok(())
    }

    /// Effects that keep a conflict and end the process.
    fn conflict(&mut self, pair: Box<ConflictingCertificates>) -> Vec<Effect> {
        let statement = &pair.second.statement;
        let refusal =
            Refusal::ConflictingCertificates { slot: statement.slot, generation: statement.body.generation };
        let mut effects = vec![Effect::StoreEvidence(Box::new(Evidence::ConflictingCertificates(pair)))];
        effects.extend(self.refuse(refusal));
        effects
    }
}

/// A certificate that is refused, or one that contradicts another.
#[derive(Debug)]
enum CertificateError {
    Refused(Refusal),
    Conflict(Box<ConflictingCertificates>),
}

impl From<Refusal> for CertificateError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn send(answer: FromVerifier) -> Effect {
    Effect::Send(Box::new(answer))
}

fn done() -> Effect {
    send(FromVerifier::Done(Done {}))
}

fn behind(next: Slot) -> Effect {
    send(FromVerifier::Behind(Behind { next }))
}

fn need_state(next: Slot) -> Effect {
    send(FromVerifier::NeedState(NeedState { next }))
}

fn refused(refusal: &Refusal) -> Effect {
    send(FromVerifier::Refused(answer_of(refusal)))
}

/// Most characters of a refusal's detail.
const DETAIL_CHARS_MAX: usize = 500;

/// The answer that carries a refusal. Its detail may quote what a stranger sent, so it is cut and printable.
#[must_use]
pub fn answer_of(refusal: &Refusal) -> Refused {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    let detail = refusal.to_string().chars().map(printable).take(DETAIL_CHARS_MAX).collect();
    Refused { kind: refusal.kind().to_owned(), detail }
}
