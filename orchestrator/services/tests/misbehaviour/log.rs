//! The ordered log: one list that all orchestrators share. Agreement is not under attack here, what orchestrators say about it is.

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Epoch, Nonce};
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash, root};
use quorate_attest::operation::Operation;
use quorate_attest::receipt::Receipt;
use quorate_attest::service::ServiceSpec;
use quorate_control::{Answer, Command, encode_outcome};
use sha2::{Digest as _, Sha256};

use crate::guest::Entry;
use crate::keys::{Groups, key};

/// Entries before the creation of the service, so that numbers of the two logs differ.
const BEFORE: u64 = 3;

/// What became of the entries, and those of the service.
pub struct Log {
    groups: Groups,
    service: ServiceSpec,
    leaves: Vec<Digest>,
    /// By number of the service's log.
    pub receipts: Vec<Receipt>,
    pub outcomes: Vec<Vec<u8>>,
    pub entries: Vec<Entry>,
}

impl Log {
    /// A log in which the service was just created.
    pub fn new(groups: &Groups, service: &ServiceSpec) -> Self {
        let leaves = (0..BEFORE).map(|index| Sha256Tree::leaf(&index.to_be_bytes())).collect();
        let (groups, service) = (groups.clone(), service.clone());
        let (receipts, outcomes, entries) = Default::default();
        let mut log = Self { groups, service, leaves, receipts, outcomes, entries };
        let creation = Command::CreateService { spec: log.service.clone() };
        let creation = creation.to_operation(&key(&["operator"]), log.groups.orchestrators.id(), Nonce::ZERO);
        log.push(&creation, Vec::new(), Answer::ServiceCreated { service: log.service.id() });
        log
    }

    /// Entries of the service.
    pub fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The number of a call, which is ordered now if it was not before. None for what is no call of the service.
    pub fn order(&mut self, operation: &Operation) -> Option<usize> {
        operation.verify(&self.groups.orchestrators.id()).ok()?;
        let Command::CallService { service, request } = Command::decoded(&operation.command).ok()? else {
            return None;
        };
        let id = operation.id();
        let known = self.entries.iter().position(|entry| entry.operation == id);
        (service == self.service.id()).then(|| {
            known.unwrap_or_else(|| {
                let number = self.size();
                self.push(operation, request, Answer::Numbered { service, number });
                number as usize
            })
        })
    }

    fn push(&mut self, operation: &Operation, request: Vec<u8>, answer: Answer) {
        let outcome = encode_outcome(&Ok(answer));
        let index = self.leaves.len() as u64;
        let mut receipt = Receipt {
            group: self.groups.orchestrators.id(),
            epoch: Epoch(0),
            index,
            operation: operation.id(),
            result: Sha256::digest(&outcome).into(),
            log_root: [0; 32],
            log_size: index + 1,
            state_root: [5; 32],
            state_size: 1,
        };
        self.leaves.push(Sha256Tree::leaf(&receipt.leaf().encoded()));
        receipt.log_root = root::<Sha256Tree>(&self.leaves);
        self.receipts.push(receipt);
        self.outcomes.push(outcome);
        self.entries.push(Entry { log_index: index, operation: operation.id(), request });
    }
}
