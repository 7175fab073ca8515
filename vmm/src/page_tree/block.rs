//! A subtree of up to 128 leaves, the unit that copies of a tree share.

use super::hash::{Digest, ZERO_LEAF};
use super::levels::{halve, parent_digest};
use std::sync::{Arc, LazyLock};

/// Leaves of a full block: 512 KiB of pages.
pub(super) const BLOCK_LEAVES: usize = 128;
/// Levels above the leaves of a block; also the level of its root in the whole tree.
pub(super) const BLOCK_LEVELS: usize = 7;

const NODES: usize = 2 * BLOCK_LEAVES - 1;

/// All full blocks of zero pages are this one.
static ZERO_BLOCK: LazyLock<Arc<Block>> =
    LazyLock::new(|| Arc::new(Block::hashed(&[ZERO_LEAF; BLOCK_LEAVES])));

/// Leaves first, then each level above; of a partial block the tail of each level is unused.
#[derive(Clone)]
pub(super) struct Block {
    len: usize,
    nodes: [Digest; NODES],
}

/// First node of a level and how many nodes of it a block of `len` leaves uses.
fn extent(level: usize, len: usize) -> (usize, usize) {
    (2 * BLOCK_LEAVES - ((2 * BLOCK_LEAVES) >> level), len.div_ceil(1 << level))
}

impl Block {
    /// The block over 1..=128 leaves, shared with every other one if all of them are zero pages.
    pub(super) fn shared(leaves: &[Digest]) -> Arc<Self> {
        if leaves.len() == BLOCK_LEAVES && leaves.iter().all(|leaf| *leaf == ZERO_LEAF) {
            return ZERO_BLOCK.clone();
        }
        Arc::new(Self::hashed(leaves))
    }

    fn hashed(leaves: &[Digest]) -> Self {
        assert!((1..=BLOCK_LEAVES).contains(&leaves.len()), "a block has 1 to 128 leaves");
        let mut block = Self { len: leaves.len(), nodes: [[0; 32]; NODES] };
        block.nodes[..leaves.len()].copy_from_slice(leaves);
        block.rehash((0..leaves.len()).collect());
        block
    }

    pub(super) fn leaves(&self) -> &[Digest] {
        &self.nodes[..self.len]
    }

    pub(super) fn root(&self) -> Digest {
        self.nodes[NODES - 1]
    }

    /// Replaces leaves (ascending positions within the block) and hashes only their ancestors.
    pub(super) fn update(&mut self, changes: &[(usize, Digest)]) {
        for (position, leaf) in changes {
            assert!(*position < self.len, "leaf outside its block");
            self.nodes[*position] = *leaf;
        }
        self.rehash(changes.iter().map(|(position, _)| *position).collect());
    }

    fn rehash(&mut self, mut dirty: Vec<usize>) {
        for level in 0..BLOCK_LEVELS {
            halve(&mut dirty);
            let (below_at, below_len) = extent(level, self.len);
            let (above_at, _) = extent(level + 1, self.len);
            let (below, above) = self.nodes.split_at_mut(above_at);
            for &parent in &dirty {
                above[parent] = parent_digest(level, &below[below_at..below_at + below_len], parent);
            }
        }
    }

    /// Appends the siblings on the way from a leaf to the root of the block.
    pub(super) fn siblings(&self, mut position: usize, path: &mut Vec<Digest>) {
        for level in 0..BLOCK_LEVELS {
            let (at, len) = extent(level, self.len);
            if position ^ 1 < len {
                path.push(self.nodes[at + (position ^ 1)]);
            }
            position /= 2;
        }
    }
}
