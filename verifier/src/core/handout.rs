//! `SlotRequest` and `StateRequest`: what a verifier gives away when the host of a VM is dead.
//!
//! Nothing here is signed anew and nothing is believed by who gets it. A slot travels with the host's signature and its
//! inputs, so that any other verifier can check it as if the host had proposed it itself; a state is compared with the
//! certificate by the host that takes it. So giving away is a question of secrecy and of load, not of safety: inputs
//! and memory hold what clients sent. Slots go to hosts of the group and to operators, a state only to the host that
//! the orchestrators granted the next generation from exactly this slot.

use quorate_attest::VerifyError;
use quorate_attest::id::Slot;
use quorate_attest::key::PublicKey;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{Action, ActivationCertificate, Mode, SlotCertificate, SlotStatement};

use super::kept::Kept;
use super::{Effect, Refusal, Signed, VmCore, behind, send};
use crate::protocol::{FromVerifier, SignedSlot, StateRequest};

/// What goes with the state of the newest slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handout {
    /// The slot.
    pub statement: SlotStatement,
    /// Its certificate, where one was seen.
    pub certificate: Option<SlotCertificate>,
    /// The input log up to it.
    pub input_log: Frontier<Sha256Tree>,
    /// The statement log up to and including it.
    pub statements: Frontier<Sha256Tree>,
    /// The statements directly before it, oldest first.
    pub history: Vec<SlotStatement>,
    /// How the present generation began.
    pub activation: Option<ActivationCertificate>,
}

impl VmCore {
    /// Answers with a slot that this verifier signed.
    pub(super) fn slot_requested(&self, slot: Slot) -> Result<Vec<Effect>, Refusal> {
        let kept = self.kept.slot(slot);
        let newest = self.state.signed.as_ref();
        let (signed, inputs) = match (kept, newest) {
            (Some(Kept { signed, inputs }), _) => (signed, Some((**inputs).clone())),
            (None, Some(signed)) if signed.statement().slot == slot => (signed, inputs_of_none(signed)),
            (None, Some(signed)) if signed.statement().slot > slot => {
                return Err(Refusal::StaleSlot { have: signed.statement().slot, got: slot });
            }
            (None, _) => return Ok(vec![behind(self.state.chain.next())]),
        };
        let answer = SignedSlot {
            proposal: signed.proposal.clone(),
            attestation: signed.attestation,
            inputs,
            activation: self.state.activation.clone(),
            follows: self.follows(),
        };
        Ok(vec![send(FromVerifier::Slot(answer))])
    }

    /// Whether the next slot could be replayed with nothing but its inputs.
    fn follows(&self) -> bool {
        let loaded = match self.state.chain.head() {
            None => true,
            Some(head) => self.machine == Some(head.digest()) || head.slot == Slot::ZERO,
        };
        loaded && self.context.mode == Mode::Replayed && self.state.stopped.is_none()
    }

    /// Whether `asker` may have the state of the newest slot, and what goes with it. The shell has that state: in its
    /// machine, or at slot 0 in the image.
    ///
    /// # Errors
    /// `NoActivationCertificate`, `KeyRoleMismatch`, `FencedGeneration`, `WrongSlot`, `StaleSlot` and those of signatures for a
    /// grant that does not give this host this slot of this generation; `MachineMissing` without the state.
    pub fn hand_out(&self, request: &StateRequest, asker: &PublicKey) -> Result<Handout, Refusal> {
        let (slot, digest) = self.granted(request, asker)?;
        let head = self.state.chain.head();
        let at = head.map(|head| head.slot);
        let Some(head) = head.filter(|head| head.slot == slot) else {
            return Err(match at {
                Some(have) if have > slot => Refusal::StaleSlot { have, got: slot },
                _ => missing("the granted slot has not been seen here"),
            });
        };
        if head.digest() != digest {
            let (want, got) = (slot, head.slot);
            let (want_digest, got_digest) = (digest, head.digest());
            return Err(VerifyError::WrongSlot { want, want_digest, got, got_digest }.into());
        }
        let Some(input_log) = self.state.chain.input_log().filter(|_| self.follows()) else {
            return Err(missing("no machine holds the state of the granted slot"));
        };
        let recent = self.state.chain.recent();
        let certificate = self.state.certificates.iter().find(|kept| kept.statement == *head);
        Ok(Handout {
            statement: head.clone(),
            certificate: certificate.cloned(),
            input_log: input_log.clone(),
            statements: self.state.chain.log(),
            history: recent.split_last().map_or_else(Vec::new, |(_, before)| before.to_vec()),
            activation: self.state.activation.clone(),
        })
    }

    /// The slot that the grant gives to `asker`, if it is one that still counts.
    fn granted(
        &self,
        request: &StateRequest,
        asker: &PublicKey,
    ) -> Result<(Slot, quorate_attest::id::StatementDigest), Refusal> {
        let decision = &request.grant.decision;
        let Action::Grant { slot, statement, .. } = decision.action else {
            return Err(Refusal::NoActivationCertificate { reason: "the decision grants no generation" });
        };
        let orchestrators = self.context.orchestrators.past(decision.group, decision.epoch)?;
        request.grant.verify(orchestrators, &orchestrators.expected(self.vm, Kind::DECISION))?;
        decision.check_grant(decision.generation, request.slot, statement, asker)?;
        if decision.generation <= self.state.generation {
            let (have, got) = (self.state.generation, decision.generation);
            return Err(Refusal::FencedGeneration { have, got });
        }
        Ok((slot, statement))
    }
}

fn missing(detail: &str) -> Refusal {
    Refusal::Replay { kind: "MachineMissing", detail: detail.to_owned() }
}

/// The inputs of a transition without any are known, restart or not.
fn inputs_of_none(signed: &Signed) -> Option<Vec<Vec<u8>>> {
    let body = &signed.statement().body;
    (body.first_input == body.end_input).then(Vec::new)
}
