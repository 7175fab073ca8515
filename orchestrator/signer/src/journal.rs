//! The sign-log of a signer: the records of [`SignState`], each durable before the signatures it stands for leave.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{from_bytes, to_bytes};
use quorate_attest::id::{Epoch, GroupId};
use quorate_attest::key::PublicKey;
use quorate_verifier::exit;
use quorate_verifier::sign_log::{Entry, Opened, PAYLOAD_BYTES_MAX, SignLog, SignLogError, Storage};

use crate::state::{Promises, SignState};

/// Frame kind of the first entry.
const IDENTITY: u8 = 1;
/// Frame kind of [`Promises`].
const PROMISES: u8 = 2;
/// Frame kind of an epoch.
const EPOCH: u8 = 3;
/// Version of the records.
const VERSION: u16 = 1;
/// The log is replaced by a summary when it has grown past this, and past twice the last summary.
pub const COMPACTION_BYTES: u64 = 32 << 20;

/// Whose sign-log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Identity {
    version: u16,
    group: GroupId,
    vote_key: PublicKey,
    cosigner_key: PublicKey,
}

impl Identity {
    /// The holder of these keys in a group, in all its epochs.
    #[must_use]
    pub fn new(group: GroupId, vote_key: PublicKey, cosigner_key: PublicKey) -> Self {
        Self { version: VERSION, group, vote_key, cosigner_key }
    }

    /// The first entry of its sign-log.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry { kind: IDENTITY, payload: to_bytes(self) }
    }
}

/// Why a signer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The sign-log.
    #[error(transparent)]
    SignLog(#[from] SignLogError),
    /// The configuration is older than the sign-log.
    #[error("the sign-log has reached epoch {reached}, the configuration is of epoch {configured}")]
    EpochRetired {
        /// Newest epoch signed in.
        reached: Epoch,
        /// Epoch of the configuration.
        configured: Epoch,
    },
}

impl JournalError {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SignLog(error) => error.kind(),
            Self::EpochRetired { .. } => "EpochRetired",
        }
    }

    /// Exit code of a process that meets this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::SignLog(error) => error.exit_code(),
            Self::EpochRetired { .. } => exit::CONFIGURATION,
        }
    }
}

/// A sign-log that is open.
#[derive(Debug)]
pub struct Journal<S> {
    log: SignLog<S>,
    identity: Identity,
    epoch: Epoch,
    compact_at: u64,
}

impl<S: Storage> Journal<S> {
    /// Reads the state back and enters `epoch`.
    ///
    /// # Errors
    /// `SignStateMissing` for the log of another identity, `WalCorrupt` for records that do not decode or contradict each other,
    /// `EpochRetired` when the log has reached a later epoch.
    pub fn restore(
        opened: Opened<S>,
        identity: Identity,
        epoch: Epoch,
    ) -> Result<(Self, SignState), JournalError> {
        let mut entries = opened.entries.iter();
        if entries.next() != Some(&identity.entry()) {
            let reason = "the sign-log belongs to other keys or another group".to_owned();
            return Err(SignLogError::SignStateMissing { path: "sign-log".into(), reason }.into());
        }
        let (mut state, mut reached) = (SignState::default(), None);
        for entry in entries {
            match entry.kind {
                PROMISES => state.restore(&decode(entry)?).map_err(|_| unknown())?,
                EPOCH => reached = Some(decode::<Epoch>(entry)?),
                _ => return Err(unknown().into()),
            }
        }
        let mut journal = Self { log: opened.log, identity, epoch, compact_at: COMPACTION_BYTES };
        match reached {
            Some(reached) if reached > epoch => {
                return Err(JournalError::EpochRetired { reached, configured: epoch });
            }
            Some(reached) if reached == epoch => {}
            _ => journal.log.append(EPOCH, &to_bytes(&epoch))?,
        }
        Ok((journal, state))
    }

    /// Makes promises durable, and shortens the log when it is long. `state` has them already.
    ///
    /// # Errors
    /// As [`SignLog::append`]. Nothing may be signed after that.
    pub fn record(&mut self, promises: &Promises, state: &SignState) -> Result<(), SignLogError> {
        self.log.append(PROMISES, &to_bytes(promises))?;
        if self.log.size() > self.compact_at { self.compact(state) } else { Ok(()) }
    }

    fn compact(&mut self, state: &SignState) -> Result<(), SignLogError> {
        let epoch = Entry { kind: EPOCH, payload: to_bytes(&self.epoch) };
        let summary = state.summary().into_iter();
        let summary = summary.map(|promises| Entry { kind: PROMISES, payload: to_bytes(&promises) });
        let entries: Vec<_> = [self.identity.entry(), epoch].into_iter().chain(summary).collect();
        self.log.rewrite(&entries)?;
        self.compact_at = COMPACTION_BYTES.max(self.log.size() * 2);
        Ok(())
    }

    /// Bytes of the log.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.log.size()
    }
}

fn unknown() -> SignLogError {
    // The checksum was right, so this is not damage but another version, or a bug: either way it cannot be obeyed.
    SignLogError::WalCorrupt { offset: 0 }
}

fn decode<T: BorshSerialize + BorshDeserialize>(entry: &Entry) -> Result<T, SignLogError> {
    from_bytes(&entry.payload, PAYLOAD_BYTES_MAX).map_err(|_| unknown())
}
