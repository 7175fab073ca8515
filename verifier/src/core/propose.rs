//! `Propose`: from a host's statement to this verifier's attestation.

use std::cmp::Ordering;
use std::sync::Arc;

use quorate_attest::VerifyError;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{Equivocation, Mode, Proposal, SlotStatement};
use quorate_vmm::Position;

use super::head::cosign;
use super::transition::{check_inputs, check_link, compare, observed_at_genesis};
use super::{Effect, Evidence, Observed, Pending, Record, Refusal, Signed, VmCore, behind, need_state, send};
use crate::protocol::{Attested, FromVerifier, NeedActivation, Propose};

/// A proposal that passed every check but the one of the state itself.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) proposal: Proposal,
    /// Inputs up to the proposed slot.
    pub(super) input_log: Frontier<Sha256Tree>,
    /// Inputs of the transition that ends in it.
    pub(super) inputs: Arc<Vec<Vec<u8>>>,
}

impl Candidate {
    pub(super) fn statement(&self) -> &SlotStatement {
        &self.proposal.statement
    }
}

/// Where a proposal stands.
enum Place {
    /// At the newest signature.
    Signed,
    /// Directly above the head.
    Next,
    /// Further above.
    Above,
}

impl VmCore {
    pub(super) fn propose(&mut self, now: u64, propose: Propose) -> Result<Vec<Effect>, Refusal> {
        let Propose { proposal, inputs } = propose;
        self.check_not_stopped()?;
        let (statement, group) = (&proposal.statement, &self.context.group);
        let fresh = group.fresh(statement.group, statement.epoch);
        let members = group.past(statement.group, statement.epoch).or_else(|_| fresh.clone())?;
        statement.check(&members.expected(self.vm, Kind::PROPOSAL))?;
        let generation = statement.body.generation;
        match generation.cmp(&self.state.generation) {
            Ordering::Less => {
                return Err(Refusal::FencedGeneration { have: self.state.generation, got: generation });
            }
            Ordering::Greater => return Ok(vec![send(FromVerifier::NeedActivation(NeedActivation {}))]),
            Ordering::Equal => {}
        }
        self.check_host(&proposal)?;
        let place = self.place(statement)?;
        // What is signed already is only repeated; everything else would be a new signature.
        if !matches!(place, Place::Signed) {
            fresh?;
        }
        match place {
            Place::Signed => Ok(self.asked_again(proposal)),
            Place::Above if self.must_adopt() => Ok(vec![need_state(self.state.chain.next())]),
            Place::Above => Ok(vec![behind(self.state.chain.next())]),
            Place::Next => self.consider(now, proposal, inputs),
        }
    }

    fn check_host(&self, proposal: &Proposal) -> Result<(), Refusal> {
        let host = proposal.statement.body.host;
        if host != self.state.host {
            return Err(VerifyError::KeyRoleMismatch { role: "host of this generation", got: host }.into());
        }
        Ok(proposal.verify()?)
    }

    /// Compares the place of a statement with the newest signature and with the head.
    fn place(&self, statement: &SlotStatement) -> Result<Place, Refusal> {
        let place = (statement.body.generation, statement.slot);
        if let Some(signed) = self.state.signed.as_ref().map(Signed::place) {
            match place.cmp(&signed) {
                Ordering::Equal => return Ok(Place::Signed),
                Ordering::Less => return Err(Refusal::StaleSlot { have: signed.1, got: statement.slot }),
                Ordering::Greater => {}
            }
        }
        let next = self.state.chain.next();
        match statement.slot.cmp(&next) {
            Ordering::Less => {
                Err(Refusal::StaleSlot { have: next.previous().unwrap_or_default(), got: statement.slot })
            }
            Ordering::Equal => Ok(Place::Next),
            Ordering::Greater => Ok(Place::Above),
        }
    }

    /// Whether the slots between the head and the start of this generation belong to hosts that may not propose any
    /// more, so that only their certificate helps.
    fn must_adopt(&self) -> bool {
        self.state.start.as_ref().is_some_and(|start| self.state.chain.next() <= start.slot)
    }

    fn asked_again(&self, proposal: Proposal) -> Vec<Effect> {
        let Some(signed) = &self.state.signed else { return Vec::new() };
        if proposal.statement == *signed.statement() {
            return vec![send(FromVerifier::Attested(attested(signed)))];
        }
        let slot = proposal.statement.slot;
        let pair = Equivocation { first: signed.proposal.clone(), second: proposal };
        vec![
            Effect::StoreEvidence(Box::new(Evidence::Equivocation(Box::new(pair)))),
            super::refused(&Refusal::EquivocationEvidence { slot }),
        ]
    }

    /// Checks everything but the state, then has the state checked in the way of this verifier's mode.
    fn consider(
        &mut self,
        now: u64,
        proposal: Proposal,
        inputs: Vec<Vec<u8>>,
    ) -> Result<Vec<Effect>, Refusal> {
        let statement = &proposal.statement;
        let body = &statement.body;
        if let Some(have) = self.state.fenced_by(body.generation, statement.slot) {
            return Err(Refusal::FencedGeneration { have, got: body.generation });
        }
        let replays = self.context.mode == Mode::Replayed;
        if replays && body.platform != self.context.platform {
            return Err(Refusal::PlatformMismatch { field: "platform" });
        }
        if self.must_adopt() {
            return Ok(vec![need_state(self.state.chain.next())]);
        }
        check_link(&self.state.spec, self.state.chain.head(), statement)?;
        let Some(log) = self.state.chain.input_log() else {
            return Ok(vec![need_state(self.state.chain.next())]);
        };
        let input_log = check_inputs(&self.state.spec, log, body, &inputs)?;
        let candidate = Candidate { input_log, inputs: Arc::new(inputs), proposal };
        if self.state.chain.head().is_none() {
            compare(&candidate.statement().body, &observed_at_genesis(&self.genesis))?;
            return Ok(self.attest(now, candidate));
        }
        if !replays {
            return Ok(self.draw(candidate));
        }
        self.replay(candidate)
    }

    fn replay(&mut self, candidate: Candidate) -> Result<Vec<Effect>, Refusal> {
        let Some(head) = self.state.chain.head() else {
            return Err(Refusal::Unexpected { message: "replay" });
        };
        let mut effects = Vec::new();
        if self.machine != Some(head.digest()) {
            // The state before the first instruction comes from the image; any other has to be pulled.
            if self.state.chain.next().get() != 1 {
                return Ok(vec![need_state(self.state.chain.next())]);
            }
            effects.push(Effect::Boot);
        }
        // Until it has ended well, the machine is nowhere.
        self.machine = None;
        let body = &candidate.statement().body;
        let until = Position { inputs: body.end_input, doorbells: body.doorbells };
        effects.push(Effect::Replay { inputs: Arc::clone(&candidate.inputs), until });
        self.pending = Pending::Replay(Box::new(candidate));
        Ok(effects)
    }

    pub(super) fn replayed(
        &mut self,
        now: u64,
        candidate: Candidate,
        result: Result<Observed, Refusal>,
    ) -> Result<Vec<Effect>, Refusal> {
        match result.and_then(|observed| compare(&candidate.statement().body, &observed)) {
            Ok(()) => {
                self.machine = Some(candidate.statement().digest());
                Ok(self.attest(now, candidate))
            }
            // The machine is now somewhere the chain is not. It is loaded again when a better proposal comes.
            Err(refusal) => Ok(vec![Effect::Unload, super::refused(&refusal)]),
        }
    }

    /// Signs. Nothing may be checked after this.
    pub(super) fn attest(&mut self, now: u64, candidate: Candidate) -> Vec<Effect> {
        let Candidate { proposal, input_log, inputs } = candidate;
        let statement = &proposal.statement;
        let place = (statement.body.generation, statement.slot);
        assert!(self.state.signed.as_ref().is_none_or(|signed| signed.place() < place), "places ascend");
        let signer = &self.context.signer;
        let attestation = signer.attest(statement, self.context.mode);
        let cosignature = if self.state.forked {
            String::new()
        } else {
            cosign(&self.context, &self.state, statement, now)
        };
        let signed = Signed { proposal, attestation, cosignature };
        let answer = attested(&signed);
        self.kept.keep(&signed, inputs);
        let persist = self.record(Record::Signed { signed: Box::new(signed), input_log });
        vec![persist, send(FromVerifier::Attested(answer))]
    }
}

fn attested(signed: &Signed) -> Attested {
    Attested {
        slot: signed.statement().slot,
        attestation: signed.attestation,
        cosignature: signed.cosignature.clone(),
    }
}
