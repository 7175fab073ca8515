//! The agent: one task that owns everything a host knows about its VM, and reacts to events one at a time.
//!
//! ```text
//! clients, operator, other hosts ──▶ gateway ──▶ ┌───────┐ ──▶ VM thread ──▶ slots
//! verifiers ──▶ links, inquiries ──────────────▶ │ agent │ ──▶ journal (durable before anything is sent)
//! timer ───────────────────────────────────────▶ └───────┘ ──▶ links, exchanges, waiting clients
//! ```
//!
//! Decisions about a migration are made by the pure machines of [`crate::migration`]; the agent performs their effects.

mod active;
mod arrival;
mod base_state;
mod calls;
mod emigrate;
mod immigrate;
mod recover;
mod restart;
mod vm;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_attest::id::{Generation, Slot, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::vm::VmSpec;
use quorate_transport::Endpoint;
use quorate_verifier::protocol::{Done, Refused, Register};
use tokio::sync::{mpsc, oneshot, watch};

use super::conduct::{Conduct, Step, View, VmView};
use super::config::Loaded;
use super::inquiries::InquiryError;
use super::journal::{Journal, JournalError};
use super::link::{Asker, Link, LinkEvent};
use super::ordering::{Log, Verdict};
use super::state_server::StateServer;
use super::vm_thread::{SlotState, VmEvent, VmFailure};
use crate::protocol::{Call, Export, Exported, FromHost, Migrate, Offer, Query, Start, Status, ToHost};
pub(crate) use arrival::leads_to;
use emigrate::Emigration;
pub use immigrate::Arrived;
use immigrate::Immigration;
use recover::Recovering;
use vm::Vm;
pub(crate) use vm::admit;

/// Errors kept for `status`.
const ERRORS_KEPT: usize = 64;
/// How long a host that is asked to end waits for certificates.
const END_LIMIT: Duration = Duration::from_secs(1);
/// Certificates in one answer to an export.
const EXPORT_CERTIFICATES_MAX: usize = 1024;

/// What the agent reacts to.
#[derive(Debug)]
pub enum Event {
    /// A client's request; the answer may come much later.
    Call(Call, oneshot::Sender<FromHost>),
    /// A question to a fork of the VM.
    Query(Query, oneshot::Sender<FromHost>),
    /// The VM is to be taken back to its newest slot.
    Rewind(VmId, oneshot::Sender<FromHost>),
    /// An operator's request that is answered at once.
    Operator(ToHost, oneshot::Sender<FromHost>),
    /// An operator wants a migration; progress and report go to the channel.
    Migrate(Migrate, mpsc::UnboundedSender<FromHost>),
    /// Another host offers a VM.
    Offer {
        /// The offer.
        offer: Box<Offer>,
        /// The host that makes it.
        source: PublicKey,
        /// Scope of the events that belong to it.
        scope: u64,
        /// What goes back to the source.
        answers: mpsc::UnboundedSender<FromHost>,
    },
    /// The source of a running immigration sent something, or is gone.
    FromSource(Option<ToHost>),
    /// The destination of a running emigration sent something, or is gone.
    FromDestination(Option<FromHost>),
    /// A verifier's word.
    Link(LinkEvent),
    /// The guest's word.
    Vm(VmEvent),
    /// A slot was cut.
    Cut(Box<Result<SlotState, VmFailure>>),
    /// The guest was stopped and its last slot cut.
    Frozen(Box<Result<SlotState, VmFailure>>),
    /// A slot was replayed.
    Replayed(Slot, Box<Result<SlotState, VmFailure>>),
    /// Pages of the base state are arriving.
    Pulling,
    /// The base state was pulled.
    Arrived(Box<Result<Arrived, Refused>>),
    /// A newer base checkpoint of the active VM is on stable storage.
    BaseWritten(Box<super::journal::Base>, Result<(), String>),
    /// The base checkpoint is on stable storage.
    BaseDurable(Result<(), String>),
    /// The heads were asked for.
    Heads(Result<u32, InquiryError>),
    /// Votes were asked for.
    Elected(Result<quorate_attest::vm::ActivationCertificate, InquiryError>),
    /// The log was asked for the generation that the source gives to this host.
    HandoverOrdered(Verdict),
    /// The log was asked to give the VM back to this host.
    AbortOrdered(Verdict),
    /// The verifiers were asked whether another host runs the VM after a handover.
    WhoRuns(Option<super::inquiries::Superseded>),
    /// The state of a VM to be recovered was taken from a verifier.
    HandedOut(Box<Result<super::handed_out::HandedOut, Refused>>),
    /// Somebody refused something that this host asked for on its own account.
    Noted(Refused, String),
    /// A restarted host knows whether its generation is still the newest.
    Standing(Option<super::inquiries::Superseded>, bool),
    /// An event that concerns one migration only; it is dropped once that migration is over.
    Scoped(u64, Box<Event>),
    /// End the process.
    Stop,
}

/// Sends events to the agent.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    events: mpsc::UnboundedSender<Event>,
    spec: watch::Receiver<Option<Arc<VmSpec>>>,
    scopes: Arc<AtomicU64>,
    scope: Option<u64>,
}

impl AgentHandle {
    /// Sends an event; a stopped agent takes none.
    pub fn send(&self, event: Event) {
        let event = match self.scope {
            Some(scope) => Event::Scoped(scope, Box::new(event)),
            None => event,
        };
        // Nobody waits for an answer that a stopping process will not give.
        let _ = self.events.send(event);
    }

    /// Lets the host's status tell what `by` refused.
    pub fn note(&self, refused: Refused, by: &str) {
        self.send(Event::Noted(refused, by.to_owned()));
    }

    /// A number for a new migration.
    pub fn new_scope(&self) -> u64 {
        self.scopes.fetch_add(1, Ordering::Relaxed)
    }

    /// A handle whose events are dropped once the migration of that number is over.
    pub fn scoped(&self, scope: u64) -> Self {
        Self { scope: Some(scope), ..self.clone() }
    }

    /// The VM this host holds at the moment.
    pub fn spec(&self) -> Option<Arc<VmSpec>> {
        self.spec.borrow().clone()
    }
}

/// The agent's state.
#[derive(Debug)]
pub struct Agent {
    loaded: Loaded,
    conduct: Arc<dyn Conduct>,
    endpoint: Endpoint,
    states: Arc<StateServer>,
    journal: Journal,
    links: Vec<Link>,
    log: Log,
    /// The head that was published last, and when, monotonic milliseconds.
    published: (Option<Slot>, u64),
    vm: Option<Vm>,
    emigration: Option<Emigration>,
    immigration: Option<Immigration>,
    recovery: Option<Recovering>,
    waiters: HashMap<(PublicKey, u64), Vec<oneshot::Sender<FromHost>>>,
    errors: VecDeque<Refused>,
    spec: watch::Sender<Option<Arc<VmSpec>>>,
    handle: AgentHandle,
    /// Scope of the migration that is under way.
    migration: Option<u64>,
    /// Whether the next agent begins with what the journal tells.
    rewinding: bool,
    inbox: mpsc::UnboundedReceiver<Event>,
}

/// Why an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The VM is to be rebuilt from the journal by another one.
    Rewinding,
}

/// A failure that ends the process.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// Stable storage failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The VM cannot be built.
    #[error("{0}")]
    Vm(#[from] VmFailure),
    /// The system refuses something.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl Fatal {
    /// Exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Journal(error) => error.exit_code(),
            Self::Vm(failure) if failure.kind == "KvmUnavailable" => quorate_verifier::exit::NOT_PERMITTED,
            Self::Vm(_) => 1,
            Self::System(_) => quorate_verifier::exit::STORAGE,
        }
    }
}

impl Agent {
    /// An agent without a VM.
    pub fn new(
        loaded: Loaded,
        conduct: Arc<dyn Conduct>,
        endpoint: Endpoint,
        states: Arc<StateServer>,
        journal: Journal,
    ) -> Self {
        let (events, inbox) = mpsc::unbounded_channel();
        let (spec, watched) = watch::channel(None);
        let links =
            loaded.verifiers.iter().map(|peer| Link::connect(endpoint.clone(), peer.clone())).collect();
        let log = Log::new(endpoint.clone(), &loaded);
        Self {
            log,
            published: (None, 0),
            loaded,
            conduct,
            endpoint,
            states,
            journal,
            links,
            vm: None,
            emigration: None,
            immigration: None,
            recovery: None,
            waiters: HashMap::new(),
            errors: VecDeque::new(),
            spec,
            handle: AgentHandle { events, spec: watched, scopes: Arc::default(), scope: None },
            migration: None,
            rewinding: false,
            inbox,
        }
    }

    /// A handle for the gateway.
    pub fn handle(&self) -> AgentHandle {
        self.handle.clone()
    }

    /// Reacts to events until told to stop, or until the VM is to be taken back.
    ///
    /// # Errors
    /// Stable storage or the machine failed; the process must end.
    pub async fn run(mut self) -> Result<Ended, Fatal> {
        let mut timer = tokio::time::interval(Duration::from_millis(self.loaded.config.slot_interval_ms));
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.rewinding {
            tokio::select! {
                event = self.inbox.recv() => match event {
                    Some(Event::Stop) | None => return self.end().await.map(|()| Ended::Stopped),
                    Some(event) => self.react(event)?,
                },
                _ = timer.tick() => self.tick()?,
            }
        }
        Ok(Ended::Rewinding)
    }

    /// Ends in good order: no further slot is cut, and those that wait for their certificates have a moment to get them. A
    /// slot is certified by the members of the epoch in which it was proposed, and the next start may be in another.
    async fn end(&mut self) -> Result<(), Fatal> {
        let deadline = tokio::time::Instant::now() + END_LIMIT;
        if let Some(vm) = self.vm.as_mut().filter(|_| self.emigration.is_none()) {
            vm.running = false;
        }
        while self.vm.as_ref().is_some_and(|vm| vm.cutting || vm.pipeline.outstanding() > 0) {
            match tokio::time::timeout_at(deadline, self.inbox.recv()).await {
                Ok(Some(event)) => self.react(event)?,
                _ => break,
            }
        }
        Ok(())
    }

    fn react(&mut self, event: Event) -> Result<(), Fatal> {
        match event {
            Event::Scoped(scope, event) if self.migration == Some(scope) => self.react(*event)?,
            Event::Scoped(..) | Event::Stop => {}
            Event::Call(call, answer) => self.call(call, answer),
            Event::Query(query, answer) => self.query(query, answer),
            Event::Rewind(vm, answer) => self.rewind(vm, answer),
            Event::Operator(message, answer) => {
                let reply = self.operator(message)?;
                let _ = answer.send(reply);
            }
            Event::Migrate(migrate, progress) => self.begin_emigration(migrate, progress)?,
            Event::Offer { offer, source, scope, answers } => {
                self.begin_immigration(*offer, source, scope, answers)?;
            }
            Event::FromSource(message) => self.source_said(message)?,
            Event::FromDestination(message) => self.destination_said(message)?,
            Event::Link(event) => self.verifier_said(event)?,
            Event::Vm(event) => self.guest_said(event),
            Event::Cut(result) => self.slot_cut(*result)?,
            Event::Frozen(result) => self.frozen(*result)?,
            Event::Replayed(slot, result) => self.slot_replayed(slot, *result)?,
            Event::Pulling => self.step_immigration(crate::migration::destination::Input::Pulling)?,
            Event::Arrived(result) => self.base_arrived(*result)?,
            Event::BaseWritten(base, result) => self.base_written(*base, result)?,
            Event::BaseDurable(result) => self.base_durable(result)?,
            Event::Heads(result) => self.heads_asked(result)?,
            Event::Elected(result) => self.votes_counted(result)?,
            Event::HandoverOrdered(verdict) => self.handover_ordered(verdict)?,
            Event::AbortOrdered(verdict) => self.abort_ordered(verdict)?,
            Event::WhoRuns(superseded) => self.who_runs_told(superseded)?,
            Event::HandedOut(taken) => self.state_handed_out(*taken)?,
            Event::Noted(refused, by) => self.note(refused, &by),
            Event::Standing(superseded, known) => self.standing(superseded, known)?,
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Fatal> {
        self.tick_emigration()?;
        self.tick_immigration()?;
        self.cut_when_due();
        self.publish_head();
        Ok(())
    }

    fn operator(&mut self, message: ToHost) -> Result<FromHost, Fatal> {
        Ok(match message {
            ToHost::Start(start) => self.start(start)?,
            ToHost::Status(_) => FromHost::Status(self.status()),
            ToHost::Export(export) => FromHost::Exported(self.export(export)),
            ToHost::Recover(order) => self.recover(order)?,
            _ => refused("DecodeError", "not an operator's request"),
        })
    }

    fn start(&mut self, start: Start) -> Result<FromHost, Fatal> {
        if self.vm.is_some() || self.immigration.is_some() || self.is_recovering() {
            return Ok(refused("HostOccupied", "this host already holds a VM; one process serves one VM"));
        }
        if start.spec.host != self.key() {
            return Ok(refused("KeyRoleMismatch", "the specification names another host"));
        }
        let register = Register { spec: start.spec, image: start.image };
        match Vm::genesis(register, &self.loaded.group, &self.handle) {
            Ok(vm) => {
                self.recovery = None;
                self.journal.adopt(&vm.register)?;
                self.take_on(vm);
                self.begin_genesis()?;
                Ok(FromHost::Done(Done {}))
            }
            Err(failure) => Ok(refused(&failure.kind, &failure.detail)),
        }
    }

    /// Makes `vm` the VM of this host.
    fn take_on(&mut self, vm: Vm) {
        self.published = (None, 0);
        self.spec.send_replace(Some(Arc::new(vm.register.spec.clone())));
        self.vm = Some(vm);
    }

    /// Discards the VM and everything that follows it.
    fn drop_vm(&mut self) {
        self.spec.send_replace(None);
        self.vm = None;
        self.unfollow();
    }

    /// Ends the workers that bring slots to the verifiers; connections are made anew.
    fn unfollow(&mut self) {
        let endpoint = &self.endpoint;
        self.links =
            self.loaded.verifiers.iter().map(|p| Link::connect(endpoint.clone(), p.clone())).collect();
    }

    /// A handle for the tasks of the migration that is under way.
    fn migration_handle(&self) -> AgentHandle {
        self.migration.map_or_else(|| self.handle.clone(), |scope| self.handle.scoped(scope))
    }

    fn key(&self) -> PublicKey {
        self.loaded.key.public()
    }

    fn askers(&self) -> Vec<Asker> {
        self.links.iter().map(Link::asker).collect()
    }

    fn reached(&self, step: Step) {
        let vm = self.vm.as_ref().map(|vm| VmView {
            id: vm.id,
            register: &vm.register,
            generation: vm.generation,
            head: vm.head.as_ref(),
            window: &vm.window,
            activation: vm.activation.borrow().clone(),
        });
        let (askers, agent) = (self.askers(), self.handle.clone());
        self.conduct.reached(step, &View { loaded: &self.loaded, askers, agent, vm });
    }

    fn note(&mut self, refused: Refused, by: &str) {
        tracing::warn!(error_kind = %refused.kind, by, "{}", refused.detail);
        if self.errors.len() == ERRORS_KEPT {
            self.errors.pop_front();
        }
        self.errors.push_back(Refused { kind: refused.kind, detail: format!("{by}: {}", refused.detail) });
    }

    fn status(&self) -> Status {
        let role = match (&self.vm, &self.emigration, &self.immigration) {
            (_, _, Some(_)) => "destination",
            _ if self.is_recovering() => "recovering",
            (Some(vm), Some(_), _) if vm.running => "source",
            (Some(vm), ..) if vm.running => "active",
            (Some(_), ..) => "relinquished",
            (None, ..) => "empty",
        };
        let vm = self.vm.as_ref();
        Status {
            vm: vm.map(|vm| vm.id),
            role: role.to_owned(),
            generation: vm.map_or(Generation(0), |vm| vm.generation),
            slot: vm.and_then(Vm::head_slot).unwrap_or(Slot(0)),
            certified: vm.and_then(|vm| vm.pipeline.certified()),
            active_instances: u32::from(vm.is_some_and(|vm| vm.running)),
            inputs: vm.and_then(|vm| vm.head.as_ref()).map_or(0, |head| head.body.end_input),
            errors: self.errors.iter().cloned().collect(),
            slot_times: vm.map(|vm| vm.slot_clock.times()).unwrap_or_default(),
            recovery: self.recovery.as_ref().and_then(|recovering| recovering.failure.clone()),
        }
    }

    fn export(&self, export: Export) -> Exported {
        let Some(vm) = &self.vm else {
            return Exported {
                certificates: Vec::new(),
                activations: Vec::new(),
                cosignatures: Vec::new(),
                more: false,
            };
        };
        let certificates = vm.window.certificates_from(export.from, EXPORT_CERTIFICATES_MAX);
        let last = certificates.last().map(|certificate| certificate.statement.slot);
        let cosignatures = last.map(|slot| vm.window.cosignatures(slot)).unwrap_or_default();
        let more = last < vm.pipeline.certified();
        Exported { certificates, activations: vm.activations.clone(), cosignatures, more }
    }
}

/// A refusal as an answer.
pub fn refused(kind: &str, detail: &str) -> FromHost {
    FromHost::Refused(Refused { kind: kind.to_owned(), detail: detail.to_owned() })
}

/// The answer to a client that means another VM than this host's.
pub fn wrong_vm() -> FromHost {
    refused("WrongVm", "this host serves another VM")
}
