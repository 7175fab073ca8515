//! What this signer signs at all: the part of the rules that needs no memory.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::VerifyError;
use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::encoding::{DecodeError, is_name};
use quorate_attest::id::{Epoch, GroupId, ServiceId, StatementDigest, VmId};
use quorate_attest::merkle::{Digest, ProofError};
use quorate_attest::service::ServiceReceipt;
use quorate_attest::statement::{Kind, Statement};

/// Name of the orchestrators' own log, which is nobody's service: its heads are not this process's to cosign.
const RESERVED: &str = "log";
/// Most bytes of the name of a service.
const NAME_BYTES_MAX: usize = 64;

/// Everything, or only what is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed<T> {
    /// All there are.
    Any,
    /// These.
    Only(BTreeSet<T>),
}

impl<T: Ord> Allowed<T> {
    fn has(&self, wanted: &T) -> bool {
        match self {
            Self::Any => true,
            Self::Only(listed) => listed.contains(wanted),
        }
    }
}

/// What the configuration allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Orchestrator group.
    pub group: GroupId,
    /// Its name, with which the origins of its services' logs begin.
    pub group_name: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// Services whose receipts are signed.
    pub receipts: Allowed<ServiceId>,
    /// Names of the services whose logs are cosigned.
    pub logs: Allowed<String>,
}

/// A place in which one thing may be signed, and that thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Promise {
    /// Service.
    pub instance: VmId,
    /// What is said about it.
    pub kind: Kind,
    /// Which of these: for a receipt the number of the operation.
    pub seq: u64,
    /// The statement.
    pub digest: StatementDigest,
}

/// Why something is not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are no statement.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Statements of this kind are not signed here.
    #[error("statements of kind {got} are not signed here")]
    WrongDomain {
        /// Its kind.
        got: Kind,
    },
    /// A statement of another group.
    #[error("statement of group {got}, this signer belongs to {want}")]
    WrongCluster {
        /// Group of the configuration.
        want: GroupId,
        /// Group of the statement.
        got: GroupId,
    },
    /// A statement of another epoch.
    #[error("statement of epoch {got}, this signer is in epoch {want}")]
    WrongEpoch {
        /// Epoch of the configuration.
        want: Epoch,
        /// Epoch of the statement.
        got: Epoch,
    },
    /// The configuration does not list this service or log.
    #[error("{what} is not allowed by the configuration")]
    NotAuthorized {
        /// Which.
        what: String,
    },
    /// The body is not that of a receipt, or contradicts itself.
    #[error(transparent)]
    Body(#[from] VerifyError),
    /// Another statement was signed in this place.
    #[error("another statement was signed for {instance}, kind {kind}, number {seq}")]
    DoubleVote {
        /// Service.
        instance: VmId,
        /// Kind.
        kind: Kind,
        /// Number.
        seq: u64,
    },
    /// The place lies below what is remembered, or was skipped.
    #[error("number {seq} was skipped or is too old; remembered are {lowest} to {newest}")]
    StaleSlot {
        /// Number.
        seq: u64,
        /// Lowest number remembered.
        lowest: u64,
        /// Highest number signed.
        newest: u64,
    },
    /// No more services or logs are remembered.
    #[error("more than {limit} {what}")]
    Limit {
        /// Of what there are too many.
        what: &'static str,
        /// Most of them.
        limit: usize,
    },
    /// A head with more leaves was cosigned.
    #[error("a head of {floor} entries was cosigned, this one has {size}")]
    StaleHead {
        /// Size asked for.
        size: u64,
        /// Size cosigned.
        floor: u64,
    },
    /// Another root of this size was cosigned.
    #[error("another head of {size} entries was cosigned")]
    HeadConflict {
        /// Size of both.
        size: u64,
    },
    /// The proof begins elsewhere.
    #[error("the proof begins at {old} entries, the newest cosigned head has {floor}")]
    FloorMismatch {
        /// Size at which the proof begins.
        old: u64,
        /// Size at which it has to begin.
        floor: u64,
    },
    /// The new log does not continue the cosigned one.
    #[error(transparent)]
    Fork(#[from] ProofError),
}

impl Refusal {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decode(error) => error.kind(),
            Self::WrongDomain { .. } => "WrongDomain",
            Self::WrongCluster { .. } => "WrongCluster",
            Self::WrongEpoch { .. } => "WrongEpoch",
            Self::NotAuthorized { .. } => "NotAuthorized",
            Self::Body(error) => error.kind(),
            Self::DoubleVote { .. } | Self::HeadConflict { .. } => "DoubleVote",
            Self::StaleSlot { .. } => "StaleSlot",
            Self::Limit { .. } => "QuotaExceeded",
            Self::StaleHead { .. } => "Stale",
            Self::FloorMismatch { .. } => "Conflict",
            Self::Fork(error) => error.kind(),
        }
    }
}

impl Rules {
    /// What signing these bytes would promise.
    ///
    /// # Errors
    /// The first rule that forbids it.
    pub fn promise(&self, bytes: &[u8]) -> Result<Promise, Refusal> {
        let statement = Statement::decode(bytes)?;
        let Statement { kind, group, epoch, instance, seq, .. } = statement;
        if kind != Kind::SERVICE_RECEIPT {
            return Err(Refusal::WrongDomain { got: kind });
        }
        if group != self.group {
            return Err(Refusal::WrongCluster { want: self.group, got: group });
        }
        if epoch != self.epoch {
            return Err(Refusal::WrongEpoch { want: self.epoch, got: epoch });
        }
        let service = ServiceReceipt::from_statement(&statement)?.service;
        if !self.receipts.has(&service) {
            return Err(Refusal::NotAuthorized { what: format!("a receipt of service {service}") });
        }
        Ok(Promise { instance, kind, seq, digest: statement.digest() })
    }

    /// The checkpoint of a service's log.
    ///
    /// # Errors
    /// `NotAuthorized` when the origin is not that of a service of this group which the configuration allows.
    pub fn checkpoint(&self, origin: &str, size: u64, root: Digest) -> Result<Checkpoint, Refusal> {
        let refused = || Refusal::NotAuthorized { what: format!("the log {:?}", shortened(origin)) };
        let name = origin.strip_prefix(&self.group_name).and_then(|rest| rest.strip_prefix('/'));
        let name = name.filter(|name| is_name(name, NAME_BYTES_MAX) && *name != RESERVED);
        let name = name.ok_or_else(refused)?;
        if !self.logs.has(&name.to_owned()) {
            return Err(refused());
        }
        Checkpoint::new(origin, size, root).map_err(|_| refused())
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX).collect()
}
