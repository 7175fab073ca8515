//! What the source sends: slots, which are replayed, and the handover.

use std::sync::Arc;

use quorate_attest::id::Slot;
use quorate_verifier::core::measurement_of;
use quorate_verifier::protocol::Propose;

use crate::agent::active::{refusal, refused_by};
use crate::agent::vm::Vm;
use crate::agent::{Agent, Event, Fatal};
use crate::clock::monotonic_ns;
use crate::conduct::Step;
use crate::journal::Record;
use crate::migration::destination::Input;
use crate::protocol::{Handover, ToHost};
use crate::vm_thread::{SlotState, VmFailure};

/// Slots that may arrive before the base state is in place: as many as a source keeps.
const QUEUED_MAX: usize = 4096;
/// Bytes of inputs that they may have.
const QUEUED_BYTES_MAX: usize = 64 << 20;

impl Agent {
    pub(in crate::agent) fn source_said(&mut self, message: Option<ToHost>) -> Result<(), Fatal> {
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

    pub(super) fn replay(&mut self, slot: Slot) {
        let Some(vm) = &self.vm else { return };
        let Some(propose) = vm.window.proposal(slot) else { return };
        let until = measurement_of(&propose.proposal.statement).position;
        let (agent, remote, inputs) = (self.migration_handle(), vm.thread.remote(), propose.inputs.clone());
        // The VM thread takes control messages in order, so replays cannot overtake each other.
        let replay = remote.replay(inputs, until);
        tokio::spawn(async move { agent.send(Event::Replayed(slot, Box::new(replay.await))) });
    }

    pub(in crate::agent) fn slot_replayed(
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
}
