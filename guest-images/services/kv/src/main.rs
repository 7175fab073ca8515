//! The key-value guest.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec;

use quorate_guest_sdk::{BootInfo, INPUT_BYTES_MAX, log, recv, send, yield_now};
use quorate_kv::{Kv, Limits};

quorate_guest_sdk::entry!(main);

/// Exit code if the machine has too little memory for the service.
const EXIT_TOO_SMALL: u64 = 1;

/// Exit code after an output was refused, which no sequence of inputs should bring about.
const EXIT_SEND_REFUSED: u64 = 2;

fn main(boot: &BootInfo) -> u64 {
    let Some(limits) = Limits::for_machine(boot.memory_bytes, boot.heap_end - boot.heap_start) else {
        log("kv: the machine needs at least 10 MiB of memory");
        return EXIT_TOO_SMALL;
    };
    let mut kv = Kv::new(limits);
    let mut buffer = vec![0; INPUT_BYTES_MAX];
    loop {
        // A buffer of the longest input is never too small, so nothing but an input ends this call.
        let Ok(length) = recv(&mut buffer) else { continue };
        let output = kv.apply_paced(&buffer[..length], &mut yield_now);
        if !output.is_empty() && send(&output).is_err() {
            return EXIT_SEND_REFUSED;
        }
    }
}
