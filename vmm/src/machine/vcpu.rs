//! The virtual CPU: set-up, entry and exit, and its registers in canonical form. The only file that speaks to KVM.

use std::ffi::CStr;
use std::os::raw::c_ulong;
use std::sync::OnceLock;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_MEM_LOG_DIRTY_PAGES, Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
    kvm_userspace_memory_region, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};

use super::MachineError;
use crate::cpu::{CpuState, ExtendedLayout, KVM_AREA_BYTES, SegmentRegister, Table};
use crate::crash::Registers;
use crate::memory::GuestMemory;

const XCR0: u64 = 7;
/// Model-specific registers of machine version 1.
const MSRS: [(u32, u64); 5] = [
    // MSR_PLATFORM_INFO: CPUID faulting exists; MSR_MISC_FEATURES_ENABLES: and is on. In this order.
    (0xce, 1 << 31),
    (0x140, 1),
    // STAR, LSTAR, FMASK: `syscall` goes to an address that is never mapped.
    (0xc000_0081, 0),
    (0xc000_0082, 0xffff_ffff_8000_0000),
    (0xc000_0084, 0x700),
];
const CAPABILITIES: [(Cap, &str); 5] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
];
const SLOT: u32 = 0;

/// Why KVM gave control back.
#[derive(Debug)]
pub(crate) enum Trap {
    /// A store outside memory: the only one a well-behaved guest causes.
    Store { address: u64, bytes: usize, value: u64 },
    /// A load outside memory.
    Load { address: u64, bytes: usize },
    /// A port.
    Port { port: u16, write: bool },
    /// `hlt` in an exception stub.
    Halt,
    /// No exception could be delivered.
    Shutdown,
    /// KVM could not emulate an instruction.
    Emulation,
    /// A signal came; the guest is where it was.
    Interrupted,
    /// Anything else.
    Unknown(String),
}

/// A machine's virtual CPU and its memory slot.
pub(crate) struct Vcpu {
    // The descriptor of the CPU is closed before that of the VM.
    fd: VcpuFd,
    vm: VmFd,
    layout: ExtendedLayout,
    memory_bytes: u64,
    memory_address: u64,
}

impl Vcpu {
    /// Creates a VM with one CPU over this memory, which must outlive it.
    pub(crate) fn new(memory: &GuestMemory) -> Result<Self, MachineError> {
        let kvm = open(c"/dev/kvm")?;
        let vm = kvm.create_vm().map_err(MachineError::kvm("KVM_CREATE_VM"))?;
        let fd = vm.create_vcpu(0).map_err(MachineError::kvm("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(cpuid(&kvm)?).map_err(MachineError::kvm("KVM_SET_CPUID2"))?;
        let vcpu = Self {
            fd,
            vm,
            layout: ExtendedLayout::detect(),
            memory_bytes: memory.bytes(),
            memory_address: memory.host_address(),
        };
        vcpu.set_slot(false)?;
        Ok(vcpu)
    }

    fn set_slot(&self, log: bool) -> Result<(), MachineError> {
        let region = kvm_userspace_memory_region {
            slot: SLOT,
            flags: if log { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: 0,
            memory_size: self.memory_bytes,
            userspace_addr: self.memory_address,
        };
        // SAFETY: the range is the mapping of the machine's `GuestMemory`, which the machine drops after this value.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(MachineError::kvm("KVM_SET_USER_MEMORY_REGION"))
    }

    /// Switches KVM's log of written pages on or off. It starts empty.
    pub(crate) fn log_dirty_pages(&self, on: bool) -> Result<(), MachineError> {
        self.set_slot(on)
    }

    /// Pages written (and perhaps some only read) since the log was switched on or last taken, ascending.
    pub(crate) fn take_dirty_pages(&self) -> Result<Vec<u32>, MachineError> {
        let size = self.memory_bytes as usize;
        let bitmap = self.vm.get_dirty_log(SLOT, size).map_err(MachineError::kvm("KVM_GET_DIRTY_LOG"))?;
        let mut pages = Vec::new();
        for (base, mut word) in (0u32..).step_by(64).zip(bitmap) {
            while word != 0 {
                pages.push(base + word.trailing_zeros());
                word &= word - 1;
            }
        }
        Ok(pages)
    }

    /// Runs the guest until something happens.
    pub(crate) fn enter(&mut self) -> Result<Trap, MachineError> {
        let _tsc = TscDisabled::for_this_thread();
        trap(self.fd.run())
    }

    /// Lets KVM finish the instruction of the last exit without executing another one, so that registers and memory
    /// are those behind it. An instruction that is not finished by one access traps again.
    pub(crate) fn complete(&mut self) -> Result<Option<Trap>, MachineError> {
        self.fd.set_kvm_immediate_exit(1);
        let result = trap(self.fd.run());
        self.fd.set_kvm_immediate_exit(0);
        match result? {
            Trap::Interrupted => Ok(None),
            other => Ok(Some(other)),
        }
    }

    /// Instruction pointer and general registers.
    pub(crate) fn registers(&self) -> Result<(u64, Registers), MachineError> {
        let regs = self.fd.get_regs().map_err(MachineError::kvm("KVM_GET_REGS"))?;
        Ok((regs.rip, Registers { general: general(&regs), rflags: regs.rflags }))
    }

    /// Address of the last page fault.
    pub(crate) fn fault_address(&self) -> Result<u64, MachineError> {
        Ok(self.fd.get_sregs().map_err(MachineError::kvm("KVM_GET_SREGS"))?.cr2)
    }

    /// The canonical state. The last exit must be complete.
    pub(crate) fn state(&self) -> Result<CpuState, MachineError> {
        let regs = self.fd.get_regs().map_err(MachineError::kvm("KVM_GET_REGS"))?;
        let sregs = self.fd.get_sregs().map_err(MachineError::kvm("KVM_GET_SREGS"))?;
        let debug = self.fd.get_debug_regs().map_err(MachineError::kvm("KVM_GET_DEBUGREGS"))?;
        let xsave = self.fd.get_xsave().map_err(MachineError::kvm("KVM_GET_XSAVE"))?;
        self.require_no_events(&sregs)?;
        let table = |base, limit| Table { base, limit };
        let [dr0, dr1, dr2, dr3] = debug.db;
        let segments = [sregs.cs, sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.tr];
        Ok(CpuState {
            general: general(&regs),
            rip: regs.rip,
            rflags: CpuState::canonical_rflags(regs.rflags),
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            cr8: sregs.cr8,
            efer: sregs.efer,
            gdt: table(sregs.gdt.base, sregs.gdt.limit),
            idt: table(sregs.idt.base, sregs.idt.limit),
            debug: [dr0, dr1, dr2, dr3, debug.dr7],
            segments: segments.map(segment_register),
            extended: self.layout.canonical(&area_bytes(&xsave))?,
        })
    }

    /// Interrupts and exceptions in flight are not part of the state, so there must not be any.
    fn require_no_events(&self, sregs: &kvm_sregs) -> Result<(), MachineError> {
        let events = self.fd.get_vcpu_events().map_err(MachineError::kvm("KVM_GET_VCPU_EVENTS"))?;
        let flags = [
            events.exception.injected,
            events.exception.pending,
            events.interrupt.injected,
            events.nmi.injected,
            events.nmi.pending,
            events.smi.pending,
        ];
        if flags != [0; 6] || sregs.interrupt_bitmap != [0; 4] {
            return Err(MachineError::Inconsistent(format!("an event is pending at a doorbell: {events:?}")));
        }
        Ok(())
    }

    /// Puts the CPU into a state. Memory must be in place; the state must have passed [`CpuState::check`].
    pub(crate) fn load(&mut self, state: &CpuState) -> Result<(), MachineError> {
        let mut sregs = self.fd.get_sregs().map_err(MachineError::kvm("KVM_GET_SREGS"))?;
        fill_sregs(&mut sregs, state);
        self.fd.set_sregs(&sregs).map_err(MachineError::kvm("KVM_SET_SREGS"))?;
        self.set_fixed_registers()?;
        let mut xsave = kvm_xsave::default();
        let area = self.layout.area(&state.extended)?;
        for (word, bytes) in xsave.region.iter_mut().zip(area.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        // SAFETY: no extended component was enabled for this process, so KVM reads exactly the 4096 bytes of `region`.
        unsafe { self.fd.set_xsave(&xsave) }.map_err(MachineError::kvm("KVM_SET_XSAVE"))?;
        let mut debug = self.fd.get_debug_regs().map_err(MachineError::kvm("KVM_GET_DEBUGREGS"))?;
        let [dr0, dr1, dr2, dr3, dr7] = state.debug;
        (debug.db, debug.dr7) = ([dr0, dr1, dr2, dr3], dr7);
        self.fd.set_debug_regs(&debug).map_err(MachineError::kvm("KVM_SET_DEBUGREGS"))?;
        self.fd.set_regs(&general_registers(state)).map_err(MachineError::kvm("KVM_SET_REGS"))?;
        self.verify(state)
    }

    /// XCR0 and the MSRs, which the machine version fixes.
    fn set_fixed_registers(&self) -> Result<(), MachineError> {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = XCR0;
        self.fd.set_xcrs(&xcrs).map_err(MachineError::kvm("KVM_SET_XCRS"))?;
        let entries = MSRS.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        let msrs = Msrs::from_entries(&entries)
            .map_err(|error| MachineError::Inconsistent(format!("list of MSRs: {error:?}")))?;
        let set = self.fd.set_msrs(&msrs).map_err(MachineError::kvm("KVM_SET_MSRS"))?;
        match MSRS.get(set) {
            None => Ok(()),
            Some((index, _)) => {
                let remedy = "use a kernel whose KVM offers CPUID faulting (any since Linux 4.17)";
                Err(MachineError::KvmUnavailable { reason: format!("it refuses MSR {index:#x}"), remedy })
            }
        }
    }

    /// A state that KVM did not take over as given must not run.
    fn verify(&self, state: &CpuState) -> Result<(), MachineError> {
        let loaded = self.state()?;
        if loaded == *state {
            return Ok(());
        }
        Err(MachineError::Inconsistent(format!("loaded {state:x?}, but the CPU has {loaded:x?}")))
    }
}

fn trap(result: Result<VcpuExit<'_>, kvm_ioctls::Error>) -> Result<Trap, MachineError> {
    Ok(match result {
        Ok(VcpuExit::MmioWrite(address, data)) => Trap::Store {
            address,
            bytes: data.len(),
            value: data.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)),
        },
        Ok(VcpuExit::MmioRead(address, data)) => Trap::Load { address, bytes: data.len() },
        Ok(VcpuExit::IoOut(port, _)) => Trap::Port { port, write: true },
        Ok(VcpuExit::IoIn(port, _)) => Trap::Port { port, write: false },
        Ok(VcpuExit::Hlt) => Trap::Halt,
        Ok(VcpuExit::Shutdown) => Trap::Shutdown,
        Ok(VcpuExit::InternalError) => Trap::Emulation,
        Ok(VcpuExit::FailEntry(reason, _)) => {
            return Err(MachineError::Inconsistent(format!("entry refused, hardware reason {reason:#x}")));
        }
        Ok(VcpuExit::Intr) => Trap::Interrupted,
        Ok(other) => Trap::Unknown(format!("{other:?}")),
        Err(error) if error.errno() == libc::EINTR => Trap::Interrupted,
        Err(error) => return Err(MachineError::Kvm { call: "KVM_RUN", source: error }),
    })
}

/// Opens KVM and checks that it can do what the machine needs.
fn open(device: &CStr) -> Result<Kvm, MachineError> {
    let unavailable = |reason: String, remedy| MachineError::KvmUnavailable { reason, remedy };
    let kvm = Kvm::new_with_path(device).map_err(|error| {
        let remedy = match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => {
                "enable virtualisation in the firmware, or nested virtualisation of this VM, and load kvm_intel, kvm_amd or kvm_pvm"
            }
            libc::EACCES | libc::EPERM => "add the user to the group that owns the device (usually kvm)",
            _ => "see the kernel log",
        };
        unavailable(format!("cannot open {}: {error}", device.to_string_lossy()), remedy)
    })?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        return Err(unavailable(format!("its API version is {version}"), "use a kernel since Linux 2.6.22"));
    }
    for (capability, name) in CAPABILITIES {
        if !kvm.check_extension(capability) {
            return Err(unavailable(format!("it lacks {name}"), "use a kernel since Linux 4.11"));
        }
    }
    Ok(kvm)
}

/// What the CPU is told it can do. A guest cannot read it (CPUID faults); it only governs what KVM lets it execute.
fn cpuid(kvm: &Kvm) -> Result<&'static CpuId, MachineError> {
    static CPUID: OnceLock<CpuId> = OnceLock::new();
    if let Some(cpuid) = CPUID.get() {
        return Ok(cpuid);
    }
    let mut cpuid = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(MachineError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            // No RDRAND, no hypervisor, and not the number of the core this thread happens to be on.
            (1, _) => (entry.ecx, entry.ebx) = (entry.ecx & !(1 << 30 | 1 << 31), entry.ebx & 0xffff),
            // No RDSEED, RTM or HLE.
            (7, 0) => entry.ebx &= !(1 << 18 | 1 << 11 | 1 << 4),
            _ => {}
        }
    }
    Ok(CPUID.get_or_init(|| cpuid))
}

fn general(regs: &kvm_regs) -> [u64; 16] {
    let kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, .. } = *regs;
    [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15]
}

fn general_registers(state: &CpuState) -> kvm_regs {
    let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = state.general;
    let (rip, rflags) = (state.rip, state.rflags);
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

fn fill_sregs(sregs: &mut kvm_sregs, state: &CpuState) {
    (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
    (sregs.cr8, sregs.efer) = (state.cr8, state.efer);
    (sregs.gdt.base, sregs.gdt.limit) = (state.gdt.base, state.gdt.limit);
    (sregs.idt.base, sregs.idt.limit) = (state.idt.base, state.idt.limit);
    let [cs, ss, ds, es, fs, gs, tr] = state.segments.map(|segment| kvm_segment_of(&segment));
    (sregs.cs, sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.tr) = (cs, ss, ds, es, fs, gs, tr);
    sregs.ldt = kvm_segment_of(&SegmentRegister::default());
    sregs.interrupt_bitmap = [0; 4];
}

fn kvm_segment_of(segment: &SegmentRegister) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind,
        present: segment.present,
        dpl: segment.dpl,
        db: segment.db,
        s: segment.s,
        l: segment.l,
        g: segment.g,
        unusable: u8::from(segment.present == 0),
        ..Default::default()
    }
}

fn segment_register(segment: kvm_segment) -> SegmentRegister {
    SegmentRegister {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        kind: segment.type_,
        present: segment.present,
        dpl: segment.dpl,
        db: segment.db,
        s: segment.s,
        l: segment.l,
        g: segment.g,
    }
}

fn area_bytes(xsave: &kvm_xsave) -> [u8; KVM_AREA_BYTES] {
    let mut bytes = [0; KVM_AREA_BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(xsave.region) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// While it lives, `rdtsc` faults on this thread: not every KVM enforces CR4.TSD. Signal handlers that run on the
/// thread meanwhile must not read the clock.
struct TscDisabled;

impl TscDisabled {
    fn for_this_thread() -> Self {
        set_tsc(libc::PR_TSC_SIGSEGV);
        Self
    }
}

impl Drop for TscDisabled {
    fn drop(&mut self) {
        set_tsc(libc::PR_TSC_ENABLE);
    }
}

fn set_tsc(mode: libc::c_int) {
    // SAFETY: PR_SET_TSC takes one integer and changes only whether this thread may execute rdtsc.
    let result = unsafe { libc::prctl(libc::PR_SET_TSC, mode as c_ulong) };
    assert_eq!(result, 0, "every x86 kernel has PR_SET_TSC; without it a guest could read the clock");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_kvm_is_an_error_that_says_how_to_get_it() {
        for (device, hint) in [(c"/dev/no-kvm-here", "virtualisation"), (c"/proc/1/fd/none", "")] {
            let error = open(device).expect_err("there is no such device");
            assert_eq!(error.kind(), "KvmUnavailable");
            assert!(error.to_string().contains(hint), "{error}");
        }
    }
}
