//! The VM leaves: effects of [`crate::migration::source`].

use std::net::SocketAddr;
use std::sync::Arc;

use quorate_attest::id::{Generation, Nonce, OperationId, Slot, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::statement::Kind;
use quorate_attest::vm::{ActivationCertificate, DecisionCertificate, Refusal, Relinquish, SlotCertificate};
use quorate_transport::Endpoint;
use quorate_verifier::protocol::{Propose, Refused};
use tokio::sync::mpsc;

use super::active::{refusal, refused_by};
use super::{Agent, AgentHandle, Event, Fatal, refused};
use crate::clock::{monotonic_ms, monotonic_ns};
use crate::conduct::Step;
use crate::config::Loaded;
use crate::inquiries::{InquiryError, Superseded, fresh, who_runs};
use crate::journal::Record;
use crate::migration::source::{Effect, Input, Outcome, Source};
use crate::ordering::{Claim, Verdict, check_migration};
use crate::protocol::{
    Activated, Declined, FromHost, HISTORY_STATEMENTS_MAX, Handover, Migrate, Offer, Progress, Report, ToHost,
};
use crate::timeline::Timeline;
use crate::vm_thread::{SlotState, VmFailure};

/// A migration away from this host.
#[derive(Debug)]
pub struct Emigration {
    /// Its state machine.
    pub core: Source,
    destination: PublicKey,
    /// Operation that began it.
    migration: OperationId,
    /// What lets the destination receive the VM; unknown after a restart.
    order: Option<DecisionCertificate>,
    to_destination: Option<mpsc::UnboundedSender<ToHost>>,
    operator: Option<mpsc::UnboundedSender<FromHost>>,
    timeline: Timeline,
    base: Option<(SlotCertificate, Arc<SlotState>)>,
    relinquish: Option<Relinquish>,
    instance: Nonce,
    /// What the log granted this host after the guest had stopped.
    grant: Option<DecisionCertificate>,
    /// What it granted another host.
    winner: Option<DecisionCertificate>,
    /// The destination's word that it will not run the VM.
    refusal: Option<Refusal>,
    stopped_ns: u64,
    declined: Option<Refused>,
    declined_by: Option<String>,
    arrived: Option<Report>,
    new_generation: Generation,
}

impl Agent {
    pub(super) fn begin_emigration(
        &mut self,
        migrate: Migrate,
        operator: mpsc::UnboundedSender<FromHost>,
    ) -> Result<(), Fatal> {
        let (destination, address) = match self.check_order(&migrate) {
            Ok(checked) => checked,
            Err(why) => {
                let _ = operator.send(FromHost::Refused(why));
                return Ok(());
            }
        };
        let Some(vm) = &self.vm else { return Ok(()) };
        let Some((base, state)) = vm.window.newest_certified_state() else {
            let _ = operator.send(refused("QuorumNotReached", "no slot of this VM is certified yet"));
            return Ok(());
        };
        let newest = vm.head_slot().unwrap_or(base.statement.slot);
        let timeout_ms = u64::from(migrate.timeout_ms);
        let slot = base.statement.slot;
        let (core, effects) =
            Source::begin(monotonic_ms(), timeout_ms, slot, newest, vm.pipeline.certified());
        let (to_destination, outbox) = mpsc::unbounded_channel();
        let mut timeline = Timeline::new("source");
        timeline.begin("offer");
        self.migration = Some(self.handle.new_scope());
        let (endpoint, agent) = (self.endpoint.clone(), self.migration_handle());
        tokio::spawn(converse(endpoint, address, destination, outbox, agent));
        self.warm_up_log();
        self.emigration = Some(Emigration {
            core,
            destination,
            migration: migrate.order.decision.operation,
            order: Some(migrate.order),
            to_destination: Some(to_destination),
            operator: Some(operator),
            timeline,
            base: Some((base, state)),
            relinquish: None,
            instance: Nonce::from_bytes(fresh()?),
            grant: None,
            winner: None,
            refusal: None,
            stopped_ns: 0,
            declined: None,
            declined_by: None,
            arrived: None,
            new_generation: Generation(0),
        });
        self.perform_emigration(effects)
    }

    /// Where a VM may move, if what the operator shows is the orchestrators' order and this host can follow it.
    fn check_order(&self, migrate: &Migrate) -> Result<(PublicKey, SocketAddr), Refused> {
        if self.emigration.is_some() || self.immigration.is_some() {
            return Err(refusal("MigrationConflict", &"another migration of this VM is under way"));
        }
        let vm = self.vm.as_ref().filter(|vm| vm.running && vm.id == migrate.order.decision.vm);
        let Some(vm) = vm else { return Err(refusal("WrongVm", &"this host does not run that VM")) };
        let decision = &migrate.order.decision;
        let orchestrators = self.loaded.orchestrators.past(decision.group, decision.epoch);
        let orchestrators = orchestrators.map_err(|error| refusal(error.kind(), &error))?;
        let destination = check_migration(orchestrators, &migrate.order, vm.id, vm.generation, &self.key())?;
        let known = self.loaded.group.hosts.iter().find(|host| host.key == destination);
        let address =
            known.and_then(|host| self.loaded.config.hosts.iter().find(|address| address.name == host.name));
        let unknown = || refusal("PeerUnknown", &"this host has no address for the destination");
        Ok((destination, address.ok_or_else(unknown)?.address))
    }

    /// Connects to the orchestrators before they are needed.
    pub(super) fn warm_up_log(&self) {
        let log = self.log.clone();
        tokio::spawn(async move { log.warm_up().await });
    }

    pub(super) fn step_emigration(&mut self, input: Input) -> Result<(), Fatal> {
        let Some(emigration) = &mut self.emigration else { return Ok(()) };
        let before = emigration.core.phase();
        let effects = emigration.core.step(monotonic_ms(), input);
        let phase = emigration.core.phase();
        if before != phase
            && let Some(operator) = &emigration.operator
        {
            let _ =
                operator.send(FromHost::Progress(Progress { phase: phase.to_owned(), done: 0, total: 0 }));
        }
        self.perform_emigration(effects)
    }

    pub(super) fn tick_emigration(&mut self) -> Result<(), Fatal> {
        self.step_emigration(Input::Tick)
    }

    /// Whether the guest is stopped, or about to be, for a handover.
    pub(super) fn frozen_now(&self) -> bool {
        self.emigration
            .as_ref()
            .is_some_and(|emigration| matches!(emigration.core.phase(), "freeze" | "handover" | "reclaim"))
    }

    fn perform_emigration(&mut self, effects: Vec<Effect>) -> Result<(), Fatal> {
        for effect in effects {
            match effect {
                Effect::Offer => self.send_offer(),
                Effect::Forward(slot) => self.forward(slot)?,
                Effect::Freeze => self.freeze(),
                Effect::PersistRelinquish(slot) => self.persist_relinquish(slot)?,
                Effect::Handover(slot) => self.send_handover(slot),
                Effect::RunOn => self.run_on(),
                Effect::OrderRelease => self.order_release()?,
                Effect::OrderAbort => self.order_abort(),
                Effect::RequestVotes => self.request_own_votes(),
                Effect::AskWhoRuns => self.ask_who_runs(),
                Effect::Retire => self.retire()?,
                Effect::Finish(outcome) => self.finish_emigration(outcome),
            }
        }
        Ok(())
    }

    fn send_offer(&mut self) {
        let (Some(vm), Some(emigration)) = (&self.vm, &self.emigration) else { return };
        let (Some((base, state)), Some(order)) = (&emigration.base, &emigration.order) else { return };
        let (bulk_address, token) = self.states.offer(state, emigration.destination);
        let offer = Offer {
            order: order.clone(),
            spec: vm.register.spec.clone(),
            image: vm.register.image.clone(),
            activation: vm.activation.borrow().clone(),
            base: base.clone(),
            input_log: state.checkpoint.input_log.clone(),
            statements: state.statements.clone(),
            history: vm.window.history(base.statement.slot, HISTORY_STATEMENTS_MAX),
            bulk_address,
            token,
        };
        emigration.send(ToHost::Offer(offer));
        self.reached(Step::OfferSent);
    }

    fn forward(&mut self, slot: Slot) -> Result<(), Fatal> {
        let (Some(vm), Some(emigration)) = (&self.vm, &self.emigration) else { return Ok(()) };
        let Some(propose) = vm.window.proposal(slot) else { return Ok(()) };
        match self.conduct.forward((*propose).clone()) {
            Some(propose) => emigration.send(ToHost::Slot(propose)),
            None if self.conduct.pretends_caught_up() => self.step_emigration(Input::Replayed(slot))?,
            None => {}
        }
        Ok(())
    }

    fn freeze(&mut self) {
        let (Some(vm), Some(emigration)) = (&mut self.vm, &mut self.emigration) else { return };
        emigration.timeline.end("following", 0, 0);
        emigration.timeline.begin("stop and checkpoint");
        vm.cutting = true;
        let remote = vm.thread.remote();
        let agent = self.handle.clone();
        let frozen = remote.freeze();
        tokio::spawn(async move { agent.send(Event::Frozen(Box::new(frozen.await))) });
    }

    pub(super) fn frozen(&mut self, result: Result<SlotState, VmFailure>) -> Result<(), Fatal> {
        if let Some(vm) = &mut self.vm {
            vm.cutting = false;
        }
        match result {
            Ok(state) => {
                if let Some(emigration) = &mut self.emigration {
                    emigration.stopped_ns = state.stopped_ns;
                }
                self.reached(Step::Frozen);
                if let Some(slot) = self.end_slot(state)? {
                    self.step_emigration(Input::Frozen(slot))?;
                }
            }
            Err(failure) => {
                self.note(refused_by(&failure), "guest");
                self.step_emigration(Input::Declined)?;
            }
        }
        Ok(())
    }

    fn persist_relinquish(&mut self, slot: Slot) -> Result<(), Fatal> {
        let (Some(vm), Some(emigration)) = (&mut self.vm, &mut self.emigration) else { return Ok(()) };
        // From here on the guest may run only with a quorum's activation.
        vm.running = false;
        let relinquish = Relinquish {
            vm: vm.id,
            group: self.loaded.group.id(),
            epoch: self.loaded.group.epoch,
            generation: vm.generation,
            slot,
            statement: vm.head_digest(),
            successor: emigration.destination,
            signature: quorate_attest::key::Signature::NONE,
        };
        let relinquish = relinquish.signed(&self.loaded.key);
        emigration.relinquish = Some(relinquish.clone());
        let record = Record::Relinquished { relinquish, migration: emigration.migration };
        tokio::task::block_in_place(|| self.journal.append(&record))?;
        self.reached(Step::RelinquishDurable);
        self.step_emigration(Input::RelinquishDurable)
    }

    fn send_handover(&mut self, slot: Slot) {
        let (Some(vm), Some(emigration)) = (&self.vm, &mut self.emigration) else { return };
        emigration.timeline.end("stop and checkpoint", 0, 0);
        emigration.timeline.begin("handover");
        let before = Slot(slot.0.saturating_sub(1));
        let (Some(last), Some(before), Some(relinquish)) =
            (vm.window.proposal(slot), vm.window.certificate(before), emigration.relinquish.clone())
        else {
            return;
        };
        let handover =
            Handover { last: (*last).clone(), before, relinquish, stopped_ns: emigration.stopped_ns };
        let window = Arc::clone(&vm.window);
        let earlier = move |slot: Slot| -> Option<(Propose, SlotCertificate)> {
            Some(((*window.proposal(slot)?).clone(), window.certificate(slot)?))
        };
        emigration.send(ToHost::Handover(self.conduct.handover(handover, &self.loaded.key, &earlier)));
        self.reached(Step::HandoverSent);
    }

    fn run_on(&mut self) {
        if let Some(vm) = &mut self.vm {
            vm.running = true;
            vm.thread.run_on();
        }
        self.dismiss_waiters();
    }

    /// The guest never stopped: the VM is free for another migration.
    fn order_release(&mut self) -> Result<(), Fatal> {
        let (Some(vm), Some(emigration)) = (&self.vm, &self.emigration) else { return Ok(()) };
        let (log, vm, migration) = (self.log.clone(), vm.id, emigration.migration);
        let nonce = Nonce::from_bytes(fresh()?);
        tokio::spawn(async move { log.release(vm, migration, nonce).await });
        Ok(())
    }

    /// Asks the log for a generation in which this host may go on.
    fn order_abort(&self) {
        let Some(emigration) = &self.emigration else { return };
        let Some(given_away) = emigration.relinquish.clone() else { return };
        let mine = Relinquish { successor: self.key(), ..given_away }.signed(&self.loaded.key);
        let claim = Claim::new(mine, emigration.migration);
        let (declined, nonce) = (emigration.refusal.clone(), emigration.instance);
        let (log, agent) = (self.log.clone(), self.migration_handle());
        tokio::spawn(async move {
            agent.send(Event::AbortOrdered(log.take_back(&claim, declined.as_ref(), nonce).await));
        });
    }

    pub(super) fn abort_ordered(&mut self, verdict: Verdict) -> Result<(), Fatal> {
        let Some(emigration) = &mut self.emigration else { return Ok(()) };
        match verdict {
            Verdict::Granted(grant) => {
                emigration.grant = Some(*grant);
                self.step_emigration(Input::Granted)
            }
            Verdict::Overruled(grant) => {
                emigration.winner = Some(*grant);
                self.step_emigration(Input::Overruled)
            }
            Verdict::Refused(why) | Verdict::Unordered(why) => {
                self.note(why, "log");
                self.step_emigration(Input::Unordered)
            }
        }
    }

    /// Asks for votes for this host, in the generation that it was granted.
    fn request_own_votes(&self) {
        let (Some(vm), Some(emigration)) = (&self.vm, &self.emigration) else { return };
        let (Some(grant), Some(slot)) = (emigration.grant.clone(), vm.head_slot()) else { return };
        let Some(certificate) = vm.window.certificate(slot) else {
            // The last slot is not certified yet; its certificate, or the next timeout, asks again.
            return;
        };
        self.ask_for_votes(grant, emigration.relinquish.clone(), certificate, emigration.instance);
    }

    pub(super) fn own_votes_counted(
        &mut self,
        result: Result<quorate_attest::vm::ActivationCertificate, InquiryError>,
    ) -> Result<(), Fatal> {
        match result {
            Ok(certificate) => {
                let generation = certificate.activation.generation;
                let record = Record::Generation(certificate.clone());
                tokio::task::block_in_place(|| self.journal.append(&record))?;
                if let Some(vm) = &mut self.vm {
                    vm.activated(certificate);
                }
                self.tell_generation();
                self.step_emigration(Input::Reclaimed(generation))
            }
            Err(error) => {
                self.note(refusal(&error.kind(), &error), "verifiers");
                self.step_emigration(Input::Undecided)
            }
        }
    }

    /// Asks the verifiers whether another host was activated.
    fn ask_who_runs(&self) {
        let (Some(vm), Some(emigration)) = (&self.vm, &self.emigration) else { return };
        let Some(generation) = emigration.relinquish.as_ref().map(|relinquish| relinquish.generation) else {
            return;
        };
        let grants = emigration.winner.iter().cloned().collect();
        let (askers, group, agent) = (self.askers(), Arc::clone(&self.loaded.group), self.migration_handle());
        let vm = vm.id;
        tokio::spawn(async move {
            agent.send(Event::WhoRuns(who_runs(askers, group, vm, generation, grants).await));
        });
    }

    pub(super) fn who_runs_told(&mut self, superseded: Option<Superseded>) -> Result<(), Fatal> {
        // An activation of this host itself, from before a restart, is found again by asking for votes.
        let me = self.key();
        let other = superseded.filter(|superseded| superseded.activation.host != me);
        let Some(Superseded { activation, certificate }) = other else {
            return self.step_emigration(Input::Undecided);
        };
        if let (Some(vm), Some(certificate)) = (&mut self.vm, certificate) {
            vm.activated(certificate);
        }
        self.step_emigration(Input::Superseded(activation.generation))
    }

    pub(super) fn destination_said(&mut self, message: Option<FromHost>) -> Result<(), Fatal> {
        match message {
            Some(FromHost::Accepted(_)) => {
                if let Some(emigration) = &mut self.emigration {
                    emigration.timeline.end("offer", 0, 0);
                }
                self.step_emigration(Input::Accepted)
            }
            Some(FromHost::Loaded(reached)) => {
                if let Some(emigration) = &mut self.emigration {
                    emigration.timeline.begin("following");
                }
                self.step_emigration(Input::Loaded(reached.slot))
            }
            Some(FromHost::Replayed(reached)) => self.step_emigration(Input::Replayed(reached.slot)),
            Some(FromHost::Activated(activated)) => self.destination_activated(*Box::new(activated)),
            Some(FromHost::Declined(declined)) => self.destination_declined(declined),
            Some(FromHost::Progress(progress)) => {
                self.reached(Step::BaseStreaming);
                if let Some(operator) =
                    self.emigration.as_ref().and_then(|emigration| emigration.operator.as_ref())
                {
                    let _ = operator.send(FromHost::Progress(progress));
                }
                self.step_emigration(Input::Pulling)
            }
            Some(FromHost::Refused(refused)) => {
                self.decline_noted(refused, "destination");
                self.step_emigration(Input::Declined)
            }
            Some(_) => Ok(()),
            None => self.step_emigration(Input::Lost),
        }
    }

    fn destination_activated(&mut self, activated: Activated) -> Result<(), Fatal> {
        let Some(vm) = &mut self.vm else { return Ok(()) };
        if let Err(error) = check_activation(&self.loaded, vm.id, &activated.certificate) {
            self.note(refusal(error.kind(), &error), "destination");
            return Ok(());
        }
        let generation = activated.certificate.activation.generation;
        vm.activated(activated.certificate);
        if let Some(emigration) = &mut self.emigration {
            emigration.timeline.end("handover", 0, 0);
            emigration.arrived = Some(activated.report);
        }
        self.reached(Step::ActivationSeen);
        self.step_emigration(Input::Activated(generation))
    }

    fn destination_declined(&mut self, declined: Declined) -> Result<(), Fatal> {
        let Declined { refusal: word, why, .. } = declined;
        if let (Some(vm), Some(emigration)) = (&self.vm, &mut self.emigration) {
            let members = self.loaded.group.past(word.group, word.epoch);
            let genuine =
                members.is_ok_and(|members| word.verify(&members.expected(vm.id, Kind::REFUSAL)).is_ok());
            if word.host == emigration.destination && genuine {
                emigration.refusal = Some(word);
            }
        }
        self.decline_noted(why, "destination");
        self.step_emigration(Input::Declined)
    }

    fn decline_noted(&mut self, why: Refused, by: &str) {
        if let Some(emigration) = &mut self.emigration {
            emigration.declined = Some(why.clone());
            emigration.declined_by = Some(by.to_owned());
        }
        self.note(why, by);
    }

    /// What a Byzantine host does: runs on in the generation that it gave up.
    fn run_on_superseded(&mut self) -> Result<(), Fatal> {
        let given_up = self.emigration.as_ref().and_then(|emigration| emigration.relinquish.as_ref());
        if let (Some(vm), Some(relinquish)) = (&mut self.vm, given_up) {
            vm.generation = relinquish.generation;
        }
        self.run_on();
        Ok(())
    }

    /// The VM runs elsewhere. Its newest slots stay for a while, so that verifiers that are behind can catch up.
    fn retire(&mut self) -> Result<(), Fatal> {
        tokio::task::block_in_place(|| self.journal.append(&Record::Gone))?;
        if self.conduct.keeps_running() {
            return self.run_on_superseded();
        }
        if let Some(vm) = &mut self.vm {
            vm.running = false;
            vm.gone = true;
            // Inputs and statements stay for verifiers that are behind; they get states from the new host.
            vm.thread.end();
            vm.window.forget_states();
        }
        self.dismiss_waiters();
        Ok(())
    }

    fn finish_emigration(&mut self, outcome: Outcome) {
        let Some(mut emigration) = self.emigration.take() else { return };
        self.migration = None;
        let (result, generation) = match outcome {
            Outcome::Moved(generation) => ("activated", generation),
            Outcome::Returned(generation) => ("aborted", generation),
            Outcome::Aborted => ("aborted", self.vm.as_ref().map_or(Generation(0), |vm| vm.generation)),
        };
        emigration.new_generation = generation;
        if result == "aborted" {
            let why =
                emigration.declined.clone().unwrap_or_else(|| refusal("PeerTimeout", &"no answer in time"));
            emigration.send(ToHost::Abort(why));
        }
        let slot = self.vm.as_ref().and_then(super::Vm::head_slot).unwrap_or(Slot(0));
        if let Some(operator) = emigration.operator.take() {
            let _ = operator.send(FromHost::Report(emigration.report(result, slot)));
        }
    }

    /// A host that was restarted after it had relinquished its VM.
    pub(super) fn resume_relinquished(
        &mut self,
        relinquish: Relinquish,
        migration: OperationId,
    ) -> Result<(), Fatal> {
        let timeout_ms = self.loaded.config.migration_timeout_ms;
        self.migration = Some(self.handle.new_scope());
        self.emigration = Some(Emigration {
            core: Source::resume_relinquished(monotonic_ms(), timeout_ms, relinquish.slot),
            destination: relinquish.successor,
            migration,
            order: None,
            to_destination: None,
            operator: None,
            timeline: Timeline::new("source"),
            base: None,
            relinquish: Some(relinquish),
            instance: Nonce::from_bytes(fresh()?),
            grant: None,
            winner: None,
            refusal: None,
            stopped_ns: monotonic_ns(),
            declined: None,
            declined_by: None,
            arrived: None,
            new_generation: Generation(0),
        });
        Ok(())
    }
}

impl Emigration {
    fn send(&self, message: ToHost) {
        if let Some(destination) = &self.to_destination {
            // A lost connection is noticed by the reader.
            let _ = destination.send(message);
        }
    }

    fn report(&self, result: &str, slot: Slot) -> Report {
        let mut report = self.arrived.clone().unwrap_or_else(|| Report {
            result: String::new(),
            refused: None,
            refused_by: None,
            slot,
            generation: Generation(0),
            phases: Vec::new(),
            stopped_ns: self.stopped_ns,
            running_ns: 0,
            replay_ns: 0,
            bytes_moved: 0,
            pages_moved: 0,
        });
        report.result = result.to_owned();
        report.generation = self.new_generation;
        report.refused = self.declined.clone();
        report.refused_by = self.declined_by.clone();
        let mut phases = self.timeline.phases();
        phases.append(&mut report.phases);
        phases.sort_by_key(|phase| phase.start_ns);
        report.phases = phases;
        report
    }
}

/// Checks that a generation began: votes with the members of the vote's epoch, the grant with those of its own.
fn check_activation(
    loaded: &Loaded,
    vm: VmId,
    certificate: &ActivationCertificate,
) -> Result<(), quorate_attest::VerifyError> {
    let (activation, decision) = (&certificate.activation, &certificate.grant.decision);
    let orchestrators = loaded.orchestrators.past(decision.group, decision.epoch)?;
    let members = loaded.group.past(activation.group, activation.epoch)?;
    certificate.verify(members, &members.expected(vm, Kind::ACTIVATE), Some(orchestrators))
}

/// Keeps the exchange with a destination: what the agent sends goes out, what comes back becomes events.
async fn converse(
    endpoint: Endpoint,
    address: SocketAddr,
    destination: PublicKey,
    mut outbox: mpsc::UnboundedReceiver<ToHost>,
    agent: AgentHandle,
) {
    let exchange = async { endpoint.connect(address, &destination).await?.open().await };
    let exchange = match exchange.await {
        Ok(exchange) => exchange,
        Err(error) => {
            agent.send(Event::FromDestination(Some(refused(error.kind(), &error.to_string()))));
            return;
        }
    };
    let (mut sender, mut receiver) = exchange.split();
    receiver.set_patience(crate::EXCHANGE_PATIENCE);
    let reader = agent.clone();
    let reading = tokio::spawn(async move {
        loop {
            match receiver.recv::<FromHost>().await {
                Ok(Some(message)) => reader.send(Event::FromDestination(Some(message))),
                Ok(None) | Err(_) => return reader.send(Event::FromDestination(None)),
            }
        }
    });
    while let Some(message) = outbox.recv().await {
        if sender.send(&message).await.is_err() {
            break;
        }
    }
    let _ = sender.finish();
    reading.abort();
}
