//! `Activate` and `Activated`: votes for a generation, and the generation that a quorum of them begins.

use std::cmp::Ordering;

use quorate_attest::VerifyError;
use quorate_attest::id::Generation;
use quorate_attest::statement::Kind;
use quorate_attest::vm::{
    Action, Activation, ActivationCertificate, DecisionCertificate, Relinquish, SlotCertificate,
};

use super::{
    CertificateError, Effect, Evidence, Fence, Record, Refusal, Signed, VOTES_MAX, VmCore, done, refused,
    send,
};
use crate::protocol::{Activate, FromVerifier, Voted};

impl VmCore {
    pub(super) fn activate(&mut self, activate: &Activate) -> Vec<Effect> {
        let mut effects = Vec::new();
        // A host that gave its VM up stays bound by that, whatever becomes of the vote.
        if let Some(fence) = activate.relinquish.as_ref().and_then(|relinquish| self.new_fence(relinquish)) {
            effects.push(self.record(Record::Fenced { fence }));
        }
        let answer = match self.vote(activate) {
            Ok(answer) => answer,
            Err(CertificateError::Refused(refusal)) if refusal.is_safety_stop() => self.refuse(refusal),
            Err(CertificateError::Refused(refusal)) => vec![refused(&refusal)],
            Err(CertificateError::Conflict(pair)) => self.conflict(pair),
        };
        effects.extend(answer);
        effects
    }

    fn new_fence(&self, relinquish: &Relinquish) -> Option<Fence> {
        let fence = Fence { generation: relinquish.generation, slot: relinquish.slot };
        // A second, higher relinquishment cannot lift the first; a lower one tightens it.
        let known = self
            .state
            .fences
            .iter()
            .any(|kept| kept.generation == fence.generation && kept.slot <= fence.slot);
        (!known && self.check_relinquish(relinquish).is_ok()).then_some(fence)
    }

    fn check_relinquish(&self, relinquish: &Relinquish) -> Result<(), Refusal> {
        if relinquish.generation != self.state.generation {
            let (have, got) = (self.state.generation, relinquish.generation);
            return Err(Refusal::FencedGeneration { have, got });
        }
        let members = self.context.group.past(relinquish.group, relinquish.epoch)?;
        Ok(relinquish.verify(&members.expected(self.vm, Kind::RELINQUISH), &self.state.host)?)
    }

    fn vote(&mut self, activate: &Activate) -> Result<Vec<Effect>, CertificateError> {
        let Activate { activation, grant, certificate, .. } = activate;
        self.check_not_stopped()?;
        let members = self.context.group.fresh(activation.group, activation.epoch).map_err(Refusal::from)?;
        members.expected(self.vm, Kind::ACTIVATE).check(&activation.to_statement()).map_err(Refusal::from)?;
        match self.state.votes.iter().find(|vote| vote.generation == activation.generation) {
            Some(vote) if vote == activation => return Ok(vec![self.voted(activation)]),
            // Members changed since: the same instance is voted for again, with everything checked anew.
            Some(vote) if vote.is_same_instance(activation) => {}
            Some(_) => return Err(Refusal::DuplicateInstance { generation: activation.generation }.into()),
            None => {}
        }
        self.check_generation(activation.generation)?;
        if !members.is_host(&activation.host) {
            return Err(refuse(VerifyError::KeyRoleMismatch { role: "host", got: activation.host }));
        }
        self.check_grant(activation, grant)?;
        self.check_certificate(certificate)?;
        self.check_start(activation, certificate)?;
        let record =
            Record::Voted { activation: activation.clone(), certificate: Box::new(certificate.clone()) };
        let persist = self.record(record);
        Ok(vec![persist, self.voted(activation)])
    }

    fn voted(&self, activation: &Activation) -> Effect {
        let signer = &self.context.signer;
        let signature = signer.vote(activation);
        send(FromVerifier::Voted(Voted {
            generation: activation.generation,
            verifier: signer.index(),
            signature,
        }))
    }

    /// A later generation, and never one below a vote. A grant may skip generations that were granted in vain.
    fn check_generation(&self, generation: Generation) -> Result<(), Refusal> {
        let fenced = |have| Err(Refusal::FencedGeneration { have, got: generation });
        if generation <= self.state.generation {
            return fenced(self.state.generation);
        }
        if let Some(vote) = self.state.newest_vote().filter(|vote| vote.generation > generation) {
            return fenced(vote.generation);
        }
        let outstanding =
            self.state.votes.iter().filter(|vote| vote.generation > self.state.generation).count();
        if outstanding >= VOTES_MAX {
            return Err(Refusal::QueueFull { queue: "votes" });
        }
        Ok(())
    }

    /// The log decides who may create a generation; this verifier only believes a quorum of orchestrators about it.
    fn check_grant(&self, activation: &Activation, grant: &DecisionCertificate) -> Result<(), Refusal> {
        let decision = &grant.decision;
        if !matches!(decision.action, Action::Grant { .. }) {
            return Err(Refusal::NoActivationCertificate { reason: "the decision grants no generation" });
        }
        activation.check_grant(decision)?;
        // A grant may be older than the orchestrators' present members.
        let orchestrators = self.context.orchestrators.past(decision.group, decision.epoch)?;
        grant.verify(orchestrators, &orchestrators.expected(self.vm, Kind::DECISION)).map_err(|_| {
            Refusal::NoActivationCertificate {
                reason: "the grant is not signed by a quorum of orchestrators",
            }
        })
    }

    /// Checks that the generation starts from the newest slot as far as this verifier can know it.
    fn check_start(&self, activation: &Activation, certificate: &SlotCertificate) -> Result<(), Refusal> {
        let statement = &certificate.statement;
        let digest = statement.digest();
        if (statement.slot, digest) != (activation.slot, activation.statement) {
            return Err(Refusal::Verify(VerifyError::WrongSlot {
                want: activation.slot,
                want_digest: activation.statement,
                got: statement.slot,
                got_digest: digest,
            }));
        }
        let current = self.state.generation;
        if statement.body.generation > current {
            // About generations that this verifier has slept through.
            return Ok(());
        }
        if let Some(start) = &self.state.start {
            let same_slot = statement.slot == start.slot && digest == start.statement;
            if statement.slot < start.slot {
                return Err(Refusal::StaleSlot { have: start.slot, got: statement.slot });
            }
            if statement.body.generation < current && !same_slot {
                return Err(Refusal::FencedGeneration { have: current, got: statement.body.generation });
            }
        }
        match self.state.signed.as_ref().map(Signed::place) {
            Some((generation, have)) if generation == current && have > statement.slot => {
                Err(Refusal::StaleSlot { have, got: statement.slot })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn activated(&mut self, certificate: &ActivationCertificate) -> Result<Vec<Effect>, Refusal> {
        self.check_not_stopped()?;
        let activation = &certificate.activation;
        // A grant of an epoch that is not known here was checked by the quorum that voted.
        let orchestrators = self.context.orchestrators.config(certificate.grant.decision.epoch).ok();
        let members = self.context.group.past(activation.group, activation.epoch)?;
        certificate.verify(members, &members.expected(self.vm, Kind::ACTIVATE), orchestrators)?;
        let have = self.state.generation;
        let known =
            self.state.activation.as_ref().is_some_and(|known| known.activation.is_same_instance(activation));
        match activation.generation.cmp(&have) {
            Ordering::Equal if known => Ok(vec![done()]),
            Ordering::Equal => Ok(self.two_activations(certificate)),
            Ordering::Less => Err(Refusal::FencedGeneration { have, got: activation.generation }),
            Ordering::Greater => {
                let record = Record::Activated { certificate: Box::new(certificate.clone()) };
                Ok(vec![self.record(record), done()])
            }
        }
    }

    fn two_activations(&mut self, second: &ActivationCertificate) -> Vec<Effect> {
        let Activation { slot, generation, .. } = second.activation;
        let mut effects = Vec::new();
        if let Some(first) = self.state.activation.clone() {
            let pair = Evidence::ConflictingActivations(Box::new((first, second.clone())));
            effects.push(Effect::StoreEvidence(Box::new(pair)));
        }
        effects.extend(self.refuse(Refusal::ConflictingCertificates { slot, generation }));
        effects
    }
}

fn refuse(error: VerifyError) -> CertificateError {
    CertificateError::Refused(error.into())
}
