//! Where a faulty host would differ from an honest one.
//!
//! The agent asks its [`Conduct`] at each of these points. [`Honest`] changes nothing; the Byzantine and crashing hosts of
//! the test-suite and of `quorate demo --attack` implement the same trait in a crate of their own, so that no attack is
//! part of the production binary.

use std::sync::Arc;

use quorate_attest::id::{Generation, Slot, VmId};
use quorate_attest::key::SecretKey;
use quorate_attest::vm::{ActivationCertificate, SlotCertificate, SlotStatement};
use quorate_verifier::protocol::{Propose, Register};
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::page_tree::Page;
use quorate_vmm::snapshot::PageSnapshot;

use super::agent::AgentHandle;
use super::config::Loaded;
use super::link::Asker;
use super::window::Window;
use crate::protocol::Handover;

/// Points of a migration at which a host may be killed by a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A slot was cut and is not durable yet.
    SlotCut,
    /// A slot is durable and not proposed yet.
    SlotDurable,
    /// Source: the offer was sent.
    OfferSent,
    /// Source: the base state is being streamed.
    BaseStreaming,
    /// Source: the guest is stopped.
    Frozen,
    /// Source: `Relinquish` is durable and not sent yet.
    RelinquishDurable,
    /// Source: the handover was sent.
    HandoverSent,
    /// Source: the destination's activation was seen and the instance is not discarded yet.
    ActivationSeen,
    /// Destination: the offer was accepted.
    OfferAccepted,
    /// Destination: the base state is in place.
    BaseLoaded,
    /// Destination: a slot was replayed.
    SlotReplayed,
    /// Destination: the handover arrived and is not durable yet.
    HandoverReceived,
    /// Destination: the handover is durable.
    HandoverDurable,
    /// Destination: the log granted it the generation.
    Granted,
    /// Destination: votes are about to be asked for.
    VotesRequested,
    /// Destination: a quorum voted, the certificate is not durable yet.
    Elected,
    /// Destination: the activation certificate is durable, the guest does not run yet.
    GenerationDurable,
    /// Destination: the guest runs, the source does not know yet.
    Running,
}

impl Step {
    /// All steps, in the order of a migration.
    pub const ALL: [Self; 18] = [
        Self::SlotCut,
        Self::SlotDurable,
        Self::OfferSent,
        Self::BaseStreaming,
        Self::Frozen,
        Self::RelinquishDurable,
        Self::HandoverSent,
        Self::ActivationSeen,
        Self::OfferAccepted,
        Self::BaseLoaded,
        Self::SlotReplayed,
        Self::HandoverReceived,
        Self::HandoverDurable,
        Self::Granted,
        Self::VotesRequested,
        Self::Elected,
        Self::GenerationDurable,
        Self::Running,
    ];

    /// Name as used on the command line of the faulty host.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// What a faulty host can see and use when a step is reached. It holds the keys of its host, as a Byzantine host does.
#[derive(Debug)]
pub struct View<'a> {
    /// The host's files and keys.
    pub loaded: &'a Loaded,
    /// Ways to ask the verifiers.
    pub askers: Vec<Asker>,
    /// The host's agent, to be told what others refused.
    pub agent: AgentHandle,
    /// The VM, if there is one.
    pub vm: Option<VmView<'a>>,
}

/// The VM at a step.
#[derive(Debug)]
pub struct VmView<'a> {
    /// Its id.
    pub id: VmId,
    /// Its introduction.
    pub register: &'a Arc<Register>,
    /// Its generation.
    pub generation: Generation,
    /// Its newest statement.
    pub head: Option<&'a SlotStatement>,
    /// Its recent slots.
    pub window: &'a Arc<Window>,
    /// How its generation began.
    pub activation: Option<ActivationCertificate>,
}

/// Behaviour at the points where a faulty host may differ. All defaults are honest.
pub trait Conduct: Send + Sync + std::fmt::Debug {
    /// A step was reached. A crashing host kills itself here; a Byzantine one may act on its own.
    fn reached(&self, _step: Step, _view: &View<'_>) {}

    /// What is sent to verifier `verifier` for a slot.
    fn propose(&self, _verifier: usize, propose: Propose) -> Propose {
        propose
    }

    /// What is forwarded to the destination for a slot; `None` withholds it.
    fn forward(&self, propose: Propose) -> Option<Propose> {
        Some(propose)
    }

    /// Whether the source treats slots that it withheld from the destination as replayed there.
    fn pretends_caught_up(&self) -> bool {
        false
    }

    /// The handover that is sent. `earlier` looks up earlier slots with their certificates.
    fn handover(&self, handover: Handover, _key: &SecretKey, _earlier: &EarlierSlots<'_>) -> Handover {
        handover
    }

    /// The state that is streamed to whoever pulls a slot.
    fn stream(&self, state: Checkpoint) -> Checkpoint {
        state
    }

    /// Whether [`Conduct::page`] wants to see pages.
    fn alters_pages(&self) -> bool {
        false
    }

    /// One page about to be streamed, after its digest was announced.
    fn page(&self, _index: u32, _page: &mut Page, _state: &PageSnapshot) {}

    /// Whether the source goes on running the guest after it was superseded.
    fn keeps_running(&self) -> bool {
        false
    }

    /// Whether the destination lets the guest run before it is activated.
    fn runs_unactivated(&self) -> bool {
        false
    }

    /// What a client is told the guest of an `Immediate` VM has emitted.
    fn emitted(&self, output: Vec<u8>) -> Vec<u8> {
        output
    }

    /// Whether outputs are released before their slot is certified.
    fn releases_uncertified(&self) -> bool {
        false
    }
}

/// Looks up an earlier slot with its certificate.
pub type EarlierSlots<'a> = dyn Fn(Slot) -> Option<(Propose, SlotCertificate)> + 'a;

/// Does what the protocol says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Honest;

impl Conduct for Honest {}
