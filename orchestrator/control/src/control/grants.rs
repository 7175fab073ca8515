//! The right to a generation: given by a decision, used by an activation, bounded by the newest slot.

use quorate_attest::VerifyError;
use quorate_attest::id::{Epoch, Generation, OperationId, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::statement::Kind;
use quorate_attest::vm::{Action, ActivationCertificate, Decision, Relinquish, SlotCertificate};

use super::{Control, Entry, Place};
use crate::outcome::{Answer, Failure, Outcome};
use crate::state::{Active, GRANTS_LIMIT, Head, Migration, Phase, Vm};

impl Control {
    pub(super) fn decision(
        &self,
        entry: &Entry,
        vm: VmId,
        generation: Generation,
        action: Action,
    ) -> Decision {
        Decision {
            group: self.orchestrators.id(),
            epoch: self.orchestrators.current().epoch,
            vm,
            generation,
            operation: entry.operation,
            index: entry.index,
            action,
        }
    }

    /// Takes the next generation that nobody has asked for. The author must know which one that is.
    pub(super) fn take_generation(
        vm: &mut Vm,
        generation: Option<Generation>,
    ) -> Result<Generation, Failure> {
        let next = vm.next_generation;
        if let Some(expected) = generation.filter(|expected| *expected != next) {
            let text = format!("generation {next} of VM {} is next, not {expected}", vm.spec.name);
            return Err(Failure::conflict(text).against(vm.newest_grant().cloned()));
        }
        let Some(after) = next.next() else {
            return Err(Failure::limit("generations are exhausted"));
        };
        vm.next_generation = after;
        Ok(next)
    }

    /// Grants a generation to a host and keeps the grant until it is used.
    pub(super) fn grant(
        &self,
        entry: &Entry,
        vm: &mut Vm,
        generation: Generation,
        head: Head,
        host: PublicKey,
    ) -> Decision {
        let action = Action::Grant { slot: head.slot, statement: head.statement, host };
        let decision = self.decision(entry, vm.spec.id(), generation, action);
        let place = vm.grants.partition_point(|known| known.generation < generation);
        vm.grants.insert(place, decision.clone());
        if vm.grants.len() > GRANTS_LIMIT {
            vm.grants.remove(0);
        }
        decision
    }

    /// Ends the migration under way of a VM that the caller is about to store.
    pub(super) fn finish(
        &mut self,
        entry: &Entry,
        (id, migration): (OperationId, Migration),
        phase: Phase,
        decision: Option<&Decision>,
    ) {
        let decision = decision.cloned().unwrap_or(migration.decision);
        self.put_finished(id, Migration { phase, decision, ended: Some(entry.index), ..migration });
    }

    /// Whether nobody moves the VM and nobody holds an unused grant.
    pub(super) fn check_settled(&self, vm: &Vm) -> Result<(), Failure> {
        if let Some((id, migration)) = &vm.migration {
            let text = format!(
                "migration {id} to generation {} was begun by {} at log index {}",
                migration.generation, migration.author, migration.begun
            );
            return Err(Failure::conflict(text).against(Some(self.reissued(&migration.decision))));
        }
        if let Some(decision) = vm.grants.last() {
            let text = format!(
                "generation {} was granted at log index {} and is not active yet",
                decision.generation, decision.index
            );
            return Err(Failure::conflict(text).against(Some(self.reissued(decision))));
        }
        Ok(())
    }

    /// Checks that a slot is not behind, nor beside, the newest one that is known.
    pub(super) fn check_not_behind(vm: &Vm, slot: Head) -> Result<(), Failure> {
        match vm.head {
            Some(head) if slot.slot < head.slot => {
                Err(Failure::stale(format!("slot {} is older than the head, slot {}", slot.slot, head.slot)))
            }
            Some(head) if slot.slot == head.slot && slot.statement != head.statement => {
                Err(VerifyError::WrongSlot {
                    want: head.slot,
                    want_digest: head.statement,
                    got: slot.slot,
                    got_digest: slot.statement,
                }
                .into())
            }
            _ => Ok(()),
        }
    }

    /// Checks the word of the host that runs the VM, for this successor.
    pub(super) fn check_relinquish(
        &self,
        id: VmId,
        vm: &Vm,
        relinquish: &Relinquish,
        successor: &PublicKey,
    ) -> Result<Head, Failure> {
        if relinquish.generation != vm.generation {
            let (have, got) = (vm.generation, relinquish.generation);
            let failure = Failure::from(VerifyError::FencedGeneration { have, got });
            return Err(failure.against(vm.newest_grant().map(|grant| self.reissued(grant))));
        }
        if relinquish.successor != *successor {
            return Err(VerifyError::KeyRoleMismatch { role: "successor", got: relinquish.successor }.into());
        }
        // A host's word holds in the epoch in which it was given: a frozen source cannot take it back.
        let config = self.verifiers.config(relinquish.epoch)?;
        relinquish.verify(&config.expected(id, Kind::RELINQUISH), &vm.host)?;
        let head = Head { slot: relinquish.slot, statement: relinquish.statement };
        Self::check_not_behind(vm, head)?;
        Ok(head)
    }

    /// Checks a certified slot of the VM that is offered as its newest one.
    pub(super) fn check_slot(
        &self,
        id: VmId,
        vm: &Vm,
        certificate: &SlotCertificate,
    ) -> Result<Head, Failure> {
        let statement = &certificate.statement;
        let config = self.verifiers.config(statement.epoch)?;
        certificate.verify(config, &config.expected(id, Kind::SLOT_SAMPLED))?;
        let head = Head { slot: statement.slot, statement: statement.digest() };
        if statement.body.generation >= vm.next_generation {
            let (have, got) = (vm.generation, statement.body.generation);
            return Err(VerifyError::FencedGeneration { have, got }.into());
        }
        Self::check_not_behind(vm, head)?;
        if vm.head != Some(head) {
            // Members of a retired epoch could certify slots that never were; what they certified in time is known.
            self.verifiers.check_fresh(statement.epoch)?;
        }
        Ok(head)
    }

    pub(super) fn head(&mut self, entry: Entry, certificate: &SlotCertificate) -> Outcome {
        let id = certificate.statement.vm;
        let vm = self.live(&id)?;
        if !entry.is_operator() && !vm.concerns(&entry.author) {
            return Err(Failure::not_authorized(format!("host {} has no part in the VM", entry.author)));
        }
        let head = self.check_slot(id, vm, certificate)?;
        if vm.head != Some(head) {
            let record = Vm { head: Some(head), ..vm.clone() };
            self.put_vm(id, record);
        }
        Ok(Answer::Recorded { vm: id, slot: head.slot })
    }

    pub(super) fn activate(&mut self, entry: Entry, certificate: &ActivationCertificate) -> Outcome {
        let activation = &certificate.activation;
        let (id, generation) = (activation.vm, activation.generation);
        let vm = self.live(&id)?;
        if !entry.is_operator() && activation.host != entry.author && !vm.concerns(&entry.author) {
            return Err(Failure::not_authorized(format!("host {} has no part in the VM", entry.author)));
        }
        let config = self.verifiers.config(activation.epoch)?;
        certificate.verify(config, &config.expected(id, Kind::ACTIVATE), None)?;
        let active = vm.active.as_ref();
        if active.is_some_and(|active| active.activation == activation.digest()) {
            return Ok(Answer::Activated { vm: id, generation });
        }
        let winner = active.map(|active| self.reissued(&active.grant));
        if generation < vm.generation {
            let failure =
                Failure::from(VerifyError::FencedGeneration { have: vm.generation, got: generation });
            return Err(failure.against(winner));
        }
        if generation == vm.generation {
            let text = format!("another activation of generation {generation} is recorded");
            return Err(Failure::conflict(text).against(winner));
        }
        let Some(grant) = vm.grants.iter().find(|grant| grant.generation == generation).cloned() else {
            let text = format!("generation {generation} of VM {} was not granted", vm.spec.name);
            return Err(Failure::conflict(text).against(vm.newest_grant().map(|grant| self.reissued(grant))));
        };
        grant.check_grant(generation, activation.slot, activation.statement, &activation.host)?;
        if !self.is_cause(&grant, activation.cause) {
            return Err(VerifyError::Inconsistent { reason: "activation names another decision" }.into());
        }
        let head = Head { slot: activation.slot, statement: activation.statement };
        let mut vm = vm.clone();
        vm.generation = generation;
        vm.host = activation.host;
        vm.head = Some(vm.head.filter(|known| known.slot >= head.slot).unwrap_or(head));
        vm.grants.retain(|grant| grant.generation > generation);
        vm.active = Some(Active { activation: activation.digest(), grant: grant.clone() });
        if let Some(ended) = vm.migration.take_if(|(_, migration)| migration.generation == generation) {
            self.finish(&entry, ended, Phase::Activated, Some(&grant));
        }
        self.put_vm(id, vm);
        Ok(Answer::Activated { vm: id, generation })
    }

    /// Whether a digest is that of the grant, signed in its own or in a later epoch.
    fn is_cause(&self, grant: &Decision, cause: quorate_attest::id::StatementDigest) -> bool {
        let epochs = grant.epoch.get()..=self.orchestrators.current().epoch.get();
        epochs.into_iter().any(|epoch| Decision { epoch: Epoch(epoch), ..grant.clone() }.digest() == cause)
    }

    /// Marks where a migration that begins is kept.
    pub(super) fn place_under_way(&mut self, id: OperationId, vm: VmId) {
        self.places.insert(id, Place::UnderWay(vm));
    }

    /// Takes an ended migration of a snapshot into the quick forms; answers whether it is new.
    pub(crate) fn load_finished(&mut self, count: u64, finished: crate::state::Finished) -> bool {
        let new = self.places.insert(finished.id, Place::Finished(count)).is_none();
        self.finished.insert(count, finished);
        new
    }

    /// Sets how many migrations have ended, for a snapshot.
    pub(crate) fn load_finished_count(&mut self, count: u64) {
        self.finished_count = count;
    }
}
