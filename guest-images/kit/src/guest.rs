//! The guest program around a service.

use alloc::vec;

use quorate_guest_sdk::{BootInfo, INPUT_BYTES_MAX, log, recv, send, yield_now};

use crate::{Limits, Replica, Service};

#[doc(hidden)]
pub use quorate_guest_sdk::entry;

/// Exit code if the machine has too little memory for a service.
const EXIT_TOO_SMALL: u64 = 1;

/// Exit code after an output was refused, which no sequence of inputs should bring about.
const EXIT_SEND_REFUSED: u64 = 2;

/// Makes the program the guest of a service: `quorate_kit::guest_main!(quorate_counter::Counter);`.
#[macro_export]
macro_rules! guest_main {
    ($service:ty) => {
        $crate::guest::entry!($crate::guest::serve::<$service>);
    };
}

/// Feeds the inputs of the machine to a replica, for ever.
pub fn serve<S: Service>(boot: &BootInfo) -> u64 {
    let Some(limits) = Limits::for_machine(boot.memory_bytes, boot.heap_end - boot.heap_start) else {
        log("service: the machine needs a heap of at least 6 MiB");
        return EXIT_TOO_SMALL;
    };
    let mut replica = Replica::<S>::new(limits);
    let mut buffer = vec![0; INPUT_BYTES_MAX];
    loop {
        // A buffer of the longest input is never too small, so nothing but an input ends this call.
        let Ok(length) = recv(&mut buffer) else { continue };
        let output = replica.handle_paced(&buffer[..length], &mut yield_now);
        // Wrappers differ between replicas: what is left of them would make equal states look different.
        buffer[..length].fill(0);
        if !output.is_empty() && send(&output).is_err() {
            return EXIT_SEND_REFUSED;
        }
    }
}
