//! The index of a simulated member: what survives its crashes, and where each entry is checked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use commonware_cryptography::Digested;
use quorate_agreement_engine::application::{Ledger, LedgerFailed, Shared, Sink};
use quorate_agreement_engine::block::{Block, Header};
use quorate_agreement_engine::{Acknowledgement, Exact};

/// An operation with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Place in the log.
    pub index: u64,
    /// The operation's identifier.
    pub id: [u8; 32],
    /// The operation.
    pub operation: Vec<u8>,
    /// Epoch in which it was ordered.
    pub epoch: u64,
    /// Height of its block.
    pub height: u64,
}

#[derive(Debug, Default)]
struct Contents {
    newest: Option<Header>,
    entries: Vec<Entry>,
    ids: BTreeMap<[u8; 32], u64>,
    violations: Vec<String>,
    /// A planted fault: the index denies what it holds.
    forgetful: bool,
}

/// A member's durable index. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Contents>>);

impl Disk {
    /// A disk whose index denies every entry: a planted fault that lets operations into the log twice. A campaign that does
    /// not find it proves nothing.
    pub fn forgetful() -> Self {
        let disk = Self::default();
        disk.lock().forgetful = true;
        disk
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All entries.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// Height of the newest block.
    pub fn height(&self) -> u64 {
        self.lock().newest.map_or(0, |header| header.height)
    }

    /// Rules that a delivered block broke: gaps, repeated operations, blocks that do not follow. Empty, or safety is lost.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Writes a block that is not here yet; the entries that are new.
    fn append(&self, block: &Block, genesis: &Header, ids: &[[u8; 32]]) -> Vec<Entry> {
        let mut contents = self.lock();
        let header = *block.header();
        let before = contents.newest.unwrap_or(*genesis);
        if header.height <= before.height {
            return Vec::new();
        }
        if header.height != before.height + 1 || header.parent != before.digest() {
            contents
                .violations
                .push(format!("block {} does not follow block {}", header.height, before.height));
        }
        if header.first_index != contents.entries.len() as u64 || ids.len() != block.operations().len() {
            contents.violations.push(format!("block {} leaves a gap", header.height));
        }
        let mut fresh = Vec::new();
        for (id, operation) in ids.iter().zip(block.operations()) {
            let index = contents.entries.len() as u64;
            if let Some(first) = contents.ids.insert(*id, index) {
                contents.violations.push(format!("entries {first} and {index} are one operation"));
            }
            let (epoch, height) = (header.epoch, header.height);
            let entry = Entry { index, id: *id, operation: operation.to_vec(), epoch, height };
            contents.entries.push(entry.clone());
            fresh.push(entry);
        }
        contents.newest = Some(header);
        fresh
    }
}

impl Ledger for Disk {
    fn contains(&self, id: &[u8; 32]) -> Result<bool, LedgerFailed> {
        let contents = self.lock();
        Ok(!contents.forgetful && contents.ids.contains_key(id))
    }
}

/// Called with each entry once it is durable.
pub(crate) type OnEntry = Box<dyn FnMut(&Entry) + Send>;

/// Takes final blocks to the disk.
pub(crate) struct Writer {
    pub(crate) disk: Disk,
    pub(crate) genesis: Header,
    pub(crate) shared: OnceLock<Arc<Shared>>,
    pub(crate) on_entry: Mutex<OnEntry>,
}

impl Sink for Writer {
    fn deliver(&self, block: Digested<Block>, acknowledgement: Exact) {
        let Some(shared) = self.shared.get() else { return };
        let (block, rules) = (block.inner(), shared.rules());
        let ids: Vec<_> = block.operations().iter().map_while(|bytes| (rules.operation_id)(bytes)).collect();
        let fresh = self.disk.append(block, &self.genesis, &ids);
        let ends = block.operations().last().is_some_and(|last| (rules.ends_epoch)(last));
        shared.applied(block.header().height, &ids, ends);
        let mut on_entry = self.on_entry.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in &fresh {
            on_entry(entry);
        }
        acknowledgement.acknowledge();
    }

    fn tip(&self, _: u64) {}
}
