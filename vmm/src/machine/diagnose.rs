//! Turns an exit that is not a ring into a crash report.

use super::MachineError;
use super::layout::{STUB_BYTES, STUBS};
use super::vcpu::{Trap, Vcpu};
use crate::cpu::RSP;
use crate::crash::{CrashKind, CrashReport, Registers};
use crate::memory::GuestMemory;

const PAGE_FAULT: u8 = 14;
/// Vectors whose frame begins with an error code (Intel SDM volume 3, 6.13; AMD APM volume 2, 8.2).
const WITH_ERROR_CODE: [u8; 10] = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];

/// Reports what the guest did. Reads registers before KVM completes the instruction, so RIP is the one at fault.
pub(super) fn diagnose(vcpu: &Vcpu, memory: &GuestMemory, trap: Trap) -> Result<CrashReport, MachineError> {
    let (rip, registers) = vcpu.registers()?;
    let report = |kind| CrashReport { kind, rip, symbol: None, cr2: None, registers };
    Ok(match trap {
        Trap::Halt => return exception(vcpu, memory, rip, registers),
        Trap::Store { address, bytes, .. } => {
            report(CrashKind::DoorbellMisuse { address, bytes, write: true })
        }
        Trap::Load { address, bytes } => report(CrashKind::DoorbellMisuse { address, bytes, write: false }),
        Trap::Port { port, write } => report(CrashKind::PortAccess { port, write }),
        Trap::Shutdown => report(CrashKind::TripleFault),
        Trap::Emulation => report(CrashKind::Emulation),
        Trap::Interrupted => report(CrashKind::UnknownExit("interrupted".into())),
        Trap::Unknown(exit) => report(CrashKind::UnknownExit(exit)),
    })
}

/// The exception whose stub halted: the processor left its frame on the CPL 0 stack.
fn exception(
    vcpu: &Vcpu,
    memory: &GuestMemory,
    rip: u64,
    mut registers: Registers,
) -> Result<CrashReport, MachineError> {
    let stub = rip.wrapping_sub(STUBS) / STUB_BYTES;
    let Ok(vector) = u8::try_from(stub) else {
        let kind = CrashKind::UnknownExit(format!("halt at {rip:#x}, which is no exception stub"));
        return Ok(CrashReport { kind, rip, symbol: None, cr2: None, registers });
    };
    let mut frame = registers.general[RSP];
    let mut pop = || {
        let word = memory.read_word(frame);
        frame = frame.wrapping_add(8);
        word
    };
    let error_code = if WITH_ERROR_CODE.contains(&vector) { Some(pop()?) } else { None };
    let (rip, _cs, rflags, rsp) = (pop()?, pop()?, pop()?, pop()?);
    registers.rflags = rflags;
    registers.general[RSP] = rsp;
    let cr2 = if vector == PAGE_FAULT { Some(vcpu.fault_address()?) } else { None };
    let kind = CrashKind::Exception { vector, error_code };
    Ok(CrashReport { kind, rip, symbol: None, cr2, registers })
}
