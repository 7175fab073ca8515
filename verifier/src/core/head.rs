//! `HeadQuery`: the newest slot this verifier signed, and the cosignature over the log of statements.

use quorate_attest::cosignature;
use quorate_attest::id::{Generation, Nonce};
use quorate_attest::key::Signature;
use quorate_attest::vm::{HeadAnswer, SlotStatement, head_checkpoint, statement_leaf};

use super::{Context, Effect, VmCore, VmState, send};
use crate::protocol::FromVerifier;

impl VmCore {
    pub(super) fn head(&self, nonce: Nonce) -> Effect {
        let signer = &self.context.signer;
        let vote = self.state.newest_vote();
        let answer = HeadAnswer {
            vm: self.vm,
            nonce,
            verifier: signer.index(),
            proposal: self.state.signed.as_ref().map(|signed| signed.proposal.clone()),
            attestation: self.state.signed.as_ref().map(|signed| signed.attestation),
            generation: vote.map_or(Generation::ZERO, |vote| vote.generation),
            vote: vote.cloned(),
            vote_signature: vote.map(|vote| signer.vote(vote)),
            signature: Signature::from_bytes([0; 64]),
        };
        send(FromVerifier::Head(signer.head(answer, &self.context)))
    }
}

/// The cosignature line over the log that ends in `statement`, or nothing if the clock says what no line can.
pub(super) fn cosign(context: &Context, state: &VmState, statement: &SlotStatement, now: u64) -> String {
    let mut log = state.chain.log();
    log.push(&statement_leaf(statement));
    let signer = &context.signer;
    let line = head_checkpoint(&statement.vm, log.size(), log.root())
        .and_then(|head| cosignature::cosign(signer.cosigner_name(), signer.cosigner(), now, &head));
    line.map(|line| line.to_string()).unwrap_or_default()
}
