//! A handover is made durable, ordered by the log, certified, and voted for.

use std::sync::Arc;

use quorate_attest::id::{Nonce, Slot};
use quorate_attest::vm::{ActivationCertificate, DecisionCertificate, Relinquish, SlotCertificate};

use crate::agent::active::refusal;
use crate::agent::{Agent, Event, Fatal};
use crate::conduct::Step;
use crate::inquiries::{InquiryError, activate_question, elect, heads_agree};
use crate::journal::Record;
use crate::migration::destination::Input;
use crate::ordering::{Claim, Verdict};

/// Statements shown to the head inquiry as known.
const HISTORY_MAX: u64 = 64;

impl Agent {
    /// Base state and handover on stable storage. Waits for the base checkpoint if it is still being written.
    pub(in crate::agent) fn persist_handover(&mut self) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        if !immigration.base_durable {
            immigration.handover_waits = true;
            return Ok(());
        }
        let Some(handover) = &immigration.handover else { return Ok(()) };
        let last = immigration.last_is_new.then(|| Record::Slot(handover.last.clone()));
        let record = Record::Handover {
            relinquish: handover.relinquish.clone(),
            before: handover.before.clone(),
            order: immigration.order.clone(),
            instance: immigration.instance,
        };
        tokio::task::block_in_place(|| {
            last.iter().try_for_each(|last| self.journal.append(last))?;
            self.journal.append(&record)
        })?;
        self.end_phase("handover durable", 0);
        self.reached(Step::HandoverDurable);
        self.step_immigration(Input::HandoverDurable)
    }

    /// Has the log decide that this host goes on. The operation is the same after a restart.
    pub(super) fn order_handover(&self) {
        let Some(immigration) = &self.immigration else { return };
        let Some(handover) = &immigration.handover else { return };
        let claim = Claim::new(handover.relinquish.clone(), immigration.order.decision.operation);
        let (log, nonce, agent) = (self.log.clone(), immigration.instance, self.migration_handle());
        tokio::spawn(async move {
            agent.send(Event::HandoverOrdered(log.hand_over(&claim, nonce).await));
        });
    }

    pub(in crate::agent) fn handover_ordered(&mut self, verdict: Verdict) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        match verdict {
            Verdict::Granted(grant) => {
                let signatures = grant.signatures.len() as u32;
                immigration.grant = Some(*grant);
                self.end_phase("order of the handover", signatures);
                self.reached(Step::Granted);
                self.step_immigration(Input::Granted)
            }
            Verdict::Overruled(_) => self.step_immigration(Input::Overruled),
            Verdict::Refused(why) => self.immigration_fails(why),
            // Nothing speaks against the handover: the next timeout asks again, or declines.
            Verdict::Unordered(why) => {
                self.note(why, "log");
                Ok(())
            }
        }
    }

    /// Brings the last slot to the verifiers on this host's own links: it does not depend on the source any more.
    pub(super) fn collect_certificate(&mut self, slot: Slot) {
        if let Some(vm) = &mut self.vm
            && let Some(statement) = vm.window.statement(slot)
            && let Err(error) = vm.pipeline.propose(statement, Vec::new())
        {
            tracing::error!(error_kind = error.kind(), %error, "the last slot does not fit the group");
        }
        self.follow_from(slot);
    }

    pub(in crate::agent) fn immigration_certified(&mut self, slot: Slot) -> Result<(), Fatal> {
        // Without a handover no such phase has begun.
        let votes = self.vm.as_ref().and_then(|vm| vm.window.certificate(slot));
        self.end_phase("certificate of slot k", votes.map_or(0, |c| c.attestations.len() as u32));
        self.step_immigration(Input::Certified(slot))
    }

    pub(super) fn ask_heads(&mut self, slot: Slot) {
        let Some(vm) = &self.vm else { return };
        let Some(last) = vm.window.statement(slot) else { return };
        let from = Slot(slot.0.saturating_sub(HISTORY_MAX));
        let history = (from.0..slot.0).filter_map(|slot| vm.window.statement(Slot(slot))).collect();
        let (askers, group, agent) = (self.askers(), Arc::clone(&self.loaded.group), self.migration_handle());
        tokio::spawn(async move {
            agent.send(Event::Heads(heads_agree(askers, group, last, history).await));
        });
    }

    pub(in crate::agent) fn heads_asked(&mut self, result: Result<u32, InquiryError>) -> Result<(), Fatal> {
        match result {
            Ok(votes) => {
                self.end_phase("heads", votes);
                self.step_immigration(Input::HeadsAgree)
            }
            // Nothing speaks against the handover: the next timeout asks again, or declines.
            Err(error @ InquiryError::QuorumUnreachable) => {
                self.note(refusal(&error.kind(), &error), "verifiers");
                Ok(())
            }
            Err(error) => self.immigration_fails(refusal(&error.kind(), &error)),
        }
    }

    pub(super) fn request_votes(&mut self, slot: Slot) {
        let (Some(vm), Some(immigration)) = (&self.vm, &mut self.immigration) else { return };
        let Some(handover) = &immigration.handover else { return };
        let (Some(certificate), Some(grant)) = (vm.window.certificate(slot), immigration.grant.clone())
        else {
            return;
        };
        let relinquish = Some(handover.relinquish.clone());
        immigration.timeline.end("decide", 0, certificate.attestations.len() as u32);
        immigration.timeline.begin("votes");
        let instance = immigration.instance;
        self.reached(Step::VotesRequested);
        self.ask_for_votes(grant, relinquish, certificate, instance);
    }

    /// Asks for votes for this host.
    pub(in crate::agent) fn ask_for_votes(
        &self,
        grant: DecisionCertificate,
        relinquish: Option<Relinquish>,
        certificate: SlotCertificate,
        instance: Nonce,
    ) {
        let question = activate_question(&self.loaded.group, grant, relinquish, certificate, instance);
        let Some(question) = question else { return };
        let (askers, group, agent) = (self.askers(), Arc::clone(&self.loaded.group), self.migration_handle());
        tokio::spawn(async move { agent.send(Event::Elected(elect(&askers, &group, question).await)) });
    }

    pub(in crate::agent) fn votes_counted(
        &mut self,
        result: Result<ActivationCertificate, InquiryError>,
    ) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else {
            return match self.emigration {
                Some(_) => self.own_votes_counted(result),
                None => self.recovery_counted(result),
            };
        };
        match result {
            Ok(certificate) => {
                let generation = certificate.activation.generation;
                immigration.timeline.end("votes", 0, certificate.attestations.len() as u32);
                immigration.timeline.begin("activate");
                immigration.elected = Some(certificate);
                self.reached(Step::Elected);
                self.step_immigration(Input::Elected(generation))
            }
            // Nobody has refused for good: the next timeout asks again.
            Err(InquiryError::QuorumUnreachable) => Ok(()),
            Err(error) => {
                let why = refusal(&error.kind(), &error);
                immigration.failure = Some(why);
                self.step_immigration(Input::VotesRefused)
            }
        }
    }
}
