//! The state as a service sees it while it executes one request: the tree and the changes so far.

use alloc::vec::Vec;

use quorate_attest::state_tree::{Changes, KEY_LIMIT, StateTree, VALUE_LIMIT};

use crate::status;

/// Entries of a state at most: beyond, one inserted key would cost too many hashes.
pub const ENTRIES_LIMIT: usize = 1 << 20;

/// A view of the state with changes that are made together or not at all. Keys begin with a byte of 1 or more: those with 0
/// are the kit's own.
#[derive(Debug)]
pub struct State<'a> {
    tree: &'a StateTree,
    changes: Changes,
}

impl<'a> State<'a> {
    pub(crate) fn new(tree: &'a StateTree) -> Self {
        Self { tree, changes: Changes::new() }
    }

    pub(crate) fn into_changes(self) -> Changes {
        self.changes
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        match self.changes.get(key) {
            Some(changed) => changed.as_deref(),
            None => self.tree.get(key),
        }
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// `TOO_LARGE`: key or value is over its limit; `LIMIT`: the state is full.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), u16> {
        if key.is_empty() || key.len() > KEY_LIMIT || value.len() > VALUE_LIMIT {
            return Err(status::TOO_LARGE);
        }
        if self.tree.len() + self.changes.len() >= ENTRIES_LIMIT && self.get(&key).is_none() {
            return Err(status::LIMIT);
        }
        self.changes.insert(key, Some(value));
        Ok(())
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: &[u8]) {
        self.changes.insert(key.to_vec(), None);
    }

    /// Entries with `low <= key <= high`, ascending, changes included.
    pub fn range(&self, low: &[u8], high: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        Merged {
            high: high.to_vec(),
            tree: self.tree.from(low).peekable(),
            changes: self.changes.range(low.to_vec()..).peekable(),
        }
    }
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
