//! `Begin`, `Handover`, `Abort` and `Recover`.

use quorate_attest::VerifyError;
use quorate_attest::id::{Generation, OperationId, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::statement::Kind;
use quorate_attest::vm::{Action, Decision, Refusal, Relinquish, SlotCertificate};

use super::vms::check_owner;
use super::{Control, Entry};
use crate::command::AbortEvidence;
use crate::outcome::{Answer, Failure, Outcome};
use crate::state::{Head, Migration, Phase};

impl Control {
    pub(super) fn begin(
        &mut self,
        entry: Entry,
        id: VmId,
        destination: PublicKey,
        generation: Generation,
    ) -> Outcome {
        let vm = self.live(&id)?;
        check_owner(&entry, vm)?;
        self.check_settled(vm)?;
        self.check_host(&destination)?;
        if vm.host == destination {
            return Err(Failure::conflict(format!("VM {} runs on that host", vm.spec.name)));
        }
        let mut vm = vm.clone();
        let generation = Self::take_generation(&mut vm, Some(generation))?;
        let source = vm.host;
        let decision = self.decision(&entry, id, generation, Action::Migrate { source, destination });
        let migration = Migration {
            vm: id,
            generation,
            source,
            destination,
            author: entry.author,
            begun: entry.index,
            phase: Phase::Begun,
            decision: decision.clone(),
            ended: None,
        };
        vm.migration = Some((entry.operation, migration));
        self.place_under_way(entry.operation, id);
        self.put_vm(id, vm);
        Ok(Answer::Decided(decision))
    }

    pub(super) fn handover(
        &mut self,
        entry: Entry,
        operation: OperationId,
        relinquish: Relinquish,
    ) -> Outcome {
        let migration = self.known_migration(&operation)?.clone();
        if !entry.is_operator() && !migration.concerns(&entry.author) {
            return Err(Failure::not_authorized(format!("host {} has no part in it", entry.author)));
        }
        let id = migration.vm;
        let vm = self.live(&id)?;
        match migration.phase {
            Phase::Begun => {}
            Phase::Granted | Phase::Activated if grants_after(&migration.decision, &relinquish) => {
                return Ok(Answer::Decided(self.reissued(&migration.decision)));
            }
            _ => return Err(self.decided_otherwise(&operation, &migration)),
        }
        let head = self.check_relinquish(id, vm, &relinquish, &migration.destination)?;
        let mut vm = vm.clone();
        let decision = self.grant(&entry, &mut vm, migration.generation, head, migration.destination);
        if let Some((_, current)) = &mut vm.migration {
            current.phase = Phase::Granted;
            current.decision = decision.clone();
        }
        self.put_vm(id, vm);
        Ok(Answer::Decided(decision))
    }

    pub(super) fn abort(
        &mut self,
        entry: Entry,
        id: VmId,
        operation: OperationId,
        evidence: AbortEvidence,
    ) -> Outcome {
        let migration = self.known_migration(&operation)?.clone();
        let vm = self.live(&migration.vm)?;
        if migration.vm != id {
            return Err(VerifyError::WrongVm { want: migration.vm, got: id }.into());
        }
        let owns = vm.owner == entry.author;
        if !entry.is_operator() && !owns && !migration.concerns(&entry.author) {
            return Err(Failure::not_authorized(format!("key {} has no part in it", entry.author)));
        }
        match evidence {
            AbortEvidence::NotStopped => self.abort_running(entry, operation, migration, Phase::Aborted),
            AbortEvidence::Relinquished(relinquish) => {
                self.abort_stopped(entry, operation, migration, &relinquish)
            }
            AbortEvidence::Declined(refusal) => self.abort_declined(entry, operation, migration, &refusal),
        }
    }

    /// The source runs on. Nothing is granted.
    fn abort_running(
        &mut self,
        entry: Entry,
        operation: OperationId,
        migration: Migration,
        phase: Phase,
    ) -> Outcome {
        let vm = migration.vm;
        match migration.phase {
            Phase::Begun => {
                self.end_under_way(&entry, vm, phase, None);
                Ok(Answer::Aborted { vm, migration: operation })
            }
            ended if ended == phase && !is_grant(&migration.decision) => {
                Ok(Answer::Aborted { vm, migration: operation })
            }
            _ => Err(self.decided_otherwise(&operation, &migration)),
        }
    }

    /// The source has stopped and goes on in a new generation. Also after the migration was given up: a source that
    /// relinquished before it heard of that has no other way back.
    fn abort_stopped(
        &mut self,
        entry: Entry,
        operation: OperationId,
        migration: Migration,
        relinquish: &Relinquish,
    ) -> Outcome {
        let source = migration.source;
        match migration.phase {
            Phase::Begun => {}
            Phase::Aborted | Phase::Declined if grants_after(&migration.decision, relinquish) => {
                return Ok(Answer::Decided(self.reissued(&migration.decision)));
            }
            Phase::Aborted | Phase::Declined if !is_grant(&migration.decision) => {}
            _ => return Err(self.decided_otherwise(&operation, &migration)),
        }
        let id = migration.vm;
        let vm = self.live(&id)?;
        if !vm.grants.is_empty() || vm.host != source {
            return Err(self.decided_otherwise(&operation, &migration));
        }
        let head = self.check_relinquish(id, vm, relinquish, &source)?;
        let mut vm = vm.clone();
        let generation = match migration.phase {
            Phase::Begun => migration.generation,
            _ => Self::take_generation(&mut vm, None)?,
        };
        let decision = self.grant(&entry, &mut vm, generation, head, source);
        let under_way = vm.migration.take();
        self.put_vm(id, vm);
        if let Some(ended) = under_way {
            let phase = if ended.0 == operation { Phase::Aborted } else { Phase::Superseded };
            self.finish(&entry, ended, phase, Some(&decision));
        }
        if migration.phase != Phase::Begun {
            self.amend_finished(&operation, &decision);
        }
        Ok(Answer::Decided(decision))
    }

    /// The destination refuses: before its grant nothing is granted, after it the source is granted the next generation.
    fn abort_declined(
        &mut self,
        entry: Entry,
        operation: OperationId,
        migration: Migration,
        refusal: &Refusal,
    ) -> Outcome {
        if refusal.host != migration.destination {
            return Err(VerifyError::KeyRoleMismatch { role: "destination", got: refusal.host }.into());
        }
        if refusal.generation != migration.generation {
            let (have, got) = (migration.generation, refusal.generation);
            return Err(VerifyError::FencedGeneration { have, got }.into());
        }
        let id = migration.vm;
        let config = self.verifiers.config(refusal.epoch)?;
        refusal.verify(&config.expected(id, Kind::REFUSAL))?;
        match migration.phase {
            Phase::Granted => {}
            Phase::Declined if is_grant(&migration.decision) => {
                return Ok(Answer::Decided(self.reissued(&migration.decision)));
            }
            _ => return self.abort_running(entry, operation, migration, Phase::Declined),
        }
        let Action::Grant { slot, statement, .. } = migration.decision.action else {
            return Err(self.decided_otherwise(&operation, &migration));
        };
        let mut vm = self.live(&id)?.clone();
        let generation = Self::take_generation(&mut vm, None)?;
        let decision = self.grant(&entry, &mut vm, generation, Head { slot, statement }, migration.source);
        self.put_vm(id, vm);
        self.end_under_way(&entry, id, Phase::Declined, Some(&decision));
        Ok(Answer::Decided(decision))
    }

    pub(super) fn recover(
        &mut self,
        entry: Entry,
        id: VmId,
        host: PublicKey,
        generation: Generation,
        certificate: &SlotCertificate,
    ) -> Outcome {
        let vm = self.live(&id)?;
        self.check_host(&host)?;
        let head = self.check_slot(id, vm, certificate)?;
        let mut vm = vm.clone();
        let generation = Self::take_generation(&mut vm, Some(generation))?;
        vm.head = Some(head);
        let decision = self.grant(&entry, &mut vm, generation, head, host);
        self.put_vm(id, vm);
        self.end_under_way(&entry, id, Phase::Superseded, Some(&decision));
        Ok(Answer::Decided(decision))
    }

    fn known_migration(&self, operation: &OperationId) -> Result<&Migration, Failure> {
        self.migration(operation)
            .ok_or_else(|| Failure::not_found(format!("migration {operation} is not known")))
    }

    /// Takes the migration under way out of its VM and keeps it as ended.
    fn end_under_way(&mut self, entry: &Entry, id: VmId, phase: Phase, decision: Option<&Decision>) {
        let Some(mut vm) = self.vms.get(&id).cloned() else { return };
        if let Some(ended) = vm.migration.take() {
            self.put_vm(id, vm);
            self.finish(entry, ended, phase, decision);
        }
    }

    /// The failure of who comes second, with the decision of who came first.
    fn decided_otherwise(&self, operation: &OperationId, migration: &Migration) -> Failure {
        let how = match migration.phase {
            Phase::Begun => "is under way",
            Phase::Granted => "was granted to its destination",
            Phase::Activated => "is complete",
            Phase::Aborted => "was given up",
            Phase::Declined => "was declined by its destination",
            Phase::Superseded => "was overtaken",
        };
        let at = migration.ended.unwrap_or(migration.decision.index);
        let text = format!("migration {operation} {how} at log index {at}");
        let newest = self.vms.get(&migration.vm).and_then(|vm| vm.newest_grant());
        let winner = Some(&migration.decision).filter(|decision| is_grant(decision)).or(newest);
        Failure::conflict(text).against(winner.map(|winner| self.reissued(winner)))
    }
}

fn is_grant(decision: &Decision) -> bool {
    matches!(decision.action, Action::Grant { .. })
}

/// Whether the decision is the grant that follows this very relinquishment.
fn grants_after(decision: &Decision, relinquish: &Relinquish) -> bool {
    let wanted =
        Action::Grant { slot: relinquish.slot, statement: relinquish.statement, host: relinquish.successor };
    decision.vm == relinquish.vm && decision.action == wanted
}
