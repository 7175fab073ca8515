//! Operations that wait for a block. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::limits::MempoolLimits;
use bytes::Bytes;

/// Identifies an operation.
pub type OperationId = [u8; 32];

/// Who an operation came from: a member's index, or ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// Submitted here.
    Own,
    /// Gossiped by this member.
    Member(u16),
}

/// What became of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It waits now.
    New,
    /// It waited already.
    Known,
    /// The origin's share is used up; the operation was dropped.
    Full,
}

#[derive(Debug)]
struct Pending {
    operation: Bytes,
    origin: Origin,
    sequence: u64,
    /// It was pending at the last tick already.
    aged: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Share {
    operations: usize,
    bytes: usize,
}

/// Pending operations in order of arrival. Each origin has a share of its own, so nobody can crowd out others.
#[derive(Debug)]
pub struct Mempool {
    limits: MempoolLimits,
    pending: HashMap<OperationId, Pending>,
    order: BTreeMap<u64, OperationId>,
    shares: BTreeMap<Origin, Share>,
    sequence: u64,
}

impl Mempool {
    /// An empty mempool.
    pub fn new(limits: MempoolLimits) -> Self {
        Self { limits, pending: HashMap::new(), order: BTreeMap::new(), shares: BTreeMap::new(), sequence: 0 }
    }

    /// Pending operations.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Adds an operation. One that came from a member and is now submitted here becomes our own, so that we answer for
    /// its being ordered.
    pub fn insert(&mut self, id: OperationId, operation: Bytes, origin: Origin) -> Inserted {
        if let Some(known) = self.pending.get_mut(&id) {
            if origin == Origin::Own && known.origin != Origin::Own {
                let bytes = known.operation.len();
                release(&mut self.shares, known.origin, bytes);
                known.origin = Origin::Own;
                let share = self.shares.entry(Origin::Own).or_default();
                (share.operations, share.bytes) = (share.operations + 1, share.bytes + bytes);
            }
            return Inserted::Known;
        }
        let share = self.shares.entry(origin).or_default();
        if share.operations >= self.limits.operations
            || share.bytes.saturating_add(operation.len()) > self.limits.bytes
        {
            return Inserted::Full;
        }
        (share.operations, share.bytes) = (share.operations + 1, share.bytes + operation.len());
        self.order.insert(self.sequence, id);
        let sequence = self.sequence;
        self.pending.insert(id, Pending { operation, origin, sequence, aged: false });
        self.sequence += 1;
        Inserted::New
    }

    /// Forgets operations that are in the log.
    pub fn remove<'a>(&mut self, ids: impl IntoIterator<Item = &'a OperationId>) {
        for id in ids {
            if let Some(gone) = self.pending.remove(id) {
                self.order.remove(&gone.sequence);
                release(&mut self.shares, gone.origin, gone.operation.len());
            }
        }
    }

    /// The oldest operations that fit into the bounds and are not to be skipped. They stay until they are removed.
    pub fn take(
        &self,
        operations: usize,
        bytes: usize,
        skip: impl Fn(&OperationId) -> bool,
    ) -> Vec<(OperationId, Bytes)> {
        let mut left = bytes;
        let mut taken = Vec::new();
        for id in self.order.values() {
            if taken.len() == operations {
                break;
            }
            let Some(pending) = self.pending.get(id).filter(|_| !skip(id)) else { continue };
            if pending.operation.len() > left {
                break;
            }
            left -= pending.operation.len();
            taken.push((*id, pending.operation.clone()));
        }
        taken
    }

    /// Our own operations that were pending at the last call already, at most `bytes` of them.
    pub fn aged(&mut self, bytes: usize) -> Vec<Bytes> {
        let mut left = bytes;
        let mut aged = Vec::new();
        for pending in self.pending_in_order() {
            if pending.origin != Origin::Own {
                continue;
            }
            if pending.aged && pending.operation.len() <= left {
                left -= pending.operation.len();
                aged.push(pending.operation.clone());
            }
        }
        for pending in self.pending.values_mut() {
            pending.aged = true;
        }
        aged
    }

    fn pending_in_order(&self) -> impl Iterator<Item = &Pending> {
        self.order.values().filter_map(|id| self.pending.get(id))
    }
}

fn release(shares: &mut BTreeMap<Origin, Share>, origin: Origin, bytes: usize) {
    if let Some(share) = shares.get_mut(&origin) {
        share.operations = share.operations.saturating_sub(1);
        share.bytes = share.bytes.saturating_sub(bytes);
    }
}
