//! The newest slots signed since the start, with their inputs: what a verifier can show to others when the host is dead.

use std::collections::VecDeque;
use std::sync::Arc;

use quorate_attest::id::Slot;

use super::Signed;

/// Slots kept at most.
const SLOTS_MAX: usize = 1024;
/// Bytes of inputs kept at most. The newest slot stays, whatever its size, which is bounded by itself.
const BYTES_MAX: usize = 32 << 20;
/// Memory of an input besides its bytes, roughly.
const INPUT_OVERHEAD: usize = 32;

/// A slot with its inputs.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) signed: Signed,
    pub(super) inputs: Arc<Vec<Vec<u8>>>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.inputs.iter().map(|input| input.len() + INPUT_OVERHEAD).sum()
    }
}

/// Slots in ascending order, perhaps with gaps. Lost in a restart.
#[derive(Debug, Default)]
pub(super) struct KeptSlots {
    slots: VecDeque<Kept>,
    bytes: usize,
}

impl KeptSlots {
    /// Keeps a slot; those at and above it belonged to a generation that was left.
    pub(super) fn keep(&mut self, signed: &Signed, inputs: Arc<Vec<Vec<u8>>>) {
        let slot = signed.statement().slot;
        while self.slots.back().is_some_and(|kept| kept.signed.statement().slot >= slot) {
            let left = self.slots.pop_back();
            self.bytes -= left.as_ref().map_or(0, Kept::bytes);
        }
        let kept = Kept { signed: signed.clone(), inputs };
        self.bytes += kept.bytes();
        self.slots.push_back(kept);
        while self.slots.len() > SLOTS_MAX || (self.bytes > BYTES_MAX && self.slots.len() > 1) {
            let Some(oldest) = self.slots.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }

    /// The slot, while it is kept.
    pub(super) fn slot(&self, slot: Slot) -> Option<&Kept> {
        let at = self.slots.binary_search_by_key(&slot, |kept| kept.signed.statement().slot).ok()?;
        self.slots.get(at)
    }
}

#[cfg(test)]
mod tests {
    use quorate_attest::vm::{Attestation, Mode};

    use super::*;
    use crate::core::tests::model::{HostRun, group, inputs, spec, vote_key};

    fn signed(run: &mut HostRun) -> Signed {
        let proposal = run.next(&inputs(1)).proposal;
        let attestation = Attestation::sign(&proposal.statement, 0, Mode::Replayed, &vote_key(0));
        Signed { proposal, attestation, cosignature: String::new() }
    }

    #[test]
    fn inputs_are_bounded_in_number_and_bytes_and_the_newest_slot_always_stays() {
        let mut run = HostRun::new(&group(4, 1), spec());
        let mut kept = KeptSlots::default();
        let large = Arc::new(vec![vec![0; BYTES_MAX / 2]]);
        for slot in 0..4 {
            kept.keep(&signed(&mut run), Arc::clone(&large));
            assert!(kept.slot(Slot(slot)).is_some() && kept.bytes <= BYTES_MAX);
        }
        assert!(kept.slot(Slot(2)).is_none(), "two do not fit");
        kept.keep(&signed(&mut run), Arc::new(vec![vec![0; BYTES_MAX * 2]]));
        assert_eq!((kept.slots.len(), kept.slot(Slot(4)).is_some()), (1, true));
        for _ in 0..SLOTS_MAX {
            kept.keep(&signed(&mut run), Arc::default());
        }
        assert_eq!((kept.slots.len(), kept.bytes), (SLOTS_MAX, 0));
    }

    #[test]
    fn slots_of_a_generation_that_was_left_are_forgotten() {
        let mut run = HostRun::new(&group(4, 1), spec());
        let mut kept = KeptSlots::default();
        kept.keep(&signed(&mut run), Arc::default());
        let mut other = run.clone();
        for _ in 0..3 {
            kept.keep(&signed(&mut run), Arc::default());
        }
        other.generation = quorate_attest::id::Generation(1);
        let taken = signed(&mut other);
        kept.keep(&taken, Arc::default());
        assert_eq!(kept.slot(Slot(1)).map(|kept| &kept.signed), Some(&taken));
        assert!(kept.slot(Slot(2)).is_none() && kept.slot(Slot(0)).is_some());
    }
}
