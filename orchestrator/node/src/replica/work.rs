//! From executed entries to effects: what is signed, and what is left unsigned.

use quorate_attest::group::GroupConfig;
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::merkle::Digest;
use quorate_attest::receipt::Receipt;
use quorate_attest::vm::Decision;
use quorate_ordering::protocol::Applied;

use super::{Counted, Effect};
use crate::log_tree::NodePlace;
use crate::sign_state::{Promises, SignState};
use crate::store::{Batch, StoredEntry};

/// An executed entry, not signed yet.
#[derive(Clone, Debug)]
pub(super) struct Executed {
    /// This node's index in the epoch of the entry.
    pub signer: Option<u16>,
    pub receipt: Receipt,
    pub outcome: Vec<u8>,
    pub decision: Option<Decision>,
    pub counted: Counted,
    pub nodes: Vec<(NodePlace, Digest)>,
    /// Who may connect may have changed.
    pub changes_roles: bool,
    /// Configuration of the epoch that begins after the entry.
    pub next_epoch: Option<Box<GroupConfig>>,
}

/// Effects of one batch, being collected.
#[derive(Debug, Default)]
pub(super) struct Work {
    promises: Promises,
    pub batch: Batch,
    answers: Vec<Applied>,
    counted: Vec<Counted>,
    roles: bool,
    next_epochs: Vec<(u64, Box<GroupConfig>)>,
}

impl Work {
    /// What would be signed so far.
    pub fn promises(&self) -> &Promises {
        &self.promises
    }

    /// Takes in the next entry, signed if this node is a member of its epoch and it is not below the floor.
    pub fn take(&mut self, executed: Executed, operation: Vec<u8>, key: &SecretKey, signed: &SignState) {
        let Executed { signer, receipt, outcome, decision, counted, nodes, changes_roles, next_epoch } =
            executed;
        // What is below the floor was signed or not, but nobody knows any more with which content.
        let signer = signer.filter(|_| receipt.index >= signed.floor());
        if receipt.index >= signed.floor() {
            self.promise(&receipt, decision.as_ref());
        }
        let sign = |decision: Decision| match signer {
            Some(_) => (decision.sign(key), decision),
            None => (Signature::NONE, decision),
        };
        let decision = decision.map(sign).map(|(signature, decision)| (decision, signature));
        let signature = signer.map_or(Signature::NONE, |_| receipt.sign(key));
        let stored = StoredEntry { operation, signer, receipt, signature, outcome, decision };
        self.answers.extend(stored.applied());
        self.batch.entries.push(stored);
        self.batch.nodes.extend(nodes);
        self.counted.push(counted);
        self.roles |= changes_roles;
        self.next_epochs.extend(next_epoch.map(|config| (receipt.index, config)));
    }

    fn promise(&mut self, receipt: &Receipt, decision: Option<&Decision>) {
        if self.promises.digests.is_empty() {
            self.promises.first = receipt.index;
        }
        self.promises.add(receipt, decision);
    }

    /// The effects, in the order in which they must happen.
    pub fn effects(self) -> Vec<Effect> {
        let Self { promises, batch, answers, counted, roles, next_epochs } = self;
        let mut effects = vec![Effect::Record(promises), Effect::Persist(Box::new(batch))];
        effects.extend([Effect::Answer(answers), Effect::Count(counted)]);
        effects.extend(roles.then_some(Effect::Roles));
        effects.extend(next_epochs.into_iter().map(|(index, config)| Effect::EndEpoch { index, config }));
        effects
    }
}
