//! State commitments: proofs about a sorted map from its root and its certified size.
//!
//! The root is the RFC 6962 root over leaves `borsh{key, value}` in strictly ascending byte order of the keys. With the
//! size, which must be certified together with it, a proof can show that a key is there, that it is *not* there (its two
//! neighbours are adjacent), and that a range is complete. Without the size nothing shows that a neighbour is the last.

mod tree;

pub use tree::{Changes, StateTree};

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::encoding::{Bounded, bounded_bytes, bounded_list, to_bytes};
use crate::merkle::{Digest, PROOF_LIMIT, ProofError, Sha256Tree, TreeHash, verify_inclusion};

/// Most bytes of a key.
pub const KEY_LIMIT: usize = 4096;

/// Most bytes of a value.
pub const VALUE_LIMIT: usize = 65_536;

/// Most entries of one range proof.
pub const RANGE_LIMIT: usize = 1024;

/// Root and number of entries: meaningful only together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StateCommitment {
    /// RFC 6962 root over the entries.
    pub root: Digest,
    /// Number of entries.
    pub size: u64,
}

impl Bounded for StateCommitment {
    const LIMIT: usize = 40;
}

/// One entry with its place and path.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct EntryProof {
    /// Key of the entry.
    #[borsh(deserialize_with = "bounded_bytes::<KEY_LIMIT, _>")]
    pub key: Vec<u8>,
    /// Value of the entry.
    #[borsh(deserialize_with = "bounded_bytes::<VALUE_LIMIT, _>")]
    pub value: Vec<u8>,
    /// Place in ascending order of keys.
    pub index: u64,
    /// Inclusion path.
    #[borsh(deserialize_with = "bounded_list::<PROOF_LIMIT, _, _>")]
    pub path: Vec<Digest>,
}

impl Bounded for EntryProof {
    const LIMIT: usize = 4 + KEY_LIMIT + 4 + VALUE_LIMIT + 8 + 4 + PROOF_LIMIT * 32;
}

impl EntryProof {
    /// Checks that the commitment contains this entry at this place.
    pub fn verify(&self, state: &StateCommitment) -> Result<(), ProofError> {
        let leaf = leaf(&self.key, &self.value);
        verify_inclusion::<Sha256Tree>(&leaf, self.index, state.size, &self.path, &state.root)
    }
}

/// Shows that a key is not in the state, by the entries next to where it would be.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AbsenceProof {
    /// Last entry with a smaller key; none when the key would be the first.
    pub before: Option<EntryProof>,
    /// First entry with a larger key; none when the key would be the last.
    pub after: Option<EntryProof>,
}

impl Bounded for AbsenceProof {
    const LIMIT: usize = 2 * (1 + EntryProof::LIMIT);
}

impl AbsenceProof {
    /// Checks that no entry of the commitment has `key`.
    pub fn verify(&self, state: &StateCommitment, key: &[u8]) -> Result<(), ProofError> {
        let neighbours = Neighbours { before: self.before.as_ref(), after: self.after.as_ref() };
        neighbours.verify(state, key, key, 0)
    }
}

/// All entries with `low <= key <= high`, and the neighbours that show there are no others.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RangeProof {
    /// The entries, ascending.
    #[borsh(deserialize_with = "bounded_list::<RANGE_LIMIT, _, _>")]
    pub entries: Vec<EntryProof>,
    /// Last entry below the range; none when the range begins at the first entry.
    pub before: Option<EntryProof>,
    /// First entry above the range; none when the range ends at the last entry.
    pub after: Option<EntryProof>,
}

impl Bounded for RangeProof {
    // Bounded by what one message may hold rather than by the product of its parts.
    const LIMIT: usize = 4 << 20;
}

impl RangeProof {
    /// Checks that `entries` are exactly the entries of the commitment from `low` to `high`, both included.
    pub fn verify(&self, state: &StateCommitment, low: &[u8], high: &[u8]) -> Result<(), ProofError> {
        if low > high {
            return Err(ProofError::new("range is empty by its bounds"));
        }
        for entry in &self.entries {
            if entry.key.as_slice() < low || entry.key.as_slice() > high {
                return Err(ProofError::new("entry is outside the range"));
            }
            entry.verify(state)?;
        }
        for pair in self.entries.windows(2) {
            if pair[0].index.checked_add(1) != Some(pair[1].index) || pair[0].key >= pair[1].key {
                return Err(ProofError::new("entries are not consecutive"));
            }
        }
        let neighbours = Neighbours { before: self.before.as_ref(), after: self.after.as_ref() };
        if let Some(first) = self.entries.first()
            && first.index != self.before.as_ref().map_or(0, |before| before.index.saturating_add(1))
        {
            return Err(ProofError::new("first entry does not follow its neighbour"));
        }
        neighbours.verify(state, low, high, self.entries.len() as u64)
    }
}

struct Neighbours<'a> {
    before: Option<&'a EntryProof>,
    after: Option<&'a EntryProof>,
}

impl Neighbours<'_> {
    /// Checks that exactly `between` entries lie between the neighbours, and that these bracket `low..=high`.
    fn verify(
        &self,
        state: &StateCommitment,
        low: &[u8],
        high: &[u8],
        between: u64,
    ) -> Result<(), ProofError> {
        let start = match self.before {
            Some(entry) if entry.key.as_slice() >= low => {
                return Err(ProofError::new("lower neighbour is not below"));
            }
            Some(entry) => {
                entry.verify(state)?;
                entry.index + 1
            }
            None => 0,
        };
        let end = match self.after {
            Some(entry) if entry.key.as_slice() <= high => {
                return Err(ProofError::new("upper neighbour is not above"));
            }
            Some(entry) => {
                entry.verify(state)?;
                entry.index
            }
            None => state.size,
        };
        if start.checked_add(between) != Some(end) {
            return Err(ProofError::new("neighbours are not adjacent"));
        }
        if state.size == 0 && state.root != Sha256Tree::empty() {
            return Err(ProofError::new("root of an empty state is wrong"));
        }
        Ok(())
    }
}

fn leaf(key: &[u8], value: &[u8]) -> Digest {
    Sha256Tree::leaf(&to_bytes(&(key, value)))
}

#[cfg(test)]
mod tests;
