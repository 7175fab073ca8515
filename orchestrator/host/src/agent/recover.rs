//! This host takes up a VM whose host is dead: granted by the orchestrators, with a state that verifiers give it.
//!
//! ```text
//! Recover{grant, certificate} ─▶ holds the slot already? ──────────────────────────┐
//!                                no: state from the verifiers, one after another,  │ all checked against the certificate
//!                                a copy on stable storage                          ▼
//!                                                  journal: VM, base, grant, instance ─▶ votes ─▶ journal: generation ─▶ runs
//! ```
//!
//! The grant is durable before votes are asked for, and with it the identity of the instance: after a restart the same votes are
//! asked for again. Before that a crash leaves nothing but a file that nobody reads.

use std::sync::Arc;
use std::time::Duration;

use quorate_attest::encoding::to_bytes;
use quorate_attest::id::{Nonce, Slot};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{ActivationCertificate, Mode, SlotStatement};
use quorate_verifier::protocol::{Done, Refused};

use super::active::{refusal, refused_by};
use super::vm::Vm;
use super::{Agent, Event, Fatal};
use crate::certify::Pipeline;
use crate::conduct::Step;
use crate::handed_out::{HandedOut, Wanted, take};
use crate::inquiries::{InquiryError, activate_question, elect, fresh};
use crate::journal::{Record, Recovery};
use crate::link::Asker;
use crate::protocol::{FromHost, Recover};
use crate::vm_thread::SlotState;

/// Pause before votes are asked for again.
const VOTES_RETRY: Duration = Duration::from_millis(500);

/// A recovery by this host.
#[derive(Debug)]
pub struct Recovering {
    order: Recovery,
    /// Whether the state is here and the grant durable, so that votes may be out.
    voting: bool,
    /// Why it cannot go on; it may be ordered again.
    pub(super) failure: Option<Refused>,
}

impl Agent {
    /// An operator shows this host that it was granted a generation. Answers before the VM runs.
    pub(super) fn recover(&mut self, order: Recover) -> Result<FromHost, Fatal> {
        if let Err(why) = self.check_recovery(&order) {
            return Ok(FromHost::Refused(why));
        }
        let Recover { grant, certificate } = order;
        match &mut self.recovery {
            Some(known) if known.order.grant.decision == grant.decision => {
                if !known.voting && known.failure.is_none() {
                    return Ok(FromHost::Done(Done {}));
                }
                // Votes may have been given for the instance that was named first.
                known.failure = None;
            }
            _ => {
                let instance = Nonce::from_bytes(fresh()?);
                let order = Recovery { grant, certificate, instance };
                self.recovery = Some(Recovering { order, voting: false, failure: None });
            }
        }
        self.emigration = None;
        self.migration = Some(self.handle.new_scope());
        self.go_on_recovering()?;
        Ok(FromHost::Done(Done {}))
    }

    fn check_recovery(&self, order: &Recover) -> Result<(), Refused> {
        let Recover { grant, certificate } = order;
        let decision = &grant.decision;
        let (group, orchestrators) = (&self.loaded.group, &self.loaded.orchestrators);
        let statement = &certificate.statement;
        let of = |error: quorate_attest::VerifyError| refusal(error.kind(), &error);
        let orchestrators = orchestrators.past(decision.group, decision.epoch).map_err(of)?;
        grant.verify(orchestrators, &orchestrators.expected(decision.vm, Kind::DECISION)).map_err(of)?;
        let digest = statement.digest();
        decision.check_grant(decision.generation, statement.slot, digest, &self.key()).map_err(of)?;
        let members = group.past(statement.group, statement.epoch).map_err(of)?;
        certificate.verify(members, &members.expected(decision.vm, Kind::SLOT_SAMPLED)).map_err(of)?;
        if statement.body.generation >= decision.generation {
            return Err(refusal("FencedGeneration", &"the slot belongs to a later generation"));
        }
        let (platform, description) = quorate_vmm::platform::PlatformClass::detect();
        if statement.body.platform != platform {
            return Err(refusal("PlatformMismatch", &format!("this host is {description}")));
        }
        let occupied = self.immigration.is_some()
            || self.vm.as_ref().is_some_and(|vm| vm.running && vm.id != decision.vm);
        if occupied {
            return Err(refusal("HostOccupied", &"this host already holds a VM; one process serves one VM"));
        }
        let overtaken =
            |vm: &Vm| vm.id == decision.vm && (vm.running || vm.generation >= decision.generation);
        if self.vm.as_ref().is_some_and(overtaken) {
            return Err(refusal("FencedGeneration", &"this host cannot take the VM up"));
        }
        Ok(())
    }

    /// Whether a recovery needs this host's only place for a VM.
    pub(super) fn is_recovering(&self) -> bool {
        self.recovery.as_ref().is_some_and(|recovering| recovering.failure.is_none())
    }

    fn go_on_recovering(&mut self) -> Result<(), Fatal> {
        let Some(Recovering { order, voting, .. }) = &self.recovery else { return Ok(()) };
        if *voting {
            self.ask_for_granted_votes(Duration::ZERO);
            return Ok(());
        }
        if self.holds(&order.certificate.statement) {
            let record = Record::Recovery(order.clone());
            tokio::task::block_in_place(|| self.journal.append(&record))?;
            self.vote();
            return Ok(());
        }
        let wanted = Wanted {
            group: Arc::clone(&self.loaded.group),
            grant: order.grant.clone(),
            certificate: order.certificate.clone(),
            path: self.journal.pulled_path(),
        };
        let (askers, agent) = (self.replayers_first(), self.migration_handle());
        tokio::spawn(async move {
            let refused =
                |verifier: u16, why: &Refused| agent.note(why.clone(), &format!("verifier {verifier}"));
            let taken = take(&askers, &wanted, refused).await;
            agent.send(Event::HandedOut(Box::new(taken)));
        });
        Ok(())
    }

    fn holds(&self, statement: &SlotStatement) -> bool {
        self.vm.as_ref().is_some_and(|vm| vm.head.as_ref() == Some(statement) && !vm.gone)
    }

    /// The verifiers, those first that replayed the granted slot.
    fn replayers_first(&self) -> Vec<Asker> {
        let certificate = self.recovery.as_ref().map(|recovering| &recovering.order.certificate);
        let replayed = |index: u16| {
            let attestations = certificate.into_iter().flat_map(|certificate| &certificate.attestations);
            attestations.into_iter().any(|a| a.verifier == index && a.mode == Mode::Replayed)
        };
        let mut askers = self.askers();
        askers.sort_by_key(|asker| !replayed(asker.index()));
        askers
    }

    /// The state is here, verified and durable, or nobody gave it.
    pub(super) fn state_handed_out(&mut self, taken: Result<HandedOut, Refused>) -> Result<(), Fatal> {
        let Some(recovering) = &mut self.recovery else { return Ok(()) };
        let HandedOut { register, base, arrived } = match taken {
            Ok(taken) => taken,
            Err(why) => {
                recovering.failure = Some(why.clone());
                self.note(why, "recovery");
                return Ok(());
            }
        };
        let order = recovering.order.clone();
        self.drop_vm();
        tokio::task::block_in_place(|| self.journal.recover(&register, &base, &order))?;
        let group = Arc::clone(&self.loaded.group);
        let statement = base.certificate.statement.clone();
        let (execution, checkpoint) = (arrived.execution, arrived.checkpoint);
        let (pages, host) = (checkpoint.pages.clone(), statement.body.host);
        let mut vm = match Vm::with_execution(register, execution, pages, &group, &self.handle, host) {
            Ok(vm) => vm,
            Err(failure) => return self.recovery_fails(refused_by(&failure)),
        };
        vm.generation = statement.body.generation;
        if let Some(activation) = base.activation {
            vm.activated(activation);
        }
        vm.window.remember_statements(&base.history);
        vm.window.remember(base.certificate);
        vm.pipeline = Pipeline::new(group, Some(statement.slot));
        let state = SlotState {
            measurement: checkpoint.measurement(),
            input_root: checkpoint.input_root(),
            first_input: statement.body.first_input,
            end_input: statement.body.end_input,
            inputs: Vec::new(),
            outputs: Vec::new(),
            output_root: statement.body.output_root,
            checkpoint,
            stopped_ns: 0,
            pause_ns: 0,
            replay_ns: 0,
            statements: base.statements.clone(),
        };
        vm.window.state_reached(statement.slot, Arc::new(state));
        vm.statements = base.statements;
        vm.head = Some(statement);
        let next = vm.next_slot();
        self.take_on(vm);
        self.follow_from(next);
        self.reached(Step::BaseLoaded);
        self.vote();
        Ok(())
    }

    /// Takes up a recovery that was durable before a restart. The VM has been rebuilt.
    pub(super) fn resume_recovery(&mut self, order: Recovery) {
        if let Some(vm) = &self.vm {
            vm.window.remember(order.certificate.clone());
        }
        self.migration = Some(self.handle.new_scope());
        self.recovery = Some(Recovering { order, voting: false, failure: None });
        self.vote();
    }

    fn vote(&mut self) {
        if let Some(recovering) = &mut self.recovery {
            recovering.voting = true;
        }
        self.reached(Step::VotesRequested);
        self.ask_for_granted_votes(Duration::ZERO);
    }

    fn ask_for_granted_votes(&self, pause: Duration) {
        let Some(Recovering { order, .. }) = &self.recovery else { return };
        let Recovery { grant, certificate, instance } = order.clone();
        let question = activate_question(&self.loaded.group, grant, None, certificate, instance);
        let Some(question) = question else { return };
        let (askers, group, agent) = (self.askers(), Arc::clone(&self.loaded.group), self.migration_handle());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            agent.send(Event::Elected(elect(&askers, &group, question).await));
        });
    }

    pub(super) fn recovery_counted(
        &mut self,
        result: Result<ActivationCertificate, InquiryError>,
    ) -> Result<(), Fatal> {
        if self.recovery.is_none() {
            return Ok(());
        }
        match result {
            Ok(certificate) => self.run_recovered(certificate),
            // Whoever has voted stays with this instance, so there is nothing to do but to ask again.
            Err(error @ InquiryError::QuorumUnreachable) => {
                self.note(refusal(&error.kind(), &error), "verifiers");
                self.ask_for_granted_votes(VOTES_RETRY);
                Ok(())
            }
            Err(error) => self.recovery_fails(refusal(&error.kind(), &error)),
        }
    }

    fn run_recovered(&mut self, certificate: ActivationCertificate) -> Result<(), Fatal> {
        self.reached(Step::Elected);
        let record = Record::Generation(certificate.clone());
        tokio::task::block_in_place(|| self.journal.append(&record))?;
        self.reached(Step::GenerationDurable);
        self.recovery = None;
        let Some(vm) = &mut self.vm else { return Ok(()) };
        let (generation, slot) = (certificate.activation.generation, certificate.activation.slot);
        vm.activated(certificate);
        vm.running = true;
        vm.thread.run_on();
        if slot == Slot(0) {
            // Its first input is what tells the service who it is.
            vm.thread.input(to_bytes(&vm.register.spec));
        }
        tracing::info!(generation = generation.0, slot = slot.0, "the VM was recovered and runs here");
        self.reached(Step::Running);
        self.tell_generation();
        Ok(())
    }

    fn recovery_fails(&mut self, why: Refused) -> Result<(), Fatal> {
        if let Some(recovering) = &mut self.recovery {
            recovering.failure = Some(why.clone());
        }
        self.note(why, "recovery");
        Ok(())
    }
}
