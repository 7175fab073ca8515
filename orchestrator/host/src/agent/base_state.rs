//! The base state of a VM that arrives: pulled, verified, taken on, and made durable.
//!
//! ```text
//! pull ──▶ machine in place ──▶ slots that came meanwhile are replayed ──▶ further slots
//!               └──▶ copy on stable storage ──▶ the source hears `Loaded`, then `Replayed`
//! ```
//!
//! The source stops the guest soon after it hears that the destination has caught up. It hears so only when the base is
//! durable, so that nobody waits for a disk while the guest stands still.

use std::sync::Arc;
use std::time::Duration;

use quorate_attest::id::Slot;
use quorate_verifier::protocol::{Refused, Register};
use tokio::sync::mpsc;

use super::active::{refusal, refused_by};
use super::immigrate::Arrived;
use super::vm::{Vm, admit};
use super::{Agent, Event, Fatal};
use crate::conduct::Step;
use crate::journal::Record;
use crate::migration::destination::Input;
use crate::protocol::{FromHost, Loaded, Progress, Replayed};
use crate::pull;

/// How often a source hears that its base state is being stored.
const STORING_PROGRESS: Duration = Duration::from_millis(500);

impl Agent {
    /// Pulls the base state, verified page by page, and makes a copy of it durable.
    pub(super) fn spawn_pull(
        &self,
        slot: Slot,
        order: pull::Order,
        register: &Arc<Register>,
        answers: mpsc::UnboundedSender<FromHost>,
    ) {
        let (agent, register) = (self.migration_handle(), Arc::clone(register));
        let base_path = self.journal.base_path(slot);
        let reporter = agent.clone();
        tokio::task::spawn_blocking(move || {
            let progress = move |done, total| {
                let progress = Progress { phase: "base state".into(), done, total };
                let _ = answers.send(FromHost::Progress(progress));
                reporter.send(Event::Pulling);
            };
            let arrived = admit(&register)
                .map_err(|failure| refused_by(&failure))
                .and_then(|image| pull::pull(&order, &image, &progress));
            let kept = arrived.as_ref().ok().map(|arrived| (arrived.checkpoint.clone(), arrived.moved.pages));
            agent.send(Event::Arrived(Box::new(arrived)));
            // The copy on stable storage is made while the destination already follows.
            if let Some((checkpoint, pages)) = kept {
                let alive = tokio::spawn(repeat(progress, pages));
                let written = checkpoint.write_full(&base_path).map_err(|error| error.to_string());
                alive.abort();
                agent.send(Event::BaseDurable(written));
            }
        });
    }

    pub(super) fn base_arrived(&mut self, result: Result<Arrived, Refused>) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        let arrived = match result {
            Ok(arrived) => arrived,
            Err(why) => return self.immigration_fails(why),
        };
        immigration.timeline.end("base state", arrived.moved.bytes, 0);
        immigration.timeline.begin("following");
        immigration.timeline.begin("base durable");
        immigration.moved = arrived.moved;
        let (register, base) = (Arc::clone(&immigration.register), immigration.base.clone());
        let statement = base.certificate.statement.clone();
        let host = statement.body.host;
        let (execution, pages) = (arrived.execution, arrived.checkpoint.pages);
        let group = Arc::clone(&self.loaded.group);
        let mut vm = match Vm::with_execution(register, execution, pages, &group, &self.handle, host) {
            Ok(vm) => vm,
            Err(failure) => return self.immigration_fails(refused_by(&failure)),
        };
        vm.generation = statement.body.generation;
        if let Some(activation) = base.activation {
            vm.activated(activation);
        }
        vm.statements = base.statements;
        vm.window.remember_statements(&base.history);
        vm.window.remember(base.certificate);
        vm.head = Some(statement.clone());
        vm.pipeline = crate::certify::Pipeline::new(group, Some(statement.slot));
        self.take_on(vm);
        self.reached(Step::BaseLoaded);
        self.step_immigration(Input::Loaded)?;
        if self.conduct.runs_unactivated() {
            self.run_guest();
            self.vm.iter().for_each(|vm| vm.thread.run_on());
        }
        Ok(())
    }

    pub(super) fn base_durable(&mut self, result: Result<(), String>) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        if let Err(error) = result {
            return self.immigration_fails(refusal("StorageSyncFailed", &error));
        }
        let record = Record::Base(immigration.base.clone());
        tokio::task::block_in_place(|| self.journal.append(&record))?;
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        immigration.base_durable = true;
        immigration.timeline.end("base durable", immigration.moved.bytes, 0);
        let replayed = immigration.replayed_waits.take();
        if std::mem::take(&mut immigration.loaded_waits) {
            self.answer_loaded();
            replayed.into_iter().for_each(|slot| self.report_replayed(slot));
        }
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        if std::mem::take(&mut immigration.handover_waits) { self.persist_handover() } else { Ok(()) }
    }

    /// Takes up the slots that arrived before the base. The source hears of the base once it is durable.
    pub(super) fn report_loaded(&mut self) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        let queued = std::mem::take(&mut immigration.queued);
        immigration.loaded_waits = !immigration.base_durable;
        if immigration.base_durable {
            self.answer_loaded();
        }
        for (_, propose) in queued {
            if let Err(why) = self.accept_slot(&propose) {
                return self.immigration_fails(why);
            }
            let record = Record::Slot(propose);
            tokio::task::block_in_place(|| self.journal.append(&record))?;
        }
        Ok(())
    }

    fn answer_loaded(&self) {
        if let Some(immigration) = &self.immigration {
            let slot = immigration.base.certificate.statement.slot;
            self.answer_source(FromHost::Loaded(Loaded { slot }));
        }
    }

    pub(super) fn report_replayed(&mut self, slot: Slot) {
        match &mut self.immigration {
            Some(immigration) if immigration.loaded_waits => immigration.replayed_waits = Some(slot),
            _ => self.answer_source(FromHost::Replayed(Replayed { slot })),
        }
    }
}

/// Says again and again that all pages are here: the source waits for what follows.
async fn repeat(progress: impl Fn(u64, u64), pages: u64) {
    loop {
        tokio::time::sleep(STORING_PROGRESS).await;
        progress(pages, pages);
    }
}
