//! The state as a service sees it while it executes one request: the tree and the changes so far.

use alloc::vec::Vec;

use quorate_attest::state_tree::{Changes, KEY_LIMIT, StateTree, VALUE_LIMIT};

use crate::limits::{Limits, SERVICE_ENTRIES, change_cost, entry_cost};
use crate::status;

/// First byte of the kit's own keys, which a service neither sees nor writes.
pub(crate) const OWN: u8 = 0;

/// A view of the state with changes that are made together or not at all. Keys begin with a byte of 1 or more: those with 0
/// are the kit's own.
#[derive(Debug)]
pub struct State<'a> {
    tree: &'a StateTree,
    limits: &'a Limits,
    changes: Changes,
    change_bytes: u64,
    /// What the service's entries cost with the changes.
    used_bytes: u64,
    /// Number of all entries with the changes.
    entries: usize,
    /// A removal was over the budget of changes.
    overrun: bool,
}

/// What is to be done to the tree.
pub(crate) struct Outcome {
    pub(crate) changes: Changes,
    /// What the service's entries cost afterwards.
    pub(crate) used_bytes: u64,
}

impl<'a> State<'a> {
    pub(crate) fn new(tree: &'a StateTree, used_bytes: u64, limits: &'a Limits) -> Self {
        let entries = tree.len();
        Self { tree, limits, changes: Changes::new(), change_bytes: 0, used_bytes, entries, overrun: false }
    }

    /// The changes; none if they were too many to be made.
    pub(crate) fn finish(self) -> Option<Outcome> {
        (!self.overrun).then_some(Outcome { changes: self.changes, used_bytes: self.used_bytes })
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        if is_own(key) {
            return None;
        }
        match self.changes.get(key) {
            Some(changed) => changed.as_deref(),
            None => self.tree.get(key),
        }
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// `TOO_LARGE`: key or value is over its limit; `MALFORMED`: the key is empty or the kit's own; `LIMIT`: the state is
    /// full, or the request changes too much.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), u16> {
        if key.len() > KEY_LIMIT || value.len() > VALUE_LIMIT {
            return Err(status::TOO_LARGE);
        }
        if key.is_empty() || is_own(&key) {
            return Err(status::MALFORMED);
        }
        let before = self.get(&key).map(|old| entry_cost(&key, old));
        let used = self.used_bytes - before.unwrap_or(0) + entry_cost(&key, &value);
        let full = before.is_none() && self.entries >= SERVICE_ENTRIES;
        // What becomes smaller is allowed in any case.
        if full || (used > self.limits.state_bytes && used > self.used_bytes) {
            return Err(status::LIMIT);
        }
        let (mut key, mut value) = (key, value);
        // Room that growing buffers left over is in no budget.
        key.shrink_to_fit();
        value.shrink_to_fit();
        if !self.change(key, Some(value)) {
            return Err(status::LIMIT);
        }
        self.used_bytes = used;
        self.entries += usize::from(before.is_none());
        Ok(())
    }

    /// Removes a key, if it is there. A request that removes too much fails with `LIMIT` as a whole.
    pub fn remove(&mut self, key: &[u8]) {
        let Some(before) = self.get(key).map(|old| entry_cost(key, old)) else { return };
        if self.change(key.to_vec(), None) {
            self.used_bytes -= before;
            self.entries -= 1;
        } else {
            self.overrun = true;
        }
    }

    /// Entries with `low <= key <= high`, ascending, changes included.
    pub fn range(&self, low: &[u8], high: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        let low = low.max(&[OWN + 1]);
        Merged {
            high: high.to_vec(),
            tree: self.tree.from(low).peekable(),
            changes: self.changes.range(low.to_vec()..).peekable(),
        }
    }

    /// Notes a change; false if there is no room for it.
    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> bool {
        let before = self.changes.get(&key).map_or(0, |old| change_cost(&key, old.as_deref()));
        let bytes = self.change_bytes - before + change_cost(&key, value.as_deref());
        if bytes > self.limits.change_bytes {
            return false;
        }
        self.change_bytes = bytes;
        self.changes.insert(key, value);
        true
    }
}

fn is_own(key: &[u8]) -> bool {
    key.first() == Some(&OWN)
}

struct Merged<T: Iterator, C: Iterator> {
    high: Vec<u8>,
    tree: core::iter::Peekable<T>,
    changes: core::iter::Peekable<C>,
}

impl<'s, T, C> Iterator for Merged<T, C>
where
    T: Iterator<Item = (&'s [u8], &'s [u8])>,
    C: Iterator<Item = (&'s Vec<u8>, &'s Option<Vec<u8>>)>,
{
    type Item = (&'s [u8], &'s [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let known = self.tree.peek().map(|(key, _)| *key);
            let changed = self.changes.peek().map(|(key, _)| key.as_slice());
            let (key, value) = match (known, changed) {
                (None, None) => return None,
                (Some(key), changed) if changed.is_none_or(|changed| key < changed) => {
                    let (key, value) = self.tree.next()?;
                    (key, Some(value))
                }
                (known, Some(changed)) => {
                    if known == Some(changed) {
                        self.tree.next();
                    }
                    let (key, value) = self.changes.next()?;
                    (key.as_slice(), value.as_deref())
                }
                (Some(_), None) => return None,
            };
            if key > self.high.as_slice() {
                return None;
            }
            if let Some(value) = value {
                return Some((key, value));
            }
        }
    }
}
