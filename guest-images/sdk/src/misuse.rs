//! What a hostile or broken guest can do to its machine, for the programs that test it.
//!
//! Every function here is safe to call: the machine either stops the program or refuses the operation before any memory
//! of the program changes. One that returns although the machine should have stopped the program tells the test so.

use core::arch::asm;
use core::ops::Range;

use quorate_guest_abi::{
    DOORBELL, IMAGE_BASE, MAILBOX, Operation, PAGE_BYTES, STACK_GUARD, STACK_REGION, SUPERVISOR_REGION, Span,
};

use crate::doorbell::ring;

/// An address the guest must not use in some way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Address 8, in the page nothing is mapped to.
    Null,
    /// The first byte of the supervisor region.
    Supervisor,
    /// The last word below the stack.
    Guard,
    /// The first instruction of the image.
    Code,
    /// A constant of the program.
    ReadOnlyData,
    /// The mailbox page: writable, never executable.
    Mailbox,
    /// The stack: writable, never executable.
    Stack,
    /// The first word behind memory of this size.
    BeyondMemory(u64),
    /// An address no x86-64 program can name.
    NonCanonical,
}

static CONSTANT: u64 = 0x0063_6f6e_7374_616e;

impl Place {
    fn address(self) -> u64 {
        match self {
            Self::Null => 8,
            Self::Supervisor => SUPERVISOR_REGION.start,
            Self::Guard => STACK_GUARD.end - 8,
            Self::Code => IMAGE_BASE,
            Self::ReadOnlyData => (&raw const CONSTANT).expose_provenance() as u64,
            Self::Mailbox => MAILBOX + PAGE_BYTES - 8,
            Self::Stack => STACK_REGION.start,
            Self::BeyondMemory(memory_bytes) => memory_bytes,
            Self::NonCanonical => 1 << 63,
        }
    }

    fn is_writable(self) -> bool {
        matches!(self, Self::Mailbox | Self::Stack)
    }
}

/// Stores eight bytes where the guest may not write. Does nothing for the two places where it may.
pub fn store(place: Place) {
    if !place.is_writable() {
        // SAFETY: the machine does not let the guest write there, so the store ends the program.
        unsafe { asm!("mov qword ptr [{at}], {at}", at = in(reg) place.address(), options(nostack)) };
    }
}

/// Loads eight bytes. Ends the program where the guest may not read.
pub fn load(place: Place) -> u64 {
    let value;
    // SAFETY: a load changes nothing; where it is not allowed it ends the program.
    unsafe {
        asm!("mov {value}, qword ptr [{at}]", at = in(reg) place.address(), value = out(reg) value, options(nostack, readonly))
    };
    value
}

/// Jumps to a place. Does nothing for [`Place::Code`], the only one that may be executed.
pub fn execute(place: Place) {
    if place != Place::Code {
        // SAFETY: the machine does not let the guest execute there, so the call ends the program.
        unsafe { asm!("call {at}", at = in(reg) place.address(), clobber_abi("C")) };
    }
}

/// Divides by zero with the instruction itself, which the compiler would never emit.
pub fn divide_by_zero() {
    // SAFETY: the exception ends the program; the registers it would change are declared.
    unsafe {
        asm!("div {zero}", zero = in(reg) 0u64, inout("rax") 1u64 => _, inout("rdx") 0u64 => _, options(nostack))
    };
}

/// Executes the instruction that is reserved for being invalid.
pub fn invalid_opcode() {
    // SAFETY: the exception ends the program.
    unsafe { asm!("ud2", options(nostack, preserves_flags)) };
}

/// Loads a vector from an address that is not aligned for it.
pub fn misaligned_vector() {
    // SAFETY: the exception ends the program before anything is read.
    unsafe {
        asm!("movaps {data}, [{at}]", data = out(xmm_reg) _, at = in(reg) STACK_REGION.end - 31, options(nostack))
    };
}

/// Never rings again.
pub fn spin() -> ! {
    // SAFETY: a jump to itself touches nothing.
    unsafe { asm!("2:", "jmp 2b", options(noreturn, nomem, nostack)) }
}

/// Pushes until the stack is used up.
pub fn overflow_stack() -> ! {
    // SAFETY: control never comes back to the frames that are overwritten: the push below the stack ends the program.
    unsafe { asm!("2:", "push rax", "jmp 2b", options(noreturn)) }
}

/// An access to the doorbell that is not an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knock {
    /// A store of one byte.
    Store1,
    /// A store of two bytes.
    Store2,
    /// A store of four bytes.
    Store4,
    /// A store of sixteen bytes.
    Store16,
    /// A store of thirty-two bytes.
    Store32,
    /// A store of eight bytes, four bytes further on.
    Misaligned,
    /// A store of eight bytes, to the next word of the page.
    NextWord,
    /// A load of eight bytes.
    Load,
    /// An exchange-and-add of eight bytes.
    ReadModifyWrite,
}

/// Touches the doorbell in a way that is not an operation; the machine ends the program.
pub fn knock(how: Knock) {
    let at = DOORBELL;
    // SAFETY: no memory is behind the doorbell, so no object can change; the machine ends the program.
    unsafe {
        match how {
            Knock::Store1 => asm!("mov byte ptr [{}], 4", in(reg) at, options(nostack)),
            Knock::Store2 => asm!("mov word ptr [{}], 4", in(reg) at, options(nostack)),
            Knock::Store4 => asm!("mov dword ptr [{}], 4", in(reg) at, options(nostack)),
            Knock::Store16 => {
                asm!("xorps xmm0, xmm0", "movups [{}], xmm0", in(reg) at, out("xmm0") _, options(nostack));
            }
            Knock::Store32 => {
                asm!("vxorps ymm0, ymm0, ymm0", "vmovups [{}], ymm0", in(reg) at, out("xmm0") _, options(nostack));
            }
            Knock::Misaligned => {
                asm!("mov qword ptr [{} + 4], {}", in(reg) at, in(reg) 4u64, options(nostack))
            }
            Knock::NextWord => asm!("mov qword ptr [{} + 8], {}", in(reg) at, in(reg) 4u64, options(nostack)),
            Knock::Load => asm!("mov {0}, qword ptr [{0}]", inout(reg) at => _, options(nostack)),
            Knock::ReadModifyWrite => {
                asm!("lock xadd qword ptr [{}], {}", in(reg) at, inout(reg) 4u64 => _, options(nostack));
            }
        }
    }
}

/// Rings with any operation, pointer and length, and returns the result.
///
/// `None` if an honest machine could accept a `Recv` into that range and so overwrite memory of the program.
pub fn call(operation: u64, pointer: u64, length: u64, memory_bytes: u64) -> Option<i64> {
    if operation == Operation::Recv.number() && may_be_written(pointer, length, memory_bytes) {
        return None;
    }
    // SAFETY: the machine refuses a `Recv` into a range that is not wholly writable; other operations write nothing.
    Some(unsafe { ring(operation, operation, pointer, length) })
}

/// Stores one number at the doorbell and another in the mailbox, and returns the result.
pub fn mismatch(stored: u64, operation: u64) -> i64 {
    // SAFETY: the range is empty, so even a machine that accepts the operation writes nothing.
    unsafe { ring(stored, operation, 0, 0) }
}

fn may_be_written(pointer: u64, length: u64, memory_bytes: u64) -> bool {
    let writable: [Range<u64>; 3] =
        [MAILBOX..MAILBOX + PAGE_BYTES, STACK_REGION, first_writable_byte()..memory_bytes];
    Span::new(pointer, length)
        .is_some_and(|span| !span.is_empty() && writable.iter().any(|region| span.is_inside(region)))
}

/// A lower bound of the writable part of the image: text and constants lie below the data segment.
fn first_writable_byte() -> u64 {
    static mut FIRST: u64 = 1;
    let data = (&raw const FIRST).expose_provenance() as u64;
    data & !(quorate_guest_abi::LARGE_PAGE_BYTES - 1)
}
