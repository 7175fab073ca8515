//! The durable index: index to entry and operation id to index, written together with the height they came from.
//!
//! One transaction, one sync. Only after it the engine is told that the block was taken, so after a crash at any
//! point the engine delivers what is not here, and what is here twice is recognised by its height.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_agreement_engine::application::{Ledger, LedgerFailed};
use quorate_agreement_engine::block::{Block, Header};
use quorate_attest::encoding::{Bounded, from_bytes, to_bytes};
use quorate_attest::id::{Epoch, OperationId};
use redb::{Database, DatabaseError, ReadableDatabase, StorageError, TableDefinition};

use crate::error::LogError;
use crate::log::Entry;

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const IDS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("ids");
const STATE: TableDefinition<'_, u8, &[u8]> = TableDefinition::new("state");
const CURRENT: u8 = 0;
/// The genesis of every epoch that began.
const EPOCHS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("epochs");

/// Bytes of the file's cache in memory.
const CACHE: usize = 32 << 20;

/// How far the log has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Position {
    /// The group's id.
    pub(crate) group: [u8; 32],
    /// Header of the newest block taken in; the genesis of the epoch at first.
    pub(crate) header: Header,
    /// Entries in the log.
    pub(crate) entries: u64,
    /// Digest of the block whose last operation ended the epoch.
    pub(crate) ended: Option<[u8; 32]>,
}

impl Bounded for Position {
    const LIMIT: usize = 32 + Header::LENGTH + 8 + 33;
}

/// How an epoch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Began {
    pub(crate) genesis: Header,
    /// Digest of its configuration.
    pub(crate) config: [u8; 32],
}

impl Bounded for Began {
    const LIMIT: usize = Header::LENGTH + 32;
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Stored {
    id: [u8; 32],
    epoch: u64,
    height: u64,
    operation: Vec<u8>,
}

/// The index. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Index {
    database: Arc<Database>,
    file: Arc<PathBuf>,
}

impl Index {
    /// Opens or creates the index of a group.
    pub(crate) fn open(file: &Path) -> Result<Self, LogError> {
        let opened = Database::builder().set_cache_size(CACHE).create(file);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => {
                LogError::DataDirLocked { folder: file.display().to_string() }
            }
            DatabaseError::Storage(StorageError::Io(error))
                if error.kind() != std::io::ErrorKind::InvalidData =>
            {
                LogError::Storage { reason: error.to_string() }
            }
            other => corrupt(file, &other),
        })?;
        let index = Self { database: Arc::new(database), file: Arc::new(file.to_owned()) };
        index.create_tables().map_err(|error| corrupt(file, &error))?;
        Ok(index)
    }

    fn create_tables(&self) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        write.open_table(ENTRIES)?;
        write.open_table(IDS)?;
        write.open_table(STATE)?;
        write.open_table(EPOCHS)?;
        write.commit()?;
        Ok(())
    }

    fn corrupt(&self, error: &dyn std::fmt::Display) -> LogError {
        corrupt(&self.file, error)
    }

    /// The position, if anything was written yet.
    pub(crate) fn position(&self) -> Result<Option<Position>, LogError> {
        let bytes = self.read_state().map_err(|error| self.corrupt(&error))?;
        bytes.map(|bytes| Position::decoded(&bytes).map_err(|error| self.corrupt(&error))).transpose()
    }

    fn read_state(&self) -> Result<Option<Vec<u8>>, redb::Error> {
        let read = self.database.begin_read()?;
        Ok(read.open_table(STATE)?.get(CURRENT)?.map(|bytes| bytes.value().to_vec()))
    }

    /// How an epoch began, if it did.
    pub(crate) fn began(&self, epoch: u64) -> Result<Option<Began>, LogError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let read = self.database.begin_read()?;
            Ok(read.open_table(EPOCHS)?.get(epoch)?.map(|bytes| bytes.value().to_vec()))
        };
        let bytes = read().map_err(|error| self.corrupt(&error))?;
        bytes.map(|bytes| Began::decoded(&bytes).map_err(|error| self.corrupt(&error))).transpose()
    }

    /// Begins an epoch at its genesis.
    pub(crate) fn begin(&self, position: &Position, config: &[u8; 32]) -> Result<(), LogError> {
        let write = || -> Result<(), redb::Error> {
            let write = self.database.begin_write()?;
            write.open_table(STATE)?.insert(CURRENT, to_bytes(position).as_slice())?;
            let began = to_bytes(&Began { genesis: position.header, config: *config });
            write.open_table(EPOCHS)?.insert(position.header.epoch, began.as_slice())?;
            write.commit()?;
            Ok(())
        };
        write().map_err(|error| storage(&error))
    }

    /// Writes blocks that continue `position`, and returns where the log is then.
    pub(crate) fn append(&self, position: &Position, blocks: &[Applied<'_>]) -> Result<Position, LogError> {
        let mut now = *position;
        let mut write = || -> Result<Result<(), LogError>, redb::Error> {
            let write = self.database.begin_write()?;
            {
                let mut entries = write.open_table(ENTRIES)?;
                let mut ids = write.open_table(IDS)?;
                for applied in blocks {
                    if let Err(conflict) = advance(&mut now, applied) {
                        return Ok(Err(conflict));
                    }
                    let header = applied.block.header();
                    for (offset, (id, operation)) in applied.operations().enumerate() {
                        let index = header.first_index + offset as u64;
                        if ids.insert(id, index)?.is_some() {
                            let id = OperationId::from_bytes(*id);
                            let reason = format!("block {} repeats operation {id}", header.height);
                            return Ok(Err(LogError::Conflict { reason }));
                        }
                        entries.insert(index, stored(id, header, operation).as_slice())?;
                    }
                }
                write.open_table(STATE)?.insert(CURRENT, to_bytes(&now).as_slice())?;
            }
            write.commit()?;
            Ok(Ok(()))
        };
        write().map_err(|error| storage(&error))??;
        Ok(now)
    }

    /// Entries from `from` on, at most `count` and about `bytes` of them, at least one if there is one.
    pub(crate) fn read(&self, from: u64, count: usize, bytes: usize) -> Result<Vec<Entry>, LogError> {
        let read = || -> Result<Result<Vec<Entry>, LogError>, redb::Error> {
            let read = self.database.begin_read()?;
            let table = read.open_table(ENTRIES)?;
            let (mut found, mut size) = (Vec::new(), 0usize);
            for row in table.range(from..)? {
                let (index, value) = row?;
                let entry = match entry(index.value(), value.value()) {
                    Ok(entry) => entry,
                    Err(error) => return Ok(Err(self.corrupt(&error))),
                };
                if entry.index != from + found.len() as u64 {
                    return Ok(Err(self.corrupt(&format!("entry {} is missing", from + found.len() as u64))));
                }
                size += entry.operation.len();
                found.push(entry);
                if found.len() == count || size >= bytes {
                    break;
                }
            }
            Ok(Ok(found))
        };
        read().map_err(|error| self.corrupt(&error))?
    }
}

/// A block with the ids of its operations.
pub(crate) struct Applied<'a> {
    pub(crate) block: &'a Block,
    pub(crate) ids: &'a [[u8; 32]],
    pub(crate) ends_epoch: bool,
}

impl Applied<'_> {
    fn operations(&self) -> impl Iterator<Item = (&[u8; 32], &[u8])> {
        self.ids.iter().zip(self.block.operations().iter().map(|operation| operation.as_ref()))
    }
}

/// Moves past a block that must follow. Anything else means that two quorums contradicted each other.
fn advance(now: &mut Position, applied: &Applied<'_>) -> Result<(), LogError> {
    let header = applied.block.header();
    let follows = header.epoch == now.header.epoch
        && header.height == now.header.height + 1
        && header.parent == now.header.digest()
        && header.first_index == now.entries
        && applied.ids.len() == header.count as usize
        && (now.ended.is_none() || header.count == 0);
    if !follows {
        let reason = format!("block {} of epoch {} does not follow", header.height, header.epoch);
        return Err(LogError::Conflict { reason });
    }
    now.entries = header.next_index();
    now.header = *header;
    if applied.ends_epoch {
        now.ended = Some(header.digest());
    }
    Ok(())
}

fn stored(id: &[u8; 32], header: &Header, operation: &[u8]) -> Vec<u8> {
    let (epoch, height) = (header.epoch, header.height);
    to_bytes(&Stored { id: *id, epoch, height, operation: operation.to_vec() })
}

fn entry(index: u64, bytes: &[u8]) -> Result<Entry, quorate_attest::encoding::DecodeError> {
    let limit = 52 + quorate_agreement_engine::limits::OPERATION_LIMIT;
    let stored: Stored = from_bytes(bytes, limit)?;
    let Stored { id, epoch, height, operation } = stored;
    Ok(Entry { index, id: OperationId::from_bytes(id), operation, epoch: Epoch(epoch), height })
}

fn corrupt(file: &Path, error: &dyn std::fmt::Display) -> LogError {
    LogError::LogCorrupt { file: file.display().to_string(), reason: error.to_string() }
}

fn storage(error: &redb::Error) -> LogError {
    LogError::Storage { reason: error.to_string() }
}

impl Ledger for Index {
    fn contains(&self, id: &[u8; 32]) -> Result<bool, LedgerFailed> {
        let read = || -> Result<bool, redb::Error> {
            let read = self.database.begin_read()?;
            Ok(read.open_table(IDS)?.get(id)?.is_some())
        };
        read().map_err(|error| LedgerFailed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn test_any_bytes_in_the_index_decode_to_what_encodes_to_them_or_are_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(position) = Position::decoded(&bytes) {
                prop_assert_eq!(&to_bytes(&position), &bytes);
            }
            if let Ok(began) = Began::decoded(&bytes) {
                prop_assert_eq!(&to_bytes(&began), &bytes);
            }
            if let Ok(entry) = entry(7, &bytes) {
                prop_assert_eq!(entry.index, 7);
            }
        }
    }
}
