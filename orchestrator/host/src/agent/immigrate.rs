//! A VM arrives: effects of [`crate::migration::destination`].

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_attest::encoding::to_bytes;
use quorate_attest::id::{Generation, Nonce, Slot};
use quorate_attest::key::{PublicKey, Signature};
use quorate_attest::vm::{ActivationCertificate, DecisionCertificate, Refusal, Relinquish, SlotCertificate};
use quorate_verifier::core::measurement_of;
use quorate_verifier::protocol::{Propose, Refused, Register};
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::execution::Execution;
use quorate_vmm::state_stream::Moved;
use tokio::sync::mpsc;

use super::active::{refusal, refused_by};
use super::vm::Vm;
use super::{Agent, Event, Fatal, refused};
use crate::clock::{monotonic_ms, monotonic_ns};
use crate::conduct::Step;
use crate::inquiries::{InquiryError, activate_question, elect, fresh, heads_agree};
use crate::journal::{Base, Handed, Record};
use crate::migration::destination::{Destination, Effect, Input};
use crate::ordering::{Claim, Verdict};
use crate::protocol::{Accepted, Activated, Declined, FromHost, Handover, Offer, Report, ToHost};
use crate::pull;
use crate::timeline::Timeline;
use crate::vm_thread::{SlotState, VmFailure};

/// Statements shown to the head inquiry as known.
const HISTORY_MAX: u64 = 64;
/// Slots that may arrive before the base state is in place: as many as a source keeps.
const QUEUED_MAX: usize = 4096;
/// Bytes of inputs that they may have.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// A base state that was pulled and verified.
#[derive(Debug)]
pub struct Arrived {
    /// The machine, ready to replay.
    pub execution: Execution,
    /// The same state, to be made durable.
    pub checkpoint: Checkpoint,
    /// Bytes and pages moved.
    pub moved: Moved,
}

/// A migration to this host.
#[derive(Debug)]
pub struct Immigration {
    core: Destination,
    pub(super) source: PublicKey,
    answers: mpsc::UnboundedSender<FromHost>,
    pub(super) timeline: Timeline,
    pub(super) register: Arc<Register>,
    pub(super) base: Base,
    pub(super) queued: BTreeMap<Slot, Propose>,
    queued_bytes: usize,
    pub(super) base_durable: bool,
    pub(super) handover_waits: bool,
    /// Whether the base is loaded, which the source hears once it is durable: it stops the guest soon after.
    pub(super) loaded_waits: bool,
    /// The newest slot that was replayed meanwhile.
    pub(super) replayed_waits: Option<Slot>,
    /// Whether the last slot came with the handover and is not in the journal yet.
    last_is_new: bool,
    handover: Option<Handover>,
    /// What the orchestrators ordered: this migration.
    order: DecisionCertificate,
    /// What they granted.
    grant: Option<DecisionCertificate>,
    instance: Nonce,
    elected: Option<ActivationCertificate>,
    pub(super) moved: Moved,
    replay_ns: u64,
    failure: Option<Refused>,
}

impl Agent {
    pub(super) fn begin_immigration(
        &mut self,
        offer: Offer,
        source: PublicKey,
        scope: u64,
        answers: mpsc::UnboundedSender<FromHost>,
    ) -> Result<(), Fatal> {
        if self.immigration.is_some()
            || self.emigration.is_some()
            || self.is_recovering()
            || self.vm.as_ref().is_some_and(|vm| vm.running)
        {
            let _ = answers
                .send(refused("HostOccupied", "this host already holds a VM; one process serves one VM"));
            return Ok(());
        }
        if let Err(why) = self.check_offer(&offer, &source) {
            let _ = answers.send(FromHost::Refused(why.clone()));
            self.note(why, "offer");
            return Ok(());
        }
        self.drop_vm();
        self.recovery = None;
        self.migration = Some(scope);
        let Offer { spec, image, activation, base, input_log, statements, history, .. } = offer;
        let Offer { bulk_address, token, order, .. } = offer;
        let register = Arc::new(Register { spec, image });
        self.journal.adopt(&register)?;
        let mut timeline = Timeline::new("destination");
        timeline.begin("base state");
        let _ = answers.send(FromHost::Accepted(Accepted {}));
        self.reached(Step::OfferAccepted);
        let timeout_ms = self.loaded.config.migration_timeout_ms;
        let (core, _pull) = Destination::begin(monotonic_ms(), timeout_ms, base.statement.slot);
        let wanted = pull::Order {
            bulk: self.endpoint.bulk(),
            source,
            address: bulk_address,
            token,
            expected: measurement_of(&base.statement),
            input_log,
            memory_bytes: register.spec.memory_bytes,
        };
        self.warm_up_log();
        self.spawn_pull(base.statement.slot, wanted, &register, answers.clone());
        self.immigration = Some(Immigration {
            core,
            source,
            answers,
            timeline,
            register,
            base: Base { certificate: base, activation, statements, history },
            queued: BTreeMap::new(),
            queued_bytes: 0,
            base_durable: false,
            handover_waits: false,
            loaded_waits: false,
            replayed_waits: None,
            last_is_new: false,
            handover: None,
            order,
            grant: None,
            instance: Nonce::from_bytes(fresh()?),
            elected: None,
            moved: Moved::default(),
            replay_ns: 0,
            failure: None,
        });
        Ok(())
    }

    pub(super) fn source_said(&mut self, message: Option<ToHost>) -> Result<(), Fatal> {
        match message {
            Some(ToHost::Slot(propose)) => self.slot_arrived(propose),
            Some(ToHost::Handover(handover)) => self.handed_over(handover),
            Some(ToHost::Abort(why)) => self.immigration_fails(why),
            Some(_) => {
                self.immigration_fails(refusal("DecodeError", &"not a message of a running migration"))
            }
            None => self.step_immigration(Input::Lost),
        }
    }

    /// Takes a slot: checked against the chain and made durable before it is replayed.
    fn slot_arrived(&mut self, propose: Propose) -> Result<(), Fatal> {
        let slot = propose.proposal.statement.slot;
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        if self.vm.as_ref().is_none_or(|vm| vm.running) {
            // The base is still on its way; the order is checked when it is there.
            let bytes: usize = propose.inputs.iter().map(Vec::len).sum();
            immigration.queued_bytes = immigration.queued_bytes.saturating_add(bytes);
            if immigration.queued.len() >= QUEUED_MAX || immigration.queued_bytes > QUEUED_BYTES_MAX {
                return self
                    .immigration_fails(refusal("TransferBudgetExceeded", &"too many slots before the base"));
            }
            immigration.queued.insert(slot, propose);
            return self.step_immigration(Input::Slot(slot));
        }
        if let Err(why) = self.accept_slot(&propose) {
            return self.immigration_fails(why);
        }
        let record = Record::Slot(propose);
        tokio::task::block_in_place(|| self.journal.append(&record))?;
        self.step_immigration(Input::Slot(slot))
    }

    fn handed_over(&mut self, handover: Handover) -> Result<(), Fatal> {
        self.reached(Step::HandoverReceived);
        let last = handover.last.clone();
        let slot = last.proposal.statement.slot;
        if let Err(why) = self.check_handover(&handover) {
            return self.immigration_fails(why);
        }
        if let Some(vm) = &self.vm {
            vm.window.remember(handover.before.clone());
        }
        if let Some(immigration) = &mut self.immigration {
            immigration.timeline.end("following", 0, 0);
            immigration.timeline.begin("decide");
            immigration.handover = Some(handover);
        }
        // A slot that is already here is not taken again: the state machine decides whether it may be the last.
        if self.vm.as_ref().and_then(Vm::head_slot).is_some_and(|head| slot > head) {
            if let Err(why) = self.accept_slot(&last) {
                return self.immigration_fails(why);
            }
            if let Some(immigration) = &mut self.immigration {
                immigration.last_is_new = true;
            }
            self.step_immigration(Input::Slot(slot))?;
        }
        self.step_immigration(Input::Handover(slot))
    }

    pub(super) fn step_immigration(&mut self, input: Input) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        let effects = immigration.core.step(monotonic_ms(), input);
        self.perform_immigration(effects)
    }

    pub(super) fn tick_immigration(&mut self) -> Result<(), Fatal> {
        self.step_immigration(Input::Tick)
    }

    fn perform_immigration(&mut self, effects: Vec<Effect>) -> Result<(), Fatal> {
        for effect in effects {
            match effect {
                // Begun with the offer.
                Effect::Pull => {}
                Effect::ReportLoaded => self.report_loaded()?,
                Effect::Replay(slot) => self.replay(slot),
                Effect::ReportReplayed(slot) => self.report_replayed(slot),
                Effect::PersistHandover => {
                    self.begin_phase("handover durable");
                    self.persist_handover()?;
                }
                Effect::OrderHandover(_) => {
                    self.begin_phase("order of the handover");
                    self.order_handover();
                }
                Effect::CollectCertificate(slot) => {
                    self.begin_phase("certificate of slot k");
                    self.collect_certificate(slot);
                }
                Effect::AskHeads(slot) => {
                    self.begin_phase("heads");
                    self.ask_heads(slot);
                }
                Effect::RequestVotes(slot) => self.request_votes(slot),
                Effect::PersistGeneration(_) => self.persist_generation()?,
                Effect::Run(generation) => self.activate(generation)?,
                Effect::Decline(kind) => self.decline(kind)?,
            }
        }
        Ok(())
    }

    fn begin_phase(&mut self, name: &'static str) {
        if let Some(immigration) = &mut self.immigration {
            immigration.timeline.begin(name);
        }
    }

    fn end_phase(&mut self, name: &'static str, votes: u32) {
        if let Some(immigration) = &mut self.immigration {
            immigration.timeline.end(name, 0, votes);
        }
    }

    pub(super) fn answer_source(&self, message: FromHost) {
        if let Some(immigration) = &self.immigration {
            let _ = immigration.answers.send(message);
        }
    }

    fn replay(&mut self, slot: Slot) {
        let Some(vm) = &self.vm else { return };
        let Some(propose) = vm.window.proposal(slot) else { return };
        let until = measurement_of(&propose.proposal.statement).position;
        let (agent, remote, inputs) = (self.migration_handle(), vm.thread.remote(), propose.inputs.clone());
        // The VM thread takes control messages in order, so replays cannot overtake each other.
        let replay = remote.replay(inputs, until);
        tokio::spawn(async move { agent.send(Event::Replayed(slot, Box::new(replay.await))) });
    }

    pub(super) fn slot_replayed(
        &mut self,
        slot: Slot,
        result: Result<SlotState, VmFailure>,
    ) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        let Some(vm) = &mut self.vm else { return Ok(()) };
        let mut state = match result {
            Ok(state) => state,
            Err(failure) => return self.immigration_fails(refused_by(&failure)),
        };
        let Some(statement) = vm.window.statement(slot) else { return Ok(()) };
        if let Err(error) = state.compare(&statement) {
            return self.immigration_fails(refusal(error.kind(), &error));
        }
        if immigration.handover.as_ref().is_some_and(|handover| handover.last.proposal.statement.slot == slot)
        {
            immigration.replay_ns = state.replay_ns;
            let end = monotonic_ns();
            immigration.timeline.add("replay k-1 -> k", end.saturating_sub(state.replay_ns), end, 0, 0);
        }
        state.statements = vm.statements.clone();
        vm.window.state_reached(slot, Arc::new(state));
        self.reached(Step::SlotReplayed);
        self.step_immigration(Input::Replayed(slot))
    }

    /// Base state and handover on stable storage. Waits for the base checkpoint if it is still being written.
    pub(super) fn persist_handover(&mut self) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        if !immigration.base_durable {
            immigration.handover_waits = true;
            return Ok(());
        }
        let Some(handover) = &immigration.handover else { return Ok(()) };
        let last = immigration.last_is_new.then(|| Record::Slot(handover.last.clone()));
        let record = Record::Handover {
            relinquish: handover.relinquish.clone(),
            before: handover.before.clone(),
            order: immigration.order.clone(),
            instance: immigration.instance,
        };
        tokio::task::block_in_place(|| {
            last.iter().try_for_each(|last| self.journal.append(last))?;
            self.journal.append(&record)
        })?;
        self.end_phase("handover durable", 0);
        self.reached(Step::HandoverDurable);
        self.step_immigration(Input::HandoverDurable)
    }

    /// Has the log decide that this host goes on. The operation is the same after a restart.
    fn order_handover(&self) {
        let Some(immigration) = &self.immigration else { return };
        let Some(handover) = &immigration.handover else { return };
        let claim = Claim::new(handover.relinquish.clone(), immigration.order.decision.operation);
        let (log, nonce, agent) = (self.log.clone(), immigration.instance, self.migration_handle());
        tokio::spawn(async move {
            agent.send(Event::HandoverOrdered(log.hand_over(&claim, nonce).await));
        });
    }

    pub(super) fn handover_ordered(&mut self, verdict: Verdict) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        match verdict {
            Verdict::Granted(grant) => {
                let signatures = grant.signatures.len() as u32;
                immigration.grant = Some(*grant);
                self.end_phase("order of the handover", signatures);
                self.reached(Step::Granted);
                self.step_immigration(Input::Granted)
            }
            Verdict::Overruled(_) => self.step_immigration(Input::Overruled),
            Verdict::Refused(why) => self.immigration_fails(why),
            // Nothing speaks against the handover: the next timeout asks again, or declines.
            Verdict::Unordered(why) => {
                self.note(why, "log");
                Ok(())
            }
        }
    }

    /// Brings the last slot to the verifiers on this host's own links: it does not depend on the source any more.
    fn collect_certificate(&mut self, slot: Slot) {
        if let Some(vm) = &mut self.vm
            && let Some(statement) = vm.window.statement(slot)
            && let Err(error) = vm.pipeline.propose(statement, Vec::new())
        {
            tracing::error!(error_kind = error.kind(), %error, "the last slot does not fit the group");
        }
        self.follow_from(slot);
    }

    pub(super) fn immigration_certified(&mut self, slot: Slot) -> Result<(), Fatal> {
        // Without a handover no such phase has begun.
        let votes = self.vm.as_ref().and_then(|vm| vm.window.certificate(slot));
        self.end_phase("certificate of slot k", votes.map_or(0, |c| c.attestations.len() as u32));
        self.step_immigration(Input::Certified(slot))
    }

    fn ask_heads(&mut self, slot: Slot) {
        let Some(vm) = &self.vm else { return };
        let Some(last) = vm.window.statement(slot) else { return };
        let from = Slot(slot.0.saturating_sub(HISTORY_MAX));
        let history = (from.0..slot.0).filter_map(|slot| vm.window.statement(Slot(slot))).collect();
        let (askers, group, agent) = (self.askers(), Arc::clone(&self.loaded.group), self.migration_handle());
        tokio::spawn(async move {
            agent.send(Event::Heads(heads_agree(askers, group, last, history).await));
        });
    }

    pub(super) fn heads_asked(&mut self, result: Result<u32, InquiryError>) -> Result<(), Fatal> {
        match result {
            Ok(votes) => {
                self.end_phase("heads", votes);
                self.step_immigration(Input::HeadsAgree)
            }
            // Nothing speaks against the handover: the next timeout asks again, or declines.
            Err(error @ InquiryError::QuorumUnreachable) => {
                self.note(refusal(&error.kind(), &error), "verifiers");
                Ok(())
            }
            Err(error) => self.immigration_fails(refusal(&error.kind(), &error)),
        }
    }

    fn request_votes(&mut self, slot: Slot) {
        let (Some(vm), Some(immigration)) = (&self.vm, &mut self.immigration) else { return };
        let Some(handover) = &immigration.handover else { return };
        let (Some(certificate), Some(grant)) = (vm.window.certificate(slot), immigration.grant.clone())
        else {
            return;
        };
        let relinquish = Some(handover.relinquish.clone());
        immigration.timeline.end("decide", 0, certificate.attestations.len() as u32);
        immigration.timeline.begin("votes");
        let instance = immigration.instance;
        self.reached(Step::VotesRequested);
        self.ask_for_votes(grant, relinquish, certificate, instance);
    }

    /// Asks for votes for this host.
    pub(super) fn ask_for_votes(
        &self,
        grant: DecisionCertificate,
        relinquish: Option<Relinquish>,
        certificate: SlotCertificate,
        instance: Nonce,
    ) {
        let question = activate_question(&self.loaded.group, grant, relinquish, certificate, instance);
        let Some(question) = question else { return };
        let (askers, group, agent) = (self.askers(), Arc::clone(&self.loaded.group), self.migration_handle());
        tokio::spawn(async move { agent.send(Event::Elected(elect(&askers, &group, question).await)) });
    }

    pub(super) fn votes_counted(
        &mut self,
        result: Result<ActivationCertificate, InquiryError>,
    ) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else {
            return match self.emigration {
                Some(_) => self.own_votes_counted(result),
                None => self.recovery_counted(result),
            };
        };
        match result {
            Ok(certificate) => {
                let generation = certificate.activation.generation;
                immigration.timeline.end("votes", 0, certificate.attestations.len() as u32);
                immigration.timeline.begin("activate");
                immigration.elected = Some(certificate);
                self.reached(Step::Elected);
                self.step_immigration(Input::Elected(generation))
            }
            // Nobody has refused for good: the next timeout asks again.
            Err(InquiryError::QuorumUnreachable) => Ok(()),
            Err(error) => {
                let why = refusal(&error.kind(), &error);
                immigration.failure = Some(why);
                self.step_immigration(Input::VotesRefused)
            }
        }
    }

    fn persist_generation(&mut self) -> Result<(), Fatal> {
        let Some(certificate) = self.immigration.as_ref().and_then(|immigration| immigration.elected.clone())
        else {
            return Ok(());
        };
        let record = Record::Generation(certificate);
        tokio::task::block_in_place(|| self.journal.append(&record))?;
        self.reached(Step::GenerationDurable);
        self.step_immigration(Input::GenerationDurable)
    }

    /// The guest runs here from now on.
    fn activate(&mut self, generation: Generation) -> Result<(), Fatal> {
        let Some(mut immigration) = self.immigration.take() else { return Ok(()) };
        self.migration = None;
        let (Some(vm), Some(certificate)) = (&mut self.vm, immigration.elected.take()) else { return Ok(()) };
        vm.activated(certificate.clone());
        vm.running = true;
        vm.thread.run_on();
        let running_ns = monotonic_ns();
        immigration.timeline.end("activate", 0, certificate.attestations.len() as u32);
        let slot = vm.head_slot().unwrap_or(Slot(0));
        tracing::info!(generation = generation.0, slot = slot.0, "the VM runs here");
        self.reached(Step::Running);
        self.tell_generation();
        let report = Report {
            result: "activated".into(),
            refused: None,
            refused_by: None,
            slot,
            generation,
            phases: immigration.timeline.phases(),
            stopped_ns: immigration.handover.as_ref().map_or(0, |handover| handover.stopped_ns),
            running_ns,
            replay_ns: immigration.replay_ns,
            bytes_moved: immigration.moved.bytes,
            pages_moved: immigration.moved.pages,
        };
        let _ = immigration.answers.send(FromHost::Activated(Activated { certificate, report }));
        Ok(())
    }

    /// Lets the log know which generation runs. Nothing waits for it.
    pub(super) fn tell_generation(&self) {
        let certificate = self.vm.as_ref().and_then(|vm| vm.activation.borrow().clone());
        let Some(certificate) = certificate.filter(|certificate| certificate.activation.host == self.key())
        else {
            return;
        };
        let log = self.log.clone();
        tokio::spawn(async move { log.activated(certificate).await });
    }

    /// Something is wrong: the state machine decides what that means now.
    pub(super) fn immigration_fails(&mut self, why: Refused) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        immigration.failure.get_or_insert(why);
        self.step_immigration(Input::Failed)
    }

    fn decline(&mut self, kind: &'static str) -> Result<(), Fatal> {
        let Some(immigration) = self.immigration.take() else { return Ok(()) };
        self.migration = None;
        let why = immigration.failure.unwrap_or_else(|| refusal(kind, &"the migration cannot go on"));
        let statement = &immigration.base.certificate.statement;
        let slot = self.vm.as_ref().and_then(Vm::head_slot).unwrap_or(statement.slot);
        let (generation, migration) =
            (immigration.order.decision.generation, immigration.order.decision.operation);
        let refusal = Refusal {
            group: self.loaded.group.id(),
            epoch: self.loaded.group.epoch,
            vm: immigration.register.spec.id(),
            generation,
            slot,
            host: self.key(),
            reason: why.kind.clone(),
            signature: Signature::NONE,
        };
        let refusal = refusal.signed(&self.loaded.key);
        tracing::warn!(error_kind = %why.kind, bytes = to_bytes(&refusal).len(), "migration declined: {}", why.detail);
        // Durable first: after this word has left, the handover must never be taken up again.
        tokio::task::block_in_place(|| self.journal.append(&Record::Gone))?;
        self.drop_vm();
        self.note(why.clone(), "destination");
        let phases = immigration.timeline.phases();
        if immigration.handover.is_some() {
            // The log may have granted this host the generation: the source cannot go on before it hears of the refusal.
            let (log, word, nonce) = (self.log.clone(), refusal.clone(), immigration.instance);
            tokio::spawn(async move { log.decline(word, migration, nonce).await });
        }
        let _ = immigration.answers.send(FromHost::Declined(Declined { refusal, why, phases }));
        Ok(())
    }

    /// Takes up a handover that was durable before a restart.
    pub(super) fn resume_handover(
        &mut self,
        register: Arc<Register>,
        base: Base,
        last: Propose,
        handed: Handed,
    ) -> Result<(), Fatal> {
        let Handed { relinquish, before, order, instance } = handed;
        let handover = Handover { last, before, relinquish, stopped_ns: 0 };
        let slot = handover.last.proposal.statement.slot;
        let timeout_ms = self.loaded.config.migration_timeout_ms;
        let (core, effects) = Destination::resume(monotonic_ms(), timeout_ms, slot);
        let (answers, _nobody) = mpsc::unbounded_channel();
        self.migration = Some(self.handle.new_scope());
        self.immigration = Some(Immigration {
            core,
            source: handover.last.proposal.statement.body.host,
            answers,
            timeline: Timeline::new("destination"),
            register,
            base,
            queued: BTreeMap::new(),
            queued_bytes: 0,
            base_durable: true,
            handover_waits: false,
            loaded_waits: false,
            replayed_waits: None,
            last_is_new: false,
            handover: Some(handover),
            order,
            grant: None,
            instance,
            elected: None,
            moved: Moved::default(),
            replay_ns: 0,
            failure: None,
        });
        self.perform_immigration(effects)
    }
}
