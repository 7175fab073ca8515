//! A KVM virtual machine with nothing in it: the baseline of boot measurements.
//!
//! It has the descriptors and the memory slot every machine needs, and none of what makes it a guest machine: no
//! tables, no image, no CPUID, no registers. It never runs.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::machine::MachineError;
use crate::memory::GuestMemory;

/// What the system needs to keep for any virtual machine. Dropping it is the baseline of a machine's teardown.
pub struct BareMachine {
    // Closed before the memory the slot maps is given back.
    _vcpu: VcpuFd,
    _vm: VmFd,
    _memory: GuestMemory,
}

impl BareMachine {
    /// Reserves memory and creates a VM, a virtual CPU and a memory slot.
    ///
    /// # Errors
    /// KVM or the system refuses one of them.
    pub fn create(memory_bytes: u64) -> Result<Self, MachineError> {
        let memory = GuestMemory::new(memory_bytes)?;
        let kvm = Kvm::new().map_err(MachineError::kvm("open"))?;
        let vm = kvm.create_vm().map_err(MachineError::kvm("KVM_CREATE_VM"))?;
        let vcpu = vm.create_vcpu(0).map_err(MachineError::kvm("KVM_CREATE_VCPU"))?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.bytes(),
            userspace_addr: memory.host_address(),
        };
        // SAFETY: the range is the mapping of `memory`, which is dropped after the VM (see the field order).
        unsafe { vm.set_user_memory_region(region) }
            .map_err(MachineError::kvm("KVM_SET_USER_MEMORY_REGION"))?;
        Ok(Self { _vcpu: vcpu, _vm: vm, _memory: memory })
    }
}

impl std::fmt::Debug for BareMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareMachine").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_machine_comes_and_goes() {
        for _ in 0..3 {
            drop(BareMachine::create(8 << 20).unwrap());
        }
    }
}
