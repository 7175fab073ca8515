//! The application of one orchestrator: the control plane driven by its log, and what it answers.

use std::collections::BTreeMap;

use quorate_agreement_simulation::Entry;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Epoch, OperationId};
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::receipt::Receipt;
use quorate_attest::vm::Decision;
use quorate_control::{Control, Failure, Outcome, Submission, encode_outcome};
use quorate_ordering::protocol::Applied;
use sha2::{Digest as _, Sha256};

use crate::keys;

/// What one entry led to.
#[derive(Clone, Debug)]
struct Executed {
    receipt: Receipt,
    outcome: Vec<u8>,
    decision: Option<Decision>,
}

/// An orchestrator's application. Like in production, it is rebuilt from the log after a crash.
pub struct Replica {
    /// The state.
    pub control: Control,
    log: Frontier<Sha256Tree>,
    executed: Vec<Executed>,
    places: BTreeMap<OperationId, u64>,
}

impl Replica {
    /// Nothing executed yet.
    pub fn new() -> Self {
        let control = Control::genesis(keys::chain(keys::orchestrators()), keys::chain(keys::verifiers()));
        Self { control, log: Frontier::new(), executed: Vec::new(), places: BTreeMap::new() }
    }

    /// Executes the next entry.
    pub fn apply(&mut self, entry: &Entry) {
        let group = keys::orchestrators().id();
        let submission = Submission::read(&entry.operation, &group);
        let applied = self.control.apply_submission(entry.index, &submission);
        let (state_root, state_size) = self.control.root();
        let mut receipt = Receipt {
            group,
            epoch: Epoch::ZERO,
            index: entry.index,
            operation: submission.id(),
            result: applied.result_digest,
            log_root: [0; 32],
            log_size: entry.index + 1,
            state_root,
            state_size,
        };
        self.log.push(&receipt.leaf().encoded());
        receipt.log_root = self.log.root();
        self.places.entry(receipt.operation).or_insert(entry.index);
        self.executed.push(Executed { receipt, outcome: applied.outcome(), decision: applied.decision });
    }

    /// Entries executed.
    pub fn len(&self) -> u64 {
        self.executed.len() as u64
    }

    /// The receipt of an entry.
    pub fn receipt(&self, index: u64) -> Option<&Receipt> {
        self.executed.get(usize::try_from(index).ok()?).map(|executed| &executed.receipt)
    }

    /// What orchestrator `number` says became of an operation.
    pub fn answer(&self, number: u16, operation: &OperationId) -> Option<Applied> {
        let place = usize::try_from(*self.places.get(operation)?).ok()?;
        let Executed { receipt, outcome, decision } = self.executed.get(place)?.clone();
        Some(sign(&keys::orchestrator(number), number, receipt, outcome, decision))
    }

    /// The same from an orchestrator that lies: another outcome, and a grant to whom it likes. Liars agree on their lie.
    pub fn lie(&self, number: u16, operation: &OperationId) -> Option<Applied> {
        let place = usize::try_from(*self.places.get(operation)?).ok()?;
        let Executed { mut receipt, decision, .. } = self.executed.get(place)?.clone();
        let outcome: Outcome =
            Err(Failure { code: 8, kind: "Conflict".into(), text: "so says a liar".into(), winner: None });
        let outcome = encode_outcome(&outcome);
        receipt.result = Sha256::digest(&outcome).into();
        let decision = decision.map(|mut decision| {
            if let quorate_attest::vm::Action::Grant { host, .. } = &mut decision.action {
                *host = keys::host(0).public();
            }
            decision
        });
        Some(sign(&keys::orchestrator(number), number, receipt, outcome, decision))
    }
}

fn sign(
    key: &SecretKey,
    orchestrator: u16,
    receipt: Receipt,
    outcome: Vec<u8>,
    decision: Option<Decision>,
) -> Applied {
    let signature = receipt.sign(key);
    let decision = decision.map(|decision| {
        let signature = decision.sign(key);
        (decision, signature)
    });
    Applied { orchestrator, receipt, signature, outcome, decision }
}
