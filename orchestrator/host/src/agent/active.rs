//! Slots of the active instance: when they are cut, made durable, proposed, certified and released.

use std::cmp::Ordering;
use std::sync::Arc;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::Slot;
use quorate_attest::merkle::{Sha256Tree, TreeHash, inclusion_proof};
use quorate_attest::request::Reply;
use quorate_attest::vm::SlotCertificate;
use quorate_verifier::protocol::Propose;
use tokio::sync::mpsc;

use super::{Agent, Event, Fatal};
use crate::clock::monotonic_ms;
use crate::conduct::Step;
use crate::journal::{Base, History, Record};
use crate::link::{LinkEvent, LinkedVm};
use crate::migration::source::Input;
use crate::protocol::{Answer, FromHost, HISTORY_STATEMENTS_MAX};
use crate::statement::{Frame, describe};
use crate::vm_thread::{Emitted, SlotState, VmEvent, VmFailure};

/// Slots that may wait for their certificate before the guest is held back.
pub(super) const OUTSTANDING_MAX: usize = 4;

impl Agent {
    /// Starts a new VM: slot 0 is proposed as it is, then the guest gets its specification as input 0 and runs.
    pub(super) fn begin_genesis(&mut self) -> Result<(), Fatal> {
        self.follow_from(Slot(0));
        self.run_guest();
        let Some(vm) = &mut self.vm else { return Ok(()) };
        let specification = quorate_attest::encoding::to_bytes(&vm.register.spec);
        // Slot 0 is cut before the guest's first instruction: control messages go before inputs.
        vm.cutting = true;
        self.spawn_cut();
        if let Some(vm) = &self.vm {
            vm.thread.run_on();
            vm.thread.input(specification);
        }
        Ok(())
    }

    /// Marks the instance as the active one.
    pub(super) fn run_guest(&mut self) {
        if let Some(vm) = &mut self.vm {
            vm.running = true;
        }
    }

    /// Brings all slots from `first` on to the verifiers.
    pub(super) fn follow_from(&mut self, first: Slot) {
        let Some(vm) = &self.vm else { return };
        let linked = LinkedVm {
            register: Arc::clone(&vm.register),
            window: Arc::clone(&vm.window),
            states: Arc::clone(&self.states),
            activation: vm.activation.subscribe(),
        };
        let (sender, mut events) = mpsc::unbounded_channel();
        for link in &mut self.links {
            link.follow(linked.clone(), first, Arc::clone(&self.conduct), sender.clone());
        }
        let agent = self.handle.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                agent.send(Event::Link(event));
            }
        });
    }

    pub(super) fn guest_said(&mut self, event: VmEvent) {
        match event {
            VmEvent::Progress | VmEvent::SlotFull => {
                if let Some(vm) = &mut self.vm {
                    vm.dirty = true;
                }
                if matches!(event, VmEvent::SlotFull) {
                    self.cut_when_due();
                }
            }
            VmEvent::Output(emitted) => self.release_emitted(emitted),
            VmEvent::Log(line) => tracing::info!(target: "guest", "{line}"),
            VmEvent::Ended(failure) => {
                if let Some(vm) = &mut self.vm {
                    vm.running = false;
                }
                self.note(refused_by(&failure), "guest");
            }
        }
    }

    /// Cuts a slot if something happened since the last one and the pipeline has room.
    pub(super) fn cut_when_due(&mut self) {
        let paced = self.emigration.as_ref().is_none_or(|emigration| emigration.core.may_cut());
        let Some(vm) = &mut self.vm else { return };
        if vm.running && vm.dirty && !vm.cutting && paced && vm.pipeline.outstanding() < OUTSTANDING_MAX {
            vm.cutting = true;
            vm.dirty = false;
            self.spawn_cut();
        }
    }

    fn spawn_cut(&self) {
        let Some(vm) = &self.vm else { return };
        let (agent, remote) = (self.handle.clone(), vm.thread.remote());
        let cut = remote.cut();
        tokio::spawn(async move { agent.send(Event::Cut(Box::new(cut.await))) });
    }

    pub(super) fn slot_cut(&mut self, result: Result<SlotState, VmFailure>) -> Result<(), Fatal> {
        if let Some(vm) = &mut self.vm {
            vm.cutting = false;
        }
        match result {
            Ok(state) => {
                if let Some(slot) = self.end_slot(state)? {
                    self.step_emigration(Input::Cut(slot))?;
                }
            }
            Err(failure) => self.note(refused_by(&failure), "guest"),
        }
        Ok(())
    }

    /// Describes, signs and journals a slot, then proposes it.
    pub(super) fn end_slot(&mut self, mut state: SlotState) -> Result<Option<Slot>, Fatal> {
        self.reached(Step::SlotCut);
        // Outputs of an `Immediate` VM have left already.
        if self.conduct.releases_uncertified() {
            self.release(&state.outputs, None);
        }
        let key = self.loaded.key.clone();
        let Some(vm) = &mut self.vm else { return Ok(None) };
        let frame = Frame {
            group: &self.loaded.group,
            spec: &vm.register.spec,
            generation: vm.generation,
            host: key.public(),
            platform: vm.platform,
        };
        let statement = describe(&frame, vm.next_slot(), vm.head_digest(), &state);
        let (slot, outputs) = (statement.slot, state.outputs.clone());
        let proposal = quorate_attest::vm::Proposal::sign(statement.clone(), &key);
        let propose = Arc::new(Propose { proposal, inputs: state.inputs.clone() });
        let record = Record::Slot((*propose).clone());
        tokio::task::block_in_place(|| self.journal.append(&record))?;
        self.reached(Step::SlotDurable);
        let Some(vm) = &mut self.vm else { return Ok(None) };
        if let Err(error) = vm.pipeline.propose(statement.clone(), outputs) {
            tracing::error!(error_kind = error.kind(), %error, "a slot of our own does not fit the group");
        }
        vm.slot_clock.durable(slot, &state);
        vm.advance(statement);
        state.statements = vm.statements.clone();
        vm.window.propose(propose);
        vm.window.state_reached(slot, Arc::new(state));
        Ok(Some(slot))
    }

    pub(super) fn verifier_said(&mut self, event: LinkEvent) -> Result<(), Fatal> {
        match event {
            LinkEvent::Attested(index, attested) => {
                let Some(vm) = &mut self.vm else { return Ok(()) };
                vm.window.cosigned(attested.slot, attested.cosignature);
                match vm.pipeline.attested(attested.slot, attested.attestation) {
                    Ok(Some(certified)) => {
                        let certificate = certified.certificate;
                        let slot = certificate.statement.slot;
                        vm.slot_clock.certified(slot);
                        vm.window.certified(certificate.clone());
                        self.release(&certified.outputs, Some(&certificate));
                        self.step_emigration(Input::Certified(slot))?;
                        self.immigration_certified(slot)?;
                        self.shorten_journal(slot);
                        self.cut_when_due();
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let by = self.verifier_name(index);
                        self.note(refusal(error.kind(), &error), &by);
                    }
                }
            }
            LinkEvent::Refused(index, slot, refused) => {
                let by = self.verifier_name(index);
                tracing::debug!(slot = slot.0, verifier = %by, "slot refused");
                self.note(refused, &by);
            }
        }
        Ok(())
    }

    /// Makes the state of a certified slot the base of the journal, when the journal has become long.
    fn shorten_journal(&mut self, slot: Slot) {
        let Some(vm) = &mut self.vm else { return };
        if !self.journal.is_long() || vm.shortening || !vm.running || self.emigration.is_some() {
            return;
        }
        let (Some(certificate), Some(state)) = (vm.window.certificate(slot), vm.window.state(slot)) else {
            return;
        };
        vm.shortening = true;
        let activation = vm.activation.borrow().clone();
        let history = vm.window.history(slot, HISTORY_STATEMENTS_MAX);
        let base = Base { certificate, activation, statements: state.statements.clone(), history };
        let (path, agent) = (self.journal.base_path(slot), self.handle.clone());
        tokio::task::spawn_blocking(move || {
            let written = state.checkpoint.write_full(&path).map_err(|error| error.to_string());
            agent.send(Event::BaseWritten(Box::new(base), written));
        });
    }

    /// The new base is durable: the inputs before it are not needed any more.
    pub(super) fn base_written(&mut self, base: Base, written: Result<(), String>) -> Result<(), Fatal> {
        let Some(vm) = &mut self.vm else { return Ok(()) };
        vm.shortening = false;
        if let Err(error) = written {
            self.note(refusal("StorageSyncFailed", &error), "checkpoint");
            return Ok(());
        }
        if !vm.running || self.emigration.is_some() {
            return Ok(());
        }
        let first = base.certificate.statement.slot.0.saturating_add(1);
        let newest = vm.head_slot().map_or(0, |slot| slot.0);
        let slots =
            (first..=newest).map(|slot| vm.window.proposal(Slot(slot)).map(|propose| (*propose).clone()));
        let Some(slots) = slots.collect() else { return Ok(()) };
        let history = History {
            register: Some((*vm.register).clone()),
            base: Some(base),
            slots,
            generations: vm.activations.clone(),
            ..History::default()
        };
        Ok(tokio::task::block_in_place(|| self.journal.shorten(&history))?)
    }

    /// Tells the log the newest certified slot, now and then: whoever looks there finds a recent one.
    pub(super) fn publish_head(&mut self) {
        let (published, at_ms) = self.published;
        let Some(vm) = self.vm.as_ref().filter(|vm| vm.running) else { return };
        let certified = vm.pipeline.certified().filter(|slot| published.is_none_or(|known| *slot > known));
        let Some(slot) = certified.filter(|_| self.emigration.is_none()) else { return };
        let now_ms = monotonic_ms();
        if now_ms.saturating_sub(at_ms) < self.loaded.config.head_interval_ms {
            return;
        }
        let Some(certificate) = vm.window.certificate(slot) else { return };
        self.published = (Some(slot), now_ms);
        let log = self.log.clone();
        tokio::spawn(async move { log.publish(certificate).await });
    }

    pub(super) fn verifier_name(&self, index: u16) -> String {
        let member = self.loaded.group.members.get(usize::from(index));
        member.map_or_else(|| format!("verifier {index}"), |member| member.name.clone())
    }

    /// Hands outputs to the clients that wait for them.
    pub(super) fn release(&mut self, outputs: &[Vec<u8>], certificate: Option<&SlotCertificate>) {
        let Some(vm) = &self.vm else { return };
        let leaves: Vec<_> = outputs.iter().map(|output| Sha256Tree::leaf(output)).collect();
        let (generation, slot) = certificate.map_or((vm.generation, vm.next_slot()), |certificate| {
            (certificate.statement.body.generation, certificate.statement.slot)
        });
        for (index, output) in (0u64..).zip(outputs) {
            let proof = || {
                certificate.and_then(|_| inclusion_proof::<Sha256Tree>(&leaves, index)).unwrap_or_default()
            };
            self.answer_waiters(output, |output| Answer {
                generation,
                slot,
                index,
                output,
                proof: proof(),
                certificate: certificate.cloned(),
            });
        }
    }

    /// Hands an output to the clients that wait for it, before its slot is cut.
    fn release_emitted(&mut self, emitted: Emitted) {
        let Some(vm) = &self.vm else { return };
        let Emitted { since, index, bytes } = emitted;
        // The slot before it may not have arrived here yet, and its own may have arrived already.
        let slot = match &vm.head {
            None => Slot(1),
            Some(head) => match since.cmp(&head.body.doorbells) {
                Ordering::Less => head.slot,
                Ordering::Equal => vm.next_slot(),
                Ordering::Greater => Slot(vm.next_slot().0.saturating_add(1)),
            },
        };
        let generation = vm.generation;
        let bytes = self.conduct.emitted(bytes);
        self.answer_waiters(&bytes, |output| Answer {
            generation,
            slot,
            index,
            output,
            proof: Vec::new(),
            certificate: None,
        });
    }

    /// Answers whoever waits for the reply that this output is.
    fn answer_waiters(&mut self, output: &[u8], answer: impl FnOnce(Vec<u8>) -> Answer) {
        let Ok(reply) = Reply::decoded(output) else { return };
        let Some(waiting) = self.waiters.remove(&(reply.client, reply.sequence)) else { return };
        let answer = answer(output.to_vec());
        for waiter in waiting {
            // The client may have gone away; it will ask again if it cares.
            let _ = waiter.send(FromHost::Answer(answer.clone()));
        }
    }
}

/// A failure as a refusal.
pub(super) fn refused_by(failure: &VmFailure) -> quorate_verifier::protocol::Refused {
    refusal(&failure.kind, &failure.detail)
}

/// A refusal of a kind.
pub(super) fn refusal(kind: &str, detail: &impl ToString) -> quorate_verifier::protocol::Refused {
    quorate_verifier::protocol::Refused { kind: kind.to_owned(), detail: detail.to_string() }
}
