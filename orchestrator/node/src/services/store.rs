//! The file of the services: what was ordered for each, what came of it, and the trees of their logs, one redb database.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `walked` | entries of the orchestrators' log that were looked at, u64 |
//! | `ordered` | service ‖ number | entry of the orchestrators' log, u64 |
//! | `entries` | service ‖ number | [`StoredReceipt`] |
//! | `replies` | service ‖ number | encoded reply; the newest [`REPLIES_KEPT`] of each service |
//! | `nodes` | service ‖ level ‖ index | digest of a complete subtree |
//! | `heads` | service ‖ size | cosigned head; the newest [`HEADS_KEPT`] of each service |
//! | `stopped` | service | why it does not serve |
//!
//! Numbers in keys are big-endian, so that the entries of a service stand in order. Results and position are one durable transaction:
//! the position is the last key of `entries`. For everything else a sync once a second is enough: it is read from the log again.

use std::path::Path;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{from_bytes, to_bytes};
use quorate_attest::id::ServiceId;
use quorate_attest::key::Signature;
use quorate_attest::merkle::Digest;
use quorate_attest::service::ServiceReceipt;
use quorate_ordering::protocol::{CosignedHead, Refused};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::core::Batch;
use crate::log_tree::{NodePlace, Peaks, inclusion, root};
use crate::store::StoreError;

/// Replies that are kept of each service.
pub const REPLIES_KEPT: u64 = 100_000;
/// Cosigned heads that are kept of each service.
pub const HEADS_KEPT: u64 = 64;
const CACHE_BYTES: usize = 64 << 20;

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;
const META: Table = TableDefinition::new("meta");
const ORDERED: Table = TableDefinition::new("ordered");
const ENTRIES: Table = TableDefinition::new("entries");
const REPLIES: Table = TableDefinition::new("replies");
const NODES: Table = TableDefinition::new("nodes");
const HEADS: Table = TableDefinition::new("heads");
const STOPPED: Table = TableDefinition::new("stopped");
const WALKED: &[u8] = b"walked";

/// What came of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StoredReceipt {
    /// The receipt.
    pub receipt: ServiceReceipt,
    /// This replica's signature; none if there could be none.
    pub signature: Option<Signature>,
}

/// The open file.
#[derive(Debug)]
pub struct ServiceStore {
    database: Database,
}

fn key(service: &ServiceId, number: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[..32].copy_from_slice(service.as_bytes());
    key[32..].copy_from_slice(&number.to_be_bytes());
    key
}

fn node_key(service: &ServiceId, place: NodePlace) -> [u8; 41] {
    let mut key = [0; 41];
    key[..32].copy_from_slice(service.as_bytes());
    key[32] = place.level;
    key[33..].copy_from_slice(&place.index.to_be_bytes());
    key
}

fn number_of(bytes: &[u8]) -> Result<u64, StoreError> {
    let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| StoreError::damaged("a number of services.redb"))?;
    Ok(u64::from_be_bytes(bytes))
}

impl ServiceStore {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// `WalCorrupt`, `DataDirLocked`, storage errors.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let write = database.begin_write()?;
        for table in [META, ORDERED, ENTRIES, REPLIES, NODES, HEADS, STOPPED] {
            // A reader must find every table.
            write.open_table(table)?;
        }
        write.commit()?;
        Ok(Self { database })
    }

    /// A write that a crash may take back until the next [`ServiceStore::sync`] or the next durable one.
    fn write(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.write_with(Durability::None, work)
    }

    fn write_with(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(durability)?;
        work(&write)?;
        write.commit()?;
        Ok(())
    }

    /// Notes which entries of the orchestrators' log have which numbers, and how far that log was looked at.
    ///
    /// # Errors
    /// Storage errors.
    pub fn number(&self, ordered: &[(ServiceId, u64, u64)], walked: u64) -> Result<(), StoreError> {
        self.write(|write| {
            let mut table = write.open_table(ORDERED)?;
            for (service, number, log_index) in ordered {
                table.insert(&key(service, *number)[..], &log_index.to_be_bytes()[..])?;
            }
            write.open_table(META)?.insert(WALKED, &walked.to_be_bytes()[..])?;
            Ok(())
        })
    }

    /// Makes executed entries durable; old replies go. If all replicas lost the results of entries that their guests' slots contain,
    /// nobody could tell them any more.
    ///
    /// # Errors
    /// Storage errors; nothing of the batch is kept then.
    pub fn commit(&self, service: &ServiceId, batch: &Batch) -> Result<(), StoreError> {
        self.write_with(Durability::Immediate, |write| {
            let (mut entries, mut replies) = (write.open_table(ENTRIES)?, write.open_table(REPLIES)?);
            for done in &batch.entries {
                let key = key(service, done.receipt.number);
                let stored = StoredReceipt { receipt: done.receipt, signature: done.signature };
                entries.insert(&key[..], &to_bytes(&stored)[..])?;
                if !done.reply.is_empty() {
                    replies.insert(&key[..], &done.reply[..])?;
                }
            }
            if let Some(oldest) =
                batch.entries.last().and_then(|done| done.receipt.log_size.checked_sub(REPLIES_KEPT))
            {
                // Usually as many go as came.
                replies.retain_in(&key(service, 0)[..]..&key(service, oldest)[..], |_, _| false)?;
            }
            let mut nodes = write.open_table(NODES)?;
            for (place, digest) in &batch.nodes {
                nodes.insert(&node_key(service, *place)[..], &digest[..])?;
            }
            Ok(())
        })
    }

    /// Forgets what was executed from `number` on, and notes why the service is not served.
    ///
    /// # Errors
    /// Storage errors.
    pub fn stop(&self, service: &ServiceId, number: u64, why: &Refused) -> Result<(), StoreError> {
        self.write(|write| {
            let (low, high) = (key(service, number), key(service, u64::MAX));
            for table in [ENTRIES, REPLIES] {
                write.open_table(table)?.retain_in(&low[..]..=&high[..], |_, _| false)?;
            }
            let (low, high) = (key(service, number.saturating_add(1)), key(service, u64::MAX));
            write.open_table(HEADS)?.retain_in(&low[..]..=&high[..], |_, _| false)?;
            // Nodes beyond the end are written again with the entries that complete them.
            write.open_table(STOPPED)?.insert(&service.as_bytes()[..], &to_bytes(why)[..])?;
            Ok(())
        })?;
        self.sync()
    }

    /// The service is served again.
    ///
    /// # Errors
    /// Storage errors.
    pub fn resume(&self, service: &ServiceId) -> Result<(), StoreError> {
        self.write(|write| {
            write.open_table(STOPPED)?.remove(&service.as_bytes()[..])?;
            Ok(())
        })
    }

    /// Keeps a cosigned head.
    ///
    /// # Errors
    /// Storage errors.
    pub fn put_head(&self, service: &ServiceId, head: &CosignedHead) -> Result<(), StoreError> {
        self.write(|write| {
            let mut heads = write.open_table(HEADS)?;
            heads.insert(&key(service, head.size)[..], &to_bytes(head)[..])?;
            let (low, high) = (key(service, 0), key(service, u64::MAX));
            let kept = heads.range(&low[..]..=&high[..])?.count() as u64;
            let mut excess = kept.saturating_sub(HEADS_KEPT);
            heads.retain_in(&low[..]..=&high[..], |_, _| {
                let goes = excess > 0;
                excess = excess.saturating_sub(1);
                !goes
            })?;
            Ok(())
        })
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
    pub fn read(&self) -> Result<ServiceView, StoreError> {
        Ok(ServiceView { read: self.database.begin_read()? })
    }
}

/// A consistent view of the file.
pub struct ServiceView {
    read: ReadTransaction,
}

impl ServiceView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read.open_table(table)?.get(key)?.map(|value| value.value().to_vec()))
    }

    /// Number behind the last key of a service in a table.
    fn end(&self, table: Table, service: &ServiceId) -> Result<u64, StoreError> {
        let table = self.read.open_table(table)?;
        let (low, high) = (key(service, 0), key(service, u64::MAX));
        let Some(last) = table.range(&low[..]..=&high[..])?.next_back() else { return Ok(0) };
        let (last, _) = last?;
        Ok(number_of(last.value().get(32..).unwrap_or_default())?.saturating_add(1))
    }

    /// Entries of the orchestrators' log that were looked at.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn walked(&self) -> Result<u64, StoreError> {
        self.get(META, WALKED)?.map_or(Ok(0), |bytes| number_of(&bytes))
    }

    /// Numbers of a service that are known to be given out.
    ///
    /// # Errors
    /// Storage errors.
    pub fn ordered(&self, service: &ServiceId) -> Result<u64, StoreError> {
        self.end(ORDERED, service)
    }

    /// Where the orchestrators' log ordered an entry.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn place(&self, service: &ServiceId, number: u64) -> Result<Option<u64>, StoreError> {
        self.get(ORDERED, &key(service, number))?.map(|bytes| number_of(&bytes)).transpose()
    }

    /// Entries executed.
    ///
    /// # Errors
    /// Storage errors.
    pub fn size(&self, service: &ServiceId) -> Result<u64, StoreError> {
        self.end(ENTRIES, service)
    }

    /// What came of an entry.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn receipt(&self, service: &ServiceId, number: u64) -> Result<Option<StoredReceipt>, StoreError> {
        let Some(bytes) = self.get(ENTRIES, &key(service, number))? else { return Ok(None) };
        let damaged = |_| StoreError::damaged(format!("entry {number} of service {service}"));
        from_bytes(&bytes, 512).map(Some).map_err(damaged)
    }

    /// The reply of an entry, if it is still kept.
    ///
    /// # Errors
    /// Storage errors.
    pub fn reply(&self, service: &ServiceId, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(REPLIES, &key(service, number))
    }

    /// Why the service is not served.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn stopped(&self, service: &ServiceId) -> Result<Option<Refused>, StoreError> {
        let Some(bytes) = self.get(STOPPED, service.as_bytes())? else { return Ok(None) };
        from_bytes(&bytes, 4096).map(Some).map_err(|_| StoreError::damaged("why a service was stopped"))
    }

    /// Heads that were cosigned, ascending by size.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn heads(&self, service: &ServiceId) -> Result<Vec<CosignedHead>, StoreError> {
        let table = self.read.open_table(HEADS)?;
        let (low, high) = (key(service, 0), key(service, u64::MAX));
        let damaged = |_| StoreError::damaged("cosigned head of a service");
        let mut heads = Vec::new();
        for row in table.range(&low[..]..=&high[..])? {
            heads.push(from_bytes(row?.1.value(), 1024).map_err(damaged)?);
        }
        Ok(heads)
    }

    /// Root of the service's log when it had `size` entries.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn root(&self, service: &ServiceId, size: u64) -> Result<Digest, StoreError> {
        root(size, self.nodes(service)?)
    }

    /// Inclusion path of an entry in the log of `size` entries; none when it is not in it.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn inclusion(
        &self,
        service: &ServiceId,
        number: u64,
        size: u64,
    ) -> Result<Option<Vec<Digest>>, StoreError> {
        inclusion(number, size, self.nodes(service)?)
    }

    /// Proof that the log of `new` entries continues that of `old`; none when it is shorter.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn consistency(
        &self,
        service: &ServiceId,
        old: u64,
        new: u64,
    ) -> Result<Option<Vec<Digest>>, StoreError> {
        crate::log_tree::consistency(old, new, self.nodes(service)?)
    }

    /// What is needed of the tree of `size` entries to go on.
    ///
    /// # Errors
    /// `WalCorrupt`, storage errors.
    pub fn peaks(&self, service: &ServiceId, size: u64) -> Result<Peaks, StoreError> {
        Peaks::restore(size, self.nodes(service)?)
    }

    fn nodes(
        &self,
        service: &ServiceId,
    ) -> Result<impl Fn(NodePlace) -> Result<Digest, StoreError>, StoreError> {
        let (nodes, service) = (self.read.open_table(NODES)?, *service);
        Ok(move |place: NodePlace| {
            let found = nodes.get(&node_key(&service, place)[..])?;
            let digest = found.and_then(|digest| Digest::try_from(digest.value()).ok());
            digest.ok_or_else(|| StoreError::damaged(format!("node {place:?} of service {service}")))
        })
    }
}

#[cfg(test)]
mod tests;
