//! What the agent knows about its VM.

use std::sync::Arc;

use quorate_attest::epoch::GroupChain;
use quorate_attest::id::{Generation, PlatformClass, Slot, StatementDigest, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{ActivationCertificate, OutputPolicy, SlotStatement};
use quorate_verifier::protocol::Register;
use quorate_vmm::execution::Execution;
use quorate_vmm::image::Image;
use quorate_vmm::platform;
use quorate_vmm::snapshot::PageSnapshot;
use tokio::sync::{mpsc, watch};

use super::{AgentHandle, Event};
use crate::certify::Pipeline;
use crate::slot_times::SlotClock;
use crate::vm_thread::{VmFailure, VmThread};
use crate::window::Window;

/// The VM of a host.
#[derive(Debug)]
pub struct Vm {
    /// Its introduction.
    pub register: Arc<Register>,
    /// Its id.
    pub id: VmId,
    /// The platform its instances run on.
    pub platform: PlatformClass,
    /// Its instance on this host.
    pub thread: VmThread,
    /// Its recent slots.
    pub window: Arc<Window>,
    /// Slots on their way to a certificate.
    pub pipeline: Pipeline,
    /// The generation of its newest slot.
    pub generation: Generation,
    /// The host of that generation.
    pub host: PublicKey,
    /// How the newest generation began.
    pub activation: watch::Sender<Option<ActivationCertificate>>,
    /// How all known generations began.
    pub activations: Vec<ActivationCertificate>,
    /// Its newest statement.
    pub head: Option<SlotStatement>,
    /// The log of its statements.
    pub statements: Frontier<Sha256Tree>,
    /// Whether this host may execute the guest as the active instance.
    pub running: bool,
    /// Whether a slot is being cut.
    pub cutting: bool,
    /// Whether the guest consumed anything since the last cut.
    pub dirty: bool,
    /// Whether a newer base of the journal is being written.
    pub shortening: bool,
    /// Whether this host gave the VM away for good; what is left of it serves others that are behind.
    pub gone: bool,
    /// The input log up to the newest slot that arrived. Kept while the VM is followed from another host.
    pub input_log: Frontier<Sha256Tree>,
    /// How long its slots took here.
    pub slot_clock: SlotClock,
}

impl Vm {
    /// A new VM before its first instruction.
    ///
    /// # Errors
    /// The image is refused, or KVM is not available.
    pub fn genesis(
        register: Register,
        group: &Arc<GroupChain>,
        agent: &AgentHandle,
    ) -> Result<Self, VmFailure> {
        let image = admit(&register)?;
        let memory = register.spec.memory_bytes;
        let execution = Execution::genesis(&image, memory).map_err(|e| VmFailure::of(e.kind(), e))?;
        let pages = PageSnapshot::genesis(&image, memory).map_err(|e| VmFailure::of(e.kind(), e))?;
        let host = register.spec.host;
        Self::with_execution(Arc::new(register), execution, pages, group, agent, host)
    }

    /// A VM whose state is that of `execution`.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn with_execution(
        register: Arc<Register>,
        execution: Execution,
        pages: PageSnapshot,
        group: &Arc<GroupChain>,
        agent: &AgentHandle,
        host: PublicKey,
    ) -> Result<Self, VmFailure> {
        let (events, mut guest) = mpsc::unbounded_channel();
        let input_log = execution.input_log().clone();
        let thread = match register.spec.output_policy {
            OutputPolicy::Certified => VmThread::spawn(execution, pages, events),
            OutputPolicy::Immediate => VmThread::spawn_immediate(execution, pages, events),
        };
        let thread = thread.map_err(|e| VmFailure::of("SystemRefused", e))?;
        let agent = agent.clone();
        tokio::spawn(async move {
            while let Some(event) = guest.recv().await {
                agent.send(Event::Vm(event));
            }
        });
        Ok(Self {
            id: register.spec.id(),
            platform: platform::PlatformClass::detect().0,
            thread,
            window: Arc::new(Window::default()),
            pipeline: Pipeline::new(Arc::clone(group), None),
            generation: Generation(0),
            host,
            activation: watch::channel(None).0,
            activations: Vec::new(),
            head: None,
            statements: Frontier::new(),
            running: false,
            cutting: false,
            dirty: false,
            shortening: false,
            gone: false,
            input_log,
            slot_clock: SlotClock::default(),
            register,
        })
    }

    /// The newest slot.
    pub fn head_slot(&self) -> Option<Slot> {
        self.head.as_ref().map(|head| head.slot)
    }

    /// The slot that comes next.
    pub fn next_slot(&self) -> Slot {
        Slot(self.head_slot().map_or(0, |slot| slot.0.saturating_add(1)))
    }

    /// Digest of the newest statement, zero before slot 0.
    pub fn head_digest(&self) -> StatementDigest {
        self.head.as_ref().map_or(StatementDigest::ZERO, SlotStatement::digest)
    }

    /// Appends a statement to the chain.
    pub fn advance(&mut self, statement: SlotStatement) {
        self.statements.push(&statement.encode(Kind::SLOT_REPLAYED));
        self.head = Some(statement);
    }

    /// A new generation began.
    pub fn activated(&mut self, certificate: ActivationCertificate) {
        self.generation = certificate.activation.generation;
        self.host = certificate.activation.host;
        self.activations.push(certificate.clone());
        self.activation.send_replace(Some(certificate));
    }
}

/// Admits the image of a VM that somebody describes.
///
/// # Errors
/// The specification is malformed, the image is another one or is refused.
pub fn admit(register: &Register) -> Result<Image, VmFailure> {
    register.spec.validate().map_err(|e| VmFailure::of(e.kind(), e))?;
    let image = Image::admit(&register.image).map_err(|e| VmFailure::of(e.kind(), e))?;
    if image.digest() != register.spec.image {
        return Err(VmFailure::of("PlatformMismatch", "the image is not the one the specification names"));
    }
    Ok(image)
}
