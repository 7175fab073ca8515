//! The replica: from entries of the log to what this orchestrator signs about them. Pure: no clock, file, thread or randomness.
//!
//! ```text
//! entries ─▶ Control::apply, one by one ─▶ leaf, root of the log, receipt, decision ─▶ signed, unless below the floor
//! effects, in this order:
//!   Record    what is about to be signed, in the sign-log        durable before anything below leaves the process
//!   Persist   entries, tree and position, in one transaction     written before anything below, synced within a second
//!   Answer    everybody who waits for one of the operations
//!   Roles     who may connect now
//!   EndEpoch  the log goes on with other members
//! ```
//!
//! What `Persist` writes follows from the log, which is durable before an entry gets here. So its sync need not be waited for: after a
//! crash the lost entries come again and lead to the same signatures, and the sign-log sees to it that they cannot lead to others.

pub mod heads;
#[cfg(test)]
mod tests;
mod work;

use quorate_attest::cosignature::cosign;
use quorate_attest::encoding::Bounded;
use quorate_attest::epoch::GroupChain;
use quorate_attest::group::GroupConfig;
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash};
use quorate_attest::receipt::{LogLeaf, Receipt, log_checkpoint};
use quorate_control::{Answer, Command, Control, Outcome, Submission, Which};
use quorate_ordering::protocol::{Applied, CosignedHead};

use crate::log_tree::Peaks;
use crate::sign_state::{Contradiction, Promises, SignState};
use crate::store::{Batch, StoreError, View};
use work::{Executed, Work};

/// Entries after which the state is stored whole.
pub const SNAPSHOT_INTERVAL: u64 = 2048;

/// An entry as the log delivers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Place in the log.
    pub index: u64,
    /// The bytes that were ordered.
    pub operation: Vec<u8>,
}

/// What the shell has to do, in the order given.
#[derive(Debug)]
pub enum Effect {
    /// Make this durable in the sign-log.
    Record(Promises),
    /// Write this in one transaction.
    Persist(Box<Batch>),
    /// Answer those who wait.
    Answer(Vec<Applied>),
    /// Results, for counting.
    Count(Vec<Counted>),
    /// The keys that may connect have changed.
    Roles,
    /// The orchestrators' group is in a new epoch, from the entry after this index on.
    EndEpoch {
        /// Index of the entry that ended the epoch.
        index: u64,
        /// The new configuration.
        config: Box<GroupConfig>,
    },
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Done.
    Done {
        /// Name of its command.
        command: &'static str,
    },
    /// Refused by the rules.
    Refused {
        /// Error kind.
        kind: String,
    },
}

/// Why the replica cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// It would sign what contradicts what it signed.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// The log skipped or repeated an index.
    #[error("the log delivered entry {got}, expected {want}")]
    OutOfOrder {
        /// Index expected.
        want: u64,
        /// Index delivered.
        got: u64,
    },
    /// Execution differs from what the file says was executed.
    #[error("entry {index} has another result than the stored one")]
    Diverged {
        /// Place in the log.
        index: u64,
    },
    /// The file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configurations cannot be used.
    #[error("{reason}")]
    BadConfig {
        /// Why.
        reason: String,
    },
}

impl ReplicaError {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Contradiction(_) => "OwnVoteObserved",
            Self::OutOfOrder { .. } => "LogChainBroken",
            Self::Diverged { .. } => "ReplayDivergence",
            Self::Store(error) => error.kind(),
            Self::BadConfig { .. } => "BadConfig",
        }
    }
}

/// The keys that sign, and under which name.
#[derive(Clone, Debug)]
pub struct Signer {
    /// Signs receipts and decisions.
    pub vote: SecretKey,
    /// Signs cosignatures.
    pub cosigner: SecretKey,
}

/// Executes the log.
#[derive(Debug)]
pub struct Replica {
    control: Control,
    peaks: Peaks,
    signer: Signer,
}

impl Replica {
    /// The state before the first entry.
    ///
    /// # Errors
    /// `BadConfig`.
    pub fn genesis(
        signer: Signer,
        orchestrators: GroupConfig,
        verifiers: GroupConfig,
    ) -> Result<Self, ReplicaError> {
        let chain = |genesis| {
            GroupChain::new(genesis).map_err(|error| ReplicaError::BadConfig { reason: error.to_string() })
        };
        let control = Control::genesis(chain(orchestrators)?, chain(verifiers)?);
        Ok(Self { control, peaks: Peaks::default(), signer })
    }

    /// The state that the file leads to: from the newest snapshot, with what came after executed again and compared.
    ///
    /// # Errors
    /// `WalCorrupt`, `ReplayDivergence`, storage errors.
    pub fn restore(
        signer: Signer,
        orchestrators: GroupConfig,
        verifiers: GroupConfig,
        view: &View,
    ) -> Result<Self, ReplicaError> {
        let mut replica = Self::genesis(signer, orchestrators, verifiers)?;
        if let Some((size, bytes)) = view.snapshot()? {
            let group = replica.control.group();
            let control = Control::decode(&bytes)
                .map_err(|error| StoreError::damaged(format!("state after {size} entries: {error}")))?;
            if control.group() != group {
                return Err(StoreError::damaged("state of another group").into());
            }
            replica.control = control;
            replica.peaks = view.peaks(size)?;
        }
        for index in replica.applied()..view.size()? {
            let stored = view.entry(index)?.ok_or_else(|| StoreError::damaged(format!("entry {index}")))?;
            let executed = replica.execute(&Entry { index, operation: stored.operation });
            if executed.receipt != stored.receipt || executed.outcome != stored.outcome {
                return Err(ReplicaError::Diverged { index });
            }
        }
        Ok(replica)
    }

    /// Entries executed.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.peaks.size()
    }

    /// Root of the log executed so far.
    #[must_use]
    pub fn log_root(&self) -> Digest {
        self.peaks.root()
    }

    /// The state.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The present configuration of the orchestrators' group.
    #[must_use]
    pub fn group(&self) -> &GroupConfig {
        self.control.groups(Which::Orchestrators).current()
    }

    /// This node's index in the present epoch; none if it is no member.
    #[must_use]
    pub fn index(&self) -> Option<u16> {
        self.group().index_of(&self.signer.vote.public()).ok()
    }

    /// Executes consecutive entries. `now` is the POSIX time for the cosignature of the head; nothing else depends on it.
    ///
    /// # Errors
    /// Nothing of the batch may leave the process then, and the process must end.
    pub fn step(
        &mut self,
        now: u64,
        signed: &SignState,
        entries: &[Entry],
    ) -> Result<Vec<Effect>, ReplicaError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut work = Work::default();
        for entry in entries {
            if entry.index != self.applied() {
                return Err(ReplicaError::OutOfOrder { want: self.applied(), got: entry.index });
            }
            let executed = self.execute(entry);
            work.take(executed, entry.operation.clone(), &self.signer.vote, signed);
        }
        signed.check(work.promises())?;
        let before = self.applied() - entries.len() as u64;
        if self.applied() / SNAPSHOT_INTERVAL > before / SNAPSHOT_INTERVAL {
            work.batch.snapshot = Some(self.control.encode());
        }
        // A head below what was cosigned before would take back that the log was longer.
        if self.applied() >= signed.next() {
            work.batch.head = self.head(now);
        }
        Ok(work.effects())
    }

    /// The head of the log with this node's cosignature.
    fn head(&self, now: u64) -> Option<CosignedHead> {
        let (group, size, root) = (self.group(), self.applied(), self.log_root());
        let name = group.cosigner(self.index()?).ok()?.name().to_owned();
        let checkpoint = log_checkpoint(&group.name, size, root).ok()?;
        let line = cosign(&name, &self.signer.cosigner, now, &checkpoint).ok()?;
        Some(CosignedHead { size, root, cosignature: line.to_string() })
    }

    fn execute(&mut self, entry: &Entry) -> Executed {
        // An entry belongs to the epoch in which it was ordered, also the one that ends it.
        let (group, epoch, signer) = (self.control.group(), self.group().epoch, self.index());
        let submission = Submission::read(&entry.operation, &group);
        let applied = self.control.apply_submission(entry.index, &submission);
        let (state_root, state_size) = self.control.root();
        let (operation, result) = (submission.id(), applied.result_digest);
        let leaf = LogLeaf { operation, result, state_root, state_size };
        let nodes = self.peaks.push(Sha256Tree::leaf(&leaf.encoded()));
        let receipt = Receipt {
            group,
            epoch,
            index: entry.index,
            operation,
            result,
            log_root: self.log_root(),
            log_size: self.applied(),
            state_root,
            state_size,
        };
        let changes_roles = matches!(
            applied.result,
            Ok(Answer::Registered { .. } | Answer::Revoked { .. } | Answer::EpochBegun { .. })
        );
        let ended = applied.epoch_change == Some(Which::Orchestrators);
        Executed {
            signer,
            receipt,
            outcome: applied.outcome(),
            counted: counted(&submission, &applied.result),
            decision: applied.decision,
            nodes,
            changes_roles,
            next_epoch: ended.then(|| Box::new(self.group().clone())),
        }
    }
}

fn counted(submission: &Submission, result: &Outcome) -> Counted {
    match result {
        Ok(_) => {
            let operation = submission.operation().ok();
            let command = operation.and_then(|operation| Command::decoded(&operation.command).ok());
            Counted::Done { command: command.map_or("?", |command| command.name()) }
        }
        Err(failure) => Counted::Refused { kind: failure.kind().to_owned() },
    }
}
