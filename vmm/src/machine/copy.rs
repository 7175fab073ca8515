//! A second machine in the state of the first, and what it takes to bring it there again. See [`crate::fork`].

use quorate_guest_abi as abi;

use super::{FollowToken, Machine, MachineError, Parts};
use crate::cpu::CpuState;
use crate::device::{DeviceState, Pending};
use crate::machine::dirty::DirtyPages;
use crate::memory::GuestMemory;
use crate::page_tree::is_zero;

impl Machine {
    /// Whether the guest waits for an input and so has a state that can be copied.
    pub(crate) fn is_waiting(&self) -> bool {
        self.crash.is_none() && self.device.pending == Pending::Recv
    }

    /// Another machine with this memory and device, and with `cpu`, which is this machine's CPU state.
    pub(crate) fn duplicate(&self, cpu: &CpuState) -> Result<Self, MachineError> {
        let mut memory = GuestMemory::new(self.memory.bytes())?;
        let mut dirty = DirtyPages::new(memory.page_count());
        for index in self.memory.existing_pages() {
            // The tree may be older than the page.
            dirty.replaced(index);
            let page = self.memory.page(index);
            if !is_zero(page) {
                memory.write(u64::from(index) * abi::PAGE_BYTES, page)?;
            }
        }
        let (map, image, tree, device) =
            (self.map.clone(), self.image.clone(), self.tree.clone(), self.device);
        Self::assemble(Parts { memory, map, image, tree, dirty, device }, cpu)
    }

    /// From now on, remembers which pages change, for one follower. What is measured stays the same.
    pub(crate) fn begin_to_follow(&mut self) -> Result<FollowToken, MachineError> {
        self.dirty.follow(&self.vcpu, &self.memory)
    }

    /// The pages that may have changed since the follower last asked; `None` if another one took its place.
    pub(crate) fn changes(&mut self, token: &FollowToken) -> Result<Option<Vec<u32>>, MachineError> {
        self.dirty.followed(&self.vcpu, token)
    }

    /// Makes some pages what they are in another machine of the same size.
    pub(crate) fn copy_pages(&mut self, from: &Self, pages: &[u32]) -> Result<(), MachineError> {
        for &index in pages {
            self.memory.write(u64::from(index) * abi::PAGE_BYTES, from.memory.page(index))?;
            self.dirty.replaced(index);
        }
        Ok(())
    }

    /// Puts CPU and device into a state that belongs to the memory as it is.
    pub(crate) fn reload(&mut self, cpu: &CpuState, device: DeviceState) -> Result<(), MachineError> {
        self.vcpu.load(cpu)?;
        (self.device, self.crash) = (device, None);
        self.buffer = match device.pending {
            Pending::Recv => Some(self.pending_buffer()?),
            Pending::None => None,
        };
        Ok(())
    }
}
