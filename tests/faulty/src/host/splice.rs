//! Sources that mix the states of two slots.

use std::sync::{Mutex, PoisonError};

use quorate_attest::id::Slot;
use quorate_host::conduct::{Conduct, Step, View};
use quorate_vmm::checkpoint::Checkpoint;

/// Streams one part of a state from an earlier slot.
#[derive(Debug)]
pub struct Splice {
    part: Part,
    earlier: Mutex<Option<Checkpoint>>,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Memory,
    Registers,
}

impl Splice {
    /// Memory of another slot, registers as certified.
    pub fn memory() -> Self {
        Self { part: Part::Memory, earlier: Mutex::default() }
    }

    /// Registers and device state of another slot, memory as certified.
    pub fn registers() -> Self {
        Self { part: Part::Registers, earlier: Mutex::default() }
    }
}

impl Conduct for Splice {
    /// Keeps the first state after genesis.
    fn reached(&self, step: Step, view: &View<'_>) {
        let Some(vm) = view.vm.as_ref().filter(|_| step == Step::SlotDurable) else { return };
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        if let (None, Some(head)) = (&*earlier, vm.head.filter(|head| head.slot > Slot::ZERO)) {
            *earlier = vm.window.state(head.slot).map(|state| state.checkpoint.clone());
        }
    }

    fn stream(&self, state: Checkpoint) -> Checkpoint {
        let earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*earlier, self.part) {
            (None, _) => state,
            (Some(earlier), Part::Memory) => Checkpoint { pages: earlier.pages.clone(), ..state },
            (Some(earlier), Part::Registers) => {
                Checkpoint { cpu: earlier.cpu.clone(), device: earlier.device, ..state }
            }
        }
    }
}
