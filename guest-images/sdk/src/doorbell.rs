//! The five operations of the doorbell as safe functions.

use core::arch::asm;
use core::ptr::with_exposed_provenance_mut;

use quorate_guest_abi::{
    BootInfo, DOORBELL, INPUT_BYTES_MAX, LOG_BYTES_MAX, MAILBOX, Operation, OperationError, mailbox,
};

use crate::console::prefix;

/// Waits for the next input and copies it to the front of `buffer`; returns its length.
///
/// # Errors
///
/// [`OperationError::InputTooLarge`] if it is longer than the buffer. It then stays first in line. A buffer of
/// [`INPUT_BYTES_MAX`](crate::INPUT_BYTES_MAX) bytes is always long enough.
pub fn recv(buffer: &mut [u8]) -> Result<usize, OperationError> {
    let capacity = (buffer.len() as u64).min(INPUT_BYTES_MAX);
    let pointer = buffer.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the VMM writes at most `capacity` bytes to `pointer`, which is a slice we hold exclusively.
    let result = unsafe { ring(Operation::Recv.number(), Operation::Recv.number(), pointer, capacity) };
    outcome(result).map(|length| length as usize)
}

/// Emits `output` as one output.
///
/// # Errors
///
/// [`OperationError::TooLarge`] above [`OUTPUT_BYTES_MAX`](crate::OUTPUT_BYTES_MAX); nothing was emitted.
pub fn send(output: &[u8]) -> Result<(), OperationError> {
    transmit(Operation::Send, output)
}

/// Writes one line to the console, cut off after [`LOG_BYTES_MAX`] bytes. Nothing certifies what is written here.
pub fn log(line: &str) {
    // The console is best effort: a program must not behave differently because nobody listens.
    let _ = transmit(Operation::Log, prefix(line, LOG_BYTES_MAX as usize).as_bytes());
}

/// Lets the VMM stop here. Work that takes longer than some milliseconds calls this at bounded intervals.
pub fn yield_now() {
    // SAFETY: this operation has no range; the VMM reads and writes no memory but the mailbox.
    unsafe { ring(Operation::Yield.number(), Operation::Yield.number(), 0, 0) };
}

/// Ends the program with an exit code. The machine never runs again.
pub fn exit(code: u64) -> ! {
    loop {
        // SAFETY: this operation has no range; the VMM reads and writes no memory but the mailbox.
        unsafe { ring(Operation::Exit.number(), Operation::Exit.number(), code, 0) };
    }
}

fn transmit(operation: Operation, bytes: &[u8]) -> Result<(), OperationError> {
    let pointer = bytes.as_ptr().expose_provenance() as u64;
    // SAFETY: the VMM only reads, and only bytes of a slice we borrow.
    let result = unsafe { ring(operation.number(), operation.number(), pointer, bytes.len() as u64) };
    outcome(result).map(|_| ())
}

fn outcome(result: i64) -> Result<u64, OperationError> {
    u64::try_from(result)
        .map_err(|_| OperationError::from_code(result).unwrap_or(OperationError::UnknownOperation))
}

/// One ring: `operation`, `pointer` and `length` go to the mailbox, `stored` to the doorbell, which decides.
///
/// # Safety
///
/// Must run inside the machine. If the operation is `Recv` and is accepted, the VMM writes up to `length` bytes at
/// `pointer`: they must be nobody else's.
pub(crate) unsafe fn ring(stored: u64, operation: u64, pointer: u64, length: u64) -> i64 {
    // SAFETY: the machine maps the mailbox page at this address for the guest alone; no Rust object lives there. The
    // store to the doorbell has no effect but the operation; without `nomem` the compiler assumes it changes memory.
    unsafe {
        word(mailbox::OPERATION).write_volatile(operation);
        word(mailbox::POINTER).write_volatile(pointer);
        word(mailbox::LENGTH).write_volatile(length);
        asm!("mov qword ptr [{doorbell}], {stored}", doorbell = in(reg) DOORBELL, stored = in(reg) stored,
             options(nostack, preserves_flags));
        word(mailbox::RESULT).cast::<i64>().read_volatile()
    }
}

fn word(offset: u64) -> *mut u64 {
    with_exposed_provenance_mut((MAILBOX + offset) as usize)
}

/// The boot information as the VMM wrote it, unchecked.
#[cfg_attr(not(feature = "guest"), allow(dead_code))]
pub(crate) fn boot_info_bytes() -> [u8; BootInfo::BYTES] {
    // SAFETY: the machine maps the mailbox page at this address and nothing writes to it while we read.
    unsafe { word(mailbox::BOOT_INFO).cast::<[u8; BootInfo::BYTES]>().read_volatile() }
}
