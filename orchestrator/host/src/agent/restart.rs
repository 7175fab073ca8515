//! A host that comes back: the VM is rebuilt from the journal, and runs only if its generation is still the newest.

use std::sync::Arc;
use std::time::Duration;

use quorate_attest::id::{Generation, OperationId, Slot};
use quorate_attest::merkle::Frontier;
use quorate_attest::vm::Relinquish;
use quorate_verifier::core::measurement_of;
use quorate_verifier::protocol::{Propose, Register};
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::execution::Execution;
use quorate_vmm::image::Image;
use quorate_vmm::snapshot::PageSnapshot;

use super::active::{OUTSTANDING_MAX, refusal};
use super::vm::{Vm, admit};
use super::{Agent, Event, Fatal};
use crate::certify::Pipeline;
use crate::inquiries::{Superseded, collect_heads, superseding};
use crate::journal::{Base, Handed, History, Record, Recovery};
use crate::vm_thread::VmFailure;

/// Pause before the verifiers are asked again whether this host may run its VM.
const STANDING_RETRY: Duration = Duration::from_millis(500);

/// Newest slots whose states are rebuilt: as many as could wait for their certificates, the last one of a freeze, and the
/// one before them all.
const STATES_REBUILT: usize = OUTSTANDING_MAX + 2;

/// What a journal says this host may do.
enum Claim {
    /// It ran the VM in this generation.
    Active(Generation),
    /// It gave the VM away and does not know the end.
    Relinquished(Box<Relinquish>, OperationId),
    /// It was given the VM and does not know the end.
    Handed(Box<Propose>, Box<Handed>),
    /// It was granted the VM and may have asked for votes.
    Recovering(Box<Recovery>),
    /// It holds nothing that it could ever activate.
    None,
}

impl Agent {
    /// Takes up what the journal tells.
    ///
    /// # Errors
    /// The VM cannot be rebuilt, or rebuilding it does not lead to the journalled digests.
    pub async fn restore(&mut self, history: History) -> Result<(), Fatal> {
        let Some(register) = history.register.clone() else { return Ok(()) };
        let claim = self.claim(&history);
        if matches!(claim, Claim::None) {
            tracing::info!("a migration to this host had not been handed over; its state is discarded");
            self.journal.append(&Record::Gone)?;
            return Ok(());
        }
        let vm = self.rebuild(Arc::new(register), &history).await?;
        let (head, base) = (vm.head_slot(), history.base.clone());
        let register = Arc::clone(&vm.register);
        self.take_on(vm);
        tracing::info!(slot = head.map_or(0, |slot| slot.0), "the VM was rebuilt from the journal");
        match claim {
            Claim::Active(generation) => {
                // The log may not have heard of it before this host went down.
                self.tell_generation();
                self.ask_standing(generation, Duration::ZERO);
            }
            Claim::Relinquished(relinquish, migration) => {
                self.follow_recent();
                self.resume_relinquished(*relinquish, migration)?;
            }
            Claim::Handed(last, handed) => {
                if let Some(base) = base {
                    self.resume_handover(register, base, *last, *handed)?;
                }
            }
            Claim::Recovering(recovery) => {
                // What was pulled has no slots after its base; what was held may have some that verifiers lack.
                match history.slots.is_empty() {
                    true => self.follow_from(Slot(head.map_or(0, |slot| slot.0.saturating_add(1)))),
                    false => self.follow_recent(),
                }
                self.resume_recovery(*recovery);
            }
            Claim::None => {}
        }
        Ok(())
    }

    fn claim(&self, history: &History) -> Claim {
        let me = self.key();
        // The base of a shortened journal belongs to this host's own generation, that of an arriving VM does not.
        let is_generation_0 = history.base.as_ref().is_none_or(|base| base.activation.is_none());
        let mine = match (&history.generation, &history.register) {
            (Some(certificate), _) if certificate.activation.host == me => {
                Some(certificate.activation.generation)
            }
            (None, Some(register)) if register.spec.host == me && is_generation_0 => Some(Generation(0)),
            _ => None,
        };
        if let Some(recovery) = &history.recovery
            && mine.is_none_or(|generation| generation < recovery.grant.decision.generation)
        {
            return Claim::Recovering(Box::new(recovery.clone()));
        }
        if let Some((relinquish, migration)) = &history.relinquished
            && mine.is_some_and(|generation| generation <= relinquish.generation)
        {
            return Claim::Relinquished(Box::new(relinquish.clone()), *migration);
        }
        if let Some(generation) = mine {
            return Claim::Active(generation);
        }
        match (&history.handover, history.slots.last(), &history.base) {
            (Some(handed), Some(last), Some(_)) => {
                Claim::Handed(Box::new(last.clone()), Box::new(handed.clone()))
            }
            _ => Claim::None,
        }
    }

    async fn rebuild(&self, register: Arc<Register>, history: &History) -> Result<Vm, Fatal> {
        let image = admit(&register)?;
        let memory_bytes = register.spec.memory_bytes;
        let (earlier, recent) = history.slots.split_at(history.slots.len().saturating_sub(STATES_REBUILT));
        let replayed = earlier.to_vec();
        let base = history.base.clone();
        let slot = base.as_ref().map_or(quorate_attest::id::Slot(0), |base| base.certificate.statement.slot);
        let path = self.journal.base_path(slot);
        let rebuilt = tokio::task::spawn_blocking(move || -> Result<_, VmFailure> {
            let mut execution = match &base {
                None => Execution::genesis(&image, memory_bytes).map_err(|e| VmFailure::of(e.kind(), e))?,
                Some(base) => restore_base(&path, &image, base)?,
            };
            for propose in &replayed {
                replay(&mut execution, propose)?;
            }
            let pages = PageSnapshot::of_machine(execution.machine());
            Ok((execution, pages))
        });
        let (execution, pages) =
            rebuilt.await.map_err(|error| Fatal::System(std::io::Error::other(error)))??;
        let group = Arc::clone(&self.loaded.group);
        let host = register.spec.host;
        let mut vm = Vm::with_execution(register, execution, pages, &group, &self.handle, host)?;
        vm.statements = history.base.as_ref().map_or_else(Frontier::new, |base| base.statements.clone());
        if let Some(base) = &history.base {
            vm.head = Some(base.certificate.statement.clone());
            vm.window.remember_statements(&base.history);
            vm.window.remember(base.certificate.clone());
        }
        for certificate in &history.generations {
            vm.activated(certificate.clone());
        }
        for propose in earlier {
            vm.window.propose(Arc::new(propose.clone()));
            vm.advance(propose.proposal.statement.clone());
        }
        vm.pipeline = Pipeline::new(group, vm.head_slot());
        if earlier.is_empty() && history.base.is_some() {
            self.keep_base_state(&mut vm).await?;
        }
        for propose in recent {
            self.replay_recent(&mut vm, propose).await?;
        }
        Ok(vm)
    }

    /// The state of the base itself, for verifiers that signed nothing newer.
    async fn keep_base_state(&self, vm: &mut Vm) -> Result<(), Fatal> {
        let Some(head) = vm.head.clone() else { return Ok(()) };
        let mut state = vm.thread.remote().cut().await?;
        state.statements = vm.statements.clone();
        vm.window.state_reached(head.slot, Arc::new(state));
        Ok(())
    }

    /// The newest slots are replayed on the VM's own thread, which yields their states. Verifiers that went down together
    /// with this host can go on only from the slot that each of them signed last.
    async fn replay_recent(&self, vm: &mut Vm, propose: &Propose) -> Result<(), Fatal> {
        let statement = propose.proposal.statement.clone();
        let until = measurement_of(&statement).position;
        let mut state = vm.thread.remote().replay(propose.inputs.clone(), until).await?;
        state.compare(&statement).map_err(|error| VmFailure::of(error.kind(), error))?;
        vm.window.propose(Arc::new(propose.clone()));
        vm.advance(statement.clone());
        state.statements = vm.statements.clone();
        vm.window.state_reached(statement.slot, Arc::new(state));
        // The outputs are gone, but their clients repeat the requests and the guest repeats the replies.
        vm.pipeline.propose(statement, Vec::new()).map_err(|error| VmFailure::of(error.kind(), error))?;
        Ok(())
    }

    /// Finds out whether a newer generation was activated while this host was away.
    fn ask_standing(&self, generation: Generation, pause: Duration) {
        let Some(vm) = &self.vm else { return };
        let (askers, group, agent) = (self.askers(), Arc::clone(&self.loaded.group), self.handle.clone());
        let vm = vm.id;
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let heads = collect_heads(&askers, &group, vm).await;
            let quorum = group.rule().map_or(u64::MAX, |rule| rule.quorum());
            // f + 1 votes contain an honest one: a newer generation may be under way, so this host waits.
            let newer = heads
                .iter()
                .filter(|head| head.vote.as_ref().is_some_and(|vote| vote.generation > generation));
            let known = heads.len() as u64 >= quorum && newer.count() as u64 <= group.f;
            agent.send(Event::Standing(superseding(&heads, &group, generation, &[]), known));
        });
    }

    pub(super) fn standing(&mut self, superseded: Option<Superseded>, known: bool) -> Result<(), Fatal> {
        let Some(vm) = &mut self.vm else { return Ok(()) };
        if let Some(superseded) = superseded {
            let have = superseded.activation.generation;
            let detail = format!("generation {} was activated on another host", have.0);
            vm.gone = true;
            self.note(refusal("FencedGeneration", &detail), "verifiers");
            self.journal.append(&Record::Gone)?;
            return Ok(());
        }
        if !known {
            let generation = vm.generation;
            self.ask_standing(generation, STANDING_RETRY);
            return Ok(());
        }
        let Some(slot) = vm.head_slot() else { return self.begin_genesis() };
        vm.running = true;
        vm.thread.run_on();
        // A VM that had only slot 0 may not have got its specification yet.
        if slot.0 == 0 {
            let specification = quorate_attest::encoding::to_bytes(&vm.register.spec);
            vm.thread.input(specification);
        }
        self.follow_recent();
        Ok(())
    }

    /// Brings the slots to the verifiers whose states were rebuilt.
    fn follow_recent(&mut self) {
        let first = self.vm.as_ref().and_then(|vm| vm.window.first_state().or(vm.head_slot()));
        if let Some(first) = first {
            self.follow_from(first);
        }
    }
}

fn restore_base(path: &std::path::Path, image: &Image, base: &Base) -> Result<Execution, VmFailure> {
    let read = || {
        let checkpoint = Checkpoint::read(path)?;
        checkpoint.require(&measurement_of(&base.certificate.statement))?;
        checkpoint.restore(image)
    };
    read().map_err(|error| VmFailure::of(error.kind(), error))
}

fn replay(execution: &mut Execution, propose: &Propose) -> Result<(), VmFailure> {
    let until = measurement_of(&propose.proposal.statement).position;
    execution.replay(&propose.inputs, until).map_err(|error| VmFailure::of(error.kind(), error))?;
    execution.cut().map_err(|error| VmFailure::of(error.kind(), error))?;
    Ok(())
}
