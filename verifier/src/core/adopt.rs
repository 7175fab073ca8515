//! `StateOffer`: catching up with what a quorum certified.

use quorate_attest::VerifyError;
use quorate_attest::id::{InputRoot, Slot, StatementDigest};
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{Mode, SlotCertificate, SlotStatement};

use super::transition::{check_link, compare, measurement_of, observed_at_genesis};
use super::{CertificateError, Chain, Effect, Pending, Pull, Record, Refusal, Signed, VmCore, done};
use crate::protocol::{CHAIN_STATEMENTS_MAX, StateOffer};

/// A checked offer, to be recorded once its state has arrived.
#[derive(Debug)]
pub(super) struct Adoption {
    target: SlotStatement,
    /// The new chain; absent when the offered slot is the head already.
    continued: Option<(Chain, Box<SlotCertificate>, bool)>,
}

impl VmCore {
    pub(super) fn offered(&mut self, offer: StateOffer) -> Result<Vec<Effect>, Refusal> {
        self.check_not_stopped()?;
        let (limit, got) = (CHAIN_STATEMENTS_MAX as u64, offer.chain.len() as u64);
        if got > limit {
            return Err(Refusal::TooLarge { what: "number of statements", limit, got });
        }
        if let Some(certificate) = &offer.certificate {
            match self.check_certificate(certificate) {
                Ok(()) => {}
                Err(CertificateError::Refused(refusal)) => return Err(refusal),
                Err(CertificateError::Conflict(pair)) => return Ok(self.conflict(pair)),
            }
        }
        let adoption = self.adoption(&offer)?;
        if self.context.mode == Mode::Sampled {
            return Ok(self.adopt(adoption));
        }
        let pull = Pull {
            address: offer.bulk_address,
            token: offer.token,
            expected: measurement_of(&adoption.target),
            input_log: offer.input_log,
        };
        self.machine = None;
        self.pending = Pending::Pull(Box::new(adoption));
        Ok(vec![Effect::Unload, Effect::Pull(Box::new(pull))])
    }

    pub(super) fn loaded(
        &mut self,
        adoption: Adoption,
        result: Result<(), Refusal>,
    ) -> Result<Vec<Effect>, Refusal> {
        if let Err(refusal) = result {
            return Ok(vec![Effect::Unload, super::refused(&refusal)]);
        }
        self.machine = Some(adoption.target.digest());
        Ok(self.adopt(adoption))
    }

    fn adopt(&mut self, adoption: Adoption) -> Vec<Effect> {
        match adoption.continued {
            None => vec![done()],
            Some((chain, certificate, abandons)) => {
                vec![self.record(Record::Adopted { chain, certificate, abandons }), done()]
            }
        }
    }

    /// Checks an offer whose certificate, if any, verifies.
    fn adoption(&self, offer: &StateOffer) -> Result<Adoption, Refusal> {
        let (chain, abandons) = self.continue_chain(offer)?;
        let target = chain.head().cloned().ok_or(no_certificate())?;
        check_input_log(&target, &offer.input_log)?;
        let unchanged = Some(&target) == self.state.chain.head() && self.state.chain.input_log().is_some();
        match &offer.certificate {
            Some(certificate) if certificate.statement != target => Err(VerifyError::WrongSlot {
                want: target.slot,
                want_digest: target.digest(),
                got: certificate.statement.slot,
                got_digest: certificate.statement.digest(),
            }
            .into()),
            _ if unchanged => Ok(Adoption { target, continued: None }),
            // Without a certificate only a slot that this verifier itself vouched for can be loaded.
            None if !self.is_own(&target) => Err(no_certificate()),
            None => {
                Err(Refusal::LogChainBroken { at: target.body.end_input, reason: "own inputs are unknown" })
            }
            Some(certificate) => {
                Ok(Adoption { target, continued: Some((chain, Box::new(certificate.clone()), abandons)) })
            }
        }
    }

    fn is_own(&self, target: &SlotStatement) -> bool {
        self.state.signed.as_ref().is_some_and(|signed| signed.statement() == target)
    }

    /// The present chain continued by the offered statements, and whether that leaves out a signed statement.
    ///
    /// The statements may begin at or below the head: then a quorum went another way than this verifier was led.
    fn continue_chain(&self, offer: &StateOffer) -> Result<(Chain, bool), Refusal> {
        let mut chain = self.state.chain.clone();
        let (Some(first), Some(last)) = (offer.chain.first(), offer.chain.last()) else {
            chain.append(&[], offer.input_log.clone());
            return Ok((chain, false));
        };
        let next = chain.next();
        if first.slot > next {
            return Err(Refusal::LogChainBroken { at: first.body.first_input, reason: "slots are missing" });
        }
        if last.slot.next().is_none_or(|after| after < next) {
            return Err(Refusal::StaleSlot { have: next.previous().unwrap_or_default(), got: last.slot });
        }
        let abandons = first.slot < next && {
            chain.step_back_to(first.slot, &StatementDigest::ZERO);
            self.leaves_out_signed(first.slot, &offer.chain)
        };
        self.check_chain(chain.head(), chain.next(), &offer.chain)?;
        chain.append(&offer.chain, offer.input_log.clone());
        Ok((chain, abandons))
    }

    fn leaves_out_signed(&self, from: Slot, offered: &[SlotStatement]) -> bool {
        let Some(signed) = self.state.signed.as_ref().map(Signed::statement) else { return false };
        signed.slot >= from && !offered.contains(signed)
    }

    fn check_chain(
        &self,
        head: Option<&SlotStatement>,
        next: Slot,
        offered: &[SlotStatement],
    ) -> Result<(), Refusal> {
        let mut before = head;
        let mut slot = Some(next);
        for statement in offered {
            let members = self.context.group.past(statement.group, statement.epoch)?;
            statement.check(&members.expected(self.vm, Kind::SLOT_REPLAYED))?;
            let broken = |reason| Refusal::LogChainBroken { at: statement.body.first_input, reason };
            if Some(statement.slot) != slot {
                return Err(broken("slots do not follow each other"));
            }
            if before.is_some_and(|before| before.body.generation > statement.body.generation) {
                return Err(Refusal::FencedGeneration {
                    have: before.map(|before| before.body.generation).unwrap_or_default(),
                    got: statement.body.generation,
                });
            }
            check_link(&self.state.spec, before, statement)?;
            self.check_fixed(statement)?;
            slot = statement.slot.next();
            before = Some(statement);
        }
        Ok(())
    }

    /// Slots whose statement is known without any chain: slot 0, and the one that this generation started from.
    fn check_fixed(&self, statement: &SlotStatement) -> Result<(), Refusal> {
        if statement.slot == Slot::ZERO {
            compare(&statement.body, &observed_at_genesis(&self.genesis))?;
        }
        match &self.state.start {
            Some(start) if start.slot == statement.slot && start.statement != statement.digest() => {
                Err(Refusal::LogChainBroken {
                    at: statement.body.first_input,
                    reason: "not the slot that was activated",
                })
            }
            _ => Ok(()),
        }
    }
}

fn no_certificate() -> Refusal {
    Refusal::Verify(VerifyError::QuorumNotReached { need: 1, got: 0 })
}

fn check_input_log(target: &SlotStatement, log: &Frontier<Sha256Tree>) -> Result<(), Refusal> {
    let body = &target.body;
    if log.size() != body.end_input {
        return Err(Refusal::LogTruncated { want: body.end_input, got: log.size() });
    }
    if body.input_root != InputRoot::from_bytes(log.root()) {
        return Err(Refusal::LogChainBroken { at: body.first_input, reason: "another root of all inputs" });
    }
    Ok(())
}
