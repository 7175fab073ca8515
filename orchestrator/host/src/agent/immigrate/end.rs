//! How an immigration ends: the guest runs here, or this host declines for good.

use quorate_attest::encoding::to_bytes;
use quorate_attest::id::{Generation, Slot};
use quorate_attest::key::Signature;
use quorate_attest::vm::Refusal;

use crate::agent::active::refusal;
use crate::agent::vm::Vm;
use crate::agent::{Agent, Fatal};
use crate::clock::monotonic_ns;
use crate::conduct::Step;
use crate::journal::Record;
use crate::migration::destination::Input;
use crate::protocol::{Activated, Declined, FromHost, Report};

impl Agent {
    pub(super) fn persist_generation(&mut self) -> Result<(), Fatal> {
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
    pub(super) fn activate(&mut self, generation: Generation) -> Result<(), Fatal> {
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
    pub(in crate::agent) fn tell_generation(&self) {
        let certificate = self.vm.as_ref().and_then(|vm| vm.activation.borrow().clone());
        let Some(certificate) = certificate.filter(|certificate| certificate.activation.host == self.key())
        else {
            return;
        };
        let log = self.log.clone();
        tokio::spawn(async move { log.activated(certificate).await });
    }

    pub(super) fn decline(&mut self, kind: &'static str) -> Result<(), Fatal> {
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
}
