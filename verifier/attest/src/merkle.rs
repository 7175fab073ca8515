//! RFC 6962 / RFC 9162 trees: root, compact range, inclusion and consistency proofs.
//!
//! Leaf `H(0x00 || data)`, node `H(0x01 || left || right)`, split at the largest power of two below the size, no
//! duplicated odd nodes, empty tree `H("")`. The prefixes keep a node from being passed off as a leaf; the size belongs
//! to the root and must be certified with it, because a proof is checked against both.

use alloc::vec::Vec;
use core::marker::PhantomData;

use borsh::io::{Read, Write};
use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest as _, Sha256};

use crate::encoding::{Bounded, bounded_list, invalid};

/// Output of a tree hash.
pub type Digest = [u8; 32];

/// Most hashes in a proof: one a level of a tree with 64-bit size, twice for consistency.
pub const PROOF_LIMIT: usize = 128;

/// The hash of a tree.
pub trait TreeHash {
    /// Digest of a leaf's data.
    fn leaf(data: &[u8]) -> Digest;
    /// Digest of an inner node.
    fn node(left: &Digest, right: &Digest) -> Digest;
    /// Root of the tree without leaves.
    fn empty() -> Digest;
}

/// SHA-256, for logs that unrelated tools verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sha256Tree;

impl TreeHash for Sha256Tree {
    fn leaf(data: &[u8]) -> Digest {
        Sha256::new().chain_update([0]).chain_update(data).finalize().into()
    }

    fn node(left: &Digest, right: &Digest) -> Digest {
        Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
    }

    fn empty() -> Digest {
        Sha256::digest([]).into()
    }
}

/// BLAKE3 in the same shape, for memory pages.
#[cfg(feature = "blake3")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blake3Tree;

#[cfg(feature = "blake3")]
impl TreeHash for Blake3Tree {
    fn leaf(data: &[u8]) -> Digest {
        blake3::Hasher::new().update(&[0]).update(data).finalize().into()
    }

    fn node(left: &Digest, right: &Digest) -> Digest {
        let mut block = [1u8; 65];
        block[1..33].copy_from_slice(left);
        block[33..].copy_from_slice(right);
        blake3::hash(&block).into()
    }

    fn empty() -> Digest {
        blake3::hash(&[]).into()
    }
}

/// A proof that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("proof is invalid: {reason}")]
pub struct ProofError {
    /// Rule that failed.
    pub reason: &'static str,
}

impl ProofError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        "ProofInvalid"
    }

    pub(crate) const fn new(reason: &'static str) -> Self {
        Self { reason }
    }
}

/// Largest power of two below `size`, which is at least 2.
fn split(size: usize) -> usize {
    1 << (usize::BITS - 1 - (size - 1).leading_zeros())
}

/// Root over leaf digests.
pub fn root<H: TreeHash>(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => H::empty(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            H::node(&root::<H>(left), &root::<H>(right))
        }
    }
}

/// Root over the data of the leaves.
pub fn root_of_data<H: TreeHash, D: AsRef<[u8]>>(data: impl IntoIterator<Item = D>) -> Digest {
    let mut frontier = Frontier::<H>::new();
    data.into_iter().for_each(|leaf| frontier.push(leaf.as_ref()));
    frontier.root()
}

/// Path of the leaf at `index` (RFC 6962, 2.1.1), the leaf's sibling first; none when there is no such leaf.
pub fn inclusion_proof<H: TreeHash>(leaves: &[Digest], index: u64) -> Option<Vec<Digest>> {
    let mut index = usize::try_from(index).ok().filter(|index| *index < leaves.len())?;
    let mut tree = leaves;
    let mut path = Vec::new();
    while tree.len() > 1 {
        let (left, right) = tree.split_at(split(tree.len()));
        if index < left.len() {
            path.push(root::<H>(right));
            tree = left;
        } else {
            path.push(root::<H>(left));
            index -= left.len();
            tree = right;
        }
    }
    path.reverse();
    Some(path)
}

/// Checks that `leaf` is the leaf at `index` of the tree with `size` leaves and this `root` (RFC 9162, 2.1.3.2).
pub fn verify_inclusion<H: TreeHash>(
    leaf: &Digest,
    index: u64,
    size: u64,
    proof: &[Digest],
    root: &Digest,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::new("index is not below the size"));
    }
    let (mut node, mut last) = (index, size - 1);
    let mut digest = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::new("path is too long"));
        }
        if node & 1 == 1 || node == last {
            digest = H::node(sibling, &digest);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            digest = H::node(&digest, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(ProofError::new("path is too short"));
    }
    if digest != *root { Err(ProofError::new("path leads to another root")) } else { Ok(()) }
}

/// Proof that the first `old_size` leaves are a prefix of all `leaves` (RFC 6962, 2.1.2); none when there are fewer.
/// Empty for an old size of zero and for equal sizes.
pub fn consistency_proof<H: TreeHash>(leaves: &[Digest], old_size: u64) -> Option<Vec<Digest>> {
    let mut old = usize::try_from(old_size).ok().filter(|old| *old <= leaves.len())?;
    if old == 0 {
        return Some(Vec::new());
    }
    let mut tree = leaves;
    let mut path = Vec::new();
    // Whether the subtree at hand is the whole old tree, whose root the checker already has.
    let mut known = true;
    while old < tree.len() {
        let (left, right) = tree.split_at(split(tree.len()));
        if old <= left.len() {
            path.push(root::<H>(right));
            tree = left;
        } else {
            path.push(root::<H>(left));
            old -= left.len();
            tree = right;
            known = false;
        }
    }
    if !known {
        path.push(root::<H>(tree));
    }
    path.reverse();
    Some(path)
}

/// Checks that the tree of `old_size` leaves is a prefix of the tree of `new_size` leaves (RFC 9162, 2.1.4.2). The
/// empty tree is a prefix of every tree; its root must be the root of the empty tree.
pub fn verify_consistency<H: TreeHash>(
    old_size: u64,
    old_root: &Digest,
    new_size: u64,
    new_root: &Digest,
    proof: &[Digest],
) -> Result<(), ProofError> {
    if old_size > new_size {
        return Err(ProofError::new("the new tree is smaller"));
    }
    if (old_size == 0 && *old_root != H::empty()) || (new_size == 0 && *new_root != H::empty()) {
        return Err(ProofError::new("root of an empty tree is wrong"));
    }
    if old_size == 0 || old_size == new_size {
        let same = old_size == 0 || old_root == new_root;
        let reason = if same { "path is too long" } else { "equal sizes have different roots" };
        return if same && proof.is_empty() { Ok(()) } else { Err(ProofError::new(reason)) };
    }
    // A tree whose size is a power of two is itself a node of the new tree; its root starts the path.
    let (first, rest) = match proof.split_first() {
        _ if old_size.is_power_of_two() => (old_root, proof),
        Some((first, rest)) => (first, rest),
        None => return Err(ProofError::new("path is too short")),
    };
    let shift = (old_size - 1).trailing_ones();
    let (mut node, mut last) = ((old_size - 1) >> shift, (new_size - 1) >> shift);
    let (mut old_digest, mut new_digest) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::new("path is too long"));
        }
        if node & 1 == 1 || node == last {
            old_digest = H::node(sibling, &old_digest);
            new_digest = H::node(sibling, &new_digest);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            new_digest = H::node(&new_digest, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    match () {
        _ if last != 0 => Err(ProofError::new("path is too short")),
        _ if old_digest != *old_root => Err(ProofError::new("path leads to another old root")),
        _ if new_digest != *new_root => Err(ProofError::new("path leads to another new root")),
        _ => Ok(()),
    }
}

/// A growing tree without its leaves: the roots of the maximal full subtrees, largest first (a compact range).
///
/// It is 32 bytes a level, gives the root at any time and travels with checkpoints, so that a log can be continued by
/// someone who has not seen its beginning.
#[derive(Debug)]
pub struct Frontier<H> {
    size: u64,
    subtrees: Vec<Digest>,
    hash: PhantomData<fn() -> H>,
}

impl<H: TreeHash> Frontier<H> {
    /// The empty tree.
    pub const fn new() -> Self {
        Self { size: 0, subtrees: Vec::new(), hash: PhantomData }
    }

    /// Number of leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf by its data.
    pub fn push(&mut self, data: &[u8]) {
        self.push_digest(H::leaf(data));
    }

    /// Appends a leaf by its digest.
    pub fn push_digest(&mut self, leaf: Digest) {
        let mut digest = leaf;
        // Each trailing one of the size is a full subtree as large as the one at hand.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                digest = H::node(&left, &digest);
            }
        }
        self.subtrees.push(digest);
        self.size += 1;
    }

    /// Root over all leaves so far.
    pub fn root(&self) -> Digest {
        let mut from_right = self.subtrees.iter().rev();
        match from_right.next() {
            None => H::empty(),
            Some(last) => from_right.fold(*last, |right, left| H::node(left, &right)),
        }
    }
}

impl<H: TreeHash> Default for Frontier<H> {
    fn default() -> Self {
        Self::new()
    }
}

// Derives would demand these traits of the hash, which is only a marker.
impl<H> Clone for Frontier<H> {
    fn clone(&self) -> Self {
        Self { size: self.size, subtrees: self.subtrees.clone(), hash: PhantomData }
    }
}

impl<H> PartialEq for Frontier<H> {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size && self.subtrees == other.subtrees
    }
}

impl<H> Eq for Frontier<H> {}

impl<H> BorshSerialize for Frontier<H> {
    fn serialize<W: Write>(&self, writer: &mut W) -> borsh::io::Result<()> {
        self.size.serialize(writer)?;
        self.subtrees.serialize(writer)
    }
}

impl<H> BorshDeserialize for Frontier<H> {
    fn deserialize_reader<R: Read>(reader: &mut R) -> borsh::io::Result<Self> {
        let size = u64::deserialize_reader(reader)?;
        let subtrees = bounded_list::<64, Digest, R>(reader)?;
        if subtrees.len() != size.count_ones() as usize {
            return Err(invalid("frontier has not one subtree for each bit of its size"));
        }
        Ok(Self { size, subtrees, hash: PhantomData })
    }
}

impl<H> Bounded for Frontier<H> {
    const LIMIT: usize = 8 + 4 + 64 * 32;
}

#[cfg(test)]
mod tests;
