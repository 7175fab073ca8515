//! How an emigration ends: the guest runs on, or the VM is gone; the operator gets a report.

use quorate_attest::id::{Generation, Nonce, Slot};

use super::Emigration;
use crate::agent::active::refusal;
use crate::agent::vm::Vm;
use crate::agent::{Agent, Fatal};
use crate::inquiries::fresh;
use crate::journal::Record;
use crate::migration::source::Outcome;
use crate::protocol::{FromHost, Report, ToHost};

impl Agent {
    pub(super) fn run_on(&mut self) {
        if let Some(vm) = &mut self.vm {
            vm.running = true;
            vm.thread.run_on();
        }
        self.dismiss_waiters();
    }

    /// The guest never stopped: the VM is free for another migration.
    pub(super) fn order_release(&mut self) -> Result<(), Fatal> {
        let (Some(vm), Some(emigration)) = (&self.vm, &self.emigration) else { return Ok(()) };
        let (log, vm, migration) = (self.log.clone(), vm.id, emigration.migration);
        let nonce = Nonce::from_bytes(fresh()?);
        tokio::spawn(async move { log.release(vm, migration, nonce).await });
        Ok(())
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
    pub(super) fn retire(&mut self) -> Result<(), Fatal> {
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

    pub(super) fn finish_emigration(&mut self, outcome: Outcome) {
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
        let slot = self.vm.as_ref().and_then(Vm::head_slot).unwrap_or(Slot(0));
        if let Some(operator) = emigration.operator.take() {
            let _ = operator.send(FromHost::Report(emigration.report(result, slot)));
        }
    }
}

impl Emigration {
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
