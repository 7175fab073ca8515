//! A run of siblings and the levels above it.
//!
//! Pairing neighbours level by level and carrying an unpaired last node up unchanged gives exactly the shape of
//! RFC 6962 (split at the largest power of two below the size), for every size.

use super::hash::{Digest, join};

/// Digests the level above `below` holds at `parent`: the pair's join, or the unpaired last node itself.
pub(super) fn parent_digest(level: usize, below: &[Digest], parent: usize) -> Digest {
    match below.get(2 * parent + 1) {
        Some(right) => join(level, &below[2 * parent], right),
        None => below[2 * parent],
    }
}

/// The levels above the block roots: `rows[0]` are the roots, the last row is one digest.
#[derive(Clone)]
pub(super) struct Levels {
    /// Level of `rows[0]` in the whole tree.
    base: usize,
    rows: Vec<Vec<Digest>>,
}

impl Levels {
    pub(super) fn new(base: usize, first: Vec<Digest>) -> Self {
        let mut rows = vec![first];
        while let Some(below) = rows.last().filter(|row| row.len() > 1) {
            let level = base + rows.len() - 1;
            let above =
                (0..below.len().div_ceil(2)).map(|parent| parent_digest(level, below, parent)).collect();
            rows.push(above);
        }
        Self { base, rows }
    }

    pub(super) fn root(&self) -> Option<Digest> {
        self.rows.last().and_then(|row| row.first()).copied()
    }

    /// Replaces digests of the first row (ascending positions) and hashes only their ancestors.
    pub(super) fn update(&mut self, changes: &[(usize, Digest)]) {
        let mut dirty: Vec<usize> = Vec::with_capacity(changes.len());
        for (position, digest) in changes {
            self.rows[0][*position] = *digest;
            dirty.push(*position);
        }
        for row in 1..self.rows.len() {
            halve(&mut dirty);
            let (below, above) = self.rows.split_at_mut(row);
            for &parent in &dirty {
                above[0][parent] = parent_digest(self.base + row - 1, &below[row - 1], parent);
            }
        }
    }

    /// Appends the siblings on the way from `position` of the first row to the root.
    pub(super) fn siblings(&self, mut position: usize, path: &mut Vec<Digest>) {
        for row in &self.rows {
            if let Some(sibling) = row.get(position ^ 1) {
                path.push(*sibling);
            }
            position /= 2;
        }
    }
}

/// Ascending positions become the ascending positions of their parents.
pub(super) fn halve(positions: &mut Vec<usize>) {
    positions.iter_mut().for_each(|position| *position /= 2);
    positions.dedup();
}
