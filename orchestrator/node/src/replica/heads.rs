//! Compares the heads that other orchestrators cosigned with one's own log. Pure.
//!
//! The root of the log covers every result and every state. Two honest orchestrators have the same root at the same size; one that
//! cosigned another is faulty, or this node is. When `f + 1` say something else, at least one of them is honest.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::group::GroupConfig;
use quorate_attest::merkle::Digest;
use quorate_attest::note::SignatureLine;
use quorate_attest::receipt::log_checkpoint;
use quorate_ordering::protocol::CosignedHead;

/// A head of another orchestrator that contradicts one's own log, with both signatures: whoever knows the group can check it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Divergence {
    /// Index of the other orchestrator.
    pub orchestrator: u16,
    /// What it cosigned.
    pub theirs: CosignedHead,
    /// One's own root at that size.
    pub ours: Digest,
}

/// What follows from a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing contradicts.
    Agree,
    /// At most `f` contradict: they are faulty, or this node is and nobody can tell yet. These are new.
    Suspect(Vec<Divergence>),
    /// More than `f` contradict: this node is not to sign any more.
    WeDiverge(Vec<Divergence>),
}

/// Contradictions found so far, at most one for each orchestrator.
#[derive(Debug, Default)]
pub struct HeadComparison {
    found: BTreeMap<u16, Divergence>,
}

impl HeadComparison {
    /// Compares heads of `orchestrator`, whose signatures are checked here. `our_root` is the root of one's own log at a size, none if it
    /// is not as long yet.
    pub fn compare<E>(
        &mut self,
        group: &GroupConfig,
        orchestrator: u16,
        heads: &[CosignedHead],
        our_root: impl Fn(u64) -> Result<Option<Digest>, E>,
    ) -> Result<Verdict, E> {
        let mut fresh = Vec::new();
        for head in heads {
            if self.found.contains_key(&orchestrator) || !is_cosigned(group, orchestrator, head) {
                continue;
            }
            let Some(ours) = our_root(head.size)? else { continue };
            if ours != head.root {
                let divergence = Divergence { orchestrator, theirs: head.clone(), ours };
                self.found.insert(orchestrator, divergence.clone());
                fresh.push(divergence);
            }
        }
        Ok(match (fresh.is_empty(), self.found.len() as u64 > group.f) {
            (true, _) => Verdict::Agree,
            (false, false) => Verdict::Suspect(fresh),
            (false, true) => Verdict::WeDiverge(self.found.values().cloned().collect()),
        })
    }
}

/// Whether the line is this member's cosignature of the head.
fn is_cosigned(group: &GroupConfig, orchestrator: u16, head: &CosignedHead) -> bool {
    let (Ok(key), Ok(checkpoint)) =
        (group.cosigner(orchestrator), log_checkpoint(&group.name, head.size, head.root))
    else {
        return false;
    };
    let line = head.cosignature.parse::<SignatureLine>();
    line.is_ok_and(|line| key.verify(&checkpoint.to_text(), &line).is_ok())
}
