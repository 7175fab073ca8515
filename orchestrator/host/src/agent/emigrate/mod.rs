//! The VM leaves: effects of [`crate::migration::source`].

mod destination;
mod end;
mod handover;
mod reclaim;

use std::net::SocketAddr;
use std::sync::Arc;

use quorate_attest::id::{Generation, Nonce, OperationId};
use quorate_attest::key::PublicKey;
use quorate_attest::vm::{DecisionCertificate, Refusal, Relinquish, SlotCertificate};
use quorate_verifier::protocol::Refused;
use tokio::sync::mpsc;

use super::active::refusal;
use super::{Agent, Fatal, refused};
use crate::clock::{monotonic_ms, monotonic_ns};
use crate::inquiries::fresh;
use crate::migration::source::{Effect, Input, Source};
use crate::ordering::check_migration;
use crate::protocol::{FromHost, Migrate, Progress, Report, ToHost};
use crate::timeline::Timeline;
use crate::vm_thread::SlotState;
use destination::converse;

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
