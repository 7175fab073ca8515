//! What only one program of a link may define: `_start`, the global allocator, the panic handler, `memcpy` & co.

use core::arch::naked_asm;
use core::panic::PanicInfo;
use core::ptr::with_exposed_provenance_mut;

use quorate_guest_abi::{BootInfo, exit_code};

use crate::console::Line;
use crate::doorbell::{boot_info_bytes, exit, log};
use crate::heap::Heap;
use crate::memory;

// SAFETY: a guest has one thread and no interrupts, and the allocator never allocates.
#[global_allocator]
static HEAP: Heap = unsafe { Heap::new() };

/// The entry point of the image. The machine starts here with an aligned, empty stack.
///
/// # Safety
///
/// Only the machine jumps here, once.
// SAFETY: nothing else in the link is called `_start`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    // A frame pointer of zero ends every walk of the stack.
    naked_asm!("xor ebp, ebp", "and rsp, -16", "call quorate_guest_main", "ud2")
}

/// Checks the boot information, opens the heap, runs `main` and exits with its result.
pub fn start(main: fn(&BootInfo) -> u64) -> ! {
    let boot = match BootInfo::decode(&boot_info_bytes()) {
        Ok(boot) => boot,
        Err(error) => {
            log(Line::of(format_args!("boot information refused: {error}")).as_str());
            exit(exit_code::ABI_MISMATCH)
        }
    };
    let heap = with_exposed_provenance_mut(boot.heap_start as usize);
    // SAFETY: the machine maps the heap for reading and writing, behind everything the image contains, and the bounds
    // were checked; this is the only claim.
    if !unsafe { HEAP.claim(heap, (boot.heap_end - boot.heap_start) as usize) } {
        log("the machine has no room for a heap");
        exit(exit_code::ABI_MISMATCH)
    }
    exit(main(&boot))
}

/// Logs `panicked at file:line:column: message` and exits with a fixed code, the same on every host.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    log(Line::of(format_args!("{info}")).as_str());
    exit(exit_code::PANIC)
}

/// # Safety
///
/// As C's `memcpy`.
// SAFETY: no C library is linked that defines the name too.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the contract of C's function is the same.
    unsafe { memory::copy(target, source, length) };
    target
}

/// # Safety
///
/// As C's `memmove`.
// SAFETY: no C library is linked that defines the name too.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the contract of C's function is the same.
    unsafe { memory::copy_overlapping(target, source, length) };
    target
}

/// # Safety
///
/// As C's `memset`.
// SAFETY: no C library is linked that defines the name too.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(target: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the contract of C's function is the same; only the low byte of the value counts.
    unsafe { memory::fill(target, value as u8, length) };
    target
}

/// # Safety
///
/// As C's `memcmp`.
// SAFETY: no C library is linked that defines the name too.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    // SAFETY: the contract of C's function is the same.
    unsafe { memory::compare(left, right, length) }
}

/// Its code must differ from that of `memcmp`: the compiler merges equal functions, calls `bcmp` where an order is wanted,
/// and then expands those calls by what it knows of `bcmp`, which is that only zero or not zero matters.
///
/// # Safety
///
/// As `memcmp`.
// SAFETY: no C library is linked that defines the name too.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    // SAFETY: the contract of C's function is the same.
    i32::from(unsafe { memory::compare(left, right, length) } != 0)
}

/// Named by the unwind tables of `core`; the program never unwinds (`panic = "abort"`).
// SAFETY: the standard library, which defines the name otherwise, is not linked.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    exit(exit_code::UNWIND)
}

/// Named by landing pads in the precompiled `core` and `alloc`; never reached.
// SAFETY: no unwinder that defines the name is linked.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(exit_code::UNWIND)
}
