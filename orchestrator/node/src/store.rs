//! The executed log on disk: entries, their tree, states to start from, and cosigned heads. One redb file.
//!
//! A batch is one transaction: entries, the nodes of the tree that they complete, where the log ends, and now and then the state after it.
//! After a crash the file holds whole batches only; those that were not synced come again from the log. The state between two snapshots is not stored but executed again, and each of its
//! roots compared with the stored receipt, so that a damaged file is noticed at the start and not by a peer.

use std::path::Path;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{from_bytes, to_bytes};
use quorate_attest::id::{GroupId, OperationId};
use quorate_attest::key::Signature;
use quorate_attest::merkle::Digest;
use quorate_attest::operation::OPERATION_LIMIT;
use quorate_attest::receipt::Receipt;
use quorate_attest::vm::Decision;
use quorate_ordering::protocol::{Applied, CosignedHead, OUTCOME_BYTES_MAX};
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};

use crate::log_tree::{NodePlace, Peaks, inclusion, root};

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const PLACES: TableDefinition<&[u8; 32], u64> = TableDefinition::new("places");
const NODES: TableDefinition<(u8, u64), &[u8; 32]> = TableDefinition::new("nodes");
const SNAPSHOTS: TableDefinition<u64, &[u8]> = TableDefinition::new("snapshots");
const HEADS: TableDefinition<u64, &[u8]> = TableDefinition::new("heads");

const GROUP: &str = "group";
const SIZE: &str = "size";
/// Heads that are kept.
const HEADS_MAX: usize = 64;
/// Snapshots that are kept: the newest, and one before it.
const SNAPSHOTS_MAX: usize = 2;
/// Most bytes of an encoded entry.
const ENTRY_BYTES_MAX: usize = OPERATION_LIMIT + OUTCOME_BYTES_MAX + 4096;
/// Memory for pages of the file.
const CACHE_BYTES: usize = 64 << 20;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The device, or redb's own checks.
    #[error("the log's file failed: {0}")]
    Database(Box<redb::Error>),
    /// The file is of another group.
    #[error("the log's file belongs to group {got}, not {want}")]
    WrongCluster {
        /// Group of the configuration.
        want: GroupId,
        /// Group of the file.
        got: GroupId,
    },
    /// Something that must be there is missing or does not decode.
    #[error("the log's file is damaged: {what}")]
    Damaged {
        /// What was looked for.
        what: String,
    },
}

impl StoreError {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Database(error) => match error.as_ref() {
                redb::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => "StorageFull",
                redb::Error::Corrupted(_) => "WalCorrupt",
                redb::Error::DatabaseAlreadyOpen => "DataDirLocked",
                _ => "StorageSyncFailed",
            },
            Self::WrongCluster { .. } => "WrongCluster",
            Self::Damaged { .. } => "WalCorrupt",
        }
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => { $(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )* };
}

from_redb!(
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError
);

/// An executed entry with this node's signatures.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StoredEntry {
    /// The encoded operation.
    pub operation: Vec<u8>,
    /// This node's index in the group of the entry's epoch; none when it was no member or had nothing to say any more.
    pub signer: Option<u16>,
    /// What happened.
    pub receipt: Receipt,
    /// Of this node over the receipt.
    pub signature: Signature,
    /// The encoded outcome.
    pub outcome: Vec<u8>,
    /// What was decided, with this node's signature.
    pub decision: Option<(Decision, Signature)>,
}

impl StoredEntry {
    /// The answer to whoever submitted the operation. Without a signature there is none.
    #[must_use]
    pub fn applied(&self) -> Option<Applied> {
        Some(Applied {
            orchestrator: self.signer?,
            receipt: self.receipt,
            signature: self.signature,
            outcome: self.outcome.clone(),
            decision: self.decision.clone(),
        })
    }

    /// As [`StoredEntry::applied`] for whoever reads the log: an entry that this node did not sign names no orchestrator.
    #[must_use]
    pub fn shown(&self) -> Applied {
        Applied {
            orchestrator: self.signer.unwrap_or(u16::MAX),
            receipt: self.receipt,
            signature: self.signature,
            outcome: self.outcome.clone(),
            decision: self.decision.clone(),
        }
    }
}

/// What one transaction makes durable.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Consecutive entries.
    pub entries: Vec<StoredEntry>,
    /// Nodes of the tree that they complete.
    pub nodes: Vec<(NodePlace, Digest)>,
    /// The state after the last, encoded.
    pub snapshot: Option<Vec<u8>>,
    /// The head after the last.
    pub head: Option<CosignedHead>,
}

/// The open file. Reads do not wait for writes.
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// `WrongCluster`, `WalCorrupt`, `DataDirLocked`, storage errors.
    pub fn open(path: &Path, group: GroupId) -> Result<Self, StoreError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let write = database.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let known = meta.get(GROUP)?.map(|bytes| bytes.value().to_vec());
            match known.map(<[u8; 32]>::try_from) {
                None => {
                    meta.insert(GROUP, &group.as_bytes()[..])?;
                }
                Some(Ok(bytes)) if GroupId::from_bytes(bytes) == group => {}
                Some(Ok(bytes)) => {
                    return Err(StoreError::WrongCluster { want: group, got: GroupId::from_bytes(bytes) });
                }
                Some(Err(_)) => return Err(StoreError::damaged("name of the group")),
            }
            // A reader must find every table.
            write.open_table(ENTRIES)?;
            write.open_table(PLACES)?;
            write.open_table(NODES)?;
            write.open_table(SNAPSHOTS)?;
            write.open_table(HEADS)?;
        }
        write.commit()?;
        Ok(Self { database })
    }

    /// Writes a batch, visible at once. It survives a crash after the next [`Store::sync`] only; until then a crash takes back whole
    /// batches, the newest first.
    ///
    /// # Errors
    /// Storage errors; nothing of the batch is kept then.
    pub fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut entries = write.open_table(ENTRIES)?;
            let mut places = write.open_table(PLACES)?;
            for entry in &batch.entries {
                entries.insert(entry.receipt.index, &to_bytes(entry)[..])?;
                places.insert(entry.receipt.operation.as_bytes(), entry.receipt.index)?;
            }
            let mut nodes = write.open_table(NODES)?;
            for (NodePlace { level, index }, digest) in &batch.nodes {
                nodes.insert((*level, *index), digest)?;
            }
            let mut meta = write.open_table(META)?;
            if let Some(last) = batch.entries.last() {
                meta.insert(SIZE, &last.receipt.log_size.to_le_bytes()[..])?;
                if let Some(snapshot) = &batch.snapshot {
                    let mut snapshots = write.open_table(SNAPSHOTS)?;
                    snapshots.insert(last.receipt.log_size, &snapshot[..])?;
                    drop_oldest(&mut snapshots, SNAPSHOTS_MAX)?;
                }
            }
            if let Some(head) = &batch.head {
                let mut heads = write.open_table(HEADS)?;
                heads.insert(head.size, &to_bytes(head)[..])?;
                drop_oldest(&mut heads, HEADS_MAX)?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// Storage errors.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.database.begin_write()?.commit()?;
        Ok(())
    }

    /// A view of everything as of now.
    ///
    /// # Errors
    /// Storage errors.
    pub fn read(&self) -> Result<View, StoreError> {
        Ok(View { read: self.database.begin_read()? })
    }
}

fn drop_oldest(table: &mut redb::Table<'_, u64, &[u8]>, keep: usize) -> Result<(), StoreError> {
    let excess = redb::ReadableTableMetadata::len(table)?.saturating_sub(keep as u64);
    for _ in 0..excess {
        table.pop_first()?;
    }
    Ok(())
}

/// A consistent view of the file.
pub struct View {
    read: ReadTransaction,
}

impl View {
    /// Entries of the log.
    ///
    /// # Errors
    /// Storage errors.
    pub fn size(&self) -> Result<u64, StoreError> {
        let meta = self.read.open_table(META)?;
        let Some(bytes) = meta.get(SIZE)? else { return Ok(0) };
        let bytes = <[u8; 8]>::try_from(bytes.value()).map_err(|_| StoreError::damaged("size of the log"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The entry at an index, if it was executed.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn entry(&self, index: u64) -> Result<Option<StoredEntry>, StoreError> {
        let entries = self.read.open_table(ENTRIES)?;
        let Some(bytes) = entries.get(index)? else { return Ok(None) };
        let damaged = |_| StoreError::damaged(format!("entry {index}"));
        from_bytes(bytes.value(), ENTRY_BYTES_MAX).map(Some).map_err(damaged)
    }

    /// The entry of an operation, if it was executed.
    ///
    /// # Errors
    /// As [`View::entry`].
    pub fn find(&self, operation: &OperationId) -> Result<Option<StoredEntry>, StoreError> {
        let places = self.read.open_table(PLACES)?;
        let index = places.get(operation.as_bytes())?.map(|index| index.value());
        index.map_or(Ok(None), |index| self.entry(index))
    }

    /// The newest state: entries it covers, and its encoding.
    ///
    /// # Errors
    /// Storage errors.
    pub fn snapshot(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let snapshots = self.read.open_table(SNAPSHOTS)?;
        let newest = snapshots.last()?;
        Ok(newest.map(|(size, bytes)| (size.value(), bytes.value().to_vec())))
    }

    /// Heads that were cosigned, ascending by size.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn heads(&self) -> Result<Vec<CosignedHead>, StoreError> {
        let heads = self.read.open_table(HEADS)?;
        let decode = |bytes: &[u8]| from_bytes(bytes, 1024).map_err(|_| StoreError::damaged("cosigned head"));
        heads.iter()?.map(|row| decode(row?.1.value())).collect()
    }

    /// Root of the log when it had `size` entries.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn root(&self, size: u64) -> Result<Digest, StoreError> {
        root(size, self.nodes()?)
    }

    /// Inclusion path of an entry in the log of `size` entries; none when the entry is not in it.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Digest>>, StoreError> {
        inclusion(index, size, self.nodes()?)
    }

    /// What a replica needs of the tree of `size` entries to go on.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn peaks(&self, size: u64) -> Result<Peaks, StoreError> {
        Peaks::restore(size, self.nodes()?)
    }

    fn nodes(&self) -> Result<impl Fn(NodePlace) -> Result<Digest, StoreError>, StoreError> {
        let nodes = self.read.open_table(NODES)?;
        Ok(move |NodePlace { level, index }: NodePlace| {
            let digest = nodes.get((level, index))?.map(|digest| *digest.value());
            digest.ok_or_else(|| StoreError::damaged(format!("node {index} of level {level}")))
        })
    }
}
