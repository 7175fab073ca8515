//! From single orchestrators' answers to what a quorum says. Pure.

use std::collections::BTreeMap;

use quorate_attest::encoding::Bounded;
use quorate_attest::error::VerifyError;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::OperationId;
use quorate_attest::receipt::{ReceiptCertificate, ReceiptTally};
use quorate_attest::vm::{DecisionCertificate, DecisionTally};
use sha2::{Digest as _, Sha256};

use crate::protocol::Applied;

/// An executed operation, certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// Place, result and state, signed by a quorum.
    pub receipt: ReceiptCertificate,
    /// The encoded outcome that the receipt names.
    pub outcome: Vec<u8>,
    /// What was decided about a VM by this operation, or by the one it lost against.
    pub decision: Option<DecisionCertificate>,
}

/// Answers about one operation on their way to a quorum.
#[derive(Debug)]
pub struct Gather<'a> {
    group: &'a GroupConfig,
    operation: OperationId,
    heard: Vec<u16>,
    candidates: BTreeMap<Vec<u8>, Candidate>,
}

#[derive(Debug)]
struct Candidate {
    receipts: ReceiptTally,
    outcome: Vec<u8>,
    decisions: BTreeMap<Vec<u8>, DecisionTally>,
}

impl<'a> Gather<'a> {
    /// Nothing heard yet about `operation`.
    pub fn new(group: &'a GroupConfig, operation: OperationId) -> Self {
        Self { group, operation, heard: Vec::new(), candidates: BTreeMap::new() }
    }

    /// Adds the answer of the orchestrator `from`, which the connection proved; a second one of the same counts nothing.
    /// Answers with what a quorum says as soon as one does.
    ///
    /// # Errors
    /// The answer is not about this operation, contradicts itself, or is not signed by who gave it.
    pub fn add(&mut self, from: u16, applied: &Applied) -> Result<Option<Ordered>, VerifyError> {
        if applied.orchestrator != from || self.heard.contains(&from) {
            return Err(VerifyError::DuplicateSigner { verifier: applied.orchestrator });
        }
        if applied.receipt.operation != self.operation {
            return Err(VerifyError::Inconsistent { reason: "receipt of another operation" });
        }
        if Sha256::digest(&applied.outcome)[..] != applied.receipt.result {
            return Err(VerifyError::Inconsistent { reason: "outcome is not the one in the receipt" });
        }
        let key = applied.receipt.encoded();
        let fresh = || -> Result<Candidate, VerifyError> {
            let receipts = ReceiptTally::new(self.group, applied.receipt)?;
            Ok(Candidate { receipts, outcome: applied.outcome.clone(), decisions: BTreeMap::new() })
        };
        // Built before it is inserted: a receipt nobody signed leaves nothing behind.
        let mut candidate = match self.candidates.remove(&key) {
            Some(candidate) => candidate,
            None => fresh()?,
        };
        let added = candidate.receipts.add(from, applied.signature);
        if added.is_ok() {
            self.heard.push(from);
            candidate.add_decision(self.group, from, applied);
        }
        let found = added.is_ok().then(|| candidate.ordered(self.group)).flatten();
        if candidate.receipts.progress().0 > 0 {
            self.candidates.insert(key, candidate);
        }
        added.map(|_| found)
    }

    /// Signatures on the answer that has most, and how many are needed.
    pub fn progress(&self) -> (u64, u64) {
        let need = self.group.rule().map_or(0, |rule| rule.quorum());
        let most = self.candidates.values().map(|candidate| candidate.receipts.progress().0).max();
        (most.unwrap_or(0), need)
    }

    /// Whether two different answers were given: some orchestrator lies, or they execute differently.
    pub fn is_split(&self) -> bool {
        self.candidates.len() > 1
    }
}

impl Candidate {
    fn add_decision(&mut self, group: &GroupConfig, from: u16, applied: &Applied) {
        let Some((decision, signature)) = &applied.decision else { return };
        let key = decision.encoded();
        let tally = match self.decisions.remove(&key) {
            Some(tally) => Ok(tally),
            None => DecisionTally::new(group, decision.clone()),
        };
        // A bad decision costs its sender the decision, not the receipt: the two are signed apart.
        if let Ok(mut tally) = tally {
            if let Err(error) = tally.add(from, *signature) {
                tracing::warn!(orchestrator = from, error_kind = error.kind(), %error, "bad decision");
            }
            self.decisions.insert(key, tally);
        }
    }

    /// Complete when the receipts are a quorum and so is the decision, if there is one. Among a quorum's answers more than f
    /// are honest: a decision that no more than f speak of does not exist, one that exists is spoken of by more.
    fn ordered(&self, group: &GroupConfig) -> Option<Ordered> {
        let receipt = self.receipts.certificate().ok()?;
        let spoken = self.decisions.values().find(|tally| tally.progress().0 > group.f);
        let decision = match spoken {
            Some(tally) => Some(tally.certificate().ok()?),
            None => None,
        };
        Some(Ordered { receipt, outcome: self.outcome.clone(), decision })
    }
}

#[cfg(test)]
mod tests;
