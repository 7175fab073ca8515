//! What a log needs to know.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_agreement_engine::application::{Predicate, Rules};
use quorate_agreement_engine::committee::Committee;
use quorate_agreement_engine::limits::{MempoolLimits, OPERATION_LIMIT, Timing};
use quorate_attest::error::VerifyError;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::OperationId;
use quorate_attest::key::SecretKey;

/// What the node knows about operations. All members must have the same functions, and they must depend on the bytes
/// alone: they decide which blocks are valid.
#[derive(Clone)]
pub struct Operations {
    /// A cheap check of form. A block with an operation that fails it is refused.
    pub validate: Predicate,
    /// The identifier; `None` if the operation is malformed.
    pub operation_id: fn(&[u8]) -> Option<OperationId>,
    /// Whether an operation ends the epoch: nothing is ordered behind it in its epoch.
    pub ends_epoch: Predicate,
}

impl Operations {
    /// Operations of a log whose membership does not change.
    pub fn new(validate: Predicate, operation_id: fn(&[u8]) -> Option<OperationId>) -> Self {
        Self { validate, operation_id, ends_epoch: Arc::new(|_| false) }
    }

    pub(crate) fn rules(&self) -> Rules {
        let validate = Arc::clone(&self.validate);
        let operation_id = self.operation_id;
        Rules {
            validate: Arc::new(move |bytes| bytes.len() <= OPERATION_LIMIT && validate(bytes)),
            operation_id: Arc::new(move |bytes| operation_id(bytes).map(OperationId::to_bytes)),
            ends_epoch: Arc::clone(&self.ends_epoch),
        }
    }
}

/// The configuration of a log.
#[derive(Clone)]
pub struct Config {
    /// The members. They vote with their vote keys, in a namespace of their own (group, epoch and kind of vote), which nothing
    /// else that these keys sign can be taken for.
    pub group: Arc<GroupConfig>,
    /// The configurations of all earlier epochs, the first of them epoch 0, each checked with its link to the one before. A
    /// node that was away fetches the blocks of each epoch and checks them with the members of that epoch.
    pub history: Vec<Arc<GroupConfig>>,
    /// Our index in the group.
    pub me: u16,
    /// Our vote key.
    pub vote_key: SecretKey,
    /// Folder of the log; created if need be. One process at a time.
    pub data_dir: PathBuf,
    /// Where members listen, in the order of the group.
    pub addresses: Vec<SocketAddr>,
    /// What the node knows about operations.
    pub operations: Operations,
    /// How long things wait.
    pub timing: Timing,
    /// Bounds of the pending operations.
    pub mempool: MempoolLimits,
    /// Shortest and longest time between attempts to reach a member.
    pub reconnect: (Duration, Duration),
    /// How long the members of an epoch that is over go on voting, for those who have not seen its end.
    pub linger: Duration,
}

/// The next epoch, which an ordered operation has decided.
#[derive(Clone)]
pub struct EpochConfig {
    /// The members.
    pub group: Arc<GroupConfig>,
    /// Our index in the group; `None` if we leave. Then the log ends here, and goes on serving what it has.
    pub me: Option<u16>,
    /// Our vote key in the new epoch.
    pub vote_key: SecretKey,
    /// Where the members listen, in the order of the group.
    pub addresses: Vec<SocketAddr>,
}

/// The members of a valid configuration, for the engine.
pub(crate) fn committee(group: &GroupConfig) -> Result<Committee, VerifyError> {
    group.validate()?;
    let keys: Vec<_> = group.members.iter().map(|member| *member.vote_key.as_bytes()).collect();
    Committee::new(group.id().as_bytes(), group.epoch.get(), group.digest().to_bytes(), &keys)
        .map_err(|error| VerifyError::BadConfig { reason: error.to_string() })
}

impl Config {
    /// A configuration with default times and bounds.
    pub fn new(
        group: Arc<GroupConfig>,
        me: u16,
        vote_key: SecretKey,
        data_dir: PathBuf,
        addresses: Vec<SocketAddr>,
        operations: Operations,
    ) -> Self {
        Self {
            group,
            history: Vec::new(),
            me,
            vote_key,
            data_dir,
            addresses,
            operations,
            timing: Timing::default(),
            mempool: MempoolLimits::default(),
            reconnect: (Duration::from_millis(100), Duration::from_secs(2)),
            linger: Duration::from_secs(30),
        }
    }
}
