//! A group of replicas and the log of a service, for tests.

use quorate_attest::encoding::Bounded;
use quorate_attest::group::{GroupConfig, HASH_SHA256, Member};
use quorate_attest::id::{Epoch, OperationId, ServiceId};
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash, consistency_proof, root};
use quorate_attest::service::{ServiceReceipt, ServiceReceiptCertificate};
use quorate_attest::state_tree::StateTree;

pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// `n` members whose vote keys are `key(first + 3 * index)`.
pub fn group(name: &str, first: u8, n: u8, f: u64) -> GroupConfig {
    let member = |index: u8| {
        let keys = [0, 1, 2].map(|role| key(first + 3 * index + role).public());
        let [vote_key, cosigner_key, transport_key] = keys;
        Member { name: format!("{name}-{index}"), vote_key, cosigner_key, transport_key }
    };
    GroupConfig {
        name: name.into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(0),
        genesis: None,
        f,
        members: (0..n).map(member).collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    }
}

/// Seed of the first replica's vote key.
pub const REPLICAS: u8 = 60;

pub fn replicas() -> GroupConfig {
    group("replica", REPLICAS, 4, 1)
}

pub fn vote_key(replica: u16) -> SecretKey {
    key(REPLICAS + 3 * replica as u8)
}

pub const SERVICE: ServiceId = ServiceId::from_bytes([9; 32]);

/// The log of a service whose entries have arbitrary content.
#[derive(Clone)]
pub struct Log {
    leaves: Vec<Digest>,
    pub receipts: Vec<ServiceReceipt>,
}

impl Log {
    /// A log of this many entries; logs of one `salt` are prefixes of each other.
    pub fn new(entries: u64, salt: u8) -> Self {
        let mut log = Self { leaves: Vec::new(), receipts: Vec::new() };
        for number in 0..entries {
            let state = StateTree::from_sorted(vec![(vec![1], vec![number as u8])]).commitment();
            let mut receipt = ServiceReceipt {
                group: replicas().id(),
                epoch: Epoch(0),
                service: SERVICE,
                number,
                log_index: 100 + number,
                operation: OperationId::from_bytes([number as u8; 32]),
                result: [salt; 32],
                log_root: [0; 32],
                log_size: number + 1,
                state,
            };
            log.leaves.push(Sha256Tree::leaf(&receipt.leaf().encoded()));
            receipt.log_root = root::<Sha256Tree>(&log.leaves);
            log.receipts.push(receipt);
        }
        log
    }

    /// The receipt of an entry with the signatures of these replicas.
    pub fn certificate(&self, number: u64, signers: &[u16]) -> ServiceReceiptCertificate {
        let receipt = self.receipts[number as usize];
        let signatures =
            signers.iter().map(|replica| (*replica, receipt.sign(&vote_key(*replica)))).collect();
        ServiceReceiptCertificate { receipt, signatures }
    }

    /// Proof that the log up to `to` extends the log up to `from`.
    pub fn consistency(&self, from: u64, to: u64) -> Vec<Digest> {
        consistency_proof::<Sha256Tree>(&self.leaves[..to as usize], from).unwrap()
    }
}
