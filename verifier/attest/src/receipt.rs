//! Receipts: what an orchestrator signs after it has applied an entry of the ordered log.
//!
//! A receipt binds an operation to its place, its result, the log up to it and the state after it. A quorum of equal
//! receipts is the ordinary certificate, [`ReceiptCertificate`]. In public the same facts stand in the leaves of the
//! log ([`LogLeaf`]), whose head the orchestrators cosign as a C2SP checkpoint ([`log_checkpoint`]).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::certificate::{Certifiable, SIGNATURES_LIMIT, TallyOf, verify_signatures};
use crate::checkpoint::Checkpoint;
use crate::encoding::{Bounded, bounded_list, to_bytes};
use crate::error::{Signer, VerifyError};
use crate::group::GroupConfig;
use crate::id::{Epoch, GroupId, OperationId, VmId};
use crate::key::{SecretKey, Signature};
use crate::merkle::Digest;
use crate::note::NoteError;
use crate::statement::{Expected, Kind, Statement};

/// Instance of statements about the log itself, which belongs to no VM.
pub const LOG_INSTANCE: VmId = VmId::ZERO;

/// C2SP origin of a group's log.
pub fn log_origin(group_name: &str) -> String {
    format!("{group_name}/log")
}

/// C2SP checkpoint of a group's log.
pub fn log_checkpoint(group_name: &str, size: u64, root: Digest) -> Result<Checkpoint, NoteError> {
    Checkpoint::new(&log_origin(group_name), size, root)
}

/// Data of one leaf of the log's RFC 6962 tree: its encoding is hashed, with the prefix of leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LogLeaf {
    /// The operation.
    pub operation: OperationId,
    /// SHA-256 of its encoded result.
    pub result: Digest,
    /// RFC 6962 root of the state after it.
    pub state_root: Digest,
    /// Entries of that state.
    pub state_size: u64,
}

impl Bounded for LogLeaf {
    const LIMIT: usize = 32 + 32 + 32 + 8;
}

/// What happened to one entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Receipt {
    /// Orchestrator group.
    pub group: GroupId,
    /// Epoch of that group.
    pub epoch: Epoch,
    /// Place of the entry in the log, from 0 and over all epochs.
    pub index: u64,
    /// The operation.
    pub operation: OperationId,
    /// SHA-256 of its encoded result.
    pub result: Digest,
    /// RFC 6962 root of the log that ends with this entry.
    pub log_root: Digest,
    /// Entries of that log: `index + 1`.
    pub log_size: u64,
    /// RFC 6962 root of the state after this entry.
    pub state_root: Digest,
    /// Entries of that state.
    pub state_size: u64,
}

impl Bounded for Receipt {
    const LIMIT: usize = 32 + 8 + 8 + 32 + 32 + 32 + 8 + 32 + 8;
}

impl Receipt {
    /// What is signed: `seq` is the index.
    pub fn to_statement(&self) -> Statement {
        let log = (self.log_root, self.log_size);
        Statement {
            kind: Kind::RECEIPT,
            group: self.group,
            epoch: self.epoch,
            instance: LOG_INSTANCE,
            seq: self.index,
            body: to_bytes(&(self.operation, self.result, log, self.state_root, self.state_size)),
        }
    }

    /// The leaf of this entry in the public log.
    pub fn leaf(&self) -> LogLeaf {
        let Self { operation, result, state_root, state_size, .. } = *self;
        LogLeaf { operation, result, state_root, state_size }
    }

    /// An orchestrator's signature.
    pub fn sign(&self, orchestrator: &SecretKey) -> Signature {
        self.to_statement().sign(orchestrator)
    }

    /// Checks the signature of a member of the orchestrators' group.
    pub fn verify_vote(
        &self,
        group: &GroupConfig,
        orchestrator: u16,
        signature: &Signature,
    ) -> Result<(), VerifyError> {
        let key = group.member(orchestrator)?.vote_key;
        key.verify(&self.to_statement().encode(), signature)
            .map_err(|error| VerifyError::signature(Signer::Verifier(orchestrator), error))
    }

    /// Checks scope and that the log ends with the entry.
    pub fn check(&self, expected: &Expected) -> Result<(), VerifyError> {
        expected.check(&self.to_statement())?;
        if self.index.checked_add(1) != Some(self.log_size) {
            return Err(VerifyError::Inconsistent {
                reason: "the log of a receipt does not end with its entry",
            });
        }
        Ok(())
    }
}

/// A receipt with the signatures of a quorum.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ReceiptCertificate {
    /// What they agree on.
    pub receipt: Receipt,
    /// Index in the orchestrators' group and signature, strictly ascending by index.
    #[borsh(deserialize_with = "bounded_list::<SIGNATURES_LIMIT, _, _>")]
    pub signatures: Vec<(u16, Signature)>,
}

impl Bounded for ReceiptCertificate {
    const LIMIT: usize = Receipt::LIMIT + 4 + SIGNATURES_LIMIT * 66;
}

impl ReceiptCertificate {
    /// Checks scope, every signature and the count. `orchestrators` is the configuration of the expected group in the
    /// expected epoch; `expected` is of [`Kind::RECEIPT`] and [`LOG_INSTANCE`].
    pub fn verify(&self, orchestrators: &GroupConfig, expected: &Expected) -> Result<(), VerifyError> {
        self.receipt.check(expected)?;
        if expected.epoch != orchestrators.epoch {
            return Err(VerifyError::WrongEpoch { want: expected.epoch, got: orchestrators.epoch });
        }
        verify_signatures(orchestrators, &self.receipt.to_statement().encode(), &self.signatures)
    }
}

/// Collects signatures on one receipt.
pub type ReceiptTally = TallyOf<Receipt>;

impl Certifiable for Receipt {
    type Certificate = ReceiptCertificate;

    fn to_statement(&self) -> Statement {
        self.to_statement()
    }

    fn check_scope(&self, orchestrators: &GroupConfig) -> Result<(), VerifyError> {
        self.check(&orchestrators.expected(LOG_INSTANCE, Kind::RECEIPT))
    }

    fn certified(self, signatures: Vec<(u16, Signature)>) -> ReceiptCertificate {
        ReceiptCertificate { receipt: self, signatures }
    }
}
