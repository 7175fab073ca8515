//! The RFC 6962 tree of the log with its inner nodes stored, so that a proof reads one node a level instead of all leaves.
//!
//! A complete subtree never changes once its last leaf is there: it is stored under its level and its place in that level. Nodes that
//! are not complete depend on the size and are computed.

use std::ops::Range;

use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash};

/// Place of a complete subtree: `2^level` leaves, the `index`-th such from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePlace {
    /// 0 for leaves.
    pub level: u8,
    /// From the left, in its level.
    pub index: u64,
}

/// The maximal complete subtrees of a growing log, largest first: its root at any time, and every node that a new leaf completes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    size: u64,
    subtrees: Vec<Digest>,
}

impl Peaks {
    /// The peaks of the first `size` leaves.
    ///
    /// # Errors
    /// What `stored` says about a node that should be there.
    pub fn restore<E>(size: u64, mut stored: impl FnMut(NodePlace) -> Result<Digest, E>) -> Result<Self, E> {
        // Each one bit of the size is a complete subtree; it begins where the larger ones end.
        let levels = (0..u64::BITS as u8).rev().filter(|level| size >> level & 1 == 1);
        let subtrees: Result<_, E> =
            levels.map(|level| stored(NodePlace { level, index: (size >> level) - 1 })).collect();
        Ok(Self { size, subtrees: subtrees? })
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf and answers the subtrees that it completes, itself first.
    pub fn push(&mut self, leaf: Digest) -> Vec<(NodePlace, Digest)> {
        let mut place = NodePlace { level: 0, index: self.size };
        let mut digest = leaf;
        let mut nodes = vec![(place, digest)];
        // A right child completes its parent.
        while place.index & 1 == 1
            && let Some(left) = self.subtrees.pop()
        {
            digest = Sha256Tree::node(&left, &digest);
            place = NodePlace { level: place.level + 1, index: place.index >> 1 };
            nodes.push((place, digest));
        }
        self.subtrees.push(digest);
        self.size += 1;
        nodes
    }

    /// Root over all leaves so far.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut from_right = self.subtrees.iter().rev();
        match from_right.next() {
            None => Sha256Tree::empty(),
            Some(last) => from_right.fold(*last, |right, left| Sha256Tree::node(left, &right)),
        }
    }
}

/// Root of the first `size` leaves.
///
/// # Errors
/// What `stored` says about a node that should be there.
pub fn root<E>(size: u64, mut stored: impl FnMut(NodePlace) -> Result<Digest, E>) -> Result<Digest, E> {
    match size {
        0 => Ok(Sha256Tree::empty()),
        _ => range_root(0..size, &mut stored),
    }
}

/// Inclusion path of leaf `index` in the tree of `size` leaves, the leaf's sibling first; none when there is no such leaf.
///
/// # Errors
/// What `stored` says about a node that should be there.
pub fn inclusion<E>(
    index: u64,
    size: u64,
    mut stored: impl FnMut(NodePlace) -> Result<Digest, E>,
) -> Result<Option<Vec<Digest>>, E> {
    if index >= size {
        return Ok(None);
    }
    let mut range = 0..size;
    let mut path = Vec::new();
    while range.end - range.start > 1 {
        let middle = range.start + split(range.end - range.start);
        if index < middle {
            path.push(range_root(middle..range.end, &mut stored)?);
            range.end = middle;
        } else {
            path.push(range_root(range.start..middle, &mut stored)?);
            range.start = middle;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// Proof that the first `old` of `new` leaves are a prefix of them, as `verify_consistency` takes it; none when there are fewer. Empty for an
/// old size of zero and for equal sizes.
///
/// # Errors
/// What `stored` says about a node that should be there.
pub fn consistency<E>(
    old: u64,
    new: u64,
    mut stored: impl FnMut(NodePlace) -> Result<Digest, E>,
) -> Result<Option<Vec<Digest>>, E> {
    if old > new {
        return Ok(None);
    }
    let mut path = Vec::new();
    if old == 0 {
        return Ok(Some(path));
    }
    let mut range = 0..new;
    // Whether the subtree at hand is the whole old tree, whose root the checker already has.
    let mut known = true;
    while old < range.end {
        let middle = range.start + split(range.end - range.start);
        if old <= middle {
            path.push(range_root(middle..range.end, &mut stored)?);
            range.end = middle;
        } else {
            path.push(range_root(range.start..middle, &mut stored)?);
            range.start = middle;
            known = false;
        }
    }
    if !known {
        path.push(range_root(range, &mut stored)?);
    }
    path.reverse();
    Ok(Some(path))
}

/// Largest power of two below `leaves`, which is at least 2.
fn split(leaves: u64) -> u64 {
    1 << (u64::BITS - 1 - (leaves - 1).leading_zeros())
}

/// Root of a range that starts at a multiple of the smallest power of two that is not below its length.
fn range_root<E>(
    range: Range<u64>,
    stored: &mut impl FnMut(NodePlace) -> Result<Digest, E>,
) -> Result<Digest, E> {
    let leaves = range.end - range.start;
    if leaves.is_power_of_two() {
        let level = leaves.trailing_zeros() as u8;
        return stored(NodePlace { level, index: range.start >> level });
    }
    let middle = range.start + split(leaves);
    let left = range_root(range.start..middle, stored)?;
    let right = range_root(middle..range.end, stored)?;
    Ok(Sha256Tree::node(&left, &right))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use quorate_attest::merkle::{consistency_proof, inclusion_proof, root as root_of};

    use super::*;

    fn leaf(index: u64) -> Digest {
        Sha256Tree::leaf(&index.to_le_bytes())
    }

    #[test]
    fn stored_subtrees_give_the_same_roots_and_paths_as_all_leaves() {
        let mut nodes: BTreeMap<NodePlace, Digest> = BTreeMap::new();
        let mut leaves = Vec::new();
        let mut peaks = Peaks::default();
        for size in 0..70u64 {
            let stored = |place: NodePlace| Ok::<_, Infallible>(nodes[&place]);
            assert_eq!(root(size, stored), Ok(root_of::<Sha256Tree>(&leaves)), "{size}");
            assert_eq!(Peaks::restore(size, stored).as_ref(), Ok(&peaks));
            assert_eq!((peaks.size(), peaks.root()), (size, root_of::<Sha256Tree>(&leaves)));
            for smaller in 0..=size {
                let (proof, all) = (consistency(smaller, size, stored).unwrap(), &leaves[..size as usize]);
                assert_eq!(proof, consistency_proof::<Sha256Tree>(all, smaller), "{smaller} of {size}");
                for index in 0..smaller {
                    let path = inclusion_proof::<Sha256Tree>(&leaves[..smaller as usize], index);
                    assert_eq!(inclusion(index, smaller, stored).unwrap(), path, "{index} of {smaller}");
                }
            }
            assert_eq!(inclusion(size, size, stored), Ok(None));
            nodes.extend(peaks.push(leaf(size)));
            leaves.push(leaf(size));
        }
        assert!(nodes.len() < 2 * leaves.len(), "one inner node a leaf at the most");
    }
}
