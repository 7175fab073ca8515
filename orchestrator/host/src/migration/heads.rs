//! Freshness: is the slot that a source hands over really the newest one?
//!
//! An older pair of slots is certified and consistent too, so certificates alone do not stop a rollback. The destination
//! asks all verifiers with a fresh nonce and waits for a quorum of answers. Two quorums meet in an honest verifier, so
//! among any quorum of answers there is one from a verifier that signed the newest certified slot. A claim of a newer slot
//! counts only with the source host's own signature under it: no set of lying verifiers can invent one and block an honest
//! migration, and a source that signed beyond the slot it hands over convicts itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_attest::epoch::GroupChain;
use quorate_attest::id::{Nonce, Slot, StatementDigest};
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
    group: Arc<GroupChain>,
    nonce: Nonce,
    history: BTreeMap<Slot, StatementDigest>,
    last: SlotStatement,
    answered: Vec<bool>,
}

impl Heads {
    /// `last` is the slot handed over, `history` the earlier slots that this host has verified, `nonce` the fresh value
    /// of this inquiry.
    pub fn new(
        group: Arc<GroupChain>,
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
        let genuine = answer.verify_fresh(&self.group, self.last.vm, &self.nonce).is_ok();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::{chain, group, head, source, statement};

    const NONCE: Nonce = Nonce::from_bytes([1; 16]);

    fn heads(group: &Arc<GroupChain>) -> Heads {
        Heads::new(Arc::clone(group), NONCE, statement(group, 8, 0), vec![statement(group, 7, 0)])
    }

    #[test]
    fn a_quorum_of_fresh_heads_without_anything_newer_agrees() {
        let group = chain(&group(4, 1));
        let mut heads = heads(&group);
        let answer = |index, slot| head(&group, index, NONCE, &statement(&group, slot, 0), &source());
        assert_eq!(heads.add(&answer(0, 8)), Ok(false));
        assert_eq!(heads.add(&answer(1, 7)), Ok(false), "a verifier one slot behind is no objection");
        assert_eq!(heads.add(&answer(1, 8)), Ok(false), "one verifier counts once");
        assert_eq!(heads.add(&answer(3, 8)), Ok(true));
    }

    #[test]
    fn rollback_is_stale_when_one_verifier_shows_a_newer_slot_of_the_source() {
        let group = chain(&group(4, 1));
        let mut heads = heads(&group);
        let newer = head(&group, 2, NONCE, &statement(&group, 9, 0), &source());
        assert_eq!(heads.add(&newer), Err(HeadRefusal::Stale { have: Slot(9), got: Slot(8), verifier: 2 }));
    }

    #[test]
    fn fork_is_evidence_against_the_source() {
        let group = chain(&group(4, 1));
        let mut heads = heads(&group);
        let forked = head(&group, 1, NONCE, &statement(&group, 7, 1), &source());
        assert_eq!(heads.add(&forked).map_err(|refusal| refusal.kind()), Err("EquivocationEvidence"));
    }

    #[test]
    fn a_replayed_head_of_another_nonce_does_not_count() {
        let group = chain(&group(4, 1));
        let mut heads = heads(&group);
        for index in 0..4 {
            let old = head(&group, index, Nonce::from_bytes([2; 16]), &statement(&group, 8, 0), &source());
            assert_eq!(heads.add(&old), Ok(false));
        }
    }

    #[test]
    fn lying_verifiers_cannot_block_an_honest_migration_with_an_invented_slot() {
        let group = chain(&group(4, 1));
        let mut heads = heads(&group);
        let invented = {
            let mut statement = statement(&group, 99, 0);
            statement.body.host = crate::tests::fixture::verifier(0).public();
            head(&group, 0, NONCE, &statement, &crate::tests::fixture::verifier(0))
        };
        assert_eq!(heads.add(&invented), Ok(false));
        for index in 1..3 {
            let answer = head(&group, index, NONCE, &statement(&group, 8, 0), &source());
            heads.add(&answer).unwrap();
        }
        assert!(heads.is_quorum());
    }

    #[test]
    fn with_all_honest_heads_withheld_a_rollback_would_pass() {
        // One fault too many: 2 of 4 lie about their heads, so a quorum need not contain an honest one that knows.
        let group = chain(&group(4, 1));
        let mut heads = heads(&group);
        let answers = (0..3).map(|index| head(&group, index, NONCE, &statement(&group, 8, 0), &source()));
        let agreed = answers.map(|answer| heads.add(&answer)).last();
        assert_eq!(agreed, Some(Ok(true)), "slot 9, certified by verifiers 0, 1 and 3, stays hidden");
    }
}
