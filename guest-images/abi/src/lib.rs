//! The doorbell ABI between a guest and the VMM, version 1: every address, offset and number both sides must agree on.
//!
//! # What it is for
//!
//! A guest is one static program at CPL 3 with no kernel, clock or device but the **doorbell**. It fills the
//! [mailbox](MAILBOX), stores the operation number at [`DOORBELL`] with one 8-byte general-register store, and finds
//! the result in the mailbox when its next instruction runs. The VMM and the guest SDK both take their numbers from
//! here, so neither can drift from the other; the tests below pin each of them.
//!
//! # Address space (guest-physical = guest-virtual)
//!
//! | from | to | what | rights at CPL 3 |
//! | --- | --- | --- | --- |
//! | `0x0` | `0x1000` | unmapped | none |
//! | `0x1000` | `0x20000` | [supervisor region](SUPERVISOR_REGION): tables, GDT, IDT, TSS, stubs | none, except the next row |
//! | `0x6000` | `0x7000` | [mailbox page](MAILBOX) | read, write |
//! | `0x20000` | `0x100000` | guard below the stack | none |
//! | `0x100000` | `0x200000` | [stack](STACK_REGION), grows down from `0x200000` | read, write |
//! | `0x200000` | end of bss | image: text, then rodata, then data and bss; each starts on a 2 MiB boundary | r-x, r--, rw- |
//! | end of bss, page-aligned | `memory_bytes` | heap | read, write |
//! | `0x40_0000_0000` | + 4 KiB | [doorbell](DOORBELL), backed by no memory slot | write |
//!
//! # Mailbox, byte by byte (all integers little-endian)
//!
//! | offset | bytes | field | written by |
//! | --- | --- | --- | --- |
//! | 0 | 8 | operation | guest, before each ring |
//! | 8 | 8 | pointer (the exit code for [`Operation::Exit`]); after `INPUT_TOO_LARGE` the length needed | guest; VMM |
//! | 16 | 8 | length (the capacity for [`Operation::Recv`]) | guest, before each ring |
//! | 24 | 8 | result, signed | VMM, before the guest resumes |
//! | 32 | 32 | reserved, zero | nobody |
//! | 64 | 4 | [boot information](BootInfo): ABI version | VMM, at genesis |
//! | 68 | 4 | reserved, zero | VMM, at genesis |
//! | 72 | 8 | memory size in bytes | VMM, at genesis |
//! | 80 | 8 | first address of the heap | VMM, at genesis |
//! | 88 | 8 | first address behind the heap | VMM, at genesis |
//! | 96 | 4000 | zero at genesis; nothing reads it | nobody |
//!
//! The page is ordinary guest memory: a guest may overwrite its own boot information and only hurts itself.
//!
//! # Entry state
//!
//! RIP is the entry point of the image, RSP is [`STACK_TOP`], every other general register is zero, RFLAGS is `0x202`,
//! MXCSR is `0x1f80`, the x87 unit is as after `fninit`. There is no argument, no environment and no auxiliary vector.
//!
//! # Operations
//!
//! | number | name | word 1 | word 2 | result |
//! | --- | --- | --- | --- | --- |
//! | 1 | [`Recv`](Operation::Recv) | buffer | capacity | bytes written |
//! | 2 | [`Send`](Operation::Send) | buffer | length | 0 |
//! | 3 | [`Log`](Operation::Log) | buffer | length | 0 |
//! | 4 | [`Yield`](Operation::Yield) | ignored | ignored | 0 |
//! | 5 | [`Exit`](Operation::Exit) | exit code | ignored | never resumes |
//!
//! A refused operation has no effect: no byte is copied and no input is consumed. The VMM checks in this order and
//! reports the first that fails, as a negative result; the guest keeps running ([`OperationError`]):
//!
//! 1. word 0 is not the value stored at the doorbell, or no operation has that number: `UNKNOWN_OPERATION`;
//! 2. word 2 exceeds the operation's limit ([`Operation::limit`]): `TOO_LARGE`;
//! 3. the range `[word 1, word 1 + word 2)` wraps or is not inside **one** region the guest may access (and, for
//!    `Recv`, write): `FAULT`. An empty range is always acceptable, whatever its pointer;
//! 4. `Recv` only, once an input is there: it is longer than the capacity: `INPUT_TOO_LARGE`, and word 1 now holds the
//!    length needed. The input stays first in line.
//!
//! Anything but one aligned 8-byte general-register store to exactly [`DOORBELL`] (another width, another address in
//! the page, a load, a vector or read-modify-write instruction) is not an operation: the guest is stopped as crashed.
//!
//! # Versioning
//!
//! [`ABI_VERSION`] changes whenever a number or a rule above changes. A guest compares it with [`BootInfo`] before it
//! does anything else and exits with [`exit_code::ABI_MISMATCH`] if they differ.
//!
//! # What it does not promise
//!
//! Nothing here checks anything at run time: the VMM enforces the limits, the SDK merely respects them.

#![no_std]
#![forbid(unsafe_code)]

use core::ops::Range;

mod boot;
mod operation;

pub use boot::{BootInfo, BootInfoError};
pub use operation::{Operation, OperationError, Span};

/// Version of everything this crate describes.
pub const ABI_VERSION: u32 = 1;

/// Size of the small pages in which the first 2 MiB are mapped and in which memory is measured.
pub const PAGE_BYTES: u64 = 4096;
/// Size of the large pages in which image and heap are mapped; memory sizes are multiples of it.
pub const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// The address whose 8-byte store rings the VMM.
pub const DOORBELL: u64 = 0x40_0000_0000;
/// First byte of the page that carries the arguments of a ring.
pub const MAILBOX: u64 = 0x6000;
/// Tables and stubs of CPL 0. The guest may touch only the mailbox page inside it.
pub const SUPERVISOR_REGION: Range<u64> = 0x1000..0x2_0000;
/// Unmapped addresses below the stack, so that an overflow ends in a page fault.
pub const STACK_GUARD: Range<u64> = 0x2_0000..0x10_0000;
/// The guest's stack.
pub const STACK_REGION: Range<u64> = 0x10_0000..0x20_0000;
/// Stack pointer at entry, 16-byte aligned; the first push lands below it.
pub const STACK_TOP: u64 = STACK_REGION.end;
/// Lowest address of an image segment.
pub const IMAGE_BASE: u64 = 0x20_0000;

/// Smallest memory a machine may have, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 8 << 20;
/// Largest memory a machine may have, in bytes.
pub const MEMORY_BYTES_MAX: u64 = 16 << 30;

/// Longest input, and so the largest capacity `Recv` may state.
pub const INPUT_BYTES_MAX: u64 = 262_144;
/// Longest output of one `Send`.
pub const OUTPUT_BYTES_MAX: u64 = 262_144;
/// Longest line of one `Log`.
pub const LOG_BYTES_MAX: u64 = 1024;

/// Offsets within the mailbox page.
pub mod mailbox {
    /// Operation number, u64.
    pub const OPERATION: u64 = 0;
    /// Pointer or exit code, u64; the VMM writes the needed length here with `INPUT_TOO_LARGE`.
    pub const POINTER: u64 = 8;
    /// Length or capacity, u64.
    pub const LENGTH: u64 = 16;
    /// Result, i64.
    pub const RESULT: u64 = 24;
    /// Boot information, [`BootInfo::BYTES`](super::BootInfo::BYTES) bytes.
    pub const BOOT_INFO: u64 = 64;
}

/// Exit codes the SDK uses on its own account. Services choose theirs below 100.
pub mod exit_code {
    /// The service ended because it had nothing left to do.
    pub const SUCCESS: u64 = 0;
    /// A Rust panic, or an allocation the heap could not serve; the message was logged first.
    pub const PANIC: u64 = 101;
    /// The boot information names another ABI version or contradicts itself, or leaves no room for a heap.
    pub const ABI_MISMATCH: u64 = 102;
    /// The unwinder was reached, which a program built with `panic = "abort"` never does.
    pub const UNWIND: u64 = 103;
}

/// Whether a machine may have this much memory: a multiple of 2 MiB within the two limits.
pub const fn is_memory_size(memory_bytes: u64) -> bool {
    memory_bytes >= MEMORY_BYTES_MIN
        && memory_bytes <= MEMORY_BYTES_MAX
        && memory_bytes.is_multiple_of(LARGE_PAGE_BYTES)
}

// The tripwire: a build of either side fails as soon as two numbers contradict each other.
const _: () = {
    assert!(MAILBOX >= SUPERVISOR_REGION.start && MAILBOX + PAGE_BYTES <= SUPERVISOR_REGION.end);
    assert!(MAILBOX.is_multiple_of(PAGE_BYTES) && DOORBELL.is_multiple_of(LARGE_PAGE_BYTES));
    assert!(SUPERVISOR_REGION.end == STACK_GUARD.start && STACK_GUARD.end == STACK_REGION.start);
    assert!(STACK_TOP == IMAGE_BASE && IMAGE_BASE == LARGE_PAGE_BYTES && STACK_TOP.is_multiple_of(16));
    assert!(DOORBELL >= MEMORY_BYTES_MAX, "the doorbell must lie outside every memory slot");
    assert!(is_memory_size(MEMORY_BYTES_MIN) && is_memory_size(MEMORY_BYTES_MAX));
    assert!(mailbox::RESULT + 8 <= mailbox::BOOT_INFO);
    assert!(mailbox::BOOT_INFO + BootInfo::BYTES as u64 <= PAGE_BYTES);
    assert!(INPUT_BYTES_MAX <= u32::MAX as u64 && OUTPUT_BYTES_MAX <= u32::MAX as u64);
};

#[cfg(test)]
mod tests;
