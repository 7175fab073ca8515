//! The sorted map of the whole state and its RFC 6962 root, kept up to date entry by entry.
//!
//! `levels[k]` holds the roots of the complete subtrees of `2^k` leaves. A changed value costs one path; a key that comes
//! or goes shifts the leaves behind it, whose inner nodes are hashed again, but no leaf is.

use std::collections::BTreeMap;

use quorate_attest::encoding::to_bytes;
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash};
use quorate_attest::state_tree::{StateCommitment, StateTree};

/// Keys and values in ascending order of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateMap {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    levels: Vec<Vec<Digest>>,
}

impl StateMap {
    /// Takes entries whose keys ascend strictly.
    pub fn from_sorted(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        let leaves = entries.iter().map(|(key, value)| Sha256Tree::leaf(&to_bytes(&(key, value)))).collect();
        let mut map = Self { entries, levels: vec![leaves] };
        map.rebuild_from(0);
        map
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let leaf = Sha256Tree::leaf(&to_bytes(&(&key, &value)));
        match self.place(&key) {
            Ok(index) => {
                if self.entries[index].1 != value {
                    self.entries[index].1 = value;
                    self.levels[0][index] = leaf;
                    self.update_path(index);
                }
            }
            Err(index) => {
                self.entries.insert(index, (key, value));
                if self.levels.is_empty() {
                    self.levels.push(Vec::new());
                }
                self.levels[0].insert(index, leaf);
                self.rebuild_from(index);
            }
        }
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: &[u8]) {
        if let Ok(index) = self.place(key) {
            self.entries.remove(index);
            self.levels[0].remove(index);
            self.rebuild_from(index);
        }
    }

    /// Root and number of entries.
    pub fn commitment(&self) -> StateCommitment {
        let size = self.entries.len();
        let mut root = None;
        // The subtrees that the size is made of, from the last and smallest to the first.
        for (height, level) in self.levels.iter().enumerate() {
            let Some(last) = (size >> height).checked_sub(1) else { break };
            if size >> height & 1 == 1 {
                let left = &level[last];
                root = Some(root.map_or(*left, |right| Sha256Tree::node(left, &right)));
            }
        }
        StateCommitment { root: root.unwrap_or_else(Sha256Tree::empty), size: size as u64 }
    }

    /// Keys and values, ascending.
    pub fn entries(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.entries
    }

    /// The form from which proofs are made. Costs as much as the state is large.
    pub fn to_tree(&self) -> StateTree {
        StateTree::new(&self.entries.iter().cloned().collect::<BTreeMap<_, _>>())
    }

    fn place(&self, key: &[u8]) -> Result<usize, usize> {
        self.entries.binary_search_by(|(known, _)| known.as_slice().cmp(key))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recomputed(model: &BTreeMap<Vec<u8>, Vec<u8>>) -> StateCommitment {
        StateTree::new(model).commitment()
    }

    #[test]
    fn test_empty_map_has_the_root_of_the_empty_tree() {
        assert_eq!(StateMap::default().commitment(), recomputed(&BTreeMap::new()));
        let mut map = StateMap::default();
        map.put(vec![1], vec![2]);
        map.remove(&[1]);
        map.remove(&[1]);
        assert_eq!(map.commitment(), recomputed(&BTreeMap::new()));
    }

    proptest! {
        #[test]
        fn test_root_kept_up_to_date_is_the_root_computed_anew(
            changes in proptest::collection::vec((0u8..40, proptest::option::weighted(0.7, any::<u8>())), 0..120)
        ) {
            let (mut map, mut model) = (StateMap::default(), BTreeMap::new());
            for (key, value) in changes {
                let key = vec![key];
                match value {
                    Some(value) => {
                        map.put(key.clone(), vec![value]);
                        model.insert(key, vec![value]);
                    }
                    None => {
                        map.remove(&key);
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(map.commitment(), recomputed(&model));
                prop_assert_eq!(map.to_tree().commitment(), map.commitment());
            }
            let entries: Vec<_> = model.into_iter().collect();
            prop_assert_eq!(StateMap::from_sorted(entries.clone()).commitment(), map.commitment());
            prop_assert_eq!(map.entries(), &entries[..]);
        }
    }
}
