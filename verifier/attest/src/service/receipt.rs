//! What a replica signs about an entry of a service's log.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::certificate::{Certifiable, SIGNATURES_LIMIT, TallyOf, verify_at_least};
use crate::encoding::{Bounded, bounded_list, to_bytes};
use crate::error::{Signer, VerifyError};
use crate::group::GroupConfig;
use crate::id::{Epoch, GroupId, OperationId, ServiceId};
use crate::key::{SecretKey, Signature};
use crate::merkle::Digest;
use crate::quorum::QuorumRule;
use crate::receipt::LogLeaf;
use crate::state_tree::StateCommitment;
use crate::statement::{Expected, Kind, Statement};

/// What executing one entry of a service's log led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServiceReceipt {
    /// Group of the service's replicas.
    pub group: GroupId,
    /// Epoch of that group.
    pub epoch: Epoch,
    /// The service.
    pub service: ServiceId,
    /// Place of the entry in the service's log; 0 is its creation.
    pub number: u64,
    /// Place in the orchestrators' log of the operation that ordered it.
    pub log_index: u64,
    /// That operation.
    pub operation: OperationId,
    /// SHA-256 of the encoded reply.
    pub result: Digest,
    /// RFC 6962 root of the service's log that ends with this entry.
    pub log_root: Digest,
    /// Entries of that log: `number + 1`.
    pub log_size: u64,
    /// The state after this entry.
    pub state: StateCommitment,
}

impl Bounded for ServiceReceipt {
    const LIMIT: usize = 32 + 8 + 32 + 8 + 8 + 32 + 32 + 32 + 8 + 40;
}

impl ServiceReceipt {
    /// What is signed: `instance` is the service, `seq` the number.
    pub fn to_statement(&self) -> Statement {
        let log = (self.log_root, self.log_size);
        Statement {
            kind: Kind::SERVICE_RECEIPT,
            group: self.group,
            epoch: self.epoch,
            instance: self.service.instance(),
            seq: self.number,
            body: to_bytes(&(self.log_index, self.operation, self.result, log, self.state)),
        }
    }

    /// Reads the receipt that a statement is about.
    ///
    /// # Errors
    /// The statement is of another kind, its body does not decode, or it contradicts itself.
    pub fn from_statement(statement: &Statement) -> Result<Self, VerifyError> {
        if statement.kind != Kind::SERVICE_RECEIPT {
            return Err(VerifyError::WrongDomain { want: Kind::SERVICE_RECEIPT, got: statement.kind });
        }
        type Body = (u64, OperationId, Digest, (Digest, u64), StateCommitment);
        let body: Body = crate::encoding::from_bytes(&statement.body, 8 + 32 + 32 + 40 + 40)?;
        let (log_index, operation, result, (log_root, log_size), state) = body;
        let Statement { group, epoch, seq: number, .. } = *statement;
        let service = ServiceId::from_bytes(statement.instance.to_bytes());
        let receipt =
            Self { group, epoch, service, number, log_index, operation, result, log_root, log_size, state };
        receipt.check_size()?;
        Ok(receipt)
    }

    /// The leaf of this entry in the service's log.
    pub fn leaf(&self) -> LogLeaf {
        let Self { operation, result, state, .. } = *self;
        LogLeaf { operation, result, state_root: state.root, state_size: state.size }
    }

    /// A replica's signature.
    pub fn sign(&self, replica: &SecretKey) -> Signature {
        self.to_statement().sign(replica)
    }

    /// Checks the signature of a member of the replicas' group.
    pub fn verify_vote(
        &self,
        replicas: &GroupConfig,
        replica: u16,
        signature: &Signature,
    ) -> Result<(), VerifyError> {
        let key = replicas.member(replica)?.vote_key;
        key.verify(&self.to_statement().encode(), signature)
            .map_err(|error| VerifyError::signature(Signer::Verifier(replica), error))
    }

    /// Checks scope and that the log ends with the entry.
    pub fn check(&self, expected: &Expected) -> Result<(), VerifyError> {
        expected.check(&self.to_statement())?;
        self.check_size()
    }

    fn check_size(&self) -> Result<(), VerifyError> {
        match self.number.checked_add(1) {
            Some(size) if size == self.log_size => Ok(()),
            _ => {
                Err(VerifyError::Inconsistent { reason: "the log of a receipt does not end with its entry" })
            }
        }
    }
}

/// A receipt with the signatures of `f + 1` replicas or more, of whom one at least is honest.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServiceReceiptCertificate {
    /// What they agree on.
    pub receipt: ServiceReceipt,
    /// Index in the replicas' group and signature, strictly ascending by index.
    #[borsh(deserialize_with = "bounded_list::<SIGNATURES_LIMIT, _, _>")]
    pub signatures: Vec<(u16, Signature)>,
}

impl Bounded for ServiceReceiptCertificate {
    const LIMIT: usize = ServiceReceipt::LIMIT + 4 + SIGNATURES_LIMIT * 66;
}

impl ServiceReceiptCertificate {
    /// Checks scope, every signature and that there are `f + 1`. `replicas` is the configuration of the expected group in
    /// the expected epoch; `expected` is of [`Kind::SERVICE_RECEIPT`] and the service's instance.
    pub fn verify(&self, replicas: &GroupConfig, expected: &Expected) -> Result<(), VerifyError> {
        self.receipt.check(expected)?;
        if expected.epoch != replicas.epoch {
            return Err(VerifyError::WrongEpoch { want: expected.epoch, got: replicas.epoch });
        }
        let need = replicas.rule()?.matching_replies();
        verify_at_least(replicas, need, &self.receipt.to_statement().encode(), &self.signatures)
    }
}

/// Collects signatures on one receipt until `f + 1` replicas have given theirs.
pub type ServiceReceiptTally = TallyOf<ServiceReceipt>;

impl Certifiable for ServiceReceipt {
    type Certificate = ServiceReceiptCertificate;

    fn to_statement(&self) -> Statement {
        self.to_statement()
    }

    fn check_scope(&self, replicas: &GroupConfig) -> Result<(), VerifyError> {
        self.check(&replicas.expected(self.service.instance(), Kind::SERVICE_RECEIPT))
    }

    fn need(rule: &QuorumRule) -> u64 {
        rule.matching_replies()
    }

    fn certified(self, signatures: Vec<(u16, Signature)>) -> ServiceReceiptCertificate {
        ServiceReceiptCertificate { receipt: self, signatures }
    }
}
