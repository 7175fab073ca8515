//! Everything about an arriving VM that is checked before it is believed.

use std::sync::Arc;

use quorate_attest::id::Generation;
use quorate_attest::key::PublicKey;
use quorate_attest::statement::Kind;
use quorate_attest::vm::SlotStatement;
use quorate_verifier::core::{check_inputs, check_link};
use quorate_verifier::protocol::{Propose, Refused};

use super::Agent;
use super::active::refusal;
use crate::ordering::check_migration;
use crate::protocol::{HISTORY_STATEMENTS_MAX, Handover, Offer};

impl Agent {
    /// Everything about an offer that can be checked before any state moves.
    pub(super) fn check_offer(&self, offer: &Offer, source: &PublicKey) -> Result<(), Refused> {
        let group = &self.loaded.group;
        let of = |error: &quorate_attest::VerifyError| refusal(error.kind(), error);
        let vm = offer.spec.id();
        let statement = &offer.base.statement;
        let members = group.past(statement.group, statement.epoch).map_err(|e| of(&e))?;
        offer.base.verify(members, &members.expected(vm, Kind::SLOT_SAMPLED)).map_err(|e| of(&e))?;
        let body = &statement.body;
        // The slot may stem from the generation before the source's own, which began with exactly this slot.
        let (generation, host) = match &offer.activation {
            None => (Generation(0), offer.spec.host),
            Some(activation) => {
                let began = &activation.activation;
                let members = group.past(began.group, began.epoch).map_err(|e| of(&e))?;
                activation
                    .verify(members, &members.expected(vm, Kind::ACTIVATE), None)
                    .map_err(|e| of(&e))?;
                (activation.activation.generation, activation.activation.host)
            }
        };
        if host != *source || body.generation > generation {
            return Err(refusal("KeyRoleMismatch", &"the VM's active host is another one"));
        }
        let decision = &offer.order.decision;
        let orchestrators =
            self.loaded.orchestrators.past(decision.group, decision.epoch).map_err(|e| of(&e))?;
        let receiver = check_migration(orchestrators, &offer.order, vm, generation, source)?;
        if receiver != self.key() {
            return Err(refusal("WrongMigration", &"the order lets another host receive the VM"));
        }
        if offer.input_log.size() != body.end_input || offer.input_log.root() != *body.input_root.as_bytes() {
            return Err(refusal("LogChainBroken", &"the input log does not belong to the offered slot"));
        }
        if offer.statements.size() != statement.slot.0.saturating_add(1) {
            return Err(refusal("LogChainBroken", &"the statement log does not end at the offered slot"));
        }
        if !leads_to(&offer.history, statement) {
            return Err(refusal("LogChainBroken", &"the earlier statements do not lead to the offered slot"));
        }
        let (platform, description) = quorate_vmm::platform::PlatformClass::detect();
        if body.platform != platform {
            return Err(refusal("PlatformMismatch", &format!("this host is {description}")));
        }
        Ok(())
    }

    /// Checks a slot as a verifier would, and appends it to the chain.
    pub(super) fn accept_slot(&mut self, propose: &Propose) -> Result<(), Refused> {
        let (Some(vm), Some(immigration)) = (&mut self.vm, &self.immigration) else {
            return Err(refusal("LogChainBroken", &"no base state yet"));
        };
        let statement = &propose.proposal.statement;
        let members = self.loaded.group.past(statement.group, statement.epoch);
        members
            .and_then(|members| statement.check(&members.expected(vm.id, Kind::SLOT_REPLAYED)))
            .map_err(|e| refusal(e.kind(), &e))?;
        propose.proposal.verify().map_err(|e| refusal(e.kind(), &e))?;
        if statement.body.host != immigration.source || statement.body.generation != vm.generation {
            return Err(refusal("FencedGeneration", &"the slot belongs to another host or generation"));
        }
        if statement.slot != vm.next_slot() {
            return Err(refusal("LogChainBroken", &"slots must follow each other"));
        }
        let spec = &vm.register.spec;
        check_link(spec, vm.head.as_ref(), statement).map_err(|e| refusal(e.kind(), &e))?;
        vm.input_log = check_inputs(spec, &vm.input_log, &statement.body, &propose.inputs)
            .map_err(|e| refusal(e.kind(), &e))?;
        vm.window.propose(Arc::new(propose.clone()));
        vm.advance(statement.clone());
        Ok(())
    }

    /// Whether the source gave this VM to this host, at a slot that continues a certified one.
    pub(super) fn check_handover(&self, handover: &Handover) -> Result<(), Refused> {
        let (Some(vm), Some(immigration)) = (&self.vm, &self.immigration) else {
            return Err(refusal("LogChainBroken", &"no base state yet"));
        };
        let group = &self.loaded.group;
        let statement = &handover.last.proposal.statement;
        let of = |e: quorate_attest::VerifyError| refusal(e.kind(), &e);
        let relinquish = &handover.relinquish;
        let members = group.past(relinquish.group, relinquish.epoch).map_err(of)?;
        relinquish.verify(&members.expected(vm.id, Kind::RELINQUISH), &immigration.source).map_err(of)?;
        let names = relinquish.slot == statement.slot
            && relinquish.statement == statement.digest()
            && relinquish.generation == vm.generation
            && relinquish.successor == self.key();
        if !names {
            return Err(refusal(
                "NoActivationCertificate",
                &"Relinquish names another slot, generation or successor",
            ));
        }
        let before = &handover.before;
        let members = group.past(before.statement.group, before.statement.epoch).map_err(of)?;
        before.verify(members, &members.expected(vm.id, Kind::SLOT_SAMPLED)).map_err(of)?;
        if before.statement.digest() != statement.body.previous {
            return Err(refusal("LogChainBroken", &"the certificate is not of the slot before"));
        }
        Ok(())
    }
}

/// Whether earlier statements, oldest first, are linked to each other and to the base by their digests.
pub(crate) fn leads_to(history: &[SlotStatement], base: &SlotStatement) -> bool {
    let next = history.iter().skip(1).chain([base]);
    history.len() <= HISTORY_STATEMENTS_MAX
        && history.iter().zip(next).all(|(statement, next)| {
            statement.slot.next() == Some(next.slot) && next.body.previous == statement.digest()
        })
}
