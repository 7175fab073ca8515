//! Freshness: is the slot that a source hands over really the newest one?
//!
//! An older pair of slots is certified and consistent too, so certificates alone do not stop a rollback. The destination
//! asks all verifiers with a fresh nonce and waits for a quorum of answers. Two quorums meet in an honest verifier, so
//! among any quorum of answers there is one from a verifier that signed the newest certified slot. A claim of a newer slot
//! counts only with the source host's own signature under it: no set of lying verifiers can invent one and block an honest
//! migration, and a source that signed beyond the slot it hands over convicts itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Nonce, Slot, StatementDigest};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{HeadAnswer, Proposal, SlotStatement};

/// Why the heads speak against the handover.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadRefusal {
    /// A verifier holds a newer slot that the source itself signed.
    #[error("the source hands over slot {got}, but verifier {verifier} signed its slot {have}", got = got.0, have = have.0)]
    Stale {
        /// Newest slot seen.
        have: Slot,
        /// Slot handed over.
        got: Slot,
        /// Who showed it.
        verifier: u16,
    },
    /// The source signed two different statements for one slot.
    #[error("the source signed two different statements for slot {slot} (shown by verifier {verifier})", slot = slot.0)]
    Equivocation {
        /// The slot.
        slot: Slot,
        /// Who showed the other statement.
        verifier: u16,
        /// The other statement with the source's signature.
        other: Box<Proposal>,
    },
}

impl HeadRefusal {
    /// Stable identifier of threats.md.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stale { .. } => "StaleSlot",
            Self::Equivocation { .. } => "EquivocationEvidence",
        }
    }
}

/// Collects head answers for one handover.
#[derive(Debug)]
pub struct Heads {
    group: Arc<GroupConfig>,
    nonce: Nonce,
    history: BTreeMap<Slot, StatementDigest>,
    last: SlotStatement,
    answered: Vec<bool>,
}

impl Heads {
    /// `last` is the slot handed over, `history` the earlier slots that this host has verified, `nonce` the fresh value
    /// of this inquiry.
    pub fn new(
        group: Arc<GroupConfig>,
        nonce: Nonce,
        last: SlotStatement,
        history: Vec<SlotStatement>,
    ) -> Self {
        let known =
            history.iter().chain([&last]).map(|statement| (statement.slot, statement.digest())).collect();
        let answered = vec![false; group.members.len()];
        Self { group, nonce, history: known, last, answered }
    }

    /// Adds one answer. Answers with a wrong signature, nonce or VM are ignored (`Ok(false)`); `Ok(true)` once a quorum
    /// of distinct verifiers answered and nothing speaks against the handover.
    pub fn add(&mut self, answer: &HeadAnswer) -> Result<bool, HeadRefusal> {
        let index = usize::from(answer.verifier);
        let expected = self.group.expect(self.last.vm, Kind::HEAD);
        let genuine = answer.verify(&self.group, &expected, &self.nonce).is_ok();
        if !genuine || index >= self.answered.len() {
            return Ok(self.is_quorum());
        }
        if let Some(proposal) = &answer.proposal {
            self.check(answer.verifier, proposal)?;
        }
        self.answered[index] = true;
        Ok(self.is_quorum())
    }

    fn check(&self, verifier: u16, proposal: &Proposal) -> Result<(), HeadRefusal> {
        let shown = &proposal.statement;
        let same_chain = shown.vm == self.last.vm && shown.body.generation == self.last.body.generation;
        if !same_chain || shown.body.host != self.last.body.host || proposal.verify().is_err() {
            return Ok(());
        }
        if shown.slot > self.last.slot {
            return Err(HeadRefusal::Stale { have: shown.slot, got: self.last.slot, verifier });
        }
        match self.history.get(&shown.slot) {
            Some(known) if *known != shown.digest() => Err(HeadRefusal::Equivocation {
                slot: shown.slot,
                verifier,
                other: Box::new(proposal.clone()),
            }),
            _ => Ok(()),
        }
    }

    fn is_quorum(&self) -> bool {
        let answers = self.answered.iter().filter(|answered| **answered).count() as u64;
        self.group.rule().is_ok_and(|rule| answers >= rule.quorum())
    }
}
