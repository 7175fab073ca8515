//! The sorted map itself, its root kept up to date and proofs made from it.
//!
//! `levels[k]` holds the roots of the complete subtrees of `2^k` leaves. A changed value costs one path; a key that comes
//! or goes shifts the leaves behind it, whose inner nodes are hashed again once for all changes made together, but no leaf
//! is. A proof costs a path, not the state.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use super::{AbsenceProof, EntryProof, RangeProof, StateCommitment, leaf};
use crate::merkle::{Digest, Sha256Tree, TreeHash};

/// Keys with their new values; none removes the key.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Keys and values in ascending order of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateTree {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    levels: Vec<Vec<Digest>>,
}

impl StateTree {
    /// Takes the entries of a map.
    pub fn new(map: &BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        Self::from_sorted(map.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Takes entries whose keys ascend strictly.
    pub fn from_sorted(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        let leaves = entries.iter().map(|(key, value)| leaf(key, value)).collect();
        let mut tree = Self { entries, levels: vec![leaves] };
        tree.rebuild_from(0);
        tree
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let index = self.place(key).ok()?;
        self.entries.get(index).map(|(_, value)| value.as_slice())
    }

    /// Entries with `low <= key`, ascending.
    pub fn from(&self, low: &[u8]) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        let start = self.entries.partition_point(|(key, _)| key.as_slice() < low);
        self.entries[start..].iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// Keys and values, ascending.
    pub fn entries(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.entries
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.apply(Changes::from([(key, Some(value))]));
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: &[u8]) {
        self.apply(Changes::from([(key.to_vec(), None)]));
    }

    /// Makes all changes and brings the root up to date once.
    pub fn apply(&mut self, changes: Changes) {
        let mut shifted = None;
        let mut changed = Vec::new();
        // From the last key on: places of smaller keys stay what they are.
        for (key, value) in changes.into_iter().rev() {
            match (self.place(&key), value) {
                (Ok(index), Some(value)) if self.entries[index].1 == value => {}
                (Ok(index), Some(value)) => {
                    self.levels[0][index] = leaf(&key, &value);
                    self.entries[index].1 = value;
                    changed.push(index);
                }
                (Err(index), Some(value)) => {
                    self.levels[0].insert(index, leaf(&key, &value));
                    self.entries.insert(index, (key, value));
                    shifted = Some(index);
                }
                (Ok(index), None) => {
                    self.entries.remove(index);
                    self.levels[0].remove(index);
                    shifted = Some(index);
                }
                (Err(_), None) => {}
            }
        }
        if let Some(first) = shifted {
            self.rebuild_from(first);
        }
        // What lies behind the first shifted leaf is hashed again already.
        let before = |index: &usize| shifted.is_none_or(|first| *index < first);
        changed.into_iter().filter(before).for_each(|index| self.update_path(index));
    }

    /// Root and number of entries.
    pub fn commitment(&self) -> StateCommitment {
        StateCommitment { root: self.subtree(0, self.len()), size: self.len() as u64 }
    }

    /// Proof that `key` is there; none when it is not.
    pub fn membership(&self, key: &[u8]) -> Option<EntryProof> {
        self.entry(self.place(key).ok()?)
    }

    /// Proof that `key` is not there; none when it is.
    pub fn absence(&self, key: &[u8]) -> Option<AbsenceProof> {
        let index = self.place(key).err()?;
        let before = index.checked_sub(1).and_then(|before| self.entry(before));
        Some(AbsenceProof { before, after: self.entry(index) })
    }

    /// Proof of all entries from `low` to `high`, both included.
    pub fn range(&self, low: &[u8], high: &[u8]) -> RangeProof {
        let start = self.entries.partition_point(|(key, _)| key.as_slice() < low);
        let end = self.entries.partition_point(|(key, _)| key.as_slice() <= high).max(start);
        RangeProof {
            entries: (start..end).filter_map(|index| self.entry(index)).collect(),
            before: start.checked_sub(1).and_then(|before| self.entry(before)),
            after: self.entry(end),
        }
    }

    fn place(&self, key: &[u8]) -> Result<usize, usize> {
        self.entries.binary_search_by(|(known, _)| known.as_slice().cmp(key))
    }

    fn entry(&self, index: usize) -> Option<EntryProof> {
        let (key, value) = self.entries.get(index)?.clone();
        let mut path = Vec::new();
        let (mut start, mut end) = (0, self.len());
        while end - start > 1 {
            let middle = start + split(end - start);
            if index < middle {
                path.push(self.subtree(middle, end));
                end = middle;
            } else {
                path.push(self.subtree(start, middle));
                start = middle;
            }
        }
        path.reverse();
        Some(EntryProof { key, value, index: index as u64, path })
    }

    /// Root over the leaves `start..end`, where `start` is a multiple of the largest power of two up to `end - start`.
    fn subtree(&self, start: usize, end: usize) -> Digest {
        let mut root = None;
        let mut end = end;
        // The complete subtrees that the range is made of, from the last and smallest to the first.
        while end > start {
            let height = (end - start).trailing_zeros();
            let last = &self.levels[height as usize][(end >> height) - 1];
            root = Some(root.map_or(*last, |right| Sha256Tree::node(last, &right)));
            end -= 1 << height;
        }
        root.unwrap_or_else(Sha256Tree::empty)
    }

    fn update_path(&mut self, mut index: usize) {
        for height in 1..self.levels.len() {
            index /= 2;
            let (below, above) = self.levels.split_at_mut(height);
            let children = &below[height - 1];
            let (Some(node), Some(right)) = (above[0].get_mut(index), children.get(2 * index + 1)) else {
                return;
            };
            *node = Sha256Tree::node(&children[2 * index], right);
        }
    }

    fn rebuild_from(&mut self, mut index: usize) {
        let mut height = 1;
        while self.levels[height - 1].len() > 1 {
            if self.levels.len() == height {
                self.levels.push(Vec::new());
            }
            index /= 2;
            let (below, above) = self.levels.split_at_mut(height);
            let (children, nodes) = (&below[height - 1], &mut above[0]);
            nodes.truncate(index);
            for pair in children[2 * nodes.len()..].chunks_exact(2) {
                nodes.push(Sha256Tree::node(&pair[0], &pair[1]));
            }
            height += 1;
        }
        self.levels.truncate(height);
    }
}

impl Default for StateTree {
    fn default() -> Self {
        Self::from_sorted(Vec::new())
    }
}

/// Largest power of two below `size`, which is at least 2.
fn split(size: usize) -> usize {
    1 << (usize::BITS - 1 - (size - 1).leading_zeros())
}
