//! Pseudo-random memory for load tests.

use alloc::vec::Vec;

/// Words of one piece: small enough to find room, and what lies between two calls of the `pace` hook.
const PIECE_WORDS: usize = (2 << 20) / 8;

/// Memory that does not compress and that nothing reads.
#[derive(Default)]
pub(crate) struct Arena {
    pieces: Vec<Vec<u64>>,
    bytes: u64,
}

impl Arena {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Frees what is held, then fills `bytes` (whole words) from `seed`; returns the wrapping sum of the words. If the
    /// heap has no room after all, nothing is held afterwards.
    pub(crate) fn refill(&mut self, bytes: u64, seed: u64, pace: &mut dyn FnMut()) -> Option<u64> {
        *self = Self::default();
        let mut state = seed;
        let mut checksum = 0u64;
        let mut words = usize::try_from(bytes / 8).ok()?;
        while words > 0 {
            let count = words.min(PIECE_WORDS);
            let mut piece = Vec::new();
            if piece.try_reserve_exact(count).is_err() || self.pieces.try_reserve(1).is_err() {
                *self = Self::default();
                return None;
            }
            piece.extend((0..count).map(|_| {
                let word = split_mix(&mut state);
                checksum = checksum.wrapping_add(word);
                word
            }));
            self.pieces.push(piece);
            self.bytes += count as u64 * 8;
            words -= count;
            pace();
        }
        Some(checksum)
    }
}

/// One word of Steele, Lea and Flood's SplitMix64.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
