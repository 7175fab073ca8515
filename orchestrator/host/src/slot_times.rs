//! How long the slots of an instance took, for whoever operates or measures it. No decision depends on it.

use std::collections::{BTreeMap, VecDeque};

use quorate_attest::id::Slot;

use super::clock::monotonic_ns;
use super::vm_thread::SlotState;
use crate::protocol::SlotTimes;

/// Certified slots that are remembered.
const SLOTS_MAX: usize = 512;

/// Times of the newest slots.
#[derive(Debug, Default)]
pub struct SlotClock {
    /// Slots without a certificate: when the guest was stopped for them, and what is known so far.
    pending: BTreeMap<Slot, (u64, SlotTimes)>,
    certified: VecDeque<SlotTimes>,
}

impl SlotClock {
    /// A slot's statement is on stable storage.
    pub fn durable(&mut self, slot: Slot, state: &SlotState) {
        let durable_ns = monotonic_ns().saturating_sub(state.stopped_ns);
        let times = SlotTimes { slot, pause_ns: state.pause_ns, durable_ns, certified_ns: 0 };
        self.pending.insert(slot, (state.stopped_ns, times));
    }

    /// A slot has its certificate.
    pub fn certified(&mut self, slot: Slot) {
        if let Some((stopped_ns, times)) = self.pending.remove(&slot) {
            let certified_ns = monotonic_ns().saturating_sub(stopped_ns);
            self.certified.push_back(SlotTimes { certified_ns, ..times });
        }
        while self.certified.len() > SLOTS_MAX {
            self.certified.pop_front();
        }
    }

    /// Times of the newest certified slots, oldest first.
    pub fn times(&self) -> Vec<SlotTimes> {
        self.certified.iter().copied().collect()
    }
}
