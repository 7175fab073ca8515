//! Runtime of a guest program: entry point, doorbell calls, heap, panic handler and the `mem*` functions.
//!
//! # What it is for
//!
//! A guest is a `#![no_std] #![no_main]` program that takes inputs and emits outputs through the doorbell of
//! [`quorate_guest_abi`]. With this crate it is written in safe Rust and stays short:
//!
//! ```text
//! #![no_std]
//! #![no_main]
//! quorate_guest_sdk::entry!(main);
//!
//! fn main(boot: &quorate_guest_sdk::BootInfo) -> u64 {
//!     let mut buffer = alloc::vec![0; quorate_guest_sdk::INPUT_BYTES_MAX];
//!     while let Ok(length) = quorate_guest_sdk::recv(&mut buffer) {
//!         if quorate_guest_sdk::send(&buffer[..length]).is_err() {
//!             return 1;
//!         }
//!     }
//!     0
//! }
//! ```
//!
//! # Data flow
//!
//! `_start` -> [`entry!`]'s function -> boot information checked, heap claimed -> the program's `main` -> [`exit`] with
//! its result. [`recv`], [`send`], [`log`], [`yield_now`] and [`exit`] are the only ways out of the program.
//!
//! # Determinism
//!
//! The heap starts empty at an address the boot information fixes and serves requests as a pure function of their order;
//! freed buffers are overwritten with zeros. There is no clock, no randomness and no thread. A panic logs its message,
//! file and line, then exits with [`exit_code::PANIC`]: equal inputs give the same end on every host.
//!
//! # Feature `guest`
//!
//! Without it the crate defines no symbol a host program has too, so that it can be built and tested with the workspace.
//!
//! # What it does not promise
//!
//! It does not hide a full heap: a program that allocates without a bound of its own panics when memory is used up.

#![no_std]

#[cfg(feature = "guest")]
extern crate alloc;

mod console;
mod doorbell;
mod heap;
mod memory;
pub mod misuse;
#[cfg(feature = "guest")]
mod runtime;

pub use console::Line;
pub use doorbell::{exit, log, recv, send, yield_now};
pub use heap::Heap;
pub use quorate_guest_abi::{BootInfo, OperationError, exit_code};
#[cfg(feature = "guest")]
#[doc(hidden)]
pub use runtime::start;

/// Size of a buffer that any input fits into.
pub const INPUT_BYTES_MAX: usize = quorate_guest_abi::INPUT_BYTES_MAX as usize;

/// Size of the longest output.
pub const OUTPUT_BYTES_MAX: usize = quorate_guest_abi::OUTPUT_BYTES_MAX as usize;

/// Names the program's main function, `fn(&BootInfo) -> u64`; what it returns is the exit code.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn quorate_guest_main() -> ! {
            $crate::start($main)
        }
    };
}

#[cfg(test)]
mod tests;
