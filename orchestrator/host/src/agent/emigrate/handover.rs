//! What the destination gets: an offer, the slots cut meanwhile, and the handover.

use std::sync::Arc;

use quorate_attest::id::Slot;
use quorate_attest::vm::{Relinquish, SlotCertificate};
use quorate_verifier::protocol::Propose;

use crate::agent::active::refused_by;
use crate::agent::{Agent, Event, Fatal};
use crate::conduct::Step;
use crate::journal::Record;
use crate::migration::source::Input;
use crate::protocol::{HISTORY_STATEMENTS_MAX, Handover, Offer, ToHost};
use crate::vm_thread::{SlotState, VmFailure};

impl Agent {
    pub(super) fn send_offer(&mut self) {
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

    pub(super) fn forward(&mut self, slot: Slot) -> Result<(), Fatal> {
        let (Some(vm), Some(emigration)) = (&self.vm, &self.emigration) else { return Ok(()) };
        let Some(propose) = vm.window.proposal(slot) else { return Ok(()) };
        match self.conduct.forward((*propose).clone()) {
            Some(propose) => emigration.send(ToHost::Slot(propose)),
            None if self.conduct.pretends_caught_up() => self.step_emigration(Input::Replayed(slot))?,
            None => {}
        }
        Ok(())
    }

    pub(super) fn freeze(&mut self) {
        let (Some(vm), Some(emigration)) = (&mut self.vm, &mut self.emigration) else { return };
        emigration.timeline.end("following", 0, 0);
        emigration.timeline.begin("stop and checkpoint");
        vm.cutting = true;
        let remote = vm.thread.remote();
        let agent = self.handle.clone();
        let frozen = remote.freeze();
        tokio::spawn(async move { agent.send(Event::Frozen(Box::new(frozen.await))) });
    }

    pub(in crate::agent) fn frozen(&mut self, result: Result<SlotState, VmFailure>) -> Result<(), Fatal> {
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

    pub(super) fn persist_relinquish(&mut self, slot: Slot) -> Result<(), Fatal> {
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

    pub(super) fn send_handover(&mut self, slot: Slot) {
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
}
