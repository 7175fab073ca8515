//! The VM comes back after it was relinquished, or turns out to run elsewhere: what the log and the verifiers say.

use std::sync::Arc;

use quorate_attest::vm::{ActivationCertificate, Relinquish};

use crate::agent::active::refusal;
use crate::agent::{Agent, Event, Fatal};
use crate::inquiries::{InquiryError, Superseded, who_runs};
use crate::journal::Record;
use crate::migration::source::Input;
use crate::ordering::{Claim, Verdict};

impl Agent {
    /// Asks the log for a generation in which this host may go on.
    pub(super) fn order_abort(&self) {
        let Some(emigration) = &self.emigration else { return };
        let Some(given_away) = emigration.relinquish.clone() else { return };
        let mine = Relinquish { successor: self.key(), ..given_away }.signed(&self.loaded.key);
        let claim = Claim::new(mine, emigration.migration);
        let (declined, nonce) = (emigration.refusal.clone(), emigration.instance);
        let (log, agent) = (self.log.clone(), self.migration_handle());
        tokio::spawn(async move {
            agent.send(Event::AbortOrdered(log.take_back(&claim, declined.as_ref(), nonce).await));
        });
    }

    pub(in crate::agent) fn abort_ordered(&mut self, verdict: Verdict) -> Result<(), Fatal> {
        let Some(emigration) = &mut self.emigration else { return Ok(()) };
        match verdict {
            Verdict::Granted(grant) => {
                emigration.grant = Some(*grant);
                self.step_emigration(Input::Granted)
            }
            Verdict::Overruled(grant) => {
                emigration.winner = Some(*grant);
                self.step_emigration(Input::Overruled)
            }
            Verdict::Refused(why) | Verdict::Unordered(why) => {
                self.note(why, "log");
                self.step_emigration(Input::Unordered)
            }
        }
    }

    /// Asks for votes for this host, in the generation that it was granted.
    pub(super) fn request_own_votes(&self) {
        let (Some(vm), Some(emigration)) = (&self.vm, &self.emigration) else { return };
        let (Some(grant), Some(slot)) = (emigration.grant.clone(), vm.head_slot()) else { return };
        let Some(certificate) = vm.window.certificate(slot) else {
            // The last slot is not certified yet; its certificate, or the next timeout, asks again.
            return;
        };
        self.ask_for_votes(grant, emigration.relinquish.clone(), certificate, emigration.instance);
    }

    pub(in crate::agent) fn own_votes_counted(
        &mut self,
        result: Result<ActivationCertificate, InquiryError>,
    ) -> Result<(), Fatal> {
        match result {
            Ok(certificate) => {
                let generation = certificate.activation.generation;
                let record = Record::Generation(certificate.clone());
                tokio::task::block_in_place(|| self.journal.append(&record))?;
                if let Some(vm) = &mut self.vm {
                    vm.activated(certificate);
                }
                self.tell_generation();
                self.step_emigration(Input::Reclaimed(generation))
            }
            Err(error) => {
                self.note(refusal(&error.kind(), &error), "verifiers");
                self.step_emigration(Input::Undecided)
            }
        }
    }

    /// Asks the verifiers whether another host was activated.
    pub(super) fn ask_who_runs(&self) {
        let (Some(vm), Some(emigration)) = (&self.vm, &self.emigration) else { return };
        let Some(generation) = emigration.relinquish.as_ref().map(|relinquish| relinquish.generation) else {
            return;
        };
        let grants = emigration.winner.iter().cloned().collect();
        let (askers, group, agent) = (self.askers(), Arc::clone(&self.loaded.group), self.migration_handle());
        let vm = vm.id;
        tokio::spawn(async move {
            agent.send(Event::WhoRuns(who_runs(askers, group, vm, generation, grants).await));
        });
    }

    pub(in crate::agent) fn who_runs_told(&mut self, superseded: Option<Superseded>) -> Result<(), Fatal> {
        // An activation of this host itself, from before a restart, is found again by asking for votes.
        let me = self.key();
        let other = superseded.filter(|superseded| superseded.activation.host != me);
        let Some(Superseded { activation, certificate }) = other else {
            return self.step_emigration(Input::Undecided);
        };
        if let (Some(vm), Some(certificate)) = (&mut self.vm, certificate) {
            vm.activated(certificate);
        }
        self.step_emigration(Input::Superseded(activation.generation))
    }
}
